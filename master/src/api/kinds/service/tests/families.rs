//! Which address families a Service gets, and keeps.

use serde_json::{Value, json};

use super::super::super::Kind;
use super::super::super::testing::{created, with};
use super::super::Services;
use super::{cluster, service};

const SINGLE_4: &str = "10.96.0.0/29";
const SINGLE_6: &str = "fd00:96::/112";
const DUAL_4: &str = "10.96.0.0/29,fd00:96::/112";
const DUAL_6: &str = "fd00:96::/112,10.96.0.0/29";

/// Families as `46`, the policy, and how many addresses there are; or what was wrong.
fn stack(spec: &Value) -> String {
    let list = |field: &str| spec[field].as_array().cloned().unwrap_or_default();
    let digits: String =
        list("ipFamilies").iter().map(|family| if family == "IPv4" { '4' } else { '6' }).collect();
    let ips = list("clusterIPs");
    for (ip, digit) in ips.iter().zip(digits.chars()).filter(|(ip, _)| *ip != "None") {
        assert_eq!(ip.as_str().unwrap().contains(':'), digit == '6', "{spec}");
    }
    assert_eq!(spec.get("clusterIP"), ips.first(), "{spec}");
    let policy = spec["ipFamilyPolicy"].as_str().unwrap_or("-");
    match ips.first() {
        Some(first) if first == "None" => format!("{digits} {policy} headless"),
        _ => format!("{digits} {policy} {}", ips.len()),
    }
}

/// Creates it in a cluster with these ranges.
fn create(ranges: &str, manifest: &Value) -> Result<Value, String> {
    write(ranges, manifest, None)
}

fn write(ranges: &str, manifest: &Value, old: Option<&Value>) -> Result<Value, String> {
    let mut new = created::<Services>(manifest);
    let old = old.map(|old| serde_json::from_value(old.clone()).unwrap());
    let mut errors = Vec::new();
    if let Some(old) = &old {
        Services::prepare_update(&mut new, old);
        errors.extend(Services::validate_update(&new, old));
    }
    errors.extend(Services::validate(&new));
    if errors.is_empty()
        && let Err(refused) =
            Services::allocate(&mut new, old.as_ref(), &cluster(ranges), &|_| false)
    {
        errors.extend(refused);
    }
    match &errors[..] {
        [] => Ok(serde_json::to_value(&new).unwrap()),
        errors => Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    }
}

fn asking(fields: Value) -> Value {
    let mut manifest = service();
    let spec = manifest["spec"].as_object_mut().unwrap();
    spec.extend(fields.as_object().unwrap().clone());
    manifest
}

#[test]
fn a_service_gets_the_families_it_asks_for() {
    let prefer = json!({"ipFamilyPolicy": "PreferDualStack"});
    let require = json!({"ipFamilyPolicy": "RequireDualStack"});
    let headless = json!({"clusterIP": "None"});
    let both = json!({"clusterIP": "None", "ipFamilyPolicy": "PreferDualStack"});
    let six = json!({"ipFamilies": ["IPv6"]});
    let six_first = json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "PreferDualStack"});
    let unpaired = json!({"ipFamilies": ["IPv4", "IPv6"]});
    for (ranges, asked, expected) in [
        (SINGLE_4, json!({}), "4 SingleStack 1"),
        (SINGLE_6, json!({}), "6 SingleStack 1"),
        (DUAL_4, json!({}), "4 SingleStack 1"),
        (DUAL_6, json!({}), "6 SingleStack 1"),
        (SINGLE_4, prefer.clone(), "4 PreferDualStack 1"),
        (DUAL_4, prefer.clone(), "46 PreferDualStack 2"),
        (DUAL_6, prefer.clone(), "64 PreferDualStack 2"),
        (DUAL_4, require.clone(), "46 RequireDualStack 2"),
        (SINGLE_4, require, "this cluster is not configured for dual-stack services"),
        (DUAL_4, six.clone(), "6 SingleStack 1"),
        (
            SINGLE_4,
            six,
            "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
        ),
        (DUAL_4, six_first.clone(), "64 PreferDualStack 2"),
        (SINGLE_6, six_first, "spec.ipFamilies[1]: Invalid value: \"IPv4\": not configured"),
        (DUAL_4, unpaired, "'RequireDualStack' or 'PreferDualStack' when multiple IP families"),
        (DUAL_4, headless.clone(), "4 SingleStack headless"),
        (DUAL_4, both.clone(), "46 PreferDualStack headless"),
        (SINGLE_6, both, "6 PreferDualStack headless"),
        // Addresses say it as well.
        (DUAL_4, json!({"clusterIP": "fd00:96::7"}), "6 SingleStack 1"),
        (
            DUAL_4,
            json!({"clusterIP": "fd00:96::7", "clusterIPs": ["fd00:96::7", "10.96.0.3"], "ipFamilyPolicy": "PreferDualStack"}),
            "64 PreferDualStack 2",
        ),
        (
            DUAL_4,
            json!({"clusterIP": "fd00:96::7", "ipFamilyPolicy": "RequireDualStack"}),
            "64 RequireDualStack 2",
        ),
        (
            DUAL_4,
            json!({"clusterIP": "10.96.0.3", "clusterIPs": ["10.96.0.3", "fd00:96::7"]}),
            "when multiple cluster IPs are specified",
        ),
        (SINGLE_4, json!({"clusterIP": "fd00:96::7"}), "IPv6 is not configured on this cluster"),
        (DUAL_4, json!({"clusterIP": "fd00:97::7"}), "The range of valid IPs is fd00:96::/112"),
    ] {
        let manifest = asking(asked.clone());
        match create(ranges, &manifest) {
            Ok(stored) => assert_eq!(stack(&stored["spec"]), expected, "{ranges} {asked}"),
            Err(error) => assert!(error.contains(expected), "{ranges} {asked}: {error}"),
        }
    }
}

#[test]
fn endpoints_of_strangers_may_be_of_any_family() {
    let strangers = json!({
        "metadata": {"name": "db", "namespace": "default"},
        "spec": {"clusterIP": "None", "ports": [{"port": 5432}]},
    });
    let stack_of =
        |ranges: &str, manifest: &Value| stack(&create(ranges, manifest).unwrap()["spec"]);
    assert_eq!(stack_of(SINGLE_4, &strangers), "46 RequireDualStack headless");
    assert_eq!(stack_of(SINGLE_6, &strangers), "64 RequireDualStack headless");
    let six = with(&strangers, "/spec/ipFamilies", json!(["IPv6"]));
    assert_eq!(stack_of(SINGLE_4, &six), "64 RequireDualStack headless");
    let single = with(&strangers, "/spec/ipFamilyPolicy", json!("SingleStack"));
    assert_eq!(stack_of(DUAL_6, &single), "6 SingleStack headless");
}

#[test]
fn a_service_gains_a_family_and_loses_it_again() {
    let old = create(DUAL_4, &service()).unwrap();
    assert_eq!(stack(&old["spec"]), "4 SingleStack 1");
    // The manifest alone, as `apply` and `replace` send it, or all that was read.
    let require = asking(json!({"ipFamilyPolicy": "RequireDualStack"}));
    let both = write(DUAL_4, &require, Some(&old)).unwrap();
    let read = with(&old, "/spec/ipFamilyPolicy", json!("RequireDualStack"));
    let again = write(DUAL_4, &read, Some(&old)).unwrap();
    for both in [&both, &again] {
        assert_eq!(stack(&both["spec"]), "46 RequireDualStack 2");
        assert_eq!(both["spec"]["clusterIP"], old["spec"]["clusterIP"]);
    }
    // A named second address.
    let mut named = with(&old, "/spec/ipFamilyPolicy", json!("PreferDualStack"));
    named["spec"]["clusterIPs"].as_array_mut().unwrap().push(json!("fd00:96::99"));
    let named = write(DUAL_4, &named, Some(&old)).unwrap();
    assert_eq!(named["spec"]["clusterIPs"][1], "fd00:96::99");

    let single = asking(json!({"ipFamilyPolicy": "SingleStack"}));
    let back = write(DUAL_4, &single, Some(&both)).unwrap();
    assert_eq!(back["spec"]["clusterIPs"], old["spec"]["clusterIPs"]);
    assert_eq!(stack(&back["spec"]), "4 SingleStack 1");
    // A client that knows nothing of it changes nothing.
    assert_eq!(write(DUAL_4, &service(), Some(&both)).unwrap(), both);
    // Taking an address away says not enough.
    let mut cut = both.clone();
    cut["spec"]["clusterIPs"].as_array_mut().unwrap().pop();
    let error = write(DUAL_4, &cut, Some(&both)).unwrap_err();
    assert!(error.contains("must be 'SingleStack' to release the secondary cluster IP"), "{error}");
    cut["spec"]["ipFamilyPolicy"] = json!("SingleStack");
    assert_eq!(stack(&write(DUAL_4, &cut, Some(&both)).unwrap()["spec"]), "4 SingleStack 1");
    // Nor can they change places.
    let mut swapped = both.clone();
    swapped["spec"]["clusterIPs"].as_array_mut().unwrap().reverse();
    swapped["spec"]["clusterIP"] = swapped["spec"]["clusterIPs"][0].clone();
    swapped["spec"]["ipFamilies"] = json!(["IPv6", "IPv4"]);
    assert!(write(DUAL_4, &swapped, Some(&both)).unwrap_err().contains("may not change once set"));
}

#[test]
fn a_cluster_that_gains_or_loses_a_family_leaves_services_as_they_are() {
    let prefer = asking(json!({"ipFamilyPolicy": "PreferDualStack"}));
    let old = create(SINGLE_4, &prefer).unwrap();
    assert_eq!(stack(&old["spec"]), "4 PreferDualStack 1");
    let labelled = with(&old, "/metadata/labels", json!({"a": "b"}));
    let same = write(DUAL_4, &labelled, Some(&old)).unwrap();
    assert_eq!(same["spec"], old["spec"]);
    // A change of the type, or of the policy, is a reason.
    let node_port = with(&old, "/spec/type", json!("NodePort"));
    let both = write(DUAL_4, &node_port, Some(&old)).unwrap();
    assert_eq!(stack(&both["spec"]), "46 PreferDualStack 2");
    // The family is gone, the Service still has it, and can be written.
    let labelled = with(&both, "/metadata/labels", json!({"a": "b"}));
    assert_eq!(write(SINGLE_4, &labelled, Some(&both)).unwrap()["spec"], both["spec"]);
    // The range was moved.
    let moved = write("10.97.0.0/16", &labelled, Some(&both)).unwrap();
    assert_eq!(moved["spec"]["clusterIPs"], both["spec"]["clusterIPs"]);
}

#[test]
fn both_addresses_are_claimed_however_they_are_written() {
    let asked = asking(json!({
        "clusterIP": "10.96.0.3",
        "clusterIPs": ["10.96.0.3", "FD00:96:0::0007"],
        "ipFamilyPolicy": "RequireDualStack",
    }));
    let stored = created::<Services>(&create(DUAL_4, &asked).unwrap());
    assert_eq!(Services::claims(&stored), ["service-ip/10.96.0.3", "service-ip/fd00:96::7"]);
    let mut second = created::<Services>(&asked);
    let taken = |claim: &str| claim == "service-ip/fd00:96::7";
    let error = Services::allocate(&mut second, None, &cluster(DUAL_4), &taken).unwrap_err();
    assert!(error[0].detail.contains("provided IP is already allocated"), "{error:?}");
}
