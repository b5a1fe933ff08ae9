//! Creating objects.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::ObjectKey;

use super::record::record;
use super::{
    ClaimChanges, CreateOptions, MAX_ATTEMPTS, Tracking, Writer, Written, encode, metadata, written,
};
use crate::api::admission;
use crate::api::error::ApiError;
use crate::api::registry::{AnyKind, AnyObject};
use crate::cache::CachedObject;
use crate::store::{Compare, Op, Txn, TxnOutcome, keys};

/// How many generated names may be taken already. At a billion names per prefix even two are rare.
const MAX_NAMES: usize = 8;

impl Writer {
    /// Creates an object in the namespace of its metadata; gives it a name if it asks for one.
    pub(crate) async fn create(
        &self,
        kind: &'static dyn AnyKind,
        object: Box<dyn AnyObject>,
        options: CreateOptions<'_>,
    ) -> Result<Written, ApiError> {
        self.create_as(kind, object, options, Tracking::Untracked).await
    }

    /// The same, with a record of who owns its fields.
    pub(crate) async fn create_as(
        &self,
        kind: &'static dyn AnyKind,
        mut object: Box<dyn AnyObject>,
        options: CreateOptions<'_>,
        tracking: Tracking<'_>,
    ) -> Result<Written, ApiError> {
        let resource = kind.resource();
        kind.default(&mut *object);
        metadata::prepare_create(resource, object.meta_mut())?;
        match tracking {
            Tracking::Untracked => object.meta_mut().managed_fields = None,
            Tracking::Update(manager) => record(kind, None, &mut *object, manager)?,
            Tracking::Applied => {}
        }
        // What is added here belongs to nobody, as in Kubernetes.
        admission::admit(&self.caches, resource, &mut *object).await?;
        kind.prepare_create(&mut *object);
        if !metadata::wants_name(object.meta()) {
            return self.create_named(kind, object, options).await;
        }
        for _ in 0..MAX_NAMES {
            let mut named = object.boxed_clone();
            metadata::generate_name(named.meta_mut());
            // Some defaults go by the name.
            kind.default(&mut *named);
            match self.create_named(kind, named, options).await {
                Err(error) if error.is_already_exists() => {}
                result => return result,
            }
        }
        let name = object.meta().generate_name.clone().unwrap_or_default();
        Err(ApiError::already_exists(resource, &name))
    }

    async fn create_named(
        &self,
        kind: &'static dyn AnyKind,
        mut object: Box<dyn AnyObject>,
        options: CreateOptions<'_>,
    ) -> Result<Written, ApiError> {
        let resource = kind.resource();
        let key = metadata::key(object.meta());
        let mut errors = metadata::validate(kind, object.meta());
        errors.extend(kind.validate(&*object));
        errors.extend(kind.validate_create(&*object));
        if !errors.is_empty() {
            return Err(ApiError::invalid(resource, &key.name, &errors));
        }
        let object_key = keys::object(resource.plural, &key);
        // Claims that were lost in a race, should the cache not know of them yet.
        let mut lost = BTreeSet::new();
        // What to start from again, should what was chosen for it be lost.
        let unallocated = kind.allocates().then(|| object.boxed_clone());
        for attempt in 0..MAX_ATTEMPTS {
            if let (Some(unallocated), 1..) = (&unallocated, attempt) {
                object = unallocated.boxed_clone();
            }
            let claimed =
                |claim: &str| lost.contains(&keys::claim(claim)) || self.caches.claimed(claim);
            if let Err(errors) = kind.allocate(&mut *object, None, &self.cluster, &claimed) {
                if attempt > 0 {
                    return Err(ApiError::invalid(resource, &key.name, &errors));
                }
                // The cache may not know yet of a claim that somebody gave up.
                self.caches.fresh().await?;
                continue;
            }
            let claims =
                ClaimChanges::between(resource, &*object, Vec::new(), kind.claims(&*object));
            debug_assert!(kind.allocates() || claims.taken.is_empty(), "{}", resource.kind);
            let taken = claims.taken.clone();
            let json = encode(resource, &mut *object)?;
            let mut compares = options.fence.to_vec();
            let mut warnings = Vec::new();
            if resource.namespaced {
                // By the compare, what is decided here holds when it is written.
                let namespace = self.namespace_of(kind, &key).await?;
                let stored_at = keys::object("namespaces", &namespace.key);
                compares.push(Compare::ModRevision(stored_at, namespace.revision));
                warnings = admission::secure(resource, &namespace.labels, &*object, None)?;
            }
            let charges = self.charge_new(resource, &*object).await?;
            let object_index = compares.len();
            compares.push(Compare::Absent(object_key.clone()));
            if options.dry_run {
                let exists = self.store.get(&object_key).await?.is_some();
                if exists {
                    return Err(ApiError::already_exists(resource, &key.name));
                }
                return Ok(Written { object, json, warnings });
            }
            let mut ops =
                vec![Op::Put { key: object_key.clone(), value: json.clone(), lease: None }];
            claims.apply(&mut compares, &mut ops);
            charges.apply(&mut compares, &mut ops);
            match self.store.txn(Txn { compares, ops }).await? {
                TxnOutcome::Committed(revision) => {
                    return written(object, &json, revision, warnings);
                }
                TxnOutcome::Conflict(index) if index < options.fence.len() => {
                    return Err(ApiError::fenced_off());
                }
                TxnOutcome::Conflict(index) if index == object_index => {
                    return Err(ApiError::already_exists(resource, &key.name));
                }
                TxnOutcome::Conflict(index) => {
                    if let Some(claim) = index.checked_sub(object_index + 1) {
                        lost.extend(taken.into_iter().nth(claim));
                    }
                    // The namespace changed, a claim was lost, or somebody else was counted in.
                    self.caches.fresh().await?;
                }
            }
        }
        Err(ApiError::unavailable(format!(
            "{} {key} could not be created: others took the same claims all the time",
            resource.kind
        )))
    }

    /// The namespace of a new object, which is there and takes new objects. A compare on its revision
    /// makes the create decide anew should it be deleted or changed in between.
    async fn namespace_of(
        &self,
        kind: &'static dyn AnyKind,
        key: &ObjectKey,
    ) -> Result<Arc<CachedObject>, ApiError> {
        let namespaces = self
            .registry
            .stored_as("namespaces")
            .ok_or_else(|| ApiError::internal("namespaces are not served"))?;
        let cache = self
            .caches
            .resource("namespaces")
            .ok_or_else(|| ApiError::internal("namespaces are not cached"))?;
        let namespace = ObjectKey::new("", &key.namespace);
        let mut found = cache.get(&namespace);
        if found.is_none() {
            self.caches.fresh().await?;
            found = cache.get(&namespace);
        }
        let found =
            found.ok_or_else(|| ApiError::not_found(namespaces.resource(), &namespace.name))?;
        if found.deleting {
            let name = &namespace.name;
            let why = format!(
                "unable to create new content in namespace {name} because it is being terminated"
            );
            return Err(ApiError::forbidden(kind.resource(), &key.name, why).with_cause(
                "NamespaceTerminating",
                format!("namespace {name} is being terminated"),
                "metadata.namespace",
            ));
        }
        Ok(found)
    }
}
