//! The life of a pod as people see it: what the tables say, what they can look into, when it is over.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::check::{self, Tool, is_ready, until};
use e2e::lab::{Lab, StoreKind, run};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/lifecycle.yaml");

fn kubecfg(lab: &Lab, arguments: &[&str]) -> Result<String> {
    Tool::Kubecfg.run(lab, arguments)
}

/// The cells READY and STATUS of a pod.
fn cells(lab: &Lab, pod: &str) -> Result<(String, String)> {
    let table = kubecfg(lab, &["get", "pod", pod])?;
    let row = table.lines().nth(1).context("the table has no row")?;
    let cells: Vec<&str> = row.split_whitespace().collect();
    Ok((cells[1].to_owned(), cells[2].to_owned()))
}

fn told(ready: &str, status: &str) -> (String, String) {
    (ready.to_owned(), status.to_owned())
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

/// Whether one of the init containers is in this state.
fn init_is(pod: &Pod, name: &str, state: &str) -> bool {
    let statuses = pod.status.iter().flat_map(|s| s.init_container_statuses.iter().flatten());
    let found = statuses.into_iter().find(|status| status.name == name);
    let Some(found) = found.and_then(|status| status.state.as_ref()) else { return false };
    match state {
        "running" => found.running.is_some(),
        "terminated" => found.terminated.is_some(),
        reason => found.waiting.as_ref().is_some_and(|w| w.reason.as_deref() == Some(reason)),
    }
}

#[test]
fn a_pod_is_initialized_served_by_a_sidecar_and_over_when_its_work_is_done() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(1, StoreKind::Embedded), |lab| async move {
        let client = check::client(&lab).await?;
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        Tool::Kubecfg.run(&lab, &Tool::Kubecfg.apply(MANIFEST))?;
        until(&pods, "app=web", "the first works", |pods| {
            pods.iter().any(|pod| init_is(pod, "first", "running"))
        })
        .await?;
        let shown = async || cells(&lab, "web");
        check::until_told("it shows what it waits for", shown, |cells| {
            *cells == told("0/2", "Init:0/3")
        })
        .await?;
        lab.nodes[0].run(&["pkill", "-TERM", "-f", "testserver sleep$"])?;
        until(&pods, "app=web", "it runs", |pods| {
            pods.iter().any(|pod| phase(pod) == Some("Running"))
        })
        .await?;
        // Others have a say in whether it is ready.
        ensure!(!check::pods(&client, "app=web").await?.iter().any(is_ready));
        let shown = async || cells(&lab, "web");
        check::until_told("it shows that it runs", shown, |cells| *cells == told("2/2", "Running"))
            .await?;
        let open = serde_json::json!({"status": {"conditions": [
            {"type": "shop.test/warm", "status": "True"}
        ]}});
        pods.patch_status("web", &PatchParams::default(), &Patch::Strategic(open)).await?;
        until(&pods, "app=web", "it is ready", |pods| pods.iter().any(is_ready)).await?;

        ensure!(kubecfg(&lab, &["logs", "web", "-c", "second"])? == "second\n");
        let url = "http://127.0.0.1:9000/hostname";
        let get = ["exec", "web", "-c", "main", "--", "/testserver", "get", url];
        ensure!(kubecfg(&lab, &get)?.trim() == "web-0.webs.default.svc.cluster.local");
        let hosts = ["exec", "web", "-c", "proxy", "--", "/testserver", "cat", "/etc/hosts"];
        let hosts = kubecfg(&lab, &hosts)?;
        ensure!(hosts.contains("\tweb-0.webs.default.svc.cluster.local\tweb-0\n"), "{hosts}");
        let name = "web-0.webs.default.svc.cluster.local.";
        let resolve = ["exec", "web", "-c", "main", "--", "/testserver", "resolve", name];
        let address = check::pods(&client, "app=web").await?[0].status.clone().unwrap().pod_ip;
        ensure!(Some(kubecfg(&lab, &resolve)?.trim().to_owned()) == address);

        until(&pods, "app=job", "the job is over", |pods| {
            pods.iter().any(|pod| phase(pod) == Some("Succeeded"))
        })
        .await?;
        ensure!(cells(&lab, "job")? == told("0/2", "Completed"), "{:?}", cells(&lab, "job")?);
        until(&pods, "app=failing", "it is over", |pods| {
            pods.iter().any(|pod| phase(pod) == Some("Failed"))
        })
        .await?;
        ensure!(cells(&lab, "failing")? == told("0/1", "Init:Error"));
        until(&pods, "app=crashing", "it backs off", |pods| {
            pods.iter().any(|pod| init_is(pod, "first", "CrashLoopBackOff"))
        })
        .await?;
        ensure!(cells(&lab, "crashing")? == told("0/1", "Init:CrashLoopBackOff"));
        let previous = ["logs", "crashing", "-c", "first", "--previous"];
        ensure!(kubecfg(&lab, &previous).is_ok());
        let late = until(&pods, "app=late", "it had its time", |pods| {
            pods.iter().any(|pod| phase(pod) == Some("Failed"))
        })
        .await?;
        let reason = late[0].status.as_ref().and_then(|status| status.reason.as_deref());
        ensure!(reason == Some("DeadlineExceeded"), "{reason:?}");

        let began = Instant::now();
        kubecfg(&lab, &["delete", "pod", "web"])?;
        eprintln!("gone {:?} after it was asked to go", began.elapsed());
        kubecfg(&lab, &["delete", "pod", "crashing", "job", "failing", "late"])?;
        ensure!(check::processes(&lab, "node1")?.is_empty(), "processes are still there");
        Ok(())
    })
}
