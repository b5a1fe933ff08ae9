//! Whose a claim is.

use proto::ObjectKey;
use proto::k8s::api::core::v1::Service;
use serde_json::json;

use super::reconcile::{Holder, Plan, Write, name_of, reconcile};
use crate::api::kinds::ClusterConfig;

fn holder(name: &str, second: u8) -> Holder {
    let service: Service = serde_json::from_value(json!({"metadata": {
        "name": name, "uid": format!("uid-{name}"),
        "creationTimestamp": format!("2030-01-01T00:00:{second:02}Z"),
    }}))
    .unwrap();
    Holder::of(&ObjectKey::new("default", name), &service)
}

/// As the claim has it.
fn named(holder: &Holder) -> Holder {
    Holder::read(holder.to_json("services").to_string().as_bytes()).unwrap()
}

#[test]
fn a_claim_that_names_its_service_is_left_alone() {
    let one = holder("a", 1);
    let plan = reconcile(vec![one.clone()], Some(Some(&named(&one))));
    assert_eq!(plan, Plan { write: None, keeper: Some(one), others: vec![] });
    assert_eq!(reconcile(vec![], None), Plan::default());
}

#[test]
fn what_several_have_is_the_oldest_ones() {
    let (young, old) = (holder("a", 9), holder("b", 1));
    let plan = reconcile(vec![young.clone(), old.clone()], Some(Some(&named(&young))));
    let keeper = Some(old.clone());
    assert_eq!(plan, Plan { write: Some(Write::Put(old)), keeper, others: vec![young] });
}

#[test]
fn a_claim_that_lacks_is_made_and_one_of_nobody_goes() {
    let one = holder("a", 1);
    assert_eq!(reconcile(vec![one.clone()], None).write, Some(Write::Put(one.clone())));
    assert_eq!(reconcile(vec![], Some(None)).write, Some(Write::Delete));
    assert_eq!(reconcile(vec![], Some(Some(&named(&one)))).write, Some(Write::Delete));
    // It names one that was made anew.
    let mut before = named(&one);
    before.uid = "another".to_owned();
    assert_eq!(reconcile(vec![one.clone()], Some(Some(&before))).write, Some(Write::Put(one)));
}

#[test]
fn claims_are_told_in_words() {
    assert_eq!(name_of("service-ip/fd00::7"), "Cluster IP fd00::7");
    assert_eq!(name_of("node-port/UDP/30053"), "Node port 30053/UDP");
}

/// Who is told what of a claim that these have, the oldest first.
fn told(claim: &str, holders: &[&Holder]) -> Vec<(String, &'static str)> {
    let cluster = ClusterConfig {
        service_cidrs: "10.96.0.0/16,fd00:96::/112".parse().unwrap(),
        pod_cidrs: "10.244.0.0/16,fd00:244::/56".parse().unwrap(),
        node_prefixes: Default::default(),
        node_ports: (30000, 32767),
    };
    let plan = reconcile(holders.iter().map(|&holder| holder.clone()).collect(), None);
    let warnings = plan.warnings(claim, &cluster).into_iter();
    let told = warnings.map(|warning| {
        assert!(warning.message.contains("create it anew"), "{}", warning.message);
        assert!(warning.message.starts_with(&name_of(claim)), "{}", warning.message);
        (warning.holder.key.name, warning.reason)
    });
    told.collect()
}

#[test]
fn only_those_who_came_later_are_told_that_somebody_else_has_it() {
    let (old, young) = (holder("old", 1), holder("young", 9));
    for (claim, reason) in [
        ("service-ip/10.96.0.7", "ClusterIPAlreadyAllocated"),
        ("service-ip/fd00:96::7", "ClusterIPAlreadyAllocated"),
        ("node-port/UDP/30053", "PortAlreadyAllocated"),
    ] {
        assert_eq!(told(claim, &[&young, &old]), [("young".to_owned(), reason)]);
        assert!(told(claim, &[&old]).is_empty() && told(claim, &[]).is_empty());
    }
}

#[test]
fn everybody_is_told_of_what_is_outside_of_the_ranges_as_they_are_now() {
    let (old, young) = (holder("old", 1), holder("young", 9));
    for (claim, reason) in [
        ("service-ip/10.97.0.7", "ClusterIPOutOfRange"),
        ("service-ip/fd00:97::7", "ClusterIPOutOfRange"),
        // The range's own.
        ("service-ip/10.96.0.0", "ClusterIPOutOfRange"),
        ("service-ip/10.96.0", "ClusterIPNotValid"),
        ("node-port/TCP/29999", "PortOutOfRange"),
        ("node-port/TCP/32768", "PortOutOfRange"),
        ("node-port/TCP/-1", "PortOutOfRange"),
    ] {
        let both = [("old".to_owned(), reason), ("young".to_owned(), reason)];
        assert_eq!(told(claim, &[&young, &old]), both, "{claim}");
        assert!(told(claim, &[]).is_empty());
    }
    for inside in ["node-port/TCP/30000", "node-port/SCTP/32767", "service-ip/10.96.0.1"] {
        assert!(told(inside, &[&old]).is_empty(), "{inside}");
    }
}
