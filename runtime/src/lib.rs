//! Isolated containers, with no other container software on the machine.
//!
//! * [`api`]: the nouns and the [`ContainerRuntime`] trait that a node agent talks to;
//! * [`ShimRuntime`]: real containers, each sandbox held by a shim that outlives the agent;
//! * [`fake`]: a runtime without containers, for tests and hollow nodes;
//! * [`shim`]: the process that holds a sandbox, and its creators;
//! * [`image`]: images, from a registry or an archive, into a content store by digest;
//! * [`mounts`]: what is mounted on the machine.

pub mod api;
mod cgroup;
mod client;
mod disk;
pub mod error;
pub mod fake;
pub mod image;
mod isolation;
pub mod mounts;
mod plan;
pub mod shim;
mod spec;
mod stalls;
mod sys;

pub use api::*;
pub use client::{DEFAULT_USER_IDS, ShimRuntime, ShimRuntimeConfig};
pub use disk::{DiskUsage, disk_usage};
pub use error::{Error, Result};
pub use fake::FakeRuntime;
pub use isolation::seccomp_oci::default_seccomp;
pub use stalls::MemoryStalls;
