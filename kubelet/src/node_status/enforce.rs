//! What keeps the pods together within what the node has for them: Kubernetes' *node allocatable*.
//!
//! Pods are scheduled by what they ask for, and may use more. Without a bound for all of them it would
//! be the kernel that decides who pays when the memory is used up, and that may be the machine's own programs.

use std::collections::BTreeMap;

use runtime::Resources;

use super::{Facts, Reserved};

/// Which parts of the node the kernel holds to their share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforced {
    /// All pods together.
    Pods,
    /// None.
    Nothing,
}

/// Text that names no part.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" cannot be held to its share; write pods or none")]
pub struct InvalidEnforced(String);

impl std::str::FromStr for Enforced {
    type Err = InvalidEnforced;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "pods" => Ok(Self::Pods),
            "none" | "" => Ok(Self::Nothing),
            other => Err(InvalidEnforced(other.to_owned())),
        }
    }
}

/// The bounds of all pods of a machine together that has these things, and on which so much is set aside.
/// What would be short at once (the hard bounds of eviction) is within: pods are to go before the kernel kills.
pub fn of_all_pods(facts: &Facts, set_aside: &Reserved, processes: Option<i64>) -> Resources {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let cpu = signed(facts.processors).saturating_mul(1000) - set_aside.cpu_milli;
    let most = processes.map(|most| (most - set_aside.processes).max(1));
    Resources {
        cpu_shares: Some(crate::pods::shares(cpu.max(0))),
        memory_limit_bytes: Some((signed(facts.memory_bytes) - set_aside.memory).max(0)),
        // Without something set aside the kernel's own bound is the same.
        pids_limit: most.filter(|_| set_aside.processes > 0),
        huge_page_limits: BTreeMap::new(),
        ..Resources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_have_what_is_not_set_aside() {
        let facts = Facts { processors: 4, memory_bytes: 8 << 30, ..Facts::default() };
        let set_aside =
            Reserved { cpu_milli: 500, memory: 1 << 30, processes: 1000, ..Reserved::default() };
        let bounds = of_all_pods(&facts, &set_aside, Some(32_768));
        assert_eq!(bounds.cpu_shares, Some(3584));
        assert_eq!(bounds.memory_limit_bytes, Some(7 << 30));
        assert_eq!(bounds.pids_limit, Some(31_768));
        let nothing = of_all_pods(&facts, &Reserved::default(), Some(32_768));
        assert_eq!((nothing.memory_limit_bytes, nothing.pids_limit), (Some(8 << 30), None));
        // More than there is leaves nothing, and no number below that.
        let all = Reserved { cpu_milli: 9000, memory: 9 << 30, processes: 9, ..set_aside };
        let bounds = of_all_pods(&facts, &all, Some(5));
        assert_eq!(bounds.memory_limit_bytes, Some(0));
        assert_eq!((bounds.cpu_shares, bounds.pids_limit), (Some(2), Some(1)));
    }

    #[test]
    fn only_pods_can_be_held_to_their_share() {
        assert_eq!("pods".parse::<Enforced>().unwrap(), Enforced::Pods);
        assert_eq!("none".parse::<Enforced>().unwrap(), Enforced::Nothing);
        let error = "system-reserved".parse::<Enforced>().unwrap_err().to_string();
        assert_eq!(error, "\"system-reserved\" cannot be held to its share; write pods or none");
    }
}
