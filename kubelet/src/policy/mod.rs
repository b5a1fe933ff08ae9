//! Network policies: who may talk to this node's pods, and to whom these may talk.
//!
//! * [`model`] decides: pods that the same policies select are of one [`class`], and a change costs what it
//!   touches;
//! * [`program`] says which chains and sets that is, and what leads from one to another;
//! * [`source`] says whose addresses pods may send with, so that they are who rules take them for.
//!
//! Pods send everything through the node, also to a pod beside them, so that one place sees all their
//! packets: where the node passes them on. What the node itself sends to its pods, and what they send
//! to it, does not come by there: both are allowed always, as in Kubernetes.
//!
//! Memory is the truth. What an earlier kubelet left is replaced in one transaction, between two
//! packets, once it is known what has to be there; until then, and while there is no kubelet, it stays.

mod class;
mod model;
mod program;
mod reach;
mod source;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use proto::ObjectKey;
use proto::containers::lasting;
use proto::k8s::api::core::v1::Pod;
use proto::k8s::api::networking::v1::NetworkPolicy;
use proto::policy::{PodPort, Policy, protocol_number};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use self::model::{Edit, KnownPod, Model};
use self::program::{Content, additions, changes, numbered, numbered_replacement, replacement};
use crate::join::Chain;
use crate::network::{Addresses, PodGuard, PodRange as _, own_ranges};
use crate::nft::expr::Ip;
use crate::nft::table::{Command, Family, Table};
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
    let frames = frames(&name);
    let guarded = [&tables[..], std::slice::from_ref(&frames)].concat();
    let Some((nft, mut others)) = connection.reach(&guarded, &shutdown).await else { return };
    let mut sources =
        Sources { nft: nft.clone(), table: frames, made: None, possible: pods.own_interfaces };
    let mut retry = Retry::default();
    let mut keeper = Keeper {
        nft,
        tables: Arc::new(tables),
        model: None,
        installed: false,
        policies: HashMap::new(),
        round: RandomState::new().hash_one(Instant::now()) as u32,
    };
    let mut heard = Heard::All;
    loop {
        let addresses = pods.pods.borrow_and_update().clone();
        let seen = state.read(|state| {
            state.loaded.then(|| (keeper.look(state, &addresses, &heard), gateways(state)))
        });
        let mut pause = None;
        if let Some((look, gateways)) = seen {
            heard = Heard::Some(Vec::new());
            let synced = match keeper.sync(look).await {
                Ok(()) => sources.sync(&addresses, gateways).await,
                Err(error) => Err(error),
            };
            match synced {
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
                sources.made = None;
                if std::mem::replace(&mut keeper.installed, false) {
                    warn!("somebody else changed the rules of network policies: making them anew");
                }
                if !others.rest(&shutdown).await {
                    return;
                }
            }
            news = concerning(&mut changes) => heard = heard.and(news),
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
    let frames = frames(name);
    let removal = tokio::task::spawn_blocking(move || {
        let commands = [Command::AddTable, Command::DeleteTable];
        let [first, second] = &tables;
        let nft = Nft::open()?;
        nft.apply(&[(first, &commands[..]), (second, &commands[..])])?;
        match nft.apply(&[(&frames, &commands)]) {
            Err(error) if is_unknown(&error) => Ok(()),
            other => other,
        }
    });
    removal.await.unwrap_or_else(|error| Err(panicked("remove the rules", error)))
}

/// The table that sees what pods send before the bridge does.
fn frames(name: &str) -> Table {
    Table { family: Family::Bridge, name: name.to_owned() }
}

/// Whether the kernel has been built without what it was asked for.
fn is_unknown(error: &NftError) -> bool {
    let NftError::Refused { source, .. } = error else { return false };
    let unknown = [Errno::EAFNOSUPPORT, Errno::EOPNOTSUPP, Errno::EPROTONOSUPPORT, Errno::ENOENT];
    source.raw_os_error().is_some_and(|code| unknown.contains(&Errno::from_raw(code)))
}

/// The ways out of this node's pods.
fn gateways(state: &ClusterState) -> Vec<IpAddr> {
    let ranges = state.node.as_deref().map(own_ranges).unwrap_or_default();
    ranges.iter().map(|range| range.gateway()).collect()
}

fn panicked(operation: &str, error: tokio::task::JoinError) -> NftError {
    NftError::Socket { operation: operation.to_owned(), source: std::io::Error::other(error) }
}

/// What is said to have changed.
enum Heard {
    All,
    Some(Vec<Change>),
}

impl Heard {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Some(mut all), Self::Some(more)) => {
                all.extend(more);
                Self::Some(all)
            }
            _ => Self::All,
        }
    }
}

/// Waits for a change that rules may follow from, and takes all that are there. Nothing is lost when it is
/// not waited for to the end.
async fn concerning(changes: &mut Receiver<Change>) -> Heard {
    let mut heard = Vec::new();
    let mut change = match changes.recv().await {
        Ok(change) => change,
        Err(RecvError::Lagged(_)) => Change::Everything,
        // The sender lives as long as the handle we hold.
        Err(RecvError::Closed) => std::future::pending().await,
    };
    loop {
        match change {
            Change::Everything => {
                while matches!(changes.try_recv(), Ok(_) | Err(TryRecvError::Lagged(_))) {}
                return Heard::All;
            }
            Change::Pod(_) | Change::NetworkPolicy(_) | Change::PolicyPeer(_) | Change::Node => {
                heard.push(change);
            }
            Change::Mirror(_)
            | Change::ConfigMap(_)
            | Change::Secret(_)
            | Change::Service(_)
            | Change::EndpointSlice(_)
            | Change::Peers => {}
        }
        change = match changes.try_recv() {
            Ok(change) => change,
            Err(TryRecvError::Lagged(_)) => Change::Everything,
            Err(TryRecvError::Empty | TryRecvError::Closed) if heard.is_empty() => {
                match changes.recv().await {
                    Ok(change) => change,
                    Err(RecvError::Lagged(_)) => Change::Everything,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
            Err(TryRecvError::Empty | TryRecvError::Closed) => return Heard::Some(heard),
        };
    }
}

/// Keeps pods to their own addresses.
struct Sources {
    nft: Arc<Nft>,
    table: Table,
    /// Of what, and what the kernel has; nothing before the first pass and after a failure.
    made: Option<(Addresses, Vec<IpAddr>, Arc<Content>)>,
    /// Neither with interfaces of plugins, nor with a kernel that cannot.
    possible: bool,
}

impl Sources {
    async fn sync(&mut self, pods: &Addresses, gateways: Vec<IpAddr>) -> Result<(), NftError> {
        // No pod was ever attached while the node had no range.
        if !self.possible || gateways.is_empty() {
            return Ok(());
        }
        if self.made.as_ref().is_some_and(|(of, to, _)| (of, to) == (pods, &gateways)) {
            return Ok(());
        }
        let before = self.made.take().map(|(_, _, content)| content);
        let is_first = before.is_none();
        let after = Arc::new(source::content(pods, &gateways));
        let (nft, table, content) = (self.nft.clone(), self.table.clone(), after.clone());
        let pass = tokio::task::spawn_blocking(move || {
            let commands = match before {
                Some(before) => changes(&before, &content),
                None => replacement(&content),
            };
            nft.apply(&[(&table, &commands)])
        });
        match pass.await.unwrap_or_else(|error| Err(panicked("compute the sources", error))) {
            Ok(()) => self.made = Some((pods.clone(), gateways, after)),
            Err(error) if is_first && is_unknown(&error) => {
                warn!(
                    error = %Chain(&error),
                    "this kernel cannot filter what a bridge carries (CONFIG_NF_TABLES_BRIDGE): \
                     pods with NET_RAW or NET_ADMIN can send with others' addresses"
                );
                self.possible = false;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Policies by the version that they were read of.
type Policies = HashMap<ObjectKey, (Option<String>, Arc<Policy>)>;

struct Keeper {
    nft: Arc<Nft>,
    tables: Arc<[Table; 2]>,
    /// Nothing before the first pass, and during one.
    model: Option<Model>,
    /// Whether the kernel has what the model was told; not before the first pass and after a failure.
    installed: bool,
    policies: Policies,
    /// The number of the rules in the kernel.
    round: u32,
}

/// What a pass starts from.
enum Look {
    /// All that there is, and what it was before.
    All { before: Option<Model>, confirmed: bool, edits: Vec<Edit> },
    /// What it was, and what changed.
    Some(Model, Vec<Edit>),
}

impl Keeper {
    /// Looks at what is said to have changed, or at everything. The state is locked meanwhile.
    fn look(&mut self, state: &ClusterState, addresses: &Addresses, heard: &Heard) -> Look {
        let before = match (heard, self.model.take()) {
            (Heard::Some(changes), Some(model)) => {
                let mut edits: Vec<Edit> =
                    changes.iter().filter_map(|change| self.edit(state, change)).collect();
                edits.push(Edit::Attached(addresses.clone()));
                return Look::Some(model, edits);
            }
            (_, before) => before,
        };
        let keys: BTreeSet<&ObjectKey> =
            state.pods.keys().chain(state.static_pods.keys()).collect();
        let mut edits: Vec<Edit> = keys.into_iter().map(|key| pods_of(state, key)).collect();
        self.policies = understood(&self.policies, &state.network_policies);
        edits.extend(
            self.policies
                .iter()
                .map(|(key, (_, policy))| Edit::Policy(key.clone(), Some(policy.clone()))),
        );
        for (set, pods) in &state.policy_peers {
            edits.extend(pods.iter().map(|(pod, peer)| Edit::Peer {
                set: set.clone(),
                pod: pod.clone(),
                peer: Some(peer.clone()),
            }));
        }
        edits.push(Edit::Attached(addresses.clone()));
        Look::All { before, confirmed: state.confirmed, edits }
    }

    fn edit(&mut self, state: &ClusterState, change: &Change) -> Option<Edit> {
        match change {
            Change::Pod(key) => Some(pods_of(state, key)),
            Change::NetworkPolicy(key) => {
                let now = state.network_policies.get(key).map(|object| {
                    let read = read(self.policies.get(key), key, object);
                    self.policies.insert(key.clone(), read.clone());
                    read.1
                });
                if now.is_none() {
                    self.policies.remove(key);
                }
                Some(Edit::Policy(key.clone(), now))
            }
            Change::PolicyPeer(key) => {
                let pods = state.policy_peers.get(&key.namespace);
                Some(Edit::Peer {
                    set: key.namespace.clone(),
                    pod: key.name.clone(),
                    peer: pods.and_then(|pods| pods.get(&key.name)).cloned(),
                })
            }
            _ => None,
        }
    }

    /// One pass.
    async fn sync(&mut self, look: Look) -> Result<(), NftError> {
        let installed = std::mem::replace(&mut self.installed, false);
        let kernel =
            Kernel { nft: self.nft.clone(), tables: self.tables.clone(), round: self.round };
        let pass = tokio::task::spawn_blocking(move || pass(kernel, installed, look));
        let (model, told) = pass.await.map_err(|error| panicked("compute the rules", error))?;
        self.model = Some(model);
        self.round = told?;
        self.installed = true;
        Ok(())
    }
}

/// Zero is the mark of a connection that nobody has marked.
fn next_round(round: u32) -> u32 {
    round.checked_add(1).unwrap_or(1)
}

struct Kernel {
    nft: Arc<Nft>,
    tables: Arc<[Table; 2]>,
    round: u32,
}

impl Kernel {
    fn apply(&self, commands: [Vec<Command>; 2]) -> Result<(), NftError> {
        let [first, second] = &*self.tables;
        self.nft.apply(&[(first, &commands[0]), (second, &commands[1])])
    }

    /// Leads from one content to another; returns the number of the rules from now on.
    fn change(self, news: &[(Content, Content); 2]) -> Result<u32, NftError> {
        let both = |step: fn(&Content, &Content) -> Vec<Command>| {
            news.each_ref().map(|(before, after)| step(before, after))
        };
        self.apply(both(additions))?;
        self.apply(both(changes))?;
        let round = next_round(self.round);
        self.apply(Ip::ALL.map(|ip| numbered(ip, round)))?;
        Ok(round)
    }

    /// Puts contents in place of whatever is there; likewise.
    fn replace(self, contents: &[Content; 2]) -> Result<u32, NftError> {
        let round = next_round(self.round);
        let [first, second] = contents;
        let [v4, v6] = Ip::ALL;
        self.apply([
            numbered_replacement(first, v4, round),
            numbered_replacement(second, v6, round),
        ])?;
        let round = next_round(round);
        self.apply(Ip::ALL.map(|ip| numbered(ip, round)))?;
        Ok(round)
    }
}

/// The model after a pass, and the number of the rules in the kernel.
fn pass(kernel: Kernel, installed: bool, look: Look) -> (Model, Result<u32, NftError>) {
    let started = Instant::now();
    let round = kernel.round;
    let (model, news) = match look {
        Look::Some(mut model, edits) => {
            edits.into_iter().for_each(|edit| model.apply(edit));
            let news = model.news();
            (model, news)
        }
        Look::All { before, confirmed, edits } => {
            let mut model = Model::new(confirmed, edits);
            // The kernel has what the model before said, or nothing.
            model.news();
            let news = before.map(|old| Ip::ALL.map(|ip| (old.content(ip), model.content(ip))));
            let differs = |news: &[(Content, Content); 2]| news.iter().any(|(a, b)| a != b);
            (model, news.filter(differs))
        }
    };
    let told = if !installed {
        kernel.replace(&Ip::ALL.map(|ip| model.content(ip)))
    } else if let Some(news) = news {
        kernel.change(&news)
    } else {
        return (model, Ok(round));
    };
    debug!(classes = model.classes(), took = ?started.elapsed(), "changed the rules of network policies");
    (model, told)
}

/// The pods of a name: one of the API, one out of a file.
fn pods_of(state: &ClusterState, key: &ObjectKey) -> Edit {
    let pods = [&state.pods, &state.static_pods].into_iter().filter_map(|pods| pods.get(key));
    let known = pods.filter_map(|pod| {
        let known = KnownPod {
            namespace: key.namespace.clone(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            ports: named_ports(pod),
        };
        Some((pod.metadata.uid.clone()?, known))
    });
    Edit::Pods(key.clone(), known.collect())
}

/// Policies out of their objects; what was read before is not read again. One that nobody can make
/// sense of lets nobody through: left out, it would open what it was to close.
fn understood(before: &Policies, objects: &HashMap<ObjectKey, Arc<NetworkPolicy>>) -> Policies {
    let read = |(key, object): (&ObjectKey, &Arc<NetworkPolicy>)| {
        (ObjectKey::clone(key), read(before.get(key), key, object))
    };
    objects.iter().map(read).collect()
}

fn read(
    before: Option<&(Option<String>, Arc<Policy>)>,
    key: &ObjectKey,
    object: &NetworkPolicy,
) -> (Option<String>, Arc<Policy>) {
    let version = object.metadata.resource_version.clone();
    let policy = match before {
        Some((same, policy)) if *same == version && version.is_some() => policy.clone(),
        _ => Arc::new(Policy::of(object).unwrap_or_else(|error| {
            error!(policy = %key, %error, "cannot make sense of a network policy: it lets nobody through");
            Policy::closed()
        })),
    };
    (version, policy)
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
