//! Containers that are started again.

use runtime::ContainerRuntime;
use runtime::fake::FakeProgram;
use runtime::{ContainerId, SandboxId};
use serde_json::json;

use super::{last_ended, plain};
use crate::pods::test_support::{Bench, container_status, one_container, pod, waiting_reason};

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
async fn an_ended_container_that_cannot_be_removed_is_tried_again() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(plain("web"));
    bench.until_phase("uid-web", "Running").await;
    bench.runtime.fail_removals(3);
    bench.exit("uid-web", "main-0", 1);
    bench.until_started(2).await;
    let began = bench.seconds();
    let (sandbox, old) = (SandboxId("uid-web".to_owned()), ContainerId("main-0".to_owned()));
    let is_there = || bench.runtime.container_config(&sandbox, &old).is_some();
    assert!(is_there());
    bench.until("the old one is removed", || !is_there()).await;
    // After one second, two more, and four more.
    assert!((bench.seconds() - began).abs_diff(7) <= 1);
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
