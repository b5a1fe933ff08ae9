//! The pods that try, and the Services before them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::problem::is_not_found;

/// Where a pod says who it is.
pub(crate) const POD_PORT: u16 = 8080;
/// Where its Service does.
pub(crate) const SERVICE_PORT: u16 = 80;
/// Numbers the pods.
const LABEL: &str = "kutter.dev/net-check";
/// A namespace that holds no more than short-lived pods is gone well before.
const REMOVAL: Duration = Duration::from_secs(60);
/// Says its name to whoever connects, in either dialect of `nc`.
const SERVE: &str =
    "nc -lk -p 8080 -e echo \"$NAME\" 2>/dev/null || exec nc -ll -p 8080 -e echo \"$NAME\"";

/// A namespace with pods in it. Whoever makes it has to [remove](Probers::remove) it.
pub(crate) struct Probers {
    client: Client,
    namespace: String,
    list: Vec<Prober>,
    /// Addresses of a Service that has no endpoints: nobody may answer there.
    nobody: Vec<IpAddr>,
}

/// A pod on a node.
pub(crate) struct Prober {
    pub(crate) node: String,
    pub(crate) node_addresses: Vec<IpAddr>,
    /// The pod's name, which is what it says.
    pub(crate) pod: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// The Service that leads to this pod alone.
    pub(crate) service: Front,
    /// Why it cannot try anything.
    trouble: Option<String>,
}

/// A Service before a pod.
#[derive(Default)]
pub(crate) struct Front {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) node_port: Option<u16>,
}

impl Probers {
    /// A namespace of a name that nothing has.
    pub(crate) async fn new(client: Client) -> Result<Self> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object = serde_json::from_value(json!({"metadata": {
            "generateName": "net-check-",
            "labels": {LABEL: "", "pod-security.kubernetes.io/enforce": "baseline"},
        }}))?;
        let made = namespaces.create(&PostParams::default(), &object).await;
        let made = made.context("cannot make a namespace for the probing pods")?;
        Ok(Self { client, namespace: made.name_any(), list: Vec::new(), nobody: Vec::new() })
    }

    /// Makes a pod on each node and waits until they run, at most so long.
    pub(crate) async fn start(&mut self, image: &str, patience: Duration) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        for (number, node) in nodes.list(&ListParams::default()).await?.into_iter().enumerate() {
            self.list.push(Prober::of(number, &node));
        }
        if self.list.is_empty() {
            bail!("the cluster has no nodes");
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let services: Api<Service> = Api::namespaced(self.client.clone(), &self.namespace);
        for prober in self.list.iter_mut().filter(|prober| prober.trouble.is_none()) {
            pods.create(&PostParams::default(), &prober.pod_object(image)?).await?;
            let service =
                services.create(&PostParams::default(), &prober.service_object()?).await?;
            prober.service.read(&service);
        }
        let nobody = services.create(&PostParams::default(), &nobody_object()?).await?;
        self.nobody = cluster_ips(&nobody);
        let wait = self.wait(&pods);
        if tokio::time::timeout(patience, wait).await.is_err() {
            eprintln!("not all pods run after {} s", patience.as_secs());
        }
        let found: BTreeMap<String, Pod> =
            pods.list(&ListParams::default()).await?.into_iter().map(named).collect();
        // A node may have gone since, and its pod's status says nothing of that.
        let lost: BTreeMap<String, String> = nodes
            .list(&ListParams::default())
            .await?
            .into_iter()
            .filter_map(|node| Some((node.name_any(), why_not_ready(&node)?)))
            .collect();
        for prober in self.list.iter_mut().filter(|prober| prober.trouble.is_none()) {
            match found.get(&prober.pod) {
                Some(pod) if is_ready(pod) => prober.addresses = addresses(pod),
                Some(pod) => {
                    let why = lost.get(&prober.node).cloned();
                    prober.trouble = Some(why.unwrap_or_else(|| why_not(pod)));
                }
                None => prober.trouble = Some("somebody has deleted its probing pod".to_owned()),
            }
        }
        if self.ready().next().is_none() {
            let troubles: Vec<String> = self.troubles().collect();
            bail!("no probing pod runs, so nothing can be tried:\n{}", troubles.join("\n"));
        }
        Ok(())
    }

    async fn wait(&self, pods: &Api<Pod>) {
        let wanted = self.list.iter().filter(|prober| prober.trouble.is_none()).count();
        let mut ready: BTreeMap<String, bool> = BTreeMap::new();
        let mut given_up = BTreeSet::new();
        let mut told = usize::MAX;
        let mut events = std::pin::pin!(watcher(pods.clone(), watcher::Config::default()));
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(pod) | Event::InitApply(pod)) => {
                    ready.insert(pod.name_any(), is_ready(&pod));
                    if has_given_up(&pod) {
                        given_up.insert(pod.name_any());
                    }
                }
                Ok(Event::Delete(pod)) => drop(ready.remove(&pod.name_any())),
                // A master may be away for a moment; the watcher goes on.
                Ok(Event::Init | Event::InitDone) | Err(_) => {}
            }
            let count = ready.values().filter(|ready| **ready).count();
            if count != told {
                eprintln!("{count} of {wanted} probing pods run");
                told = count;
            }
            given_up.retain(|name| !ready.get(name).is_some_and(|ready| *ready));
            if count + given_up.len() >= wanted {
                return;
            }
        }
    }

    /// Those that can try something.
    pub(crate) fn ready(&self) -> impl Iterator<Item = &Prober> {
        self.list.iter().filter(|prober| prober.trouble.is_none())
    }

    /// What is wrong with the others.
    pub(crate) fn troubles(&self) -> impl Iterator<Item = String> {
        self.list.iter().filter_map(|prober| {
            let trouble = prober.trouble.as_ref()?;
            Some(format!("{}: nothing was tried from or to it: {trouble}", prober.node))
        })
    }

    /// Where nobody may answer.
    pub(crate) fn nobody(&self) -> &[IpAddr] {
        &self.nobody
    }

    /// The pods, for running programs in them.
    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Takes everything away, and waits until it is gone.
    pub(crate) async fn remove(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let name = &self.namespace;
        let gone = async {
            match namespaces.delete(name, &DeleteParams::default()).await {
                Err(error) if is_not_found(&error) => return Ok(()),
                result => result?,
            };
            let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
            let mut events = std::pin::pin!(watcher(namespaces.clone(), config));
            let mut there = false;
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Delete(_)) => break,
                    Ok(Event::InitApply(_)) => there = true,
                    Ok(Event::InitDone) if !there => break,
                    Ok(Event::Apply(_) | Event::Init | Event::InitDone) | Err(_) => {}
                }
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(REMOVAL, gone).await {
            Ok(result) => {
                result.with_context(|| format!("cannot delete the namespace {name}; please do"))
            }
            Err(_) => bail!(
                "the namespace {name} is still there; look at it with kubecfg describe namespace {name}"
            ),
        }
    }
}

impl Prober {
    /// A pod that is to be made on a node.
    pub(crate) fn of(number: usize, node: &Node) -> Self {
        let status = node.status.as_ref();
        let listed = status.iter().flat_map(|status| status.addresses.iter().flatten());
        let internal = listed.filter(|address| address.type_ == "InternalIP");
        Self {
            node: node.name_any(),
            node_addresses: internal.filter_map(|address| address.address.parse().ok()).collect(),
            pod: format!("probe-{number}"),
            addresses: Vec::new(),
            service: Front { name: format!("to-{number}"), ..Front::default() },
            trouble: why_not_ready(node),
        }
    }

    fn pod_object(&self, image: &str) -> Result<Pod> {
        let labels = json!({LABEL: self.pod});
        let ask = ["sh", "-c", "nc -w 1 127.0.0.1 8080 </dev/null | grep -q \"$NAME\""];
        let pod = json!({
            "metadata": {"name": self.pod, "labels": labels},
            "spec": {
                // Also on nodes that want no pods: those are to be looked at, too.
                "nodeName": self.node,
                "tolerations": [{"operator": "Exists"}],
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "containers": [{
                    "name": "probe",
                    "image": image,
                    "command": ["sh", "-c", SERVE],
                    "env": [{"name": "NAME", "value": self.pod}],
                    "ports": [{"name": "who", "containerPort": POD_PORT}],
                    "readinessProbe": {"exec": {"command": ask}, "periodSeconds": 1},
                }],
            },
        });
        Ok(serde_json::from_value(pod)?)
    }

    fn service_object(&self) -> Result<Service> {
        let service = json!({
            "metadata": {"name": self.service.name, "labels": {LABEL: self.pod}},
            "spec": {
                "type": "NodePort",
                "ipFamilyPolicy": "PreferDualStack",
                "selector": {LABEL: self.pod},
                "ports": [{"port": SERVICE_PORT, "targetPort": POD_PORT}],
            },
        });
        Ok(serde_json::from_value(service)?)
    }
}

fn nobody_object() -> Result<Service> {
    let spec = json!({"ports": [{"port": SERVICE_PORT}], "selector": {LABEL: "nobody"}});
    Ok(serde_json::from_value(json!({"metadata": {"name": "nobody"}, "spec": spec}))?)
}

impl Front {
    fn read(&mut self, service: &Service) {
        let Some(spec) = &service.spec else { return };
        self.addresses = cluster_ips(service);
        let mut ports = spec.ports.iter().flatten();
        self.node_port = ports.find_map(|port| u16::try_from(port.node_port?).ok());
    }
}

/// The addresses that stand for a Service.
pub(crate) fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let spec = service.spec.iter();
    let several = spec.clone().flat_map(|spec| spec.cluster_ips.iter().flatten());
    let one = spec.filter_map(|spec| spec.cluster_ip.as_ref());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in several.chain(one).filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Whether a pod takes requests.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether it is no use to wait for a pod: its image cannot be had, or its node did not take it.
fn has_given_up(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let waiting = statuses.filter_map(|status| status.state.as_ref()?.waiting.as_ref());
    let mut reasons = waiting.filter_map(|waiting| waiting.reason.as_deref());
    let of_image = ["ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"];
    reasons.any(|reason| of_image.contains(&reason))
        || pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Failed"))
}

fn named(pod: Pod) -> (String, Pod) {
    (pod.name_any(), pod)
}

fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let status = pod.status.iter();
    let several = status.clone().flat_map(|status| status.pod_ips.iter().flatten());
    let several: Vec<IpAddr> = several.filter_map(|address| address.ip.parse().ok()).collect();
    if !several.is_empty() {
        return several;
    }
    status.filter_map(|status| status.pod_ip.as_ref()?.parse().ok()).collect()
}

/// Why nothing can be tried from a node; nothing if it is ready.
fn why_not_ready(node: &Node) -> Option<String> {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    match ready {
        Some(condition) if condition.status == "True" => None,
        Some(condition) => {
            let message = condition.message.clone().unwrap_or_default();
            Some(format!("the node is not ready: {message}"))
        }
        None => Some("the node has not said yet that it is ready".to_owned()),
    }
}

/// Why a pod does not run, as its status has it.
fn why_not(pod: &Pod) -> String {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let waiting = statuses.filter_map(|status| status.state.as_ref()?.waiting.as_ref());
    let said = waiting.filter_map(|waiting| {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let message = waiting.message.as_deref().unwrap_or_default();
        Some(format!("{reason} {message}").trim().to_owned()).filter(|text| !text.is_empty())
    });
    let own = pod.status.as_ref().and_then(|status| status.message.clone());
    let why = said.chain(own).next();
    let taken_up = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
    match why {
        Some(why) => format!("its probing pod does not run: {why}"),
        None if !taken_up => {
            "its kubelet has not taken up the probing pod: it does not run, or reaches no master"
                .to_owned()
        }
        None => "its probing pod does not run; the image has to have sh, nc and grep".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_come_is_not_waited_for() {
        let waiting = |reason: &str| {
            json!({"containerStatuses": [{
                "name": "probe", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": reason}},
            }]})
        };
        for (status, expected) in [
            (json!({}), false),
            (waiting("ContainerCreating"), false),
            // Perhaps the registry is just not there for a moment.
            (waiting("ErrImagePull"), false),
            (waiting("ImagePullBackOff"), true),
            (waiting("ErrImageNeverPull"), true),
            (json!({"phase": "Failed", "reason": "NodePorts"}), true),
        ] {
            let pod = json!({"metadata": {"name": "a"}, "status": status});
            let pod: Pod = serde_json::from_value(pod).unwrap();
            assert_eq!(has_given_up(&pod), expected, "{status}");
        }
    }

    #[test]
    fn why_a_probing_pod_does_not_run_is_told_as_far_as_it_is_known() {
        let pending = json!({"phase": "Pending"});
        let begun = json!({"phase": "Pending", "startTime": "2026-01-01T00:00:00Z"});
        let waiting = json!({"containerStatuses": [{
            "name": "probe", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}},
        }]});
        for (status, wanted) in [
            (pending, "its kubelet has not taken up the probing pod"),
            (begun, "the image has to have sh, nc and grep"),
            (waiting, "does not run: ErrImagePull no such image"),
        ] {
            let pod = serde_json::from_value(json!({"status": status})).unwrap();
            let told = why_not(&pod);
            assert!(told.contains(wanted), "{told}");
        }
    }
}
