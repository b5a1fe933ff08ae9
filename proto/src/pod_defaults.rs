//! What a pod says when its user does not: filled in by a master for the pods of the API, and by a
//! kubelet for those in its files.

use std::collections::BTreeMap;

use crate::k8s::api::core::v1::{
    Container, DownwardAPIVolumeFile, HTTPGetAction, ObjectFieldSelector, PodSpec, Probe,
    ResourceFieldSelector, ResourceRequirements, Volume,
};
use crate::k8s::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use crate::quantity::Quantity;
use crate::{ephemeral, huge_pages};

/// Readable by everybody, writable by the owner: 0644.
const FILE_MODE: i32 = 0o644;

/// How long a token of a service account is good.
const TOKEN_SECONDS: i64 = 60 * 60;

/// The resources of which nodes keep count; of huge pages, too.
const COUNTED: &[&str] = &["cpu", "memory"];

fn set(field: &mut Option<String>, value: &str) {
    if field.as_deref().is_none_or(str::is_empty) {
        *field = Some(value.to_owned());
    }
}

/// Defaults of pods proper, which templates leave to the pods made of them; all but [`account`].
pub fn pod(pod: &mut PodSpec) {
    spec(pod);
    host_ports(pod);
    pod.enable_service_links.get_or_insert(true);
    for container in pod.containers.iter_mut().chain(pod.init_containers.iter_mut().flatten()) {
        requests_from_limits(container.resources.get_or_insert_default());
    }
}

/// Who a pod of the API is if it does not say: the namespace's `default`. The two fields always say the
/// same.
pub fn account(pod: &mut PodSpec) {
    let account = pod.service_account_name.clone().filter(|name| !name.is_empty());
    let account = account.or_else(|| pod.service_account.clone());
    pod.service_account_name = account;
    set(&mut pod.service_account_name, "default");
    pod.service_account.clone_from(&pod.service_account_name);
}

/// The ports of the node that a pod with its network uses: those it says for itself.
fn host_ports(spec: &mut PodSpec) {
    if spec.host_network != Some(true) {
        return;
    }
    let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    for port in containers.flat_map(|container| container.ports.iter_mut().flatten()) {
        if port.host_port.unwrap_or(0) == 0 {
            port.host_port = Some(port.container_port);
        }
    }
}

/// Defaults of pods and of templates.
pub fn spec(spec: &mut PodSpec) {
    set(&mut spec.restart_policy, "Always");
    set(&mut spec.dns_policy, "ClusterFirst");
    set(&mut spec.scheduler_name, "default-scheduler");
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.security_context.get_or_insert_default();
    for volume in spec.volumes.iter_mut().flatten() {
        default_volume(volume);
    }
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        default_container(container);
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        let (mut common, target) = ephemeral::split(std::mem::take(container));
        default_container(&mut common);
        *container = ephemeral::join(common, target);
    }
}

fn default_container(container: &mut Container) {
    default_pull_policy(&mut container.image_pull_policy, container.image.as_deref());
    set(&mut container.termination_message_path, "/dev/termination-log");
    set(&mut container.termination_message_policy, "File");
    for port in container.ports.iter_mut().flatten() {
        set(&mut port.protocol, "TCP");
    }
    for env in container.env.iter_mut().flatten() {
        let Some(source) = env.value_from.as_mut() else { continue };
        default_field(source.field_ref.as_mut(), source.resource_field_ref.as_mut());
    }
    for probe in [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ] {
        if let Some(probe) = probe.as_mut() {
            default_probe(probe);
        }
    }
    if let Some(lifecycle) = container.lifecycle.as_mut() {
        let hooks = [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten();
        hooks.filter_map(|hook| hook.http_get.as_mut()).for_each(default_http);
    }
    let resources = container.resources.get_or_insert_default();
    for list in [&mut resources.limits, &mut resources.requests] {
        list.iter_mut().for_each(round_to_milli);
    }
}

fn default_pull_policy(policy: &mut Option<String>, image: Option<&str>) {
    let default = if moves(image.unwrap_or_default()) { "Always" } else { "IfNotPresent" };
    set(policy, default);
}

/// What a variable or a file is made of.
fn default_field(
    field: Option<&mut ObjectFieldSelector>,
    resource: Option<&mut ResourceFieldSelector>,
) {
    if let Some(field) = field {
        set(&mut field.api_version, "v1");
    }
    if let Some(resource) = resource {
        resource.divisor.get_or_insert_with(|| Quantity::ZERO.to_wire());
    }
}

/// Whether the tag may mean another image tomorrow: `latest`, said or unsaid. A digest never moves.
fn moves(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    // A colon before the last slash belongs to the registry's port.
    let name = image.rsplit('/').next().unwrap_or_default();
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn default_probe(probe: &mut Probe) {
    let set_number = |field: &mut Option<i32>, value: i32| {
        if field.unwrap_or(0) == 0 {
            *field = Some(value);
        }
    };
    set_number(&mut probe.timeout_seconds, 1);
    set_number(&mut probe.period_seconds, 10);
    set_number(&mut probe.success_threshold, 1);
    set_number(&mut probe.failure_threshold, 3);
    if let Some(http) = probe.http_get.as_mut() {
        default_http(http);
    }
    if let Some(grpc) = probe.grpc.as_mut() {
        grpc.service.get_or_insert_default();
    }
}

fn default_http(http: &mut HTTPGetAction) {
    set(&mut http.path, "/");
    set(&mut http.scheme, "HTTP");
}

fn default_volume(volume: &mut Volume) {
    if let Some(map) = volume.config_map.as_mut() {
        map.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(secret) = volume.secret.as_mut() {
        secret.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(told) = volume.downward_api.as_mut() {
        told.default_mode.get_or_insert(FILE_MODE);
        default_files(told.items.as_mut());
    }
    if let Some(projected) = volume.projected.as_mut() {
        projected.default_mode.get_or_insert(FILE_MODE);
        for source in projected.sources.iter_mut().flatten() {
            if let Some(token) = source.service_account_token.as_mut() {
                token.expiration_seconds.get_or_insert(TOKEN_SECONDS);
            }
            default_files(source.downward_api.as_mut().and_then(|told| told.items.as_mut()));
        }
    }
    if let Some(path) = volume.host_path.as_mut() {
        path.type_.get_or_insert_default();
    }
    if let Some(image) = volume.image.as_mut() {
        default_pull_policy(&mut image.pull_policy, image.reference.as_deref());
    }
    // A volume that says nothing is an empty one.
    let bare = Volume { name: volume.name.clone(), ..Default::default() };
    if *volume == bare {
        volume.empty_dir = Some(Default::default());
    }
}

fn default_files(files: Option<&mut Vec<DownwardAPIVolumeFile>>) {
    for file in files.into_iter().flatten() {
        default_field(file.field_ref.as_mut(), file.resource_field_ref.as_mut());
    }
}

/// Nothing finer than a thousandth is counted.
fn round_to_milli(list: &mut BTreeMap<String, WireQuantity>) {
    for wire in list.values_mut() {
        let Ok(quantity) = Quantity::try_from(&*wire) else { continue };
        if quantity.nano_value() % 1_000_000 != 0 {
            let rounded = Quantity::from_milli(quantity.milli_value());
            *wire = rounded.with_format(quantity.format()).to_wire();
        }
    }
}

/// A limit that is wrong is told of once, where it was written.
fn requests_from_limits(resources: &mut ResourceRequirements) {
    let limits = resources.limits.clone().unwrap_or_default();
    for (name, limit) in limits
        .into_iter()
        .filter(|(name, _)| COUNTED.contains(&name.as_str()) || huge_pages::is_resource(name))
    {
        if Quantity::try_from(&limit).is_ok_and(|limit| !limit.is_negative()) {
            resources.requests.get_or_insert_default().entry(name).or_insert(limit);
        }
    }
}
