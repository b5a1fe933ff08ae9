//! The command line, checked before anything is opened or bound.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use self::network::Network;
pub use self::network::NetworkError;
use crate::api::kinds::ClusterConfig;
use crate::api::kinds::cidr::Ranges;
use crate::controllers::Port;

mod network;

/// The control plane of Kutter.
#[derive(Debug, Parser)]
#[command(name = "master", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    /// What to do instead of serving.
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// What else the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tokens with which machines join the cluster.
    Token {
        /// What to do with them.
        #[command(subcommand)]
        command: TokenCommand,
    },
}

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Prints a new token. A master has to be running: it is asked, as the administrator.
    Create(TokenArgs),
}

/// How to make a token.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The data directory of the running master, or of any other one of the cluster.
    #[arg(long, default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
    /// For how long machines can join with it, such as 30m or 24h.
    #[arg(long, default_value = "24h", value_parser = duration)]
    pub ttl: Duration,
}

const DEFAULT_DATA_DIR: &str = "/var/lib/kutter/master";

/// The arguments as they come.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Where certificates and the embedded store are kept.
    #[arg(long, default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
    /// Address and port for the API and the nodes.
    #[arg(long, default_value = "0.0.0.0:6443")]
    pub listen: SocketAddr,
    /// The address under which others reach this master [default: the one of --listen, or of the
    /// default route].
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// A file in the data directory, or an etcd cluster.
    #[arg(long, value_enum, default_value_t = StoreKind::Embedded)]
    pub store: StoreKind,
    /// The etcd servers, as http://10.0.0.1:2379, with --store etcd.
    #[arg(long, value_delimiter = ',', value_name = "URL")]
    pub etcd_servers: Vec<String>,
    /// Who signs the certificates of https etcd servers (PEM file).
    #[arg(long, value_name = "FILE")]
    pub etcd_cafile: Option<PathBuf>,
    /// This master's certificate for etcd (PEM file).
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// The key of --etcd-certfile (PEM file).
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// Pods get their addresses out of it; for both families two ranges with a comma between, the
    /// first of which is the primary one.
    #[arg(long, default_value = "10.244.0.0/16", value_name = "RANGE[,RANGE]")]
    pub pod_cidr: Ranges,
    /// The length of the prefix that each node gets out of the pods' range of IPv4 [default: 24].
    #[arg(long, value_name = "BITS")]
    pub node_cidr_prefix: Option<u8>,
    /// The length of the prefix that each node gets out of the pods' range of IPv6 [default: 64].
    #[arg(long, value_name = "BITS")]
    pub node_cidr_prefix_ipv6: Option<u8>,
    /// Services get their addresses out of it; two ranges as with --pod-cidr.
    #[arg(long, default_value = "10.96.0.0/16", value_name = "RANGE[,RANGE]")]
    pub service_cidr: Ranges,
    /// Ports for services of type NodePort, both ends included.
    #[arg(long, default_value = "30000-32767", value_parser = port_range)]
    pub service_node_port_range: (u16, u16),
    /// Who gives Services of type LoadBalancer their addresses.
    #[arg(long, value_enum, default_value_t = LoadBalancer::NodeAddresses)]
    pub load_balancer: LoadBalancer,
    /// Ports that nodes need for themselves, so that no Service of type LoadBalancer gets them at a
    /// node's address; the masters' own and those of --etcd-servers always are. The defaults are
    /// those of SSH and of the network between the nodes' segments.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "PORT[/PROTOCOL]",
        default_value = "22,8472/UDP"
    )]
    pub load_balancer_reserved_ports: Vec<Port>,
    /// The DNS domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// How long a node may be without a session before it counts as lost.
    #[arg(long, default_value = "20s", value_parser = duration)]
    pub node_monitor_grace_period: Duration,
    /// How long after that its pods are replaced.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub pod_eviction_timeout: Duration,
    /// A further name or address for the server's certificate; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub tls_san: Vec<String>,
}

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// A file of this process.
    Embedded,
    /// An etcd cluster.
    Etcd,
}

/// Who gives Services of type `LoadBalancer` their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LoadBalancer {
    /// The masters: they are reached at the addresses of the nodes.
    NodeAddresses,
    /// Somebody else, or nobody.
    None,
}

/// What is wrong with the arguments.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// `--store etcd` without servers.
    #[error("--store etcd needs --etcd-servers")]
    NoEtcdServers,
    /// etcd's options without etcd.
    #[error("{0} is of no use without --store etcd")]
    NotEtcd(&'static str),
    /// An etcd server's address.
    #[error("--etcd-servers: {0} is not an address such as http://10.0.0.1:2379")]
    EtcdServer(String),
    /// The ranges of addresses.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Not a domain.
    #[error("--cluster-domain {domain}: {reason}")]
    Domain {
        /// What was given.
        domain: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not a name for a certificate.
    #[error("--tls-san {0} is neither an address nor a DNS name")]
    Name(String),
    /// An address that means all addresses.
    #[error("--advertise-address {0} is no address that anybody could connect to")]
    Advertise(IpAddr),
    /// Too short to be of use.
    #[error("--node-monitor-grace-period has to be a second at least")]
    GracePeriod,
}

/// Checked arguments.
#[derive(Clone, Debug)]
pub struct Config {
    /// See [`ServeArgs::data_dir`].
    pub data_dir: PathBuf,
    /// See [`ServeArgs::listen`].
    pub listen: SocketAddr,
    /// Under which address others reach this master.
    pub advertise: IpAddr,
    /// See [`ServeArgs::store`].
    pub store: StoreConfig,
    /// What allocation needs to know.
    pub cluster: ClusterConfig,
    /// The address of the Service `default/kubernetes`.
    pub kubernetes_address: IpAddr,
    /// See [`ServeArgs::cluster_domain`].
    pub cluster_domain: String,
    /// What the controllers need to know.
    pub controllers: crate::controllers::Config,
    /// Further names for the server's certificate.
    pub names: Vec<String>,
}

/// Which store, with what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// A file in the data directory.
    Embedded,
    /// An etcd cluster.
    Etcd {
        /// URLs.
        servers: Vec<String>,
        /// CA file.
        ca: Option<PathBuf>,
        /// Certificate and key files.
        identity: Option<(PathBuf, PathBuf)>,
    },
}

impl TryFrom<ServeArgs> for Config {
    type Error = ConfigError;

    fn try_from(args: ServeArgs) -> Result<Self, ConfigError> {
        let ServeArgs {
            data_dir,
            listen,
            advertise_address,
            store,
            etcd_servers,
            etcd_cafile,
            etcd_certfile,
            etcd_keyfile,
            pod_cidr,
            node_cidr_prefix,
            node_cidr_prefix_ipv6,
            service_cidr,
            service_node_port_range,
            load_balancer,
            load_balancer_reserved_ports,
            cluster_domain,
            node_monitor_grace_period,
            pod_eviction_timeout,
            tls_san,
        } = args;
        if let Some(address) = advertise_address.filter(|address| address.is_unspecified()) {
            return Err(ConfigError::Advertise(address));
        }
        let identity = etcd_certfile.zip(etcd_keyfile);
        let service_lb = (load_balancer == LoadBalancer::NodeAddresses)
            .then(|| reserved(load_balancer_reserved_ports, listen, &etcd_servers));
        let store = store_config(store, etcd_servers, etcd_cafile, identity)?;
        let network = Network {
            pods: pod_cidr,
            services: service_cidr,
            node_prefix: node_cidr_prefix,
            node_prefix_ipv6: node_cidr_prefix_ipv6,
        };
        let (cluster, kubernetes_address) = network.checked(service_node_port_range)?;
        let errors = proto::names::dns_subdomain(&cluster_domain);
        if !errors.is_empty() {
            return Err(ConfigError::Domain { domain: cluster_domain, reason: errors.join("; ") });
        }
        for name in &tls_san {
            let host = name.strip_prefix("*.").unwrap_or(name);
            let is_address = name.parse::<IpAddr>().is_ok();
            if !is_address && !proto::names::dns_subdomain(host).is_empty() {
                return Err(ConfigError::Name(name.clone()));
            }
        }
        if node_monitor_grace_period < Duration::from_secs(1) {
            return Err(ConfigError::GracePeriod);
        }
        Ok(Self {
            data_dir,
            listen,
            advertise: advertise_address.unwrap_or_else(|| reached_at(listen.ip())),
            store,
            cluster,
            kubernetes_address,
            cluster_domain,
            controllers: crate::controllers::Config {
                node_monitor_grace_period,
                pod_eviction_timeout,
                service_lb,
                // Of the authority, which is opened later.
                ..crate::controllers::Config::default()
            },
            names: tls_san,
        })
    }
}

fn store_config(
    kind: StoreKind,
    servers: Vec<String>,
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
) -> Result<StoreConfig, ConfigError> {
    match kind {
        StoreKind::Embedded if !servers.is_empty() => Err(ConfigError::NotEtcd("--etcd-servers")),
        StoreKind::Embedded if ca.is_some() => Err(ConfigError::NotEtcd("--etcd-cafile")),
        StoreKind::Embedded if identity.is_some() => Err(ConfigError::NotEtcd("--etcd-certfile")),
        StoreKind::Embedded => Ok(StoreConfig::Embedded),
        StoreKind::Etcd if servers.is_empty() => Err(ConfigError::NoEtcdServers),
        StoreKind::Etcd => {
            let good = |server: &str| {
                server.parse::<http::Uri>().is_ok_and(|uri| {
                    matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
                })
            };
            match servers.iter().find(|server| !good(server)) {
                Some(bad) => Err(ConfigError::EtcdServer(bad.clone())),
                None => Ok(StoreConfig::Etcd { servers, ca, identity }),
            }
        }
    }
}

/// The ports at nodes' addresses that no Service gets: without those of the control plane, nothing
/// could be taken back.
fn reserved(said: Vec<Port>, listen: SocketAddr, etcd: &[String]) -> BTreeSet<Port> {
    let etcd = etcd.iter().filter_map(|url| url.parse::<http::Uri>().ok()?.port_u16());
    let own = etcd.chain([listen.port()]).map(Port::tcp);
    said.into_iter().chain(own).collect()
}

/// The address under which a listener is reached from elsewhere.
fn reached_at(listen: IpAddr) -> IpAddr {
    if !listen.is_unspecified() {
        return listen;
    }
    // Connecting a datagram socket sends nothing; it only chooses the address that the default
    // route would use. The destinations are reserved for documentation.
    let source = |local: IpAddr, remote: IpAddr| {
        let socket = UdpSocket::bind((local, 0)).ok()?;
        socket.connect((remote, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    source(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into())
        .or_else(|| {
            let remote = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
            source(Ipv6Addr::UNSPECIFIED.into(), remote.into())
        })
        // A machine without a network: it can only be a cluster of its own.
        .unwrap_or(Ipv4Addr::LOCALHOST.into())
}

/// `300ms`, `20s`, `5m`, `24h`, and such one after the other, as in `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration such as 20s, 5m or 24h");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: u32 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(60 * 60),
            _ => return Err(bad()),
        };
        rest = &rest[letters..];
        total =
            unit.checked_mul(number).and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
    }
    if text.is_empty() { Err(bad()) } else { Ok(total) }
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let bad = || format!("{text:?} is not a range of ports such as 30000-32767");
    let (first, last) = text.split_once('-').ok_or_else(bad)?;
    let (first, last): (u16, u16) =
        (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
    if first == 0 || last < first { Err(bad()) } else { Ok((first, last)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> Result<Config, ConfigError> {
        let cli = Cli::try_parse_from([&["master"], arguments].concat()).expect("parses");
        Config::try_from(cli.serve)
    }

    fn refused(arguments: &[&str]) -> String {
        Cli::try_parse_from([&["master"], arguments].concat()).expect_err("refused").to_string()
    }

    #[test]
    fn the_defaults_make_a_cluster() {
        let config = config(&["--listen", "127.0.0.1:0"]).expect("good");
        assert_eq!(config.advertise, IpAddr::from([127, 0, 0, 1]));
        assert_eq!(config.kubernetes_address, IpAddr::from([10, 96, 0, 1]));
        assert_eq!(config.store, StoreConfig::Embedded);
        assert_eq!(config.cluster.node_ports, (30000, 32767));
        assert_eq!(config.controllers.pod_eviction_timeout, Duration::from_secs(30));
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_a_sentence() {
        let cases: [(&[&str], &str); 13] = [
            (&["--store", "etcd"], "needs --etcd-servers"),
            (&["--etcd-servers", "http://a:1"], "of no use without --store etcd"),
            (&["--etcd-cafile", "x"], "of no use without --store etcd"),
            (&["--store", "etcd", "--etcd-servers", "http://a:1,10.0.0.1"], "10.0.0.1 is not an"),
            (&["--service-cidr", "10.244.8.0/24"], "overlap"),
            (&["--pod-cidr", "10.0.0.0/8", "--node-cidr-prefix", "16"], "overlap"),
            (&["--node-cidr-prefix", "15"], "does not fit"),
            (&["--node-cidr-prefix", "30"], "does not fit"),
            (&["--service-cidr", "10.96.0.0/31"], "too small"),
            (&["--service-cidr", "10.96.0.0/16,fd00::/112"], "no range of IPv6"),
            (&["--cluster-domain", "Not A Domain"], "--cluster-domain"),
            (&["--tls-san", "a_b"], "neither an address nor a DNS name"),
            (&["--advertise-address", "0.0.0.0"], "no address that anybody"),
        ];
        for (arguments, words) in cases {
            let error = config(arguments).expect_err("refused").to_string();
            assert!(error.contains(words), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn malformed_values_are_refused_by_the_parser() {
        for (flag, value) in [
            ("--pod-cidr", "10.0.0.0"),
            ("--pod-cidr", "10.0.0.0/16,10.1.0.0/16"),
            ("--service-node-port-range", "5-4"),
            ("--service-node-port-range", "30000"),
            ("--node-monitor-grace-period", "20"),
            ("--pod-eviction-timeout", "s"),
            ("--pod-eviction-timeout", "5d"),
            ("--listen", "localhost"),
            ("--store", "zookeeper"),
            ("--load-balancer-reserved-ports", "22/ICMP"),
            ("--load-balancer", "cloud"),
        ] {
            assert!(refused(&[flag, value]).contains(value), "{flag} {value}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (text, seconds) in [("20s", 20), ("5m0s", 300), ("1h30m", 5400), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
    }

    #[test]
    fn names_and_servers_may_be_several() {
        let config = config(&[
            "--store=etcd",
            "--etcd-servers=http://10.0.0.1:2379,https://etcd-2:2379",
            "--tls-san=api.example.com",
            "--tls-san=192.0.2.7",
        ])
        .expect("good");
        assert_eq!(config.names, ["api.example.com", "192.0.2.7"]);
        assert!(matches!(config.store, StoreConfig::Etcd { servers, .. } if servers.len() == 2));
    }

    #[test]
    fn ports_that_the_cluster_hangs_on_are_never_given_to_services() {
        let reserved = |arguments: &[&str]| {
            let ports = config(arguments).expect("good").controllers.service_lb?;
            Some(ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let etcd = ["--store=etcd", "--etcd-servers=http://10.0.0.1:2379"];
        assert_eq!(reserved(&etcd).as_deref(), Some("22/TCP 2379/TCP 6443/TCP 8472/UDP"));
        let ssh = ["--load-balancer-reserved-ports=2222,53/udp", "--listen=0.0.0.0:8443"];
        assert_eq!(reserved(&ssh).as_deref(), Some("53/UDP 2222/TCP 8443/TCP"));
        assert_eq!(reserved(&["--load-balancer=none"]), None);
    }
}
