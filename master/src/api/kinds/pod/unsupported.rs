//! What this version does not do: refused with a sentence, never accepted and ignored.
//!
//! Structs are taken apart field by field, so that a field of a newer Kubernetes does not compile
//! until somebody has decided about it. A value that says what would happen anyway is accepted.

use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, KeyToPath, PodSpec, Volume, VolumeMount,
};
use proto::k8s as k8s_openapi;

use super::super::path::Path;
use crate::api::field_error::{FieldError, FieldErrors};

/// Says that a field is not supported, and what there is instead.
pub(in crate::api::kinds) fn refuse(path: &Path, instead: &str, errors: &mut FieldErrors) {
    let detail = format!("is not supported by this version of Kutter: {instead}");
    errors.push(FieldError::forbidden(path, detail));
}

fn refuse_set(
    path: &Path,
    fields: impl IntoIterator<Item = (bool, &'static str, &'static str)>,
    errors: &mut FieldErrors,
) {
    for (set, field, instead) in fields {
        if set {
            refuse(&path.child(field), instead, errors);
        }
    }
}

fn listed<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

fn said(text: &Option<String>) -> bool {
    text.as_ref().is_some_and(|text| !text.is_empty())
}

/// What a pod may not say.
pub(super) fn spec(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let PodSpec {
        active_deadline_seconds,
        affinity,
        automount_service_account_token,
        containers: _,
        dns_config: _,
        dns_policy: _,
        enable_service_links: _,
        ephemeral_containers: _,
        eviction_responders,
        host_aliases: _,
        host_ipc,
        host_network,
        host_pid,
        host_users,
        hostname: _,
        hostname_override,
        image_pull_secrets: _,
        init_containers,
        node_name: _,
        node_selector: _,
        os,
        overhead,
        preemption_policy,
        priority,
        priority_class_name,
        readiness_gates,
        resource_claims,
        resources,
        restart_policy: _,
        runtime_class_name,
        scheduler_name: _,
        scheduling_gates,
        scheduling_group,
        security_context: _,
        service_account: _,
        service_account_name: _,
        set_hostname_as_fqdn,
        share_process_namespace,
        subdomain,
        termination_grace_period_seconds: _,
        tolerations: _,
        topology_spread_constraints,
        volumes: _,
    } = spec;
    let own = |host: &Option<bool>| *host == Some(true);
    let no_priority = "all pods are equal, and none gives way to another";
    let affine = affinity.as_ref().is_some_and(|affinity| *affinity != Default::default());
    let preempts = preemption_policy.as_deref().is_some_and(|p| p != "PreemptLowerPriority");
    let fields = [
        (
            active_deadline_seconds.is_some(),
            "activeDeadlineSeconds",
            "pods run until they end or are deleted",
        ),
        (affine, "affinity", "use nodeSelector; pods of one controller are spread over the nodes"),
        (
            own(automount_service_account_token),
            "automountServiceAccountToken",
            "service accounts have no tokens; leave it out or say false",
        ),
        (listed(eviction_responders), "evictionResponders", "pods are deleted gracefully"),
        (own(host_ipc), "hostIPC", "every pod has an IPC namespace of its own"),
        (own(host_network), "hostNetwork", "every pod has an address of its own; use hostPort"),
        (own(host_pid), "hostPID", "every container has a process namespace of its own"),
        (host_users.is_some(), "hostUsers", "leave it out"),
        (said(hostname_override), "hostnameOverride", "use hostname"),
        (listed(init_containers), "initContainers", "do what they do at the start of a container"),
        (os.as_ref().is_some_and(|os| os.name != "linux"), "os", "nodes run Linux"),
        (
            overhead.as_ref().is_some_and(|map| !map.is_empty()),
            "overhead",
            "there are no runtime classes",
        ),
        (preempts, "preemptionPolicy", no_priority),
        (priority.unwrap_or(0) != 0, "priority", no_priority),
        (said(priority_class_name), "priorityClassName", no_priority),
        (listed(readiness_gates), "readinessGates", "use readiness probes"),
        (listed(resource_claims), "resourceClaims", "nodes offer cpu and memory only"),
        (
            resources.as_ref().is_some_and(|resources| *resources != Default::default()),
            "resources",
            "say them for each container",
        ),
        (said(runtime_class_name), "runtimeClassName", "there is one runtime"),
        (listed(scheduling_gates), "schedulingGates", "create the pod when it may run"),
        (scheduling_group.is_some(), "schedulingGroup", "pods are scheduled one by one"),
        (own(set_hostname_as_fqdn), "setHostnameAsFQDN", "the cluster has no domain names yet"),
        (
            own(share_process_namespace),
            "shareProcessNamespace",
            "every container has a process namespace of its own",
        ),
        (said(subdomain), "subdomain", "the cluster has no domain names yet"),
        (
            listed(topology_spread_constraints),
            "topologySpreadConstraints",
            "pods of one controller are spread over the nodes",
        ),
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
        lifecycle,
        liveness_probe: _,
        name: _,
        ports: _,
        readiness_probe: _,
        // What a resize would do; there is none, and a changed pod is refused.
        resize_policy: _,
        resources: _,
        restart_policy,
        restart_policy_rules,
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
    let hooked = lifecycle.as_ref().is_some_and(|lifecycle| *lifecycle != Default::default());
    let fields = [
        (hooked, "lifecycle", "containers get the stop signal of their image and the grace period"),
        (said(restart_policy), "restartPolicy", "use the pod's restartPolicy"),
        (listed(restart_policy_rules), "restartPolicyRules", "use the pod's restartPolicy"),
        (listed(volume_devices), "volumeDevices", "there are no persistent volumes"),
    ];
    refuse_set(path, fields, errors);
}

/// What a mount may not say.
pub(super) fn mount(mount: &VolumeMount, path: &Path, errors: &mut FieldErrors) {
    let VolumeMount {
        bind_mount_options,
        mount_path: _,
        mount_propagation,
        name: _,
        read_only: _,
        recursive_read_only,
        sub_path,
        sub_path_expr,
    } = mount;
    let propagates = mount_propagation.as_deref().is_some_and(|p| !matches!(p, "" | "None"));
    let recursive = recursive_read_only.as_deref().is_some_and(|r| !matches!(r, "" | "Disabled"));
    let whole = "mount the whole volume, or name items";
    let fields = [
        (listed(bind_mount_options), "bindMountOptions", "use readOnly"),
        (propagates, "mountPropagation", "mounts are private"),
        (recursive, "recursiveReadOnly", "use readOnly"),
        (said(sub_path), "subPath", whole),
        (said(sub_path_expr), "subPathExpr", whole),
    ];
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
        config_map,
        csi,
        downward_api,
        empty_dir,
        ephemeral,
        fc,
        flex_volume,
        flocker,
        gce_persistent_disk,
        git_repo,
        glusterfs,
        host_path: _,
        image,
        iscsi,
        name: _,
        nfs,
        persistent_volume_claim,
        photon_persistent_disk,
        portworx_volume,
        projected,
        quobyte,
        rbd,
        scale_io,
        secret,
        storageos,
        vsphere_volume,
    } = volume;
    let instead = "use emptyDir, hostPath, configMap or secret";
    let kinds = [
        (aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (azure_disk.is_some(), "azureDisk"),
        (azure_file.is_some(), "azureFile"),
        (cephfs.is_some(), "cephfs"),
        (cinder.is_some(), "cinder"),
        (csi.is_some(), "csi"),
        (downward_api.is_some(), "downwardAPI"),
        (ephemeral.is_some(), "ephemeral"),
        (fc.is_some(), "fc"),
        (flex_volume.is_some(), "flexVolume"),
        (flocker.is_some(), "flocker"),
        (gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (git_repo.is_some(), "gitRepo"),
        (glusterfs.is_some(), "glusterfs"),
        (image.is_some(), "image"),
        (iscsi.is_some(), "iscsi"),
        (nfs.is_some(), "nfs"),
        (persistent_volume_claim.is_some(), "persistentVolumeClaim"),
        (photon_persistent_disk.is_some(), "photonPersistentDisk"),
        (portworx_volume.is_some(), "portworxVolume"),
        (projected.is_some(), "projected"),
        (quobyte.is_some(), "quobyte"),
        (rbd.is_some(), "rbd"),
        (scale_io.is_some(), "scaleIO"),
        (storageos.is_some(), "storageos"),
        (vsphere_volume.is_some(), "vsphereVolume"),
    ];
    refuse_set(path, kinds.map(|(set, field)| (set, field, instead)), errors);
    if let Some(EmptyDirVolumeSource { medium, mode: _, size_limit }) = empty_dir
        && size_limit.is_some()
        && medium.as_deref().unwrap_or_default().is_empty()
    {
        let instead = "the disk that a volume fills is not counted; use medium Memory";
        refuse(&path.child("emptyDir.sizeLimit"), instead, errors);
    }
    let owners = "files belong to root; choose the mode";
    let owned = |items: &Option<Vec<KeyToPath>>| items.iter().flatten().any(|i| i.user.is_some());
    if let Some(map) = config_map
        && (map.default_user.is_some() || owned(&map.items))
    {
        refuse(&path.child("configMap.defaultUser"), owners, errors);
    }
    if let Some(secret) = secret
        && (secret.default_user.is_some() || owned(&secret.items))
    {
        refuse(&path.child("secret.defaultUser"), owners, errors);
    }
}
