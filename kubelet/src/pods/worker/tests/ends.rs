//! How pods end and go.

use std::fs;

use runtime::ContainerRuntime;
use runtime::fake::FakeProgram;
use serde_json::json;

use super::{ended, plain};
use crate::pods::test_support::{Bench, one_container, pod};

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
async fn a_pod_is_failed_at_its_deadline_whoever_is_the_kubelet_then() {
    let mut bench = Bench::new();
    bench.start();
    let mut spec = one_container(json!({}));
    spec["activeDeadlineSeconds"] = json!(100);
    bench.put(pod("web", spec));
    bench.until_phase("uid-web", "Running").await;
    tokio::time::sleep(std::time::Duration::from_secs(50)).await;
    bench.end_kubelet().await;
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    bench.start();
    bench.until_phase("uid-web", "Running").await;
    bench.until_phase("uid-web", "Failed").await;
    assert!(bench.seconds().abs_diff(100) <= 1, "{}", bench.seconds());
    let status = bench.status("uid-web").unwrap();
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    assert_eq!(ended(&status).exit_code, 143);
    bench.until("all is released", || bench.network.attached().is_empty()).await;
    assert_eq!(bench.started().len(), 1);
    assert!(bench.event_reasons().contains(&"DeadlineExceeded".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_holds_for_a_pod_that_never_came_up_too() {
    let mut bench = Bench::new();
    bench.images.make_unpullable("app:1", "no such tag");
    bench.start();
    let mut spec = one_container(json!({}));
    spec["activeDeadlineSeconds"] = json!(100);
    bench.put(pod("web", spec));
    bench.until_phase("uid-web", "Failed").await;
    assert!(bench.seconds().abs_diff(100) <= 1, "{}", bench.seconds());
    bench.until("all is released", || bench.network.attached().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_object_is_taken_away_has_a_moment_and_no_more() {
    let mut bench = Bench::new();
    bench
        .runtime
        .choose_program(|_, _| FakeProgram { ignores_signals: true, ..FakeProgram::default() });
    bench.start();
    bench.put(plain("web"));
    bench.until_phase("uid-web", "Running").await;
    let before = bench.seconds();
    bench.remove("web");
    bench.until("it is gone", || bench.network.attached().is_empty()).await;
    assert_eq!(bench.seconds() - before, 2);
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
