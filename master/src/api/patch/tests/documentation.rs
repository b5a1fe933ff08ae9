//! The cases of the RFCs and of Kubernetes' documentation, as tables.

use super::*;

/// RFC 7386, appendix A.
#[test]
fn merge_patches_follow_rfc_7386() {
    let cases = [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ];
    for (before, patch, after) in cases {
        let told = patch.to_string();
        assert_eq!(apply("application/merge-patch+json", before, patch).unwrap(), after, "{told}");
    }
    // An object of the API stays one: the RFC's patches that replace a document are refused.
    for patch in [json!(["c"]), json!(null), json!("bar"), json!(["c", "d"])] {
        let refused = apply("application/merge-patch+json", json!({"a": "b"}), patch);
        assert_eq!(refused.unwrap_err().code().as_u16(), 400);
    }
}

/// RFC 6902, appendix A, by its sections.
#[test]
fn json_patches_follow_rfc_6902() {
    let cases = [
        (
            "A.1",
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/baz", "value": "qux"}]),
            Some(json!({"baz": "qux", "foo": "bar"})),
        ),
        (
            "A.2",
            json!({"foo": ["bar", "baz"]}),
            json!([{"op": "add", "path": "/foo/1", "value": "qux"}]),
            Some(json!({"foo": ["bar", "qux", "baz"]})),
        ),
        (
            "A.3",
            json!({"baz": "qux", "foo": "bar"}),
            json!([{"op": "remove", "path": "/baz"}]),
            Some(json!({"foo": "bar"})),
        ),
        (
            "A.4",
            json!({"foo": ["bar", "qux", "baz"]}),
            json!([{"op": "remove", "path": "/foo/1"}]),
            Some(json!({"foo": ["bar", "baz"]})),
        ),
        (
            "A.5",
            json!({"baz": "qux", "foo": "bar"}),
            json!([{"op": "replace", "path": "/baz", "value": "boo"}]),
            Some(json!({"baz": "boo", "foo": "bar"})),
        ),
        (
            "A.6",
            json!({"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}}),
            json!([{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}]),
            Some(json!({"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}})),
        ),
        (
            "A.7",
            json!({"foo": ["all", "grass", "cows", "eat"]}),
            json!([{"op": "move", "from": "/foo/1", "path": "/foo/3"}]),
            Some(json!({"foo": ["all", "cows", "eat", "grass"]})),
        ),
        (
            "A.8",
            json!({"baz": "qux", "foo": ["a", 2, "c"]}),
            json!([
                {"op": "test", "path": "/baz", "value": "qux"},
                {"op": "test", "path": "/foo/1", "value": 2},
            ]),
            Some(json!({"baz": "qux", "foo": ["a", 2, "c"]})),
        ),
        (
            "A.9",
            json!({"baz": "qux"}),
            json!([{"op": "test", "path": "/baz", "value": "bar"}]),
            None,
        ),
        (
            "A.10",
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/child", "value": {"grandchild": {}}}]),
            Some(json!({"foo": "bar", "child": {"grandchild": {}}})),
        ),
        (
            "A.11",
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}]),
            Some(json!({"foo": "bar", "baz": "qux"})),
        ),
        (
            "A.12",
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/baz/bat", "value": "qux"}]),
            None,
        ),
        (
            "A.14",
            json!({"/": 9, "~1": 10}),
            json!([{"op": "test", "path": "/~01", "value": 10}]),
            Some(json!({"/": 9, "~1": 10})),
        ),
        (
            "A.15",
            json!({"/": 9, "~1": 10}),
            json!([{"op": "test", "path": "/~01", "value": "10"}]),
            None,
        ),
        (
            "A.16",
            json!({"foo": ["bar"]}),
            json!([{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}]),
            Some(json!({"foo": ["bar", ["abc", "def"]]})),
        ),
        // Of the text itself.
        (
            "4.5",
            json!({"a": [1, 2]}),
            json!([{"op": "copy", "from": "/a/0", "path": "/b"}]),
            Some(json!({"a": [1, 2], "b": 1})),
        ),
        ("4.2", json!({"a": 1}), json!([{"op": "remove", "path": "/b"}]), None),
        ("4.3", json!({"a": 1}), json!([{"op": "replace", "path": "/b", "value": 1}]), None),
        (
            "4.4",
            json!({"a": {"b": 1}}),
            json!([{"op": "move", "from": "/a", "path": "/a/b"}]),
            None,
        ),
    ];
    for (section, before, patch, after) in cases {
        let result = apply("application/json-patch+json", before, patch);
        match after {
            Some(after) => assert_eq!(result.unwrap(), after, "{section}"),
            None => assert_eq!(result.unwrap_err().code().as_u16(), 422, "{section}"),
        }
    }
    // A.13: an operation of two kinds is none.
    let twice = br#"[{"op": "add", "path": "/baz", "value": "qux", "op": "remove"}]"#;
    let parsed = Patch::parse(Some("application/json-patch+json"), twice);
    let applied = parsed.and_then(|patch| patch.apply(&Pods::RESOURCE, json!({"foo": "bar"})));
    assert!(applied.is_err(), "{applied:?}");
}

/// The page on strategic merge patches, directive by directive.
#[test]
fn directives_do_what_their_page_says() {
    let nginx = json!({"name": "nginx", "image": "nginx-1.0"});
    let tailer = json!({"name": "log-tailer", "image": "log-tailer-1.0"});
    let cases = [
        (
            "containers are merged by name",
            json!({"spec": {"containers": [nginx]}}),
            json!({"spec": {"containers": [tailer]}}),
            json!({"spec": {"containers": [tailer, nginx]}}),
        ),
        (
            "a map is replaced",
            json!({"spec": {"containers": [tailer], "restartPolicy": "Never"}}),
            json!({"spec": {"$patch": "replace", "containers": [nginx]}}),
            json!({"spec": {"containers": [nginx]}}),
        ),
        (
            "a list of maps is replaced",
            json!({"spec": {"containers": [tailer]}}),
            json!({"spec": {"containers": [nginx, {"$patch": "replace"}]}}),
            json!({"spec": {"containers": [nginx]}}),
        ),
        (
            "other directives in a list that is replaced are ignored",
            json!({"spec": {"containers": [tailer]}}),
            json!({"spec": {"containers": [
                nginx, {"$patch": "replace"}, {"$patch": "delete", "name": "nginx"},
            ]}}),
            json!({"spec": {"containers": [nginx]}}),
        ),
        (
            "an item is deleted while another is merged",
            json!({"spec": {"containers": [tailer]}}),
            json!({"spec": {"containers": [nginx, {"$patch": "delete", "name": "log-tailer"}]}}),
            json!({"spec": {"containers": [nginx]}}),
        ),
        (
            "all items of the key are deleted",
            json!({"spec": {"containers": [tailer, nginx, tailer]}}),
            json!({"spec": {"containers": [{"$patch": "delete", "name": "log-tailer"}]}}),
            json!({"spec": {"containers": [nginx]}}),
        ),
        (
            "values go from a set",
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b", "c"]}}),
            json!({"metadata": {"finalizers": ["a"]}}),
        ),
        (
            "a set is ordered",
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
            json!({"metadata": {"$setElementOrder/finalizers": ["b", "c", "a"]}}),
            json!({"metadata": {"finalizers": ["b", "c", "a"]}}),
        ),
        (
            "a list is ordered",
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}}),
            json!({"spec": {
                "$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}],
            }}),
            json!({"spec": {"containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}]}}),
        ),
        (
            "what is not retained goes",
            json!({"spec": {"volumes": [{"name": "union", "foo": "a", "other": "b"}]}}),
            json!({"spec": {"volumes": [{
                "name": "union", "$retainKeys": ["name", "another", "bar"],
                "another": "d", "bar": "c",
            }]}}),
            json!({"spec": {"volumes": [{"name": "union", "another": "d", "bar": "c"}]}}),
        ),
    ];
    for (what, before, patch, after) in cases {
        assert_eq!(strategic("Pod", before, patch), after, "{what}");
    }
    // Both directives mean another thing than the page says where they stand.
    for patch in [
        json!({"spec": {"$patch": "merge"}}),
        json!({"spec": {"containers": [{"name": "nginx", "$patch": "merge"}]}}),
    ] {
        let mut object = json!({"spec": {"containers": [nginx]}});
        assert!(strategic::apply("Pod", &mut object, &patch).is_err(), "{patch}");
    }
}

/// The task page of `kubectl patch`.
#[test]
fn kubectl_patch_does_what_its_page_says() {
    let template = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    let nginx = json!({"name": "patch-demo-ctr", "image": "nginx"});
    let redis = json!({"name": "patch-demo-ctr-2", "image": "redis"});
    let hello = json!({"name": "patch-demo-ctr-3", "image": "node-hello:1.0"});
    let dedicated = json!([{"effect": "NoSchedule", "key": "dedicated", "value": "test-team"}]);
    let ssd = json!([{"effect": "NoSchedule", "key": "disktype", "value": "ssd"}]);

    let mut live = template(json!({"containers": [nginx], "tolerations": dedicated}));
    live = strategic("Deployment", live, template(json!({"containers": [redis]})));
    let both = json!({"containers": [redis, nginx], "tolerations": dedicated});
    assert_eq!(live, template(both), "the new one first, as the page shows it");
    live = strategic("Deployment", live, template(json!({"tolerations": ssd})));
    assert_eq!(live, template(json!({"containers": [redis, nginx], "tolerations": ssd})));
    let patch = template(json!({"containers": [hello]}));
    live = apply("application/merge-patch+json", live, patch).unwrap();
    assert_eq!(live, template(json!({"containers": [hello], "tolerations": ssd})));

    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "30%"}});
    let live = json!({"spec": {"strategy": rolling}});
    let patch = json!({"spec": {"strategy": {"type": "Recreate"}}});
    let kept = strategic("Deployment", live.clone(), patch);
    assert_eq!(kept["spec"]["strategy"]["rollingUpdate"], rolling["rollingUpdate"]);
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let after = json!({"spec": {"strategy": {"type": "Recreate"}}});
    assert_eq!(strategic("Deployment", live, patch), after);
}

/// The page on declarative management: what `kubectl apply` makes of its three inputs, as patches.
#[test]
fn kubectl_apply_merges_as_its_page_says() {
    let image = |name: &str, image: &str| json!({"name": name, "image": image});
    let helper = |letter: &str| image(&format!("nginx-helper-{letter}"), "helper:1.3");
    let mut with_args = helper("b");
    with_args["args"] = json!(["run"]);
    let cases = [
        (
            "primitive fields are replaced and cleared, others are left alone",
            json!({"spec": {"replicas": 2, "minReadySeconds": 5, "template": {"spec": {
                "containers": [image("nginx", "nginx:1.14.2")],
            }}}}),
            json!({"spec": {"minReadySeconds": null, "template": {"spec": {
                "$setElementOrder/containers": [{"name": "nginx"}],
                "containers": [image("nginx", "nginx:1.16.1")],
            }}}}),
            json!({"spec": {"replicas": 2, "template": {"spec": {
                "containers": [image("nginx", "nginx:1.16.1")],
            }}}}),
        ),
        (
            "lists of plain values are replaced",
            json!({"spec": {"template": {"spec": {
                "containers": [{"name": "a", "args": ["a", "b", "d"]}],
            }}}}),
            json!({"spec": {"template": {"spec": {
                "containers": [{"name": "a", "args": ["a", "c"]}],
            }}}}),
            json!({"spec": {"template": {"spec": {
                "containers": [{"name": "a", "args": ["a", "c"]}],
            }}}}),
        ),
        (
            "lists of containers are merged",
            json!({"spec": {"template": {"spec": {"containers": [
                image("nginx", "nginx:1.16"), helper("a"), with_args, helper("d"),
            ]}}}}),
            json!({"spec": {"template": {"spec": {
                "$setElementOrder/containers": [
                    {"name": "nginx"}, {"name": "nginx-helper-b"}, {"name": "nginx-helper-c"},
                ],
                "containers": [helper("c"), {"name": "nginx-helper-a", "$patch": "delete"}],
            }}}}),
            json!({"spec": {"template": {"spec": {"containers": [
                image("nginx", "nginx:1.16"), with_args, helper("c"), helper("d"),
            ]}}}}),
        ),
    ];
    for (what, before, patch, after) in cases {
        assert_eq!(strategic("Deployment", before, patch), after, "{what}");
    }
}

#[test]
fn an_order_that_the_patch_contradicts_is_refused() {
    let order = |names: &[&str]| -> Value {
        names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>().into()
    };
    for (given, wanted, good) in [
        (vec!["a", "b"], vec!["a", "x", "b"], true),
        (vec!["b", "a"], vec!["a", "b"], false),
        (vec!["c"], vec!["a", "b"], false),
        (vec!["c"], vec![], true),
    ] {
        let patch = json!({"spec": {
            "$setElementOrder/containers": order(&wanted), "containers": order(&given),
        }});
        let mut object = json!({"spec": {"containers": order(&["a", "b"])}});
        let applied = strategic::apply("Pod", &mut object, &patch);
        assert_eq!(applied.is_ok(), good, "{patch}: {applied:?}");
    }
}
