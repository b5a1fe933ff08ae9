use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::bounds::Bounds;
use super::store::hex;
use super::unpack::{highest_owner, unpack_stream};
use super::{ImageError, ImageService, ImageStore, ImageStoreConfig, resolve_user};
use crate::api::User;

mod bounds;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("kutter-image-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn store(&self) -> ImageStore {
        let root = self.0.join("store");
        ImageStore::open(ImageStoreConfig { root, ..ImageStoreConfig::default() }).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A tar archive, entry by entry.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn add(mut self, path: &str, kind: tar::EntryType, mode: u32, link: &str, data: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        // Written by hand: the builder refuses the paths that an attacker would write.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn file(self, path: &str, data: &[u8]) -> Self {
        self.add(path, tar::EntryType::Regular, 0o644, "", data)
    }

    fn folder(self, path: &str) -> Self {
        self.add(path, tar::EntryType::Directory, 0o755, "", b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.add(path, tar::EntryType::Symlink, 0o777, target, b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn unpack(store: &ImageStore, layer: &[u8]) -> Result<PathBuf, ImageError> {
    unpack_within(store, layer, &Bounds::default())
}

fn unpack_within(store: &ImageStore, layer: &[u8], bounds: &Bounds) -> Result<PathBuf, ImageError> {
    let id = digest(layer);
    unpack_stream(store, layer, &id, bounds).map(|()| store.layer_path(&id))
}

fn is_root() -> bool {
    let root = nix::unistd::Uid::effective().is_root();
    if !root {
        eprintln!("left out: owners and device nodes need root");
    }
    root
}

#[test]
fn unpacks_files_links_modes_owners_and_times() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let layer = Tar::new()
        .folder("bin")
        .add("bin/tool", tar::EntryType::Regular, 0o4755, "", b"program")
        .symlink("bin/alias", "tool")
        .add("bin/hard", tar::EntryType::Link, 0o755, "bin/tool", b"")
        .file("made/on/the/way", b"x")
        .bytes();
    let path = unpack(&folder.store(), &layer).unwrap();
    let tool = fs::metadata(path.join("bin/tool")).unwrap();
    assert_eq!(tool.permissions().mode() & 0o7777, 0o4755);
    assert_eq!((tool.uid(), tool.gid(), tool.mtime()), (7, 8, 1_000_000_000));
    assert_eq!(highest_owner(&path), Some(8));
    assert_eq!(fs::metadata(path.join("bin/hard")).unwrap().ino(), tool.ino());
    assert_eq!(fs::read_link(path.join("bin/alias")).unwrap(), Path::new("tool"));
    assert_eq!(fs::metadata(path.join("bin")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(fs::read(path.join("made/on/the/way")).unwrap(), b"x");
}

#[test]
fn turns_whiteouts_into_what_overlayfs_understands() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let layer = Tar::new().folder("d").file("d/.wh..wh..opq", b"").file("d/.wh.gone", b"").bytes();
    let path = unpack(&folder.store(), &layer).unwrap();
    let gone = fs::symlink_metadata(path.join("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device());
    assert_eq!(gone.rdev(), 0);
    let mut value = [0u8; 1];
    rustix::fs::getxattr(path.join("d"), "trusted.overlay.opaque", &mut value[..]).unwrap();
    assert_eq!(&value, b"y");
}

#[test]
fn a_layer_cannot_write_outside_of_its_folder() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let outside = folder.0.join("outside");
    fs::create_dir(&outside).unwrap();
    let absolute = outside.to_str().unwrap();
    let store = folder.store();
    for layer in [
        Tar::new().symlink("way", absolute).file("way/evil", b"x"),
        Tar::new().symlink("way", "../../../outside").file("way/evil", b"x"),
        Tar::new().file("../../outside/evil", b"x"),
        Tar::new().file("a/../../../outside/evil", b"x"),
        Tar::new().symlink("evil", &format!("{absolute}/evil")).file("evil", b"x"),
        Tar::new().symlink("way", absolute).file("way/.wh.kept", b""),
        Tar::new().add("evil", tar::EntryType::Link, 0o644, "../../outside/kept", b""),
    ] {
        fs::write(outside.join("kept"), b"kept").unwrap();
        // Some are refused, the others land inside; what counts is what is outside.
        let _ = unpack(&store, &layer.bytes());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::read(outside.join("kept")).unwrap(), b"kept");
    }
}

/// An entry of PAX extensions for the next one.
fn pax(tar: Tar, extensions: &[(&str, &[u8])]) -> Tar {
    let mut data = Vec::new();
    for (key, value) in extensions {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length += 1;
        }
        data.extend(format!("{length} {key}=").into_bytes());
        data.extend(*value);
        data.push(b'\n');
    }
    tar.add("pax", tar::EntryType::XHeader, 0o644, "", &data)
}

#[test]
fn attributes_are_kept_but_those_that_steer_overlayfs() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let extensions: [(&str, &[u8]); 4] = [
        ("SCHILY.xattr.user.colour", b"blue"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.other", b"x"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
    ];
    let layer =
        pax(pax(Tar::new(), &extensions).folder("d"), &extensions).file("d/f", b"x").bytes();
    let path = unpack(&folder.store(), &layer).unwrap();
    for file in ["d", "d/f"] {
        let mut names = [0u8; 512];
        let length = rustix::fs::listxattr(path.join(file), &mut names[..]).unwrap();
        let names = String::from_utf8_lossy(&names[..length]).into_owned();
        assert_eq!(names.trim_end_matches('\0'), "user.colour", "{file}");
    }
}

/// An archive that ends in a header with so much to come, which is then read as zeros, and how much was.
struct Endless {
    start: std::io::Cursor<Vec<u8>>,
    zeros: u64,
    read: Arc<AtomicU64>,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut count = self.start.read(buffer)?;
        if count == 0 {
            count = buffer.len().min(usize::try_from(self.zeros).unwrap_or(usize::MAX));
            buffer[..count].fill(0);
            self.zeros -= count as u64;
        }
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[test]
fn names_and_extensions_that_fill_memory_are_refused() {
    if !is_root() {
        return;
    }
    const TOLD: u64 = 6 << 30;
    let folder = Folder::new();
    let store = folder.store();
    for kind in [tar::EntryType::XHeader, tar::EntryType::GNULongName, tar::EntryType::GNULongLink]
    {
        let mut header = tar::Header::new_gnu();
        header.set_path("bomb").unwrap();
        header.set_entry_type(kind);
        header.set_size(TOLD);
        header.set_cksum();
        let mut start = Tar::new().file("first", &vec![1; 3 << 20]).bytes();
        // Without the two blocks of zeros that end an archive.
        start.truncate(start.len() - 1024);
        start.extend(header.as_bytes());
        let read = Arc::new(AtomicU64::new(0));
        let start = std::io::Cursor::new(start);
        let archive = Endless { start, zeros: TOLD, read: Arc::clone(&read) };
        let error = unpack_stream(&store, archive, &digest(b""), &Bounds::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("the headers of an entry take more than 1048576 bytes"), "{error}");
        let read = read.load(Ordering::Relaxed);
        assert!(read < 8 << 20, "{read} bytes were read of {kind:?}");
    }
    assert_eq!(fs::read_dir(folder.0.join("store/ingest")).unwrap().count(), 0);
}

#[test]
fn long_names_and_large_attributes_that_are_meant_pass() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let value = vec![b'v'; 1024];
    let extensions: [(&str, &[u8]); 1] = [("SCHILY.xattr.user.colour", &value)];
    let mut archive = Tar::new();
    // Content between headers does not count, also where nobody wants it.
    archive = archive.add("d", tar::EntryType::Directory, 0o755, "", &vec![1; 2 << 20]);
    archive = pax(archive, &extensions).file("d/f", &vec![1; 2 << 20]);
    archive = archive.add("pax", tar::EntryType::XGlobalHeader, 0o644, "", b"18 comment=a test\n");
    let long = format!("d/{}/{}", "x".repeat(200), "y".repeat(250));
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(9);
    archive.0.append_data(&mut header, &long, &b"z"[..]).unwrap();
    let path = unpack(&folder.store(), &archive.bytes()).unwrap();
    assert_eq!(fs::read(path.join(long)).unwrap(), b"z");
    let mut found = [0; 2048];
    let length = rustix::fs::getxattr(path.join("d/f"), "user.colour", &mut found).unwrap();
    assert_eq!(&found[..length], value);
}

#[test]
fn a_path_in_extensions_is_no_way_out_either() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let outside = folder.0.join("outside");
    fs::create_dir(&outside).unwrap();
    let store = folder.store();
    let absolute = outside.join("evil").to_str().unwrap().to_owned();
    for path in ["../../outside/evil", "a/../../../../outside/evil", absolute.as_str()] {
        let layer = pax(Tar::new(), &[("path", path.as_bytes())]).file("f", b"x").bytes();
        let _ = unpack(&store, &layer);
        let link = pax(Tar::new(), &[("linkpath", path.as_bytes())]);
        let link = link.add("f", tar::EntryType::Link, 0o644, "x", b"").bytes();
        let _ = unpack(&store, &link);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{path}");
    }
}

#[test]
fn what_a_layer_may_not_hold_is_refused_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let store = folder.store();
    for (layer, reason) in [
        (Tar::new().add("d", tar::EntryType::Char, 0o666, "", b""), "device"),
        (Tar::new().add("d", tar::EntryType::new(b'Z'), 0o666, "", b""), "unknown type"),
        (Tar::new().add("a", tar::EntryType::Link, 0o644, "/", b""), "links to the root"),
        (Tar::new().add("a", tar::EntryType::Link, 0o644, "not/there", b""), "not/there"),
        (Tar::new().file("d/.wh...", b""), "no name to delete"),
        (Tar::new().file("a/../../b", b""), "leads out"),
    ] {
        let error = unpack(&store, &layer.bytes()).unwrap_err().to_string();
        assert!(error.contains(reason) || reason == "not/there", "{error}");
        assert_eq!(fs::read_dir(folder.0.join("store/layers")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(folder.0.join("store/ingest")).unwrap().count(), 0);
    }
}

#[test]
fn a_sparse_file_larger_than_the_disk_is_refused_at_once() {
    let folder = Folder::new();
    let mut header = tar::Header::new_gnu();
    header.set_path("bomb").unwrap();
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(512);
    let gnu = header.as_gnu_mut().unwrap();
    // A petabyte, of which the last block is there.
    let (size, offset) = (1u64 << 50, (1u64 << 50) - 512);
    let binary = |value: u64| {
        let mut field = [0u8; 12];
        field[0] = 0x80;
        field[4..].copy_from_slice(&value.to_be_bytes());
        field
    };
    gnu.realsize = binary(size);
    gnu.sparse[0].offset = binary(offset);
    gnu.sparse[0].numbytes = binary(512);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, &[7u8; 512][..]).unwrap();
    let (layer, bounds) = (builder.into_inner().unwrap(), Bounds::new(1, u64::MAX, 1));
    let error = unpack_within(&folder.store(), &layer, &bounds).unwrap_err().to_string();
    assert!(error.contains("are free"), "{error}");
}

#[test]
fn a_damaged_layer_leaves_nothing() {
    let folder = Folder::new();
    let store = folder.store();
    let layer = Tar::new().file("a", b"data").bytes();
    let other = digest(b"something else");
    let error = unpack_stream(&store, &layer[..], &other, &Bounds::default()).unwrap_err();
    assert!(error.to_string().contains("digest"), "{error}");
    assert!(!store.layer_path(&other).exists());
    let id = digest(&layer);
    assert!(unpack_stream(&store, &layer[..700], &id, &Bounds::default()).is_err());
    assert!(!store.layer_path(&id).exists());
    assert_eq!(fs::read_dir(folder.0.join("store/ingest")).unwrap().count(), 0);
}

fn config(layer: &[u8]) -> Vec<u8> {
    serde_json::to_vec(&json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": ["/bin/server"], "Cmd": ["--port", "80"], "User": "web",
                   "Env": ["PATH=/bin", "EMPTY="], "WorkingDir": "/srv", "StopSignal": "SIGQUIT"},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
    }))
    .unwrap()
}

fn layer() -> Vec<u8> {
    Tar::new()
        .folder("etc")
        .file("etc/passwd", b"root:x:0:0::/:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n")
        .file("etc/group", b"root:x:0:\nweb:x:34:\nlogs:x:40:other,web\n")
        .bytes()
}

fn docker_archive(folder: &Folder) -> PathBuf {
    let manifest = json!([{"Config": "c.json", "RepoTags": ["demo:1"], "Layers": ["l/layer.tar"]}]);
    let bytes = Tar::new()
        .file("manifest.json", &serde_json::to_vec(&manifest).unwrap())
        .file("c.json", &config(&layer()))
        .file("real.tar", &layer())
        .symlink("l/layer.tar", "../real.tar")
        .bytes();
    let path = folder.0.join("docker.tar");
    fs::write(&path, bytes).unwrap();
    path
}

fn oci_archive(folder: &Folder) -> PathBuf {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&layer()).unwrap();
    let packed = encoder.finish().unwrap();
    let config = config(&layer());
    let descriptor = |media: &str, bytes: &[u8]| {
        json!({"mediaType": format!("application/vnd.oci.image.{media}"),
               "digest": digest(bytes), "size": bytes.len()})
    };
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "config": descriptor("config.v1+json", &config),
        "layers": [descriptor("layer.v1.tar+gzip", &packed)],
    }))
    .unwrap();
    let mut entry = descriptor("manifest.v1+json", &manifest);
    entry["annotations"] =
        json!({"org.opencontainers.image.ref.name": "localhost:5000/oci/demo:2"});
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]})).unwrap();
    let mut tar = Tar::new().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    tar = tar.file("index.json", &index);
    for blob in [&packed, &config, &manifest] {
        tar = tar.file(&format!("blobs/{}", digest(blob).replace(':', "/")), blob);
    }
    let path = folder.0.join("oci.tar");
    fs::write(&path, tar.bytes()).unwrap();
    path
}

#[tokio::test]
async fn imports_docker_and_oci_archives_of_one_image_and_shares_the_layer() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let store = folder.store();
    let imported = store.import(&docker_archive(&folder)).unwrap();
    assert_eq!(imported[0].tags, ["docker.io/library/demo:1"]);
    assert_eq!(imported[0].config.entrypoint, ["/bin/server"]);
    assert_eq!(imported[0].config.env[1], ("EMPTY".to_owned(), String::new()));
    let second = store.import(&oci_archive(&folder)).unwrap();
    assert_eq!(second[0].id, imported[0].id);
    assert_eq!(second[0].layers, imported[0].layers);

    // Another process sees it as well.
    let store = folder.store();
    let found = store.lookup("demo:1").await.unwrap().unwrap();
    assert_eq!(found.tags, ["docker.io/library/demo:1", "localhost:5000/oci/demo:2"]);
    assert_eq!(store.lookup("localhost:5000/oci/demo:2").await.unwrap().unwrap(), found);
    assert_eq!(store.lookup("demo:3").await.unwrap(), None);
    assert_eq!(store.list().unwrap(), [found]);
}

#[test]
fn an_archive_cut_short_is_refused_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let store = folder.store();
    let whole = fs::read(oci_archive(&folder)).unwrap();
    for length in (0..whole.len()).step_by(301) {
        let path = folder.0.join("cut.tar");
        fs::write(&path, &whole[..length]).unwrap();
        if let Err(error) = store.import(&path) {
            assert!(error.to_string().contains("import"), "{error}");
            assert_eq!(store.list().unwrap(), []);
        }
        assert_eq!(fs::read_dir(folder.0.join("store/ingest")).unwrap().count(), 0);
        if !store.list().unwrap().is_empty() {
            // Only the padding at the end was cut off.
            assert!(length > whole.len() - 1536);
            return;
        }
    }
}

#[test]
fn resolves_users_as_container_engines_do() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let layers = [unpack(&folder.store(), &layer()).unwrap()];
    let user = |uid, gid, additional_gids| User { uid, gid, additional_gids };
    let resolve = |text: &str| resolve_user(&layers, text);
    assert_eq!(resolve("").unwrap(), user(0, 0, vec![]));
    assert_eq!(resolve("web").unwrap(), user(33, 34, vec![40]));
    assert_eq!(resolve("33").unwrap(), user(33, 34, vec![40]));
    assert_eq!(resolve("web:logs").unwrap(), user(33, 40, vec![]));
    assert_eq!(resolve("1000:1001").unwrap(), user(1000, 1001, vec![]));
    assert_eq!(resolve("1000").unwrap(), user(1000, 0, vec![]));
    assert!(matches!(resolve("nobody"), Err(ImageError::NoSuchUser { name }) if name == "nobody"));
    assert!(resolve("web:none").is_err());
    assert_eq!(resolve_user(&[], "5").unwrap(), user(5, 0, vec![]));
}
