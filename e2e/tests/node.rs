//! What a node does for its own sake.

use anyhow::{Context, Result, ensure};
use e2e::check::{self, Tool, until};
use e2e::image::TEST_IMAGE;
use e2e::lab::{StoreKind, run};
use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use kube::Api;

fn manifest(name: &str, args: &str, container: &str, pod: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n\
         spec: {{terminationGracePeriodSeconds: 5, {pod} containers: [{{name: main, \
         image: \"{TEST_IMAGE}\", args: {args}, {container}}}]}}\n"
    )
}

async fn until_failed(pods: &Api<Pod>, name: &str) -> Result<PodStatus> {
    let failed =
        |pod: &Pod| pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Failed"));
    let what = format!("{name} has failed");
    let found = until(pods, &format!("app={name}"), &what, |pods| pods.iter().any(failed)).await?;
    found[0].status.clone().context("it has a status")
}

#[test]
fn pods_that_fill_more_of_the_disk_than_they_may_are_evicted() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(1, StoreKind::Embedded), |lab| async move {
        let client = check::client(&lab).await?;
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        let apply =
            |manifest: String| Tool::Kubecfg.run_with(&lab, &["apply", "-"], &manifest).map(drop);
        apply(manifest(
            "volume",
            "[fill, /data/x, \"4\"]",
            "volumeMounts: [{name: data, mountPath: /data}]",
            "volumes: [{name: data, emptyDir: {sizeLimit: 1Mi}}],",
        ))?;
        apply(manifest(
            "layer",
            "[fill, /x, \"4\"]",
            "securityContext: {runAsUser: 0}, resources: {limits: {ephemeral-storage: 2Mi}}",
            "",
        ))?;
        apply(manifest(
            "modest",
            "[fill, /x, \"1\"]",
            "securityContext: {runAsUser: 0}, resources: {limits: {ephemeral-storage: 2Mi}}",
            "",
        ))?;
        let status = until_failed(&pods, "volume").await?;
        ensure!(status.reason.as_deref() == Some("Evicted"), "{status:?}");
        let expected = "Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\". ";
        ensure!(status.message.as_deref() == Some(expected), "{:?}", status.message);
        let status = until_failed(&pods, "layer").await?;
        ensure!(status.reason.as_deref() == Some("Evicted"), "{status:?}");
        let expected =
            "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ";
        ensure!(status.message.as_deref() == Some(expected), "{:?}", status.message);
        let modest = pods.get("modest").await?;
        ensure!(modest.status.context("it has a status")?.phase.as_deref() == Some("Running"));

        // How the node confines pods is its to say, and is told of each pod.
        let nodes: Api<Node> = Api::all(client.clone());
        let node = nodes.get("node1").await?;
        let labels = node.metadata.labels.context("it has labels")?;
        for name in ["own-users", "apparmor", "selinux"] {
            let told = labels.get(&format!("kutter.dev/{name}")).map(String::as_str);
            ensure!(matches!(told, Some("true" | "false")), "{name} is {told:?}");
        }
        let described = lab.kubecfg(&["describe", "pod", "modest"])?;
        ensure!(
            described.contains("Users:") && !described.contains("where the node"),
            "{described}"
        );

        // Of the memory, what would be short at once is not for pods; the images are told.
        let status = node.status.context("it has a status")?;
        let images = status.images.unwrap_or_default();
        let names: Vec<&String> =
            images.iter().flat_map(|image| image.names.iter().flatten()).collect();
        ensure!(names.iter().any(|name| *name == TEST_IMAGE), "{names:?}");
        let memory = |list: Option<&std::collections::BTreeMap<String, _>>| {
            let quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity =
                list?.get("memory")?;
            quantity.0.strip_suffix("Ki")?.parse::<i64>().ok()
        };
        let capacity = memory(status.capacity.as_ref()).context("it has memory")?;
        let allocatable = memory(status.allocatable.as_ref()).context("it has memory")?;
        ensure!(capacity - allocatable >= 100 << 10, "{allocatable} of {capacity}");
        Ok(())
    })
}
