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
//! * [`model`]: the nodes and what runs on them, with indexes; [`spread`]: which pods are better
//!   not on one node;
//! * [`queue`]: the pods without a node; [`diagnosis`]: why one fits nowhere.
//!
//! Nothing polls: a pod that fits nowhere is tried again when a change could help it.

mod demand;
mod diagnosis;
mod driver;
mod filter;
mod model;
mod queue;
mod resized;
mod resources;
mod score;
mod spread;

pub(crate) use demand::Toleration;
pub use driver::run;

#[cfg(test)]
mod tests;
