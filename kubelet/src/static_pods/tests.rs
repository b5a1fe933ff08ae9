//! Files, what comes out of them, and what the API is asked to show.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use proto::ObjectKey;
use proto::k8s::api::core::v1::Pod;
use proto::pod_fields::{self, Answer};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::manifest::pod;
use super::mirrors::{Ask, decide};
use super::{HASH_ANNOTATION, MAX_FILE_BYTES, MIRROR_ANNOTATION, StaticPods, key_of};
use crate::reporter::Reporter;
use crate::state::{ClusterState, StateHandle};

fn manifest(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n\
         spec: {{containers: [{{name: main, image: \"{image}\"}}]}}\n"
    )
}

fn read(text: &str) -> Result<Pod, String> {
    pod(text.as_bytes(), "x.yaml", "n1")
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

#[test]
fn a_file_is_a_pod_of_its_node() {
    let pod = read(&manifest("etcd", "x")).unwrap();
    assert_eq!(key_of(&pod), ObjectKey::new("default", "etcd-n1"));
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(spec.node_name.as_deref(), Some("n1"));
    assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    assert_eq!(spec.service_account_name, None);
    let stays = &spec.tolerations.as_ref().unwrap()[0];
    assert_eq!(stays.effect.as_deref(), Some("NoExecute"));
    let hash = &pod.metadata.annotations.as_ref().unwrap()[HASH_ANNOTATION];
    assert_eq!(pod.metadata.uid.as_ref(), Some(hash));
    assert!(crate::pods::is_static(&pod));
}

#[test]
fn a_class_of_the_system_is_known_without_the_api() {
    let text = manifest("etcd", "x");
    let priority = |text: &str| read(text).unwrap().spec.unwrap().priority;
    assert_eq!(priority(&text), None);
    let critical = text.replace("spec: {", "spec: {priorityClassName: system-node-critical, ");
    assert_eq!(priority(&critical), Some(2_000_001_000));
    let agreeing = critical.replace("spec: {", "spec: {priority: 2000001000, ");
    assert_eq!(priority(&agreeing), Some(2_000_001_000));
}

#[test]
fn the_content_makes_the_uid() {
    let uid = |text: &str, file: &str, node: &str| {
        super::manifest::pod(text.as_bytes(), file, node).unwrap().metadata.uid
    };
    let (one, other) = (manifest("web", "x"), manifest("web", "y"));
    assert_eq!(uid(&one, "f", "n1"), uid(&format!("# a remark\n{one}"), "f", "n1"));
    let different = [uid(&one, "f", "n1"), uid(&other, "f", "n1"), uid(&one, "g", "n1")];
    assert!(different[1..].iter().all(|uid| *uid != different[0]));
    assert_ne!(different[0], uid(&one, "f", "n2"));
}

#[test]
fn json_and_amounts_as_numbers_are_read() {
    let text = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "b"},
        "spec": {"containers": [{"name": "c", "image": "d", "resources": {"limits": {"cpu": 1}}}]}}"#;
    let pod = read(text).unwrap();
    let resources = pod.spec.unwrap().containers[0].resources.clone().unwrap();
    assert_eq!(resources.limits.unwrap()["cpu"].0, "1");
    assert_eq!(resources.requests.unwrap()["cpu"].0, "1");
}

#[test]
fn what_is_wrong_is_told_with_its_field() {
    let spec = |more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec:\n  containers: [{{name: c, image: d}}]\n  {more}\n"
        )
    };
    for (text, expected) in [
        ("{".to_owned(), "neither YAML nor JSON"),
        ("kind: Pod".to_owned(), "apiVersion: Invalid value: \"\""),
        ("apiVersion: v1\nkind: PodList".to_owned(), "kind: Invalid value: \"PodList\""),
        (spec("hostnetwork: true"), "spec.hostnetwork: unknown field"),
        (spec("hostNetwork: 7"), "spec.hostNetwork: invalid type"),
        (spec("serviceAccountName: x"), "spec.serviceAccountName: Forbidden"),
        (
            spec("volumes: [{name: v, secret: {secretName: s}}]"),
            "spec.volumes[0].secret: Forbidden",
        ),
        (
            spec("volumes: [{name: v, configMap: {name: s}}]"),
            "spec.volumes[0].configMap: Forbidden",
        ),
        (
            spec("volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}]"),
            "spec.volumes[0].projected.sources.serviceAccountToken: Forbidden",
        ),
        (
            spec("initContainers: [{name: i, image: x, envFrom: [{secretRef: {name: s}}]}]"),
            "spec.initContainers[0].envFrom[0]: Forbidden",
        ),
        (spec("affinity: {nodeAffinity: {}}"), "spec.affinity: Forbidden"),
        (
            spec("priorityClassName: mine"),
            "spec.priorityClassName: Unsupported value: \"mine\": supported values: \"system-node-critical\", \"system-cluster-critical\"",
        ),
        (spec("priority: 5"), "spec.priority: Invalid value: 5: spec.priorityClassName says 0"),
        (spec("runtimeClassName: kata"), "spec.runtimeClassName: Forbidden: is not supported"),
        (spec("volumes: [{name: v, nfs: {server: s, path: /}}]"), "spec.volumes[0].nfs: Forbidden"),
        (spec("nodeName: n2"), "spec.nodeName: Invalid value: \"n2\""),
        (spec("restartPolicy: Sometimes"), "spec.restartPolicy: Unsupported value: \"Sometimes\""),
        (
            spec(
                "initContainers: [{name: i, image: x, resources: {limits: {cpu: 1, hugepages-2Mi: 3Mi}}}]",
            ),
            "spec.initContainers[0].resources.limits.hugepages-2Mi: Invalid value: \"3Mi\": is not positive",
        ),
        (
            spec(
                "initContainers: [{name: i, image: x, resources: {limits: {hugepages-2Mi: 2Mi}}}]",
            ),
            "spec.initContainers[0].resources: Forbidden: HugePages require cpu or memory",
        ),
        (
            spec(
                "initContainers: [{name: i, image: x, resources: {requests: {cpu: 1, hugepages-2Mi: 2Mi}}}]",
            ),
            "spec.initContainers[0].resources.requests.hugepages-2Mi: Invalid value: \"2Mi\": must be equal to",
        ),
        (manifest("a", ""), "spec.containers[0].image: Required value: a container runs an image"),
        (manifest("../a", "x"), "metadata.name: Invalid value: \"../a-n1\""),
        (manifest("a, namespace: ../b", "x"), "metadata.namespace: Invalid value"),
        (manifest("a, uid: b", "x"), "metadata.uid: Forbidden"),
    ] {
        let told = read(&text).unwrap_err();
        assert!(told.contains(expected), "{text}\n{told}");
    }
}

#[test]
fn what_masters_refuse_is_refused_in_files_too() {
    let fields = pod_fields::all().unwrap_or_else(|problems| panic!("{problems}"));
    let refused = fields.iter().filter(|field| field.answer == Answer::Refused);
    for field in refused {
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": pod_fields::spec_with(field, &fields),
        });
        let told = read(&pod.to_string()).unwrap_err();
        // Static pods have none of these at all.
        let whole = field.pointer.starts_with("/ephemeralContainers/");
        let path = if whole { "ephemeralContainers".to_owned() } else { field.path() };
        let named = |line: &str| line.replace("[0]", "").contains(&path.replace("[0]", ""));
        assert!(told.lines().any(named), "{path}: {told}");
    }
}

fn keys(state: &StateHandle) -> Vec<String> {
    let mut keys: Vec<_> =
        state.read(|state| state.static_pods.keys().map(|key| key.name.clone()).collect());
    keys.sort();
    keys
}

fn open(folder: &TempDir) -> (StaticPods, StateHandle, Reporter) {
    let (state, reporter) = (StateHandle::default(), Reporter::default());
    let opened = StaticPods::open(folder.path(), "n1", state.clone(), reporter.clone()).unwrap();
    (opened, state, reporter)
}

fn complaints(reporter: &Reporter) -> Vec<String> {
    let told = |outbox: &mut crate::reporter::Outbox| {
        outbox.events.drain(..).filter_map(|event| event.message).collect()
    };
    reporter.with(told)
}

#[tokio::test]
async fn a_bad_file_leaves_the_others_alone() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("a.yaml", &manifest("a", "x"));
    write("b.yaml", "apiVersion: v2");
    write("c.yaml", &manifest("a", "y"));
    write("large", &"#".repeat(usize::try_from(MAX_FILE_BYTES).unwrap() + 1));
    write(".hidden", &manifest("hidden", "x"));
    fs::create_dir(folder.path().join("below")).unwrap();
    symlink("nowhere", folder.path().join("dangling")).unwrap();
    let (_opened, state, reporter) = open(&folder);
    assert_eq!(keys(&state), ["a-n1"]);
    let told = complaints(&reporter);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].contains("b.yaml: apiVersion: Invalid value: \"v2\""), "{told:?}");
    assert!(told[1].contains("c.yaml: metadata.name: Duplicate value"), "{told:?}");
    assert!(told[2].contains("large: it is larger than"), "{told:?}");
}

#[tokio::test]
async fn files_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manifests");
    let (state, reporter) = (StateHandle::default(), Reporter::default());
    let opened = StaticPods::open(&path, "n1", state.clone(), reporter.clone()).unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(opened.run(shutdown.clone()));
    let mut changes = state.changes();
    let mut image = async || {
        changes.recv().await.unwrap();
        state.read(|state| {
            let pod = state.static_pods.values().next()?;
            pod.spec.as_ref()?.containers[0].image.clone()
        })
    };
    fs::write(path.join("web.yaml"), manifest("web", "one")).unwrap();
    assert_eq!(image().await.as_deref(), Some("one"));
    // As editors and `kubeadm` do it.
    fs::write(folder.path().join("new"), manifest("web", "two")).unwrap();
    fs::rename(folder.path().join("new"), path.join("web.yaml")).unwrap();
    assert_eq!(image().await.as_deref(), Some("two"));
    fs::write(path.join("web.yaml"), "no pod").unwrap();
    fs::write(path.join("web.yaml"), manifest("web", "three")).unwrap();
    assert_eq!(image().await.as_deref(), Some("three"));
    fs::remove_file(path.join("web.yaml")).unwrap();
    assert_eq!(image().await, None);
    fs::write(folder.path().join("elsewhere"), manifest("web", "four")).unwrap();
    symlink("../elsewhere", path.join("link.yaml")).unwrap();
    assert_eq!(image().await.as_deref(), Some("four"));
    fs::remove_dir_all(&path).unwrap();
    assert_eq!(image().await, None);
    shutdown.cancel();
    task.await.unwrap();
}

/// The state of a node with one pod in a file, and what the API shows.
fn state_with(shown: Option<&str>) -> (ClusterState, ObjectKey) {
    let pod = read(&manifest("web", "x")).unwrap();
    let key = key_of(&pod);
    let mut state = ClusterState { confirmed: true, ..ClusterState::default() };
    if let Some(uid) = shown {
        let mut mirror = pod.clone();
        mirror.metadata.uid = Some("in-the-api".to_owned());
        let annotations = mirror.metadata.annotations.get_or_insert_default();
        annotations.insert(MIRROR_ANNOTATION.to_owned(), uid.to_owned());
        state.mirrors.insert(key.clone(), Arc::new(mirror));
    }
    state.static_pods.insert(key.clone(), Arc::new(pod));
    (state, key)
}

fn own_uid() -> String {
    read(&manifest("web", "x")).unwrap().metadata.uid.unwrap()
}

#[test]
fn the_api_is_to_show_what_is_here() {
    let (state, key) = state_with(None);
    let asks = decide(&state);
    let [(of, Ask::Put(image))] = asks.as_slice() else { panic!("{asks:?}") };
    assert_eq!((of, image.metadata.uid.as_ref()), (&key, None));
    assert_eq!(image.metadata.annotations.as_ref().unwrap()[MIRROR_ANNOTATION], own_uid());
    assert_eq!(decide(&state_with(Some(&own_uid())).0), []);
    // Of other content, or of a pod that is no more.
    let remove = |key: &ObjectKey| vec![(key.clone(), Ask::Remove { uid: "in-the-api".into() })];
    assert_eq!(decide(&state_with(Some("other")).0), remove(&key));
    let (mut state, _) = state_with(Some(&own_uid()));
    state.static_pods.clear();
    assert_eq!(decide(&state), remove(&key));
    state.static_here.insert(own_uid(), key.clone());
    assert_eq!(decide(&state), [], "it still ends");
}

#[test]
fn what_somebody_deletes_is_shown_anew() {
    let (mut state, key) = state_with(Some(&own_uid()));
    let mirror = Arc::make_mut(state.mirrors.get_mut(&key).unwrap());
    let now = proto::k8s::jiff::Timestamp::UNIX_EPOCH;
    mirror.metadata.deletion_timestamp =
        Some(proto::k8s::apimachinery::pkg::apis::meta::v1::Time(now));
    assert!(matches!(decide(&state).as_slice(), [(_, Ask::Remove { .. })]));
    state.mirrors.clear();
    assert!(matches!(decide(&state).as_slice(), [(_, Ask::Put(_))]));
    state.confirmed = false;
    assert_eq!(decide(&state), [], "nobody knows what is shown");
}
