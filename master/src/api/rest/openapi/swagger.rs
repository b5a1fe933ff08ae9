//! From OpenAPI v3 to OpenAPI v2, which older clients read.

use serde_json::{Map, Value, json};

use crate::api::rest::openapi::types::SCHEMAS;

const DEFINITIONS: &str = "#/definitions/";

/// An entry of `paths`.
pub(crate) fn path_item(item: &Value) -> Value {
    let mut converted = Map::new();
    for (method, operation) in item.as_object().into_iter().flatten() {
        let value = if method == "parameters" {
            Value::Array(elements(operation).map(parameter).collect())
        } else {
            self::operation(operation)
        };
        converted.insert(method.clone(), value);
    }
    Value::Object(converted)
}

fn operation(operation: &Value) -> Value {
    let mut parameters: Vec<Value> = elements(&operation["parameters"]).map(parameter).collect();
    let body = &operation["requestBody"];
    let mut consumes = vec!["*/*".to_owned()];
    if let Some(content) = body["content"].as_object() {
        consumes = content.keys().cloned().collect();
        // One schema for all media types: a JSON patch is the only one that is different.
        let main = content.iter().find(|(media_type, _)| !media_type.contains("json-patch"));
        let mut body = json!({"name": "body", "in": "body", "required": body["required"] == true});
        body["schema"] = main.map_or_else(|| json!({}), |(_, content)| schema(&content["schema"]));
        parameters.insert(0, body);
    }
    let mut produces = Vec::new();
    let mut responses = Map::new();
    for (code, response) in operation["responses"].as_object().into_iter().flatten() {
        let mut converted = json!({"description": response["description"]});
        if let Some(content) = response["content"].as_object() {
            produces = content.keys().cloned().collect();
            if let Some(content) = content.values().next() {
                converted["schema"] = schema(&content["schema"]);
            }
        }
        responses.insert(code.clone(), converted);
    }
    let mut converted = json!({
        "consumes": consumes,
        "description": operation["description"],
        "operationId": operation["operationId"],
        "produces": produces,
        "responses": responses,
        "schemes": ["https"],
        "tags": operation["tags"],
    });
    if !parameters.is_empty() {
        converted["parameters"] = Value::Array(parameters);
    }
    for (key, value) in operation.as_object().into_iter().flatten() {
        if key.starts_with("x-") {
            converted[key.as_str()] = value.clone();
        }
    }
    converted
}

/// The type of a parameter stands beside its name.
fn parameter(parameter: &Value) -> Value {
    let mut converted = parameter.clone();
    if let Some(object) = converted.as_object_mut()
        && let Some(Value::Object(schema)) = object.shift_remove("schema")
    {
        object.extend(schema);
    }
    converted
}

/// A type.
pub(crate) fn schema(schema: &Value) -> Value {
    match schema {
        Value::Array(items) => Value::Array(items.iter().map(self::schema).collect()),
        Value::Object(object) => {
            let mut converted = Map::new();
            for (key, value) in object {
                match key.as_str() {
                    "$ref" => drop(converted.insert("$ref".to_owned(), moved(value))),
                    // A reference may have a description beside it here.
                    "allOf" => drop(converted.insert("$ref".to_owned(), moved(&value[0]["$ref"]))),
                    // As in Kubernetes, whose older clients hold manifests to what stands here.
                    "enum" => {}
                    // Text or number: there is no way to say so.
                    "oneOf" => drop(converted.insert("type".to_owned(), json!("string"))),
                    _ => drop(converted.insert(key.clone(), self::schema(value))),
                }
            }
            Value::Object(converted)
        }
        _ => schema.clone(),
    }
}

fn moved(reference: &Value) -> Value {
    let name = reference.as_str().and_then(|reference| reference.strip_prefix(SCHEMAS));
    name.map_or(Value::Null, |name| Value::String(format!("{DEFINITIONS}{name}")))
}

fn elements(array: &Value) -> impl Iterator<Item = &Value> {
    array.as_array().into_iter().flatten()
}
