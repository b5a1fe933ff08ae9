//! The control plane.
//!
//! * [`store`]: desired state, kept; [`cache`]: the newest of it in memory;
//! * [`leader`]: which master leads; [`masters`]: which ones run;
//! * [`api`]: the Kubernetes REST API over both;
//! * [`scheduler`]: gives every pod a node; [`controllers`]: make what is as it should be;
//! * [`events`]: what happened to an object, for people; [`metrics`]: for Prometheus;
//! * [`accounts`]: the tokens of service accounts; [`nodes`]: the session streams of the kubelets; [`pki`]: certificates and join tokens;
//! * [`bootstrap`]: what every cluster has from the start;
//! * [`config`], [`serve`], [`run`](run()): one process out of it all; [`client`], [`token_api`]:
//!   join tokens out of a running one;
//! * `fuzzing` (a feature): what the fuzzer runs.

pub mod accounts;
pub mod api;
pub mod bootstrap;
pub mod cache;
pub mod client;
pub mod config;
pub mod controllers;
#[cfg(test)]
mod dice;
pub mod events;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod leader;
pub mod masters;
mod metrics;
pub mod nodes;
pub mod pki;
mod run;
pub mod scheduler;
mod selection;
pub mod serve;
pub mod store;
pub mod token_api;

pub use run::{RunError, run};
