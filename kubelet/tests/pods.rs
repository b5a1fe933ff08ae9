//! Pods with real containers: what a pod says reaches its processes, and nothing of it stays.

mod node;

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use kubelet::state::Change;
use kubelet::streams::LogOptions;
use node::{Node, script, shim};
use proto::ObjectKey;
use proto::k8s::api::core::v1::{ConfigMap, Secret};
use runtime::ContainerRuntime;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_pod_says_reaches_its_processes() {
    let Some(shim) = shim() else { return };
    let node = Node::start(shim).await;
    let map: ConfigMap = serde_json::from_value(json!({"data": {"mode": "fast"}})).unwrap();
    // "s3cret"
    let secret: Secret = serde_json::from_value(json!({"data": {"key": "czNjcmV0"}})).unwrap();
    let key = |name| ObjectKey::new("shop", name);
    node.state.write([], |cluster| {
        cluster.config_maps.insert(key("settings"), Arc::new(map));
        cluster.secrets.insert(key("keys"), Arc::new(secret));
    });
    let mut spec = script(
        "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done",
        json!({
            "env": [
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "key"}}},
                {"name": "BOTH", "value": "$(IP)-$(KEY)-$$(IP)"}
            ],
            "volumeMounts": [
                {"name": "cfg", "mountPath": "/cfg"},
                {"name": "keys", "mountPath": "/keys"},
                {"name": "data", "mountPath": "/data"},
                {"name": "memory", "mountPath": "/memory"}
            ],
            "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
            "readinessProbe": {"exec": {"command": ["test", "-e", "/data/ready"]}, "periodSeconds": 1},
            "securityContext": {"runAsUser": 1000, "allowPrivilegeEscalation": false}
        }),
    );
    spec["volumes"] = json!([
        {"name": "cfg", "configMap": {"name": "settings"}},
        {"name": "keys", "secret": {"secretName": "keys"}},
        {"name": "data", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}
    ]);
    let began = Instant::now();
    node.put("web", spec);
    let status = node.until_phase("web", "Running").await;
    eprintln!("running after {:?}", began.elapsed());
    assert!(!status.ready);

    let cases = [
        ("echo $BOTH", "192.0.2.7-s3cret-$(IP)\n"),
        ("cat /cfg/mode", "fast"),
        ("cat /keys/key", "s3cret"),
        ("hostname; cat /etc/hostname", "web\nweb\n"),
        ("grep -c 192.0.2.7.web /etc/hosts", "1\n"),
        ("id -u; id -g", "1000\n1000\n"),
        ("grep -c NoNewPrivs:.1 /proc/self/status", "1\n"),
        ("touch /cfg/x 2>/dev/null || echo refused", "refused\n"),
        ("touch /data/x /memory/x && echo written", "written\n"),
        ("dd if=/dev/zero of=/memory/big bs=1M count=2 2>/dev/null || echo full", "full\n"),
        ("rm /memory/big; touch /data/ready", ""),
    ];
    for (command, expected) in cases {
        let (output, _) = node.exec("web", command).await;
        assert_eq!(output, expected, "{command}");
    }
    node.until("it is ready", || {
        node.status("web").is_some_and(|status| status.container_statuses.unwrap()[0].ready)
    })
    .await;
    assert_eq!(node.logs("web", LogOptions::default()).await, "up\n");

    // A change of the map reaches the running container.
    let map: ConfigMap = serde_json::from_value(json!({"data": {"mode": "slow"}})).unwrap();
    node.state.write([Change::ConfigMap(key("settings"))], |cluster| {
        cluster.config_maps.insert(key("settings"), Arc::new(map));
    });
    let file = node.folder.path().join("root/pods/uid-web/volumes/cfg/mode");
    node.until("the map is updated", || fs::read_to_string(&file).unwrap() == "slow").await;
    assert_eq!(node.exec("web", "cat /cfg/mode").await.0, "slow");

    node.remove("web").await;
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_goes_on_while_no_kubelet_is_there() {
    let Some(shim) = shim() else { return };
    let node = Node::start(shim).await;
    node.put("stays", script("trap 'exit 0' TERM; while :; do sleep 0.1; done", json!({})));
    node.put(
        "ends",
        script(
            "trap 'exit 0' TERM; while ! test -e /tmp/go; do sleep 0.05; done; exit 42",
            json!({}),
        ),
    );
    node.until_phase("stays", "Running").await;
    node.until_phase("ends", "Running").await;
    let pid = |sandboxes: Vec<runtime::SandboxState>| {
        let found = sandboxes.into_iter().find(|one| one.config.id.0 == "uid-stays").unwrap();
        found.containers[0].pid.unwrap()
    };
    let before = pid(node.runtime.list().await.unwrap());
    // It goes while nobody looks; the exec that lets it go is over before.
    node.exec("ends", "(sleep 0.2; touch /tmp/go) >/dev/null 2>&1 &").await;
    let node = node.restart().await;
    let status = node.until_phase("stays", "Running").await;
    assert_eq!(status.restart_count, 0);
    assert_eq!(pid(node.runtime.list().await.unwrap()), before);
    node.until("the restart is reported", || {
        node.status("ends")
            .is_some_and(|status| status.container_statuses.unwrap()[0].restart_count == 1)
    })
    .await;
    let last = node.until_phase("ends", "Running").await.last_state.unwrap().terminated.unwrap();
    assert_eq!(last.exit_code, 42);
    for name in ["stays", "ends"] {
        node.remove(name).await;
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_ends_leaves_its_words_and_its_log() {
    let Some(shim) = shim() else { return };
    let node = Node::start(shim).await;
    let mut spec = script("echo working; echo done > /dev/termination-log; exit 7", json!({}));
    spec["restartPolicy"] = json!("Never");
    node.put("job", spec);
    let status = node.until_phase("job", "Failed").await;
    let ended = status.state.unwrap().terminated.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (7, Some("Error")));
    assert_eq!(ended.message.as_deref(), Some("done\n"));
    assert_eq!(node.logs("job", LogOptions::default()).await, "working\n");

    node.put("typo", {
        let mut spec = script("", json!({"command": ["/no/such/program"]}));
        spec["restartPolicy"] = json!("Never");
        spec
    });
    let status = node.until_phase("typo", "Failed").await;
    let ended = status.state.unwrap().terminated.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (128, Some("StartError")));
    assert!(ended.message.unwrap().contains("/no/such/program"));
    for name in ["job", "typo"] {
        node.remove(name).await;
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_confined_by_default_and_has_of_its_node_what_it_asks_for() {
    let Some(shim) = shim() else { return };
    let node = Node::start(shim).await;
    let forever = "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done";
    let put = |name: &str, fields: serde_json::Value, changes: serde_json::Value| {
        let mut spec = script(forever, changes);
        for (field, value) in fields.as_object().unwrap() {
            spec[field] = value.clone();
        }
        node.put(name, spec);
    };
    put("plain", json!({}), json!({}));
    put("host", json!({"hostNetwork": true, "hostPID": true, "hostIPC": true}), json!({}));
    put("shared", json!({"shareProcessNamespace": true}), json!({}));
    let all = json!({"securityContext": {"privileged": true}});
    put("all", json!({}), all);
    put("root", json!({"hostUsers": true}), json!({}));
    let profile = json!({"type": "Localhost", "localhostProfile": "missing.json"});
    put("missing", json!({"securityContext": {"seccompProfile": profile}}), json!({}));
    for name in ["plain", "host", "shared", "all", "root"] {
        node.until_phase(name, "Running").await;
    }
    let map = "read a b c < /proc/self/uid_map; test $b != 0 && echo own || echo node";
    let first = "read name < /proc/1/comm; echo $name";
    let net = "readlink /proc/self/ns/net";
    let host_net = fs::read_link("/proc/self/ns/net").unwrap();
    let host_net = format!("{}\n", host_net.display());
    let own = match node.runtime.own_users() {
        Ok(()) => "own\n",
        Err(reason) => {
            eprintln!("pods have the node's users: {reason}");
            "node\n"
        }
    };
    for (pod, users, on_host) in [
        ("plain", own, false),
        ("host", "node\n", true),
        ("shared", own, false),
        ("all", "node\n", false),
        ("root", "node\n", false),
    ] {
        assert_eq!(node.exec(pod, map).await.0, users, "{pod}");
        assert_eq!(node.exec(pod, net).await.0 == host_net, on_host, "{pod}");
    }
    assert_eq!(node.exec("shared", first).await.0, "pause\n");
    assert_eq!(node.exec("plain", first).await.0, "sh\n");
    node.until("the missing profile is told", || {
        let told = node.status("missing").and_then(|status| status.container_statuses);
        let waiting = told.and_then(|all| all[0].state.clone()?.waiting);
        waiting.is_some_and(|waiting| {
            waiting.reason.as_deref() == Some("CreateContainerError")
                && waiting.message.is_some_and(|text| text.contains("no such file on this node"))
        })
    })
    .await;
    for name in ["plain", "host", "shared", "all", "root", "missing"] {
        node.remove(name).await;
    }
    node.finish().await;
}
