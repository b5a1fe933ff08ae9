//! All that a node does, put together: snapshot, session, certificate, status and pods.
//!
//! What the machine is made of comes from outside, so that the same code runs thousands of hollow
//! nodes in one process, and nodes of tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::future::OptionFuture;
use runtime::ContainerRuntime;
use runtime::image::{ImageService, ImageStorage};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::MasterUrl;
use crate::credentials::{Credentials, CredentialsFolder};
use crate::join::{self, Chain};
use crate::network::PodNetwork;
use crate::node_status::{Health, NodeStatusKeeper, Observe};
use crate::pods::{PodManager, PodsConfig, PodsDependencies, PodsError};
use crate::pressure::{PressureConfig, PressureManager, PressureParts, Sense};
use crate::reporter::Reporter;
use crate::session::Session;
use crate::shutdown::{ShutdownPeriods, end_pods, machine_is_ending};
use crate::snapshot::SnapshotFolder;
use crate::state::StateHandle;
use crate::static_pods::mirrors;
use crate::streams::PodStreams;
use crate::tokens::MasterLink;

/// What makes one node, apart from its pods.
pub struct Agent {
    /// The masters of the cluster.
    pub masters: Vec<MasterUrl>,
    /// Who the node is.
    pub credentials: Arc<Credentials>,
    /// Where renewed credentials are kept; nothing for a node that ends with its process.
    pub credentials_folder: Option<CredentialsFolder>,
    /// Where the last snapshot is kept; nothing for a node that ends with its process.
    pub snapshot_folder: Option<SnapshotFolder>,
    /// Labels that the operator gives the node.
    pub labels: BTreeMap<String, String>,
    /// What the machine has.
    pub observe: Arc<dyn Observe>,
    /// How it fares.
    pub health: watch::Receiver<Health>,
    /// What the master says.
    pub state: StateHandle,
    /// What the node says.
    pub reporter: Reporter,
    /// What it asks.
    pub link: MasterLink,
}

/// What a node's pods are made of.
pub struct Parts {
    /// Where and how.
    pub config: PodsConfig,
    /// Sandboxes and containers.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// Images.
    pub images: Arc<dyn ImageService>,
    /// Addresses.
    pub network: Arc<dyn PodNetwork>,
    /// What keeps the node from running out of things; nothing for a node without a machine.
    pub pressure: Option<Pressure>,
    /// How the node ends with its machine; nothing for a node without one.
    pub ending: Option<Ending>,
}

/// How a node ends.
pub struct Ending {
    /// When the kubelet is told to end. What it has to do then is done before its shutdown.
    pub told: CancellationToken,
    /// How long pods have when the whole machine ends.
    pub periods: ShutdownPeriods,
    /// Where it tells that the node ends.
    pub health: watch::Sender<Health>,
}

/// What keeps a node from running out of things.
pub struct Pressure {
    /// When, and how.
    pub config: PressureConfig,
    /// The machine.
    pub sense: Arc<dyn Sense>,
    /// Where images are kept.
    pub images: Arc<dyn ImageStorage>,
    /// Where it tells how the node fares.
    pub health: watch::Sender<Health>,
}

/// Runs a whole node until shutdown. Its containers outlive it.
///
/// # Errors
/// When what runs on the node cannot be taken over.
pub async fn run(agent: Agent, parts: Parts, shutdown: CancellationToken) -> Result<(), PodsError> {
    let Parts { config, runtime, images, network, pressure, ending } = parts;
    let dependencies = PodsDependencies {
        state: agent.state.clone(),
        runtime: Arc::clone(&runtime),
        images,
        network,
        reporter: agent.reporter.clone(),
        tokens: Arc::new(agent.link.clone()),
        health: agent.health.clone(),
    };
    let pods = PodManager::new(config, dependencies);
    let pressure = pressure.map(|Pressure { config, sense, images, health }| {
        let (pods, reporter) = (Arc::clone(&pods), agent.reporter.clone());
        let parts = PressureParts { sense, runtime, images, pods, reporter, health };
        tokio::spawn(PressureManager::new(config, parts).run(shutdown.clone()))
    });
    let ending = ending.map(|ending| {
        let (pods, reporter) = (Arc::clone(&pods), agent.reporter.clone());
        tokio::spawn(end(ending, pods, reporter, shutdown.clone()))
    });
    let talk = tokio::spawn(agent.run(pods.clone(), shutdown.clone()));
    let result = pods.run(shutdown.clone()).await;
    // When the pods cannot go on, neither can the rest.
    shutdown.cancel();
    if let Err(error) = talk.await {
        warn!(%error, "the agent failed");
    }
    if let Some(Err(error)) = OptionFuture::from(pressure).await {
        warn!(%error, "nothing kept the node from running out of things");
    }
    if let Some(Err(error)) = OptionFuture::from(ending).await {
        warn!(%error, "the pods were not ended");
    }
    result
}

/// Waits until the kubelet is told to end. When the whole machine does, the pods end first; else they go
/// on without a kubelet.
async fn end(
    ending: Ending,
    pods: Arc<PodManager>,
    reporter: Reporter,
    shutdown: CancellationToken,
) {
    let Ending { told, periods, health } = ending;
    let told = shutdown.run_until_cancelled(told.cancelled()).await;
    if told.is_some() && !periods.is_off() && machine_is_ending().await {
        end_pods(&periods, &pods, &health, &reporter).await;
    }
    shutdown.cancel();
}

/// Loads what the last session left on disk. Until a master can be reached, that is what the node
/// goes by.
pub fn load_snapshot(folder: &SnapshotFolder, state: &StateHandle) {
    match folder.load(state) {
        Ok(true) => {
            let pods = state.read(|state| state.pods.len());
            info!(pods, "took the last snapshot from disk");
        }
        Ok(false) => info!("there is no snapshot on disk"),
        // Nothing is lost: what runs goes on, and the next session tells everything again.
        Err(error) => warn!(error = %Chain(&error), "cannot use the last snapshot"),
    }
}

impl Agent {
    /// Speaks to the masters until shutdown. Tunnels lead to `streams`.
    pub async fn run(self, streams: Arc<dyn PodStreams>, shutdown: CancellationToken) {
        let current = Arc::new(ArcSwap::new(self.credentials.clone()));
        let name = self.credentials.node_name().to_owned();
        let status = NodeStatusKeeper::new(self.observe, name, self.labels, self.health);
        let mut tasks = JoinSet::new();
        if let Some(folder) = self.snapshot_folder {
            tasks.spawn(folder.keep(self.state.clone(), shutdown.clone()));
        }
        tasks.spawn(join::keep_renewed(
            self.masters.clone(),
            self.credentials_folder,
            current.clone(),
            shutdown.clone(),
        ));
        tasks.spawn(status.clone().run(self.reporter.clone(), shutdown.clone()));
        tasks.spawn(mirrors::keep(
            self.credentials.node_name().to_owned(),
            self.state.clone(),
            self.reporter.clone(),
            self.link.clone(),
            shutdown.clone(),
        ));
        let session = Session {
            masters: self.masters,
            credentials: current,
            describe: Arc::new(move || status.node()),
            state: self.state,
            reporter: self.reporter,
            streams,
            link: self.link,
        };
        tasks.spawn(session.run(shutdown));
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                // A panic; the others go on, and the message is already in the log.
                warn!(%error, "a task of the agent failed");
            }
        }
    }
}
