//! `kubecfg version`

use anyhow::Result;

use crate::client::Cluster;

/// Our own version.
pub(crate) fn client() {
    println!("kubecfg {}", env!("CARGO_PKG_VERSION"));
}

/// The cluster's.
pub(crate) async fn server(cluster: &Cluster) -> Result<()> {
    let info = cluster.client.apiserver_version().await?;
    println!("cluster {} ({})", info.git_version, info.platform);
    Ok(())
}
