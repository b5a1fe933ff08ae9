//! Huge pages: asked for as other resources, but never shared.

use super::super::super::testing::errors;
use super::*;

fn asking(resources: Value) -> Value {
    with(&minimal(), "/spec/containers/0/resources", resources)
}

#[test]
fn a_limit_is_what_is_asked_for() {
    let limits = json!({"memory": "64Mi", "hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi"});
    let pod = asking(json!({"limits": limits}));
    assert_eq!(errors::<Pods>(&pod), [""; 0]);
    let stored = defaulted::<Pods>(&pod);
    assert_eq!(stored["spec"]["containers"][0]["resources"]["requests"], limits);
    let with_cpu = json!({"limits": {"hugepages-2Mi": "4Mi"}, "requests": {"cpu": "1"}});
    assert_eq!(errors::<Pods>(&asking(with_cpu)), [""; 0]);
}

#[test]
fn pages_are_whole_and_are_given_to_one_alone() {
    let at = "spec.containers[0].resources";
    for (resources, expected) in [
        (
            json!({"limits": {"memory": "1Gi", "hugepages-2Mi": "3Mi"}}),
            vec![
                format!(
                    "{at}.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi"
                ),
                format!(
                    "{at}.requests[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi"
                ),
            ],
        ),
        (
            json!({"limits": {"hugepages-2Mi": "4Mi"}}),
            vec![format!("{at}: Forbidden: HugePages require cpu or memory")],
        ),
        (
            json!({"limits": {"cpu": "1", "hugepages-2Mi": "4Mi"}, "requests": {"hugepages-2Mi": "2Mi"}}),
            vec![format!(
                "{at}.requests: Invalid value: \"2Mi\": must be equal to hugepages-2Mi limit of 4Mi"
            )],
        ),
        (
            json!({"requests": {"cpu": "1", "hugepages-2Mi": "2Mi"}}),
            vec![format!(
                "{at}.limits: Required value: Limit must be set for non overcommitable resources"
            )],
        ),
    ] {
        assert_eq!(errors::<Pods>(&asking(resources.clone())), expected, "{resources}");
    }
    let nameless = json!({"limits": {"cpu": "1", "hugepages-": "2Mi"}});
    assert!(!errors::<Pods>(&asking(nameless)).is_empty());
}

#[test]
fn what_running_a_pod_takes_may_be_pages_too() {
    let overhead = |amounts: Value| {
        let path = super::super::super::path::Path::new("overhead");
        let amounts = serde_json::from_value(amounts).unwrap();
        let mut errors = crate::api::field_error::FieldErrors::default();
        super::super::validate::overhead(Some(&amounts), &path, &mut errors);
        errors.into_iter().count()
    };
    assert_eq!(overhead(json!({"memory": "1Mi", "hugepages-2Mi": "2Mi"})), 0);
    assert_eq!(overhead(json!({"memory": "1Mi", "hugepages-2Mi": "1Mi"})), 1);
    assert_eq!(overhead(json!({"hugepages-2Mi": "2Mi"})), 1);
}
