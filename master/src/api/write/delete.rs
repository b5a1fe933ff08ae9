//! Deleting objects: at once, after a grace period, or once finalizers let go.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use proto::ObjectKey;
use proto::k8s as k8s_openapi;

use super::charges::Charges;
use super::{
    ClaimChanges, Commit, Current, Decision, DeleteOptions, Deleted, Writer, Written, encode,
    metadata, written,
};
use crate::api::error::ApiError;
use crate::api::kinds::{Deletion, Propagation};
use crate::api::registry::AnyKind;

/// The finalizer that holds an object until its dependents are gone.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";

/// The finalizer that holds an object until its dependents have let go of it.
pub(crate) const ORPHAN: &str = "orphan";

enum Outcome {
    Gone(Written),
    /// Marked by this request; the json carries no `resourceVersion` yet.
    Marked(Written),
    /// Marked before.
    Pending(Written),
}

impl Writer {
    /// Deletes an object, or starts its deletion.
    pub(crate) async fn delete(
        &self,
        kind: &'static dyn AnyKind,
        key: &ObjectKey,
        options: DeleteOptions<'_>,
    ) -> Result<Deleted, ApiError> {
        let decide = |current: &Current| {
            let mut decision = decide_delete(kind, current, &options)?;
            if options.dry_run {
                decision.commit = None;
            }
            Ok(decision)
        };
        let (outcome, revision) = self.decide_and_commit(kind, key, options.fence, decide).await?;
        Ok(match outcome {
            Outcome::Gone(last) => {
                Deleted::Gone(written(last.object, &last.json, revision, Vec::new())?)
            }
            Outcome::Marked(marked) => {
                Deleted::Pending(written(marked.object, &marked.json, revision, Vec::new())?)
            }
            Outcome::Pending(pending) => Deleted::Pending(pending),
        })
    }
}

fn decide_delete(
    kind: &'static dyn AnyKind,
    current: &Current,
    options: &DeleteOptions<'_>,
) -> Result<Decision<Outcome>, ApiError> {
    let resource = kind.resource();
    let old = &*current.object;
    let name = old.meta().name.clone().unwrap_or_default();
    options.preconditions.check(resource, old)?;
    if let Some(why) = kind.undeletable(old) {
        return Err(ApiError::forbidden(resource, &name, why));
    }
    let deletion = kind.deletion(old, options.grace_period_seconds);
    let mut new = old.boxed_clone();
    set_propagation_finalizers(kind, new.meta_mut(), options.propagation);
    let held = new.meta().finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
    if deletion == Deletion::Immediate && !held {
        let claims = ClaimChanges::between(resource, old, kind.claims(old), Vec::new());
        let json = encode(resource, &mut *new)?;
        let result = Outcome::Gone(Written { object: new, json, warnings: Vec::new() });
        return Ok(Decision {
            result,
            commit: Some(Commit { json: None, claims, charges: Charges::default() }),
        });
    }
    let grace = match deletion {
        Deletion::Immediate => 0,
        Deletion::Graceful { grace_period_seconds } => grace_period_seconds.max(0),
    };
    let first = old.meta().deletion_timestamp.is_none();
    let explicit = options.grace_period_seconds.is_some() || deletion == Deletion::Immediate;
    mark(new.meta_mut(), grace, explicit);
    if first {
        kind.prepare_deletion(&mut *new);
    }
    if new.equals(old) {
        return Ok(Decision { result: Outcome::Pending(current.as_written()), commit: None });
    }
    let json = encode(resource, &mut *new)?;
    let commit = Commit {
        json: Some(json.clone()),
        claims: ClaimChanges::default(),
        charges: Charges::default(),
    };
    let result = Outcome::Marked(Written { object: new, json, warnings: Vec::new() });
    Ok(Decision { result, commit: Some(commit) })
}

/// Sets the deletion timestamp, or brings it nearer: a grace period can only be shortened, and only
/// by a request that names one.
fn mark(meta: &mut ObjectMeta, grace: i64, explicit: bool) {
    let seconds = |seconds: i64| jiff::SignedDuration::from_secs(seconds);
    match &meta.deletion_timestamp {
        None => {
            // Far more than anybody waits, and far from the end of time.
            let grace = grace.min(100 * 365 * 24 * 3600);
            let now = metadata::now();
            meta.deletion_timestamp = Some(Time(now.saturating_add(seconds(grace)).unwrap_or(now)));
            meta.deletion_grace_period_seconds = Some(grace);
            meta.generation = meta.generation.map(|generation| generation + 1);
        }
        Some(Time(at)) => {
            let before = meta.deletion_grace_period_seconds.unwrap_or(0);
            if explicit && grace < before {
                let sooner = at.saturating_sub(seconds(before - grace)).unwrap_or(*at);
                meta.deletion_timestamp = Some(Time(sooner));
                meta.deletion_grace_period_seconds = Some(grace);
            }
        }
    }
}

/// The two finalizers of the garbage collector, as the request or the kind wants them.
fn set_propagation_finalizers(
    kind: &'static dyn AnyKind,
    meta: &mut ObjectMeta,
    requested: Option<Propagation>,
) {
    let mut finalizers = meta.finalizers.take().unwrap_or_default();
    let propagation = requested.unwrap_or_else(|| {
        // Finalizers that are there already tell what was wanted before.
        if finalizers.iter().any(|finalizer| finalizer == ORPHAN) {
            Propagation::Orphan
        } else if finalizers.iter().any(|finalizer| finalizer == FOREGROUND) {
            Propagation::Foreground
        } else {
            kind.default_propagation()
        }
    });
    let wanted = match propagation {
        Propagation::Background => None,
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Orphan => Some(ORPHAN),
    };
    finalizers.retain(|finalizer| {
        let ours = finalizer == ORPHAN || finalizer == FOREGROUND;
        !ours || Some(finalizer.as_str()) == wanted
    });
    if let Some(wanted) = wanted
        && !finalizers.iter().any(|finalizer| finalizer == wanted)
    {
        finalizers.push(wanted.to_owned());
    }
    meta.finalizers = (!finalizers.is_empty()).then_some(finalizers);
}
