//! A cluster of several nodes on one machine, for tests and for people, and what the tests need
//! beside it.
//!
//! * [`lab`]: machines out of namespaces, with real masters and kubelets on them;
//! * [`image`]: the image that the tests run;
//! * [`registry`]: putting that image into a registry;
//! * [`check`]: waiting for objects to be as they should be, and traffic.

pub mod check;
pub mod image;
pub mod lab;
pub mod registry;
