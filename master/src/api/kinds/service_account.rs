//! `serviceaccounts`: identities of pods. Their tokens are made by [`accounts`](crate::accounts).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, ServiceAccount};
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::columns::{AGE, NAME, age, column, name};
use super::{Column, Kind, ResourceInfo};
use crate::api::field_error::FieldErrors;

/// `serviceaccounts`
#[derive(Debug)]
pub enum ServiceAccounts {}

impl Kind for ServiceAccounts {
    type Object = ServiceAccount;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "",
        version: "v1",
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        categories: &[],
        namespaced: true,
        status: false,
        scale: false,
    };

    fn default(_object: &mut ServiceAccount) {}

    fn prepare_create(object: &mut ServiceAccount) {
        clean(object);
    }

    fn prepare_update(new: &mut ServiceAccount, _old: &ServiceAccount) {
        clean(new);
    }

    fn validate(_object: &ServiceAccount) -> FieldErrors {
        FieldErrors::new()
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("Secrets", "string", "How many secrets pods of this account may use."),
            AGE,
        ];
        COLUMNS
    }

    fn row(object: &ServiceAccount, now: Timestamp) -> Vec<Value> {
        vec![
            json!(name(&object.metadata)),
            json!(object.secrets.as_ref().map_or(0, Vec::len)),
            json!(age(&object.metadata, now)),
        ]
    }
}

/// A secret is named, and nothing else is said of it: it is one of the same namespace.
fn clean(account: &mut ServiceAccount) {
    for secret in account.secrets.iter_mut().flatten() {
        *secret = ObjectReference { name: secret.name.take(), ..ObjectReference::default() };
    }
}
