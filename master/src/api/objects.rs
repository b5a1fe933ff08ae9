//! Typed writes from within the process: controllers, the scheduler and node sessions change
//! objects here, through the same defaults, validation and claims as REST clients.

use std::sync::Arc;

use proto::ObjectKey;

use crate::api::error::ApiError;
use crate::api::kinds::{ClusterConfig, Kind, Propagation};
use crate::api::registry::{AnyKind, AnyObject, Registry};
use crate::api::write::{self, Preconditions, Writer};
use crate::cache::Caches;
use crate::store::{Compare, Store};

/// The in-process client. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    writer: Arc<Writer>,
}

/// Which part of an object an update is about, as REST tells by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status; metadata too, finalizers and owner references included.
    Spec,
    /// The status only.
    Status,
    /// The ephemeral containers of a pod only.
    EphemeralContainers,
    /// What the containers of a pod ask for and may use only.
    Resize,
}

impl Part {
    /// The subresource that REST clients write it through.
    pub(crate) fn subresource(self) -> &'static str {
        match self {
            Self::Spec => "",
            Self::Status => "status",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Resize => "resize",
        }
    }
}

/// How to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Only the object with this uid.
    pub uid: Option<String>,
    /// Seconds; nothing leaves it to the kind, 0 deletes at once.
    pub grace_period_seconds: Option<i64>,
    /// Nothing leaves it to the kind.
    pub propagation: Option<Propagation>,
}

/// A pod and the node it shall run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The pod's key.
    pub pod: ObjectKey,
    /// Only the pod with this uid.
    pub uid: String,
    /// The node's name.
    pub node: String,
}

impl Objects {
    /// A client that writes to `store` and reads from `caches`, which follow the same store.
    pub fn new(
        store: Arc<dyn Store>,
        caches: Arc<Caches>,
        registry: Arc<Registry>,
        cluster: ClusterConfig,
    ) -> Self {
        Self { writer: Arc::new(Writer::new(store, caches, registry, cluster)) }
    }

    /// The caches, to read from.
    pub fn caches(&self) -> &Arc<Caches> {
        &self.writer.caches
    }

    /// The kinds.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.writer.registry
    }

    /// The writer behind, for REST.
    pub(crate) fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Creates an object in the namespace of its metadata.
    ///
    /// # Errors
    /// Whatever a REST client would be told; [`ApiError::is_fenced_off`] when the fence does not hold.
    pub async fn create<K: Kind>(
        &self,
        object: K::Object,
        fence: &[Compare],
    ) -> Result<K::Object, ApiError> {
        let kind = self.kind::<K>()?;
        let options = write::CreateOptions { fence, ..write::CreateOptions::default() };
        let written = self.writer.create(kind, Box::new(object), options).await?;
        unboxed::<K>(written.object)
    }

    /// Changes an object; rereads and retries when it changed meanwhile. `change` tells whether
    /// there is anything to do; if not, nothing is written and nothing returned.
    ///
    /// # Errors
    /// As [`create`](Self::create); not found when there is no such object.
    pub async fn update<K: Kind>(
        &self,
        key: &ObjectKey,
        part: Part,
        fence: &[Compare],
        mut change: impl FnMut(&mut K::Object) -> bool + Send,
    ) -> Result<Option<K::Object>, ApiError> {
        let kind = self.kind::<K>()?;
        let options = write::UpdateOptions { part, fence, dry_run: false };
        let apply = |current: &dyn AnyObject| {
            let mut new = current.boxed_clone();
            // What the client read is what it changes: no precondition travels with it.
            let object = new.as_any_mut().downcast_mut::<K::Object>().ok_or_else(mismatch)?;
            Ok(change(object).then_some(new))
        };
        let written = self.writer.update(kind, key, options, apply).await?;
        written.map(|written| unboxed::<K>(written.object)).transpose()
    }

    /// Deletes an object, or starts its graceful deletion.
    ///
    /// # Errors
    /// As [`create`](Self::create); not found when there is no such object, conflict when the uid
    /// is another.
    pub async fn delete<K: Kind>(
        &self,
        key: &ObjectKey,
        options: DeleteOptions,
        fence: &[Compare],
    ) -> Result<(), ApiError> {
        let kind = self.kind::<K>()?;
        self.delete_any(kind, key, options, fence).await
    }

    /// [`delete`](Self::delete) for callers that know the kind only at run time: the namespace
    /// controller and the garbage collector.
    ///
    /// # Errors
    /// As [`delete`](Self::delete).
    pub async fn delete_any(
        &self,
        kind: &'static dyn AnyKind,
        key: &ObjectKey,
        options: DeleteOptions,
        fence: &[Compare],
    ) -> Result<(), ApiError> {
        let options = write::DeleteOptions {
            preconditions: Preconditions { uid: options.uid, resource_version: None },
            grace_period_seconds: options.grace_period_seconds,
            propagation: options.propagation,
            dry_run: false,
            fence,
        };
        self.writer.delete(kind, key, options).await?;
        Ok(())
    }

    /// Changes the metadata of an object whose kind is known only at run time: finalizers, owner
    /// references. As [`update`](Self::update) otherwise.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub async fn update_any(
        &self,
        kind: &'static dyn AnyKind,
        key: &ObjectKey,
        fence: &[Compare],
        mut change: impl FnMut(&mut dyn AnyObject) -> bool + Send,
    ) -> Result<bool, ApiError> {
        let options = write::UpdateOptions { part: Part::Spec, fence, dry_run: false };
        let apply = |current: &dyn AnyObject| {
            let mut new = current.boxed_clone();
            Ok(change(&mut *new).then_some(new))
        };
        Ok(self.writer.update(kind, key, options, apply).await?.is_some())
    }

    /// Binds pods to nodes, each in a transaction of its own, all at once. One result per binding, in
    /// order; a pod that cannot be bound does not hold up the others.
    pub async fn bind(
        &self,
        bindings: Vec<Binding>,
        fence: &[Compare],
    ) -> Vec<Result<(), ApiError>> {
        self.writer.bind(bindings, fence).await
    }

    fn kind<K: Kind>(&self) -> Result<&'static dyn AnyKind, ApiError> {
        let found = self.writer.registry.stored_as(K::RESOURCE.plural);
        found.ok_or_else(|| ApiError::internal(format!("{} is not served", K::RESOURCE.plural)))
    }
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").field("registry", &self.writer.registry).finish_non_exhaustive()
    }
}

fn unboxed<K: Kind>(object: Box<dyn AnyObject>) -> Result<K::Object, ApiError> {
    object.into_any().downcast::<K::Object>().map(|object| *object).map_err(|_| mismatch())
}

fn mismatch() -> ApiError {
    ApiError::internal("an object is not of the kind it was written as")
}
