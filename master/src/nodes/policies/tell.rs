//! The way down of what network policies say: the sets of pods that a policy names go before it.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::ObjectKey;
use proto::node::session_down::Message;
use proto::node::{PolicyPeer, PolicyPeers, PolicyPeersRemoved};
use proto::policy::PeerSet;

use crate::cache::CachedObject;
use crate::nodes::feed::{Feed, FeedEnd};
use crate::nodes::references::{Difference, Referable};

/// So many pods at most are told in one message: some hundred bytes each, of the megabytes that a
/// message may have.
const PODS_IN_A_MESSAGE: usize = 4096;

impl Feed {
    /// A policy of a namespace in which the node has pods came, changed or went.
    pub(in crate::nodes) async fn policy_changed(&self, key: &ObjectKey) -> Result<(), FeedEnd> {
        let pods = self.session.told().pods_in(&key.namespace);
        let mut all = Difference::default();
        for (pod, told) in pods {
            // One that is gone is told of in its turn.
            let Some(object) = self.hub.object("pods", &pod) else { continue };
            let references = self.references_of(&object);
            let Difference { added, removed } = self.session.told().put(&pod, told, references);
            all.added.extend(added);
            all.removed.extend(removed);
        }
        let reference = (Referable::NetworkPolicy, key.clone());
        let known = self.session.told().is_named(&reference);
        if known && !all.added.contains(&reference) {
            all.added.push(reference);
        }
        // The same may be both: named by a pod no more before another names it.
        all.removed.retain(|reference| !self.session.told().is_named(reference));
        self.difference(all).await
    }

    /// The pods that a policy is about, those of them that are new to the node, then the policy.
    pub(in crate::nodes) async fn policy(&self, object: &CachedObject) -> Result<(), FeedEnd> {
        let policy = self.hub.policies.parsed(object);
        let sets: Vec<(Arc<str>, &PeerSet)> = policy
            .iter()
            .flat_map(|policy| policy.peer_sets())
            .map(|set| (set.to_string().into(), set))
            .collect();
        let names: BTreeSet<Arc<str>> = sets.iter().map(|(name, _)| name.clone()).collect();
        let (added, removed) = self.session.told().policy(&object.key, names);
        for (name, set) in sets.iter().filter(|(name, _)| added.contains(name)) {
            let peers = self.hub.policies.listen(&self.session, name, set);
            self.peer_set(name, peers).await?;
        }
        self.put("networkpolicies", &object.key, object.json.clone()).await?;
        self.release(removed).await
    }

    /// A policy does not apply to any pod of the node any more.
    pub(in crate::nodes) async fn release_policy(&self, key: &ObjectKey) -> Result<(), FeedEnd> {
        let (_, removed) = self.session.told().policy(key, BTreeSet::new());
        self.release(removed).await
    }

    async fn release(&self, sets: Vec<Arc<str>>) -> Result<(), FeedEnd> {
        for set in sets {
            self.hub.policies.unlisten(&self.session, &set);
            let removed = PolicyPeersRemoved { set: set.to_string() };
            self.send(Message::PolicyPeersRemoved(removed)).await?;
        }
        Ok(())
    }

    /// All pods of a set.
    async fn peer_set(&self, set: &str, peers: Vec<Arc<PolicyPeer>>) -> Result<(), FeedEnd> {
        let mut parts = peers.chunks(PODS_IN_A_MESSAGE);
        let mut part = parts.next().unwrap_or_default();
        let mut whole = true;
        loop {
            let put = part.iter().map(|peer| PolicyPeer::clone(peer)).collect();
            let peers = PolicyPeers { set: set.to_owned(), whole, put, removed: Vec::new() };
            self.send(Message::PolicyPeers(peers)).await?;
            whole = false;
            part = match parts.next() {
                Some(part) => part,
                None => return Ok(()),
            };
        }
    }

    /// A pod came into, went out of or changed in a set.
    pub(in crate::nodes) async fn policy_peer(
        &self,
        set: &str,
        pod: &ObjectKey,
    ) -> Result<(), FeedEnd> {
        // The policy that named the set may have gone since.
        if !self.session.told().has_peer_set(set) {
            return Ok(());
        }
        let (put, removed) = match self.hub.policies.member(set, pod) {
            Some(peer) => (vec![PolicyPeer::clone(&peer)], Vec::new()),
            None => (Vec::new(), vec![pod.to_string()]),
        };
        let peers = PolicyPeers { set: set.to_owned(), whole: false, put, removed };
        self.send(Message::PolicyPeers(peers)).await
    }
}
