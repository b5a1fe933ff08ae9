//! Ephemeral containers as containers.
//!
//! Their type repeats every field of a container, and most rules hold for both. [`split`] and
//! [`join`] go from one to the other and back, so that a rule is written once.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec};

/// What it has in common with all containers, and the container that it targets.
pub fn split(ephemeral: EphemeralContainer) -> (Container, Option<String>) {
    let EphemeralContainer {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        target_container_name,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    } = ephemeral;
    let common = Container {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    };
    (common, target_container_name)
}

/// The way back from [`split`].
pub fn join(common: Container, target_container_name: Option<String>) -> EphemeralContainer {
    let Container {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    } = common;
    EphemeralContainer {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        target_container_name,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    }
}

/// Names of the pod's ephemeral containers.
pub fn names(spec: &PodSpec) -> impl Iterator<Item = &str> {
    spec.ephemeral_containers.iter().flatten().map(|container| container.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_on_the_way() {
        let debugger = EphemeralContainer {
            name: "debugger".to_owned(),
            image: Some("busybox".to_owned()),
            tty: Some(true),
            target_container_name: Some("web".to_owned()),
            ..EphemeralContainer::default()
        };
        let (common, target) = split(debugger.clone());
        assert_eq!((common.name.as_str(), target.as_deref()), ("debugger", Some("web")));
        assert_eq!(join(common, target), debugger);
    }
}
