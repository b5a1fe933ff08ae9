//! `kubecfg net check`: what works, what does not, and why, on three nodes of which parts are broken.
//!
//! A kubelet mends its routes and rules at once, so they are broken beside it: by a rule of routing, and
//! by a table of the packet filter that comes first.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::check::{self, Tool, is_ready, until};
use e2e::image::{SHELL_IMAGE, TEST_IMAGE};
use e2e::lab::{Lab, StoreKind, run};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, ListParams};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// What all namespaces of it have.
const LABEL: &str = "kutter.dev/net-check";

fn command(lab: &Lab, image: &str, words: &[&str]) -> Result<Command> {
    let mut command = Tool::Kubecfg.command(lab)?;
    command.args(["net", "check", "--image", image]).args(words);
    command.stdin(Stdio::null());
    Ok(command)
}

fn net_check(lab: &Lab, words: &[&str]) -> Result<Output> {
    Ok(command(lab, SHELL_IMAGE, words)?.output()?)
}

/// What is printed for somebody who wants to know it exactly.
fn report(lab: &Lab, words: &[&str]) -> Result<Value> {
    let output = net_check(lab, &[words, &["-o", "json", "--timeout", "1"]].concat())?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    ensure!(output.status.success() == (report["ok"] == true), "{report}");
    Ok(report)
}

/// The findings, all of which have to be expected.
fn findings(report: &Value, wanted: &[&str]) -> Result<()> {
    let found = report["findings"].as_array().context("no findings")?;
    ensure!(report["ok"] == wanted.is_empty(), "{report:#}");
    ensure!(found.len() == wanted.len(), "{found:#?}");
    for (found, wanted) in found.iter().zip(wanted) {
        let found = found.as_str().unwrap_or_default();
        ensure!(found.contains(wanted), "{found:?} should say {wanted:?}");
    }
    Ok(())
}

/// Attempts that failed, as `from to leg`.
fn failures(report: &Value) -> Vec<String> {
    let attempts = report["attempts"].as_array().into_iter().flatten();
    let failed = attempts.filter(|attempt| attempt["ok"] == false);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let words = failed.map(|one| [&one["from"], &one["to"], &one["leg"]].map(text).join(" "));
    words.collect()
}

async fn nothing_is_left(client: &kube::Client) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let left = namespaces.list(&ListParams::default().labels(LABEL)).await?.items;
    ensure!(left.is_empty(), "{left:?} is left");
    Ok(())
}

#[test]
fn every_way_is_tried_and_what_is_broken_is_explained() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(3, StoreKind::Embedded), |lab| async move {
        let client = check::client(&lab).await?;
        check::import_shell(&lab)?;
        let output = net_check(&lab, &[])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{text}{told}");
        ensure!(text.ends_with("all 36 ways work\n"), "{text}");
        ensure!(
            text.starts_with("FROM    TO      POD IP   CLUSTERIP   NODEPORT   NAME\n"),
            "{text}"
        );
        ensure!(told.contains("3 of 3 probing pods run"), "{told}");
        nothing_is_left(&client).await?;

        // A route leads nowhere.
        let node2 = lab.kubecfg_json(&["get", "node", "node2"])?;
        let range = node2["spec"]["podCIDR"].as_str().context("no range")?;
        let node1 = lab.node("node1")?;
        node1.run(&["ip", "route", "add", "unreachable", range, "table", "77"])?;
        node1.run(&["ip", "rule", "add", "to", range, "lookup", "77", "pref", "10"])?;
        let found = report(&lab, &[])?;
        // Answers to node2's pods do not come through, either.
        let failed = failures(&found);
        ensure!(failed.contains(&"node1 node2 podIP".to_owned()), "{failed:?}");
        ensure!(
            failed.iter().all(|way| way.contains("node1") && way.contains("node2")),
            "{failed:?}"
        );
        let lost = [
            "node1: its pods do not reach those of node2",
            "node2: its pods do not reach those of node1",
        ];
        findings(&found, &lost)?;
        node1.run(&["ip", "rule", "del", "pref", "10"])?;

        // Services have no effect on one node.
        breaker(&lab, "node2", "prerouting", "ip daddr 10.96.0.0/16 drop")?;
        let found = report(&lab, &[])?;
        let failed = failures(&found);
        ensure!(failed.iter().all(|way| way.starts_with("node2 ")), "{failed:?}");
        findings(
            &found,
            &["node2: pods are reached at their own addresses but not through Services"],
        )?;
        mended(&lab, "node2")?;

        // A DNS server does not answer.
        breaker(&lab, "node3", "prerouting", "udp dport 53 drop")?;
        let found = report(&lab, &[])?;
        let failed = failures(&found);
        ensure!(failed.len() == 3, "{failed:?}");
        ensure!(failed.iter().all(|way| way.starts_with("node3 ") && way.ends_with(" name")));
        findings(&found, &["node3: names do not resolve"])?;
        mended(&lab, "node3")?;
        findings(&report(&lab, &[])?, &[])?;
        nothing_is_left(&client).await
    })
}

/// Breaks something on a node, ahead of all that Kutter has there.
fn breaker(lab: &Lab, node: &str, hook: &str, rule: &str) -> Result<()> {
    let table = format!(
        "table inet breaker {{ chain broken {{ type filter hook {hook} priority -400; {rule}; }}; }}"
    );
    lab.node(node)?.run(&["nft", &table]).map(drop)
}

fn mended(lab: &Lab, node: &str) -> Result<()> {
    lab.node(node)?.run(&["nft", "delete", "table", "inet", "breaker"]).map(drop)
}

#[test]
fn a_service_that_does_not_work_is_explained() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(2, StoreKind::Embedded), |lab| async move {
        let client = check::client(&lab).await?;
        check::import_shell(&lab)?;
        let service = |name: &str, spec: &str| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n"
            )
        };
        let pod = |name: &str, ready: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n\
                 spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: main, image: \"{TEST_IMAGE}\", \
                 ports: [{{containerPort: 8080, name: http}}], \
                 readinessProbe: {{httpGet: {{path: {ready}, port: 8080}}, periodSeconds: 1}}}}]}}\n---\n"
            )
        };
        let manifest = [
            pod("web", "/healthz"),
            pod("never", "/nowhere"),
            service(
                "web",
                "type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: http}]",
            ),
            service(
                "headless",
                "clusterIP: None, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]",
            ),
            service("wrong", "selector: {app: web}, ports: [{port: 80, targetPort: 81}]"),
            service("unnamed", "selector: {app: web}, ports: [{port: 80, targetPort: web}]"),
            service("nobody", "selector: {app: nobody}, ports: [{port: 80}]"),
            service("never", "selector: {app: never}, ports: [{port: 80, targetPort: 8080}]"),
        ];
        Tool::Kubecfg.run_with(&lab, &["apply", "-"], &manifest.concat())?;
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        until(&pods, "app=web", "it is ready", |pods| pods.iter().any(is_ready)).await?;
        for (service, wanted) in [
            ("svc/web", &[][..]),
            ("headless", &[]),
            ("wrong", &["web: nothing listens at "]),
            ("unnamed", &["pod web has no TCP container port named \"web\""]),
            ("nobody", &["no pod of its namespace has the labels app=nobody"]),
            ("never", &["pod never is not ready and gets no requests"]),
        ] {
            findings(&report(&lab, &[service])?, wanted).with_context(|| service.to_owned())?;
        }
        let missing = net_check(&lab, &["none"])?;
        let told = String::from_utf8_lossy(&missing.stderr).into_owned();
        ensure!(missing.status.code() == Some(1) && told.contains("none"), "{told}");
        nothing_is_left(&client).await?;

        // Whoever is interrupted cleans up.
        // Its pods never run, so it is still waiting for them.
        let mut command = command(&lab, "kutter.test/nothing:1", &[])?;
        let child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        until(&namespaces, LABEL, "it has begun", |all| !all.is_empty()).await?;
        // `nsenter` becomes the program itself, but for a child in another process namespace.
        for pid in descendants(child.id())? {
            kill(Pid::from_raw(pid), Signal::SIGINT)?;
        }
        let ended = child.wait_with_output()?;
        ensure!(ended.status.code() == Some(130), "{:?}", ended.status);
        nothing_is_left(&client).await
    })
}

/// A process's children, or itself if it has none.
fn descendants(pid: u32) -> Result<Vec<i32>> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let children: Vec<i32> =
        children.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    Ok(if children.is_empty() { vec![i32::try_from(pid)?] } else { children })
}
