//! The default filter in the words of OCI specifications: for who writes one that differs a little, and to have
//! others load an equal one.

use nix::libc;
use serde_json::{Value, json};

use super::{Capabilities, seccomp_profile as profile};
use crate::api::CapabilityChanges;

/// The `seccomp` of an OCI specification that filters as containers with these capabilities are by default. It leaves out the
/// calls that have no names yet: they fail with `EPERM`, and not with `ENOSYS`.
///
/// # Errors
/// For the user: which capability is not known.
pub fn default_seccomp(changes: &CapabilityChanges) -> Result<Value, String> {
    let capabilities = Capabilities::with_changes(changes)?;
    let rule = |names: &[&str], arguments: Vec<Value>| json!({ "names": names, "action": "SCMP_ACT_ALLOW", "args": arguments });
    let mut rules = vec![rule(&profile::allowed(capabilities), Vec::new())];
    for value in profile::PERSONALITIES {
        let is = json!({ "index": 0, "value": value, "op": "SCMP_CMP_EQ" });
        rules.push(rule(&["personality"], vec![is]));
    }
    let masked = |mask: u64, value: u64| json!({ "index": 0, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ" });
    for (mask, value) in profile::SOCKET_FAMILIES {
        rules.push(rule(&["socket"], vec![masked(*mask, *value)]));
    }
    if !capabilities.has("SYS_ADMIN") {
        rules.push(rule(&["clone"], vec![masked(profile::NAMESPACE_FLAGS, 0)]));
        rules.push(json!({
            "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS,
        }));
    }
    Ok(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": architectures(),
        "syscalls": rules,
    }))
}

fn architectures() -> &'static [&'static str] {
    if cfg!(target_arch = "x86_64") {
        &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    } else if cfg!(target_arch = "aarch64") {
        &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    } else {
        &[]
    }
}
