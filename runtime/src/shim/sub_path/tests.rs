use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn folder(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

fn inode(opened: &OwnedFd) -> u64 {
    rustix::fs::fstat(opened).unwrap().st_ino
}

#[test]
fn links_are_followed_below_the_folder_only() {
    let root = tempfile::tempdir().unwrap();
    let volume = root.path().join("volume");
    fs::create_dir_all(volume.join("a/b")).unwrap();
    fs::write(root.path().join("secret"), "x").unwrap();
    symlink("a", volume.join("inside")).unwrap();
    symlink("../a/b", volume.join("a/up-and-down")).unwrap();
    symlink("../secret", volume.join("out")).unwrap();
    symlink("/", volume.join("root")).unwrap();
    symlink("root", volume.join("second-hand")).unwrap();
    symlink("loop", volume.join("loop")).unwrap();
    let deep = fs::metadata(volume.join("a/b")).unwrap().ino();
    let folder = folder(&volume);
    for path in ["a/b", "inside/b", "a/up-and-down", "./a//b/", "a/../a/b"] {
        assert_eq!(
            inode(&open_below(&folder, Path::new(path), ResolveFlags::BENEATH).unwrap()),
            deep,
            "{path}"
        );
    }
    for (path, errno) in [
        ("out", Errno::XDEV),
        ("root", Errno::XDEV),
        ("root/etc", Errno::XDEV),
        ("second-hand", Errno::XDEV),
        ("..", Errno::XDEV),
        ("a/../../secret", Errno::XDEV),
        ("/etc", Errno::XDEV),
        ("loop", Errno::LOOP),
        ("none", Errno::NOENT),
    ] {
        assert_eq!(
            open_below(&folder, Path::new(path), ResolveFlags::BENEATH).unwrap_err(),
            errno,
            "{path}"
        );
    }
}

/// What somebody inside a container does who wants to see the host's files: a link takes the place
/// of the folder, and the other way round, while it is opened.
#[test]
fn a_link_that_takes_the_folders_place_meanwhile_leads_nowhere() {
    let root = tempfile::tempdir().unwrap();
    let volume = root.path().join("volume");
    fs::create_dir_all(volume.join("sub/inner")).unwrap();
    fs::create_dir_all(root.path().join("host/inner")).unwrap();
    symlink("../host", volume.join("link")).unwrap();
    let outside = fs::metadata(root.path().join("host/inner")).unwrap().ino();
    let stop = AtomicBool::new(false);
    let (mut opened, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let volume = folder(&volume);
            while !stop.load(Ordering::Relaxed) {
                let swap = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(&volume, "sub", &volume, "link", swap).unwrap();
            }
        });
        let volume = folder(&volume);
        for _ in 0..20_000 {
            match open_below(&volume, Path::new("sub/inner"), ResolveFlags::BENEATH) {
                Ok(found) => {
                    assert_ne!(inode(&found), outside);
                    opened += 1;
                }
                Err(_) => refused += 1,
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    eprintln!("opened {opened} times, refused {refused} times");
}
