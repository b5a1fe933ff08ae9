//! The types that objects are made of, as OpenAPI schemas.
//!
//! `k8s-openapi` describes its types field by field, with Kubernetes' documentation. What its
//! descriptions leave out is added here: which kind a type is, how its lists merge, and the few defaults
//! that Kubernetes tells.

use std::collections::BTreeSet;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::Binding;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    DeleteOptions, ListMeta, Patch, Status, WatchEvent,
};
use k8s_openapi::schemars::SchemaGenerator;
use k8s_openapi::schemars::generate::SchemaSettings;
use proto::k8s as k8s_openapi;
use serde_json::{Map, Value, json};

use crate::api::kinds::ResourceInfo;
use crate::api::patch::schema::{self as merging, Topology};
use crate::api::rest::openapi::described::Described;
use crate::api::rest::openapi::enums::list_values;
use crate::api::rest::subresources::subresources;

/// Where a document keeps its schemas; references begin with it.
pub(crate) const SCHEMAS: &str = "#/components/schemas/";

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Defaults that Kubernetes tells in its documents: type, field, value.
const DEFAULTS: &[(&str, &str, &str)] = &[
    ("io.k8s.api.core.v1.ContainerPort", "protocol", "TCP"),
    ("io.k8s.api.core.v1.EndpointPort", "protocol", "TCP"),
    ("io.k8s.api.core.v1.ServicePort", "protocol", "TCP"),
];

/// The types of a document by name, and the names of its kinds' types.
pub(crate) struct Types {
    /// In the order of their names.
    pub(crate) schemas: Map<String, Value>,
}

/// The types that these kinds and what goes with them are made of. `all` are the kinds of all
/// documents: some types are the same for all of them.
pub(crate) fn types(kinds: &[Described], all: &[Described]) -> Types {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.transforms.clear();
    });
    let mut generator = settings.into_generator();
    for kind in kinds {
        kind.describe(&mut generator);
        for subresource in subresources(kind.resource()) {
            describe_other(subresource.kind, &mut generator);
        }
    }
    generator.subschema_for::<DeleteOptions>();
    generator.subschema_for::<ListMeta>();
    generator.subschema_for::<Patch>();
    generator.subschema_for::<Status>();
    generator.subschema_for::<WatchEvent<Value>>();
    let mut schemas: Map<String, Value> = generator.take_definitions(false).into_iter().collect();
    for (name, schema) in &mut schemas {
        finish(name, schema);
    }
    for kind in kinds {
        let resource = kind.resource();
        let name = kind.type_name();
        let list = list_of(resource, &name, &schemas);
        schemas.insert(format!("{name}List"), list);
        belongs_to(&mut schemas, &name, &[gvk(resource.group, resource.version, resource.kind)]);
        annotate(&mut schemas, &name, resource.kind, &mut BTreeSet::new());
        for subresource in subresources(resource) {
            if let Some((name, of)) = other(subresource.kind) {
                belongs_to(&mut schemas, name, &[gvk(subresource.group, subresource.version, of)]);
            }
        }
    }
    belongs_to(&mut schemas, &format!("{META}.Status"), &[gvk("", "v1", "Status")]);
    for kind in ["DeleteOptions", "WatchEvent"] {
        let everywhere = everywhere(kind, all);
        belongs_to(&mut schemas, &format!("{META}.{kind}"), &everywhere);
    }
    schemas.sort_keys();
    Types { schemas }
}

/// A reference to a type.
pub(crate) fn reference(name: &str) -> Value {
    json!({"$ref": format!("{SCHEMAS}{name}")})
}

/// A reference to a type that is the same in all documents, `Status` for instance.
pub(crate) fn meta_reference(kind: &str) -> Value {
    reference(&format!("{META}.{kind}"))
}

/// The schema of the type that a subresource speaks, if that is not its kind's own.
pub(crate) fn other(kind: &str) -> Option<(&'static str, &'static str)> {
    match kind {
        "Binding" => Some(("io.k8s.api.core.v1.Binding", "Binding")),
        "Eviction" => Some(("io.k8s.api.policy.v1.Eviction", "Eviction")),
        "Scale" => Some(("io.k8s.api.autoscaling.v1.Scale", "Scale")),
        "TokenRequest" => Some(("io.k8s.api.authentication.v1.TokenRequest", "TokenRequest")),
        _ => None,
    }
}

fn describe_other(kind: &str, generator: &mut SchemaGenerator) {
    match kind {
        "Binding" => drop(generator.subschema_for::<Binding>()),
        "Eviction" => drop(generator.subschema_for::<Eviction>()),
        "Scale" => drop(generator.subschema_for::<Scale>()),
        "TokenRequest" => drop(generator.subschema_for::<TokenRequest>()),
        _ => {}
    }
}

/// Group, version and kind, as documents name them.
pub(crate) fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "kind": kind, "version": version})
}

fn everywhere(kind: &str, all: &[Described]) -> Vec<Value> {
    let mut versions: Vec<(&str, &str)> =
        all.iter().map(|kind| (kind.resource().group, kind.resource().version)).collect();
    versions.sort_unstable();
    versions.dedup();
    versions.into_iter().map(|(group, version)| gvk(group, version, kind)).collect()
}

fn belongs_to(schemas: &mut Map<String, Value>, name: &str, kinds: &[Value]) {
    if let Some(schema) = schemas.get_mut(name) {
        schema["x-kubernetes-group-version-kind"] = json!(kinds);
    }
}

fn list_of(resource: &ResourceInfo, name: &str, schemas: &Map<String, Value>) -> Value {
    let kind = resource.kind;
    // Every kind says the same of these two.
    let same = |field: &str| schemas[name]["properties"][field].clone();
    json!({
        "description": format!("{kind}List is a list of {kind} objects."),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": same("apiVersion"),
            "items": {
                "description": format!("The {} of the list.", resource.plural),
                "type": "array",
                "items": reference(name),
            },
            "kind": same("kind"),
            "metadata": {
                "description": "Standard list metadata.",
                "allOf": [meta_reference("ListMeta")],
            },
        },
        "x-kubernetes-group-version-kind":
            [gvk(resource.group, resource.version, &format!("{kind}List"))],
    })
}

/// From the form of `k8s-openapi` to the one of Kubernetes' own documents.
fn finish(name: &str, schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    if object.shift_remove("x-kubernetes-int-or-string").is_some() {
        if name.ends_with("IntOrString") {
            object.insert("format".to_owned(), json!("int-or-string"));
            object.insert("oneOf".to_owned(), json!([{"type": "integer"}, {"type": "string"}]));
        } else {
            object.insert("oneOf".to_owned(), json!([{"type": "string"}, {"type": "number"}]));
        }
    }
    // The server takes an object without metadata, to say then that it has no name.
    let mut nothing_required = false;
    if let Some(required) = object.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|field| field != "metadata");
        nothing_required = required.is_empty();
    }
    if nothing_required {
        object.shift_remove("required");
    }
    for (_, field, value) in DEFAULTS.iter().filter(|(of, _, _)| *of == name) {
        object["properties"][*field]["default"] = json!(value);
    }
    list_values(name, schema);
    wrap_references(schema);
}

/// Nothing may stand beside a reference: one with a description becomes part of a schema with one.
fn wrap_references(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(wrap_references),
        Value::Object(object) => {
            if object.len() > 1
                && object.get("$ref").is_some_and(Value::is_string)
                && let Some(reference) = object.shift_remove("$ref")
            {
                object.insert("allOf".to_owned(), json!([{"$ref": reference}]));
            }
            object.values_mut().for_each(wrap_references);
        }
        _ => {}
    }
}

/// Tells how the fields of a type merge, and of all types below it. `of` is the type's name in the
/// table of merge keys.
fn annotate(
    schemas: &mut Map<String, Value>,
    name: &str,
    of: &'static str,
    seen: &mut BTreeSet<(String, &'static str)>,
) {
    if !seen.insert((name.to_owned(), of)) {
        return;
    }
    let Some(properties) = schemas.get_mut(name).and_then(|schema| schema.get_mut("properties"))
    else {
        return;
    };
    let mut below = Vec::new();
    for (field, property) in properties.as_object_mut().into_iter().flatten() {
        let is_list = property["type"] == "array";
        let Some(merge) = merging::field(of, field) else {
            if is_list {
                property["x-kubernetes-list-type"] = json!("atomic");
            }
            continue;
        };
        let strategy = merge.strategy;
        if let Some(key) = strategy.key {
            property["x-kubernetes-patch-merge-key"] = json!(key);
        }
        let strategies = [(strategy.merge, "merge"), (strategy.retain_keys, "retainKeys")];
        let strategies: Vec<&str> =
            strategies.iter().filter(|(holds, _)| *holds).map(|(_, name)| *name).collect();
        if !strategies.is_empty() {
            property["x-kubernetes-patch-strategy"] = json!(strategies.join(","));
        }
        match merge.topology {
            Topology::Map(keys) => {
                property["x-kubernetes-list-type"] = json!("map");
                property["x-kubernetes-list-map-keys"] = json!(keys);
            }
            Topology::Set => property["x-kubernetes-list-type"] = json!("set"),
            Topology::Atomic if is_list => property["x-kubernetes-list-type"] = json!("atomic"),
            Topology::Atomic => property["x-kubernetes-map-type"] = json!("atomic"),
            Topology::Granular => {}
        }
        let schema = if is_list { property["items"].as_object() } else { property.as_object() };
        let next = (!merge.of.is_empty()).then_some((schema, merge.of));
        if let Some((Some(schema), of)) = next
            && let Some(name) = referenced(schema)
        {
            below.push((name.to_owned(), of));
        }
    }
    for (name, of) in below {
        annotate(schemas, &name, of, seen);
    }
}

/// The name of the type that a schema refers to.
fn referenced(schema: &Map<String, Value>) -> Option<&str> {
    let own = schema.get("$ref");
    let reference = own.or_else(|| schema.get("allOf")?.get(0)?.get("$ref"))?;
    reference.as_str()?.strip_prefix(SCHEMAS)
}
