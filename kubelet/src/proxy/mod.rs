//! The service proxy: Services and endpoint slices, made into rules of the kernel.
//!
//! * [`model`] takes in what changed, and finds by indexes what follows: [`service`] says where a
//!   Service is served and what is done there, [`endpoints`] who its clients are sent to, [`ranges`]
//!   where this node is. The outcome is a [`ruleset`] for each version of IP: a value.
//! * [`program`] says which chains do that, [`elements`] what is in their sets and maps. They are
//!   few, and the same for all Services: a packet's cost does not grow with the number of Services.
//! * [`diff`] finds what leads from one ruleset to the next.
//! * [`kernel`] has it done in tables of our own: new chains first, then all the rest at once. When
//!   somebody else changes these tables, they are made anew.
//! * [`conntrack`] ends flows that the kernel would go on sending where they should not go.
//! * [`takeover`] reads back what an earlier kubelet left.
//! * [`health`] tells load balancers whether this node has endpoints.
//!
//! Memory is the truth: the kernel is told what changes, and asked once, when the kubelet starts.
//! Until a master is heard, what the kernel does for Services is newer than what is on disk, and stays.

mod address;
mod conntrack;
mod diff;
mod elements;
mod endpoints;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod health;
mod kernel;
mod model;
mod news;
mod program;
mod ranges;
mod ruleset;
mod service;
mod sets;
mod takeover;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::diff::{Steps, steps};
use self::health::Health;
use self::kernel::Kernel;
use self::model::{Changed, Model};
use self::news::{Heard, Seen};
pub use self::ranges::{InvalidNodePortAddress, NodePortAddresses};
use self::ruleset::Frame;
pub(crate) use self::service::OTHER_PROXY;
use crate::join::Chain;
use crate::network::{HostPorts, PodHostPorts};
pub use crate::nft::NftError as ProxyError;
use crate::nft::expr::Ip;
use crate::nft::table::Table;
use crate::nft::{Connection, Retry};
use crate::state::StateHandle;

/// How a node's proxy is set up.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Name of the nftables tables, of IPv4 and of IPv6, all of which belong to the proxy.
    pub table: String,
    /// This node's name, as endpoint slices have it.
    pub node_name: String,
    /// Whether pods have addresses of the node's range, so that nothing is right before that is known.
    pub pods_of_range: bool,
    /// At which of the node's addresses node ports are served.
    pub node_port_addresses: NodePortAddresses,
}

/// Keeps the kernel's rules as the state says, until shutdown. The rules stay.
pub async fn run(
    state: StateHandle,
    host_ports: HostPorts,
    connection: Connection,
    config: ProxyConfig,
    shutdown: CancellationToken,
) {
    let (health, asked) = watch::channel(Health::default());
    let answering = health::run(asked, shutdown.clone());
    let proxying = keep(state, host_ports, connection, config, health, shutdown);
    tokio::join!(proxying, answering);
}

async fn keep(
    state: StateHandle,
    host_ports: HostPorts,
    connection: Connection,
    config: ProxyConfig,
    health: watch::Sender<Health>,
    shutdown: CancellationToken,
) {
    let mut changes = state.changes();
    let mut host_ports = host_ports.subscribe();
    let tables = Ip::ALL.map(|ip| Table::of(&config.table, ip));
    let Some((nft, mut others)) = connection.reach(&tables, &shutdown).await else { return };
    let kernel = Kernel::new(nft, &config.table);
    let mut proxy = Proxy::new(config, kernel);
    let mut heard = Heard::default();
    let mut retry = Retry::default();
    loop {
        // Whatever changed until here is covered by this pass: changes that come in bursts are
        // made together, as fast as the kernel takes them.
        heard.take_all(&mut changes);
        if proxy.model.is_none() || proxy.carries_on {
            heard.look_at_everything();
        }
        let pause = match state.read(|state| heard.look(state, &proxy.config)) {
            None => None,
            Some(seen) => {
                let ports = host_ports.borrow_and_update().clone();
                let outcome = proxy.sync(seen, ports).await;
                proxy.tell(&health, outcome.is_ok());
                match outcome {
                    Ok(()) => {
                        retry.reset();
                        None
                    }
                    Err(error) => {
                        let pause = retry.pause();
                        warn!(error = %Chain(&error), ?pause, "failed to change the rules");
                        Some(pause)
                    }
                }
            }
        };
        tokio::select! {
            // Whoever removes the tables ends us first, and is not to find them made anew.
            biased;
            () = shutdown.cancelled() => return,
            // Before the first pass whatever is there is looked at anyway.
            () = others.meddle() => if proxy.model.is_some() {
                warn!("somebody else changed the rules: making them anew");
                proxy.installed = None;
                if !others.rest(&shutdown).await {
                    return;
                }
            },
            () = heard.wait(&mut changes) => {}
            // The sender may be gone when no pod can be attached any more.
            Ok(()) = host_ports.changed() => {}
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
        }
    }
}

struct Proxy {
    config: ProxyConfig,
    kernel: Arc<Kernel>,
    /// What should be; nothing before the first pass.
    model: Option<Box<Model>>,
    /// What the kernel has beside the Services that the model says; nothing after a failure, when it
    /// is replaced whatever it is.
    installed: Option<BTreeMap<Ip, Frame>>,
    /// What was done at frontends that changed, as long as the kernel does not know of it.
    untold: Changed,
    /// Whether the Services' rules are those of an earlier kubelet, not yet compared with what a
    /// master says.
    carries_on: bool,
    /// Ports of Services that are not served since others have their addresses.
    conflicts: BTreeSet<String>,
}

impl Proxy {
    fn new(config: ProxyConfig, kernel: Kernel) -> Self {
        Self {
            config,
            kernel: Arc::new(kernel),
            model: None,
            installed: None,
            untold: Changed::new(),
            carries_on: false,
            conflicts: BTreeSet::new(),
        }
    }

    /// One pass. Calls of the kernel block, and a first pass computes for long: it runs elsewhere.
    async fn sync(
        &mut self,
        seen: Seen,
        ports: BTreeMap<String, PodHostPorts>,
    ) -> Result<(), ProxyError> {
        let pass = Pass {
            kernel: Arc::clone(&self.kernel),
            model: self.model.take(),
            installed: self.installed.take(),
            untold: std::mem::take(&mut self.untold),
            carries_on: self.carries_on,
        };
        let pass = tokio::task::spawn_blocking(move || pass.run(seen, &ports)).await;
        let (pass, outcome) = pass.map_err(|error| ProxyError::Socket {
            operation: "compute the rules".into(),
            source: std::io::Error::other(error),
        })?;
        self.model = pass.model;
        self.installed = pass.installed;
        self.untold = pass.untold;
        self.carries_on = pass.carries_on;
        if let Some(model) = &self.model {
            let conflicts = model.conflicts();
            for port in conflicts.iter().filter(|port| !self.conflicts.contains(**port)) {
                warn!(port, "another service has an address of this one: it is not served there");
            }
            self.conflicts = conflicts.into_iter().cloned().collect();
        }
        outcome
    }

    /// Tells what load balancers are to be answered.
    fn tell(&self, health: &watch::Sender<Health>, proxy_is_healthy: bool) {
        let Some(model) = &self.model else { return };
        health.send_if_modified(|health| {
            let now = Health {
                services: model.health().clone(),
                proxy_is_healthy,
                ranges: model.ranges().clone(),
            };
            let differs = *health != now;
            *health = now;
            differs
        });
    }
}

/// A pass, with what it needs and changes.
struct Pass {
    kernel: Arc<Kernel>,
    model: Option<Box<Model>>,
    installed: Option<BTreeMap<Ip, Frame>>,
    untold: Changed,
    carries_on: bool,
}

impl Pass {
    fn run(
        mut self,
        seen: Seen,
        ports: &BTreeMap<String, PodHostPorts>,
    ) -> (Self, Result<(), ProxyError>) {
        let started = Instant::now();
        let mut model = match self.model.take() {
            Some(model) => model,
            None => {
                let found = self.kernel.take_over(&seen.news.place.ranges);
                self.carries_on = !found.is_empty();
                let frames = found.iter().map(|ruleset| (ruleset.ip, ruleset.frame.clone()));
                self.installed = self.carries_on.then(|| frames.collect());
                Box::new(Model::carrying_on(seen.news.place.clone(), found))
            }
        };
        self.carries_on &= !seen.confirmed;
        if self.carries_on {
            model.stay(seen.news.place);
        } else {
            for (at, before) in model.update(seen.news) {
                self.untold.entry(at).or_insert(before);
            }
        }
        model.set_host_ports(ports);
        let outcome = self.install(&model, started);
        self.model = Some(model);
        (self, outcome)
    }

    /// Brings the kernel to what the model says.
    fn install(&mut self, model: &Model, started: Instant) -> Result<(), ProxyError> {
        let installed = self.installed.take();
        let Steps { ahead, then } = steps(installed.as_ref(), &self.untold, model.rulesets());
        let steps = ahead.values().chain(then.values()).map(Vec::len).sum::<usize>();
        if steps > 0 {
            self.kernel.apply(&ahead)?;
            self.kernel.apply(&then)?;
            self.kernel.let_loopback_out(model.ranges())?;
            let (frontends, took) = (model.frontends(), started.elapsed());
            if installed.is_some() {
                debug!(frontends, steps, ?took, "changed the rules");
            } else {
                info!(frontends, ?took, "installed the rules");
            }
            self.end_flows(model, installed.as_ref());
        }
        self.untold.clear();
        let frames = model.rulesets().iter().map(|(ip, ruleset)| (*ip, ruleset.frame.clone()));
        self.installed = Some(frames.collect());
        Ok(())
    }

    /// Has the kernel forget flows to endpoints that are gone. Should that fail, the rules are right
    /// all the same: it is no reason to make them again.
    fn end_flows(&self, model: &Model, installed: Option<&BTreeMap<Ip, Frame>>) {
        let mut changed = conntrack::Changed::new();
        for (at, before) in &self.untold {
            let after = model.rulesets().get(&at.ip()).and_then(|rules| rules.services().get(at));
            let (before, after) = (before.as_deref(), after.map(Arc::as_ref));
            let (before, after) = (conntrack::targets(before), conntrack::targets(after));
            conntrack::note(*at, before, after, &mut changed);
        }
        for (ip, ruleset) in model.rulesets() {
            let had = installed.and_then(|frames| frames.get(ip)).map(|frame| &frame.host_ports);
            let has = &ruleset.frame.host_ports;
            for at in had.into_iter().flatten().map(|(at, _)| at).chain(has.keys()) {
                let before = had.and_then(|had| had.get(at)).copied();
                if before != has.get(at).copied() {
                    conntrack::note(*at, before, has.get(at).copied(), &mut changed);
                }
            }
        }
        match conntrack::forget(&changed) {
            Ok(0) => {}
            Ok(flows) => debug!(flows, "ended flows to endpoints that are gone"),
            Err(error) => warn!(%error, "failed to end flows to endpoints that are gone"),
        }
    }
}

/// Removes the proxy's tables, which have this name.
pub async fn teardown(table: &str) -> Result<(), ProxyError> {
    let table = table.to_owned();
    let removal = tokio::task::spawn_blocking(move || {
        Kernel::new(Connection::default().get()?, &table).remove()
    });
    removal.await.unwrap_or_else(|error| {
        Err(ProxyError::Socket {
            operation: "remove the rules".into(),
            source: std::io::Error::other(error),
        })
    })
}
