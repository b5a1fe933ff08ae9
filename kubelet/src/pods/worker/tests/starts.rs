//! How pods come up, and what holds them up.

use std::fs;

use proto::k8s::api::core::v1::PodStatus;
use runtime::ContainerRuntime;
use runtime::MountSource;
use runtime::fake::FakeProgram;
use serde_json::json;

use super::{last_ended, plain};
use crate::pods::test_support::{Bench, container_status, one_container, pod, waiting_reason};

#[tokio::test(start_paused = true)]
async fn a_pod_comes_up_and_says_so_once() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(plain("web"));
    bench.until_phase("uid-web", "Running").await;
    let status = bench.status("uid-web").unwrap();
    assert_eq!(status.pod_ip.as_deref(), Some("10.244.0.1"));
    let container = container_status(&status, "main");
    assert!(container.ready && container.started == Some(true));
    assert_eq!(container.container_id.as_deref(), Some("kutter://uid-web_main-0"));
    assert_eq!(container.image_id, "app@sha256:1");
    assert_eq!(bench.event_reasons(), ["Pulled", "Created", "Started"]);
    assert_eq!(bench.seconds(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_container_gets_what_the_pod_says() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(pod(
        "web",
        one_container(json!({
            "args": ["--name=$(NAME)"],
            "env": [{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "resources": {"limits": {"memory": "64Mi"}},
            "workingDir": "/srv"
        })),
    ));
    bench.until_started(1).await;
    let (sandbox, config) = bench.runtime.started().remove(0);
    assert_eq!(config.args, ["/app", "--name=10.244.0.1"]);
    assert!(config.env.contains(&("HOSTNAME".to_owned(), "web".to_owned())));
    assert_eq!(config.working_directory, "/srv");
    assert_eq!(config.resources.memory_limit_bytes, Some(64 << 20));
    let log = bench.folder.path().join("logs/shop_web_uid-web/main/0.log");
    assert_eq!(config.log_path, Some(log));
    let hosts = config.mounts.iter().find(|mount| mount.destination == "/etc/hosts").unwrap();
    let MountSource::Host(path) = &hosts.source else { panic!("{hosts:?}") };
    assert!(fs::read_to_string(path).unwrap().contains("10.244.0.1\tweb\n"));
    let sandboxes = bench.runtime.list().await.unwrap();
    assert_eq!(sandboxes[0].config.id, sandbox);
    assert_eq!(sandboxes[0].config.cgroup_parent, "/kutter/pods/burstable/poduid-web");
    assert_eq!(sandboxes[0].config.hostname, "web");
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_pulled_is_tried_at_kubernetes_intervals() {
    let mut bench = Bench::new();
    bench.images.make_unpullable("app:1", "no such tag");
    bench.start();
    bench.put(plain("web"));
    let reason = || bench.status("uid-web").and_then(|status| waiting_reason(&status));
    bench.until("an error", || reason().as_deref() == Some("ErrImagePull")).await;
    bench.until("a back-off", || reason().as_deref() == Some("ImagePullBackOff")).await;
    assert_eq!(bench.event_messages("BackOff"), ["Back-off pulling image \"app:1\""]);
    let failed = bench.event_messages("Failed");
    assert!(failed.contains(&"Error: ImagePullBackOff".to_owned()), "{failed:?}");
    bench.until("eight pulls", || bench.images.pulls() == 8).await;
    assert_eq!(bench.images.intervals(), [10, 20, 40, 80, 160, 300, 300]);
    bench.images.make_absent("app:1");
    bench.until_phase("uid-web", "Running").await;
}

/// Its registry is asked whether the pod may have it.
#[tokio::test(start_paused = true)]
async fn an_image_that_is_there_for_others_is_pulled() {
    let mut bench = Bench::new();
    bench.start();
    bench.images.close("app:2");
    bench.put(pod("if-absent", one_container(json!({"image": "app:2"}))));
    bench.until_phase("uid-if-absent", "Running").await;
    assert_eq!(bench.images.pulls(), 1);
    bench.put(pod("never", one_container(json!({"image": "app:2", "imagePullPolicy": "Never"}))));
    let reason = || waiting_reason(&bench.status("uid-never")?);
    bench.until("a refusal", || reason().as_deref() == Some("ErrImageNeverPull")).await;
    assert_eq!(bench.images.pulls(), 1);
}

#[tokio::test(start_paused = true)]
async fn pull_policies_are_kept() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(pod("always", one_container(json!({"imagePullPolicy": "Always"}))));
    bench.until_phase("uid-always", "Running").await;
    assert_eq!(bench.images.pulls(), 1);
    bench.put(pod("if-absent", one_container(json!({"imagePullPolicy": "IfNotPresent"}))));
    bench.until_phase("uid-if-absent", "Running").await;
    assert_eq!(bench.images.pulls(), 1);

    bench.images.make_absent("app:2");
    bench.put(pod("never", one_container(json!({"image": "app:2", "imagePullPolicy": "Never"}))));
    bench
        .until("a refusal", || {
            bench.status("uid-never").is_some_and(|status| {
                waiting_reason(&status).as_deref() == Some("ErrImageNeverPull")
            })
        })
        .await;
    assert_eq!(bench.images.pulls(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_image_is_a_volume_once_it_is_there() {
    let mut bench = Bench::new();
    bench.images.make_unpullable("files:1", "no such tag");
    bench.start();
    let mounts = json!([
        {"name": "files", "mountPath": "/files"},
        {"name": "files", "mountPath": "/part", "subPath": "a/b"},
    ]);
    let mut spec = one_container(json!({"volumeMounts": mounts, "imagePullPolicy": "Always"}));
    spec["volumes"] = json!([
        {"name": "files", "image": {"reference": "files:1", "pullPolicy": "IfNotPresent"}},
        {"name": "unused", "image": {"reference": "unused:1", "pullPolicy": "Always"}},
    ]);
    bench.put(pod("web", spec));
    let reason = || bench.status("uid-web").and_then(|status| waiting_reason(&status));
    bench.until("an error", || reason().as_deref() == Some("ErrImagePull")).await;
    bench.until("a back-off", || reason().as_deref() == Some("ImagePullBackOff")).await;
    let status = bench.status("uid-web").unwrap();
    let state = container_status(&status, "main").state.clone().unwrap();
    let message = state.waiting.unwrap().message.unwrap();
    assert!(message.starts_with("Back-off pulling image \"files:1\": ErrImagePull:"), "{message}");
    // The container's own was not asked for in vain.
    assert_eq!(bench.images.pulls(), 1);

    bench.images.make_absent("files:1");
    bench.until_phase("uid-web", "Running").await;
    let (_, config) = bench.runtime.started().remove(0);
    for (destination, part) in [("/files", None), ("/part", Some("a/b"))] {
        let mount = config.mounts.iter().find(|mount| mount.destination == destination).unwrap();
        let MountSource::Image { path, .. } = &mount.source else { panic!("{mount:?}") };
        assert_eq!(path.as_deref(), part.map(std::path::Path::new));
        assert_eq!(mount.access, runtime::Access::ReadOnly);
    }
    let told = |bench: &Bench| {
        let status = bench.status("uid-web").unwrap();
        let mounts = container_status(&status, "main").volume_mounts.clone().unwrap();
        mounts[0].volume_status.clone().unwrap().image.unwrap().image_ref
    };
    assert_eq!(told(&bench), "app@sha256:1");
    // Another kubelet knows it from the container.
    bench.end_kubelet().await;
    bench.start();
    bench.until("the pod is known again", || bench.status("uid-web").is_some()).await;
    assert_eq!(told(&bench), "app@sha256:1");
}

#[tokio::test(start_paused = true)]
async fn a_missing_config_map_holds_a_container_up_until_it_appears() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(pod(
        "web",
        one_container(json!({"envFrom": [{"configMapRef": {"name": "settings"}}]})),
    ));
    bench
        .until("a config error", || {
            bench.status("uid-web").is_some_and(|status| {
                waiting_reason(&status).as_deref() == Some("CreateContainerConfigError")
            })
        })
        .await;
    let message = |status: &PodStatus| {
        let state = container_status(status, "main").state.clone().unwrap();
        state.waiting.unwrap().message.unwrap()
    };
    assert_eq!(message(&bench.status("uid-web").unwrap()), "configmap \"settings\" not found");
    bench.put_config_map("settings", &[("MODE", "fast")]);
    bench.until_phase("uid-web", "Running").await;
    let (_, config) = bench.runtime.started().remove(0);
    assert!(config.env.contains(&("MODE".to_owned(), "fast".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_config_map_volume_waits_for_its_map_and_follows_it() {
    let mut bench = Bench::new();
    bench.start();
    let mut spec = one_container(json!({"volumeMounts": [{"name": "cfg", "mountPath": "/cfg"}]}));
    spec["volumes"] = json!([{"name": "cfg", "configMap": {"name": "settings"}}]);
    bench.put(pod("web", spec));
    bench.until("a complaint", || bench.event_reasons().contains(&"FailedMount".to_owned())).await;
    assert!(bench.started().is_empty());
    bench.put_config_map("settings", &[("mode", "fast")]);
    bench.until_phase("uid-web", "Running").await;
    let file = bench.folder.path().join("root/pods/uid-web/volumes/cfg/mode");
    assert_eq!(fs::read_to_string(&file).unwrap(), "fast");
    let (_, config) = bench.runtime.started().remove(0);
    let mount = config.mounts.iter().find(|mount| mount.destination == "/cfg").unwrap();
    assert_eq!(mount.access, runtime::Access::ReadOnly);
    let status = bench.status("uid-web").unwrap();
    let told = container_status(&status, "main").volume_mounts.as_ref().unwrap();
    assert_eq!((told[0].name.as_str(), told[0].mount_path.as_str()), ("cfg", "/cfg"));

    bench.put_config_map("settings", &[("mode", "slow")]);
    bench.until("the file follows", || fs::read_to_string(&file).unwrap() == "slow").await;
    assert_eq!(bench.started().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_program_that_cannot_be_started_is_tried_again_and_explained() {
    let mut bench = Bench::new();
    bench.runtime.choose_program(|_, config| FakeProgram {
        start_error: (config.id.0 != "main-2").then(|| "exec: \"/app\": not found".to_owned()),
        ..FakeProgram::default()
    });
    bench.start();
    bench.put(plain("web"));
    bench
        .until("a back-off", || {
            bench.status("uid-web").is_some_and(|status| {
                waiting_reason(&status).as_deref() == Some("CrashLoopBackOff")
            })
        })
        .await;
    let status = bench.status("uid-web").unwrap();
    assert_eq!(last_ended(&status).exit_code, 128);
    assert_eq!(last_ended(&status).reason.as_deref(), Some("StartError"));
    assert_eq!(last_ended(&status).message.as_deref(), Some("exec: \"/app\": not found"));
    bench.until_phase("uid-web", "Running").await;
    bench
        .until("the third attempt runs", || {
            bench.status("uid-web").is_some_and(|status| container_status(&status, "main").ready)
        })
        .await;
    assert_eq!(bench.started(), ["main-2"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_on_the_nodes_network_has_the_nodes_addresses_and_none_of_its_own() {
    let mut bench = Bench::new();
    bench.start();
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut spec = one_container(json!({
        "ports": [{"containerPort": 80, "hostPort": 80}],
        "env": [field("HOSTS", "status.hostIPs"), field("OWN", "status.podIPs")],
    }));
    spec["hostNetwork"] = json!(true);
    spec["hostIPC"] = json!(true);
    spec["shareProcessNamespace"] = json!(true);
    bench.put(pod("web", spec));
    bench.until_phase("uid-web", "Running").await;
    let status = bench.status("uid-web").unwrap();
    let wanted = ["192.0.2.1", "2001:db8::1"];
    assert_eq!(
        (status.host_ip.as_deref(), status.pod_ip.as_deref()),
        (Some(wanted[0]), Some(wanted[0]))
    );
    let hosts: Vec<String> = status.host_ips.into_iter().flatten().map(|one| one.ip).collect();
    let own: Vec<String> = status.pod_ips.into_iter().flatten().map(|one| one.ip).collect();
    assert_eq!((hosts, own), (wanted.map(str::to_owned).into(), wanted.map(str::to_owned).into()));
    let (_, config) = bench.runtime.started().remove(0);
    for name in ["HOSTS", "OWN"] {
        assert!(config.env.contains(&(name.to_owned(), wanted.join(","))), "{:?}", config.env);
    }
    assert!(bench.network.attached().is_empty());
    let sandbox = bench.runtime.list().await.unwrap().remove(0).config;
    let of_host = sandbox.of_host;
    assert!(of_host.network && of_host.ipc && !of_host.processes);
    assert!(sandbox.shares_processes && !sandbox.own_users);
    let hosts = fs::read_to_string(bench.folder.path().join("root/pods/uid-web/etc/hosts"));
    let hosts = hosts.unwrap();
    assert!(hosts.starts_with("# Kubernetes-managed hosts file (host network).\n"), "{hosts}");
}
