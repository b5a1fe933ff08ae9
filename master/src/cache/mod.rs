//! The watch cache: the newest objects of every resource as shared bytes, with their parsed
//! metadata beside them, and a bounded window of events.
//!
//! Lists, watches, the scheduler and every controller read from here; only writes go to the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proto::ObjectKey;

use crate::store::Revision;

/// An object as it was stored, with what is looked at often already parsed.
#[derive(Debug)]
pub struct CachedObject {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The revision that wrote it: its `resourceVersion`.
    pub revision: Revision,
    /// JSON with `metadata.resourceVersion` in place, ready to be sent.
    pub json: Bytes,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// The uid of the owner reference with `controller: true`.
    pub controller_uid: Option<String>,
    /// Uids of all owner references.
    pub owner_uids: Vec<String>,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// The kind's selectable fields (`spec.nodeName`, `status.phase` …), `metadata.*` left out.
    pub fields: BTreeMap<&'static str, String>,
}

impl CachedObject {
    /// The object as its type.
    ///
    /// # Errors
    /// When the stored bytes do not decode: somebody else wrote to the store.
    pub fn decode<T: serde::de::DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.json)
    }
}

/// A change of a resource, in the order of revisions.
#[derive(Clone, Debug)]
pub enum ObjectEvent {
    /// Created.
    Added(Arc<CachedObject>),
    /// Changed. The old state is there so that selectors can tell who came into or went out of a selection.
    Modified {
        /// As it is now.
        new: Arc<CachedObject>,
        /// As it was.
        old: Arc<CachedObject>,
    },
    /// Deleted: the last state, its json carrying the revision of the deletion.
    Deleted(Arc<CachedObject>),
}

impl ObjectEvent {
    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Added(object) | Self::Deleted(object) => object.revision,
            Self::Modified { new, .. } => new.revision,
        }
    }

    /// The newest state of the object.
    pub fn object(&self) -> &Arc<CachedObject> {
        match self {
            Self::Added(object) | Self::Deleted(object) => object,
            Self::Modified { new, .. } => new,
        }
    }
}
