//! What policies come to on this node, kept as changes come. Pure.
//!
//! A change costs what it touches: a pod that comes into a set is looked for in the classes that hang on the set,
//! and only what its addresses are allowed is found anew; a pod of this node, or a policy, concerns
//! the classes of its own. What the kernel is to be told is what stood there before with what stands
//! there now, of what was touched alone.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use proto::ObjectKey;
use proto::policy::{PodPeer, PodPort, Policy};

use super::class::{Class, Direction, Origin, Peers};
use super::program::{Content, PortsInUse};
use super::reach::Allowed;
use crate::network::Addresses;
use crate::nft::expr::Ip;

/// What a master says of a pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnownPod {
    pub(super) namespace: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) ports: Vec<PodPort>,
}

/// Something that rules may follow from.
#[derive(Clone, Debug)]
pub(super) enum Edit {
    /// The pods of this name, by uid; of those that had it before none is left but these.
    Pods(ObjectKey, Vec<(String, KnownPod)>),
    /// A policy; nothing: it is gone.
    Policy(ObjectKey, Option<Arc<Policy>>),
    /// A pod of a set of peers; nothing: it is in it no more.
    Peer { set: String, pod: String, peer: Option<Arc<PodPeer>> },
    /// All pods that are attached.
    Attached(Addresses),
}

/// What a pod has in the kernel.
#[derive(Debug, Default)]
struct Settled {
    addresses: Vec<IpAddr>,
    /// By direction.
    classes: [Option<String>; 2],
}

#[derive(Debug)]
struct Kept {
    origin: Origin,
    class: Class,
    /// How many pods are of it.
    pods: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// Whether pods that no master knows are cut off. What is on disk may lack a pod that came just before
    /// the kubelet ended.
    confirmed: bool,
    attached: Addresses,
    known: HashMap<String, KnownPod>,
    named: HashMap<ObjectKey, Vec<String>>,
    settled: HashMap<String, Settled>,
    policies: BTreeMap<ObjectKey, Arc<Policy>>,
    sets: HashMap<String, Peers>,
    classes: BTreeMap<String, Kept>,
    /// The classes that hang on a policy, and those that hang on a set.
    of_policy: HashMap<ObjectKey, BTreeSet<String>>,
    of_set: HashMap<String, BTreeSet<String>>,
    /// The class of each isolated address, and whose it is.
    isolated: BTreeMap<(Direction, IpAddr), (String, String)>,
    in_use: [PortsInUse; 2],
    touched: Touched,
}

/// What was there before the changes that the kernel has not been told of.
#[derive(Debug, Default)]
struct Touched {
    isolated: BTreeMap<(Direction, IpAddr), Option<String>>,
    peers: BTreeMap<(String, IpAddr), Option<Allowed>>,
    classes: BTreeMap<String, Option<Class>>,
}

impl Model {
    /// Of what is known at once; the kernel has been told nothing of it.
    pub(super) fn new(confirmed: bool, edits: Vec<Edit>) -> Self {
        let mut model = Self { confirmed, ..Self::default() };
        // Pods come last, so that each class is made once.
        let (pods, others): (Vec<Edit>, Vec<Edit>) =
            edits.into_iter().partition(|edit| matches!(edit, Edit::Attached(_)));
        others.into_iter().chain(pods).for_each(|edit| model.apply(edit));
        model
    }

    pub(super) fn apply(&mut self, edit: Edit) {
        match edit {
            Edit::Pods(key, pods) => {
                let mut concerned: BTreeSet<String> =
                    self.named.remove(&key).into_iter().flatten().collect();
                concerned.iter().for_each(|uid| drop(self.known.remove(uid)));
                let uids: Vec<String> = pods.iter().map(|(uid, _)| uid.clone()).collect();
                concerned.extend(uids.iter().cloned());
                self.known.extend(pods);
                if !uids.is_empty() {
                    self.named.insert(key, uids);
                }
                concerned.iter().for_each(|uid| self.settle(uid));
            }
            Edit::Policy(key, policy) => self.put_policy(key, policy),
            Edit::Peer { set, pod, peer } => self.put_peer(set, &pod, peer),
            Edit::Attached(pods) => {
                let before = std::mem::replace(&mut self.attached, pods);
                let changed = |uid: &&String| before.get(*uid) != self.attached.get(*uid);
                let concerned: BTreeSet<String> =
                    before.keys().chain(self.attached.keys()).filter(changed).cloned().collect();
                concerned.iter().for_each(|uid| self.settle(uid));
            }
        }
    }

    fn put_policy(&mut self, key: ObjectKey, policy: Option<Arc<Policy>>) {
        let namespace = key.namespace.clone();
        // Those that stay of it are made anew; those that nobody is of any more go with the last pod.
        let hanging = self.of_policy.get(&key).cloned().unwrap_or_default();
        match policy {
            Some(policy) => drop(self.policies.insert(key, policy)),
            None => drop(self.policies.remove(&key)),
        }
        for name in hanging {
            let Some(kept) = self.classes.get(&name) else { continue };
            let class = Class::new(&kept.origin, &self.policies, &self.sets);
            self.put_class(&name, class);
        }
        let is_there =
            |uid: &&String| self.known.get(*uid).is_some_and(|pod| pod.namespace == namespace);
        let there: Vec<String> = self.attached.keys().filter(is_there).cloned().collect();
        there.iter().for_each(|uid| self.settle(uid));
    }

    fn put_peer(&mut self, set: String, pod: &str, peer: Option<Arc<PodPeer>>) {
        let peers = self.sets.entry(set.clone()).or_default();
        let concerned = peers.set(pod, peer);
        if peers.is_empty() {
            self.sets.remove(&set);
        }
        for name in self.of_set.get(&set).into_iter().flatten() {
            let Some(Kept { class, .. }) = self.classes.get_mut(name) else { continue };
            for address in &concerned {
                let now = class.at(*address, &self.sets);
                let before = match now.clone() {
                    Some(allowed) => class.peers.insert(*address, allowed),
                    None => class.peers.remove(address),
                };
                if before != now && !self.touched.classes.contains_key(name) {
                    self.touched.peers.entry((name.clone(), *address)).or_insert(before);
                }
            }
        }
    }

    /// Gives a class another content.
    fn put_class(&mut self, name: &str, class: Class) {
        let Some(kept) = self.classes.get_mut(name) else { return };
        for set in class.sets() {
            enter(&mut self.of_set, set, name);
        }
        let before = std::mem::replace(&mut kept.class, class);
        let still: BTreeSet<&str> = kept.class.sets().collect();
        for set in before.sets().filter(|set| !still.contains(set)) {
            strike(&mut self.of_set, set, name);
        }
        self.touched.class(name, Some(before));
    }

    /// Puts a pod into the classes that it is of now.
    fn settle(&mut self, uid: &str) {
        let addresses = self.attached.get(uid).cloned();
        let known = self.known.get(uid);
        let counts = addresses.is_some() && (known.is_some() || self.confirmed);
        let origins = Direction::ALL.map(|direction| {
            let namespace = known.map(|pod| pod.namespace.as_str()).unwrap_or_default();
            let start = ObjectKey::new(namespace, "");
            let own = self.policies.range(start..);
            let own = own.take_while(|(key, _)| key.namespace == namespace);
            counts.then(|| Origin::of(known, direction, own)).flatten()
        });
        let new = Settled {
            addresses: addresses.filter(|_| counts).unwrap_or_default(),
            classes: origins.each_ref().map(|origin| origin.as_ref().map(Origin::name)),
        };
        for origin in origins.into_iter().flatten() {
            self.join(origin);
        }
        let old = self.settled.remove(uid).unwrap_or_default();
        for (direction, class) in Direction::ALL.into_iter().zip(&old.classes) {
            for address in old.addresses.iter().filter(|_| class.is_some()) {
                let is_own = |(_, whose): &(String, String)| whose == uid;
                if self.isolated.get(&(direction, *address)).is_some_and(is_own) {
                    let before = self.isolated.remove(&(direction, *address));
                    self.touched.isolated(direction, *address, before);
                }
            }
        }
        for (direction, class) in Direction::ALL.into_iter().zip(&new.classes) {
            for address in &new.addresses {
                let Some(class) = class else { continue };
                let now = (class.clone(), uid.to_owned());
                let before = self.isolated.insert((direction, *address), now);
                self.touched.isolated(direction, *address, before);
            }
        }
        old.classes.into_iter().flatten().for_each(|name| self.leave(&name));
        if counts {
            self.settled.insert(uid.to_owned(), new);
        }
    }

    fn join(&mut self, origin: Origin) {
        let name = origin.name();
        if let Some(kept) = self.classes.get_mut(&name) {
            kept.pods += 1;
            return;
        }
        let class = Class::new(&origin, &self.policies, &self.sets);
        class.sets().for_each(|set| enter(&mut self.of_set, set, &name));
        origin.policies.iter().for_each(|key| enter(&mut self.of_policy, key, &name));
        self.touched.class(&name, None);
        self.classes.insert(name, Kept { origin, class, pods: 1 });
    }

    fn leave(&mut self, name: &str) {
        let Some(kept) = self.classes.get_mut(name) else { return };
        kept.pods -= 1;
        if kept.pods > 0 {
            return;
        }
        let Some(Kept { origin, class, .. }) = self.classes.remove(name) else { return };
        class.sets().for_each(|set| strike(&mut self.of_set, set, name));
        origin.policies.iter().for_each(|key| strike(&mut self.of_policy, key, name));
        self.touched.class(name, Some(class));
    }

    /// How many classes there are.
    pub(super) fn classes(&self) -> usize {
        self.classes.len()
    }

    /// What is to be in the table of a version.
    pub(super) fn content(&self, ip: Ip) -> Content {
        let mut content = Content::bare(ip);
        let mut in_use = PortsInUse::default();
        let own = self.isolated.iter().filter(|((_, address), _)| Ip::of(*address) == ip);
        for ((direction, address), (class, _)) in own {
            content.isolate(ip, *direction, *address, Some(class));
            content.own(*address);
        }
        for (name, kept) in &self.classes {
            content.class(ip, name, &kept.class, &mut in_use);
        }
        in_use.put(&mut content);
        content
    }

    /// What was touched since the last time: as it was, and as it is now, in the table of each version. Nothing when all
    /// is as it was.
    pub(super) fn news(&mut self) -> Option<[(Content, Content); 2]> {
        let Touched { isolated, peers, classes } = std::mem::take(&mut self.touched);
        let news = Ip::ALL.map(|ip| {
            let (mut before, mut after) = (Content::default(), Content::default());
            let in_use = &mut self.in_use[usize::from(ip == Ip::V6)];
            for (name, was) in &classes {
                let now = self.classes.get(name).map(|kept| &kept.class);
                // What is there counts before what is not, so that ports that stay are kept.
                now.into_iter().for_each(|class| after.class(ip, name, class, in_use));
                let mut gone = PortsInUse::default();
                was.iter().for_each(|class| before.class(ip, name, class, &mut gone));
                in_use.take_away(&gone);
            }
            for ((name, address), was) in peers.iter().filter(|((_, a), _)| Ip::of(*a) == ip) {
                let Some(Kept { class, .. }) = self.classes.get(name) else { continue };
                let now = class.peers.get(address);
                if now == was.as_ref() {
                    continue;
                }
                after.peer(ip, name, *address, now, in_use);
                let mut gone = PortsInUse::default();
                before.peer(ip, name, *address, was.as_ref(), &mut gone);
                in_use.take_away(&gone);
            }
            for ((direction, address), was) in &isolated {
                if Ip::of(*address) != ip {
                    continue;
                }
                let now = self.isolated.get(&(*direction, *address)).map(|(class, _)| class);
                before.isolate(ip, *direction, *address, was.as_ref());
                after.isolate(ip, *direction, *address, now);
                let in_any = |at: &dyn Fn(Direction) -> bool| Direction::ALL.into_iter().any(at);
                let is = |direction| self.isolated.contains_key(&(direction, *address));
                let was = |direction| match isolated.get(&(direction, *address)) {
                    Some(was) => was.is_some(),
                    None => is(direction),
                };
                before.own_set(ip);
                after.own_set(ip);
                if in_any(&was) {
                    before.own(*address);
                }
                if in_any(&is) {
                    after.own(*address);
                }
            }
            in_use.settle(&mut before, &mut after);
            (before, after)
        });
        news.iter().any(|(before, after)| before != after).then_some(news)
    }
}

/// Enters a class into an index of those that hang on something.
fn enter<K, Q>(index: &mut HashMap<K, BTreeSet<String>>, key: &Q, class: &str)
where
    K: Borrow<Q> + Eq + Hash,
    Q: ToOwned<Owned = K> + Eq + Hash + ?Sized,
{
    if let Some(all) = index.get_mut(key) {
        all.insert(class.to_owned());
    } else {
        index.insert(key.to_owned(), BTreeSet::from([class.to_owned()]));
    }
}

fn strike<K, Q>(index: &mut HashMap<K, BTreeSet<String>>, key: &Q, class: &str)
where
    K: Borrow<Q> + Eq + Hash,
    Q: Eq + Hash + ?Sized,
{
    if let Some(all) = index.get_mut(key) {
        all.remove(class);
        if all.is_empty() {
            index.remove(key);
        }
    }
}

impl Touched {
    fn class(&mut self, name: &str, was: Option<Class>) {
        if self.classes.contains_key(name) {
            return;
        }
        // What was touched of it already goes back to what it was.
        let range = (name.to_owned(), IpAddr::from([0; 4]))..;
        let of_it: Vec<(String, IpAddr)> = self
            .peers
            .range(range)
            .take_while(|((class, _), _)| class == name)
            .map(|(key, _)| key.clone())
            .collect();
        let mut was = was;
        for key in of_it {
            let before = self.peers.remove(&key).flatten();
            if let Some(was) = &mut was {
                match before {
                    Some(allowed) => drop(was.peers.insert(key.1, allowed)),
                    None => drop(was.peers.remove(&key.1)),
                }
            }
        }
        self.classes.insert(name.to_owned(), was);
    }

    fn isolated(&mut self, direction: Direction, address: IpAddr, was: Option<(String, String)>) {
        self.isolated.entry((direction, address)).or_insert(was.map(|(class, _)| class));
    }
}
