//! `metadata`: what the server sets, what it checks, what an update may not change.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, Time};
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
    leave_out_empty(meta);
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
    meta.name = Some(generated_name(&prefix));
}

/// A name that starts so, and that nothing else will have.
pub(crate) fn generated_name(prefix: &str) -> String {
    let mut end = prefix.len().min(names::MAX_LABEL - SUFFIX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let random = uuid::Uuid::new_v4();
    let suffix = random.as_bytes()[..SUFFIX].iter();
    let suffix: String =
        suffix.map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect();
    format!("{}{suffix}", &prefix[..end])
}

/// Whether an update is about the object that its URL names.
pub(crate) fn check_identity(key: &ObjectKey, meta: &ObjectMeta) -> Result<(), ApiError> {
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
    // What a client says about these moments is passed over, as in Kubernetes.
    new.creation_timestamp.clone_from(&old.creation_timestamp);
    if old.deletion_timestamp.is_some() {
        new.deletion_timestamp.clone_from(&old.deletion_timestamp);
    }
    if new.deletion_grace_period_seconds.is_none() {
        new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    }
    new.self_link = None;
    leave_out_empty(new);
}

/// What is empty says as much as what is not there, and has no owner.
pub(super) fn leave_out_empty(meta: &mut ObjectMeta) {
    meta.labels.take_if(|labels| labels.is_empty());
    meta.annotations.take_if(|annotations| annotations.is_empty());
    meta.finalizers.take_if(|finalizers| finalizers.is_empty());
    meta.owner_references.take_if(|owners| owners.is_empty());
    meta.generate_name.take_if(|prefix| prefix.is_empty());
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
    let entries = meta.managed_fields.iter().flatten().enumerate();
    // One that says nothing is how a client drops the record.
    for (index, entry) in entries.filter(|(_, entry)| **entry != ManagedFieldsEntry::default()) {
        let path = format!("metadata.managedFields[{index}]");
        if !matches!(entry.operation.as_deref(), Some("Apply" | "Update")) {
            errors.push(FieldError {
                kind: FieldErrorKind::Invalid,
                path: format!("{path}.operation"),
                value: Some(entry.operation.clone().unwrap_or_default().into()),
                detail: "must be `Apply` or `Update`".to_owned(),
            });
        }
    }
    errors
}

fn validate_names(kind: &'static dyn AnyKind, meta: &ObjectMeta, errors: &mut FieldErrors) {
    let resource = kind.resource();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let prefix = text(&meta.generate_name);
    if !prefix.is_empty() {
        let reasons = kind.validate_name(&completed(&prefix));
        errors.extend(invalid_each("metadata.generateName", &prefix, reasons));
    }
    let name = text(&meta.name);
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else {
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

/// A prefix that ends in a dash is judged as if a letter stood there: something follows it. It is no
/// longer for that.
fn completed(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => {
            let shorter = rest.char_indices().next_back().map_or(0, |(last, _)| last);
            format!("{}a", &rest[..shorter])
        }
        _ => prefix.to_owned(),
    }
}

fn validate_owners(meta: &ObjectMeta, errors: &mut FieldErrors) {
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    let mut controller: Option<String> = None;
    for (index, owner) in owners.iter().enumerate() {
        let path = format!("metadata.ownerReferences[{index}]");
        let version = owner.api_version.rsplit('/').next().unwrap_or_default();
        if !owner.api_version.is_empty()
            && (version.is_empty() || owner.api_version.matches('/').count() > 1)
        {
            let (path, detail) =
                (format!("{path}.apiVersion"), "must be <group>/<version> or <version>");
            errors.push(FieldError::invalid(path, owner.api_version.as_str(), detail));
        }
        for (field, value) in [
            ("apiVersion", &owner.api_version),
            ("kind", &owner.kind),
            ("name", &owner.name),
            ("uid", &owner.uid),
        ] {
            if value.is_empty() {
                errors.push(FieldError::required(format!("{path}.{field}"), "must not be empty"));
            }
        }
        if owner.api_version == "v1" && owner.kind == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(path, serde_json::json!(owner), detail));
        }
        if owner.controller == Some(true) {
            let current = format!("{}/{}", owner.kind, owner.name);
            if let Some(first) = &controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in \
                     references for {first} and {current}"
                );
                let value = serde_json::json!(owners);
                errors.push(FieldError::invalid("metadata.ownerReferences", value, detail));
            }
            controller.get_or_insert(current);
        }
    }
}

fn validate_finalizers(meta: &ObjectMeta, errors: &mut FieldErrors) {
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    for (index, finalizer) in finalizers.iter().enumerate() {
        let wrong = names::qualified_name(finalizer);
        errors.extend(invalid_each("metadata.finalizers", finalizer, wrong));
        if !finalizer.contains('/') && ![ORPHAN, FOREGROUND, "kubernetes"].contains(&&**finalizer) {
            let path = format!("metadata.finalizers[{index}]");
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(path, finalizer.as_str(), detail));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_judged_as_the_name_that_it_will_be() {
        for (prefix, name) in
            [("web-", "wea"), ("a-", "a"), ("-", "-"), ("web", "web"), ("", ""), ("é-", "a")]
        {
            assert_eq!(completed(prefix), name, "{prefix}");
        }
        // One letter more than a label holds, but for the dash.
        let longest = format!("{}-", "a".repeat(names::MAX_LABEL));
        assert!(names::dns_label(&completed(&longest)).is_empty());
    }

    #[test]
    fn owners_keep_to_the_rules() {
        let owner = |version: &str, kind: &str, name: &str, controller: bool| {
            serde_json::json!({
                "apiVersion": version, "kind": kind, "name": name, "uid": "u", "controller": controller,
            })
        };
        for (owners, expected) in [
            (vec![owner("apps/v1", "ReplicaSet", "a", true)], ""),
            (
                vec![owner("", "A", "a", false)],
                "metadata.ownerReferences[0].apiVersion: Required value: must not be empty",
            ),
            (
                vec![owner("v1", "", "a", false)],
                "metadata.ownerReferences[0].kind: Required value: must not be empty",
            ),
            (
                vec![owner("a/b/c", "A", "a", false)],
                "metadata.ownerReferences[0].apiVersion: Invalid value: \"a/b/c\": must be <group>/<version> or <version>",
            ),
            (
                vec![owner("v1", "Event", "a", false)],
                "metadata.ownerReferences[0]: Invalid value: {\"apiVersion\":\"v1\",",
            ),
            (
                vec![owner("v1", "A", "a", true), owner("v1", "B", "b", true)],
                "metadata.ownerReferences: Invalid value: [{",
            ),
        ] {
            let meta = serde_json::json!({"ownerReferences": owners});
            let mut errors = FieldErrors::new();
            validate_owners(&serde_json::from_value(meta).unwrap(), &mut errors);
            let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
            match expected {
                "" => assert_eq!(found, Vec::<String>::new()),
                _ => assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}"),
            }
        }
    }
}
