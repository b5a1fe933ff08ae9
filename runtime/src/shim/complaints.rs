//! What libcontainer logs as errors, for the reason of a failure.
//!
//! Its errors cross process borders as their outermost sentence ("failed to prepare rootfs"); the
//! cause is only in what it logs. So the creator, and all that libcontainer forks from it, send
//! that along.

use std::fmt::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::report;

/// From here on sends complaints to the shim.
pub(super) fn pass_on(report: &Arc<OwnedFd>) {
    let complaints = Complaints { report: Arc::clone(report) };
    // There is one creator to a process, so this is the first and only time.
    let _ = tracing::subscriber::set_global_default(complaints);
}

struct Complaints {
    report: Arc<OwnedFd>,
}

impl Subscriber for Complaints {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut sentence = Sentence::default();
        event.record(&mut sentence);
        report::send_cause(&*self.report, &sentence.to_string());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The message of an event, and the error in it.
#[derive(Default)]
struct Sentence {
    message: String,
    error: String,
}

impl Visit for Sentence {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let into = match field.name() {
            "message" => &mut self.message,
            "err" | "error" => &mut self.error,
            _ => return,
        };
        // Writing to a string cannot fail.
        let _ = write!(into, "{value:?}");
    }
}

impl fmt::Display for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error.is_empty() {
            true => f.write_str(&self.message),
            false => write!(f, "{}: {}", self.message, self.error),
        }
    }
}
