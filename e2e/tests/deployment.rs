//! Rollouts of a Deployment as people make them with kubectl, under traffic.

use anyhow::{Result, ensure};
use e2e::check::{self, Tool, Traffic};
use e2e::lab::{Lab, StoreKind, run};

const APP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/deployment.yaml");

fn kubectl(lab: &Lab, words: &[&str]) -> Result<String> {
    Tool::Kubectl.run(lab, words)
}

fn rolled_out(lab: &Lab) -> Result<()> {
    let told = kubectl(lab, &["rollout", "status", "deployment/app", "--timeout=60s"])?;
    ensure!(told.contains("successfully rolled out"), "{told}");
    Ok(())
}

/// A field of the Deployment.
fn field(lab: &Lab, path: &str) -> Result<String> {
    kubectl(lab, &["get", "deployment", "app", "-o", &format!("jsonpath={{{path}}}")])
}

#[test]
fn a_deployment_rolls_out_back_and_on_without_a_failed_request() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(2, StoreKind::Embedded), |lab| async move {
        kubectl(&lab, &["apply", "-f", APP])?;
        rolled_out(&lab)?;
        let ports = lab.nodes.iter().map(|node| format!("{}:30081", node.address)).collect();
        let traffic = Traffic::start(ports);
        traffic.more(50).await?;

        kubectl(&lab, &["set", "env", "deployment/app", "VERSION=2"])?;
        rolled_out(&lab)?;
        kubectl(&lab, &["rollout", "restart", "deployment/app"])?;
        rolled_out(&lab)?;
        kubectl(&lab, &["rollout", "undo", "deployment/app", "--to-revision=1"])?;
        rolled_out(&lab)?;
        let history = kubectl(&lab, &["rollout", "history", "deployment/app"])?;
        let revisions: Vec<&str> =
            history.lines().filter_map(|line| line.split_whitespace().next()).collect();
        ensure!(revisions[2..] == ["2", "3", "4"], "{history}");
        ensure!(!field(&lab, ".spec.template.spec")?.contains("VERSION"), "not rolled back");

        traffic.more(50).await?;
        let (answered, failures) = traffic.stop().await?;
        ensure!(failures.is_empty(), "{} of {answered} failed: {failures:?}", failures.len());

        pauses_and_scales(&lab)?;
        tells_of_a_rollout_that_is_stuck(&lab)
    })
}

fn pauses_and_scales(lab: &Lab) -> Result<()> {
    kubectl(lab, &["rollout", "pause", "deployment/app"])?;
    kubectl(lab, &["set", "image", "deployment/app", "server=kutter.test/other:1"])?;
    kubectl(lab, &["scale", "deploy", "app", "--replicas=5"])?;
    let five = "--for=jsonpath={.status.availableReplicas}=5";
    kubectl(lab, &["wait", "deployment/app", five, "--timeout=60s"])?;
    let updated = field(lab, ".status.updatedReplicas")?;
    ensure!(updated.is_empty(), "rolled out while paused: {updated}");
    let undo = ["set", "image", "deployment/app", "server=kutter.test/testserver:1"];
    kubectl(lab, &undo)?;
    kubectl(lab, &["rollout", "resume", "deployment/app"])?;
    rolled_out(lab)?;
    Tool::Kubecfg.run(lab, &["scale", "deployments/app", "--replicas=2"])?;
    rolled_out(lab)?;
    kubectl(lab, &["expose", "deployment", "app", "--name=exposed", "--port=80"])?;
    let table = Tool::Kubecfg.run(lab, &["get", "deploy,rs"])?;
    ensure!(table.contains("2/2"), "{table}");
    let told = Tool::Kubecfg.run(lab, &["describe", "deployment", "app"])?;
    ensure!(told.contains("ScalingReplicaSet"), "{told}");
    Ok(())
}

fn tells_of_a_rollout_that_is_stuck(lab: &Lab) -> Result<()> {
    let patch = r#"{"spec":{"progressDeadlineSeconds":3}}"#;
    kubectl(lab, &["patch", "deployment", "app", "-p", patch])?;
    kubectl(lab, &["set", "image", "deployment/app", "server=kutter.test/missing:1"])?;
    let stuck = kubectl(lab, &["rollout", "status", "deployment/app", "--timeout=60s"]);
    let error = stuck.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(error.contains("exceeded its progress deadline"), "{error}");
    ensure!(field(lab, ".status.availableReplicas")? == "2", "the old pods are to stay");
    kubectl(lab, &["rollout", "undo", "deployment/app"])?;
    rolled_out(lab)?;
    kubectl(lab, &["delete", "deployment", "app", "--timeout=60s"])?;
    let gone = ["wait", "--for=delete", "pod", "-l", "app=app", "--timeout=60s"];
    kubectl(lab, &gone)?;
    let left = kubectl(lab, &["get", "deploy,rs", "-o", "name"])?;
    ensure!(left.is_empty(), "left behind: {left}");
    Ok(())
}
