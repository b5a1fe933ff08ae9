//! What of the cluster's state the rules follow from: heard of as it changes, then looked up.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::ObjectKey;
use proto::k8s::api::core::v1::Node;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::ProxyConfig;
use super::endpoints::Here;
use super::model::{News, Place};
use super::ranges::{Ranges, node_addresses};
use crate::nft::expr::Ip;
use crate::state::{Change, ClusterState};

/// The label that says which zone a node is in.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What has to be looked at.
#[derive(Debug, Default)]
pub(super) struct Heard {
    everything: bool,
    services: BTreeSet<ObjectKey>,
    slices: BTreeSet<ObjectKey>,
}

/// What was seen when looking.
pub(super) struct Seen {
    /// Whether a master has said so since the kubelet started; what was on disk may be outdated.
    pub(super) confirmed: bool,
    pub(super) news: News,
}

impl Heard {
    /// Whatever was heard.
    pub(super) fn look_at_everything(&mut self) {
        self.everything = true;
    }

    /// Waits for a change that rules may follow from.
    pub(super) async fn wait(&mut self, changes: &mut Receiver<Change>) {
        loop {
            match changes.recv().await {
                Ok(change) => {
                    if self.note(change) {
                        return;
                    }
                }
                Err(RecvError::Lagged(_)) => {
                    self.everything = true;
                    return;
                }
                // The sender lives as long as the handle we hold.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// Takes all changes that are there.
    pub(super) fn take_all(&mut self, changes: &mut Receiver<Change>) {
        loop {
            match changes.try_recv() {
                Ok(change) => {
                    self.note(change);
                }
                Err(TryRecvError::Lagged(_)) => self.everything = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    /// Whether it concerns the rules.
    fn note(&mut self, change: Change) -> bool {
        match change {
            Change::Everything => self.everything = true,
            Change::Service(key) => {
                self.services.insert(key);
            }
            Change::EndpointSlice(key) => {
                self.slices.insert(key);
            }
            // Where this node is, is looked at anyway.
            Change::Node => {}
            Change::Pod(_)
            | Change::Mirror(_)
            | Change::ConfigMap(_)
            | Change::Secret(_)
            | Change::NetworkPolicy(_)
            | Change::PolicyPeer(_)
            | Change::Peers => {
                return false;
            }
        }
        true
    }

    /// Looks at what was heard of. Takes references only: the session waits meanwhile. Nothing before
    /// this node knows its range, if its pods have addresses of that.
    pub(super) fn look(&mut self, state: &ClusterState, config: &ProxyConfig) -> Option<Seen> {
        let place = place(state, config)?;
        let Self { everything, services, slices } = std::mem::take(self);
        let news = if everything {
            let all = state.services.iter();
            let services = all.map(|(key, service)| (key.clone(), Some(Arc::clone(service))));
            let all = state.endpoint_slices.iter();
            let slices = all.map(|(key, slice)| (key.clone(), Some(Arc::clone(slice))));
            News { everything, services: services.collect(), slices: slices.collect(), place }
        } else {
            let services = services.into_iter().map(|key| {
                let service = state.services.get(&key).cloned();
                (key, service)
            });
            let slices = slices.into_iter().map(|key| {
                let slice = state.endpoint_slices.get(&key).cloned();
                (key, slice)
            });
            News { everything, services: services.collect(), slices: slices.collect(), place }
        };
        Some(Seen { confirmed: state.confirmed, news })
    }
}

fn place(state: &ClusterState, config: &ProxyConfig) -> Option<Place> {
    let node: &Node = state.node.as_deref()?;
    let ranges = Ip::ALL
        .into_iter()
        .filter_map(|ip| Some((ip, Ranges::of(state, ip, &config.node_port_addresses)?)));
    let labels = node.metadata.labels.as_ref();
    let place = Place {
        here: Here {
            node: config.node_name.clone(),
            zone: labels.and_then(|labels| labels.get(ZONE)).cloned(),
        },
        addresses: node_addresses(node).collect(),
        ranges: ranges.collect(),
    };
    let known = !config.pods_of_range || place.ranges.values().any(|ranges| ranges.own.is_some());
    known.then_some(place)
}
