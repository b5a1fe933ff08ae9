//! What a caller says of SELinux.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Parts of a label that take the place of what the machine's policy has for containers. Where the kernel has no
/// SELinux, or its policy does not know the label that comes of it, saying any is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelinuxOptions {
    /// Of processes and files.
    pub user: Option<String>,
    /// Of processes.
    pub role: Option<String>,
    /// The type, of processes.
    pub kind: Option<String>,
    /// Of processes and files. Nothing: one that no other sandbox has.
    pub level: Option<String>,
}

impl SelinuxOptions {
    /// Whether any of them is said.
    pub fn says_anything(&self) -> bool {
        *self != SelinuxOptions::default()
    }
}

/// Files of the machine that are a pod's, and get a label by which its containers may use them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labelled {
    /// A file, or a folder with all that is in it.
    pub path: PathBuf,
    /// What the label is made of.
    pub selinux: SelinuxOptions,
}
