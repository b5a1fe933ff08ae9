//! Prometheus' text format.

use std::fmt::{Display, Write as _};
use std::sync::atomic::Ordering::Relaxed;

use super::{BOUNDS, Histogram};

/// A text in the making.
#[derive(Debug, Default)]
pub(crate) struct Text(String);

/// The content type of it.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Text {
    /// What the samples that follow are about.
    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    /// A value.
    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        self.labels(labels, None);
        self.line(format_args!(" {value}"));
    }

    /// All buckets, and what they come to.
    pub(crate) fn histogram(&mut self, name: &str, labels: &[(&str, &str)], took: &Histogram) {
        let mut count = 0;
        for (index, bucket) in took.buckets.iter().enumerate() {
            count += bucket.load(Relaxed);
            let bound = BOUNDS.get(index).map_or("+Inf".to_owned(), f64::to_string);
            self.line_start(name, "_bucket");
            self.labels(labels, Some(&bound));
            self.line(format_args!(" {count}"));
        }
        let seconds = took.nanoseconds.load(Relaxed) as f64 / 1e9;
        for (suffix, value) in [("_sum", seconds.to_string()), ("_count", count.to_string())] {
            self.line_start(name, suffix);
            self.labels(labels, None);
            self.line(format_args!(" {value}"));
        }
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }

    fn line_start(&mut self, name: &str, suffix: &str) {
        self.0.push_str(name);
        self.0.push_str(suffix);
    }

    fn line(&mut self, rest: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{rest}");
    }

    fn labels(&mut self, labels: &[(&str, &str)], bound: Option<&str>) {
        let bound = bound.map(|bound| ("le", bound));
        let mut separator = '{';
        for (name, value) in labels.iter().copied().chain(bound) {
            self.0.push(separator);
            separator = ',';
            let _ = write!(self.0, "{name}=\"");
            for character in value.chars() {
                match character {
                    '"' | '\\' => self.0.extend(['\\', character]),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        if separator == ',' {
            self.0.push('}');
        }
    }
}
