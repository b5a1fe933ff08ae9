//! The scheduler and the controllers over a real store in memory, with kubelets that only pretend.

mod cluster;
mod endpoints;
mod garbage;
mod namespaces;
mod nodes;
mod quotas;
mod replication;
mod scheduling;
mod services;
