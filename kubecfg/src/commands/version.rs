//! `kubecfg version`

use anyhow::Result;

use crate::client::Cluster;
use crate::print;

/// Our own version.
pub(crate) fn client() -> Result<()> {
    print::line(format_args!("kubecfg {}", env!("CARGO_PKG_VERSION")))
}

/// The cluster's.
pub(crate) async fn server(cluster: &Cluster) -> Result<()> {
    let info = cluster.client.apiserver_version().await?;
    print::line(format_args!("cluster {} ({})", info.git_version, info.platform))
}
