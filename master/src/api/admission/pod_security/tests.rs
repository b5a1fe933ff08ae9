//! The Pod Security Standards as tables.

use serde_json::{Value, json};

use super::policy::{Level, Policy, Standard, Version};
use super::*;

type Changes = Vec<(String, Value)>;

/// A pod that meets every standard, changed.
fn pod(changes: &[(&str, Value)]) -> Pod {
    let container = json!({
        "name": "main",
        "image": "x",
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
        },
    });
    let mut other = container.clone();
    other["name"] = json!("other");
    let mut manifest = json!({
        "metadata": {"name": "p", "annotations": {}},
        "spec": {
            "securityContext": {
                "runAsNonRoot": true,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "initContainers": [other],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    });
    for (pointer, value) in changes {
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        let parent = manifest.pointer_mut(parent).unwrap_or_else(|| panic!("no {pointer}"));
        match parent {
            Value::Array(list) => list.push(value.clone()),
            parent => parent[field.replace("~1", "/")] = value.clone(),
        }
    }
    serde_json::from_value(manifest).expect("a pod")
}

fn told(level: Level, version: Version, pod: &Pod) -> String {
    let spec = pod.spec.as_ref().expect("a spec");
    details(&violations(Standard { level, version }, &pod.metadata, spec))
}

#[test]
fn each_control_is_told_in_kubernetes_words() {
    use Level::{Baseline, Restricted};
    use Version::{Latest, Minor};
    let main = "/spec/containers/0/securityContext";
    let other = "/spec/initContainers/0/securityContext";
    let at = |place: &str, field: &str| format!("{place}/{field}");
    let context = |field: &str| format!("/spec/securityContext/{field}");
    let seen = |field: &str| format!("/spec/containers/0/{field}");
    let cases: Vec<(Level, Version, Changes, &str)> = vec![
        (Restricted, Latest, vec![], ""),
        (Restricted, Minor(0), vec![], ""),
        (
            Baseline,
            Latest,
            vec![
                (
                    "/metadata/annotations/container.apparmor.security.beta.kubernetes.io~1main"
                        .into(),
                    json!("unconfined"),
                ),
                (at(main, "appArmorProfile"), json!({"type": "Unconfined"})),
            ],
            "forbidden AppArmor profiles \
             (container.apparmor.security.beta.kubernetes.io/main=\"unconfined\", \
             container \"main\" must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            Baseline,
            Latest,
            vec![("/spec/hostNetwork".into(), json!(true)), ("/spec/hostPID".into(), json!(true))],
            "host namespaces (hostNetwork, hostPID)",
        ),
        (
            Baseline,
            Latest,
            vec![(
                seen("ports"),
                json!([{"containerPort": 1, "hostPort": 80}, {"containerPort": 2, "hostPort": 443}]),
            )],
            "hostPort (container \"main\" uses hostPorts 443, 80)",
        ),
        (
            Baseline,
            Minor(34),
            vec![
                (seen("livenessProbe"), json!({"tcpSocket": {"port": 1, "host": "127.0.0.1"}})),
                (
                    seen("lifecycle"),
                    json!({"preStop": {"httpGet": {"port": 1, "host": "metadata"}}}),
                ),
            ],
            "probe or lifecycle host (container \"main\" uses probe or lifecycle hosts \
             \"127.0.0.1\", \"metadata\")",
        ),
        (
            Baseline,
            Minor(33),
            vec![(seen("livenessProbe"), json!({"tcpSocket": {"port": 1, "host": "127.0.0.1"}}))],
            "",
        ),
        (
            Baseline,
            Latest,
            vec![(at(main, "privileged"), json!(true)), (at(other, "privileged"), json!(true))],
            "privileged (containers \"other\", \"main\" must not set securityContext.privileged=true)",
        ),
        (
            Baseline,
            Latest,
            vec![(at(main, "procMount"), json!("Unmasked"))],
            "procMount (container \"main\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            Baseline,
            Latest,
            vec![
                (at(main, "procMount"), json!("Unmasked")),
                ("/spec/hostUsers".into(), json!(false)),
            ],
            "",
        ),
        (
            Restricted,
            Latest,
            vec![
                (at(main, "procMount"), json!("Unmasked")),
                ("/spec/hostUsers".into(), json!(false)),
            ],
            "procMount (container \"main\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            Baseline,
            Latest,
            vec![
                (context("seLinuxOptions"), json!({"type": "spc_t"})),
                (at(main, "seLinuxOptions"), json!({"user": "u", "role": "r"})),
            ],
            "seLinuxOptions (pod and container \"main\" set forbidden securityContext.seLinuxOptions: \
             type \"spc_t\"; user may not be set; role may not be set)",
        ),
        (
            Baseline,
            Minor(30),
            vec![(context("seLinuxOptions"), json!({"type": "container_engine_t"}))],
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"container_engine_t\")",
        ),
        (
            Baseline,
            Minor(31),
            vec![(context("seLinuxOptions"), json!({"type": "container_engine_t"}))],
            "",
        ),
        (
            Baseline,
            Minor(28),
            vec![(
                context("sysctls"),
                json!([
                    {"name": "net.ipv4.ip_local_reserved_ports", "value": "1"},
                    {"name": "net.ipv4.tcp_fin_timeout", "value": "1"},
                    {"name": "kernel.msgmax", "value": "1"},
                ]),
            )],
            "forbidden sysctls (net.ipv4.tcp_fin_timeout, kernel.msgmax)",
        ),
        (
            Baseline,
            Latest,
            vec![(at(main, "capabilities"), json!({"add": ["CHOWN", "SYS_TIME", "NET_RAW"]}))],
            "non-default capabilities (container \"main\" must not include \"NET_RAW\", \"SYS_TIME\" in \
             securityContext.capabilities.add)",
        ),
        (
            Restricted,
            Latest,
            vec![(at(main, "capabilities"), json!({"add": ["CHOWN", "NET_BIND_SERVICE"]}))],
            "unrestricted capabilities (container \"main\" must set \
             securityContext.capabilities.drop=[\"ALL\"]; container \"main\" must not include \
             \"CHOWN\" in securityContext.capabilities.add)",
        ),
        // Where the stricter control is not there yet, the weaker one is.
        (
            Restricted,
            Minor(21),
            vec![(at(main, "capabilities"), json!({"add": ["CHOWN", "SYS_TIME"]}))],
            "non-default capabilities (container \"main\" must not include \"SYS_TIME\" in \
             securityContext.capabilities.add)",
        ),
        (
            Baseline,
            Latest,
            vec![("/spec/volumes/-".into(), json!({"name": "host", "hostPath": {"path": "/"}}))],
            "hostPath volumes (volume \"host\")",
        ),
        (
            Restricted,
            Latest,
            vec![
                ("/spec/volumes/-".into(), json!({"name": "host", "hostPath": {"path": "/"}})),
                (
                    "/spec/volumes/-".into(),
                    json!({"name": "share", "nfs": {"server": "s", "path": "/"}}),
                ),
            ],
            "restricted volume types (volumes \"host\", \"share\" use restricted volume types \
             \"hostPath\", \"nfs\")",
        ),
        (
            Baseline,
            Latest,
            vec![(context("seccompProfile"), json!({"type": "Unconfined"}))],
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            Baseline,
            Minor(18),
            vec![(
                "/metadata/annotations/container.seccomp.security.alpha.kubernetes.io~1main".into(),
                json!("unconfined"),
            )],
            "seccompProfile (forbidden annotation \
             container.seccomp.security.alpha.kubernetes.io/main=\"unconfined\")",
        ),
        (
            Restricted,
            Latest,
            vec![
                (context("seccompProfile"), json!(null)),
                (at(main, "seccompProfile"), json!({"type": "Localhost", "localhostProfile": "x"})),
            ],
            "seccompProfile (pod or container \"other\" must set securityContext.seccompProfile.type to \
             \"RuntimeDefault\" or \"Localhost\")",
        ),
        (
            Restricted,
            Latest,
            vec![(at(main, "allowPrivilegeEscalation"), json!(null))],
            "allowPrivilegeEscalation != false (container \"main\" must set \
             securityContext.allowPrivilegeEscalation=false)",
        ),
        (
            Restricted,
            Latest,
            vec![(context("runAsNonRoot"), json!(null))],
            "runAsNonRoot != true (pod or containers \"other\", \"main\" must set \
             securityContext.runAsNonRoot=true)",
        ),
        (
            Restricted,
            Latest,
            vec![(at(main, "runAsNonRoot"), json!(false)), (context("runAsUser"), json!(0))],
            "runAsNonRoot != true (container \"main\" must not set securityContext.runAsNonRoot=false), \
             runAsUser=0 (pod must not set runAsUser=0)",
        ),
        (
            Restricted,
            Latest,
            vec![
                (context("runAsNonRoot"), json!(null)),
                (context("runAsUser"), json!(0)),
                ("/spec/hostUsers".into(), json!(false)),
            ],
            "",
        ),
        (Restricted, Minor(22), vec![(context("runAsUser"), json!(0))], ""),
        (Level::Privileged, Latest, vec![(at(main, "privileged"), json!(true))], ""),
    ];
    for (level, version, changes, expected) in cases {
        let changes: Vec<(&str, Value)> =
            changes.iter().map(|(pointer, value)| (pointer.as_str(), value.clone())).collect();
        let told = told(level, version, &pod(&changes));
        assert_eq!(told, expected, "{}:{version} {changes:?}", level.name());
    }
}

#[test]
fn ephemeral_containers_count_as_well() {
    let shell = json!({"name": "shell", "securityContext": {"privileged": true}});
    let pod = pod(&[("/spec/ephemeralContainers", json!([shell]))]);
    let told = told(Level::Baseline, Version::Latest, &pod);
    assert_eq!(
        told,
        "privileged (container \"shell\" must not set securityContext.privileged=true)"
    );
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let name = |mode: &str| format!("pod-security.kubernetes.io/{mode}");
    pairs.iter().map(|(mode, value)| (name(mode), (*value).to_owned())).collect()
}

#[test]
fn labels_tell_the_policy_and_wrong_ones_are_named() {
    let (policy, errors) = Policy::of(&labels(&[
        ("enforce", "baseline"),
        ("enforce-version", "v1.25"),
        ("warn", "restricted"),
    ]));
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(policy.enforce.to_string(), "baseline:v1.25");
    assert_eq!(policy.warn.to_string(), "restricted:latest");
    assert_eq!(policy.audit.to_string(), "privileged:latest");
    let wrong = labels(&[("enforce", "strict"), ("audit", ""), ("warn-version", "v1.03")]);
    let (policy, errors) = Policy::of(&wrong);
    assert_eq!(policy.enforce.level, Level::Restricted, "in doubt, for the strict");
    assert_eq!(policy.audit.level, Level::Privileged);
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let label = "metadata.labels[pod-security.kubernetes.io/";
    let one_of = "must be one of privileged, baseline, restricted";
    assert_eq!(
        errors,
        [
            format!("{label}enforce]: Invalid value: \"strict\": {one_of}"),
            format!("{label}audit]: Invalid value: \"\": {one_of}"),
            format!(
                "{label}warn-version]: Invalid value: \"v1.03\": must be \"latest\" or \"v1.x\""
            ),
        ]
    );
    for wrong in ["v1", "v1.", "v2.1", "1.25", "v1.-1", "v1.+1", "v1.99999999999"] {
        assert_eq!(Policy::of(&labels(&[("enforce-version", wrong)])).1.len(), 1, "{wrong}");
    }
}

#[test]
fn only_pods_are_refused_and_only_what_is_new_of_them_is_looked_at() {
    let labels = labels(&[("enforce", "baseline"), ("warn", "baseline"), ("audit", "baseline")]);
    let bad = pod(&[("/spec/hostNetwork", json!(true))]);
    let refused = review(&labels, &bad, None);
    let why = "host namespaces (hostNetwork)";
    assert_eq!(refused.refusal, Some(format!("violates PodSecurity \"baseline:latest\": {why}")));
    assert!(refused.warnings.is_empty(), "whoever is refused is not warned as well");
    let would = format!("would violate PodSecurity \"baseline:latest\": {why}");
    assert_eq!(refused.audit.as_ref(), Some(&would));
    let template = json!({"metadata": {}, "spec": bad.spec});
    let controllers: [Box<dyn AnyObject>; 4] = [
        Box::new(
            serde_json::from_value::<ReplicationController>(
                json!({"spec": {"template": template}}),
            )
            .unwrap(),
        ),
        Box::new(
            serde_json::from_value::<ReplicaSet>(
                json!({"spec": {"selector": {}, "template": template}}),
            )
            .unwrap(),
        ),
        Box::new(
            serde_json::from_value::<Deployment>(
                json!({"spec": {"selector": {}, "template": template}}),
            )
            .unwrap(),
        ),
        Box::new(serde_json::from_value::<PodTemplate>(json!({"template": template})).unwrap()),
    ];
    for controller in controllers {
        let told = review(&labels, &*controller, None);
        assert_eq!(told.refusal, None);
        assert_eq!(told.warnings, std::slice::from_ref(&would));
    }
    // A pod that is there already may be labelled, but gets no new image and nobody to look into it.
    let mut labelled = bad.clone();
    labelled.metadata.labels = Some(BTreeMap::from([("a".into(), "b".into())]));
    assert_eq!(review(&labels, &labelled, Some(&bad)), Review::default());
    let mut changed = bad.clone();
    changed.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[0].image = Some("y".into());
    assert!(review(&labels, &changed, Some(&bad)).refusal.is_some());
    let looked_into = pod(&[
        ("/spec/hostNetwork", json!(true)),
        ("/spec/ephemeralContainers", json!([{"name": "shell"}])),
    ]);
    assert!(review(&labels, &looked_into, Some(&bad)).refusal.is_some());
}

#[test]
fn who_makes_a_namespace_stricter_hears_of_its_pods() {
    let none = labels(&[]);
    let baseline = labels(&[("enforce", "baseline")]);
    let restricted = labels(&[("enforce", "restricted")]);
    assert_eq!(tightened(&baseline, &baseline), None);
    assert_eq!(tightened(&baseline, &restricted), None, "relaxed");
    assert_eq!(tightened(&none, &restricted), None);
    let standard = tightened(&restricted, &baseline).expect("stricter");
    let named = |name: &str, changes: &[(&str, Value)]| {
        let mut pod = pod(changes);
        pod.metadata.name = Some(name.to_owned());
        pod
    };
    let host = [("/spec/hostNetwork", json!(true))];
    let root = [("/spec/securityContext/runAsUser", json!(0))];
    let pods = [
        named("c", &host),
        named("a", &host),
        named("b", &host),
        named("d", &root),
        named("e", &[]),
    ];
    assert_eq!(
        review_pods("team", standard, 6, &pods),
        [
            "new PodSecurity enforce level only checked against the first 5 of 6 existing pods",
            "existing pods in namespace \"team\" violate the new PodSecurity enforce level \
             \"restricted:latest\"",
            "a (and 2 other pods): host namespaces",
            "d: runAsUser=0",
        ]
    );
}
