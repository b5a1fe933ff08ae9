use serde_json::json;

use super::*;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("ns", name)
}

fn object<T: DeserializeOwned>(name: &str) -> Arc<T> {
    let meta =
        json!({"metadata": {"namespace": "ns", "name": name, "uid": name}, "addressType": "IPv4"});
    Arc::new(serde_json::from_value(meta).unwrap())
}

fn full() -> StateHandle {
    let state = StateHandle::default();
    state.write([Change::Everything], |state| {
        state.confirmed = true;
        state.pods.insert(key("p"), object("p"));
        state.config_maps.insert(key("c"), object("c"));
        state.secrets.insert(key("s"), object("s"));
        state.services.insert(key("w"), object("w"));
        state.endpoint_slices.insert(key("e"), object("e"));
        state.node = Some(object("n1"));
        let peer = Peer {
            node: "n2".to_owned(),
            addresses: vec!["10.0.0.2".parse().unwrap()],
            pod_cidrs: vec!["10.244.1.0/24".to_owned()],
        };
        state.peers.insert("n2".to_owned(), Arc::new(peer));
        state.cluster_domain = "cluster.local".to_owned();
        state.masters = vec!["10.0.0.1".parse().unwrap()];
    });
    state
}

#[test]
fn what_is_kept_comes_back_loaded_but_not_confirmed() {
    let root = tempfile::tempdir().unwrap();
    let folder = SnapshotFolder::of(root.path());
    let empty = StateHandle::default();
    assert!(!folder.load(&empty).unwrap());
    assert!(!empty.read(|state| state.loaded));

    let state = full();
    folder.save(&state, &PARTS).unwrap();
    let loaded = StateHandle::default();
    let mut changes = loaded.changes();
    assert!(folder.load(&loaded).unwrap());
    assert_eq!(changes.try_recv().unwrap(), Change::Everything);
    loaded.read(|loaded| {
        assert!(loaded.loaded && !loaded.confirmed);
        state.read(|state| {
            assert_eq!(loaded.pods, state.pods);
            assert_eq!(loaded.config_maps, state.config_maps);
            assert_eq!(loaded.secrets, state.secrets);
            assert_eq!(loaded.services, state.services);
            assert_eq!(loaded.endpoint_slices, state.endpoint_slices);
            assert_eq!(loaded.node, state.node);
            assert_eq!(loaded.peers, state.peers);
            assert_eq!(loaded.cluster_domain, state.cluster_domain);
            assert_eq!(loaded.masters, state.masters);
        });
    });
}

#[test]
fn a_damaged_file_is_told_and_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let folder = SnapshotFolder::of(root.path());
    folder.save(&full(), &PARTS).unwrap();
    folder.make_durable(&PARTS).unwrap();
    std::fs::write(root.path().join("snapshot/services.json"), b"[{").unwrap();
    let state = StateHandle::default();
    assert!(matches!(folder.load(&state), Err(SnapshotError::Decode { .. })));
    assert!(!state.read(|state| state.loaded));
}

#[tokio::test]
async fn a_change_is_kept_and_only_its_part_is_written() {
    let root = tempfile::tempdir().unwrap();
    let folder = SnapshotFolder::of(root.path());
    let state = full();
    folder.save(&state, &PARTS).unwrap();
    folder.make_durable(&PARTS).unwrap();
    let services = root.path().join("snapshot/services.json");
    let before = services.metadata().unwrap().modified().unwrap();

    let shutdown = CancellationToken::new();
    let keeper = tokio::spawn(folder.clone().keep(state.clone(), shutdown.clone()));
    tokio::task::yield_now().await;
    state.write([Change::Pod(key("q"))], |state| {
        state.pods.insert(key("q"), object("q"));
    });
    // A clean end writes what is outstanding at once.
    shutdown.cancel();
    keeper.await.unwrap();
    let loaded = StateHandle::default();
    folder.load(&loaded).unwrap();
    assert!(loaded.read(|state| state.pods.contains_key(&key("q"))));
    assert_eq!(services.metadata().unwrap().modified().unwrap(), before);
    assert!(!root.path().join("snapshot/pods.fresh.json").exists(), "it is durable");
}

#[test]
fn what_is_written_is_there_for_the_next_kubelet_before_it_is_durable() {
    let root = tempfile::tempdir().unwrap();
    let folder = SnapshotFolder::of(root.path());
    let state = full();
    folder.save(&state, &PARTS).unwrap();
    folder.make_durable(&PARTS).unwrap();
    let has_q = || {
        let loaded = StateHandle::default();
        folder.load(&loaded).unwrap();
        loaded.read(|state| state.pods.contains_key(&key("q")))
    };
    state.write([Change::Pod(key("q"))], |state| {
        state.pods.insert(key("q"), object("q"));
    });
    folder.save(&state, &[Part::Pods]).unwrap();
    assert!(has_q());
    folder.make_durable(&[Part::Pods]).unwrap();
    assert!(!root.path().join("snapshot/pods.fresh.json").exists());
    assert!(has_q());
}

#[test]
fn a_fresh_file_that_the_power_was_lost_on_leaves_the_durable_one() {
    let root = tempfile::tempdir().unwrap();
    let folder = SnapshotFolder::of(root.path());
    folder.save(&full(), &PARTS).unwrap();
    folder.make_durable(&PARTS).unwrap();
    std::fs::write(root.path().join("snapshot/pods.fresh.json"), b"").unwrap();
    let loaded = StateHandle::default();
    assert!(folder.load(&loaded).unwrap());
    assert_eq!(loaded.read(|state| state.pods.len()), full().read(|state| state.pods.len()));
}

#[test]
fn a_lagging_keeper_writes_everything() {
    let mut dirty = Vec::new();
    note(Ok(Change::Pod(key("p"))), &mut dirty);
    note(Ok(Change::Pod(key("q"))), &mut dirty);
    assert_eq!(dirty, [Part::Pods]);
    note(Err(RecvError::Lagged(7)), &mut dirty);
    assert_eq!(dirty.len(), PARTS.len());
}
