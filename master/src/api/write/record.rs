//! Keeping the record of who owns which fields, as clients write.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, Time};
use proto::k8s as k8s_openapi;

use super::metadata;
use crate::api::apply::managed_fields::{Manager, Managers};
use crate::api::error::ApiError;
use crate::api::registry::{AnyKind, AnyObject};

/// Writes down in `new` that `manager` made it out of `old`.
pub(super) fn record(
    kind: &'static dyn AnyKind,
    old: Option<&dyn AnyObject>,
    new: &mut dyn AnyObject,
    manager: &Manager,
) -> Result<(), ApiError> {
    let resource = kind.resource();
    let live = || {
        let entries = old.and_then(|old| old.meta().managed_fields.as_deref());
        Managers::decode(resource, entries.unwrap_or_default()).unwrap_or_default()
    };
    let before = match new.meta_mut().managed_fields.take() {
        // An empty list is how a client drops the record.
        Some(entries) if is_reset(&entries) => return Ok(()),
        // A record that a client broke is not taken over.
        Some(entries) => Managers::decode(resource, &entries).unwrap_or_else(|_| live()),
        None => live(),
    };
    let old_tree = old.map(|old| kind.tree(old)).transpose().map_err(ApiError::internal)?;
    let new_tree = kind.tree(new).map_err(ApiError::internal)?;
    let now = Time(metadata::now());
    let after = before.updated(resource, old_tree.as_ref(), &new_tree, manager, now);
    new.meta_mut().managed_fields = after.encode(resource);
    Ok(())
}

/// Whether a write changes nothing. When fields changed hands is no change by itself: a client that
/// sends back what it once read sends old times with it.
pub(super) fn is_same(old: &dyn AnyObject, new: &mut dyn AnyObject) -> bool {
    let entries = new.meta_mut().managed_fields.take();
    new.meta_mut().managed_fields.clone_from(&old.meta().managed_fields);
    if untimed(entries.as_deref()) == untimed(old.meta().managed_fields.as_deref())
        && new.equals(old)
    {
        return true;
    }
    new.meta_mut().managed_fields = entries;
    false
}

fn untimed(entries: Option<&[ManagedFieldsEntry]>) -> Vec<ManagedFieldsEntry> {
    let entries = entries.unwrap_or_default().iter().cloned();
    let mut entries: Vec<_> =
        entries.map(|entry| ManagedFieldsEntry { time: None, ..entry }).collect();
    // Their order depends on the times.
    entries.sort_by(|a, b| {
        (&a.manager, &a.operation, &a.subresource).cmp(&(&b.manager, &b.operation, &b.subresource))
    });
    entries
}

fn is_reset(entries: &[ManagedFieldsEntry]) -> bool {
    match entries {
        [] => true,
        [only] => *only == ManagedFieldsEntry::default(),
        _ => false,
    }
}
