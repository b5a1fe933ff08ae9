//! SELinux labels of what libcontainer mounts. It would give one to all mounts alike, which the kernel refuses for
//! message queues: they are a namespace's, mounted or not, and the shim labels them. So each has it as an option.

use serde_json::{Value, json};

/// File systems that have no labels of their own.
const LABELLED: [&str; 2] = ["tmpfs", "devpts"];

/// Gives a label to the mounts that take one.
pub(super) fn label_mounts(mounts: &mut [Value], label: &str) {
    for mount in mounts {
        let is_labelled = LABELLED.iter().any(|kind| mount["type"] == *kind);
        if is_labelled && let Some(options) = mount["options"].as_array_mut() {
            // Handed to the kernel by itself, so what separates options needs no quoting.
            options.push(json!(format!("context={label}")));
        }
    }
}
