//! Holds what a watcher was told against the record.

use crate::record::Told;
use crate::selection::State;
use crate::watcher::{Segment, Start};

/// Checks all watches of a watcher up to a revision against what was due. Gives what the watcher
/// ended with, and at which revision: a later one if it has begun anew only then.
pub(crate) fn check(segments: &[Segment], due: &[Told], last: u64) -> Result<(u64, State), String> {
    let due = Due { all: due, last };
    for (number, segment) in segments.iter().enumerate() {
        let told = || format!("watch {number} of {}, {segment:?}", segments.len());
        due.check(segment).map_err(|why| format!("{why}: {}", told()))?;
    }
    let Some(segment) = segments.last() else { return Err("it never watched".to_owned()) };
    let (start, mut state) = match &segment.start {
        Start::Objects(revision, state) | Start::After(revision, state) => {
            (*revision, state.clone())
        }
        Start::Unmarked => return Err("it ended without knowing where it is".to_owned()),
    };
    segment.told.iter().filter(|told| told.revision <= last).for_each(|t| t.apply(&mut state));
    Ok((start.max(last), state))
}

/// All that one should be told, from the beginning of time.
struct Due<'a> {
    all: &'a [Told],
    last: u64,
}

impl Due<'_> {
    fn after(&self, revision: u64) -> usize {
        self.all.partition_point(|told| told.revision <= revision)
    }

    fn state(&self, place: usize) -> State {
        let mut state = State::new();
        self.all[..place].iter().for_each(|told| told.apply(&mut state));
        state
    }

    fn check(&self, segment: &Segment) -> Result<(), String> {
        match &segment.start {
            Start::Objects(revision, _) | Start::After(revision, _) if *revision > self.last => {
                Ok(())
            }
            Start::Objects(revision, state) => {
                let due = self.state(self.after(*revision));
                if due != *state {
                    return Err(format!("at {revision} there was {due:?}"));
                }
                self.follows(self.after(*revision), segment, 0)
            }
            Start::After(revision, _) => self.follows(self.after(*revision), segment, 0),
            Start::Unmarked => self.begins_somewhere(segment),
        }
    }

    /// Whether what was told, without its first `skipped`, is what was due from a place on: each
    /// event, in order, once.
    fn follows(&self, place: usize, segment: &Segment, skipped: usize) -> Result<(), String> {
        let told = &segment.told[skipped..];
        let told = &told[..told.iter().take_while(|told| told.revision <= self.last).count()];
        let due = &self.all[place..];
        if !due.starts_with(told) {
            let same = told.iter().zip(due).take_while(|(told, due)| told == due).count();
            let (told, due) = (told.get(same), due.get(same));
            return Err(format!("event {same} was {told:?} instead of {due:?}"));
        }
        for (before, revision) in &segment.bookmarks {
            let Some(before) = before.checked_sub(skipped) else { continue };
            let next = due.get(before).filter(|next| next.revision <= *revision);
            if let Some(missing) = next {
                return Err(format!("a bookmark at {revision} came before {missing:?}"));
            }
        }
        Ok(())
    }

    /// The same for a watch that tells objects first, but not how many: some number of them has to
    /// be all that there was at some time, and the rest what happened then.
    fn begins_somewhere(&self, segment: &Segment) -> Result<(), String> {
        let told = &segment.told;
        if told.iter().any(|told| told.revision > self.last) {
            return Ok(());
        }
        let leading = told.iter().take_while(|told| told.what == "ADDED").count();
        // Sums of revisions find the few times that are worth a closer look.
        let sums: Vec<u64> = std::iter::once(0)
            .chain(told[..leading].iter().scan(0, |sum, told| {
                *sum += told.revision;
                Some(*sum)
            }))
            .collect();
        let (mut state, mut sum) = (State::new(), 0);
        for place in 0..=self.all.len() {
            if let Some(event) = place.checked_sub(1).map(|last| &self.all[last]) {
                sum -= state.get(&event.key).copied().unwrap_or_default();
                event.apply(&mut state);
                sum += state.get(&event.key).copied().unwrap_or_default();
            }
            // Whoever leaves early has been told a part of it.
            let there = |told: &Told| state.get(&told.key) == Some(&told.revision);
            if leading == told.len() && told.iter().all(there) {
                return Ok(());
            }
            let count = state.len();
            if sums.get(count) != Some(&sum) {
                continue;
            }
            let first: State = told[..count].iter().map(|t| (t.key.clone(), t.revision)).collect();
            if first == state && self.follows(place, segment, count).is_ok() {
                return Ok(());
            }
        }
        Err("this fits to no time at all".to_owned())
    }
}
