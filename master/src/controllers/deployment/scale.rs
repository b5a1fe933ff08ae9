//! What a Deployment does when `spec.replicas` changes, also in the middle of a rollout and while it is
//! paused: the sets keep their shares. Pure.

use k8s_openapi::api::apps::v1::ReplicaSet;
use proto::k8s as k8s_openapi;

use super::reconcile::View;
use super::sets;

/// Whether the number of replicas is another than when the sets were given theirs.
pub(super) fn is_due(view: &View<'_>) -> bool {
    let remembered = |set: &ReplicaSet| number(set, sets::DESIRED_REPLICAS);
    view.active().any(|set| remembered(set).is_some_and(|size| size != view.bounds.replicas))
}

/// Brings the sets to the size of the whole, and none of them any further in the rollout.
pub(super) fn scale(view: &mut View<'_>) {
    let replicas = view.bounds.replicas;
    let active: Vec<&ReplicaSet> = view.active().collect();
    // With one set, or none yet, there are no shares.
    let single = match active.as_slice() {
        [] => Some(view.new.or_else(|| view.old.last().copied())),
        [one] => Some(Some(*one)),
        _ => None,
    };
    if let Some(single) = single {
        if let Some(set) = single {
            view.resize(set, replicas);
        }
        return;
    }
    if view.new.is_some_and(|new| is_saturated(view, new)) {
        for set in view.old.clone() {
            if sets::replicas(set) > 0 {
                view.resize(set, 0);
            }
        }
        return;
    }
    if sets::recreates(view.deployment) {
        // What is there of old is about to end.
        return remember(view, &active);
    }
    for (set, size) in shares(view, active) {
        view.resize(set, size);
    }
}

/// Notes the size of the whole, so that the same change is not looked at again.
fn remember<'a>(view: &mut View<'a>, active: &[&'a ReplicaSet]) {
    for set in active {
        view.resize(set, sets::replicas(set));
    }
}

/// Whether all pods are of the new set already.
fn is_saturated(view: &View<'_>, new: &ReplicaSet) -> bool {
    let replicas = view.bounds.replicas;
    sets::is_observed(new)
        && number(new, sets::DESIRED_REPLICAS) == Some(replicas)
        && sets::replicas(new) == replicas
        && sets::available(new) == replicas
}

/// How large each set becomes: what is added or taken is shared out by size, and what rounding
/// leaves goes to the largest.
fn shares<'a>(view: &View<'a>, mut active: Vec<&'a ReplicaSet>) -> Vec<(&'a ReplicaSet, i32)> {
    let bounds = view.bounds;
    let total: i32 = active.iter().map(|set| sets::replicas(set)).sum();
    let allowed = if bounds.replicas > 0 { bounds.max() } else { 0 };
    let missing = allowed - total;
    active.sort_by_key(|set| sets::age(set));
    if missing > 0 {
        // Among equals the newer one grows,
        active.reverse();
    }
    // and the older one shrinks.
    active.sort_by_key(|set| std::cmp::Reverse(sets::replicas(set)));
    let mut given = 0;
    let mut sizes: Vec<(&ReplicaSet, i32)> = Vec::with_capacity(active.len());
    for set in active {
        let size = sets::replicas(set);
        let left = missing - given;
        let share = share(view, set);
        let share = if missing > 0 { share.clamp(0, left) } else { share.clamp(left, 0) };
        given += share;
        sizes.push((set, (size + share).max(0)));
    }
    let mut left = missing - given;
    for (_, size) in &mut sizes {
        let before = *size;
        *size = (*size + left).max(0);
        left -= *size - before;
    }
    sizes
}

/// By how much a set would grow or shrink with the whole.
fn share(view: &View<'_>, set: &ReplicaSet) -> i32 {
    let size = sets::replicas(set);
    if view.bounds.replicas == 0 {
        return -size;
    }
    let status = view.deployment.status.as_ref();
    let before = number(set, sets::MAX_REPLICAS).filter(|before| *before > 0);
    let before = before.or(status.and_then(|status| status.replicas)).unwrap_or(0).max(1);
    let (size_then, max) = (i64::from(size), i64::from(view.bounds.max()));
    let before = i64::from(before);
    // Rounded to the nearest.
    let now = (2 * size_then * max + before) / (2 * before);
    i32::try_from(now).unwrap_or(i32::MAX) - size
}

fn number(set: &ReplicaSet, key: &str) -> Option<i32> {
    sets::annotation(&set.metadata, key)?.parse().ok()
}
