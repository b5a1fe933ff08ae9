//! Static pods: those that this node has in files of a folder, and runs without anybody's word.
//!
//! ```text
//! folder ──inotify──> StaticPods ── manifest: text -> Pod ── rules, unsupported: what it may say
//!                         └──> state.static_pods ──> pod workers
//!                                     └──> mirrors ──> what the API shows of them
//! ```
//!
//! A file holds one pod. One that is changed is another pod, which starts when the one before it has
//! ended. A file that cannot be used is told of once, and changes nothing: neither what came out of it
//! before, nor what other files say.

mod manifest;
pub(crate) mod mirrors;
mod rules;
mod unsupported;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::ObjectKey;
use proto::k8s::api::core::v1::Pod;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::folder_watch::{News, Watch};
use crate::reporter::Reporter;
use crate::state::{Change, StateHandle};

/// Where a pod comes from: `file` for those here, `api` for all others.
pub(crate) const SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
/// The uid that the content of the file makes.
pub(crate) const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
/// On what the API shows: the uid of the pod on its node.
pub(crate) const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// A pod of the API may be larger, but none that a person wrote.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Twice what a node runs by default.
const MAX_FILES: usize = 256;

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to {operation} the folder of static pods {path}")]
pub struct StaticPodsError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The folder, and what was found in it.
pub struct StaticPods {
    folder: PathBuf,
    node_name: String,
    state: StateHandle,
    reporter: Reporter,
    watch: Watch,
    /// By the names of their files, as far as these could be used.
    files: BTreeMap<String, Arc<Pod>>,
}

impl StaticPods {
    /// Puts the pods of the folder into the state. It is made where there is none.
    ///
    /// # Errors
    /// When the folder cannot be made, watched or read.
    pub fn open(
        folder: &Path,
        node_name: &str,
        state: StateHandle,
        reporter: Reporter,
    ) -> Result<Self, StaticPodsError> {
        let watch = open_watch(folder)?;
        let mut pods = Self {
            folder: folder.to_owned(),
            node_name: node_name.to_owned(),
            state,
            reporter,
            watch,
            files: BTreeMap::new(),
        };
        let names = pods.names()?;
        pods.read(names);
        info!(folder = %folder.display(), pods = pods.files.len(), "took the static pods");
        Ok(pods)
    }

    /// Follows the folder until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while let Some(news) = shutdown.run_until_cancelled(self.watch.news()).await {
            let done = match news {
                Ok(News::Files(names)) => {
                    self.read(names);
                    Ok(())
                }
                Ok(News::Lost) => self.names().map(|names| self.read(names)),
                Ok(News::Gone) => self.reopen(),
                Err(source) => Err(self.problem("watch", source)),
            };
            if let Err(failure) = done {
                error!(error = %crate::join::Chain(&failure), "static pods stay as they are");
                return;
            }
        }
    }

    /// The folder was removed or renamed, and its pods with it.
    fn reopen(&mut self) -> Result<(), StaticPodsError> {
        self.watch = open_watch(&self.folder)?;
        let names = self.names()?;
        self.read(names);
        Ok(())
    }

    /// All files that are there, and those that were.
    fn names(&self) -> Result<BTreeSet<String>, StaticPodsError> {
        let read = || -> io::Result<BTreeSet<String>> {
            let mut names: BTreeSet<String> = self.files.keys().cloned().collect();
            for entry in fs::read_dir(&self.folder)? {
                names.insert(entry?.file_name().to_string_lossy().into_owned());
            }
            Ok(names)
        };
        read().map_err(|source| self.problem("read", source))
    }

    /// Looks at these files anew.
    fn read(&mut self, names: BTreeSet<String>) {
        for name in names.into_iter().filter(|name| !name.starts_with('.')) {
            match self.read_one(&name) {
                Ok(Some(pod)) => {
                    self.files.insert(name, Arc::new(pod));
                }
                Ok(None) => {
                    self.files.remove(&name);
                }
                Err(problem) => self.complain(&name, &problem),
            }
        }
        self.publish();
    }

    /// The pod in a file; nothing when there is no such file.
    fn read_one(&self, name: &str) -> Result<Option<Pod>, String> {
        let path = self.folder.join(name);
        let Some(text) = read_bounded(&path)? else { return Ok(None) };
        if self.files.len() >= MAX_FILES && !self.files.contains_key(name) {
            return Err(format!("there are {MAX_FILES} pods already; remove files"));
        }
        let pod = manifest::pod(&text, name, &self.node_name).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            problems.join("; ")
        })?;
        let key = key_of(&pod);
        // Otherwise it would depend on the order of their names which of the two runs.
        let mut others = self.files.iter().filter(|(other, _)| *other != name);
        if let Some((other, _)) = others.find(|(_, pod)| key_of(pod) == key) {
            return Err(format!(
                "metadata.name: Duplicate value: pod {key} is in {other} already; rename one of them"
            ));
        }
        Ok(Some(pod))
    }

    /// Tells the workers what changed.
    fn publish(&self) {
        let wanted: HashMap<ObjectKey, Arc<Pod>> =
            self.files.values().map(|pod| (key_of(pod), Arc::clone(pod))).collect();
        let changed: Vec<ObjectKey> = self.state.read(|state| {
            let known = &state.static_pods;
            let differs = |key: &&ObjectKey| known.get(*key) != wanted.get(*key);
            let all: BTreeSet<&ObjectKey> = known.keys().chain(wanted.keys()).collect();
            all.into_iter().filter(differs).cloned().collect()
        });
        if changed.is_empty() {
            return;
        }
        for pod in &changed {
            info!(%pod, wanted = wanted.contains_key(pod), "a static pod changed");
        }
        self.state.write(changed.into_iter().map(Change::Pod), |state| state.static_pods = wanted);
    }

    fn complain(&self, name: &str, problem: &str) {
        let kept = match self.files.contains_key(name) {
            true => "; the pod of its content before goes on",
            false => "",
        };
        let path = self.folder.join(name);
        error!(file = %path.display(), problem, "a static pod is refused");
        let message = format!("static pod file {}: {problem}{kept}", path.display());
        self.reporter.node_warning(&self.node_name, "InvalidStaticPod", &message);
    }

    fn problem(&self, operation: &'static str, source: io::Error) -> StaticPodsError {
        StaticPodsError { operation, path: self.folder.clone(), source }
    }
}

fn open_watch(folder: &Path) -> Result<Watch, StaticPodsError> {
    let problem = |operation, source| StaticPodsError { operation, path: folder.into(), source };
    crate::files::make_private_folder(folder).map_err(|source| problem("make", source))?;
    Watch::new(folder).map_err(|source| problem("watch", source))
}

/// The content of a file; nothing when there is none, or something else of that name.
fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let read = || -> io::Result<Option<Vec<u8>>> {
        // Opened only when it is a plain file: a pipe would be waited for.
        if !fs::metadata(path)?.is_file() {
            return Ok(None);
        }
        let mut text = Vec::new();
        File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)?;
        Ok(Some(text))
    };
    match read() {
        Ok(Some(text)) if text.len() as u64 > MAX_FILE_BYTES => {
            Err(format!("it is larger than {MAX_FILE_BYTES} bytes; a file holds one pod"))
        }
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

fn key_of(pod: &Pod) -> ObjectKey {
    let meta = &pod.metadata;
    ObjectKey::new(
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}
