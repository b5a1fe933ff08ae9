//! `configmaps`: settings that pods read as files or variables.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use proto::{k8s as k8s_openapi, names};
use serde_json::{Value, json};

use super::columns::{AGE, NAME, age, column, name};
use super::path::Path;
use super::{Column, Kind, ResourceInfo};
use crate::api::field_error::{FieldError, FieldErrors};

/// All data of a ConfigMap, or of a Secret, together.
pub(super) const MAX_DATA: usize = 1024 * 1024;

pub(super) const IMMUTABLE: &str = "field is immutable when `immutable` is set";

/// `configmaps`
#[derive(Debug)]
pub enum ConfigMaps {}

impl Kind for ConfigMaps {
    type Object = ConfigMap;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "",
        version: "v1",
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        categories: &[],
        namespaced: true,
        status: false,
        scale: false,
    };

    fn default(_object: &mut ConfigMap) {}

    fn validate(object: &ConfigMap) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let (data, binary) = (object.data.as_ref(), object.binary_data.as_ref());
        keys(data.into_iter().flat_map(BTreeMap::keys), &Path::new("data"), &mut errors);
        keys(binary.into_iter().flat_map(BTreeMap::keys), &Path::new("binaryData"), &mut errors);
        let names: BTreeSet<&String> = binary.into_iter().flat_map(BTreeMap::keys).collect();
        for key in data.into_iter().flat_map(BTreeMap::keys).filter(|key| names.contains(key)) {
            errors.push(FieldError::invalid(
                Path::new("data").key(key),
                key.as_str(),
                "duplicate of key present in binaryData",
            ));
        }
        let size =
            data.into_iter().flatten().map(|(_, value)| value.len()).sum::<usize>() + size(binary);
        if size > MAX_DATA {
            // Of both maps together: this is how Kubernetes writes no path.
            errors.push(FieldError::too_long("[]", MAX_DATA));
        }
        errors
    }

    fn validate_update(new: &ConfigMap, old: &ConfigMap) -> FieldErrors {
        let mut errors = FieldErrors::new();
        if old.immutable != Some(true) {
            return errors;
        }
        if new.immutable != Some(true) {
            errors.push(FieldError::forbidden("immutable", IMMUTABLE));
        }
        if new.data.clone().unwrap_or_default() != old.data.clone().unwrap_or_default() {
            errors.push(FieldError::forbidden("data", IMMUTABLE));
        }
        if new.binary_data.clone().unwrap_or_default()
            != old.binary_data.clone().unwrap_or_default()
        {
            errors.push(FieldError::forbidden("binaryData", IMMUTABLE));
        }
        errors
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("Data", "string", "How many keys there are in data and binaryData."),
            AGE,
        ];
        COLUMNS
    }

    fn row(object: &ConfigMap, now: Timestamp) -> Vec<Value> {
        let count = object.data.as_ref().map_or(0, BTreeMap::len)
            + object.binary_data.as_ref().map_or(0, BTreeMap::len);
        vec![json!(name(&object.metadata)), json!(count), json!(age(&object.metadata, now))]
    }
}

/// Keys that become names of files.
pub(super) fn keys<'a>(
    keys: impl Iterator<Item = &'a String>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    for key in keys {
        for reason in names::config_key(key) {
            errors.push(FieldError::invalid(path.key(key), key.as_str(), reason));
        }
    }
}

/// Bytes of all values.
pub(super) fn size(data: Option<&BTreeMap<String, ByteString>>) -> usize {
    data.into_iter().flatten().map(|(_, value)| value.0.len()).sum()
}
