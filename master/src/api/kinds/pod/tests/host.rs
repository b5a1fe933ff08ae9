//! What a pod may have of its node.

use serde_json::{Value, json};

use super::super::super::testing::{defaulted, errors, with};
use super::super::Pods;

/// A small pod with these fields in its spec.
fn pod(fields: Value) -> Value {
    let mut spec = json!({"containers": [{"name": "main", "image": "i"}]});
    for (name, value) in fields.as_object().unwrap() {
        spec[name] = value.clone();
    }
    json!({"metadata": {"name": "web"}, "spec": spec})
}

#[track_caller]
fn judge(pod: &Value, expected: &str) {
    let found = errors::<Pods>(pod);
    let fits = match expected {
        "" => found.is_empty(),
        _ => found.len() == 1 && found[0].starts_with(expected),
    };
    assert!(fits, "{pod}\nexpected {expected}\nfound    {found:#?}");
}

#[test]
fn the_nodes_namespaces_and_users_go_together_as_in_kubernetes() {
    let port = |host: i32, container: i32| {
        json!([{
            "name": "main", "image": "i",
            "ports": [{"hostPort": host, "containerPort": container}]
        }])
    };
    let cases = [
        (json!({"hostNetwork": true, "hostPID": true, "hostIPC": true}), ""),
        (json!({"shareProcessNamespace": true, "hostUsers": false}), ""),
        (json!({"hostUsers": true, "hostNetwork": true}), ""),
        (json!({"hostNetwork": true, "containers": port(80, 80)}), ""),
        (
            json!({"hostNetwork": true, "containers": port(80, 8080)}),
            "spec.containers[0].ports[0].containerPort: Invalid value: 8080: must match `hostPort` when `hostNetwork` is true",
        ),
        (
            json!({"hostPID": true, "shareProcessNamespace": true}),
            "spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
        ),
        (
            json!({"hostUsers": false, "hostNetwork": true}),
            "spec.hostNetwork: Forbidden: when `hostUsers` is false",
        ),
        (
            json!({"hostUsers": false, "hostPID": true}),
            "spec.hostPID: Forbidden: when `hostUsers` is false",
        ),
        (
            json!({"hostUsers": false, "hostIPC": true}),
            "spec.hostIPC: Forbidden: when `hostUsers` is false",
        ),
    ];
    for (fields, error) in cases {
        judge(&pod(fields), error);
    }
}

#[test]
fn on_the_nodes_network_the_ports_are_the_nodes() {
    let containers = json!([{"name": "main", "image": "i", "ports": [{"containerPort": 80}]}]);
    let pod = pod(json!({"hostNetwork": true, "containers": containers}));
    let host_port = |pod: &Value| {
        defaulted::<Pods>(pod)["spec"]["containers"][0]["ports"][0]["hostPort"].clone()
    };
    assert_eq!(host_port(&pod), 80);
    assert_eq!(host_port(&with(&pod, "/spec/hostNetwork", json!(false))), Value::Null);
}

#[test]
fn all_of_proc_is_for_pods_with_users_of_their_own() {
    let containers = json!(
        [{"name": "main", "image": "i", "securityContext": {"procMount": "Unmasked"}}]
    );
    let refusal = "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`";
    for (users, error) in [(json!(false), ""), (json!(true), refusal), (Value::Null, refusal)] {
        judge(&pod(json!({"hostUsers": users, "containers": containers})), error);
    }
}

#[test]
fn only_safe_parameters_may_be_set_and_only_the_pods_own() {
    let cases = [
        ("net.ipv4.ip_unprivileged_port_start", json!({}), ""),
        ("net/ipv4/tcp_syncookies", json!({}), ""),
        (
            "net.core.somaxconn",
            json!({}),
            "spec.securityContext.sysctls[0].name: Forbidden: \"net.core.somaxconn\" is not supported",
        ),
        (
            "Kernel..x",
            json!({}),
            "spec.securityContext.sysctls[0].name: Invalid value: \"Kernel..x\": must have at most 253",
        ),
        ("", json!({}), "spec.securityContext.sysctls[0].name: Required value"),
        (
            "net.ipv4.tcp_syncookies",
            json!({"hostNetwork": true}),
            "spec.securityContext.sysctls[0].name: Invalid value: \"net.ipv4.tcp_syncookies\": may not be specified when 'hostNetwork' is true",
        ),
        (
            "kernel.shm_rmid_forced",
            json!({"hostIPC": true}),
            "spec.securityContext.sysctls[0].name: Invalid value: \"kernel.shm_rmid_forced\": may not be specified when 'hostIPC' is true",
        ),
    ];
    for (name, fields, error) in cases {
        let context = json!({"sysctls": [{"name": name, "value": "1"}]});
        let pod = pod(fields);
        judge(&with(&pod, "/spec/securityContext", context), error);
    }
}
