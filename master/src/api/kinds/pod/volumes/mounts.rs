//! Where the containers of a pod mount its volumes.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, VolumeMount};
use proto::k8s as k8s_openapi;

use super::super::super::path::Path;
use super::super::unsupported;
use super::super::validate::climbs;
use super::{CLIMBS, descending};
use crate::api::field_error::{FieldError, FieldErrors};

/// How what is mounted below a read-only mount may be treated.
const RECURSIVE_READ_ONLY: [&str; 3] = ["Disabled", "Enabled", "IfPossible"];

/// Where mounts may go that are made below a mount once that is there.
const PROPAGATION: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];

/// All that is wrong with the mounts of a container.
pub(in super::super) fn validate_mounts(
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
        // So are these.
        propagation(mount, container, &of_list.child("mountPropagation"), errors);
        recursive_read_only(mount, &of_list.child("recursiveReadOnly"), errors);
        unsupported::mount(mount, &path, errors);
    }
}

/// Who mounts for the node has all power over it.
fn propagation(mount: &VolumeMount, container: &Container, path: &Path, errors: &mut FieldErrors) {
    let Some(mode) = mount.mount_propagation.as_deref() else { return };
    if !PROPAGATION.contains(&mode) {
        errors.push(FieldError::not_supported(path, mode, &PROPAGATION));
    }
    let context = container.security_context.as_ref();
    let privileged = context.and_then(|context| context.privileged) == Some(true);
    if mode == "Bidirectional" && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// What is mounted below is read-only only with the mount itself, and if nothing is mounted there later.
fn recursive_read_only(mount: &VolumeMount, path: &Path, errors: &mut FieldErrors) {
    let Some(mode) = mount.recursive_read_only.as_deref() else { return };
    if !RECURSIVE_READ_ONLY.contains(&mode) {
        errors.push(FieldError::not_supported(path, mode, &RECURSIVE_READ_ONLY));
    }
    if matches!(mode, "Enabled" | "IfPossible") && mount.read_only != Some(true) {
        errors.push(FieldError::forbidden(path, "may only be specified when readOnly is true"));
    }
    let is_private = mount.mount_propagation.as_deref().is_none_or(|mode| mode == "None");
    if matches!(mode, "Enabled" | "IfPossible") && !is_private {
        let detail = "may only be specified when mountPropagation is None or not specified";
        errors.push(FieldError::forbidden(path, detail));
    }
}
