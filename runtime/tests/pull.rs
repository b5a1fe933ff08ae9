//! Pulling from a real registry: Debian's `docker-registry`, on a loopback port of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::secrets::RegistryAuth as ClientAuth;
use oci_client::{Client, Reference};
use runtime::image::{ImageError, ImageService, ImageStore, ImageStoreConfig, RegistryAuth};
use sha2::{Digest, Sha256};

/// A registry and a folder, which go with the test.
struct Registry {
    process: Child,
    folder: PathBuf,
    address: String,
}

impl Registry {
    async fn start(htpasswd: Option<&str>) -> Self {
        let folder = std::env::temp_dir().join(format!("kutter-pull-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        // Free at this moment; the registry has no way to say which port the kernel chose for it.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let auth = htpasswd.map_or(String::new(), |line| {
            let path = folder.join("htpasswd");
            std::fs::write(&path, line).unwrap();
            format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", path.display())
        });
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{address}\"}}\n{auth}",
            folder.join("registry").display()
        );
        std::fs::write(folder.join("config.yml"), config).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(folder.join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry has to be installed: deploy/test does it");
        let registry = Self { process, folder, address };
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while tokio::net::TcpStream::connect(&registry.address).await.is_err() {
            assert!(std::time::Instant::now() < deadline, "the registry did not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        registry
    }

    fn store(&self) -> ImageStore {
        let config =
            ImageStoreConfig { root: self.folder.join("store"), insecure_registries: Vec::new() };
        ImageStore::open(config).unwrap()
    }

    fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    async fn push(&self, name: &str, layers: &[Vec<u8>], auth: &ClientAuth) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
        let ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/hello"]},
            "rootfs": {"type": "layers", "diff_ids": ids},
        });
        let layers: Vec<ImageLayer> =
            layers.iter().map(|layer| ImageLayer::oci_v1_gzip(gzip(layer), None)).collect();
        let config = Config::oci_v1(serde_json::to_vec(&config).unwrap(), None);
        let reference: Reference = self.reference(name).parse().unwrap();
        client.push(&reference, &layers, config, auth, None).await.unwrap();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn layer(path: &str, data: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(data.len() as u64);
    builder.append_data(&mut header, path, data).unwrap();
    builder.into_inner().unwrap()
}

fn left_out() -> bool {
    let root = nix::unistd::Uid::effective().is_root();
    if !root {
        eprintln!("left out: unpacking layers needs root");
    }
    !root
}

#[tokio::test]
async fn pulls_once_for_many_and_finds_it_afterwards() {
    if left_out() {
        return;
    }
    let registry = Registry::start(None).await;
    let layers = [layer("one", b"1"), layer("two", &vec![7; 3_000_000])];
    registry.push("demo/app:1", &layers, &ClientAuth::Anonymous).await;
    let (store, reference) = (registry.store(), registry.reference("demo/app:1"));
    assert_eq!(store.lookup(&reference).await.unwrap(), None);
    let pulls = (0..16).map(|_| store.pull(&reference, &[]));
    let images = futures::future::try_join_all(pulls).await.unwrap();
    assert!(images.windows(2).all(|pair| pair[0] == pair[1]));
    let image = &images[0];
    assert_eq!(image.config.cmd, ["/hello"]);
    assert_eq!(std::fs::read(image.layers[1].join("two")).unwrap().len(), 3_000_000);
    assert!(image.repo_digests[0].starts_with(&format!("{}/demo/app@sha256:", registry.address)));
    assert_eq!(store.lookup(&reference).await.unwrap().as_ref(), Some(image));
    let ingest = registry.folder.join("store/ingest");
    assert_eq!(std::fs::read_dir(ingest).unwrap().count(), 0);
}

#[tokio::test]
async fn an_interrupted_download_is_resumed_and_a_damaged_one_noticed() {
    if left_out() {
        return;
    }
    let registry = Registry::start(None).await;
    let data: Vec<u8> =
        (0..2_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let content = layer("big", &data);
    registry.push("big:1", std::slice::from_ref(&content), &ClientAuth::Anonymous).await;
    let (store, reference) = (registry.store(), registry.reference("big:1"));
    let packed = gzip(&content);
    let partial = |bytes: &[u8]| {
        let name = format!("blob-{}", digest(&packed).replace(':', "-"));
        std::fs::write(registry.folder.join("store/ingest").join(name), bytes).unwrap();
    };

    let mut damaged = packed[..packed.len() / 2].to_vec();
    damaged[1000] ^= 1;
    partial(&damaged);
    let error = store.pull(&reference, &[]).await.unwrap_err();
    assert!(matches!(error, ImageError::Layer { .. }), "{error}");
    assert_eq!(store.lookup(&reference).await.unwrap(), None);

    partial(&packed[..packed.len() / 2]);
    let image = store.pull(&reference, &[]).await.unwrap();
    assert_eq!(std::fs::read(image.layers[0].join("big")).unwrap(), data);
}

#[tokio::test]
async fn says_what_is_missing_and_who_was_refused() {
    if left_out() {
        return;
    }
    // The password is "secret", hashed with bcrypt.
    let line = "me:$2b$05$.NJ.MJeJ5UKUdBE5IhZJI.e0oUbvYqWBMIiAbFoZb.qQ3kcyCxxKS\n";
    let registry = Registry::start(None).await;
    let store = registry.store();
    let error = store.pull(&registry.reference("no/such:1"), &[]).await.unwrap_err().to_string();
    assert!(error.contains("no/such:1") && error.contains("does not have it"), "{error}");

    let refusing = Registry::start(Some(line)).await;
    let store = refusing.store();
    let wrong = RegistryAuth::Basic { username: "me".to_owned(), password: "not this".to_owned() };
    let error = store.pull(&refusing.reference("a:1"), &[wrong]).await.unwrap_err().to_string();
    assert!(error.contains("refuses access"), "{error}");

    // The first credentials that the registry accepts serve.
    let right = RegistryAuth::Basic { username: "me".to_owned(), password: "secret".to_owned() };
    let auth = ClientAuth::Basic("me".to_owned(), "secret".to_owned());
    refusing.push("a:1", &[layer("one", b"1")], &auth).await;
    let wrong = RegistryAuth::Basic { username: "me".to_owned(), password: "old".to_owned() };
    store.pull(&refusing.reference("a:1"), &[wrong, right]).await.unwrap();
}

#[tokio::test]
async fn an_unreachable_registry_is_named() {
    if left_out() {
        return;
    }
    let folder = std::env::temp_dir().join(format!("kutter-pull-{}", uuid::Uuid::new_v4()));
    let config = ImageStoreConfig { root: folder.clone(), insecure_registries: Vec::new() };
    let store = ImageStore::open(config).unwrap();
    // Port 1 on loopback: nobody listens there.
    let error = store.pull("127.0.0.1:1/a/b:1", &[]).await.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1 cannot be reached"), "{error}");
    assert!(Path::new(&folder).exists());
    std::fs::remove_dir_all(folder).unwrap();
}
