use std::sync::Arc;

use bytes::Bytes;
use proto::ObjectKey;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::object::with_resource_version;
use super::*;
use crate::store::{EmbeddedStore, Op, Revision, Store, Txn, TxnOutcome, keys};

const FIELDS: SelectableFields = &[
    selectable("spec.nodeName", &["spec", "nodeName"]),
    selectable("status.phase", &["status", "phase"]),
];

struct Cluster {
    store: Arc<EmbeddedStore>,
    caches: Arc<Caches>,
    _running: DropGuard,
}

impl Cluster {
    async fn start() -> Self {
        Self::over(Arc::new(EmbeddedStore::in_memory().expect("a store"))).await
    }

    async fn over(store: Arc<EmbeddedStore>) -> Self {
        let shutdown = CancellationToken::new();
        let resources = ["pods", "nodes"].map(|resource| ResourceSpec { resource, fields: FIELDS });
        let caches = Caches::start(store.clone(), resources.to_vec(), shutdown.clone())
            .await
            .expect("caches");
        Self { store, caches, _running: shutdown.drop_guard() }
    }

    fn pods(&self) -> &Arc<ResourceCache> {
        self.caches.resource("pods").expect("pods are cached")
    }

    async fn commit(&self, ops: Vec<Op>) -> Revision {
        let outcome = self.store.txn(Txn { compares: vec![], ops }).await.expect("a transaction");
        let TxnOutcome::Committed(revision) = outcome else { panic!("no compare could fail") };
        self.caches.wait_for(revision).await;
        revision
    }

    async fn put(&self, name: &str, node: &str) -> Revision {
        self.commit(vec![put(name, node)]).await
    }

    async fn delete(&self, name: &str) -> Revision {
        self.commit(vec![delete(name)]).await
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

fn put(name: &str, node: &str) -> Op {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": format!("uid-{name}"),
            "labels": { "app": name },
            "ownerReferences": [
                { "uid": "someone", "name": "x" },
                { "uid": "the-controller", "name": "y", "controller": true },
            ],
        },
        "spec": { "nodeName": node },
    });
    put_json("pods", &key(name), &pod)
}

fn put_json(resource: &str, key: &ObjectKey, object: &Value) -> Op {
    Op::Put { key: keys::object(resource, key), value: object.to_string().into(), lease: None }
}

fn delete(name: &str) -> Op {
    Op::Delete { key: keys::object("pods", &key(name)) }
}

fn describe(event: &ObjectEvent) -> String {
    let object = event.object();
    let name = &object.key.name;
    match event {
        ObjectEvent::Added(_) => format!("+{name}@{}", object.fields["spec.nodeName"]),
        ObjectEvent::Modified { old, new } => {
            format!("{name}@{}>{}", old.fields["spec.nodeName"], new.fields["spec.nodeName"])
        }
        ObjectEvent::Deleted(_) => format!("-{name}@{}", object.fields["spec.nodeName"]),
    }
}

fn drain(subscription: &mut Subscription) -> Vec<String> {
    let mut events = Vec::new();
    while let Some(event) = subscription.try_next().expect("in time") {
        events.push(describe(&event));
    }
    events
}

fn resource_version(json: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(json).expect("JSON");
    value.pointer("/metadata/resourceVersion")?.as_str().map(str::to_owned)
}

#[test]
fn splices_the_resource_version_into_any_json() {
    let cases = [
        r#"{"metadata":{"name":"a"}}"#,
        r#"{"metadata":{}}"#,
        r#" { "metadata" : { } } "#,
        r#"{"kind":"metadata","metadata":{"name":"a"}}"#,
        r#"{"spec":{"metadata":{"name":"inner"}},"metadata":{"name":"a"}}"#,
        r#"{"spec":[{"metadata":{}},"{\"metadata\":{"],"x":"}{][\\","metadata":{"name":"a"}}"#,
    ];
    for case in cases {
        let mut expected: Value = serde_json::from_str(case).expect("a good case");
        for revision in [7, 18_446_744_073_709_551_615, 0] {
            let once = with_resource_version(case.as_bytes(), revision).expect("metadata");
            expected["metadata"]["resourceVersion"] = revision.to_string().into();
            let value: Value = serde_json::from_slice(&once).expect("JSON");
            assert_eq!(value, expected, "{case}");
            // Replaced, not put in twice.
            let again = with_resource_version(&once, 42).expect("metadata");
            assert_eq!(resource_version(&again).as_deref(), Some("42"));
            let text = String::from_utf8_lossy(&again).into_owned();
            assert_eq!(text.matches("resourceVersion").count(), 1, "{text}");
        }
    }
    for none in ["{}", "[]", "", r#"{"metadata":null}"#, r#"{"spec":{"metadata":{}}}"#, r#"{"meta"#]
    {
        assert_eq!(with_resource_version(none.as_bytes(), 1), None, "{none}");
    }
}

#[tokio::test]
async fn an_object_comes_out_with_its_version_and_what_is_looked_at_often() {
    let cluster = Cluster::start().await;
    let revision = cluster.put("a", "n1").await;
    let pod = cluster.pods().get(&key("a")).expect("it is there");
    assert_eq!(pod.revision, revision);
    assert_eq!(resource_version(&pod.json), Some(revision.to_string()));
    assert_eq!(pod.uid, "uid-a");
    assert_eq!(pod.labels["app"], "a");
    assert_eq!(pod.controller_uid.as_deref(), Some("the-controller"));
    assert_eq!(pod.owner_uids, ["someone", "the-controller"]);
    assert!(!pod.deleting);
    assert_eq!(pod.fields["spec.nodeName"], "n1");
}

#[tokio::test]
async fn lists_what_was_there_before_the_cache_came() {
    let store = Arc::new(EmbeddedStore::in_memory().expect("a store"));
    for n in 0..1200 {
        let txn = Txn { compares: vec![], ops: vec![put(&format!("p{n:04}"), "n1")] };
        store.txn(txn).await.expect("a transaction");
    }
    let cluster = Cluster::over(store).await;
    let (revision, pods) = cluster.pods().list(None);
    assert_eq!(pods.len(), 1200);
    assert!(pods.is_sorted_by_key(|pod| pod.key.clone()));
    assert_eq!(revision, cluster.store.current_revision().await.expect("a revision"));
    // What led there is not known any more.
    assert!(cluster.pods().subscribe(revision - 1).is_err());
    assert!(cluster.pods().subscribe(revision).is_ok());
}

#[tokio::test]
async fn lists_one_namespace_and_nothing_of_its_neighbours() {
    let cluster = Cluster::start().await;
    let mut ops = Vec::new();
    for namespace in ["a", "ab", "b"] {
        for name in ["x", "y"] {
            ops.push(put_json("pods", &ObjectKey::new(namespace, name), &json!({"metadata": {}})));
        }
    }
    ops.push(put_json("nodes", &ObjectKey::new("", "n"), &json!({"metadata": {"name": "n"}})));
    cluster.commit(ops).await;
    let names = |namespace| -> Vec<String> {
        cluster.pods().list(namespace).1.iter().map(|pod| pod.key.to_string()).collect()
    };
    assert_eq!(names(Some("a")), ["a/x", "a/y"]);
    assert_eq!(names(Some("ab")), ["ab/x", "ab/y"]);
    assert_eq!(names(Some("c")), [""; 0]);
    assert_eq!(names(None).len(), 6);
    assert_eq!(cluster.caches.resource("nodes").map(|nodes| nodes.len()), Some(1));
}

#[tokio::test]
async fn indexes_follow_every_change() {
    let cluster = Cluster::start().await;
    cluster.put("a", "n1").await;
    cluster.put("b", "n1").await;
    cluster.put("c", "").await;
    let on = |node| -> Vec<String> {
        cluster.pods().pods_on_node(node).iter().map(|pod| pod.key.name.clone()).collect()
    };
    assert_eq!((on("n1"), on("")), (vec!["a".into(), "b".into()], vec!["c".into()]));
    cluster.put("c", "n1").await;
    cluster.put("a", "n2").await;
    cluster.delete("b").await;
    assert_eq!((on("n1"), on("n2"), on("")), (vec!["c".into()], vec!["a".into()], vec![]));
    // The index has the newest object, not the one that entered it.
    let newest = cluster.put("c", "n1").await;
    assert_eq!(cluster.pods().pods_on_node("n1")[0].revision, newest);
    assert_eq!(cluster.pods().by_owner("someone").len(), 2);
    assert_eq!(cluster.pods().by_owner("someone")[1].revision, newest);
    cluster.delete("a").await;
    cluster.delete("c").await;
    assert!(cluster.pods().by_owner("someone").is_empty());
    assert!(cluster.pods().list_by_field("status.phase", "Running").is_none(), "has no index");
}

#[tokio::test]
async fn a_subscription_tells_all_changes_after_its_revision_in_order() {
    let cluster = Cluster::start().await;
    let first = cluster.put("a", "n1").await;
    cluster.put("b", "n1").await;
    cluster.put("a", "n2").await;
    let mut late = cluster.pods().subscribe(first).expect("within the window");
    let (revision, pods, mut now) = cluster.pods().list_and_subscribe();
    assert_eq!((revision, pods.len()), (cluster.caches.revision(), 2));
    let deleted = cluster.delete("a").await;
    assert_eq!(drain(&mut late), ["+b@n1", "a@n1>n2", "-a@n2"]);
    assert_eq!(drain(&mut now), ["-a@n2"]);
    let (_, _, mut after) = cluster.pods().list_and_subscribe();
    cluster.commit(vec![put("a", "n3"), delete("b")]).await;
    assert_eq!(drain(&mut after), ["+a@n3", "-b@n1"]);
    // The last state of a deleted object carries the revision of the deletion.
    let mut again = cluster.pods().subscribe(deleted - 1).expect("within the window");
    let Some(ObjectEvent::Deleted(pod)) = again.try_next().expect("in time") else {
        panic!("the deletion comes first");
    };
    assert_eq!(resource_version(&pod.json), Some(deleted.to_string()));
}

#[tokio::test]
async fn a_subscription_from_the_future_waits_for_it() {
    let cluster = Cluster::start().await;
    let now = cluster.put("a", "n1").await;
    let mut subscription = cluster.pods().subscribe(now + 1).expect("a subscription");
    cluster.put("b", "n1").await;
    cluster.put("c", "n1").await;
    assert_eq!(drain(&mut subscription), ["+c@n1"]);
}

#[tokio::test]
async fn a_subscriber_hears_of_what_it_is_interested_in_and_of_nothing_else() {
    let cluster = Cluster::start().await;
    let start = cluster.put("a", "n1").await;
    let pods = cluster.pods();
    let (_, on_n1, mut n1) =
        pods.list_and_subscribe_to(Interest::Field("spec.nodeName", "n1".to_owned()));
    assert_eq!(on_n1.len(), 1);
    let (_, none, mut n2) =
        pods.list_and_subscribe_to(Interest::Field("spec.nodeName", "n2".to_owned()));
    assert!(none.is_empty());
    let (_, _, mut b) = pods.list_and_subscribe_to(Interest::Object(key("b")));
    let (_, _, mut elsewhere) = pods.list_and_subscribe_to(Interest::Namespace("other".to_owned()));
    let (_, all, mut here) = pods.list_and_subscribe_to(Interest::Namespace("default".to_owned()));
    assert_eq!(all.len(), 1);
    cluster.put("b", "n1").await;
    cluster.put("a", "n2").await;
    cluster.delete("a").await;
    // Whoever lost it hears of that too.
    assert_eq!(drain(&mut n1), ["+b@n1", "a@n1>n2"]);
    assert_eq!(drain(&mut n2), ["a@n1>n2", "-a@n2"]);
    assert_eq!(drain(&mut b), ["+b@n1"]);
    assert_eq!(drain(&mut elsewhere), [""; 0]);
    assert_eq!(drain(&mut here), ["+b@n1", "a@n1>n2", "-a@n2"]);
    let interest = Interest::Field("spec.nodeName", "n2".to_owned());
    let mut late = pods.subscribe_to(interest, start).expect("within the window");
    assert_eq!(drain(&mut late), ["a@n1>n2", "-a@n2"]);
}

#[tokio::test]
async fn a_slow_subscriber_is_cut_off_and_the_others_are_not() {
    let cluster = Cluster::start().await;
    let (_, _, mut slow) = cluster.pods().list_and_subscribe();
    let (_, _, mut quick) = cluster.pods().list_and_subscribe();
    let mut heard = 0;
    for n in 0..50 {
        let ops = (0..100).map(|m| put(&format!("p{m}"), &format!("n{n}"))).collect();
        cluster.commit(ops).await;
        heard += drain(&mut quick).len();
    }
    assert_eq!(heard, 5000);
    assert_eq!(slow.next().await.err(), Some(Lagged));
    assert_eq!(slow.progress(), None);
    cluster.put("a", "n1").await;
    assert_eq!(drain(&mut quick).len(), 1);
}

/// Versions that nobody else keeps any more: it is their size that counts, not how many they are.
#[tokio::test]
async fn a_subscriber_that_keeps_too_much_of_the_past_is_cut_off() {
    let cluster = Cluster::start().await;
    let (_, _, mut slow) = cluster.pods().list_and_subscribe();
    let (_, _, mut quick) = cluster.pods().list_and_subscribe();
    let large = |n: usize| {
        let filling = format!("{n}{}", "x".repeat(1 << 20));
        put_json("pods", &key("a"), &json!({"metadata": {"name": "a"}, "filling": filling}))
    };
    for n in 0..40 {
        cluster.commit(vec![large(n)]).await;
        assert!(matches!(quick.next().await, Ok(Update::Event(_))), "who reads is not cut off");
    }
    assert_eq!(slow.next().await.err(), Some(Lagged));
}

#[tokio::test]
async fn the_window_is_bounded_and_says_what_it_has_forgotten() {
    let cluster = Cluster::start().await;
    let start = cluster.caches.revision();
    let mut middle = 0;
    for n in 0..180 {
        let ops = (0..100).map(|m| put(&format!("p{m}"), &format!("n{n}"))).collect();
        let revision = cluster.commit(ops).await;
        if n == 100 {
            middle = revision;
        }
    }
    let expired = cluster.pods().subscribe(start).expect_err("18000 events are too many");
    assert_eq!(expired.requested, start);
    assert!(expired.oldest > start);
    let mut kept = cluster.pods().subscribe(middle).expect("within the window");
    assert_eq!(drain(&mut kept).len(), 7900);
    let mut edge = cluster.pods().subscribe(expired.oldest).expect("what it named");
    assert!(!drain(&mut edge).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_idle_subscription_tells_progress_and_the_past_is_forgotten() {
    let cluster = Cluster::start().await;
    let start = cluster.put("a", "n1").await;
    let mut subscription = cluster.pods().subscribe(start).expect("a subscription");
    assert_eq!(subscription.progress(), None, "nothing new");
    let node = put_json("nodes", &ObjectKey::new("", "n"), &json!({"metadata": {"name": "n"}}));
    let elsewhere = cluster.commit(vec![node]).await;
    // Time flies while everybody waits.
    match subscription.next().await.expect("in time") {
        Update::Progress(revision) => assert_eq!(revision, elsewhere),
        Update::Event(event) => panic!("nothing happened: {event:?}"),
    }
    assert_eq!(subscription.progress(), None);
    let later = cluster.put("a", "n2").await;
    assert_eq!(subscription.progress(), None, "an event waits");
    assert!(matches!(subscription.next().await, Ok(Update::Event(_))));
    assert_eq!(subscription.told, later);
}

#[test]
fn events_leave_the_window_when_they_are_old() {
    use std::time::{Duration, Instant};
    let mut window = window::Window::new(3);
    let now = Instant::now();
    let object = |revision| {
        let key = key("a");
        let json = Bytes::from_static(br#"{"metadata":{}}"#);
        ObjectEvent::Added(Arc::new(
            CachedObject::from_stored(key, revision, &json, FIELDS).expect("an object"),
        ))
    };
    window.push(object(5), now);
    window.push(object(9), now + Duration::from_secs(200));
    window.trim(now + Duration::from_secs(299));
    assert_eq!(window.after(3).map(Iterator::count), Ok(2));
    window.trim(now + Duration::from_secs(300));
    assert_eq!(window.after(3).map(Iterator::count), Err(Expired { requested: 3, oldest: 5 }));
    assert_eq!(window.after(5).map(Iterator::count), Ok(1));
    assert_eq!(window.after(9).map(Iterator::count), Ok(0));
    window.trim(now + Duration::from_secs(500));
    assert!(window.is_empty());
    assert!(window.after(8).is_err());
    assert!(window.after(9).is_ok());
}

#[tokio::test]
async fn fresh_means_everything_written_before() {
    let cluster = Cluster::start().await;
    for n in 0..200 {
        let txn = Txn { compares: vec![], ops: vec![put("a", &format!("n{n}"))] };
        let TxnOutcome::Committed(revision) = cluster.store.txn(txn).await.expect("a transaction")
        else {
            panic!("no compare could fail");
        };
        assert!(cluster.caches.fresh().await.expect("an answer") >= revision);
        let pod = cluster.pods().get(&key("a")).expect("it is there");
        assert_eq!(pod.fields["spec.nodeName"], format!("n{n}"));
    }
}

#[tokio::test]
async fn keys_that_are_no_objects_are_kept_beside_them() {
    let cluster = Cluster::start().await;
    let sessions = cluster.caches.keys(keys::NODE_SESSIONS);
    let (_, none, mut follow) = sessions.list_and_subscribe();
    assert!(none.is_empty());
    let raw = |key: String| Op::Put { key, value: Bytes::from_static(b"m1"), lease: None };
    assert!(!cluster.caches.claimed("service-ip/10.96.0.7"));
    cluster
        .commit(vec![raw(keys::claim("service-ip/10.96.0.7")), raw(keys::node_session("n1"))])
        .await;
    assert!(cluster.caches.claimed("service-ip/10.96.0.7"));
    assert_eq!(sessions.list().1.len(), 1);
    assert!(sessions.get(&keys::node_session("n1")).is_some());
    let revision = cluster.commit(vec![Op::Delete { key: keys::node_session("n1") }]).await;
    let first = follow.next().await.expect("in time");
    assert!(matches!(&first, KeyUpdate::Put(stored) if stored.key == keys::node_session("n1")));
    let second = follow.next().await.expect("in time");
    assert_eq!(second, KeyUpdate::Deleted { key: keys::node_session("n1"), revision });
    assert!(sessions.list().1.is_empty());
}

#[tokio::test]
async fn an_object_that_cannot_be_decoded_hides_no_other() {
    let cluster = Cluster::start().await;
    let garbage = |name| Op::Put {
        key: keys::object("pods", &key(name)),
        value: Bytes::from_static(b"not json"),
        lease: None,
    };
    cluster.commit(vec![put("a", "n1"), garbage("b"), put("c", "n1")]).await;
    assert_eq!(cluster.pods().len(), 2);
    cluster.delete("b").await;
    assert_eq!(cluster.pods().len(), 2);
}

/// A small deterministic generator: a failing run can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// A reader that builds its own copy from a list and events, as a client does.
struct Reader {
    interest: Interest,
    copy: BTreeMap<ObjectKey, Revision>,
    last: Revision,
    subscription: Subscription,
}

impl Reader {
    fn start(pods: &Arc<ResourceCache>, interest: Interest) -> Self {
        let (last, listed, subscription) = pods.list_and_subscribe_to(interest.clone());
        let copy = listed.iter().map(|pod| (pod.key.clone(), pod.revision)).collect();
        Self { interest, copy, last, subscription }
    }

    fn is_in(&self, pod: &CachedObject) -> bool {
        match &self.interest {
            Interest::Field(field, value) => pod.fields.get(field) == Some(value),
            _ => true,
        }
    }

    fn read(&mut self, at_most: u64) {
        for _ in 0..at_most {
            let Some(event) = self.subscription.try_next().expect("in time") else { return };
            // Keys of one transaction share a revision.
            assert!(event.revision() >= self.last, "out of order: {event:?}");
            self.last = event.revision();
            let key = event.object().key.clone();
            let known = self.copy.get(&key).copied();
            let (before, after) = match &event {
                ObjectEvent::Added(new) => (None, Some(new)),
                ObjectEvent::Modified { new, old } => (Some(old), Some(new)),
                ObjectEvent::Deleted(old) => (Some(old), None),
            };
            if let ObjectEvent::Modified { old, .. } = &event
                && self.is_in(old)
            {
                assert_eq!(known, Some(old.revision), "something between was not told");
            }
            assert_eq!(before.is_some_and(|old| self.is_in(old)), known.is_some(), "{event:?}");
            match after.filter(|new| self.is_in(new)) {
                Some(new) => self.copy.insert(key, new.revision),
                None => self.copy.remove(&key),
            };
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_come_and_go_end_equal_to_a_list() {
    for seed in 1..=3 {
        let mut random = Random(seed);
        let cluster = Cluster::start().await;
        let mut readers: Vec<Reader> = Vec::new();
        for _ in 0..1000 {
            match random.below(10) {
                0 if readers.len() < 20 => {
                    let interest = match random.below(3) {
                        0 => Interest::Field("spec.nodeName", format!("n{}", random.below(4))),
                        1 => Interest::Namespace("default".to_owned()),
                        _ => Interest::All,
                    };
                    readers.push(Reader::start(cluster.pods(), interest));
                }
                1 if !readers.is_empty() => {
                    // Away and back: from where it was, as a client with its last resourceVersion.
                    let at = random.below(readers.len() as u64) as usize;
                    let reader = &mut readers[at];
                    reader.read(u64::MAX);
                    let interest = reader.interest.clone();
                    reader.subscription = cluster
                        .pods()
                        .subscribe_to(interest, reader.last)
                        .expect("within the window");
                }
                2 | 3 => {
                    for reader in &mut readers {
                        reader.read(random.below(5));
                    }
                }
                _ => {
                    let mut ops = BTreeMap::new();
                    for _ in 0..=random.below(3) {
                        let name = format!("p{}", random.below(12));
                        let op = match random.below(4) {
                            0 => delete(&name),
                            _ => put(&name, &format!("n{}", random.below(4))),
                        };
                        ops.insert(name, op);
                    }
                    // Without waiting for the caches: they run behind and catch up.
                    let ops = ops.into_values().collect();
                    let txn = Txn { compares: vec![], ops };
                    cluster.store.txn(txn).await.expect("a transaction");
                }
            }
        }
        cluster.caches.fresh().await.expect("an answer");
        for reader in &mut readers {
            reader.read(u64::MAX);
            let listed: BTreeMap<_, _> = cluster
                .pods()
                .list(None)
                .1
                .iter()
                .filter(|pod| reader.is_in(pod))
                .map(|pod| (pod.key.clone(), pod.revision))
                .collect();
            assert_eq!(reader.copy, listed, "seed {seed}, {:?}", reader.interest);
        }
        assert!(!readers.is_empty());
    }
}

#[tokio::test]
async fn after_a_gap_in_history_readers_are_told_the_difference() {
    let store = crate::store::unreliable::Unreliable::new();
    let shutdown = CancellationToken::new();
    let _running = shutdown.clone().drop_guard();
    let resources =
        ["pods", "nodes"].map(|resource| ResourceSpec { resource, fields: FIELDS }).to_vec();
    let caches = Caches::start(store.clone(), resources, shutdown).await.expect("caches");
    let write = async |ops| {
        let txn = Txn { compares: vec![], ops };
        store.inner.txn(txn).await.expect("a transaction");
    };
    let session = |node: &str| Op::Put {
        key: keys::node_session(node),
        value: Bytes::from_static(b"m1"),
        lease: None,
    };
    write(vec![put("gone", "n1"), put("kept", "n1"), put("changed", "n1"), session("n1")]).await;
    let node = |name: &str| {
        let object = json!({"metadata": {"name": name}, "spec": {"nodeName": "-"}});
        put_json("nodes", &ObjectKey::new("", name), &object)
    };
    write(vec![node("n1")]).await;
    caches.fresh().await.expect("an answer");
    let nodes = caches.resource("nodes").expect("nodes are cached");
    let (_, _, mut undisturbed) = nodes.list_and_subscribe();
    let before = caches.revision();
    let pods = caches.resource("pods").expect("pods are cached");
    let (_, _, mut subscription) = pods.list_and_subscribe();
    let (_, _, mut sessions) = caches.keys(keys::NODE_SESSIONS).list_and_subscribe();

    store.set_cut(true);
    assert!(caches.fresh().await.is_err());
    write(vec![put("changed", "n2"), delete("gone"), put("new", "n3")]).await;
    write(vec![put("changed", "n3"), put("short", "n1")]).await;
    write(vec![delete("short"), Op::Delete { key: keys::node_session("n1") }, session("n2")]).await;
    write(vec![node("n2")]).await;
    write(vec![node("n3")]).await;
    let now = store.inner.current_revision().await.expect("a revision");
    store.inner.compact(now).await.expect("a compaction");
    store.set_cut(false);

    caches.wait_for(now).await;
    assert_eq!(drain(&mut undisturbed), ["+n2@-", "+n3@-"]);
    // Nobody knows when the pod went. Who resumed at the list's revision between two such deletions
    // would miss the second, so nobody is told of either.
    assert!(matches!(subscription.next().await, Err(Lagged)));
    assert!(pods.subscribe(before).is_err());
    let (_, _, mut subscription) = pods.list_and_subscribe();
    assert!(matches!(sessions.next().await, Ok(KeyUpdate::Put(put)) if put.key.ends_with("n2")));
    assert!(
        matches!(sessions.next().await, Ok(KeyUpdate::Deleted { key, .. }) if key.ends_with("n1"))
    );
    let names: Vec<_> = pods.list(None).1.iter().map(|pod| pod.key.name.clone()).collect();
    assert_eq!(names, ["changed", "kept", "new"]);
    // And the watch goes on.
    write(vec![put("kept", "n9")]).await;
    caches.fresh().await.expect("an answer");
    assert_eq!(drain(&mut subscription), ["kept@n1>n9"]);
}
