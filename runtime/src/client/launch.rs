//! Writing down what a shim is to do, and starting the shim itself.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::mounts::{check_propagation, mount_point};
use super::{Inner, Sandbox, io_error};
use crate::api::*;
use crate::cgroup::MOUNTED_BELOW;
use crate::image::highest_owner;
use crate::isolation::{apparmor, devices, selinux};
use crate::plan::{Processes, RootPlan};
use crate::shim::PROBE_USERS;
use crate::shim::records::{self, SandboxFolder, SandboxRecord};
use crate::spec::{self, Surroundings};
use crate::{Error, Result};

pub(super) const MAX_SANDBOX_ID: usize = 64;
pub(super) const MAX_CONTAINER_ID: usize = 128;

/// The kernel's bound.
const MAX_HOSTNAME: usize = 64;

/// Kernel parameters that belong to the namespaces of a sandbox. All others are the machine's.
const SANDBOX_SYSCTLS: [&str; 10] = [
    "fs.mqueue.",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "net.",
];

/// Whether an id can be a file's name and a control group's.
pub(super) fn check_id(id: &str, longest: usize) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if id.is_empty() || id.len() > longest || !id.chars().all(plain) || id.starts_with('.') {
        return Err(Error::Invalid(format!("{id:?} is no id")));
    }
    Ok(())
}

pub(super) fn check_sandbox(config: &SandboxConfig) -> Result<()> {
    check_id(&config.id.0, MAX_SANDBOX_ID)?;
    if config.hostname.is_empty() || config.hostname.len() > MAX_HOSTNAME {
        return Err(Error::Invalid(format!("{:?} is no host name", config.hostname)));
    }
    check_group(&config.cgroup_parent)?;
    let HostNamespaces { network, processes, ipc } = config.of_host;
    if config.own_users && (network || processes || ipc) {
        let reason = "a sandbox with users of its own cannot have the machine's namespaces";
        return Err(Error::Invalid(reason.to_owned()));
    }
    for name in config.sysctls.keys() {
        let of_host = match name.starts_with("net.") || name.starts_with("net/") {
            true => network,
            false => ipc,
        };
        if of_host {
            let reason = format!("the kernel parameter {name} would be set for the machine");
            return Err(Error::Invalid(reason));
        }
        let dotted = name.replace('/', ".");
        let own = SANDBOX_SYSCTLS.iter().any(|known| match known.ends_with('.') {
            true => dotted.starts_with(known),
            false => dotted == **known,
        });
        if !own || dotted.contains("..") {
            return Err(Error::Invalid(format!("the kernel parameter {name} is not a sandbox's")));
        }
    }
    Ok(())
}

pub(super) fn check_group(group: &str) -> Result<()> {
    let path = Path::new(group);
    match path.is_absolute() && path.components().skip(1).all(is_plain) {
        true => Ok(()),
        false => Err(Error::Invalid(format!("{group:?} is no control group"))),
    }
}

fn is_plain(component: std::path::Component<'_>) -> bool {
    matches!(component, std::path::Component::Normal(_))
}

pub(super) fn check_container(config: &ContainerConfig) -> Result<()> {
    check_id(&config.id.0, MAX_CONTAINER_ID)?;
    let fault = |reason: String| Error::Start { container: config.id.clone(), reason };
    if config.args.is_empty() {
        return Err(fault("no command given".to_owned()));
    }
    if config.layers.is_empty() {
        return Err(fault("the image has no layers".to_owned()));
    }
    if !matches!(config.working_directory.as_str(), "" | "/")
        && !config.working_directory.starts_with('/')
    {
        return Err(fault(format!(
            "the working directory {:?} is not absolute",
            config.working_directory
        )));
    }
    for mount in &config.mounts {
        if !mount.destination.starts_with('/') {
            return Err(fault(format!("the mount path {:?} is not absolute", mount.destination)));
        }
    }
    Ok(())
}

impl Inner {
    /// Starts the shim of a new sandbox; returns when it answers.
    pub(super) fn launch_shim(&self, record: &SandboxRecord) -> Result<SandboxFolder> {
        let id = &record.config.id;
        let folder = self.folder(id);
        if folder.0.exists() {
            self.remove_sandbox_remains(id)?;
        }
        let group = &record.config.cgroup_parent;
        self.hierarchies.share(group)?;
        self.hierarchies.bound(group, &record.config.resources)?;
        make_folder(&folder.0)?;
        let path = folder.config();
        records::write(&path, record).map_err(io_error("write", &path))?;
        let failed = |reason: String| Error::Shim { sandbox: id.clone(), reason };
        let output = run_shim(&self.shim_program, &[folder.0.as_os_str()])
            .map_err(|e| failed(format!("it could not be started: {e}")))?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            self.remove_sandbox_remains(id)?;
            return Err(failed(reason));
        }
        Ok(folder)
    }

    /// Writes down how a container is to be made, into a folder as if it were the first time.
    pub(super) fn write_plan(&self, sandbox: &Sandbox, config: &ContainerConfig) -> Result<()> {
        let record = &sandbox.record;
        let fault = |reason: String| Error::Start { container: config.id.clone(), reason };
        let folder = sandbox.folder.container(&config.id);
        let mount_points = config
            .mounts
            .iter()
            .enumerate()
            .map(|(index, mount)| mount_point(mount, index, &folder))
            .collect::<Result<Vec<_>, _>>();
        let mount_points = mount_points.map_err(fault)?;
        let unfit = |reason: String| Error::Create { container: config.id.clone(), reason };
        for mount in &config.mounts {
            check_propagation(mount, record.users).map_err(unfit)?;
        }
        if folder.0.exists() {
            self.remove_container_remains(record, &config.id)?;
        }
        let of_host = record.config.of_host;
        let devices = match config.privileged && record.users.is_none() {
            true => devices::of_machine().map_err(io_error("read", Path::new("/dev")))?,
            false => Vec::new(),
        };
        let is_free = config.privileged || of_host.processes || of_host.ipc;
        let labels = self.labels(&config.selinux, record.level, is_free).map_err(unfit)?;
        let around = Surroundings {
            hostname: self.hostname(&record.config).map_err(fault)?,
            shared_memory: match of_host.ipc {
                true => PathBuf::from("/dev/shm"),
                false => sandbox.folder.shared_memory(),
            },
            cgroup: record.container_cgroup(&config.id),
            processes: match (of_host.processes, record.config.shares_processes) {
                (true, _) => Processes::OfHost,
                (false, true) => Processes::OfSandbox,
                (false, false) => Processes::Own,
            },
            users: record.users,
            stage: stage_folder(&self.config.state_dir).map_err(fault)?,
            folder: folder.clone(),
            // A shim of an earlier version serves none.
            views: Some(sandbox.folder.views()).filter(|folder| folder.exists()),
            has_clocks: self.has_clocks && !of_host.processes,
            devices,
            unified_cgroups: self.hierarchies.is_unified(),
            bounds_huge_pages: self.hierarchies.bound_huge_pages(),
            swap_accounting: self.swap_accounting,
            mounts_cgroups: config.mounts.iter().any(has_cgroups),
            labels: labels.clone(),
        };
        if let Some(users) = record.users {
            check_users(&config.user, users).map_err(unfit)?;
            let mounted = config.mounts.iter().filter_map(|mount| match &mount.source {
                MountSource::Image { layers, .. } => Some(layers),
                _ => None,
            });
            let layers = config.layers.iter().chain(mounted.flatten());
            check_owners(layers.filter_map(|layer| highest_owner(layer)).max(), users)
                .map_err(unfit)?;
        }
        let seccomp = self.filter_of(config).map_err(unfit)?;
        let data = self.container_data(&record.config.id, &config.id);
        let root = RootPlan {
            layers: config.layers.clone(),
            upper: data.join("upper"),
            work: data.join("work"),
            owner: record.users.map_or(0, |users| users.first),
            label: labels.file,
            mount_points,
        };
        for labelled in &config.labelled {
            self.relabel(labelled, record.level).map_err(unfit)?;
        }
        let app_armor = self.profile_of(config).map_err(unfit)?;
        let plan =
            spec::launch_plan(config, &around, root.clone(), seccomp, app_armor).map_err(fault)?;
        let oci = spec::oci_spec(config, &around);

        for path in [&folder.root(), &root.upper, &root.work] {
            make_folder(path)?;
        }
        // The root of the container is this folder: everybody in it may enter.
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&root.upper, open).map_err(io_error("open up", &root.upper))?;
        std::os::unix::fs::chown(&root.upper, Some(root.owner), Some(root.owner))
            .map_err(io_error("hand over", &root.upper))?;
        let write = |path: PathBuf, result: &dyn Fn(&Path) -> io::Result<()>| {
            result(&path).map_err(io_error("write", &path))
        };
        write(folder.config(), &|path| records::write(path, config))?;
        // With version 2 libcontainer bounds them; it takes a group that is there already for one that works.
        if !around.unified_cgroups {
            let huge_page_limits = config.resources.huge_page_limits.clone();
            let pages = Resources { huge_page_limits, ..Resources::default() };
            self.hierarchies.bound(&around.cgroup, &pages)?;
        }
        write(folder.spec(), &|path| records::write(path, &oci))?;
        if plan.group.is_some() {
            make_folder(&folder.lean_bundle())?;
            let lean = spec::without_group(oci, &folder.root());
            write(folder.lean_spec(), &|path| records::write(path, &lean))?;
        }
        write(folder.launch(), &|path| records::write(path, &plan))
    }

    /// What a container takes for the name of its machine.
    fn hostname(&self, config: &SandboxConfig) -> std::result::Result<String, String> {
        if !config.of_host.network {
            return Ok(config.hostname.clone());
        }
        let name = nix::unistd::gethostname().map_err(|e| format!("find the host name: {e}"))?;
        Ok(name.to_string_lossy().into_owned())
    }

    /// The file with the compiled system-call filter of a container, if it has one.
    fn filter_of(&self, config: &ContainerConfig) -> std::result::Result<Option<PathBuf>, String> {
        if config.privileged {
            return Ok(None);
        }
        let capabilities = spec::capabilities(config)?;
        let path = match &config.seccomp {
            SeccompProfile::Unconfined => return Ok(None),
            SeccompProfile::RuntimeDefault => self
                .filters
                .runtime_default(capabilities)
                .map_err(|e| format!("compile the system-call filter: {e}"))?,
            SeccompProfile::File(file) => self.filters.of_file(file, capabilities)?,
        };
        Ok(Some(path))
    }

    /// The AppArmor profile of a container, if it has one.
    fn profile_of(&self, config: &ContainerConfig) -> std::result::Result<Option<String>, String> {
        let name = match &config.app_armor {
            AppArmorProfile::Unconfined => return Ok(None),
            // It denies what a privileged one is for.
            AppArmorProfile::RuntimeDefault if config.privileged => return Ok(None),
            AppArmorProfile::RuntimeDefault => {
                return Ok(self.app_armor.is_ok().then(apparmor::default_name));
            }
            AppArmorProfile::Named(name) => name,
        };
        let of = |reason: &dyn fmt::Display| format!("AppArmor profile {name:?}: {reason}");
        if let Err(reason) = &self.app_armor {
            return Err(of(reason));
        }
        match apparmor::is_loaded(name).map_err(|e| of(&e))? {
            true => Ok(Some(name.clone())),
            false => Err(of(&"it is not loaded on this node")),
        }
    }

    /// Gives files of a pod their SELinux label, where there are any.
    fn relabel(
        &self,
        labelled: &Labelled,
        level: Option<selinux::Level>,
    ) -> std::result::Result<(), String> {
        let Labelled { path, selinux: options } = labelled;
        match self.labels(options, level, false)?.file {
            Some(label) => selinux::relabel::relabel(path, &label)
                .map_err(|e| format!("set the SELinux label of {}: {e}", path.display())),
            None => Ok(()),
        }
    }

    /// Where a container's own files are.
    pub(super) fn container_data(&self, sandbox: &SandboxId, container: &ContainerId) -> PathBuf {
        self.sandbox_data(sandbox).join(&container.0)
    }

    pub(super) fn sandbox_data(&self, sandbox: &SandboxId) -> PathBuf {
        self.config.data_dir.join("sandboxes").join(&sandbox.0)
    }
}

/// Whether what is mounted has, or is part of, what control groups are mounted on.
fn has_cgroups(mount: &Mount) -> bool {
    let (MountSource::Host(path) | MountSource::Below { folder: path, .. }) = &mount.source else {
        return false;
    };
    // One that cannot be looked at may be any.
    let groups = Path::new(MOUNTED_BELOW);
    fs::canonicalize(path).map_or(true, |path| path.starts_with(groups) || groups.starts_with(path))
}

/// Folders that are there on every machine and that everybody may enter. Over one of them a creator
/// mounts, for itself alone, what a container with users of its own is put together from.
const STAGES: [&str; 4] = ["/mnt", "/media", "/srv", "/usr"];

/// One of them that does not hide what the creator itself still needs.
fn stage_folder(state_dir: &Path) -> std::result::Result<PathBuf, String> {
    let fits = |folder: &&Path| folder.is_dir() && !state_dir.starts_with(folder);
    let mut folders = STAGES.iter().map(Path::new);
    let found = folders.find(fits).map(Path::to_owned);
    found.ok_or_else(|| format!("none of the folders {STAGES:?} is there"))
}

/// Whether a container can run as this user among those that it has.
fn check_users(user: &User, users: IdRange) -> std::result::Result<(), String> {
    let groups = user.additional_gids.iter().map(|gid| ("group", *gid));
    let mut all = [("user", user.uid), ("group", user.gid)].into_iter().chain(groups);
    match all.find(|(_, id)| *id >= users.count) {
        Some((what, id)) => Err(format!(
            "{what} {id} is beyond the {} that a pod with users of its own has; \
             set hostUsers: true in the pod",
            users.count
        )),
        None => Ok(()),
    }
}

/// Whether all owners of an image's files are among the users of a container.
fn check_owners(highest: Option<u32>, users: IdRange) -> std::result::Result<(), String> {
    match highest.filter(|id| *id >= users.count) {
        Some(id) => Err(format!(
            "files of the image belong to user or group {id}, beyond the {} that a pod with users \
             of its own has; set hostUsers: true in the pod",
            users.count
        )),
        None => Ok(()),
    }
}

/// Runs the shim's program to its end; a shim in the background is not it any more.
fn run_shim(program: &OwnedFd, arguments: &[&OsStr]) -> io::Result<Output> {
    Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0("kutter-shim")
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
}

/// Whether sandboxes can have users of their own, with files in this folder; the error says why not.
pub(super) fn probe_users(program: &OwnedFd, folder: &Path) -> std::result::Result<(), String> {
    let output = run_shim(program, &[OsStr::new(PROBE_USERS), folder.as_os_str()]);
    let output = output.map_err(|e| e.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// Makes a folder, and those above it, that only root may look into.
fn make_folder(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path))
}

#[cfg(test)]
mod tests;
