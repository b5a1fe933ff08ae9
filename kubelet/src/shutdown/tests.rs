use proto::k8s::api::core::v1::NodeStatus;
use runtime::fake::FakeProgram;
use serde_json::json;

use super::*;
use crate::pods::test_support::{Bench, one_container, pod};

fn of_priority(name: &str, priority: i32) -> Pod {
    let mut spec = one_container(json!({}));
    spec["priority"] = json!(priority);
    pod(name, spec)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn pods_end_by_priority_the_critical_ones_last() {
    let order = |periods: &ShutdownPeriods, pods: &[(&str, i32)]| -> Vec<(u64, Vec<String>)> {
        let pods = pods.iter().map(|(name, priority)| Arc::new(of_priority(name, *priority)));
        let groups = periods.groups(pods.collect());
        let names = |pods: Vec<Arc<Pod>>| {
            pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect::<Vec<_>>()
        };
        groups.into_iter().map(|(period, pods)| (period.as_secs(), names(pods))).collect()
    };
    let group = |period, names: &[&str]| {
        (period, names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    };
    let pods = [("dns", 2_000_001_000), ("web", 0), ("low", -10), ("high", 1000)];
    let simple = ShutdownPeriods::simple(seconds(30), seconds(10)).unwrap();
    let expected = [group(20, &["web", "low", "high"]), group(10, &["dns"])];
    assert_eq!(order(&simple, &pods), expected);
    let own: ShutdownPeriods = "0=1m, 1000=20s,2000000000=5s".parse().unwrap();
    let expected = [group(60, &["web", "low"]), group(20, &["high"]), group(5, &["dns"])];
    assert_eq!(order(&own, &pods), expected);
    assert_eq!(own.total(), seconds(85));
}

#[test]
fn what_contradicts_itself_is_refused() {
    assert!(
        ShutdownPeriods::simple(seconds(5), seconds(6)).unwrap_err().contains("cannot be more")
    );
    assert!(ShutdownPeriods::simple(seconds(0), seconds(0)).unwrap().is_off());
    for (text, reason) in [
        ("x=1s", "no priority"),
        ("1", "is not written PRIORITY=TIME"),
        ("1=1", "no time"),
        ("1=1s,1=2s", "said twice"),
    ] {
        let error = text.parse::<ShutdownPeriods>().unwrap_err();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_pods_have_ended_in_order_before_the_kubelet_does() {
    let mut bench = Bench::new();
    bench.start();
    for (name, priority) in [("dns", SYSTEM_CRITICAL), ("web", 0), ("other", 0)] {
        bench.put(of_priority(name, priority));
        bench.until_phase(&format!("uid-{name}"), "Running").await;
    }
    let periods = ShutdownPeriods::simple(seconds(30), seconds(10)).unwrap();
    let (health, watched) = watch::channel(Health::default());
    let began = bench.seconds();
    end_pods(&periods, &bench.manager, &health, &bench.reporter).await;
    assert!(watched.borrow().shutting_down);
    // All obeyed, so nobody waited for the end of a period; the master's silence is waited for.
    assert!(bench.seconds() - began < 10);
    for name in ["dns", "web", "other"] {
        let status = bench.status(&format!("uid-{name}")).unwrap();
        assert_eq!(status.phase.as_deref(), Some("Failed"), "{name}");
        assert_eq!(status.reason.as_deref(), Some("Terminated"));
        let message = "Pod was terminated in response to imminent node shutdown.";
        assert_eq!(status.message.as_deref(), Some(message));
    }
}

/// Also where there is no pod to wait for.
#[tokio::test(start_paused = true)]
async fn the_master_hears_that_the_node_goes() {
    let bench = Bench::new();
    let periods = ShutdownPeriods::simple(seconds(30), seconds(10)).unwrap();
    let (health, mut watched) = watch::channel(Health::default());
    let reporter = bench.reporter.clone();
    let session = tokio::spawn(async move {
        watched.changed().await.unwrap();
        tokio::time::sleep(seconds(1)).await;
        reporter.node_status(NodeStatus::default());
        reporter.take_unsent(|_, _| true).node.is_some()
    });
    end_pods(&periods, &bench.manager, &health, &bench.reporter).await;
    assert!(session.is_finished() && session.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn who_does_not_obey_is_killed_and_reported() {
    let mut bench = Bench::new();
    bench
        .runtime
        .choose_program(|_, _| FakeProgram { ignores_signals: true, ..FakeProgram::default() });
    bench.start();
    bench.put(of_priority("web", 0));
    bench.until_phase("uid-web", "Running").await;
    let periods = ShutdownPeriods::simple(seconds(4), seconds(0)).unwrap();
    let (health, _watched) = watch::channel(Health::default());
    end_pods(&periods, &bench.manager, &health, &bench.reporter).await;
    let status = bench.status("uid-web").unwrap();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(status.reason.as_deref(), Some("Terminated"));
}

#[tokio::test]
async fn systemd_is_believed_and_nobody_else() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    for (number, (script, ending)) in [
        ("echo stopping; exit 1", true),
        ("echo running", false),
        ("echo degraded; exit 1", false),
        ("echo offline; exit 1", false),
        ("exit 1", false),
    ]
    .into_iter()
    .enumerate()
    {
        let program = folder.path().join(number.to_string());
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(says_stopping(&program).await, ending, "{script}");
    }
    assert!(!says_stopping(folder.path().join("none")).await);
}
