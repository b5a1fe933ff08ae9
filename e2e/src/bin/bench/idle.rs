//! What a cluster costs while nothing happens.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::check::{Tool, is_ready, until};
use e2e::image::TEST_IMAGE;
use e2e::lab::{Lab, Machine};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};

use super::report;

/// What a shim calls itself.
const SHIM: &str = "kutter-shim";

/// A process, as `/proc` tells it.
struct Process {
    name: String,
    resident_kib: u64,
    /// In ticks of 10 ms.
    cpu_ticks: u64,
}

/// Three pods that do nothing, for some time.
pub(crate) async fn idle(lab: &Lab, client: &Client, seconds: u64) -> Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let manifest = format!(
        "apiVersion: v1\nkind: ReplicationController\nmetadata: {{name: idle}}\n\
         spec:\n  replicas: 3\n  selector: {{app: idle}}\n  template:\n\
         \x20   metadata: {{labels: {{app: idle}}}}\n\
         \x20   spec: {{containers: [{{name: main, image: \"{TEST_IMAGE}\", args: [sleep]}}]}}\n"
    );
    Tool::Kubecfg.run_with(lab, &["apply", "-"], &manifest)?;
    until(&pods, "app=idle", "three pods", |pods| pods.iter().filter(|p| is_ready(p)).count() == 3)
        .await?;
    // What the start left to be done is not idling.
    tokio::time::sleep(Duration::from_secs(5)).await;

    let version = pods.list(&ListParams::default()).await?.metadata.resource_version;
    let before = processes(lab)?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = processes(lab)?;
    let later = pods.list(&ListParams::default()).await?.metadata.resource_version;

    let resident = |name: &str| -> Vec<f64> {
        let of_name = after.iter().filter(|process| process.name == name);
        of_name.map(|process| process.resident_kib as f64 / 1024.0).collect()
    };
    let (master, kubelet) = (resident("master"), resident("kubelet"));
    let (master, kubelet): (f64, f64) = (master.iter().sum(), kubelet.iter().sum());
    report(
        "master + kubelet resident, idle with 3 pods",
        &format!("{:.0} MB ({master:.0} + {kubelet:.0})", master + kubelet),
        "60 MB",
        "embedded store, one node",
    );
    let shims = resident(SHIM);
    ensure!(shims.len() == 3, "{} shims for three pods", shims.len());
    let largest = shims.iter().copied().fold(0.0, f64::max);
    report("a shim resident", &format!("{largest:.1} MB"), "4 MB", "the largest of three");
    let ticks = |list: &[Process]| -> u64 {
        let ours = ["master", "kubelet", SHIM];
        let ours = list.iter().filter(|process| ours.contains(&process.name.as_str()));
        ours.map(|process| process.cpu_ticks).sum()
    };
    let used = ticks(&after).saturating_sub(ticks(&before)) as f64 / 100.0;
    report(
        "all processes together, idle",
        &format!("{:.2} % of a core", used / seconds as f64 * 100.0),
        "0.5 %",
        &format!("over {seconds} s, from /proc/PID/stat"),
    );
    let number = |version: Option<String>| -> Result<u64> {
        version.context("no version")?.parse().context("a version that is no number")
    };
    report(
        "writes to the store, idle",
        &(number(later)? - number(version)?).to_string(),
        "0",
        &format!("over {seconds} s, from the store's revision"),
    );
    Tool::Kubecfg.run(lab, &["delete", "rc", "idle"])?;
    until(&pods, "app=idle", "no pods", <[Pod]>::is_empty).await?;
    Ok(())
}

fn processes(lab: &Lab) -> Result<Vec<Process>> {
    let mut all = machine(&lab.master)?;
    for node in &lab.nodes {
        all.extend(machine(node)?);
    }
    Ok(all)
}

fn machine(machine: &Machine) -> Result<Vec<Process>> {
    let script = "for p in /proc/[0-9]*; do \
        echo \"$(cat $p/stat) $(sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\).*/\\1/p' $p/status)\"; done 2>/dev/null";
    let text = machine.run(&["sh", "-c", script])?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let (head, rest) = line.rsplit_once(')')?;
            let name = head.split_once('(')?.1.to_owned();
            let fields: Vec<&str> = rest.split_whitespace().collect();
            // Counted from behind the name: utime and stime are fields 14 and 15 of all.
            let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
            // The state and 49 more fields, then what `sed` found.
            let resident_kib = fields.get(50).and_then(|text| text.parse().ok()).unwrap_or(0);
            Some(Process { name, resident_kib, cpu_ticks: ticks(11)? + ticks(12)? })
        })
        .collect())
}
