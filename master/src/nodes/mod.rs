//! The nodes' side of the master: joins, session streams and tunnels of the kubelets.

pub mod credentials;
