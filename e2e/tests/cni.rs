//! A node whose pods plugins of CNI connect: Debian's.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::check::{self, Tool, address, is_ready, until};
use e2e::image::TEST_IMAGE;
use e2e::lab::{Lab, StoreKind, run};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use nix::sys::signal::Signal;
use serde_json::json;

/// Debian's plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// The range that the master gives the first node.
const RANGE: &str = "10.244.0.0/24";

/// What an operator puts into `/etc/cni/net.d`.
fn configuration(leases: &Path) -> String {
    json!({
        "cniVersion": "1.0.0", "name": "test",
        "plugins": [
            {
                "type": "ptp", "ipMasq": true,
                "ipam": {
                    "type": "host-local", "dataDir": leases,
                    "ranges": [[{"subnet": RANGE}]], "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
    .to_string()
}

/// The addresses that the plugins have given and not taken back.
fn leased(leases: &Path) -> Result<Vec<String>> {
    let names = fs::read_dir(leases.join("test"))?.map(|entry| Ok(entry?.file_name()));
    let names: Vec<_> = names.collect::<std::io::Result<_>>()?;
    let names = names.into_iter().filter_map(|name| name.into_string().ok());
    Ok(names.filter(|name| name.starts_with("10.244.")).collect())
}

fn pod(name: &str, port: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}, suite: cni}}}}\n\
         spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: main, image: \"{TEST_IMAGE}\", \
         ports: [{port}], readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}}}]}}\n"
    )
}

/// Waits until the test server in the pod `client` hears this at a URL: nodes hear of changes a moment
/// after the API.
async fn until_heard(lab: &Lab, url: &str, expected: &[&str]) -> Result<()> {
    let ask = async || lab.kubecfg(&["exec", "client", "--", "/testserver", "get", url]);
    let is_so = |heard: &String| expected.contains(&heard.trim());
    check::until_told(&format!("{url} says {expected:?}"), ask, is_so).await.map(drop)
}

/// Waits until the node says why it is not ready, or that it is.
async fn until_said(nodes: &Api<Node>, ready: &str, message: &str) -> Result<()> {
    let is_so = |node: &Node| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.filter(|condition| condition.type_ == "Ready").any(|condition| {
            condition.status == ready
                && condition.message.as_deref().is_some_and(|text| text.contains(message))
        })
    };
    let what = format!("Ready is {ready}: {message}");
    until(nodes, "", &what, |nodes| nodes.iter().any(is_so)).await.map(drop)
}

#[test]
fn pods_services_and_names_work_on_a_node_with_plugins() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    let folder = tempfile::tempdir_in("/var/tmp")?;
    let (conf, leases) = (folder.path().join("net.d"), folder.path().join("leases"));
    let file = conf.join("10-test.conflist");
    fs::create_dir(&conf)?;
    fs::write(&file, configuration(&leases))?;
    let mut config = check::lab(1, StoreKind::Embedded);
    config.kubelet_args = vec![
        "--network=cni".to_owned(),
        format!("--cni-conf-dir={}", conf.display()),
        format!("--cni-bin-dir={PLUGINS}"),
    ];
    run(config, move |lab| async move {
        let client = check::client(&lab).await?;
        let nodes: Api<Node> = Api::all(client.clone());
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        let apply =
            |manifest: &str| Tool::Kubecfg.run_with(&lab, &["apply", "-"], manifest).map(drop);

        // Without a configuration pods wait, and start when one comes.
        fs::remove_file(&file)?;
        until_said(&nodes, "False", "NetworkPluginNotReady").await?;
        apply(&pod("client", ""))?;
        apply(&pod("server", "{containerPort: 8080, hostPort: 8888}"))?;
        apply(
            "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n\
             spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}\n",
        )?;
        fs::write(&file, configuration(&leases))?;
        until_said(&nodes, "True", "").await?;
        let both = |pods: &[Pod]| pods.len() == 2 && pods.iter().all(is_ready);
        let found = until(&pods, "suite=cni", "both pods are ready", both).await?;

        let mut given = leased(&leases)?;
        given.sort();
        let mut told: Vec<&str> = found.iter().map(address).collect::<Result<_>>()?;
        told.sort_unstable();
        ensure!(told == given, "{told:?} of {given:?}");
        let server = found.iter().find(|pod| check::name(pod) == "server").context("no server")?;
        let direct = format!("http://{}:8080/hostname", address(server)?);
        until_heard(&lab, &direct, &["server"]).await?;
        // Pods see each other's addresses.
        until_heard(&lab, &direct.replace("hostname", "peer"), &told).await?;
        let node = lab.node("node1")?;
        let port = format!("http://{}:8888/hostname", node.address);
        let ways = ["http://web/hostname", "http://web.default.svc.cluster.local/hostname", &port];
        for way in ways {
            until_heard(&lab, way, &["server"]).await?;
        }

        // Another kubelet goes on with what this one had the plugins do.
        node.end("kubelet", Signal::SIGKILL)?;
        lab.start_kubelet(node, None)?;
        lab.wait_ready(node)?;
        for way in ways {
            until_heard(&lab, way, &["server"]).await?;
        }
        lab.kubecfg(&["delete", "pod", "client", "server"])?;
        ensure!(leased(&leases)?.is_empty(), "{:?} are not given back", leased(&leases)?);
        Ok(())
    })
}
