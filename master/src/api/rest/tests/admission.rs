//! What other objects of a namespace say about a new one.

use super::*;

const LIMIT_RANGES: &str = "/api/v1/namespaces/default/limitranges";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": "test"}]},
    });
    change(&mut pod);
    pod
}

#[tokio::test]
async fn pods_are_held_to_the_limits_of_their_namespace() {
    let server = Server::start().await;
    let range = json!({"metadata": {"name": "small"}, "spec": {"limits": [
        {"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "500m"}},
    ]}});
    server.post(LIMIT_RANGES, range).await.ok();
    server.objects.caches().fresh().await.unwrap();
    let made = server.post(PODS, pod("a", |_| {})).await.ok();
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(resources["limits"]["cpu"], "500m");
    assert_eq!(made["status"]["qosClass"], "Burstable", "the class is that of what it got");
    let large = pod("b", |pod| {
        pod["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "2"}});
    });
    let refused = server.post(PODS, large).await;
    assert_eq!(
        refused.refused(403, "Forbidden"),
        "pods \"b\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"
    );
}

#[tokio::test]
async fn pods_get_the_pull_secrets_of_their_account_which_has_to_be_there() {
    let server = Server::start().await;
    server.post(PODS, pod("early", |_| {})).await.ok();
    let builder = |pod: &mut Value| pod["spec"]["serviceAccountName"] = json!("builder");
    let refused = server.post(PODS, pod("a", builder)).await;
    assert!(refused.refused(403, "Forbidden").ends_with("serviceaccount \"builder\" not found"));
    let account = json!({"metadata": {"name": "builder"}, "imagePullSecrets": [{"name": "x"}]});
    server.post(ACCOUNTS, account).await.ok();
    let made = server.post(PODS, pod("a", builder)).await.ok();
    assert_eq!(made["spec"]["imagePullSecrets"], json!([{"name": "x"}]));
}

#[tokio::test]
async fn a_namespace_says_how_much_its_pods_may_ask_for() {
    let server = Server::start().await;
    let namespaces = "/api/v1/namespaces";
    let labelled = |labels: Value| json!({"metadata": {"name": "team", "labels": labels}});
    let wrong = labelled(json!({"pod-security.kubernetes.io/enforce": "strict"}));
    assert_eq!(
        server.post(namespaces, wrong).await.refused(422, "Invalid"),
        "Namespace \"team\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid \
         value: \"strict\": must be one of privileged, baseline, restricted"
    );
    server.post(namespaces, labelled(json!({}))).await.ok();
    let pods = "/api/v1/namespaces/team/pods";
    let with_path = |pod: &mut Value| {
        pod["spec"]["volumes"] = json!([{"name": "host", "hostPath": {"path": "/srv"}}]);
    };
    let allowed = server.post(pods, pod("early", with_path)).await;
    assert!(!allowed.headers.contains_key("warning"));
    allowed.ok();
    server.objects.caches().fresh().await.unwrap();

    let stricter = json!({"metadata": {"labels": {
        "pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/warn": "restricted",
        "pod-security.kubernetes.io/warn-version": "v1.21",
    }}});
    let patched = server.patch("/api/v1/namespaces/team", "merge-patch+json", stricter).await;
    let warnings = warnings(&patched);
    patched.ok();
    assert_eq!(
        warnings,
        [
            "existing pods in namespace \"team\" violate the new PodSecurity enforce level \
             \"baseline:latest\"",
            "early: hostPath volumes",
        ]
    );
    server.objects.caches().fresh().await.unwrap();
    assert_eq!(
        server.post(pods, pod("late", with_path)).await.refused(403, "Forbidden"),
        "pods \"late\" is forbidden: violates PodSecurity \"baseline:latest\": hostPath volumes \
         (volume \"host\")"
    );
    let warned = server.post(pods, pod("plain", |_| {})).await;
    let told = self::warnings(&warned);
    warned.ok();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with(
            "would violate PodSecurity \"restricted:v1.21\": allowPrivilegeEscalation != false \
             (container \"main\" must set"
        ),
        "{told:?}"
    );
    // What was there before is left alone.
    let relabelled = json!({"metadata": {"labels": {"a": "b"}}});
    server.patch(&format!("{pods}/early"), "merge-patch+json", relabelled).await.ok();
    let metrics = server.get("/metrics").await;
    let metrics = metrics.body.as_str().expect("text").to_owned();
    let denied = r#"pod_security_evaluations_total{decision="deny",mode="enforce",policy_level="baseline"} "#;
    assert!(metrics.contains(denied), "{metrics}");
}

/// The warnings of an answer, unquoted.
fn warnings(answer: &Answer) -> Vec<String> {
    let values = answer.headers.get_all("warning").iter();
    values
        .map(|value| {
            let text = std::str::from_utf8(value.as_bytes()).expect("text");
            let quoted = text.strip_prefix("299 - \"").and_then(|text| text.strip_suffix('"'));
            quoted.expect("a warning").replace("\\\"", "\"")
        })
        .collect()
}
