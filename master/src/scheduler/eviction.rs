//! What becomes of pods that give way, and of those that wait for it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::k8s as k8s_openapi;
use tracing::info;

use super::demand::PodInfo;
use super::driver::NAME;
use crate::api::error::ApiError;
use crate::api::kinds::pod::Pods;
use crate::api::objects::{DeleteOptions, Objects, Part};
use crate::events::{EventRecorder, Occurrence, reference};
use crate::store::Compare;

/// Pods for which others are ending, each with its place in the queue.
#[derive(Debug, Default)]
pub(super) struct Awaiting {
    pods: HashMap<Arc<str>, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    pod: PodInfo,
    ticket: u64,
    /// Those that have to be gone yet.
    others: HashSet<Arc<str>>,
}

impl Awaiting {
    /// The pod waits until the others are gone.
    pub(super) fn insert(&mut self, pod: PodInfo, ticket: u64, others: Vec<Arc<str>>) {
        let waiting = Waiting { pod, ticket, others: others.into_iter().collect() };
        self.pods.insert(Arc::clone(&waiting.pod.uid), waiting);
    }

    /// The pod that waits, if it does.
    pub(super) fn get(&self, uid: &str) -> Option<&PodInfo> {
        self.pods.get(uid).map(|waiting| &waiting.pod)
    }

    /// The pod waits no longer.
    pub(super) fn remove(&mut self, uid: &str) -> Option<(PodInfo, u64)> {
        let Waiting { pod, ticket, .. } = self.pods.remove(uid)?;
        Some((pod, ticket))
    }

    /// Somebody is gone. Gives those who waited for nobody else.
    pub(super) fn gone(&mut self, uid: &str) -> Vec<(PodInfo, u64)> {
        for waiting in self.pods.values_mut() {
            waiting.others.remove(uid);
        }
        self.take(|waiting| waiting.others.is_empty())
    }

    /// Takes those who fit somewhere without waiting.
    pub(super) fn fitting(&mut self, fits: impl Fn(&PodInfo) -> bool) -> Vec<(PodInfo, u64)> {
        self.take(|waiting| fits(&waiting.pod))
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.pods.len()
    }

    fn take(&mut self, mut which: impl FnMut(&Waiting) -> bool) -> Vec<(PodInfo, u64)> {
        let taken = self.pods.extract_if(|_, waiting| which(waiting));
        taken.map(|(_, waiting)| (waiting.pod, waiting.ticket)).collect()
    }
}

/// Ends the victims gracefully, each told why. That one is gone already is as well.
pub(super) async fn evict(
    objects: &Objects,
    fence: &[Compare],
    recorder: &EventRecorder,
    (pod, node): (&PodInfo, &str),
    victims: &[PodInfo],
) -> Result<(), ApiError> {
    for victim in victims {
        let marked = objects
            .update::<Pods>(&victim.key, Part::Status, fence, |stored| mark(stored, &victim.uid))
            .await;
        let options = DeleteOptions { uid: Some(victim.uid.to_string()), ..Default::default() };
        let deleted = match marked {
            Ok(_) => objects.delete::<Pods>(&victim.key, options, fence).await,
            Err(error) => Err(error),
        };
        match deleted {
            Ok(()) => {
                info!(victim = %victim.key, pod = %pod.key, node, "a pod gives way");
                let message = format!("Preempted by pod {} on node {node}", pod.uid);
                let object = reference("Pod", &victim.key, &victim.uid);
                recorder.record(Occurrence::normal(NAME, object, "Preempted", message));
            }
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Says why the pod ends; tells whether that is news.
fn mark(pod: &mut Pod, uid: &str) -> bool {
    if pod.metadata.uid.as_deref() != Some(uid) || pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("PreemptionByScheduler".to_owned()),
        message: Some(format!("{NAME}: preempting to accommodate a higher priority pod")),
        last_transition_time: Some(Time(Timestamp::now())),
        ..PodCondition::default()
    });
    true
}
