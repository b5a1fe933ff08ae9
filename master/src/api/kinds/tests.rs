//! The smaller kinds, from what users write to what is stored and shown.

use serde_json::{Value, json};

use super::testing::{
    check, check_updates, created, defaulted, errors, row, selectable_fields, settles, with,
};
use super::*;
use crate::cache::MAX_FIELDS;

fn meta() -> Value {
    json!({"name": "web", "namespace": "default", "creationTimestamp": "2026-01-01T11:00:00Z"})
}

fn cluster() -> ClusterConfig {
    ClusterConfig {
        service_cidr: "10.96.0.0/16".to_owned(),
        pod_cidr: "10.244.0.0/16".to_owned(),
        node_cidr_prefix: 24,
        node_ports: (30000, 32767),
    }
}

#[test]
fn every_kind_has_as_many_cells_as_columns_and_stable_fields() {
    fn ask<K: Kind>(empty: Value) {
        row::<K>(&empty);
        settles_without_validation::<K>(&empty);
        let names: Vec<&str> = K::columns().iter().map(|column| column.name).collect();
        assert!(names.contains(&"Name"), "{names:?}");
        assert!(K::FIELDS.len() <= MAX_FIELDS);
        let registry = registry();
        let kind = registry.stored_as(K::RESOURCE.plural).unwrap();
        for field in K::FIELDS {
            let (last, above) = field.at.split_last().unwrap();
            let value = json!({*last: null});
            let nest = |value| above.iter().rev().fold(value, |below, name| json!({*name: below}));
            // Where a list is on the way, it holds objects.
            let trees = [nest(value.clone()), nest(json!([value]))];
            let decoded = trees.iter().find_map(|tree| kind.decode(tree).ok());
            assert!(decoded.is_some_and(|decoded| decoded.unknown.is_empty()), "{field:?}");
        }
    }
    fn settles_without_validation<K: Kind>(manifest: &Value) {
        let once = defaulted::<K>(manifest);
        let mut again: K::Object = serde_json::from_value(once.clone()).unwrap();
        K::default(&mut again);
        assert_eq!(serde_json::to_value(&again).unwrap(), once);
        // Whatever is wrong with an empty object, telling it must not panic.
        let _ = errors::<K>(manifest);
    }
    ask::<Pods>(json!({}));
    ask::<ReplicationControllers>(json!({}));
    ask::<Services>(json!({}));
    ask::<EndpointsKind>(json!({}));
    ask::<Nodes>(json!({}));
    ask::<Namespaces>(json!({}));
    ask::<Events>(json!({}));
    ask::<ConfigMaps>(json!({}));
    ask::<Secrets>(json!({}));
    ask::<ServiceAccounts>(json!({}));
    ask::<EndpointSlices>(json!({}));
    ask::<ReplicaSets>(json!({}));
    ask::<Deployments>(json!({}));
    ask::<PodTemplates>(json!({}));
    ask::<Leases>(json!({}));
    ask::<LimitRanges>(json!({}));
    ask::<ResourceQuotas>(json!({}));
    ask::<EventsView>(json!({}));
}

#[test]
fn the_registry_has_every_kind_once() {
    let plurals: Vec<&str> = registry().stored().map(|kind| kind.resource().plural).collect();
    for plural in [
        "pods",
        "replicationcontrollers",
        "services",
        "endpoints",
        "endpointslices",
        "nodes",
        "namespaces",
        "events",
        "configmaps",
        "secrets",
        "serviceaccounts",
        "podtemplates",
        "deployments",
        "replicasets",
        "leases",
        "limitranges",
        "resourcequotas",
    ] {
        assert_eq!(plurals.iter().filter(|found| **found == plural).count(), 1, "{plural}");
    }
}

fn config_map() -> Value {
    json!({"metadata": meta(), "data": {"a.b": "1"}, "binaryData": {"c": "AAE="}})
}

#[test]
fn config_maps_keep_to_the_rules() {
    settles::<ConfigMaps>(&config_map());
    check::<ConfigMaps>(
        &config_map(),
        vec![
            (
                "/data",
                json!({"a/b": ""}),
                "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of",
            ),
            ("/data", json!({"..": ""}), "data[..]: Invalid value: \"..\": must not be '..'"),
            ("/data", json!({"a".repeat(254): ""}), "data[aaa"),
            (
                "/data",
                json!({"c": ""}),
                "data[c]: Invalid value: \"c\": duplicate of key present in binaryData",
            ),
            (
                "/data",
                json!({"a": "x".repeat(1024 * 1024)}),
                "data: Too long: may not be more than 1048576 bytes",
            ),
        ],
    );
    let locked = with(&config_map(), "/immutable", json!(true));
    check_updates::<ConfigMaps>(
        &locked,
        vec![
            ("/metadata/labels", json!({"a": "b"}), ""),
            (
                "/data",
                json!({"a.b": "2"}),
                "data: Forbidden: field is immutable when `immutable` is set",
            ),
            ("/binaryData", json!(null), "binaryData: Forbidden"),
            ("/immutable", json!(false), "immutable: Forbidden"),
        ],
    );
    check_updates::<ConfigMaps>(&config_map(), vec![("/data", json!({"x": "2"}), "")]);
    assert_eq!(row::<ConfigMaps>(&config_map()), ["web", "2", "60m"]);
}

#[test]
fn secrets_keep_to_the_rules_of_their_type() {
    let secret =
        |kind: &str, data: Value| json!({"metadata": meta(), "type": kind, "stringData": data});
    settles::<Secrets>(&secret("Opaque", json!({"a": "b"})));
    let stored = defaulted::<Secrets>(&json!({"metadata": meta(), "stringData": {"a": "b"}}));
    assert_eq!((&stored["type"], &stored["data"]), (&json!("Opaque"), &json!({"a": "Yg=="})));
    assert_eq!(stored.get("stringData"), None);
    let tls = json!({"tls.crt": "x", "tls.key": "y"});
    for (kind, data, expected) in [
        ("kubernetes.io/tls", tls.clone(), &[][..]),
        (
            "kubernetes.io/tls",
            json!({}),
            &["data[tls.crt]: Required value", "data[tls.key]: Required value"],
        ),
        ("kubernetes.io/ssh-auth", json!({}), &["data[ssh-privatekey]: Required value"]),
        ("kubernetes.io/basic-auth", json!({"username": "x"}), &[]),
        (
            "kubernetes.io/basic-auth",
            json!({}),
            &["data[username]: Required value", "data[password]: Required value"],
        ),
        ("kubernetes.io/dockercfg", json!({}), &["data[.dockercfg]: Required value"]),
        ("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": "{}"}), &[]),
        (
            "kubernetes.io/dockerconfigjson",
            json!({".dockerconfigjson": "pa55"}),
            &[
                "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": not a JSON object (line 1)",
            ],
        ),
        (
            "kubernetes.io/service-account-token",
            json!({}),
            &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
        ),
        (
            "Opaque",
            json!({"a b": ""}),
            &[
                "data[a b]: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
            ],
        ),
    ] {
        assert_eq!(errors::<Secrets>(&secret(kind, data)), expected, "{kind}");
    }
    check_updates::<Secrets>(
        &secret("kubernetes.io/tls", tls),
        vec![("/type", json!("Opaque"), "type: Invalid value: \"Opaque\": field is immutable")],
    );
    let locked = with(&secret("Opaque", json!({"a": "b"})), "/immutable", json!(true));
    check_updates::<Secrets>(&locked, vec![("/stringData/a", json!("c"), "data: Forbidden")]);
    assert_eq!(
        row::<Secrets>(&json!({"metadata": meta(), "type": "Opaque", "data": {"a": "Yg=="}})),
        ["web", "Opaque", "1", "60m"]
    );
}

#[test]
fn namespaces_are_held_until_they_are_empty() {
    let manifest =
        json!({"metadata": {"name": "team", "creationTimestamp": "2026-01-01T11:00:00Z"}});
    settles::<Namespaces>(&manifest);
    let stored = defaulted::<Namespaces>(&manifest);
    assert_eq!(stored["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(stored["status"]["phase"], "Active");
    assert_eq!(stored["metadata"]["labels"]["kubernetes.io/metadata.name"], "team");
    assert_eq!(row::<Namespaces>(&stored), ["team", "Active", "60m"]);
    assert!(Namespaces::validate_name("a.b")[0].contains("must not contain dots"));

    let mut namespace = created::<Namespaces>(&manifest);
    assert_eq!(
        Namespaces::deletion(&namespace, Some(0)),
        Deletion::Graceful { grace_period_seconds: 0 }
    );
    Namespaces::prepare_deletion(&mut namespace);
    namespace.metadata.deletion_timestamp =
        Some(proto::k8s::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
    assert_eq!(row::<Namespaces>(&serde_json::to_value(&namespace).unwrap())[1], "Terminating");

    // A client that leaves the finalizers out does not take them away; who says they are gone does.
    let mut update = namespace.clone();
    update.spec = None;
    Namespaces::prepare_update(&mut update, &namespace);
    assert_eq!(update.spec, namespace.spec);
    update.spec.as_mut().unwrap().finalizers = Some(Vec::new());
    Namespaces::prepare_update(&mut update, &namespace);
    assert_eq!(Namespaces::deletion(&update, None), Deletion::Immediate);

    for namespace in namespace::initial() {
        assert!(Namespaces::undeletable(&namespace).is_some());
    }
    assert!(Namespaces::undeletable(&namespace).is_none());
}

fn node() -> Value {
    json!({
        "metadata": {"name": "n1", "creationTimestamp": "2026-01-01T11:00:00Z"},
        "spec": {"taints": [{"key": "dedicated", "value": "web", "effect": "NoSchedule"}]},
        "status": {"capacity": {"cpu": "2"}, "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
    })
}

#[test]
fn nodes_keep_to_the_rules() {
    settles::<Nodes>(&node());
    check::<Nodes>(
        &node(),
        vec![
            ("/spec/podCIDR", json!("10.244.7.0/24"), ""),
            (
                "/spec/podCIDRs",
                json!(["x"]),
                "spec.podCIDRs[0]: Invalid value: \"x\": must be a valid IPv4 CIDR value",
            ),
            (
                "/spec/podCIDRs",
                json!(["10.244.0.0/24", "10.244.1.0/24"]),
                "spec.podCIDRs: Forbidden: one range per node",
            ),
            (
                "/spec/taints/0/effect",
                json!("x"),
                "spec.taints[0].effect: Unsupported value: \"x\"",
            ),
            ("/spec/taints/0/key", json!("a b"), "spec.taints[0].key: Invalid value: \"a b\""),
            (
                "/spec/taints/1",
                json!({"key": "dedicated", "effect": "NoSchedule"}),
                "spec.taints[1]: Duplicate value: \"dedicated:NoSchedule\": taints must be unique by key and effect pair",
            ),
            (
                "/status/capacity/cpu",
                json!("-2"),
                "status.capacity[cpu]: Invalid value: \"-2\": must be greater than or equal to 0",
            ),
            (
                "/status/capacity/cpu",
                json!("x"),
                "status.capacity[cpu]: Invalid value: \"x\": quantities must match",
            ),
            (
                "/status/addresses/0/address",
                json!("x"),
                "status.addresses[0].address: Invalid value",
            ),
        ],
    );
    let ranged = with(&node(), "/spec/podCIDRs", json!(["10.244.0.0/24"]));
    check_updates::<Nodes>(
        &ranged,
        vec![
            ("/spec/podCIDRs", json!(null), ""),
            ("/spec/unschedulable", json!(true), ""),
            (
                "/spec/podCIDRs",
                json!(["10.244.1.0/24"]),
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR",
            ),
        ],
    );
}

#[test]
fn a_node_gets_the_first_free_range() {
    let mut first = created::<Nodes>(&node());
    let taken = |claim: &str| claim == "pod-cidr/10.244.0.0-24";
    Nodes::allocate(&mut first, None, &cluster(), &taken).unwrap();
    let spec = first.spec.clone().unwrap();
    assert_eq!(spec.pod_cidr.as_deref(), Some("10.244.1.0/24"));
    assert_eq!(spec.pod_cidrs, Some(vec!["10.244.1.0/24".to_owned()]));
    assert_eq!(Nodes::claims(&first), ["pod-cidr/10.244.1.0-24"]);

    let ask = |range: &str| {
        let mut node = created::<Nodes>(&with(&node(), "/spec/podCIDR", json!(range)));
        let errors = Nodes::allocate(&mut node, None, &cluster(), &taken).err().unwrap_or_default();
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(ask("10.244.7.0/24"), "");
    assert!(ask("10.244.0.0/24").contains("held by another node"));
    assert!(ask("10.244.0.0/23").contains("must be a /24 range out of 10.244.0.0/16"));
    assert!(ask("10.245.0.0/24").contains("must be a /24 range"));
    let full = Nodes::allocate(&mut created::<Nodes>(&node()), None, &cluster(), &|_| true);
    assert!(full.unwrap_err()[0].detail.contains("no range is left"));
}

#[test]
fn a_node_tells_how_it_is() {
    let mut node = node();
    node["metadata"]["labels"] = json!({
        "node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "x",
    });
    assert_eq!(row::<Nodes>(&node)[1..3], ["Unknown", "control-plane,worker,x"]);
    node["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    node["status"]["nodeInfo"] = json!({
        "kubeletVersion": "v1", "osImage": "Debian", "kernelVersion": "6.1", "containerRuntimeVersion": "kutter://1",
        "architecture": "", "bootID": "", "kubeProxyVersion": "", "machineID": "", "operatingSystem": "", "systemUUID": "",
    });
    assert_eq!(
        row::<Nodes>(&node),
        [
            "n1",
            "Ready",
            "control-plane,worker,x",
            "60m",
            "v1",
            "10.0.0.1",
            "<none>",
            "Debian",
            "6.1",
            "kutter://1"
        ]
    );
    node["spec"]["unschedulable"] = json!(true);
    node["status"]["conditions"][0]["status"] = json!("Unknown");
    assert_eq!(row::<Nodes>(&node)[1], "NotReady,SchedulingDisabled");
}

fn controller() -> Value {
    json!({
        "metadata": meta(),
        "spec": {
            "replicas": 3,
            "selector": {"app": "web"},
            "template": {
                "metadata": {"labels": {"app": "web", "tier": "front"}},
                "spec": {"containers": [{"name": "main", "image": "nginx:1"}]},
            },
        },
    })
}

#[test]
fn controllers_take_selector_and_labels_from_the_template() {
    settles::<ReplicationControllers>(&controller());
    let bare =
        with(&with(&controller(), "/spec/selector", json!(null)), "/spec/replicas", json!(null));
    let stored = defaulted::<ReplicationControllers>(&bare);
    let labels = json!({"app": "web", "tier": "front"});
    assert_eq!(stored["spec"]["replicas"], 1);
    assert_eq!(stored["spec"]["selector"], labels);
    assert_eq!(stored["metadata"]["labels"], labels);
    assert_eq!(stored["spec"]["template"]["spec"]["restartPolicy"], "Always");
    // What only pods get.
    assert_eq!(stored["spec"]["template"]["spec"].get("serviceAccountName"), None);
    assert_eq!(stored["status"], json!({"replicas": 0}));
}

#[test]
fn controllers_keep_to_the_rules() {
    check::<ReplicationControllers>(
        &controller(),
        vec![
            (
                "/spec/replicas",
                json!(-1),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            ("/spec/minReadySeconds", json!(-1), "spec.minReadySeconds: Invalid value: -1"),
            ("/spec/template", json!(null), "spec.template: Required value"),
            (
                "/spec/selector",
                json!({"app": "other"}),
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\",\"tier\":\"front\"}: `selector` does not match template `labels`",
            ),
            (
                "/spec/template/metadata/labels/x",
                json!("y z"),
                "spec.template.labels: Invalid value: \"y z\"",
            ),
            (
                "/spec/template/spec/restartPolicy",
                json!("Never"),
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ),
            (
                "/spec/template/spec/containers/0/image",
                json!(""),
                "spec.template.spec.containers[0].image: Required value",
            ),
            (
                "/spec/template/spec/hostNetwork",
                json!(true),
                "spec.template.spec.hostNetwork: Forbidden: is not supported",
            ),
        ],
    );
    let empty = json!({"metadata": meta(), "spec": {"template": {"spec": {}}}});
    assert_eq!(
        errors::<ReplicationControllers>(&empty),
        ["spec.selector: Required value", "spec.template.spec.containers: Required value"]
    );
}

#[test]
fn controllers_scale() {
    let mut object = created::<ReplicationControllers>(&controller());
    ReplicationControllers::set_replicas(&mut object, 7);
    object.status.as_mut().unwrap().replicas = 2;
    let scaling = ReplicationControllers::scaling(&object).unwrap();
    assert_eq!((scaling.desired, scaling.observed), (7, 2));
    assert_eq!(scaling.selector, "app=web");
    let mut row = row::<ReplicationControllers>(&serde_json::to_value(&object).unwrap());
    assert_eq!(row.split_off(1), ["7", "2", "0", "60m", "main", "nginx:1", "app=web"]);
}

#[test]
fn endpoints_keep_to_the_rules() {
    let endpoints = json!({
        "metadata": meta(),
        "subsets": [{"addresses": [{"ip": "10.244.0.2"}, {"ip": "10.244.0.3"}], "ports": [{"port": 80}, {"name": "b", "port": 81}]}],
    });
    let valid = with(&endpoints, "/subsets/0/ports/0/name", json!("a"));
    settles::<EndpointsKind>(&valid);
    check::<EndpointsKind>(
        &valid,
        vec![
            ("/subsets/0/ports/0/name", json!(null), "subsets[0].ports[0].name: Required value"),
            (
                "/subsets/0/addresses",
                json!([]),
                "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
            ),
            (
                "/subsets/0/addresses/0/ip",
                json!("x"),
                "subsets[0].addresses[0].ip: Invalid value: \"x\": must be a valid IP address",
            ),
            (
                "/subsets/0/addresses/0/ip",
                json!("127.0.0.1"),
                "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range",
            ),
            (
                "/subsets/0/addresses/0/ip",
                json!("0.0.0.0"),
                "subsets[0].addresses[0].ip: Invalid value: \"0.0.0.0\": may not be unspecified",
            ),
            (
                "/subsets/0/addresses/0/ip",
                json!("169.254.1.1"),
                "subsets[0].addresses[0].ip: Invalid value: \"169.254.1.1\": may not be in the link-local range",
            ),
            (
                "/subsets/0/addresses/0/ip",
                json!("fe80::1"),
                "subsets[0].addresses[0].ip: Invalid value: \"fe80::1\": may not be in the link-local range",
            ),
            ("/subsets/0/ports/0/port", json!(0), "subsets[0].ports[0].port: Invalid value: 0"),
            (
                "/subsets/0/ports/0/protocol",
                json!("x"),
                "subsets[0].ports[0].protocol: Unsupported value: \"x\"",
            ),
        ],
    );
    assert_eq!(
        row::<EndpointsKind>(&valid),
        ["web", "10.244.0.2:80,10.244.0.3:80,10.244.0.2:81 + 1 more...", "60m"]
    );
    assert_eq!(row::<EndpointsKind>(&json!({"metadata": meta()}))[1], "<none>");
}

#[test]
fn endpoint_slices_keep_to_the_rules() {
    let slice = json!({
        "metadata": meta(), "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.244.0.2"], "nodeName": "n1"}],
        "ports": [{"port": 80}, {"name": "b", "port": 81}],
    });
    settles::<EndpointSlices>(&slice);
    check::<EndpointSlices>(
        &slice,
        vec![
            ("/addressType", json!(""), "addressType: Required value"),
            (
                "/addressType",
                json!("IPX"),
                "addressType: Unsupported value: \"IPX\": supported values: \"FQDN\", \"IPv4\", \"IPv6\"",
            ),
            (
                "/addressType",
                json!("IPv6"),
                "endpoints[0].addresses[0]: Invalid value: \"10.244.0.2\": must be a valid IPv6 address",
            ),
            (
                "/endpoints/0/addresses",
                json!([]),
                "endpoints[0].addresses: Required value: must contain at least 1 address",
            ),
            (
                "/endpoints/0/addresses/0",
                json!("127.0.0.1"),
                "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range",
            ),
            ("/endpoints/0/nodeName", json!("A"), "endpoints[0].nodeName: Invalid value"),
            ("/endpoints/0/hints", json!({"forZones": [{"name": "a"}, {"name": "b"}]}), ""),
            (
                "/endpoints/0/hints",
                json!({"forZones": [{"name": "a"}, {"name": "a"}]}),
                "endpoints[0].hints.forZones[1].name: Duplicate value: \"a\"",
            ),
            (
                "/endpoints/0/hints",
                json!({"forNodes": [{"name": "A"}]}),
                "endpoints[0].hints.forNodes[0].name: Invalid value: \"A\"",
            ),
            (
                "/endpoints/0/hints",
                json!({"forNodes": vec![json!({"name": "a"}); 9]}),
                "endpoints[0].hints.forNodes: Too many: 9: must have at most 8 items",
            ),
            ("/endpoints/0/deprecatedTopology", json!({"rack": "7"}), ""),
            (
                "/endpoints/0/deprecatedTopology",
                json!({"topology.kubernetes.io/zone": "a"}),
                "endpoints[0].deprecatedTopology[topology.kubernetes.io/zone]: Invalid value: \"a\"",
            ),
            ("/ports/1/name", json!(""), "ports[1].name: Duplicate value: \"\""),
            ("/ports/1/name", json!("B"), "ports[1].name: Invalid value: \"B\""),
            ("/ports/1/port", json!(0), "ports[1].port: Invalid value: 0"),
            (
                "/ports/1/appProtocol",
                json!("h2 c"),
                "ports[1].appProtocol: Invalid value: \"h2 c\"",
            ),
        ],
    );
    let named = |name: &str| {
        json!({
            "metadata": meta(), "addressType": "FQDN", "endpoints": [{"addresses": [name]}],
        })
    };
    assert_eq!(errors::<EndpointSlices>(&named("db.example.com.")), Vec::<String>::new());
    let short = errors::<EndpointSlices>(&named("db"));
    assert!(short[0].ends_with("at least two segments separated by dots"), "{short:?}");
    let many: Vec<Value> = (0..1001).map(|_| json!({"addresses": ["10.0.0.1"]})).collect();
    check::<EndpointSlices>(
        &slice,
        vec![(
            "/endpoints",
            json!(many),
            "endpoints: Too many: 1001: must have at most 1000 items",
        )],
    );
    check_updates::<EndpointSlices>(
        &with(&slice, "/endpoints", json!([])),
        vec![(
            "/addressType",
            json!("IPv6"),
            "addressType: Invalid value: \"IPv6\": field is immutable",
        )],
    );
    assert_eq!(row::<EndpointSlices>(&slice), ["web", "IPv4", "80,81", "10.244.0.2", "60m"]);
    let empty = json!({"metadata": meta(), "addressType": "IPv4"});
    assert_eq!(row::<EndpointSlices>(&empty)[2..4], ["<unset>", "<unset>"]);
}

#[test]
fn events_keep_to_the_rules() {
    let event = json!({
        "metadata": meta(),
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web", "fieldPath": "spec.containers{main}"},
        "type": "Warning", "reason": "BackOff", "message": " restarting \n",
        "firstTimestamp": "2026-01-01T11:00:00Z", "lastTimestamp": "2026-01-01T11:58:00Z", "count": 4,
        "source": {"component": "kubelet", "host": "n1"},
    });
    settles::<Events>(&event);
    check::<Events>(
        &event,
        vec![
            (
                "/involvedObject/namespace",
                json!("other"),
                "involvedObject.namespace: Invalid value: \"other\": does not match event.namespace",
            ),
            ("/involvedObject/namespace", json!(null), ""),
        ],
    );
    let modern = with(&event, "/eventTime", json!("2026-01-01T11:00:00.000000Z"));
    assert_eq!(
        errors::<Events>(&modern),
        [
            "reportingComponent: Required value",
            "reportingInstance: Required value",
            "action: Required value"
        ]
    );
    assert_eq!(
        row::<Events>(&event),
        [
            "2m",
            "Warning",
            "BackOff",
            "pod/web",
            "spec.containers{main}",
            "kubelet, n1",
            "restarting",
            "60m",
            "4",
            "web"
        ]
    );
    let fields = selectable_fields::<Events>(&created::<Events>(&event));
    assert_eq!(fields["involvedObject.name"], "web");
    assert_eq!(fields["source"], "kubelet");
}

#[test]
fn service_accounts_are_identities() {
    let account = json!({"metadata": meta(), "secrets": [{"name": "a"}]});
    settles::<ServiceAccounts>(&account);
    assert_eq!(row::<ServiceAccounts>(&account), ["web", "1", "60m"]);
}

#[test]
fn leases_keep_to_the_rules() {
    let lease = json!({"metadata": meta(), "spec": {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-01T11:00:00.000001Z",
        "renewTime": "2026-01-01T11:00:00.000001Z",
        "leaseTransitions": 0,
    }});
    settles::<Leases>(&lease);
    check::<Leases>(
        &lease,
        vec![
            (
                "/spec/leaseDurationSeconds",
                json!(0),
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            ),
            (
                "/spec/leaseTransitions",
                json!(-1),
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
            ),
            ("/spec/strategy", json!("OldestEmulationVersion"), "spec.strategy: Forbidden"),
            ("/spec/preferredHolder", json!("b"), "spec.preferredHolder: Forbidden"),
            ("/spec/holderIdentity", json!(""), ""),
            ("/spec", json!(null), ""),
        ],
    );
    assert_eq!(row::<Leases>(&lease), ["web", "a", "60m"]);
}

#[test]
fn pod_templates_keep_to_the_rules_of_pods() {
    let template = json!({"metadata": meta(), "template": {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": "nginx:1"}], "restartPolicy": "Never"},
    }});
    settles::<PodTemplates>(&template);
    check::<PodTemplates>(
        &template,
        vec![
            ("/template/spec/containers", json!([]), "template.spec.containers: Required value"),
            ("/template", json!(null), "template.spec.containers: Required value"),
            (
                "/template/metadata/labels",
                json!({"a b": ""}),
                "template.labels: Invalid value: \"a b\"",
            ),
        ],
    );
    assert_eq!(row::<PodTemplates>(&template), ["web", "main", "nginx:1", "app=web"]);
}

#[test]
fn limit_ranges_keep_to_the_rules() {
    let range = json!({"metadata": meta(), "spec": {"limits": [
        {
            "type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "2"},
            "default": {"cpu": "1"}, "defaultRequest": {"cpu": "200m"},
            "maxLimitRequestRatio": {"cpu": "10"},
        },
        {"type": "Pod", "max": {"memory": "1Gi"}},
        {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}},
    ]}});
    settles::<LimitRanges>(&range);
    let container = |field: &str| format!("/spec/limits/0/{field}/cpu");
    let wrong = |field: &str| format!("spec.limits[0].{field}[cpu]: Invalid value: ");
    let (min, default, request, ratio) = (
        container("min"),
        container("default"),
        container("defaultRequest"),
        container("maxLimitRequestRatio"),
    );
    check::<LimitRanges>(
        &range,
        vec![
            (&min, json!("x"), &wrong("min")),
            (
                "/spec/limits/1/max/memory",
                json!("-1"),
                "spec.limits[1].max[memory]: Invalid value: \"-1\": must be greater",
            ),
            (
                &request,
                json!("1500m"),
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"1500m\": default request value 1500m is greater than default limit value 1",
            ),
            (
                &request,
                json!("50m"),
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"50m\": min value 100m is greater than default request value 50m",
            ),
            (
                &default,
                json!("3"),
                "spec.limits[0].default[cpu]: Invalid value: \"2\": default value 3 is greater than max value 2",
            ),
            (
                &ratio,
                json!("500m"),
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
            ),
            (
                &ratio,
                json!("21"),
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"21\": ratio 21 is greater than max/min = 20.000000",
            ),
            (
                "/spec/limits/1/default",
                json!({"cpu": "1"}),
                "spec.limits[1].default: Forbidden: may not be specified when `type` is 'Pod'",
            ),
            ("/spec/limits/1/type", json!("Container"), "spec.limits[1].type: Duplicate value"),
            (
                "/spec/limits/1/type",
                json!("Node"),
                "spec.limits[1].type: Invalid value: \"Node\": must be a standard limit type",
            ),
            ("/spec/limits/1/type", json!("a.b/c"), "spec.limits[1].type: Forbidden"),
            (
                "/spec/limits/1/max",
                json!({"ephemeral-storage": "1Gi"}),
                "spec.limits[1].max[ephemeral-storage]: Forbidden: is not supported",
            ),
            (
                "/spec/limits/1/max",
                json!({"pods": "1"}),
                "spec.limits[1].max[pods]: Invalid value: \"pods\": must be a standard",
            ),
            ("/spec/limits/2/max", json!(null), "spec.limits[2].limits: Required value"),
        ],
    );
    let stored = defaulted::<LimitRanges>(&json!({"metadata": meta(), "spec": {"limits": [
        {"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}},
    ]}}));
    assert_eq!(stored["spec"]["limits"][0]["default"], json!({"cpu": "2"}));
    let requests = json!({"cpu": "2", "memory": "1Mi"});
    assert_eq!(stored["spec"]["limits"][0]["defaultRequest"], requests);
    assert_eq!(row::<LimitRanges>(&range), ["web", "2026-01-01T11:00:00Z"]);
}

#[test]
fn resource_quotas_keep_to_the_rules() {
    let quota = json!({"metadata": meta(), "spec": {"hard": {
        "pods": "10", "requests.cpu": "4", "limits.memory": "8Gi", "count/deployments.apps": "3",
        "requests.nvidia.com/gpu": "1500m", "services.nodeports": "0",
    }}});
    settles::<ResourceQuotas>(&quota);
    let amount = |value: &str| json!({"pods": value});
    check::<ResourceQuotas>(
        &quota,
        vec![
            ("/spec/hard", amount("x"), "spec.hard[pods]: Invalid value: \"x\": quantities must"),
            ("/spec/hard", amount("-1"), "spec.hard[pods]: Invalid value: \"-1\": must be greater"),
            (
                "/spec/hard",
                amount("1.5"),
                "spec.hard[pods]: Invalid value: \"1.5\": must be an int",
            ),
            (
                "/spec/hard",
                json!({"storage": "1"}),
                "spec.hard[storage]: Invalid value: \"storage\": must be a standard resource for quota",
            ),
            (
                "/spec/hard",
                json!({"a/b/c": "1"}),
                "spec.hard[a/b/c]: Invalid value: \"a/b/c\": a qualified name must consist of",
            ),
        ],
    );
    let pods = json!({"metadata": meta(), "spec": {"hard": {"pods": "1"}, "scopes": []}});
    let expression = |scope: &str, operator: &str, values: Value| {
        let one = json!({"scopeName": scope, "operator": operator, "values": values});
        json!({"matchExpressions": [one]})
    };
    let selector = "spec.scopeSelector.matchExpressions";
    check::<ResourceQuotas>(
        &pods,
        vec![
            ("/spec/scopes", json!(["BestEffort", "NotTerminating"]), ""),
            (
                "/spec/scopes",
                json!(["Best"]),
                "spec.scopes: Invalid value: [\"Best\"]: unsupported",
            ),
            (
                "/spec/scopes",
                json!(["BestEffort", "NotBestEffort"]),
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
            ),
            ("/spec/scopes", json!(["VolumeAttributesClass"]), "spec.scopes: Forbidden"),
            ("/spec/scopeSelector", expression("PriorityClass", "In", json!(["a"])), ""),
            (
                "/spec/scopeSelector",
                expression("PriorityClass", "In", json!([])),
                &format!("{selector}.values: Required value: must be at least one value"),
            ),
            (
                "/spec/scopeSelector",
                expression("PriorityClass", "Exists", json!(["a"])),
                &format!("{selector}.values: Invalid value: [\"a\"]: must be no value"),
            ),
            (
                "/spec/scopeSelector",
                expression("PriorityClass", "Like", json!(["a"])),
                &format!("{selector}.operator: Invalid value: \"Like\": not a valid selector"),
            ),
            (
                "/spec/scopeSelector",
                expression("BestEffort", "In", json!(["a"])),
                &format!("{selector}.operator: Invalid value: \"In\": must be 'Exist' when scope"),
            ),
        ],
    );
    let scoped = with(&pods, "/spec/scopes", json!(["BestEffort"]));
    let wrong = with(&scoped, "/spec/hard", json!({"cpu": "1", "pods": "1"}));
    let wrong = errors::<ResourceQuotas>(&wrong);
    assert!(wrong[0].ends_with("unsupported scope applied to resource"), "{wrong:?}");
    check_updates::<ResourceQuotas>(
        &scoped,
        vec![
            ("/spec/hard", json!({"pods": "2"}), ""),
            ("/spec/scopes", json!([]), "spec.scopes: Invalid value: []: field is immutable"),
        ],
    );
    let mut told = quota.clone();
    told["status"] = json!({
        "hard": {"limits.cpu": "2", "pods": "10"}, "used": {"limits.cpu": "500m", "pods": "3"},
    });
    assert_eq!(row::<ResourceQuotas>(&told), ["web", "pods: 3/10", "limits.cpu: 500m/2", "60m"]);
}

#[test]
fn events_of_the_newer_form_keep_to_its_rules() {
    let event = json!({
        "metadata": meta(),
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web"},
        "eventTime": "2026-01-01T11:00:00.000001Z", "reportingComponent": "a.b/c",
        "reportingInstance": "c-1", "action": "Trying", "reason": "Tried", "type": "Normal",
        "series": {"count": 2, "lastObservedTime": "2026-01-01T11:00:00.000001Z"},
    });
    settles::<EventsView>(&event);
    check::<EventsView>(
        &event,
        vec![
            ("/eventTime", json!(null), "eventTime: Required value"),
            ("/reportingComponent", json!(""), "reportingController: Required value"),
            ("/type", json!("Odd"), "type: Invalid value: \"\": has invalid value: Odd"),
            ("/count", json!(2), "count: Invalid value: \"\": needs to be unset"),
            ("/source", json!({"host": "a"}), "source: Invalid value: \"\": needs to be unset"),
            ("/series/count", json!(1), "series.count: Invalid value: \"\": should be at least 2"),
            ("/series/lastObservedTime", json!(null), "series.lastObservedTime: Required value"),
        ],
    );
    check_updates::<EventsView>(
        &event,
        vec![
            ("/series/count", json!(7), ""),
            ("/reason", json!("Other"), "reason: Invalid value: \"Other\": field is immutable"),
        ],
    );
}
