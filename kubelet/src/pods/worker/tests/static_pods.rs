//! Pods that the node has in files.

use std::sync::Arc;

use proto::ObjectKey;
use proto::k8s::api::core::v1::Pod;
use runtime::fake::FakeProgram;
use serde_json::json;

use crate::pods::test_support::{Bench, one_container, pod};
use crate::state::Change;

/// A pod out of a file, whose content makes the uid.
fn out_of_file(uid: &str) -> Pod {
    let mut pod = pod("web", one_container(json!({})));
    pod.metadata.uid = Some(uid.to_owned());
    let source = [("kubernetes.io/config.source".to_owned(), "file".to_owned())];
    pod.metadata.annotations = Some(source.into());
    pod
}

fn put(bench: &Bench, pod: Option<Pod>) {
    let key = ObjectKey::new("shop", "web");
    bench.state.write([Change::Pod(key.clone())], |state| {
        state.static_pods.remove(&key);
        state.static_pods.extend(pod.map(|pod| (key, Arc::new(pod))));
    });
}

fn is_here(bench: &Bench, uid: &str) -> bool {
    bench.state.read(|state| state.static_here.contains_key(uid))
}

#[tokio::test(start_paused = true)]
async fn a_pod_out_of_a_file_needs_no_master() {
    let mut bench = Bench::unconfirmed();
    bench.start();
    put(&bench, Some(out_of_file("one")));
    bench.until_phase("one", "Running").await;
    bench.end_kubelet().await;
    bench.start();
    bench.until_phase("one", "Running").await;
    assert_eq!(bench.started(), ["main-0"]);
    put(&bench, None);
    bench.until("it has ended", || !is_here(&bench, "one")).await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_means_another_pod_when_the_one_before_has_ended() {
    let mut bench = Bench::new();
    // It does not heed the signal.
    bench
        .runtime
        .choose_program(|_, _| FakeProgram { ignores_signals: true, ..FakeProgram::default() });
    bench.start();
    put(&bench, Some(out_of_file("one")));
    bench.until_phase("one", "Running").await;
    let changed = bench.seconds();
    put(&bench, Some(out_of_file("two")));
    bench.until_phase("two", "Running").await;
    assert!(!is_here(&bench, "one"));
    // Kubernetes' default of its grace period.
    assert!((bench.seconds() - changed).abs_diff(30) <= 1, "{}", bench.seconds() - changed);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_goes_while_no_kubelet_is_there_ends_its_pod_in_its_time() {
    let mut bench = Bench::unconfirmed();
    bench
        .runtime
        .choose_program(|_, _| FakeProgram { ignores_signals: true, ..FakeProgram::default() });
    bench.start();
    put(&bench, Some(out_of_file("one")));
    bench.until_phase("one", "Running").await;
    bench.end_kubelet().await;
    put(&bench, Some(out_of_file("two")));
    let began = bench.seconds();
    bench.start();
    bench.until_phase("two", "Running").await;
    assert!((bench.seconds() - began).abs_diff(30) <= 1, "{}", bench.seconds() - began);
    assert!(!is_here(&bench, "one"));
}
