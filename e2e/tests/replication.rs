//! A replication controller and a service over three nodes, by either command line.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use e2e::check::{self, Tool, address, hostnames, name, node, replicas, restarts};
use e2e::lab::{Lab, StoreKind, run};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client};

const WEB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/web.yaml");

#[test]
fn six_replicas_on_three_nodes_serve_and_heal_by_kubecfg() -> Result<()> {
    serve_and_heal(Tool::Kubecfg)
}

#[test]
fn six_replicas_on_three_nodes_serve_and_heal_by_kubectl() -> Result<()> {
    serve_and_heal(Tool::Kubectl)
}

fn serve_and_heal(tool: Tool) -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(3, StoreKind::Etcd), move |lab| async move {
        let client = check::client(&lab).await?;
        tool.run(&lab, &tool.apply(WEB))?;
        let pods = replicas(&client, "web", 6).await?;
        are_spread(&pods)?;
        reach_each_other(tool, &lab, &pods)?;
        answer_behind_the_service(&lab, &client).await?;

        a_killed_container_is_started_again(&lab, &client, &pods).await?;
        a_deleted_pod_is_replaced(tool, &lab, &client).await?;
        tool.run(&lab, &["scale", "rc/web", "--replicas=10"])?;
        are_spread(&replicas(&client, "web", 10).await?)?;
        tool.run(&lab, &["scale", "rc/web", "--replicas=2"])?;
        replicas(&client, "web", 2).await?;
        Ok(())
    })
}

fn are_spread(pods: &[Pod]) -> Result<()> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in pods {
        *counts.entry(node(pod)).or_default() += 1;
    }
    let (most, least) = (counts.values().max(), counts.values().min());
    ensure!(
        counts.len() == 3 && most.zip(least).is_some_and(|(most, least)| most - least <= 1),
        "pods are not spread: {counts:?}"
    );
    Ok(())
}

fn reach_each_other(tool: Tool, lab: &Lab, pods: &[Pod]) -> Result<()> {
    for from in pods {
        for to in pods {
            let url = format!("http://{}:8080/hostname", address(to)?);
            let answer =
                tool.run(lab, &["exec", name(from), "--", "/testserver", "get", url.as_str()])?;
            ensure!(
                answer.trim() == name(to),
                "{} asked {} and {answer:?} answered",
                name(from),
                name(to)
            );
        }
    }
    Ok(())
}

async fn answer_behind_the_service(lab: &Lab, client: &Client) -> Result<()> {
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let service = services.get("web").await?;
    let ip = service.spec.and_then(|spec| spec.cluster_ip).unwrap_or_default();
    // All replicas answer at the node port of each node, asked from outside.
    for machine in &lab.nodes {
        hostnames(&format!("{}:30080", machine.address), 6).await?;
    }
    // And from each node itself, at the cluster address and at every node port.
    let mut urls = vec![format!("http://{ip}/hostname")];
    urls.extend(lab.nodes.iter().map(|node| format!("http://{}:30080/hostname", node.address)));
    for machine in &lab.nodes {
        for url in &urls {
            let script = format!("for i in $(seq 60); do curl -sf -m 3 {url} || echo failed; done");
            let answers = machine.run(&["sh", "-c", &script])?;
            let mut seen: Vec<&str> = answers.lines().collect();
            seen.sort_unstable();
            seen.dedup();
            // Each of six is missed by all of sixty requests once in 50 000 runs.
            ensure!(seen.len() == 6, "on {}, {url} is answered by {seen:?}", machine.name);
            ensure!(!seen.contains(&"failed"), "on {}, {url} is not always answered", machine.name);
        }
    }
    // UDP takes the same way, from a pod.
    for target in [format!("{ip}:53"), format!("{}:30053", lab.nodes[0].address)] {
        let pod = name(&check::pods(client, "app=web").await?[0]).to_owned();
        let command = ["exec", pod.as_str(), "--", "/testserver", "udp", target.as_str()];
        let answer = Tool::Kubecfg.run(lab, &command)?;
        ensure!(answer.starts_with("web-"), "UDP at {target} is answered by {answer:?}");
    }
    Ok(())
}

async fn a_killed_container_is_started_again(
    lab: &Lab,
    client: &Client,
    pods: &[Pod],
) -> Result<()> {
    let machine = lab.node(node(&pods[0]))?;
    let victim = check::processes(lab, &machine.name)?[0].0;
    machine.run(&["kill", "-KILL", &victim.to_string()])?;
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    check::until(&api, "app=web", "a container started again", |pods| {
        pods.iter().map(restarts).sum::<i32>() == 1
    })
    .await?;
    let after = replicas(client, "web", 6).await?;
    let names = |pods: &[Pod]| {
        let mut names: Vec<String> = pods.iter().map(|pod| name(pod).to_owned()).collect();
        names.sort();
        names
    };
    ensure!(names(&after) == names(pods), "the pods were replaced, not their containers");
    Ok(())
}

async fn a_deleted_pod_is_replaced(tool: Tool, lab: &Lab, client: &Client) -> Result<()> {
    let before = replicas(client, "web", 6).await?;
    let victim = name(&before[0]).to_owned();
    tool.run(lab, &["delete", "pod", victim.as_str()])?;
    let after = replicas(client, "web", 6).await?;
    ensure!(after.iter().all(|pod| name(pod) != victim), "{victim} is still there");
    Ok(())
}
