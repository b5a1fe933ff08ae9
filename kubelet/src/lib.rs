//! The node agent: makes one node match what the master says.
//!
//! * [`config`]: the command line;
//! * [`state`]: what the master told this node; [`reporter`]: what this node has to tell;
//! * [`pods`]: pod workers, probes, statuses; [`volumes`]: the files that pods see;
//! * [`network`]: pod addresses and routes;
//! * [`streams`]: programs and logs of pods, for tunnels.

pub mod config;
pub mod network;
pub mod proxy;
pub mod pods;
pub mod reporter;
pub mod state;
pub mod streams;
pub mod volumes;
