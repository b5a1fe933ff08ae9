use std::sync::Arc;

use proto::ObjectKey;
use proto::k8s::api::core::v1::{ConfigMap, Secret, Service};
use serde_json::{Value, json};

use super::*;

fn cluster() -> ClusterState {
    let mut cluster = ClusterState::default();
    let map: ConfigMap = serde_json::from_value(json!({
        "data": {"mode": "fast", "bad=key": "x", "level": "3"}
    }))
    .unwrap();
    cluster.config_maps.insert(ObjectKey::new("shop", "settings"), Arc::new(map));
    // "s3cret"
    let secret: Secret = serde_json::from_value(json!({"data": {"password": "czNjcmV0"}})).unwrap();
    cluster.secrets.insert(ObjectKey::new("shop", "keys"), Arc::new(secret));
    let mut service = |namespace: &str, name: &str, spec: Value| {
        let service: Service = serde_json::from_value(json!({"spec": spec})).unwrap();
        cluster.services.insert(ObjectKey::new(namespace, name), Arc::new(service));
    };
    service(
        "default",
        "kubernetes",
        json!({"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}),
    );
    service(
        "shop",
        "my-db",
        json!({"clusterIP": "10.96.0.9", "ports": [
            {"name": "sql", "port": 5432, "protocol": "TCP"}, {"name": "gossip", "port": 7, "protocol": "UDP"}
        ]}),
    );
    service("shop", "headless", json!({"clusterIP": "None", "ports": [{"port": 1}]}));
    service("other", "far", json!({"clusterIP": "10.96.0.8", "ports": [{"port": 1}]}));
    let node = serde_json::from_value(json!({
        "metadata": {"name": "node-1"},
        "status": {"allocatable": {"cpu": "1500m", "memory": "2Gi", "hugepages-1Gi": "2Gi"}}
    }))
    .unwrap();
    cluster.node = Some(Arc::new(node));
    cluster
}

/// Works on a pod `web` in the namespace `shop` with one container of this specification.
fn with_sources<R>(container: Value, work: impl FnOnce(&Container, &Sources<'_>) -> R) -> R {
    let mut container = container;
    container["name"] = json!("main");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "u-1",
            "labels": {"app": "web"}, "annotations": {"note": "hello"}
        },
        "spec": {"containers": [container], "serviceAccountName": "runner"}
    }))
    .unwrap();
    let cluster = cluster();
    let sources = Sources {
        pod: &pod,
        cluster: &cluster,
        pod_ips: &["10.244.1.7".parse().unwrap(), "fd00:10::7".parse().unwrap()],
        host_ips: &["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        node_name: "node-1",
        hostname: "web",
    };
    work(&pod.spec.as_ref().unwrap().containers[0], &sources)
}

fn variables(container: Value) -> Result<BTreeMap<String, String>, String> {
    with_sources(container, |container, sources| {
        environment(container, &ImageConfig::default(), sources)
            .map(|environment| environment.variables.into_iter().collect())
            .map_err(|error| error.0)
    })
}

fn value(entry: Value) -> Result<Option<String>, String> {
    let mut entry = entry;
    entry["name"] = json!("X");
    variables(json!({"env": [entry]})).map(|variables| variables.get("X").cloned())
}

#[test]
fn references_are_replaced_and_escapes_kept() {
    let lookup = |name: &str| match name {
        "A" => Some("1".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    };
    let cases = [
        ("", ""),
        ("plain", "plain"),
        ("$(A)", "1"),
        ("x$(A)y$(A)z", "x1y1z"),
        ("$(EMPTY)", ""),
        ("$(MISSING)", "$(MISSING)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$(A)", "$$(A)"),
        ("$A", "$A"),
        ("$", "$"),
        ("a$", "a$"),
        ("$(A", "$(A"),
        ("$()", "$()"),
        ("$(A) $$ $(A)", "1 $ 1"),
        ("$($(A))", "$($(A))"),
        ("ü$(A)ß", "ü1ß"),
    ];
    for (text, expanded) in cases {
        assert_eq!(expand(text, lookup), expanded, "{text}");
    }
}

#[test]
fn later_variables_see_earlier_ones_but_not_the_other_way_round() {
    let variables = variables(json!({"env": [
        {"name": "LATE", "value": "$(EARLY)"},
        {"name": "EARLY", "value": "1"},
        {"name": "SEES", "value": "$(EARLY)-$(KUBERNETES_SERVICE_HOST)"},
        {"name": "EARLY", "value": "$(EARLY)2"},
    ]}))
    .unwrap();
    assert_eq!(variables["LATE"], "$(EARLY)");
    assert_eq!(variables["SEES"], "1-10.96.0.1");
    assert_eq!(variables["EARLY"], "12");
}

#[test]
fn values_come_from_fields_of_the_pod() {
    let cases = [
        ("metadata.name", "web"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['app']", "web"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['note']", "hello"),
        ("spec.nodeName", "node-1"),
        ("spec.serviceAccountName", "runner"),
        ("status.hostIP", "192.0.2.1"),
        ("status.podIP", "10.244.1.7"),
        ("status.podIPs", "10.244.1.7,fd00:10::7"),
        ("status.hostIPs", "192.0.2.1,2001:db8::1"),
    ];
    for (path, expected) in cases {
        let got = value(json!({"valueFrom": {"fieldRef": {"fieldPath": path}}}));
        assert_eq!(got.unwrap().as_deref(), Some(expected), "{path}");
    }
    assert!(value(json!({"valueFrom": {"fieldRef": {"fieldPath": "spec.dnsPolicy"}}})).is_err());
}

#[test]
fn values_come_from_resources_of_the_container() {
    let cases = [
        ("limits.cpu", None, "2"),
        ("limits.cpu", Some("1m"), "1500"),
        ("requests.cpu", Some("1m"), "250"),
        ("limits.memory", Some("1Mi"), "64"),
        ("limits.memory", None, "67108864"),
        ("requests.memory", None, "0"),
        ("requests.ephemeral-storage", Some("1Mi"), "10"),
        ("requests.hugepages-2Mi", Some("1Mi"), "4"),
        // Of those that it does not ask for it has none.
        ("limits.hugepages-1Gi", None, "0"),
    ];
    for (resource, divisor, expected) in cases {
        let mut reference = json!({"resource": resource});
        if let Some(divisor) = divisor {
            reference["divisor"] = json!(divisor);
        }
        let variables = variables(json!({
            "resources": {
                "limits": {"memory": "64Mi", "hugepages-2Mi": "4Mi"},
                "requests": {"cpu": "250m", "ephemeral-storage": "10Mi", "hugepages-2Mi": "4Mi"},
            },
            "env": [{"name": "X", "valueFrom": {"resourceFieldRef": reference}}]
        }));
        // Without a limit of its own the container may use what the node has to give.
        assert_eq!(variables.unwrap()["X"], expected, "{resource} {divisor:?}");
    }
}

#[test]
fn values_come_from_config_maps_and_secrets() {
    let map = |key: &str, optional: bool| {
        value(json!({"valueFrom": {"configMapKeyRef": {
            "name": "settings", "key": key, "optional": optional
        }}}))
    };
    assert_eq!(map("mode", false).unwrap().as_deref(), Some("fast"));
    assert_eq!(map("none", true).unwrap(), None);
    assert_eq!(
        map("none", false).unwrap_err(),
        "couldn't find key none in ConfigMap shop/settings"
    );
    let secret = |name: &str| {
        value(json!({"valueFrom": {"secretKeyRef": {"name": name, "key": "password"}}}))
    };
    assert_eq!(secret("keys").unwrap().as_deref(), Some("s3cret"));
    assert_eq!(secret("none").unwrap_err(), "secret \"none\" not found");
}

#[test]
fn whole_maps_become_variables_and_bad_names_are_left_out() {
    let container = json!({
        "envFrom": [
            {"prefix": "CFG_", "configMapRef": {"name": "settings"}},
            {"secretRef": {"name": "keys"}},
            {"configMapRef": {"name": "none", "optional": true}}
        ],
        "env": [{"name": "CFG_level", "value": "4"}]
    });
    with_sources(container, |container, sources| {
        let environment = environment(container, &ImageConfig::default(), sources).unwrap();
        let variables: BTreeMap<_, _> = environment.variables.into_iter().collect();
        assert_eq!(variables["CFG_mode"], "fast");
        assert_eq!(variables["CFG_level"], "4");
        assert_eq!(variables["password"], "s3cret");
        assert_eq!(environment.skipped, ["ConfigMap shop/settings: bad=key"]);
    });
    let missing = variables(json!({"envFrom": [{"configMapRef": {"name": "none"}}]}));
    assert_eq!(missing.unwrap_err(), "configmap \"none\" not found");
}

#[test]
fn services_of_the_namespace_and_the_api_are_named() {
    let variables = variables(json!({})).unwrap();
    let expected = [
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
        ("KUBERNETES_PORT", "tcp://10.96.0.1:443"),
        ("MY_DB_SERVICE_HOST", "10.96.0.9"),
        ("MY_DB_SERVICE_PORT", "5432"),
        ("MY_DB_SERVICE_PORT_GOSSIP", "7"),
        ("MY_DB_PORT_5432_TCP", "tcp://10.96.0.9:5432"),
        ("MY_DB_PORT_7_UDP_PROTO", "udp"),
        ("MY_DB_PORT_7_UDP_ADDR", "10.96.0.9"),
        ("MY_DB_PORT_7_UDP_PORT", "7"),
    ];
    for (name, value) in expected {
        assert_eq!(variables.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!variables.contains_key("HEADLESS_SERVICE_HOST"));
    assert!(!variables.contains_key("FAR_SERVICE_HOST"));
}

#[test]
fn a_pod_without_service_links_still_finds_the_api() {
    let cluster = cluster();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"namespace": "shop"},
        "spec": {"containers": [], "enableServiceLinks": false}
    }))
    .unwrap();
    let variables = services::variables(&cluster, &pod);
    assert!(variables.contains_key("KUBERNETES_SERVICE_HOST"));
    assert!(!variables.contains_key("MY_DB_SERVICE_HOST"));
}

#[test]
fn the_image_comes_first_and_the_pod_last() {
    let image = ImageConfig {
        env: vec![("PATH".to_owned(), "/opt/bin".to_owned()), ("LANG".to_owned(), "C".to_owned())],
        ..ImageConfig::default()
    };
    let container = json!({"env": [{"name": "LANG", "value": "de"}]});
    with_sources(container, |container, sources| {
        let variables: BTreeMap<_, _> =
            environment(container, &image, sources).unwrap().variables.into_iter().collect();
        assert_eq!(variables["PATH"], "/opt/bin");
        assert_eq!(variables["LANG"], "de");
        assert_eq!(variables["HOSTNAME"], "web");
    });
    assert_eq!(variables(json!({})).unwrap()["PATH"], DEFAULT_PATH);
}

#[test]
fn command_and_args_replace_what_the_image_says() {
    let image = ImageConfig {
        entrypoint: vec!["/entry".to_owned()],
        cmd: vec!["default".to_owned()],
        ..ImageConfig::default()
    };
    let cases = [
        (json!({}), vec!["/entry", "default"]),
        (json!({"args": ["a"]}), vec!["/entry", "a"]),
        (json!({"command": ["/c"]}), vec!["/c"]),
        (json!({"command": ["/c"], "args": ["a"]}), vec!["/c", "a"]),
        (
            json!({
                "command": ["/c", "$(X)", "$$(X)", "$(KUBERNETES_SERVICE_PORT)"],
                "env": [{"name": "X", "value": "1"}]
            }),
            vec!["/c", "1", "$(X)", "443"],
        ),
    ];
    for (container, expected) in cases {
        let line = with_sources(container.clone(), |container, sources| {
            command_line(container, &image, sources).unwrap()
        });
        assert_eq!(line, expected, "{container}");
    }
    let nothing = with_sources(json!({}), |container, sources| {
        command_line(container, &ImageConfig::default(), sources)
    });
    assert_eq!(nothing.unwrap_err().0, "no command specified");
}
