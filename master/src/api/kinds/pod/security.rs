//! How a pod and its containers are confined. What cannot be enforced is refused.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, PodSecurityContext, SeccompProfile, SecurityContext,
};
use proto::k8s as k8s_openapi;
use serde_json::json;

use super::super::path::Path;
use super::unsupported;
use super::validate::climbs;
use crate::api::field_error::{FieldError, FieldErrors};

const MAX_ID: i64 = 2_147_483_647;
const ID_RULE: &str = "must be between 0 and 2147483647, inclusive";

/// Linux's, without `CAP_`; `ALL` stands for all of them.
const CAPABILITIES: &[&str] = &[
    "ALL",
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// All that is wrong with, or not supported of, a pod's context.
pub(super) fn validate_pod(context: &PodSecurityContext, path: &Path, errors: &mut FieldErrors) {
    let PodSecurityContext {
        app_armor_profile,
        fs_group,
        fs_group_change_policy,
        run_as_group,
        run_as_non_root: _,
        run_as_user,
        se_linux_change_policy,
        // Which labels there are, the policy of each node knows.
        se_linux_options: _,
        seccomp_profile,
        supplemental_groups,
        supplemental_groups_policy,
        sysctls: _,
        windows_options,
    } = context;
    validate_id(*run_as_user, &path.child("runAsUser"), errors);
    validate_id(*run_as_group, &path.child("runAsGroup"), errors);
    for (index, group) in supplemental_groups.iter().flatten().enumerate() {
        validate_id(Some(*group), &path.child("supplementalGroups").index(index), errors);
    }
    validate_seccomp(seccomp_profile.as_ref(), &path.child("seccompProfile"), errors);
    validate_app_armor(app_armor_profile.as_ref(), &path.child("appArmorProfile"), errors);
    validate_id(*fs_group, &path.child("fsGroup"), errors);
    // The last two have no effect on volumes that come and go with the pod, as all here do: each is the pod's
    // alone, and its files get labels one by one.
    for (field, value, supported) in [
        ("supplementalGroupsPolicy", supplemental_groups_policy, &["Merge", "Strict"]),
        ("fsGroupChangePolicy", fs_group_change_policy, &["Always", "OnRootMismatch"]),
        ("seLinuxChangePolicy", se_linux_change_policy, &["MountOption", "Recursive"]),
    ] {
        if let Some(other) = value.as_deref().filter(|value| !supported.contains(value)) {
            errors.push(FieldError::not_supported(path.child(field), other, supported));
        }
    }
    let fields = [(json!(windows_options), "windowsOptions", "nodes run Linux")];
    unsupported::refuse_set(path, fields, errors);
}

/// All that is wrong with, or not supported of, a container's context.
pub(super) fn validate_container(context: &SecurityContext, path: &Path, errors: &mut FieldErrors) {
    let SecurityContext {
        allow_privilege_escalation,
        app_armor_profile,
        capabilities,
        privileged,
        proc_mount,
        read_only_root_filesystem: _,
        run_as_group,
        run_as_non_root: _,
        run_as_user,
        se_linux_options: _,
        seccomp_profile,
        windows_options,
    } = context;
    validate_id(*run_as_user, &path.child("runAsUser"), errors);
    validate_id(*run_as_group, &path.child("runAsGroup"), errors);
    validate_seccomp(seccomp_profile.as_ref(), &path.child("seccompProfile"), errors);
    validate_app_armor(app_armor_profile.as_ref(), &path.child("appArmorProfile"), errors);
    let changes = capabilities.clone().unwrap_or_default();
    for (field, list) in [("add", &changes.add), ("drop", &changes.drop)] {
        for (index, name) in list.iter().flatten().enumerate() {
            if !CAPABILITIES.contains(&name.strip_prefix("CAP_").unwrap_or(name)) {
                let path = path.child("capabilities").child(field).index(index);
                let detail = "is not a capability of Linux, such as NET_BIND_SERVICE, nor ALL";
                errors.push(FieldError::invalid(path, name.as_str(), detail));
            }
        }
    }
    if *allow_privilege_escalation == Some(false) {
        // In this spelling only, as in Kubernetes: without new privileges the right can be given.
        for _ in changes.add.iter().flatten().filter(|name| *name == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(path, json!(context), detail));
        }
        if *privileged == Some(true) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(path, json!(context), detail));
        }
    }
    match proc_mount.as_deref() {
        None | Some("Default" | "Unmasked") => {}
        Some(other) => {
            let (path, supported) = (path.child("procMount"), &["Default", "Unmasked"]);
            errors.push(FieldError::not_supported(path, other, supported));
        }
    }
    let fields = [(json!(windows_options), "windowsOptions", "nodes run Linux")];
    unsupported::refuse_set(path, fields, errors);
}

pub(super) fn validate_id(id: Option<i64>, path: &Path, errors: &mut FieldErrors) {
    if let Some(id) = id.filter(|id| !(0..=MAX_ID).contains(id)) {
        errors.push(FieldError::invalid(path, id, ID_RULE));
    }
}

fn validate_seccomp(profile: Option<&SeccompProfile>, path: &Path, errors: &mut FieldErrors) {
    let Some(SeccompProfile { localhost_profile, type_ }) = profile else { return };
    match type_.as_str() {
        "RuntimeDefault" | "Unconfined" => {
            if localhost_profile.is_some() {
                let path = path.child("localhostProfile");
                let detail = "can only be set when seccomp type is Localhost";
                errors.push(FieldError::invalid(path, localhost_profile.clone(), detail));
            }
        }
        // The file is the node's: it says when there is none.
        "Localhost" => validate_profile_name(localhost_profile.as_deref(), path, errors),
        "" => {
            let detail = "type is required when seccompProfile is set";
            errors.push(FieldError::required(path.child("type"), detail));
        }
        other => {
            let supported = &["Localhost", "RuntimeDefault", "Unconfined"];
            errors.push(FieldError::not_supported(path.child("type"), other, supported));
        }
    }
}

fn validate_profile_name(name: Option<&str>, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("localhostProfile");
    match name {
        None => {
            errors.push(FieldError::required(path, "must be set when seccomp type is Localhost"));
        }
        Some("") => errors.push(FieldError::required(path, "")),
        Some(name) if name.starts_with('/') => {
            errors.push(FieldError::invalid(path, name, "must be a relative path"));
        }
        Some(name) if climbs(name) => {
            errors.push(FieldError::invalid(path, name, "must not contain '..'"));
        }
        Some(_) => {}
    }
}

/// As long as a name may be for the kernel.
const MAX_APP_ARMOR_NAME: usize = 4095;

fn validate_app_armor(profile: Option<&AppArmorProfile>, path: &Path, errors: &mut FieldErrors) {
    let Some(AppArmorProfile { localhost_profile, type_ }) = profile else { return };
    match type_.as_str() {
        "Unconfined" | "RuntimeDefault" if localhost_profile.is_some() => {
            let path = path.child("localhostProfile");
            let detail = "can only be set when AppArmor type is Localhost";
            errors.push(FieldError::invalid(path, localhost_profile.clone(), detail));
        }
        "Unconfined" | "RuntimeDefault" => {}
        "Localhost" => {
            let path = path.child("localhostProfile");
            let name = localhost_profile.as_deref().unwrap_or_default();
            if name.trim().is_empty() {
                let detail = "must be set when AppArmor type is Localhost";
                errors.push(FieldError::required(path, detail));
            } else if name.trim() != name {
                errors.push(FieldError::invalid(path, name, "must not be padded with whitespace"));
            } else if name.len() > MAX_APP_ARMOR_NAME {
                errors.push(FieldError::too_long(path, MAX_APP_ARMOR_NAME));
            }
        }
        "" => {
            let detail = "type is required when appArmorProfile is set";
            errors.push(FieldError::required(path.child("type"), detail));
        }
        other => {
            let supported = &["Localhost", "RuntimeDefault", "Unconfined"];
            errors.push(FieldError::not_supported(path.child("type"), other, supported));
        }
    }
}
