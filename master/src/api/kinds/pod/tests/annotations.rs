//! What annotations of a pod may say.

use serde_json::json;

use super::super::super::testing::{check, check_updates, errors, with};
use super::super::super::{Kind, ReplicationControllers, testing};
use super::super::Pods;
use super::full;

#[test]
fn annotations_keep_to_the_rules() {
    check::<Pods>(
        &full(),
        vec![
            (
                "/metadata/annotations",
                json!({"kubernetes.io/config.mirror": "x"}),
                "metadata.annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName if mirror pod annotation is set",
            ),
            (
                "/metadata/annotations",
                json!({"controller.kubernetes.io/pod-deletion-cost": "+5"}),
                "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"+5\": must be a 32bit integer",
            ),
            (
                "/metadata/annotations",
                json!({"controller.kubernetes.io/pod-deletion-cost": "007"}),
                "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value",
            ),
            (
                "/metadata/annotations",
                json!({"controller.kubernetes.io/pod-deletion-cost": "-2147483649"}),
                "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value",
            ),
            (
                "/metadata/annotations",
                json!({"controller.kubernetes.io/pod-deletion-cost": "-5"}),
                "",
            ),
            (
                "/metadata/annotations",
                json!({"scheduler.alpha.kubernetes.io/tolerations": "{"}),
                "metadata.annotations: Invalid value: \"scheduler.alpha.kubernetes.io/tolerations\"",
            ),
            (
                "/metadata/annotations",
                json!({"scheduler.alpha.kubernetes.io/tolerations": "[{\"operator\":\"Equal\"}]"}),
                "metadata.annotations.scheduler.alpha.kubernetes.io/tolerations[0].operator: Invalid value: \"Equal\"",
            ),
            (
                "/metadata/annotations",
                json!({"seccomp.security.alpha.kubernetes.io/pod": "loose"}),
                "metadata.annotations.seccomp.security.alpha.kubernetes.io/pod: Invalid value: \"loose\": must be a valid seccomp profile",
            ),
            (
                "/metadata/annotations",
                json!({"container.seccomp.security.alpha.kubernetes.io/main": "localhost/../a"}),
                "metadata.annotations.container.seccomp.security.alpha.kubernetes.io/main: Invalid value: \"localhost/../a\": must not contain '..'",
            ),
            (
                "/metadata/annotations",
                json!({"container.apparmor.security.beta.kubernetes.io/other": "unconfined"}),
                "metadata.annotations[container.apparmor.security.beta.kubernetes.io/other]: Invalid value: \"other\": container not found",
            ),
            (
                "/metadata/annotations",
                json!({"container.apparmor.security.beta.kubernetes.io/main": "tight"}),
                "metadata.annotations[container.apparmor.security.beta.kubernetes.io/main]: Invalid value: \"tight\": invalid AppArmor profile name: \"tight\"",
            ),
            (
                "/metadata/annotations",
                json!({"container.apparmor.security.beta.kubernetes.io/main": "runtime/default"}),
                "metadata.annotations[container.apparmor.security.beta.kubernetes.io/main]: Forbidden: \"runtime/default\" is not supported by this version of Kutter",
            ),
            (
                "/metadata/annotations",
                json!({"container.apparmor.security.beta.kubernetes.io/main": "unconfined"}),
                "",
            ),
        ],
    );
}

#[test]
fn annotations_and_fields_of_a_new_pod_say_the_same() {
    let created = |annotations| {
        let pod = with(&full(), "/metadata/annotations", annotations);
        Pods::validate_create(&testing::created::<Pods>(&pod))
    };
    // The field says RuntimeDefault.
    assert_eq!(
        created(json!({"seccomp.security.alpha.kubernetes.io/pod": "docker/default"})).len(),
        0
    );
    let errors = created(json!({"seccomp.security.alpha.kubernetes.io/pod": "unconfined"}));
    assert_eq!(
        errors[0].to_string(),
        "spec.securityContext.seccompProfile.type: Forbidden: seccomp type in annotation and field must match"
    );
}

#[test]
fn annotations_and_fields_of_a_template_say_the_same() {
    let mut controller = json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "template": full()},
    });
    controller["spec"]["template"]["spec"]["restartPolicy"] = json!("Always");
    let context = json!({"appArmorProfile": {"type": "Unconfined"}});
    controller["spec"]["template"]["spec"]["containers"][0]["securityContext"] = context;
    assert_eq!(errors::<ReplicationControllers>(&controller), Vec::<String>::new());
    let annotations = json!({"container.apparmor.security.beta.kubernetes.io/main": ""});
    controller["spec"]["template"]["metadata"]["annotations"] = annotations;
    assert_eq!(
        errors::<ReplicationControllers>(&controller),
        [
            "spec.template.spec.containers[0].securityContext.appArmorProfile.type: Forbidden: apparmor type in annotation and field must match"
        ]
    );
}

#[test]
fn some_annotations_stay() {
    let armoured = with(
        &full(),
        "/metadata/annotations",
        json!({"container.apparmor.security.beta.kubernetes.io/main": "unconfined", "a": "b"}),
    );
    check_updates::<Pods>(
        &armoured,
        vec![
            ("/metadata/annotations/a", json!("c"), ""),
            (
                "/metadata/annotations",
                json!({}),
                "metadata.annotations[container.apparmor.security.beta.kubernetes.io/main]: Forbidden: may not remove or update AppArmor annotations",
            ),
        ],
    );
    check_updates::<Pods>(
        &full(),
        vec![(
            "/metadata/annotations",
            json!({"container.apparmor.security.beta.kubernetes.io/main": "unconfined"}),
            "metadata.annotations[container.apparmor.security.beta.kubernetes.io/main]: Forbidden: may not add AppArmor annotations",
        )],
    );
    // As a client has read it: with an account, which only pods of the API get by default.
    let bound = with(&full(), "/spec/nodeName", json!("n1"));
    let bound = with(&bound, "/spec/serviceAccountName", json!("default"));
    let bound = with(&bound, "/spec/serviceAccount", json!("default"));
    check_updates::<Pods>(
        &bound,
        vec![(
            "/metadata/annotations",
            json!({"kubernetes.io/config.mirror": "x"}),
            "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation",
        )],
    );
}
