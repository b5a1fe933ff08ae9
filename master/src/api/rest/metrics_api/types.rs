//! The types of `metrics.k8s.io`, for OpenAPI: `k8s-openapi` has those of Kubernetes' own groups only.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use proto::k8s as k8s_openapi;
use serde_json::{Map, Value, json};

pub(crate) const NODE_METRICS: &str = "io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics";
pub(crate) const POD_METRICS: &str = "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics";

pub(super) struct NodeMetrics;
pub(super) struct PodMetrics;
struct ContainerMetrics;
struct Duration;

impl JsonSchema for NodeMetrics {
    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed(NODE_METRICS)
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let usage = usage("The memory usage is the memory working set.", generator);
        object("What a node uses.", "usage", usage, generator)
    }
}

impl JsonSchema for PodMetrics {
    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed(POD_METRICS)
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let containers = json!({
            "description": "What each container uses, over the same window.",
            "type": "array",
            "items": generator.subschema_for::<ContainerMetrics>(),
        });
        object("What the containers of a pod use.", "containers", containers, generator)
    }
}

impl JsonSchema for ContainerMetrics {
    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("io.k8s.metrics.pkg.apis.metrics.v1beta1.ContainerMetrics")
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "What a container uses.",
            "type": "object",
            "required": ["name", "usage"],
            "properties": {
                "name": {
                    "description": "The container's name in the pod's spec.",
                    "type": "string",
                },
                "usage": usage("The memory usage is the memory working set.", generator),
            },
        })
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("io.k8s.apimachinery.pkg.apis.meta.v1.Duration")
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A length of time as Go writes it: 1m30.5s.",
            "type": "string",
        })
    }
}

fn usage(description: &str, generator: &mut SchemaGenerator) -> Value {
    json!({
        "description": format!("`cpu` and `memory`. {description}"),
        "type": "object",
        "additionalProperties": generator.subschema_for::<Quantity>(),
    })
}

/// A type whose objects are a measurement, with one field of its own.
fn object(
    description: &str,
    field: &str,
    measured: Value,
    generator: &mut SchemaGenerator,
) -> Schema {
    let described = |description: &str, schema: Schema| {
        let mut schema = schema.to_value();
        schema["description"] = json!(description);
        schema
    };
    let text = |description: &str| json!({"description": description, "type": "string"});
    let mut properties = Map::new();
    let mut add = |name: &str, schema: Value| properties.insert(name.to_owned(), schema);
    add("apiVersion", text("The version of the type of this object: metrics.k8s.io/v1beta1."));
    add("kind", text("The type of this object."));
    let meta = generator.subschema_for::<ObjectMeta>();
    add("metadata", described("The name, namespace and labels of what was measured.", meta));
    let time = generator.subschema_for::<Time>();
    add("timestamp", described("The end of the window.", time));
    let duration = generator.subschema_for::<Duration>();
    add("window", described("How long was measured.", duration));
    add(field, measured);
    json_schema!({
        "description": description,
        "type": "object",
        "required": ["timestamp", "window", field],
        "properties": properties,
    })
}
