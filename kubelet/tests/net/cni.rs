//! Pods that plugins connect: Debian's, and one that writes down what it is asked.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kubelet::network::{CniConfig, CniNetwork, HostPort, PodNetwork};
use kubelet::nft::Connection;
use kubelet::proxy::{self, ProxyConfig};
use kubelet::state::{Change, StateHandle};
use proto::ObjectKey;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::ground::{Namespace, attachment, eventually, is_root};
use crate::services::{kept, service, slice};

/// Debian's plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// A node whose pods are connected by plugins, and a neighbour that knows no way to pods.
struct Node {
    namespace: Namespace,
    outside: Namespace,
    folder: tempfile::TempDir,
    network: Arc<CniNetwork>,
}

struct Pod {
    namespace: Namespace,
    addresses: Vec<IpAddr>,
}

impl Node {
    fn new(network: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["conf", "bin", "asked"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let (namespace, outside) = (Namespace::new(), Namespace::new());
        for (inside, name) in [(&namespace, "uplink"), (&outside, "outside")] {
            inside.command("ip link set lo up");
            if name == "uplink" {
                let tid = outside.tid;
                inside.command(&format!(
                    "ip link add uplink type veth peer name outside netns {tid}"
                ));
            }
            let host = if name == "uplink" { 10 } else { 200 };
            inside.command(&format!("ip address add 192.168.77.{host}/24 dev {name}"));
            inside.command(&format!("ip address add fd00:77::{host}/64 dev {name} nodad"));
            inside.command(&format!("ip link set {name} up"));
        }
        namespace.run(async {
            for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                fs::write(format!("/proc/sys/net/{file}"), "1").unwrap();
            }
        });
        // Nothing of a pod's may find a way to the machine that runs the test.
        for range in ["10.99.0.0/16", "fd00:99::/32"] {
            outside.command(&format!("ip route add unreachable {range}"));
        }
        let network_of = open(folder.path());
        let node = Self { namespace, outside, folder, network: network_of };
        node.configure(network);
        node
    }

    fn configure(&self, network: Value) {
        fs::write(self.path("conf/10-test.conflist"), network.to_string()).unwrap();
        // Not the first by name.
        fs::write(self.path("conf/20-other.conflist"), "{").unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As if the kubelet was killed and started again.
    fn restart(&mut self) {
        self.network = open(self.folder.path());
    }

    fn try_attach(
        &self,
        uid: &str,
        namespace: &Namespace,
        ports: &[HostPort],
    ) -> Result<Vec<IpAddr>, String> {
        let (network, path) = (Arc::clone(&self.network), path_of(namespace));
        let (uid, ports) = (uid.to_owned(), ports.to_vec());
        let attached = self
            .namespace
            .run(async move { network.attach(&attachment(&uid, &path, &ports)).await });
        attached.map_err(|error| error.to_string())
    }

    fn pod(&self, name: &str, ports: &[HostPort]) -> Pod {
        let namespace = Namespace::new();
        let addresses = self.try_attach(name, &namespace, ports).unwrap();
        namespace.serve(name, 8080);
        Pod { namespace, addresses }
    }

    fn detach(&self, uid: &str) {
        let (network, uid) = (Arc::clone(&self.network), uid.to_owned());
        self.namespace.run(async move { network.detach(&uid).await }).unwrap();
    }

    fn retain(&self, alive: &[&str]) {
        let network = Arc::clone(&self.network);
        let alive: Vec<String> = alive.iter().map(|uid| (*uid).to_owned()).collect();
        self.namespace.run(async move { network.retain(&alive).await }).unwrap();
    }

    /// Programs of these names, which write down what they are asked and answer with an address.
    fn install_recorders(&self, names: &[&str]) {
        let asked = self.path("asked");
        let asked = asked.display();
        let script = format!(
            "#!/bin/sh\nname=$(basename $0)\nrequest=$(cat)\n\
             number=$(ls {asked} | grep -c '^[0-9]')\n\
             echo \"$request\" > {asked}/$number-$CNI_COMMAND-$name-$CNI_CONTAINERID\n\
             echo \"$CNI_ARGS|$CNI_IFNAME|$CNI_NETNS|$CNI_PATH|$KUTTER_JOIN_TOKEN\" > {asked}/environment\n\
             if [ -e {asked}/hang-$CNI_COMMAND-$name ]; then sleep 60; fi\n\
             if [ -e {asked}/fail-$CNI_COMMAND-$name ]; then\n\
             echo '{{\"code\": 11, \"msg\": \"no room\", \"details\": \"all is taken\"}}'; exit 1; fi\n\
             if [ $CNI_COMMAND = ADD ]; then\n\
             echo \"{{\\\"cniVersion\\\": \\\"1.0.0\\\", \\\"interfaces\\\": [{{\\\"name\\\": \\\"host\\\"}}, \
             {{\\\"name\\\": \\\"eth0\\\", \\\"sandbox\\\": \\\"$CNI_NETNS\\\"}}], \\\"ips\\\": [\
             {{\\\"address\\\": \\\"10.99.0.1/24\\\", \\\"interface\\\": 0}}, \
             {{\\\"address\\\": \\\"10.99.0.7/24\\\", \\\"interface\\\": 1}}]}}\"; fi\n"
        );
        for name in names {
            let path = self.path("bin").join(name);
            fs::write(&path, &script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    /// What the recorders were asked, in order, as `ADD-first-pod`.
    fn asked(&self) -> Vec<String> {
        let mut asked: Vec<(u32, String)> = fs::read_dir(self.path("asked"))
            .unwrap()
            .filter_map(|entry| {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let (number, what) = name.split_once('-')?;
                Some((number.parse().ok()?, what.to_owned()))
            })
            .collect();
        asked.sort();
        asked.into_iter().map(|(_, what)| what).collect()
    }

    /// What came with the question of this number.
    fn request(&self, number: usize) -> Value {
        let file = fs::read_dir(self.path("asked")).unwrap().find_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with(&format!("{number}-")).then_some(path.clone())
        });
        serde_json::from_slice(&fs::read(file.unwrap()).unwrap()).unwrap()
    }

    fn put(&self, name: &str) {
        fs::write(self.path("asked").join(name), "").unwrap();
    }

    fn records(&self) -> usize {
        fs::read_dir(self.path("state")).unwrap().count()
    }
}

fn open(folder: &Path) -> Arc<CniNetwork> {
    let config = CniConfig {
        conf_dir: folder.join("conf"),
        bin_dirs: vec![folder.join("bin"), PLUGINS.into()],
        state_dir: folder.join("state"),
    };
    Arc::new(CniNetwork::new(config).unwrap())
}

/// Plugins are processes of their own: `self` is somebody else to them.
fn path_of(namespace: &Namespace) -> PathBuf {
    format!("/proc/{}/task/{}/ns/net", std::process::id(), namespace.tid).into()
}

fn port(host_port: u16) -> HostPort {
    HostPort { protocol: "TCP".into(), host_ip: None, host_port, container_port: 8080 }
}

/// A network of Debian's plugins, whose records are in a folder of the test's.
fn of_plugins(folder: &Path, first: Value) -> Value {
    let mut first = first;
    first["ipam"] = json!({
        "type": "host-local", "dataDir": folder,
        "ranges": [[{"subnet": "10.99.0.0/24"}], [{"subnet": "fd00:99::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    });
    json!({
        "cniVersion": "1.0.0", "name": "test",
        "plugins": [first, {"type": "portmap", "capabilities": {"portMappings": true}}],
    })
}

#[test]
fn plugins_connect_pods_with_ports_of_the_node_and_take_it_all_back() {
    if !is_root("plugins_connect_pods_with_ports_of_the_node_and_take_it_all_back") {
        return;
    }
    let leases = tempfile::tempdir().unwrap();
    let bridge = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true});
    let node = Node::new(of_plugins(leases.path(), bridge));
    let (a, b) = (node.pod("a", &[]), node.pod("b", &[port(8888)]));
    assert_eq!(a.addresses.len(), 2);
    for address in &b.addresses {
        let server = SocketAddr::new(*address, 8080);
        let asked = || a.namespace.ask_tcp(server);
        let answer = eventually("an answer", asked, Result::is_ok).unwrap();
        assert!(answer.server == "b" && a.addresses.contains(&answer.client), "{answer:?}");
    }
    assert_eq!(a.namespace.ask_tcp("127.0.0.1:8080").unwrap().server, "a");
    node.outside.serve("outside", 9090);
    let outside = a.namespace.ask_tcp("192.168.77.200:9090").unwrap();
    assert_eq!(outside.client.to_string(), "192.168.77.10", "as the configuration says");
    assert_eq!(node.outside.ask_tcp("192.168.77.10:8888").unwrap().server, "b");
    // Plugins see to the port, so the proxy does not.
    assert!(node.network.host_ports().subscribe().borrow().is_empty());

    let reserved = || {
        let files = fs::read_dir(leases.path().join("test")).unwrap();
        files
            .filter(|file| {
                let name = file.as_ref().unwrap().file_name().into_string().unwrap();
                name.parse::<IpAddr>().is_ok()
            })
            .count()
    };
    assert_eq!((reserved(), node.records()), (4, 2));
    node.detach("b");
    assert_eq!((reserved(), node.records()), (2, 1));
    let refused = node.outside.ask_tcp("192.168.77.10:8888");
    assert!(refused.is_err(), "{refused:?}");
    // Twice is once.
    node.detach("b");
    node.retain(&[]);
    assert_eq!((reserved(), node.records()), (0, 0));
}

#[test]
fn policies_hold_for_pods_that_plugins_connect() {
    if !is_root("policies_hold_for_pods_that_plugins_connect") {
        return;
    }
    let leases = tempfile::tempdir().unwrap();
    let node = Node::new(of_plugins(leases.path(), json!({"type": "ptp"})));
    let state = StateHandle::default();
    state.write([Change::Everything], |state| {
        (state.loaded, state.confirmed) = (true, true);
        for name in ["a", "b", "shut"] {
            let pod = json!({
                "metadata": {"namespace": "default", "name": name, "uid": name, "labels": {"name": name}},
                "spec": {"containers": [{"name": "main"}]},
            });
            let pod = serde_json::from_value(pod).unwrap();
            state.pods.insert(ObjectKey::new("default", name), Arc::new(pod));
        }
        let policy = json!({
            "metadata": {"namespace": "default", "name": "shut"},
            "spec": {"podSelector": {"matchLabels": {"name": "shut"}}, "policyTypes": ["Ingress"]},
        });
        let policy = serde_json::from_value(policy).unwrap();
        state.network_policies.insert(ObjectKey::new("default", "shut"), Arc::new(policy));
    });
    let stop = CancellationToken::new();
    node.namespace.spawn(kubelet::policy::run(
        state,
        node.network.pod_addresses().guard(),
        Connection::default(),
        "kutter-policy".into(),
        stop.clone(),
    ));
    let (a, b, shut) = (node.pod("a", &[]), node.pod("b", &[]), node.pod("shut", &[]));
    for number in 0..2 {
        let server = |pod: &Pod| SocketAddr::new(pod.addresses[number], 8080);
        assert_eq!(a.namespace.ask_tcp(server(&b)).unwrap().server, "b");
        // From the first moment on: there is nothing to wait for.
        let refused = a.namespace.ask_tcp(server(&shut));
        assert!(refused.is_err(), "{refused:?}");
    }
    // The interfaces are the plugins': nobody says what may be sent by them.
    let tables = node.namespace.command("nft list tables");
    assert!(tables.contains("ip kutter-policy") && !tables.contains("bridge"), "{tables}");
    stop.cancel();
}

/// With plugins it is theirs which addresses pods have: Services do not wait for a range of the node's.
#[test]
fn services_reach_pods_of_plugins_on_a_node_without_a_range() {
    if !is_root("services_reach_pods_of_plugins_on_a_node_without_a_range") {
        return;
    }
    let leases = tempfile::tempdir().unwrap();
    let node = Node::new(of_plugins(leases.path(), json!({"type": "ptp"})));
    let (client, server) = (node.pod("client", &[]), node.pod("server", &[]));
    let IpAddr::V4(address) = server.addresses[0] else { panic!("{:?}", server.addresses) };
    let (key, kept) = kept(&slice("web", &[(address, "here", true)]));
    let state = StateHandle::default();
    state.write([Change::Everything], |state| {
        (state.loaded, state.confirmed) = (true, true);
        let node = json!({"metadata": {"name": "here"}});
        state.node = Some(Arc::new(serde_json::from_value(node).unwrap()));
        state.service_cidrs = vec!["10.96.0.0/16".into()];
        let web = service("web", [10, 96, 0, 10].into(), json!({}));
        state.services.insert(ObjectKey::new("default", "web"), web);
        state.endpoint_slices.insert(key, kept);
    });
    let stop = CancellationToken::new();
    let config = ProxyConfig {
        table: "kutter".into(),
        node_name: "here".into(),
        pods_of_range: false,
        node_port_addresses: Default::default(),
    };
    let (ports, rules) = (node.network.host_ports(), Connection::default());
    node.namespace.spawn(proxy::run(state, ports, rules, config, stop.clone()));
    let asked = || client.namespace.ask_tcp("10.96.0.10:80");
    let answer = eventually("the Service", asked, Result::is_ok).unwrap();
    assert_eq!(answer.server, "server");
    stop.cancel();
}

fn recorded(version: &str) -> Value {
    json!({
        "cniVersion": version, "name": "recorded",
        "plugins": [
            {"type": "first", "own": {"kept": true}},
            {"type": "second", "capabilities": {"portMappings": true, "bandwidth": true}},
        ],
    })
}

#[test]
fn plugins_are_asked_as_the_specification_has_it() {
    if !is_root("plugins_are_asked_as_the_specification_has_it") {
        return;
    }
    let mut node = Node::new(recorded("1.0.0"));
    node.install_recorders(&["first", "second"]);
    let a = node.pod("a", &[port(8888)]);
    assert_eq!(a.addresses, ["10.99.0.7".parse::<IpAddr>().unwrap()], "those of the pod only");
    assert_eq!(node.asked(), ["ADD-first-a", "ADD-second-a"]);
    let first =
        json!({"cniVersion": "1.0.0", "name": "recorded", "type": "first", "own": {"kept": true}});
    assert_eq!(node.request(0), first);
    let second = node.request(1);
    assert_eq!(second["capabilities"], Value::Null);
    assert_eq!(
        second["runtimeConfig"],
        json!({"portMappings": [{"hostPort": 8888, "containerPort": 8080, "protocol": "tcp"}]})
    );
    assert_eq!(second["prevResult"]["ips"][1]["address"], "10.99.0.7/24");
    let environment = fs::read_to_string(node.path("asked/environment")).unwrap();
    let netns = path_of(&a.namespace);
    let expected = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=a;K8S_POD_INFRA_CONTAINER_ID=a;\
         K8S_POD_UID=a|eth0|{}|{}:{PLUGINS}|",
        netns.display(),
        node.path("bin").display()
    );
    assert_eq!(environment.trim(), expected);

    // Another kubelet finds it attached, and deletes it with what was said then.
    node.restart();
    node.configure(
        json!({"cniVersion": "1.0.0", "name": "another", "plugins": [{"type": "none"}]}),
    );
    assert_eq!(node.try_attach("a", &a.namespace, &[port(8888)]).unwrap(), a.addresses);
    assert_eq!(node.asked().len(), 2, "nothing was asked again");
    node.retain(&[]);
    assert_eq!(node.asked()[2..], ["DEL-second-a", "DEL-first-a"]);
    for number in [2, 3] {
        let request = node.request(number);
        assert_eq!(request["name"], "recorded");
        assert_eq!(request["prevResult"]["ips"][1]["address"], "10.99.0.7/24");
    }
    assert_eq!(node.records(), 0);
}

#[test]
fn a_pod_whose_namespace_is_another_is_attached_anew() {
    if !is_root("a_pod_whose_namespace_is_another_is_attached_anew") {
        return;
    }
    let node = Node::new(recorded("1.0.0"));
    node.install_recorders(&["first", "second"]);
    node.pod("a", &[]);
    node.pod("a", &[]);
    let all = [
        "ADD-first-a",
        "ADD-second-a",
        "DEL-second-a",
        "DEL-first-a",
        "ADD-first-a",
        "ADD-second-a",
    ];
    assert_eq!(node.asked(), all);
}

#[test]
fn what_a_kubelet_left_that_was_killed_while_it_asked_is_deleted() {
    if !is_root("what_a_kubelet_left_that_was_killed_while_it_asked_is_deleted") {
        return;
    }
    let mut node = Node::new(recorded("1.0.0"));
    node.install_recorders(&["first", "second"]);
    for hangs in ["first", "second"] {
        node.put(&format!("hang-ADD-{hangs}"));
        let namespace = Namespace::new();
        let (network, path) = (Arc::clone(&node.network), path_of(&namespace));
        let killed = CancellationToken::new();
        let (killing, before) = (killed.clone(), node.asked().len());
        node.namespace.spawn(async move {
            let attached = killing
                .run_until_cancelled(async { network.attach(&attachment("a", &path, &[])).await });
            assert!(attached.await.is_none());
        });
        let last = format!("ADD-{hangs}-a");
        eventually(
            "a plugin that hangs",
            || node.asked(),
            |asked| asked.len() > before && asked.last() == Some(&last),
        );
        killed.cancel();
        fs::remove_file(node.path("asked").join(format!("hang-ADD-{hangs}"))).unwrap();
        node.restart();
        // Whether the pod is still wanted, or not.
        if hangs == "first" {
            node.retain(&[]);
        } else {
            node.try_attach("a", &namespace, &[]).unwrap();
        }
        let asked = node.asked();
        let deleted = asked.iter().rposition(|what| what == "DEL-second-a").unwrap();
        assert_eq!(asked[deleted + 1], "DEL-first-a");
        assert_eq!(node.request(deleted).get("prevResult"), None, "nothing had come of it");
        assert_eq!(node.records(), usize::from(hangs == "second"));
        node.retain(&[]);
    }
}

#[test]
fn what_is_wrong_is_told_in_a_sentence_and_undone() {
    if !is_root("what_is_wrong_is_told_in_a_sentence_and_undone") {
        return;
    }
    let node = Node::new(recorded("1.0.0"));
    let namespace = Namespace::new();
    let said = || node.try_attach("a", &namespace, &[]).unwrap_err();
    let missing = format!(
        "failed to attach pod default/a: there is no plugin \"first\" in {} or {PLUGINS}; install it there",
        node.path("bin").display()
    );
    assert_eq!(said(), missing);
    assert_eq!(node.records(), 0, "nothing was asked");
    node.install_recorders(&["first", "second"]);
    node.put("fail-ADD-second");
    assert_eq!(
        said(),
        "failed to attach pod default/a: plugin \"second\" failed at ADD: no room: all is taken (code 11)"
    );
    assert!(
        node.asked().ends_with(&["DEL-second-a".into(), "DEL-first-a".into()]),
        "{:?}",
        node.asked()
    );
    assert_eq!(node.records(), 0);
    fs::write(
        node.path("bin/first"),
        "#!/bin/sh\n[ $CNI_COMMAND = DEL ] && exit\necho out of order >&2\nexit 3\n",
    )
    .unwrap();
    let first = said();
    assert!(
        first.contains("plugin \"first\" failed at ADD: out of order (exit status: 3)"),
        "{first}"
    );
    for file in ["10-test.conflist", "20-other.conflist"] {
        fs::remove_file(node.path("conf").join(file)).unwrap();
    }
    let nothing = said();
    assert!(
        nothing.contains("there is no network configuration (.conflist, .conf, .json) in"),
        "{nothing}"
    );
}

#[test]
fn plugins_that_know_how_collect_garbage() {
    if !is_root("plugins_that_know_how_collect_garbage") {
        return;
    }
    let mut node = Node::new(recorded("1.1.0"));
    node.install_recorders(&["first", "second"]);
    let _pods = [node.pod("a", &[]), node.pod("b", &[])];
    node.restart();
    node.retain(&["a"]);
    assert_eq!(node.asked()[4..], ["DEL-second-b", "DEL-first-b", "GC-first-", "GC-second-"]);
    let request = node.request(6);
    assert_eq!(request["cniVersion"], "1.1.0");
    assert_eq!(
        request["cni.dev/valid-attachments"],
        json!([{"containerID": "a", "ifname": "eth0"}])
    );
    let mut forbidden = recorded("1.1.0");
    forbidden["disableGC"] = json!(true);
    for silent in [forbidden, recorded("1.0.0")] {
        node.configure(silent);
        node.retain(&["a"]);
    }
    assert_eq!(node.asked().len(), 8);
}

#[test]
fn ports_that_no_plugin_sees_to_are_the_proxys() {
    if !is_root("ports_that_no_plugin_sees_to_are_the_proxys") {
        return;
    }
    let mut node = Node::new(json!({"cniVersion": "0.4.0", "name": "single", "type": "first"}));
    node.install_recorders(&["first"]);
    let a = node.pod("a", &[port(8888)]);
    let told = |node: &Node| node.network.host_ports().subscribe().borrow().clone();
    let ports = told(&node);
    assert_eq!((&ports["a"].addresses, &ports["a"].ports), (&a.addresses, &vec![port(8888)]));
    node.restart();
    assert_eq!(told(&node), ports);
    node.detach("a");
    assert!(told(&node).is_empty());
}
