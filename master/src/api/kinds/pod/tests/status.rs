//! What a client may write of the status of a pod.

use serde_json::{Value, json};

use super::super::super::testing::{created, with};
use super::super::super::{Kind, testing};
use super::super::Pods;
use super::full;

/// What is wrong with going from one status to another.
fn wrong(old: &Value, new: &Value) -> Vec<String> {
    let pod = |status: &Value| {
        let mut pod = created::<Pods>(&full());
        pod.status = Some(serde_json::from_value(status.clone()).unwrap());
        pod
    };
    let (old, mut new) = (pod(old), pod(new));
    Pods::prepare_status_update(&mut new, &old);
    Pods::validate_status_update(&new, &old).iter().map(ToString::to_string).collect()
}

#[test]
fn a_status_keeps_to_the_rules() {
    let running = json!({"running": {}});
    let failed = json!({"terminated": {"exitCode": 1}});
    let done = json!({"terminated": {"exitCode": 0}});
    let of = |state: &Value| {
        let (image, id) = ("x", "");
        json!({"containerStatuses": [{
            "name": "main", "image": image, "imageID": id, "ready": false, "restartCount": 0,
            "state": state,
        }]})
    };
    let empty = json!({});
    for (old, new, expected) in [
        (&empty, json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}), &[][..]),
        (
            &empty,
            json!({"podIPs": [{"ip": "x"}]}),
            &["status.podIPs[0]: Invalid value: \"x\": must be a valid IP address"],
        ),
        (
            &empty,
            json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}),
            &[
                "status.podIPs: Invalid value: [{\"ip\":\"10.0.0.1\"},{\"ip\":\"10.0.0.2\"}]: may specify no more than one IP for each IP family",
            ],
        ),
        (&empty, json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}), &[]),
        (
            &empty,
            json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}]}),
            &["status.podIPs[1]: Duplicate value", "status.podIPs: Invalid value"],
        ),
        (
            &empty,
            json!({"hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.2"}]}),
            &["status.hostIPs[0].ip: Invalid value: \"10.0.0.2\": must be equal to `hostIP`"],
        ),
        (
            &empty,
            json!({"nominatedNodeName": "A"}),
            &["status.nominatedNodeName: Invalid value: \"A\": a lowercase RFC 1123 subdomain"],
        ),
        (
            &json!({"qosClass": "Burstable"}),
            json!({"qosClass": "BestEffort"}),
            &["status.qosClass: Invalid value: \"BestEffort\": field is immutable"],
        ),
        (&json!({"qosClass": "Burstable"}), json!({}), &[]),
        (
            &empty,
            json!({"conditions": [{"type": "Ready", "status": "True"}, {"type": "a b", "status": "True"}]}),
            &["metadata.conditions[1].Type: Invalid value: \"a b\": name part must consist of"],
        ),
        // The restart policy is OnFailure.
        (&of(&failed), of(&running), &[]),
        (
            &of(&done),
            of(&running),
            &[
                "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state",
            ],
        ),
        (&of(&done), of(&failed), &[]),
        (
            &empty,
            with(
                &of(&running),
                "/containerStatuses/0/user",
                json!({"linux": {"uid": -1, "gid": 0}}),
            ),
            &[
                "status.containerStatuses[0].linux.uid: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            ],
        ),
    ] {
        let found = wrong(old, &new);
        let fits = found.len() == expected.len()
            && found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected));
        assert!(fits, "{old} to {new}\nexpected {expected:#?}\nfound    {found:#?}");
    }
}

#[test]
fn what_a_client_does_not_know_of_stays() {
    let old = json!({
        "qosClass": "Burstable", "observedGeneration": 3,
        "conditions": [{"type": "Ready", "status": "False", "observedGeneration": 2}],
    });
    let mut pod = created::<Pods>(&full());
    pod.status = Some(serde_json::from_value(old).unwrap());
    let mut new = pod.clone();
    let status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    new.status = Some(serde_json::from_value(status).unwrap());
    new.metadata.owner_references = Some(Vec::new());
    new.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
    Pods::prepare_status_update(&mut new, &pod);
    let told = serde_json::to_value(&new).unwrap();
    assert_eq!(
        told["status"],
        json!({
            "qosClass": "Burstable", "observedGeneration": 3,
            "conditions": [{"type": "Ready", "status": "True", "observedGeneration": 2}],
        })
    );
    assert_eq!(told["metadata"]["annotations"], json!({"a": "b"}));
    assert_eq!(new.metadata.owner_references, pod.metadata.owner_references);
    assert_eq!(testing::errors::<Pods>(&full()), Vec::<String>::new());
}
