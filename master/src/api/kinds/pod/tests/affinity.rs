//! What pods may want of nodes and of other pods.

use serde_json::{Value, json};

use super::super::super::testing::{check, settles, with};
use super::super::Pods;
use super::full;

#[test]
fn affinity_keeps_to_the_rules() {
    let term = json!({
        "topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}},
        "namespaces": ["shop"], "namespaceSelector": {"matchLabels": {"team": "a"}},
        "matchLabelKeys": ["pod-template-hash"], "mismatchLabelKeys": ["tenant"],
    });
    let of_pods = json!({
        "requiredDuringSchedulingIgnoredDuringExecution": [term],
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 7, "podAffinityTerm": term}],
    });
    let of_node = json!({
        "matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}],
        "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}],
    });
    let manifest = with(
        &full(),
        "/spec/affinity",
        json!({
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [of_node]},
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 100, "preference": of_node},
                ],
            },
            "podAffinity": of_pods,
            "podAntiAffinity": of_pods,
        }),
    );
    settles::<Pods>(&manifest);
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    let terms = ("nodeAffinity", format!("{required}/nodeSelectorTerms"));
    let cases: Vec<(String, Value, &str)> = [
        (terms.0, terms.1.as_str(), json!([]), "nodeSelectorTerms: Required value: must have at least one node selector term"),
        ("nodeAffinity", &format!("{}/0/matchExpressions/0/operator", terms.1), json!("Near"), "nodeSelectorTerms[0].matchExpressions[0].operator: Invalid value: \"Near\": not a valid selector operator"),
        ("nodeAffinity", &format!("{}/0/matchExpressions/0/values", terms.1), json!([]), "nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when"),
        ("nodeAffinity", &format!("{}/0/matchExpressions/0/operator", terms.1), json!("Exists"), "nodeSelectorTerms[0].matchExpressions[0].values: Forbidden: may not be specified"),
        ("nodeAffinity", &format!("{}/0/matchExpressions/0/operator", terms.1), json!("Gt"), "nodeSelectorTerms[0].matchExpressions[0].values[0]: Invalid value: \"ssd\": must be an integer"),
        ("nodeAffinity", &format!("{}/0/matchExpressions/0/key", terms.1), json!("a b"), "nodeSelectorTerms[0].matchExpressions[0].key: Invalid value: \"a b\""),
        ("nodeAffinity", &format!("{}/0/matchFields/0/key", terms.1), json!("spec.x"), "nodeSelectorTerms[0].matchFields[0].key: Invalid value: \"spec.x\": not a valid field selector key"),
        ("nodeAffinity", &format!("{}/0/matchFields/0/values", terms.1), json!(["a", "b"]), "nodeSelectorTerms[0].matchFields[0].values: Required value: must be only one value"),
        ("nodeAffinity", &format!("{preferred}/0/weight"), json!(101), "weight: Invalid value: 101: must be in the range 1-100"),
        ("podAffinity", &format!("{preferred}/0/weight"), json!(0), "weight: Invalid value: 0: must be in the range 1-100"),
        ("podAffinity", &format!("{required}/0/topologyKey"), json!(""), "topologyKey: Required value: can not be empty"),
        ("podAffinity", &format!("{required}/0/topologyKey"), json!("a b"), "topologyKey: Invalid value: \"a b\""),
        ("podAffinity", &format!("{required}/0/namespaces/0"), json!("A"), "namespaces[0]: Invalid value: \"A\""),
        ("podAntiAffinity", &format!("{required}/0/namespaceSelector/matchLabels/team"), json!("-"), "namespaceSelector.matchLabels: Invalid value: \"-\""),
        ("podAntiAffinity", &format!("{required}/0/mismatchLabelKeys/0"), json!("pod-template-hash"), "matchLabelKeys[0]: Invalid value: \"pod-template-hash\": exists in both matchLabelKeys and mismatchLabelKeys"),
        ("podAntiAffinity", &format!("{required}/0/matchLabelKeys/0"), json!("-"), "matchLabelKeys[0]: Invalid value: \"-\""),
    ]
    .into_iter()
    .map(|(kind, pointer, value, expected)| (format!("/spec/affinity/{kind}/{pointer}"), value, expected))
    .collect();
    for (pointer, value, expected) in cases {
        let found = super::super::super::testing::errors::<Pods>(&with(&manifest, &pointer, value));
        assert_eq!(found.len(), 1, "{pointer}: {found:?}");
        assert!(found[0].starts_with("spec.affinity.") && found[0].contains(expected), "{found:?}");
    }
}

#[test]
fn spreading_keeps_to_the_rules() {
    let manifest = with(
        &full(),
        "/spec/topologySpreadConstraints",
        json!([
            {
                "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                "minDomains": 3, "nodeAffinityPolicy": "Honor", "nodeTaintsPolicy": "Ignore",
                "labelSelector": {"matchLabels": {"app": "web"}}, "matchLabelKeys": ["hash"],
            },
            {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"},
        ]),
    );
    settles::<Pods>(&manifest);
    let first = "/spec/topologySpreadConstraints/0";
    let second = "/spec/topologySpreadConstraints/1";
    let path = "spec.topologySpreadConstraints";
    for (pointer, value, expected) in [
        (
            format!("{first}/maxSkew"),
            json!(0),
            "[0].maxSkew: Invalid value: 0: must be greater than 0",
        ),
        (
            format!("{first}/topologyKey"),
            json!(""),
            "[0].topologyKey: Required value: can not be empty",
        ),
        (
            format!("{second}/whenUnsatisfiable"),
            json!("Never"),
            "[1].whenUnsatisfiable: Unsupported value: \"Never\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
        ),
        (
            format!("{second}/whenUnsatisfiable"),
            json!("DoNotSchedule"),
            "[1].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{zone, DoNotSchedule}\"",
        ),
        (
            format!("{first}/minDomains"),
            json!(0),
            "[0].minDomains: Invalid value: 0: must be greater than 0",
        ),
        (
            format!("{second}/minDomains"),
            json!(2),
            "[1].minDomains: Invalid value: 2: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
        ),
        (
            format!("{first}/nodeTaintsPolicy"),
            json!("Maybe"),
            "[0].nodeTaintsPolicy: Unsupported value: \"Maybe\": supported values: \"Honor\", \"Ignore\"",
        ),
        (
            format!("{second}/matchLabelKeys"),
            json!(["x"]),
            "[1].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
        ),
        (
            format!("{first}/matchLabelKeys/0"),
            json!("app"),
            "[0].matchLabelKeys[0]: Invalid value: \"app\": exists in both matchLabelKeys and labelSelector",
        ),
        (
            format!("{first}/labelSelector/matchLabels/app"),
            json!("-"),
            "[0].labelSelector.matchLabels: Invalid value: \"-\"",
        ),
    ] {
        check::<Pods>(&manifest, vec![(&pointer, value, &format!("{path}{expected}"))]);
    }
}
