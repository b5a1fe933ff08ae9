//! What becomes of pods that run: restarts, ends, changed files, and many of them idle.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::check::{Tool, processes, until};
use e2e::image::TEST_IMAGE;
use e2e::lab::{Lab, Machine};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, Pod};
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::{Api, Client};
use serde_json::json;

use super::{percentile, report};

const ROUNDS: usize = 10;
const IDLE: usize = 200;

/// Single pods, one after the other.
pub(crate) async fn single(lab: &Lab, client: &Client) -> Result<()> {
    let (mut restarts, mut ends, mut changes) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..ROUNDS {
        let (restart, change, end) = one(lab, client, number).await?;
        restarts.push(restart);
        changes.push(change);
        ends.push(end);
    }
    let of = format!("{ROUNDS} pods, one after the other");
    for (measured, times, budget) in [
        ("a container killed, to the next one running in a watch, p50", restarts, "100 ms"),
        ("a ConfigMap changed, to the file in the pod, p50", changes, "500 ms"),
        ("a pod deleted that obeys SIGTERM, to its end in a watch, p50", ends, "100 ms"),
    ] {
        let mut times: Vec<f64> = times;
        times.sort_by(f64::total_cmp);
        let most = times.last().copied().unwrap_or_default();
        let figure = format!("{:.0} ms", percentile(&times, 0.5));
        report(measured, &figure, budget, &format!("{of}; most {most:.0} ms"));
    }
    Ok(())
}

async fn one(lab: &Lab, client: &Client, number: usize) -> Result<(f64, f64, f64)> {
    let node = lab.nodes.first().context("no node")?;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let name = format!("single-{number}");
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": name}, "data": {"key": "old"}}))?;
    maps.create(&PostParams::default(), &map).await?;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": "single"}},
        "spec": {
            "containers": [{
                "name": "main", "image": TEST_IMAGE, "args": ["sleep"],
                "volumeMounts": [{"name": "map", "mountPath": "/map"}],
            }],
            "volumes": [{"name": "map", "configMap": {"name": name}}],
        },
    }))?;
    pods.create(&PostParams::default(), &pod).await?;
    let running = until(&pods, "app=single", "the pod runs", |pods| {
        pods.iter().any(|pod| status(pod).is_some_and(|status| runs(status, 0)))
    })
    .await?;

    let mut events = watch(&pods, &running).await?;
    let (pid, _) = processes(lab, &node.name)?.first().copied().context("no process")?;
    let began = Instant::now();
    node.run(&["kill", "-9", &pid.to_string()])?;
    loop {
        if let Some(WatchEvent::Modified(pod)) = events.try_next().await?
            && status(&pod).is_some_and(|status| runs(status, 1))
        {
            break;
        }
    }
    let restart = began.elapsed();

    let uid = running[0].metadata.uid.clone().unwrap_or_default();
    let pods_folder = node.folder.join("kubelet/pods").join(uid);
    let found =
        std::process::Command::new("find").arg(&pods_folder).args(["-name", "key"]).output()?;
    let found = String::from_utf8(found.stdout)?;
    let file =
        found.lines().find(|path| !path.contains("/..2")).context("the file is not there")?;
    let change = Patch::Merge(json!({"data": {"key": "new"}}));
    let began = Instant::now();
    maps.patch(&name, &PatchParams::default(), &change).await?;
    while std::fs::read_to_string(file).is_ok_and(|text| text != "new") {
        ensure!(began.elapsed() < e2e::check::DEADLINE, "{file} stays as it was");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let change = began.elapsed();

    let present = pods.list(&ListParams::default().labels("app=single")).await?.items;
    let mut events = watch(&pods, &present).await?;
    let began = Instant::now();
    pods.delete(&name, &DeleteParams::default()).await?;
    while !matches!(events.try_next().await?, Some(WatchEvent::Deleted(_))) {}
    let end = began.elapsed();
    maps.delete(&name, &DeleteParams::default()).await?;
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    Ok((milliseconds(restart), milliseconds(change), milliseconds(end)))
}

type Events = std::pin::Pin<Box<dyn futures::Stream<Item = kube::Result<WatchEvent<Pod>>> + Send>>;

/// What happens to the pods from now on.
async fn watch(api: &Api<Pod>, pods: &[Pod]) -> Result<Events> {
    let version = pods.first().and_then(|pod| pod.metadata.resource_version.clone());
    let parameters = WatchParams::default().labels("app=single");
    Ok(api.watch(&parameters, &version.context("no version")?).await?.boxed())
}

fn status(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

fn runs(status: &ContainerStatus, restarts: i32) -> bool {
    status.restart_count == restarts
        && status.state.as_ref().is_some_and(|state| state.running.is_some())
}

/// Many pods that do nothing.
pub(crate) async fn many(lab: &Lab, client: &Client, seconds: u64) -> Result<()> {
    let node = lab.nodes.first().context("no node")?;
    let (kubelet, shims) = proportional(node)?;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let manifest = format!(
        "apiVersion: v1\nkind: ReplicationController\nmetadata: {{name: many}}\n\
         spec:\n  replicas: {IDLE}\n  selector: {{app: many}}\n  template:\n\
         \x20   metadata: {{labels: {{app: many}}}}\n\
         \x20   spec: {{containers: [{{name: main, image: \"{TEST_IMAGE}\", args: [sleep]}}]}}\n"
    );
    Tool::Kubecfg.run_with(lab, &["apply", "-"], &manifest)?;
    until(&pods, "app=many", "many pods", |pods| {
        pods.iter().filter(|pod| status(pod).is_some_and(|status| runs(status, 0))).count() == IDLE
    })
    .await?;
    // What the starts left to be done is not idling.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let before = ticks(node)?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let used = ticks(node)?.saturating_sub(before) as f64 / 100.0;
    let (kubelet_after, shims_after) = proportional(node)?;
    let all = kubelet_after + shims_after;
    let per_pod = (all - kubelet - shims) / IDLE as f64;
    report(
        &format!("kubelet and shims with {IDLE} idle pods, proportional share of memory"),
        &format!("{all:.0} MiB ({kubelet_after:.0} + {shims_after:.0}), {per_pod:.2} per pod"),
        "350 MiB, 1.5 per pod",
        "one node; from smaps_rollup",
    );
    report(
        "the same, processor time",
        &format!("{:.2} % of a core", used / seconds as f64 * 100.0),
        "1 %",
        &format!("over {seconds} s, from /proc/PID/stat"),
    );
    let parameters = DeleteParams::default();
    Tool::Kubecfg.run(lab, &["delete", "rc", "many"])?;
    let _ = pods.delete_collection(&parameters, &ListParams::default().labels("app=many")).await;
    until(&pods, "app=many", "no pods", <[Pod]>::is_empty).await?;
    Ok(())
}

/// MiB of the kubelet and of all shims, what they share divided among them.
fn proportional(node: &Machine) -> Result<(f64, f64)> {
    let script = "for p in /proc/[0-9]*; do c=$(cat $p/comm); case $c in kubelet|kutter-*) \
        echo \"$c $(sed -n 's/^Pss:[^0-9]*\\([0-9]*\\).*/\\1/p' $p/smaps_rollup)\";; esac; done 2>/dev/null";
    let text = node.run(&["sh", "-c", script])?;
    let mut sums = (0.0, 0.0);
    for line in text.lines() {
        let Some((name, kib)) = line.split_once(' ') else { continue };
        let mib = kib.trim().parse::<f64>().unwrap_or(0.0) / 1024.0;
        match name {
            "kubelet" => sums.0 += mib,
            _ => sums.1 += mib,
        }
    }
    Ok(sums)
}

/// Processor time of the kubelet and of all shims, in ticks of 10 ms.
fn ticks(node: &Machine) -> Result<u64> {
    let script = "for p in /proc/[0-9]*; do c=$(cat $p/comm); case $c in kubelet|kutter-*) \
        sed 's/.*) //' $p/stat;; esac; done 2>/dev/null";
    let text = node.run(&["sh", "-c", script])?;
    // Counted from behind the name: utime and stime are fields 14 and 15 of all.
    let of = |line: &str| -> u64 {
        line.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
    };
    Ok(text.lines().map(of).sum())
}
