//! What kinds of Services do for pods, nodes and others.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::check::{self, address, name, node};
use e2e::lab::{Lab, StoreKind, run};
use k8s_openapi::api::core::v1::{Endpoints, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};

use super::Cluster;

/// A Service of the six pods.
fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({
        "metadata": {"name": name},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]},
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        service["spec"][field] = value.clone();
    }
    service
}

/// What the test server says in a pod.
fn in_pod(lab: &Lab, pod: &str, words: &[&str]) -> Result<String> {
    let command = [&["exec", pod, "--", "/testserver"], words].concat();
    Ok(lab.kubecfg(&command)?.trim().to_owned())
}

/// The same until the answer is as it should be: nodes hear of a change a moment after the API.
async fn until_said(
    lab: &Lab,
    pod: &str,
    words: &[&str],
    is_so: impl Fn(&str) -> bool,
) -> Result<String> {
    let what = format!("{pod} is told the right thing by {words:?}");
    check::until_told(&what, async || in_pod(lab, pod, words), |said| is_so(said)).await
}

fn lines(text: &str) -> BTreeSet<&str> {
    text.split_whitespace().collect()
}

#[test]
fn every_kind_of_service_leads_where_it_should() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(3, StoreKind::Embedded), |lab| async move {
        let cluster = Cluster::with_pods(&lab).await?;
        let pods = check::pods(&cluster.client, "app=web").await?;
        names_only(&lab, &cluster, &pods).await?;
        made_by_hand(&lab, &cluster, &pods).await?;
        who_stays_and_who_is_near(&lab, &cluster, &pods).await?;
        not_ready(&lab, &cluster, &pods).await?;
        datagrams(&lab, &cluster).await?;
        Ok(())
    })
}

/// Headless, and `ExternalName`.
async fn names_only(lab: &Lab, cluster: &Cluster, pods: &[Pod]) -> Result<()> {
    let asks = name(&pods[0]);
    cluster.create(service("headless", json!({"clusterIP": "None"}))).await?;
    let all: BTreeSet<&str> = pods.iter().map(address).collect::<Result<_>>()?;
    let resolve = ["resolve", "headless.default.svc.cluster.local"];
    until_said(lab, asks, &resolve, |said| lines(said) == all).await?;
    let other = json!({
        "type": "ExternalName", "externalName": "headless.default.svc.cluster.local",
        "selector": null, "ports": null,
    });
    cluster.create(service("other-name", other)).await?;
    until_said(lab, asks, &["resolve", "other-name"], |said| lines(said) == all).await?;
    // It has the port of its own, not one of the Service.
    let url = "http://other-name:8080/hostname";
    until_said(lab, asks, &["get", url], |said| said.starts_with("web-")).await?;
    Ok(())
}

/// Without a selector: by an EndpointSlice, and by Endpoints as older clients make them.
async fn made_by_hand(lab: &Lab, cluster: &Cluster, pods: &[Pod]) -> Result<()> {
    let (asks, target) = (name(&pods[0]), &pods[1]);
    let by_hand = json!({"selector": null, "ports": [{"port": 80, "targetPort": 8080}]});
    cluster.create(service("by-slice", by_hand.clone())).await?;
    cluster.create(service("by-endpoints", by_hand)).await?;
    let slices: Api<EndpointSlice> = Api::default_namespaced(cluster.client.clone());
    let slice = json!({
        "metadata": {"name": "mine", "labels": {"kubernetes.io/service-name": "by-slice"}},
        "addressType": "IPv4",
        "ports": [{"port": 8080}],
        "endpoints": [{"addresses": [address(target)?], "conditions": {"ready": true}}],
    });
    slices.create(&PostParams::default(), &serde_json::from_value(slice)?).await?;
    let legacy: Api<Endpoints> = Api::default_namespaced(cluster.client.clone());
    let endpoints = json!({
        "metadata": {"name": "by-endpoints"},
        "subsets": [{"addresses": [{"ip": address(target)?}], "ports": [{"port": 8080}]}],
    });
    legacy.create(&PostParams::default(), &serde_json::from_value(endpoints)?).await?;
    for service in ["by-slice", "by-endpoints"] {
        let url = format!("http://{service}/hostname");
        until_said(lab, asks, &["get", &url], |said| said == name(target)).await?;
    }
    // Without endpoints it is refused, not silent.
    slices.delete("mine", &DeleteParams::default()).await?;
    let deadline = tokio::time::Instant::now() + check::DEADLINE;
    loop {
        match in_pod(lab, asks, &["get", "http://by-slice/hostname"]) {
            Err(error) if format!("{error:#}").contains("refused") => return Ok(()),
            other => ensure!(tokio::time::Instant::now() < deadline, "{other:?} without endpoints"),
        }
    }
}

/// `sessionAffinity`, and `internalTrafficPolicy: Local`.
async fn who_stays_and_who_is_near(lab: &Lab, cluster: &Cluster, pods: &[Pod]) -> Result<()> {
    let asks = &pods[0];
    cluster.create(service("sticky", json!({"sessionAffinity": "ClientIP"}))).await?;
    let get = ["get", "http://sticky/hostname"];
    let first = until_said(lab, name(asks), &get, |said| said.starts_with("web-")).await?;
    for _ in 0..20 {
        let again = in_pod(lab, name(asks), &get)?;
        ensure!(again == first, "{first} answered, then {again}");
    }
    cluster.create(service("near", json!({"internalTrafficPolicy": "Local"}))).await?;
    let near: BTreeSet<&str> =
        pods.iter().filter(|pod| node(pod) == node(asks)).map(name).collect();
    ensure!(near.len() == 2, "{near:?} are on the node");
    let get = ["get", "http://near/hostname"];
    until_said(lab, name(asks), &get, |said| said.starts_with("web-")).await?;
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        seen.insert(in_pod(lab, name(asks), &get)?);
    }
    ensure!(seen.iter().all(|one| near.contains(one.as_str())), "{seen:?} answered, not {near:?}");
    Ok(())
}

/// `publishNotReadyAddresses`.
async fn not_ready(lab: &Lab, cluster: &Cluster, pods: &[Pod]) -> Result<()> {
    let (asks, ill) = (name(&pods[0]), &pods[2]);
    cluster.create(service("published", json!({"publishNotReadyAddresses": true}))).await?;
    cluster.create(service("ready", json!({}))).await?;
    in_pod(lab, name(ill), &["get", "http://127.0.0.1:8080/unhealthy"])?;
    let slices: Api<EndpointSlice> = Api::default_namespaced(cluster.client.clone());
    let address = address(ill)?;
    let ready = |slices: &[EndpointSlice]| {
        let all = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        let mut of_it = all.filter(|endpoint| endpoint.addresses == [address]);
        of_it.any(|endpoint| {
            endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true)
        })
    };
    let of = |service: &str| format!("kubernetes.io/service-name={service}");
    check::until(&slices, &of("ready"), "the pod is not ready", |all| {
        !all.is_empty() && !ready(all)
    })
    .await?;
    check::until(&slices, &of("published"), "it is published", |all| ready(all)).await?;
    // Who is ill still answers, where he is asked.
    let seen = |service: &'static str| async move {
        let url = format!("http://{service}/hostname");
        let mut seen = BTreeSet::new();
        // Among six, one is missed by 100 requests once in ten to the eighth.
        for _ in 0..100 {
            seen.insert(in_pod(lab, asks, &["get", &url])?);
        }
        anyhow::Ok(seen)
    };
    until_said(lab, asks, &["get", "http://published/hostname"], |_| true).await?;
    ensure!(seen("published").await?.contains(name(ill)), "it is not asked");
    in_pod(lab, name(ill), &["get", "http://127.0.0.1:8080/healthy"])?;
    check::until(&slices, &of("ready"), "the pod is ready again", |all| ready(all)).await?;
    Ok(())
}

/// UDP: from one port of the outside, whose flow has to find another endpoint when its own goes.
async fn datagrams(lab: &Lab, cluster: &Cluster) -> Result<()> {
    let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(format!("{}:30053", lab.nodes[0].address)).await?;
    let first = answer(&socket).await?;
    let again = answer(&socket).await?;
    ensure!(first == again, "a flow stays with {first}, not {again}");
    let pods: Api<Pod> = Api::default_namespaced(cluster.client.clone());
    pods.delete(&first, &DeleteParams::default().grace_period(0)).await?;
    let deadline = tokio::time::Instant::now() + check::DEADLINE;
    loop {
        match answer(&socket).await {
            Ok(other) if other != first => return Ok(()),
            other => ensure!(
                tokio::time::Instant::now() < deadline,
                "{first} is gone, and its flow is led nowhere else: {other:?}"
            ),
        }
    }
}

async fn answer(socket: &tokio::net::UdpSocket) -> Result<String> {
    let mut buffer = [0; 512];
    socket.send(b"who").await?;
    let answer = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut buffer));
    let length = answer.await.context("no answer")??;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
