//! Isolated containers, with no other container software on the machine.
//!
//! * [`api`]: the nouns and the [`ContainerRuntime`] trait that a node agent talks to;
//! * [`fake`]: a runtime without containers, for tests and hollow nodes;
//! * [`image`]: images, from a registry or an archive, into a content store by digest.

pub mod api;
pub mod error;
pub mod fake;
pub mod image;

pub use api::*;
pub use error::{Error, Result};
pub use fake::FakeRuntime;
