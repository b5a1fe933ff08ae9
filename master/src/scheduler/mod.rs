//! Gives every pod a node.
//!
//! ```text
//!   events ─► Queue ─pop─► Model::place ─► Model::assume ─► bind (many pods at once)
//!      │        ▲               │ fits none                    │ failed
//!      └► Model └── refuse ◄────┘            forget, put back ◄┘
//! ```
//!
//! * [`demand`]: what a pod asks of a node; [`resources`]: amounts;
//! * [`filter`], [`score`]: pure functions of a pod, a node and what runs there;
//! * [`affinity`]: what a pod wants of nodes and of other pods; [`crowds`]: how many of which pods are
//!   where; [`surroundings`]: the one held against the other;
//! * [`model`]: the nodes and what runs on them, with indexes; [`spread`]: which pods are better
//!   not on one node;
//! * [`queue`]: the pods without a node; [`diagnosis`]: why one fits nowhere; [`preemption`]: who gives way
//!   to it, and [`eviction`]: what becomes of these.
//!
//! Nothing polls: a pod that fits nowhere is tried again when a change could help it.

mod affinity;
mod crowds;
mod demand;
mod diagnosis;
mod driver;
mod eviction;
mod filter;
mod model;
mod preemption;
mod queue;
mod resized;
mod resources;
mod score;
mod spread;
mod surroundings;

pub(crate) use demand::Toleration;
pub use driver::run;

#[cfg(test)]
mod tests;
