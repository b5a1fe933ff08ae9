//! Pods speak to the API as themselves.

use anyhow::{Result, ensure};
use e2e::check::{self, Tool};
use e2e::lab::{Lab, StoreKind, run};
use serde_json::{Value, json};

/// The program that every program in a pod is like: it finds address, certificate and token where
/// client libraries look for them.
const CLIENT: &str = "kubectl-1.37.1";

/// A pod that runs the client once.
fn apply(lab: &Lab, name: &str, arguments: &[&str], automount: bool) -> Result<()> {
    let mut command = vec!["/client/kubectl"];
    command.extend(arguments);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": automount,
            "containers": [{
                "name": "main", "image": "kutter.test/testserver:1", "command": command,
                "env": [{"name": "HOME", "value": "/tmp"}],
                "volumeMounts": [{"name": "client", "mountPath": "/client", "readOnly": true}]
            }],
            "volumes": [{"name": "client", "hostPath": {"path": check::installed(CLIENT)?}}]
        }
    });
    Tool::Kubectl.run_with(lab, &["apply", "-f", "-"], &pod.to_string()).map(drop)
}

fn ends(lab: &Lab, name: &str, phase: &str) -> Result<String> {
    let wanted = format!("--for=jsonpath={{.status.phase}}={phase}");
    let pod = format!("pod/{name}");
    Tool::Kubectl.run(lab, &["wait", &wanted, &pod, "--timeout=60s"])?;
    Tool::Kubectl.run(lab, &["logs", name])
}

#[test]
fn a_pod_reaches_the_api_as_its_account() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    if check::installed(CLIENT).is_err() {
        ensure!(std::env::var_os("CI").is_none(), "{CLIENT} is not in target/");
        eprintln!("left out: {CLIENT} is not in target/; deploy/test puts it there");
        return Ok(());
    }
    run(check::lab(1, StoreKind::Embedded), |lab| async move {
        apply(&lab, "who", &["auth", "whoami", "-o", "json"], true)?;
        apply(&lab, "versions", &["api-versions"], true)?;
        apply(&lab, "curious", &["get", "secrets"], true)?;
        apply(&lab, "nobody", &["get", "--raw", "/api"], false)?;
        let who: Value = serde_json::from_str(&ends(&lab, "who", "Succeeded")?)?;
        let user = &who["status"]["userInfo"];
        ensure!(user["username"] == "system:serviceaccount:default:default", "{who}");
        let versions = ends(&lab, "versions", "Succeeded")?;
        ensure!(versions.lines().any(|line| line == "authentication.k8s.io/v1"), "{versions}");
        let refused = ends(&lab, "curious", "Failed")?;
        ensure!(refused.contains("Forbidden") || refused.contains("forbidden"), "{refused}");
        ends(&lab, "nobody", "Failed")?;

        let token = Tool::Kubectl.run(&lab, &["create", "token", "default", "--duration=10m"])?;
        ensure!(token.trim().split('.').count() == 3, "{token}");
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token.trim()}
        });
        let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
        let create = ["create", "--raw", reviews, "-f", "-"];
        let reviewed = Tool::Kubectl.run_with(&lab, &create, &review.to_string())?;
        let reviewed: Value = serde_json::from_str(&reviewed)?;
        ensure!(reviewed["status"]["authenticated"] == true, "{reviewed}");
        Ok(())
    })
}
