//! The service proxy: Services and endpoint slices, made into rules of the kernel.
//!
//! * [`ruleset`] decides what should be; it is a value, made by a pure function.
//! * [`program`] says which chains do that, [`elements`] what is in their sets and maps. They are
//!   few, and the same for all Services: a packet's cost does not grow with the number of Services.
//! * [`diff`] finds what leads from one ruleset to another.
//! * [`crate::nft`] has the kernel do it in a table of our own: new chains first, then all the rest
//!   at once. It also notices when somebody else changes the table: then it is made anew.
//! * [`conntrack`] ends flows that the kernel would go on sending where they should not go.
//!
//! * [`takeover`] reads back what an earlier kubelet left.
//!
//! Memory is the truth: the kernel is told what changes, and asked once, when the kubelet starts.
//! Until a master is heard, what the kernel does for Services is newer than what is on disk, and stays.

mod conntrack;
mod diff;
mod elements;
mod endpoints;
mod program;
mod ruleset;
mod sets;
mod takeover;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::diff::{difference, replacement};
use self::ruleset::{Ranges, Ruleset, View};
use self::sets::Set;
use crate::network::{HostPorts, PodHostPorts, set_once};
pub use crate::nft::NftError as ProxyError;
use crate::nft::expr::Ip;
use crate::nft::table::{Command, Family, Table};
use crate::nft::{Guard, Nft};
use crate::state::{Change, StateHandle};

/// How a node's proxy is set up.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Name of the nftables table, all of which belongs to the proxy.
    pub table: String,
    /// This node's name, as endpoint slices have it.
    pub node_name: String,
}

/// Pauses between attempts when the kernel refuses.
const RETRY: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(30);

/// Between two repairs of what somebody else changes: two who cannot agree do not fill the processors.
const BETWEEN_REPAIRS: Duration = Duration::from_millis(200);

/// Keeps the kernel's rules as the state says, until shutdown. The rules stay.
pub async fn run(
    state: StateHandle,
    host_ports: HostPorts,
    config: ProxyConfig,
    shutdown: CancellationToken,
) {
    let mut changes = state.changes();
    let mut host_ports = host_ports.subscribe();
    let mut retry = *RETRY.start();
    let (kernel, mut guard) = loop {
        match connect(&config) {
            Ok(connected) => break connected,
            Err(error) => warn!(error = chain(&error), ?retry, "failed to reach the rules"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(retry) => retry = (retry * 2).min(*RETRY.end()),
        }
    };
    let mut proxy = Proxy {
        config,
        kernel: Arc::new(kernel),
        installed: Installed::Unknown,
        carries_on: false,
        conflicts: BTreeSet::new(),
    };
    let mut repaired: Option<Instant> = None;
    retry = *RETRY.start();
    loop {
        // Whatever changed until here is covered by this pass: changes that come in bursts are
        // made together, as fast as the kernel takes them.
        let pause = match state.read(View::of) {
            None => None,
            Some(view) => {
                let ports = host_ports.borrow_and_update().clone();
                match proxy.sync(view, ports).await {
                    Ok(()) => {
                        retry = *RETRY.start();
                        None
                    }
                    Err(error) => {
                        warn!(error = chain(&error), ?retry, "failed to change the rules");
                        let pause = retry;
                        retry = (retry * 2).min(*RETRY.end());
                        Some(pause)
                    }
                }
            }
        };
        tokio::select! {
            // Whoever removes the table ends us first, and is not to find it made anew.
            biased;
            () = shutdown.cancelled() => return,
            touched = touched(&mut guard) => match touched {
                // Before the first pass whatever is there is looked at anyway.
                Ok(()) if matches!(proxy.installed, Installed::Known(_)) => {
                    warn!("somebody else changed the rules: making them anew");
                    proxy.installed = Installed::Foreign;
                    let since = repaired.map_or(BETWEEN_REPAIRS, |repaired| repaired.elapsed());
                    tokio::time::sleep(BETWEEN_REPAIRS.saturating_sub(since)).await;
                    if shutdown.is_cancelled() {
                        return;
                    }
                    repaired = Some(Instant::now());
                }
                Ok(()) => {}
                Err(error) => {
                    warn!(%error, "changes of the rules by others are not noticed any more");
                    guard = None;
                }
            },
            () = concerning(&mut changes) => {}
            // The sender may be gone when no pod can be attached any more.
            Ok(()) = host_ports.changed() => {}
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
        }
    }
}

/// The table in the kernel.
struct Kernel {
    nft: Nft,
    table: Table,
}

impl Kernel {
    fn open(config: &ProxyConfig) -> Result<Self, ProxyError> {
        let table = Table { family: Family::Ipv4, name: config.table.clone() };
        Ok(Self { nft: Nft::open()?, table })
    }

    fn apply(&self, commands: &[Command]) -> Result<(), ProxyError> {
        self.nft.apply(&[(&self.table, commands)])
    }
}

/// A connection to change the table with, and news of changes that others make.
fn connect(config: &ProxyConfig) -> Result<(Kernel, Option<Guard>), ProxyError> {
    let kernel = Kernel::open(config)?;
    let listening =
        kernel.nft.address().and_then(|own| Guard::listen(vec![kernel.table.clone()], own));
    let guard = listening.map_err(|source| ProxyError::Socket {
        operation: "listen for changes of the rules".into(),
        source,
    })?;
    Ok((kernel, Some(guard)))
}

/// Waits until the table was changed by somebody else.
async fn touched(guard: &mut Option<Guard>) -> std::io::Result<()> {
    match guard {
        Some(guard) => guard.touched().await,
        None => std::future::pending().await,
    }
}

/// Waits for a change of the state that rules may follow from, and takes all that are there.
async fn concerning(changes: &mut Receiver<Change>) {
    loop {
        match changes.recv().await {
            Ok(change) if !concerns(&change) => continue,
            Ok(_) | Err(RecvError::Lagged(_)) => break,
            // The sender lives as long as the handle we hold.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
    while matches!(changes.try_recv(), Ok(_) | Err(TryRecvError::Lagged(_))) {}
}

fn concerns(change: &Change) -> bool {
    match change {
        Change::Everything | Change::Service(_) | Change::EndpointSlice(_) | Change::Node => true,
        Change::Pod(_) | Change::ConfigMap(_) | Change::Secret(_) | Change::Peers => false,
    }
}

struct Proxy {
    config: ProxyConfig,
    kernel: Arc<Kernel>,
    installed: Installed,
    /// Whether the Services' rules are those of an earlier kubelet, not yet compared with what a
    /// master says.
    carries_on: bool,
    /// Ports of Services that are not served since others have their addresses.
    conflicts: BTreeSet<String>,
}

/// What the kernel has.
enum Installed {
    /// Before the first pass.
    Unknown,
    /// After a failure: whatever it is, it is replaced.
    Foreign,
    /// This, made by this kubelet or taken over.
    Known(Arc<Ruleset>),
}

/// What came out of a pass.
struct Outcome {
    ruleset: Ruleset,
    conflicts: BTreeSet<String>,
    carries_on: bool,
}

impl Proxy {
    /// One pass.
    async fn sync(
        &mut self,
        view: View,
        ports: BTreeMap<String, PodHostPorts>,
    ) -> Result<(), ProxyError> {
        let before = std::mem::replace(&mut self.installed, Installed::Foreign);
        let (kernel, node) = (Arc::clone(&self.kernel), self.config.node_name.clone());
        let carries_on = self.carries_on;
        let pass = tokio::task::spawn_blocking(move || {
            pass(&kernel, &node, before, carries_on, &view, &ports)
        });
        let outcome = pass.await.unwrap_or_else(|error| {
            Err(ProxyError::Socket {
                operation: "compute the rules".into(),
                source: std::io::Error::other(error),
            })
        })?;
        for port in outcome.conflicts.difference(&self.conflicts) {
            warn!(port, "another service has an address of this one: it is not served there");
        }
        self.conflicts = outcome.conflicts;
        self.carries_on = outcome.carries_on;
        self.installed = Installed::Known(Arc::new(outcome.ruleset));
        Ok(())
    }
}

fn pass(
    kernel: &Kernel,
    node_name: &str,
    before: Installed,
    carries_on: bool,
    view: &View,
    ports: &BTreeMap<String, PodHostPorts>,
) -> Result<Outcome, ProxyError> {
    let started = Instant::now();
    let (before, carries_on) = match before {
        Installed::Known(ruleset) => (Some(ruleset), carries_on),
        Installed::Foreign => (None, false),
        Installed::Unknown => {
            let found = take_over(kernel, &view.ranges).map(Arc::new);
            let carries_on = found.is_some();
            (found, carries_on)
        }
    };
    let carries_on = carries_on && !view.confirmed;
    let nothing = Ruleset::default();
    let known = before.as_deref().unwrap_or(&nothing);
    let (ruleset, conflicts) = if carries_on {
        (ruleset::with_same_services(&view.ranges, ports, known), BTreeSet::new())
    } else {
        ruleset::ruleset(view, node_name, ports, known)
    };
    let commands = match &before {
        Some(before) => difference(before, &ruleset),
        None => replacement(&ruleset),
    };
    if !commands.is_empty() {
        let (ahead, commands) = match &before {
            Some(_) => diff::chains_ahead(commands),
            None => (Vec::new(), commands),
        };
        if !ahead.is_empty() {
            install(kernel, &ahead)?;
        }
        install(kernel, &commands)?;
        let changed = conntrack::changed(known, &ruleset);
        match conntrack::forget(&changed) {
            Ok(0) => {}
            Ok(flows) => debug!(flows, "ended flows to endpoints that are gone"),
            // The rules are right: it is no reason to make them again.
            Err(error) => warn!(%error, "failed to end flows to endpoints that are gone"),
        }
        let services = ruleset.services.len();
        let steps = ahead.len() + commands.len();
        let took = started.elapsed();
        if before.is_some() {
            debug!(services, steps, ?took, "changed the rules");
        } else {
            info!(services, ?took, "installed the rules");
        }
    }
    Ok(Outcome { ruleset, conflicts, carries_on })
}

/// What an earlier kubelet left in the kernel, if it can be carried on with.
fn take_over(kernel: &Kernel, ranges: &Ranges) -> Option<Ruleset> {
    let started = Instant::now();
    let found = match kernel.nft.dump(&kernel.table, &Set::ALL.map(|set| set.describe(Ip::V4))) {
        Ok(found) => found?,
        Err(error) => {
            warn!(error = chain(&error), "cannot read the rules that are there: replacing them");
            return None;
        }
    };
    match takeover::take_over(&found, ranges) {
        Ok(ruleset) => {
            let services = ruleset.services.len();
            info!(services, took = ?started.elapsed(), "took over the rules that are there");
            Some(ruleset)
        }
        Err(reason) => {
            info!(%reason, "replacing the rules that are there");
            None
        }
    }
}

fn install(kernel: &Kernel, commands: &[Command]) -> Result<(), ProxyError> {
    kernel.apply(commands)?;
    set_route_localnet("1")
}

/// Lets packets from the loopback address leave the node, and answers to them come in, so that
/// node ports work there. A rule keeps everything else with such an address out, so this comes
/// after the rules and goes before them.
fn set_route_localnet(value: &str) -> Result<(), ProxyError> {
    set_once("/proc/sys/net/ipv4/conf/all/route_localnet", value).map_err(|source| {
        ProxyError::Socket { operation: format!("set route_localnet to {value}"), source }
    })
}

/// Removes the proxy's table.
pub async fn teardown(config: &ProxyConfig) -> Result<(), ProxyError> {
    let config = config.clone();
    let removal = tokio::task::spawn_blocking(move || {
        set_route_localnet("0")?;
        Kernel::open(&config)?.apply(&[Command::AddTable, Command::DeleteTable])
    });
    removal.await.unwrap_or_else(|error| {
        Err(ProxyError::Socket {
            operation: "remove the rules".into(),
            source: std::io::Error::other(error),
        })
    })
}

/// An error with all that led to it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
