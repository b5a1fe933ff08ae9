//! A real etcd, for as long as the value lives.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use master::store::{EtcdOptions, EtcdStore};

const BINARIES: [&str; 2] = ["/usr/bin/etcd", "/usr/local/bin/etcd"];
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Etcd {
    directory: tempfile::TempDir,
    client_port: u16,
    peer_port: u16,
    process: Option<Child>,
}

impl Etcd {
    pub(crate) async fn start() -> Self {
        let mut etcd = Self {
            directory: tempfile::tempdir().expect("a directory"),
            client_port: free_port(),
            peer_port: free_port(),
            process: None,
        };
        etcd.launch();
        etcd.store().await;
        etcd
    }

    /// Starts it (again) on its old data and ports.
    pub(crate) fn launch(&mut self) {
        let client = format!("http://127.0.0.1:{}", self.client_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))
            .expect("a log file");
        let process = Command::new(binary())
            .args(["--name", "test", "--logger", "zap", "--log-level", "warn"])
            // Elects itself at once, and lets leases be as short as the tests want them.
            .args(["--heartbeat-interval", "20", "--election-timeout", "200"])
            .arg("--data-dir")
            .arg(self.directory.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd starts");
        self.process = Some(process);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it runs");
            process.wait().expect("it ends");
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.client_port
    }

    /// Connects, as soon as it answers.
    pub(crate) async fn store(&self) -> EtcdStore {
        connect(self.client_port, self.directory.path()).await
    }
}

/// Connects to a port, as soon as something answers there.
pub(crate) async fn connect(port: u16, directory: &Path) -> EtcdStore {
    let options = EtcdOptions { servers: vec![format!("http://127.0.0.1:{port}")], tls: None };
    let deadline = Instant::now() + PATIENCE;
    loop {
        match EtcdStore::connect(&options).await {
            Ok(store) => return store,
            Err(error) if Instant::now() < deadline => {
                // Nothing tells when it listens; the first attempts are refused at once.
                let _ = error;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => {
                let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
                panic!("etcd does not answer: {error:?}\n{log}");
            }
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn binary() -> PathBuf {
    BINARIES.iter().map(PathBuf::from).find(|path| path.exists()).unwrap_or_else(|| {
        panic!("etcd is not installed: run deploy/test, which installs it, or apt-get install etcd-server")
    })
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}
