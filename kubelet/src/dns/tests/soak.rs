//! Questions of all kinds without end, every answer compared with what is right, while endpoints and
//! Services change.
//!
//! What is right follows from the number of changes alone. A question that was asked when so many had been made, and
//! answered when so many had been begun, may be answered as of any moment in between, and as of no other.
//!
//! `KUTTER_DNS_SOAK_SECONDS` has it go on for so long, at 20 000 questions a second if the machine can.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc::{Sender, channel};

use super::super::answer::Shared;
use super::forward::Upstream;
use super::serve::{over_tcp, question, records, serve};
use super::*;

/// Who ask at a time, each when it has its answer.
const CLIENTS: u64 = 8;
/// So many questions, if no time is said.
const QUESTIONS: u64 = 1_600;
/// In a second, if it is.
const RATE: u64 = 20_000;
/// So many questions of one client, and something changes.
const PER_CHANGE: u64 = 20;
/// Endpoints of the headless Service that moves; they are so many of these numbers.
const ENDPOINTS: u64 = 8;
const NUMBERS: u64 = 240;
/// Endpoints that have no room in a datagram.
const WIDE: u64 = 200;
/// What the process may grow by: what others said is remembered up to 8 MiB, by weight.
const GROWTH: u64 = 32 << 20;

/// Something to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// What never changes, by its place in [`STILL`].
    Still(usize),
    Moving,
    MovingServices,
    /// An endpoint by its number.
    Endpoint,
    EndpointBack,
    Hopping,
    Hopping6,
    HoppingBack,
    Alias,
    Wide,
    Forwarded,
    Unheard,
}

/// Names with what is always right of them; nothing: there is no such name.
const STILL: [(&str, RecordType, Option<&[&str]>); 10] = {
    use RecordType as T;
    [
        ("web.shop.svc.cluster.local.", T::A, Some(&["10.96.0.10"])),
        ("web.shop.svc.cluster.local.", T::AAAA, Some(&["fd00:10:96::10"])),
        ("web.shop.svc.cluster.local.", T::MX, Some(&[])),
        (
            "_dns._udp.web.shop.svc.cluster.local.",
            T::SRV,
            Some(&["0 100 53 web.shop.svc.cluster.local."]),
        ),
        ("10.0.96.10.in-addr.arpa.", T::PTR, Some(&["web.shop.svc.cluster.local."])),
        ("far.shop.svc.cluster.local.", T::A, Some(&["192.0.2.1", "www.example.org."])),
        (
            "near.shop.svc.cluster.local.",
            T::A,
            Some(&["10.96.0.10", "web.shop.svc.cluster.local."]),
        ),
        ("web.shop.svc.cluster.local.svc.cluster.local.", T::A, None),
        ("nobody.shop.svc.cluster.local.", T::AAAA, None),
        ("dns-version.cluster.local.", T::TXT, Some(&["1.1.0"])),
    ]
};

const OTHERS: [Kind; 11] = [
    Kind::Moving,
    Kind::MovingServices,
    Kind::Endpoint,
    Kind::EndpointBack,
    Kind::Hopping,
    Kind::Hopping6,
    Kind::HoppingBack,
    Kind::Alias,
    Kind::Wide,
    Kind::Forwarded,
    Kind::Unheard,
];

/// Which endpoints there are after so many changes.
fn numbers(changes: u64) -> impl Iterator<Item = u64> {
    (0..ENDPOINTS).map(move |place| (changes + place) % NUMBERS + 1)
}

/// By which number the Service is known that has another address each time.
fn hop(changes: u64) -> u64 {
    changes % NUMBERS + 1
}

const HOPPING: &str = "hopping.shop.svc.cluster.local.";

impl Kind {
    /// What is asked; `number` is what it is about.
    fn asked(self, number: u64) -> (String, RecordType) {
        use RecordType as T;
        match self {
            Self::Still(place) => (STILL[place].0.to_owned(), STILL[place].1),
            Self::Moving => ("moving.shop.svc.cluster.local.".to_owned(), T::A),
            Self::MovingServices => {
                ("_http._tcp.moving.shop.svc.cluster.local.".to_owned(), T::SRV)
            }
            Self::Endpoint => (format!("pod-{number}.moving.shop.svc.cluster.local."), T::A),
            Self::EndpointBack => (format!("{number}.3.244.10.in-addr.arpa."), T::PTR),
            Self::Hopping => (HOPPING.to_owned(), T::A),
            Self::Hopping6 => (HOPPING.to_owned(), T::AAAA),
            Self::HoppingBack => (format!("{number}.1.96.10.in-addr.arpa."), T::PTR),
            Self::Alias => ("other.shop.svc.cluster.local.".to_owned(), T::A),
            Self::Wide => ("wide.shop.svc.cluster.local.".to_owned(), T::A),
            Self::Forwarded => (format!("www.{}.example.org.", number % 5_000), T::A),
            Self::Unheard => (format!("none.{}.example.org.", number % 5_000), T::A),
        }
    }

    /// What is right after so many changes; nothing: there is no such name.
    fn right(self, number: u64, changes: u64) -> Option<BTreeSet<String>> {
        let one = |text: String| Some(BTreeSet::from([text]));
        let is_there = || numbers(changes).any(|there| there == number);
        match self {
            Self::Still(place) => {
                STILL[place].2.map(|all| all.iter().map(|text| (*text).to_owned()).collect())
            }
            Self::Moving => Some(numbers(changes).map(|n| format!("10.244.3.{n}")).collect()),
            Self::MovingServices => {
                let weight = 100 / ENDPOINTS;
                let target = |n| format!("0 {weight} 8080 pod-{n}.moving.shop.svc.cluster.local.");
                Some(numbers(changes).map(target).collect())
            }
            Self::Endpoint => is_there().then(|| [format!("10.244.3.{number}")].into()),
            Self::EndpointBack => {
                is_there().then(|| [format!("pod-{number}.moving.shop.svc.cluster.local.")].into())
            }
            Self::Hopping => one(format!("10.96.1.{}", hop(changes))),
            Self::Hopping6 => one(format!("fd00:10:96::{:x}", 0x100 + hop(changes))),
            Self::HoppingBack => (hop(changes) == number).then(|| [HOPPING.to_owned()].into()),
            Self::Alias => Some([HOPPING.to_owned(), format!("10.96.1.{}", hop(changes))].into()),
            Self::Wide => Some((1..=WIDE).map(|n| format!("10.244.4.{n}")).collect()),
            Self::Forwarded => one("192.0.2.1".to_owned()),
            Self::Unheard => None,
        }
    }

    /// Whether it may be more than a datagram holds.
    fn is_long(self) -> bool {
        matches!(self, Self::Wide | Self::MovingServices)
    }

    fn is_of_others(self) -> bool {
        matches!(self, Self::Forwarded | Self::Unheard)
    }
}

/// How it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Udp(Option<u16>),
    Tcp,
}

/// What is being changed, and how often it was.
struct World {
    known: Shared,
    begun: AtomicU64,
    made: AtomicU64,
}

impl World {
    fn change(&self, state: &mut ClusterState) {
        let changes = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        for change in put(state, changes) {
            self.known.write().unwrap().names.follow(&change, state);
        }
        self.made.store(changes, Ordering::SeqCst);
    }
}

/// What there is after so many changes, of what changes.
fn put(state: &mut ClusterState, changes: u64) -> [Change; 2] {
    let endpoints: Vec<Value> = numbers(changes)
        .map(|n| json!({"addresses": [format!("10.244.3.{n}")], "hostname": format!("pod-{n}")}))
        .collect();
    let n = hop(changes);
    let (v4, v6) = (format!("10.96.1.{n}"), format!("fd00:10:96::{:x}", 0x100 + n));
    let spec = json!({"clusterIP": v4, "clusterIPs": [v4, v6], "ports": [{"port": 80}]});
    [
        put_slice(state, "moving", "moving-1", json!(endpoints)),
        put_service(state, "shop", "hopping", spec),
    ]
}

struct Client {
    server: SocketAddr,
    world: Arc<World>,
    udp: UdpSocket,
    tcp: Option<TcpStream>,
    random: fastrand::Rng,
    /// What was asked, and how.
    tried: BTreeSet<(Kind, Way)>,
}

impl Client {
    async fn ask_one(&mut self) {
        let random = &mut self.random;
        let kind = match random.usize(..STILL.len() + OTHERS.len()) {
            place if place < STILL.len() => Kind::Still(place),
            place => OTHERS[place - STILL.len()],
        };
        let way = match random.u32(..20) {
            0 => Way::Tcp,
            1..8 => Way::Udp(Some([512, 1232, 4096][random.usize(..3)])),
            _ => Way::Udp(None),
        };
        // Mostly about one that is there, or was a moment ago.
        let near = self.world.made.load(Ordering::SeqCst) + random.u64(..ENDPOINTS + 4);
        let number = match kind {
            Kind::Forwarded | Kind::Unheard => random.u64(..),
            _ => near.saturating_sub(2) % NUMBERS + 1,
        };
        let (name, record_type) = kind.asked(number);
        // In whatever letters: they come back as they were sent.
        let name: String =
            name.chars().map(|c| if random.bool() { c.to_ascii_uppercase() } else { c }).collect();
        let room = match way {
            Way::Udp(room) => room,
            Way::Tcp => Some(1232),
        };
        let mut asked = question(&name, record_type, room);
        let id = random.u16(..);
        asked[..2].copy_from_slice(&id.to_be_bytes());
        let from = self.world.made.load(Ordering::SeqCst);
        let (answer, length) = self.exchange(&asked, way).await;
        let to = self.world.begun.load(Ordering::SeqCst);

        let told = || format!("{name} {record_type} {way:?} at {from}..={to}: {answer:?}");
        let meta = &answer.metadata;
        assert_eq!((meta.id, meta.message_type), (id, MessageType::Response), "{}", told());
        assert_eq!(answer.queries.len(), 1, "{}", told());
        assert_eq!(answer.queries[0].name.to_string(), name, "{}", told());
        assert_eq!(meta.authoritative, !kind.is_of_others(), "{}", told());
        assert_eq!(answer.edns.is_some(), room.is_some(), "{}", told());
        let found: BTreeSet<String> = records(&answer).into_iter().collect();
        assert_eq!(found.len(), answer.answers.len(), "one of them twice: {}", told());
        let is_cut = meta.truncation;
        match way {
            Way::Tcp => assert!(!is_cut, "{}", told()),
            Way::Udp(room) => {
                let most = usize::from(room.unwrap_or(512).clamp(512, 1232));
                assert!(length <= most && (!is_cut || kind.is_long()), "{}", told());
                assert!(is_cut || kind != Kind::Wide, "{}", told());
            }
        }
        let is_right = (from..=to).any(|changes| match kind.right(number, changes) {
            None => meta.response_code == ResponseCode::NXDomain && found.is_empty(),
            Some(right) => {
                let all = if is_cut { found.is_subset(&right) } else { found == right };
                meta.response_code == ResponseCode::NoError && all
            }
        });
        assert!(is_right, "{}", told());
        if found.is_empty() {
            assert!(!answer.authorities.is_empty(), "for how long: {}", told());
        }
        self.tried.insert((kind, way));
    }

    async fn exchange(&mut self, asked: &[u8], way: Way) -> (Message, usize) {
        if way == Way::Tcp {
            // One connection for all: who says nothing for long would lose it, but nobody does.
            if self.tcp.is_none() {
                let stream = TcpStream::connect(self.server).await.unwrap();
                stream.set_nodelay(true).unwrap();
                self.tcp = Some(stream);
            }
            return (over_tcp(self.tcp.as_mut().unwrap(), asked).await, 0);
        }
        let mut buffer = [0; 4096];
        self.udp.send(asked).await.unwrap();
        let length = self.udp.recv(&mut buffer).await.unwrap();
        (Message::from_vec(&buffer[..length]).unwrap(), length)
    }

    /// As many, or until then and as many as are due.
    async fn ask(
        mut self,
        until: Option<Instant>,
        news: Sender<()>,
    ) -> (u64, BTreeSet<(Kind, Way)>) {
        let (begun, mut asked) = (Instant::now(), 0);
        loop {
            match until {
                None if asked == QUESTIONS / CLIENTS => break,
                Some(until) if Instant::now() >= until => break,
                None => {}
                Some(_) => {
                    let due = Duration::from_nanos(1_000_000_000 * CLIENTS / RATE * asked);
                    if let Some(left) = due.checked_sub(begun.elapsed()) {
                        tokio::time::sleep(left).await;
                    }
                }
            }
            self.ask_one().await;
            asked += 1;
            if asked.is_multiple_of(PER_CHANGE) {
                // Whoever changes things may still be at the last one.
                let _ = news.try_send(());
            }
        }
        (asked, self.tried)
    }
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_right_while_endpoints_come_and_go() {
    let seconds = std::env::var("KUTTER_DNS_SOAK_SECONDS").ok();
    let seconds: Option<u64> = seconds.map(|text| text.parse().expect("a number of seconds"));
    let seed = std::env::var("KUTTER_SEED")
        .map_or_else(|_| fastrand::u64(..), |text| text.parse().expect("KUTTER_SEED is a number"));
    println!("KUTTER_SEED={seed}");
    let upstream = Upstream::customary().await;
    let mut state = state();
    let one = json!([{"name": "http", "port": 80}]);
    for name in ["moving", "wide"] {
        put_service(&mut state, "shop", name, json!({"clusterIP": "None", "ports": one}));
    }
    let alias = json!({"type": "ExternalName", "externalName": "hopping.shop.svc.cluster.local"});
    put_service(&mut state, "shop", "other", alias);
    let wide: Vec<Value> =
        (1..=WIDE).map(|n| json!({"addresses": [format!("10.244.4.{n}")]})).collect();
    put_slice(&mut state, "wide", "wide-1", json!(wide));
    let _ = put(&mut state, 0);
    let (server, known) = serve(&state, vec![upstream.address]);
    let world = Arc::new(World { known, begun: AtomicU64::new(0), made: AtomicU64::new(0) });
    let (news, mut heard) = channel(1);
    let before = resident();
    let begun = Instant::now();
    let until = seconds.map(|seconds| begun + Duration::from_secs(seconds));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        udp.connect(server.address).await.unwrap();
        let client = Client {
            server: server.address,
            world: Arc::clone(&world),
            udp,
            tcp: None,
            random: fastrand::Rng::with_seed(seed.wrapping_add(number)),
            tried: BTreeSet::new(),
        };
        clients.push(tokio::spawn(client.ask(until, news.clone())));
    }
    drop(news);
    // Until the last client is done.
    while heard.recv().await.is_some() {
        world.change(&mut state);
    }
    let (mut asked, mut tried) = (0, BTreeSet::new());
    for client in clients {
        let (number, kinds) = client.await.unwrap();
        asked += number;
        tried.extend(kinds);
    }
    let (took, changes) = (begun.elapsed(), world.made.load(Ordering::SeqCst));
    let grown = resident().saturating_sub(before);
    println!(
        "{asked} answers, {:.0}/s, {changes} changes, {} KiB more memory",
        asked as f64 / took.as_secs_f64(),
        grown >> 10
    );
    let kinds: BTreeSet<Kind> = tried.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds.len(), STILL.len() + OTHERS.len(), "{kinds:?}");
    assert!(tried.iter().any(|(_, way)| *way == Way::Tcp));
    assert!(changes > 10, "{changes}");
    // Other tests' memory is nothing that could be told from this one's.
    if std::env::var("NEXTEST_EXECUTION_MODE").is_ok_and(|mode| mode == "process-per-test") {
        assert!(grown < GROWTH, "{grown} bytes");
    }
}
