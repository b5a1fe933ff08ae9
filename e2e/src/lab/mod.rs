//! The lab: a cluster of several nodes on one machine.
//!
//! ```text
//!                 hub: 10.77.0.1, the bridge, etcd, the test itself
//!        ┌─────────────┬────────────┬─────────────┐
//!   master: .10    node1: .21    node2: .22    node3: .23
//! ```
//!
//! Nodes on further segments (10.77.1.0/24 and so on) are behind the hub, which is a router then.
//! Every machine has an IPv6 address beside: fd00:77:0:SEGMENT::/64.
//!
//!
//! Every box is a [`Machine`]: network, mount, process and host name namespaces under an init of
//! its own. Killing the init is pulling the plug: the kernel ends every process in it, its mounts
//! and interfaces go. A lab that a test holds goes with the test, however that ends, because each
//! init ends when the pipe to the test closes.

mod cluster;
pub mod init;
mod machine;
mod network;
mod run;

pub use cluster::{Lab, LabConfig, StoreKind};

pub use machine::{Machine, program};
pub use run::run;
