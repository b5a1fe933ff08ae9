//! The control plane.
//!
//! * [`store`]: desired state, kept; [`cache`]: the newest of it in memory;
//! * [`api`]: the Kubernetes REST API over both.

pub mod api;
pub mod cache;
pub mod store;
