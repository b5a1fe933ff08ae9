//! Names that are not the cluster's: asked of the host's resolvers, and remembered.
//!
//! ```text
//! question ─▶ remembered? ─▶ exchange with one resolver, then the next ─▶ remembered while it holds
//! ```
//!
//! Several askers of the same thing wait for one answer. That bounds a loop, too: a resolver that asks
//! this server what this server asks it waits for itself once, and not for ever more questions. When
//! resolvers come to be known, each is asked for a name that nobody else knows; whoever comes back with
//! that name is not asked again.

mod exchange;
mod told;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use moka::future::Cache;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::exchange::read as read_answer;
use self::exchange::{Wanted, exchange};
pub(crate) use self::told::{Records, Told};
use super::PORT;
use super::message::Question;
use crate::volumes::resolver::host_resolvers;

/// What answers that are remembered may take, in bytes.
const REMEMBERED: u64 = 8 << 20;
/// A resolver that has not answered by then may have lost the question: the next one is asked, too.
const PATIENCE: Duration = Duration::from_millis(500);
/// Nobody waits longer than this: C libraries ask again after 5 s.
const DEADLINE: Duration = Duration::from_millis(4500);
/// How often each resolver is asked one question.
const ROUNDS: usize = 3;
/// A resolver that did not answer comes last for so long.
const AVOIDED: Duration = Duration::from_secs(30);
/// The host's configuration is looked at again, when there is a question, after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Sockets for questions at a time: a quarter of the files that a process may have open by default.
const SOCKETS: usize = 256;

type Servers = dyn Fn() -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// What is asked, in lower case, and what of it is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    name: Name,
    record_type: RecordType,
    class: DNSClass,
    wanted: Wanted,
}

/// Asks the host's resolvers.
pub(crate) struct Forward {
    /// Tells the resolvers.
    servers: Box<Servers>,
    current: Mutex<Option<Current>>,
    remembered: Cache<Key, Arc<Told>>,
    sockets: Semaphore,
}

struct Current {
    looked: Instant,
    upstreams: Vec<Arc<Upstream>>,
    _probes: Vec<AbortOnDropHandle<()>>,
}

/// A resolver of the host.
struct Upstream {
    address: SocketAddr,
    /// A name that only this one is asked for.
    probe: Name,
    health: Mutex<Health>,
}

/// How a resolver fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Health {
    #[default]
    Good,
    /// It did not answer.
    Silent { since: Instant },
    /// It asks this server.
    Loops,
}

impl Forward {
    /// Asks those that the host asks, but for ourselves at `own`.
    pub(crate) fn of_host(own: Vec<IpAddr>) -> Self {
        Self::to(move || {
            let servers = host_resolvers()?.into_iter().filter(|server| !own.contains(server));
            Ok(servers.map(|server| SocketAddr::new(server, PORT)).collect())
        })
    }

    /// Asks those that `servers` tells.
    pub(crate) fn to(
        servers: impl Fn() -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        let remembered = Cache::builder()
            .max_capacity(REMEMBERED)
            .weigher(|_, told: &Arc<Told>| told.weight())
            .expire_after(told::Expires)
            .build();
        Self {
            servers: Box::new(servers),
            current: Mutex::default(),
            remembered,
            sockets: Semaphore::new(SOCKETS),
        }
    }

    /// What the host's resolvers say of a name; `SERVFAIL` when nobody answers.
    pub(crate) async fn ask(&self, name: &Name, question: &Question) -> Arc<Told> {
        let Query { query_type: record_type, query_class: class, .. } = question.query;
        let wanted =
            Wanted { proofs: question.wants_proofs(), unchecked: question.checks_itself() };
        let key = Key { name: name.to_lowercase(), record_type, class, wanted };
        let upstreams = self.upstreams();
        let ask = async {
            match self.ask_all(&upstreams, name, &key).await {
                Some(message) => Arc::new(Told::of(message)),
                None => Arc::new(Told::failed()),
            }
        };
        self.remembered.get_with(key.clone(), ask).await
    }

    /// Whether a question is one of our own that came back. Whoever sent it is not asked again.
    pub(crate) fn is_own(&self, query: &Query) -> bool {
        if query.query_type != RecordType::HINFO {
            return false;
        }
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut upstreams = current.iter().flat_map(|current| &current.upstreams);
        let Some(found) = upstreams.find(|upstream| upstream.probe == query.name) else {
            return false;
        };
        warn!(
            resolver = %found.address,
            "a resolver of this host asks this node for what it does not know, and is not asked any more: \
             name one outside of the cluster in the host's /etc/resolv.conf"
        );
        found.is(Health::Loops);
        true
    }

    /// Asks one after the other until somebody answers.
    async fn ask_all(
        &self,
        upstreams: &[Arc<Upstream>],
        name: &Name,
        key: &Key,
    ) -> Option<Message> {
        let mut query = Query::query(name.clone(), key.record_type);
        query.set_query_class(key.class);
        let now = Instant::now();
        let health = upstreams.iter().map(|upstream| upstream.health());
        let order = order(&health.collect::<Vec<_>>(), now);
        let mut next = (0..ROUNDS).flat_map(|_| &order).map(|at| &upstreams[*at]);
        let mut asked = FuturesUnordered::new();
        let mut last: Option<&Upstream> = None;
        let mut refusal = None;
        let mut deadline = std::pin::pin!(tokio::time::sleep(DEADLINE));
        loop {
            if let Some(upstream) = next.next() {
                last = Some(upstream);
                let (query, sockets) = (&query, &self.sockets);
                asked.push(async move {
                    // The semaphore is never closed.
                    let _socket = sockets.acquire().await;
                    (upstream, exchange(upstream.address, query, key.wanted).await)
                });
            }
            if asked.is_empty() {
                return refusal;
            }
            let mut patience = std::pin::pin!(tokio::time::sleep(PATIENCE));
            tokio::select! {
                Some((upstream, result)) = asked.next() => match result {
                    Ok(message) if is_answer(&message) => {
                        upstream.is(Health::Good);
                        return Some(message);
                    }
                    Ok(message) => refusal = Some(message),
                    Err(error) => {
                        debug!(resolver = %upstream.address, %error, "a resolver does not answer");
                        upstream.is(Health::Silent { since: Instant::now() });
                    }
                },
                () = &mut patience => {
                    if let Some(upstream) = last.take() {
                        upstream.is(Health::Silent { since: Instant::now() });
                    }
                }
                () = &mut deadline => return refusal,
            }
        }
    }

    fn upstreams(&self) -> Vec<Arc<Upstream>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = current.as_mut() {
            if known.looked.elapsed() < LOOK_AGAIN {
                return known.upstreams.clone();
            }
            known.looked = Instant::now();
        }
        let known = current.as_ref().map_or(&[][..], |known| &known.upstreams);
        let servers = match (self.servers)() {
            Ok(servers) => servers,
            Err(error) => {
                warn!(%error, "cannot read the host's resolvers");
                return known.to_vec();
            }
        };
        if current.is_some() && known.iter().map(|known| &known.address).eq(&servers) {
            return known.to_vec();
        }
        let upstreams: Vec<_> = servers.into_iter().map(Upstream::new).map(Arc::new).collect();
        let probes = upstreams.iter().cloned().map(|upstream| {
            AbortOnDropHandle::new(tokio::spawn(async move { upstream.probe().await }))
        });
        let probes = probes.collect();
        let looked = Instant::now();
        *current = Some(Current { looked, upstreams: upstreams.clone(), _probes: probes });
        upstreams
    }
}

impl Upstream {
    fn new(address: SocketAddr) -> Self {
        let label = || exchange::random_u64().map(|number| format!("{number:016x}"));
        // Without chance there is no probe; the root is nobody's.
        let labels = label().and_then(|first| Some(format!("{first}.{}.", label()?)));
        let probe = labels.and_then(|text| Name::from_ascii(text).ok()).unwrap_or_default();
        Self { address, probe, health: Mutex::default() }
    }

    fn health(&self) -> Health {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is(&self, health: Health) {
        let mut known = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != Health::Loops {
            *known = health;
        }
    }

    /// Asks for the name that nobody knows. Its answer is of no interest.
    async fn probe(&self) {
        let query = Query::query(self.probe.clone(), RecordType::HINFO);
        let asked = exchange(self.address, &query, Wanted::default());
        let _ = tokio::time::timeout(DEADLINE, asked).await;
    }
}

/// In which order resolvers are asked: as the host has them, those last that were silent of late.
fn order(health: &[Health], now: Instant) -> Vec<usize> {
    let is_silent = |health: &Health| match health {
        Health::Silent { since } => now.saturating_duration_since(*since) < AVOIDED,
        Health::Good | Health::Loops => false,
    };
    let usable = (0..health.len()).filter(|at| health[*at] != Health::Loops);
    let mut order: Vec<usize> = usable.collect();
    order.sort_by_key(|at| is_silent(&health[*at]));
    order
}

/// Whether the name was looked up at all. Whoever refuses or fails may not be the only one to ask.
fn is_answer(message: &Message) -> bool {
    matches!(message.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{AVOIDED, Health, order};

    #[test]
    fn silent_resolvers_are_asked_last_and_those_that_loop_never() {
        let now = Instant::now();
        let silent = Health::Silent { since: now };
        for (health, wanted) in [
            (vec![], vec![]),
            (vec![Health::Good, Health::Good], vec![0, 1]),
            (vec![silent, Health::Good, Health::Good], vec![1, 2, 0]),
            (vec![silent, silent], vec![0, 1]),
            (vec![Health::Loops, silent, Health::Good], vec![2, 1]),
            (vec![Health::Loops], vec![]),
        ] {
            assert_eq!(order(&health, now + Duration::from_secs(1)), wanted, "{health:?}");
        }
        assert_eq!(order(&[silent, Health::Good], now + AVOIDED), [0, 1]);
    }
}
