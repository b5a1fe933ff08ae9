//! What this version does not do: refused with a sentence, never accepted and ignored.
//!
//! Structs are taken apart field by field, so that a field of a newer Kubernetes does not compile
//! until somebody has decided about it. A value that says what would happen anyway is accepted.

use k8s_openapi::api::core::v1::{Container, PodSpec, Volume, VolumeMount};
use proto::k8s as k8s_openapi;
use serde::Serialize;
use serde_json::{Value, json};

use super::super::path::Path;
use crate::api::field_error::{FieldError, FieldErrors};

/// Says that a value is not supported, and what there is instead.
pub(in crate::api::kinds) fn refuse(
    path: &Path,
    value: impl Serialize,
    instead: &str,
    errors: &mut FieldErrors,
) {
    let detail = format!("is not supported by this version of Kutter: {instead}");
    let is_plain = |value: &Value| !(value.is_null() || value.is_array() || value.is_object());
    let value = serde_json::to_value(value).unwrap_or_default();
    // Of a structure, the field says what it is.
    let tells = match &value {
        Value::Array(list) => list.iter().all(is_plain),
        value => is_plain(value),
    };
    let detail = if tells { format!("{value} {detail}") } else { detail };
    errors.push(FieldError::forbidden(path, detail));
}

/// The same for each of the fields that say something.
pub(in crate::api::kinds) fn refuse_set(
    path: &Path,
    fields: impl IntoIterator<Item = (Value, &'static str, &'static str)>,
    errors: &mut FieldErrors,
) {
    for (value, field, instead) in fields {
        if !value.is_null() {
            refuse(&path.child(field), value, instead, errors);
        }
    }
}

/// The value, unless it says nothing.
pub(in crate::api::kinds) fn given<T: Serialize + Default + PartialEq>(field: &Option<T>) -> Value {
    let said = field.as_ref().filter(|value| **value != T::default());
    serde_json::to_value(said).unwrap_or_default()
}

/// What a pod may not say.
pub(super) fn spec(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let PodSpec {
        active_deadline_seconds: _,
        affinity: _,
        automount_service_account_token: _,
        containers: _,
        dns_config: _,
        dns_policy: _,
        enable_service_links: _,
        ephemeral_containers: _,
        eviction_responders,
        host_aliases: _,
        host_ipc: _,
        host_network: _,
        host_pid: _,
        host_users: _,
        hostname: _,
        hostname_override: _,
        image_pull_secrets: _,
        init_containers: _,
        node_name: _,
        node_selector: _,
        os,
        overhead: _,
        preemption_policy: _,
        priority: _,
        priority_class_name: _,
        readiness_gates: _,
        resource_claims,
        resources,
        restart_policy: _,
        runtime_class_name: _,
        scheduler_name: _,
        scheduling_gates: _,
        scheduling_group,
        security_context: _,
        service_account: _,
        service_account_name: _,
        set_hostname_as_fqdn: _,
        share_process_namespace: _,
        subdomain: _,
        termination_grace_period_seconds: _,
        tolerations: _,
        topology_spread_constraints: _,
        volumes: _,
    } = spec;
    let other_os = json!(os.as_ref().map(|os| &os.name).filter(|name| *name == "windows"));
    let fields = [
        (given(eviction_responders), "evictionResponders", "pods are deleted gracefully"),
        (other_os, "os", "nodes run Linux"),
        (given(resource_claims), "resourceClaims", "nodes offer cpu and memory only"),
        (given(resources), "resources", "say them for each container"),
        (json!(scheduling_group), "schedulingGroup", "pods are scheduled one by one"),
    ];
    refuse_set(path, fields, errors);
}

/// What a container may not say.
pub(super) fn container(container: &Container, path: &Path, errors: &mut FieldErrors) {
    let Container {
        args: _,
        command: _,
        env: _,
        env_from: _,
        image: _,
        image_pull_policy: _,
        lifecycle: _,
        liveness_probe: _,
        name: _,
        ports: _,
        readiness_probe: _,
        resize_policy: _,
        resources: _,
        restart_policy: _,
        restart_policy_rules: _,
        security_context: _,
        startup_probe: _,
        stdin: _,
        stdin_once: _,
        termination_message_path: _,
        termination_message_policy: _,
        tty: _,
        volume_devices,
        volume_mounts: _,
        working_dir: _,
    } = container;
    let fields = [(given(volume_devices), "volumeDevices", "there are no persistent volumes")];
    refuse_set(path, fields, errors);
}

/// What a mount may not say.
pub(super) fn mount(mount: &VolumeMount, path: &Path, errors: &mut FieldErrors) {
    let VolumeMount {
        bind_mount_options,
        mount_path: _,
        mount_propagation: _,
        name: _,
        read_only: _,
        recursive_read_only: _,
        sub_path: _,
        sub_path_expr: _,
    } = mount;
    let fields = [(given(bind_mount_options), "bindMountOptions", "use readOnly")];
    refuse_set(path, fields, errors);
}

/// Kinds of volumes that there are not.
pub(super) fn volume(volume: &Volume, path: &Path, errors: &mut FieldErrors) {
    let Volume {
        aws_elastic_block_store,
        azure_disk,
        azure_file,
        cephfs,
        cinder,
        config_map: _,
        csi,
        downward_api: _,
        empty_dir: _,
        ephemeral,
        fc,
        flex_volume,
        flocker,
        gce_persistent_disk,
        git_repo,
        glusterfs,
        host_path: _,
        image: _,
        iscsi,
        name: _,
        nfs,
        persistent_volume_claim,
        photon_persistent_disk,
        portworx_volume,
        projected: _,
        quobyte,
        rbd,
        scale_io,
        secret: _,
        storageos,
        vsphere_volume,
    } = volume;
    let instead = "use emptyDir, hostPath, configMap, secret, downwardAPI, projected or image";
    let kinds = [
        (aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (azure_disk.is_some(), "azureDisk"),
        (azure_file.is_some(), "azureFile"),
        (cephfs.is_some(), "cephfs"),
        (cinder.is_some(), "cinder"),
        (csi.is_some(), "csi"),
        (ephemeral.is_some(), "ephemeral"),
        (fc.is_some(), "fc"),
        (flex_volume.is_some(), "flexVolume"),
        (flocker.is_some(), "flocker"),
        (gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (git_repo.is_some(), "gitRepo"),
        (glusterfs.is_some(), "glusterfs"),
        (iscsi.is_some(), "iscsi"),
        (nfs.is_some(), "nfs"),
        (persistent_volume_claim.is_some(), "persistentVolumeClaim"),
        (photon_persistent_disk.is_some(), "photonPersistentDisk"),
        (portworx_volume.is_some(), "portworxVolume"),
        (quobyte.is_some(), "quobyte"),
        (rbd.is_some(), "rbd"),
        (scale_io.is_some(), "scaleIO"),
        (storageos.is_some(), "storageos"),
        (vsphere_volume.is_some(), "vsphereVolume"),
    ];
    for (_, field) in kinds.into_iter().filter(|(set, _)| *set) {
        refuse(&path.child(field), (), instead, errors);
    }
}
