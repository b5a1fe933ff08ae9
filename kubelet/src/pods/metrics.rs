//! What this node and its containers use, as `/metrics/resource`: under the names and in the form
//! that Kubernetes' kubelet tells it, so that whoever reads that reads this.
//!
//! Counters are told as they stand; rates are for the reader to make. So nothing is measured while
//! nobody asks.

use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proto::ObjectKey;
use runtime::{ContainerRuntime, Usage};

use super::names::{AttemptLabels, PodIdentity};

/// The kernel's clock ticks in `/proc/stat`; it has told programs so for decades on every platform.
const TICKS_PER_SECOND: u64 = 100;

/// What a container uses.
struct Measured {
    pod: ObjectKey,
    container: String,
    usage: Usage,
}

/// The page.
pub(super) async fn page(runtime: &Arc<dyn ContainerRuntime>) -> String {
    let mut containers = Vec::new();
    // Without a runtime the page says what the node uses.
    for sandbox in runtime.list().await.unwrap_or_default() {
        let Some(pod) = PodIdentity::of(&sandbox) else { continue };
        for container in sandbox.containers.iter().filter(|container| container.exit.is_none()) {
            let Some(labels) = AttemptLabels::of(container) else { continue };
            // One that ends meanwhile uses nothing any more.
            let Ok(usage) = runtime.usage(&sandbox.config.id, &container.id).await else {
                continue;
            };
            containers.push(Measured { pod: pod.key.clone(), container: labels.container, usage });
        }
    }
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let node = node(&read("/proc/stat"), &read("/proc/meminfo"));
    render(node, &containers, Timestamp::now())
}

/// What the machine uses, out of the kernel's files.
fn node(stat: &str, meminfo: &str) -> Option<Usage> {
    // "cpu  user nice system idle iowait irq softirq steal guest guest_nice"; guests are in user.
    let total = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = total.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let busy = ticks.iter().take(8).sum::<u64>() - ticks.iter().skip(3).take(2).sum::<u64>();
    let kibibytes = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    };
    let used = kibibytes("MemTotal")?.saturating_sub(kibibytes("MemAvailable")?);
    let cpu = Duration::from_millis(busy * 1000 / TICKS_PER_SECOND);
    Some(Usage { cpu, memory: used * 1024, ..Usage::default() })
}

/// In the text form of Prometheus.
fn render(node: Option<Usage>, containers: &[Measured], now: Timestamp) -> String {
    let mut page = String::new();
    let at = now.as_millisecond();
    let mut family = |name: &str, kind: &str, about: &str, lines: &[(String, String)]| {
        let _ = writeln!(page, "# HELP {name} [STABLE] {about}\n# TYPE {name} {kind}");
        for (labels, value) in lines {
            let _ = writeln!(page, "{name}{labels} {value} {at}");
        }
    };
    let seconds = |usage: &Usage| usage.cpu.as_secs_f64().to_string();
    let bytes = |usage: &Usage| usage.memory.to_string();
    let of_containers = |value: &dyn Fn(&Usage) -> String| -> Vec<(String, String)> {
        let line = |one: &Measured| {
            let ObjectKey { namespace, name } = &one.pod;
            // None of them holds a character that had to be escaped.
            let container = &one.container;
            let labels =
                format!("{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{name}\"}}");
            (labels, value(&one.usage))
        };
        containers.iter().map(line).collect()
    };
    let of_node = |value: &dyn Fn(&Usage) -> String| -> Vec<(String, String)> {
        node.iter().map(|usage| (String::new(), value(usage))).collect()
    };
    family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        &of_containers(&seconds),
    );
    family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
        &of_containers(&bytes),
    );
    family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
        &of_node(&seconds),
    );
    family(
        "node_memory_working_set_bytes",
        "gauge",
        "Current working set of the node in bytes",
        &of_node(&bytes),
    );
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read_from_the_kernels_files() {
        let stat = "cpu  100 10 50 9000 500 4 6 30 7 0\ncpu0 1 1 1 1 1\n";
        let meminfo = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    400 kB\n";
        let expected = Usage { cpu: Duration::from_secs(2), memory: 600 * 1024, processes: 0 };
        assert_eq!(node(stat, meminfo), Some(expected));
        assert_eq!(node("", ""), None);
    }

    #[test]
    fn the_page_is_in_the_form_that_scrapers_read() {
        let usage = Usage { cpu: Duration::from_millis(1500), memory: 4096, processes: 1 };
        let container =
            Measured { pod: ObjectKey::new("default", "web"), container: "main".to_owned(), usage };
        let now = Timestamp::from_second(1).unwrap();
        let page = render(Some(usage), &[container], now);
        let lines: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                "container_cpu_usage_seconds_total{container=\"main\",namespace=\"default\",\
                 pod=\"web\"} 1.5 1000",
                "container_memory_working_set_bytes{container=\"main\",namespace=\"default\",\
                 pod=\"web\"} 4096 1000",
                "node_cpu_usage_seconds_total 1.5 1000",
                "node_memory_working_set_bytes 4096 1000",
            ]
        );
        assert!(page.contains("# TYPE node_memory_working_set_bytes gauge\n"));
    }
}
