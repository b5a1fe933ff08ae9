//! What the tests look at: objects until they are as they should be, and traffic.

mod client;
mod http;
mod traffic;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::api::{Api, ListParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Config};

pub use client::{Tool, installed};
pub use http::get;
pub use traffic::{Failure, Traffic, hostnames, served};

use crate::image::write_shell_archive;
use crate::lab::{Lab, LabConfig, StoreKind, program};

/// Nothing that the tests wait for takes longer on a healthy machine, even a busy one.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// A lab for a test.
#[must_use]
pub fn lab(nodes: u8, store: StoreKind) -> LabConfig {
    let folder = format!("kutter-lab-{}", uuid::Uuid::new_v4().simple());
    LabConfig {
        // Not below /tmp: that is memory on some machines, and overlayfs wants a real file system.
        folder: PathBuf::from("/var/tmp").join(folder),
        nodes,
        segments: 1,
        dual_stack: false,
        store,
        master_args: Vec::new(),
        kubelet_args: Vec::new(),
        stay: false,
    }
}

/// Whether the lab can be used at all. Says what is left out if not.
#[must_use]
pub fn is_root() -> bool {
    let root = nix::unistd::Uid::effective().is_root();
    if !root {
        eprintln!("left out: the lab needs root, for namespaces");
    }
    root
}

/// Imports the image with a shell on all nodes.
///
/// # Errors
/// When it cannot be made or imported.
pub fn import_shell(lab: &Lab) -> Result<()> {
    let archive = lab.hub.folder.join("busybox.tar");
    write_shell_archive(&archive)?;
    let (kubelet, archive) = (program("kubelet")?, archive.display().to_string());
    for node in &lab.nodes {
        let root = node.folder.join("kubelet").display().to_string();
        let kubelet = kubelet.display().to_string();
        node.run(&[&kubelet, "image", "import", &archive, "--root-dir", &root])?;
    }
    Ok(())
}

/// A client of the lab's cluster; the calling thread has to be on the hub's network.
///
/// # Errors
/// When the kubeconfig cannot be used.
pub async fn client(lab: &Lab) -> Result<Client> {
    let kubeconfig = kube::config::Kubeconfig::read_from(lab.kubeconfig())?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
    // A test wants the answer, whatever it is.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Watches the objects that are selected until all of them together are as they should be;
/// returns them as they are then.
///
/// # Errors
/// When they are not within [`DEADLINE`]; the error has what they are instead.
pub async fn until<K>(
    api: &Api<K>,
    labels: &str,
    what: &str,
    mut is_so: impl FnMut(&[K]) -> bool,
) -> Result<Vec<K>>
where
    K: kube::Resource
        + Clone
        + serde::de::DeserializeOwned
        + serde::Serialize
        + std::fmt::Debug
        + Send
        + 'static,
{
    let config = watcher::Config::default().labels(labels);
    let mut events = std::pin::pin!(watcher(api.clone(), config));
    let mut objects: Vec<K> = Vec::new();
    let mut listing = Vec::new();
    let same =
        |a: &K, b: &K| a.meta().name == b.meta().name && a.meta().namespace == b.meta().namespace;
    let wait = async {
        while let Some(event) = events.next().await {
            // The watcher goes on after an error, a master that is away for instance.
            let Ok(event) = event else { continue };
            match event {
                // Nothing is known yet, or no longer: no moment to judge by.
                Event::Init => {
                    listing.clear();
                    continue;
                }
                Event::InitApply(object) => {
                    listing.push(object);
                    continue;
                }
                Event::InitDone => objects = std::mem::take(&mut listing),
                Event::Apply(object) => {
                    objects.retain(|known| !same(known, &object));
                    objects.push(object);
                }
                Event::Delete(object) => objects.retain(|known| !same(known, &object)),
            }
            if is_so(&objects) {
                return Ok(());
            }
        }
        bail!("the watch ended")
    };
    match tokio::time::timeout(DEADLINE, wait).await {
        Ok(result) => result?,
        Err(_) => {
            let found = serde_json::to_string_pretty(&objects)?;
            bail!("{what}: not so after {DEADLINE:?}; there is {found}")
        }
    }
    Ok(objects)
}

/// Asks until the answer is as it should be, and returns it: for what tells nobody of its changes, such as
/// the far end of a connection, or the processes of a machine.
///
/// # Errors
/// When it is not within [`DEADLINE`]; the error has the last answer.
pub async fn until_told<T: std::fmt::Debug>(
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<T>,
    is_so: impl Fn(&T) -> bool,
) -> Result<T> {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        match ask().await {
            Ok(told) if is_so(&told) => return Ok(told),
            other if tokio::time::Instant::now() > deadline => {
                bail!("{what}: not so after {DEADLINE:?}, but {other:#?}")
            }
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Waits until a controller has as many ready pods as it should, and no more; returns the pods.
///
/// # Errors
/// When that does not happen.
pub async fn replicas(client: &Client, name: &str, count: usize) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let controllers: Api<ReplicationController> = Api::default_namespaced(client.clone());
    let labels = format!("app={name}");
    let what = format!("{count} ready pods of {name}");
    let found = until(&pods, &labels, &what, |pods| {
        pods.len() == count && pods.iter().all(|pod| is_ready(pod) && !is_ending(pod))
    })
    .await?;
    until(&controllers, &labels, &what, |controllers| {
        let ready = |rc: &ReplicationController| rc.status.as_ref().and_then(|s| s.ready_replicas);
        controllers.iter().any(|controller| {
            usize::try_from(ready(controller).unwrap_or(0)).is_ok_and(|ready| ready == count)
        })
    })
    .await?;
    Ok(found)
}

/// Whether a pod's `Ready` condition is true.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    pod.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether a pod has been asked to go.
#[must_use]
pub fn is_ending(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// A pod's name.
#[must_use]
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// A pod's node.
#[must_use]
pub fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// A pod's address.
///
/// # Errors
/// When it has none.
pub fn address(pod: &Pod) -> Result<&str> {
    let status = pod.status.as_ref();
    status
        .and_then(|status| status.pod_ip.as_deref())
        .with_context(|| format!("pod {} has no address", name(pod)))
}

/// All of a pod's addresses, the main one first.
#[must_use]
pub fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let listed = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    listed.filter_map(|address| address.ip.parse().ok()).collect()
}

/// How often the containers of a pod were started again.
#[must_use]
pub fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).sum()
}

/// All pods with a label.
///
/// # Errors
/// When the master does not answer.
pub async fn pods(client: &Client, labels: &str) -> Result<Vec<Pod>> {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    Ok(api.list(&ListParams::default().labels(labels)).await?.items)
}

/// The processes of the test program on a node, as (process id, start time).
///
/// # Errors
/// When the node is down.
pub fn processes(lab: &Lab, node: &str) -> Result<Vec<(u32, u64)>> {
    // `pgrep` finds nothing: exit code 1 and no output.
    let found = lab.node(node)?.run(&["sh", "-c", "pgrep -x testserver || true"])?;
    let mut processes = Vec::new();
    for pid in found.lines() {
        let stat = lab.node(node)?.run(&["cat", &format!("/proc/{pid}/stat")])?;
        // Field 22; the second field, the name, has no blanks here.
        let start = stat.split(' ').nth(21).context("/proc/PID/stat is too short")?;
        processes.push((pid.parse()?, start.parse()?));
    }
    processes.sort_unstable();
    Ok(processes)
}
