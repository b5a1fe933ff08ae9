//! Images made by the tools that people make images with: `umoci` and `skopeo`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use runtime::image::{Image, ImageService, ImageStore, ImageStoreConfig};

use crate::registry::{Registry, digest, left_out};

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| {
        panic!("{program} has to be installed, deploy/test does it: {error}")
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
}

/// An OCI layout of two layers: the second one changes, deletes and hides things of the first.
fn layout(folder: &Path) -> String {
    let layout = folder.join("layout").display().to_string();
    let image = format!("{layout}:v1");
    run("umoci", &["init", "--layout", &layout]);
    run("umoci", &["new", "--image", &image]);
    let bundle = folder.join("bundle");
    let bundle_name = bundle.display().to_string();
    let repack = |change: &dyn Fn(&Path)| {
        run("umoci", &["unpack", "--image", &image, &bundle_name]);
        change(&bundle.join("rootfs"));
        run("umoci", &["repack", "--image", &image, &bundle_name]);
        fs::remove_dir_all(&bundle).unwrap();
    };
    repack(&|root| {
        fs::create_dir_all(root.join("etc/old")).unwrap();
        fs::write(root.join("etc/keep"), "keep").unwrap();
        fs::write(root.join("etc/drop"), "drop").unwrap();
        fs::write(root.join("etc/old/a"), "a").unwrap();
        fs::create_dir(root.join("bin")).unwrap();
        fs::write(root.join("bin/tool"), "tool").unwrap();
        fs::set_permissions(root.join("bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::hard_link(root.join("bin/tool"), root.join("bin/other")).unwrap();
        std::os::unix::fs::symlink("tool", root.join("bin/link")).unwrap();
        std::os::unix::fs::chown(root.join("etc/keep"), Some(12), Some(34)).unwrap();
        rustix::fs::setxattr(
            root.join("bin/tool"),
            "user.colour",
            b"blue",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
    });
    repack(&|root| {
        fs::remove_file(root.join("etc/drop")).unwrap();
        fs::remove_dir_all(root.join("etc/old")).unwrap();
        fs::write(root.join("etc/new"), "new").unwrap();
    });
    run(
        "umoci",
        &[
            "config",
            "--image",
            &image,
            "--config.cmd",
            "/bin/tool",
            "--config.user",
            "12:34",
            "--config.env",
            "COLOUR=blue",
            "--config.workingdir",
            "/etc",
        ],
    );
    image
}

/// What a container would see of the layers.
fn merged(image: &Image) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    for layer in &image.layers {
        let mut open = vec![layer.clone()];
        while let Some(path) = open.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(layer).unwrap().to_owned();
            if metadata.is_dir() {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if metadata.rdev() == 0 && metadata.mode() & 0o170_000 == 0o020_000 {
                files.retain(|file: &PathBuf, _| !file.starts_with(&name));
            } else if metadata.is_symlink() {
                files.insert(name, fs::read_link(&path).unwrap().display().to_string());
            } else {
                let content = fs::read_to_string(&path).unwrap();
                let mode = metadata.mode() & 0o7777;
                files.insert(name, format!("{content} {mode:o} {}", metadata.uid()));
            }
        }
    }
    files
}

fn check(image: &Image) {
    let files: Vec<(String, String)> =
        merged(image).into_iter().map(|(path, what)| (path.display().to_string(), what)).collect();
    let expected = [
        ("bin/link", "tool"),
        ("bin/other", "tool 4755 0"),
        ("bin/tool", "tool 4755 0"),
        ("etc/keep", "keep 644 12"),
        ("etc/new", "new 644 0"),
    ];
    assert_eq!(files, expected.map(|(path, what)| (path.to_owned(), what.to_owned())));
    assert_eq!(image.config.cmd, ["/bin/tool"]);
    assert_eq!((image.config.user.as_str(), image.config.working_dir.as_str()), ("12:34", "/etc"));
    assert!(image.config.env.contains(&("COLOUR".to_owned(), "blue".to_owned())));
    let tool = image.layers.iter().map(|layer| layer.join("bin/tool")).find(|path| path.exists());
    let tool = tool.unwrap();
    assert_eq!(fs::metadata(&tool).unwrap().nlink(), 2);
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(&tool, "user.colour", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"blue");
}

#[tokio::test]
async fn images_of_umoci_and_skopeo_are_the_same_in_every_form() {
    if left_out() {
        return;
    }
    let registry = Registry::start(None).await;
    let folder = &registry.folder;
    let source = format!("oci:{}", layout(folder));
    let copy = |format: &[&str], target: &str| {
        let mut arguments = vec!["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"];
        arguments.extend(format);
        arguments.extend([source.as_str(), target]);
        run("skopeo", &arguments);
    };
    let store = |name: &str| {
        let root = folder.join(name);
        ImageStore::open(ImageStoreConfig { root, ..ImageStoreConfig::default() }).unwrap()
    };
    // Pushed: as OCI and as Docker schema 2, with each compression that skopeo makes.
    for (number, format) in [
        &["--format=oci", "--dest-compress-format=gzip"][..],
        &["--format=oci", "--dest-compress-format=zstd"],
        &["--format=v2s2", "--dest-compress-format=gzip"],
    ]
    .into_iter()
    .enumerate()
    {
        let reference = registry.reference(&format!("tools/app{number}:1"));
        copy(format, &format!("docker://{reference}"));
        check(&store(&format!("pulled-{number}")).pull(&reference, &[]).await.unwrap());
    }
    // As archives.
    for (number, form) in ["docker-archive", "oci-archive"].into_iter().enumerate() {
        let archive = folder.join(format!("{form}.tar"));
        let suffix =
            if form == "docker-archive" { ":tools/app:1" } else { ":localhost/tools/app:1" };
        copy(&[], &format!("{form}:{}{suffix}", archive.display()));
        let images = store(&format!("imported-{number}")).import(&archive).unwrap();
        check(&images[0]);
        assert_eq!(images[0].tags.len(), 1, "{:?}", images[0].tags);
    }
}

/// Layers that nobody compressed, as `skopeo` does not push them: the manifest is put by hand.
#[tokio::test]
async fn layers_without_compression_are_pulled_as_they_are() {
    if left_out() {
        return;
    }
    use oci_client::client::{Client, ClientConfig, ClientProtocol, Config, ImageLayer};
    let registry = Registry::start(None).await;
    let content = crate::registry::layer("plain", b"plain");
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/plain"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&content)]},
    });
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client =
        Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
    let layer = ImageLayer::oci_v1(content, None);
    let config = Config::oci_v1(serde_json::to_vec(&config).unwrap(), None);
    let reference = registry.reference("plain:1");
    let anonymous = oci_client::secrets::RegistryAuth::Anonymous;
    client.push(&reference.parse().unwrap(), &[layer], config, &anonymous, None).await.unwrap();
    let image = registry.store().pull(&reference, &[]).await.unwrap();
    assert_eq!(fs::read(image.layers[0].join("plain")).unwrap(), b"plain");
}
