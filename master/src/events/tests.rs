//! What becomes of occurrences.

use jiff::{SignedDuration, Timestamp};
use proto::ObjectKey;

use super::correlate::{Correlator, Write};
use super::{Occurrence, reference};

fn at(seconds: i64) -> Timestamp {
    "2030-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
}

fn occurrence(pod: &str, message: &str) -> Occurrence {
    let object = reference("Pod", &ObjectKey::new("default", pod), pod);
    Occurrence::warning("test", object, "Failed", message)
}

/// The writes that are due, each told as written: new or repeated, message, count.
fn writes(correlator: &mut Correlator) -> Vec<(bool, String, i32)> {
    let mut writes = Vec::new();
    while let Some((identity, write)) = correlator.take() {
        let (new, event) = match write {
            Write::Create(event) => (true, event),
            Write::Repeat { event, .. } => (false, event),
        };
        writes.push((new, event.message.unwrap(), event.count.unwrap()));
        correlator.written(identity, true);
    }
    writes
}

#[test]
fn what_happens_again_raises_a_count() {
    let mut correlator = Correlator::default();
    correlator.add(occurrence("a", "full"), at(0));
    assert_eq!(writes(&mut correlator), [(true, "full".to_owned(), 1)]);
    correlator.add(occurrence("a", "full"), at(1));
    correlator.add(occurrence("a", "full"), at(2));
    assert_eq!(writes(&mut correlator), [(false, "full".to_owned(), 3)]);
    assert_eq!(writes(&mut correlator), []);
}

#[test]
fn what_happens_while_it_is_being_written_is_written_after_that() {
    let mut correlator = Correlator::default();
    correlator.add(occurrence("a", "full"), at(0));
    let (identity, _) = correlator.take().unwrap();
    correlator.add(occurrence("a", "full"), at(1));
    assert!(correlator.take().is_none());
    correlator.written(identity, true);
    assert_eq!(writes(&mut correlator), [(false, "full".to_owned(), 2)]);
}

#[test]
fn an_event_that_could_not_be_written_is_made_anew() {
    let mut correlator = Correlator::default();
    correlator.add(occurrence("a", "full"), at(0));
    let (identity, _) = correlator.take().unwrap();
    correlator.written(identity, false);
    correlator.add(occurrence("a", "full"), at(1));
    assert_eq!(writes(&mut correlator), [(true, "full".to_owned(), 1)]);
}

#[test]
fn events_have_names_of_their_own_even_at_the_same_instant() {
    let mut correlator = Correlator::default();
    correlator.add(occurrence("a", "one"), at(0));
    correlator.add(occurrence("a", "two"), at(0));
    let mut names = Vec::new();
    while let Some((_, Write::Create(event))) = correlator.take() {
        let name = event.metadata.name.unwrap();
        assert!(name.starts_with("a."), "{name}");
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        names.push(name);
    }
    assert_eq!(names.len(), 2);
    assert_ne!(names[0], names[1]);
}

#[test]
fn an_event_about_an_object_without_a_namespace_is_kept_in_the_default_one() {
    let mut correlator = Correlator::default();
    let object = reference("Node", &ObjectKey::new("", "one"), "one");
    correlator.add(Occurrence::normal("test", object, "Ready", "yes"), at(0));
    let Some((_, Write::Create(event))) = correlator.take() else { panic!("nothing to create") };
    assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(event.involved_object.namespace, None);
    assert_eq!(event.type_.as_deref(), Some("Normal"));
}

#[test]
fn many_messages_of_one_reason_become_one_event() {
    let mut correlator = Correlator::default();
    for index in 0..13 {
        correlator.add(occurrence("a", &format!("message {index}")), at(index));
    }
    let writes = writes(&mut correlator);
    assert_eq!(writes.len(), 11);
    assert_eq!(writes[10].1, "(combined from similar events): message 12");
    assert_eq!(writes[10].2, 3);
}

#[test]
fn a_flood_about_one_object_is_cut_off_and_others_are_heard() {
    let mut correlator = Correlator::default();
    for index in 0..100 {
        correlator.add(occurrence("a", "full"), at(index / 10));
    }
    correlator.add(occurrence("b", "full"), at(10));
    assert_eq!(
        writes(&mut correlator),
        [(true, "full".to_owned(), 25), (true, "full".to_owned(), 1)]
    );
    correlator.add(occurrence("a", "full"), at(400));
    assert_eq!(writes(&mut correlator), [(false, "full".to_owned(), 26)]);
}

#[test]
fn a_message_is_cut_where_the_api_would_refuse_it_and_never_within_a_character() {
    let mut correlator = Correlator::default();
    correlator.add(occurrence("a", &"é".repeat(1000)), at(0));
    let message = writes(&mut correlator).remove(0).1;
    assert_eq!(message, "é".repeat(512));
}

#[test]
fn only_so_much_is_remembered() {
    let mut correlator = Correlator::default();
    for index in 0..10_000 {
        correlator.add(occurrence(&index.to_string(), "full"), at(0));
        writes(&mut correlator);
    }
    correlator.add(occurrence("9999", "full"), at(1));
    correlator.add(occurrence("0", "full"), at(1));
    assert_eq!(
        writes(&mut correlator),
        [(false, "full".to_owned(), 2), (true, "full".to_owned(), 1)]
    );
    assert!(correlator.remembered() <= 4096);
}
