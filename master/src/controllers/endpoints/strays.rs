//! Slices that say that one of our managers looks after them, but that have no owner of which they
//! could be: out of a backup, or made by hand. Kubernetes deletes these, too.

use std::collections::{BTreeMap, HashMap};

use proto::ObjectKey;

use super::slices::{MANAGED_BY, SERVICE_NAME};
use super::{MIRRORED, SLICES};
use crate::cache::ObjectEvent;

/// The strays that there are.
#[derive(Debug, Default)]
pub(super) struct Strays {
    /// Each with the Service whose endpoints it claims to have.
    services: BTreeMap<ObjectKey, ObjectKey>,
    by_service: HashMap<ObjectKey, Vec<ObjectKey>>,
}

impl Strays {
    /// Those of a Service.
    pub(super) fn of(&self, service: &ObjectKey) -> Vec<ObjectKey> {
        self.by_service.get(service).cloned().unwrap_or_default()
    }

    /// Takes in what became of a slice.
    pub(super) fn slice_changed(&mut self, event: &ObjectEvent) {
        let slice = event.object();
        if let Some(service) = self.services.remove(&slice.key)
            && let Some(strays) = self.by_service.get_mut(&service)
        {
            strays.retain(|key| *key != slice.key);
            if strays.is_empty() {
                self.by_service.remove(&service);
            }
        }
        let is_gone = matches!(event, ObjectEvent::Deleted(_)) || slice.deleting;
        let manager = slice.labels.get(MANAGED_BY).map(String::as_str);
        // One that is owned goes with its owner.
        if is_gone
            || !slice.owner_uids.is_empty()
            || ![Some(SLICES), Some(MIRRORED)].contains(&manager)
        {
            return;
        }
        let Some(name) = slice.labels.get(SERVICE_NAME) else { return };
        let service = ObjectKey::new(slice.key.namespace.clone(), name.clone());
        self.by_service.entry(service.clone()).or_default().push(slice.key.clone());
        self.services.insert(slice.key.clone(), service);
    }
}
