//! The volumes of a pod, and where its containers mount them.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, HostPathVolumeSource, KeyToPath, PodSpec, Volume,
};
use proto::quantity::Quantity;
use proto::{k8s as k8s_openapi, names};

use super::super::path::Path;
use super::validate::{climbs, invalid_each, unique};
use super::{resources, unsupported};
use crate::api::field_error::{FieldError, FieldErrors};

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
const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
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
        validate_source(volume, &path, errors);
    }
    seen
}

fn validate_source(volume: &Volume, path: &Path, errors: &mut FieldErrors) {
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
        validate_items(map.items.as_deref(), &path.child("items"), errors);
    }
}

fn validate_empty_dir(empty: &EmptyDirVolumeSource, path: &Path, errors: &mut FieldErrors) {
    match empty.medium.as_deref().unwrap_or_default() {
        "" | "Memory" => {}
        other => {
            let path = path.child("medium");
            errors.push(FieldError::not_supported(path, other, &["", "Memory"]));
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
    file_mode(empty.mode, &path.child("mode"), errors);
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

fn validate_items(items: Option<&[KeyToPath]>, path: &Path, errors: &mut FieldErrors) {
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

fn file_mode(mode: Option<i32>, path: &Path, errors: &mut FieldErrors) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        errors.push(FieldError::invalid(path, mode, FILE_MODE));
    }
}

/// All that is wrong with the mounts of a container.
pub(super) fn validate_mounts(
    container: &Container,
    volumes: &BTreeSet<&str>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let mut seen = BTreeSet::new();
    let of_list = path;
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = path.index(index);
        if mount.name.is_empty() {
            errors.push(FieldError::required(path.child("name"), ""));
        } else if !volumes.contains(mount.name.as_str()) {
            errors.push(FieldError::not_found(path.child("name"), mount.name.as_str()));
        }
        let (text, path_to_path) = (mount.mount_path.as_str(), path.child("mountPath"));
        if text.is_empty() {
            errors.push(FieldError::required(&path_to_path, ""));
        } else if climbs(text) {
            errors.push(FieldError::invalid(&path_to_path, text, CLIMBS));
        } else if !text.starts_with('/') {
            errors.push(FieldError::invalid(&path_to_path, text, "must be an absolute path"));
        } else if text.trim_end_matches('/').is_empty() {
            let detail = "must not be the root of the file system, which the image provides";
            errors.push(FieldError::invalid(&path_to_path, text, detail));
        } else if !seen.insert(text.trim_end_matches('/')) {
            errors.push(FieldError::invalid(&path_to_path, text, "must be unique"));
        }
        let (sub_path, expression) = (&mount.sub_path, &mount.sub_path_expr);
        if let Some(expression) = expression.as_deref().filter(|text| !text.is_empty())
            && sub_path.as_ref().is_some_and(|sub_path| !sub_path.is_empty())
        {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(path.child("subPathExpr"), expression, detail));
        }
        // Ascribed to the list, as in Kubernetes.
        for (field, text) in [("subPath", sub_path), ("subPathExpr", expression)] {
            descending(text.as_deref().unwrap_or_default(), &of_list.child(field), errors);
        }
        unsupported::mount(mount, &path, errors);
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
