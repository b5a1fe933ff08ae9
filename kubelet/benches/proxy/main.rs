//! What a node's table of Services costs: how long the kernel's rules take, all of them at first and one
//! endpoint's change, beside `nft -f` of the same Services as kube-proxy makes them; and how much memory
//! the kubelet has for it, by part. In a network namespace of its own; needs root and `nft`.
//!
//! ```text
//! cargo bench -p kubelet --bench proxy -- [--sizes 10x10,1000x10,10000x25] [--nft-seconds 900]
//! ```
//!
//! `--nft-seconds` is how long `nft -f` may take; 0 leaves it out. The largest size takes it minutes.

mod cluster;
mod memory;
mod other;

use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use kubelet::dns;
use kubelet::network::HostPorts;
use kubelet::nft::Connection;
use kubelet::proxy::{self, ProxyConfig};
use kubelet::state::{Change, StateHandle};
use tokio_util::sync::CancellationToken;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use self::cluster::{GATEWAY, Size, fill, slice};
use self::memory::Memory;

/// So many single changes are measured; each makes another address the first endpoint's.
const CHANGES: u32 = 150;

/// How long anything of ours may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// What is to be kept, of the largest size: bytes of all parts together.
const MEMORY: usize = 150 << 20;

fn main() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: it makes a network namespace and needs root");
        return;
    }
    // As the kubelet does.
    ::memory::bound(2);
    own_network();
    let (send, passes) = channel();
    let subscriber = tracing_subscriber::registry().with(Passes(send));
    tracing::subscriber::set_global_default(subscriber).expect("no other subscriber");
    let nft_patience = Duration::from_secs(
        option("--nft-seconds")
            .map_or(900, |seconds| seconds.parse().expect("a number of seconds")),
    );
    let sizes = option("--sizes").unwrap_or_else(|| "10x10,1000x10,10000x25".to_owned());
    let measured: Vec<Measured> =
        sizes.split(',').map(|text| measure(size(text), &passes, nft_patience)).collect();
    println!(
        "\n| Services x endpoints | all at first | nft -f | one endpoint, p50 | p99 | nft -f |"
    );
    println!("|---|---|---|---|---|---|");
    measured.iter().for_each(|one| println!("{}", one.times));
    println!(
        "\n| Services x endpoints | memory of | live heap | resident share | peak meanwhile |"
    );
    println!("|---|---|---|---|---|");
    measured.iter().flat_map(|one| &one.memory).for_each(|row| println!("{row}"));
}

struct Measured {
    times: String,
    memory: Vec<String>,
}

fn measure(size: Size, passes: &Receiver<String>, nft_patience: Duration) -> Measured {
    let Size { services, endpoints } = size;
    let of = format!("{services} x {endpoints}");
    let mut parts = Parts::new(&of);
    let state = StateHandle::default();
    fill(&state, size);
    parts.came("what the master said");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let stop = CancellationToken::new();
    let naming = runtime.spawn(dns::run(state.clone(), stop.clone()));
    wait_for(passes, "answering for names");
    parts.came("names");
    let config = ProxyConfig {
        table: "kutter".into(),
        node_name: "here".into(),
        pods_of_range: true,
        node_port_addresses: Default::default(),
    };
    let began = Instant::now();
    let (ports, connection) = (HostPorts::default(), Connection::default());
    let running = runtime.spawn(proxy::run(state.clone(), ports, connection, config, stop.clone()));
    wait_for(passes, "installed the rules");
    let first = began.elapsed();
    parts.came("rules");
    let mut took: Vec<Duration> = (0..CHANGES)
        .map(|number| {
            let (key, slice) = slice(number * 7 % services, endpoints, number + 1);
            let began = Instant::now();
            state.write([Change::EndpointSlice(key.clone())], |state| {
                state.endpoint_slices.insert(key, slice);
            });
            wait_for(passes, "changed the rules");
            began.elapsed()
        })
        .collect();
    took.sort();
    parts.came("150 changes");
    // A master that was away sends everything again.
    fill(&state, size);
    wait_for(passes, "changed the rules");
    parts.came("all of it again");
    parts.all();
    stop.cancel();
    runtime.block_on(naming).expect("names end by themselves");
    runtime.block_on(running).expect("the proxy ends by itself");
    runtime.block_on(proxy::teardown("kutter")).expect("rules that can be removed");
    drop(state);
    let other = match nft_patience.is_zero() {
        true => other::Other { first: "left out".into(), change: "left out".into() },
        false => other::measure(size, nft_patience),
    };
    let times = format!(
        "| {of} | {first:.2?} | {} | {:.2?} | {:.2?} | {} |",
        other.first,
        took[took.len() / 2],
        took[took.len() * 99 / 100],
        other.change,
    );
    Measured { times, memory: parts.rows }
}

/// What memory each part takes, as they come.
struct Parts {
    of: String,
    first: Memory,
    last: Memory,
    most: usize,
    rows: Vec<String>,
}

impl Parts {
    fn new(of: &str) -> Self {
        let first = Memory::now();
        memory::forget_peak();
        Self { of: of.to_owned(), first, last: first, most: 0, rows: Vec::new() }
    }

    /// A part is there.
    fn came(&mut self, what: &str) {
        let peak = memory::peak();
        let now = Memory::now();
        let [heap, share] = [
            now.heap as isize - self.last.heap as isize,
            now.share as isize - self.last.share as isize,
        ];
        let meanwhile = peak.saturating_sub(self.first.share);
        self.rows.push(format!(
            "| {} | {what} | {:+.1} MB | {:+.1} MB | {:.1} MB above the start |",
            self.of,
            megabytes(heap),
            megabytes(share),
            megabytes(meanwhile as isize),
        ));
        self.last = now;
        self.most = self.most.max(meanwhile);
        memory::forget_peak();
    }

    fn all(&mut self) {
        let [heap, share] =
            [self.last.heap - self.first.heap, self.last.share.saturating_sub(self.first.share)];
        let miss = if share.max(self.most) > MEMORY { " (more than 150 MB)" } else { "" };
        self.rows.push(format!(
            "| {} | **in all** | {:.1} MB | {:.1} MB | {:.1} MB{miss} |",
            self.of,
            megabytes(heap as isize),
            megabytes(share as isize),
            megabytes(self.most as isize),
        ));
    }
}

fn megabytes(bytes: isize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn wait_for(passes: &Receiver<String>, message: &str) {
    loop {
        let pass = passes.recv_timeout(PATIENCE).expect("a pass");
        if pass == message {
            return;
        }
    }
}

fn option(name: &str) -> Option<String> {
    std::env::args().skip_while(|word| word != name).nth(1)
}

fn size(text: &str) -> Size {
    let numbers = text.split_once('x').and_then(|(services, endpoints)| {
        Some(Size { services: services.parse().ok()?, endpoints: endpoints.parse().ok()? })
    });
    let fits =
        |size: &Size| (1..=31_000).contains(&size.services) && (1..=55).contains(&size.endpoints);
    numbers.filter(fits).unwrap_or_else(|| {
        panic!(
            "\"{text}\" is no size; write as 1000x10, with at most 31000 Services and 55 endpoints"
        )
    })
}

/// Leaves the machine's network for one with the address where names are answered, and nothing else.
fn own_network() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
    for words in ["link set lo up".to_owned(), format!("address add {GATEWAY} dev lo")] {
        let ended = Command::new("ip").args(words.split(' ')).status().expect("ip runs");
        assert!(ended.success(), "ip {words}");
    }
}

/// Passes on what proxy and names say they did: the only way to know when it is done.
struct Passes(Sender<String>);

impl<S: Subscriber> Layer<S> for Passes {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        // The receiver lives as long as the bench.
        let _ = self.0.send(message.0);
    }
}
