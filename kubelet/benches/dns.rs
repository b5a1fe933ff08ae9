//! The node's DNS server under load, in a network namespace of its own.
//!
//! The server is the real one, on a thread of its own; clients and a resolver behind it are on others. What
//! a core answers is told by the processor time that the server's thread took: the clients share the
//! machine with it.
//!
//! `cargo bench -p kubelet --bench dns` prints a report; `-- --seconds 60` goes on for longer.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use kubelet::dns;
use kubelet::state::{Change, StateHandle};
use nix::sched::{CloneFlags, unshare};
use proto::ObjectKey;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// As many Services as a large cluster has, each with as many endpoints.
const SERVICES: usize = 10_000;
const ENDPOINTS: usize = 25;
/// Where the server answers.
const SERVER: &str = "10.244.1.1:53";
/// Sockets that ask; each waits for its answer before it asks again.
const CLIENTS: usize = 16;
/// What is to be kept.
const ANSWERS: f64 = 20_000.0;
const P99: Duration = Duration::from_millis(1);
const CHANGE: Duration = Duration::from_millis(200);

fn main() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: a network namespace takes root");
        return;
    }
    let seconds = seconds();
    own_network();
    let before = resident();
    let state = StateHandle::default();
    state.write([Change::Everything], fill);
    let filled = resident();
    let shutdown = CancellationToken::new();
    let (server, stop) = (state.clone(), shutdown.clone());
    let server = thread::Builder::new().name("dns".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(dns::run(server, stop));
    });
    let server = server.expect("a thread");
    let begun = Instant::now();
    let client = Client::new();
    while client.ask(&name(0), RecordType::A).is_none() {}
    println!("| measured | figure | budget | conditions |\n|---|---|---|---|");
    row(
        "from the state to the first answer",
        format!("{} ms", begun.elapsed().as_millis()),
        "",
        &format!("{SERVICES} Services with {ENDPOINTS} endpoints each"),
    );
    row(
        "memory of the names",
        format!("{} MB", (resident() - filled) >> 20),
        "",
        &format!("beside {} MB of the objects themselves", (filled - before) >> 20),
    );
    throughput(seconds);
    let loaded = resident();
    at_half(seconds);
    row(
        "memory after that, above what it was",
        format!("{} MB", resident().saturating_sub(loaded) >> 20),
        "",
        "the clients included",
    );
    changes(&state, &client);
    shutdown.cancel();
    server.join().expect("the server ends");
}

/// As many questions as the clients can ask.
fn throughput(seconds: u64) {
    for (what, questions) in [
        ("a Service's address", vec![(name(7), RecordType::A)]),
        ("a headless Service with 25 endpoints", vec![(headless(1), RecordType::A)]),
        ("an endpoint by its name", vec![(format!("pod-3.{}", headless(1)), RecordType::A)]),
        ("an endpoint's name by its address", vec![(reverse(1, 3), RecordType::PTR)]),
        (
            "no such name, as search domains ask for",
            vec![("web.shop.svc.cluster.local.svc.cluster.local.".to_owned(), RecordType::A)],
        ),
        ("a mixture", mixture()),
    ] {
        let (cpu, begun) = (server_time(), Instant::now());
        let answered = load(&questions, Duration::from_secs(seconds), None).len();
        let (cpu, took) = (server_time() - cpu, begun.elapsed());
        let per_core = answered as f64 / cpu.as_secs_f64();
        row(
            &format!("answers/s on one core: {what}"),
            format!("{per_core:.0}{}", miss(per_core < ANSWERS)),
            "20 000",
            &format!(
                "{:.0}/s by the clock, {CLIENTS} clients, {:.0} % of a core",
                answered as f64 / took.as_secs_f64(),
                100.0 * cpu.as_secs_f64() / took.as_secs_f64()
            ),
        );
    }
}

/// Half the load that has to be borne.
fn at_half(seconds: u64) {
    let rate = ANSWERS / 2.0;
    let mut times = load(&mixture(), Duration::from_secs(seconds), Some(rate));
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    row(
        "an answer under half of that, p99",
        format!("{:.2} ms{}", at(0.99).as_secs_f64() * 1e3, miss(at(0.99) > P99)),
        "1 ms",
        &format!(
            "{:.0} questions/s of all kinds for {seconds} s; p50 {:.2} ms, most {:.2} ms",
            times.len() as f64 / seconds as f64,
            at(0.5).as_secs_f64() * 1e3,
            at(1.0).as_secs_f64() * 1e3
        ),
    );
}

/// An endpoint changes, until the answer is another.
fn changes(state: &StateHandle, client: &Client) {
    let mut times: Vec<Duration> = (0..200)
        .map(|round| {
            let (key, slice) = slice(1, round % 200);
            let begun = Instant::now();
            state.write([Change::EndpointSlice(key.clone())], |state| {
                state.endpoint_slices.insert(key, slice);
            });
            let label = format!("moved-{round}.{}", headless(1));
            while client.ask(&label, RecordType::A) != Some(ResponseCode::NoError) {}
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    let most = times[times.len() - 1];
    row(
        "an endpoint's change, to the answer that tells it, most of 200",
        format!("{:.2} ms{}", most.as_secs_f64() * 1e3, miss(most > CHANGE)),
        "200 ms",
        &format!("p50 {:.2} ms; asked again and again", times[100].as_secs_f64() * 1e3),
    );
}

/// Asks from all clients for so long, at this rate in all or as fast as answers come. How long each
/// answer took; at a rate, from when the question was due.
fn load(questions: &[(String, RecordType)], time: Duration, rate: Option<f64>) -> Vec<Duration> {
    let over = Arc::new(AtomicBool::new(false));
    let packets: Vec<Vec<u8>> =
        questions.iter().map(|(name, record_type)| packet(name, *record_type)).collect();
    let packets = Arc::new(packets);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (over, packets) = (Arc::clone(&over), Arc::clone(&packets));
            thread::spawn(move || {
                let client = Client::new();
                let mut times = Vec::new();
                let begun = Instant::now();
                let every = rate.map(|rate| Duration::from_secs_f64(CLIENTS as f64 / rate));
                for round in 0_u32.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let mut due = Instant::now();
                    if let Some(every) = every {
                        // All begin at another moment.
                        let offset = every / CLIENTS as u32 * number as u32;
                        due = begun + offset + every * round;
                        thread::sleep(due.saturating_duration_since(Instant::now()));
                    }
                    let packet = &packets[(number + round as usize) % packets.len()];
                    if client.send(packet).is_some() {
                        times.push(due.elapsed());
                    }
                }
                times
            })
        })
        .collect();
    thread::sleep(time);
    over.store(true, Ordering::Relaxed);
    clients.into_iter().flat_map(|client| client.join().expect("a client ends")).collect()
}

struct Client {
    socket: UdpSocket,
}

impl Client {
    fn new() -> Self {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.connect(SERVER).expect("a server");
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a time-out");
        Self { socket }
    }

    fn ask(&self, name: &str, record_type: RecordType) -> Option<ResponseCode> {
        let answer = self.send(&packet(name, record_type))?;
        Some(Message::from_vec(&answer).expect("an answer can be read").metadata.response_code)
    }

    /// The answer; nothing when the server is not there yet, or the answer was lost.
    fn send(&self, packet: &[u8]) -> Option<Vec<u8>> {
        self.socket.send(packet).ok()?;
        let mut buffer = [0; 2048];
        let length = self.socket.recv(&mut buffer).ok()?;
        assert_eq!(buffer[..2], packet[..2], "an answer to another question");
        Some(buffer[..length].to_vec())
    }
}

fn packet(name: &str, record_type: RecordType) -> Vec<u8> {
    let mut message = Message::new(fastrand::u16(..), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), record_type));
    message.to_vec().expect("a question")
}

/// What pods ask: most of it is not where the first search domain looks.
fn mixture() -> Vec<(String, RecordType)> {
    let mut questions = Vec::new();
    for number in (0..SERVICES).step_by(97) {
        for record_type in [RecordType::A, RecordType::AAAA] {
            questions.push((name(number), record_type));
            questions.push((format!("{}other.svc.cluster.local.", name(number)), record_type));
        }
        questions.push((headless(number), RecordType::A));
        questions.push((format!("_http._tcp.{}", name(number)), RecordType::SRV));
        questions.push((reverse(number, 3), RecordType::PTR));
    }
    questions
}

fn name(number: usize) -> String {
    format!("web-{number}.shop.svc.cluster.local.")
}

fn headless(number: usize) -> String {
    format!("pods-{}.shop.svc.cluster.local.", number / 10)
}

/// Every tenth is headless.
fn is_headless(number: usize) -> bool {
    number % 10 == 1
}

fn pod(service: usize, endpoint: usize) -> Ipv4Addr {
    let number = u32::try_from(service * 32 + endpoint).expect("a small number");
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + number)
}

fn reverse(service: usize, endpoint: usize) -> String {
    let service = service / 10 * 10 + 1;
    let [a, b, c, d] = pod(service, endpoint).octets();
    format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
}

fn fill(state: &mut kubelet::state::ClusterState) {
    state.pod_cidrs = vec!["10.244.0.0/16".to_owned(), "10.128.0.0/9".to_owned()];
    state.service_cidrs = vec!["10.64.0.0/12".to_owned()];
    state.cluster_domain = "cluster.local".to_owned();
    let node = json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.244.1.0/24"}});
    state.node = Some(Arc::new(decoded(node)));
    for number in 0..SERVICES {
        let [_, _, high, low] = u32::try_from(number + 1).expect("small").to_be_bytes();
        let (name, address) = match is_headless(number) {
            true => (format!("pods-{}", number / 10), "None".to_owned()),
            false => (format!("web-{number}"), format!("10.64.{high}.{low}")),
        };
        let spec = json!({
            "clusterIP": address, "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
        });
        let metadata = json!({"name": name, "namespace": "shop"});
        let service = decoded(json!({"metadata": metadata, "spec": spec}));
        state.services.insert(ObjectKey::new("shop", name), Arc::new(service));
        let (key, slice) = slice(number, ENDPOINTS);
        state.endpoint_slices.insert(key, slice);
    }
}

/// A Service's endpoints, one of which tells by its name in which round it was made.
fn slice(number: usize, round: usize) -> (ObjectKey, Arc<kubelet::state::EndpointSlice>) {
    let owner = match is_headless(number) {
        true => format!("pods-{}", number / 10),
        false => format!("web-{number}"),
    };
    let endpoints: Vec<Value> = (0..ENDPOINTS)
        .map(|endpoint| {
            let label = match endpoint {
                0 => format!("moved-{round}"),
                _ => format!("pod-{endpoint}"),
            };
            json!({
                "addresses": [pod(number, endpoint).to_string()],
                "conditions": {"ready": true},
                "hostname": is_headless(number).then_some(label),
            })
        })
        .collect();
    let name = format!("{owner}-1");
    let slice = json!({
        "metadata": {
            "name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": owner},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    });
    (ObjectKey::new("shop", name), Arc::new(decoded(slice)))
}

fn decoded<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).expect("an object")
}

/// Leaves the machine's network for one with the server's address and nothing else.
fn own_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
    for words in ["link set lo up", "address add 10.244.1.1/24 dev lo"] {
        let ended = Command::new("ip").args(words.split(' ')).status().expect("ip runs");
        assert!(ended.success(), "ip {words}");
    }
}

/// Processor time of the server's thread.
fn server_time() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").expect("threads").flatten();
    let named = tasks
        .map(|task| task.path())
        .find(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "dns"));
    let stat = named.and_then(|task| fs::read_to_string(task.join("schedstat")).ok());
    let stat = stat.expect("the server's thread");
    let nanoseconds = stat.split(' ').next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").expect("memory");
    let pages = statm.split(' ').nth(1).and_then(|field| field.parse::<u64>().ok());
    pages.expect("a number") * 4096
}

fn seconds() -> u64 {
    let mut words = std::env::args().skip_while(|word| word != "--seconds").skip(1);
    words.next().and_then(|word| word.parse().ok()).unwrap_or(3)
}

fn miss(is_missed: bool) -> &'static str {
    if is_missed { " (a miss)" } else { "" }
}

fn row(measured: &str, figure: String, budget: &str, conditions: &str) {
    println!("| {measured} | {figure} | {budget} | {conditions} |");
}
