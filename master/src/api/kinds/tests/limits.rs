//! What is wrong with limits and quotas.

use super::*;

#[test]
fn limit_ranges_keep_to_the_rules() {
    let range = json!({"metadata": meta(), "spec": {"limits": [
        {
            "type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "2"},
            "default": {"cpu": "1"}, "defaultRequest": {"cpu": "200m"},
            "maxLimitRequestRatio": {"cpu": "10"},
        },
        {"type": "Pod", "max": {"memory": "1Gi"}},
        {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}},
    ]}});
    settles::<LimitRanges>(&range);
    let container = |field: &str| format!("/spec/limits/0/{field}/cpu");
    let wrong = |field: &str| format!("spec.limits[0].{field}[cpu]: Invalid value: ");
    let (min, default, request, ratio) = (
        container("min"),
        container("default"),
        container("defaultRequest"),
        container("maxLimitRequestRatio"),
    );
    check::<LimitRanges>(
        &range,
        vec![
            (&min, json!("x"), &wrong("min")),
            (
                "/spec/limits/1/max/memory",
                json!("-1"),
                "spec.limits[1].max[memory]: Invalid value: \"-1\": must be greater",
            ),
            (
                &request,
                json!("1500m"),
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"1500m\": default request value 1500m is greater than default limit value 1",
            ),
            (
                &request,
                json!("50m"),
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"50m\": min value 100m is greater than default request value 50m",
            ),
            (
                &default,
                json!("3"),
                "spec.limits[0].default[cpu]: Invalid value: \"2\": default value 3 is greater than max value 2",
            ),
            (
                &ratio,
                json!("500m"),
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
            ),
            (
                &ratio,
                json!("21"),
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"21\": ratio 21 is greater than max/min = 20.000000",
            ),
            (
                "/spec/limits/0",
                json!({
                    "type": "Container", "default": {"hugepages-2Mi": "4Mi"},
                    "defaultRequest": {"hugepages-2Mi": "2Mi"},
                }),
                "spec.limits[0].defaultRequest[hugepages-2Mi]: Invalid value: \"4Mi\": default value 4Mi must equal to defaultRequest value 2Mi in hugepages-2Mi",
            ),
            (
                "/spec/limits/1/default",
                json!({"cpu": "1"}),
                "spec.limits[1].default: Forbidden: may not be specified when `type` is 'Pod'",
            ),
            ("/spec/limits/1/type", json!("Container"), "spec.limits[1].type: Duplicate value"),
            (
                "/spec/limits/1/type",
                json!("Node"),
                "spec.limits[1].type: Invalid value: \"Node\": must be a standard limit type",
            ),
            ("/spec/limits/1/type", json!("a.b/c"), "spec.limits[1].type: Forbidden"),
            (
                "/spec/limits/1/max",
                json!({"example.com/gpu": "1"}),
                "spec.limits[1].max[example.com/gpu]: Forbidden: is not supported",
            ),
            (
                "/spec/limits/1/max",
                json!({"pods": "1"}),
                "spec.limits[1].max[pods]: Invalid value: \"pods\": must be a standard",
            ),
            ("/spec/limits/2/max", json!(null), "spec.limits[2].limits: Required value"),
        ],
    );
    let stored = defaulted::<LimitRanges>(&json!({"metadata": meta(), "spec": {"limits": [
        {"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}},
    ]}}));
    assert_eq!(stored["spec"]["limits"][0]["default"], json!({"cpu": "2"}));
    let requests = json!({"cpu": "2", "memory": "1Mi"});
    assert_eq!(stored["spec"]["limits"][0]["defaultRequest"], requests);
    assert_eq!(row::<LimitRanges>(&range), ["web", "2026-01-01T11:00:00Z"]);
}

#[test]
fn resource_quotas_keep_to_the_rules() {
    let quota = json!({"metadata": meta(), "spec": {"hard": {
        "pods": "10", "requests.cpu": "4", "limits.memory": "8Gi", "count/deployments.apps": "3",
        "requests.nvidia.com/gpu": "1500m", "services.nodeports": "0",
    }}});
    settles::<ResourceQuotas>(&quota);
    let amount = |value: &str| json!({"pods": value});
    check::<ResourceQuotas>(
        &quota,
        vec![
            ("/spec/hard", amount("x"), "spec.hard[pods]: Invalid value: \"x\": quantities must"),
            ("/spec/hard", amount("-1"), "spec.hard[pods]: Invalid value: \"-1\": must be greater"),
            (
                "/spec/hard",
                amount("1.5"),
                "spec.hard[pods]: Invalid value: \"1.5\": must be an int",
            ),
            (
                "/spec/hard",
                json!({"storage": "1"}),
                "spec.hard[storage]: Invalid value: \"storage\": must be a standard resource for quota",
            ),
            (
                "/spec/hard",
                json!({"a/b/c": "1"}),
                "spec.hard[a/b/c]: Invalid value: \"a/b/c\": a qualified name must consist of",
            ),
        ],
    );
    let pods = json!({"metadata": meta(), "spec": {"hard": {"pods": "1"}, "scopes": []}});
    let expression = |scope: &str, operator: &str, values: Value| {
        let one = json!({"scopeName": scope, "operator": operator, "values": values});
        json!({"matchExpressions": [one]})
    };
    let selector = "spec.scopeSelector.matchExpressions";
    check::<ResourceQuotas>(
        &pods,
        vec![
            ("/spec/scopes", json!(["BestEffort", "NotTerminating"]), ""),
            (
                "/spec/scopes",
                json!(["Best"]),
                "spec.scopes: Invalid value: [\"Best\"]: unsupported",
            ),
            (
                "/spec/scopes",
                json!(["BestEffort", "NotBestEffort"]),
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
            ),
            ("/spec/scopes", json!(["VolumeAttributesClass"]), "spec.scopes: Forbidden"),
            ("/spec/scopeSelector", expression("PriorityClass", "In", json!(["a"])), ""),
            (
                "/spec/scopeSelector",
                expression("PriorityClass", "In", json!([])),
                &format!("{selector}.values: Required value: must be at least one value"),
            ),
            (
                "/spec/scopeSelector",
                expression("PriorityClass", "Exists", json!(["a"])),
                &format!("{selector}.values: Invalid value: [\"a\"]: must be no value"),
            ),
            (
                "/spec/scopeSelector",
                expression("PriorityClass", "Like", json!(["a"])),
                &format!("{selector}.operator: Invalid value: \"Like\": not a valid selector"),
            ),
            (
                "/spec/scopeSelector",
                expression("BestEffort", "In", json!(["a"])),
                &format!("{selector}.operator: Invalid value: \"In\": must be 'Exists' when scope"),
            ),
        ],
    );
    let scoped = with(&pods, "/spec/scopes", json!(["BestEffort"]));
    let wrong = with(&scoped, "/spec/hard", json!({"cpu": "1", "pods": "1"}));
    let wrong = errors::<ResourceQuotas>(&wrong);
    assert!(wrong[0].ends_with("unsupported scope applied to resource"), "{wrong:?}");
    check_updates::<ResourceQuotas>(
        &scoped,
        vec![
            ("/spec/hard", json!({"pods": "2"}), ""),
            ("/spec/scopes", json!([]), "spec.scopes: Invalid value: []: field is immutable"),
        ],
    );
    let mut told = quota.clone();
    told["status"] = json!({
        "hard": {"limits.cpu": "2", "pods": "10"}, "used": {"limits.cpu": "500m", "pods": "3"},
    });
    assert_eq!(row::<ResourceQuotas>(&told), ["web", "pods: 3/10", "limits.cpu: 500m/2", "60m"]);
}
