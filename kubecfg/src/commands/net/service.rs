//! One Service: what its objects say already, and the ways to it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use futures::future::ready;
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use kube::runtime::watcher::{self, Event, watcher};

use super::attempt::{Attempt, Leg, Wanted};
use super::probers::{Prober, SERVICE_PORT, cluster_ips, is_ready};
use crate::client::Cluster;

/// Endpoints follow their pods within a fraction of it, unless no master leads.
const LATE: Duration = Duration::from_secs(5);

/// A Service, and the objects that make it work.
pub(crate) struct Subject {
    pub(crate) service: Service,
    pub(crate) slices: Vec<EndpointSlice>,
    /// Those that it selects.
    pub(crate) pods: Vec<Pod>,
}

/// Where a Service leads.
struct Target {
    /// The pod's name, or the address itself.
    name: String,
    address: IpAddr,
    port: u16,
}

impl Subject {
    /// The Service of this name, which may be `svc/NAME`.
    pub(crate) async fn find(cluster: &Cluster, word: &str) -> Result<Self> {
        let name = word.rsplit('/').next().unwrap_or(word);
        let namespace = &cluster.namespace;
        let services: Api<Service> = Api::namespaced(cluster.client.clone(), namespace);
        let service = services
            .get(name)
            .await
            .with_context(|| format!("there is no Service to look at in namespace {namespace}"))?;
        Self::of(cluster, service).await
    }

    /// A Service with what makes it work.
    pub(crate) async fn of(cluster: &Cluster, service: Service) -> Result<Self> {
        let name = service.name_any();
        let namespace = &service.namespace().unwrap_or_else(|| cluster.namespace.clone());
        let slices: Api<EndpointSlice> = Api::namespaced(cluster.client.clone(), namespace);
        let slices = slices.list(&ListParams::default().labels(&of_service(&name))).await?.items;
        let pods = match selector(&service) {
            Some(selector) => {
                let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
                pods.list(&ListParams::default().labels(&selector)).await?.items
            }
            None => Vec::new(),
        };
        Ok(Self { service, slices, pods })
    }

    /// The same Service as it is by now. Slices that it should have by its pods are awaited for a moment:
    /// they are made after a pod has become ready, which may be just now.
    pub(crate) async fn again(&self, cluster: &Cluster) -> Result<Self> {
        let name = self.service.name_any();
        let now = Self::find(cluster, &name).await?;
        if !now.lacks_slices() {
            return Ok(now);
        }
        let namespace = now.service.namespace().unwrap_or_else(|| cluster.namespace.clone());
        let slices: Api<EndpointSlice> = Api::namespaced(cluster.client.clone(), &namespace);
        let config = watcher::Config::default().labels(&of_service(&name));
        let led = watcher(slices, config).any(|event| {
            ready(
                matches!(event, Ok(Event::Apply(slice) | Event::InitApply(slice)) if leads(&slice)),
            )
        });
        match tokio::time::timeout(LATE, led).await {
            Ok(_) => Self::find(cluster, &name).await,
            Err(_) => Ok(now),
        }
    }

    /// What is wrong with the objects themselves.
    pub(crate) fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        let name = self.service.name_any();
        let kind = self.service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
        if kind == Some("ExternalName") {
            let other = self.service.spec.as_ref().and_then(|spec| spec.external_name.as_deref());
            return vec![format!(
                "{name} is another name for {}, and has no endpoints to look at",
                other.unwrap_or_default()
            )];
        }
        match selector(&self.service) {
            None if self.targets().is_empty() => findings.push(format!(
                "{name} has no endpoints: it has no selector, so somebody has to make an EndpointSlice \
                 with the label kubernetes.io/service-name={name}"
            )),
            None => {}
            Some(selector) if self.pods.is_empty() => findings.push(format!(
                "{name} has no endpoints: no pod of its namespace has the labels {selector}"
            )),
            Some(_) => findings.extend(self.of_pods()),
        }
        findings
    }

    fn of_pods(&self) -> Vec<String> {
        let mut findings = Vec::new();
        let name = self.service.name_any();
        for pod in self.pods.iter().filter(|pod| !is_ready(pod)) {
            let (name, why) = (pod.name_any(), why_not_ready(pod));
            findings.push(format!("pod {name} is not ready and gets no requests: {why}"));
        }
        findings.extend(self.missing_ports().map(|(port, wanted, pod)| {
            format!(
                "pod {} has no TCP container port named \"{wanted}\", which port {} of {name} leads to",
                pod.name_any(),
                port.port
            )
        }));
        if findings.is_empty() && self.lacks_slices() {
            findings.push(format!(
                "{name} has no endpoints although its pods are ready: the controller that makes \
                 EndpointSlices is late; is a master the leader?"
            ));
        }
        findings
    }

    /// Its ports that lead to a name, and the pods that have no port of this name.
    fn missing_ports(&self) -> impl Iterator<Item = (&ServicePort, &str, &Pod)> {
        self.ports().flat_map(|port| {
            let wanted = match &port.target_port {
                Some(IntOrString::String(wanted)) => Some(wanted.as_str()),
                _ => None,
            };
            let pods = self.pods.iter().filter_map(move |pod| Some((port, wanted?, pod)));
            pods.filter(|(port, wanted, pod)| !has_port(pod, wanted, port.protocol.as_deref()))
        })
    }

    /// Whether a controller has something left to do: pods of it take requests, and no slice says so.
    fn lacks_slices(&self) -> bool {
        self.pods.iter().any(is_ready)
            && !self.slices.iter().any(leads)
            && self.missing_ports().next().is_none()
    }

    fn ports(&self) -> impl Iterator<Item = &ServicePort> {
        let ports = self.service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
    }

    /// The nodes that have endpoints which take requests.
    fn hosts(&self) -> BTreeSet<&str> {
        let endpoints = self.slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        let taking = endpoints.filter(|endpoint| takes_requests(endpoint));
        taking.filter_map(|endpoint| endpoint.node_name.as_deref()).collect()
    }

    /// Whether what comes from outside stays on the node that it comes to.
    fn keeps_external_traffic(&self) -> bool {
        let spec = self.service.spec.as_ref();
        spec.and_then(|spec| spec.external_traffic_policy.as_deref()) == Some("Local")
    }

    /// Where its TCP ports lead.
    fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for slice in &self.slices {
            let ports =
                slice.ports.iter().flatten().filter(|port| {
                    port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
                });
            let ports: Vec<u16> = ports.filter_map(|port| u16::try_from(port.port?).ok()).collect();
            for endpoint in slice.endpoints.iter().flatten().filter(|one| takes_requests(one)) {
                let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.clone());
                for address in endpoint.addresses.iter().filter_map(|text| text.parse().ok()) {
                    let address: IpAddr = address;
                    let name = pod.clone().unwrap_or_else(|| address.to_string());
                    let of_port = |port: &u16| Target { name: name.clone(), address, port: *port };
                    targets.extend(ports.iter().map(of_port));
                }
            }
        }
        targets
    }
}

/// Nodes from which a Service leads nowhere by its own wish: it keeps to endpoints of the same node, and
/// these have none.
pub(crate) fn left_out(subject: &Subject, probers: &[&Prober]) -> BTreeSet<String> {
    let policy =
        subject.service.spec.as_ref().and_then(|spec| spec.internal_traffic_policy.as_ref());
    if policy.is_none_or(|policy| policy != "Local") {
        return BTreeSet::new();
    }
    let hosts = subject.hosts();
    let nodes = probers.iter().map(|prober| prober.node.clone());
    nodes.filter(|node| !hosts.contains(node.as_str())).collect()
}

/// What its status says of that.
pub(crate) fn why_not_ready(pod: &Pod) -> String {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    // Of a pod whose node is gone there is a reason alone.
    let said = ready.and_then(|ready| ready.message.clone().or_else(|| ready.reason.clone()));
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
    said.or(phase).unwrap_or_else(|| "nobody has said why".to_owned())
}

/// What its slices are labelled with.
fn of_service(name: &str) -> String {
    format!("kubernetes.io/service-name={name}")
}

/// Whether somebody in it takes requests.
fn leads(slice: &EndpointSlice) -> bool {
    slice.endpoints.iter().flatten().any(takes_requests)
}

fn takes_requests(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

/// Whether a port of a Service finds one of this name in a pod: names are those of one protocol.
pub(crate) fn has_port(pod: &Pod, name: &str, protocol: Option<&str>) -> bool {
    let containers = pod
        .spec
        .iter()
        .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let protocol = protocol.unwrap_or("TCP");
    ports.any(|port| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    })
}

/// As `app=web,tier=front`; nothing if it selects nothing.
pub(crate) fn selector(service: &Service) -> Option<String> {
    let selector = service.spec.as_ref()?.selector.as_ref().filter(|labels| !labels.is_empty())?;
    let pairs: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Some(pairs.join(","))
}

/// All ways to it, from every node; and one where nobody is, which has to fail.
pub(crate) fn attempts(subject: &Subject, probers: &[&Prober], nobody: &[IpAddr]) -> Vec<Attempt> {
    let service = &subject.service;
    let (name, namespace) = (service.name_any(), service.namespace().unwrap_or_default());
    let targets = subject.targets();
    let (hosts, external_local) = (subject.hosts(), subject.keeps_external_traffic());
    let mut attempts = Vec::new();
    for from in probers {
        let mut add = |to: &str, leg, host: String, port, wanted| {
            let (from, to) = (from.node.clone(), to.to_owned());
            attempts.push(Attempt { from, to, leg, host, port, wanted });
        };
        for target in &targets {
            let host = target.address.to_string();
            add(&target.name, Leg::PodIp, host, target.port, Wanted::Connection);
        }
        // Without endpoints all else is refused, as it should be; why there are none is told elsewhere.
        if targets.is_empty() {
            continue;
        }
        for port in subject.ports() {
            let Ok(number) = u16::try_from(port.port) else { continue };
            let addresses = cluster_ips(service);
            for address in &addresses {
                add(&name, Leg::ClusterIp, address.to_string(), number, Wanted::Connection);
            }
            if let Some(node_port) = port.node_port.and_then(|port| u16::try_from(port).ok()) {
                // Elsewhere a node is silent by the Service's own wish.
                let open = probers.iter().filter(|node| {
                    !external_local || node.node == from.node || hosts.contains(node.node.as_str())
                });
                for node in open {
                    // It is served at addresses of the families that it has.
                    let served = node.node_addresses.iter().filter(|address| {
                        addresses.iter().any(|own| own.is_ipv4() == address.is_ipv4())
                    });
                    for address in served {
                        let to = format!("{name} at {}", node.node);
                        add(&to, Leg::NodePort, address.to_string(), node_port, Wanted::Connection);
                    }
                }
            }
            // A headless one has its endpoints' ports.
            let number = match addresses.is_empty() {
                true => targets.first().map_or(number, |target| target.port),
                false => number,
            };
            add(&name, Leg::Name, format!("{name}.{namespace}.svc"), number, Wanted::Connection);
        }
        for address in nobody {
            let host = address.to_string();
            add("nobody", Leg::ClusterIp, host, SERVICE_PORT, Wanted::Refusal);
        }
    }
    attempts
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn subject(service: Value, slices: Value, pods: Value) -> Subject {
        Subject {
            service: serde_json::from_value(service).unwrap(),
            slices: serde_json::from_value(slices).unwrap(),
            pods: serde_json::from_value(pods).unwrap(),
        }
    }

    fn service(spec: Value) -> Value {
        json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})
    }

    fn pod(ready: &str) -> Value {
        json!({
            "metadata": {"name": "web-1"},
            "spec": {"containers": [{"name": "main", "ports": [{"name": "http", "containerPort": 80}]}]},
            "status": {"conditions": [{"type": "Ready", "status": ready, "message": "probe failed"}]},
        })
    }

    #[test]
    fn what_the_objects_say_is_told_before_anything_is_tried() {
        let spec =
            json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]});
        let wrong =
            json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "web"}]});
        let endpoint = json!([{"addresses": ["10.244.1.7"], "targetRef": {"name": "web-1"}}]);
        let slice = json!([{
            "metadata": {}, "addressType": "IPv4", "endpoints": endpoint, "ports": [{"port": 8080}],
        }]);
        let none = json!([]);
        for (spec, slices, pods, wanted) in [
            (json!({"ports": [{"port": 80}]}), &none, json!([]), "it has no selector"),
            (spec.clone(), &none, json!([]), "no pod of its namespace has the labels app=web"),
            (
                spec.clone(),
                &none,
                json!([pod("False")]),
                "pod web-1 is not ready and gets no requests: probe failed",
            ),
            (wrong, &none, json!([pod("True")]), "no TCP container port named \"web\""),
            (
                spec.clone(),
                &none,
                json!([pod("True")]),
                "the controller that makes EndpointSlices is late",
            ),
            (
                json!({"type": "ExternalName", "externalName": "www.example.org"}),
                &none,
                json!([]),
                "another name for www.example.org",
            ),
        ] {
            let found = subject(service(spec), slices.clone(), pods).findings();
            assert!(found.len() == 1 && found[0].contains(wanted), "{wanted}: {found:?}");
        }
        let well = subject(service(spec), slice, json!([pod("True")]));
        assert_eq!(well.findings(), Vec::<String>::new());
        let targets = well.targets();
        assert!(targets.len() == 1 && targets[0].name == "web-1" && targets[0].port == 8080);
    }
    /// From two nodes with addresses of both families, to a Service whose endpoint is on the first.
    fn ways(spec: Value) -> Vec<String> {
        let mut object = service(json!({
            "type": "NodePort", "clusterIPs": ["10.96.0.7"],
            "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}],
        }));
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let subject = subject(object, slices_of_one("a"), json!([]));
        let probers = [1, 2].map(prober);
        let ways = attempts(&subject, &probers.each_ref(), &[]);
        let ports = ways.into_iter().filter(|one| one.leg == Leg::NodePort);
        ports.map(|one| format!("{} {}", one.from, one.host)).collect()
    }

    /// On node `a` or `b`, which has an address of each family.
    fn prober(number: usize) -> Prober {
        let address = |text: String| json!({"type": "InternalIP", "address": text});
        let node = json!({
            "metadata": {"name": if number == 1 { "a" } else { "b" }},
            "status": {"addresses": [
                address(format!("192.0.2.{number}")), address(format!("2001:db8::{number}")),
            ]},
        });
        Prober::of(number, &serde_json::from_value(node).unwrap())
    }

    fn slices_of_one(node: &str) -> Value {
        json!([{
            "metadata": {}, "addressType": "IPv4", "ports": [{"port": 8080}],
            "endpoints": [{"addresses": ["10.244.1.7"], "nodeName": node}],
        }])
    }

    #[test]
    fn nodes_are_asked_where_the_service_means_to_be_served() {
        let all = ["a 192.0.2.1", "a 192.0.2.2", "b 192.0.2.1", "b 192.0.2.2"];
        assert_eq!(ways(json!({})), all, "of the families that it has");
        assert_eq!(
            ways(json!({"clusterIPs": ["fd00:96::7"]})),
            ["a 2001:db8::1", "a 2001:db8::2", "b 2001:db8::1", "b 2001:db8::2"]
        );
        assert_eq!(ways(json!({"clusterIPs": ["10.96.0.7", "fd00:96::7"]})).len(), 8);
        // What comes to b from elsewhere hears nothing, and is not to.
        assert_eq!(
            ways(json!({"externalTrafficPolicy": "Local"})),
            ["a 192.0.2.1", "b 192.0.2.1", "b 192.0.2.2"]
        );
    }

    #[test]
    fn nodes_without_endpoints_are_left_out_by_a_service_that_keeps_to_nodes() {
        let probers = [1, 2].map(prober);
        let of = |policy: &str| {
            let spec = json!({"internalTrafficPolicy": policy, "ports": [{"port": 80}]});
            let subject = subject(service(spec), slices_of_one("a"), json!([]));
            left_out(&subject, &probers.each_ref())
        };
        assert_eq!(of("Local"), ["b".to_owned()].into());
        assert_eq!(of("Cluster"), BTreeSet::new());
    }
}
