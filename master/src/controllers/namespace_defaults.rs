//! Keeps in each namespace what clients expect to find there: the ServiceAccount `default`, which
//! pods get that name no other, and the ConfigMap `kube-root-ca.crt`, by which they know the masters.
//!
//! [`reconcile`] decides, [`NamespaceDefaults`] performs one pass.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;

use super::Context;
use super::driver::{Controller, Next, SyncError};
use crate::api::error::ApiError;
use crate::api::kinds::{ConfigMaps, Kind, Namespaces, ServiceAccounts};
use crate::api::objects::Part;
use crate::cache::ObjectEvent;

const NAMESPACES: &str = Namespaces::RESOURCE.plural;
const ACCOUNTS: &str = ServiceAccounts::RESOURCE.plural;
const MAPS: &str = ConfigMaps::RESOURCE.plural;

const ACCOUNT: &str = "default";
const BUNDLE: &str = "kube-root-ca.crt";
/// The key in the bundle.
const CERTIFICATE: &str = "ca.crt";

/// The controller. See the module's documentation.
pub(super) struct NamespaceDefaults {
    context: Context,
    /// PEM.
    root_ca: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    CreateAccount,
    CreateBundle,
    /// Its data is not what it should be.
    CorrectBundle,
}

fn reconcile(account: bool, bundle: Option<&ConfigMap>, root_ca: &str) -> Vec<Action> {
    let account = (!account).then_some(Action::CreateAccount);
    let bundle = match bundle {
        None => Some(Action::CreateBundle),
        Some(found) if found.data == Some(data(root_ca)) => None,
        Some(_) => Some(Action::CorrectBundle),
    };
    account.into_iter().chain(bundle).collect()
}

fn data(root_ca: &str) -> BTreeMap<String, String> {
    [(CERTIFICATE.to_owned(), root_ca.to_owned())].into()
}

fn metadata(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    }
}

#[async_trait]
impl Controller for NamespaceDefaults {
    /// The namespace.
    type Key = String;

    const NAME: &'static str = "namespace-defaults-controller";

    fn resources(&self) -> Vec<&'static str> {
        vec![NAMESPACES, ACCOUNTS, MAPS]
    }

    fn affected(&self, resource: &'static str, event: &ObjectEvent, add: &mut dyn FnMut(String)) {
        let key = &event.object().key;
        let deleted = matches!(event, ObjectEvent::Deleted(_));
        match resource {
            NAMESPACES if !deleted => add(key.name.clone()),
            ACCOUNTS if deleted && key.name == ACCOUNT => add(key.namespace.clone()),
            MAPS if key.name == BUNDLE => add(key.namespace.clone()),
            _ => {}
        }
    }

    async fn sync(&self, namespace: &String) -> Result<Next, SyncError> {
        let caches = self.context.objects.caches();
        let get = |resource: &str, key: &ObjectKey| caches.resource(resource)?.get(key);
        let found = get(NAMESPACES, &ObjectKey::new("", namespace.clone()));
        if found.is_none_or(|found| found.deleting) {
            return Ok(Next::Done);
        }
        let account = get(ACCOUNTS, &ObjectKey::new(namespace.clone(), ACCOUNT)).is_some();
        let bundle = get(MAPS, &ObjectKey::new(namespace.clone(), BUNDLE));
        let bundle = bundle.map(|bundle| bundle.decode::<ConfigMap>()).transpose();
        let bundle = bundle.map_err(SyncError::decode(format!("{BUNDLE} of {namespace}")))?;
        for action in reconcile(account, bundle.as_ref(), &self.root_ca) {
            match self.perform(namespace, &action).await {
                // Somebody was faster, or all of the namespace goes.
                Err(error)
                    if error.is_already_exists()
                        || error.is_not_found()
                        || super::is_terminating(&error) => {}
                other => {
                    let what = format!("{action:?} in {namespace}");
                    other.map_err(SyncError::write(what))?;
                }
            }
        }
        Ok(Next::Done)
    }
}

impl NamespaceDefaults {
    pub(super) fn new(context: Context, root_ca: String) -> Self {
        Self { context, root_ca }
    }

    async fn perform(&self, namespace: &str, action: &Action) -> Result<(), ApiError> {
        let (objects, fence) = (&self.context.objects, &self.context.fence);
        match action {
            Action::CreateAccount => {
                let metadata = metadata(namespace, ACCOUNT);
                let account = ServiceAccount { metadata, ..ServiceAccount::default() };
                objects.create::<ServiceAccounts>(account, fence).await.map(drop)
            }
            Action::CreateBundle => {
                let data = Some(data(&self.root_ca));
                let metadata = metadata(namespace, BUNDLE);
                let bundle = ConfigMap { metadata, data, ..ConfigMap::default() };
                objects.create::<ConfigMaps>(bundle, fence).await.map(drop)
            }
            Action::CorrectBundle => {
                let correct = |stored: &mut ConfigMap| {
                    stored.data = Some(data(&self.root_ca));
                    true
                };
                let key = ObjectKey::new(namespace, BUNDLE);
                objects.update::<ConfigMaps>(&key, Part::Spec, fence, correct).await.map(drop)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_made_and_what_was_changed_is_put_right() {
        let bundle =
            |data: Option<BTreeMap<String, String>>| ConfigMap { data, ..ConfigMap::default() };
        assert_eq!(reconcile(false, None, "x"), [Action::CreateAccount, Action::CreateBundle]);
        assert_eq!(reconcile(true, Some(&bundle(Some(data("x")))), "x"), []);
        assert_eq!(reconcile(true, Some(&bundle(Some(data("y")))), "x"), [Action::CorrectBundle]);
        assert_eq!(reconcile(true, Some(&bundle(None)), "x"), [Action::CorrectBundle]);
    }
}
