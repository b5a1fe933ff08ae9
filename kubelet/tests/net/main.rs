//! Pod network and service proxy against a real kernel, in network namespaces of their own.
//!
//! Needs root; without it each test says so and passes.

mod cni;
mod entrances;
mod families;
mod flows;
mod ground;
mod ipv6;
mod pods;
mod policies;
mod routes;
mod segments;
mod services;
mod strangers;
mod takeover;
