//! The nodes' side of the master: joins, session streams and tunnels of the kubelets.
//!
//! * [`service`]: the calls; [`credentials`]: what joining needs from the public key infrastructure;
//! * `session`: one node's stream; `feed`: what it is told; `writer`: what it reports;
//! * `hub`: all sessions, and whom a change concerns; `lease`: what makes dead sessions show;
//! * `tunnels`: programs and logs of pods, joined to the clients of REST.

pub mod credentials;
mod feed;
mod hub;
mod lease;
mod mailbox;
mod merge;
mod mirrors;
mod pod_tokens;
mod policies;
mod references;
mod reports;
pub mod service;
mod session;
mod tunnels;
mod writer;

pub use hub::MissingResource;
pub use service::{NodeService, NodesConfig};
