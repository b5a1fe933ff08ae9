//! The control plane.
//!
//! * [`store`]: desired state, kept; [`cache`]: the newest of it in memory;
//! * [`leader`]: which master leads;
//! * [`api`]: the Kubernetes REST API over both;
//! * [`scheduler`]: gives every pod a node; [`controllers`]: make what is as it should be;
//! * [`events`]: what happened to an object, for people;
//! * [`nodes`]: the session streams of the kubelets; [`pki`]: certificates and join tokens.

pub mod api;
pub mod cache;
pub mod controllers;
pub mod events;
pub mod leader;
pub mod nodes;
pub mod pki;
pub mod scheduler;
mod selection;
pub mod store;
