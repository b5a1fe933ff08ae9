use proto::{ObjectKey, Peer};
use serde::de::DeserializeOwned;
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
        let service = crate::state::kept(Arc::unwrap_or_clone(object("w")));
        state.services.insert(key("w"), Arc::new(service));
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

fn write_all(folder: &SnapshotFolder, state: &StateHandle) -> Writer {
    Writer::make(&folder.0, state.read(Batch::of_all)).unwrap()
}

fn load(folder: &SnapshotFolder) -> StateHandle {
    let loaded = StateHandle::default();
    assert!(folder.load(&loaded).unwrap());
    loaded
}

#[test]
fn what_is_kept_comes_back_loaded_but_not_confirmed() {
    let root = tempfile::tempdir().unwrap();
    let folder = SnapshotFolder::of(root.path());
    let empty = StateHandle::default();
    assert!(!folder.load(&empty).unwrap());
    assert!(!empty.read(|state| state.loaded));

    let state = full();
    write_all(&folder, &state);
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
    write_all(&folder, &full()).settle().unwrap();
    let path = root.path().join("snapshot/state.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen('{', "[", 3)).unwrap();
    let state = StateHandle::default();
    assert!(matches!(folder.load(&state), Err(SnapshotError::Decode { .. })));
    assert!(!state.read(|state| state.loaded));
}

fn dirty<const N: usize>(changes: [Change; N]) -> Dirty {
    let mut dirty = Dirty::default();
    changes.into_iter().for_each(|change| dirty.note(Ok(change)));
    dirty
}

#[tokio::test]
async fn a_change_is_appended() {
    let root = tempfile::tempdir().unwrap();
    let folder = SnapshotFolder::of(root.path());
    let state = full();
    let keeper = Keeper { folder: folder.0.clone(), state: state.clone(), writer: Arc::default() };
    assert!(keeper.write(dirty([Change::Everything])).await);
    state.write([], |state| {
        state.pods.insert(key("q"), object("q"));
        state.secrets.remove(&key("s"));
    });
    assert!(keeper.write(dirty([Change::Pod(key("q")), Change::Secret(key("s"))])).await);
    keeper.settle().await;
    let path = root.path().join("snapshot/state.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, appended) = text.split_once("\"whole\"\n").unwrap();
    assert_eq!(appended.lines().count(), 2, "{appended}");
    assert!(!root.path().join("snapshot/state.fresh.jsonl").exists(), "it is durable");
    load(&folder).read(|state| {
        assert!(state.pods.contains_key(&key("p")) && state.pods.contains_key(&key("q")));
        assert!(state.secrets.is_empty());
    });
}

#[tokio::test]
async fn a_clean_end_writes_what_is_outstanding_at_once() {
    let root = tempfile::tempdir().unwrap();
    let folder = SnapshotFolder::of(root.path());
    let state = full();
    let shutdown = CancellationToken::new();
    let keeping = folder.clone().keep(state.clone(), shutdown.clone());
    tokio::pin!(keeping);
    // It listens from its first step on.
    assert!(futures::poll!(&mut keeping).is_pending());
    state.write([Change::Pod(key("q"))], |state| {
        state.pods.insert(key("q"), object("q"));
    });
    shutdown.cancel();
    keeping.await;
    assert!(!root.path().join("snapshot/state.fresh.jsonl").exists(), "it is durable");
    load(&folder).read(|state| assert!(state.pods.contains_key(&key("q"))));
}

/// Any end of a file that somebody may have left in the middle of a line.
#[test]
fn whoever_is_killed_while_appending_loses_no_more_than_that_line() {
    let root = tempfile::tempdir().unwrap();
    let folder = SnapshotFolder::of(root.path());
    let state = full();
    let mut writer = write_all(&folder, &state);
    let path = root.path().join("snapshot/state.fresh.jsonl");
    let whole = std::fs::read(&path).unwrap().len();
    for name in ["q", "r"] {
        let change = Change::Pod(key(name));
        state.write([change.clone()], |state| {
            state.pods.insert(key(name), object(name));
        });
        writer.append(state.read(|state| Batch::of(state, [&change]))).unwrap();
    }
    let text = std::fs::read(&path).unwrap();
    let first = whole + text[whole..].iter().position(|byte| *byte == b'\n').unwrap();
    for end in whole..=text.len() {
        std::fs::write(&path, &text[..end]).unwrap();
        load(&folder).read(|state| {
            assert!(state.pods.contains_key(&key("p")));
            assert_eq!(state.pods.contains_key(&key("q")), end >= first, "{end}");
        });
    }
    // A loss of power leaves zeros where nothing came to the disk.
    let mut zeros = text.clone();
    zeros[whole..first].fill(0);
    std::fs::write(&path, zeros).unwrap();
    load(&folder).read(|state| assert_eq!(state.pods.len(), 1));
}

#[test]
fn a_fresh_file_that_the_power_was_lost_on_leaves_the_durable_one() {
    let root = tempfile::tempdir().unwrap();
    let folder = SnapshotFolder::of(root.path());
    write_all(&folder, &full()).settle().unwrap();
    let path = root.path().join("snapshot/state.fresh.jsonl");
    for contents in [&b""[..], b"\0\0\0", b"{\"removed\":{\"resource\":\"pods\""] {
        std::fs::write(&path, contents).unwrap();
        assert_eq!(load(&folder).read(|state| state.pods.len()), 1);
    }
}

#[test]
fn is_written_anew_when_the_changes_have_become_longer_than_the_rest() {
    let root = tempfile::tempdir().unwrap();
    let folder = SnapshotFolder::of(root.path());
    let state = full();
    let mut writer = Some(write_all(&folder, &state));
    let path = root.path().join("snapshot/state.fresh.jsonl");
    let change = Change::ConfigMap(key("c"));
    let dirty = Dirty { everything: false, changes: [change.clone()].into() };
    let (mut longest, mut before, mut shrunk) = (0, 0, false);
    for number in 0..40 {
        let text = format!("{number}").repeat(100_000);
        let map = json!({"metadata": {"namespace": "ns", "name": "c"}, "data": {"text": text}});
        state.write([change.clone()], |state| {
            state.config_maps.insert(key("c"), Arc::new(serde_json::from_value(map).unwrap()));
        });
        writer = write(writer, &folder.0, &state, &dirty).unwrap();
        let length = path.metadata().unwrap().len();
        shrunk |= length < before;
        (longest, before) = (longest.max(length), length);
        assert_eq!(
            load(&folder).read(|state| state.config_maps.clone()),
            state.read(|s| s.config_maps.clone())
        );
    }
    assert!(shrunk && longest < 2_000_000, "{longest}");
}

#[test]
fn a_lagging_keeper_writes_everything() {
    let mut dirty = Dirty::default();
    dirty.note(Ok(Change::Pod(key("p"))));
    dirty.note(Ok(Change::Pod(key("p"))));
    assert!(!dirty.everything && dirty.changes.len() == 1);
    dirty.note(Err(RecvError::Lagged(7)));
    assert!(dirty.everything);
}
