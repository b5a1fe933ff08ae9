//! `secrets`: what pods read and others should not. Values never appear in errors.

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::columns::{AGE, NAME, age, column, name};
use super::config_map::{IMMUTABLE, MAX_DATA, keys, size};
use super::path::Path;
use super::{Column, Kind, ResourceInfo};
use crate::api::field_error::{FieldError, FieldErrors};
use crate::cache::{SelectableFields, selectable};

const OPAQUE: &str = "Opaque";
const SERVICE_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const REDACTED: &str = "<secret contents redacted>";

/// `secrets`
#[derive(Debug)]
pub enum Secrets {}

impl Kind for Secrets {
    type Object = Secret;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "",
        version: "v1",
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        short_names: &[],
        categories: &[],
        namespaced: true,
        status: false,
        scale: false,
    };

    const FIELDS: SelectableFields = &[selectable("type", &["type"])];

    fn default(object: &mut Secret) {
        if object.type_.as_deref().unwrap_or_default().is_empty() {
            object.type_ = Some(OPAQUE.to_owned());
        }
        // `stringData` is for writing only; what is read is `data`.
        for (key, value) in object.string_data.take().into_iter().flatten() {
            object.data.get_or_insert_default().insert(key, ByteString(value.into_bytes()));
        }
    }

    fn validate(object: &Secret) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let path = Path::new("data");
        keys(object.data.iter().flatten().map(|(key, _)| key), &path, &mut errors);
        if size(object.data.as_ref()) > MAX_DATA {
            errors.push(FieldError::too_long(&path, MAX_DATA));
        }
        validate_type(object, &path, &mut errors);
        errors
    }

    fn validate_update(new: &Secret, old: &Secret) -> FieldErrors {
        let mut errors = FieldErrors::new();
        if new.type_ != old.type_ {
            let value = new.type_.clone();
            errors.push(FieldError::invalid("type", value, "field is immutable"));
        }
        if old.immutable == Some(true) {
            if new.immutable != Some(true) {
                errors.push(FieldError::forbidden("immutable", IMMUTABLE));
            }
            if new.data.clone().unwrap_or_default() != old.data.clone().unwrap_or_default() {
                errors.push(FieldError::forbidden("data", IMMUTABLE));
            }
        }
        errors
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("Type", "string", "Used to facilitate programmatic handling of secret data."),
            column("Data", "string", "How many keys there are in data."),
            AGE,
        ];
        COLUMNS
    }

    fn row(object: &Secret, now: Timestamp) -> Vec<Value> {
        vec![
            json!(name(&object.metadata)),
            json!(object.type_),
            json!(object.data.as_ref().map_or(0, |data| data.len())),
            json!(age(&object.metadata, now)),
        ]
    }
}

/// What the well-known types demand of their data.
fn validate_type(object: &Secret, path: &Path, errors: &mut FieldErrors) {
    let data = |key: &str| object.data.as_ref().and_then(|data| data.get(key));
    let mut json_in = |key: &str| match data(key) {
        None => errors.push(FieldError::required(path.key(key), "")),
        Some(value) => {
            if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&value.0) {
                // The place, never the text: serde's own message may repeat the value.
                let detail = format!("not a JSON object (line {})", error.line());
                errors.push(FieldError::invalid(path.key(key), REDACTED, detail));
            }
        }
    };
    match object.type_.as_deref().unwrap_or_default() {
        "kubernetes.io/dockercfg" => json_in(".dockercfg"),
        "kubernetes.io/dockerconfigjson" => json_in(".dockerconfigjson"),
        "kubernetes.io/service-account-token" => {
            let annotations = object.metadata.annotations.as_ref();
            if annotations
                .and_then(|map| map.get(SERVICE_ACCOUNT_NAME))
                .is_none_or(String::is_empty)
            {
                let path = Path::new("metadata.annotations").key(SERVICE_ACCOUNT_NAME);
                errors.push(FieldError::required(path, ""));
            }
        }
        "kubernetes.io/basic-auth" if data("username").is_none() && data("password").is_none() => {
            errors.push(FieldError::required(path.key("username"), ""));
            errors.push(FieldError::required(path.key("password"), ""));
        }
        "kubernetes.io/ssh-auth" if data("ssh-privatekey").is_none_or(|key| key.0.is_empty()) => {
            errors.push(FieldError::required(path.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if data(key).is_none() {
                    errors.push(FieldError::required(path.key(key), ""));
                }
            }
        }
        _ => {}
    }
}
