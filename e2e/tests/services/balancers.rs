//! `LoadBalancer` at the addresses of nodes.

use anyhow::{Context, Result, ensure};
use e2e::check::{self, Tool, get, hostnames, node};
use e2e::lab::{StoreKind, run};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::{Cluster, ingress};

const NODES: [&str; 3] = ["10.77.0.21", "10.77.0.22", "10.77.0.23"];
/// The machine that the tests ask from.
const OUTSIDE: &str = "10.77.0.1";

fn balancer(name: &str, port: u16) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "type": "LoadBalancer",
            "selector": {"app": "web"},
            "ports": [{"port": port, "targetPort": "http"}],
        },
    })
}

/// Asks until the answer is as it should be: the nodes hear a moment after the API.
async fn until_answered(address: &str, path: &str, wanted: Option<&str>) -> Result<()> {
    let ask = async || Ok(get(address, path).await.ok());
    let is_so = |answer: &Option<String>| match (answer, wanted) {
        (Some(text), Some(wanted)) => text.contains(wanted),
        (answer, wanted) => answer.is_some() == wanted.is_some(),
    };
    check::until_told(&format!("{address}{path} says {wanted:?}"), ask, is_so).await.map(drop)
}

#[test]
fn load_balancers_are_reached_at_the_nodes_from_outside() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(3, StoreKind::Embedded), |lab| async move {
        let cluster = Cluster::with_pods(&lab).await?;
        let nodes: Api<Node> = Api::all(cluster.client.clone());
        cluster.create(balancer("first", 80)).await?;
        cluster.balanced("first", &NODES).await?;
        for address in NODES {
            let address = format!("{address}:80");
            until_answered(&address, "/hostname", Some("web-")).await?;
            hostnames(&address, 6).await?;
        }
        let table = lab.kubecfg(&["get", "service", "first"])?;
        ensure!(table.contains(&NODES.join(",")), "{table}");
        cluster.told("first", "UpdatedLoadBalancer", "[10.77.0.21 10.77.0.22 10.77.0.23]").await?;

        // The port is taken: who comes second waits, is told why, and gets it when it is free.
        cluster.create(balancer("second", 80)).await?;
        let why = "port 80/TCP of node1 (10.77.0.21) is taken by Service default/first";
        cluster.told("second", "UnAvailableLoadBalancer", why).await?;
        let second = cluster.services().get("second").await?;
        ensure!(ingress(&second).is_empty(), "{second:?}");
        let table = lab.kubecfg(&["get", "service", "second"])?;
        ensure!(table.contains("<pending>"), "{table}");

        // What would cut the cluster off is not given away.
        cluster.create(balancer("api", 6443)).await?;
        cluster.told("api", "UnAvailableLoadBalancer", "port 6443/TCP is kept for").await?;
        cluster.create(balancer("ssh", 22)).await?;
        cluster.told("ssh", "UnAvailableLoadBalancer", "port 22/TCP is kept for").await?;

        // A node that is not to get anything.
        let label = "node.kubernetes.io/exclude-from-external-load-balancers";
        let set = |value: Value| Patch::Merge(json!({"metadata": {"labels": {label: value}}}));
        nodes.patch("node1", &PatchParams::default(), &set(json!(""))).await?;
        cluster.balanced("first", &NODES[1..]).await?;
        until_answered("10.77.0.21:80", "/hostname", None).await?;
        nodes.patch("node1", &PatchParams::default(), &set(Value::Null)).await?;
        cluster.balanced("first", &NODES).await?;

        // Another type is no longer reached there, and lets the second one in.
        cluster.patch("first", json!({"spec": {"type": "ClusterIP"}})).await?;
        cluster.balanced("second", &NODES).await?;
        until_answered("10.77.0.22:80", "/hostname", Some("web-")).await?;
        let first = cluster.until("first", "no address", |first| ingress(first).is_empty()).await?;
        ensure!(first.spec.is_some_and(|spec| spec.type_.as_deref() == Some("ClusterIP")));

        // One address, asked for.
        cluster.patch("second", json!({"spec": {"loadBalancerIP": NODES[2]}})).await?;
        cluster.balanced("second", &NODES[2..]).await?;
        until_answered("10.77.0.21:80", "/hostname", None).await?;
        until_answered("10.77.0.23:80", "/hostname", Some("web-")).await?;
        cluster.services().delete("second", &DeleteParams::default()).await?;
        until_answered("10.77.0.23:80", "/hostname", None).await?;
        Ok(())
    })
}

#[test]
fn a_local_load_balancer_keeps_the_clients_address_and_to_nodes_with_endpoints() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(3, StoreKind::Embedded), |lab| async move {
        let cluster = Cluster::with_pods(&lab).await?;
        let mut local = balancer("local", 80);
        local["spec"]["externalTrafficPolicy"] = json!("Local");
        let service = cluster.create(local).await?;
        cluster.balanced("local", &NODES).await?;
        for address in NODES {
            until_answered(&format!("{address}:80"), "/peer", Some(OUTSIDE)).await?;
        }
        let spec = service.spec.context("no spec")?;
        let health = spec.health_check_node_port.context("no healthCheckNodePort")?;
        for address in NODES {
            let address = format!("{address}:{health}");
            until_answered(&address, "/healthz", Some("\"localEndpoints\": 2")).await?;
        }

        // One pod is left: only its node serves, and says so.
        Tool::Kubecfg.run(&lab, &["scale", "rc/web", "--replicas=1"])?;
        let left = check::replicas(&cluster.client, "web", 1).await?;
        let nodes = ["node1", "node2", "node3"];
        let is = nodes.iter().position(|name| *name == node(&left[0])).context("its node")?;
        cluster.balanced("local", &[NODES[is]]).await?;
        until_answered(&format!("{}:80", NODES[is]), "/peer", Some(OUTSIDE)).await?;
        let health_of = |index: usize| format!("{}:{health}", NODES[index]);
        until_answered(&health_of(is), "/healthz", Some("\"localEndpoints\": 1")).await?;
        // 503, which is no answer here.
        until_answered(&health_of((is + 1) % 3), "/healthz", None).await?;

        // From elsewhere only.
        let ranges = |range: &str| json!({"spec": {"loadBalancerSourceRanges": [range]}});
        cluster.patch("local", ranges("192.0.2.0/24")).await?;
        until_answered(&format!("{}:80", NODES[is]), "/peer", None).await?;
        cluster.patch("local", ranges("10.77.0.1/32")).await?;
        until_answered(&format!("{}:80", NODES[is]), "/peer", Some(OUTSIDE)).await?;
        Ok(())
    })
}

#[test]
fn nobody_is_given_addresses_when_that_is_switched_off() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    let mut config = check::lab(1, StoreKind::Embedded);
    config.master_args = vec!["--load-balancer=none".to_owned()];
    run(config, |lab| async move {
        let cluster = Cluster { client: check::client(&lab).await? };
        cluster.create(balancer("web", 80)).await?;
        // Somebody else may.
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}});
        let patch = Patch::Merge(status);
        cluster.services().patch_status("web", &PatchParams::default(), &patch).await?;
        // What the leader did for a later object, it had the time for.
        let endpoints = lab.kubecfg(&["get", "service", "web"])?;
        ensure!(endpoints.contains("192.0.2.9"), "{endpoints}");
        cluster.balanced("web", &["192.0.2.9"]).await?;
        Ok(())
    })
}
