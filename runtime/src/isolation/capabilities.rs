//! Which parts of root's power a container keeps.

use serde::{Deserialize, Serialize};

use crate::api::CapabilityChanges;

/// A set of capabilities, as the kernel's bit mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Capabilities(pub(crate) u64);

/// All capabilities by their numbers in `linux/capability.h`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What containers customarily keep: enough for the usual images to set up their users and
/// files, nothing that reaches the host or a neighbour. So `NET_RAW`, by which a pod could forge
/// what others on its bridge send, is not among them, as with CRI-O; programs that ping need none,
/// see `DEFAULT_SYSCTLS`.
const CUSTOMARY: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

impl Capabilities {
    /// Every capability there is.
    pub(crate) const ALL: Capabilities = Capabilities((1 << NAMES.len()) - 1);

    /// The customary set with changes applied. An unknown name is the error.
    pub(crate) fn with_changes(changes: &CapabilityChanges) -> Result<Capabilities, String> {
        let mut bits = 0;
        for name in CUSTOMARY {
            bits |= bit(name)?;
        }
        // `ALL` goes first, so that single names in either list say what differs from it.
        let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
        if changes.drop.iter().any(is_all) {
            bits = 0;
        }
        if changes.add.iter().any(is_all) {
            bits = Self::ALL.0;
        }
        for name in changes.add.iter().filter(|name| !is_all(name)) {
            bits |= bit(name)?;
        }
        for name in changes.drop.iter().filter(|name| !is_all(name)) {
            bits &= !bit(name)?;
        }
        Ok(Capabilities(bits))
    }

    /// Whether a capability, by its name without `CAP_`, is in the set.
    pub(crate) fn has(self, name: &str) -> bool {
        bit(name).is_ok_and(|bit| self.0 & bit != 0)
    }
}

fn bit(name: &str) -> Result<u64, String> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    match NAMES.iter().position(|known| *known == short) {
        Some(number) => Ok(1 << number),
        None => Err(format!("unknown capability {name:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Result<Capabilities, String> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Capabilities::with_changes(&CapabilityChanges { add: owned(add), drop: owned(drop) })
    }

    #[test]
    fn without_changes_the_customary_set_is_kept() {
        // What containers of Docker and containerd show as CapBnd, a80425fb, without NET_RAW.
        assert_eq!(set(&[], &[]).unwrap(), Capabilities(0xa80405fb));
    }

    #[test]
    fn all_is_dropped_before_single_ones_are_added() {
        assert_eq!(set(&["NET_BIND_SERVICE"], &["ALL"]).unwrap(), Capabilities(1 << 10));
    }

    #[test]
    fn all_is_added_before_single_ones_are_dropped() {
        let set = set(&["ALL"], &["SYS_ADMIN"]).unwrap();
        assert!(!set.has("SYS_ADMIN") && set.has("SYS_TIME"));
    }

    #[test]
    fn names_may_carry_the_prefix_and_any_case() {
        assert!(set(&["CAP_net_admin"], &[]).unwrap().has("NET_ADMIN"));
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        assert!(set(&["FLY"], &[]).unwrap_err().contains("FLY"));
    }
}
