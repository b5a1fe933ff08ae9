//! What is used, with nothing to install.

use anyhow::{Result, ensure};
use e2e::check::{self, Tool};
use e2e::lab::{Lab, StoreKind, run};

const APP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/deployment.yaml");

/// The lines that a client prints, without the head.
fn lines(lab: &Lab, words: &[&str]) -> Result<Vec<Vec<String>>> {
    let told = Tool::Kubectl.run(lab, words)?;
    let columns = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    Ok(told.lines().skip(1).map(columns).collect())
}

#[test]
fn kubectl_tells_what_pods_and_nodes_use() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(2, StoreKind::Embedded), |lab| async move {
        Tool::Kubectl.run(&lab, &["apply", "-f", APP])?;
        Tool::Kubectl.run(&lab, &["rollout", "status", "deployment/app", "--timeout=60s"])?;
        let nodes = lines(&lab, &["top", "node"])?;
        ensure!(nodes.len() == 2, "{nodes:?}");
        for node in &nodes {
            ensure!(node[1].ends_with('m') && node[3].ends_with("Mi"), "{node:?}");
        }
        let pods = lines(&lab, &["top", "pod", "-l", "app=app", "--containers"])?;
        ensure!(pods.len() == 3, "{pods:?}");
        for pod in &pods {
            ensure!(pod[0].starts_with("app-") && pod[1] == "server", "{pod:?}");
            ensure!(pod[2].ends_with('m') && pod[3].ends_with("Mi"), "{pod:?}");
        }
        let one = format!("/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/{}", pods[0][0]);
        let one = Tool::Kubectl.run(&lab, &["get", "--raw", &one])?;
        let one: serde_json::Value = serde_json::from_str(&one)?;
        let memory = one["containers"][0]["usage"]["memory"].as_str().unwrap_or_default();
        let memory: u64 = memory.trim_end_matches("Ki").parse()?;
        ensure!((100..100_000).contains(&memory), "a small server takes {memory} KiB");
        let page = ["get", "--raw", "/api/v1/nodes/node1/proxy/metrics/resource"];
        let page = Tool::Kubectl.run(&lab, &page)?;
        ensure!(page.contains("container_cpu_usage_seconds_total{container=\"server\""), "{page}");
        Ok(())
    })
}
