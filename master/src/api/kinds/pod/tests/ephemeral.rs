//! Ephemeral containers: what they may say, and that they come by their own way only.

use k8s_openapi::api::core::v1::Pod;
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::super::{Pods, ephemeral};
use super::minimal;
use crate::api::kinds::Kind;
use crate::api::kinds::testing::{created, errors, update_errors, with};
use crate::api::objects::Part;

const LIST: &str = "/spec/ephemeralContainers";

fn debugger(changes: &Value) -> Value {
    let mut container = json!({"name": "debugger", "image": "busybox:1"});
    for (field, value) in changes.as_object().unwrap() {
        container[field] = value.clone();
    }
    container
}

fn debugged(containers: Value) -> Pod {
    created::<Pods>(&with(&minimal(), LIST, containers))
}

#[test]
fn an_ephemeral_container_is_defaulted_like_any_other() {
    let pod = debugged(json!([debugger(&json!({"targetContainerName": "main"}))]));
    assert_eq!(
        serde_json::to_value(&pod.spec.unwrap().ephemeral_containers).unwrap(),
        json!([{
            "name": "debugger", "image": "busybox:1", "imagePullPolicy": "IfNotPresent",
            "resources": {}, "targetContainerName": "main",
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        }])
    );
}

#[test]
fn nothing_of_a_service_may_be_said_of_an_ephemeral_container() {
    let at = |field: &str| format!("spec.ephemeralContainers[0].{field}: ");
    let refused = |field: &str| at(field) + "Forbidden: cannot be set for an Ephemeral Container";
    let probe = json!({"tcpSocket": {"port": 80}});
    for (changes, expected) in [
        (json!({}), String::new()),
        (json!({"stdin": true, "tty": true, "targetContainerName": "main"}), String::new()),
        (json!({"securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}}), String::new()),
        (json!({"env": [{"name": "A", "value": "b"}], "resources": {}}), String::new()),
        (json!({"ports": [{"containerPort": 80}]}), refused("ports")),
        (json!({"livenessProbe": probe}), refused("livenessProbe")),
        (json!({"readinessProbe": probe}), refused("readinessProbe")),
        (json!({"startupProbe": probe}), refused("startupProbe")),
        (json!({"lifecycle": {}}), refused("lifecycle")),
        (json!({"resources": {"limits": {"cpu": "1"}}}), refused("resources")),
        (json!({"restartPolicy": "Always"}), refused("restartPolicy")),
        (
            json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}]}),
            refused("resizePolicy"),
        ),
        (json!({"image": ""}), at("image") + "Required value"),
        (json!({"name": "main"}), at("name") + "Duplicate value: \"main\""),
        (json!({"name": "A"}), at("name") + "Invalid value"),
        (
            json!({"targetContainerName": "other"}),
            at("targetContainerName") + "Not found: \"other\"",
        ),
        (
            json!({"volumeMounts": [{"name": "none", "mountPath": "/x"}]}),
            at("volumeMounts[0].name") + "Not found: \"none\"",
        ),
        (json!({"securityContext": {"runAsUser": -1}}), at("securityContext.runAsUser")),
    ] {
        let found = errors::<Pods>(&with(&minimal(), LIST, json!([debugger(&changes)])));
        match expected.as_str() {
            "" => assert!(found.is_empty(), "{changes}: {found:?}"),
            expected => {
                assert!(found.iter().any(|e| e.starts_with(expected)), "{changes}: {found:?}");
                assert_eq!(found.len(), 1, "{changes}: {found:?}");
            }
        }
    }
    let twice = json!([debugger(&json!({})), debugger(&json!({}))]);
    let found = errors::<Pods>(&with(&minimal(), LIST, twice));
    assert_eq!(found, ["spec.ephemeralContainers[1].name: Duplicate value: \"debugger\""]);
}

#[test]
fn those_that_are_there_neither_change_nor_go() {
    let (one, two) = (debugger(&json!({})), debugger(&json!({"name": "second"})));
    let old = debugged(json!([one, two]));
    let change = |list: Value| -> Vec<String> {
        let errors = ephemeral::validate_update(&debugged(list), &old);
        errors.iter().map(ToString::to_string).collect()
    };
    let rule = |what: &str| {
        format!(
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debugger\" may \
             not be {what}"
        )
    };
    assert!(change(json!([two, one, debugger(&json!({"name": "third"}))])).is_empty());
    assert_eq!(change(json!([two])), [rule("removed")]);
    assert_eq!(change(json!([debugger(&json!({"tty": true})), two])), [rule("changed")]);
}

#[test]
fn they_come_by_their_subresource_only() {
    let plain = created::<Pods>(&minimal());
    let mut new = debugged(json!([debugger(&json!({}))]));
    let refused = Pods::validate_create(&new);
    let refused: Vec<String> = refused.iter().map(ToString::to_string).collect();
    assert_eq!(refused, ["spec.ephemeralContainers: Forbidden: cannot be set on create"]);
    let refused =
        update_errors::<Pods>(&minimal(), &with(&minimal(), LIST, json!([debugger(&json!({}))])));
    assert!(refused[0].ends_with("what differs: ephemeralContainers"), "{refused:?}");

    // By the subresource nothing else changes, whatever else is sent.
    new.spec.as_mut().unwrap().containers[0].image = Some("other".to_owned());
    new.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    Pods::prepare_part_update(Part::EphemeralContainers, &mut new, &plain);
    let mut rest = new.clone();
    rest.spec.as_mut().unwrap().ephemeral_containers = None;
    assert_eq!(rest, plain);
    assert!(Pods::spec_changed(&new, &plain));

    let mut mirror = plain.clone();
    let mark = ("kubernetes.io/config.mirror".to_owned(), "1".to_owned());
    mirror.metadata.annotations = Some([mark].into());
    let refused = ephemeral::validate_update(&new, &mirror);
    let refused: Vec<String> = refused.iter().map(ToString::to_string).collect();
    assert!(refused[0].ends_with("static pods do not support ephemeral containers"), "{refused:?}");
}
