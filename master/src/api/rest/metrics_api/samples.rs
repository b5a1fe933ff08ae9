//! Counters of kubelets, and what is used per second between two readings of them. Pure, but for
//! the memory of the last readings.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Two readings that are nearer to each other say more about chance than about use.
pub(super) const SHORTEST: Duration = Duration::from_secs(1);
/// What was used longer ago is no matter now.
const LONGEST: Duration = Duration::from_secs(60);
/// A reading is kept for so long before a newer one takes its place, so that who asks often is not
/// told about the last second only.
const KEPT: Duration = Duration::from_secs(15);

/// What a node or a container has used: seconds of processors, and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counted {
    cpu: Option<f64>,
    memory: Option<f64>,
}

/// Containers by the namespace and name of their pod.
type OfPods<T> = BTreeMap<(String, String), BTreeMap<String, T>>;

/// A kubelet's page.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reading {
    node: Counted,
    pods: OfPods<Counted>,
}

impl Reading {
    /// Takes out of the page what is looked for; the rest of it is nobody's mistake.
    pub(super) fn parse(page: &str) -> Self {
        let mut reading = Self::default();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (series, rest) = match line.split_once('}') {
                Some((series, rest)) => (series, rest),
                None => line.split_once(' ').unwrap_or((line, "")),
            };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let Some(value) = rest.split_whitespace().next().and_then(|v| v.parse().ok()) else {
                continue;
            };
            let label = |wanted: &str| {
                let mut labels = labels.split(',').filter_map(|label| label.split_once('='));
                let found = labels.find(|(name, _)| *name == wanted);
                found.map(|(_, value)| value.trim_matches('"').to_owned()).unwrap_or_default()
            };
            let counted = match name.split('_').next() {
                Some("node") => &mut reading.node,
                Some("container") => {
                    let pod = reading.pods.entry((label("namespace"), label("pod"))).or_default();
                    pod.entry(label("container")).or_default()
                }
                _ => continue,
            };
            match name.split_once('_').map(|(_, what)| what) {
                Some("cpu_usage_seconds_total") => counted.cpu = Some(value),
                Some("memory_working_set_bytes") => counted.memory = Some(value),
                _ => {}
            }
        }
        reading
    }
}

/// A reading, and when it was made.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) reading: Reading,
}

/// What is used now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Amount {
    /// Processors.
    cpu: f64,
    /// Bytes.
    memory: f64,
}

impl Amount {
    pub(super) fn to_json(self) -> Value {
        let nano_cores = format!("{:.0}n", self.cpu * 1e9);
        json!({"cpu": nano_cores, "memory": format!("{:.0}Ki", self.memory / 1024.0)})
    }
}

/// What a node and its containers use, over a while.
#[derive(Clone, Debug)]
pub(super) struct Rate {
    pub(super) window: Duration,
    pub(super) node: Option<Amount>,
    pub(super) pods: OfPods<Amount>,
}

impl Sample {
    /// What was used since an earlier sample. A container that has been started again since counts
    /// from its start; one that was not there then is left out until the next time.
    pub(super) fn since(&self, before: &Self) -> Rate {
        let window = self.at.saturating_duration_since(before.at);
        let rate = |now: &Counted, before: &Counted| {
            let (now_cpu, before_cpu) = (now.cpu?, before.cpu?);
            let used = if now_cpu < before_cpu { now_cpu } else { now_cpu - before_cpu };
            Some(Amount { cpu: used / window.as_secs_f64().max(1e-3), memory: now.memory? })
        };
        let mut pods = OfPods::new();
        for (pod, containers) in &self.reading.pods {
            let Some(earlier) = before.reading.pods.get(pod) else { continue };
            let known = containers
                .iter()
                .filter_map(|(name, now)| Some((name.clone(), rate(now, earlier.get(name)?)?)));
            let known: BTreeMap<String, Amount> = known.collect();
            // Of a part of a pod nobody is told as if it were all.
            if known.len() == containers.len() {
                pods.insert(pod.clone(), known);
            }
        }
        Rate { window, node: rate(&self.reading.node, &before.reading.node), pods }
    }
}

/// The last readings of the nodes, to measure from. As many as there are nodes.
#[derive(Debug, Default)]
pub struct Samples(Mutex<HashMap<String, Sample>>);

impl Samples {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An earlier sample of a node, neither too near nor too far, which knows all the pods of this one.
    pub(super) fn before(&self, node: &str, sample: &Sample) -> Option<Sample> {
        let before = self.lock().get(node).cloned()?;
        let apart = sample.at.saturating_duration_since(before.at);
        let near = (SHORTEST..=LONGEST).contains(&apart);
        let knows_all = || sample.since(&before).pods.len() == sample.reading.pods.len();
        (near && knows_all()).then_some(before)
    }

    /// Keeps a sample to measure from later, unless there is one that serves.
    pub(super) fn keep(&self, node: &str, sample: Sample) {
        let mut all = self.lock();
        // Of nodes that nobody asks about any more, nothing is kept.
        all.retain(|_, old| sample.at.saturating_duration_since(old.at) <= LONGEST);
        match all.get(node) {
            Some(old)
                if sample.at.saturating_duration_since(old.at) < KEPT
                    && sample.since(old).pods.len() == sample.reading.pods.len() => {}
            _ => drop(all.insert(node.to_owned(), sample)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(cpu: &str) -> String {
        format!(
            "# HELP x y\ncontainer_cpu_usage_seconds_total{{container=\"main\",namespace=\"n\",\
             pod=\"web\"}} {cpu} 1700000000000\n\
             container_memory_working_set_bytes{{container=\"main\",namespace=\"n\",pod=\"web\"}} \
             4096 1700000000000\n\
             node_cpu_usage_seconds_total {cpu} 1700000000000\n\
             node_memory_working_set_bytes 8192 1700000000000\n\
             something_else{{a=\"b\"}} 1\nbroken\n"
        )
    }

    fn sample(start: Instant, seconds: u64, cpu: &str) -> Sample {
        let at = start + Duration::from_secs(seconds);
        Sample { at, reading: Reading::parse(&page(cpu)) }
    }

    #[test]
    fn two_readings_make_a_rate() {
        let start = Instant::now();
        let rate = sample(start, 4, "12.5").since(&sample(start, 0, "10.5"));
        assert_eq!(rate.window, Duration::from_secs(4));
        let main = rate.pods[&("n".to_owned(), "web".to_owned())]["main"];
        assert_eq!(main.to_json(), json!({"cpu": "500000000n", "memory": "4Ki"}));
        assert_eq!(rate.node.unwrap().to_json(), json!({"cpu": "500000000n", "memory": "8Ki"}));
        // It was started again.
        let rate = sample(start, 4, "1").since(&sample(start, 0, "10.5"));
        assert_eq!(rate.node.unwrap().to_json()["cpu"], "250000000n");
    }

    #[test]
    fn what_was_not_there_before_is_left_out() {
        let start = Instant::now();
        let mut before = sample(start, 0, "1");
        before.reading.pods.clear();
        let now = sample(start, 2, "2");
        assert!(now.since(&before).pods.is_empty());
        let samples = Samples::default();
        samples.keep("one", before);
        assert!(samples.before("one", &now).is_none(), "a pod is not known yet");
        samples.keep("one", now);
        assert!(samples.before("one", &sample(start, 4, "3")).is_some());
    }

    #[test]
    fn a_reading_serves_for_a_while() {
        let start = Instant::now();
        let samples = Samples::default();
        let reading = |seconds| sample(start, seconds, "1");
        assert!(samples.before("one", &reading(0)).is_none());
        samples.keep("one", reading(0));
        assert!(samples.before("one", &reading(0)).is_none(), "too near");
        assert_eq!(samples.before("one", &reading(10)).unwrap().at, start);
        samples.keep("one", reading(10));
        assert_eq!(samples.before("one", &reading(14)).unwrap().at, start, "the older one is kept");
        samples.keep("one", reading(20));
        assert_eq!(
            samples.before("one", &reading(25)).unwrap().at,
            start + Duration::from_secs(20)
        );
        assert!(samples.before("one", &reading(90)).is_none(), "too far");
        assert!(samples.before("two", &reading(25)).is_none());
    }
}
