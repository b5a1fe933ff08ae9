use super::*;
use crate::store::EmbeddedStore;
use crate::store::unreliable::Unreliable;

const PATIENCE: Duration = Duration::from_secs(20);

struct Candidate {
    leadership: Leadership,
    shutdown: CancellationToken,
}

impl Candidate {
    fn start(store: Arc<dyn Store>, identity: &str) -> Self {
        let shutdown = CancellationToken::new();
        let leadership = Leadership::start(store, identity.to_owned(), shutdown.clone());
        Self { leadership, shutdown }
    }

    async fn leads(&self) -> Compare {
        let mut state = self.leadership.watch();
        let leading = tokio::time::timeout(PATIENCE, state.wait_for(Option::is_some)).await;
        let fence = leading.expect("in time").expect("it runs").clone();
        fence.expect("waited for")
    }

    async fn follows(&self) {
        let mut state = self.leadership.watch();
        let following = tokio::time::timeout(PATIENCE, state.wait_for(Option::is_none)).await;
        following.expect("in time").expect("it runs");
    }

    fn is_leading(&self) -> bool {
        self.leadership.watch().borrow().is_some()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.leadership.stopped().await;
    }
}

async fn holds(store: &dyn Store, fence: Compare) -> bool {
    let txn = Txn { compares: vec![fence], ops: vec![] };
    matches!(store.txn(txn).await.expect("an answer"), TxnOutcome::Committed(_))
}

#[tokio::test]
async fn one_leads_and_another_follows_at_once_when_it_stops() {
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::in_memory().expect("a store"));
    let first = Candidate::start(store.clone(), "m1");
    let old_fence = first.leads().await;
    assert!(holds(&*store, old_fence.clone()).await);
    let others = ["m2", "m3"].map(|identity| Candidate::start(store.clone(), identity));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(others.iter().all(|other| !other.is_leading()));

    let begun = Instant::now();
    first.stop().await;
    let (a, b) = (others[0].leadership.watch(), others[1].leadership.watch());
    let leading = async {
        let (mut a, mut b) = (a.clone(), b.clone());
        tokio::select! {
            _ = a.wait_for(Option::is_some) => {}
            _ = b.wait_for(Option::is_some) => {}
        }
    };
    tokio::time::timeout(PATIENCE, leading).await.expect("in time");
    assert!(begun.elapsed() < LEASE_TTL, "nobody waited for the lease to end");
    assert_ne!(a.borrow().is_some(), b.borrow().is_some(), "exactly one");
    assert!(!holds(&*store, old_fence).await, "the old leader cannot write");
}

#[tokio::test]
async fn a_leader_whose_key_is_gone_steps_down_and_stands_again() {
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::in_memory().expect("a store"));
    let only = Candidate::start(store.clone(), "m1");
    let old_fence = only.leads().await;
    let mut state = only.leadership.watch();
    state.mark_unchanged();
    let ops = vec![Op::Delete { key: keys::LEADER.to_owned() }];
    store.txn(Txn { compares: vec![], ops }).await.expect("a transaction");
    let newer = async {
        while state.borrow_and_update().as_ref().is_none_or(|fence| *fence == old_fence) {
            state.changed().await.expect("it runs");
        }
    };
    tokio::time::timeout(PATIENCE, newer).await.expect("it leads again, with a new fence");
    assert!(!holds(&*store, old_fence).await);
    assert!(holds(&*store, only.leads().await).await);
}

#[tokio::test]
async fn a_master_takes_over_from_its_earlier_life_and_from_nobody_elses() {
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::in_memory().expect("a store"));
    let lease = store.grant_lease(Duration::from_secs(600)).await.expect("a lease");
    campaign(&*store, "m1", lease).await.expect("an answer").expect("nobody else holds it");
    let other = Candidate::start(store.clone(), "m2");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!other.is_leading(), "the lease lives on");
    let begun = Instant::now();
    let again = Candidate::start(store.clone(), "m1");
    // Whichever of the two is faster: the dead life's lease does not hold them up.
    let (mut a, mut b) = (other.leadership.watch(), again.leadership.watch());
    let leading = async {
        tokio::select! {
            _ = a.wait_for(Option::is_some) => {}
            _ = b.wait_for(Option::is_some) => {}
        }
    };
    tokio::time::timeout(PATIENCE, leading).await.expect("in time");
    assert!(begun.elapsed() < LEASE_TTL);
    assert!(matches!(store.keep_alive(lease).await, Err(store::Error::NoSuchLease(_))));
}

#[tokio::test]
async fn a_leader_that_cannot_renew_steps_down_before_its_lease_ends() {
    let store = Unreliable::new();
    let only = Candidate::start(store.clone(), "m1");
    only.leads().await;
    tokio::time::pause();
    let cut = Instant::now();
    store.set_cut(true);
    only.follows().await;
    assert!(cut.elapsed() <= LEASE_TTL, "{:?}", cut.elapsed());
    tokio::time::resume();
    store.set_cut(false);
    only.leads().await;
}
