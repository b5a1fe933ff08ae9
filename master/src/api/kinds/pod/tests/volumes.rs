//! What is wrong with volumes, and with their mounts.

use serde_json::json;

use super::super::super::testing::{check, defaulted, with};
use super::super::Pods;
use super::full;

#[test]
fn volumes_and_mounts_keep_to_the_rules() {
    let mount = |rest: &str| format!("/spec/containers/0/volumeMounts/0/{rest}");
    check::<Pods>(
        &full(),
        vec![
            ("/spec/volumes/1/name", json!(""), "spec.volumes[1].name: Required value"),
            ("/spec/volumes/1/name", json!("A"), "spec.volumes[1].name: Invalid value"),
            (
                "/spec/volumes/1/name",
                json!("logs"),
                "spec.volumes[2].name: Duplicate value: \"logs\"",
            ),
            (
                "/spec/volumes/1/hostPath",
                json!({"path": "/a"}),
                "spec.volumes[1].hostPath: Forbidden: may not specify more than 1 volume type",
            ),
            (
                "/spec/volumes/1/emptyDir/medium",
                json!("Tape"),
                "spec.volumes[1].emptyDir.medium: Unsupported value: \"Tape\"",
            ),
            ("/spec/volumes/1/emptyDir/medium", json!("HugePages"), ""),
            ("/spec/volumes/1/emptyDir/medium", json!("HugePages-2Mi"), ""),
            (
                "/spec/volumes/1/emptyDir/medium",
                json!("HugePages-big"),
                "spec.volumes[1].emptyDir.medium: Unsupported value: \"HugePages-big\"",
            ),
            ("/spec/volumes/1/emptyDir/mode", json!(0o1777), ""),
            (
                "/spec/volumes/1/emptyDir/mode",
                json!(0o2777),
                "spec.volumes[1].emptyDir.mode: Invalid value: 1535: must be a number between 0 and 01777 (octal)",
            ),
            (
                "/spec/volumes/1/emptyDir/sizeLimit",
                json!("lots"),
                "spec.volumes[1].emptyDir.sizeLimit: Invalid value: \"lots\": quantities must match",
            ),
            (
                "/spec/volumes/1/emptyDir/sizeLimit",
                json!("-1"),
                "spec.volumes[1].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity",
            ),
            (
                "/spec/volumes/2/hostPath/path",
                json!(""),
                "spec.volumes[2].hostPath.path: Required value",
            ),
            (
                "/spec/volumes/2/hostPath/path",
                json!("/a/../b"),
                "spec.volumes[2].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            ),
            (
                "/spec/volumes/2/hostPath/path",
                json!("a"),
                "spec.volumes[2].hostPath.path: Invalid value: \"a\": must be an absolute path",
            ),
            (
                "/spec/volumes/2/hostPath/type",
                json!("Dir"),
                "spec.volumes[2].hostPath.type: Unsupported value: \"Dir\"",
            ),
            (
                "/spec/volumes/3/configMap/name",
                json!(""),
                "spec.volumes[3].configMap.name: Required value",
            ),
            (
                "/spec/volumes/3/configMap/items/0/key",
                json!(""),
                "spec.volumes[3].configMap.items[0].key: Required value",
            ),
            (
                "/spec/volumes/3/configMap/items/0/path",
                json!("/a"),
                "spec.volumes[3].configMap.items[0].path: Invalid value: \"/a\": must be a relative path",
            ),
            (
                "/spec/volumes/3/configMap/items/0/path",
                json!("a/../../b"),
                "spec.volumes[3].configMap.items[0].path: Invalid value: \"a/../../b\": must not contain '..'",
            ),
            (
                "/spec/volumes/3/configMap/items/0/path",
                json!("..data"),
                "spec.volumes[3].configMap.items[0].path: Invalid value: \"..data\": must not start with '..'",
            ),
            (
                "/spec/volumes/3/configMap/items/0/mode",
                json!(512),
                "spec.volumes[3].configMap.items[0].mode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
            ),
            (
                "/spec/volumes/4/secret/secretName",
                json!(null),
                "spec.volumes[4].secret.secretName: Required value",
            ),
            (
                "/spec/volumes/4/secret/defaultMode",
                json!(-1),
                "spec.volumes[4].secret.defaultMode: Invalid value",
            ),
            (
                "/spec/volumes/5",
                json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}}),
                "spec.volumes[5].persistentVolumeClaim: Forbidden: is not supported by this version of Kutter: use emptyDir, hostPath, configMap, secret, downwardAPI, projected or image",
            ),
            (
                &mount("name"),
                json!("nothing"),
                "spec.containers[0].volumeMounts[0].name: Not found: \"nothing\"",
            ),
            (&mount("name"), json!(""), "spec.containers[0].volumeMounts[0].name: Required value"),
            (
                &mount("mountPath"),
                json!(""),
                "spec.containers[0].volumeMounts[0].mountPath: Required value",
            ),
            (
                &mount("mountPath"),
                json!("/etc/web/"),
                "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/etc/web\": must be unique",
            ),
            (
                &mount("mountPath"),
                json!("tmp"),
                "spec.containers[0].volumeMounts[0].mountPath: Invalid value: \"tmp\": must be an absolute path",
            ),
            (
                &mount("mountPath"),
                json!("/"),
                "spec.containers[0].volumeMounts[0].mountPath: Invalid value: \"/\": must not be the root",
            ),
            (
                &mount("mountPath"),
                json!("/a/../b"),
                "spec.containers[0].volumeMounts[0].mountPath: Invalid value: \"/a/../b\": must not contain '..'",
            ),
            (&mount("mountPropagation"), json!("None"), ""),
            (&mount("subPath"), json!("a/./..b/c"), ""),
            (&mount("subPathExpr"), json!("$(POD)/logs"), ""),
            (
                &mount("subPath"),
                json!("/a"),
                "spec.containers[0].volumeMounts.subPath: Invalid value: \"/a\": must be a relative path",
            ),
            (
                &mount("subPath"),
                json!("a/../b"),
                "spec.containers[0].volumeMounts.subPath: Invalid value: \"a/../b\": must not contain '..'",
            ),
            (
                &mount("subPathExpr"),
                json!("$(A)/.."),
                "spec.containers[0].volumeMounts.subPathExpr: Invalid value: \"$(A)/..\": must not contain '..'",
            ),
        ],
    );
}

#[test]
fn what_is_mounted_below_is_read_only_with_the_mount_alone() {
    let mount = "/spec/containers/0/volumeMounts/0";
    let path = "spec.containers[0].volumeMounts.recursiveReadOnly";
    let lone = format!("{path}: Forbidden: may only be specified when readOnly is true");
    let known = "supported values: \"Disabled\", \"Enabled\", \"IfPossible\"";
    let cases = [
        (false, "Disabled", String::new()),
        (true, "Disabled", String::new()),
        (true, "Enabled", String::new()),
        (true, "IfPossible", String::new()),
        (false, "Enabled", lone.clone()),
        (false, "IfPossible", lone),
        (true, "", format!("{path}: Unsupported value: \"\": {known}")),
        (true, "Always", format!("{path}: Unsupported value: \"Always\": {known}")),
    ];
    for (is_read_only, mode, wanted) in cases {
        let pod = with(&full(), &format!("{mount}/readOnly"), json!(is_read_only));
        let field = format!("{mount}/recursiveReadOnly");
        check::<Pods>(&pod, vec![(&field, json!(mode), &wanted)]);
    }
    let alone = "may only be specified when mountPropagation is None or not specified";
    let alone = format!("{path}: Forbidden: {alone}");
    for (propagation, mode, wanted) in [
        ("None", "Enabled", ""),
        ("HostToContainer", "Disabled", ""),
        ("HostToContainer", "Enabled", &*alone),
        ("HostToContainer", "IfPossible", &*alone),
    ] {
        let pod = with(&full(), &format!("{mount}/readOnly"), json!(true));
        let pod = with(&pod, &format!("{mount}/mountPropagation"), json!(propagation));
        check::<Pods>(&pod, vec![(&format!("{mount}/recursiveReadOnly"), json!(mode), wanted)]);
    }
}

#[test]
fn only_privileged_containers_mount_for_the_node() {
    let context = "/spec/containers/0/securityContext";
    let field = "/spec/containers/0/volumeMounts/0/mountPropagation";
    let path = "spec.containers[0].volumeMounts.mountPropagation";
    let known = "supported values: \"Bidirectional\", \"HostToContainer\", \"None\"";
    let alone = format!(
        "{path}: Forbidden: Bidirectional mount propagation is available only to privileged containers"
    );
    let unknown = |value: &str| format!("{path}: Unsupported value: \"{value}\": {known}");
    for (privileged, value, wanted) in [
        (false, "None", String::new()),
        (false, "HostToContainer", String::new()),
        (true, "Bidirectional", String::new()),
        (false, "Bidirectional", alone),
        (false, "", unknown("")),
        (true, "Both", unknown("Both")),
    ] {
        let pod = with(&full(), context, json!({ "privileged": privileged }));
        check::<Pods>(&pod, vec![(field, json!(value), &wanted)]);
    }
}

#[test]
fn a_volume_may_be_an_image() {
    let field = "/spec/volumes/0";
    let volume = |image: serde_json::Value| json!({"name": "scratch", "image": image});
    let of = |pod: &serde_json::Value| pod["spec"]["volumes"][0]["image"]["pullPolicy"].clone();
    for (reference, policy) in [("files:1", "IfNotPresent"), ("files", "Always")] {
        let pod = with(&full(), field, volume(json!({ "reference": reference })));
        assert_eq!(of(&defaulted::<Pods>(&pod)), policy, "{reference}");
    }
    let policies = "supported values: \"Always\", \"IfNotPresent\", \"Never\"";
    let unknown =
        format!("spec.volumes[0].image.pullPolicy: Unsupported value: \"Maybe\": {policies}");
    let blank = "must not have leading or trailing whitespace";
    let blank = format!("spec.volumes[0].image.reference: Invalid value: \" a\": {blank}");
    let both = "spec.volumes[0].image: Forbidden: may not specify more than 1 volume type";
    check::<Pods>(
        &full(),
        vec![
            (field, volume(json!({"reference": "files:1", "pullPolicy": "Never"})), ""),
            (field, volume(json!({})), "spec.volumes[0].image.reference: Required value"),
            (field, volume(json!({"reference": "a:1", "pullPolicy": "Maybe"})), &unknown),
            (field, volume(json!({"reference": " a"})), &blank),
            (
                field,
                json!({"name": "scratch", "emptyDir": {}, "image": {"reference": "files:1"}}),
                both,
            ),
        ],
    );
}

#[test]
fn a_mount_has_one_sub_path() {
    let pod = with(&full(), "/spec/containers/0/volumeMounts/0/subPath", json!("a"));
    check::<Pods>(
        &pod,
        vec![(
            "/spec/containers/0/volumeMounts/0/subPathExpr",
            json!("b"),
            "spec.containers[0].volumeMounts[0].subPathExpr: Invalid value: \"b\": subPathExpr and subPath are mutually exclusive",
        )],
    );
}

#[test]
fn files_are_made_of_objects_and_of_the_pod_itself() {
    let files = json!([
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "tier", "fieldRef": {"fieldPath": "metadata.annotations['tier']"}, "mode": 256},
        {"path": "cpu", "resourceFieldRef": {"containerName": "main", "resource": "limits.cpu", "divisor": "1m"}},
    ]);
    let volumes = json!([
        {"name": "told", "downwardAPI": {"items": files}},
        {"name": "all", "projected": {"sources": [
            {"configMap": {"name": "web", "items": [{"key": "a", "path": "map/a", "user": 7}]}},
            {"secret": {"name": "web", "optional": true}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        ], "defaultMode": 256}},
    ]);
    let pod = with(&full(), "/spec/volumes", volumes);
    let pod = with(&pod, "/spec/containers/0/volumeMounts", json!([]));
    let defaulted = defaulted::<Pods>(&pod);
    let told = &defaulted["spec"]["volumes"][0]["downwardAPI"];
    assert_eq!(told["defaultMode"], 420);
    assert_eq!(told["items"][0]["fieldRef"]["apiVersion"], "v1");
    let item = |rest: &str| format!("/spec/volumes/0/downwardAPI/items/0/{rest}");
    let source = |rest: &str| format!("/spec/volumes/1/projected/sources/{rest}");
    let of_volume = "spec.volumes[0].downwardAPI";
    let of_source = |index: usize| format!("spec.volumes[1].projected.sources[{index}]");
    let twice = "conflicting duplicate paths";
    let cases: Vec<(String, serde_json::Value, String)> = vec![
        (item("path"), json!(""), format!("{of_volume}.path: Required value")),
        (
            item("path"),
            json!("../x"),
            format!("{of_volume}.path: Invalid value: \"../x\": must not contain '..'"),
        ),
        (
            item("fieldRef"),
            json!(null),
            format!(
                "{of_volume}: Required value: one of fieldRef and resourceFieldRef is required"
            ),
        ),
        (
            item("fieldRef/fieldPath"),
            json!("status.podIP"),
            format!(
                "{of_volume}.fieldRef.fieldPath: Unsupported value: \"status.podIP\": supported values: \"metadata.annotations\", \"metadata.labels\""
            ),
        ),
        (
            item("resourceFieldRef"),
            json!({"containerName": "main", "resource": "limits.cpu"}),
            format!(
                "{of_volume}: Invalid value: \"resource\": fieldRef and resourceFieldRef can not be specified simultaneously"
            ),
        ),
        (
            "/spec/volumes/0/downwardAPI/items/2/resourceFieldRef/containerName".to_owned(),
            json!(""),
            format!("{of_volume}.resourceFieldRef.containerName: Required value"),
        ),
        (
            "/spec/volumes/0/downwardAPI/items/2/resourceFieldRef/containerName".to_owned(),
            json!("other"),
            format!("{of_volume}.resourceFieldRef.containerName: Not found: \"other\""),
        ),
        (
            item("mode"),
            json!(512),
            format!("{of_volume}.mode: Invalid value: 512: must be a number"),
        ),
        (item("user"), json!(-1), format!("{of_volume}.user: Invalid value: -1: must be between")),
        (
            "/spec/volumes/1/projected/defaultMode".to_owned(),
            json!(-1),
            "spec.volumes[1].projected.defaultMode: Invalid value: -1".to_owned(),
        ),
        (
            source("0/configMap/name"),
            json!(""),
            format!("{}.configMap.name: Required value", of_source(0)),
        ),
        (
            source("0/configMap/items/0/path"),
            json!("/a"),
            format!("{}.configMap.items[0].path: Invalid value: \"/a\"", of_source(0)),
        ),
        (
            source("1/secret/items"),
            json!([{"key": "b", "path": "map/a"}]),
            format!("spec.volumes[1].projected: Invalid value: \"web\": {twice}"),
        ),
        (
            source("2/downwardAPI/items/0/path"),
            json!("map/a"),
            format!("spec.volumes[1].projected: Invalid value: \"map/a\": {twice}"),
        ),
        (
            source("2/configMap"),
            json!({"name": "x"}),
            format!(
                "{}: Forbidden: may not specify more than 1 volume type per source",
                of_source(2)
            ),
        ),
        (
            source("0"),
            json!({"serviceAccountToken": {"path": "t", "expirationSeconds": 599}}),
            format!(
                "{}.serviceAccountToken.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
                of_source(0)
            ),
        ),
        (
            source("0"),
            json!({"serviceAccountToken": {"path": "t", "expirationSeconds": 4_294_967_297_i64}}),
            format!(
                "{}.serviceAccountToken.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
                of_source(0)
            ),
        ),
        (
            source("0"),
            json!({"serviceAccountToken": {"path": "../t"}}),
            "spec.volumes[1].projected.path: Invalid value: \"../t\": must not contain '..'"
                .to_owned(),
        ),
        (
            source("0"),
            json!({"serviceAccountToken": {"path": ""}}),
            "spec.volumes[1].projected.path: Required value".to_owned(),
        ),
        (
            source("0"),
            json!({"clusterTrustBundle": {"name": "x", "path": "y"}}),
            format!(
                "{}.clusterTrustBundle: Forbidden: is not supported by this version of Kutter: use a ConfigMap",
                of_source(0)
            ),
        ),
        (
            source("0"),
            json!({"podCertificate": {"signerName": "x/y", "keyType": "ED25519"}}),
            format!(
                "{}.podCertificate: Forbidden: is not supported by this version of Kutter: use a Secret",
                of_source(0)
            ),
        ),
    ];
    for (pointer, value, told) in &cases {
        check::<Pods>(&pod, vec![(pointer, value.clone(), told)]);
    }
}
