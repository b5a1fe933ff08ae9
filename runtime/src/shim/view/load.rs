//! How busy a container is: the averages of `/proc/loadavg`, kept without anybody who looks at intervals.
//!
//! The kernel counts every five seconds how many tasks want to run. Here this is counted when somebody reads, and
//! each reading stands for the five seconds before it. What lies between readings that are further apart is
//! known by the processor time used: so many tasks have run on the average, if none waited for its turn.

use std::time::Duration;

use crate::cgroup::Tasks;

/// Over how many seconds the averages go.
const SPANS: [f64; 3] = [60.0, 300.0, 900.0];

/// What a reading stands for, as in the kernel.
const COUNTED: Duration = Duration::from_secs(5);

/// Readings that follow sooner find the last one: to look at every task costs more than to ask for it.
const FRESH: Duration = Duration::from_secs(1);

/// The averages up to the last reading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Load {
    /// The sandbox's age at the last reading.
    read_at: Duration,
    /// Processor time used until then.
    used: Duration,
    averages: [f64; 3],
    tasks: Tasks,
}

impl Load {
    /// Whether it is time to count again, at this age of the sandbox.
    pub(super) fn is_due(&self, age: Duration) -> bool {
        self.read_at.is_zero() || age >= self.read_at + FRESH
    }

    /// Goes on to the present: this age of the sandbox, what has been used of processors since it began,
    /// and what the tasks are found to do.
    pub(super) fn advance(&mut self, age: Duration, used: Duration, tasks: Tasks) {
        let past = age.saturating_sub(self.read_at);
        let counted = past.min(COUNTED);
        let ran = used.saturating_sub(self.used).as_secs_f64();
        let ran = if past.is_zero() { 0.0 } else { ran / past.as_secs_f64() };
        self.approach(ran, past - counted);
        self.approach(tasks.busy as f64, counted);
        (self.read_at, self.used, self.tasks) = (age, used, tasks);
    }

    /// As if so many had been busy for so long.
    fn approach(&mut self, busy: f64, during: Duration) {
        for (average, span) in self.averages.iter_mut().zip(SPANS) {
            *average = busy + (*average - busy) * (-during.as_secs_f64() / span).exp();
        }
    }

    /// As the kernel writes it down.
    pub(super) fn text(&self) -> String {
        let [one, five, fifteen] = self.averages;
        let Tasks { all, busy, youngest } = self.tasks;
        format!("{one:.2} {five:.2} {fifteen:.2} {busy}/{all} {youngest}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    fn busy(busy: u64) -> Tasks {
        Tasks { all: 9, busy, youngest: 12 }
    }

    #[test]
    fn readings_at_the_kernels_pace_give_what_the_kernel_says() {
        let mut load = Load::default();
        for turn in 1..=12 {
            load.advance(seconds(turn * 5), seconds(0), busy(2));
        }
        // After one span all but 1/e of the way.
        assert!((load.averages[0] - 2.0 * (1.0 - (-1f64).exp())).abs() < 1e-9, "{load:?}");
        assert_eq!(load.text(), "1.26 0.36 0.13 2/9 12\n");
    }

    #[test]
    fn what_happened_between_readings_is_known_by_the_time_used() {
        let mut load = Load::default();
        // Three processors busy for an hour, and then nothing.
        load.advance(seconds(3600), seconds(3 * 3600), busy(3));
        assert!(load.averages.iter().all(|average| (average - 3.0).abs() < 0.1), "{load:?}");
        load.advance(seconds(7200), seconds(3 * 3600), busy(0));
        assert!(load.averages.iter().all(|average| *average < 0.1), "{load:?}");
    }

    #[test]
    fn one_moment_of_many_tasks_stands_for_five_seconds_only() {
        let mut load = Load::default();
        load.advance(seconds(3600), seconds(0), busy(100));
        assert!((load.averages[0] - 100.0 * (1.0 - (-5.0f64 / 60.0).exp())).abs() < 1e-9);
    }

    #[test]
    fn who_reads_without_end_does_not_make_anybody_count_without_end() {
        let mut load = Load::default();
        assert!(load.is_due(Duration::from_millis(3)));
        load.advance(seconds(10), seconds(0), busy(1));
        assert!(!load.is_due(Duration::from_millis(10_500)));
        assert!(load.is_due(seconds(11)));
        // A reading of the same moment changes nothing.
        let before = load.averages[0];
        load.advance(seconds(10), seconds(0), busy(7));
        assert!((load.averages[0] - before).abs() < 1e-9, "{load:?}");
    }
}
