//! Everything is killed once, and nothing is lost.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use e2e::check::{self, Failure, Tool, Traffic, address, is_ready, name, node, replicas, restarts};
use e2e::lab::{Lab, Machine, StoreKind, run};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;

const WEB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/web.yaml");
const ONCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/once.yaml");

#[test]
fn containers_outlive_their_kubelet_and_are_found_again() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(3, StoreKind::Etcd), |lab| async move {
        let client = check::client(&lab).await?;
        Tool::Kubecfg.run(&lab, &Tool::Kubecfg.apply(WEB))?;
        Tool::Kubecfg.run(&lab, &Tool::Kubecfg.apply(ONCE))?;
        replicas(&client, "web", 6).await?;
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        let once =
            check::until(&pods, "app=once", "pod once is ready", |pods| pods.iter().any(is_ready))
                .await?;
        let before = all_processes(&lab)?;

        for machine in &lab.nodes {
            lab.kill(machine, "kubelet")?;
        }
        ensure!(all_processes(&lab)? == before, "containers ended with their kubelets");
        // While nobody looks, one container ends.
        let url = format!("http://{}:8080/exit?code=7", address(&once[0])?);
        lab.node(node(&once[0]))?.run(&["curl", "-sf", "-m", "5", &url])?;
        for machine in &lab.nodes {
            lab.start_kubelet(machine, None)?;
        }
        let ended = check::until(&pods, "app=once", "the exit code is reported", |pods| {
            pods.iter().any(|pod| exit_code(pod) == Some(7))
        })
        .await?;
        let phase = ended[0].status.as_ref().and_then(|status| status.phase.as_deref());
        ensure!(phase == Some("Failed"), "the pod that ended is {phase:?}");

        let after = replicas(&client, "web", 6).await?;
        ensure!(after.iter().all(|pod| restarts(pod) == 0), "something was started again");
        let mut expected = before;
        let gone = expected.get_mut(node(&once[0])).context("its node is unknown")?;
        let now = all_processes(&lab)?;
        gone.retain(|process| now[node(&once[0])].contains(process));
        ensure!(now == expected, "before {expected:?}, after {now:?}");
        Ok(())
    })
}

#[test]
fn pods_and_services_go_on_while_the_master_is_away() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(2, StoreKind::Embedded), |lab| async move {
        let client = check::client(&lab).await?;
        Tool::Kubecfg.run(&lab, &Tool::Kubecfg.apply(WEB))?;
        let before = replicas(&client, "web", 6).await?;
        let ports = node_ports(&lab.nodes);
        // The pods are ready as soon as the API says so; the nodes hear of it a moment later.
        check::served(&ports).await?;
        let traffic = Traffic::start(ports);
        traffic.more(50).await?;

        lab.kill(&lab.master, "master")?;
        traffic.more(300).await?;
        lab.kill(&lab.nodes[0], "kubelet")?;
        lab.start_kubelet(&lab.nodes[0], None)?;
        traffic.more(300).await?;
        lab.start_master()?;
        traffic.more(100).await?;

        // The master goes on from what it had stored, and with new work.
        let after = replicas(&client, "web", 6).await?;
        let names = |pods: &[Pod]| {
            let mut names: Vec<String> = pods.iter().map(|pod| name(pod).to_owned()).collect();
            names.sort();
            names
        };
        ensure!(names(&before) == names(&after), "pods were replaced");
        ensure!(after.iter().all(|pod| restarts(pod) == 0), "something was started again");
        Tool::Kubecfg.run(&lab, &["scale", "rc/web", "--replicas=8"])?;
        replicas(&client, "web", 8).await?;
        traffic.more(50).await?;
        let (answered, failures) = traffic.stop().await?;
        ensure!(failures.is_empty(), "{} of {answered} failed: {failures:?}", failures.len());
        Ok(())
    })
}

#[test]
fn a_node_that_is_cut_off_is_replaced_and_cleaned_up_when_it_returns() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    let mut config = check::lab(3, StoreKind::Etcd);
    config.master_args =
        ["--node-monitor-grace-period=2s", "--pod-eviction-timeout=2s"].map(str::to_owned).to_vec();
    run(config, |lab| async move {
        let client = check::client(&lab).await?;
        Tool::Kubecfg.run(&lab, &Tool::Kubecfg.apply(WEB))?;
        replicas(&client, "web", 6).await?;
        let lost = &lab.nodes[2];
        let stale: Vec<String> = check::pods(&client, "app=web")
            .await?
            .iter()
            .filter(|pod| node(pod) == "node3")
            .map(|pod| address(pod).map(str::to_owned))
            .collect::<Result<_>>()?;
        let ports = node_ports(&lab.nodes[..2]);
        check::served(&ports).await?;
        let traffic = Traffic::start(ports);
        traffic.more(30).await?;

        lab.partition(lost)?;
        let nodes: Api<Node> = Api::all(client.clone());
        check::until(&nodes, "", "the lost node is not ready", |nodes| {
            nodes.iter().any(|node| node.metadata.name.as_deref() == Some("node3") && !ready(node))
        })
        .await?;
        let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
        check::until(&slices, "", "no endpoint of the lost node is ready", |slices| {
            slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()).all(|endpoint| {
                endpoint.node_name.as_deref() != Some("node3")
                    || endpoint.conditions.as_ref().is_some_and(|c| c.ready == Some(false))
            })
        })
        .await?;
        // The nodes hear of it when we do. Once their kernels have it, no request is lost; what began
        // before may still be on its way to a pod that is out of reach.
        let deadline = std::time::Instant::now() + check::DEADLINE;
        for machine in &lab.nodes[..2] {
            let leads_there = |rules: &str| {
                rules.split([' ', ',']).any(|word| stale.iter().any(|address| address == word))
            };
            while leads_there(&machine.run(&["nft", "list", "map", "ip", "kutter", "endpoints"])?) {
                ensure!(std::time::Instant::now() < deadline, "{} keeps stale rules", machine.name);
            }
        }
        let detected = std::time::Instant::now();
        let lost_since = |failures: Vec<Failure>| -> Vec<Failure> {
            failures.into_iter().filter(|failure| failure.began >= detected).collect()
        };
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        check::until(&pods, "app=web", "six ready pods elsewhere", |pods| {
            pods.iter().filter(|pod| is_ready(pod) && node(pod) != "node3").count() == 6
        })
        .await?;
        traffic.more(100).await?;
        let failures = lost_since(traffic.failures());
        ensure!(failures.is_empty(), "after the detection: {failures:?}");

        lab.heal(lost)?;
        check::until(&nodes, "", "the lost node is ready again", |nodes| {
            nodes.len() == 3 && nodes.iter().all(ready)
        })
        .await?;
        let after = replicas(&client, "web", 6).await?;
        // The stale pods are gone from the node as well, and nothing is there twice.
        let on_node = after.iter().filter(|pod| node(pod) == "node3").count();
        let deadline = std::time::Instant::now() + check::DEADLINE;
        while check::processes(&lab, "node3")?.len() != on_node {
            ensure!(std::time::Instant::now() < deadline, "stale containers on node3");
        }
        traffic.more(50).await?;
        let (_, failures) = traffic.stop().await?;
        let failures = lost_since(failures);
        ensure!(failures.is_empty(), "after the healing: {failures:?}");
        Ok(())
    })
}

/// Where the Service of `web.yaml` is on these nodes.
fn node_ports(nodes: &[Machine]) -> Vec<String> {
    nodes.iter().map(|node| format!("{}:30080", node.address)).collect()
}

fn all_processes(lab: &Lab) -> Result<BTreeMap<String, Vec<(u32, u64)>>> {
    lab.nodes
        .iter()
        .map(|machine| Ok((machine.name.clone(), check::processes(lab, &machine.name)?)))
        .collect()
}

fn exit_code(pod: &Pod) -> Option<i32> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    Some(statuses.first()?.state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn ready(node: &Node) -> bool {
    node.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
