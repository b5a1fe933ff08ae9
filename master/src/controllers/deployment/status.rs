//! What the status of a Deployment says: how many pods of what kind, and how the rollout goes. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::k8s as k8s_openapi;

use super::reconcile::View;
use super::sets;

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";

const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// A status in the making.
pub(super) struct Report<'a> {
    deployment: &'a Deployment,
    status: DeploymentStatus,
    /// The set that messages are about.
    subject: String,
    now: Timestamp,
}

impl<'a> Report<'a> {
    pub(super) fn new(view: &View<'a>, now: Timestamp) -> Self {
        let subject = match view.new {
            Some(set) => format!("ReplicaSet {:?}", sets::name(set)),
            None => format!(
                "Deployment {:?}",
                view.deployment.metadata.name.as_deref().unwrap_or_default()
            ),
        };
        Self { deployment: view.deployment, status: counts(view), subject, now }
    }

    /// Says when the Deployment was paused or goes on.
    pub(super) fn paused(&mut self) {
        let reason = self.reason();
        if !self.has_deadline() || reason.as_deref() == Some(TIMED_OUT) {
            return;
        }
        let paused = self.deployment.spec.paused == Some(true);
        match (paused, reason.as_deref() == Some(PAUSED)) {
            (true, false) => self.set(PROGRESSING, "Unknown", PAUSED, "Deployment is paused"),
            (false, true) => {
                let message = "Deployment is resumed";
                self.set(PROGRESSING, "Unknown", "DeploymentResumed", message);
            }
            _ => {}
        }
    }

    /// The template is one that a set is of.
    pub(super) fn found(&mut self) {
        if self.has_deadline() && self.condition(PROGRESSING).is_none() {
            let message = format!("Found new {}", lower(&self.subject));
            self.set(PROGRESSING, "True", "FoundNewReplicaSet", &message);
        }
    }

    /// A set was made for a new template.
    pub(super) fn made(&mut self, name: &str) {
        self.subject = format!("ReplicaSet {name:?}");
        if self.has_deadline() {
            let message = format!("Created new replica set {name:?}");
            // A rollout begins, and with it its deadline.
            self.remove(PROGRESSING);
            self.set(PROGRESSING, "True", "NewReplicaSetCreated", &message);
        }
    }

    /// Says how far the rollout has come.
    pub(super) fn progress(&mut self, view: &View<'_>) {
        if !self.has_deadline() {
            self.remove(PROGRESSING);
            return;
        }
        let before = self.deployment.status.clone().unwrap_or_default();
        let new = &self.status;
        let of = |count: Option<i32>| count.unwrap_or(0);
        let was_complete = of(new.replicas) == of(new.updated_replicas)
            && self.reason().as_deref() == Some(NEW_SET_AVAILABLE);
        if was_complete {
            return;
        }
        let left = |status: &DeploymentStatus| of(status.replicas) - of(status.updated_replicas);
        let progressing = of(new.updated_replicas) > of(before.updated_replicas)
            || left(new) < left(&before)
            || of(new.ready_replicas) > of(before.ready_replicas)
            || of(new.available_replicas) > of(before.available_replicas);
        let subject = self.subject.clone();
        if view.new.is_some() && self.is_complete() {
            let message = format!("{subject} has successfully progressed.");
            self.set(PROGRESSING, "True", NEW_SET_AVAILABLE, &message);
        } else if progressing {
            let message = format!("{subject} is progressing.");
            let since = self.condition(PROGRESSING).filter(|c| c.status.as_deref() == Some("True"));
            let since = since.and_then(|condition| condition.last_transition_time.clone());
            self.remove(PROGRESSING);
            self.set(PROGRESSING, "True", "ReplicaSetUpdated", &message);
            if let (Some(since), Some(condition)) = (since, self.condition_mut(PROGRESSING)) {
                condition.last_transition_time = Some(since);
            }
        } else if self.deadline().is_some_and(|deadline| deadline <= self.now) {
            let message = format!("{subject} has timed out progressing.");
            self.set(PROGRESSING, "False", TIMED_OUT, &message);
        }
    }

    /// Whether all pods are of the present template and available, and none are left of others.
    pub(super) fn is_complete(&self) -> bool {
        let wanted = Some(self.deployment.spec.replicas.unwrap_or(1));
        let of = |count: Option<i32>| Some(count.unwrap_or(0));
        of(self.status.updated_replicas) == wanted
            && of(self.status.replicas) == wanted
            && of(self.status.available_replicas) == wanted
    }

    /// When the rollout will have taken too long.
    pub(super) fn changes_at(&self) -> Option<Timestamp> {
        let waits = self.has_deadline() && self.deployment.spec.paused != Some(true);
        self.deadline().filter(|at| waits && *at > self.now)
    }

    /// The status.
    pub(super) fn finish(mut self, view: &View<'_>) -> DeploymentStatus {
        let available = self.status.available_replicas.unwrap_or(0);
        if available >= view.bounds.min_available() {
            let message = "Deployment has minimum availability.";
            self.set(AVAILABLE, "True", "MinimumReplicasAvailable", message);
        } else {
            let message = "Deployment does not have minimum availability.";
            self.set(AVAILABLE, "False", "MinimumReplicasUnavailable", message);
        }
        match view.all().find_map(failure) {
            Some(failure) => {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                let (status, reason) = (text(&failure.status), text(&failure.reason));
                self.set(REPLICA_FAILURE, &status, &reason, &text(&failure.message));
            }
            None => self.remove(REPLICA_FAILURE),
        }
        self.status
    }

    fn has_deadline(&self) -> bool {
        self.deployment.spec.progress_deadline_seconds.is_some_and(|seconds| seconds != i32::MAX)
    }

    /// When the last progress will be too long ago; nothing when all is said about the rollout.
    fn deadline(&self) -> Option<Timestamp> {
        let seconds = self.deployment.spec.progress_deadline_seconds?;
        let condition = self.condition(PROGRESSING)?;
        if matches!(condition.reason.as_deref(), Some(NEW_SET_AVAILABLE | TIMED_OUT)) {
            return None;
        }
        let since = condition.last_update_time.as_ref()?.0;
        since.checked_add(SignedDuration::from_secs(seconds.into())).ok()
    }

    fn reason(&self) -> Option<String> {
        self.condition(PROGRESSING).and_then(|condition| condition.reason.clone())
    }

    fn condition(&self, type_: &str) -> Option<&DeploymentCondition> {
        let mut conditions = self.status.conditions.iter().flatten();
        conditions.find(|condition| condition.type_.as_deref() == Some(type_))
    }

    fn condition_mut(&mut self, type_: &str) -> Option<&mut DeploymentCondition> {
        let mut conditions = self.status.conditions.iter_mut().flatten();
        conditions.find(|condition| condition.type_.as_deref() == Some(type_))
    }

    fn remove(&mut self, type_: &str) {
        let conditions = self.status.conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_.as_deref() != Some(type_));
    }

    /// Sets a condition; one that says so already stays as it is, with its times.
    fn set(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        set_condition(&mut self.status, type_, status, reason, message, self.now);
    }
}

/// What the status says when the set of the new template could not be made.
pub(crate) fn creation_failed(
    status: &mut DeploymentStatus,
    set: &str,
    message: &str,
    now: Timestamp,
) {
    let message = format!("Failed to create new replica set {set:?}: {message}");
    set_condition(status, PROGRESSING, "False", "ReplicaSetCreateError", &message, now);
}

fn set_condition(
    status: &mut DeploymentStatus,
    type_: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let is = |text: &Option<String>, value: &str| text.as_deref() == Some(value);
    let before = conditions.iter().position(|condition| is(&condition.type_, type_));
    let mut since = Time(now);
    if let Some(index) = before {
        let before = &conditions[index];
        if is(&before.status, value) {
            if is(&before.reason, reason) {
                return;
            }
            since = before.last_transition_time.clone().unwrap_or(since);
        }
        conditions.remove(index);
    }
    conditions.push(DeploymentCondition {
        type_: Some(type_.to_owned()),
        status: Some(value.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since),
        last_update_time: Some(Time(now)),
    });
}

fn lower(subject: &str) -> String {
    subject.replacen("ReplicaSet", "replica set", 1)
}

fn failure(set: &ReplicaSet) -> Option<&ReplicaSetCondition> {
    let mut conditions = set.status.as_ref()?.conditions.iter().flatten();
    conditions.find(|condition| condition.type_.as_deref() == Some(REPLICA_FAILURE))
}

fn counts(view: &View<'_>) -> DeploymentStatus {
    let before = view.deployment.status.clone().unwrap_or_default();
    let sum = |count: &dyn Fn(&ReplicaSet) -> i32| view.all().map(count).sum::<i32>();
    let status = |set: &ReplicaSet| set.status.clone().unwrap_or_default();
    let some = |count: i32| (count > 0).then_some(count);
    let available = sum(&|set| status(set).available_replicas.unwrap_or(0));
    DeploymentStatus {
        observed_generation: view.deployment.metadata.generation,
        replicas: some(sum(&|set| status(set).replicas)),
        updated_replicas: some(view.new.map_or(0, |set| status(set).replicas)),
        ready_replicas: some(sum(&|set| status(set).ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some(sum(&sets::replicas) - available),
        terminating_replicas: None,
        collision_count: before.collision_count,
        conditions: before.conditions,
    }
}
