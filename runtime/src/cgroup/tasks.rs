//! The tasks of a group, for the container's view of how busy it is.

use std::fs;

use super::{Hierarchies, Version};

/// What the tasks (threads) of a group do at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tasks {
    pub(crate) all: u64,
    /// Those that run or want to, or wait where nothing interrupts them: what a load counts.
    pub(crate) busy: u64,
    /// The number that the youngest has among its own.
    pub(crate) youngest: u32,
}

/// So many tasks are looked at, and the rest taken to be like them: a group with a hundred times as many
/// must not cost its reader's neighbours a hundred times as much.
const LOOKED_AT: usize = 1024;

impl Hierarchies {
    /// Looks at the tasks of a group, without the groups below it.
    pub(crate) fn tasks(&self, group: &str) -> Tasks {
        let listed = self.0.iter().find_map(|hierarchy| {
            let name = match hierarchy.version {
                Version::One => "tasks",
                Version::Two => "cgroup.threads",
            };
            let text = fs::read_to_string(hierarchy.folder(group).join(name)).ok()?;
            (!text.is_empty()).then_some(text)
        });
        let listed = listed.unwrap_or_default();
        let numbers: Vec<u32> = listed.lines().filter_map(|line| line.parse().ok()).collect();
        let looked_at = &numbers[..numbers.len().min(LOOKED_AT)];
        let busy = looked_at.iter().filter(|number| is_busy(**number)).count();
        Tasks {
            all: numbers.len() as u64,
            busy: scaled(busy, looked_at.len(), numbers.len()),
            youngest: numbers.iter().max().map_or(0, |number| own_number(*number)),
        }
    }
}

fn scaled(busy: usize, looked_at: usize, all: usize) -> u64 {
    (busy * all).checked_div(looked_at).unwrap_or(0) as u64
}

/// One that has ended is not.
fn is_busy(task: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{task}/stat")).unwrap_or_default();
    state(&text).is_some_and(|state| matches!(state, 'R' | 'D'))
}

/// "12 (a name) with brackets) S 1 …"
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The number of a task in the innermost namespace that it is in.
fn own_number(task: u32) -> u32 {
    let text = fs::read_to_string(format!("/proc/{task}/status")).unwrap_or_default();
    let numbers = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.and_then(|line| line.split_whitespace().last()?.parse().ok()).unwrap_or(task)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_found_behind_any_name() {
        assert_eq!(state("12 (sh) S 1 12"), Some('S'));
        assert_eq!(state("12 (a) R (b) D 1 12"), Some('D'));
        assert_eq!(state(""), None);
    }

    #[test]
    fn tasks_that_are_not_looked_at_are_like_the_others() {
        assert_eq!(scaled(3, 7, 7), 3);
        assert_eq!(scaled(512, 1024, 4096), 2048);
        assert_eq!(scaled(0, 0, 0), 0);
    }

    #[test]
    fn who_reads_is_busy() {
        let own = rustix::thread::gettid().as_raw_nonzero().get();
        assert!(is_busy(own.cast_unsigned()));
        assert!(!is_busy(0));
    }
}
