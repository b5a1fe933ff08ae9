//! All pods of a Service are replaced under load, and no request fails: not at the addresses of a load
//! balancer, not at node ports, not at the Service's own address.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use e2e::check::{self, Tool, Traffic, is_ending, is_ready, name, served};
use e2e::lab::{Lab, Machine, StoreKind, run};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::Cluster;

const ROLLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/rolled.yaml");
const PODS: usize = 6;
/// Clients outside of the cluster, each with one request after the other.
const OUTSIDE: usize = 3;

/// A client on a node, which asks a Service's own address until it is stopped.
struct Inside {
    child: Child,
    stop: PathBuf,
}

impl Inside {
    fn start(node: &Machine, address: &str) -> Result<Self> {
        let stop = node.folder.join("stop-asking");
        let script = format!(
            "n=0; while [ ! -e {stop} ]; do curl -sS -f -m 3 -o /dev/null http://{address}/hostname \
             2>&1 || echo \"request $n failed\"; n=$((n+1)); done; echo \"made $n\"",
            stop = stop.display(),
        );
        let mut command = node.command("sh");
        let child = command.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Self { child: child.spawn()?, stop })
    }

    /// How many requests it made; none may have failed.
    fn stop(self) -> Result<usize> {
        std::fs::write(&self.stop, "")?;
        let output = self.child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let made = text.trim().strip_prefix("made ").and_then(|count| count.parse().ok());
        made.with_context(|| format!("requests of a node failed: {text}"))
    }
}

/// All that asks.
struct Load {
    outside: Vec<Traffic>,
    inside: Vec<Inside>,
}

impl Load {
    async fn start(lab: &Lab, own: &str) -> Result<Self> {
        let entrances: Vec<String> = lab
            .nodes
            .iter()
            .flat_map(|node| [8000, 30088].map(|port| format!("{}:{port}", node.address)))
            .collect();
        served(&entrances).await?;
        let outside = (0..OUTSIDE).map(|_| Traffic::start(entrances.clone())).collect();
        let inside = lab.nodes.iter().map(|node| Inside::start(node, own));
        let load = Self { outside, inside: inside.collect::<Result<_>>()? };
        load.more(50).await?;
        Ok(load)
    }

    async fn more(&self, count: usize) -> Result<()> {
        for traffic in &self.outside {
            traffic.more(count).await?;
        }
        Ok(())
    }

    async fn stop(self) -> Result<usize> {
        let mut all = 0;
        let mut failed = Vec::new();
        for traffic in self.outside {
            let (answered, failures) = traffic.stop().await?;
            all += answered;
            failed.extend(failures);
        }
        for inside in self.inside {
            all += inside.stop()?;
        }
        ensure!(failed.is_empty(), "{} of {all} failed: {failed:#?}", failed.len());
        Ok(all)
    }
}

/// Starts to replace all pods.
async fn restart(deployments: &Api<Deployment>, round: usize) -> Result<()> {
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {
        "kutter.test/round": round.to_string()
    }}}}});
    deployments.patch("rolled", &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// The names of the pods when there are as many as wanted, all new, ready and staying.
async fn replaced(pods: &Api<Pod>, old: &[String]) -> Result<Vec<String>> {
    let found = check::until(pods, "app=rolled", "all pods are replaced", |pods| {
        pods.len() == PODS
            && pods.iter().all(|pod| is_ready(pod) && !is_ending(pod))
            && pods.iter().all(|pod| old.iter().all(|old| old != name(pod)))
    })
    .await?;
    Ok(found.iter().map(|pod| name(pod).to_owned()).collect())
}

async fn set_up(lab: &Lab) -> Result<(Cluster, String)> {
    let cluster = Cluster { client: check::client(lab).await? };
    Tool::Kubecfg.run(lab, &Tool::Kubecfg.apply(ROLLED))?;
    let service =
        cluster.until("rolled", "it has addresses", |service| super::ingress(service).len() == 3);
    let spec = service.await?.spec.context("no spec")?;
    let own = format!("{}:8000", spec.cluster_ip.context("no address")?);
    Ok((cluster, own))
}

#[test]
fn no_request_fails_while_all_pods_are_replaced() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(3, StoreKind::Embedded), |lab| async move {
        let (cluster, own) = set_up(&lab).await?;
        let pods: Api<Pod> = Api::default_namespaced(cluster.client.clone());
        let deployments: Api<Deployment> = Api::default_namespaced(cluster.client.clone());
        let mut names = replaced(&pods, &[]).await?;
        let load = Load::start(&lab, &own).await?;
        for round in 0..3 {
            restart(&deployments, round).await?;
            names = replaced(&pods, &names).await?;
        }
        load.more(50).await?;
        let answered = load.stop().await?;
        eprintln!("{answered} requests, none failed");
        Ok(())
    })
}

#[test]
fn no_request_fails_while_pods_are_replaced_and_kubelets_and_masters_killed() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(3, StoreKind::Embedded), |lab| async move {
        let (cluster, own) = set_up(&lab).await?;
        let pods: Api<Pod> = Api::default_namespaced(cluster.client.clone());
        let deployments: Api<Deployment> = Api::default_namespaced(cluster.client.clone());
        let mut names = replaced(&pods, &[]).await?;
        let load = Load::start(&lab, &own).await?;
        for round in 0..2 {
            restart(&deployments, round).await?;
            let lab = Arc::clone(&lab);
            // In the middle of it: which requests came meanwhile says how long.
            for node in &lab.nodes {
                load.more(100).await?;
                lab.kill(node, "kubelet")?;
                load.more(100).await?;
                lab.start_kubelet(node, None)?;
            }
            lab.kill(&lab.master, "master")?;
            load.more(100).await?;
            lab.start_master()?;
            names = replaced(&pods, &names).await?;
        }
        load.more(50).await?;
        let answered = load.stop().await?;
        eprintln!("{answered} requests, none failed");
        Ok(())
    })
}
