//! Images: pulled from a real registry, made by the usual tools, and a store that is killed.

mod pull;
mod registry;
mod store;
mod tools;
