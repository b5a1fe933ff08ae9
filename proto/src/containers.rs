//! Which containers of a pod are there for as long as the pod is.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::k8s as k8s_openapi;

/// The containers, and before them those init containers that are kept running beside them
/// (sidecars): those whose ports are the pod's.
pub fn lasting(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    sidecars.chain(&spec.containers)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sidecars_last_and_other_init_containers_do_not() {
        let spec: PodSpec = serde_json::from_value(json!({
            "initContainers": [{"name": "once"}, {"name": "beside", "restartPolicy": "Always"}],
            "containers": [{"name": "main"}],
        }))
        .unwrap();
        let names: Vec<&str> = lasting(&spec).map(|container| container.name.as_str()).collect();
        assert_eq!(names, ["beside", "main"]);
    }
}
