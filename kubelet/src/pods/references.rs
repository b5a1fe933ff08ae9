//! Which ConfigMaps and Secrets of its namespace a pod refers to.

use proto::k8s::api::core::v1::{EnvFromSource, EnvVar, Pod, PodSpec};

/// Whether a change of this ConfigMap may matter to the pod.
pub(crate) fn names_config_map(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let volumes = spec.volumes.iter().flatten().filter_map(|v| Some(&v.config_map.as_ref()?.name));
    let from = env_from(spec).filter_map(|from| Some(&from.config_map_ref.as_ref()?.name));
    let env =
        env(spec).filter_map(|e| Some(&e.value_from.as_ref()?.config_map_key_ref.as_ref()?.name));
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
    let from = env_from(spec).filter_map(|from| Some(&from.secret_ref.as_ref()?.name));
    let env = env(spec).filter_map(|e| Some(&e.value_from.as_ref()?.secret_key_ref.as_ref()?.name));
    let pull = spec.image_pull_secrets.iter().flatten().map(|reference| &reference.name);
    volumes.chain(from).chain(env).chain(pull).any(|named| named == name)
}

fn env_from(spec: &PodSpec) -> impl Iterator<Item = &EnvFromSource> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let lists = containers.map(|c| &c.env_from).chain(ephemeral.map(|c| &c.env_from));
    lists.flat_map(|list| list.iter().flatten())
}

fn env(spec: &PodSpec) -> impl Iterator<Item = &EnvVar> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let lists = containers.map(|c| &c.env).chain(ephemeral.map(|c| &c.env));
    lists.flat_map(|list| list.iter().flatten())
}
