//! How much an image may unpack to.

use super::*;

#[test]
fn an_image_that_unpacks_to_too_much_is_refused_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let store = folder.store();
    let three = Tar::new().file("one", b"12").file("two", b"34").file("three", b"5").bytes();
    // The folders that an entry needs count as well.
    let deep = Tar::new().file("a/b/c/d", b"").bytes();
    let folders = Tar::new().folder("long").folder("longer").bytes();
    for (layer, bounds, what) in [
        (&three, Bounds::new(2, 100, 100), "2 files and folders"),
        (&three, Bounds::new(100, 4, 100), "4 bytes"),
        (&deep, Bounds::new(3, 100, 100), "3 files and folders"),
        (&folders, Bounds::new(100, 100, 9), "9 bytes in names of folders"),
    ] {
        let error = unpack_within(&store, layer, &bounds).unwrap_err().to_string();
        assert!(error.contains(&format!("more than {what}")), "{error}");
        for place in ["store/layers", "store/ingest"] {
            assert_eq!(fs::read_dir(folder.0.join(place)).unwrap().count(), 0);
        }
    }
    // Layers of one image take of the same.
    let bounds = Bounds::new(7, 5, 10);
    for layer in [&three, &deep] {
        unpack_within(&store, layer, &bounds).unwrap();
    }
    assert!(unpack_within(&store, &folders, &bounds).is_err());
}
