//! The node agent: makes one node match what the master says.
//!
//! * [`state`]: what the master told this node; [`reporter`]: what this node has to tell;
//! * [`network`]: pod addresses and routes.

pub mod network;
pub mod reporter;
pub mod state;
