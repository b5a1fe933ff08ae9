//! What a pod gets from its ServiceAccount: the secrets by which its images are pulled. Pure.

use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use proto::k8s as k8s_openapi;

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

/// Gives the pod what its account says, unless it says something itself.
pub(super) fn complete(pod: &mut Pod, account: Option<&ServiceAccount>) -> Result<(), String> {
    let Some(account) = account else {
        if !is_required(pod) {
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
    Ok(())
}
