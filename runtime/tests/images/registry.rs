//! A real registry, Debian's `docker-registry`, on a loopback port of its own; and layers for it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::secrets::RegistryAuth as ClientAuth;
use oci_client::{Client, Reference};
use runtime::image::{ImageStore, ImageStoreConfig};
use sha2::{Digest, Sha256};

/// A registry and a folder, which go with the test.
pub(crate) struct Registry {
    process: Child,
    pub(crate) folder: PathBuf,
    pub(crate) address: String,
}

impl Registry {
    pub(crate) async fn start(htpasswd: Option<&str>) -> Self {
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

    pub(crate) fn store(&self) -> ImageStore {
        let config =
            ImageStoreConfig { root: self.folder.join("store"), ..ImageStoreConfig::default() };
        ImageStore::open(config).unwrap()
    }

    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    pub(crate) async fn push(&self, name: &str, layers: &[Vec<u8>], auth: &ClientAuth) {
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

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn layer(path: &str, data: &[u8]) -> Vec<u8> {
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

pub(crate) fn left_out() -> bool {
    let root = nix::unistd::Uid::effective().is_root();
    if !root {
        eprintln!("left out: unpacking layers needs root");
    }
    !root
}
