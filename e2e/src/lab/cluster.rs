//! A lab with a cluster on it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::machine::{checked, program};
use super::{Machine, network};
use crate::image::{TEST_IMAGE, write_archive};

/// Where the master keeps its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum StoreKind {
    /// In a file of the master's.
    Embedded,
    /// In an etcd on the hub.
    Etcd,
}

/// What a lab is made from.
#[derive(Clone, Debug)]
pub struct LabConfig {
    /// State of everything; goes with the lab.
    pub folder: PathBuf,
    /// How many nodes, at most 200.
    pub nodes: u8,
    /// On how many segments they are, about as many on each. The hub is the router between, and the
    /// master is on the first one.
    pub segments: u8,
    /// Whether pods and Services have addresses of both families.
    pub dual_stack: bool,
    /// Where the master keeps its state.
    pub store: StoreKind,
    /// Further arguments of the master.
    pub master_args: Vec<String>,
    /// Further arguments of every kubelet.
    pub kubelet_args: Vec<String>,
    /// Whether the lab stays when this process ends.
    pub stay: bool,
}

/// A running lab.
#[derive(Debug, Serialize, Deserialize)]
pub struct Lab {
    /// Names its cgroups.
    id: String,
    folder: PathBuf,
    store: StoreKind,
    dual_stack: bool,
    master_args: Vec<String>,
    kubelet_args: Vec<String>,
    stay: bool,
    /// Where the bridge, etcd and the tests are.
    pub hub: Machine,
    /// Where the master is.
    pub master: Machine,
    /// Where the kubelets are.
    pub nodes: Vec<Machine>,
}

/// On a loaded machine with unoptimised programs; a healthy start takes a second or two.
const START: Duration = Duration::from_secs(60);

impl Lab {
    /// Makes the machines and their network; nothing of Kutter runs yet.
    ///
    /// # Errors
    /// When that is not possible: it takes root, iproute2 and util-linux.
    pub fn prepare(config: LabConfig) -> Result<Self> {
        let LabConfig {
            folder,
            nodes,
            segments,
            dual_stack,
            store,
            mut master_args,
            kubelet_args,
            stay,
        } = config;
        if dual_stack {
            master_args.extend(network::BOTH_FAMILIES.map(str::to_owned));
        }
        std::fs::create_dir_all(&folder)?;
        let start = |name: &str, segment: u8, host: u8| {
            Machine::start(name, network::addresses(segment, host), folder.join(name), stay)
        };
        let hub = start("hub", 0, network::HUB)?;
        let master = start("master", 0, 10)?;
        let segments = segments.clamp(1, nodes.max(1));
        let nodes = (1..=nodes)
            .map(|number| {
                let segment = (u16::from(number) - 1) * u16::from(segments) / u16::from(nodes);
                start(&format!("node{number}"), u8::try_from(segment)?, 20 + number)
            })
            .collect::<Result<Vec<_>>>()?;
        network::set_up_hub(&hub, segments)?;
        for machine in std::iter::once(&master).chain(&nodes) {
            network::connect(&hub, machine)?;
        }
        let id = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
        let lab = Self {
            id,
            folder,
            store,
            dual_stack,
            master_args,
            kubelet_args,
            stay,
            hub,
            master,
            nodes,
        };
        std::fs::write(lab.folder.join("lab.json"), serde_json::to_vec(&lab)?)?;
        Ok(lab)
    }

    /// A lab that another process made to stay.
    ///
    /// # Errors
    /// When there is none in the folder.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("lab.json");
        let bytes = std::fs::read(&path).with_context(|| {
            format!("there is no lab in {}: make one with `lab up`", folder.display())
        })?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Starts the store, the master and the kubelets, and waits until every node is ready.
    ///
    /// # Errors
    /// When something does not start; its log's end is in the error.
    pub fn start(&self) -> Result<()> {
        if self.store == StoreKind::Etcd {
            self.start_etcd()?;
        }
        self.start_master()?;
        let archive = self.folder.join("testserver.tar");
        write_archive(&archive, &[TEST_IMAGE])?;
        let token = self.token()?;
        for node in &self.nodes {
            let kubelet = program("kubelet")?;
            let words = ["kubelet", "image", "import"];
            let root = node.folder.join("kubelet");
            checked(
                node.command(&kubelet)
                    .args(["image", "import"])
                    .arg(&archive)
                    .arg("--root-dir")
                    .arg(root),
                &words,
            )?;
            self.start_kubelet(node, Some(&token))?;
        }
        for node in &self.nodes {
            self.wait_ready(node)?;
        }
        Ok(())
    }

    /// Starts etcd on the hub.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn start_etcd(&self) -> Result<()> {
        let data = self.hub.folder.join("etcd");
        let command = [
            "etcd".to_owned(),
            format!("--data-dir={}", data.display()),
            "--listen-client-urls=http://10.77.0.1:2379".to_owned(),
            "--advertise-client-urls=http://10.77.0.1:2379".to_owned(),
            "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        ];
        self.hub.spawn("etcd", &command).map(drop)
    }

    /// Starts the master and waits until it is ready.
    ///
    /// # Errors
    /// When it is not within a minute.
    pub fn start_master(&self) -> Result<()> {
        let mut command = vec![
            path(&program("master")?),
            format!("--data-dir={}", path(&self.master_folder())),
            format!("--listen={}:6443", self.master.address),
            format!("--advertise-address={}", self.master.address),
        ];
        if self.store == StoreKind::Etcd {
            command.push("--store=etcd".to_owned());
            command.push("--etcd-servers=http://10.77.0.1:2379".to_owned());
        }
        command.extend(self.master_args.iter().cloned());
        self.master.spawn("master", &command)?;
        self.wait(&self.master, "master", || {
            let url = format!("https://{}:6443/readyz", self.master.address);
            Ok(self.hub.run(&["curl", "-ksf", "-m", "2", &url]).is_ok_and(|body| body == "ok"))
        })
    }

    /// Starts a kubelet; with a token it joins, without it must have joined before.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_kubelet(&self, node: &Machine, token: Option<&str>) -> Result<()> {
        let mut addresses = node.address.to_string();
        if self.dual_stack {
            addresses.push_str(&format!(",{}", node.address6));
        }
        self.start_kubelet_at(node, token, &addresses)
    }

    /// As [`start_kubelet`](Self::start_kubelet), the node being reached under other addresses
    /// (`--node-ip`).
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_kubelet_at(
        &self,
        node: &Machine,
        token: Option<&str>,
        addresses: &str,
    ) -> Result<()> {
        let folder = |name: &str| path(&node.folder.join(name));
        let mut command = vec![
            path(&program("kubelet")?),
            format!("--node-name={}", node.name),
            format!("--node-ip={addresses}"),
            format!("--root-dir={}", folder("kubelet")),
            format!("--run-dir={}", folder("run")),
            format!("--log-dir={}", folder("pods")),
            format!("--cgroup-root=/{}/{}", self.cgroup(), node.name),
            "--insecure-registry=10.77.0.1:5000".to_owned(),
            // The disk of the machine that tests run on is not the lab's to look after.
            "--image-gc-high-threshold=100".to_owned(),
        ];
        if !self.kubelet_args.iter().any(|argument| argument.starts_with("--eviction-hard")) {
            command.push("--eviction-hard=memory.available<100Mi,nodefs.available<1Gi".to_owned());
        }
        if let Some(token) = token {
            command.push(format!("--join=https://{}:6443", self.master.address));
            command.push(format!("--token={token}"));
        }
        command.extend(self.kubelet_args.iter().cloned());
        node.spawn("kubelet", &command).map(drop)
    }

    /// A new join token.
    ///
    /// # Errors
    /// When the master does not give one.
    pub fn token(&self) -> Result<String> {
        let program = path(&program("master")?);
        let data = format!("--data-dir={}", path(&self.master_folder()));
        let token = self.master.run(&[&program, "token", "create", &data])?;
        Ok(token.trim().to_owned())
    }

    /// Waits until a node is ready.
    ///
    /// # Errors
    /// When it is not within a minute.
    pub fn wait_ready(&self, node: &Machine) -> Result<()> {
        self.wait(node, "kubelet", || {
            Ok(self.kubecfg_json(&["get", "node", &node.name]).is_ok_and(|object| {
                let conditions = object["status"]["conditions"].as_array();
                conditions
                    .into_iter()
                    .flatten()
                    .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
            }))
        })
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.master_folder().join("admin.kubeconfig")
    }

    /// The node of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, name: &str) -> Result<&Machine> {
        self.nodes
            .iter()
            .find(|node| node.name == name)
            .with_context(|| format!("the lab has no node {name}"))
    }

    /// The machine of this name: `hub`, `master`, `node1` …
    ///
    /// # Errors
    /// When there is none.
    pub fn machine(&self, name: &str) -> Result<&Machine> {
        [&self.hub, &self.master]
            .into_iter()
            .find(|machine| machine.name == name)
            .map_or_else(|| self.node(name), Ok)
    }

    /// Runs `kubecfg` on the hub; its standard output.
    ///
    /// # Errors
    /// When it fails; with its standard error.
    pub fn kubecfg(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.hub.command(program("kubecfg")?);
        command.env("KUBECONFIG", self.kubeconfig()).args(arguments);
        let words: Vec<&str> =
            std::iter::once("kubecfg").chain(arguments.iter().copied()).collect();
        checked(&mut command, &words)
    }

    /// As [`kubecfg`](Self::kubecfg) with `-o json`, decoded.
    ///
    /// # Errors
    /// When it fails, or prints no JSON.
    pub fn kubecfg_json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["-o", "json"]).collect();
        Ok(serde_json::from_str(&self.kubecfg(&arguments)?)?)
    }

    /// Pulls a machine's network cable.
    ///
    /// # Errors
    /// When the machine is down.
    pub fn partition(&self, machine: &Machine) -> Result<()> {
        network::set_connected(&self.hub, machine, false)
    }

    /// Puts a machine's network cable back.
    ///
    /// # Errors
    /// When the machine is down.
    pub fn heal(&self, machine: &Machine) -> Result<()> {
        network::set_connected(&self.hub, machine, true)
    }

    /// Ends a program of a machine with SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self, machine: &Machine, program: &str) -> Result<()> {
        machine.end(program, Signal::SIGKILL)
    }

    /// Ends everything and removes what is left.
    pub fn down(&mut self) {
        for machine in self.nodes.iter_mut().chain([&mut self.master, &mut self.hub]) {
            machine.kill();
        }
        remove_cgroups(&self.cgroup());
        if std::env::var_os("KUTTER_LAB_KEEP").is_none() {
            // Nothing is mounted there any more: mounts went with their namespaces.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    /// The ends of all logs, for the report of a failure.
    #[must_use]
    pub fn log_tails(&self, lines: usize) -> String {
        let mut text = String::new();
        let programs = [("master", &self.master)]
            .into_iter()
            .chain(self.nodes.iter().map(|node| ("kubelet", node)));
        for (program, machine) in programs {
            let log = std::fs::read_to_string(machine.log(program)).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(lines).collect();
            text.push_str(&format!("--- {program} on {}\n", machine.name));
            for line in tail.into_iter().rev() {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }

    fn master_folder(&self) -> PathBuf {
        self.master.folder.join("data")
    }

    /// The control group of all machines, by its name in every hierarchy.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("kutter-lab-{}", self.id)
    }

    /// Waits for a condition while a program runs.
    fn wait(
        &self,
        machine: &Machine,
        program: &str,
        condition: impl Fn() -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + START;
        while !condition()? {
            if machine.running(program)?.is_none() {
                bail!("{program} on {} ended:\n{}", machine.name, self.log_tails(20));
            }
            if Instant::now() > deadline {
                bail!("{program} on {} is not ready:\n{}", machine.name, self.log_tails(20));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.stay {
            self.down();
        }
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

/// Removes a cgroup and all below it in every hierarchy.
fn remove_cgroups(name: &str) {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let roots = hierarchies.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]);
    for root in roots {
        remove_cgroup(&root.join(name));
    }
}

fn remove_cgroup(path: &Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    // The last process may still be on its way out; the kernel frees the group right after.
    for _ in 0..100 {
        match std::fs::remove_dir(path) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            _ => return,
        }
    }
}
