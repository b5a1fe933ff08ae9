//! Requests by what they are about. What there can be is known at the start, so a request finds its
//! numbers by an index.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::StatusCode;

use super::{Counter, Gauge, Histogram, Text};
use crate::api::limits::{Class, Verb};
use crate::api::registry::Registry;

/// Told apart; all others are told as `other`.
const SUBRESOURCES: [&str; 13] = [
    "",
    "status",
    "scale",
    "log",
    "exec",
    "attach",
    "portforward",
    "proxy",
    "binding",
    "eviction",
    "ephemeralcontainers",
    "resize",
    "other",
];

/// The same of status codes: the last one stands for all others.
const CODES: [u16; 22] = [
    101, 200, 201, 202, 301, 304, 400, 401, 403, 404, 405, 406, 409, 410, 413, 415, 422, 429, 500,
    503, 504, 0,
];

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Requests {
    /// The first stands for documents, and for resources that are not served.
    resources: Vec<(&'static str, &'static str, &'static str)>,
    by_plural: HashMap<&'static str, Vec<usize>>,
    /// Filled as they are needed: by resource, then subresource, then verb.
    series: Vec<OnceLock<Box<Series>>>,
    reading: Gauge,
    mutating: Gauge,
    rejected: Counter,
}

#[derive(Debug)]
struct Series {
    codes: [Counter; CODES.len()],
    took: Histogram,
    /// Of long ones: how many there are.
    running: Gauge,
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Running {
    requests: Arc<Requests>,
    place: usize,
    kind: RunningKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunningKind {
    Reading,
    Mutating,
    Long,
}

impl Requests {
    pub(crate) fn new(registry: &Registry) -> Self {
        let mut resources = vec![("", "", "")];
        let mut by_plural: HashMap<_, Vec<usize>> = HashMap::new();
        for kind in registry.kinds() {
            let resource = kind.resource();
            by_plural.entry(resource.plural).or_default().push(resources.len());
            resources.push((resource.group, resource.version, resource.plural));
        }
        let places = resources.len() * SUBRESOURCES.len() * Verb::ALL.len();
        Self {
            resources,
            by_plural,
            series: (0..places).map(|_| OnceLock::new()).collect(),
            reading: Gauge::new(),
            mutating: Gauge::new(),
            rejected: Counter::new(),
        }
    }

    /// A request comes in.
    pub(crate) fn begin(self: &Arc<Self>, class: &Class<'_>) -> Running {
        let kind = match class {
            class if class.long_running => RunningKind::Long,
            class if class.is_mutating() => RunningKind::Mutating,
            _ => RunningKind::Reading,
        };
        let running = Running { requests: Arc::clone(self), place: self.place(class), kind };
        running.gauge().add(1);
        running
    }

    /// One was told to come back later.
    pub(crate) fn reject(&self) {
        self.rejected.add_one();
    }

    fn place(&self, class: &Class<'_>) -> usize {
        let candidates = self.by_plural.get(class.plural).map(Vec::as_slice).unwrap_or_default();
        let found = candidates.iter().find(|index| self.resources[**index].0 == class.group);
        let resource = found.copied().unwrap_or(0);
        let other = SUBRESOURCES.len() - 1;
        let sub = SUBRESOURCES.iter().position(|name| *name == class.subresource).unwrap_or(other);
        (resource * SUBRESOURCES.len() + sub) * Verb::ALL.len() + class.verb as usize
    }

    fn series(&self, place: usize) -> &Series {
        self.series[place].get_or_init(|| {
            Box::new(Series {
                codes: [const { Counter::new() }; CODES.len()],
                took: Histogram::new(),
                running: Gauge::new(),
            })
        })
    }

    /// Every series that was ever used, with its labels but the code.
    fn used(&self) -> impl Iterator<Item = ([(&'static str, &'static str); 6], &Series)> {
        self.series.iter().enumerate().filter_map(|(place, series)| {
            let series = series.get()?;
            let (rest, verb) = (place / Verb::ALL.len(), Verb::ALL[place % Verb::ALL.len()].1);
            let sub = SUBRESOURCES[rest % SUBRESOURCES.len()];
            let (group, version, plural) = self.resources[rest / SUBRESOURCES.len()];
            let labels = [
                ("component", "apiserver"),
                ("group", group),
                ("version", version),
                ("resource", plural),
                ("subresource", sub),
                ("verb", verb),
            ];
            Some((labels, series.as_ref()))
        })
    }

    pub(super) fn render(&self, text: &mut Text) {
        text.family("apiserver_request_total", "counter", "Requests by what they are about.");
        for (labels, series) in self.used() {
            for (code, count) in CODES.iter().zip(&series.codes) {
                let count = count.get();
                if count > 0 {
                    let code = if *code == 0 { "other".to_owned() } else { code.to_string() };
                    let mut labels = labels.to_vec();
                    labels.push(("code", &code));
                    text.sample("apiserver_request_total", &labels, count);
                }
            }
        }
        let name = "apiserver_request_duration_seconds";
        text.family(name, "histogram", "Seconds to the head of the answer.");
        for (labels, series) in self.used() {
            text.histogram(name, &labels, &series.took);
        }
        let name = "apiserver_longrunning_requests";
        text.family(name, "gauge", "Watches and streams that are open.");
        for (labels, series) in self.used() {
            let is_long = matches!(labels[5].1, "WATCH" | "CONNECT") || labels[4].1 == "log";
            if is_long {
                text.sample(name, &labels, series.running.get());
            }
        }
        let name = "apiserver_current_inflight_requests";
        text.family(name, "gauge", "Requests under work that are no watch and no stream.");
        text.sample(name, &[("request_kind", "mutating")], self.mutating.get());
        text.sample(name, &[("request_kind", "readOnly")], self.reading.get());
        let name = "apiserver_flowcontrol_rejected_requests_total";
        text.family(name, "counter", "Requests that were told to come back later.");
        text.sample(name, &[], self.rejected.get());
    }
}

impl Running {
    /// The head of the answer is there.
    pub(crate) fn answered(&self, status: StatusCode, took: Duration) {
        let series = self.requests.series(self.place);
        let code = CODES.iter().position(|code| *code == status.as_u16());
        series.codes[code.unwrap_or(CODES.len() - 1)].add_one();
        series.took.observe(took);
    }

    fn gauge(&self) -> &Gauge {
        match self.kind {
            RunningKind::Reading => &self.requests.reading,
            RunningKind::Mutating => &self.requests.mutating,
            RunningKind::Long => &self.requests.series(self.place).running,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.gauge().add(-1);
    }
}
