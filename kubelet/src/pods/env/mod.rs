//! The environment and the command line of a container.
//!
//! Later sources win: the image, services, `envFrom`, `env`. `$(NAME)` in values, command and
//! arguments is replaced; `$$(NAME)` stands for the text `$(NAME)`; an unknown name stays as it is.

mod expand;
mod fields;
mod services;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use proto::ObjectKey;
use proto::k8s::api::core::v1::{Container, EnvFromSource, EnvVar, EnvVarSource, Pod};
use runtime::image::ImageConfig;

use crate::state::ClusterState;

pub(crate) use expand::expand;

/// What values are looked up in.
pub(crate) struct Sources<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) cluster: &'a ClusterState,
    pub(crate) pod_ips: &'a [IpAddr],
    pub(crate) host_ips: &'a [IpAddr],
    pub(crate) node_name: &'a str,
    /// The host name inside the pod.
    pub(crate) hostname: &'a str,
}

/// The specification cannot be carried out as things stand; the text is for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(pub(crate) String);

/// A container's environment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    /// The whole of it, in the order of definition.
    pub(crate) variables: Vec<(String, String)>,
    /// Keys of ConfigMaps and Secrets that cannot be names of variables, as `ConfigMap ns/name: key`.
    pub(crate) skipped: Vec<String>,
}

/// Variables in the order of their first definition; the last value holds.
#[derive(Default)]
struct Ordered {
    values: HashMap<String, String>,
    order: Vec<String>,
}

impl Ordered {
    fn set(&mut self, name: &str, value: String) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }

    fn into_vec(mut self) -> Vec<(String, String)> {
        let values = &mut self.values;
        self.order
            .into_iter()
            .map(|name| {
                let value = values.remove(&name).unwrap_or_default();
                (name, value)
            })
            .collect()
    }
}

/// What a process finds when neither image nor pod says where programs are.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variables that the pod's specification gives a container.
struct Specified {
    services: BTreeMap<String, String>,
    environment: Ordered,
    skipped: Vec<String>,
}

impl Specified {
    fn new(container: &Container, sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let mut specified = Self {
            services: services::variables(sources.cluster, sources.pod),
            environment: Ordered::default(),
            skipped: Vec::new(),
        };
        for from in container.env_from.iter().flatten() {
            let Self { environment, skipped, .. } = &mut specified;
            add_from(from, sources, environment, skipped)?;
        }
        for variable in container.env.iter().flatten() {
            if let Some(value) = value_of(variable, container, sources, &specified)? {
                specified.environment.set(&variable.name, value);
            }
        }
        Ok(specified)
    }

    fn get(&self, name: &str) -> Option<String> {
        self.environment.values.get(name).or_else(|| self.services.get(name)).cloned()
    }
}

/// The whole environment of a container.
pub(crate) fn environment(
    container: &Container,
    image: &ImageConfig,
    sources: &Sources<'_>,
) -> Result<Environment, ConfigError> {
    let specified = Specified::new(container, sources)?;
    let mut all = Ordered::default();
    all.set("PATH", DEFAULT_PATH.to_owned());
    all.set("HOSTNAME", sources.hostname.to_owned());
    if container.tty == Some(true) {
        all.set("TERM", "xterm".to_owned());
    }
    for (name, value) in &image.env {
        all.set(name, value.clone());
    }
    for (name, value) in specified.services {
        all.set(&name, value);
    }
    for (name, value) in specified.environment.into_vec() {
        all.set(&name, value);
    }
    Ok(Environment { variables: all.into_vec(), skipped: specified.skipped })
}

/// Program and arguments: `command` replaces the image's entrypoint and default arguments, `args`
/// replaces the default arguments only.
pub(crate) fn command_line(
    container: &Container,
    image: &ImageConfig,
    sources: &Sources<'_>,
) -> Result<Vec<String>, ConfigError> {
    let specified = Specified::new(container, sources)?;
    let expanded = |texts: &Option<Vec<String>>| -> Vec<String> {
        texts.iter().flatten().map(|text| expand(text, |name| specified.get(name))).collect()
    };
    let (command, args) = (expanded(&container.command), expanded(&container.args));
    let mut line = if command.is_empty() { image.entrypoint.clone() } else { command.clone() };
    match (command.is_empty(), args.is_empty()) {
        (true, true) => line.extend(image.cmd.iter().cloned()),
        _ => line.extend(args),
    }
    if line.is_empty() {
        return Err(ConfigError("no command specified".to_owned()));
    }
    Ok(line)
}

/// A text whose references all have to lead somewhere.
pub(crate) fn expand_whole(
    text: &str,
    container: &Container,
    sources: &Sources<'_>,
) -> Result<String, ConfigError> {
    let specified = Specified::new(container, sources)?;
    let missing = RefCell::new(BTreeSet::new());
    let expanded = expand(text, |name| {
        let value = specified.get(name).unwrap_or_default();
        if value.is_empty() {
            missing.borrow_mut().insert(name.to_owned());
        }
        Some(value)
    });
    let missing: Vec<String> = missing.into_inner().into_iter().collect();
    match missing.is_empty() {
        true => Ok(expanded),
        false => Err(ConfigError(format!("missing value for {}", missing.join(", ")))),
    }
}

fn add_from(
    from: &EnvFromSource,
    sources: &Sources<'_>,
    environment: &mut Ordered,
    skipped: &mut Vec<String>,
) -> Result<(), ConfigError> {
    let prefix = from.prefix.as_deref().unwrap_or_default();
    let namespace = namespace(sources.pod);
    let mut add = |kind: &str, object: &str, key: &str, value: String| {
        let name = format!("{prefix}{key}");
        match is_variable_name(&name) {
            true => environment.set(&name, value),
            false => skipped.push(format!("{kind} {namespace}/{object}: {key}")),
        }
    };
    if let Some(reference) = &from.config_map_ref {
        let key = ObjectKey::new(namespace, &reference.name);
        match sources.cluster.config_maps.get(&key) {
            Some(map) => {
                for (key, value) in map.data.iter().flatten() {
                    add("ConfigMap", &reference.name, key, value.clone());
                }
            }
            None if reference.optional == Some(true) => {}
            None => {
                return Err(ConfigError(format!("configmap \"{}\" not found", reference.name)));
            }
        }
    }
    if let Some(reference) = &from.secret_ref {
        let key = ObjectKey::new(namespace, &reference.name);
        match sources.cluster.secrets.get(&key) {
            Some(secret) => {
                for (key, value) in secret.data.iter().flatten() {
                    let value = String::from_utf8_lossy(&value.0).into_owned();
                    add("Secret", &reference.name, key, value);
                }
            }
            None if reference.optional == Some(true) => {}
            None => return Err(ConfigError(format!("secret \"{}\" not found", reference.name))),
        }
    }
    Ok(())
}

/// The value of one entry of `env`; nothing when an optional reference leads nowhere.
fn value_of(
    variable: &EnvVar,
    container: &Container,
    sources: &Sources<'_>,
    specified: &Specified,
) -> Result<Option<String>, ConfigError> {
    match &variable.value_from {
        Some(from) => referenced(from, container, sources),
        None => {
            let text = variable.value.as_deref().unwrap_or_default();
            Ok(Some(expand(text, |name| specified.get(name))))
        }
    }
}

fn referenced(
    from: &EnvVarSource,
    container: &Container,
    sources: &Sources<'_>,
) -> Result<Option<String>, ConfigError> {
    let namespace = namespace(sources.pod);
    if let Some(field) = &from.field_ref {
        return fields::pod_field(&field.field_path, sources).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return fields::container_resource(resource, container, sources).map(Some);
    }
    if let Some(reference) = &from.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let key = ObjectKey::new(namespace, &reference.name);
        let Some(map) = sources.cluster.config_maps.get(&key) else {
            return absent(optional, || format!("configmap \"{}\" not found", reference.name));
        };
        return match map.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(value.clone())),
            None => absent(optional, || {
                format!("couldn't find key {} in ConfigMap {key}", reference.key)
            }),
        };
    }
    if let Some(reference) = &from.secret_key_ref {
        let optional = reference.optional == Some(true);
        let key = ObjectKey::new(namespace, &reference.name);
        let Some(secret) = sources.cluster.secrets.get(&key) else {
            return absent(optional, || format!("secret \"{}\" not found", reference.name));
        };
        return match secret.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None => {
                absent(optional, || format!("couldn't find key {} in Secret {key}", reference.key))
            }
        };
    }
    Err(ConfigError("valueFrom names no source this node knows".to_owned()))
}

fn absent(optional: bool, message: impl FnOnce() -> String) -> Result<Option<String>, ConfigError> {
    if optional { Ok(None) } else { Err(ConfigError(message())) }
}

/// What an environment can carry: printable ASCII without `=`, as Kubernetes demands.
fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=')
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}
