use std::fs;
use std::os::unix::fs::symlink;

use super::*;

fn point(path: &str, is_folder: bool) -> MountPoint {
    let propagation = crate::api::Propagation::None;
    MountPoint { path: PathBuf::from(path), is_folder, sub_path: None, propagation }
}

fn make_in(folder: &Path, path: &str, is_folder: bool) -> rustix::io::Result<()> {
    let root: OwnedFd = File::open(folder.join("root")).unwrap().into();
    make(&root, &point(path, is_folder), 0)
}

fn root() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("root/etc")).unwrap();
    fs::create_dir_all(folder.path().join("outside")).unwrap();
    folder
}

#[test]
fn folders_and_files_are_made() {
    let folder = root();
    make_in(folder.path(), "/a/b/c", true).unwrap();
    make_in(folder.path(), "/a/file", false).unwrap();
    // What is there stays.
    make_in(folder.path(), "/a/b", true).unwrap();
    make_in(folder.path(), "/", true).unwrap();
    assert!(folder.path().join("root/a/b/c").is_dir());
    assert!(folder.path().join("root/a/file").is_file());
}

#[test]
fn links_lead_within_the_root() {
    let folder = root();
    let link = |to: &str, name: &str| symlink(to, folder.path().join("root").join(name)).unwrap();
    link("/run/gone", "absolute");
    link("../../../../outside", "relative");
    link("../run/resolve/stub", "etc/resolv.conf");
    make_in(folder.path(), "/absolute/x", true).unwrap();
    make_in(folder.path(), "/relative/x", true).unwrap();
    make_in(folder.path(), "/etc/resolv.conf", false).unwrap();
    let root = folder.path().join("root");
    assert!(root.join("run/gone/x").is_dir());
    assert!(root.join("outside/x").is_dir());
    assert!(root.join("run/resolve/stub").is_file());
    assert_eq!(fs::read_dir(folder.path().join("outside")).unwrap().count(), 0);
}

#[test]
fn links_in_a_circle_are_refused() {
    let folder = root();
    symlink("b", folder.path().join("root/a")).unwrap();
    symlink("a", folder.path().join("root/b")).unwrap();
    assert_eq!(make_in(folder.path(), "/a/x", true), Err(Errno::LOOP));
}

#[test]
fn a_file_in_the_way_is_refused() {
    let folder = root();
    fs::write(folder.path().join("root/file"), "").unwrap();
    assert_eq!(make_in(folder.path(), "/file/x", true), Err(Errno::NOTDIR));
}
