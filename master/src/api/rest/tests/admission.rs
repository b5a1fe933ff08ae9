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
