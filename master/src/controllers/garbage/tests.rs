//! Decisions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use proto::k8s as k8s_openapi;

use super::reconcile::{Owner, Verdict, blocks, judge};

fn reference(uid: &str) -> OwnerReference {
    OwnerReference { uid: uid.to_owned(), ..OwnerReference::default() }
}

fn verdict(owners: &[Owner], has_dependents: bool) -> Verdict {
    let references: Vec<_> = (0..owners.len()).map(|index| reference(&index.to_string())).collect();
    let owners: Vec<_> = references.iter().zip(owners.iter().copied()).collect();
    judge(&owners, has_dependents)
}

#[test]
fn an_object_lives_while_an_owner_is_there() {
    use Owner::{Absent, Present, Waiting};
    let disown = |uids: &[&str]| Verdict::Disown(uids.iter().map(ToString::to_string).collect());
    for (owners, expected) in [
        (vec![], Verdict::Keep),
        (vec![Present], Verdict::Keep),
        (vec![Present, Present], Verdict::Keep),
        (vec![Absent], Verdict::Delete { foreground: false }),
        (vec![Absent, Absent], Verdict::Delete { foreground: false }),
        (vec![Present, Absent], disown(&["1"])),
        (vec![Waiting, Absent, Present], disown(&["1", "0"])),
        (vec![Waiting], Verdict::Delete { foreground: false }),
        (vec![Waiting, Absent], Verdict::Delete { foreground: false }),
    ] {
        assert_eq!(verdict(&owners, false), expected, "{owners:?}");
    }
}

#[test]
fn what_is_waited_for_goes_after_what_it_owns() {
    assert_eq!(verdict(&[Owner::Waiting], true), Verdict::Delete { foreground: true });
    assert_eq!(verdict(&[Owner::Absent], true), Verdict::Delete { foreground: false });
}

#[test]
fn only_references_that_say_so_hold_their_owner() {
    let blocking = OwnerReference { block_owner_deletion: Some(true), ..reference("a") };
    assert!(blocks(&[reference("b"), blocking.clone()], "a"));
    assert!(!blocks(&[blocking], "b"));
    assert!(!blocks(&[reference("a")], "a"));
}
