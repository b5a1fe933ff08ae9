//! In which order pods are tried.

use std::sync::Arc;

use super::*;
use crate::scheduler::queue::Queue;

fn verdict(queue: &mut Queue) -> (String, Vec<String>) {
    let (pod, ticket) = queue.pop().unwrap();
    let name = pod.key.name.clone();
    let told = queue.refuse(pod, ticket, &Arc::from("no room"));
    (name, told.into_iter().map(|pod| pod.key.name).collect())
}

fn next(queue: &mut Queue) -> Option<String> {
    queue.pop().map(|(pod, _)| pod.key.name)
}

#[test]
fn pods_are_tried_in_the_order_they_came_whatever_they_demand() {
    let mut queue = Queue::default();
    for (name, cpu) in [("a", "1"), ("b", "2"), ("c", "1"), ("d", "2")] {
        assert_eq!(queue.push(seen(&requesting(name, cpu, "0"))), None);
    }
    let order: Vec<_> = std::iter::from_fn(|| next(&mut queue)).collect();
    assert_eq!(order, ["a", "b", "c", "d"]);
}

#[test]
fn a_higher_priority_goes_first() {
    let mut queue = Queue::default();
    let mut urgent = pod("urgent");
    urgent["spec"]["priority"] = json!(1000);
    queue.push(seen(&pod("plain")));
    queue.push(seen(&urgent));
    assert_eq!(next(&mut queue).as_deref(), Some("urgent"));
}

#[test]
fn one_pod_that_fits_nowhere_answers_for_all_with_its_demand_and_holds_up_no_other() {
    let mut queue = Queue::default();
    for name in ["big-1", "big-2", "big-3"] {
        queue.push(seen(&requesting(name, "64", "0")));
    }
    queue.push(seen(&requesting("small", "1", "0")));
    let (tried, told) = verdict(&mut queue);
    assert_eq!(
        (tried.as_str(), told),
        ("big-1", ["big-1", "big-2", "big-3"].map(String::from).to_vec())
    );
    assert_eq!(next(&mut queue).as_deref(), Some("small"));
    assert_eq!(next(&mut queue), None);
    assert_eq!(queue.push(seen(&requesting("big-4", "64", "0"))).as_deref(), Some("no room"));
    assert!(!queue.has_ready());
    assert_eq!(queue.len(), 4);
}

#[test]
fn a_woken_line_is_tried_from_its_first_pod_and_tells_only_who_was_not_told() {
    let mut queue = Queue::default();
    for name in ["big-1", "big-2"] {
        queue.push(seen(&requesting(name, "64", "0")));
    }
    verdict(&mut queue);
    queue.wake(|demand| demand.requests.cpu_milli < 1000);
    assert!(!queue.has_ready());
    queue.wake(|demand| demand.requests.cpu_milli > 1000);
    queue.push(seen(&requesting("big-3", "64", "0")));
    let (tried, told) = verdict(&mut queue);
    assert_eq!((tried.as_str(), told), ("big-1", ["big-1", "big-3"].map(String::from).to_vec()));
}

#[test]
fn a_pod_that_goes_leaves_its_line() {
    let mut queue = Queue::default();
    queue.push(seen(&pod("a")));
    queue.push(seen(&pod("b")));
    assert!(queue.remove("uid-a").is_some());
    assert!(queue.remove("uid-a").is_none());
    assert_eq!(next(&mut queue).as_deref(), Some("b"));
    assert_eq!(queue.len(), 0);
}

#[test]
fn a_pod_that_is_put_back_keeps_its_place() {
    let mut queue = Queue::default();
    queue.push(seen(&pod("a")));
    queue.push(seen(&pod("b")));
    let (first, ticket) = queue.pop().unwrap();
    queue.put_back(first, ticket);
    assert_eq!(next(&mut queue).as_deref(), Some("a"));
}
