//! The clients that people have, unmodified, each in the version that `deploy/test` installs: every verb
//! on every kind, and the streams. They share a lab; each has a namespace, and objects of its own.

#[path = "clients/helm.rs"]
mod helm;
#[path = "clients/kubectl.rs"]
mod kubectl;
#[path = "clients/rust.rs"]
mod rust;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::check::{self, Tool, is_ready, until};
use e2e::image::TEST_IMAGE;
use e2e::lab::{Lab, StoreKind, run};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, PostParams};
use kube::core::DynamicObject;
use kube::discovery::{Discovery, verbs};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

const SAMPLES: &str = include_str!("../clients/samples.yaml");
const SUITES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients");
/// The pod of the test program that each suite has, for the streams.
const POD: &str = "streams";
const PYTHON: &str = "python-kubernetes-37.0.2";
const JAVASCRIPT: &str = "javascript-client-node-1.4.0";
const SCHEMATHESIS: &str = "python-schemathesis-4.32.5";
/// No suite takes longer on a busy machine; one that hangs is ended.
const LIMIT: Duration = Duration::from_secs(90);

/// What a suite works with.
pub(crate) struct Suite {
    pub(crate) lab: std::sync::Arc<Lab>,
    pub(crate) client: Client,
    /// Also the name of its objects, with a number behind it.
    pub(crate) namespace: String,
    /// Objects of all kinds that are served, without a namespace.
    pub(crate) samples: Vec<DynamicObject>,
    /// Whether server-side apply is served.
    pub(crate) apply: bool,
    /// `pods/attach` …
    pub(crate) subresources: Vec<String>,
}

impl Suite {
    /// Whether a stream is served.
    pub(crate) fn has(&self, subresource: &str) -> bool {
        self.subresources.iter().any(|known| known == subresource)
    }

    /// The samples as a file, one document for all.
    pub(crate) fn file(&self, name: &str, content: &Value) -> Result<PathBuf> {
        let path = self.lab.hub.folder.join(format!("{}-{name}.json", self.namespace));
        std::fs::write(&path, serde_json::to_vec(content)?)?;
        Ok(path)
    }
}

#[test]
fn every_client_works_unmodified() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    let missing: Vec<&str> =
        ["kubectl-1.37.1/kubectl", helm::PROGRAM, PYTHON, JAVASCRIPT, SCHEMATHESIS]
            .into_iter()
            .filter(|client| check::installed(client).is_err())
            .collect();
    if !missing.is_empty() {
        ensure!(std::env::var_os("CI").is_none(), "not in target/: {}", missing.join(", "));
        eprintln!("left out: {} not in target/; deploy/test puts them there", missing.join(", "));
        return Ok(());
    }
    run(check::lab(1, StoreKind::Embedded), |lab| async move {
        let client = check::client(&lab).await?;
        let discovery = Discovery::new(client.clone()).run().await?;
        let core: Value = served(&client, "/api/v1").await?;
        let subresources: Vec<String> = core["resources"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|resource| resource["name"].as_str().map(str::to_owned))
            .collect();
        let documents = documents(&client).await?;
        let core = documents.get("api/v1").context("no document of the core group")?;
        let apply = core.to_string().contains("application/apply-patch+yaml");
        let suite = |namespace: &str| Suite {
            lab: std::sync::Arc::clone(&lab),
            client: client.clone(),
            namespace: namespace.to_owned(),
            samples: samples(namespace, &discovery),
            apply,
            subresources: subresources.clone(),
        };
        let mut tools = vec![("kubectl", Tool::Kubectl)];
        match Tool::OldKubectl.command(&lab) {
            Ok(_) => tools.push(("oldkubectl", Tool::OldKubectl)),
            // In Debian only.
            Err(error) => eprintln!("left out: {error}"),
        }
        let suites = ["python", "javascript", "rust", "helm"].into_iter();
        let suites: Vec<&str> =
            suites.chain(tools.iter().map(|(namespace, _)| *namespace)).collect();
        for namespace in &suites {
            prepare(&client, namespace).await?;
        }
        for namespace in &suites {
            let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
            until(&pods, "", "the pod is ready", |pods| pods.iter().any(is_ready)).await?;
        }
        let mut failures = Vec::new();
        let mut record = |name: &str, began: Instant, result: Result<()>| match result {
            Ok(()) => eprintln!("{name}: {:.1} s", began.elapsed().as_secs_f32()),
            Err(error) => failures.push(format!("{name}: {error:#}")),
        };
        let began = Instant::now();
        record("rust", began, rust::suite(&suite("rust")).await);
        // The others block this thread; the lab needs none of ours.
        for (namespace, tool) in tools {
            let began = Instant::now();
            record(namespace, began, kubectl::suite(&suite(namespace), tool));
        }
        let began = Instant::now();
        record("helm", began, helm::suite(&suite("helm")));
        let began = Instant::now();
        record("python", began, python(&suite("python")));
        let began = Instant::now();
        record("javascript", began, javascript(&suite("javascript")));
        let began = Instant::now();
        record("schemathesis", began, schemathesis(&lab, documents));
        ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
        Ok(())
    })
}

/// All of `/openapi/v3`, by the path of each.
async fn documents(client: &Client) -> Result<BTreeMap<String, Value>> {
    let index = served(client, "/openapi/v3").await?;
    let mut documents = BTreeMap::new();
    for (path, place) in index["paths"].as_object().context("no documents")? {
        let url = place["serverRelativeURL"].as_str().context("a document without a place")?;
        documents.insert(path.clone(), served(client, url).await?);
    }
    Ok(documents)
}

async fn served(client: &Client, path: &str) -> Result<Value> {
    Ok(client.request(http::Request::get(path).body(Vec::new())?).await?)
}

/// An object of each kind that is served and may be created.
fn samples(namespace: &str, discovery: &Discovery) -> Vec<DynamicObject> {
    let all: Vec<DynamicObject> = serde_yaml::from_str(SAMPLES).expect("samples.yaml is in order");
    let mut served = Vec::new();
    for (number, mut sample) in all.into_iter().enumerate() {
        let Some(types) = &sample.types else { continue };
        let (group, version) =
            types.api_version.split_once('/').unwrap_or(("", &types.api_version));
        let gvk = kube::core::GroupVersionKind::gvk(group, version, &types.kind);
        let Some((_, capabilities)) = discovery.resolve_gvk(&gvk) else { continue };
        if !capabilities.supports_operation(verbs::CREATE) {
            continue;
        }
        let name = format!("{namespace}-{number}");
        sample.metadata.name = Some(name.clone());
        sample.labels_mut().insert("suite".to_owned(), name);
        for about in ["involvedObject", "regarding"] {
            if sample.data.get(about).is_some() {
                sample.data[about]["namespace"] = json!(namespace);
            }
        }
        served.push(sample);
    }
    served
}

async fn prepare(client: &Client, namespace: &str) -> Result<()> {
    let object = json!({"metadata": {"name": namespace}});
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pod = json!({
        "metadata": {"name": POD},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": TEST_IMAGE, "ports": [{"containerPort": 8080}]}],
        },
    });
    pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    Ok(())
}

fn python(suite: &Suite) -> Result<()> {
    let mut command = suite.lab.hub.command("python3");
    command.arg(format!("{SUITES}/python/suite.py"));
    command.env("PYTHONPATH", check::installed(PYTHON)?).env("PYTHONDONTWRITEBYTECODE", "1");
    script(suite, command)
}

fn javascript(suite: &Suite) -> Result<()> {
    let mut command = suite.lab.hub.command("node");
    command.arg(format!("{SUITES}/javascript/suite.mjs"));
    command.env("CLIENT", check::installed(JAVASCRIPT)?);
    script(suite, command)
}

/// Runs a suite that is a program of its own.
fn script(suite: &Suite, mut command: Command) -> Result<()> {
    let samples = suite.file("samples", &serde_json::to_value(&suite.samples)?)?;
    command
        .env("KUBECONFIG", suite.lab.kubeconfig())
        .env("NAMESPACE", &suite.namespace)
        .env("SAMPLES", samples)
        .env("POD", POD)
        .env("APPLY", suite.apply.to_string())
        .env("CACHE", suite.lab.hub.folder.join(format!("{}.cache", suite.namespace)));
    finish(command, &suite.lab.hub.folder.join(format!("{}.out", suite.namespace))).map(drop)
}

/// Runs a program within the limit; what it wrote is in the error, and returned.
pub(crate) fn finish(mut command: Command, output: &Path) -> Result<String> {
    let file = std::fs::File::create(output)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("{command:?} does not start"))?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if began.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            bail!("not done after {LIMIT:?}: {}", std::fs::read_to_string(output)?);
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let text = std::fs::read_to_string(output)?;
    ensure!(status.success(), "{status}: {text}");
    Ok(text)
}

/// Requests made up out of our own documents, good ones and bad ones: no answer is an error of ours, and
/// each is as its document says.
fn schemathesis(lab: &Lab, documents: BTreeMap<String, Value>) -> Result<()> {
    let folder = lab.hub.folder.join("schemathesis");
    std::fs::create_dir_all(&folder)?;
    let kubeconfig = kube::config::Kubeconfig::read_from(lab.kubeconfig())?;
    let cluster = kubeconfig.clusters[0].cluster.as_ref().context("no cluster")?;
    let user = kubeconfig.auth_infos[0].auth_info.as_ref().context("no user")?;
    let file = |name: &str, data: Option<&str>| -> Result<PathBuf> {
        use base64::Engine as _;
        let pem = base64::prelude::BASE64_STANDARD.decode(data.context(name.to_owned())?)?;
        std::fs::write(folder.join(name), pem)?;
        Ok(folder.join(name))
    };
    let authority = file("ca.pem", cluster.certificate_authority_data.as_deref())?;
    let certificate = file("cert.pem", user.client_certificate_data.as_deref())?;
    let data = serde_json::to_value(user)?;
    let key = file("key.pem", data["client-key-data"].as_str())?;
    let packages = check::installed(SCHEMATHESIS)?;
    for (name, mut document) in documents {
        // A watch or a log that is followed does not end by itself.
        let items = document["paths"].as_object_mut().into_iter();
        for item in items.flat_map(|paths| paths.values_mut()) {
            let parameters = item.pointer_mut("/get/parameters").and_then(Value::as_array_mut);
            if let Some(parameters) = parameters {
                parameters.retain(|one| one["name"] != "watch" && one["name"] != "follow");
            }
        }
        let path = folder.join(format!("{}.json", name.replace('/', "_")));
        std::fs::write(&path, document.to_string())?;
        // It keeps a cache where it runs; entering the hub's namespaces leads back to the test's own
        // folder.
        let mut command = lab.hub.command("env");
        command
            .env("PYTHONPATH", &packages)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg("-C")
            .arg(&folder)
            .arg("python3")
            .arg(packages.join("bin/st"))
            .arg("run")
            .arg(&path)
            .args(["--url", cluster.server.as_deref().context("no server")?])
            .arg("--request-cert")
            .arg(&certificate)
            .arg("--request-cert-key")
            .arg(&key)
            .arg("--tls-verify")
            .arg(&authority)
            .args(["--phases", "fuzzing", "--max-examples", "2", "--seed", "1", "--no-color"])
            .args(["--suppress-health-check", "all", "--request-timeout", "30"])
            .args(["--generation-database", "none", "--warnings", "off"])
            .args(["--checks", "not_a_server_error,response_schema_conformance"])
            .args(["--exclude-operation-id-regex", "^connect|Binding|Eviction"]);
        if name == "api/v1" {
            // The largest by far; what its other kinds have of their own is in the suites above.
            let kinds = "/(configmaps|pods|services|replicationcontrollers)(/|$)";
            command.args(["--include-path-regex", kinds]);
        }
        let text = finish(command, &folder.join("out")).with_context(|| name.clone())?;
        ensure!(text.contains("passed"), "{name}: nothing was tried: {text}");
    }
    Ok(())
}
