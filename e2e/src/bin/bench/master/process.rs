//! A master and, where it is wanted, an etcd, as processes of their own on loopback.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::lab::StoreKind;

use super::client::Server;

/// A start takes far less.
const START: Duration = Duration::from_secs(30);

/// Ends with its value.
pub(super) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log = std::fs::File::create(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(command.spawn().with_context(|| format!("cannot start {command:?}"))?))
    }

    /// A line of its `/proc/PID/status`, in MB.
    fn status_mb(&self, field: &str) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kilobytes =
            line.and_then(|line| line.trim().strip_suffix(" kB")).context(status.clone())?;
        Ok(kilobytes.trim().parse::<f64>()? / 1024.0)
    }

    /// How long it has worked on processors so far, in user and kernel mode.
    pub(super) fn processor_time(&self) -> Result<Duration> {
        /// `USER_HZ`, which is the same on all of Linux' architectures that we run on.
        const TICKS_PER_SECOND: u64 = 100;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        // The name, in parentheses, may hold anything. `utime` and `stime` are fields 14 and 15.
        let (_, fields) = stat.rsplit_once(") ").context(stat.clone())?;
        let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
        let ticks = ticks.sum::<Result<u64, _>>()?;
        Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
    }

    pub(super) fn resident_mb(&self) -> Result<f64> {
        self.status_mb("VmRSS")
    }

    /// The most since [`forget_peak`](Self::forget_peak).
    pub(super) fn peak_mb(&self) -> Result<f64> {
        self.status_mb("VmHWM")
    }

    pub(super) fn forget_peak(&self) -> Result<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.0.id()), "5")?)
    }
}

/// A master alone, with its store.
pub(super) struct Master {
    pub(super) process: Process,
    pub(super) server: Server,
    /// Its address, if there is one.
    pub(super) etcd: Option<String>,
    _etcd: Option<Process>,
    _folder: tempfile::TempDir,
}

impl Master {
    pub(super) async fn start(store: StoreKind) -> Result<Self> {
        let folder = tempfile::tempdir_in("/var/tmp")?;
        let program = std::env::current_exe()?.with_file_name("master");
        ensure!(program.exists(), "{} is missing: cargo build --release", program.display());
        let data = folder.path().join("data");
        let mut command = Command::new(program);
        command.arg("--data-dir").arg(&data).arg(format!("--listen=127.0.0.1:{}", free_port()?));
        command.env("RUST_LOG", "warn");
        let (etcd, address) = match store {
            StoreKind::Embedded => (None, None),
            StoreKind::Etcd => {
                let (process, address) = etcd(folder.path())?;
                command.arg("--store=etcd").arg(format!("--etcd-servers={address}"));
                (Some(process), Some(address))
            }
        };
        let process = Process::start(&mut command, &folder.path().join("master.log"))?;
        let server = ready(&data.join("admin.kubeconfig")).await?;
        Ok(Self { process, server, etcd: address, _etcd: etcd, _folder: folder })
    }
}

fn etcd(folder: &Path) -> Result<(Process, String)> {
    let address = format!("http://127.0.0.1:{}", free_port()?);
    let peer = format!("http://127.0.0.1:{}", free_port()?);
    let mut command = Command::new("etcd");
    command
        .arg("--data-dir")
        .arg(folder.join("etcd"))
        .args(["--listen-client-urls", &address, "--advertise-client-urls", &address])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"]);
    Ok((Process::start(&mut command, &folder.join("etcd.log"))?, address))
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until the master answers a client that it has made a kubeconfig for.
async fn ready(kubeconfig: &Path) -> Result<Server> {
    let deadline = Instant::now() + START;
    loop {
        if kubeconfig.exists() {
            let server = Server::load(kubeconfig)?;
            if let Ok(mut connection) = server.connect().await {
                let path = "/api/v1/namespaces/default";
                let asked = connection.exchange(
                    http::Method::GET,
                    path,
                    bytes::Bytes::new(),
                    http::StatusCode::OK,
                );
                if asked.await.is_ok() {
                    return Ok(server);
                }
            }
        }
        ensure!(Instant::now() < deadline, "the master does not come up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
