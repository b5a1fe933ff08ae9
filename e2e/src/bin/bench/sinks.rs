//! Pods that receive what they are sent, and what is run in them.

use std::io::{BufRead, BufReader, Lines, Read};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::check::{self, Tool, is_ready, until};
use e2e::image::TEST_IMAGE;
use e2e::lab::Lab;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;

/// Where the sinks listen.
pub(crate) const SINK_PORT: u16 = 9000;

/// Starts a pod on a node; it receives whatever it is sent.
pub(crate) async fn start(client: &Client, name: &str, node: &str) -> Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"pod": name}},
        "spec": {
            "nodeName": node,
            "containers": [{
                "name": "main", "image": TEST_IMAGE, "args": ["sink"],
                "resources": {"requests": {"cpu": "100m"}},
                "env": [{"name": "PORT", "value": SINK_PORT.to_string()}],
                "readinessProbe": {"tcpSocket": {"port": SINK_PORT}},
            }],
        },
    }))?;
    pods.create(&PostParams::default(), &pod).await?;
    until(&pods, &format!("pod={name}"), "the pod is ready", |pods| pods.iter().any(is_ready))
        .await?;
    Ok(())
}

/// A pod's address.
pub(crate) async fn address(client: &Client, name: &str) -> Result<String> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    Ok(check::address(&pods.get(name).await?)?.to_owned())
}

/// Runs the test program in a pod; what it prints.
pub(crate) fn run(lab: &Lab, pod: &str, arguments: &[&str]) -> Result<String> {
    let exec = ["exec", pod, "--", "/testserver"];
    Tool::Kubecfg.run(lab, &[&exec[..], arguments].concat())
}

/// Connects to a sink so many times from a pod, one after the other; how long each took, in seconds, in
/// rising order.
pub(crate) fn dial(lab: &Lab, from: &str, to: &str, count: usize) -> Result<Vec<f64>> {
    let times = run(lab, from, &["dial", to, &count.to_string()])?;
    let times = times.lines().map(str::parse::<f64>).collect::<Result<Vec<f64>, _>>()?;
    let mut times: Vec<f64> = times.into_iter().map(|microseconds| microseconds / 1e6).collect();
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// A pod that connects again and again, until the one that it waits for answers.
pub(crate) struct Watching {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watching {
    /// Returns when the pod has begun.
    pub(crate) fn start(lab: &Lab, pod: &str, at: &str, name: &str) -> Result<Self> {
        let mut command = Tool::Kubecfg.command(lab)?;
        command.args(["exec", pod, "--", "/testserver", "until", at, name]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let begun = lines.next();
        if begun.is_none() {
            let mut error = String::new();
            child.stderr.take().context("no error")?.read_to_string(&mut error)?;
            anyhow::bail!("{pod} does not begin to look: {error}");
        }
        Ok(Self { child, lines })
    }

    /// Waits for the answer; when it came, since 1970.
    pub(crate) fn end(mut self) -> Result<Duration> {
        let line = self.lines.next().context("nothing was said")??;
        ensure!(self.child.wait()?.success(), "looking failed: {line}");
        Ok(Duration::from_nanos(line.trim().parse()?))
    }
}
