//! A pod network of somebody else's: plugins as the Container Network Interface has them (CNI 0.3.0 to 1.1.0).
//!
//! ```text
//! attach ── record (disk) ── ADD, plugin by plugin ── record with the result ── addresses ── guarded
//! detach ── DEL, backwards, with the recorded configuration and result ── no record
//! retain ── DEL for records of pods that are gone ── GC where plugins know it
//! ```
//!
//! `config` finds the configuration and makes requests (pure), `plugin` is one call, `result` reads what
//! came of it, `attachments` is what is on disk, `readiness` tells whether there is a configuration. No
//! interface, route or address of pods is made here; the bridge of the
//! [`BridgeNetwork`](super::BridgeNetwork) is there without ports, for the addresses at which names are
//! answered.

mod attachments;
mod config;
mod names;
mod plugin;
mod readiness;
mod result;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};
use tokio::sync::RwLock;
use tracing::{debug, info, warn};

use self::attachments::{NamespaceId, Record, Records};
use self::config::PORT_MAPPINGS;
pub use self::names::keep_addresses_of_names;
use self::plugin::{PluginError, Programs, Subject, Verb};
pub use self::readiness::{unready, watch_configuration};
use super::links::{Links, POD_INTERFACE};
use super::{
    Attachment, HostPort, HostPorts, NetworkError, PodAddresses, PodHostPorts, PodNetwork, netns,
};

/// Where CNI is on a node.
#[derive(Clone, Debug)]
pub struct CniConfig {
    /// The folder with the configuration; the first file counts.
    pub conf_dir: PathBuf,
    /// The folders with the plugins' programs.
    pub bin_dirs: Vec<PathBuf>,
    /// Where is kept who is attached; outlives the machine's end.
    pub state_dir: PathBuf,
}

/// Attaches pods by plugins.
pub struct CniNetwork {
    config: CniConfig,
    records: Arc<Mutex<Records>>,
    /// Many may add and delete at once, but nobody while garbage is collected.
    collecting: RwLock<()>,
    host_ports: HostPorts,
    addresses: PodAddresses,
}

impl CniNetwork {
    /// The network of this node. Reads who is attached; asks no plugin yet.
    ///
    /// # Errors
    /// When what is on disk cannot be read.
    pub fn new(config: CniConfig) -> Result<Self, NetworkError> {
        let records = open(&config.state_dir)?;
        let (host_ports, addresses) = (HostPorts::default(), PodAddresses::default());
        for record in records.all().filter(|record| record.result.is_some()) {
            addresses.set(&record.pod_uid, &record.addresses);
            host_ports.set(&record.pod_uid, ports_of(record));
        }
        let records = Arc::new(Mutex::new(records));
        Ok(Self { config, records, collecting: RwLock::default(), host_ports, addresses })
    }

    /// The host ports that no plugin sees to, for the proxy.
    pub fn host_ports(&self) -> HostPorts {
        self.host_ports.clone()
    }

    /// The addresses of the pods attached here, for whoever guards them.
    pub fn pod_addresses(&self) -> PodAddresses {
        self.addresses.clone()
    }

    /// Works on the records, away from the threads that must not wait for a disk.
    async fn records<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Records) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        let records = Arc::clone(&self.records);
        let work = move || work(&mut records.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??)
    }

    async fn record(&self, pod_uid: &str) -> Result<Option<Record>, Problem> {
        let uid = pod_uid.to_owned();
        self.records(move |records| Ok(records.of(&uid).cloned())).await
    }

    async fn put(&self, record: &Record) -> Result<(), Problem> {
        let record = record.clone();
        self.records(move |records| records.put(record)).await
    }

    async fn add(&self, attachment: &Attachment<'_>) -> Result<Record, Problem> {
        let conf_dir = self.config.conf_dir.clone();
        let network = tokio::task::spawn_blocking(move || config::load(&conf_dir))
            .await
            .map_err(io::Error::other)??;
        // Before anything is asked that could not be undone.
        let programs = Programs(self.config.bin_dirs.clone());
        for plugin in &network.plugins {
            programs.find(program(plugin))?;
        }
        let mut record = Record {
            pod_uid: attachment.pod_uid.to_owned(),
            network,
            programs: self.config.bin_dirs.clone(),
            netns: NamespaceId::of(attachment.netns)?,
            arguments: arguments(attachment),
            capabilities: capabilities(attachment.ports),
            host_ports: attachment.ports.to_vec(),
            result: None,
            addresses: Vec::new(),
        };
        self.put(&record).await?;
        match add_all(&record).await {
            Ok((result, addresses)) => {
                record.result = Some(result);
                record.addresses = addresses;
                self.put(&record).await?;
                Ok(record)
            }
            Err(error) => {
                // What the first plugins did is undone. Should that fail, the record stays for the next.
                if let Err(undoing) = self.del(&record).await {
                    warn!(pod_uid = record.pod_uid, error = %undoing, "a failed attachment is left over");
                }
                Err(error)
            }
        }
    }

    async fn del(&self, record: &Record) -> Result<(), Problem> {
        del_all(record).await?;
        let uid = record.pod_uid.clone();
        self.records(move |records| records.remove(&uid)).await
    }

    async fn attach_pod(&self, attachment: &Attachment<'_>) -> Result<Vec<IpAddr>, Problem> {
        let _nobody_collects = self.collecting.read().await;
        let record = match self.record(attachment.pod_uid).await? {
            Some(record)
                if record.result.is_some() && record.netns.present() == Some(attachment.netns) =>
            {
                record
            }
            left => {
                // A kubelet was killed while it asked, or the pod has another namespace now.
                if let Some(left) = left {
                    self.del(&left).await?;
                }
                self.add(attachment).await?
            }
        };
        set_loopback_up(attachment.netns).await?;
        self.addresses.set(&record.pod_uid, &record.addresses);
        // Nothing of the pod's runs before it is known who may talk to it.
        self.addresses.guarded(&record.pod_uid).await;
        self.host_ports.set(&record.pod_uid, ports_of(&record));
        debug!(pod_uid = record.pod_uid, addresses = ?record.addresses, "attached a pod");
        Ok(record.addresses)
    }

    async fn detach_pod(&self, pod_uid: &str) -> Result<(), Problem> {
        let _nobody_collects = self.collecting.read().await;
        self.host_ports.remove(pod_uid);
        if let Some(record) = self.record(pod_uid).await? {
            self.del(&record).await?;
        }
        self.addresses.remove(pod_uid);
        debug!(pod_uid, "detached a pod");
        Ok(())
    }

    /// Has plugins clean up what no pod of ours has, where they know how.
    async fn collect(&self) -> Result<(), Problem> {
        let _nobody_else = self.collecting.write().await;
        let conf_dir = self.config.conf_dir.clone();
        let network = tokio::task::spawn_blocking(move || config::load(&conf_dir))
            .await
            .map_err(io::Error::other)??;
        if !network.collects() {
            return Ok(());
        }
        let name = network.name.clone();
        let attached = self
            .records(move |records| {
                let ours = records.all().filter(|record| record.network.name == name);
                Ok(ours.map(|record| record.pod_uid.clone()).collect::<Vec<_>>())
            })
            .await?;
        let programs = Programs(self.config.bin_dirs.clone());
        let mut failed = None;
        for plugin in &network.plugins {
            let request = network.collection(plugin, POD_INTERFACE, &attached);
            // The others are asked all the same.
            if let Err(error) = programs.ask(program(plugin), Verb::Gc, None, &request).await {
                failed = Some(error);
            }
        }
        info!(network = network.name, attached = attached.len(), "had garbage collected");
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

#[async_trait::async_trait]
impl PodNetwork for CniNetwork {
    async fn attach(&self, attachment: &Attachment<'_>) -> Result<Vec<IpAddr>, NetworkError> {
        self.attach_pod(attachment).await.map_err(|error| NetworkError {
            operation: format!("attach pod {}/{}", attachment.namespace, attachment.name),
            reason: error.to_string(),
        })
    }

    async fn detach(&self, pod_uid: &str) -> Result<(), NetworkError> {
        self.detach_pod(pod_uid).await.map_err(|error| NetworkError {
            operation: format!("detach pod {pod_uid}"),
            reason: error.to_string(),
        })
    }

    async fn retain(&self, alive: &[String]) -> Result<(), NetworkError> {
        let failed = |error: Problem| NetworkError {
            operation: "clean up the pod network".into(),
            reason: error.to_string(),
        };
        let held = |records: &mut Records| {
            Ok(records.all().map(|record| record.pod_uid.clone()).collect::<Vec<_>>())
        };
        let mut left = None;
        for pod_uid in self.records(held).await.map_err(failed)? {
            if !alive.contains(&pod_uid)
                && let Err(error) = self.detach(&pod_uid).await
            {
                // One that plugins refuse to delete must not keep the others.
                left = Some(error);
            }
        }
        // An operator who has not yet put a configuration there is told when a pod comes.
        match self.collect().await {
            Err(Problem::Config(_)) | Ok(()) => left.map_or(Ok(()), Err),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Detaches all pods that a node ever attached and did not detach.
///
/// # Errors
/// When a plugin refuses.
pub(super) async fn teardown(state_dir: &Path) -> Result<(), NetworkError> {
    if !state_dir.exists() {
        return Ok(());
    }
    let config =
        CniConfig { conf_dir: PathBuf::new(), bin_dirs: Vec::new(), state_dir: state_dir.into() };
    let network = CniNetwork::new(config)?;
    let held: Vec<String> = {
        let records = network.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.all().map(|record| record.pod_uid.clone()).collect()
    };
    for pod_uid in held {
        network.detach(&pod_uid).await?;
    }
    Ok(())
}

fn open(state_dir: &Path) -> Result<Records, NetworkError> {
    Records::open(state_dir).map_err(|error| NetworkError {
        operation: format!("read who is attached in {}", state_dir.display()),
        reason: error.to_string(),
    })
}

/// Why a pod's network is not as it should be.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    #[error(transparent)]
    Plugin(#[from] PluginError),
    #[error("{0}")]
    Result(String),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Link(#[from] super::links::Problem),
}

/// One plugin after the other, each told what came of the one before.
async fn add_all(record: &Record) -> Result<(Value, Vec<IpAddr>), Problem> {
    let (programs, subject) = (Programs(record.programs.clone()), subject(record));
    let mut previous = None;
    for plugin in &record.network.plugins {
        let request = record.network.request(plugin, &record.capabilities, previous.as_ref());
        previous = Some(programs.ask(program(plugin), Verb::Add, Some(subject), &request).await?);
    }
    let result = previous.unwrap_or_default();
    let addresses = result::addresses(&result, POD_INTERFACE).map_err(Problem::Result)?;
    Ok((result, addresses))
}

/// Backwards, each told what came of all.
async fn del_all(record: &Record) -> Result<(), Problem> {
    let (programs, subject) = (Programs(record.programs.clone()), subject(record));
    for plugin in record.network.plugins.iter().rev() {
        let request = record.network.request(plugin, &record.capabilities, record.result.as_ref());
        programs.ask(program(plugin), Verb::Del, Some(subject), &request).await?;
    }
    Ok(())
}

fn subject(record: &Record) -> Subject<'_> {
    Subject {
        container: &record.pod_uid,
        netns: record.netns.present(),
        interface: POD_INTERFACE,
        arguments: &record.arguments,
    }
}

fn program(plugin: &Map<String, Value>) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// What every runtime of Kubernetes tells plugins of a pod.
fn arguments(attachment: &Attachment<'_>) -> String {
    let Attachment { pod_uid, namespace, name, .. } = attachment;
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
         K8S_POD_INFRA_CONTAINER_ID={pod_uid};K8S_POD_UID={pod_uid}"
    )
}

/// What plugins are told that ask for it.
fn capabilities(ports: &[HostPort]) -> Map<String, Value> {
    let mappings: Vec<Value> = ports
        .iter()
        .map(|port| {
            let mut mapping = json!({
                "hostPort": port.host_port,
                "containerPort": port.container_port,
                "protocol": port.protocol.to_lowercase(),
            });
            if let Some(address) = port.host_ip {
                mapping["hostIP"] = json!(address);
            }
            mapping
        })
        .collect();
    match mappings.is_empty() {
        true => Map::new(),
        false => Map::from_iter([(PORT_MAPPINGS.to_owned(), Value::Array(mappings))]),
    }
}

/// The ports that are left to the proxy: all, unless a plugin sees to them.
fn ports_of(record: &Record) -> PodHostPorts {
    let ports = if record.network.maps_ports() { Vec::new() } else { record.host_ports.clone() };
    PodHostPorts { addresses: record.addresses.clone(), ports }
}

/// Plugins see to the pod's own interface only.
async fn set_loopback_up(netns: &Path) -> Result<(), Problem> {
    let netns = File::open(netns)?;
    let (connection, handle) = netns::within(&netns, || {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok((connection, handle))
    })
    .await?;
    tokio::spawn(connection);
    Ok(Links { handle }.set_loopback_up().await.map_err(super::links::Problem::from)?)
}
