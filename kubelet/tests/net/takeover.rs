//! A kubelet that starts again carries on with the rules that are there.

use std::net::Ipv4Addr;

use kubelet::network::HostPort;
use kubelet::state::{Change, ClusterState};
use proto::ObjectKey;
use proto::k8s::api::discovery::v1::EndpointSlice;
use serde_json::json;

use crate::ground::{TestNode, eventually, is_root};
use crate::services::{Web, kept, put_service, put_slice, service, slice, tally_tcp, web_service};

fn put(state: &mut ClusterState, slice: EndpointSlice) {
    let (key, slice) = kept(&slice);
    state.endpoint_slices.insert(key, slice);
}

/// The rules with the numbers the kernel gave them; elements left out.
fn rules(node: &TestNode) -> String {
    node.namespace.command("nft -a -t list table ip kutter")
}

fn without_handles(rules: &str) -> Vec<String> {
    let lines = rules.lines().map(|line| line.split(" # handle").next().unwrap_or_default());
    lines.map(str::to_owned).collect()
}

pub(crate) fn clients_remembered(node: &TestNode) -> usize {
    node.namespace.command("nft list map ip kutter affinity").matches("expires").count()
}

/// A pod with a host port that can be reached: the proxy has looked at the state since.
fn wait_for_a_pass(web: &Web, port: u16) {
    let ports =
        [HostPort { host_ip: None, host_port: port, container_port: 80, protocol: "TCP".into() }];
    let pod = web.cluster.nodes[0].pod_with_ports(&format!("pod-{port}"), &ports);
    pod.namespace.serve("pod", 80);
    let at = format!("{}:{port}", web.cluster.nodes[0].address);
    let node = &web.cluster.nodes[1].namespace;
    eventually("the host port", || node.ask_tcp(&at), |answer| answer.is_ok()).unwrap();
}

#[test]
fn rules_and_remembered_clients_outlive_the_kubelet_and_its_outdated_snapshot() {
    if !is_root("rules_and_remembered_clients_outlive_the_kubelet_and_its_outdated_snapshot") {
        return;
    }
    let mut web = Web::new(&web_service());
    let sticky =
        service("sticky", Ipv4Addr::new(10, 96, 0, 12), json!({"sessionAffinity": "ClientIP"}));
    put_service(&web.cluster, &sticky);
    let ends = [(web.near.address, "node-0", true), (web.far.address, "node-1", true)];
    put_slice(&web.cluster, &slice("sticky", &ends));
    let ask = |web: &Web| tally_tcp(&web.client.namespace, "10.96.0.12:80", 8);
    let server = eventually("the service", || ask(&web), |answers| answers.len() == 1);
    let node = &web.cluster.nodes[0];
    let (rules_before, clients) = (rules(node), clients_remembered(node));
    assert_eq!(clients, 1);

    // On the disk there is not even an endpoint.
    let services = node.state.read(|state| state.services.clone());
    web.cluster.restart_with(0, |state| {
        state.services = services.clone();
        put(state, slice("web", &[]));
    });
    wait_for_a_pass(&web, 9001);
    let node = &web.cluster.nodes[0];
    assert_eq!(rules(node), rules_before);
    assert_eq!(clients_remembered(node), clients);
    assert_eq!(ask(&web).keys().collect::<Vec<_>>(), server.keys().collect::<Vec<_>>());
    let both = || tally_tcp(&web.client.namespace, "10.96.0.10:80", 16);
    assert_eq!(both().len(), 2);

    // A master says what is there anyway.
    node.state.write([Change::Everything], |state| {
        state.confirmed = true;
        put(state, slice("web", &ends));
        put(state, slice("sticky", &ends));
    });
    wait_for_a_pass(&web, 9002);
    assert_eq!(rules(node), rules_before);
    assert_eq!(clients_remembered(node), clients);

    // And from now on it is obeyed.
    node.state.write([Change::EndpointSlice(ObjectKey::new("default", "web-1"))], |state| {
        put(state, slice("web", &ends[1..]));
    });
    eventually("only far", both, |answers| answers.len() == 1 && answers.contains_key("far"));
}

#[test]
fn a_table_that_was_tampered_with_is_made_anew() {
    if !is_root("a_table_that_was_tampered_with_is_made_anew") {
        return;
    }
    let mut web = Web::new(&web_service());
    let node = &web.cluster.nodes[0];
    let rules_before = rules(node);
    node.namespace.command("nft flush chain ip kutter refuse");
    let (services, slices) =
        node.state.read(|state| (state.services.clone(), state.endpoint_slices.clone()));
    web.cluster.restart_with(0, |state| {
        state.services = services;
        state.endpoint_slices = slices;
    });
    wait_for_a_pass(&web, 9001);
    let rules = rules(&web.cluster.nodes[0]);
    assert_ne!(rules, rules_before);
    assert_eq!(without_handles(&rules), without_handles(&rules_before));
    let both = || tally_tcp(&web.client.namespace, "10.96.0.10:80", 16);
    assert_eq!(both().len(), 2);
}

#[test]
fn rules_that_somebody_else_deletes_or_changes_come_back() {
    if !is_root("rules_that_somebody_else_deletes_or_changes_come_back") {
        return;
    }
    let web = Web::new(&web_service());
    let node = &web.cluster.nodes[0];
    let both = || tally_tcp(&web.client.namespace, "10.96.0.10:80", 16);
    // Unlike a list of the table, this succeeds without one.
    let all = || node.namespace.command("nft -a -t list ruleset");
    let made = without_handles(&all());
    for harm in [
        "nft delete table ip kutter",
        "nft flush ruleset",
        "nft flush chain ip kutter refuse",
        "nft flush map ip kutter services",
        "nft add rule ip kutter dispatch drop",
        "nft add chain ip kutter stray",
    ] {
        node.namespace.command(harm);
        eventually(harm, || without_handles(&all()), |rules| *rules == made);
        eventually(harm, both, |answers| answers.len() == 2);
    }
    // Other tables are others' affair.
    let before = rules(node);
    node.namespace.command("nft add table ip other");
    node.namespace.command("nft delete table ip other");
    wait_for_a_pass(&web, 9001);
    assert_eq!(rules(node), before, "a table of somebody else's made ours anew");
}
