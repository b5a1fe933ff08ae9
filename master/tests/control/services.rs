//! Services that got into the store by other ways than the API.

use master::api::kinds::Services;
use master::api::objects::DeleteOptions;
use master::store::{Op, Txn, TxnOutcome, keys};
use serde_json::{Value, json};

use crate::cluster::{Cluster, default};

impl Cluster {
    async fn write(&self, op: Op) {
        let written = self.store.txn(Txn { compares: vec![], ops: vec![op] }).await.unwrap();
        assert!(matches!(written, TxnOutcome::Committed(_)));
    }

    /// Whom a claim names; nothing where there is none.
    fn claimed_by(&self, claim: &str) -> Option<String> {
        let caches = self.objects.caches();
        let stored = caches.keys(keys::CLAIMS).get(&keys::claim(claim))?;
        let holder: Value = serde_json::from_slice(&stored.value).unwrap();
        Some(holder["name"].as_str().unwrap_or_default().to_owned())
    }

    fn was_told(&self, name: &str, reason: &str) -> bool {
        self.events_about(name).iter().any(|(found, _)| found == reason)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_with_the_same_address_and_node_port_are_found_and_the_older_keeps_them() {
    let cluster = Cluster::start().await;
    let spec = json!({
        "type": "NodePort", "clusterIP": "10.96.7.7",
        "ports": [{"port": 80, "nodePort": 30777}],
    });
    cluster.service("old", spec).await;
    let claims = ["service-ip/10.96.7.7", "node-port/TCP/30777"];
    cluster
        .eventually("it has claimed both", |cluster| {
            claims.iter().all(|claim| cluster.claimed_by(claim).as_deref() == Some("old"))
        })
        .await;

    // As from a backup of another time.
    let mut young = cluster.get("services", &default("old")).unwrap();
    young["metadata"]["name"] = json!("young");
    young["metadata"]["uid"] = json!("5e0b8f0c-0f3c-4d39-8a4d-000000000001");
    young["metadata"]["creationTimestamp"] = json!("2999-01-01T00:00:00Z");
    young["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let key = keys::object("services", &default("young"));
    let value = young.to_string().into();
    cluster.write(Op::Put { key, value, lease: None }).await;
    cluster
        .eventually("the younger one is told", |cluster| {
            cluster.was_told("young", "ClusterIPAlreadyAllocated")
                && cluster.was_told("young", "PortAlreadyAllocated")
        })
        .await;
    assert!(!cluster.was_told("old", "ClusterIPAlreadyAllocated"));

    // What is held is claimed again, whoever took the claim away.
    cluster.write(Op::Delete { key: keys::claim(claims[0]) }).await;
    cluster
        .eventually("the address is claimed again", |cluster| {
            cluster.claimed_by(claims[0]).as_deref() == Some("old")
                && cluster.was_told("old", "ClusterIPNotAllocated")
        })
        .await;

    // The older one goes; what it had is the other's.
    let delete = |name: &'static str| {
        let objects = &cluster.objects;
        async move {
            let options = DeleteOptions::default();
            objects.delete::<Services>(&default(name), options, &[]).await.unwrap();
        }
    };
    delete("old").await;
    cluster
        .eventually("all is the younger one's", |cluster| {
            claims.iter().all(|claim| cluster.claimed_by(claim).as_deref() == Some("young"))
        })
        .await;
    delete("young").await;
    cluster
        .eventually("all is free", |cluster| {
            claims.iter().all(|claim| cluster.claimed_by(claim).is_none())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_nobody_is_given_up_when_a_master_begins_to_lead() {
    let cluster = Cluster::start().await;
    let claim = "service-ip/10.96.9.9";
    let holder = json!({"resource": "services", "namespace": "default", "name": "x", "uid": "x"});
    let (key, value) = (keys::claim(claim), holder.to_string().into());
    cluster.write(Op::Put { key, value, lease: None }).await;
    cluster.eventually("it is free", |cluster| cluster.claimed_by(claim).is_none()).await;
    // Claims of other kinds are not looked at.
    let (key, value) = (keys::claim("pod-cidr/10.244.9.0/24"), "{}".into());
    cluster.write(Op::Put { key, value, lease: None }).await;
    let spec = json!({"clusterIP": "10.96.9.9", "ports": [{"port": 80}]});
    cluster.service("x", spec).await;
    cluster.lead().await;
    cluster
        .eventually("it has claimed it", |cluster| {
            cluster.claimed_by(claim).as_deref() == Some("x")
        })
        .await;
    cluster.idle().await;
    assert_eq!(cluster.claimed_by(claim).as_deref(), Some("x"));
    assert_eq!(cluster.claimed_by("pod-cidr/10.244.9.0/24").as_deref(), Some(""));
}

#[tokio::test(flavor = "multi_thread")]
async fn services_outside_of_the_ranges_are_told_and_keep_what_they_have() {
    let cluster = Cluster::start().await;
    let spec = json!({"type": "NodePort", "ports": [{"port": 80}]});
    let inside = cluster.service("inside", spec).await;
    // As from before the ranges were others.
    let mut outside = serde_json::to_value(inside).unwrap();
    outside["metadata"]["name"] = json!("outside");
    outside["metadata"]["uid"] = json!("5e0b8f0c-0f3c-4d39-8a4d-000000000002");
    outside["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    outside["spec"]["clusterIP"] = json!("192.0.2.7");
    outside["spec"]["clusterIPs"] = json!(["192.0.2.7"]);
    outside["spec"]["ports"][0]["nodePort"] = json!(29_999);
    let key = keys::object("services", &default("outside"));
    let value = outside.to_string().into();
    cluster.write(Op::Put { key, value, lease: None }).await;
    cluster
        .eventually("it is told", |cluster| {
            cluster.was_told("outside", "ClusterIPOutOfRange")
                && cluster.was_told("outside", "PortOutOfRange")
        })
        .await;
    let claims = ["service-ip/192.0.2.7", "node-port/TCP/29999"];
    cluster
        .eventually("nobody else gets them", |cluster| {
            claims.iter().all(|claim| cluster.claimed_by(claim).as_deref() == Some("outside"))
        })
        .await;
    for reason in ["ClusterIPOutOfRange", "PortOutOfRange"] {
        assert!(!cluster.was_told("inside", reason));
    }
}
