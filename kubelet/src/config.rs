//! The command line of the kubelet.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args, Parser, Subcommand};
use runtime::image::{ImageStoreConfig, RegistryMirror};
use runtime::{IdRange, ShimRuntimeConfig};

use crate::network::{CniConfig, NetworkConfig};
use crate::node_status::{Enforced, NodeAddresses, Reserved};
use crate::pods::DEFAULT_POD_MAX_PIDS;
use crate::pressure::threshold::{
    Graces, Period, Reclaims, Signal, Statements, Threshold, thresholds,
};
use crate::proxy::{NodePortAddresses, ProxyConfig};
use crate::shutdown::ShutdownPeriods;

/// The node agent of Kutter: runs the pods that a master binds to this machine.
#[derive(Debug, Parser)]
#[command(name = "kubelet", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// Runs the agent when there is no subcommand.
    #[command(flatten)]
    pub config: Config,
    /// Something else to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the program does beside being an agent.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Looks after the images of this node.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Removes all pods of this node and all that the kubelet has made in the kernel: mounts,
    /// network, rules, cgroups. The node stays a member of its cluster, and images stay.
    Cleanup(Traces),
}

/// Looks after the images of this node.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Takes an OCI or Docker archive in, so that its image need not be pulled.
    Import {
        /// The archive, as `docker save` or `skopeo copy oci-archive:` write it.
        file: PathBuf,
        /// The kubelet's state.
        #[arg(long, default_value = DEFAULT_ROOT_DIR, value_name = "DIR")]
        root_dir: PathBuf,
    },
    /// Prints the images that are present.
    List {
        /// The kubelet's state.
        #[arg(long, default_value = DEFAULT_ROOT_DIR, value_name = "DIR")]
        root_dir: PathBuf,
    },
}

/// Where the kubelet keeps its state.
pub const DEFAULT_ROOT_DIR: &str = "/var/lib/kutter/kubelet";

/// Where a kubelet leaves traces on the machine.
#[derive(Clone, Debug, Args)]
pub struct Traces {
    /// Everything the kubelet keeps: certificates, the last snapshot, images, volumes.
    #[arg(long, default_value = DEFAULT_ROOT_DIR, value_name = "DIR")]
    pub root_dir: PathBuf,
    /// Sockets and records of running pods; may vanish with a reboot.
    #[arg(long, default_value = "/run/kutter", value_name = "DIR")]
    pub run_dir: PathBuf,
    /// The cgroup under which all pods are.
    #[arg(long, default_value = "/kutter", value_name = "PATH")]
    pub cgroup_root: String,
    /// The bridge that the pods of this node are connected to.
    #[arg(long, default_value = "kutter0", value_name = "NAME")]
    pub bridge: String,
    /// The nftables tables that the service proxy owns, one for each version of IP.
    #[arg(long, default_value = "kutter", value_name = "NAME")]
    pub nft_table: String,
    /// The program that holds a pod's namespaces [default: `shim` beside this program].
    #[arg(long, value_name = "FILE")]
    pub shim: Option<PathBuf>,
}

/// How this node's agent is to run.
#[derive(Clone, Debug, Args)]
pub struct Config {
    /// Where it leaves traces.
    #[command(flatten)]
    pub traces: Traces,
    /// Logs of containers, in the CRI layout.
    #[arg(long, default_value = "/var/log/pods", value_name = "DIR")]
    pub log_dir: PathBuf,
    /// The name of this node [default: the host name, in lower case].
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The address under which other nodes reach this one, or one of each family, the primary one first
    /// [default: the one that reaches the master, and one of the other family on the same interface if there is
    /// any].
    #[arg(long, value_name = "IP[,IP]")]
    pub node_ip: Option<NodeAddresses>,
    /// Who connects pods: Kutter's bridge, or the plugins of a CNI configuration.
    #[arg(long = "network", value_enum, default_value_t = NetworkKind::Bridge)]
    pub network_kind: NetworkKind,
    /// With `--network cni`: the folder with the configuration, of which the first file counts.
    #[arg(long, default_value = "/etc/cni/net.d", value_name = "DIR")]
    pub cni_conf_dir: PathBuf,
    /// With `--network cni`: the folders with the plugins' programs.
    #[arg(long, default_value = "/opt/cni/bin", value_delimiter = ',', value_name = "DIR,…")]
    pub cni_bin_dir: Vec<PathBuf>,
    /// At which of this node's addresses node ports and health checks are served: ranges, or
    /// `primary` for the addresses that the node is known by [default: all].
    #[arg(long, default_value = "", hide_default_value = true, value_name = "RANGE,…")]
    pub node_port_addresses: NodePortAddresses,
    /// The UDP port of the tunnels (VXLAN) to nodes on other segments: the same on all nodes, and open
    /// between them.
    #[arg(long, default_value_t = DEFAULT_VXLAN_PORT, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub vxlan_port: u16,
    /// Labels of this node; may be given several times. `--node-label` is the same.
    #[arg(
        long = "node-labels",
        alias = "node-label",
        value_delimiter = ',',
        value_name = "KEY=VALUE,…",
        value_parser = parse_label
    )]
    pub node_labels: Vec<(String, String)>,
    /// A master to join, as https://10.0.0.1:6443; may be given several times. Not needed again
    /// after the first time.
    #[arg(long, value_name = "URL")]
    pub join: Vec<MasterUrl>,
    /// The token that `master token create` prints; needed the first time only.
    #[arg(long, env = "KUTTER_JOIN_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A folder with files, a pod in each, that run here without any master: Kubernetes' static pods.
    #[arg(long, value_name = "DIR")]
    pub pod_manifest_path: Option<PathBuf>,
    /// A registry to be spoken to in plain HTTP; may be given several times. Loopback registries
    /// always are.
    #[arg(long = "insecure-registry", value_name = "HOST:PORT")]
    pub insecure_registries: Vec<String>,
    /// Where to ask for images before the registry that they name, as
    /// `docker.io=https://mirror.example:5000`; `*` stands for every registry. May be given several
    /// times, and is tried in that order. Pull secrets are shown to the registry itself only.
    #[arg(long = "registry-mirror", value_name = "REGISTRY=URL")]
    pub registry_mirrors: Vec<RegistryMirror>,
    /// From this percentage of the disk on, images that nobody uses are removed; 100: never.
    #[arg(long, default_value_t = 85, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_high_threshold: u8,
    /// Down to this percentage.
    #[arg(long, default_value_t = 80, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_low_threshold: u8,
    /// Images stay so long after they came.
    #[arg(long, default_value = "2m", value_name = "TIME")]
    pub minimum_image_ttl_duration: Period,
    /// Below these bounds, pods are ended at once. Signals are memory.available, nodefs.available,
    /// nodefs.inodesFree, imagefs.available, imagefs.inodesFree and pid.available.
    #[arg(long, default_value = DEFAULT_EVICTION_HARD, value_name = "SIGNAL<AMOUNT,…")]
    pub eviction_hard: Statements,
    /// Below these bounds, for longer than their grace period, pods are ended.
    #[arg(
        long,
        default_value = "",
        value_name = "SIGNAL<AMOUNT,…",
        requires = "eviction_soft_grace_period"
    )]
    pub eviction_soft: Statements,
    /// How long a soft bound has to be passed.
    #[arg(long, default_value = "", value_name = "SIGNAL=TIME,…")]
    pub eviction_soft_grace_period: Graces,
    /// So much more than its bound has to be free again.
    #[arg(long, default_value = "", value_name = "SIGNAL=AMOUNT,…")]
    pub eviction_minimum_reclaim: Reclaims,
    /// So many seconds a pod may take that goes for a soft bound.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub eviction_max_pod_grace_period: u32,
    /// For so long a node says that it is short of something after it was.
    #[arg(long, default_value = "5m", value_name = "TIME")]
    pub eviction_pressure_transition_period: Period,
    /// When the machine shuts down, pods have so long to end before the kubelet does; 0: they are left
    /// to the machine. systemd has to be told to wait as long (TimeoutStopSec).
    #[arg(long, default_value = "0", value_name = "TIME")]
    pub shutdown_grace_period: Period,
    /// The last part of that time, which critical pods have for themselves.
    #[arg(long, default_value = "0", value_name = "TIME")]
    pub shutdown_grace_period_critical_pods: Period,
    /// The same by priority, the lowest first; instead of the two above.
    #[arg(long, value_name = "PRIORITY=TIME,…", conflicts_with_all = ["shutdown_grace_period", "shutdown_grace_period_critical_pods"])]
    pub shutdown_grace_period_by_pod_priority: Option<ShutdownPeriods>,
    /// What is set aside for Kutter itself, as cpu=200m,memory=500Mi,ephemeral-storage=1Gi,pid=1000.
    #[arg(long, default_value = "", value_name = "RESOURCE=AMOUNT,…")]
    pub kube_reserved: Reserved,
    /// What is set aside for the rest of the machine's programs.
    #[arg(long, default_value = "", value_name = "RESOURCE=AMOUNT,…")]
    pub system_reserved: Reserved,
    /// Who is held by the kernel to what the node has for it: pods, all together, to what is not set aside of
    /// memory and processes; or none.
    #[arg(long, default_value = "pods", value_name = "pods|none")]
    pub enforce_node_allocatable: Enforced,
    /// So many pods run here at the most.
    #[arg(long, default_value_t = 110, value_name = "N")]
    pub max_pods: u32,
    /// Whether pods that do not say `hostUsers` have users of their own, so that root in them is nobody
    /// on this node.
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub own_users: bool,
    /// The users and groups of this node that pods with users of their own have: 65536 for each pod.
    #[arg(long, default_value = DEFAULT_USER_IDS, value_name = "FIRST-LAST", value_parser = parse_ids)]
    pub user_ids: IdRange,
    /// So many processes and threads a pod may have, all its containers together; -1: as many as there are.
    #[arg(long, default_value_t = DEFAULT_POD_MAX_PIDS, value_name = "N")]
    pub pod_max_pids: i64,
}

/// The kernel's own, which flannel and Cilium use as well, so that firewalls of Kubernetes clusters
/// mostly know it. The registered one, 4789, is Docker Swarm's and that of many hypervisors' networks,
/// which may be in use on the same machine.
pub const DEFAULT_VXLAN_PORT: u16 = 8472;

/// Who connects pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum NetworkKind {
    /// A bridge on each node, routes and tunnels between nodes.
    Bridge,
    /// Plugins of the operator's choice.
    Cni,
}

/// Kubernetes' bounds.
pub const DEFAULT_EVICTION_HARD: &str = "memory.available<100Mi,nodefs.available<10%,\
     nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%";

impl Config {
    /// The operator's bounds.
    ///
    /// # Errors
    /// When they contradict each other.
    pub fn thresholds(&self) -> Result<Vec<Threshold>, String> {
        thresholds(
            &self.eviction_hard,
            &self.eviction_soft,
            &self.eviction_soft_grace_period,
            &self.eviction_minimum_reclaim,
        )
    }

    /// How long pods have when the machine ends.
    ///
    /// # Errors
    /// When the operator's words contradict each other.
    pub fn shutdown_periods(&self) -> Result<ShutdownPeriods, String> {
        match &self.shutdown_grace_period_by_pod_priority {
            Some(periods) => Ok(periods.clone()),
            None => ShutdownPeriods::simple(
                self.shutdown_grace_period.0,
                self.shutdown_grace_period_critical_pods.0,
            ),
        }
    }

    /// What is set aside for others than pods.
    pub fn set_aside(&self) -> Reserved {
        self.kube_reserved + self.system_reserved
    }

    /// What pods do not get: what is set aside, and what would be short at once.
    pub fn reserved(&self) -> impl Fn(u64, u64) -> Reserved + Send + Sync + 'static {
        let (fixed, hard) = (self.set_aside(), self.eviction_hard.clone());
        move |memory, storage| {
            let bound = |signal: Signal, capacity: u64| {
                let found = hard.0.iter().find(|(known, _)| *known == signal);
                let capacity = i64::try_from(capacity).unwrap_or(i64::MAX);
                found.map_or(0, |(_, amount)| amount.of(capacity))
            };
            fixed
                + Reserved {
                    cpu_milli: 0,
                    memory: bound(Signal::MemoryAvailable, memory),
                    ephemeral_storage: bound(Signal::NodefsAvailable, storage),
                    processes: 0,
                }
        }
    }
}

impl Config {
    /// How the pod network is set up.
    pub fn network(&self) -> NetworkConfig {
        NetworkConfig { vxlan_port: self.vxlan_port, ..self.traces.network() }
    }

    /// Where plugins for the pod network are.
    pub fn cni(&self) -> CniConfig {
        CniConfig {
            conf_dir: self.cni_conf_dir.clone(),
            bin_dirs: self.cni_bin_dir.clone(),
            state_dir: self.traces.attached(),
        }
    }

    /// How the service proxy of the node with this name is set up.
    pub fn proxy(&self, node_name: &str) -> ProxyConfig {
        ProxyConfig {
            table: self.traces.nft_table.clone(),
            node_name: node_name.to_owned(),
            pods_of_range: self.network_kind == NetworkKind::Bridge,
            node_port_addresses: self.node_port_addresses.clone(),
        }
    }
}

impl Traces {
    /// Where containers are kept.
    pub fn runtime(&self) -> ShimRuntimeConfig {
        ShimRuntimeConfig {
            state_dir: self.run_dir.clone(),
            data_dir: self.root_dir.join("containers"),
            shim_path: self.shim.clone(),
            cgroup_root: self.cgroup_root.clone(),
            user_ids: runtime::DEFAULT_USER_IDS,
        }
    }

    /// How the pod network is set up.
    pub fn network(&self) -> NetworkConfig {
        NetworkConfig {
            bridge: self.bridge.clone(),
            state_dir: self.run_dir.join("network"),
            vxlan_port: DEFAULT_VXLAN_PORT,
            table: format!("{}-tunnel", self.nft_table),
        }
    }

    /// Where is kept which pods plugins attached.
    pub fn attached(&self) -> PathBuf {
        self.root_dir.join("cni")
    }

    /// Name of the tables that hold pods to network policies.
    pub fn policy_table(&self) -> String {
        format!("{}-policy", self.nft_table)
    }
}

/// Where images are kept.
pub fn images(root_dir: &Path) -> ImageStoreConfig {
    ImageStoreConfig { root: root_dir.join("images"), ..ImageStoreConfig::default() }
}

/// As the runtime has it for a default.
const DEFAULT_USER_IDS: &str = "1879048192-2141192191";

fn parse_ids(text: &str) -> Result<IdRange, String> {
    let numbers = text.split_once('-').and_then(|(first, last)| {
        Some((first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?))
    });
    let (first, last) = numbers.ok_or("ids are written FIRST-LAST")?;
    match last.checked_sub(first) {
        Some(between) if between >= 65_535 && first >= 65_536 => {
            Ok(IdRange { first, count: between.saturating_add(1) })
        }
        Some(between) if between >= 65_535 => Err("ids below 65536 are the node's own".to_owned()),
        _ => Err("65536 ids are needed for a pod".to_owned()),
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is written KEY=VALUE")?;
    if key.is_empty() {
        return Err("the key of a label is empty".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Where a master is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MasterUrl {
    /// A name or an address.
    pub host: String,
    /// A port.
    pub port: u16,
}

/// Text that is no address of a master.
#[derive(Debug, thiserror::Error)]
#[error("\"{text}\" is no master's address; write https://HOST:PORT")]
pub struct InvalidMasterUrl {
    text: String,
}

impl std::str::FromStr for MasterUrl {
    type Err = InvalidMasterUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidMasterUrl { text: text.to_owned() };
        let uri: http::Uri = text.parse().map_err(|_| invalid())?;
        let plain_path = uri.path().is_empty() || uri.path() == "/";
        if uri.scheme_str() != Some("https") || !plain_path || uri.query().is_some() {
            return Err(invalid());
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(invalid)?;
        Ok(Self {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.port_u16().unwrap_or(proto::DEFAULT_MASTER_PORT),
        })
    }
}

impl std::fmt::Display for MasterUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.parse::<IpAddr>() {
            Ok(address) => write!(f, "https://{}", SocketAddr::new(address, self.port)),
            Err(_) => write!(f, "https://{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masters_address_is_https_with_a_host() {
        for (text, host, port) in [
            ("https://10.0.0.1:7443", "10.0.0.1", 7443),
            ("https://master.example", "master.example", 6443),
            ("https://[fd00::1]:6443/", "fd00::1", 6443),
        ] {
            let url: MasterUrl = text.parse().unwrap();
            assert_eq!((url.host.as_str(), url.port), (host, port), "{text}");
            assert_eq!(url.to_string().parse::<MasterUrl>().unwrap(), url);
        }
        for text in ["http://10.0.0.1", "10.0.0.1:6443", "https://", "https://a/b", "https://a?b"] {
            assert!(text.parse::<MasterUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_command_line_is_as_documented() {
        let cli = Cli::try_parse_from([
            "kubelet",
            "--join=https://10.0.0.1:6443",
            "--join=https://10.0.0.2:6443",
            "--node-labels=disk=fast,zone=a",
            "--node-label=rack=",
            "--insecure-registry=10.0.0.9:5000",
        ])
        .unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.config.join.len(), 2);
        let labels = [("disk", "fast"), ("zone", "a"), ("rack", "")];
        assert_eq!(cli.config.node_labels, labels.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(cli.config.traces.root_dir, Path::new(DEFAULT_ROOT_DIR));
        let import = ["kubelet", "image", "import", "a.tar", "--root-dir", "/tmp/x"];
        let Some(Command::Image(ImageCommand::Import { file, root_dir })) =
            Cli::try_parse_from(import).unwrap().command
        else {
            panic!("an import was asked for");
        };
        assert_eq!((file, root_dir), ("a.tar".into(), "/tmp/x".into()));
        assert!(Cli::try_parse_from(["kubelet", "--node-labels=a=b,none"]).is_err());
        assert!(cli.config.own_users);
        assert_eq!(cli.config.user_ids, runtime::DEFAULT_USER_IDS);
        let chosen =
            Cli::try_parse_from(["kubelet", "--own-users=false", "--user-ids=100000-165535"]);
        let chosen = chosen.unwrap().config;
        assert!(!chosen.own_users);
        assert_eq!(chosen.user_ids, IdRange { first: 100_000, count: 65_536 });
        for wrong in ["100000", "5-4", "0-1000000", "100000-165534"] {
            assert!(Cli::try_parse_from(["kubelet", "--user-ids", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn node_ports_may_be_kept_to_some_addresses() {
        let at = |said: &str| config(&[said]).node_port_addresses;
        assert_eq!(config(&[]).node_port_addresses, NodePortAddresses::default());
        assert_eq!(at("--node-port-addresses=10.0.0.0/8"), "10.0.0.0/8".parse().unwrap());
        let wrong = ["kubelet", "--node-port-addresses=10.0.0.1"];
        assert!(Cli::try_parse_from(wrong).unwrap_err().to_string().contains("\"primary\""));
    }

    #[test]
    fn plugins_connect_pods_only_when_the_operator_says_so() {
        assert_eq!(config(&[]).network_kind, NetworkKind::Bridge);
        let chosen = config(&["--network=cni", "--cni-bin-dir=/opt/cni/bin,/usr/lib/cni"]);
        assert_eq!(chosen.network_kind, NetworkKind::Cni);
        let cni = chosen.cni();
        assert_eq!(cni.conf_dir, Path::new("/etc/cni/net.d"));
        assert_eq!(cni.bin_dirs, [Path::new("/opt/cni/bin"), Path::new("/usr/lib/cni")]);
        assert_eq!(cni.state_dir, Path::new(DEFAULT_ROOT_DIR).join("cni"));
        assert!(Cli::try_parse_from(["kubelet", "--network=calico"]).is_err());
    }

    fn config(arguments: &[&str]) -> Config {
        Cli::try_parse_from(["kubelet"].iter().chain(arguments)).unwrap().config
    }

    #[test]
    fn bounds_are_kubernetes_own_unless_the_operator_says_otherwise() {
        let names = |config: &Config| -> Vec<&'static str> {
            config.thresholds().unwrap().iter().map(|one| one.signal.name()).collect()
        };
        let five = [
            "memory.available",
            "nodefs.available",
            "nodefs.inodesFree",
            "imagefs.available",
            "imagefs.inodesFree",
        ];
        assert_eq!(names(&config(&[])), five);
        assert!(names(&config(&["--eviction-hard="])).is_empty());
        assert_eq!(names(&config(&["--eviction-hard=pid.available<100"])), ["pid.available"]);
        let soft = "--eviction-soft=memory.available<1Gi";
        let grace = "--eviction-soft-grace-period=memory.available=1m30s";
        let both = config(&["--eviction-hard=", soft, grace]).thresholds().unwrap();
        assert_eq!(both[0].grace, Some(std::time::Duration::from_secs(90)));
        let other = "--eviction-soft-grace-period=nodefs.available=1s";
        assert!(config(&[soft, other]).thresholds().unwrap_err().contains("memory.available"));
        assert!(Cli::try_parse_from(["kubelet", soft]).is_err());
        assert!(Cli::try_parse_from(["kubelet", "--eviction-hard=memory.free<1Gi"]).is_err());
    }

    #[test]
    fn what_is_set_aside_and_what_would_be_short_is_not_for_pods() {
        let config = config(&[
            "--kube-reserved=cpu=100m,memory=1Gi",
            "--system-reserved=memory=1Gi,ephemeral-storage=2Gi",
            "--eviction-hard=memory.available<100Mi,nodefs.available<10%",
        ]);
        let expected = Reserved {
            cpu_milli: 100,
            memory: (2 << 30) + (100 << 20),
            ephemeral_storage: (2 << 30) + (10 << 30),
            processes: 0,
        };
        assert_eq!(config.reserved()(8 << 30, 100 << 30), expected);
    }
}
