//! The node agent: makes one node match what the master says.
//!
//! * [`state`]: what the master told this node; [`reporter`]: what this node has to tell;
//! * [`pods`]: pod workers, probes, statuses; [`volumes`]: the files that pods see;
//! * [`network`]: pod addresses and routes.

pub mod network;
pub mod pods;
pub mod reporter;
pub mod state;
pub mod volumes;
