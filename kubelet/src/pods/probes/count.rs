//! Successes and failures in a row, against their thresholds.

/// Counts results; a verdict is given when it changes.
#[derive(Debug)]
pub(super) struct Count {
    success_threshold: u32,
    failure_threshold: u32,
    verdict: Option<bool>,
    last: Option<bool>,
    in_a_row: u32,
}

/// What a failure led to.
pub(super) struct Failures {
    pub(super) in_a_row: u32,
    /// The new verdict, if it is a new one.
    pub(super) verdict: Option<bool>,
}

impl Count {
    pub(super) fn new(success_threshold: u32, failure_threshold: u32) -> Self {
        Self { success_threshold, failure_threshold, verdict: None, last: None, in_a_row: 0 }
    }

    /// Starts from what is known already.
    pub(super) fn assume(&mut self, verdict: Option<bool>) {
        self.verdict = verdict;
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.verdict == Some(true)
    }

    /// The new verdict, if it is a new one.
    pub(super) fn success(&mut self) -> Option<bool> {
        self.add(true);
        self.decide(true, self.success_threshold)
    }

    pub(super) fn failure(&mut self) -> Failures {
        self.add(false);
        Failures { in_a_row: self.in_a_row, verdict: self.decide(false, self.failure_threshold) }
    }

    fn add(&mut self, result: bool) {
        self.in_a_row = match self.last == Some(result) {
            true => self.in_a_row.saturating_add(1),
            false => 1,
        };
        self.last = Some(result);
    }

    fn decide(&mut self, result: bool, threshold: u32) -> Option<bool> {
        if self.in_a_row < threshold || self.verdict == Some(result) {
            return None;
        }
        self.verdict = Some(result);
        self.verdict
    }
}
