//! What a master tells of itself, in Prometheus' text format and under Kubernetes' names where
//! Kubernetes has one.
//!
//! Numbers are plain atomics of this process: whoever counts takes no lock and looks nothing up by
//! text. Text is made when somebody asks for it.

mod process;
pub(crate) mod requests;
mod text;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub(crate) use text::{CONTENT_TYPE, Text};

use crate::api::admission::pod_security::policy::Level;
use crate::cache::Caches;

/// Only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicI64);

impl Gauge {
    pub(crate) const fn new() -> Self {
        Self(AtomicI64::new(0))
    }

    pub(crate) fn add(&self, change: i64) {
        self.0.fetch_add(change, Relaxed);
    }

    pub(crate) fn set(&self, value: usize) {
        self.0.store(i64::try_from(value).unwrap_or(i64::MAX), Relaxed);
    }

    pub(crate) fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// The bounds of all histograms, in seconds: Kubernetes' own for requests.
pub(crate) const BOUNDS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];

/// How long something takes.
#[derive(Debug)]
pub(crate) struct Histogram {
    /// The last one is beyond all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Histogram {
    pub(crate) const fn new() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; BOUNDS.len() + 1],
            nanoseconds: AtomicU64::new(0),
        }
    }

    pub(crate) fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }
}

/// What the scheduler counts.
#[derive(Debug)]
pub(crate) struct Scheduling {
    /// Pods that take part in the race for a node.
    pub(crate) active: Gauge,
    /// Pods for which a write failed.
    pub(crate) backoff: Gauge,
    /// Pods that are known to fit nowhere.
    pub(crate) unschedulable: Gauge,
    pub(crate) scheduled: Counter,
    pub(crate) refused: Counter,
    pub(crate) failed: Counter,
    /// Pods for which others had to give way.
    pub(crate) preempted: Counter,
}

pub(crate) static SCHEDULING: Scheduling = Scheduling {
    active: Gauge::new(),
    backoff: Gauge::new(),
    unschedulable: Gauge::new(),
    scheduled: Counter::new(),
    refused: Counter::new(),
    failed: Counter::new(),
    preempted: Counter::new(),
};

/// What Pod Security counts: pods and templates that were held against a level.
#[derive(Debug)]
pub(crate) struct PodSecurity {
    /// By mode, level and whether it was refused (or would have been).
    counts: [[[Counter; 2]; 3]; 3],
}

pub(crate) static POD_SECURITY: PodSecurity =
    PodSecurity { counts: [const { [const { [const { Counter::new() }; 2] }; 3] }; 3] };

impl PodSecurity {
    pub(crate) const ENFORCE: usize = 0;
    pub(crate) const AUDIT: usize = 1;
    pub(crate) const WARN: usize = 2;

    pub(crate) fn count(&self, mode: usize, level: Level, denied: bool) {
        self.counts[mode][level as usize][usize::from(denied)].add_one();
    }

    fn render(&self, text: &mut Text) {
        let name = "pod_security_evaluations_total";
        text.family(name, "counter", "Pods and templates by what Pod Security made of them.");
        for (mode, counts) in ["enforce", "audit", "warn"].into_iter().zip(&self.counts) {
            let levels = [Level::Privileged, Level::Baseline, Level::Restricted];
            for (level, counts) in levels.into_iter().zip(counts) {
                for (decision, count) in ["allow", "deny"].into_iter().zip(counts) {
                    let labels =
                        [("decision", decision), ("mode", mode), ("policy_level", level.name())];
                    if count.get() > 0 {
                        text.sample(name, &labels, count.get());
                    }
                }
            }
        }
    }
}

/// How long the store takes, by operation.
pub(crate) static STORE: [(&str, Histogram); 4] = [
    ("get", Histogram::new()),
    ("list", Histogram::new()),
    ("txn", Histogram::new()),
    ("revision", Histogram::new()),
];

/// The controllers' queues: written to when a controller starts, read when somebody asks.
static QUEUES: Mutex<Vec<(&'static str, Arc<Gauge>)>> = Mutex::new(Vec::new());

/// The depth of a controller's queue. Controllers of one name share it.
pub(crate) fn queue_depth(controller: &'static str) -> Arc<Gauge> {
    let mut queues = QUEUES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, depth)) = queues.iter().find(|(name, _)| *name == controller) {
        return Arc::clone(depth);
    }
    let depth = Arc::new(Gauge::new());
    queues.push((controller, Arc::clone(&depth)));
    depth
}

/// Everything, as text.
pub(crate) fn render(requests: &requests::Requests, caches: &Caches) -> String {
    let mut text = Text::default();
    requests.render(&mut text);
    text.family("apiserver_resource_objects", "gauge", "Number of stored objects by resource.");
    for cache in caches.resources() {
        let labels = [("resource", cache.resource())];
        text.sample("apiserver_resource_objects", &labels, cache.len());
    }
    text.family("etcd_request_duration_seconds", "histogram", "Store latency by operation.");
    for (operation, took) in &STORE {
        text.histogram("etcd_request_duration_seconds", &[("operation", operation)], took);
    }
    scheduling(&mut text);
    POD_SECURITY.render(&mut text);
    text.family("workqueue_depth", "gauge", "Keys that wait, by controller.");
    let queues = QUEUES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for (name, depth) in queues {
        text.sample("workqueue_depth", &[("name", name)], depth.get());
    }
    process::render(&mut text);
    text.family("kubernetes_build_info", "gauge", "The version, as a label; always 1.");
    let version = [("git_version", concat!("v", env!("CARGO_PKG_VERSION")))];
    text.sample("kubernetes_build_info", &version, 1);
    text.into_string()
}

fn scheduling(text: &mut Text) {
    let Scheduling { active, backoff, unschedulable, scheduled, refused, failed, preempted } =
        &SCHEDULING;
    text.family("scheduler_pending_pods", "gauge", "Pods without a node, by queue.");
    for (queue, pods) in
        [("active", active), ("backoff", backoff), ("unschedulable", unschedulable)]
    {
        text.sample("scheduler_pending_pods", &[("queue", queue)], pods.get());
    }
    text.family("scheduler_schedule_attempts_total", "counter", "Attempts by result.");
    for (result, attempts) in
        [("scheduled", scheduled), ("unschedulable", refused), ("error", failed)]
    {
        let labels = [("profile", "default-scheduler"), ("result", result)];
        text.sample("scheduler_schedule_attempts_total", &labels, attempts.get());
    }
    let about = "Pods for which others had to give way.";
    text.family("scheduler_preemption_attempts_total", "counter", about);
    text.sample("scheduler_preemption_attempts_total", &[], preempted.get());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_told_cumulatively() {
        let took = Histogram::new();
        for milliseconds in [1, 5, 6, 70_000] {
            took.observe(Duration::from_millis(milliseconds));
        }
        let mut text = Text::default();
        text.family("x", "histogram", "What\nit is.");
        text.histogram("x", &[("a", "q\"\\")], &took);
        let text = text.into_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["# HELP x What\\nit is.", "# TYPE x histogram"]);
        assert_eq!(lines[2], r#"x_bucket{a="q\"\\",le="0.005"} 2"#);
        assert_eq!(lines[3], r#"x_bucket{a="q\"\\",le="0.025"} 3"#);
        assert_eq!(lines[2 + 22], r#"x_bucket{a="q\"\\",le="60"} 3"#);
        assert_eq!(lines[2 + 23], r#"x_bucket{a="q\"\\",le="+Inf"} 4"#);
        assert_eq!(lines[2 + 24], r#"x_sum{a="q\"\\"} 70.012"#);
        assert_eq!(lines[2 + 25], r#"x_count{a="q\"\\"} 4"#);
    }

    #[test]
    fn the_process_is_looked_at() {
        let mut text = Text::default();
        process::render(&mut text);
        let text = text.into_string();
        for name in [
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_cpu_seconds_total",
            "process_open_fds",
            "process_max_fds",
            "process_start_time_seconds",
        ] {
            let value = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            let value: f64 = value.unwrap_or_else(|| panic!("no {name}")).parse().unwrap();
            assert!(value >= 0.0, "{name}");
        }
    }
}
