//! Turns a [`ContainerConfig`] into what libcontainer and the shim are told.
//!
//! libcontainer gets an OCI specification of the container's surroundings: namespaces, mounts,
//! masked paths, control group. The process itself is described in the [`LaunchPlan`], because
//! an exec is confined by the same plan. So the specification names no capabilities, limits,
//! system-call filter or working directory; the last steps before the program see to them.
//!
//! Network, IPC and UTS namespaces are not named either: the creator is a fork of the shim and
//! is in them already.

mod labels;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::api::{Access, ContainerConfig, IdRange, Mount, MountSource, Propagation, Resources};
use crate::cgroup::huge_page_bounds;
use crate::isolation::selinux::Labels;
use crate::isolation::{Capabilities, confine};
use crate::plan::{
    Entrance, GroupPlan, LaunchPlan, Limit, LimitKind, LogPlan, ProcessPlan, Processes, RootPlan,
    StagePlan, ViewFile,
};
use crate::shim::records::ContainerFolder;

/// What a container is put into.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) hostname: String,
    /// Where the sandbox's shared memory is mounted.
    pub(crate) shared_memory: PathBuf,
    /// The container's control group.
    pub(crate) cgroup: String,
    /// Among which processes it is, if it does not join those of another container.
    pub(crate) processes: Processes,
    /// Who its users are on the machine, if not the same.
    pub(crate) users: Option<IdRange>,
    /// A folder that everybody may enter, for the stage of a container with other users.
    pub(crate) stage: PathBuf,
    /// Its own folder, closed to others.
    pub(crate) folder: ContainerFolder,
    /// Where the shim serves the containers' views of themselves, if it does.
    pub(crate) views: Option<PathBuf>,
    /// Whether the sandbox has clocks of its own.
    pub(crate) has_clocks: bool,
    /// The machine's devices, for a privileged container.
    pub(crate) devices: Vec<DeviceNode>,
    /// Whether control groups are of version 2 alone.
    pub(crate) unified_cgroups: bool,
    /// Whether control groups of version 2 bound huge pages.
    pub(crate) bounds_huge_pages: bool,
    /// Whether the kernel accounts swap to control groups.
    pub(crate) swap_accounting: bool,
    /// Whether a source of a mount is where control groups are, or above.
    pub(crate) mounts_cgroups: bool,
    /// Its SELinux labels.
    pub(crate) labels: Labels,
}

/// Processes and threads of a container for which nobody has said anything: far more than a
/// program needs, far fewer than a machine has.
const DEFAULT_PIDS_LIMIT: i64 = 4096;

/// As systemd gives to services; the soft limit is high enough for servers that do not raise it.
const OPEN_FILES: (u64, u64) = (65_536, 524_288);

/// What is hidden from containers: files that leak facts about the machine, or drive it.
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What containers may look at and not change.
const READ_ONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

impl Surroundings {
    /// Where its creator will have mounted the namespaces that it joins.
    fn entrances(&self) -> &Path {
        if self.users.is_some() { &self.stage } else { &self.folder.0 }
    }
}

/// A device of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceNode {
    pub(crate) path: PathBuf,
    pub(crate) is_block: bool,
    pub(crate) number: (u32, u32),
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The OCI specification of a container.
pub(crate) fn oci_spec(config: &ContainerConfig, around: &Surroundings) -> Value {
    let mut process = json!({
        "terminal": config.tty,
        "user": { "uid": config.user.uid, "gid": config.user.gid },
        "args": config.args,
        "cwd": "/",
    });
    // libcontainer takes `false` for a wish of its own kind; only its absence means no.
    if config.no_new_privileges {
        process["noNewPrivileges"] = json!(true);
    }
    let stage = stage_plan(config, around);
    let root = stage.as_ref().map_or_else(|| PathBuf::from("rootfs"), StagePlan::root);
    let (masked, read_only): (&[&str], &[&str]) = match config.privileged || config.unmasked_proc {
        true => (&[], &[]),
        false => (&MASKED_PATHS, &READ_ONLY_PATHS),
    };
    let mut linux = json!({
        "namespaces": namespaces(config, around),
        "cgroupsPath": around.cgroup,
        "resources": resources(config, around),
        "maskedPaths": masked,
        "readonlyPaths": read_only,
    });
    // libcontainer otherwise takes what a container shares with the machine for the machine's alone.
    let shares = |mount: &Mount| mount.propagation == Propagation::Bidirectional;
    if config.mounts.iter().any(shares) {
        linux["rootfsPropagation"] = json!("shared");
    }
    // Bound into a namespace of other users, a device of the machine could not be opened anyway.
    if config.privileged && around.users.is_none() {
        linux["devices"] = around.devices.iter().map(device).collect();
    }
    json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": { "path": root, "readonly": config.read_only_root },
        "mounts": mounts(config, around, stage.as_ref()),
        "linux": linux,
    })
}

fn namespaces(config: &ContainerConfig, around: &Surroundings) -> Vec<Value> {
    let own = |kind: &str| json!({ "type": kind });
    let joined = |kind: &str, entrance: Entrance| json!({ "type": kind, "path": entrance.path(around.entrances()) });
    let processes = match (&config.joins_processes_of, around.processes) {
        (Some(_), _) | (None, Processes::OfSandbox) => Some(joined("pid", Entrance::Processes)),
        (None, Processes::Own) => Some(own("pid")),
        (None, Processes::OfHost) => None,
    };
    let users = around.users.map(|_| joined("user", Entrance::Users));
    let clocks = around.has_clocks.then(|| joined("time", Entrance::Time));
    [processes, Some(own("mount")), Some(own("cgroup")), users, clocks]
        .into_iter()
        .flatten()
        .collect()
}

fn device(node: &DeviceNode) -> Value {
    json!({
        "path": node.path,
        "type": if node.is_block { "b" } else { "c" },
        "major": node.number.0,
        "minor": node.number.1,
        "fileMode": node.mode,
        "uid": node.uid,
        "gid": node.gid,
    })
}

/// The number of the shared memory among the mounts of a stage; after it come the container's own.
const STAGED_SHARED_MEMORY: usize = 0;

/// What a container sees of itself: where it is bounded, it is not the machine.
fn view(config: &ContainerConfig, around: &Surroundings) -> Vec<ViewFile> {
    let memory = config.resources.memory_limit_bytes.is_some();
    let processors = config.resources.cpu_quota_us.is_some();
    let is_seen = |file: &ViewFile| match file {
        ViewFile::Meminfo => memory,
        ViewFile::Cpuinfo | ViewFile::Stat => processors,
        ViewFile::Loadavg => memory || processors,
    };
    ViewFile::ALL.into_iter().filter(is_seen).filter(|_| around.views.is_some()).collect()
}

/// The files of its view, and where the shim serves each.
fn view_sources<'a>(
    config: &'a ContainerConfig,
    around: &'a Surroundings,
) -> impl Iterator<Item = (ViewFile, PathBuf)> + 'a {
    let folder = around.views.as_deref().unwrap_or(Path::new("/"));
    view(config, around).into_iter().map(|file| (file, folder.join(file.name_for(&config.id.0))))
}

fn stage_plan(config: &ContainerConfig, around: &Surroundings) -> Option<StagePlan> {
    around.users?;
    let own = config.mounts.iter().enumerate();
    let own = own.filter_map(|(index, mount)| {
        let is_image = matches!(mount.source, MountSource::Image { .. });
        Some((source_of(mount, index, around)?, is_image))
    });
    let all: Vec<_> = std::iter::once((around.shared_memory.clone(), false)).chain(own).collect();
    let images = all.iter().enumerate().filter(|(_, (_, is_image))| *is_image);
    let mapped = images.map(|(number, _)| number).collect();
    let mounts = all.into_iter().map(|(source, _)| source).collect();
    let for_all = view_sources(config, around).map(|(_, source)| source).collect();
    Some(StagePlan { folder: around.stage.clone(), mounts, mapped, for_all })
}

/// Everything about a container's processes and output. A wrong capability is the error.
pub(crate) fn launch_plan(
    config: &ContainerConfig,
    around: &Surroundings,
    root: RootPlan,
    seccomp: Option<PathBuf>,
    app_armor: Option<String>,
) -> Result<LaunchPlan, String> {
    let log = config.log_path.clone().map(|path| LogPlan {
        path,
        max_bytes: config.log_max_bytes,
        max_files: config.log_max_files,
    });
    let process = ProcessPlan {
        args: config.args.clone(),
        env: environment(config, around),
        working_directory: match config.working_directory.as_str() {
            "" => "/".to_owned(),
            path => path.to_owned(),
        },
        user: config.user.clone(),
        capabilities: capabilities(config)?,
        no_new_privileges: config.no_new_privileges,
        seccomp,
        app_armor,
        selinux: around.labels.process.clone(),
        limits: vec![
            Limit { kind: LimitKind::OpenFiles, soft: OPEN_FILES.0, hard: OPEN_FILES.1 },
            Limit { kind: LimitKind::CoreSize, soft: 0, hard: u64::MAX },
        ],
        oom_score_adj: config.resources.oom_score_adj.unwrap_or(0),
    };
    let cgroup = around.cgroup.clone();
    Ok(LaunchPlan {
        process,
        root,
        cgroup,
        tty: config.tty,
        stdin: config.stdin,
        log,
        joins_processes_of: config.joins_processes_of.as_ref().map(|id| id.0.clone()),
        processes: around.processes,
        users: around.users,
        stage: stage_plan(config, around),
        view: view(config, around),
        entrances: around.entrances().to_owned(),
        group: group_plan(config, around),
    })
}

/// With version 1 the creator makes the group. A privileged container is shown all groups, which libcontainer has to
/// find for it.
fn group_plan(config: &ContainerConfig, around: &Surroundings) -> Option<GroupPlan> {
    if around.unified_cgroups || config.privileged {
        return None;
    }
    let limit = config.resources.pids_limit.unwrap_or(DEFAULT_PIDS_LIMIT);
    Some(GroupPlan {
        resources: Resources { pids_limit: Some(limit), ..config.resources.clone() },
        swap_accounting: around.swap_accounting,
        can_hide: !around.mounts_cgroups,
    })
}

/// The specification for who makes the control group by itself.
pub(crate) fn without_group(mut spec: Value, root: &Path) -> Value {
    if let Some(linux) = spec["linux"].as_object_mut() {
        linux.remove("resources");
    }
    // It may be relative to the other bundle.
    let path = spec["root"]["path"].as_str().map(PathBuf::from).unwrap_or_default();
    if path.is_relative() {
        spec["root"]["path"] = json!(root);
    }
    spec
}

/// What a container keeps of root's power. A name that nobody knows is the error.
pub(crate) fn capabilities(config: &ContainerConfig) -> Result<Capabilities, String> {
    match config.privileged {
        true => Ok(Capabilities::ALL),
        false => Capabilities::with_changes(&config.capabilities),
    }
}

/// The variables every container has, before its own.
fn environment(config: &ContainerConfig, around: &Surroundings) -> Vec<(String, String)> {
    let customary = [
        Some(("PATH", confine::DEFAULT_PATH)),
        Some(("HOSTNAME", around.hostname.as_str())),
        config.tty.then_some(("TERM", "xterm")),
    ];
    let missing = customary
        .into_iter()
        .flatten()
        .filter(|(name, _)| !config.env.iter().any(|(own, _)| own == name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    missing.chain(config.env.iter().cloned()).collect()
}

fn mounts(
    config: &ContainerConfig,
    around: &Surroundings,
    stage: Option<&StagePlan>,
) -> Vec<Value> {
    let kernel = |kind: &str, destination: &str, options: &[&str]| {
        json!({
            "destination": destination, "type": kind, "source": kind, "options": options,
        })
    };
    let access = if config.privileged { "rw" } else { "ro" };
    let staged = |number: usize, otherwise: &Path| match stage {
        Some(stage) => stage.mount(number),
        None => otherwise.to_owned(),
    };
    let shared_memory = staged(STAGED_SHARED_MEMORY, &around.shared_memory);
    let mut mounts = vec![
        kernel("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        kernel("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        kernel(
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        bind(&shared_memory, "/dev/shm", &["nosuid", "noexec", "nodev"]),
        kernel("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        kernel("sysfs", "/sys", &["nosuid", "noexec", "nodev", access]),
    ];
    // With version 1 a container could write through this mount, read-only or not.
    if around.unified_cgroups || config.privileged {
        let options = ["nosuid", "noexec", "nodev", "relatime", access];
        mounts.push(kernel("cgroup", "/sys/fs/cgroup", &options));
    }
    let mut number = STAGED_SHARED_MEMORY;
    for (index, own) in config.mounts.iter().enumerate() {
        mounts.push(match source_of(own, index, around) {
            Some(source) => {
                number += 1;
                bind(&staged(number, &source), &own.destination, access_options(own.access))
            }
            None => tmpfs(own),
        });
    }
    for (file, source) in view_sources(config, around) {
        number += 1;
        let options = ["nosuid", "noexec", "nodev", "ro"];
        mounts.push(bind(&staged(number, &source), file.path(), &options));
    }
    if let Some(label) = &around.labels.file {
        labels::label_mounts(&mut mounts, label);
    }
    mounts
}

/// Where on the machine the files of a mount are, in the creator's eyes.
fn source_of(mount: &Mount, index: usize, around: &Surroundings) -> Option<PathBuf> {
    match &mount.source {
        // Its creator takes it before it turns away from the machine's mounts.
        MountSource::Host(_) if mount.propagation == Propagation::Bidirectional => {
            Some(around.folder.sub_path(index))
        }
        MountSource::Host(path) => Some(path.clone()),
        // It is known for certain only once it is open.
        MountSource::Below { .. } | MountSource::Image { .. } => {
            Some(around.folder.sub_path(index))
        }
        MountSource::Tmpfs { .. } => None,
    }
}

/// How a mount's access is said to libcontainer.
fn access_options(access: Access) -> &'static [&'static str] {
    match access {
        Access::ReadWrite => &["rw"],
        Access::ReadOnly => &["ro"],
        // The second is for what is mounted below; without it that stays writable.
        Access::ReadOnlyThroughout => &["ro", "rro"],
    }
}

fn tmpfs(mount: &Mount) -> Value {
    let size_bytes = match mount.source {
        MountSource::Tmpfs { size_bytes } => size_bytes,
        MountSource::Host(_) | MountSource::Below { .. } | MountSource::Image { .. } => None,
    };
    let access = access_options(mount.access).iter().copied();
    let options = ["nosuid", "nodev"].into_iter().chain(access).chain(["mode=1777"]);
    let mut options: Vec<String> = options.map(str::to_owned).collect();
    options.extend(size_bytes.map(|bytes| format!("size={bytes}")));
    json!({
        "destination": mount.destination, "type": "tmpfs", "source": "tmpfs",
        "options": options,
    })
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    let options: Vec<&str> = std::iter::once("rbind").chain(options.iter().copied()).collect();
    json!({
        "destination": destination, "type": "bind", "source": source, "options": options,
    })
}

fn resources(config: &ContainerConfig, around: &Surroundings) -> Value {
    let resources = &config.resources;
    let mut value = json!({
        // Everything is refused; libcontainer then allows the standard devices again.
        "devices": [{ "allow": config.privileged, "access": "rwm" }],
        "pids": { "limit": resources.pids_limit.unwrap_or(DEFAULT_PIDS_LIMIT) },
    });
    let mut cpu = serde_json::Map::new();
    if let Some(shares) = resources.cpu_shares {
        cpu.insert("shares".to_owned(), json!(shares));
    }
    if let Some(quota) = resources.cpu_quota_us {
        cpu.insert("quota".to_owned(), json!(quota));
        cpu.insert("period".to_owned(), json!(resources.cpu_period_us.unwrap_or(100_000)));
    }
    if !cpu.is_empty() {
        value["cpu"] = Value::Object(cpu);
    }
    if let Some(limit) = resources.memory_limit_bytes {
        value["memory"] = json!({ "limit": limit });
        // A limit that swap can exceed is none. Version 1 counts both together; for version 2
        // libcontainer takes a difference of nothing for no wish at all, so it is said directly.
        if around.unified_cgroups {
            // As Kubernetes has it: a container is killed whole, not maimed.
            value["unified"] = json!({ "memory.oom.group": "1" });
            if around.swap_accounting {
                value["unified"]["memory.swap.max"] = json!("0");
            }
        } else if around.swap_accounting {
            value["memory"]["swap"] = json!(limit);
        }
    }
    if around.unified_cgroups && around.bounds_huge_pages {
        for (file, limit) in huge_page_bounds(resources) {
            value["unified"][file] = json!(limit);
        }
    }
    value
}

#[cfg(test)]
mod tests;
