//! The ranges of addresses, and whether they go together.

use std::net::IpAddr;

use crate::api::kinds::ClusterConfig;
use crate::api::kinds::cidr::{Family, IpRange, NodePrefixes, Ranges};

/// A node needs an address for itself and some for pods.
const MIN_NODE_BITS: u8 = 3;
/// More than 65 536 nodes are no use; the controller of Kubernetes has the same bound.
const MAX_NODE_RANGES_BITS: u8 = 16;
/// As the ServiceCIDRs of Kubernetes: of more addresses than this nobody has any use.
const MIN_SERVICE_PREFIX_V6: u8 = 64;

/// What is wrong with the ranges.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NetworkError {
    /// Ranges that share addresses.
    #[error("--pod-cidr {pods} and --service-cidr {services} overlap")]
    Overlap {
        /// The pods' range.
        pods: IpRange,
        /// The services' range.
        services: IpRange,
    },
    /// Endpoints are named by the pods' primary family.
    #[error(
        "--service-cidr begins with {services}, --pod-cidr with {pods}: both have to begin with \
         the same family"
    )]
    Primary {
        /// The services' first range.
        services: IpRange,
        /// The pods' first range.
        pods: IpRange,
    },
    /// Services of a family without pods of it.
    #[error("--service-cidr has {0}, but --pod-cidr no range of {family}: give one, or leave it out", family = .0.family())]
    NoPods(IpRange),
    /// A node's part is not a part of the pods' range, or holds too few addresses.
    #[error(
        "{flag} {prefix} does not fit --pod-cidr {pods}: it has to be longer than that prefix by \
         at most {MAX_NODE_RANGES_BITS}, and at most {most}", most = .pods.family().bits() - MIN_NODE_BITS
    )]
    NodePrefix {
        /// Which flag says it.
        flag: &'static str,
        /// The nodes' prefix.
        prefix: u8,
        /// The pods' range.
        pods: IpRange,
    },
    /// A prefix for a family that there is no range of.
    #[error("{flag} is of no use: --pod-cidr has no range of {family}")]
    UnusedPrefix {
        /// Which flag.
        flag: &'static str,
        /// Which family.
        family: Family,
    },
    /// A range without room.
    #[error("--service-cidr {0} is too small: it needs a prefix of at most {most}", most = .0.family().bits() - 2)]
    SmallServiceCidr(IpRange),
    /// A range that nobody needs.
    #[error(
        "--service-cidr {0} is too large: it needs a prefix of at least {MIN_SERVICE_PREFIX_V6}"
    )]
    LargeServiceCidr(IpRange),
}

/// The ranges as the arguments have them.
pub(super) struct Network {
    pub(super) pods: Ranges,
    pub(super) services: Ranges,
    pub(super) node_prefix: Option<u8>,
    pub(super) node_prefix_ipv6: Option<u8>,
}

impl Network {
    /// What allocation needs to know, and the address of the Service `default/kubernetes`.
    pub(super) fn checked(
        self,
        node_ports: (u16, u16),
    ) -> Result<(ClusterConfig, IpAddr), NetworkError> {
        let Self { pods, services, node_prefix, node_prefix_ipv6 } = self;
        for services in services.iter() {
            if let Some(pods) = pods.iter().find(|pods| pods.overlaps(&services)) {
                return Err(NetworkError::Overlap { pods, services });
            }
            if pods.of(services.family()).is_none() {
                return Err(NetworkError::NoPods(services));
            }
            if services.host_bits() < 2 {
                return Err(NetworkError::SmallServiceCidr(services));
            }
            if services.family() == Family::V6 && services.prefix() < MIN_SERVICE_PREFIX_V6 {
                return Err(NetworkError::LargeServiceCidr(services));
            }
        }
        let first = services.primary();
        if first.family() != pods.primary().family() {
            return Err(NetworkError::Primary { services: first, pods: pods.primary() });
        }
        let default = NodePrefixes::default();
        let node_prefixes = NodePrefixes {
            v4: prefix(&pods, Family::V4, "--node-cidr-prefix", node_prefix, default.v4)?,
            v6: prefix(&pods, Family::V6, "--node-cidr-prefix-ipv6", node_prefix_ipv6, default.v6)?,
        };
        let address = first.nth(1).ok_or(NetworkError::SmallServiceCidr(first))?;
        let cluster =
            ClusterConfig { service_cidrs: services, pod_cidrs: pods, node_prefixes, node_ports };
        Ok((cluster, address))
    }
}

fn prefix(
    pods: &Ranges,
    family: Family,
    flag: &'static str,
    given: Option<u8>,
    default: u8,
) -> Result<u8, NetworkError> {
    let prefix = given.unwrap_or(default);
    match pods.of(family) {
        None if given.is_some() => Err(NetworkError::UnusedPrefix { flag, family }),
        None => Ok(prefix),
        Some(pods) => {
            let parts = prefix.checked_sub(pods.prefix());
            let fits = parts.is_some_and(|parts| parts <= MAX_NODE_RANGES_BITS)
                && prefix <= family.bits() - MIN_NODE_BITS;
            if fits { Ok(prefix) } else { Err(NetworkError::NodePrefix { flag, prefix, pods }) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(pods: &str, services: &str) -> Network {
        Network {
            pods: pods.parse().unwrap(),
            services: services.parse().unwrap(),
            node_prefix: None,
            node_prefix_ipv6: None,
        }
    }

    fn checked(pods: &str, services: &str) -> Result<(ClusterConfig, IpAddr), String> {
        network(pods, services).checked((30000, 32767)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_cluster_has_one_family_or_two() {
        let (_, address) = checked("10.244.0.0/16", "10.96.0.0/16").unwrap();
        assert_eq!(address.to_string(), "10.96.0.1");
        let (cluster, address) = checked("fd00:244::/48", "fd00:96::/112").unwrap();
        assert_eq!(address.to_string(), "fd00:96::1");
        assert_eq!(cluster.node_prefixes, NodePrefixes { v4: 24, v6: 64 });
        let (cluster, address) =
            checked("10.244.0.0/16,fd00:244::/48", "10.96.0.0/16,fd00:96::/112").unwrap();
        assert_eq!(address.to_string(), "10.96.0.1");
        assert_eq!(cluster.pod_cidrs.texts(), ["10.244.0.0/16", "fd00:244::/48"]);
        // Pods of both, Services of one.
        checked("10.244.0.0/16,fd00:244::/48", "10.96.0.0/16").unwrap();
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_the_remedy() {
        let both = "10.244.0.0/16,fd00:244::/48";
        for (pods, services, words) in [
            ("10.244.0.0/16", "10.244.8.0/24", "overlap"),
            (
                both,
                "10.96.0.0/16,fd00:244::/112",
                "fd00:244::/48 and --service-cidr fd00:244::/112",
            ),
            ("10.244.0.0/16", "fd00:96::/112", "no range of IPv6: give one"),
            (both, "fd00:96::/112,10.96.0.0/16", "have to begin with the same family"),
            ("10.244.0.0/16", "10.96.0.0/31", "too small: it needs a prefix of at most 30"),
            ("fd00:244::/48", "fd00:96::/127", "too small: it needs a prefix of at most 126"),
            ("fd00:244::/48", "fd01::/48", "too large: it needs a prefix of at least 64"),
            ("fd00:244::/40", "fd01::/112", "--node-cidr-prefix-ipv6 64 does not fit"),
            ("10.244.0.0/25", "10.96.0.0/16", "--node-cidr-prefix 24 does not fit"),
        ] {
            let error = checked(pods, services).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let unused =
            Network { node_prefix_ipv6: Some(80), ..network("10.244.0.0/16", "10.96.0.0/16") };
        let error = unused.checked((30000, 32767)).unwrap_err().to_string();
        assert!(error.contains("no use: --pod-cidr has no range of IPv6"), "{error}");
        let long = Network { node_prefix: Some(30), ..network("10.244.0.0/16", "10.96.0.0/16") };
        let error = long.checked((30000, 32767)).unwrap_err().to_string();
        assert!(error.contains("at most 29"), "{error}");
    }
}
