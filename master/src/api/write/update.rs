//! Changing objects.

use proto::ObjectKey;

use super::charges::Charges;
use super::record::{is_same, record};
use super::{
    ClaimChanges, Commit, Current, Decision, Preconditions, STALE, Tracking, UpdateOptions, Writer,
    Written, encode, metadata, written,
};
use crate::api::admission;
use crate::api::error::ApiError;
use crate::api::field_error::FieldError;
use crate::api::kinds::{Deletion, ResourceInfo};
use crate::api::objects::Part;
use crate::api::registry::{AnyKind, AnyObject};

/// What an update found out.
enum Outcome {
    /// `change` had nothing to do.
    Declined,
    /// The object is as wanted already.
    Same(Written),
    /// To be committed; the json carries no `resourceVersion` yet.
    Changed(Written),
}

impl Writer {
    /// Changes an object. `change` makes the wanted object out of the present one, or nothing when
    /// there is nothing to do; it may be called several times.
    ///
    /// A `resourceVersion` or uid in the wanted object is a precondition.
    pub(crate) async fn update<F>(
        &self,
        kind: &'static dyn AnyKind,
        key: &ObjectKey,
        options: UpdateOptions<'_>,
        change: F,
    ) -> Result<Option<Written>, ApiError>
    where
        F: FnMut(&dyn AnyObject) -> Result<Option<Box<dyn AnyObject>>, ApiError> + Send,
    {
        self.update_as(kind, key, options, Tracking::Untracked, change).await
    }

    /// The same, with a record of who owns its fields.
    pub(crate) async fn update_as<F>(
        &self,
        kind: &'static dyn AnyKind,
        key: &ObjectKey,
        options: UpdateOptions<'_>,
        tracking: Tracking<'_>,
        mut change: F,
    ) -> Result<Option<Written>, ApiError>
    where
        F: FnMut(&dyn AnyObject) -> Result<Option<Box<dyn AnyObject>>, ApiError> + Send,
    {
        let decide = |current: &Current| {
            let Some(new) = change(&*current.object)? else {
                return Ok(Decision { result: Outcome::Declined, commit: None });
            };
            let mut decision =
                self.decide_update(kind, key, (options.part, tracking), current, new)?;
            if options.dry_run {
                decision.commit = None;
            }
            Ok(decision)
        };
        let (outcome, revision) = self.decide_and_commit(kind, key, options.fence, decide).await?;
        match outcome {
            Outcome::Declined => Ok(None),
            Outcome::Same(same) => Ok(Some(same)),
            Outcome::Changed(Written { object, json, warnings }) => {
                written(object, &json, revision, warnings).map(Some)
            }
        }
    }

    fn decide_update(
        &self,
        kind: &'static dyn AnyKind,
        key: &ObjectKey,
        (part, tracking): (Part, Tracking<'_>),
        current: &Current,
        mut new: Box<dyn AnyObject>,
    ) -> Result<Decision<Outcome>, ApiError> {
        let resource = kind.resource();
        let old = &*current.object;
        let meta = new.meta();
        Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() }
            .check(resource, old)?;
        metadata::check_identity(key, new.meta())?;
        let blind = new.meta().resource_version.as_ref().is_none_or(String::is_empty);
        if blind && !kind.updates_unconditionally() && !matches!(tracking, Tracking::Untracked) {
            let detail = "must be specified for an update";
            let errors = [FieldError::invalid("metadata.resourceVersion", 0, detail)];
            return Err(ApiError::invalid(resource, &key.name, &errors));
        }
        metadata::carry_over(new.meta_mut(), old.meta());
        kind.default(&mut *new);
        let recorded = new.meta().managed_fields.clone();
        match part {
            Part::Spec => kind.prepare_update(&mut *new, old),
            Part::Status => kind.prepare_status_update(&mut *new, old),
            part @ (Part::EphemeralContainers | Part::Resize) => {
                kind.prepare_part_update(part, &mut *new, old);
            }
        }
        // A status is written with the old metadata, but with its own record.
        new.meta_mut().managed_fields = recorded;
        new.meta_mut().generation = match old.meta().generation {
            old_generation if part != Part::Status && kind.spec_changed(&*new, old) => {
                Some(old_generation.unwrap_or(0) + 1)
            }
            old_generation => old_generation,
        };
        let mut errors = metadata::validate(kind, new.meta());
        errors.extend(metadata::validate_update(new.meta(), old.meta()));
        let tracked = !matches!(tracking, Tracking::Untracked);
        match part {
            Part::Spec => {
                errors.extend(kind.validate(&*new));
                errors.extend(kind.validate_update(&*new, old));
            }
            Part::Status if tracked => errors.extend(kind.validate_status_update(&*new, old)),
            Part::Status => {}
            part @ (Part::EphemeralContainers | Part::Resize) => {
                errors.extend(kind.validate(&*new));
                errors.extend(kind.validate_part_update(part, &*new, old));
            }
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid(resource, &key.name, &errors));
        }
        if part == Part::Resize {
            admission::admit_resize(&self.caches, resource, &*new)?;
        }
        let warnings = match part {
            Part::Status => Vec::new(),
            _ => admission::secure_update(&self.caches, resource, &*new, old)?,
        };
        let old_claims = kind.claims(old);
        let claimed =
            |claim: &str| !old_claims.iter().any(|own| own == claim) && self.caches.claimed(claim);
        kind.allocate(&mut *new, Some(old), &self.cluster, &claimed)
            .map_err(|errors| ApiError::invalid(resource, &key.name, &errors))?;

        if ends_deletion(kind, &*new) {
            let claims = ClaimChanges::between(resource, old, old_claims, Vec::new());
            let json = encode(resource, &mut *new)?;
            let result = Outcome::Changed(Written { object: new, json, warnings: Vec::new() });
            return Ok(Decision {
                result,
                commit: Some(Commit { json: None, claims, charges: Charges::default() }),
            });
        }
        new.meta_mut().resource_version = old.meta().resource_version.clone();
        match tracking {
            Tracking::Untracked => {
                new.meta_mut().managed_fields.clone_from(&old.meta().managed_fields);
            }
            Tracking::Update(manager) => record(kind, Some(old), &mut *new, manager)?,
            Tracking::Applied => {}
        }
        if is_same(old, &mut *new) {
            return Ok(Decision { result: Outcome::Same(current.as_written()), commit: None });
        }
        let claims = ClaimChanges::between(resource, &*new, old_claims, kind.claims(&*new));
        let json = encode(resource, &mut *new)?;
        let charges = self.charge(resource, &*new, Some(old))?;
        let commit = Commit { json: Some(json.clone()), claims, charges };
        let result = Outcome::Changed(Written { object: new, json, warnings });
        Ok(Decision { result, commit: Some(commit) })
    }
}

/// Whether nothing holds an object any more whose deletion was asked for: the update that took the
/// last finalizer off deletes it.
fn ends_deletion(kind: &'static dyn AnyKind, new: &dyn AnyObject) -> bool {
    let meta = new.meta();
    meta.deletion_timestamp.is_some()
        && meta.finalizers.as_ref().is_none_or(Vec::is_empty)
        && meta.deletion_grace_period_seconds.unwrap_or(0) == 0
        && kind.deletion(new, Some(0)) == Deletion::Immediate
}

impl Preconditions {
    /// Whether an object is the one that the client means.
    pub(super) fn check(
        &self,
        resource: &ResourceInfo,
        object: &dyn AnyObject,
    ) -> Result<(), ApiError> {
        let meta = object.meta();
        let name = meta.name.as_deref().unwrap_or_default();
        let stated = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        if let Some(uid) = stated(&self.uid)
            && meta.uid.as_ref() != Some(&uid)
        {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                meta.uid.as_deref().unwrap_or_default()
            );
            return Err(ApiError::conflict(resource, name, why));
        }
        if let Some(version) = stated(&self.resource_version)
            && meta.resource_version.as_ref() != Some(&version)
        {
            return Err(ApiError::conflict(resource, name, STALE));
        }
        Ok(())
    }
}
