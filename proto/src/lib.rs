//! The contracts of Kutter, shared by every side and performing no I/O:
//!
//! * [`node`]: the protocol between kubelets and masters, generated from `proto/node.proto`;
//! * [`health`]: the question that gRPC probes ask, generated from `proto/health.proto`;
//! * [`k8s`]: the Kubernetes object types, re-exported from `k8s-openapi`;
//! * [`ObjectKey`], [`selector`], [`node_affinity`], [`quantity`], [`names`], [`containers`], [`ephemeral`], [`huge_pages`],
//!   [`policy`], [`pod_defaults`]: the few helpers that several sides need;
//! * [`pod_fields`]: what a pod can say, and who does as it says.

pub mod containers;
pub mod endpoints;
pub mod ephemeral;
pub mod huge_pages;
pub mod key;
pub mod names;
pub mod node_affinity;
pub mod peer;
pub mod pod_defaults;
pub mod pod_fields;
pub mod policy;
pub mod priority;
pub mod quantity;
pub mod selector;

pub use k8s_openapi as k8s;
pub use key::ObjectKey;
pub use peer::Peer;

/// The node protocol, generated from `proto/node.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod node {
    tonic::include_proto!("kutter.node.v1");
}

/// The standard protocol in which a gRPC server says how it is, generated from `proto/health.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// The version of the node protocol that this build speaks; sent in `Hello`.
pub const NODE_PROTOCOL_VERSION: u32 = 2;

/// The port on which a master serves the API and the nodes.
pub const DEFAULT_MASTER_PORT: u16 = 6443;

/// The handler of runtime classes: the way in which nodes run pods. There is no other.
pub const RUNTIME_HANDLER: &str = "kutter";

/// The version of Kubernetes that the object types, the API and a node's behaviour are of, with
/// this build's own version behind the plus sign.
pub const KUBERNETES_VERSION: &str = concat!("v1.37.0+kutter-", env!("CARGO_PKG_VERSION"));
