//! What this version does not do is refused.

use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::PodSpec;
use proto::k8s as k8s_openapi;
use proto::pod_fields::{self, Answer, Field};
use serde_json::{Value, json};

use super::super::super::path;
use super::super::super::testing::{check, with};
use super::super::{Pods, validate};
use crate::api::field_error::FieldErrors;

/// What is wrong with a specification that says this alone.
fn errors_with(field: &Field, all: &[Field]) -> Vec<String> {
    let spec = pod_fields::spec_with(field, all);
    assert!(spec.pointer(&field.pointer).is_some(), "{}: {spec}", field.pointer);
    let mut spec: PodSpec = serde_json::from_value(spec.clone())
        .unwrap_or_else(|error| panic!("{}: {error}: {spec}", field.pointer));
    proto::pod_defaults::pod(&mut spec);
    let mut errors = FieldErrors::new();
    validate::spec(&spec, &path::Path::new("spec"), &mut errors);
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn every_field_at_every_place_is_honoured_or_refused() {
    let fields = pod_fields::all().unwrap_or_else(|problems| panic!("{problems}"));
    let mut problems = Vec::new();
    for field in &fields {
        let path = format!("spec.{}: ", field.path());
        let errors = errors_with(field, &fields);
        let told: Vec<&str> =
            errors.iter().filter_map(|error| error.strip_prefix(path.as_str())).collect();
        let not_here = |told: &&str| told.ends_with("cannot be set for an Ephemeral Container");
        let problem = match field.answer {
            Answer::Refused => {
                let refused = |told: &&str| {
                    told.contains("is not supported by this version") || not_here(told)
                };
                (!told.iter().any(refused)).then_some("is let pass")
            }
            // Some of its values may be, by their names.
            Answer::Honoured(_) => {
                let refused =
                    |told: &&str| told.starts_with("Forbidden: is not supported by this version");
                told.iter().any(refused).then_some("is refused")
            }
        };
        problems.extend(problem.map(|problem| format!("{path}{problem}: {errors:?}")));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn who_honours_a_field_names_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for ((of, field), answer) in pod_fields::table() {
        let Answer::Honoured(file) = answer else { continue };
        let text = fs::read_to_string(root.join(file))
            .unwrap_or_else(|error| panic!("{of}.{field} is to be honoured in {file}: {error}"));
        let words: Vec<&str> = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
        let named = [field.to_owned(), snake(field), format!("{}_", snake(field))];
        let is_named = named.iter().any(|name| words.contains(&name.as_str()));
        assert!(is_named, "{of}.{field} is to be honoured in {file}, which does not name it");
    }
}

/// `hostIPC` is `host_ipc`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    let mut was_upper = false;
    for c in name.chars() {
        if c.is_uppercase() && !was_upper {
            out.push('_');
        }
        was_upper = c.is_uppercase();
        out.extend(c.to_lowercase());
    }
    out
}
use super::full;

type Fields<'a> = &'a [(&'a str, Value)];

#[test]
fn what_is_not_honoured_is_refused_with_a_sentence() {
    let of_pod = [
        ("resourceClaims", json!([{"name": "x"}])),
        ("resources", json!({"limits": {"cpu": "1"}})),
    ];
    let of_pod_context = [("windowsOptions", json!({}))];
    let of_container = [("volumeDevices", json!([{"name": "x", "devicePath": "/dev/x"}]))];
    let of_context = [("windowsOptions", json!({}))];
    let of_mount = [("bindMountOptions", json!(["noexec"]))];
    let places: [(&str, &str, Fields<'_>); 5] = [
        ("/spec", "spec", &of_pod),
        ("/spec/securityContext", "spec.securityContext", &of_pod_context),
        ("/spec/containers/0", "spec.containers[0]", &of_container),
        ("/spec/containers/0/securityContext", "spec.containers[0].securityContext", &of_context),
        ("/spec/containers/0/volumeMounts/0", "spec.containers[0].volumeMounts[0]", &of_mount),
    ];
    // What would not go together with some of them.
    let pointer = "/spec/containers/0/securityContext/allowPrivilegeEscalation";
    let manifest = with(&full(), pointer, json!(null));
    for (pointer, path, fields) in places {
        for (field, value) in fields {
            let told = match value {
                Value::Array(list) if list[0].is_object() => String::new(),
                Value::Object(_) => String::new(),
                value => format!("{value} "),
            };
            check::<Pods>(
                &manifest,
                vec![(
                    &format!("{pointer}/{field}"),
                    value.clone(),
                    &format!(
                        "{path}.{field}: Forbidden: {told}is not supported by this version of Kutter: "
                    ),
                )],
            );
        }
    }
    check::<Pods>(
        &with(&full(), "/spec/containers/0/lifecycle", json!(null)),
        vec![
            (
                "/spec/os",
                json!({"name": "windows"}),
                "spec.os: Forbidden: \"windows\" is not supported by this version of Kutter: nodes run Linux",
            ),
            ("/spec/os", json!({"name": ""}), "spec.os.name: Required value: cannot be empty"),
            (
                "/spec/os",
                json!({"name": "beos"}),
                "spec.os: Unsupported value: \"beos\": supported values: \"linux\", \"windows\"",
            ),
            ("/spec/securityContext/appArmorProfile", json!({"type": "RuntimeDefault"}), ""),
            (
                "/spec/containers/0/securityContext/appArmorProfile",
                json!({"type": "Localhost", "localhostProfile": "x"}),
                "",
            ),
            (
                "/spec/containers/0/securityContext/appArmorProfile",
                json!({"type": "Localhost", "localhostProfile": " x"}),
                "spec.containers[0].securityContext.appArmorProfile.localhostProfile: Invalid value: \" x\": must not be padded with whitespace",
            ),
            (
                "/spec/securityContext/appArmorProfile",
                json!({"type": "Localhost"}),
                "spec.securityContext.appArmorProfile.localhostProfile: Required value: must be set when AppArmor type is Localhost",
            ),
            (
                "/spec/containers/0/resources/limits/example.com~1gpu",
                json!("1"),
                "spec.containers[0].resources.limits[example.com/gpu]: Forbidden: is not supported",
            ),
            (
                "/metadata/annotations",
                json!({"kubernetes.io/ingress-bandwidth": "1M"}),
                "metadata.annotations[kubernetes.io/ingress-bandwidth]: Forbidden: \"1M\" is not supported",
            ),
        ],
    );
}
