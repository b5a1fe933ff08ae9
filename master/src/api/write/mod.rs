//! Writing objects: what every create, update and delete has in common, whoever asks for it.
//!
//! A write reads the object from the cache, decides on it, and commits with a compare on the
//! revision it has read. When the compare fails, or the decision was an error that may stem from a
//! stale cache, it reads from the store and decides again. So the cache makes writes fast and never
//! makes them wrong.

mod bind;
mod charges;
mod create;
mod delete;
mod metadata;
mod record;
mod update;

pub(crate) use delete::{FOREGROUND, ORPHAN};
pub(crate) use metadata::{check_identity, generated_name, now};

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use proto::ObjectKey;

use self::charges::Charges;
use crate::api::apply::managed_fields::Manager;
use crate::api::error::ApiError;
use crate::api::kinds::{ClusterConfig, Propagation, ResourceInfo};
use crate::api::objects::Part;
use crate::api::registry::{AnyKind, AnyObject, Registry};
use crate::cache::{Caches, with_resource_version};
use crate::store::{Compare, Op, Revision, Store, Txn, TxnOutcome, keys};

/// How often a write decides anew because somebody else was faster. Each round loses only to a
/// write that succeeded, so reaching it takes a crowd on one object.
const MAX_ATTEMPTS: usize = 64;

/// The largest object that is kept; what etcd takes in one request, less room for the rest of it.
const MAX_OBJECT_BYTES: usize = 1_400_000;

/// Performs writes.
pub(crate) struct Writer {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) caches: Arc<Caches>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) cluster: ClusterConfig,
}

/// An object as a write left it.
pub(crate) struct Written {
    /// With `resourceVersion`.
    pub(crate) object: Box<dyn AnyObject>,
    /// Its bytes, with `resourceVersion`.
    pub(crate) json: Bytes,
    /// What its author is to be told.
    pub(crate) warnings: Vec<String>,
}

/// What becomes of `metadata.managedFields` in a write.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tracking<'a> {
    /// It stays as it is: the cluster's own writes, which are the many, own nothing.
    Untracked,
    /// What changes belongs to this manager from then on.
    Update(&'a Manager),
    /// The object carries its new record: a configuration was applied.
    Applied,
}

/// How to create.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CreateOptions<'a> {
    pub(crate) fence: &'a [Compare],
    /// Everything but the commit.
    pub(crate) dry_run: bool,
}

/// How to update.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UpdateOptions<'a> {
    pub(crate) part: Part,
    pub(crate) fence: &'a [Compare],
    /// Everything but the commit.
    pub(crate) dry_run: bool,
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions<'a> {
    pub(crate) preconditions: Preconditions,
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) propagation: Option<Propagation>,
    /// Everything but the commit.
    pub(crate) dry_run: bool,
    pub(crate) fence: &'a [Compare],
}

/// What has to hold of an object for a write to proceed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Preconditions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

/// How a deletion went.
pub(crate) enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Written),
    /// The object stays until its finalizers or its grace period are through.
    Pending(Written),
}

impl Writer {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        caches: Arc<Caches>,
        registry: Arc<Registry>,
        cluster: ClusterConfig,
    ) -> Self {
        Self { store, caches, registry, cluster }
    }

    /// The object as the cache has it.
    fn cached(
        &self,
        kind: &'static dyn AnyKind,
        key: &ObjectKey,
    ) -> Result<Option<Current>, ApiError> {
        let cache = self.caches.resource(kind.resource().plural);
        let Some(cached) = cache.and_then(|cache| cache.get(key)) else { return Ok(None) };
        Current::new(kind, cached.json.clone(), cached.revision).map(Some)
    }

    /// The object as the store has it.
    async fn stored(
        &self,
        kind: &'static dyn AnyKind,
        key: &ObjectKey,
    ) -> Result<Option<Current>, ApiError> {
        let stored = self.store.get(&keys::object(kind.resource().plural, key)).await?;
        let Some(stored) = stored else { return Ok(None) };
        let json = with_resource_version(&stored.value, stored.mod_revision)
            .ok_or_else(|| ApiError::internal("a stored object has no metadata"))?;
        Current::new(kind, json, stored.mod_revision).map(Some)
    }

    /// Decides on an object and commits, again and again until nobody interferes. `decide` sees the
    /// object and says what to write.
    async fn decide_and_commit<T>(
        &self,
        kind: &'static dyn AnyKind,
        key: &ObjectKey,
        fence: &[Compare],
        mut decide: impl FnMut(&Current) -> Result<Decision<T>, ApiError> + Send,
    ) -> Result<(T, Revision), ApiError> {
        let resource = kind.resource();
        let mut from_cache = self.cached(kind, key)?;
        for _ in 0..MAX_ATTEMPTS {
            let was_cached = from_cache.is_some();
            let current = match from_cache.take() {
                Some(current) => current,
                None => self
                    .stored(kind, key)
                    .await?
                    .ok_or_else(|| ApiError::not_found(resource, &key.name))?,
            };
            let decision = decide(&current);
            if was_cached && !matches!(decision, Ok(Decision { commit: Some(_), .. })) {
                // An error, or nothing to do: true only if the cache was up to date.
                match self.stored(kind, key).await? {
                    Some(stored) if stored.revision == current.revision => {}
                    _ => continue,
                }
            }
            let Decision { result, commit } = decision?;
            let Some(commit) = commit else { return Ok((result, current.revision)) };
            let object_key = keys::object(resource.plural, key);
            let mut compares = fence.to_vec();
            compares.push(Compare::ModRevision(object_key.clone(), current.revision));
            let mut ops = vec![match commit.json {
                Some(json) => Op::Put { key: object_key, value: json, lease: None },
                None => Op::Delete { key: object_key },
            }];
            commit.claims.apply(&mut compares, &mut ops);
            commit.charges.apply(&mut compares, &mut ops);
            match self.store.txn(Txn { compares, ops }).await? {
                TxnOutcome::Committed(revision) => return Ok((result, revision)),
                TxnOutcome::Conflict(index) if index < fence.len() => {
                    return Err(ApiError::fenced_off());
                }
                // A claim was lost in a race, or somebody else was counted in: the caches have to know before allocating again.
                TxnOutcome::Conflict(index) if index > fence.len() => {
                    self.caches.fresh().await?;
                }
                TxnOutcome::Conflict(_) => {}
            }
        }
        Err(ApiError::conflict(resource, &key.name, STALE))
    }
}

/// Kubernetes' words for a lost race.
const STALE: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// An object that a write starts from.
struct Current {
    /// With `resourceVersion`.
    object: Box<dyn AnyObject>,
    json: Bytes,
    revision: Revision,
}

impl Current {
    fn new(kind: &'static dyn AnyKind, json: Bytes, revision: Revision) -> Result<Self, ApiError> {
        let object = kind
            .decode_stored(&json)
            .map_err(|error| ApiError::internal(format!("a stored object is broken: {error}")))?;
        Ok(Self { object, json, revision })
    }

    fn as_written(&self) -> Written {
        Written { object: self.object.boxed_clone(), json: self.json.clone(), warnings: Vec::new() }
    }
}

/// What a write wants to do with an object.
struct Decision<T> {
    result: T,
    /// Nothing: the object is as it should be.
    commit: Option<Commit>,
}

struct Commit {
    /// The new bytes, without `resourceVersion`; nothing deletes the object.
    json: Option<Bytes>,
    claims: ClaimChanges,
    charges: Charges,
}

/// Claims to be taken and given up together with a write.
#[derive(Default)]
struct ClaimChanges {
    taken: Vec<String>,
    released: Vec<String>,
    /// What the claims say about their holder.
    holder: Bytes,
}

impl ClaimChanges {
    fn between(
        resource: &ResourceInfo,
        object: &dyn AnyObject,
        old: Vec<String>,
        new: Vec<String>,
    ) -> Self {
        let old: BTreeSet<String> = old.into_iter().collect();
        let new: BTreeSet<String> = new.into_iter().collect();
        let meta = object.meta();
        let holder = serde_json::json!({
            "resource": resource.plural,
            "namespace": meta.namespace,
            "name": meta.name,
            "uid": meta.uid,
        });
        Self {
            taken: new.difference(&old).map(|claim| keys::claim(claim)).collect(),
            released: old.difference(&new).map(|claim| keys::claim(claim)).collect(),
            holder: Bytes::from(holder.to_string()),
        }
    }

    fn apply(self, compares: &mut Vec<Compare>, ops: &mut Vec<Op>) {
        for key in self.taken {
            compares.push(Compare::Absent(key.clone()));
            ops.push(Op::Put { key, value: self.holder.clone(), lease: None });
        }
        ops.extend(self.released.into_iter().map(|key| Op::Delete { key }));
    }
}

/// The bytes that are stored: without what only readers see.
fn encode(resource: &ResourceInfo, object: &mut dyn AnyObject) -> Result<Bytes, ApiError> {
    let meta = object.meta_mut();
    meta.resource_version = None;
    meta.self_link = None;
    let json = object
        .to_json()
        .map_err(|error| ApiError::internal(format!("an object does not encode: {error}")))?;
    if json.len() > MAX_OBJECT_BYTES {
        let message = format!(
            "{} is too large: {} bytes as JSON, at most {MAX_OBJECT_BYTES} are kept",
            resource.kind,
            json.len()
        );
        return Err(ApiError::too_large(message));
    }
    Ok(Bytes::from(json))
}

/// The object as readers see it after a commit.
fn written(
    mut object: Box<dyn AnyObject>,
    json: &[u8],
    revision: Revision,
    warnings: Vec<String>,
) -> Result<Written, ApiError> {
    object.meta_mut().resource_version = Some(revision.to_string());
    let json = with_resource_version(json, revision)
        .ok_or_else(|| ApiError::internal("an object has no metadata"))?;
    Ok(Written { object, json, warnings })
}
