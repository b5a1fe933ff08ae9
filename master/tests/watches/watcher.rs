//! One watcher: it watches, breaks off or is cut off, and goes on from what it has seen.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::sync::watch;

use crate::WRITES;
use crate::check::check;
use crate::client::{Client, Connection, Lines, List};
use crate::record::{Event, Record, Told};
use crate::selection::{Selection, State};

/// When all is written: what of it has to be seen.
#[derive(Clone)]
pub(crate) struct Goal {
    /// The revision to reach.
    pub(crate) last: u64,
    pub(crate) history: Arc<BTreeMap<&'static str, Record>>,
}

impl Goal {
    /// All that somebody with a selection should have been told.
    fn due(&self, selection: &Selection) -> Vec<Told> {
        let mut due = self.history[selection.resource].told(selection);
        due.truncate(due.partition_point(|told| told.revision <= self.last));
        due
    }
}

pub(crate) struct Watcher {
    pub(crate) client: Client,
    /// Over HTTP/2, shared with others.
    pub(crate) shared: Connection,
    pub(crate) selection: Selection,
    pub(crate) dice: fastrand::Rng,
    /// How much has been written.
    pub(crate) written: watch::Receiver<usize>,
    pub(crate) goal: watch::Receiver<Option<Goal>>,
}

/// How a watch began.
#[derive(Clone, Debug)]
pub(crate) enum Start {
    /// With all objects, as of a revision.
    Objects(u64, State),
    /// With all objects first, of which nobody says where they end.
    Unmarked,
    /// After a revision at which there was this.
    After(u64, State),
}

/// One watch, from beginning to end.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) start: Start,
    pub(crate) told: Vec<Told>,
    /// How many events came before, and up to which revision nothing more is to come.
    pub(crate) bookmarks: Vec<(usize, u64)>,
}

/// All that a watcher has seen.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    pub(crate) segments: Vec<Segment>,
    expired: usize,
    from_bookmarks: usize,
    cut_off: usize,
    over_http1: usize,
    /// What it ended with and at which revision, if all was as it should be.
    pub(crate) outcome: Option<Result<(u64, State), String>>,
}

impl Watched {
    pub(crate) fn add(&mut self, mut other: Self) {
        self.segments.append(&mut other.segments);
        self.expired += other.expired;
        self.from_bookmarks += other.from_bookmarks;
        self.cut_off += other.cut_off;
        self.over_http1 += other.over_http1;
    }

    pub(crate) fn summary(&self) -> String {
        let events: usize = self.segments.iter().map(|segment| segment.told.len()).sum();
        let resumed = self.segments.iter().filter(|one| matches!(one.start, Start::After(..)));
        format!(
            "{events} events in {} watches, {} of them over HTTP/1.1, {} resumed, {} of those \
             from a bookmark; {} got 410, {} were ended by the server",
            self.segments.len(),
            self.over_http1,
            resumed.count(),
            self.from_bookmarks,
            self.expired,
            self.cut_off
        )
    }
}

/// A place to go on from.
#[derive(Clone)]
struct Place {
    revision: u64,
    state: State,
    from_bookmark: bool,
}

/// Why a watch is over.
enum End {
    /// All is seen of this, which was due.
    Finished(Vec<Told>),
    /// The connection, for one reason or another.
    Broken,
    /// What was asked for is gone.
    Expired,
}

impl Watcher {
    /// Watches until the goal is reached.
    pub(crate) async fn run(mut self) -> Watched {
        let mut watched = Watched::default();
        let mut place: Option<Place> = None;
        let mut memory: Option<Place> = None;
        loop {
            let (start, query) = self.choose(&mut place, &mut memory).await;
            if let Some(from) = &place
                && from.from_bookmark
            {
                watched.from_bookmarks += 1;
            }
            let http1 = self.dice.bool();
            watched.over_http1 += usize::from(http1);
            let mut connection = match http1 {
                true => self.client.http1().await,
                false => self.shared.clone(),
            };
            let query = format!("{query}{}", self.options());
            let path = format!("{}&watch=true{query}", self.selection.path());
            let (code, body) = connection.begin(Method::GET, &path, None).await;
            assert_eq!(code, StatusCode::OK, "{path}");
            let marked = matches!(start, Start::Unmarked) && query.contains("allowWatchBookmarks");
            let mut watch = Watch { marked, begun: !marked, segment: Segment::new(start), place };
            let end = self.follow(&mut watch, Lines::new(body), &mut watched).await;
            drop(connection);
            place = watch.place;
            if watch.begun {
                watched.segments.push(watch.segment);
            }
            match end {
                End::Finished(due) => {
                    let last = self.goal.borrow().as_ref().map_or(0, |goal| goal.last);
                    watched.outcome = Some(check(&watched.segments, &due, last));
                    return watched;
                }
                End::Expired => (place, memory) = (None, None),
                End::Broken => {
                    if memory.is_none() || self.dice.u8(..4) == 0 {
                        memory.clone_from(&place);
                    }
                    if self.dice.u8(..3) == 0 {
                        self.pause(2000).await;
                    }
                }
            }
        }
    }

    /// From where on, and how that is asked for.
    async fn choose(
        &mut self,
        place: &mut Option<Place>,
        memory: &mut Option<Place>,
    ) -> (Start, String) {
        let exactly = "&sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
        if memory.is_some() && self.dice.u8(..10) == 0 {
            // From a backup, as it were.
            place.clone_from(memory);
        } else if self.dice.u8(..30) == 0 {
            *place = Some(Place { revision: 1, state: State::new(), from_bookmark: false });
        }
        if let Some(Place { revision, state, .. }) = place {
            let exactly = if self.dice.bool() { exactly } else { "" };
            let query = format!("&resourceVersion={revision}{exactly}");
            return (Start::After(*revision, state.clone()), query);
        }
        // Near the end one has to know what one was told.
        let variants = if self.all_written() { 3 } else { 5 };
        let initial = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        match self.dice.u8(..variants) {
            0 => {
                let (revision, state) = self.list().await;
                *place = Some(Place { revision, state: state.clone(), from_bookmark: false });
                (Start::Objects(revision, state), format!("&resourceVersion={revision}"))
            }
            1 => (Start::Unmarked, format!("{initial}&allowWatchBookmarks=true")),
            2 => (Start::Unmarked, "&resourceVersion=0&allowWatchBookmarks=true".to_owned()),
            3 => (Start::Unmarked, "&resourceVersion=0".to_owned()),
            _ => (Start::Unmarked, String::new()),
        }
    }

    /// A list, at times in pages.
    async fn list(&mut self) -> (u64, State) {
        let paged = self.dice.bool();
        let page = if paged { "&limit=7" } else { "" };
        let any = if !paged && self.dice.bool() { "&resourceVersion=0" } else { "" };
        let path = format!("{}{page}", self.selection.path());
        let mut next = any.to_owned();
        let mut state = State::new();
        loop {
            let (code, body) = self.shared.ask(Method::GET, &format!("{path}{next}"), None).await;
            let text = String::from_utf8_lossy(&body);
            assert_eq!(code, StatusCode::OK, "{path}{next}: {text}");
            let list = List::parse(&body);
            state.extend(list.state());
            match list.next_page() {
                Some(token) => next = format!("&continue={token}"),
                None => return (list.revision(), state),
            }
        }
    }

    fn options(&mut self) -> String {
        let timeout = match self.dice.u8(..4) {
            0 => format!("&timeoutSeconds={}", self.dice.u8(1..4)),
            _ => String::new(),
        };
        let bookmarks = if self.dice.bool() { "&allowWatchBookmarks=1" } else { "" };
        format!("{timeout}{bookmarks}")
    }

    fn all_written(&self) -> bool {
        *self.written.borrow() >= WRITES
    }

    /// Until more has been written.
    async fn pause(&mut self, most: usize) {
        let until = *self.written.borrow() + self.dice.usize(..most);
        let _ = self.written.wait_for(|written| *written >= until.min(WRITES)).await;
    }

    /// Reads a watch until it ends or is left.
    async fn follow(&mut self, watch: &mut Watch, mut lines: Lines, watched: &mut Watched) -> End {
        let leave_at = *self.written.borrow() + self.dice.usize(200..8000);
        let mut written = self.written.clone();
        let mut goal = self.goal.clone();
        let mut due: Option<Vec<Told>> = None;
        loop {
            if watch.begun
                && let Some(place) = &watch.place
                && let Some(due) = due.take_if(|due| place.revision >= newest(due))
            {
                return End::Finished(due);
            }
            let leave = async {
                let _ = written.wait_for(|written| *written >= leave_at).await;
            };
            let line = tokio::select! {
                line = lines.next() => line,
                () = leave, if leave_at < WRITES => return End::Broken,
                reached = goal.wait_for(Option::is_some), if due.is_none() => {
                    let goal = reached.expect("the test goes on").clone().expect("a goal");
                    due = Some(goal.due(&self.selection));
                    if !watch.marked && matches!(watch.segment.start, Start::Unmarked) {
                        return End::Broken;
                    }
                    continue;
                }
            };
            let Some(line) = line else {
                watched.cut_off += 1;
                return End::Broken;
            };
            if let Some(expired) = watch.take_in(&line, &self.selection) {
                watched.expired += 1;
                return expired;
            }
            if self.dice.u16(..1000) == 0 {
                // It is connected and does not read.
                self.pause(3000).await;
            }
        }
    }
}

/// The revision of the last event.
fn newest(due: &[Told]) -> u64 {
    due.last().map_or(0, |told| told.revision)
}

impl Segment {
    fn new(start: Start) -> Self {
        Self { start, told: Vec::new(), bookmarks: Vec::new() }
    }
}

/// A watch under way.
struct Watch {
    /// A bookmark tells the end of the initial objects.
    marked: bool,
    /// All initial objects were told.
    begun: bool,
    segment: Segment,
    /// Where to go on from.
    place: Option<Place>,
}

/// What comes instead of an event when a version is gone.
#[derive(Deserialize)]
struct Refusal {
    #[serde(rename = "type")]
    what: String,
    object: Status,
}

#[derive(Deserialize)]
struct Status {
    code: u16,
}

impl Watch {
    /// Takes in a line; something when it ends the watch.
    fn take_in(&mut self, line: &[u8], selection: &Selection) -> Option<End> {
        let Ok(event) = serde_json::from_slice::<Event>(line) else {
            let text = String::from_utf8_lossy(line);
            let refusal: Refusal =
                serde_json::from_slice(line).unwrap_or_else(|_| panic!("{text}"));
            assert_eq!((refusal.what.as_str(), refusal.object.code), ("ERROR", 410), "{text}");
            assert!(self.segment.told.is_empty() && self.segment.bookmarks.is_empty());
            return Some(End::Expired);
        };
        let revision = event.object.revision();
        let what = match event.what.as_str() {
            "ADDED" => "ADDED",
            "MODIFIED" => "MODIFIED",
            "DELETED" => "DELETED",
            "BOOKMARK" => {
                self.bookmark(revision, event.object.ends_initial_events());
                return None;
            }
            other => panic!("an event of type {other}"),
        };
        assert!(selection.matches(&event.object), "{what} {:?} is not selected", event.object);
        let told = Told { what, key: event.object.key(), revision };
        match &mut self.place {
            Some(place) => {
                told.apply(&mut place.state);
                (place.revision, place.from_bookmark) = (revision, false);
            }
            // Only what is no initial object has a version to go on from.
            None if self.begun && what != "ADDED" => {
                self.segment.told.push(told);
                self.settle(revision);
                return None;
            }
            None => {}
        }
        self.segment.told.push(told);
        None
    }

    fn bookmark(&mut self, revision: u64, ends_initial: bool) {
        if !self.begun {
            assert!(ends_initial, "a bookmark at {revision} among the initial objects");
            let mut state = State::new();
            for told in self.segment.told.drain(..) {
                assert_eq!(told.what, "ADDED");
                assert!(told.revision <= revision, "{told:?} is newer than {revision}");
                assert!(!state.contains_key(&told.key), "{told:?} a second time");
                told.apply(&mut state);
            }
            self.begun = true;
            self.segment.start = Start::Objects(revision, state.clone());
            self.place = Some(Place { revision, state, from_bookmark: true });
            return;
        }
        assert!(!ends_initial, "the end of initial objects that were not asked for");
        self.segment.bookmarks.push((self.segment.told.len(), revision));
        match &mut self.place {
            Some(place) => {
                assert!(revision >= place.revision, "a bookmark that goes back");
                (place.revision, place.from_bookmark) = (revision, true);
            }
            None => self.settle(revision),
        }
    }

    /// From here on it is known what all that was told makes.
    fn settle(&mut self, revision: u64) {
        let mut state = State::new();
        for told in &self.segment.told {
            told.apply(&mut state);
        }
        self.place = Some(Place { revision, state, from_bookmark: false });
    }
}
