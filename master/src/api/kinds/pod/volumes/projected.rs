//! Volumes whose files are made of objects, and of what the pod says of itself.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, DownwardAPIVolumeSource, KeyToPath, PodSpec, ProjectedVolumeSource,
    ServiceAccountTokenProjection, VolumeProjection,
};
use proto::k8s as k8s_openapi;

use super::super::super::path::Path;
use super::super::security::validate_id;
use super::super::{env, unsupported};
use super::descending;
use crate::api::field_error::{FieldError, FieldErrors};

const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// All that is wrong with a `downwardAPI` volume.
pub(super) fn validate_downward(
    source: &DownwardAPIVolumeSource,
    spec: &PodSpec,
    path: &Path,
    errors: &mut FieldErrors,
) {
    file_mode(source.default_mode, &path.child("defaultMode"), errors);
    validate_id(source.default_user, &path.child("defaultUser"), errors);
    for item in source.items.iter().flatten() {
        // Ascribed to the volume, as in Kubernetes.
        validate_downward_file(item, spec, path, errors);
    }
}

fn validate_downward_file(
    item: &DownwardAPIVolumeFile,
    spec: &PodSpec,
    path: &Path,
    errors: &mut FieldErrors,
) {
    if item.path.is_empty() {
        errors.push(FieldError::required(path.child("path"), ""));
    }
    projected_path(&item.path, &path.child("path"), errors);
    match (&item.field_ref, &item.resource_field_ref) {
        (Some(field), resource) => {
            env::validate_field(field, env::OF_VOLUMES, &path.child("fieldRef"), errors);
            if resource.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(path, "resource", detail));
            }
        }
        (None, Some(resource)) => {
            let path = path.child("resourceFieldRef");
            if resource.container_name.as_deref().unwrap_or_default().is_empty() {
                errors.push(FieldError::required(path.child("containerName"), ""));
            }
            env::validate_resource(resource, spec, &path, errors);
        }
        (None, None) => {
            let detail = "one of fieldRef and resourceFieldRef is required";
            errors.push(FieldError::required(path, detail));
        }
    }
    file_mode(item.mode, &path.child("mode"), errors);
    validate_id(item.user, &path.child("user"), errors);
}

/// All that is wrong with a `projected` volume.
pub(super) fn validate(
    source: &ProjectedVolumeSource,
    spec: &PodSpec,
    path: &Path,
    errors: &mut FieldErrors,
) {
    file_mode(source.default_mode, &path.child("defaultMode"), errors);
    validate_id(source.default_user, &path.child("defaultUser"), errors);
    let mut paths = BTreeSet::new();
    for (index, source) in source.sources.iter().flatten().enumerate() {
        let place = Place { volume: path, source: path.child("sources").index(index) };
        validate_projection(source, spec, &place, &mut paths, errors);
    }
}

/// Where in the object something is.
struct Place<'a> {
    volume: &'a Path,
    source: Path,
}

fn validate_projection<'a>(
    projection: &'a VolumeProjection,
    spec: &PodSpec,
    place: &Place<'_>,
    paths: &mut BTreeSet<&'a str>,
    errors: &mut FieldErrors,
) {
    let VolumeProjection {
        cluster_trust_bundle,
        config_map,
        downward_api,
        pod_certificate,
        secret,
        service_account_token,
    } = projection;
    let mut unique = |path: &'a str, named: &str, errors: &mut FieldErrors| {
        if !path.is_empty() && !paths.insert(path) {
            errors.push(FieldError::invalid(place.volume, named, "conflicting duplicate paths"));
        }
    };
    for (field, object) in [
        ("secret", secret.as_ref().map(|secret| (&secret.name, &secret.items))),
        ("configMap", config_map.as_ref().map(|map| (&map.name, &map.items))),
    ] {
        let Some((name, items)) = object else { continue };
        let path = place.source.child(field);
        if name.is_empty() {
            errors.push(FieldError::required(path.child("name"), ""));
        }
        validate_items(items.as_deref(), &path.child("items"), errors);
        for item in items.iter().flatten() {
            unique(&item.path, name, errors);
        }
    }
    for item in downward_api.iter().flat_map(|told| told.items.iter().flatten()) {
        validate_downward_file(item, spec, &place.source.child("downwardAPI"), errors);
        unique(&item.path, &item.path, errors);
    }
    if let Some(token) = service_account_token {
        validate_token(token, place, errors);
    }
    for (given, field, instead) in [
        (cluster_trust_bundle.is_some(), "clusterTrustBundle", "use a ConfigMap"),
        (pod_certificate.is_some(), "podCertificate", "use a Secret"),
    ] {
        if given {
            unsupported::refuse(&place.source.child(field), (), instead, errors);
        }
    }
    let sources = [
        secret.is_some(),
        config_map.is_some(),
        downward_api.is_some(),
        service_account_token.is_some(),
        cluster_trust_bundle.is_some(),
        pod_certificate.is_some(),
    ];
    if sources.into_iter().filter(|given| *given).count() > 1 {
        let detail = "may not specify more than 1 volume type per source";
        errors.push(FieldError::forbidden(&place.source, detail));
    }
}

const TEN_MINUTES: i64 = 10 * 60;
const LONGEST: i64 = 1 << 32;

fn validate_token(
    token: &ServiceAccountTokenProjection,
    place: &Place<'_>,
    errors: &mut FieldErrors,
) {
    let path = place.source.child("serviceAccountToken");
    let seconds = token.expiration_seconds.unwrap_or_default();
    for (wrong, detail) in [
        (seconds < TEN_MINUTES, "may not specify a duration less than 10 minutes"),
        (seconds > LONGEST, "may not specify a duration larger than 2^32 seconds"),
    ] {
        if wrong {
            errors.push(FieldError::invalid(path.child("expirationSeconds"), seconds, detail));
        }
    }
    // Ascribed to the volume, as in Kubernetes.
    let path_to_path = place.volume.child("path");
    match token.path.as_str() {
        "" => errors.push(FieldError::required(path_to_path, "")),
        text => projected_path(text, &path_to_path, errors),
    }
    validate_id(token.user, &path.child("user"), errors);
}

/// All that is wrong with the choice of an object's keys.
pub(super) fn validate_items(items: Option<&[KeyToPath]>, path: &Path, errors: &mut FieldErrors) {
    for (index, item) in items.into_iter().flatten().enumerate() {
        let path = path.index(index);
        if item.key.is_empty() {
            errors.push(FieldError::required(path.child("key"), ""));
        }
        let (text, path_to_path) = (item.path.as_str(), path.child("path"));
        if text.is_empty() {
            errors.push(FieldError::required(&path_to_path, ""));
        }
        projected_path(text, &path_to_path, errors);
        file_mode(item.mode, &path.child("mode"), errors);
        validate_id(item.user, &path.child("user"), errors);
    }
}

/// Where a file is put within a volume.
fn projected_path(text: &str, path: &Path, errors: &mut FieldErrors) {
    descending(text, path, errors);
    // Names such as `..data` hold the versions of the volume.
    if text.starts_with("..") && !text.starts_with("../") {
        errors.push(FieldError::invalid(path, text, "must not start with '..'"));
    }
}

pub(super) fn file_mode(mode: Option<i32>, path: &Path, errors: &mut FieldErrors) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        errors.push(FieldError::invalid(path, mode, FILE_MODE));
    }
}
