//! What several tests of pods need.

use std::path::PathBuf;

use super::{DEFAULT_POD_MAX_PIDS, PodsConfig};

/// A node's configuration whose folders do not exist.
pub(crate) fn config() -> PodsConfig {
    PodsConfig {
        root_dir: PathBuf::from("/nonexistent/root"),
        log_dir: PathBuf::from("/nonexistent/logs"),
        cgroup_root: "/kutter".to_owned(),
        node_name: "node-1".to_owned(),
        node_addresses: vec!["192.0.2.1".parse().unwrap()],
        memory_capacity_bytes: 4 << 30,
        pod_max_pids: DEFAULT_POD_MAX_PIDS,
    }
}
