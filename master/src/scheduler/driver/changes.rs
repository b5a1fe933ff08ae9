//! What changes in the cluster, brought to the model and the queue.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::k8s as k8s_openapi;
use tracing::warn;

use super::news::News;
use super::{NAME, Scheduling};
use crate::api::kinds::pod::gates;
use crate::cache::{CachedObject, ObjectEvent};
use crate::scheduler::demand::{Demand, PodInfo};
use crate::scheduler::filter::NodeInfo;
use crate::scheduler::model::NodeId;

impl Scheduling {
    pub(super) fn namespace_changed(&mut self, event: &ObjectEvent) {
        let object = event.object();
        let labels = match event {
            ObjectEvent::Deleted(_) => None,
            _ => Some(object.labels.clone()),
        };
        self.model.set_namespace(&object.key.name, labels);
        self.wake_heedful();
    }

    pub(super) fn service_changed(&mut self, event: &ObjectEvent) {
        let object = event.object();
        let selector = match event {
            ObjectEvent::Deleted(_) => BTreeMap::new(),
            _ => match object.decode::<Service>() {
                Ok(service) => service.spec.and_then(|spec| spec.selector).unwrap_or_default(),
                Err(error) => return undecodable("service", object, &error),
            },
        };
        self.model.set_service(object.key.clone(), selector);
    }

    pub(super) fn node_changed(&mut self, event: &ObjectEvent) {
        let object = event.object();
        if let ObjectEvent::Deleted(_) = event {
            self.model.remove_node(&object.key.name);
            self.wake_heedful();
            return;
        }
        match object.decode::<Node>() {
            Ok(node) => {
                if let Some(id) = self.model.set_node(NodeInfo::of(&node)) {
                    self.wake(id);
                    self.wake_heedful();
                }
            }
            Err(error) => undecodable("node", object, &error),
        }
    }

    pub(super) fn pod_changed(&mut self, event: &ObjectEvent) {
        let object = event.object();
        let gone = matches!(event, ObjectEvent::Deleted(_)) || is_finished(object);
        if gone {
            self.queue.remove(&object.uid);
            self.later.retain(|_, pod| *pod.uid != *object.uid);
            self.no_longer_awaiting(&object.uid);
            let demand = self.model.demand_of(&object.uid);
            let node = self.model.remove_pod(&object.uid);
            for (pod, ticket) in self.awaiting.gone(&object.uid) {
                self.try_again(pod, ticket);
            }
            if let Some(id) = node {
                self.wake(id);
            }
            self.wake_concerned(demand.as_deref(), false);
            return;
        }
        let node = node_of(object);
        if node.is_empty() {
            self.needs_node(object);
            return;
        }
        self.queue.remove(&object.uid);
        self.no_longer_awaiting(&object.uid);
        let was = self.model.demand_of(&object.uid);
        if object.deleting && self.model.set_leaving(&object.uid) {
            self.wake_concerned(was.as_deref(), false);
        }
        // Most changes of a pod that has a node are its status, which is no matter of ours unless its
        // specification was ever changed: then the status tells how far a resize has come.
        if let ObjectEvent::Modified { old, new } = event
            && new.generation <= 1
            && old.labels == new.labels
            && old.controller_uid == new.controller_uid
            && self.model.confirm(&object.uid, node)
        {
            return;
        }
        match object.decode::<Pod>() {
            Ok(pod) => {
                let more_room = self.model.set_pod(PodInfo::of(&pod), node);
                if object.deleting {
                    self.model.set_leaving(&object.uid);
                }
                if let Some(node) = more_room {
                    self.wake(node);
                }
                let is = self.model.demand_of(&object.uid);
                if was != is {
                    self.wake_concerned(was.as_deref(), false);
                    self.wake_concerned(is.as_deref(), true);
                }
            }
            Err(error) => undecodable("pod", object, &error),
        }
    }

    fn needs_node(&mut self, object: &CachedObject) {
        if object.deleting {
            self.queue.remove(&object.uid);
            self.no_longer_awaiting(&object.uid);
            return;
        }
        // Somebody else's, or its binding is on its way or will be tried again.
        if object.fields.get("spec.schedulerName").is_some_and(|name| !is_ours(name))
            || self.model.has_pod(&object.uid)
            || self.later.values().any(|pod| *pod.uid == *object.uid)
        {
            return;
        }
        match object.decode::<Pod>() {
            Ok(pod) => {
                // Whoever has put a gate says when.
                if gates::are_closed(&pod) {
                    self.queue.remove(&object.uid);
                    return;
                }
                let nominated = nominated(&pod).map(str::to_owned);
                let pod = PodInfo::of(&pod);
                match self.awaiting.get(&pod.uid) {
                    Some(known) if known.demand == pod.demand => return,
                    Some(_) => self.no_longer_awaiting(&pod.uid),
                    // By the last leader: what it began goes on.
                    None => {
                        if let Some(node) = nominated.filter(|_| !self.queue.has(&pod.uid)) {
                            self.model.nominate(pod.clone(), &node);
                        }
                    }
                }
                if let Some(why) = self.queue.push(pod.clone()) {
                    self.to_tell.push_back(News { pod, why, nominated: None });
                }
            }
            Err(error) => undecodable("pod", object, &error),
        }
    }

    /// A node has more to offer than before: what fits it now is tried again.
    pub(super) fn wake(&mut self, node: NodeId) {
        for (pod, ticket) in self.awaiting.fitting(|pod| self.model.takes(pod, node)) {
            self.try_again(pod, ticket);
        }
        self.queue.wake(|demand| self.model.fits_on(demand, node));
    }

    /// A pod with this demand came to a node, or else left one: those to whom that may matter are tried
    /// again, wherever they may fit then.
    pub(super) fn wake_concerned(&mut self, changed: Option<&Demand>, came: bool) {
        let Some(changed) = changed.filter(|_| self.queue.waiting() > 0) else { return };
        self.queue.wake(|waiting| self.model.concerns(waiting, changed, came));
    }

    /// Nodes or namespaces are others: pods that are placed by where others are are tried again.
    fn wake_heedful(&mut self) {
        if self.queue.waiting() > 0 {
            self.queue.wake(Demand::heeds_pods);
        }
    }
}

/// Where room is being made for a pod.
fn nominated(pod: &Pod) -> Option<&str> {
    let node = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
    node.filter(|node| !node.is_empty())
}

/// When a pod was made.
pub(super) fn created(pod: &CachedObject) -> Option<Timestamp> {
    #[derive(serde::Deserialize)]
    struct Created {
        metadata: CreationTime,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct CreationTime {
        creation_timestamp: Option<Time>,
    }
    Some(pod.decode::<Created>().ok()?.metadata.creation_timestamp?.0)
}

fn is_ours(scheduler: &str) -> bool {
    scheduler.is_empty() || scheduler == NAME
}

pub(super) fn node_of(pod: &CachedObject) -> &str {
    pod.fields.get("spec.nodeName").map_or("", String::as_str)
}

fn is_finished(pod: &CachedObject) -> bool {
    let phase = pod.fields.get("status.phase").map(String::as_str);
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn undecodable(kind: &str, object: &CachedObject, error: &serde_json::Error) {
    warn!(kind, key = %object.key, %error, "an object in the store does not decode");
}
