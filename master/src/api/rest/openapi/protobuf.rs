//! OpenAPI v2 as a protobuf message, the form in which kubectl asked for it for years.
//!
//! The messages are those of gnostic's `OpenAPIv2.proto`; the numbers below are its field numbers.
//! A message is written field by field out of the JSON: the document is large, and nothing here ever
//! reads one. Fields that our documents never have are not written.

use prost::encoding::{self, WireType};
use serde_json::Value;

/// A message under way.
#[derive(Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// The bytes on the wire.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        encoding::encode_key(field, WireType::LengthDelimited, &mut self.0);
        encoding::encode_varint(bytes.len() as u64, &mut self.0);
        self.0.extend_from_slice(bytes);
    }

    /// Text; an empty one is not written, as everywhere in proto3.
    pub(crate) fn text(&mut self, field: u32, text: &Value) {
        if let Some(text) = text.as_str().filter(|text| !text.is_empty()) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u32, texts: &Value) {
        for text in texts.as_array().into_iter().flatten() {
            self.text(field, text);
        }
    }

    fn flag(&mut self, field: u32, flag: &Value) {
        if flag == &Value::Bool(true) {
            encoding::encode_key(field, WireType::Varint, &mut self.0);
            encoding::encode_varint(1, &mut self.0);
        }
    }

    /// A message within.
    pub(crate) fn message(&mut self, field: u32, message: Self) {
        self.bytes(field, &message.0);
    }

    fn optional(&mut self, field: u32, value: &Value, convert: impl Fn(&Value) -> Self) {
        if !value.is_null() {
            self.message(field, convert(value));
        }
    }

    /// An entry of a map: a message of the key and the value.
    pub(crate) fn entry(&mut self, field: u32, name: &str, value: Self) {
        let mut entry = Self::default();
        entry.bytes(1, name.as_bytes());
        entry.message(2, value);
        self.message(field, entry);
    }

    /// What begins with `x-`.
    fn extensions(&mut self, field: u32, of: &Value) {
        for (key, value) in of.as_object().into_iter().flatten() {
            if key.starts_with("x-") {
                self.entry(field, key, any(value));
            }
        }
    }
}

/// `Info`
pub(crate) fn info(info: &Value) -> Message {
    let mut message = Message::default();
    message.text(1, &info["title"]);
    message.text(2, &info["version"]);
    message
}

/// `Any`: anything as YAML, of which JSON is a part.
fn any(value: &Value) -> Message {
    let mut message = Message::default();
    message.bytes(2, value.to_string().as_bytes());
    message
}

/// `PathItem`
pub(crate) fn path_item(item: &Value) -> Message {
    let mut message = Message::default();
    for (field, method) in [
        (2, "get"),
        (3, "put"),
        (4, "post"),
        (5, "delete"),
        (6, "options"),
        (7, "head"),
        (8, "patch"),
    ] {
        message.optional(field, &item[method], operation);
    }
    for parameter in item["parameters"].as_array().into_iter().flatten() {
        message.message(9, parameters_item(parameter));
    }
    message.extensions(10, item);
    message
}

fn operation(operation: &Value) -> Message {
    let mut message = Message::default();
    message.texts(1, &operation["tags"]);
    message.text(3, &operation["description"]);
    message.text(5, &operation["operationId"]);
    message.texts(6, &operation["produces"]);
    message.texts(7, &operation["consumes"]);
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        message.message(8, parameters_item(parameter));
    }
    message.optional(9, &operation["responses"], responses);
    message.texts(10, &operation["schemes"]);
    message.extensions(13, operation);
    message
}

/// `ParametersItem` of a `Parameter`.
fn parameters_item(parameter: &Value) -> Message {
    let mut message = Message::default();
    message.message(1, self::parameter(parameter));
    message
}

fn parameter(parameter: &Value) -> Message {
    let mut message = Message::default();
    if parameter["in"] == "body" {
        let mut body = Message::default();
        body.text(1, &parameter["description"]);
        body.text(2, &parameter["name"]);
        body.text(3, &parameter["in"]);
        body.flag(4, &parameter["required"]);
        body.optional(5, &parameter["schema"], schema);
        message.message(1, body);
        return message;
    }
    let in_query = parameter["in"] == "query";
    let mut own = Message::default();
    own.flag(1, &parameter["required"]);
    own.text(2, &parameter["in"]);
    own.text(3, &parameter["description"]);
    own.text(4, &parameter["name"]);
    // One in the query has a field more here: whether it may be empty.
    own.text(if in_query { 6 } else { 5 }, &parameter["type"]);
    own.flag(if in_query { 20 } else { 19 }, &parameter["uniqueItems"]);
    let mut non_body = Message::default();
    non_body.message(if in_query { 3 } else { 4 }, own);
    message.message(2, non_body);
    message
}

fn responses(responses: &Value) -> Message {
    let mut message = Message::default();
    for (code, response) in responses.as_object().into_iter().flatten() {
        let mut own = Message::default();
        own.text(1, &response["description"]);
        own.optional(2, &response["schema"], |value| {
            let mut item = Message::default();
            item.message(1, schema(value));
            item
        });
        let mut value = Message::default();
        value.message(1, own);
        message.entry(1, code, value);
    }
    message
}

/// `Schema`
pub(crate) fn schema(schema: &Value) -> Message {
    let mut message = Message::default();
    message.text(1, &schema["$ref"]);
    message.text(2, &schema["format"]);
    message.text(4, &schema["description"]);
    message.optional(5, &schema["default"], any);
    message.texts(19, &schema["required"]);
    message.optional(21, &schema["additionalProperties"], |value| {
        let mut item = Message::default();
        item.message(1, self::schema(value));
        item
    });
    message.optional(22, &schema["type"], |value| {
        let mut item = Message::default();
        item.text(1, value);
        item
    });
    message.optional(23, &schema["items"], |value| {
        let mut item = Message::default();
        item.message(1, self::schema(value));
        item
    });
    message.optional(25, &schema["properties"], |value| {
        let mut properties = Message::default();
        for (name, property) in value.as_object().into_iter().flatten() {
            properties.entry(1, name, self::schema(property));
        }
        properties
    });
    message.extensions(31, schema);
    message
}
