//! Tokens in volumes, while time passes.

use std::time::Duration;

use proto::ObjectKey;
use serde_json::{Value, json};

use crate::pods::test_support::{Bench, one_container, pod};
use crate::tokens::TokenRequest;

/// A bench with a pod that has a token for an hour; nothing, having said so, without root, who alone
/// may mount.
fn bench() -> Option<Bench> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: only root may mount");
        return None;
    }
    let mut bench = Bench::new();
    bench.start();
    bench.put(pod("web", spec()));
    Some(bench)
}

fn spec() -> Value {
    let mut spec = one_container(json!({}));
    spec["volumes"] = json!([{"name": "me", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 3600}}
    ]}}]);
    spec
}

const TOKEN: &str = "me/token";

async fn finish(bench: Bench) {
    bench.delete("web", 0);
    bench.until("it is gone", || bench.is_reported_removed("uid-web")).await;
    bench.remove("web");
    bench.until("nothing is left", || bench.file("uid-web", "../record.json").is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_before_it_ends() {
    let Some(bench) = bench() else { return };
    bench.until_phase("uid-web", "Running").await;
    let first = bench.file("uid-web", TOKEN).unwrap();
    let asked = TokenRequest {
        pod: ObjectKey::new("shop", "web"),
        pod_uid: "uid-web".to_owned(),
        audience: "vault".to_owned(),
        expiration_seconds: 3600,
    };
    assert_eq!(*bench.tokens.issued.lock().unwrap(), [asked]);
    tokio::time::sleep(Duration::from_secs(2870)).await;
    assert_eq!(bench.file("uid-web", TOKEN).unwrap(), first);
    bench.until("it is renewed", || bench.file("uid-web", TOKEN).unwrap() != first).await;
    assert!((2880..2885).contains(&bench.seconds()), "{}", bench.seconds());
    assert_eq!(bench.started(), ["main-0"]);
    finish(bench).await;
}

#[tokio::test(start_paused = true)]
async fn a_kubelet_that_starts_again_goes_on_with_the_tokens_that_are_there() {
    let Some(mut bench) = bench() else { return };
    bench.until_phase("uid-web", "Running").await;
    let first = bench.file("uid-web", TOKEN).unwrap();
    bench.end_kubelet().await;
    bench.start();
    bench.until_phase("uid-web", "Running").await;
    bench.exit("uid-web", "main-0", 1);
    bench.until_started(2).await;
    assert_eq!(bench.file("uid-web", TOKEN).unwrap(), first);
    assert_eq!(bench.tokens.issued.lock().unwrap().len(), 1);
    finish(bench).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_master_a_token_stays_and_is_renewed_later() {
    let Some(mut bench) = bench() else { return };
    bench.until_phase("uid-web", "Running").await;
    let first = bench.file("uid-web", TOKEN).unwrap();
    *bench.tokens.failure.lock().unwrap() = Some("no master can be reached".to_owned());
    tokio::time::sleep(Duration::from_secs(4000)).await;
    assert_eq!(bench.file("uid-web", TOKEN).unwrap(), first);
    // Containers are started again all the same, by the next kubelet as well.
    bench.end_kubelet().await;
    bench.start();
    bench.until_phase("uid-web", "Running").await;
    bench.exit("uid-web", "main-0", 1);
    bench.until_started(2).await;
    *bench.tokens.failure.lock().unwrap() = None;
    bench.until("it is renewed", || bench.file("uid-web", TOKEN).unwrap() != first).await;
    finish(bench).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_its_first_token() {
    let Some(bench) = bench() else { return };
    *bench.tokens.failure.lock().unwrap() = Some("serviceaccounts \"x\" not found".to_owned());
    bench.until("it is told", || bench.event_reasons().contains(&"FailedMount".to_owned())).await;
    assert!(bench.started().is_empty());
    *bench.tokens.failure.lock().unwrap() = None;
    bench.until_phase("uid-web", "Running").await;
    finish(bench).await;
}
