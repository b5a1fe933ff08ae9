//! How important pods are, as far as masters and nodes have to agree on it.

use crate::k8s::api::core::v1::Pod;

/// From this priority on a pod belongs to the system.
pub const SYSTEM_CRITICAL: i32 = 2_000_000_000;
/// The most that a class of users may give.
pub const HIGHEST_OF_USERS: i32 = 1_000_000_000;
/// What pods have that name no class while no class is everybody's.
pub const DEFAULT: i32 = 0;
/// How the names of classes start that every cluster has.
pub const SYSTEM_PREFIX: &str = "system-";
/// Lower pods give way; what holds unless somebody says otherwise.
pub const PREEMPT_LOWER: &str = "PreemptLowerPriority";
/// The pod waits until there is room.
pub const PREEMPT_NEVER: &str = "Never";

/// A class that every cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemClass {
    /// As pods name it.
    pub name: &'static str,
    /// The priority of its pods.
    pub value: i32,
    /// For people.
    pub description: &'static str,
}

/// The classes that every cluster has.
pub const SYSTEM_CLASSES: [SystemClass; 2] = [
    SystemClass {
        name: "system-node-critical",
        value: SYSTEM_CRITICAL + 1000,
        description: "For pods of the system that have to stay on the node they are on.",
    },
    SystemClass {
        name: "system-cluster-critical",
        value: SYSTEM_CRITICAL,
        description: "For pods of the system that the cluster needs, on whichever node.",
    },
];

/// The class of this name, if every cluster has it.
pub fn system_class(name: &str) -> Option<&'static SystemClass> {
    SYSTEM_CLASSES.iter().find(|class| class.name == name)
}

/// A pod's priority. One that was stored without has the one that nothing said gives.
pub fn of(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(DEFAULT)
}
