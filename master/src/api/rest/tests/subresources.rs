//! Writes to a part of an object: its status, its scale, the node of a pod.

use super::*;

use proto::ObjectKey;

use crate::api::objects::Binding;
use crate::store::Compare;

#[tokio::test]
async fn status_is_written_by_itself() {
    let server = Server::start().await;
    let mut object = pod("web");
    object["status"] = json!({"phase": "Running"});
    let created = server.post(PODS, object).await.ok();
    assert_eq!(created["status"]["phase"], "Pending");
    let path = format!("{PODS}/web/status");
    let both = json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"nodeName": "n1"}, "status": {"phase": "Failed", "reason": "Test"}});
    let patched = server.patch(&path, "merge-patch+json", both).await.ok();
    assert_eq!(patched["status"]["phase"], "Failed");
    // Metadata goes along, as in Kubernetes.
    assert_eq!(patched["metadata"]["labels"]["app"], "web");
    let wrong = json!({"status": {"qosClass": "Guaranteed", "podIPs": [{"ip": "here"}]}});
    let refused = server.patch(&path, "merge-patch+json", wrong).await;
    let message = refused.refused(422, "Invalid");
    for field in ["status.qosClass: ", "status.podIPs[0]: "] {
        assert!(message.contains(field), "{message}");
    }
    assert!(patched["spec"].get("nodeName").is_none());
    let plain = json!({"metadata": {"labels": {"x": "y"}}, "status": {"phase": "Succeeded"}});
    let patched = server.patch(&format!("{PODS}/web"), "merge-patch+json", plain).await.ok();
    assert_eq!(patched["status"]["phase"], "Failed");
    assert_eq!(patched["metadata"]["labels"]["x"], "y");
    assert_eq!(server.get(&path).await.ok(), patched);
}

#[tokio::test]
async fn scales_through_the_subresource_and_counts_generations() {
    let server = Server::start().await;
    let controllers = "/api/v1/namespaces/default/replicationcontrollers";
    let created = server.post(controllers, replication_controller()).await.ok();
    assert_eq!(created["metadata"]["generation"], 1);
    let path = format!("{controllers}/web/scale");
    let scale = server.get(&path).await.ok();
    assert_eq!(scale["kind"], "Scale");
    assert_eq!(scale["apiVersion"], "autoscaling/v1");
    assert_eq!(scale["spec"]["replicas"], 2);
    assert_eq!(scale["status"]["selector"], "app=web");
    let patch = json!({"spec": {"replicas": 5}});
    let scaled = server.patch(&path, "merge-patch+json", patch).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 5);
    let controller = server.get(&format!("{controllers}/web")).await.ok();
    assert_eq!(controller["spec"]["replicas"], 5);
    assert_eq!(controller["metadata"]["generation"], 2);
    server.put(&path, scale).await.refused(409, "Conflict");
    let negative = json!({"spec": {"replicas": -1}});
    let answer = server.patch(&path, "merge-patch+json", negative).await;
    assert_eq!(
        answer.refused(422, "Invalid").split(':').next(),
        Some("Scale.autoscaling \"web\" is invalid")
    );
    // Labels are no part of the spec.
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let path = format!("{controllers}/web");
    let labelled = server.patch(&path, "merge-patch+json", labels).await.ok();
    assert_eq!(labelled["metadata"]["generation"], 2);
}

#[tokio::test]
async fn pods_are_bound_once_and_only_by_who_may() {
    let server = Server::start().await;
    let mut bindings = Vec::new();
    for n in 0..150 {
        let name = format!("p{n}");
        let created = server.post(PODS, pod(&name)).await.ok();
        let uid = created["metadata"]["uid"].as_str().unwrap().to_owned();
        bindings.push(Binding { pod: ObjectKey::new("default", name), uid, node: "n1".to_owned() });
    }
    bindings[7].uid = "another".to_owned();
    bindings[9].pod.name = "missing".to_owned();
    let fence = [Compare::Present("/registry/kutter.leader/leader".to_owned())];
    let results = server.objects.bind(bindings.clone(), &fence).await;
    assert!(results.iter().enumerate().all(|(n, result)| {
        let error = result.as_ref().unwrap_err();
        // Who is not there is told so before the fence is looked at.
        error.is_fenced_off() || (n == 7 && error.is_conflict()) || (n == 9 && error.is_not_found())
    }));
    let results = server.objects.bind(bindings.clone(), &[]).await;
    for (n, result) in results.iter().enumerate() {
        match n {
            7 => assert!(result.as_ref().unwrap_err().is_conflict()),
            9 => assert!(result.as_ref().unwrap_err().is_not_found()),
            _ => assert_eq!(*result, Ok(()), "{n}"),
        }
    }
    let bound = server.get(&format!("{PODS}/p0")).await.ok();
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let binding = json!({"target": {"kind": "Node", "name": "n2"}});
    let answer = server.post(&format!("{PODS}/p0/binding"), binding.clone()).await;
    assert!(answer.refused(409, "Conflict").contains("already assigned to node"));
    let answer = server.post(&format!("{PODS}/p7/binding"), binding).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.ok()["status"], "Success");
}
