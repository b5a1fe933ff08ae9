//! The leases of nodes as readers see them: that of a node with a session was renewed just now,
//! though nobody writes that down.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use crate::api::kinds::lease::NODE_NAMESPACE;
use crate::api::kinds::{Kind as _, Leases};
use crate::api::registry::AnyKind;
use crate::cache::{CachedObject, Caches};
use crate::store::keys;

/// The object as it is to be told.
pub(crate) fn as_told(
    caches: &Caches,
    kind: &dyn AnyKind,
    object: Arc<CachedObject>,
) -> Arc<CachedObject> {
    if kind.resource().plural != Leases::RESOURCE.plural || object.key.namespace != NODE_NAMESPACE {
        return object;
    }
    let session = keys::node_session(&object.key.name);
    if caches.keys(keys::NODE_SESSIONS).get(&session).is_none() {
        return object;
    }
    match renewed(&object.json, Timestamp::now()) {
        Some(json) => Arc::new(CachedObject { json, ..(*object).clone() }),
        None => object,
    }
}

fn renewed(json: &[u8], now: Timestamp) -> Option<Bytes> {
    let mut lease: Value = serde_json::from_slice(json).ok()?;
    lease.get_mut("spec")?.as_object_mut()?.insert("renewTime".to_owned(), json!(MicroTime(now)));
    Some(Bytes::from(lease.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_time_of_renewal_is_another() {
        let stored = json!({"metadata": {"resourceVersion": "7"}, "spec": {"holderIdentity": "a"}});
        let told = renewed(stored.to_string().as_bytes(), Timestamp::UNIX_EPOCH).unwrap();
        let told: Value = serde_json::from_slice(&told).unwrap();
        let mut expected = stored;
        expected["spec"]["renewTime"] = json!("1970-01-01T00:00:00.000000Z");
        assert_eq!(told, expected);
        assert_eq!(renewed(b"{}", Timestamp::UNIX_EPOCH), None);
    }
}
