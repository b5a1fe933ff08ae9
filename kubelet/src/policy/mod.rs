//! Network policies: who may talk to this node's pods, and to whom these may talk.
//!
//! * [`mod@ruleset`] decides; it is a value, made by a pure function;
//! * [`program`] says which chains and sets that is, and what leads from one to another.
//!
//! Pods send everything through the node, also to a pod beside them, so that one place sees all their
//! packets: where the node passes them on. What the node itself sends to its pods, and what they send
//! to it, does not come by there: both are allowed always, as in Kubernetes.
//!
//! Memory is the truth. What an earlier kubelet left is replaced in one transaction, between two
//! packets, once it is known what has to be there; until then, and while there is no kubelet, it stays.

mod program;
mod ruleset;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Instant;

use proto::ObjectKey;
use proto::containers::lasting;
use proto::k8s::api::core::v1::Pod;
use proto::k8s::api::networking::v1::NetworkPolicy;
use proto::policy::{PodPort, Policy, protocol_number};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use self::program::{Content, additions, changes, replacement};
use self::ruleset::{KnownPod, LocalPod, View, ruleset};
use crate::join::Chain;
use crate::network::{Addresses, PodGuard};
use crate::nft::expr::Ip;
use crate::nft::table::{Command, Table};
use crate::nft::{Connection, Nft, NftError, Retry};
use crate::state::{Change, ClusterState, StateHandle};

/// Keeps the kernel's rules as the state says, until shutdown. The rules stay. All tables of this name
/// belong to the rules.
pub async fn run(
    state: StateHandle,
    mut pods: PodGuard,
    connection: Connection,
    name: String,
    shutdown: CancellationToken,
) {
    let mut changes = state.changes();
    let tables = Ip::ALL.map(|ip| Table::of(&name, ip));
    let Some((nft, mut others)) = connection.reach(&tables, &shutdown).await else { return };
    let mut retry = Retry::default();
    let mut keeper = Keeper {
        nft,
        tables: Arc::new(tables),
        installed: None,
        policies: HashMap::new(),
        round: RandomState::new().hash_one(Instant::now()) as u32,
    };
    loop {
        let addresses = pods.pods.borrow_and_update().clone();
        let view = state.read(|state| state.loaded.then(|| keeper.view(state, &addresses)));
        let mut pause = None;
        if let Some(view) = view {
            match keeper.sync(view).await {
                Ok(()) => {
                    retry.reset();
                    pods.guards(addresses.into_keys());
                }
                Err(error) => {
                    let wait = retry.pause();
                    warn!(error = %Chain(&error), pause = ?wait, "failed to change the rules");
                    pause = Some(wait);
                }
            }
        }
        tokio::select! {
            // Whoever removes the tables ends us first, and is not to find them made anew.
            biased;
            () = shutdown.cancelled() => return,
            () = others.meddle() => {
                if keeper.installed.take().is_some() {
                    warn!("somebody else changed the rules of network policies: making them anew");
                }
                if !others.rest(&shutdown).await {
                    return;
                }
            }
            () = concerning(&mut changes) => {}
            Ok(()) = pods.pods.changed() => {}
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
        }
    }
}

/// Removes the tables.
///
/// # Errors
/// When the kernel refuses.
pub async fn teardown(name: &str) -> Result<(), NftError> {
    let tables = Ip::ALL.map(|ip| Table::of(name, ip));
    let removal = tokio::task::spawn_blocking(move || {
        let commands = [Command::AddTable, Command::DeleteTable];
        let [first, second] = &tables;
        Nft::open()?.apply(&[(first, &commands[..]), (second, &commands[..])])
    });
    removal.await.unwrap_or_else(|error| Err(panicked("remove the rules", error)))
}

fn panicked(operation: &str, error: tokio::task::JoinError) -> NftError {
    NftError::Socket { operation: operation.to_owned(), source: std::io::Error::other(error) }
}

/// Waits for a change that rules may follow from, and takes all that are there.
async fn concerning(changes: &mut Receiver<Change>) {
    loop {
        match changes.recv().await {
            Ok(
                Change::Everything
                | Change::Pod(_)
                | Change::NetworkPolicy(_)
                | Change::PolicyPeer(_),
            )
            | Err(RecvError::Lagged(_)) => break,
            Ok(
                Change::Mirror(_)
                | Change::ConfigMap(_)
                | Change::Secret(_)
                | Change::Service(_)
                | Change::EndpointSlice(_)
                | Change::Peers
                | Change::Node,
            ) => {}
            // The sender lives as long as the handle we hold.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
    while matches!(changes.try_recv(), Ok(_) | Err(TryRecvError::Lagged(_))) {}
}

/// Policies by the version that they were read of.
type Policies = HashMap<ObjectKey, (Option<String>, Arc<Policy>)>;

struct Keeper {
    nft: Arc<Nft>,
    tables: Arc<[Table; 2]>,
    /// What the kernel has; nothing before the first pass and after a failure.
    installed: Option<Arc<[Content; 2]>>,
    policies: Policies,
    /// The number of the rules in the kernel.
    round: u32,
}

impl Keeper {
    fn view(&mut self, state: &ClusterState, addresses: &Addresses) -> View {
        let known: HashMap<&str, (&ObjectKey, &Arc<Pod>)> = state
            .pods
            .iter()
            .chain(&state.static_pods)
            .filter_map(|(key, pod)| Some((pod.metadata.uid.as_deref()?, (key, pod))))
            .collect();
        let pods = addresses.iter().filter_map(|(uid, addresses)| {
            let known = known.get(uid.as_str()).map(|(key, pod)| KnownPod {
                namespace: key.namespace.clone(),
                labels: pod.metadata.labels.clone().unwrap_or_default(),
                ports: named_ports(pod),
            });
            // What is on disk may lack a pod that came just before the kubelet ended.
            let cut_off = known.is_none() && !state.confirmed;
            (!cut_off).then(|| LocalPod { known, addresses: addresses.clone() })
        });
        let pods = pods.collect();
        self.policies = understood(&self.policies, &state.network_policies);
        let policies = self.policies.iter();
        let policies = policies.map(|(key, (_, policy))| (key.clone(), policy.clone())).collect();
        View { pods, policies, sets: state.policy_peers.clone() }
    }

    /// One pass.
    async fn sync(&mut self, view: View) -> Result<(), NftError> {
        let before = self.installed.take();
        let (nft, tables) = (self.nft.clone(), self.tables.clone());
        let round = self.round;
        let pass = tokio::task::spawn_blocking(move || pass(&nft, &tables, before, &view, round));
        let (content, round) =
            pass.await.unwrap_or_else(|error| Err(panicked("compute the rules", error)))?;
        self.installed = Some(content);
        self.round = round;
        Ok(())
    }
}

/// Zero is the mark of a connection that nobody has marked.
fn next_round(round: u32) -> u32 {
    round.checked_add(1).unwrap_or(1)
}

fn pass(
    nft: &Nft,
    tables: &[Table; 2],
    before: Option<Arc<[Content; 2]>>,
    view: &View,
    round: u32,
) -> Result<(Arc<[Content; 2]>, u32), NftError> {
    let started = Instant::now();
    let ruleset = ruleset(view);
    let content = |round| Ip::ALL.map(|ip| Content::of(&ruleset, ip, round));
    let Some(before) = before else {
        let round = next_round(round);
        let after = content(round);
        let commands = [replacement(&after[0]), replacement(&after[1])];
        nft.apply(&[(&tables[0], &commands[0]), (&tables[1], &commands[1])])?;
        debug!(classes = ruleset.classes.len(), took = ?started.elapsed(), "made the rules of network policies");
        return Ok((Arc::new(after), round));
    };
    if content(round) == *before {
        return Ok((before, round));
    }
    let round = next_round(round);
    let after = content(round);
    for step in [additions, changes] {
        let commands = [step(&before[0], &after[0]), step(&before[1], &after[1])];
        nft.apply(&[(&tables[0], &commands[0]), (&tables[1], &commands[1])])?;
    }
    debug!(classes = ruleset.classes.len(), took = ?started.elapsed(), "changed the rules of network policies");
    Ok((Arc::new(after), round))
}

/// Policies out of their objects; what was read before is not read again. One that nobody can make
/// sense of lets nobody through: left out, it would open what it was to close.
fn understood(before: &Policies, objects: &HashMap<ObjectKey, Arc<NetworkPolicy>>) -> Policies {
    let read = |(key, object): (&ObjectKey, &Arc<NetworkPolicy>)| {
        let version = object.metadata.resource_version.clone();
        let policy = match before.get(key) {
            Some((same, policy)) if *same == version && version.is_some() => policy.clone(),
            _ => Arc::new(Policy::of(object).unwrap_or_else(|error| {
                error!(policy = %key, %error, "cannot make sense of a network policy: it lets nobody through");
                Policy::closed()
            })),
        };
        (key.clone(), (version, policy))
    };
    objects.iter().map(read).collect()
}

/// What a pod calls its ports.
fn named_ports(pod: &Pod) -> Vec<PodPort> {
    let ports =
        pod.spec.iter().flat_map(lasting).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let protocol = protocol_number(port.protocol.as_deref().unwrap_or("TCP"))?;
            let number = u16::try_from(port.container_port).ok()?;
            Some(PodPort { name: port.name.clone()?, protocol, number })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_policy_that_makes_no_sense_closes_until_it_makes_some() {
        let key = ObjectKey::new("shop", "p");
        let object = |version: &str, cidr: &str| {
            let object = json!({
                "metadata": {"namespace": "shop", "name": "p", "resourceVersion": version},
                "spec": {"policyTypes": ["Ingress"], "ingress": [{"from": [{"ipBlock": {"cidr": cidr}}]}]},
            });
            HashMap::from([(key.clone(), Arc::new(serde_json::from_value(object).unwrap()))])
        };
        let broken = understood(&Policies::new(), &object("1", "10.0.0.0/40"));
        assert_eq!(*broken[&key].1, Policy::closed());
        let again = understood(&broken, &object("1", "10.0.0.0/40"));
        assert!(Arc::ptr_eq(&again[&key].1, &broken[&key].1), "it is told once");
        let mended = understood(&again, &object("2", "10.0.0.0/24"));
        assert_eq!(mended[&key].1.ingress.as_ref().map(Vec::len), Some(1));
        assert_eq!(mended[&key].1.egress, None);
    }
}
