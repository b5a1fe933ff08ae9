//! Nodes on two segments, with a router between that knows nothing of pods and Services.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use e2e::check::{self, Tool, Traffic, is_ready, until};
use e2e::image::{SHELL_IMAGE, TEST_IMAGE};
use e2e::lab::{Lab, LabConfig, Machine, StoreKind, run};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use kube::api::PostParams;

fn lab(nodes: u8) -> LabConfig {
    LabConfig { segments: 2, ..check::lab(nodes, StoreKind::Embedded) }
}

/// A pod on each node, by the node's name, and Services: of all of them, and of the last one.
async fn web(lab: &Lab) -> Result<BTreeMap<String, Pod>> {
    let last = lab.nodes.last().context("no nodes")?;
    let mut manifest = String::new();
    for node in &lab.nodes {
        let name = &node.name;
        manifest.push_str(&format!(
            "apiVersion: v1\nkind: Pod\n\
             metadata: {{name: web-{name}, labels: {{app: web, at: {name}}}}}\n\
             spec: {{nodeName: {name}, terminationGracePeriodSeconds: 1, containers: [{{name: main, \
             image: \"{TEST_IMAGE}\", readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, \
             periodSeconds: 1}}}}]}}\n---\n"
        ));
    }
    for (name, spec) in [
        ("web", "type: NodePort, selector: {app: web}".to_owned()),
        ("last", format!("type: NodePort, selector: {{at: {}}}", last.name)),
        (
            "local",
            format!(
                "type: NodePort, externalTrafficPolicy: Local, selector: {{at: {}}}",
                last.name
            ),
        ),
    ] {
        let number = match name {
            "web" => 30080,
            "last" => 30081,
            _ => 30082,
        };
        manifest.push_str(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec: {{{spec}, ports: [{{port: 80, targetPort: 8080, nodePort: {number}}}]}}\n---\n"
        ));
    }
    Tool::Kubecfg.run_with(lab, &["apply", "-"], &manifest)?;
    let pods: Api<Pod> = Api::default_namespaced(check::client(lab).await?);
    let wanted = lab.nodes.len();
    let all_ready = |pods: &[Pod]| pods.len() == wanted && pods.iter().all(is_ready);
    let pods = until(&pods, "app=web", "all are ready", all_ready).await?;
    let addresses: Vec<String> =
        lab.nodes.iter().flat_map(|node| ports(node, &[30080, 30081])).collect();
    check::served(&addresses).await?;
    Ok(pods.into_iter().map(|pod| (check::node(&pod).to_owned(), pod)).collect())
}

fn ports(node: &Machine, numbers: &[u16]) -> Vec<String> {
    numbers.iter().map(|number| format!("{}:{number}", node.address)).collect()
}

/// What a pod gets from an address.
fn get(lab: &Lab, from: &str, url: &str) -> Result<String> {
    let pod = format!("web-{from}");
    let words = ["exec", &pod, "--", "/testserver", "get", url];
    let text = Tool::Kubecfg.run(lab, &words).with_context(|| format!("{from} to {url}"))?;
    Ok(text.trim().to_owned())
}

#[test]
fn pods_services_and_names_work_across_segments() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(lab(4), |lab| async move {
        let pods = web(&lab).await?;
        let route = lab.node("node1")?.run(&["ip", "route"])?;
        ensure!(route.contains("dev kutter-vxlan") && route.contains("via 10.77.0.22"), "{route}");

        // Pods see each other as they are, also through Services.
        for (from, client) in &pods {
            let own = check::address(client)?;
            for server in pods.values() {
                let peer =
                    get(&lab, from, &format!("http://{}:8080/peer", check::address(server)?))?;
                ensure!(peer == own, "{from} is seen as {peer} by {}", check::node(server));
            }
            for url in ["http://last/peer", "http://last.default.svc.cluster.local/peer"] {
                let peer = get(&lab, from, url)?;
                // Who reaches itself must not see its own address.
                ensure!(
                    (peer == own) == (from != "node4"),
                    "{from} is seen as {peer} through a Service"
                );
            }
        }
        // From outside: by every node to every pod, and as oneself where the policy says so.
        for node in &lab.nodes {
            check::hostnames(&ports(node, &[30080])[0], pods.len()).await?;
        }
        let last = lab.nodes.last().context("no nodes")?;
        let peer = check::get(&ports(last, &[30082])[0], "/peer").await?;
        ensure!(peer.trim() == "10.77.1.1", "the hub is seen as {peer}");

        check::import_shell(&lab)?;
        let mut command = Tool::Kubecfg.command(&lab)?;
        let output =
            command.args(["net", "check", "--image", SHELL_IMAGE]).stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success() && text.ends_with("all 64 ways work\n"), "{text}{told}");

        // Policies hold, by the pods' own addresses.
        let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: one}\n\
             spec: {podSelector: {matchLabels: {at: node4}}, policyTypes: [Ingress], \
             ingress: [{from: [{podSelector: {matchLabels: {at: node1}}}]}]}\n";
        Tool::Kubecfg.run_with(&lab, &["apply", "-"], policy)?;
        let deadline = Instant::now() + check::DEADLINE;
        while get(&lab, "node3", "http://last/peer").is_ok() {
            ensure!(
                Instant::now() < deadline,
                "a pod of the same segment goes on being let through"
            );
        }
        for url in [
            "http://last/peer".to_owned(),
            format!("http://{}:8080/peer", check::address(&pods["node4"])?),
        ] {
            let peer = get(&lab, "node1", &url)?;
            ensure!(peer == check::address(&pods["node1"])?, "node1 is seen as {peer}");
            ensure!(get(&lab, "node2", &url).is_err(), "node2 gets through to {url}");
        }
        Ok(())
    })
}

/// Waits until a node has a route of this kind to the pods of another; says how long it took.
fn until_route(
    node: &Machine,
    what: &str,
    range: &str,
    is_so: impl Fn(&str) -> bool,
) -> Result<()> {
    let began = Instant::now();
    loop {
        let route = node.run(&["ip", "route", "show", range])?;
        if is_so(&route) {
            eprintln!("{what}: {:?}", began.elapsed());
            return Ok(());
        }
        ensure!(began.elapsed() < check::DEADLINE, "{what}: {} has {route:?}", node.name);
    }
}

#[test]
fn tunnels_outlive_kubelets_and_follow_nodes() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(lab(2), |lab| async move {
        let pods = web(&lab).await?;
        let [near, far] = &lab.nodes[..] else { anyhow::bail!("two nodes") };
        // Whoever asks the near node is led through the tunnel.
        let traffic = Arc::new(Traffic::start(ports(near, &[30081])));
        traffic.more(50).await?;
        // A device made anew has another number.
        let devices = || -> Result<Vec<String>> {
            let link = ["ip", "-o", "link", "show", "kutter-vxlan"];
            [near, far].map(|node| node.run(&link)).into_iter().collect()
        };
        let before = devices()?;
        for node in [near, far] {
            lab.kill(node, "kubelet")?;
            traffic.more(100).await?;
            lab.start_kubelet(node, None)?;
            lab.wait_ready(node)?;
            traffic.more(100).await?;
        }
        ensure!(devices()? == before, "a device was made anew");
        let failures = traffic.failures();
        ensure!(failures.is_empty(), "while kubelets were killed: {failures:?}");

        // Somebody takes away what there is.
        let range = lab.kubecfg_json(&["get", "node", "node2"])?["spec"]["podCIDR"].clone();
        let range = range.as_str().context("no range")?;
        let through = |route: &str| route.contains("dev kutter-vxlan");
        near.run(&["ip", "link", "del", "kutter-vxlan"])?;
        until_route(near, "the device was made again", range, through)?;
        near.run(&["ip", "route", "del", range])?;
        until_route(near, "the route was made again", range, through)?;
        check::served(&ports(near, &[30081])).await?;

        // The far node comes with another address.
        let address = "10.77.1.99";
        lab.kill(far, "kubelet")?;
        let old = format!("{}/24", far.address);
        far.run(&["ip", "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
        far.run(&["ip", "address", "del", &old, "dev", "eth0"])?;
        // A further address of a range goes with the first one, and the way out with both.
        if !far.run(&["ip", "-4", "address", "show", "dev", "eth0"])?.contains(address) {
            far.run(&["ip", "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
        }
        if far.run(&["ip", "route", "show", "default"])?.is_empty() {
            far.run(&["ip", "route", "add", "default", "via", "10.77.1.1"])?;
        }
        lab.start_kubelet_at(far, None, address)?;
        let knows = |entries: &str| entries.contains(address) && !entries.contains("10.77.1.22");
        let began = Instant::now();
        while !knows(&near.run(&["bridge", "fdb", "show", "dev", "kutter-vxlan"])?) {
            ensure!(began.elapsed() < check::DEADLINE, "the tunnel leads to the old address");
        }
        eprintln!("the new address was known after {:?}", began.elapsed());
        check::served(&ports(near, &[30081])).await?;
        let peer = get(&lab, "node1", "http://last/peer")?;
        ensure!(peer == check::address(&pods["node1"])?, "node1 is seen as {peer}");
        let device = far.run(&["ip", "-d", "link", "show", "kutter-vxlan"])?;
        ensure!(device.contains(&format!("local {address}")), "{device}");
        Ok(())
    })
}

/// What a node's server of names answers to one of the node's own programs.
fn dig(node: &Machine, server: &str, words: &[&str]) -> Result<Vec<String>> {
    let server = format!("@{server}");
    let text = node.run(&[&["dig", "+short", "+tries=1", "+time=2", &server], words].concat())?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    Ok(lines)
}

#[test]
fn both_families_and_names_work_across_segments() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(LabConfig { dual_stack: true, ..lab(3) }, |lab| async move {
        let pods = web(&lab).await?;
        let routes = lab.node("node1")?.run(&["ip", "-6", "route"])?;
        let direct = format!("via {} dev eth0", lab.node("node2")?.address6);
        ensure!(routes.contains(&direct) && routes.contains("dev kutter-vxlan "), "{routes}");
        for (from, client) in &pods {
            let own = check::addresses(client);
            for address in pods.values().flat_map(check::addresses) {
                let url = format!("http://{}/peer", SocketAddr::new(address, 8080));
                let peer = get(&lab, from, &url)?;
                let as_itself = own.iter().find(|own| own.is_ipv4() == address.is_ipv4());
                let as_itself = as_itself.context("one family only")?.to_string();
                ensure!(peer == as_itself, "{from} is seen as {peer} at {address}");
            }
        }
        // A Service of both, by its addresses and its name.
        let both = "apiVersion: v1\nkind: Service\nmetadata: {name: both}\n\
             spec: {type: NodePort, ipFamilyPolicy: RequireDualStack, selector: {at: node3}, \
             ports: [{port: 80, targetPort: 8080, nodePort: 30083}]}\n";
        Tool::Kubecfg.run_with(&lab, &["apply", "-"], both)?;
        let service = lab.kubecfg_json(&["get", "service", "both"])?;
        let addresses: Vec<IpAddr> = serde_json::from_value(service["spec"]["clusterIPs"].clone())?;
        ensure!(addresses.len() == 2, "{service}");
        let name = "both.default.svc.cluster.local";
        let mut wanted: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        wanted.sort_unstable();
        for from in pods.keys() {
            let pod = format!("web-{from}");
            let words = ["exec", &pod, "--", "/testserver", "resolve", name];
            let text = Tool::Kubecfg.run(&lab, &words)?;
            let found: BTreeSet<&str> = text.lines().collect();
            ensure!(found == wanted.iter().map(String::as_str).collect(), "{from}: {found:?}");
            for address in &addresses {
                let url = format!("http://{}/hostname", SocketAddr::new(*address, 80));
                let deadline = Instant::now() + check::DEADLINE;
                while get(&lab, from, &url).ok().as_deref() != Some("web-node3") {
                    ensure!(Instant::now() < deadline, "{from} does not reach {url}");
                }
            }
        }

        // From outside, by nodes that have no endpoint as well.
        let at = |node: &Machine| {
            let addresses: [IpAddr; 2] = [node.address.into(), node.address6.into()];
            addresses.map(|address| SocketAddr::new(address, 30083).to_string())
        };
        check::served(&lab.nodes.iter().flat_map(at).collect::<Vec<_>>()).await?;

        // Nothing but a pod of the node's network runs there.
        let node2 = lab.node("node2")?;
        Tool::Kubecfg.run(&lab, &["delete", "pod", "web-node2"])?;
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: host, labels: {{app: host}}}}\n\
             spec: {{nodeName: node2, hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet, \
             terminationGracePeriodSeconds: 1, containers: [{{name: main, image: \"{TEST_IMAGE}\", \
             args: [sleep]}}]}}\n"
        );
        Tool::Kubecfg.run_with(&lab, &["apply", "-"], &manifest)?;
        let api: Api<Pod> = Api::default_namespaced(check::client(&lab).await?);
        until(&api, "app=host", "it runs", |pods| pods.iter().any(is_ready)).await?;
        until(&api, "app=web,at=node2", "it is gone", <[Pod]>::is_empty).await?;
        let found =
            Tool::Kubecfg.run(&lab, &["exec", "host", "--", "/testserver", "resolve", "both"])?;
        ensure!(found.lines().count() == 2, "{found}");
        let node = lab.kubecfg_json(&["get", "node", "node2"])?;
        let ranges: Vec<String> = serde_json::from_value(node["spec"]["podCIDRs"].clone())?;
        let servers: Vec<String> = ranges
            .iter()
            .map(|range| {
                let network = range.split('/').next().unwrap_or_default();
                network.strip_suffix('0').map_or_else(|| format!("{network}1"), |n| format!("{n}1"))
            })
            .collect();

        // Each server answers; how long a write takes to be answered is a figure, no verdict.
        let mut took = Vec::new();
        for number in 0..10 {
            let (name, server) = (format!("new{number}"), &servers[number % servers.len()]);
            let question = format!("{name}.default.svc.cluster.local");
            let asking = format!(
                "until dig +short +tries=1 +time=1 @{server} {question} | grep -q .; do :; done; \
                 date +%s%N"
            );
            let mut command = node2.command("timeout");
            let patience = check::DEADLINE.as_secs().to_string();
            let mut asking =
                command.args([&patience, "sh", "-c", &asking]).stdout(Stdio::piped()).spawn()?;
            let service = serde_json::from_value(serde_json::json!({
                "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]},
            }))?;
            let services: Api<Service> = Api::default_namespaced(check::client(&lab).await?);
            services.create(&PostParams::default(), &service).await?;
            let written = SystemTime::now().duration_since(UNIX_EPOCH)?;
            let mut text = String::new();
            asking.stdout.take().context("no output")?.read_to_string(&mut text)?;
            ensure!(asking.wait()?.success(), "{question} is not answered at {server}");
            let answered = Duration::from_nanos(text.trim().parse()?);
            took.push(answered.saturating_sub(written));
        }
        took.sort_unstable();
        eprintln!("answered after the write's end: {took:?}");

        // Without any master.
        lab.kill(&lab.master, "master")?;
        for server in &servers {
            let answers = [dig(node2, server, &[name, "A"])?, dig(node2, server, &[name, "AAAA"])?];
            let mut answers = answers.concat();
            answers.sort_unstable();
            ensure!(answers == wanted, "{server} answers {answers:?}");
            let reverse = dig(node2, server, &["-x", &wanted[0]])?;
            ensure!(reverse == [format!("{name}.")], "{server} answers {reverse:?}");
        }
        Ok(())
    })
}
