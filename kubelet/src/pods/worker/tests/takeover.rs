//! What a kubelet finds when it starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proto::ObjectKey;
use runtime::ContainerRuntime;
use runtime::SandboxId;
use runtime::fake::FakeProgram;
use serde_json::json;

use super::{ended, last_ended, plain};
use crate::pods::test_support::{Bench, container_status, one_container, pod};

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
async fn a_pod_whose_shim_died_while_no_kubelet_was_there_starts_again_only_if_it_may() {
    for (policy, started, phase) in [("Always", 2, "Running"), ("Never", 1, "Failed")] {
        let mut bench = Bench::new();
        bench.start();
        let mut spec = one_container(json!({}));
        spec["restartPolicy"] = json!(policy);
        bench.put(pod("web", spec));
        bench.until_phase("uid-web", "Running").await;
        bench.end_kubelet().await;
        assert!(bench.runtime.lose_sandbox(&SandboxId("uid-web".to_owned())));
        bench.start();
        bench.until_started(started).await;
        bench.until_phase("uid-web", phase).await;
        bench
            .until("the end of the first attempt is told", || {
                let Some(status) = bench.status("uid-web") else { return false };
                let told = container_status(&status, "main");
                let ended = [&told.state, &told.last_state].into_iter().flatten();
                let mut ended = ended.filter_map(|state| state.terminated.as_ref());
                ended.any(|end| end.reason.as_deref() == Some("ContainerStatusUnknown"))
            })
            .await;
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
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.runtime.list().await.unwrap().len(), 2);
    bench.confirm();
    bench.until("the remains are gone", || bench.network.attached() == ["uid-kept"]).await;
    let dir = bench.folder.path().join("root/pods/uid-web");
    bench.until("its folder is gone", || !dir.exists()).await;
    assert_eq!(bench.runtime.list().await.unwrap().len(), 1);
    assert_eq!(bench.started().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn remains_that_cannot_be_removed_are_tried_again() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(plain("web"));
    bench.until_phase("uid-web", "Running").await;
    bench.end_kubelet().await;
    bench.state.write([], |cluster| {
        cluster.pods.remove(&ObjectKey::new("shop", "web"));
    });
    bench.runtime.fail_removals(2);
    bench.start();
    bench.confirm();
    let dir = bench.folder.path().join("root/pods/uid-web");
    bench.until("its folder is gone", || !dir.exists()).await;
    assert_eq!(bench.runtime.list().await.unwrap().len(), 0);
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
    tokio::time::sleep(Duration::from_secs(1)).await;
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
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(bench.started().is_empty());
    bench.confirm();
    bench.until_phase("uid-web", "Running").await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ends_has_no_other_time_because_its_kubelet_starts_again() {
    let mut bench = Bench::new();
    bench
        .runtime
        .choose_program(|_, _| FakeProgram { ignores_signals: true, ..FakeProgram::default() });
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    bench.runtime.answer_exec(move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        (Vec::new(), 0)
    });
    bench.start();
    let hook = json!({"lifecycle": {"preStop": {"exec": {"command": ["goodbye"]}}}});
    bench.put(pod("web", one_container(hook)));
    bench.until_phase("uid-web", "Running").await;
    let before = bench.seconds();
    bench.delete("web", 30);
    tokio::time::sleep(Duration::from_secs(10)).await;
    bench.end_kubelet().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    bench.start();
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert!(!bench.is_reported_removed("uid-web"));
    bench.until("it is reported", || bench.is_reported_removed("uid-web")).await;
    assert_eq!(bench.seconds() - before, 30);
    assert_eq!(calls.load(Ordering::SeqCst), 1, "the hook had returned");
}

#[tokio::test(start_paused = true)]
async fn a_hook_before_the_end_that_lost_its_kubelet_is_called_again_within_the_time_left() {
    // The hook takes 20 seconds, and 10 have passed when the next kubelet calls it.
    for (grace, taken) in [(60, 30), (15, 15)] {
        let mut bench = Bench::new();
        bench.start();
        let hook = json!({"lifecycle": {"preStop": {"sleep": {"seconds": 20}}}});
        bench.put(pod("web", one_container(hook)));
        bench.until_phase("uid-web", "Running").await;
        let before = bench.seconds();
        bench.delete("web", grace);
        tokio::time::sleep(Duration::from_secs(5)).await;
        bench.end_kubelet().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        bench.start();
        bench.until("it is reported", || bench.is_reported_removed("uid-web")).await;
        assert_eq!(bench.seconds() - before, taken);
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_whose_time_passed_while_no_kubelet_was_there_is_killed_at_once() {
    let mut bench = Bench::new();
    bench
        .runtime
        .choose_program(|_, _| FakeProgram { ignores_signals: true, ..FakeProgram::default() });
    bench.start();
    bench.put(plain("web"));
    bench.until_phase("uid-web", "Running").await;
    bench.delete("web", 30);
    tokio::time::sleep(Duration::from_secs(5)).await;
    bench.end_kubelet().await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let before = bench.seconds();
    bench.start();
    bench.until("it is reported", || bench.is_reported_removed("uid-web")).await;
    assert_eq!(bench.seconds(), before);
}
