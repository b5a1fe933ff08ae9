//! Which ConfigMaps and Secrets of its namespace a pod refers to.

use proto::k8s::api::core::v1::{Container, EnvFromSource, EnvVar, Pod, PodSpec, VolumeProjection};

/// The fields of a container that name a ConfigMap or Secret.
pub(crate) fn names_any_object(container: &Container) -> Vec<String> {
    let from = container.env_from.iter().flatten().enumerate();
    let from = from.map(|(index, _)| format!("envFrom[{index}]"));
    let env = container.env.iter().flatten().enumerate().filter_map(|(index, variable)| {
        let source = variable.value_from.as_ref()?;
        let names = source.config_map_key_ref.is_some() || source.secret_key_ref.is_some();
        names.then(|| format!("env[{index}].valueFrom"))
    });
    from.chain(env).collect()
}

/// Whether a change of this ConfigMap may matter to the pod.
pub(crate) fn names_config_map(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let from = env_from(spec).filter_map(|from| Some(&from.config_map_ref.as_ref()?.name));
    let env =
        env(spec).filter_map(|e| Some(&e.value_from.as_ref()?.config_map_key_ref.as_ref()?.name));
    shown_config_maps(spec).chain(from).chain(env).any(|named| named == name)
}

/// Whether a change of this Secret may matter to the pod.
pub(crate) fn names_secret(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let from = env_from(spec).filter_map(|from| Some(&from.secret_ref.as_ref()?.name));
    let env = env(spec).filter_map(|e| Some(&e.value_from.as_ref()?.secret_key_ref.as_ref()?.name));
    let pull = spec.image_pull_secrets.iter().flatten().map(|reference| &reference.name);
    shown_secrets(spec).chain(from).chain(env).chain(pull).any(|named| named == name)
}

/// The ConfigMaps that volumes show.
pub(crate) fn shown_config_maps(spec: &PodSpec) -> impl Iterator<Item = &String> {
    let whole =
        spec.volumes.iter().flatten().filter_map(|v| v.config_map.as_ref().map(|map| &map.name));
    whole.chain(projections(spec).filter_map(|source| Some(&source.config_map.as_ref()?.name)))
}

/// The Secrets that volumes show.
pub(crate) fn shown_secrets(spec: &PodSpec) -> impl Iterator<Item = &String> {
    let whole =
        spec.volumes.iter().flatten().filter_map(|v| v.secret.as_ref()?.secret_name.as_ref());
    whole.chain(projections(spec).filter_map(|source| Some(&source.secret.as_ref()?.name)))
}

/// Whether volumes show something that the two say differently of themselves.
pub(crate) fn shows_otherwise(new: &Pod, old: &Pod) -> bool {
    let Some(spec) = &new.spec else { return false };
    let shows = spec.volumes.iter().flatten().any(|volume| volume.downward_api.is_some())
        || projections(spec).any(|source| source.downward_api.is_some());
    let amounts = |pod: &Pod| -> Vec<_> {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        containers.map(|container| container.resources.clone()).collect()
    };
    shows
        && (new.metadata.labels != old.metadata.labels
            || new.metadata.annotations != old.metadata.annotations
            || amounts(new) != amounts(old))
}

fn projections(spec: &PodSpec) -> impl Iterator<Item = &VolumeProjection> {
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    volumes.flat_map(|projected| projected.sources.iter().flatten())
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
