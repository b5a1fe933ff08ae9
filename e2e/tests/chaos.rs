//! Master, kubelet and creators are killed again and again while pods come and go: no container is
//! lost, doubled or left behind, and every exit code is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::check;
use e2e::lab::{Lab, Machine, StoreKind, run};
use fastrand::Rng;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::sync::watch;

/// How often something is killed; `KUTTER_CHAOS_ROUNDS` says otherwise.
const ROUNDS: usize = 500;
/// So many pods there are at a time.
const PODS: usize = 30;

#[test]
fn whatever_is_killed_nothing_is_lost_doubled_or_left_behind() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    let rounds = std::env::var("KUTTER_CHAOS_ROUNDS").ok().and_then(|text| text.parse().ok());
    let seed = std::env::var("KUTTER_CHAOS_SEED").ok().and_then(|text| text.parse().ok());
    let (rounds, seed) = (rounds.unwrap_or(ROUNDS), seed.unwrap_or_else(|| fastrand::u64(..)));
    eprintln!("{rounds} rounds, seed {seed}");
    run(check::lab(1, StoreKind::Embedded), move |lab| async move {
        let client = check::client(&lab).await?;
        let api: Api<Pod> = Api::default_namespaced(client);
        let marks = lab.nodes[0].folder.join("marks");
        fs::create_dir(&marks)?;
        fs::set_permissions(&marks, fs::Permissions::from_mode(0o777))?;
        let mut dice = Rng::with_seed(seed);

        // Some things are made by the first pod, and stay.
        let crowd = Arc::new(Crowd::new(api, marks));
        let watching = tokio::spawn(Arc::clone(&crowd).follow());
        crowd.make(0, Life::Ends { code: 3, after_ms: 0 }).await?;
        crowd.settle().await?;
        let fresh = once(&lab, |left| {
            left["processes"] == "0\n"
                && left["addresses"] == "{}"
                && left["pods"].is_empty()
                && left["sandboxes"].is_empty()
                && left["mounts"] == "0"
        })
        .await?;

        let (stop, stopped) = watch::channel(false);
        let life = tokio::spawn(Arc::clone(&crowd).live(Rng::with_seed(dice.u64(..)), stopped));
        let mut killed: BTreeMap<&str, usize> = BTreeMap::new();
        for round in 0..rounds {
            let victim = ["kubelet", "kubelet", "master", "creator"][dice.usize(..4)];
            let hit = tokio::task::block_in_place(|| strike(&lab, victim))
                .with_context(|| format!("round {round}: {victim}"))?;
            *killed.entry(victim).or_default() += usize::from(hit);
            // Sometimes at once again, sometimes when it is in the middle of things.
            crowd.progress(dice.usize(..8)).await.with_context(|| format!("round {round}"))?;
            ensure!(!life.is_finished(), "the pods stopped coming and going");
        }
        eprintln!("killed {killed:?}");
        stop.send(true)?;
        let pods = life.await??;
        crowd.settle().await?;
        eprintln!("{pods} pods came and went");
        watching.abort();

        crowd.judge()?;
        once(&lab, |left| *left == fresh).await.with_context(|| format!("before {fresh:#?}"))?;
        Ok(())
    })
}

/// Kills a part of the cluster and starts it again; false if there was none to be found.
fn strike(lab: &Lab, victim: &str) -> Result<bool> {
    let node = &lab.nodes[0];
    match victim {
        "kubelet" => {
            lab.kill(node, "kubelet")?;
            lab.start_kubelet(node, None)?;
        }
        "master" => {
            lab.kill(&lab.master, "master")?;
            lab.start_master()?;
        }
        _ => return kill_creator(node),
    }
    Ok(true)
}

/// Kills a process that is just making a container: a child of a shim. It is there for some
/// milliseconds, so one has to look often.
fn kill_creator(node: &Machine) -> Result<bool> {
    let folder = node.folder.to_str().context("a path")?;
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        for entry in fs::read_dir("/proc")?.flatten() {
            let path = entry.path();
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if is_creator(&path) && leads_below(&path, folder) {
                return Ok(kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok());
            }
        }
    }
    Ok(false)
}

fn is_creator(process: &Path) -> bool {
    fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == "kutter-creator")
}

fn parent(process: &Path) -> Option<PathBuf> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Some(Path::new("/proc").join(parent.trim()))
}

/// Whether a process, or its parent, was started with something below a folder.
fn leads_below(process: &Path, folder: &str) -> bool {
    let says = |process: &Path| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(folder)
    };
    says(process) || parent(process).is_some_and(|parent| says(&parent))
}

/// What a pod is meant to do.
#[derive(Clone, Copy, Debug)]
enum Life {
    /// Ends by itself.
    Ends { code: u8, after_ms: u64 },
    /// Goes on until it is deleted, which is so long after it runs.
    Deleted { after_ms: u64 },
}

/// What is known of a pod.
#[derive(Debug, Default)]
struct Seen {
    life: Option<Life>,
    running: bool,
    gone: bool,
    codes: BTreeSet<i32>,
    restarts: i32,
}

/// All pods of the test.
struct Crowd {
    api: Api<Pod>,
    marks: PathBuf,
    seen: Mutex<BTreeMap<String, Seen>>,
    /// Counts what happened to pods.
    events: watch::Sender<usize>,
    /// What the watch did last, and when: a test that waits in vain tells it.
    last: Mutex<(Instant, String)>,
}

impl Crowd {
    fn new(api: Api<Pod>, marks: PathBuf) -> Self {
        let last = Mutex::new((Instant::now(), "nothing yet".to_owned()));
        Self { api, marks, seen: Mutex::default(), events: watch::Sender::new(0), last }
    }

    /// Follows the pods, through all ends of the master.
    async fn follow(self: Arc<Self>) {
        // A connection whose end did not come through is found dead after these seconds and some.
        let config = watcher::Config::default().timeout(10);
        let mut events = std::pin::pin!(watcher(self.api.clone(), config));
        let mut listed = BTreeSet::new();
        while let Some(event) = events.next().await {
            *self.last.lock().expect("no thread panicked") = (Instant::now(), told(&event));
            match event {
                Ok(Event::Apply(pod)) => self.note(&pod),
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(pod)) => {
                    listed.insert(check::name(&pod).to_owned());
                    self.note(&pod);
                }
                // Who is not listed went while nobody watched, or is not made yet.
                Ok(Event::InitDone) => self.update(|seen| {
                    for (name, seen) in seen.iter_mut() {
                        seen.gone |= seen.running && !listed.contains(name);
                    }
                }),
                Ok(Event::Delete(pod)) => {
                    self.note(&pod);
                    self.update(|seen| {
                        seen.entry(check::name(&pod).to_owned()).or_default().gone = true;
                    });
                }
                // The master is away.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn update(&self, change: impl FnOnce(&mut BTreeMap<String, Seen>)) {
        change(&mut self.seen.lock().expect("no thread panicked"));
        self.events.send_modify(|count| *count += 1);
    }

    fn look<T>(&self, look: impl FnOnce(&BTreeMap<String, Seen>) -> T) -> T {
        look(&self.seen.lock().expect("no thread panicked"))
    }

    fn note(&self, pod: &Pod) {
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter());
        let statuses: Vec<&ContainerStatus> = statuses.flatten().collect();
        self.update(|seen| {
            let seen = seen.entry(check::name(pod).to_owned()).or_default();
            for status in statuses {
                seen.restarts = seen.restarts.max(status.restart_count);
                let Some(state) = &status.state else { continue };
                seen.running |= state.running.is_some() || state.terminated.is_some();
                seen.codes.extend(state.terminated.iter().map(|ended| ended.exit_code));
            }
        });
    }

    /// Waits until so many more things have happened.
    async fn progress(&self, more: usize) -> Result<()> {
        let mut events = self.events.subscribe();
        let wanted = *events.borrow() + more;
        let moves =
            tokio::time::timeout(check::DEADLINE, events.wait_for(|count| *count >= wanted));
        moves
            .await
            .with_context(|| format!("nothing happens any more; {}", self.last_told()))??;
        Ok(())
    }

    /// What the watch did last.
    fn last_told(&self) -> String {
        let (when, what) = &*self.last.lock().expect("no thread panicked");
        format!("the watch told last, {:?} ago: {what}", when.elapsed())
    }

    /// Waits until something holds of the pods.
    async fn until(
        &self,
        what: &str,
        mut holds: impl FnMut(&BTreeMap<String, Seen>) -> bool,
    ) -> Result<()> {
        let mut events = self.events.subscribe();
        let wait = async {
            while !self.look(&mut holds) {
                events.changed().await?;
            }
            Ok(())
        };
        match tokio::time::timeout(check::DEADLINE, wait).await {
            Ok(result) => result,
            Err(_) => bail!("{what}: not so after {:?}; {}", check::DEADLINE, self.last_told()),
        }
    }

    /// Makes a pod, however often the master has to be asked.
    async fn make(&self, number: usize, life: Life) -> Result<String> {
        let name = format!("chaos-{number}");
        let (code, milliseconds) = match life {
            Life::Ends { code, after_ms } => (code, after_ms),
            Life::Deleted { .. } => (0, 3_600_000),
        };
        let mark = format!("/marks/{name}");
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 5,
                "containers": [{
                    "name": "main",
                    "image": "kutter.test/testserver:1",
                    "args": ["stay", mark, milliseconds.to_string(), code.to_string()],
                    "volumeMounts": [{"name": "marks", "mountPath": "/marks"}],
                }],
                "volumes": [{"name": "marks", "hostPath": {"path": self.marks}}],
            },
        }))?;
        self.update(|seen| seen.entry(name.clone()).or_default().life = Some(life));
        let mut patience = Patience::new();
        loop {
            match self.api.create(&PostParams::default(), &pod).await {
                Ok(_) => return Ok(name),
                // The answer to the first request was lost.
                Err(kube::Error::Api(status)) if status.code == 409 => return Ok(name),
                Err(error) => patience.lose(error).await?,
            }
        }
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let mut patience = Patience::new();
        loop {
            match self.api.delete(name, &DeleteParams::default()).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                Err(error) => patience.lose(error).await?,
            }
        }
    }

    /// Makes pods and deletes them, so that there are always so many, until told to stop. Returns how
    /// many there were.
    async fn live(self: Arc<Self>, mut dice: Rng, stopped: watch::Receiver<bool>) -> Result<usize> {
        let mut lives = tokio::task::JoinSet::new();
        let mut number = 0;
        while !*stopped.borrow() {
            while lives.len() < PODS {
                number += 1;
                let life = match dice.bool() {
                    true => Life::Ends { code: dice.u8(..), after_ms: dice.u64(..3000) },
                    false => Life::Deleted { after_ms: dice.u64(..3000) },
                };
                lives.spawn(Arc::clone(&self).lead(number, life));
            }
            lives.join_next().await.context("there are lives")???;
        }
        while let Some(ended) = lives.join_next().await {
            ended??;
        }
        Ok(number)
    }

    /// The life of one pod.
    async fn lead(self: Arc<Self>, number: usize, life: Life) -> Result<()> {
        let name = self.make(number, life).await?;
        let is = |seen: &BTreeMap<String, Seen>, holds: fn(&Seen) -> bool| {
            seen.get(&name).is_some_and(holds)
        };
        match life {
            Life::Ends { .. } => {
                let what = format!("{name} ends, and its code is told");
                self.until(&what, |seen| is(seen, |seen| !seen.codes.is_empty())).await?;
            }
            Life::Deleted { after_ms } => {
                let what = format!("{name} runs");
                self.until(&what, |seen| is(seen, |seen| seen.running)).await?;
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
            }
        }
        self.delete(&name).await?;
        self.until(&format!("{name} is gone"), |seen| is(seen, |seen| seen.gone)).await
    }

    /// Waits for the end of all that ends, and deletes everything.
    async fn settle(&self) -> Result<()> {
        self.until("all codes are told", |seen| {
            seen.values().all(|seen| match seen.life {
                Some(Life::Ends { .. }) => !seen.codes.is_empty(),
                _ => seen.gone,
            })
        })
        .await?;
        let left = self.look(|seen| {
            let left = seen.iter().filter(|(_, seen)| !seen.gone);
            left.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        });
        for name in &left {
            self.delete(name).await?;
        }
        self.until("all are gone", |seen| seen.values().all(|seen| seen.gone)).await
    }

    /// Compares what the API told, and what the containers themselves wrote down, with what was meant.
    fn judge(&self) -> Result<()> {
        let mut wrong = Vec::new();
        self.look(|all| {
            for (name, seen) in all {
                let mark = fs::read_to_string(self.marks.join(name)).unwrap_or_default();
                if mark.contains("doubled") || !mark.starts_with("started\n") {
                    wrong.push(format!("{name} wrote {mark:?}"));
                }
                if seen.restarts != 0 {
                    wrong.push(format!("{name} was restarted {} times", seen.restarts));
                }
                if let Some(Life::Ends { code, .. }) = seen.life
                    && seen.codes != BTreeSet::from([i32::from(code)])
                {
                    wrong.push(format!("{name} ended with {:?} instead of {code}", seen.codes));
                }
            }
        });
        ensure!(wrong.is_empty(), "{wrong:#?}");
        Ok(())
    }
}

/// An event of a watch in a few words.
fn told(event: &watcher::Result<Event<Pod>>) -> String {
    match event {
        Ok(Event::Apply(pod)) => format!("{} changed", check::name(pod)),
        Ok(Event::Delete(pod)) => format!("{} is gone", check::name(pod)),
        Ok(Event::Init) => "a list begins".to_owned(),
        Ok(Event::InitApply(pod)) => format!("{} is listed", check::name(pod)),
        Ok(Event::InitDone) => "a list is complete".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// How long a master may be away.
struct Patience(Instant);

impl Patience {
    fn new() -> Self {
        Self(Instant::now() + check::DEADLINE)
    }

    /// Waits a moment before the next attempt; the error when there were enough.
    async fn lose(&mut self, error: kube::Error) -> Result<()> {
        ensure!(Instant::now() < self.0, "no answer for {:?}: {error}", check::DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(())
    }
}

/// What there is on the node as soon as it is as it should be.
async fn once(lab: &Lab, holds: impl Fn(&Remains) -> bool) -> Result<Remains> {
    // What goes away just while it is looked at fails the look.
    check::until_told("the node is as it should be", async || remains(lab), holds).await
}

type Remains = BTreeMap<&'static str, String>;

/// How many mounts there are of the node's own. Those that others make and take away on the real machine are
/// seen by all machines of a lab.
fn mounts(node: &Machine) -> Result<String> {
    let folder = node.folder.display().to_string();
    let all = node.run(&["cat", "/proc/self/mountinfo"])?;
    Ok(all.lines().filter(|mount| mount.contains(&folder)).count().to_string())
}

/// What there is on the node, as numbers and lists that do not depend on which pods there were.
fn remains(lab: &Lab) -> Result<Remains> {
    let node = &lab.nodes[0];
    let shell = |script: &str| node.run(&["sh", "-c", script]);
    let kubelet = node.folder.join("kubelet").display().to_string();
    let run = node.folder.join("run").display().to_string();
    let group = lab.cgroup();
    // The range is gone through in turn: where the next search begins changes with every pod.
    let leases = fs::read(node.folder.join("run/network/addresses.json"))?;
    let leases: serde_json::Value = serde_json::from_slice(&leases)?;
    // In the order in which they are written here: what goes last when a pod goes is looked at first, or a look
    // while it goes would find some of it and not that it goes.
    Ok(BTreeMap::from([
        ("addresses", leases["pods"].to_string()),
        ("pods", shell(&format!("ls {kubelet}/pods"))?),
        ("sandboxes", shell(&format!("find {run} {kubelet} -path '*/sandboxes/*'"))?),
        ("processes", shell("pgrep -x 'kutter-.*|testserver' | wc -l")?),
        ("mounts", mounts(node)?),
        ("groups", shell(&format!("find /sys/fs/cgroup -path '*{group}*' -type d | wc -l"))?),
        ("links", shell("ip -o link | wc -l")?),
        ("routes", shell("ip route | wc -l")?),
    ]))
}
