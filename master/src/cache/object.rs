//! Objects and their changes as the cache hands them out, and how stored bytes become them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proto::ObjectKey;

use super::sketch::{SelectableFields, Sketch};
use crate::store::Revision;

/// An object as it was stored, with what is looked at often already parsed.
#[derive(Clone, Debug)]
pub struct CachedObject {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The revision that wrote it: its `resourceVersion`.
    pub revision: Revision,
    /// JSON with `metadata.resourceVersion` in place, ready to be sent.
    pub json: Bytes,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`; 0 where there is none.
    pub generation: i64,
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

/// Stored bytes that are not a Kubernetes object.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON.
    #[error("the stored object is not JSON")]
    Json(#[from] serde_json::Error),
    /// JSON, but without `metadata`.
    #[error("the stored object has no metadata")]
    NoMetadata,
}

impl CachedObject {
    /// Parses what a store holds for `key` and puts its `resourceVersion` into the bytes.
    pub(crate) fn from_stored(
        key: ObjectKey,
        revision: Revision,
        stored: &[u8],
        fields: SelectableFields,
    ) -> Result<Self, DecodeError> {
        let Sketch { metadata, fields } = Sketch::read(stored, fields)?;
        let metadata = metadata.ok_or(DecodeError::NoMetadata)?;
        let owners = metadata.owner_references.unwrap_or_default();
        let controller = owners.iter().find(|owner| owner.controller == Some(true));
        let labels = metadata.labels.unwrap_or_default().into_iter();
        Ok(Self {
            key,
            revision,
            json: with_resource_version(stored, revision).ok_or(DecodeError::NoMetadata)?,
            uid: metadata.uid.unwrap_or_default().into_owned(),
            generation: metadata.generation.unwrap_or(0),
            labels: labels.filter_map(|(name, value)| Some((name, value?))).collect(),
            controller_uid: controller.and_then(|owner| owner.uid.clone()),
            owner_uids: owners.into_iter().filter_map(|owner| owner.uid).collect(),
            deleting: metadata.deletion_timestamp.is_some(),
            fields,
        })
    }

    /// The last state of an object that was deleted at `revision`.
    pub(crate) fn deleted_at(&self, revision: Revision) -> Self {
        let json = with_resource_version(&self.json, revision).unwrap_or_else(|| self.json.clone());
        Self { revision, json, ..self.clone() }
    }

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
        self.object().revision
    }

    /// The newest state of the object.
    pub fn object(&self) -> &Arc<CachedObject> {
        match self {
            Self::Added(object) | Self::Deleted(object) => object,
            Self::Modified { new, .. } => new,
        }
    }
}

/// The member that is spliced in, up to its value.
const MEMBER: &[u8] = b"\"resourceVersion\":\"";

/// Puts `resourceVersion` in as the first member of `metadata`, in place of one that this
/// function put there before. Nothing when there is no `metadata` object at the top level.
///
/// Works on the bytes: re-encoding every object at every change would cost more than all the rest
/// of the cache.
pub(crate) fn with_resource_version(json: &[u8], revision: Revision) -> Option<Bytes> {
    let start = metadata_members(json)?;
    let mut rest = &json[start..];
    if let Some(after) = rest.strip_prefix(MEMBER) {
        let end = after.iter().position(|byte| *byte == b'"')?;
        rest = &after[end + 1..];
        rest = rest.strip_prefix(b",").unwrap_or(rest);
    }
    let empty = rest.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'}');
    let mut digits = [0u8; 20];
    let digits = decimal(revision, &mut digits);
    let length = start + MEMBER.len() + digits.len() + 1 + usize::from(!empty) + rest.len();
    let mut out = Vec::with_capacity(length);
    out.extend_from_slice(&json[..start]);
    out.extend_from_slice(MEMBER);
    out.extend_from_slice(digits);
    out.push(b'"');
    if !empty {
        out.push(b',');
    }
    out.extend_from_slice(rest);
    Some(Bytes::from(out))
}

fn decimal(mut number: u64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut at = buffer.len();
    loop {
        at -= 1;
        // A remainder of ten fits a digit.
        buffer[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            return &buffer[at..];
        }
    }
}

/// The offset just behind the brace that opens the top-level `metadata` object.
fn metadata_members(json: &[u8]) -> Option<usize> {
    let mut depth = 0u32;
    let mut at = 0;
    while at < json.len() {
        match json[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b'"' => {
                let end = string_end(json, at)?;
                if depth == 1 && &json[at + 1..end] == b"metadata" {
                    let colon = skip_whitespace(json, end + 1);
                    if json.get(colon) == Some(&b':') {
                        let brace = skip_whitespace(json, colon + 1);
                        return (json.get(brace) == Some(&b'{'))
                            .then(|| skip_whitespace(json, brace + 1));
                    }
                }
                at = end;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// The offset of the quote that closes the string opened at `at`.
fn string_end(json: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        match json.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn skip_whitespace(json: &[u8], mut at: usize) -> usize {
    while json.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}
