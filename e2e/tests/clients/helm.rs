//! Helm: the chart that `helm create` makes, installed, upgraded, rolled back and uninstalled. Helm is
//! written against Go's own client library, keeps its releases in Secrets, and waits for Deployments
//! and Services to be ready.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use e2e::check;
use e2e::image::TEST_IMAGE;
use serde_json::{Value, json};

use crate::{Suite, finish};

pub(crate) const PROGRAM: &str = "helm-3.17.3/helm";

const RELEASE: &str = "web";
const CHART: &str = "demo";

pub(crate) fn suite(suite: &Suite) -> Result<()> {
    let folder = suite.lab.hub.folder.join("helm");
    std::fs::create_dir_all(&folder)?;
    let helm = Helm { suite, folder };
    helm.run(&["create", CHART])?;
    helm.installs()?;
    helm.upgrades_and_rolls_back()?;
    helm.takes_a_failed_upgrade_back()?;
    helm.run(&["uninstall", RELEASE, "--wait"])?;
    let left = helm.run(&["list", "--all", "--output", "json"])?;
    ensure!(left.trim() == "[]", "{left}");
    let left = helm.kubectl(&["get", "deployments,services,pods,secrets", "--output", "name"])?;
    ensure!(left.is_empty(), "an uninstalled release left {left}");
    Ok(())
}

struct Helm<'a> {
    suite: &'a Suite,
    folder: PathBuf,
}

impl Helm<'_> {
    fn run(&self, arguments: &[&str]) -> Result<String> {
        // It takes names of charts from where it runs.
        let mut command = self.suite.lab.hub.command("env");
        command
            .arg("-C")
            .arg(&self.folder)
            .arg(check::installed(PROGRAM)?)
            .args(arguments)
            .args(["--namespace", &self.suite.namespace])
            .env("KUBECONFIG", self.suite.lab.kubeconfig())
            .env("HELM_CACHE_HOME", self.folder.join("cache"))
            .env("HELM_CONFIG_HOME", self.folder.join("config"))
            .env("HELM_DATA_HOME", self.folder.join("data"));
        finish(command, &self.folder.join("out"))
            .with_context(|| format!("helm {}", arguments.join(" ")))
    }

    /// `helm install` or `upgrade` of the chart with our image and these values.
    fn apply(&self, verb: &str, more: &[&str]) -> Result<String> {
        let (repository, tag) = TEST_IMAGE.rsplit_once(':').context("the image has no tag")?;
        let image = format!("image.repository={repository},image.tag={tag},service.port=8080");
        let mut words = vec![verb, RELEASE, CHART, "--wait", "--timeout", "60s", "--set", &image];
        words.extend(more);
        self.run(&words)
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let namespace = self.suite.namespace.as_str();
        let words =
            [&["--namespace", namespace, "--selector", "app.kubernetes.io/name=demo"], arguments];
        check::Tool::Kubectl.run(&self.suite.lab, &words.concat())
    }

    fn deployment(&self) -> Result<Value> {
        let list = self.kubectl(&["get", "deployments", "--output", "json"])?;
        Ok(serde_json::from_str::<Value>(&list)?["items"][0].clone())
    }

    fn installs(&self) -> Result<()> {
        let planned = self.apply("install", &["--dry-run=server"])?;
        ensure!(planned.contains("kind: Deployment"), "{planned}");
        ensure!(self.deployment()?.is_null(), "a dry run installed something");
        self.apply("install", &[])?;
        // What it waited for is so.
        let deployment = self.deployment()?;
        ensure!(deployment["status"]["readyReplicas"] == 1, "{deployment}");
        ensure!(self.run(&["status", RELEASE])?.contains("STATUS: deployed"));
        let manifest = self.run(&["get", "manifest", RELEASE])?;
        ensure!(manifest.contains(TEST_IMAGE), "{manifest}");
        Ok(())
    }

    fn upgrades_and_rolls_back(&self) -> Result<()> {
        self.apply("upgrade", &["--set", "replicaCount=2,podLabels.tier=front"])?;
        let deployment = self.deployment()?;
        ensure!(deployment["status"]["readyReplicas"] == 2, "{deployment}");
        let tier = "/spec/template/metadata/labels/tier";
        ensure!(deployment.pointer(tier) == Some(&json!("front")), "{deployment}");
        self.run(&["rollback", RELEASE, "1", "--wait"])?;
        let deployment = self.deployment()?;
        ensure!(deployment["spec"]["replicas"] == 1, "{deployment}");
        ensure!(deployment.pointer(tier).is_none(), "{deployment}");
        Ok(())
    }

    /// The API refuses the port: Helm takes back what it has changed by then.
    fn takes_a_failed_upgrade_back(&self) -> Result<()> {
        let refused = self.apply("upgrade", &["--atomic", "--set", "service.port=70000"]);
        let error = format!("{:#}", refused.err().context("a port of 70000 was taken")?);
        ensure!(error.contains("must be between 1 and 65535"), "{error}");
        let history = self.run(&["history", RELEASE, "--output", "json"])?;
        let history: Value = serde_json::from_str(&history)?;
        let states = history.as_array().into_iter().flatten().map(|entry| &entry["status"]);
        let states: Vec<&Value> = states.collect();
        ensure!(
            states == ["superseded", "superseded", "superseded", "failed", "deployed"],
            "{history}"
        );
        Ok(())
    }
}
