//! SELinux, where the kernel enforces it: the labels of containers and of their files.
//!
//! The policy of the machine names two labels for containers, that of their processes and that of their files, in
//! the file that all container runtimes read. A pod changes parts of them. So that pods are kept from each other
//! and not from the machine alone, each has a level of its own: a pair of categories that no other has.
//!
//! What the policy makes of a label is the policy's; that it knows the label the kernel is asked before anything
//! is started. Labels are written down with what is started and never worked out a second time.

mod label;
pub(crate) mod relabel;

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

pub(crate) use self::label::{Label, Level};
use crate::api::SelinuxOptions;

/// Where the kernel's side of SELinux is, if it is on.
const KERNEL: &str = "/sys/fs/selinux";

/// Says which policy is loaded.
const CONFIG: &str = "/etc/selinux/config";

/// What the machine's policy says of containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    process: Label,
    file: Label,
    /// Whether the kernel takes the two as they are. A policy may name types that it has not got; a pod can still
    /// say others.
    has_default: bool,
}

/// The labels of a container, as the kernel reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Labels {
    /// Of its processes; nothing: that of the shim.
    pub(crate) process: Option<String>,
    /// Of its files.
    pub(crate) file: Option<String>,
}

/// Finds out what the policy says. The error says why containers have no labels here, for the operator.
pub(crate) fn prepare() -> Result<Policy, String> {
    if !Path::new(KERNEL).join("enforce").exists() {
        return Err("SELinux is not enabled on the host".to_owned());
    }
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))
    };
    let config = read(Path::new(CONFIG))?;
    let kind = value(&config, "SELINUXTYPE").unwrap_or("targeted");
    let path = Path::new("/etc/selinux").join(kind).join("contexts/lxc_contexts");
    let contexts = read(&path)?;
    Policy::new(&contexts, is_known).map_err(|reason| format!("{}: {reason}", path.display()))
}

/// Whether the kernel's policy knows a label.
fn is_known(label: &Label) -> bool {
    let file = fs::OpenOptions::new().write(true).open(Path::new(KERNEL).join("context"));
    // The kernel refuses the write of one that it does not know.
    file.and_then(|mut file| file.write_all(label.to_string().as_bytes())).is_ok()
}

/// The value of a line `NAME = "VALUE"`, quoted or not.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let mut pairs = lines.filter_map(|line| line.split_once('='));
    let (_, value) = pairs.find(|(found, _)| found.trim() == name)?;
    Some(value.trim().trim_matches('"'))
}

impl Policy {
    fn new(contexts: &str, is_known: impl Fn(&Label) -> bool) -> Result<Policy, String> {
        let label = |name: &str| {
            let text = value(contexts, name).ok_or_else(|| format!("there is no {name}"))?;
            text.parse::<Label>().map_err(|reason| format!("{name}: {reason}"))
        };
        let (process, file) = (label("process")?, label("file")?);
        let has_default = is_known(&process) && is_known(&file);
        Ok(Policy { process, file, has_default })
    }

    /// Whether levels keep pods from each other.
    pub(crate) fn has_levels(&self) -> bool {
        self.process.level.is_some()
    }

    /// The labels of a container whose sandbox has these categories. `is_free` is one that is not to be confined
    /// unless it says how: it is privileged, or among the machine's own processes.
    ///
    /// # Errors
    /// For the user: which label the policy does not know.
    pub(crate) fn labels(
        &self,
        options: &SelinuxOptions,
        level: Option<Level>,
        is_free: bool,
    ) -> Result<Labels, String> {
        self.labels_with(options, level, is_free, is_known)
    }

    fn labels_with(
        &self,
        options: &SelinuxOptions,
        level: Option<Level>,
        is_free: bool,
        is_known: impl Fn(&Label) -> bool,
    ) -> Result<Labels, String> {
        if !options.says_anything() && !self.has_default {
            return Ok(Labels::default());
        }
        let (mut process, mut file) = (self.process.clone(), self.file.clone());
        for label in [&mut process, &mut file] {
            if let (Some(of_policy), Some(level)) = (&label.level, level) {
                label.level = Some(level.beside(of_policy));
            }
            if let Some(level) = &options.level {
                label.level = Some(level.clone());
            }
            if let Some(user) = &options.user {
                label.user.clone_from(user);
            }
        }
        if let Some(role) = &options.role {
            process.role.clone_from(role);
        }
        if let Some(kind) = &options.kind {
            process.kind.clone_from(kind);
        }
        // A level alone confines nobody who otherwise is free.
        let is_free = is_free && options.kind.is_none();
        for label in [Some(&process).filter(|_| !is_free), Some(&file)].into_iter().flatten() {
            if !is_known(label) {
                let says = "the policy of the node does not know the SELinux label";
                return Err(format!("{says} {label}; correct seLinuxOptions"));
            }
        }
        let process = (!is_free).then(|| process.to_string());
        Ok(Labels { process, file: Some(file.to_string()) })
    }
}

/// Has the next `execve` of this process give it a label.
pub(crate) fn on_exec(label: &str) -> io::Result<()> {
    super::on_exec::write("attr/exec", label)
}

/// A mount's option that gives all its files a label.
pub(crate) fn mount_option(label: &str) -> String {
    // Categories are separated by commas, as options are.
    format!("context=\"{label}\"")
}

#[cfg(test)]
mod tests;
