//! What waits to be sent on the present session.

use std::collections::VecDeque;

use proto::k8s::api::core::v1::{Event, Node};
use proto::node::session_up::Message;
use proto::node::{
    EventReport, Heartbeat, Hello, NodeStatusReport, PodRemoved, PodStatusReport, SessionUp,
};
use serde::Serialize;
use tracing::error;

use crate::reporter::{PodReport, Unsent};

/// Messages in the order in which they go out. Events are kept apart: those that were not sent when
/// a session ends are told on the next one.
#[derive(Default)]
pub(super) struct Outgoing {
    reports: VecDeque<SessionUp>,
    events: VecDeque<Event>,
}

impl Outgoing {
    pub(super) fn extend(&mut self, unsent: Unsent) {
        let Unsent { pods, node, events } = unsent;
        self.reports.extend(pods.into_iter().filter_map(|(uid, report)| pod(uid, report)));
        self.reports.extend(node.and_then(|status| {
            let status = encode("node status", &status)?;
            Some(up(Message::NodeStatus(NodeStatusReport { status })))
        }));
        self.events.extend(events);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reports.is_empty() && self.events.is_empty()
    }

    /// The next message; statuses before events, which are for people.
    pub(super) fn pop(&mut self) -> Option<SessionUp> {
        if let Some(report) = self.reports.pop_front() {
            return Some(report);
        }
        while let Some(event) = self.events.pop_front() {
            if let Some(event) = encode("event", &event) {
                return Some(up(Message::Event(EventReport { event })));
            }
        }
        None
    }

    pub(super) fn into_events(self) -> VecDeque<Event> {
        self.events
    }
}

pub(super) fn hello(node_name: &str, node: &Node) -> Option<SessionUp> {
    Some(up(Message::Hello(Hello {
        node_name: node_name.to_owned(),
        protocol_version: proto::NODE_PROTOCOL_VERSION,
        node: encode("node", node)?,
    })))
}

pub(super) fn heartbeat() -> SessionUp {
    up(Message::Heartbeat(Heartbeat {}))
}

fn pod(uid: String, report: PodReport) -> Option<SessionUp> {
    let PodReport { key, status, sent: _ } = report;
    let (namespace, name) = (key.namespace, key.name);
    Some(up(match status {
        Some(status) => {
            let status = encode("pod status", &status)?;
            Message::PodStatus(PodStatusReport { namespace, name, uid, status })
        }
        None => Message::PodRemoved(PodRemoved { namespace, name, uid }),
    }))
}

fn up(message: Message) -> SessionUp {
    SessionUp { message: Some(message) }
}

/// Encoding one of Kubernetes' types cannot fail; were it to, the rest should still be told.
fn encode(what: &str, value: &impl Serialize) -> Option<bytes::Bytes> {
    match serde_json::to_vec(value) {
        Ok(json) => Some(json.into()),
        Err(error) => {
            error!(what, %error, "failed to encode a report");
            None
        }
    }
}
