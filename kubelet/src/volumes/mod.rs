//! The files that pods see beside their image: volumes, and the few files of `/etc`.
//!
//! ```text
//! <root-dir>/pods/<uid>/
//!   record.json           who the pod is and what was last reported of it
//!   volumes/<name>/       emptyDir, ConfigMap, Secret, downward and projected volumes; the latter
//!                         three on tmpfs
//!   etc/                  hosts, hostname, resolv.conf
//!   messages/<container>/ termination messages, one file per attempt
//! ```
//!
//! Everything here blocks and is called from blocking threads. All of it is idempotent, so that a
//! kubelet that died in the middle simply does it again.

mod atomic_writer;
pub(crate) mod etc;
mod folder;
mod host_path;
pub(crate) mod hostname;
pub(crate) mod mounts;
mod payload;
pub(crate) mod resolver;
pub(crate) mod sub_path;
#[cfg(test)]
mod tests;
pub(crate) mod tokens;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::huge_pages;
use proto::k8s::api::core::v1::{ConfigMap, EmptyDirVolumeSource, Node, Pod, Secret, Volume};
use proto::quantity::Quantity;

use self::folder::Folder;
use self::tokens::TokenFile;

/// The volumes of a pod, by name.
pub(crate) type Volumes = BTreeMap<String, PreparedVolume>;

/// A volume that can be mounted into containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PreparedVolume {
    /// A file or folder of the host.
    pub(crate) source: PathBuf,
    /// Whether its content belongs to the kubelet, so that no container may write to it.
    pub(crate) read_only: bool,
}

/// What a pod's volumes show beside the pod itself: ConfigMaps and Secrets, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    pub(crate) config_maps: HashMap<String, Arc<ConfigMap>>,
    pub(crate) secrets: HashMap<String, Arc<Secret>>,
    /// What it has to give is what a container without limits may use.
    pub(crate) node: Option<Arc<Node>>,
    /// Or why there is none.
    pub(crate) tokens: HashMap<TokenFile, Result<String, String>>,
}

/// A volume could not be prepared.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {message}")]
pub(crate) struct VolumeError {
    /// Which one.
    pub(crate) volume: String,
    /// For the user.
    pub(crate) message: String,
    /// Whether only a change of an API object can help.
    pub(crate) awaits_object: bool,
}

/// Where a pod's files are.
#[derive(Clone, Debug)]
pub(crate) struct PodDir(PathBuf);

impl PodDir {
    /// The folder of the pod with this uid.
    pub(crate) fn new(root_dir: &Path, uid: &str) -> Self {
        Self(Self::all(root_dir).join(uid))
    }

    /// Where the folders of all pods are.
    pub(crate) fn all(root_dir: &Path) -> PathBuf {
        root_dir.join("pods")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.0.join("record.json")
    }

    pub(crate) fn etc(&self) -> PathBuf {
        self.0.join("etc")
    }

    pub(crate) fn termination_message(&self, container: &str, attempt: u32) -> PathBuf {
        self.0.join("messages").join(container).join(attempt.to_string())
    }

    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.0.join("volumes").join(name)
    }
}

/// Makes all volumes of the pod, or brings those that show objects up to date.
pub(crate) fn prepare(dir: &PodDir, pod: &Pod, objects: &Objects) -> Result<Volumes, VolumeError> {
    let mut prepared = Volumes::new();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    // Images are not made of files of the pod's: each container brings them along.
    for volume in volumes.filter(|volume| volume.image.is_none()) {
        let one = prepare_one(dir, pod, volume, objects).map_err(|problem| {
            let (message, awaits_object) = match problem {
                Problem::Missing(message) => (message, true),
                Problem::Failed(message) => (message, false),
            };
            VolumeError { volume: volume.name.clone(), message, awaits_object }
        })?;
        prepared.insert(volume.name.clone(), one);
    }
    Ok(prepared)
}

/// Removes the volumes; the record stays.
pub(crate) fn remove_volumes(dir: &PodDir) -> io::Result<()> {
    mounts::unmount_below(dir.path())?;
    for part in ["volumes", "etc"] {
        remove_tree(&dir.path().join(part))?;
    }
    Ok(())
}

/// Removes everything of the pod.
pub(crate) fn remove_pod(dir: &PodDir) -> io::Result<()> {
    mounts::unmount_below(dir.path())?;
    remove_tree(dir.path())
}

/// Removes a folder with all that is in it; links are removed, never followed. No error when
/// there is none.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

enum Problem {
    Missing(String),
    Failed(String),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

fn prepare_one(
    dir: &PodDir,
    pod: &Pod,
    volume: &Volume,
    objects: &Objects,
) -> Result<PreparedVolume, Problem> {
    let source = dir.volume(&volume.name);
    if let Some(empty_dir) = &volume.empty_dir {
        prepare_empty_dir(&source, empty_dir, pod)?;
        return Ok(PreparedVolume { source, read_only: false });
    }
    if let Some(host_path) = &volume.host_path {
        host_path::check(host_path).map_err(Problem::Failed)?;
        return Ok(PreparedVolume { source: host_path.path.clone().into(), read_only: false });
    }
    if let Some(files) = payload::of_volume(volume, pod, objects) {
        let files = files?;
        let folder = Folder::new(0o755).of_group(fs_group(pod));
        folder.ensure(&source)?;
        // Secrets never touch a disk.
        if volume.config_map.is_none() {
            mounts::ensure_tmpfs(&source, None, folder)?;
        }
        atomic_writer::write(&source, &files)?;
        return Ok(PreparedVolume { source, read_only: true });
    }
    Err(Problem::Failed("this kind of volume is not supported by this node".to_owned()))
}

/// Any user of any container may write to an `emptyDir`.
const EMPTY_DIR_MODE: u32 = 0o777;

fn prepare_empty_dir(
    path: &Path,
    empty_dir: &EmptyDirVolumeSource,
    pod: &Pod,
) -> Result<(), Problem> {
    let mode = match empty_dir.mode {
        None => EMPTY_DIR_MODE,
        Some(mode) => {
            u32::try_from(mode).map_err(|_| Problem::Failed(format!("{mode} is no file mode")))?
        }
    };
    let limit = empty_dir
        .size_limit
        .as_ref()
        .map(|limit| Quantity::parse(&limit.0).map_err(|e| Problem::Failed(e.to_string())))
        .transpose()?
        .map(|limit| u64::try_from(limit.value()).unwrap_or(0))
        .filter(|limit| *limit > 0);
    let folder = Folder::new(mode).shared_by(fs_group(pod));
    match (empty_dir.medium.as_deref().unwrap_or_default(), limit) {
        // Whoever fills more of the disk than the limit has to go: see `pressure`.
        ("", _) => folder.ensure(path)?,
        ("Memory", limit) => {
            folder.ensure(path)?;
            mounts::ensure_tmpfs(path, limit, folder)?;
        }
        (medium, limit) => {
            let unknown = || Problem::Failed(format!("unknown storage medium {medium:?}"));
            let pages = huge_pages::medium(medium).ok_or_else(unknown)?;
            let spec = pod.spec.as_ref().ok_or_else(unknown)?;
            let size = huge_pages::volume_page_size(spec, pages).map_err(Problem::Failed)?;
            folder.ensure(path)?;
            mounts::ensure_hugetlbfs(path, size, limit, folder)?;
        }
    }
    Ok(())
}

/// To whom the pod's volumes belong, if it says so.
fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    context.and_then(|context| context.fs_group).and_then(|group| u32::try_from(group).ok())
}
