//! Which Services get which addresses, and that they keep them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::index::Index;
use super::port::Port;
use super::reconcile::{Balanced, Observed, Plan, reconcile};
use crate::cache::{CachedObject, ObjectEvent};
use crate::dice::Dice;

/// A cluster of which one thing after the other is told.
#[derive(Default)]
struct Cluster {
    index: Index,
    objects: BTreeMap<(&'static str, String), Value>,
    with_endpoints: BTreeSet<String>,
    due: HashSet<ObjectKey>,
    revision: u64,
}

impl Cluster {
    fn with(objects: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        let mut cluster = Self::default();
        objects.into_iter().for_each(|(resource, object)| cluster.put(resource, object));
        cluster
    }

    fn cached(&mut self, object: &Value) -> Arc<CachedObject> {
        self.revision += 1;
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = ObjectKey::new(text("namespace"), text("name"));
        let stored = serde_json::to_vec(object).unwrap();
        Arc::new(CachedObject::from_stored(key, self.revision, &stored, &[]).unwrap())
    }

    fn put(&mut self, resource: &'static str, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let new = self.cached(&object);
        let event = match self.objects.insert((resource, name), object) {
            Some(old) => ObjectEvent::Modified { new, old: self.cached(&old) },
            None => ObjectEvent::Added(new),
        };
        self.tell(resource, &event);
    }

    fn delete(&mut self, resource: &'static str, name: &str) {
        if let Some(old) = self.objects.remove(&(resource, name.to_owned())) {
            let event = ObjectEvent::Deleted(self.cached(&old));
            self.tell(resource, &event);
        }
    }

    fn tell(&mut self, resource: &str, event: &ObjectEvent) {
        let mut due = std::mem::take(&mut self.due);
        let add = &mut |key| {
            due.insert(key);
        };
        match resource {
            "services" => self.index.service_changed(event, add),
            "nodes" => self.index.node_changed(event, add),
            "pods" => self.index.pod_changed(event, add),
            _ => self.index.slice_changed(event, add),
        }
        self.due = due;
    }

    fn plan(&self, key: &ObjectKey) -> Option<(Balanced, Plan)> {
        let reserved = ["22", "6443", "8472/UDP"].map(|text| text.parse().unwrap()).into();
        let service = self.index.services.get(key)?;
        let observed = Observed {
            nodes: &self.index.nodes,
            reserved: &reserved,
            rivals: self.index.rivals(service),
            node_ports: self.index.node_ports(service),
            host_ports: self.index.host_ports(service),
            with_endpoints: self.with_endpoints.clone(),
        };
        Some((service.clone(), reconcile(service, &observed)))
    }

    /// Does what is due until nothing is, and returns how often something was written.
    fn settle(&mut self) -> usize {
        let mut writes = 0;
        while let Some(key) = self.due.iter().min().cloned() {
            self.due.remove(&key);
            let Some((service, plan)) = self.plan(&key) else { continue };
            let mut object = self.objects[&("services", key.name.clone())].clone();
            let ingress = json!(plan.ingress(&service));
            if object["status"]["loadBalancer"]["ingress"] == ingress
                || ingress == json!([]) && object["status"]["loadBalancer"]["ingress"].is_null()
            {
                continue;
            }
            object["status"] = json!({"loadBalancer": {"ingress": ingress}});
            writes += 1;
            assert!(writes < 10_000, "does not settle");
            self.put("services", object);
        }
        writes
    }

    /// Where a Service is reached, after everything has settled.
    fn addresses(&mut self, name: &str) -> String {
        self.settle();
        let object = &self.objects[&("services", name.to_owned())];
        let ingress = object["status"]["loadBalancer"]["ingress"].as_array();
        let addresses = ingress.into_iter().flatten().map(|one| one["ip"].as_str().unwrap());
        addresses.collect::<Vec<_>>().join(" ")
    }

    fn trouble(&mut self, name: &str) -> String {
        self.settle();
        let (_, plan) = self.plan(&key(name)).unwrap();
        plan.trouble().unwrap_or_default()
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

fn node(name: &str, number: u8) -> (&'static str, Value) {
    let object = json!({
        "metadata": {"name": name, "labels": {}},
        "status": {
            "addresses": [
                {"type": "Hostname", "address": name},
                {"type": "InternalIP", "address": format!("192.168.0.{number}")},
                {"type": "InternalIP", "address": format!("fd00::{number}")},
            ],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    ("nodes", object)
}

/// The older, the less seconds.
fn service(name: &str, port: u16, seconds: u8) -> (&'static str, Value) {
    let object = json!({
        "metadata": {
            "name": name, "namespace": "default", "uid": name,
            "creationTimestamp": format!("2030-01-01T00:00:{seconds:02}Z"),
        },
        "spec": {
            "type": "LoadBalancer", "ipFamilies": ["IPv4"],
            "ports": [{"port": port, "protocol": "TCP", "nodePort": 30000 + port}],
        },
    });
    ("services", object)
}

fn changed(
    (resource, mut object): (&'static str, Value),
    change: impl FnOnce(&mut Value),
) -> (&'static str, Value) {
    change(&mut object);
    (resource, object)
}

fn host_port_pod(name: &str, node: &str, port: u16) -> (&'static str, Value) {
    let object = json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": node, "containers": [{"name": "main", "ports": [
            {"containerPort": port, "hostPort": port, "protocol": "TCP"},
        ]}]},
    });
    ("pods", object)
}

#[test]
fn a_service_is_reached_at_all_ready_nodes_in_its_families() {
    let mut cluster = Cluster::with([node("a", 1), node("b", 2), service("web", 80, 0)]);
    assert_eq!(cluster.addresses("web"), "192.168.0.1 192.168.0.2");
    let both = changed(service("web", 80, 0), |web| {
        web["spec"]["ipFamilies"] = json!(["IPv6", "IPv4"]);
    });
    cluster.put(both.0, both.1);
    assert_eq!(cluster.addresses("web"), "fd00::1 fd00::2 192.168.0.1 192.168.0.2");
    let (_, unready) = changed(node("a", 1), |node| {
        node["status"]["conditions"][0]["status"] = json!("Unknown");
    });
    cluster.put("nodes", unready);
    assert_eq!(cluster.addresses("web"), "fd00::2 192.168.0.2");
    let (_, excluded) = changed(node("b", 2), |node| {
        node["metadata"]["labels"][super::EXCLUDED] = json!("");
    });
    cluster.put("nodes", excluded);
    assert_eq!(cluster.addresses("web"), "");
    assert!(cluster.trouble("web").starts_with("No node can serve it: no node is ready"));
    cluster.put("nodes", node("c", 3).1);
    assert_eq!(cluster.addresses("web"), "fd00::3 192.168.0.3");
    assert_eq!(cluster.trouble("web"), "");
    cluster.delete("nodes", "c");
    assert_eq!(cluster.addresses("web"), "");
}

#[test]
fn where_a_node_has_an_external_address_only_such_are_told() {
    let outside = changed(node("a", 1), |node| {
        node["status"]["addresses"][0] = json!({"type": "ExternalIP", "address": "203.0.113.5"});
    });
    let mut cluster = Cluster::with([outside, node("b", 2), service("web", 80, 0)]);
    assert_eq!(cluster.addresses("web"), "203.0.113.5");
}

#[test]
fn with_the_policy_local_only_nodes_with_endpoints_are_of_use() {
    let local = changed(service("web", 80, 0), |web| {
        web["spec"]["externalTrafficPolicy"] = json!("Local");
    });
    let mut cluster = Cluster::with([node("a", 1), node("b", 2), local]);
    assert_eq!(cluster.addresses("web"), "");
    assert!(cluster.trouble("web").contains("externalTrafficPolicy is Local"));
    cluster.with_endpoints.insert("b".to_owned());
    let slice = json!({"metadata": {
        "name": "web-1", "namespace": "default",
        "labels": {"kubernetes.io/service-name": "web"},
    }});
    cluster.put("endpointslices", slice);
    assert_eq!(cluster.index.slices(&key("web")).count(), 1);
    assert_eq!(cluster.addresses("web"), "192.168.0.2");
    cluster.delete("endpointslices", "web-1");
    assert_eq!(cluster.index.slices(&key("web")).count(), 0);
    assert!(cluster.due.contains(&key("web")));
}

#[test]
fn only_services_of_our_class_are_touched() {
    let class = |name: &'static str| {
        changed(service("web", 80, 0), move |web| web["spec"]["loadBalancerClass"] = json!(name))
    };
    let mut cluster = Cluster::with([node("a", 1), class("example.com/other")]);
    assert_eq!(cluster.addresses("web"), "");
    assert!(cluster.plan(&key("web")).is_none());
    cluster.put("services", class(super::CLASS).1);
    assert_eq!(cluster.addresses("web"), "192.168.0.1");
    let (_, plain) = changed(service("web", 80, 0), |web| web["spec"]["type"] = json!("NodePort"));
    cluster.put("services", plain);
    assert!(cluster.plan(&key("web")).is_none());
}

#[test]
fn the_address_that_is_asked_for_is_given_if_it_is_a_nodes() {
    let wants = |address: &'static str| {
        changed(service("web", 80, 0), move |web| web["spec"]["loadBalancerIP"] = json!(address))
    };
    let mut cluster = Cluster::with([node("a", 1), node("b", 2), wants("192.168.0.2")]);
    assert_eq!(cluster.addresses("web"), "192.168.0.2");
    cluster.put("services", wants("192.168.0.9").1);
    assert_eq!(cluster.addresses("web"), "");
    assert!(cluster.trouble("web").contains("192.168.0.9 is no address of a node"));
    // Of a family that the Service does not have.
    cluster.put("services", wants("fd00::2").1);
    assert_eq!(cluster.addresses("web"), "");
}

#[test]
fn a_port_stays_with_the_service_that_has_it() {
    let mut cluster = Cluster::with([node("a", 1), node("b", 2), service("late", 80, 9)]);
    assert_eq!(cluster.addresses("late"), "192.168.0.1 192.168.0.2");
    // It is older, but came to be balanced later.
    cluster.put("services", service("early", 80, 1).1);
    assert_eq!(cluster.addresses("early"), "");
    assert_eq!(cluster.addresses("late"), "192.168.0.1 192.168.0.2");
    let trouble = cluster.trouble("early");
    assert!(
        trouble.contains("port 80/TCP of a (192.168.0.1) is taken by Service default/late"),
        "{trouble}"
    );
    // Another protocol is another port.
    let udp = changed(service("dns", 80, 9), |dns| {
        dns["spec"]["ports"][0] = json!({"port": 80, "protocol": "UDP", "nodePort": 30080});
    });
    cluster.put(udp.0, udp.1);
    assert_eq!(cluster.addresses("dns"), "192.168.0.1 192.168.0.2");
    cluster.delete("services", "late");
    assert_eq!(cluster.addresses("early"), "192.168.0.1 192.168.0.2");
}

#[test]
fn a_service_that_asks_for_a_further_port_does_not_take_it_from_who_has_it() {
    let mut cluster =
        Cluster::with([node("a", 1), service("old", 80, 0), service("young", 443, 5)]);
    cluster.settle();
    let status = cluster.objects[&("services", "old".to_owned())]["status"].clone();
    let (_, more) = changed(service("old", 80, 0), |old| {
        old["status"] = status;
        let ports = old["spec"]["ports"].as_array_mut().unwrap();
        ports.push(json!({"name": "s", "port": 443, "protocol": "TCP", "nodePort": 30444}));
    });
    cluster.put("services", more);
    assert_eq!(
        (cluster.addresses("old"), cluster.addresses("young")),
        (String::new(), "192.168.0.1".to_owned())
    );
}

#[test]
fn where_both_have_a_port_the_older_service_keeps_it() {
    let has = |service| {
        changed(service, |object| {
            object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.168.0.1"}]}});
        })
    };
    let mut cluster =
        Cluster::with([node("a", 1), has(service("a", 80, 9)), has(service("b", 80, 1))]);
    assert_eq!(
        (cluster.addresses("a"), cluster.addresses("b")),
        (String::new(), "192.168.0.1".to_owned())
    );
}

#[test]
fn what_the_nodes_need_for_themselves_is_never_given_away() {
    for port in [22, 6443] {
        let mut cluster = Cluster::with([node("a", 1), service("web", port, 0)]);
        assert_eq!(cluster.addresses("web"), "");
        let trouble = cluster.trouble("web");
        assert!(trouble.contains(&format!("port {port}/TCP is kept for the nodes'")), "{trouble}");
    }
    let mut cluster = Cluster::with([node("a", 1), service("web", 8472, 0)]);
    assert_eq!(cluster.addresses("web"), "192.168.0.1", "only its UDP is kept");
}

#[test]
fn other_services_node_ports_and_pods_host_ports_stay_theirs() {
    let taken = changed(service("other", 443, 0), |other| {
        other["spec"]["type"] = json!("NodePort");
        other["spec"]["ports"][0]["nodePort"] = json!(8080);
    });
    let mut cluster = Cluster::with([node("a", 1), node("b", 2), taken, service("web", 8080, 0)]);
    assert!(
        cluster.trouble("web").contains("port 8080/TCP is a node port of Service default/other")
    );
    cluster.delete("services", "other");
    assert_eq!(cluster.addresses("web"), "192.168.0.1 192.168.0.2");
    cluster.put("pods", host_port_pod("p", "a", 8080).1);
    assert_eq!(cluster.addresses("web"), "192.168.0.2");
    assert_eq!(
        cluster.trouble("web"),
        "Some nodes do not serve it: port 8080/TCP of a is a host port of pod default/p"
    );
    let (_, ended) = changed(host_port_pod("p", "a", 8080), |pod| {
        pod["status"] = json!({"phase": "Succeeded"});
    });
    cluster.put("pods", ended);
    assert_eq!(cluster.addresses("web"), "192.168.0.1 192.168.0.2");
    // Its own node port is no other's.
    let (_, own) = changed(service("web", 8080, 0), |web| {
        web["spec"]["ports"][0]["nodePort"] = json!(8080);
    });
    cluster.put("services", own);
    assert_eq!(cluster.addresses("web"), "192.168.0.1 192.168.0.2");
}

#[test]
fn a_service_that_is_being_deleted_lets_go() {
    let mut cluster = Cluster::with([node("a", 1), service("web", 80, 0)]);
    cluster.settle();
    let (_, going) = changed(service("web", 80, 0), |web| {
        web["metadata"]["deletionTimestamp"] = json!("2030-01-02T00:00:00Z");
        web["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.168.0.1"}]}});
    });
    cluster.put("services", going);
    assert_eq!((cluster.addresses("web"), cluster.trouble("web")), (String::new(), String::new()));
}

/// Whatever happens in whatever order: it settles, nobody shares a port of an address, and nobody goes
/// without an address that is free.
#[test]
fn no_two_services_ever_share_a_port_of_an_address() {
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let mut cluster = Cluster::default();
        for _ in 0..60 {
            let number = u8::try_from(dice.below(5)).unwrap();
            match dice.below(10) {
                0..=3 => {
                    let port = [80, 81, 443][dice.below(3)];
                    let second = [8080, 9090][dice.below(2)];
                    let name = format!("s{number}");
                    let old = cluster.objects.get(&("services", name.clone())).cloned();
                    let (_, new) = changed(service(&name, port, number), |new| {
                        if dice.below(2) == 0 {
                            let ports = new["spec"]["ports"].as_array_mut().unwrap();
                            ports.push(json!({"name": "x", "port": second, "protocol": "TCP"}));
                        }
                        if let Some(old) = old {
                            new["status"] = old["status"].clone();
                        }
                    });
                    cluster.put("services", new);
                }
                4 => cluster.delete("services", &format!("s{number}")),
                5 | 6 => cluster.put("nodes", node(&format!("n{number}"), number).1),
                7 => cluster.delete("nodes", &format!("n{number}")),
                8 => {
                    let pod = host_port_pod("p", &format!("n{number}"), 8080);
                    cluster.put(pod.0, pod.1);
                }
                _ => cluster.delete("pods", "p"),
            }
            if dice.below(3) > 0 {
                continue;
            }
            cluster.settle();
            check(&mut cluster, seed);
        }
    }
}

fn check(cluster: &mut Cluster, seed: u64) {
    let services: Vec<ObjectKey> = cluster.index.services.keys().cloned().collect();
    let mut held: BTreeSet<(std::net::IpAddr, Port)> = BTreeSet::new();
    for key in &services {
        let (service, plan) = cluster.plan(key).unwrap();
        let is: BTreeSet<_> = service.holds.keys().copied().collect();
        assert_eq!(is, plan.addresses.iter().copied().collect(), "seed {seed}: {key} is settled");
        for address in &plan.addresses {
            for port in &service.ports {
                assert!(held.insert((*address, *port)), "seed {seed}: {address} {port} twice");
            }
        }
    }
    // Everything told anew, in another order, leads to the same.
    let objects: Vec<(&'static str, Value)> =
        cluster.objects.iter().map(|((resource, _), object)| (*resource, object.clone())).collect();
    let mut anew = Cluster::with(objects.into_iter().rev());
    assert_eq!(anew.settle(), 0, "seed {seed}: a new leader changes nothing");
    for key in &services {
        let (_, plan) = anew.plan(key).unwrap();
        for reason in &plan.reasons {
            if let super::reconcile::Reason::Taken { address, port, .. } = reason {
                assert!(held.contains(&(*address, *port)), "seed {seed}: {reason} is not so");
            }
        }
    }
}

#[test]
fn ports_are_read_as_they_are_written() {
    for (text, port) in [("22", "22/TCP"), ("8472/udp", "8472/UDP"), ("1/SCTP", "1/SCTP")] {
        assert_eq!(text.parse::<Port>().unwrap().to_string(), port);
    }
    for bad in ["", "0", "65536", "22/ICMP", "ssh"] {
        let error = bad.parse::<Port>().unwrap_err().to_string();
        assert!(error.contains("is no port"), "{error}");
    }
}

#[test]
fn a_service_that_is_not_decoded_is_none() {
    assert!(Balanced::of(&key("x"), &Service::default()).is_none());
}
