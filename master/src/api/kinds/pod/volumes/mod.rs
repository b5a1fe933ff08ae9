//! The volumes of a pod, and where its containers mount them.

mod mounts;
mod projected;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, PodSpec, Volume};
use proto::quantity::Quantity;
use proto::{huge_pages, k8s as k8s_openapi, names};

use self::projected::{file_mode, validate_items};
use super::super::path::Path;
use super::containers::PULL_POLICIES;
use super::security::validate_id;
use super::validate::{climbs, invalid_each, one_of, unique};
use super::{resources, unsupported};
use crate::api::field_error::{FieldError, FieldErrors};

pub(super) use mounts::validate_mounts;

const HOST_PATH_TYPES: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];
const CLIMBS: &str = "must not contain '..'";

/// All that is wrong with the volumes; gives the names that containers may mount.
pub(super) fn validate<'a>(
    spec: &'a PodSpec,
    path: &Path,
    errors: &mut FieldErrors,
) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let path = path.index(index);
        let name = volume.name.as_str();
        if name.is_empty() {
            errors.push(FieldError::required(path.child("name"), ""));
        } else {
            invalid_each(&path.child("name"), name, names::dns_label(name), errors);
        }
        unique(&mut seen, name, &path.child("name"), errors);
        validate_source(volume, spec, &path, errors);
    }
    seen
}

fn validate_source(volume: &Volume, spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    unsupported::volume(volume, path, errors);
    // In Kubernetes' order the first counts, each further one is one too many.
    let mut chosen = false;
    let mut is_first = |field: &str, errors: &mut FieldErrors| {
        if chosen {
            let detail = "may not specify more than 1 volume type";
            errors.push(FieldError::forbidden(path.child(field), detail));
        }
        !std::mem::replace(&mut chosen, true)
    };
    if let Some(empty) = &volume.empty_dir
        && is_first("emptyDir", errors)
    {
        validate_empty_dir(empty, &path.child("emptyDir"), errors);
    }
    if let Some(host) = &volume.host_path
        && is_first("hostPath", errors)
    {
        validate_host_path(host, &path.child("hostPath"), errors);
    }
    if let Some(secret) = &volume.secret
        && is_first("secret", errors)
    {
        let path = path.child("secret");
        if secret.secret_name.as_deref().unwrap_or_default().is_empty() {
            errors.push(FieldError::required(path.child("secretName"), ""));
        }
        file_mode(secret.default_mode, &path.child("defaultMode"), errors);
        validate_id(secret.default_user, &path.child("defaultUser"), errors);
        validate_items(secret.items.as_deref(), &path.child("items"), errors);
    }
    if let Some(map) = &volume.config_map
        && is_first("configMap", errors)
    {
        let path = path.child("configMap");
        if map.name.is_empty() {
            errors.push(FieldError::required(path.child("name"), ""));
        }
        file_mode(map.default_mode, &path.child("defaultMode"), errors);
        validate_id(map.default_user, &path.child("defaultUser"), errors);
        validate_items(map.items.as_deref(), &path.child("items"), errors);
    }
    if let Some(told) = &volume.downward_api
        && is_first("downwardAPI", errors)
    {
        projected::validate_downward(told, spec, &path.child("downwardAPI"), errors);
    }
    if let Some(sources) = &volume.projected
        && is_first("projected", errors)
    {
        projected::validate(sources, spec, &path.child("projected"), errors);
    }
    if let Some(image) = &volume.image
        && is_first("image", errors)
    {
        let policy = image.pull_policy.as_deref();
        one_of(policy, PULL_POLICIES, &path.child("image").child("pullPolicy"), errors);
    }
}

fn validate_empty_dir(empty: &EmptyDirVolumeSource, path: &Path, errors: &mut FieldErrors) {
    match empty.medium.as_deref().unwrap_or_default() {
        "" | "Memory" => {}
        pages if huge_pages::medium(pages).is_some() => {}
        other => {
            let path = path.child("medium");
            let known = &["", "HugePages", "HugePages-<size>", "Memory"];
            errors.push(FieldError::not_supported(path, other, known));
        }
    }
    if let Some(limit) = &empty.size_limit {
        let path = path.child("sizeLimit");
        match Quantity::try_from(limit) {
            Ok(limit) if limit.is_negative() => {
                let detail = "SizeLimit field must be a valid resource quantity";
                errors.push(FieldError::forbidden(path, detail));
            }
            _ => resources::quantity(limit, &path, errors),
        }
    }
    // A folder may be sticky, as `/tmp` is.
    if let Some(mode) = empty.mode.filter(|mode| !(0..=0o1777).contains(mode)) {
        let detail = "must be a number between 0 and 01777 (octal), both inclusive";
        errors.push(FieldError::invalid(path.child("mode"), mode, detail));
    }
}

fn validate_host_path(host: &HostPathVolumeSource, path: &Path, errors: &mut FieldErrors) {
    let (text, kind) = (host.path.as_str(), host.type_.as_deref().unwrap_or_default());
    if text.is_empty() {
        errors.push(FieldError::required(path.child("path"), ""));
    } else if climbs(text) {
        errors.push(FieldError::invalid(path.child("path"), text, CLIMBS));
    } else if !text.starts_with('/') {
        errors.push(FieldError::invalid(path.child("path"), text, "must be an absolute path"));
    }
    if !HOST_PATH_TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(path.child("type"), kind, HOST_PATH_TYPES));
    }
}

/// A path has to lead down.
fn descending(text: &str, path: &Path, errors: &mut FieldErrors) {
    if text.starts_with('/') {
        errors.push(FieldError::invalid(path, text, "must be a relative path"));
    }
    if climbs(text) {
        errors.push(FieldError::invalid(path, text, CLIMBS));
    }
}
