//! What the API shows of the pods that a node has in files: made and taken away as their node asks.
//!
//! Such a pod is whatever its node says, so it must not open anything: it names no object of the API,
//! and is nobody. It belongs to its node's object and goes with it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use proto::node::{PutMirrorRequest, RemoveMirrorRequest};
use proto::{ObjectKey, k8s as k8s_openapi};
use serde::Deserialize;
use tonic::Status;
use tracing::{error, info, warn};

use super::references::references;
use super::service::Shared;
use super::session::is_own_pod;
use crate::api::error::ApiError;
use crate::api::kinds::Pods;
use crate::api::objects::DeleteOptions;
use crate::cache::CachedObject;

/// Whose value is the uid of the pod on its node.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

/// Makes the pod, unless it is there already.
pub(crate) async fn put(
    shared: &Shared,
    node: &str,
    request: PutMirrorRequest,
) -> Result<(), Status> {
    let pod: Pod = serde_json::from_slice(&request.pod)
        .map_err(|error| Status::invalid_argument(format!("the pod does not decode: {error}")))?;
    let owner = shared.hub.object("nodes", &ObjectKey::new("", node));
    let owner = owner.ok_or_else(|| Status::not_found(format!("node {node} has no object")))?;
    let owner: Node = owner.decode().map_err(|error| Status::internal(error.to_string()))?;
    let pod = mirror(pod, node, owner.metadata.uid.as_deref().unwrap_or_default())
        .map_err(Status::invalid_argument)?;
    let meta = &pod.metadata;
    let key = ObjectKey::new(
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    );
    let wanted = meta.annotations.as_ref().and_then(|all| all.get(MIRROR)).cloned();
    match shared.objects.create::<Pods>(pod, &[]).await {
        Ok(_) => {
            info!(node, pod = %key, "shows a pod of a file");
            Ok(())
        }
        Err(error) if error.is_already_exists() => {
            // The cache may be behind the store, and the other way round nobody asks.
            shared
                .hub
                .caches()
                .fresh()
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?;
            let there = shared.hub.object("pods", &key);
            let same = there.is_some_and(|there| {
                is_bound(&there, node) && uid_on_node(&there).is_some_and(|uid| Some(uid) == wanted)
            });
            if same { Ok(()) } else { Err(status(&error)) }
        }
        Err(error) => {
            warn!(node, pod = %key, %error, "does not show a pod of a file");
            Err(status(&error))
        }
    }
}

/// Takes the pod away at once: there is nothing to be waited for.
pub(crate) async fn remove(
    shared: &Shared,
    node: &str,
    request: RemoveMirrorRequest,
) -> Result<(), Status> {
    let RemoveMirrorRequest { namespace, name, uid } = request;
    let key = ObjectKey::new(namespace, name);
    let Some(found) = shared.hub.object("pods", &key).filter(|found| found.uid == uid) else {
        return Ok(());
    };
    if !is_own_pod(shared, node, &key, Some(&uid)) || uid_on_node(&found).is_none() {
        let message = format!("pod {key} shows nothing of this node's");
        return Err(Status::permission_denied(message));
    }
    let options =
        DeleteOptions { uid: Some(uid), grace_period_seconds: Some(0), ..Default::default() };
    match shared.objects.delete::<Pods>(&key, options, &[]).await {
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        removed => removed.map_err(|error| status(&error)),
    }
}

/// The uid that a pod has on its node, if the API only shows it.
pub(crate) fn uid_on_node(pod: &CachedObject) -> Option<String> {
    #[derive(Deserialize)]
    struct Shown {
        metadata: Annotated,
    }
    #[derive(Deserialize)]
    struct Annotated {
        #[serde(default)]
        annotations: Option<BTreeMap<String, String>>,
    }
    let shown = pod.decode::<Shown>();
    let shown = shown.inspect_err(|error| error!(pod = %pod.key, %error, "cannot decode a pod"));
    let shown = shown.ok()?;
    shown.metadata.annotations?.remove(MIRROR)
}

fn is_bound(pod: &CachedObject, node: &str) -> bool {
    pod.fields.get("spec.nodeName").is_some_and(|bound| bound == node)
}

/// The object to be made of what a node says; or why not.
fn mirror(pod: Pod, node: &str, node_uid: &str) -> Result<Pod, String> {
    let Pod { metadata, spec, status: _ } = pod;
    let ObjectMeta { name, namespace, labels, annotations, .. } = metadata;
    let spec = spec.unwrap_or_default();
    let said = |field: &Option<String>| field.as_deref().is_some_and(|text| !text.is_empty());
    if !said(&name) || !said(&namespace) {
        return Err("metadata.name: Required value: a pod of a file has name and namespace".into());
    }
    if !annotations.as_ref().is_some_and(|all| said(&all.get(MIRROR).cloned())) {
        return Err(format!("metadata.annotations[{MIRROR}]: Required value: the uid on the node"));
    }
    if spec.node_name.as_deref() != Some(node) {
        let bound = spec.node_name.unwrap_or_default();
        return Err(format!(
            "spec.nodeName: Invalid value: {bound:?}: a node shows its own pods: {node:?}"
        ));
    }
    if let Some(field) = opens(namespace.as_deref().unwrap_or_default(), &spec) {
        return Err(format!(
            "{field}: Forbidden: what a node has in a file may not name objects of the API"
        ));
    }
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_owned(),
        uid: node_uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    let owner_references = Some(vec![owner]);
    let metadata =
        ObjectMeta { name, namespace, labels, annotations, owner_references, ..Default::default() };
    Ok(Pod { metadata, spec: Some(spec), status: None })
}

/// The field by which the pod would open an object to its node.
fn opens(namespace: &str, spec: &PodSpec) -> Option<&'static str> {
    let said = |field: &Option<String>| field.as_deref().is_some_and(|name| !name.is_empty());
    let has_token = |volume: &Volume| {
        let sources = volume.projected.as_ref().and_then(|projected| projected.sources.as_ref());
        sources.into_iter().flatten().any(|source| {
            source.service_account_token.is_some() || source.cluster_trust_bundle.is_some()
        })
    };
    let claims =
        |volume: &Volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some();
    let volumes = || spec.volumes.iter().flatten();
    if said(&spec.service_account_name) || said(&spec.service_account) {
        return Some("spec.serviceAccountName");
    }
    if volumes().any(has_token) {
        return Some("spec.volumes[].projected.sources[].serviceAccountToken");
    }
    if volumes().any(claims) {
        return Some("spec.volumes[].persistentVolumeClaim");
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return Some("spec.resourceClaims");
    }
    if spec.ephemeral_containers.as_ref().is_some_and(|all| !all.is_empty()) {
        return Some("spec.ephemeralContainers");
    }
    (!references(namespace, spec).is_empty()).then_some("spec (a Secret or ConfigMap)")
}

fn status(error: &ApiError) -> Status {
    match error.code().as_u16() {
        404 => Status::not_found(error.message()),
        409 => Status::already_exists(error.message()),
        400..=499 => Status::failed_precondition(error.message()),
        _ => Status::unavailable(error.message()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn made(change: impl FnOnce(&mut Value)) -> Result<Pod, String> {
        let mut pod = json!({
            "metadata": {
                "name": "etcd-n1", "namespace": "kube-system", "annotations": {MIRROR: "abc"},
                "finalizers": ["x/y"], "uid": "chosen", "labels": {"tier": "control-plane"},
            },
            "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "x"}]},
            "status": {"phase": "Running"},
        });
        change(&mut pod);
        mirror(serde_json::from_value(pod).unwrap(), "n1", "node-uid")
    }

    #[test]
    fn what_is_shown_belongs_to_its_node_and_is_what_the_node_may_say() {
        let pod = made(|_| {}).unwrap();
        let owner = &pod.metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.uid.as_str()), ("Node", "node-uid"));
        assert_eq!(owner.controller, Some(true));
        assert_eq!((pod.metadata.uid, pod.metadata.finalizers, pod.status), (None, None, None));
        assert!(pod.metadata.labels.unwrap().contains_key("tier"));
    }

    #[test]
    fn a_node_shows_its_own_pods_and_opens_nothing_by_them() {
        for (pointer, value, field) in [
            ("/spec/nodeName", json!("n2"), "spec.nodeName"),
            ("/metadata/annotations", json!({}), "metadata.annotations"),
            ("/metadata/namespace", json!(""), "metadata.name"),
        ] {
            let refused = made(|pod| *pod.pointer_mut(pointer).unwrap() = value).unwrap_err();
            assert!(refused.starts_with(field), "{refused}");
        }
        let token = json!([{"name": "t", "projected": {"sources": [
            {"serviceAccountToken": {"path": "t"}}]}}]);
        let env = json!([{"name": "main", "image": "x", "env": [{"name": "A", "valueFrom":
            {"secretKeyRef": {"name": "s", "key": "k"}}}]}]);
        for (key, value) in [
            ("serviceAccountName", json!("default")),
            ("volumes", token),
            ("volumes", json!([{"name": "s", "secret": {"secretName": "s"}}])),
            ("volumes", json!([{"name": "s", "configMap": {"name": "s"}}])),
            ("volumes", json!([{"name": "s", "persistentVolumeClaim": {"claimName": "s"}}])),
            ("imagePullSecrets", json!([{"name": "s"}])),
            ("containers", env),
        ] {
            let refused = made(|pod| pod["spec"][key] = value.clone()).unwrap_err();
            assert!(refused.contains("may not name objects"), "{key}: {refused}");
        }
    }
}
