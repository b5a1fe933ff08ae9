//! Static pods on a whole node: they run whatever becomes of the master, and the API shows them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::check::{self, Tool, is_ready, until};
use e2e::image::TEST_IMAGE;
use e2e::lab::{Lab, StoreKind, run};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;

/// A pod that answers on a port of the node with a name.
fn manifest(says: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: default, labels: {{app: web}}}}\n\
         spec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    \
         image: {TEST_IMAGE}\n    env: [{{name: SAYS, value: {says}}}]\n    \
         ports: [{{containerPort: 8080, hostPort: 8080}}]\n    \
         readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}\n"
    )
}

/// What the node's own port says, asked from the hub.
fn hostname(lab: &Lab) -> Result<String> {
    let url = format!("http://{}:8080/hostname", lab.nodes[0].address);
    lab.hub.run(&["curl", "-sf", "-m", "5", &url])
}

/// The uid that the pod has on its node, as the mirror tells it.
fn own_uid(pod: &Pod) -> Option<&String> {
    pod.metadata.annotations.as_ref()?.get("kubernetes.io/config.mirror")
}

/// Waits until the API shows the pod ready, and not the one of this uid.
async fn shown(pods: &Api<Pod>, not: Option<&String>) -> Result<Pod> {
    let is = |pod: &Pod| is_ready(pod) && own_uid(pod).is_some() && own_uid(pod) != not;
    let found = until(pods, "app=web", "the mirror is ready", |pods| match pods {
        [pod] => is(pod),
        _ => false,
    })
    .await?;
    found.into_iter().next().context("there is one")
}

/// Puts a file in its place at once, as configuration management does.
fn place(folder: &Path, text: &str) -> Result<()> {
    fs::write(folder.join(".web.yaml"), text)?;
    Ok(fs::rename(folder.join(".web.yaml"), folder.join("web.yaml"))?)
}

#[test]
fn the_pods_of_a_folder_run_with_and_without_a_master() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    let mut config = check::lab(1, StoreKind::Embedded);
    let folder = config.folder.join("manifests");
    config.kubelet_args = vec![format!("--pod-manifest-path={}", folder.display())];
    run(config, move |lab| async move {
        let client = check::client(&lab).await?;
        let pods: Api<Pod> = Api::default_namespaced(client);
        let node = &lab.nodes[0];
        place(&folder, &manifest("first"))?;
        let first = shown(&pods, None).await?;
        ensure!(first.metadata.name.as_deref() == Some("web-node1"), "{:?}", first.metadata);
        ensure!(hostname(&lab)? == "web-node1\n");
        let cat = ["exec", "web-node1", "--", "/testserver", "cat", "/proc/self/environ"];
        let environment = Tool::Kubecfg.run(&lab, &cat)?;
        ensure!(environment.contains("SAYS=first\0"), "{environment:?}");

        // Deleting what is shown ends nothing: it is shown again, as the same pod.
        pods.delete("web-node1", &DeleteParams::default().grace_period(0)).await?;
        let uid = &first.metadata.uid;
        let again = until(&pods, "app=web", "it is shown again", |pods| {
            pods.iter().any(|pod| pod.metadata.uid != *uid && is_ready(pod))
        })
        .await?;
        ensure!(own_uid(&again[0]) == own_uid(&first), "{:?}", again[0].metadata);
        let started = |pod: &Pod| {
            let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
            Some((status.container_id.clone()?, status.restart_count))
        };
        ensure!(started(&first).is_some() && started(&again[0]) == started(&first), "{again:?}");

        // A file with a fault changes nothing, and the node says what is wrong with it.
        place(&folder, &manifest("faulty").replace("hostPort: 8080", "hostPort: 99999"))?;
        let told = async || lab.kubecfg(&["get", "events", "-A"]);
        check::until_told("the fault is told", told, |events: &String| {
            ["web.yaml", "hostPort", "99999"].iter().all(|word| events.contains(word))
        })
        .await?;
        ensure!(hostname(&lab)? == "web-node1\n");

        // Without a master, and through the kubelet's own death: another file is another pod.
        lab.kill(&lab.master, "master")?;
        lab.kill(node, "kubelet")?;
        place(&folder, &manifest("second"))?;
        lab.start_kubelet(node, None)?;
        let running = ["sh", "-c", "cat /proc/[0-9]*/environ 2>/dev/null; true"];
        check::until_told(
            "the second pod runs alone",
            async || node.run(&running),
            |all: &String| all.contains("SAYS=second") && !all.contains("SAYS=first"),
        )
        .await?;
        check::until_told("it answers", async || hostname(&lab), |name| name == "web-node1\n")
            .await?;
        lab.start_master()?;
        let second = shown(&pods, own_uid(&first)).await?;
        ensure!(second.metadata.name.as_deref() == Some("web-node1"));

        // Without its file it is gone, and is not shown any more.
        fs::remove_file(folder.join("web.yaml"))?;
        until(&pods, "app=web", "the mirror is gone", |pods| pods.is_empty()).await?;
        ensure!(hostname(&lab).is_err(), "it answers still");
        Ok(())
    })
}
