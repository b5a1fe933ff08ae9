//! From `kubecfg apply` to Running.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use e2e::check::{Tool, name, until};
use e2e::image::TEST_IMAGE;
use e2e::lab::Lab;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::{percentile, report};

fn manifest(name: &str) -> String {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": TEST_IMAGE, "args": ["sleep"]}],
        },
    });
    format!("{pod}\n")
}

fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// Starts pods one after the other; every start ends before the next begins.
pub(crate) async fn one_by_one(lab: &Lab, client: &Client, count: usize) -> Result<()> {
    let reference = runc(lab)?;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let file = lab.hub.folder.join("bench.yaml");
    let path = file.display().to_string();
    let mut times = Vec::new();
    let mut commands = Vec::new();
    for number in 0..count {
        let this = format!("bench-{number}");
        std::fs::write(&file, manifest(&this))?;
        let version = pods.list(&ListParams::default().limit(1)).await?.metadata.resource_version;
        let parameters = WatchParams::default().labels("app=bench");
        let mut events = pods.watch(&parameters, &version.context("no version")?).await?.boxed();
        let mut command = Tool::Kubecfg.command(lab)?;
        command.args(Tool::Kubecfg.apply(&path)).stdout(Stdio::null());
        let began = Instant::now();
        let mut child = command.spawn()?;
        let mut seen = false;
        while let Some(event) = events.try_next().await? {
            if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = event
                && name(&pod) == this
                && is_running(&pod)
            {
                seen = true;
                break;
            }
        }
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        if !seen || !child.wait()?.success() {
            bail!("{this} did not run");
        }
        let began = Instant::now();
        let status = Tool::Kubecfg.command(lab)?.arg("version").stdout(Stdio::null()).status()?;
        if !status.success() {
            bail!("kubecfg version failed");
        }
        commands.push(began.elapsed().as_secs_f64() * 1000.0);
        pods.delete(&this, &DeleteParams::default().grace_period(0)).await?;
        until(&pods, "app=bench", "the pod is gone", <[Pod]>::is_empty).await?;
    }
    times.sort_by(f64::total_cmp);
    commands.sort_by(f64::total_cmp);
    let (median, p99) = (percentile(&times, 0.5), percentile(&times, 0.99));
    report(
        "`kubecfg apply` of one pod to Running in a watch, p50",
        &format!("{median:.0} ms ({:.2} x runc)", median / reference),
        "100 ms",
        &format!(
            "{count} pods, image present, one node; `runc run` of the image: {reference:.0} ms"
        ),
    );
    let command = percentile(&commands, 0.5);
    report(
        "the same, p99",
        &format!("{p99:.0} ms ({:.2} x runc)", p99 / reference),
        "250 ms",
        &format!("of it a start of kubecfg with one request: {command:.0} ms"),
    );
    Ok(())
}

/// Applies many pods with one command.
pub(crate) async fn at_once(lab: &Lab, client: &Client, count: usize, budget: &str) -> Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let file = lab.hub.folder.join("burst.yaml");
    let all: Vec<String> = (0..count).map(|number| manifest(&format!("burst-{number}"))).collect();
    std::fs::write(&file, all.join("---\n"))?;
    let mut command = Tool::Kubecfg.command(lab)?;
    command.args(Tool::Kubecfg.apply(&file.display().to_string())).stdout(Stdio::null());
    let began = Instant::now();
    let mut child = command.spawn()?;
    until(&pods, "app=bench", "all pods run", |pods| {
        pods.iter().filter(|pod| is_running(pod)).count() == count
    })
    .await?;
    let time = began.elapsed().as_secs_f64();
    child.wait()?;
    report(
        &format!("{count} pods applied at once, all Running"),
        &format!("{time:.1} s"),
        budget,
        "one node, one `kubecfg apply` of one file",
    );
    let began = Instant::now();
    let parameters = DeleteParams::default().grace_period(1);
    pods.delete_collection(&parameters, &ListParams::default().labels("app=bench")).await?;
    until(&pods, "app=bench", "the pods are gone", <[Pod]>::is_empty).await?;
    let time = began.elapsed().as_millis();
    report(
        &format!("{count} pods deleted at once, all gone"),
        &format!("{time} ms"),
        "none",
        "a grace period of 1 s, which they use up",
    );
    Ok(())
}

/// Looks whether the runtime is there that starts are compared with.
pub(crate) fn check_reference() -> Result<()> {
    Command::new("runc").arg("--version").output().context(
        "starts are compared with those of runc, which is not installed; \
         it is Debian's package runc, and --only burst, idle or up goes without",
    )?;
    Ok(())
}

/// The median of bare `runc run`s of the same image, in milliseconds.
fn runc(lab: &Lab) -> Result<f64> {
    let bundle = lab.hub.folder.join("bundle");
    let root = bundle.join("rootfs");
    std::fs::create_dir_all(&root)?;
    let node = lab.nodes.first().context("no node")?;
    let layers = node.folder.join("kubelet");
    let found = Command::new("find")
        .arg(&layers)
        .args(["-name", "testserver", "-path", "*layers*"])
        .output()?;
    let program = String::from_utf8(found.stdout)?;
    let program = program.lines().next().context("the image is not on the node")?;
    std::fs::copy(program, root.join("testserver"))?;
    let runc = |arguments: &[&str]| -> Result<()> {
        let status = Command::new("runc")
            .args(arguments)
            .current_dir(&bundle)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        if !status.success() {
            bail!("runc {} failed", arguments.join(" "));
        }
        Ok(())
    };
    runc(&["spec"])?;
    let path = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = json!(["/testserver", "echo", "done"]);
    std::fs::write(&path, serde_json::to_vec(&config)?)?;
    let mut times = Vec::new();
    for number in 0..20 {
        let began = Instant::now();
        runc(&["run", &format!("kutter-bench-{}-{number}", std::process::id())])?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    Ok(percentile(&times, 0.5))
}
