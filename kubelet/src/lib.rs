//! The node agent: makes one node match what the master says.
//!
//! * [`config`]: the command line; [`enrollment`], [`join`], [`credentials`]: how a machine becomes
//!   a node; [`tls`]: connections to a master;
//! * [`agent`]: all of a node put together; [`node`]: the same on this machine, with real
//!   containers; [`cleanup`]: the end of it;
//! * [`session`]: the stream to a master; [`state`]: what the master told this node; [`reporter`]:
//!   what this node has to tell; [`snapshot`]: what is known when no master can be reached;
//! * [`node_status`]: what the machine has; [`streams`]: programs and logs of pods, for tunnels;
//! * [`pods`]: pod workers, probes, statuses; [`volumes`]: the files that pods see;
//!   [`tokens`]: by which pods say who they are; [`static_pods`]: pods out of files of the node;
//! * [`pressure`]: images and pods that go when the node runs short of something;
//! * [`shutdown`]: the end of the pods with their machine;
//! * [`network`]: pod addresses and routes; [`proxy`]: Services; [`policy`]: who may talk to whom; [`dns`]: their names;
//!   [`nft`]: the kernel's packet filter, for whoever has a table in it.

pub mod agent;
pub mod backoff;
pub mod cleanup;
pub mod config;
pub mod credentials;
pub mod dns;
mod downward;
pub mod enrollment;
mod files;
mod folder_watch;
#[cfg(test)]
mod fuzzing;
pub mod join;
pub mod lock;
pub mod network;
pub mod nft;
pub mod node;
pub mod node_status;
pub mod pods;
pub mod policy;
pub mod pressure;
pub mod proxy;
pub mod reporter;
pub mod session;
pub mod shutdown;
pub mod snapshot;
pub mod state;
pub mod static_pods;
pub mod streams;
pub mod tls;
pub mod tokens;
mod tunnels;
pub mod volumes;
