//! Who has to hear of which pods because of network policies.
//!
//! A node is told the policies that select its own pods, and the pods that these let through. The
//! latter are kept here by [`PeerSet`], for the sets that sessions of this master listen to and for no
//! others, so that a pod that comes or goes is one small message to those who are concerned, and
//! nothing is looked through: a pod is compared with the sets of its namespace, a namespace with the
//! selectors of namespaces, and a new set is filled out of the namespaces that it is about.
//!
//! News only say where to look: what counts is what the caches have.

mod peer;
mod tell;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::ObjectKey;
use proto::k8s::api::networking::v1::NetworkPolicy;
use proto::node::PolicyPeer;
use proto::policy::{Namespaces, PeerSet, Policy};
use tracing::error;

use self::peer::peer;
use super::hub::SessionHandle;
use super::mailbox::Item;
use crate::cache::{CachedObject, Caches, ObjectEvent};
use crate::store::Revision;

/// The index.
pub(crate) struct Policies {
    caches: Arc<Caches>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Policies as they were when somebody last looked.
    parsed: HashMap<ObjectKey, (Revision, Option<Arc<Policy>>)>,
    sets: HashMap<Arc<str>, Set>,
    /// The sets that pods of a namespace may be in.
    by_namespace: HashMap<String, HashSet<Arc<str>>>,
}

/// A set that somebody listens to.
struct Set {
    what: PeerSet,
    members: HashMap<ObjectKey, Arc<PolicyPeer>>,
    listeners: HashMap<u64, Arc<SessionHandle>>,
}

impl Set {
    /// Takes in what a pod is now; tells whether that changed anything.
    fn set(&mut self, pod: &ObjectKey, peer: Option<PolicyPeer>) -> bool {
        let old = self.members.get(pod).map(Arc::as_ref);
        if old == peer.as_ref() {
            return false;
        }
        match peer {
            Some(peer) => self.members.insert(pod.clone(), Arc::new(peer)),
            None => self.members.remove(pod),
        };
        true
    }

    fn tell(&self, name: &Arc<str>, pod: &ObjectKey) {
        let item = Item::PolicyPeer(name.clone(), Arc::new(pod.clone()));
        self.listeners.values().for_each(|session| session.mailbox.push(item.clone()));
    }
}

impl Policies {
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches, inner: Mutex::default() }
    }

    /// A policy as its type; nothing when it does not make sense, which no write of the API's does.
    pub(crate) fn parsed(&self, object: &CachedObject) -> Option<Arc<Policy>> {
        let mut inner = self.lock();
        if let Some((revision, policy)) = inner.parsed.get(&object.key)
            && *revision == object.revision
        {
            return policy.clone();
        }
        let policy = parse(object);
        inner.parsed.insert(object.key.clone(), (object.revision, policy.clone()));
        policy
    }

    /// The policies of its namespace that select a pod.
    pub(crate) fn selecting(&self, pod: &CachedObject) -> BTreeSet<ObjectKey> {
        let policies = self.objects("networkpolicies", &pod.key.namespace);
        let selecting = policies.into_iter().filter(|object| {
            // What cannot be read is told to every node: it may know better.
            self.parsed(object).is_none_or(|policy| policy.pods.matches(&pod.labels))
        });
        selecting.map(|object| object.key.clone()).collect()
    }

    /// A policy is gone.
    pub(crate) fn forget_policy(&self, key: &ObjectKey) {
        self.lock().parsed.remove(key);
    }

    /// All pods of a set; the session hears of changes from now on.
    pub(crate) fn listen(
        &self,
        session: &Arc<SessionHandle>,
        name: &Arc<str>,
        what: &PeerSet,
    ) -> Vec<Arc<PolicyPeer>> {
        let mut inner = self.lock();
        if !inner.sets.contains_key(name) {
            let listeners = HashMap::new();
            let mut set = Set { what: what.clone(), members: HashMap::new(), listeners };
            for namespace in self.namespaces(what) {
                for pod in self.objects("pods", &namespace) {
                    set.set(&pod.key, peer(&pod, what));
                }
                inner.by_namespace.entry(namespace).or_default().insert(name.clone());
            }
            inner.sets.insert(name.clone(), set);
        }
        let Some(set) = inner.sets.get_mut(name) else { return Vec::new() };
        set.listeners.insert(session.id, session.clone());
        set.members.values().cloned().collect()
    }

    /// The session needs to hear of a set no more.
    pub(crate) fn unlisten(&self, session: &SessionHandle, name: &str) {
        let mut inner = self.lock();
        if let Some(set) = inner.sets.get_mut(name) {
            set.listeners.remove(&session.id);
            inner.drop_unheard();
        }
    }

    /// The session is over, or starts anew.
    pub(crate) fn forget(&self, session: &SessionHandle) {
        let mut inner = self.lock();
        for set in inner.sets.values_mut() {
            set.listeners.remove(&session.id);
        }
        inner.drop_unheard();
    }

    /// A pod as a set has it.
    pub(crate) fn member(&self, set: &str, pod: &ObjectKey) -> Option<Arc<PolicyPeer>> {
        self.lock().sets.get(set)?.members.get(pod).cloned()
    }

    /// A pod came, changed or went.
    pub(crate) fn pod(&self, event: &ObjectEvent) {
        self.look_at(&event.object().key);
    }

    fn look_at(&self, key: &ObjectKey) {
        let mut inner = self.lock();
        let Inner { sets, by_namespace, .. } = &mut *inner;
        let Some(concerned) = by_namespace.get(&key.namespace) else { return };
        let pod = self.caches.resource("pods").and_then(|cache| cache.get(key));
        for name in concerned {
            let Some(set) = sets.get_mut(name) else { continue };
            let now = pod.as_ref().and_then(|pod| peer(pod, &set.what));
            if set.set(key, now) {
                set.tell(name, key);
            }
        }
    }

    /// A namespace came, changed or went: its pods may come into sets or go out of them.
    pub(crate) fn namespace(&self, namespace: &str) {
        let pods = self.objects("pods", namespace);
        let mut inner = self.lock();
        let Inner { sets, by_namespace, .. } = &mut *inner;
        for (name, set) in sets {
            let Namespaces::Labelled(_) = set.what.namespaces else { continue };
            let is_in = self.is_in(namespace, &set.what);
            let concerned = by_namespace.entry(namespace.to_owned()).or_default();
            let was_in =
                if is_in { !concerned.insert(name.clone()) } else { concerned.remove(name) };
            if is_in == was_in {
                continue;
            }
            for pod in &pods {
                let now = is_in.then(|| peer(pod, &set.what)).flatten();
                if set.set(&pod.key, now) {
                    set.tell(name, &pod.key);
                }
            }
        }
        by_namespace.retain(|_, sets| !sets.is_empty());
    }

    /// News were lost: all sets are filled anew when somebody listens again, as all are about to.
    pub(crate) fn look_again(&self) {
        let mut inner = self.lock();
        inner.sets.clear();
        inner.by_namespace.clear();
        inner.parsed.clear();
    }

    /// Where the pods of a set may be.
    fn namespaces(&self, what: &PeerSet) -> Vec<String> {
        match &what.namespaces {
            Namespaces::One(namespace) => vec![namespace.clone()],
            Namespaces::Labelled(selector) => {
                let all = self.caches.resource("namespaces").map(|cache| cache.list(None).1);
                let all = all.unwrap_or_default().into_iter();
                let selected = all.filter(|namespace| selector.matches(&namespace.labels));
                selected.map(|namespace| namespace.key.name.clone()).collect()
            }
        }
    }

    fn is_in(&self, namespace: &str, what: &PeerSet) -> bool {
        let Namespaces::Labelled(selector) = &what.namespaces else { return false };
        let key = ObjectKey::new("", namespace);
        let object = self.caches.resource("namespaces").and_then(|cache| cache.get(&key));
        object.is_some_and(|object| selector.matches(&object.labels))
    }

    fn objects(&self, resource: &str, namespace: &str) -> Vec<Arc<CachedObject>> {
        let listed = self.caches.resource(resource).map(|cache| cache.list(Some(namespace)).1);
        listed.unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn drop_unheard(&mut self) {
        self.sets.retain(|_, set| !set.listeners.is_empty());
        let Self { sets, by_namespace, .. } = self;
        by_namespace.retain(|_, names| {
            names.retain(|name| sets.contains_key(name));
            !names.is_empty()
        });
    }
}

fn parse(object: &CachedObject) -> Option<Arc<Policy>> {
    let decoded = object.decode::<NetworkPolicy>().map_err(|error| error.to_string());
    let policy = decoded.and_then(|policy| Policy::of(&policy).map_err(|error| error.to_string()));
    match policy {
        Ok(policy) => Some(Arc::new(policy)),
        Err(error) => {
            error!(policy = %object.key, %error, "cannot make sense of a network policy");
            None
        }
    }
}
