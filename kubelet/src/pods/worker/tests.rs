//! Pods over a fake runtime, in a time that passes as fast as nothing happens.

use std::fs;

use futures::StreamExt;
use proto::ObjectKey;
use proto::k8s::api::core::v1::{ContainerStateTerminated, PodStatus};
use runtime::fake::FakeProgram;
use runtime::{ContainerRuntime, ExecConfig, MountSource, SandboxId};
use serde_json::json;

use crate::pods::test_support::{Bench, container_status, one_container, pod, waiting_reason};
use crate::streams::{ContainerTarget, LogOptions, PodStreams};

fn plain(name: &str) -> proto::k8s::api::core::v1::Pod {
    pod(name, one_container(json!({})))
}

fn last_ended(status: &PodStatus) -> &ContainerStateTerminated {
    container_status(status, "main").last_state.as_ref().unwrap().terminated.as_ref().unwrap()
}

fn ended(status: &PodStatus) -> &ContainerStateTerminated {
    container_status(status, "main").state.as_ref().unwrap().terminated.as_ref().unwrap()
}

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
    assert_eq!(sandboxes[0].config.cgroup_parent, "/kutter/burstable/poduid-web");
    assert_eq!(sandboxes[0].config.hostname, "web");
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_is_started_at_kubernetes_intervals() {
    let mut bench = Bench::new();
    bench
        .runtime
        .choose_program(|_, _| FakeProgram { exits_at_once: Some(3), ..FakeProgram::default() });
    bench.start();
    bench.put(plain("web"));
    let mut times = Vec::new();
    for count in 1..=9 {
        bench.until_started(count).await;
        times.push(bench.seconds());
    }
    let gaps: Vec<u64> = times.windows(2).map(|two| two[1] - two[0]).collect();
    // The first restart is immediate. Then each waits twice as long, up to five minutes.
    let expected = [0, 10, 20, 40, 80, 160, 300, 300];
    for (gap, expected) in gaps.iter().zip(expected) {
        assert!(gap.abs_diff(expected) <= 1, "{gaps:?}");
    }
    bench
        .until("a back-off", || {
            bench
                .status("uid-web")
                .is_some_and(|s| waiting_reason(&s).as_deref() == Some("CrashLoopBackOff"))
        })
        .await;
    let status = bench.status("uid-web").unwrap();
    assert_eq!(container_status(&status, "main").restart_count, 8);
    assert_eq!(last_ended(&status).exit_code, 3);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    // One record is kept, of the attempt that ended last.
    bench.until("old records are removed", || true).await;
    let sandboxes = bench.runtime.list().await.unwrap();
    assert_eq!(sandboxes[0].containers.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ran_long_enough_is_restarted_at_once() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(plain("web"));
    for attempt in 0..3 {
        bench.until_started(attempt + 1).await;
        bench.until_phase("uid-web", "Running").await;
        tokio::time::sleep(std::time::Duration::from_secs(601)).await;
        let before = bench.seconds();
        bench.exit("uid-web", &format!("main-{attempt}"), 1);
        bench.until_started(attempt + 2).await;
        assert!(bench.seconds() - before <= 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_restart_ends_with_its_exit_code() {
    for (code, phase) in [(0, "Succeeded"), (4, "Failed")] {
        let mut bench = Bench::new();
        bench.start();
        let mut spec = one_container(json!({}));
        spec["restartPolicy"] = json!("Never");
        bench.put(pod("job", spec));
        bench.until_phase("uid-job", "Running").await;
        bench.exit("uid-job", "main-0", code);
        bench.until_phase("uid-job", phase).await;
        assert_eq!(ended(&bench.status("uid-job").unwrap()).exit_code, code);
        bench.until("all is released", || bench.network.attached().is_empty()).await;
        assert!(bench.runtime.list().await.unwrap().is_empty());
        assert_eq!(bench.started().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_finished_pod_does_not_run_again_after_a_restart_of_the_kubelet() {
    let mut bench = Bench::new();
    bench.start();
    let mut spec = one_container(json!({}));
    spec["restartPolicy"] = json!("OnFailure");
    bench.put(pod("job", spec));
    bench.until_phase("uid-job", "Running").await;
    bench.exit("uid-job", "main-0", 0);
    bench.until_phase("uid-job", "Succeeded").await;
    let before = bench.status("uid-job").unwrap();
    // The object in the state still has no status: the master never heard of it.
    bench.end_kubelet().await;
    bench.start();
    bench.until_phase("uid-job", "Succeeded").await;
    assert_eq!(bench.status("uid-job").unwrap(), before);
    assert_eq!(bench.started().len(), 1);
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
    bench.until("eight pulls", || bench.images.pulls() == 8).await;
    assert_eq!(bench.images.intervals(), [10, 20, 40, 80, 160, 300, 300]);
    bench.images.make_absent("app:1");
    bench.until_phase("uid-web", "Running").await;
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
async fn a_deleted_pod_is_stopped_removed_and_reported() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(plain("web"));
    bench.until_phase("uid-web", "Running").await;
    bench.delete("web", 30);
    bench.until("it is reported", || bench.is_reported_removed("uid-web")).await;
    assert_eq!(bench.seconds(), 0, "it obeyed at once");
    assert!(bench.runtime.list().await.unwrap().is_empty());
    assert!(bench.network.attached().is_empty());
    let dir = bench.folder.path().join("root/pods/uid-web");
    assert!(dir.join("record.json").exists() && !dir.join("etc").exists());

    let logs = bench.folder.path().join("logs/shop_web_uid-web");
    fs::create_dir_all(&logs).unwrap();
    bench.remove("web");
    bench.until("the last traces are gone", || !dir.exists() && !logs.exists()).await;
    assert!(bench.event_reasons().contains(&"Killing".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ignores_its_signal_is_killed_when_its_time_is_up() {
    let mut bench = Bench::new();
    bench
        .runtime
        .choose_program(|_, _| FakeProgram { ignores_signals: true, ..FakeProgram::default() });
    bench.start();
    bench.put(plain("web"));
    bench.until_phase("uid-web", "Running").await;
    let before = bench.seconds();
    bench.delete("web", 30);
    tokio::time::sleep(std::time::Duration::from_secs(29)).await;
    assert!(!bench.is_reported_removed("uid-web"));
    bench.until("it is reported", || bench.is_reported_removed("uid-web")).await;
    assert_eq!(bench.seconds() - before, 30);
}

#[tokio::test(start_paused = true)]
async fn a_second_deletion_shortens_the_grace() {
    let mut bench = Bench::new();
    bench
        .runtime
        .choose_program(|_, _| FakeProgram { ignores_signals: true, ..FakeProgram::default() });
    bench.start();
    bench.put(plain("web"));
    bench.until_phase("uid-web", "Running").await;
    let before = bench.seconds();
    bench.delete("web", 300);
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    bench.delete("web", 5);
    bench.until("it is reported", || bench.is_reported_removed("uid-web")).await;
    assert_eq!(bench.seconds() - before, 5);
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_object_vanishes_goes_without_a_word() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(plain("web"));
    bench.until_phase("uid-web", "Running").await;
    bench.remove("web");
    let dir = bench.folder.path().join("root/pods/uid-web");
    bench.until("it is gone", || !dir.exists() && bench.network.attached().is_empty()).await;
    assert!(bench.runtime.list().await.unwrap().is_empty());
    bench.until("nothing is reported", || bench.reporter.with(|o| o.pods.is_empty())).await;
}

#[tokio::test(start_paused = true)]
async fn another_pod_of_the_same_name_is_another_pod() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(plain("web"));
    bench.until_phase("uid-web", "Running").await;
    let mut second = plain("web");
    second.metadata.uid = Some("uid-second".to_owned());
    bench.put(second);
    bench.until_phase("uid-second", "Running").await;
    bench.until("the first is gone", || bench.network.attached() == ["uid-second"]).await;
    assert_eq!(bench.runtime.list().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_kubelet_that_starts_again_takes_over_what_runs() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(plain("web"));
    bench.until_phase("uid-web", "Running").await;
    let before = bench.status("uid-web").unwrap();
    bench.end_kubelet().await;
    assert_eq!(bench.runtime.list().await.unwrap()[0].containers[0].exit, None);
    bench.start();
    bench.until_phase("uid-web", "Running").await;
    assert_eq!(bench.status("uid-web").unwrap(), before);
    assert_eq!(bench.started(), ["main-0"]);
}

#[tokio::test(start_paused = true)]
async fn an_exit_while_no_kubelet_was_there_is_reported_and_mended() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(plain("web"));
    bench.until_phase("uid-web", "Running").await;
    bench.end_kubelet().await;
    bench.exit("uid-web", "main-0", 42);
    bench.start();
    bench.until_started(2).await;
    bench
        .until("the exit code is reported", || {
            bench
                .status("uid-web")
                .is_some_and(|status| container_status(&status, "main").restart_count == 1)
        })
        .await;
    assert_eq!(last_ended(&bench.status("uid-web").unwrap()).exit_code, 42);
    assert_eq!(bench.started(), ["main-0", "main-1"]);
}

#[tokio::test(start_paused = true)]
async fn backoff_and_counts_survive_a_restart_of_the_kubelet() {
    let mut bench = Bench::new();
    bench
        .runtime
        .choose_program(|_, _| FakeProgram { exits_at_once: Some(1), ..FakeProgram::default() });
    bench.start();
    bench.put(plain("web"));
    bench.until_started(4).await;
    let crashed = bench.seconds();
    bench.end_kubelet().await;
    bench.start();
    bench.until_started(5).await;
    assert!((bench.seconds() - crashed).abs_diff(40) <= 1);
    assert_eq!(bench.started().last().unwrap(), "main-4");
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_machine_was_restarted_starts_again_only_if_it_may() {
    for (policy, started, phase) in [("Always", 2, "Running"), ("Never", 1, "Failed")] {
        let mut bench = Bench::new();
        bench.start();
        let mut spec = one_container(json!({}));
        spec["restartPolicy"] = json!(policy);
        bench.put(pod("web", spec));
        bench.until_phase("uid-web", "Running").await;
        bench.end_kubelet().await;
        // Nothing of the runtime survives.
        bench.runtime.remove_sandbox(&SandboxId("uid-web".to_owned())).await.unwrap();
        bench.start();
        bench.until_started(started).await;
        bench.until_phase("uid-web", phase).await;
        let status = bench.status("uid-web").unwrap();
        let reason = match policy {
            "Always" => last_ended(&status).reason.clone(),
            _ => ended(&status).reason.clone(),
        };
        assert_eq!(reason.as_deref(), Some("ContainerStatusUnknown"));
        assert_eq!(bench.started().len(), started);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_unknown_pods_goes_once_a_master_has_spoken() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(plain("web"));
    bench.put(plain("kept"));
    bench.until_phase("uid-web", "Running").await;
    bench.until_phase("uid-kept", "Running").await;
    bench.end_kubelet().await;
    // The next kubelet's snapshot from disk knows one of them.
    bench.state.write([], |cluster| {
        cluster.confirmed = false;
        cluster.pods.remove(&ObjectKey::new("shop", "web"));
    });
    bench.start();
    bench.until_phase("uid-kept", "Running").await;
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(bench.runtime.list().await.unwrap().len(), 2);
    bench.confirm();
    bench.until("the remains are gone", || bench.network.attached() == ["uid-kept"]).await;
    let dir = bench.folder.path().join("root/pods/uid-web");
    bench.until("its folder is gone", || !dir.exists()).await;
    assert_eq!(bench.runtime.list().await.unwrap().len(), 1);
    assert_eq!(bench.started().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_pod_the_snapshot_on_disk_forgot_is_taken_over_when_the_master_names_it() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(plain("web"));
    bench.until_phase("uid-web", "Running").await;
    bench.end_kubelet().await;
    bench.state.write([], |cluster| {
        cluster.confirmed = false;
        cluster.pods.clear();
    });
    bench.start();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    bench.state.write([], |cluster| {
        cluster.pods.insert(ObjectKey::new("shop", "web"), plain("web").into());
    });
    bench.confirm();
    bench.until_phase("uid-web", "Running").await;
    assert_eq!(bench.started(), ["main-0"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_nobody_has_heard_of_waits_for_a_master() {
    let mut bench = Bench::unconfirmed();
    bench.state.write([crate::state::Change::Everything], |cluster| {
        cluster.pods.insert(ObjectKey::new("shop", "web"), plain("web").into());
    });
    bench.start();
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert!(bench.started().is_empty());
    bench.confirm();
    bench.until_phase("uid-web", "Running").await;
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
    assert!(mount.read_only);

    bench.put_config_map("settings", &[("mode", "slow")]);
    bench.until("the file follows", || fs::read_to_string(&file).unwrap() == "slow").await;
    assert_eq!(bench.started().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_container_is_started_again() {
    let mut bench = Bench::new();
    bench.runtime.answer_exec(|container, _| (Vec::new(), i32::from(container.0 == "main-0")));
    bench.start();
    bench.put(pod(
        "web",
        one_container(json!({"livenessProbe": {
            "exec": {"command": ["check"]}, "periodSeconds": 5, "failureThreshold": 2
        }})),
    ));
    bench.until_started(2).await;
    assert_eq!(bench.seconds(), 5, "the second failure counts, and the restart is immediate");
    bench
        .until("a restart", || {
            bench
                .status("uid-web")
                .is_some_and(|status| container_status(&status, "main").restart_count == 1)
        })
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(bench.started().len(), 2);
    let reasons = bench.event_reasons();
    assert!(reasons.contains(&"Unhealthy".to_owned()) && reasons.contains(&"Killing".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_ready_when_its_probe_says_so_and_stays_so_over_a_restart() {
    let mut bench = Bench::new();
    let healthy = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let answer = std::sync::Arc::clone(&healthy);
    bench.runtime.answer_exec(move |_, _| {
        (Vec::new(), i32::from(!answer.load(std::sync::atomic::Ordering::Relaxed)))
    });
    bench.start();
    bench.put(pod(
        "web",
        one_container(json!({"readinessProbe": {
            "exec": {"command": ["check"]}, "periodSeconds": 1, "failureThreshold": 3
        }})),
    ));
    let ready = |bench: &Bench| {
        bench.status("uid-web").is_some_and(|status| container_status(&status, "main").ready)
    };
    bench.until_phase("uid-web", "Running").await;
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    assert!(!ready(&bench));
    healthy.store(true, std::sync::atomic::Ordering::Relaxed);
    bench.until("it is ready", || ready(&bench)).await;

    bench.end_kubelet().await;
    bench.start();
    bench.until_phase("uid-web", "Running").await;
    assert!(ready(&bench), "a restart of the kubelet takes nobody out of service");
    healthy.store(false, std::sync::atomic::Ordering::Relaxed);
    bench.until("it is not", || !ready(&bench)).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_shim_died_gets_another_sandbox() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(plain("web"));
    bench.until_phase("uid-web", "Running").await;
    bench.runtime.lose_sandbox(&SandboxId("uid-web".to_owned()));
    bench.until_started(2).await;
    bench.until_phase("uid-web", "Running").await;
    bench
        .until("the restart is reported", || {
            bench
                .status("uid-web")
                .is_some_and(|status| container_status(&status, "main").restart_count == 1)
        })
        .await;
    assert!(bench.runtime.list().await.unwrap()[0].ready);
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
async fn another_image_replaces_the_container() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(plain("web"));
    bench.until_phase("uid-web", "Running").await;
    bench.edit("web", |pod| {
        pod.spec.as_mut().unwrap().containers[0].image = Some("app:2".to_owned());
    });
    bench.until_started(2).await;
    bench
        .until("the new image is reported", || {
            bench
                .status("uid-web")
                .is_some_and(|status| container_status(&status, "main").image == "app:2")
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn the_last_words_of_a_container_are_reported() {
    let mut bench = Bench::new();
    bench.start();
    let mut spec = one_container(json!({"terminationMessagePolicy": "FallbackToLogsOnError"}));
    spec["restartPolicy"] = json!("Never");
    bench.put(pod("said", spec.clone()));
    bench.put(pod("logged", spec));
    bench.until_phase("uid-said", "Running").await;
    bench.until_phase("uid-logged", "Running").await;
    let words = bench.folder.path().join("root/pods/uid-said/messages/main/0");
    fs::write(words, "out of coffee").unwrap();
    let logs = bench.folder.path().join("logs/shop_logged_uid-logged/main");
    fs::create_dir_all(&logs).unwrap();
    fs::write(logs.join("0.log"), "2026-11-23T15:00:00Z stderr F panic!\n").unwrap();
    bench.exit("uid-said", "main-0", 1);
    bench.exit("uid-logged", "main-0", 1);
    bench.until_phase("uid-said", "Failed").await;
    bench.until_phase("uid-logged", "Failed").await;
    let message = |uid: &str| ended(&bench.status(uid).unwrap()).message.clone();
    assert_eq!(message("uid-said").as_deref(), Some("out of coffee"));
    assert_eq!(message("uid-logged").as_deref(), Some("panic!\n"));
}

fn target(container: &str) -> ContainerTarget {
    ContainerTarget {
        pod: ObjectKey::new("shop", "web"),
        pod_uid: "uid-web".to_owned(),
        container: container.to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn programs_run_in_running_containers_only() {
    let mut bench = Bench::new();
    bench.images.make_unpullable("app:2", "no");
    bench.start();
    let mut spec = one_container(json!({}));
    spec["containers"].as_array_mut().unwrap().push(json!({"name": "late", "image": "app:2"}));
    bench.put(pod("web", spec));
    bench.until_started(1).await;
    bench
        .until("it is known to run", || {
            bench.status("uid-web").is_some_and(|s| container_status(&s, "main").ready)
        })
        .await;
    let echo = ExecConfig { command: vec!["true".to_owned()], stdin: false, tty: false };
    let session = bench.manager.exec(&target("main"), &echo).await.unwrap();
    assert_eq!(session.exit.await.unwrap().unwrap(), 0);

    let refused = |container: &'static str| {
        let (manager, echo) = (bench.manager.clone(), echo.clone());
        async move { manager.exec(&target(container), &echo).await.map(|_| ()).unwrap_err() }
    };
    assert_eq!(refused("late").await.code, 404);
    let unknown = refused("nope").await;
    assert_eq!((unknown.code, &*unknown.message), (400, "container nope is not valid for pod web"));
    let mut other = target("main");
    other.pod_uid = "another".to_owned();
    let gone = bench.manager.exec(&other, &echo).await.map(|_| ()).unwrap_err();
    assert_eq!((gone.code, &*gone.message), (404, "pods \"web\" not found"));
}

#[tokio::test(start_paused = true)]
async fn logs_are_those_of_the_newest_or_the_previous_attempt() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(plain("web"));
    bench.until_phase("uid-web", "Running").await;
    let folder = bench.folder.path().join("logs/shop_web_uid-web/main");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("0.log"), "2026-11-23T15:00:00Z stdout F first\n").unwrap();
    fs::write(folder.join("1.log"), "2026-11-23T15:00:00Z stdout F second\n").unwrap();
    let previous = LogOptions { previous: true, ..LogOptions::default() };
    let refused = bench.manager.logs(&target("main"), previous.clone()).await.err().unwrap();
    assert_eq!(
        (refused.code, &*refused.message),
        (400, "previous terminated container \"main\" in pod \"web\" not found")
    );
    bench.exit("uid-web", "main-0", 1);
    bench.until_started(2).await;
    bench
        .until("the restart is reported", || {
            bench
                .status("uid-web")
                .is_some_and(|status| container_status(&status, "main").restart_count == 1)
        })
        .await;
    let read = |options: LogOptions| async {
        let stream = bench.manager.logs(&target("main"), options).await.unwrap();
        let chunks: Vec<_> = stream.collect().await;
        chunks.into_iter().flat_map(|chunk| chunk.unwrap()).collect::<Vec<u8>>()
    };
    assert_eq!(read(previous).await, b"first\n");
    assert_eq!(read(LogOptions::default()).await, b"second\n");

    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let (followed, ()) = tokio::join!(read(follow), async {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        bench.exit("uid-web", "main-1", 1);
    });
    assert_eq!(followed, b"second\n");
}

#[tokio::test(start_paused = true)]
async fn logs_of_a_container_that_waits_say_why() {
    let mut bench = Bench::new();
    bench.images.make_unpullable("app:1", "no");
    bench.start();
    bench.put(plain("web"));
    bench.until("a failure", || bench.status("uid-web").is_some()).await;
    let refused = bench.manager.logs(&target("main"), LogOptions::default()).await.err().unwrap();
    assert_eq!(
        (refused.code, &*refused.message),
        (
            400,
            "container \"main\" in pod \"web\" is waiting to start: trying and failing to pull image"
        )
    );
}
