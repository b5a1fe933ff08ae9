//! What happened to a resource: every change, from one undisturbed watch of everything.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::sync::watch;

use crate::client::{Connection, Lines, List};
use crate::selection::{Key, Object, Selection, State};

/// A line of a watch.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Event {
    #[serde(rename = "type")]
    pub(crate) what: String,
    pub(crate) object: Object,
}

/// An event that one watcher is told, or should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) what: &'static str,
    pub(crate) key: Key,
    pub(crate) revision: u64,
}

impl Told {
    /// What it makes of a state.
    pub(crate) fn apply(&self, state: &mut State) {
        match self.what {
            "DELETED" => state.remove(&self.key),
            _ => state.insert(self.key.clone(), self.revision),
        };
    }
}

#[derive(Debug)]
struct Change {
    revision: u64,
    before: Option<Object>,
    after: Option<Object>,
}

/// All changes of a resource, in order.
#[derive(Debug, Default)]
pub(crate) struct Record {
    changes: Vec<Change>,
    objects: BTreeMap<Key, Object>,
}

impl Record {
    /// Lists, begins to watch, and then follows until the revision that is told to be the last.
    pub(crate) async fn start(
        mut connection: Connection,
        resource: &'static str,
        end: watch::Receiver<Option<u64>>,
    ) -> impl Future<Output = Self> {
        let path = Selection::all(resource).path();
        let (code, body) = connection.ask(Method::GET, &path, None).await;
        assert_eq!(code, StatusCode::OK);
        let list = List::parse(&body);
        let from = list.revision();
        let mut record = Self::default();
        for object in list.items {
            record.put(object.revision(), object);
        }
        record.changes.sort_by_key(|change| change.revision);
        let watch = format!("{path}&watch=true&resourceVersion={from}");
        let (code, body) = connection.begin(Method::GET, &watch, None).await;
        assert_eq!(code, StatusCode::OK);
        async move { record.follow(from, Lines::new(body), end).await }
    }

    async fn follow(
        mut self,
        mut seen: u64,
        mut lines: Lines,
        mut end: watch::Receiver<Option<u64>>,
    ) -> Self {
        loop {
            let ended = end.wait_for(|last| last.is_some_and(|last| last <= seen));
            let line = tokio::select! {
                _ = ended => return self,
                line = lines.next() => line.expect("nobody who keeps up is cut off"),
            };
            let event: Event = serde_json::from_slice(&line).expect("an event");
            let revision = event.object.revision();
            assert!(revision > seen, "{revision} came after {seen}");
            seen = revision;
            let known = self.objects.contains_key(&event.object.key());
            match (event.what.as_str(), known) {
                ("ADDED", false) | ("MODIFIED", true) => self.put(revision, event.object),
                ("DELETED", true) => {
                    let before = self.objects.remove(&event.object.key());
                    self.changes.push(Change { revision, before, after: None });
                }
                (what, _) => panic!("{what} of {:?}, known: {known}", event.object.key()),
            }
        }
    }

    fn put(&mut self, revision: u64, object: Object) {
        let before = self.objects.insert(object.key(), object.clone());
        self.changes.push(Change { revision, before, after: Some(object) });
    }

    /// Whether something was written at a revision, and under which key.
    pub(crate) fn written_at(&self, revision: u64) -> Option<Key> {
        let place = self.changes.binary_search_by_key(&revision, |change| change.revision).ok()?;
        self.changes[place].after.as_ref().map(Object::key)
    }

    /// What somebody with a selection should be told, from the beginning of time.
    pub(crate) fn told(&self, selection: &Selection) -> Vec<Told> {
        fn fits<'a>(selection: &Selection, object: &'a Option<Object>) -> Option<&'a Object> {
            object.as_ref().filter(|object| selection.matches(object))
        }
        let mut told = Vec::new();
        for Change { revision, before, after } in &self.changes {
            let (what, object) = match (fits(selection, before), fits(selection, after)) {
                (None, Some(object)) => ("ADDED", object),
                (Some(_), Some(object)) => ("MODIFIED", object),
                (Some(object), None) => ("DELETED", object),
                (None, None) => continue,
            };
            told.push(Told { what, key: object.key(), revision: *revision });
        }
        told
    }
}
