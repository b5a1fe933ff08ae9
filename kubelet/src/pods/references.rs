//! Which ConfigMaps and Secrets of its namespace a pod refers to.

use proto::k8s::api::core::v1::Pod;

/// Whether a change of this ConfigMap may matter to the pod.
pub(crate) fn names_config_map(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let volumes = spec.volumes.iter().flatten().filter_map(|v| Some(&v.config_map.as_ref()?.name));
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let from = containers()
        .flat_map(|c| c.env_from.iter().flatten())
        .filter_map(|from| Some(&from.config_map_ref.as_ref()?.name));
    let env = containers()
        .flat_map(|c| c.env.iter().flatten())
        .filter_map(|e| Some(&e.value_from.as_ref()?.config_map_key_ref.as_ref()?.name));
    volumes.chain(from).chain(env).any(|named| named == name)
}

/// Whether a change of this Secret may matter to the pod.
pub(crate) fn names_secret(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let volumes = spec
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| volume.secret.as_ref()?.secret_name.as_ref());
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let from = containers()
        .flat_map(|c| c.env_from.iter().flatten())
        .filter_map(|from| Some(&from.secret_ref.as_ref()?.name));
    let env = containers()
        .flat_map(|c| c.env.iter().flatten())
        .filter_map(|e| Some(&e.value_from.as_ref()?.secret_key_ref.as_ref()?.name));
    let pull = spec.image_pull_secrets.iter().flatten().map(|reference| &reference.name);
    volumes.chain(from).chain(env).chain(pull).any(|named| named == name)
}
