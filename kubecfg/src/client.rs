//! The way to the cluster.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::args::Connection;
use crate::resources::Catalog;

/// Where a master on this machine leaves the administrator's way in.
const CLUSTER_KUBECONFIG: &str = "/var/lib/kutter/master/admin.kubeconfig";

/// A connected client with what commands need beside it.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// The namespace that was asked for, or is customary.
    pub(crate) namespace: String,
    pub(crate) catalog: Catalog,
}

/// Finds the cluster. Nothing is sent yet.
pub(crate) async fn connect(connection: &Connection) -> Result<Cluster> {
    let kubeconfig = match &connection.kubeconfig {
        Some(path) => read(path)?,
        None => find()?,
    };
    let options =
        KubeConfigOptions { context: connection.context.clone(), ..KubeConfigOptions::default() };
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .context("the kubeconfig cannot be used")?;
    // By itself the library says nothing for minutes while it repeats what was answered with 503: a
    // person wants to read the answer.
    config.default_retry = false;
    let namespace =
        connection.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).context("the kubeconfig cannot be used")?;
    Ok(Cluster { catalog: Catalog::new(client.clone()), client, namespace })
}

/// `$KUBECONFIG` (several files with colons), `~/.kube/config`, the cluster's own file.
fn find() -> Result<Kubeconfig> {
    if let Some(paths) = std::env::var_os("KUBECONFIG").filter(|paths| !paths.is_empty()) {
        let mut merged = Kubeconfig::default();
        for path in std::env::split_paths(&paths).filter(|path| path.exists()) {
            merged = merged.merge(read(&path)?).context("the files of $KUBECONFIG disagree")?;
        }
        if merged.clusters.is_empty() {
            bail!(
                "$KUBECONFIG names no cluster: {} does not exist or is empty",
                paths.to_string_lossy()
            );
        }
        return Ok(merged);
    }
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
    let candidates = home.into_iter().chain([PathBuf::from(CLUSTER_KUBECONFIG)]);
    for path in candidates {
        if path.exists() {
            return read(&path);
        }
    }
    bail!(
        "no cluster is known: set KUBECONFIG, or start one here with deploy/up (looked for \
         ~/.kube/config and {CLUSTER_KUBECONFIG})"
    )
}

fn read(path: &Path) -> Result<Kubeconfig> {
    Kubeconfig::read_from(path).with_context(|| format!("{} cannot be read", path.display()))
}
