//! The operator's network configuration, as CNI has it: found, checked, and made into what a plugin is asked.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The versions of CNI that are spoken, the newest first. Results of older ones look otherwise.
const VERSIONS: [&str; 5] = ["1.1.0", "1.0.0", "0.4.0", "0.3.1", "0.3.0"];
/// The first version that knows garbage collection.
const WITH_GC: &str = "1.1.0";
/// What asks for the ports of the node that lead to a pod.
pub(super) const PORT_MAPPINGS: &str = "portMappings";

/// A network: plugins that are called one after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Network {
    /// What plugins know it by.
    pub(super) name: String,
    /// The version in which plugins are spoken to.
    pub(super) version: String,
    /// Each with a `type`, the name of its program.
    pub(super) plugins: Vec<Map<String, Value>>,
    /// Whether the operator forbids garbage collection.
    pub(super) disable_gc: bool,
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    #[error(
        "{folder}: {source}; put a network configuration there, or start without --network cni"
    )]
    Folder { folder: PathBuf, source: io::Error },
    #[error(
        "there is no network configuration (.conflist, .conf, .json) in {0}; put one there, or start \
         without --network cni"
    )]
    Nothing(PathBuf),
    #[error("{path}: {reason}")]
    Wrong { path: PathBuf, reason: String },
}

/// The first configuration of the folder, by the names of the files. One that is wrong is an error, and not
/// passed over: pods would be in another network than the operator means.
pub(super) fn load(folder: &Path) -> Result<Network, ConfigError> {
    let unreadable = |source| ConfigError::Folder { folder: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("conflist" | "conf" | "json")) {
            files.push(path);
        }
    }
    let path = files.into_iter().min().ok_or_else(|| ConfigError::Nothing(folder.to_owned()))?;
    let wrong = |reason| ConfigError::Wrong { path: path.clone(), reason };
    let text = fs::read(&path).map_err(|error| wrong(error.to_string()))?;
    let value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    parse(value).map_err(wrong)
}

/// What a file means: a list of plugins, or one plugin.
fn parse(value: Value) -> Result<Network, String> {
    let Value::Object(mut file) = value else {
        return Err("is no JSON object".to_owned());
    };
    let name = match file.get("name") {
        Some(Value::String(name)) if is_name(name) => name.clone(),
        Some(other) => return Err(format!("name: {other} is no name for a network")),
        None => return Err("name: is missing".to_owned()),
    };
    let version = version(&file)?;
    let disable_gc = file.get("disableGC").and_then(Value::as_bool).unwrap_or_default();
    let plugins = match file.remove("plugins") {
        Some(Value::Array(plugins)) => plugins,
        Some(other) => return Err(format!("plugins: {other} is no list")),
        None => vec![Value::Object(file)],
    };
    if plugins.is_empty() {
        return Err("plugins: at least one is needed".to_owned());
    }
    let plugins = plugins.into_iter().enumerate().map(|(index, plugin)| match plugin {
        Value::Object(plugin) => match plugin.get("type").and_then(Value::as_str) {
            Some(program) if is_name(program) => Ok(plugin),
            Some(program) => {
                Err(format!("plugins[{index}].type: {program:?} is no program's name"))
            }
            None => Err(format!("plugins[{index}].type: is missing")),
        },
        other => Err(format!("plugins[{index}]: {other} is no object")),
    });
    Ok(Network { name, version, plugins: plugins.collect::<Result<_, _>>()?, disable_gc })
}

/// The newest version that both sides speak.
fn version(file: &Map<String, Value>) -> Result<String, String> {
    let several = file.get("cniVersions").and_then(Value::as_array).into_iter().flatten();
    let offered: Vec<&str> =
        file.get("cniVersion").into_iter().chain(several).filter_map(Value::as_str).collect();
    let common = VERSIONS.iter().find(|version| offered.contains(version));
    common.map(|version| (*version).to_owned()).ok_or_else(|| {
        let of = if offered.is_empty() { "is missing".to_owned() } else { offered.join(", ") };
        format!("cniVersion: {of}; spoken are {}", VERSIONS.join(", "))
    })
}

/// As CNI has it for names: they are parts of paths.
fn is_name(text: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(rest)
}

impl Network {
    /// Whether its plugins know garbage collection, and may be asked for it.
    pub(super) fn collects(&self) -> bool {
        self.version == WITH_GC && !self.disable_gc
    }

    /// Whether one of its plugins sees to ports of the node.
    pub(super) fn maps_ports(&self) -> bool {
        self.plugins.iter().any(|plugin| asks_for(plugin, PORT_MAPPINGS))
    }

    /// What a plugin is asked with: its part of the configuration, what it asked to be told, and what came
    /// of the plugin before it.
    pub(super) fn request(
        &self,
        plugin: &Map<String, Value>,
        capabilities: &Map<String, Value>,
        previous: Option<&Value>,
    ) -> Value {
        let mut request = self.base(plugin);
        let told: Map<String, Value> = capabilities
            .iter()
            .filter(|(name, _)| asks_for(plugin, name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !told.is_empty() {
            request.insert("runtimeConfig".to_owned(), Value::Object(told));
        }
        if let Some(previous) = previous {
            request.insert("prevResult".to_owned(), previous.clone());
        }
        Value::Object(request)
    }

    /// What a plugin is asked with for garbage collection: who is still attached.
    pub(super) fn collection(
        &self,
        plugin: &Map<String, Value>,
        interface: &str,
        attached: &[String],
    ) -> Value {
        let mut request = self.base(plugin);
        let attached: Vec<Value> = attached
            .iter()
            .map(|container| json!({"containerID": container, "ifname": interface}))
            .collect();
        request.insert("cni.dev/valid-attachments".to_owned(), Value::Array(attached));
        Value::Object(request)
    }

    fn base(&self, plugin: &Map<String, Value>) -> Map<String, Value> {
        let is_ours = |key: &str| {
            matches!(key, "capabilities" | "cniVersions") || key.starts_with("cni.dev/")
        };
        let kept = plugin.iter().filter(|(key, _)| !is_ours(key));
        let mut request: Map<String, Value> =
            kept.map(|(key, value)| (key.clone(), value.clone())).collect();
        request.insert("cniVersion".to_owned(), json!(self.version));
        request.insert("name".to_owned(), json!(self.name));
        request
    }
}

fn asks_for(plugin: &Map<String, Value>, capability: &str) -> bool {
    let asked = plugin.get("capabilities").and_then(|all| all.get(capability));
    asked.and_then(Value::as_bool).unwrap_or_default()
}
