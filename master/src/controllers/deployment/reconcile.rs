//! What has to be done so that the pods of a Deployment come to be of its template. Pure.
//!
//! One pass takes one step: the new ReplicaSet grows as far as the surge allows, or the old ones
//! shrink as far as what is available allows; what that leads to is seen by a later pass.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use proto::k8s as k8s_openapi;
use proto::selector::Selector;

use super::sets::{self, Bounds};
use super::{scale, status};

/// What is there.
pub(crate) struct Observed<'a> {
    /// ReplicaSets that the selector selects, and those that name this Deployment as controller.
    pub(crate) sets: &'a [ReplicaSet],
    /// Uids of the sets that have pods which have not ended; told where it matters, to `Recreate`.
    pub(crate) running: &'a BTreeSet<String>,
    /// An input, so that tests choose the time.
    pub(crate) now: Timestamp,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Becomes the controller of a set that has none.
    Adopt { set: String, uid: String },
    /// Gives up a set that the selector no longer selects.
    Release { set: String, uid: String },
    /// Makes the set of a new template.
    Create(Box<ReplicaSet>),
    /// Changes a set.
    Change { set: String, uid: String, change: Change },
    /// Forgets a revision.
    Delete { set: String, uid: String },
}

/// What changes in a set; the rest stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Change {
    /// From how many replicas to how many. A set that has another number by now is looked at again.
    pub(crate) replicas: Option<(i32, i32)>,
    pub(crate) min_ready_seconds: Option<Option<i32>>,
    /// Annotations to set.
    pub(crate) annotations: BTreeMap<String, String>,
}

/// What to do, and what to say about it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    /// As it will be when all actions were performed.
    pub(crate) status: DeploymentStatus,
    /// The number of the present rollout, for the Deployment's annotation.
    pub(crate) revision: Option<String>,
    /// When time alone makes something to say.
    pub(crate) changes_at: Option<Timestamp>,
}

/// A Deployment with its sets sorted.
pub(super) struct View<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) bounds: Bounds,
    /// The set of the present template.
    pub(super) new: Option<&'a ReplicaSet>,
    /// All others, the oldest first.
    pub(super) old: Vec<&'a ReplicaSet>,
    changes: BTreeMap<&'a str, (&'a ReplicaSet, Change)>,
}

impl<'a> View<'a> {
    fn new(deployment: &'a Deployment, mut owned: Vec<&'a ReplicaSet>) -> Self {
        owned.sort_by_key(|set| sets::age(set));
        let template = &deployment.spec.template;
        // Should there be several, the oldest is it, as always.
        let new = owned.iter().position(|set| sets::is_of_template(set, template));
        let new = new.map(|index| owned.remove(index));
        let bounds = Bounds::of(deployment);
        Self { deployment, bounds, new, old: owned, changes: BTreeMap::new() }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &'a ReplicaSet> {
        self.new.into_iter().chain(self.old.iter().copied())
    }

    /// Sets that are to have pods.
    pub(super) fn active(&self) -> impl Iterator<Item = &'a ReplicaSet> {
        self.all().filter(|set| sets::replicas(set) > 0)
    }

    /// The size of a set, changes of this pass included.
    pub(super) fn size(&self, set: &ReplicaSet) -> i32 {
        let change = self.changes.get(sets::name(set));
        let size = change.and_then(|(_, change)| change.replicas).map(|(_, to)| to);
        size.unwrap_or_else(|| sets::replicas(set))
    }

    fn change(&mut self, set: &'a ReplicaSet) -> &mut Change {
        &mut self.changes.entry(sets::name(set)).or_insert((set, Change::default())).1
    }

    /// Gives a set another size, and notes in it how large the whole was then. Tells whether the
    /// size is another.
    pub(super) fn resize(&mut self, set: &'a ReplicaSet, size: i32) -> bool {
        for (key, value) in sets::sizes(self.bounds) {
            if sets::annotation(&set.metadata, &key) != Some(&value) {
                self.change(set).annotations.insert(key, value);
            }
        }
        let from = sets::replicas(set);
        if from != size {
            self.change(set).replicas = Some((from, size));
        }
        from != size
    }

    fn into_actions(self) -> impl Iterator<Item = Action> {
        self.changes.into_values().filter(|(_, change)| *change != Change::default()).map(
            |(set, change)| Action::Change {
                set: sets::name(set).to_owned(),
                uid: sets::uid(set).to_owned(),
                change,
            },
        )
    }
}

/// What has to be done, in this order, and what the status has to say.
pub(crate) fn reconcile(deployment: &Deployment, observed: &Observed<'_>) -> Plan {
    let mut plan = Plan::default();
    let owned = claim(deployment, observed, &mut plan.actions);
    let mut view = View::new(deployment, owned);
    let mut report = status::Report::new(&view, observed.now);
    if deployment.metadata.deletion_timestamp.is_some() {
        plan.actions.clear();
        plan.status = report.finish(&view);
        return plan;
    }
    report.paused();
    plan.revision = number(&mut view);
    if view.new.is_some() {
        report.found();
    }
    let paused = deployment.spec.paused == Some(true);
    if paused || scale::is_due(&view) {
        scale::scale(&mut view);
        if paused {
            clean_up(&view, &mut plan.actions);
        }
    } else {
        let made = if sets::recreates(deployment) {
            recreated(&mut view, observed.running)
        } else {
            rolled(&mut view)
        };
        if let Some(made) = made {
            let revision = next_revision(&view);
            let set = sets::for_template(deployment, made, revision);
            plan.revision = Some(revision.to_string());
            report.made(sets::name(&set));
            plan.actions.push(Action::Create(Box::new(set)));
        }
        report.progress(&view);
        if report.is_complete() {
            clean_up(&view, &mut plan.actions);
        }
    }
    plan.changes_at = report.changes_at();
    plan.status = report.finish(&view);
    let current = sets::annotation(&deployment.metadata, sets::REVISION);
    plan.revision = plan.revision.filter(|revision| current != Some(revision));
    plan.actions.extend(view.into_actions());
    plan
}

/// The sets that belong to the Deployment, and what has to be done for that.
fn claim<'a>(
    deployment: &Deployment,
    observed: &Observed<'a>,
    actions: &mut Vec<Action>,
) -> Vec<&'a ReplicaSet> {
    let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
    // The API lets no broken selector in; one that is selects nothing.
    let selector = Selector::from_label_selector(&deployment.spec.selector).unwrap_or_default();
    let mut owned = Vec::new();
    for set in observed.sets {
        let labels = set.metadata.labels.clone().unwrap_or_default();
        let selected = !selector.is_everything() && selector.matches(&labels);
        let deleting = set.metadata.deletion_timestamp.is_some();
        let mut owners = set.metadata.owner_references.iter().flatten();
        let controller = owners.find(|owner| owner.controller == Some(true));
        let named = || (sets::name(set).to_owned(), sets::uid(set).to_owned());
        match controller {
            Some(controller) if controller.uid == uid && selected => owned.push(set),
            Some(controller) if controller.uid == uid && !deleting => {
                let (set, uid) = named();
                actions.push(Action::Release { set, uid });
            }
            None if selected && !deleting => {
                let (name, uid) = named();
                actions.push(Action::Adopt { set: name, uid });
                owned.push(set);
            }
            _ => {}
        }
    }
    owned
}

fn next_revision(view: &View<'_>) -> i64 {
    let newest = view.old.iter().map(|set| sets::revision(set)).max().unwrap_or(0);
    // Anybody may write any number there.
    newest.saturating_add(1)
}

/// Gives the new set, if there is one, the newest number and the Deployment's annotations.
fn number(view: &mut View<'_>) -> Option<String> {
    let set = view.new?;
    let mut annotations = sets::inherited(view.deployment);
    let (before, next) = (sets::revision(set), next_revision(view));
    let revision = before.max(next);
    if before < next {
        annotations.insert(sets::REVISION.to_owned(), next.to_string());
        if before > 0 {
            let history = sets::annotation(&set.metadata, sets::REVISION_HISTORY);
            let history = history.filter(|history| !history.is_empty());
            let history = match history {
                Some(history) => format!("{history},{before}"),
                None => before.to_string(),
            };
            annotations.insert(sets::REVISION_HISTORY.to_owned(), history);
        }
    }
    annotations.retain(|key, value| sets::annotation(&set.metadata, key) != Some(value));
    let min_ready_seconds = view.deployment.spec.min_ready_seconds;
    let waits = |seconds: Option<i32>| seconds.unwrap_or(0);
    let change = view.change(set);
    change.annotations.extend(annotations);
    if waits(set.spec.min_ready_seconds) != waits(min_ready_seconds) {
        change.min_ready_seconds = Some(min_ready_seconds);
    }
    Some(revision.to_string())
}

/// How large the new set may be now.
fn allowed(view: &View<'_>, size: i32) -> i32 {
    let bounds = view.bounds;
    let total: i32 = view.all().map(|set| view.size(set)).sum();
    let room = (bounds.max() - total).max(0);
    size + room.min(bounds.replicas - size).max(0)
}

/// One step of a rolling update. Gives the size of the new set when that has to be made.
fn rolled(view: &mut View<'_>) -> Option<i32> {
    let Some(new) = view.new else { return Some(allowed(view, 0)) };
    let size = sets::replicas(new);
    let wanted =
        if size > view.bounds.replicas { view.bounds.replicas } else { allowed(view, size) };
    if wanted == size || !view.resize(new, wanted) {
        shrink_old(view, new);
    }
    None
}

/// Takes from the old sets what is not needed to keep enough pods available.
fn shrink_old(view: &mut View<'_>, new: &ReplicaSet) {
    let old = view.old.clone();
    let old_size: i32 = old.iter().map(|set| sets::replicas(set)).sum();
    if old_size == 0 || !view.all().all(sets::is_observed) {
        return;
    }
    let min_available = view.bounds.min_available();
    let waiting = sets::replicas(new) - sets::available(new);
    let mut surplus = old_size + sets::replicas(new) - min_available - waiting;
    if surplus <= 0 {
        return;
    }
    // Old pods that do not work are missed by nobody, and may be why the update was made.
    for set in &old {
        let size = sets::replicas(set);
        let broken = (size - sets::available(set)).min(surplus);
        if broken > 0 {
            view.resize(set, size - broken);
            surplus -= broken;
        }
    }
    let available: i32 = view.all().map(sets::available).sum();
    let mut surplus = (available - min_available).min(surplus);
    for set in &old {
        let size = view.size(set);
        let less = size.min(surplus).max(0);
        if less > 0 {
            view.resize(set, size - less);
            surplus -= less;
        }
    }
}

/// One step of an update that ends all old pods first. Gives the size of the new set when that has to
/// be made.
fn recreated(view: &mut View<'_>, running: &BTreeSet<String>) -> Option<i32> {
    let mut ended = true;
    for set in view.old.clone() {
        let counted = set.status.as_ref().is_some_and(|status| status.replicas > 0);
        if sets::replicas(set) > 0 {
            view.resize(set, 0);
            ended = false;
        } else if counted || running.contains(sets::uid(set)) {
            ended = false;
        }
    }
    if !ended {
        return None;
    }
    let replicas = view.bounds.replicas;
    match view.new {
        Some(new) => {
            if sets::replicas(new) != replicas {
                view.resize(new, replicas);
            }
            None
        }
        None => Some(replicas),
    }
}

/// Forgets old revisions, the oldest first, that are more than are to be remembered.
fn clean_up(view: &View<'_>, actions: &mut Vec<Action>) {
    let Some(limit) = view.deployment.spec.revision_history_limit else { return };
    let mut old: Vec<&ReplicaSet> = view.old.clone();
    old.retain(|set| set.metadata.deletion_timestamp.is_none());
    let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    old.sort_by_key(|set| (sets::revision(set), sets::age(set)));
    for set in old.into_iter().take(surplus) {
        let status = set.status.clone().unwrap_or_default();
        let unseen = set.metadata.generation > status.observed_generation;
        if status.replicas == 0 && sets::replicas(set) == 0 && !unseen {
            let (set, uid) = (sets::name(set).to_owned(), sets::uid(set).to_owned());
            actions.push(Action::Delete { set, uid });
        }
    }
}
