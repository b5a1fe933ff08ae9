//! Endpoint slices as JSON: Kubernetes' names, and of its fields those that are kept.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use proto::endpoints;
use serde::{Deserialize, Serialize};

use super::{EndpointSlice, Gathering, NO_TRAITS, Packed, PackedPort, Standing, Traits};
use crate::nft::expr::Ip;

/// The label that says which Service a slice is of.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wire {
    metadata: Metadata,
    address_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ports: Option<Vec<Port>>,
    #[serde(default)]
    endpoints: Option<Vec<End>>,
}

#[derive(Serialize, Deserialize)]
struct Metadata {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Serialize, Deserialize)]
struct Port {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
    #[serde(default)]
    port: Option<i32>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct End {
    addresses: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    conditions: Option<Conditions>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hints: Option<Hints>,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Conditions {
    #[serde(default)]
    ready: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    serving: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    terminating: Option<bool>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hints {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    for_nodes: Option<Vec<Named>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    for_zones: Option<Vec<Named>>,
}

#[derive(Serialize, Deserialize)]
struct Named {
    name: String,
}

impl From<Wire> for EndpointSlice {
    fn from(wire: Wire) -> Self {
        let Wire { metadata, address_type, ports, endpoints } = wire;
        let mut texts = Gathering::default();
        let ports = ports.unwrap_or_default().into_iter().filter_map(|port| {
            let Port { name, protocol, port } = port;
            // One without a number stands for all of them: nothing that a proxy or a name could tell.
            let number = u16::try_from(port?).ok()?;
            let protocol = protocol.or_else(|| Some("TCP".to_owned()));
            Some(PackedPort { name: texts.text(name), protocol: texts.text(protocol), number })
        });
        let ports = ports.collect();
        let mut traits = Vec::new();
        let mut known: HashMap<Traits, u32> = HashMap::new();
        let endpoints = endpoints.unwrap_or_default().into_iter().filter_map(|endpoint| {
            let End { addresses, conditions, hostname, node_name, hints } = endpoint;
            let mut addresses = addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
            // Of several the first counts: with that refused, nobody is sent to another instead.
            let address = addresses.next().filter(|first| endpoints::may_be_endpoint(*first))?;
            let further =
                addresses.filter(|further| endpoints::may_be_endpoint(*further)).collect();
            let (node, hostname) = (texts.text(node_name), texts.text(hostname));
            let Hints { for_nodes, for_zones } =
                hints.unwrap_or(Hints { for_nodes: None, for_zones: None });
            let for_nodes = texts.texts(names(for_nodes));
            let own = Traits { further, for_nodes, for_zones: texts.texts(names(for_zones)) };
            let number = if own == Traits::default() {
                NO_TRAITS
            } else {
                *known.entry(own).or_insert_with_key(|own| {
                    traits.push(own.clone());
                    // An object has at most some megabytes.
                    traits.len() as u32 - 1
                })
            };
            let standing = standing(conditions.unwrap_or_default());
            Some(Packed { address, standing, node, hostname, traits: number })
        });
        let endpoints = endpoints.collect();
        Self {
            service: metadata
                .labels
                .and_then(|mut labels| labels.remove(SERVICE_NAME))
                .map(Into::into),
            ip: match address_type.as_str() {
                "IPv4" => Some(Ip::V4),
                "IPv6" => Some(Ip::V6),
                _ => None,
            },
            ports,
            endpoints,
            traits: traits.into(),
            texts: texts.done(),
        }
    }
}

fn names(hints: Option<Vec<Named>>) -> Vec<String> {
    hints.unwrap_or_default().into_iter().map(|hint| hint.name).collect()
}

/// What is not said counts as Kubernetes documents it: ready, serving as far as ready, staying.
fn standing(Conditions { ready, serving, terminating }: Conditions) -> Standing {
    let ready = ready.unwrap_or(true);
    if ready {
        Standing::Ready
    } else if serving.unwrap_or(ready) && terminating.unwrap_or(false) {
        Standing::Leaving
    } else {
        Standing::Out
    }
}

impl From<&EndpointSlice> for Wire {
    fn from(slice: &EndpointSlice) -> Self {
        let owned = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let hints = |names: Vec<Named>| (!names.is_empty()).then_some(names);
        let named = |name: &str| Named { name: name.to_owned() };
        let ports = slice.ports().map(|port| Port {
            name: owned(port.name),
            protocol: owned(port.protocol),
            port: Some(port.number.into()),
        });
        let endpoints = slice.endpoints().map(|endpoint| {
            let for_nodes = hints(endpoint.for_nodes().map(named).collect());
            let for_zones = hints(endpoint.for_zones().map(named).collect());
            let has_hints = for_nodes.is_some() || for_zones.is_some();
            End {
                addresses: endpoint.addresses().map(|address| address.to_string()).collect(),
                conditions: Some(match endpoint.standing() {
                    Standing::Ready => Conditions { ready: Some(true), ..Conditions::default() },
                    Standing::Out => Conditions { ready: Some(false), ..Conditions::default() },
                    Standing::Leaving => Conditions {
                        ready: Some(false),
                        serving: Some(true),
                        terminating: Some(true),
                    },
                }),
                hostname: endpoint.hostname().map(str::to_owned),
                node_name: endpoint.node().map(str::to_owned),
                hints: has_hints.then_some(Hints { for_nodes, for_zones }),
            }
        });
        let service = slice.service.as_ref();
        Self {
            metadata: Metadata {
                labels: service.map(|name| [(SERVICE_NAME.to_owned(), name.to_string())].into()),
            },
            address_type: match slice.ip {
                Some(Ip::V4) => "IPv4",
                Some(Ip::V6) => "IPv6",
                None => "FQDN",
            }
            .to_owned(),
            ports: Some(ports.collect()),
            endpoints: Some(endpoints.collect()),
        }
    }
}
