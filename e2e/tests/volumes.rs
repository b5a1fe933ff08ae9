//! Volumes that reach beyond their pod: the content of an image, and mounts that others make.

use anyhow::{Context, Result, ensure};
use e2e::check::{self, Tool, is_ready, until};
use e2e::image::{SHELL_IMAGE, TEST_IMAGE};
use e2e::lab::{Lab, StoreKind, run};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// Starts a pod with a shell and a volume at `/volume`, and waits until it is ready.
async fn start(
    client: &Client,
    name: &str,
    privileged: bool,
    mount: Value,
    source: Value,
) -> Result<()> {
    let mut mount = mount;
    mount["name"] = json!("volume");
    mount["mountPath"] = json!("/volume");
    let mut volume = source;
    volume["name"] = json!("volume");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main",
                "image": SHELL_IMAGE,
                "command": ["sleep", "3600"],
                "securityContext": {"privileged": privileged},
                "volumeMounts": [mount],
            }],
            "volumes": [volume],
        },
    }))?;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    pods.create(&PostParams::default(), &pod).await?;
    let labels = format!("app={name}");
    until(&pods, &labels, &format!("{name} is ready"), |pods| pods.iter().any(is_ready)).await?;
    Ok(())
}

/// What a program of busybox prints in a pod.
fn busybox(lab: &Lab, pod: &str, words: &[&str]) -> Result<String> {
    let exec = ["exec", pod, "--", "busybox"];
    Tool::Kubecfg.run(lab, &[&exec[..], words].concat())
}

#[test]
fn the_content_of_an_image_is_a_volume_that_nobody_writes_to() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(1, StoreKind::Embedded), |lab| async move {
        check::import_shell(&lab)?;
        let client = check::client(&lab).await?;
        let image = |reference: &str| json!({"image": {"reference": reference, "pullPolicy": "IfNotPresent"}});
        start(&client, "reader", false, json!({}), image(TEST_IMAGE)).await?;
        ensure!(busybox(&lab, "reader", &["ls", "/volume"])?.contains("testserver\n"));
        let echoed = ["exec", "reader", "--", "/volume/testserver", "echo", "out of the image"];
        ensure!(Tool::Kubecfg.run(&lab, &echoed)? == "out of the image\n");
        let written = busybox(&lab, "reader", &["touch", "/volume/new"]);
        let refused = format!("{:#}", written.err().context("the image was written to")?);
        ensure!(refused.contains("Read-only file system"), "{refused}");

        // One that is nowhere keeps its pod waiting, which says why.
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "waiting", "labels": {"app": "waiting"}},
            "spec": {
                "containers": [{
                    "name": "main",
                    "image": TEST_IMAGE,
                    "volumeMounts": [{"name": "volume", "mountPath": "/volume"}],
                }],
                "volumes": [{
                    "name": "volume",
                    "image": {"reference": "kutter.test/none:1", "pullPolicy": "Never"},
                }],
            },
        }))?;
        pods.create(&PostParams::default(), &pod).await?;
        let events = async || lab.kubecfg(&["describe", "pod", "waiting"]);
        check::until_told("it says why", events, |text: &String| {
            text.contains("ErrImageNeverPull")
                && text.contains("kutter.test/none:1\" is not present")
        })
        .await?;
        pods.delete("waiting", &DeleteParams::default()).await?;
        until(&pods, "app=waiting", "it is gone", |pods| pods.is_empty()).await?;
        Ok(())
    })
}

#[test]
fn mounts_are_passed_on_as_far_as_the_pods_say() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(1, StoreKind::Embedded), |lab| async move {
        check::import_shell(&lab)?;
        let client = check::client(&lab).await?;
        let node = &lab.nodes[0];
        let folder = node.folder.join("shared").display().to_string();
        let script = format!(
            "mkdir {folder} && mount --bind {folder} {folder} && mount --make-shared {folder} && \
             mkdir {folder}/node {folder}/pod"
        );
        node.run(&["sh", "-c", &script])?;
        let start = async |name: &str, privileged: bool, propagation: &str| {
            let source = json!({"hostPath": {"path": folder}});
            start(&client, name, privileged, json!({"mountPropagation": propagation}), source).await
        };
        start("from", true, "Bidirectional").await?;
        start("to", false, "HostToContainer").await?;
        start("alone", false, "None").await?;

        // What the node mounts, and what the pod mounts that may pass it on.
        let mounted = format!("{folder}/node");
        node.run(&["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", &mounted])?;
        node.run(&["sh", "-c", &format!("echo of the node > {mounted}/file")])?;
        let mount = ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/volume/pod"];
        busybox(&lab, "from", &mount)?;
        Tool::Kubecfg
            .run(&lab, &["exec", "from", "--", "sh", "-c", "echo of the pod > /volume/pod/file"])?;

        ensure!(node.run(&["cat", &format!("{folder}/pod/file")])? == "of the pod\n");
        for pod in ["from", "to"] {
            for (path, says) in [("node", "of the node\n"), ("pod", "of the pod\n")] {
                let path = format!("/volume/{path}/file");
                ensure!(busybox(&lab, pod, &["cat", &path])? == says, "{path} in {pod}");
            }
        }
        for path in ["node", "pod"] {
            let path = format!("/volume/{path}");
            let found = busybox(&lab, "alone", &["ls", &path])?;
            ensure!(found.is_empty(), "{path} of a pod that wants no mounts has {found:?}");
        }
        // What a pod only receives it does not pass on, were it to mount something itself.
        let refused = busybox(&lab, "to", &["mount", "-t", "tmpfs", "tmpfs", "/volume/pod"]);
        ensure!(refused.is_err(), "a pod without the privilege mounted something");

        // A pod that may not do so is refused before it exists.
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "refused"},
            "spec": {
                "containers": [{
                    "name": "main",
                    "image": TEST_IMAGE,
                    "volumeMounts": [{
                        "name": "volume", "mountPath": "/volume", "mountPropagation": "Bidirectional",
                    }],
                }],
                "volumes": [{"name": "volume", "hostPath": {"path": folder}}],
            },
        }))?;
        let error =
            pods.create(&PostParams::default(), &pod).await.err().context("it was taken")?;
        let text = error.to_string();
        ensure!(text.contains("mountPropagation") && text.contains("privileged"), "{text}");
        Ok(())
    })
}
