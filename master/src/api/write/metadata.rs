//! `metadata`: what the server sets, what it checks, what an update may not change.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use proto::k8s as k8s_openapi;
use proto::{ObjectKey, names};

use super::delete::{FOREGROUND, ORPHAN};
use crate::api::error::ApiError;
use crate::api::field_error::{FieldError, FieldErrorKind, FieldErrors};
use crate::api::kinds::ResourceInfo;
use crate::api::registry::AnyKind;

/// Keys and values of all annotations together.
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;

/// Letters and digits of generated names: no vowels, so no words come out by accident.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// How many of them a generated name ends with.
const SUFFIX: usize = 5;

/// Now, in the precision in which times are stored.
pub(crate) fn now() -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// The key that metadata names.
pub(super) fn key(meta: &ObjectMeta) -> ObjectKey {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    ObjectKey::new(text(&meta.namespace), text(&meta.name))
}

/// Sets what only the server may set.
pub(super) fn prepare_create(
    resource: &ResourceInfo,
    meta: &mut ObjectMeta,
) -> Result<(), ApiError> {
    if meta.resource_version.as_ref().is_some_and(|version| !version.is_empty()) {
        let message = "resourceVersion should not be set on objects to be created";
        return Err(ApiError::bad_request(message));
    }
    if !resource.namespaced && meta.namespace.as_ref().is_some_and(String::is_empty) {
        meta.namespace = None;
    }
    meta.uid = Some(uuid::Uuid::new_v4().to_string());
    meta.creation_timestamp = Some(Time(now()));
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.generation = None;
    meta.resource_version = None;
    Ok(())
}

/// Whether a name has to be generated.
pub(super) fn wants_name(meta: &ObjectMeta) -> bool {
    meta.name.as_ref().is_none_or(String::is_empty)
        && meta.generate_name.as_ref().is_some_and(|prefix| !prefix.is_empty())
}

/// Gives a name that starts with `generateName`.
pub(super) fn generate_name(meta: &mut ObjectMeta) {
    let prefix = meta.generate_name.clone().unwrap_or_default();
    let mut end = prefix.len().min(names::MAX_LABEL - SUFFIX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let random = uuid::Uuid::new_v4();
    let suffix = random.as_bytes()[..SUFFIX].iter();
    let suffix: String =
        suffix.map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect();
    meta.name = Some(format!("{}{suffix}", &prefix[..end]));
}

/// Whether an update is about the object that its URL names.
pub(super) fn check_identity(key: &ObjectKey, meta: &ObjectMeta) -> Result<(), ApiError> {
    let stated = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    if let Some(name) = stated(&meta.name)
        && name != key.name
    {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            key.name
        )));
    }
    if let Some(namespace) = stated(&meta.namespace)
        && namespace != key.namespace
    {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Fills in what the client left out and only the server may set.
pub(super) fn carry_over(new: &mut ObjectMeta, old: &ObjectMeta) {
    new.name.clone_from(&old.name);
    new.namespace.clone_from(&old.namespace);
    if new.uid.as_ref().is_none_or(String::is_empty) {
        new.uid.clone_from(&old.uid);
    }
    if new.creation_timestamp.is_none() {
        new.creation_timestamp.clone_from(&old.creation_timestamp);
    }
    if new.deletion_timestamp.is_none() {
        new.deletion_timestamp.clone_from(&old.deletion_timestamp);
    }
    if new.deletion_grace_period_seconds.is_none() {
        new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    }
    new.self_link = None;
}

/// All that is wrong with metadata.
pub(super) fn validate(kind: &'static dyn AnyKind, meta: &ObjectMeta) -> FieldErrors {
    let mut errors = FieldErrors::new();
    validate_names(kind, meta, &mut errors);
    for (key, value) in meta.labels.iter().flatten() {
        let key_errors = names::qualified_name(key);
        errors.extend(invalid_each("metadata.labels", key, key_errors));
        errors.extend(invalid_each("metadata.labels", value, names::label_value(value)));
    }
    let mut annotation_bytes = 0;
    for (key, value) in meta.annotations.iter().flatten() {
        // Upper case is allowed here, unlike in the prefix of a label.
        let key_errors = names::qualified_name(&key.to_lowercase());
        errors.extend(invalid_each("metadata.annotations", key, key_errors));
        annotation_bytes += key.len() + value.len();
    }
    if annotation_bytes > MAX_ANNOTATION_BYTES {
        errors.push(FieldError {
            kind: FieldErrorKind::TooLong,
            path: "metadata.annotations".to_owned(),
            value: None,
            detail: format!("may not be more than {MAX_ANNOTATION_BYTES} bytes"),
        });
    }
    validate_owners(meta, &mut errors);
    validate_finalizers(meta, &mut errors);
    errors
}

fn validate_names(kind: &'static dyn AnyKind, meta: &ObjectMeta, errors: &mut FieldErrors) {
    let resource = kind.resource();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let prefix = text(&meta.generate_name);
    if !prefix.is_empty() {
        // A dash at the end is fine: something follows it.
        let complete = if prefix.ends_with('-') { format!("{prefix}a") } else { prefix.clone() };
        errors.extend(invalid_each(
            "metadata.generateName",
            &prefix,
            kind.validate_name(&complete),
        ));
    }
    let name = text(&meta.name);
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else if prefix.is_empty() || errors.is_empty() {
        errors.extend(invalid_each("metadata.name", &name, kind.validate_name(&name)));
    }
    let namespace = text(&meta.namespace);
    if !resource.namespaced {
        if !namespace.is_empty() {
            errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
        }
    } else if namespace.is_empty() {
        errors.push(FieldError::required("metadata.namespace", ""));
    } else {
        errors.extend(invalid_each("metadata.namespace", &namespace, names::dns_label(&namespace)));
    }
}

fn validate_owners(meta: &ObjectMeta, errors: &mut FieldErrors) {
    let mut controller: Option<&str> = None;
    for (index, owner) in meta.owner_references.iter().flatten().enumerate() {
        let path = format!("metadata.ownerReferences[{index}]");
        let fields = [
            ("apiVersion", &owner.api_version, "version must not be empty"),
            ("kind", &owner.kind, "must not be empty"),
            ("name", &owner.name, "must not be empty"),
            ("uid", &owner.uid, "must not be empty"),
        ];
        for (field, value, detail) in fields {
            if value.is_empty() {
                let path = format!("{path}.{field}");
                errors.push(FieldError::invalid(path, value.as_str(), detail));
            }
        }
        if owner.controller == Some(true) {
            if let Some(first) = controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in \
                     references for {first} and {}",
                    owner.name
                );
                errors.push(FieldError::invalid(
                    "metadata.ownerReferences",
                    owner.name.as_str(),
                    detail,
                ));
            }
            controller = controller.or(Some(&owner.name));
        }
    }
}

fn validate_finalizers(meta: &ObjectMeta, errors: &mut FieldErrors) {
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    for finalizer in finalizers {
        let path = "metadata.finalizers";
        let mut wrong = names::qualified_name(finalizer);
        let standard = [ORPHAN, FOREGROUND, "kubernetes"].contains(&finalizer.as_str());
        if wrong.is_empty() && !finalizer.contains('/') && !standard {
            wrong.push(
                "name is neither a standard finalizer name nor is it fully qualified".to_owned(),
            );
        }
        errors.extend(invalid_each(path, finalizer, wrong));
    }
    let has = |wanted: &str| finalizers.iter().any(|finalizer| finalizer == wanted);
    if has(ORPHAN) && has(FOREGROUND) {
        errors.push(FieldError::invalid(
            "metadata.finalizers",
            serde_json::json!(finalizers),
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
}

/// What an update may not change.
pub(super) fn validate_update(new: &ObjectMeta, old: &ObjectMeta) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let mut immutable = |path: &str, changed: bool, value: serde_json::Value| {
        if changed {
            errors.push(FieldError::invalid(path, value, "field is immutable"));
        }
    };
    let time = |time: &Option<Time>| time.as_ref().map(|time| time.0.to_string());
    immutable("metadata.uid", new.uid != old.uid, serde_json::json!(new.uid));
    immutable(
        "metadata.creationTimestamp",
        new.creation_timestamp != old.creation_timestamp,
        serde_json::json!(time(&new.creation_timestamp)),
    );
    immutable(
        "metadata.deletionTimestamp",
        new.deletion_timestamp != old.deletion_timestamp,
        serde_json::json!(time(&new.deletion_timestamp)),
    );
    immutable(
        "metadata.deletionGracePeriodSeconds",
        new.deletion_grace_period_seconds != old.deletion_grace_period_seconds,
        serde_json::json!(new.deletion_grace_period_seconds),
    );
    if old.deletion_timestamp.is_some() {
        let before = old.finalizers.as_deref().unwrap_or_default();
        let added: Vec<&String> =
            new.finalizers.iter().flatten().filter(|new| !before.contains(new)).collect();
        if !added.is_empty() {
            errors.push(FieldError::forbidden(
                "metadata.finalizers",
                format!(
                    "no new finalizers can be added if the object is being deleted, found new \
                     finalizers {added:?}"
                ),
            ));
        }
    }
    errors
}

fn invalid_each(path: &str, value: &str, messages: Vec<String>) -> Vec<FieldError> {
    messages.into_iter().map(|message| FieldError::invalid(path, value, message)).collect()
}
