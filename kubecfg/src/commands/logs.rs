//! `kubecfg logs`

use std::io::Write;

use anyhow::{Result, bail};
use futures::AsyncReadExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::LogParams;

use super::target;
use crate::client::Cluster;
use crate::suggest;

/// Copies a container's output to ours, as it comes.
pub(crate) async fn logs(cluster: &Cluster, word: &str, parameters: &LogParams) -> Result<()> {
    let (pods, pod) = target::pod(cluster, word).await?;
    check_container(&pod, parameters.container.as_deref())?;
    let mut stream = pods.log_stream(&pod.name_any(), parameters).await?;
    let mut buffer = vec![0; 1 << 16];
    let mut out = std::io::stdout().lock();
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        out.write_all(&buffer[..length])?;
        out.flush()?;
    }
}

/// Refuses a container that the pod does not have, with one that may have been meant.
pub(crate) fn check_container(pod: &Pod, container: Option<&str>) -> Result<()> {
    let names: Vec<&str> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
        .map(|container| container.name.as_str())
        .collect();
    match container {
        Some(wanted) if !names.contains(&wanted) => {
            let hint = suggest::hint(wanted, names.iter().copied());
            let (pod, names) = (pod.name_any(), names.join(", "));
            bail!("pod {pod} has no container \"{wanted}\"{hint}; it has: {names}")
        }
        _ => Ok(()),
    }
}
