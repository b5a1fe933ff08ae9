//! What has to hold of every input, whatever it is: the targets of the fuzzer.
//!
//! Each target takes bytes and panics when something does not hold: a round trip that changes a
//! value, a result beyond its bounds. `fuzz/` runs them under libFuzzer, with coverage, for as long
//! as one likes; the tests here run the same ones over mutations of a corpus, from a fixed seed and
//! for a bounded number of cases.

mod bodies;
mod requests;

#[cfg(test)]
mod harness;
#[cfg(test)]
mod tests;

pub use bodies::{json_body, patch, protobuf_body, yaml_body};
pub use requests::{quantity, selector, url};

/// A Service, pods, and slices that somebody has meddled with: one pass leads to slices that say what
/// the pods are, with the fewest changes; another finds nothing to do.
///
/// # Panics
/// When that does not hold.
pub fn endpoint_slices(input: &[u8]) {
    crate::controllers::endpoints::fuzzing::endpoint_slices(input);
}
