//! What the kernel knows of this process.

use std::fs;

use super::Text;

/// Of `/proc/self/stat`; the same on every Linux that people run.
const TICKS_PER_SECOND: f64 = 100.0;

/// Tells what can be found out; a number that cannot is left out.
pub(super) fn render(text: &mut Text) {
    let mut tell = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            text.family(name, kind, help);
            text.sample(name, &[], value);
        }
    };
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name may contain anything; fields are counted from behind it, from the third one on.
    let fields: Vec<&str> = match stat.rsplit_once(')') {
        Some((_, fields)) => fields.split_whitespace().collect(),
        None => Vec::new(),
    };
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let cpu = field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS_PER_SECOND);
    tell("process_cpu_seconds_total", "counter", "Processor time.", cpu);
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.parse::<f64>().ok());
    let start = boot.zip(field(22)).map(|(boot, ticks)| boot + ticks / TICKS_PER_SECOND);
    tell("process_start_time_seconds", "gauge", "When it started.", start);
    tell("process_virtual_memory_bytes", "gauge", "Virtual memory.", field(23));
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()
    });
    let resident = resident.map(|kilobytes| kilobytes * 1024.0);
    tell("process_resident_memory_bytes", "gauge", "Resident memory.", resident);
    // The folder that is read is open as well.
    let open = fs::read_dir("/proc/self/fd").ok().map(|files| (files.count() - 1) as f64);
    tell("process_open_fds", "gauge", "Open files.", open);
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let most = limits.lines().find_map(|line| {
        line.strip_prefix("Max open files")?.split_whitespace().next()?.parse::<f64>().ok()
    });
    tell("process_max_fds", "gauge", "The limit of open files.", most);
}
