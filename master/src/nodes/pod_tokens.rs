//! Tokens of service accounts, for volumes of a node's own pods.
//!
//! A node chooses neither the account nor for whom a token is: both are what a pod says that is bound to
//! the node. What a node has got hold of is thus worth what its pods are worth.

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use proto::node::IssueTokenRequest;
use proto::{ObjectKey, k8s as k8s_openapi};
use tonic::Status;

use super::service::Shared;
use super::session::is_own_pod;
use crate::api::error::ApiError;

/// Issues what a node asks for, or says why not.
pub(crate) async fn issue(
    shared: &Shared,
    node: &str,
    request: IssueTokenRequest,
) -> Result<String, Status> {
    let IssueTokenRequest { namespace, pod, pod_uid, audience, expiration_seconds } = request;
    let key = ObjectKey::new(namespace, pod);
    let not_own = || Status::permission_denied(format!("pod {key} is none of this node's"));
    if !is_own_pod(shared, node, &key, Some(&pod_uid)) {
        return Err(not_own());
    }
    let found = shared.hub.object("pods", &key).ok_or_else(not_own)?;
    let stored: Pod = found.decode().map_err(|error| Status::internal(error.to_string()))?;
    let spec = stored.spec.unwrap_or_default();
    if !wants(&spec, &audience, expiration_seconds) {
        let message = format!("no volume of pod {key} wants such a token");
        return Err(Status::permission_denied(message));
    }
    let account = ObjectKey::new(
        key.namespace.as_str(),
        spec.service_account_name.as_deref().unwrap_or_default(),
    );
    let mut spec = TokenRequestSpec {
        audiences: (!audience.is_empty()).then(|| vec![audience]),
        bound_object_ref: Some(BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(key.name.clone()),
            uid: Some(pod_uid),
        }),
        expiration_seconds: Some(expiration_seconds),
        attestations: None,
    };
    let issued = shared.accounts.issue(&account, &mut spec).await.map_err(status)?;
    Ok(issued.token)
}

fn wants(spec: &PodSpec, audience: &str, seconds: i64) -> bool {
    let projected = spec.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    let sources = projected.flat_map(|projected| projected.sources.iter().flatten());
    sources.filter_map(|source| source.service_account_token.as_ref()).any(|token| {
        token.audience.as_deref().unwrap_or_default() == audience
            && token.expiration_seconds == Some(seconds)
    })
}

fn status(error: ApiError) -> Status {
    match error.code().as_u16() {
        404 => Status::not_found(error.message()),
        400..=499 => Status::failed_precondition(error.message()),
        _ => Status::unavailable(error.message()),
    }
}
