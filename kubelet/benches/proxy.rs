//! How long the kernel's rules take: all of them at first, and one endpoint's change, among few Services
//! and among many; beside `nft -f` of a ruleset with a chain for every Service and endpoint, as
//! kube-proxy makes it. In a network namespace of its own; needs root and `nft`.
//!
//! `cargo bench -p kubelet --bench proxy`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use kubelet::network::HostPorts;
use kubelet::nft::Connection;
use kubelet::proxy::{self, ProxyConfig};
use kubelet::state::{Change, StateHandle};
use proto::ObjectKey;
use proto::k8s::api::core::v1::{Node, NodeSpec};
use proto::k8s::api::discovery::v1::EndpointSlice;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// So many single changes are measured; each makes another address the first endpoint's.
const CHANGES: u32 = 150;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: it makes a network namespace and needs root");
        return;
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
    let (send, passes) = channel();
    let subscriber = tracing_subscriber::registry().with(Passes(send));
    tracing::subscriber::set_global_default(subscriber).expect("no other subscriber");
    println!("| Services x endpoints | all at first | one endpoint, p50 | p99 | memory | nft -f |");
    println!("|---|---|---|---|---|---|");
    for (services, endpoints) in [(10, 10), (1_000, 10), (10_000, 25)] {
        measure(services, endpoints, &passes);
    }
}

fn measure(services: u32, endpoints: u32, passes: &Receiver<String>) {
    let state = StateHandle::default();
    fill(&state, services, endpoints);
    let before = resident();
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let config = ProxyConfig {
        table: "kutter".into(),
        node_name: "here".into(),
        node_port_addresses: Default::default(),
    };
    let began = Instant::now();
    let (ports, connection) = (HostPorts::default(), Connection::default());
    let running = runtime.spawn(proxy::run(state.clone(), ports, connection, config, stop.clone()));
    wait_for(passes, "installed the rules");
    let first = began.elapsed();
    let memory = resident().saturating_sub(before);
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
    stop.cancel();
    runtime.block_on(running).expect("the proxy ends by itself");
    runtime.block_on(proxy::teardown("kutter")).expect("rules that can be removed");
    let other = other_design(services, endpoints);
    println!(
        "| {services} x {endpoints} | {first:.2?} | {:.2?} | {:.2?} | {} MB | {other} |",
        took[took.len() / 2],
        took[took.len() * 99 / 100],
        memory >> 20,
    );
}

fn wait_for(passes: &Receiver<String>, message: &str) {
    loop {
        let pass = passes.recv_timeout(PATIENCE).expect("a pass");
        if pass == message {
            return;
        }
    }
}

fn fill(state: &StateHandle, services: u32, endpoints: u32) {
    state.write([Change::Everything], |state| {
        state.confirmed = true;
        let spec = NodeSpec { pod_cidr: Some("10.244.0.0/24".into()), ..NodeSpec::default() };
        state.node = Some(Arc::new(Node { spec: Some(spec), ..Node::default() }));
        state.pod_cidrs = vec!["10.244.0.0/16".into()];
        state.service_cidrs = vec!["10.96.0.0/12".into()];
        for number in 0..services {
            let object = json!({
                "metadata": {"name": format!("s{number}"), "namespace": "default"},
                "spec": {"clusterIP": cluster_address(number), "ports": [{"port": 80}]},
            });
            let key = ObjectKey::new("default", format!("s{number}"));
            let service = serde_json::from_value(object).expect("a Service");
            state.services.insert(key, Arc::new(service));
            let (key, slice) = slice(number, endpoints, 0);
            state.endpoint_slices.insert(key, slice);
        }
    });
}

fn cluster_address(service: u32) -> String {
    format!("10.96.{}.{}", service / 250, service % 250 + 1)
}

/// The first endpoint is another one in each of 200 versions.
fn address(service: u32, endpoint: u32, version: u32) -> String {
    let last = if endpoint == 0 { version % 200 } else { 200 + endpoint };
    format!("10.{}.{}.{}", 128 + service / 250, service % 250, last + 1)
}

fn slice(service: u32, endpoints: u32, version: u32) -> (ObjectKey, Arc<EndpointSlice>) {
    let ends: Vec<_> = (0..endpoints)
        .map(|endpoint| {
            json!({
                "addresses": [address(service, endpoint, version)],
                "nodeName": "there",
                "conditions": {"ready": true},
            })
        })
        .collect();
    let name = format!("s{service}");
    let object = json!({
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"port": 8080}],
        "endpoints": ends,
    });
    let slice = serde_json::from_value(object).expect("a slice");
    (ObjectKey::new("default", name), Arc::new(slice))
}

/// `nft -f` of a ruleset with a chain for each Service and each endpoint; or why it did not work.
fn other_design(services: u32, endpoints: u32) -> String {
    let mut text = String::from(
        "add table ip other\nadd map ip other services { type ipv4_addr . inet_proto . inet_service : verdict ; }\n",
    );
    for service in 0..services {
        let mut choices = BTreeMap::new();
        for endpoint in 0..endpoints {
            let chain = format!("endpoint-{service}-{endpoint}");
            let to = address(service, endpoint, 0);
            let _ = writeln!(text, "add chain ip other {chain}");
            let _ = writeln!(text, "add rule ip other {chain} ip saddr {to} meta mark set 0x4000");
            let _ = writeln!(text, "add rule ip other {chain} meta l4proto tcp dnat to {to}:8080");
            choices.insert(endpoint, format!("{endpoint} : goto {chain}"));
        }
        let choices: Vec<String> = choices.into_values().collect();
        let at = cluster_address(service);
        let _ = writeln!(text, "add chain ip other service-{service}");
        let _ = writeln!(
            text,
            "add rule ip other service-{service} numgen random mod {endpoints} vmap {{ {} }}",
            choices.join(", "),
        );
        let _ = writeln!(
            text,
            "add element ip other services {{ {at} . tcp . 80 : goto service-{service} }}",
        );
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("room for it");
    let began = Instant::now();
    let command = Command::new("nft").arg("-f").arg(file.path()).stderr(Stdio::piped()).output();
    let took = began.elapsed();
    let outcome = match command {
        Ok(output) if output.status.success() => format!("{took:.2?}"),
        Ok(output) => {
            let error = String::from_utf8_lossy(&output.stderr);
            format!("failed: {}", error.lines().next().unwrap_or_default())
        }
        Err(error) => error.to_string(),
    };
    let _ = Command::new("nft").args(["delete", "table", "ip", "other"]).output();
    outcome
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

/// Passes on what the proxy says it did: the only way to know when it is done.
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
