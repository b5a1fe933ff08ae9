//! What a pod gets from its ServiceAccount: the secrets by which its images are pulled, and a token by
//! which it says who it is. Pure, but for the name of the token's volume.

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath,
    ObjectFieldSelector, Pod, ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection,
    Volume, VolumeMount, VolumeProjection,
};
use proto::k8s as k8s_openapi;

use crate::api::kinds::pod::is_mirror;

/// The account of pods that name no other.
const DEFAULT: &str = "default";

/// The account that a pod names.
pub(super) fn name(pod: &Pod) -> &str {
    let name = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    name.filter(|name| !name.is_empty()).unwrap_or(DEFAULT)
}

/// Whether there has to be the account. A namespace gets its default one a moment after it was made,
/// and nobody shall have to wait for that.
pub(super) fn is_required(pod: &Pod) -> bool {
    name(pod) != DEFAULT
}

/// Gives the pod what its account says, unless it says something itself. `volume` names the volume of
/// its token, should it get one.
pub(super) fn complete(
    pod: &mut Pod,
    account: Option<&ServiceAccount>,
    volume: impl FnOnce() -> String,
) -> Result<(), String> {
    // One that its node has in a file has no account.
    if is_mirror(pod) {
        return Ok(());
    }
    let stated = pod.spec.as_ref().and_then(|spec| spec.automount_service_account_token);
    let stated = stated.or(account.and_then(|a| a.automount_service_account_token));
    let Some(account) = account else {
        if !is_required(pod) {
            if stated != Some(false) {
                mount_token(pod, volume);
            }
            return Ok(());
        }
        let (namespace, name) = (pod.metadata.namespace.as_deref().unwrap_or_default(), name(pod));
        return Err(format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        ));
    };
    let secrets = &mut pod.spec.get_or_insert_default().image_pull_secrets;
    if secrets.as_ref().is_none_or(Vec::is_empty)
        && account.image_pull_secrets.as_ref().is_some_and(|secrets| !secrets.is_empty())
    {
        secrets.clone_from(&account.image_pull_secrets);
    }
    if stated != Some(false) {
        mount_token(pod, volume);
    }
    Ok(())
}

/// Where every client library looks.
const PLACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// What the volume's name starts with.
pub(super) const VOLUME: &str = "kube-api-access-";
/// An hour and what a renewal may take; the number by which Kubernetes knows such tokens.
const SECONDS: i64 = 3607;
/// Readable by everybody, writable by the owner.
const FILE_MODE: i32 = 0o644;

/// Mounts a volume with token, certificate and namespace into each container that has nothing there.
fn mount_token(pod: &mut Pod, volume: impl FnOnce() -> String) {
    let spec = pod.spec.get_or_insert_default();
    let present = spec.volumes.iter().flatten().find(|one| one.name.starts_with(VOLUME));
    let present = present.map(|one| one.name.clone());
    let name = present.clone().unwrap_or_else(volume);
    let lacks = |container: &&mut Container| {
        !container.volume_mounts.iter().flatten().any(|mount| mount.mount_path == PLACE)
    };
    let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    let mut mounted = false;
    for container in containers.filter(lacks) {
        mounted = true;
        container.volume_mounts.get_or_insert_default().push(VolumeMount {
            name: name.clone(),
            mount_path: PLACE.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        });
    }
    if mounted && present.is_none() {
        spec.volumes.get_or_insert_default().push(Volume {
            name,
            projected: Some(ProjectedVolumeSource {
                sources: Some(sources()),
                default_mode: Some(FILE_MODE),
                ..ProjectedVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
}

fn sources() -> Vec<VolumeProjection> {
    let token = ServiceAccountTokenProjection {
        path: "token".to_owned(),
        expiration_seconds: Some(SECONDS),
        ..ServiceAccountTokenProjection::default()
    };
    let certificate = ConfigMapProjection {
        name: "kube-root-ca.crt".to_owned(),
        items: Some(vec![KeyToPath {
            key: "ca.crt".to_owned(),
            path: "ca.crt".to_owned(),
            ..KeyToPath::default()
        }]),
        ..ConfigMapProjection::default()
    };
    let namespace = DownwardAPIVolumeFile {
        path: "namespace".to_owned(),
        field_ref: Some(ObjectFieldSelector {
            api_version: Some("v1".to_owned()),
            field_path: "metadata.namespace".to_owned(),
        }),
        ..DownwardAPIVolumeFile::default()
    };
    vec![
        VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
        VolumeProjection { config_map: Some(certificate), ..VolumeProjection::default() },
        VolumeProjection {
            downward_api: Some(DownwardAPIProjection { items: Some(vec![namespace]) }),
            ..VolumeProjection::default()
        },
    ]
}
