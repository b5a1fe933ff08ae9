//! A store whose users are killed, and what is removed from it.
//!
//! The child is this very program, started again for one test with a variable that says what to do. It
//! is killed at its n-th change of the store, for every n: the kernel tells the changes as they happen.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use oci_client::secrets::RegistryAuth as ClientAuth;
use runtime::image::{ImageService, ImageStorage, ImageStore, ImageStoreConfig};
use rustix::fs::inotify;

use crate::registry::{Registry, digest, layer, left_out};

/// What the child is to do: `import ARCHIVE STORE` or `pull REFERENCE STORE`.
const CHILD: &str = "KUTTER_TEST_IMAGE_CHILD";

fn open(root: &Path) -> ImageStore {
    ImageStore::open(ImageStoreConfig { root: root.to_owned(), ..ImageStoreConfig::default() })
        .unwrap()
}

/// No test by itself: the child of those below.
#[tokio::test]
async fn child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let words: Vec<&str> = order.split(' ').collect();
    let store = open(Path::new(words[2]));
    match words[0] {
        "import" => drop(store.import(Path::new(words[1])).unwrap()),
        _ => drop(store.pull(words[1], &[]).await.unwrap()),
    }
}

fn start_child(order: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::child", "--nocapture"])
        .env(CHILD, order)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Changes of a folder and of those that appear in it.
struct Watch {
    inotify: OwnedFd,
    folders: BTreeMap<i32, PathBuf>,
    /// Reported and not yet looked at.
    pending: usize,
}

impl Watch {
    fn new(root: &Path) -> Self {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        let mut watch = Self { inotify, folders: BTreeMap::new(), pending: 0 };
        for folder in ["images", "refs", "layers", "ingest", "claims"] {
            watch.add(&root.join(folder));
        }
        watch
    }

    fn add(&mut self, folder: &Path) {
        use inotify::WatchFlags as Flags;
        let flags = Flags::CREATE | Flags::MOVED_TO | Flags::CLOSE_WRITE | Flags::DELETE;
        // It may be gone already.
        if let Ok(id) = inotify::add_watch(&self.inotify, folder, flags | Flags::ONLYDIR) {
            self.folders.insert(id, folder.to_owned());
        }
    }

    /// Waits for changes and counts them; nothing when the child has ended and there are no more.
    fn next(&mut self, child: &mut Child) -> Option<usize> {
        let ended = pidfd(child);
        let mut poll = [
            rustix::event::PollFd::new(&self.inotify, rustix::event::PollFlags::IN),
            rustix::event::PollFd::new(&ended, rustix::event::PollFlags::IN),
        ];
        rustix::event::poll(&mut poll, None).unwrap();
        if poll[0].revents().is_empty() {
            return None;
        }
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut new = Vec::new();
        loop {
            let event = reader.next().unwrap();
            self.pending += 1;
            if event.events().contains(inotify::ReadFlags::ISDIR)
                && let (Some(folder), Some(name)) =
                    (self.folders.get(&event.wd()), event.file_name())
            {
                new.push(folder.join(name.to_str().unwrap()));
            }
            if reader.is_buffer_empty() {
                break;
            }
        }
        new.iter().for_each(|folder| self.add(folder));
        Some(std::mem::take(&mut self.pending))
    }
}

fn pidfd(child: &Child) -> OwnedFd {
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap()
}

/// Runs the child and kills it at its n-th change; whether it came so far.
fn kill_at(order: &str, root: &Path, change: usize) -> bool {
    let mut watch = Watch::new(root);
    let mut child = start_child(order);
    let mut seen = 0;
    while let Some(changes) = watch.next(&mut child) {
        seen += changes;
        if seen >= change {
            child.kill().unwrap();
            break;
        }
    }
    child.wait().unwrap();
    seen >= change
}

/// The content of each layer, by its diff id: path and digest of each file.
type Expected = BTreeMap<String, BTreeMap<PathBuf, String>>;

fn layers(count: usize) -> (Vec<Vec<u8>>, Expected) {
    let mut expected = Expected::new();
    let layers = (0..count)
        .map(|number| {
            let data = vec![number as u8; 40_000 + number];
            let bytes = layer(&format!("file-{number}"), &data);
            let files = [(PathBuf::from(format!("file-{number}")), digest(&data))].into();
            expected.insert(digest(&bytes), files);
            bytes
        })
        .collect();
    (layers, expected)
}

/// Every image that is there is whole, every layer that is there is right, every name leads somewhere.
fn check(root: &Path, expected: &Expected) {
    for image in open(root).list().unwrap() {
        for layer in &image.layers {
            assert!(layer.is_dir(), "{} lacks {}", image.id, layer.display());
        }
    }
    for entry in fs::read_dir(root.join("layers")).unwrap() {
        let path = entry.unwrap().path();
        let id = path.file_name().unwrap().to_str().unwrap().replacen('-', ":", 1);
        let found: BTreeMap<PathBuf, String> = fs::read_dir(&path)
            .unwrap()
            .map(|file| {
                let file = file.unwrap();
                (file.file_name().into(), digest(&fs::read(file.path()).unwrap()))
            })
            .collect();
        assert_eq!(&found, &expected[&id], "{id}");
    }
    for entry in fs::read_dir(root.join("refs")).unwrap() {
        let named: serde_json::Value =
            serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap();
        let id = named["id"].as_str().unwrap().replacen(':', "-", 1);
        assert!(root.join("images").join(format!("{id}.json")).exists());
    }
}

/// Kills at every change until the work gets to its end; how often that was.
async fn kill_everywhere(order: &str, root: &Path, expected: &Expected, fresh: bool) -> usize {
    for change in 1..1000 {
        if fresh {
            let _ = fs::remove_dir_all(root);
        }
        let store = open(root);
        let killed = kill_at(order, root, change);
        check(root, expected);
        if !killed {
            assert_eq!(store.list().unwrap().len(), 1);
            return change;
        }
        // What the dead have left goes, and what they had finished stays right.
        store.sweep().await.unwrap();
        check(root, expected);
        let left = fs::read_dir(root.join("ingest")).unwrap();
        let names: Vec<String> =
            left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.iter().all(|name| name.starts_with("blob-")), "{names:?}");
        assert_eq!(fs::read_dir(root.join("claims")).unwrap().count(), 0);
    }
    panic!("the work never came to its end");
}

#[tokio::test]
async fn a_pull_that_is_killed_at_any_change_leaves_nothing_wrong() {
    if left_out() {
        return;
    }
    let registry = Registry::start(None).await;
    let (layers, expected) = layers(3);
    registry.push("app:1", &layers, &ClientAuth::Anonymous).await;
    let root = registry.folder.join("killed");
    let order = format!("pull {} {}", registry.reference("app:1"), root.display());
    let rounds = kill_everywhere(&order, &root, &expected, true).await;
    assert!(rounds > 12, "{rounds}");
    // On a store that keeps what it had, each attempt comes further.
    fs::remove_dir_all(&root).unwrap();
    open(&root);
    for _ in 0..50 {
        if !kill_at(&order, &root, 8) {
            break;
        }
        check(&root, &expected);
    }
    check(&root, &expected);
}

#[tokio::test]
async fn an_import_that_is_killed_at_any_change_leaves_nothing_wrong() {
    if left_out() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (layers, expected) = layers(2);
    let archive = folder.path().join("app.tar");
    fs::write(&archive, docker_archive("demo:1", &layers)).unwrap();
    let root = folder.path().join("store");
    let order = format!("import {} {}", archive.display(), root.display());
    let rounds = kill_everywhere(&order, &root, &expected, true).await;
    assert!(rounds > 12, "{rounds}");
}

fn docker_archive(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/hello"]},
        "rootfs": {"type": "layers", "diff_ids": ids},
    });
    let files: Vec<String> = (0..layers.len()).map(|number| format!("{number}.tar")).collect();
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": files}]);
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, data: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        archive.append_data(&mut header, path, data).unwrap();
    };
    add("manifest.json", &serde_json::to_vec(&manifest).unwrap());
    add("config.json", &serde_json::to_vec(&config).unwrap());
    files.iter().zip(layers).for_each(|(file, layer)| add(file, layer));
    archive.into_inner().unwrap()
}

#[tokio::test]
async fn an_image_goes_with_the_layers_that_no_other_has() {
    if left_out() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let store = open(&root);
    let (all, expected) = layers(3);
    let import = |name: &str, layers: &[Vec<u8>]| {
        let archive = folder.path().join("app.tar");
        fs::write(&archive, docker_archive(name, layers)).unwrap();
        store.import(&archive).unwrap().remove(0)
    };
    let one = import("one:1", &all[..2]);
    let two = import("two:1", &all[1..]);
    assert_eq!(import("again:1", &all[1..]).id, two.id);
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000);
    for image in [&one, &two] {
        let record = root.join("images").join(format!("{}.json", image.id.replacen(':', "-", 1)));
        fs::File::open(record).unwrap().set_modified(long_ago).unwrap();
    }
    // Whoever asks for an image uses it.
    store.lookup("two:1").await.unwrap().unwrap();
    let used = |images: &[runtime::image::StoredImage], id: &str| {
        images.iter().find(|stored| stored.image.id == id).unwrap().last_used_at
    };
    let images = store.inventory().await.unwrap();
    assert_eq!(used(&images, &one.id), long_ago);
    assert!(used(&images, &two.id) > long_ago);
    assert!(images[0].added_at > long_ago);

    let freed = store.remove(&one.id).await.unwrap();
    // The folder and its one file; the layer that both have stays.
    assert!((40_000..100_000).contains(&freed), "{freed}");
    assert_eq!(store.lookup("one:1").await.unwrap(), None);
    assert!(store.lookup("again:1").await.unwrap().is_some());
    check(&root, &expected);
    assert_eq!(store.remove(&one.id).await.unwrap(), 0);
    store.remove(&two.id).await.unwrap();
    for place in ["images", "refs", "layers", "ingest", "claims"] {
        assert_eq!(fs::read_dir(root.join(place)).unwrap().count(), 0, "{place}");
    }
}
