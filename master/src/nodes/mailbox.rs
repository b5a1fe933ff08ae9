//! What a session has yet to tell its node: names of things that changed, each at most once.
//!
//! What is sent is what the cache has when the turn comes. So a slow node hears less often of what
//! changes fast, and what waits for it is bounded by what there is.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::ObjectKey;
use proto::node::OpenTunnel;
use tokio::sync::Notify;

use super::references::Referable;

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Item {
    /// All of it: the node is told everything anew.
    Snapshot,
    /// A pod that is or was bound to the node.
    Pod(Arc<ObjectKey>),
    /// An object that a pod of the node names.
    Named(Referable, Arc<ObjectKey>),
    /// Any service.
    Service(Arc<ObjectKey>),
    /// Any endpoint slice.
    EndpointSlice(Arc<ObjectKey>),
    /// A network policy in whose namespace the node has pods.
    Policy(Arc<ObjectKey>),
    /// A pod that came into, went out of or changed in a set that the node's policies name.
    PolicyPeer(Arc<str>, Arc<ObjectKey>),
    /// What is to be known of another node.
    Peer(Arc<str>),
    /// The node's own object.
    OwnNode,
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Look at it, and tell.
    Item(Item),
    /// Pass it on.
    Tunnel(OpenTunnel),
}

/// Beyond so many items a snapshot is shorter than what waits.
const MAX_ITEMS: usize = 16 * 1024;
/// Requests for tunnels that wait; they time out while they do.
const MAX_TUNNELS: usize = 64;

/// The queue of one session.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    order: VecDeque<Item>,
    waiting: HashSet<Item>,
    tunnels: VecDeque<OpenTunnel>,
}

impl Mailbox {
    /// Something changed.
    pub(crate) fn push(&self, item: Item) {
        let mut inner = self.lock();
        if inner.waiting.contains(&Item::Snapshot) {
            return;
        }
        if item == Item::Snapshot || inner.order.len() >= MAX_ITEMS {
            inner.order.clear();
            inner.waiting.clear();
            inner.waiting.insert(Item::Snapshot);
            inner.order.push_back(Item::Snapshot);
        } else if inner.waiting.insert(item.clone()) {
            inner.order.push_back(item);
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// A tunnel is wanted; tells whether there is room to ask for it.
    pub(crate) fn push_tunnel(&self, tunnel: OpenTunnel) -> bool {
        let mut inner = self.lock();
        if inner.tunnels.len() >= MAX_TUNNELS {
            return false;
        }
        inner.tunnels.push_back(tunnel);
        drop(inner);
        self.wake.notify_one();
        true
    }

    /// Waits for the next thing to tell. Tunnels go first: somebody waits for them.
    pub(crate) async fn next(&self) -> Next {
        loop {
            if let Some(next) = self.try_next() {
                return next;
            }
            self.wake.notified().await;
        }
    }

    fn try_next(&self) -> Option<Next> {
        let mut inner = self.lock();
        if let Some(tunnel) = inner.tunnels.pop_front() {
            return Some(Next::Tunnel(tunnel));
        }
        let item = inner.order.pop_front()?;
        inner.waiting.remove(&item);
        if inner.order.is_empty() && inner.order.capacity() > 256 {
            inner.order.shrink_to(16);
            inner.waiting.shrink_to(16);
        }
        Some(Next::Item(item))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Item {
        Item::Pod(Arc::new(ObjectKey::new("ns", name)))
    }

    fn drain(mailbox: &Mailbox) -> Vec<Item> {
        std::iter::from_fn(|| match mailbox.try_next()? {
            Next::Item(item) => Some(item),
            Next::Tunnel(_) => panic!("no tunnel was asked for"),
        })
        .collect()
    }

    #[test]
    fn what_changes_often_waits_once_and_in_its_first_place() {
        let mailbox = Mailbox::default();
        for name in ["a", "b", "a", "c", "a"] {
            mailbox.push(pod(name));
        }
        assert_eq!(drain(&mailbox), [pod("a"), pod("b"), pod("c")]);
        mailbox.push(pod("a"));
        assert_eq!(drain(&mailbox), [pod("a")]);
    }

    #[test]
    fn a_snapshot_covers_all_that_waits() {
        let mailbox = Mailbox::default();
        mailbox.push(pod("a"));
        mailbox.push(Item::Snapshot);
        mailbox.push(pod("b"));
        assert_eq!(drain(&mailbox), [Item::Snapshot]);
    }

    #[test]
    fn too_much_becomes_a_snapshot() {
        let mailbox = Mailbox::default();
        for number in 0..=MAX_ITEMS {
            mailbox.push(pod(&number.to_string()));
        }
        assert_eq!(drain(&mailbox), [Item::Snapshot]);
    }

    #[test]
    fn tunnels_overtake_objects_and_are_bounded() {
        let mailbox = Mailbox::default();
        mailbox.push(pod("a"));
        for _ in 0..MAX_TUNNELS {
            assert!(mailbox.push_tunnel(OpenTunnel::default()));
        }
        assert!(!mailbox.push_tunnel(OpenTunnel::default()));
        assert!(matches!(mailbox.try_next(), Some(Next::Tunnel(_))));
    }
}
