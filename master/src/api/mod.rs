//! The REST API: generic machinery, and a file per kind.

pub(crate) mod admission;
mod apply;
pub mod authn;
pub mod codec;
pub mod error;
pub mod field_error;
pub mod kinds;
pub(crate) mod limits;
pub mod objects;
pub(crate) mod patch;
pub mod registry;
pub mod rest;
mod spdy;
pub mod streams;

pub mod view;
mod write;

pub use rest::{Api, router};
pub(crate) use write::{FOREGROUND, ORPHAN};
