//! What the files of a view say: pure functions of what the machine's file says and of what the kernel
//! has counted for the container.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cgroup::Counts;

/// What is taken from the machine.
pub(super) struct Machine<'a> {
    /// Its file.
    pub(crate) text: &'a str,
    /// When the sandbox began, by the calendar.
    pub(crate) since: SystemTime,
    /// How long ago that is.
    pub(crate) age: Duration,
}

/// Ticks of a second, in which `/proc` counts.
const HERTZ: u64 = 100;

pub(super) fn meminfo(of_machine: &str, counts: &Counts) -> String {
    let whole = of_machine.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let whole = whole.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let whole = whole.unwrap_or(0) * 1024;
    let Some(limit) = counts.memory_limit.filter(|limit| *limit < whole) else {
        return of_machine.to_owned();
    };
    let used = counts.memory_used.min(limit);
    let free = limit - used;
    let of_files = counts.active_file + counts.inactive_file;
    let value = |name: &str| -> Option<u64> {
        Some(match name {
            "MemTotal" => limit,
            "MemFree" => free,
            "MemAvailable" => (free + of_files).min(limit),
            "Cached" => of_files + counts.shared,
            "Active" => counts.active_anon + counts.active_file,
            "Inactive" => counts.inactive_anon + counts.inactive_file,
            "Active(anon)" => counts.active_anon,
            "Inactive(anon)" => counts.inactive_anon,
            "Active(file)" => counts.active_file,
            "Inactive(file)" => counts.inactive_file,
            "AnonPages" => counts.anon,
            "Shmem" => counts.shared,
            // No swap beyond a limit; the rest is the kernel's, of which a container has no part of its own.
            "SwapTotal" | "SwapFree" | "SwapCached" | "Buffers" | "Slab" | "SReclaimable"
            | "SUnreclaim" | "KReclaimable" => 0,
            _ => return None,
        })
    };
    let line = |line: &str| {
        let own = line.split_once(':').and_then(|(name, _)| Some((name, value(name)?)));
        match own {
            Some((name, bytes)) => format!("{:<15} {:>8} kB\n", format!("{name}:"), bytes / 1024),
            None => format!("{line}\n"),
        }
    };
    of_machine.lines().map(line).collect()
}

/// As many processors as the container may keep busy, never more than there are.
fn processors(counts: &Counts, there_are: u64) -> u64 {
    match counts.cpu_bound {
        Some((quota, period)) if period > 0 => quota.div_ceil(period).clamp(1, there_are.max(1)),
        _ => there_are,
    }
}

pub(super) fn cpuinfo(of_machine: &str, counts: &Counts) -> String {
    let blocks: Vec<&str> =
        of_machine.split("\n\n").filter(|block| block.starts_with("processor")).collect();
    let shown = processors(counts, blocks.len() as u64) as usize;
    if shown == blocks.len() {
        return of_machine.to_owned();
    }
    blocks[..shown].iter().map(|block| format!("{}\n\n", block.trim_end())).collect()
}

/// Time is told of the container; the counts of the machine as a whole are left out.
pub(super) fn stat(machine: &Machine<'_>, counts: &Counts) -> String {
    let is_one = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let there_are = machine.text.lines().filter(is_one).count() as u64;
    let shown = processors(counts, there_are);
    let ticks = |time: Duration| time.as_millis() as u64 * HERTZ / 1000;
    let (user, system) = (ticks(counts.cpu_user), ticks(counts.cpu_system));
    let idle = (ticks(machine.age) * shown).saturating_sub(user + system);
    let line = |name: &str, of: u64| {
        format!("{name} {} 0 {} {} 0 0 0 0 0 0\n", user / of, system / of, idle / of)
    };
    let mut text = line("cpu ", 1);
    for number in 0..shown {
        text.push_str(&line(&format!("cpu{number}"), shown));
    }
    let since = machine.since.duration_since(UNIX_EPOCH).unwrap_or_default();
    text.push_str(&format!("intr 0\nctxt 0\nbtime {}\n", since.as_secs()));
    let processes = counts.processes;
    text.push_str(&format!("processes {processes}\nprocs_running 1\nprocs_blocked 0\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       24641812 kB\nMemFree:         3000000 kB\n\
        MemAvailable:   20000000 kB\nBuffers:          100000 kB\nCached:         15000000 kB\n\
        SwapTotal:       1048576 kB\nHugePages_Total:       0\nHugepagesize:       2048 kB\n";

    fn counts() -> Counts {
        Counts {
            memory_limit: Some(64 << 20),
            memory_used: 24 << 20,
            inactive_file: 8 << 20,
            active_file: 4 << 20,
            shared: 1 << 20,
            cpu_bound: Some((150_000, 100_000)),
            cpu_user: Duration::from_secs(3),
            cpu_system: Duration::from_secs(1),
            processes: 5,
            ..Counts::default()
        }
    }

    #[test]
    fn memory_is_the_limit_and_what_is_left_of_it() {
        let text = meminfo(MEMINFO, &counts());
        assert_eq!(
            text,
            "MemTotal:          65536 kB\nMemFree:           40960 kB\n\
             MemAvailable:      53248 kB\nBuffers:               0 kB\nCached:            13312 kB\n\
             SwapTotal:             0 kB\nHugePages_Total:       0\nHugepagesize:       2048 kB\n"
        );
        // Without a limit, or with one that the machine does not reach, the machine's holds.
        for memory_limit in [None, Some(1 << 40)] {
            assert_eq!(meminfo(MEMINFO, &Counts { memory_limit, ..counts() }), MEMINFO);
        }
    }

    #[test]
    fn processors_are_as_many_as_may_be_busy() {
        let machine: String =
            (0..4).map(|n| format!("processor\t: {n}\nmodel name\t: x\n\n")).collect();
        let shown = |cpu_bound| {
            let text = cpuinfo(&machine, &Counts { cpu_bound, ..Counts::default() });
            text.matches("processor").count()
        };
        assert_eq!(shown(Some((150_000, 100_000))), 2);
        assert_eq!(shown(Some((10_000, 100_000))), 1);
        assert_eq!(shown(Some((900_000, 100_000))), 4);
        assert_eq!(shown(None), 4);
    }

    #[test]
    fn time_of_processors_is_the_containers_since_its_sandbox_began() {
        let machine = Machine {
            text: "cpu  9 9 9 9\ncpu0 1 1\ncpu1 1 1\ncpu2 1 1\nintr 5\nbtime 7\n",
            since: UNIX_EPOCH + Duration::from_secs(1000),
            age: Duration::from_secs(10),
        };
        let text = stat(&machine, &counts());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "cpu  300 0 100 1600 0 0 0 0 0 0");
        assert_eq!(lines[1], "cpu0 150 0 50 800 0 0 0 0 0 0");
        assert!(lines.contains(&"btime 1000") && !text.contains("cpu2"), "{text}");
    }
}
