//! Resizes: what may change, and what may not.

use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::super::Pods;
use super::minimal;
use crate::api::kinds::Kind;
use crate::api::kinds::testing::{created, with};
use crate::api::objects::Part;

fn sized(resources: Value) -> Value {
    let with_resources = with(&minimal(), "/spec/containers/0/resources", resources);
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    with(&with_resources, "/spec/containers/0/resizePolicy", policy)
}

fn amounts(cpu: &str, memory: &str) -> Value {
    json!({"cpu": cpu, "memory": memory})
}

/// What is wrong with a resize from one manifest to another.
fn resized(old: &Value, new: &Value) -> Vec<String> {
    let (old, mut new) = (created::<Pods>(old), created::<Pods>(new));
    Pods::prepare_part_update(Part::Resize, &mut new, &old);
    let mut errors = Pods::validate(&new);
    errors.extend(Pods::validate_part_update(Part::Resize, &new, &old));
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn amounts_change_and_neither_class_nor_what_is_named() {
    let at = "spec.containers[0].resources";
    let class = "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of \
                 resizing";
    let old = sized(json!({"requests": amounts("1", "1Gi"), "limits": {"cpu": "2"}}));
    for (wanted, expected) in [
        (json!({"requests": amounts("1", "1Gi"), "limits": {"cpu": "2"}}), vec![]),
        (json!({"requests": amounts("2", "512Mi"), "limits": {"cpu": "3"}}), vec![]),
        (json!({"requests": amounts("1", "1Gi"), "limits": amounts("2", "2Gi")}), vec![]),
        (
            json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}),
            vec![format!("{at}.requests: Forbidden: resource requests cannot be removed")],
        ),
        (
            json!({"requests": amounts("1", "1Gi")}),
            vec![format!("{at}.limits: Forbidden: resource limits cannot be removed")],
        ),
        (json!({"limits": amounts("2", "2Gi")}), vec![class.to_owned()]),
        (
            json!({"requests": amounts("3", "1Gi"), "limits": {"cpu": "2"}}),
            vec![format!(
                "{at}.requests: Invalid value: \"3\": must be less than or equal to cpu limit of 2"
            )],
        ),
    ] {
        assert_eq!(resized(&old, &sized(wanted.clone())), expected, "{wanted}");
    }
    let policy = json!([{"resourceName": "memory", "restartPolicy": "NotRequired"}]);
    let new = with(&old, "/spec/containers/0/resizePolicy", policy);
    let expected = ["spec: Forbidden: only cpu and memory resources are mutable"];
    assert_eq!(resized(&old, &new), expected);
}

#[test]
fn other_resources_than_processors_and_memory_stay_as_they_are() {
    let sized = |storage: &[&str], pages: &str| {
        let mut resources = json!({
            "requests": amounts("1", "1Gi"),
            "limits": {"cpu": "2", "memory": "2Gi", "hugepages-2Mi": pages},
        });
        for amount in storage {
            resources["limits"]["ephemeral-storage"] = json!(amount);
        }
        sized(resources)
    };
    let refused = "spec: Forbidden: only cpu and memory resources are mutable";
    let old = sized(&["1Gi"], "4Mi");
    assert_eq!(resized(&old, &sized(&["1024Mi"], "4Mi")), Vec::<String>::new());
    for new in [sized(&["2Gi"], "4Mi"), sized(&[], "4Mi"), sized(&["1Gi"], "8Mi")] {
        assert_eq!(resized(&old, &new), [refused]);
    }
    assert_eq!(resized(&sized(&[], "4Mi"), &old), [refused]);
}

#[test]
fn nothing_else_changes_by_a_resize() {
    let old = created::<Pods>(&sized(json!({"requests": amounts("1", "1Gi")})));
    let mut new = created::<Pods>(&sized(json!({"requests": amounts("2", "1Gi")})));
    let spec = new.spec.as_mut().unwrap();
    spec.containers[0].image = Some("other".to_owned());
    spec.hostname = Some("other".to_owned());
    new.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    Pods::prepare_part_update(Part::Resize, &mut new, &old);
    assert!(Pods::spec_changed(&new, &old));
    new.spec.as_mut().unwrap().containers[0].resources =
        old.spec.as_ref().unwrap().containers[0].resources.clone();
    assert_eq!(new, old);
}

#[test]
fn a_node_that_cannot_or_a_pod_of_a_file_is_not_resized() {
    let manifest = sized(json!({"requests": amounts("1", "1Gi")}));
    let mut old = created::<Pods>(&manifest);
    let running = json!([{
        "name": "main", "image": "nginx", "imageID": "", "ready": true, "restartCount": 0,
        "state": {"running": {}},
    }]);
    let status = old.status.as_mut().unwrap();
    status.container_statuses = serde_json::from_value(running).unwrap();
    let told = |old: &k8s_openapi::api::core::v1::Pod| -> Vec<String> {
        let errors = Pods::validate_part_update(Part::Resize, old, old);
        errors.iter().map(ToString::to_string).collect()
    };
    assert_eq!(told(&old), ["spec: Forbidden: Pod running on node without support for resize"]);
    let statuses = old.status.as_mut().unwrap().container_statuses.as_mut().unwrap();
    statuses[0].resources = Some(Default::default());
    assert!(told(&old).is_empty());
    let mark = ("kubernetes.io/config.mirror".to_owned(), "1".to_owned());
    old.metadata.annotations = Some([mark].into());
    assert!(told(&old)[0].ends_with("static pods cannot be resized"));
}

#[test]
fn a_sidecar_may_be_resized_and_no_other_init_container() {
    let pod = |first: &str, proxy: &str| {
        let cpu = |amount: &str| json!({"requests": {"cpu": amount}});
        let initial = json!([
            {"name": "first", "image": "x", "resources": cpu(first)},
            {"name": "proxy", "image": "x", "restartPolicy": "Always", "resources": cpu(proxy)},
        ]);
        with(&minimal(), "/spec/initContainers", initial)
    };
    let old = pod("1", "1");
    assert_eq!(resized(&old, &pod("1", "2")), Vec::<String>::new());
    let (old_pod, mut new) = (created::<Pods>(&old), created::<Pods>(&pod("1", "2")));
    Pods::prepare_part_update(Part::Resize, &mut new, &old_pod);
    let initial = new.spec.unwrap().init_containers.unwrap();
    let requests = initial[1].resources.as_ref().unwrap().requests.as_ref().unwrap();
    assert_eq!(requests["cpu"].0, "2");
    let refused = "spec: Forbidden: only cpu and memory resources are mutable";
    assert_eq!(resized(&old, &pod("2", "1")), [refused]);
}
