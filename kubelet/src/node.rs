//! This machine as a node: real containers, the real network, state on disk.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use runtime::image::{ImageError, ImageStore, ImageStoreConfig};
use runtime::{ContainerRuntime, Resources, ShimRuntime, ShimRuntimeConfig};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::agent::{self, Agent, Ending, Parts, Pressure};
use crate::config::{Config, NetworkKind, images};
use crate::dns;
use crate::enrollment::{self, Enrolled, EnrollmentError};
use crate::join::Chain;
use crate::lock::{LockError, RootLock};
use crate::network::{
    BridgeNetwork, CniNetwork, HostPorts, NetworkError, PodAddresses, PodNetwork,
    keep_addresses_of_names, unready, watch_configuration,
};
use crate::nft;
use crate::node_status::{
    Enforced, Facts, Health, Images, Machine, Observe, address_beside, address_towards, of_all_pods,
};
use crate::pods::{PodsConfig, PodsError, bounds};
use crate::policy;
use crate::pressure::{ImageGc, MachineSense, PressureConfig, process_limit};
use crate::proxy;
use crate::reporter::Reporter;
use crate::snapshot::SnapshotFolder;
use crate::state::StateHandle;
use crate::static_pods::{StaticPods, StaticPodsError};
use crate::tokens::MasterLink;

/// Why this machine cannot be a node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// Not without privileges.
    #[error("the kubelet makes containers and networks; run it as root")]
    NotRoot,
    /// What the operator says contradicts itself.
    #[error("{0}")]
    Flags(String),
    /// Another kubelet is here.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// It belongs to no cluster.
    #[error(transparent)]
    Enrollment(#[from] EnrollmentError),
    /// Its address is not to be found out.
    #[error("cannot tell the address of this node; say it with --node-ip")]
    NoAddress,
    /// Its own pods cannot be found.
    #[error(transparent)]
    StaticPods(#[from] StaticPodsError),
    /// Images cannot be kept.
    #[error("failed to open the images")]
    Images(#[source] ImageError),
    /// Containers cannot be run.
    #[error("failed to open the container runtime")]
    Runtime(#[source] runtime::Error),
    /// Pods cannot be connected.
    #[error("failed to open the pod network")]
    Network(#[source] NetworkError),
    /// What runs cannot be taken over.
    #[error("failed to run the pods")]
    Pods(#[from] PodsError),
}

/// Joins if need be, then runs until shutdown. Containers, network and rules outlive it.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), NodeError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(NodeError::NotRoot);
    }
    let periods = config.shutdown_periods().map_err(NodeError::Flags)?;
    let thresholds = config.thresholds().map_err(NodeError::Flags)?;
    let low_is_high = config.image_gc_low_threshold >= config.image_gc_high_threshold;
    if low_is_high && config.image_gc_high_threshold < 100 {
        let reason = "--image-gc-low-threshold has to be below --image-gc-high-threshold";
        return Err(NodeError::Flags(reason.to_owned()));
    }
    let _lock = RootLock::take(&config.traces.root_dir)?;
    let Some(enrolled) = shutdown.run_until_cancelled(enrollment::enroll(&config)).await else {
        return Ok(());
    };
    let Enrolled { masters, credentials, folder } = enrolled?;
    // What is to be done before the end is done in between.
    let (told, shutdown) = (shutdown, CancellationToken::new());
    let node_name = credentials.node_name().to_owned();

    let (state, reporter) = (StateHandle::default(), Reporter::default());
    let snapshot_folder = SnapshotFolder::of(&config.traces.root_dir);
    agent::load_snapshot(&snapshot_folder, &state);
    // Before anything is taken over: what has no file is to end.
    let static_pods = match &config.pod_manifest_path {
        Some(folder) => {
            let (state, reporter) = (state.clone(), reporter.clone());
            Some(StaticPods::open(folder, &node_name, state, reporter)?)
        }
        None => None,
    };
    let addresses = match config.node_ip.clone() {
        Some(addresses) => addresses.into_vec(),
        None => {
            let towards = address_towards(&masters).await.or_else(|| last_address(&state));
            let primary = towards.ok_or(NodeError::NoAddress)?;
            [primary].into_iter().chain(address_beside(primary).await).collect()
        }
    };
    let traces = &config.traces;
    let root_dir = traces.root_dir.clone();
    info!(node = node_name, ?addresses, "starting");
    let images_dir = images(&root_dir).root;
    let images = ImageStore::open(ImageStoreConfig {
        insecure_registries: config.insecure_registries.clone(),
        mirrors: config.registry_mirrors.clone(),
        ..images(&root_dir)
    })
    .map_err(NodeError::Images)?;
    let (health, fares) = watch::channel(Health::default());
    let pressure = Pressure {
        config: PressureConfig {
            root_dir: root_dir.clone(),
            log_dir: config.log_dir.clone(),
            node_name: node_name.clone(),
            thresholds,
            max_pod_grace: Duration::from_secs(config.eviction_max_pod_grace_period.into()),
            transition: config.eviction_pressure_transition_period.0,
            image_gc: ImageGc {
                high_percent: config.image_gc_high_threshold,
                low_percent: config.image_gc_low_threshold,
                minimum_age: config.minimum_image_ttl_duration.0,
            },
        },
        sense: Arc::new(MachineSense { root_dir: root_dir.clone(), images_dir }),
        images: Arc::new(images.clone()),
        health: health.clone(),
    };
    let runtime_config = ShimRuntimeConfig { user_ids: config.user_ids, ..traces.runtime() };
    let runtime = ShimRuntime::open(runtime_config).await.map_err(NodeError::Runtime)?;
    let own_users = config.own_users && can_have_own_users(&runtime);
    let machine = Machine {
        root_dir: root_dir.clone(),
        addresses: addresses.clone(),
        max_pods: config.max_pods,
        reserved: Box::new(config.reserved()),
        maps_users: runtime.own_users().is_ok(),
        images: Some(Images::of(images.clone())),
    };
    let facts = machine.observe();
    if config.enforce_node_allocatable == Enforced::Pods {
        enforce(&runtime, &config, &facts).await;
    }
    let mut tasks = JoinSet::new();
    let connection = nft::Connection::default();
    let (network, host_ports, pod_addresses) =
        network(&config, &state, &connection, &health, &mut tasks, &shutdown)?;
    tasks.spawn(proxy::run(
        state.clone(),
        host_ports,
        connection.clone(),
        config.proxy(&node_name),
        shutdown.clone(),
    ));
    tasks.spawn(policy::run(
        state.clone(),
        pod_addresses.guard(),
        connection,
        traces.policy_table(),
        shutdown.clone(),
    ));
    let ending = Ending { told, periods, health };
    if let Some(static_pods) = static_pods {
        tasks.spawn(static_pods.run(shutdown.clone()));
    }
    tasks.spawn(dns::run(state.clone(), shutdown.clone()));
    tasks.spawn(give_memory_back(state.clone(), shutdown.clone()));
    let parts = Parts {
        config: PodsConfig {
            root_dir,
            log_dir: config.log_dir.clone(),
            cgroup_root: traces.cgroup_root.clone(),
            node_name,
            node_addresses: addresses,
            memory_capacity_bytes: facts.memory_bytes,
            max_pods: usize::try_from(config.max_pods).unwrap_or(usize::MAX),
            pod_max_pids: config.pod_max_pids,
            page_sizes: facts.huge_pages.iter().map(|(size, _)| *size).collect(),
            own_users,
            no_app_armor: runtime.app_armor().err().map(str::to_owned),
            no_selinux: runtime.selinux().err().map(str::to_owned),
        },
        runtime: Arc::new(runtime),
        images: Arc::new(images),
        network,
        pressure: Some(pressure),
        ending: Some(ending),
    };
    let agent = Agent {
        masters,
        credentials,
        credentials_folder: Some(folder),
        snapshot_folder: Some(snapshot_folder),
        // What the node can do is not for its operator to say.
        labels: config.node_labels.into_iter().chain(parts.config.labels()).collect(),
        observe: Arc::new(machine),
        health: fares,
        state,
        reporter,
        link: MasterLink::default(),
    };
    let result = agent::run(agent, parts, shutdown.clone()).await;
    shutdown.cancel();
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            warn!(%error, "a task of the node failed");
        }
    }
    info!("stopped; the containers go on");
    Ok(result?)
}

/// What connects pods, as the operator chose; what it has to keep up runs among the tasks.
fn network(
    config: &Config,
    state: &StateHandle,
    connection: &nft::Connection,
    health: &watch::Sender<Health>,
    tasks: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) -> Result<(Arc<dyn PodNetwork>, HostPorts, PodAddresses), NodeError> {
    let (state, stop) = (state.clone(), shutdown.clone());
    match config.network_kind {
        NetworkKind::Bridge => {
            let network =
                BridgeNetwork::new(config.network(), state).map_err(NodeError::Network)?;
            let network = Arc::new(network);
            let (ports, addresses) = (network.host_ports(), network.pod_addresses());
            let kept = Arc::clone(&network);
            let connection = connection.clone();
            tasks.spawn(async move { kept.run(connection, stop).await });
            Ok((network, ports, addresses))
        }
        NetworkKind::Cni => {
            let network = CniNetwork::new(config.cni()).map_err(NodeError::Network)?;
            let (ports, addresses) = (network.host_ports(), network.pod_addresses());
            let bridge = config.traces.bridge.clone();
            tasks.spawn(keep_addresses_of_names(bridge, state, stop.clone()));
            let (conf_dir, health) = (config.cni_conf_dir.clone(), health.clone());
            let tell =
                move |no_network| health.send_modify(|health| health.no_network = no_network);
            // Known before a master hears of this node.
            tell(unready(&conf_dir));
            tasks.spawn(watch_configuration(conf_dir, tell, stop));
            Ok((Arc::new(network), ports, addresses))
        }
    }
}

/// What a node cannot do it does not do by default; a pod that insists is told why.
fn can_have_own_users(runtime: &ShimRuntime) -> bool {
    match runtime.own_users() {
        Ok(()) => true,
        Err(reason) => {
            warn!(reason, "pods have no users of their own: root in a pod is root of this node");
            false
        }
    }
}

/// Holds all pods together to what the node has for them. Where the kernel refuses, because more is in use
/// than there is to be, the node goes on: its pods are no worse off than before.
async fn enforce(runtime: &ShimRuntime, config: &Config, facts: &Facts) {
    let of_pods = of_all_pods(facts, &config.set_aside(), process_limit());
    // Among the machine's other programs they weigh as much.
    let weight = Resources { cpu_shares: of_pods.cpu_shares, ..Resources::default() };
    let root = &config.traces.cgroup_root;
    for (group, bounds) in [(root.clone(), weight), (bounds::all_pods(root), of_pods)] {
        if let Err(error) = runtime.bound_group(&group, &bounds).await {
            warn!(error = %Chain(&error), group, "cannot hold pods to what the node has for them");
        }
    }
}

async fn give_memory_back(state: StateHandle, shutdown: CancellationToken) {
    let changes = BroadcastStream::new(state.changes());
    shutdown.run_until_cancelled(memory::give_back_after(changes)).await;
}

/// The address this node had when a master was last there.
fn last_address(state: &StateHandle) -> Option<IpAddr> {
    state.read(|state| {
        let addresses = state.node.as_ref()?.status.as_ref()?.addresses.as_ref()?;
        let internal = addresses.iter().find(|address| address.type_ == "InternalIP")?;
        internal.address.parse().ok()
    })
}
