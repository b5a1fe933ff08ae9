//! What this process has in memory.

use std::fs;

/// In bytes.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    /// What the allocator has given out.
    pub(crate) heap: usize,
    /// This process' share of the machine's memory.
    pub(crate) share: usize,
}

impl Memory {
    /// As of now, when all that is free was given back.
    pub(crate) fn now() -> Self {
        memory::give_back();
        let heap = memory::in_use().unwrap_or_default();
        Self { heap, share: field("/proc/self/smaps_rollup", "Pss:") }
    }
}

/// From now on [`peak`] tells the most that there was since.
pub(crate) fn forget_peak() {
    fs::write("/proc/self/clear_refs", "5").expect("a kernel that forgets the peak");
}

/// The most that was resident since [`forget_peak`].
pub(crate) fn peak() -> usize {
    field("/proc/self/status", "VmHWM:")
}

fn field(file: &str, name: &str) -> usize {
    let text = fs::read_to_string(file).expect("a file of the kernel's");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kilobytes.expect("a number of kilobytes") * 1024
}
