//! What people are told of pods without a node: an event, and a condition of the pod.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::k8s as k8s_openapi;
use tracing::debug;

use super::{NAME, Scheduling};
use crate::api::kinds::pod::Pods;
use crate::api::objects::Part;
use crate::events::{Occurrence, reference};
use crate::scheduler::demand::PodInfo;
use crate::scheduler::queue::Verdict;

/// `PodScheduled` conditions written at a time.
const TELLING: usize = 16;

/// What is to be said of a pod without a node.
pub(super) struct News {
    pub(super) pod: PodInfo,
    pub(super) why: Verdict,
    /// Where room is being made for it.
    pub(super) nominated: Option<Arc<str>>,
}

impl Scheduling {
    /// Says of pods why they have no node.
    pub(super) fn tell_more(&mut self) {
        while self.telling.len() < TELLING
            && let Some(News { pod, why, nominated }) = self.to_tell.pop_front()
        {
            let object = reference("Pod", &pod.key, &pod.uid);
            let message = why.to_string();
            self.recorder.record(Occurrence::warning(NAME, object, "FailedScheduling", message));
            let (objects, fence) = (self.objects.clone(), self.fence.clone());
            self.telling.spawn(async move {
                let nominated = nominated.as_deref();
                let tell = |stored: &mut Pod| set_unschedulable(stored, &pod.uid, &why, nominated);
                let told = objects.update::<Pods>(&pod.key, Part::Status, &fence, tell).await;
                if let Err(error) = told {
                    debug!(pod = %pod.key, %error, "failed to write why the pod has no node");
                }
            });
        }
    }
}

/// Sets the condition; tells whether that changed anything. A pod that has a node by now keeps its
/// peace.
fn set_unschedulable(pod: &mut Pod, uid: &str, why: &str, nominated: Option<&str>) -> bool {
    let has_node = pod.spec.iter().any(|spec| spec.node_name.iter().any(|node| !node.is_empty()));
    if has_node || pod.metadata.uid.as_deref() != Some(uid) {
        return false;
    }
    let status = pod.status.get_or_insert_default();
    let elsewhere = status.nominated_node_name.as_deref() != nominated;
    status.nominated_node_name = nominated.map(str::to_owned);
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions.iter().position(|condition| condition.type_ == "PodScheduled");
    let old = old.map(|index| conditions.remove(index));
    let same_status = old.as_ref().filter(|old| old.status == "False");
    let since = same_status.and_then(|old| old.last_transition_time.clone());
    let new = PodCondition {
        observed_generation: pod.metadata.generation,
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("Unschedulable".to_owned()),
        message: Some(why.to_owned()),
        last_transition_time: since.or_else(|| Some(Time(Timestamp::now()))),
        ..PodCondition::default()
    };
    let changed = old.is_none_or(|old| {
        (&old.status, &old.reason, &old.message) != (&new.status, &new.reason, &new.message)
    });
    conditions.push(new);
    changed || elsewhere
}
