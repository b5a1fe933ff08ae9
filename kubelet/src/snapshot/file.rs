//! The file: a line of JSON for each object, then one for each change. A later line about the same
//! object counts.
//!
//! Changes are appended, so that one costs as much as it is long, however much there is; when they
//! have become as long as the rest, the file is written anew. Its first part ends with a line that
//! says so: whether that was written whole is seen by this line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use proto::k8s::api::core::v1::Node;
use proto::{ObjectKey, Peer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::warn;

use super::SnapshotError;
use crate::files;
use crate::state::{self, Change, ClusterState, Object};

/// Changes shorter than this are not worth a new file.
const WORTH_A_FILE: u64 = 1 << 20;

/// A line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line<'a> {
    /// All that belongs to no object of a resource.
    Cluster(Box<Cluster>),
    Put {
        resource: &'a str,
        #[serde(borrow)]
        key: Key<'a>,
        #[serde(borrow)]
        object: &'a RawValue,
    },
    Removed {
        resource: &'a str,
        #[serde(borrow)]
        key: Key<'a>,
    },
    /// What was there when the file was made is above.
    Whole,
}

#[derive(Serialize, Deserialize)]
struct Key<'a> {
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Key<'a> {
    fn of(key: &'a ObjectKey) -> Self {
        Self { namespace: &key.namespace, name: &key.name }
    }

    fn to_owned(&self) -> ObjectKey {
        ObjectKey::new(self.namespace, self.name)
    }
}

/// The part of the state that has no keys.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cluster {
    node: Option<Node>,
    peers: Vec<Peer>,
    pod_cidrs: Vec<String>,
    service_cidrs: Vec<String>,
    cluster_domain: String,
    masters: Vec<IpAddr>,
}

impl Cluster {
    fn of(state: &ClusterState) -> Self {
        Self {
            node: state.node.as_deref().cloned(),
            peers: state.peers.values().map(|peer| peer.as_ref().clone()).collect(),
            pod_cidrs: state.pod_cidrs.clone(),
            service_cidrs: state.service_cidrs.clone(),
            cluster_domain: state.cluster_domain.clone(),
            masters: state.masters.clone(),
        }
    }

    fn put_into(self, state: &mut ClusterState) {
        let Self { node, peers, pod_cidrs, service_cidrs, cluster_domain, masters } = self;
        let peers = peers.into_iter().map(|peer| (peer.node.clone(), peer.into()));
        state.peers = peers.collect();
        state.node = node.map(Into::into);
        state.pod_cidrs = pod_cidrs;
        state.service_cidrs = service_cidrs;
        state.cluster_domain = cluster_domain;
        state.masters = masters;
    }
}

/// What is to be written, shared with the state, so that nobody waits while it is.
pub(super) struct Batch {
    cluster: Option<Box<Cluster>>,
    objects: Vec<(&'static str, ObjectKey, Option<Object>)>,
}

impl Batch {
    /// What has become of what changed.
    pub(super) fn of<'a>(
        state: &ClusterState,
        changes: impl IntoIterator<Item = &'a Change>,
    ) -> Self {
        let mut batch = Self { cluster: None, objects: Vec::new() };
        for change in changes {
            match state.object_of(change) {
                Some(object) => batch.objects.push(object),
                None => batch.cluster = Some(Box::new(Cluster::of(state))),
            }
        }
        batch
    }

    /// Everything that there is.
    pub(super) fn of_all(state: &ClusterState) -> Self {
        Self::of(state, &[vec![Change::Everything], state.all()].concat())
    }

    fn write(self, into: &mut impl Write) -> io::Result<()> {
        if let Some(cluster) = self.cluster {
            write_line(&Line::Cluster(cluster), into)?;
        }
        for (resource, key, object) in &self.objects {
            let key = Key::of(key);
            match object {
                Some(object) => {
                    let object = &object.json()?;
                    write_line(&Line::Put { resource, key, object }, into)?;
                }
                None => write_line(&Line::Removed { resource, key }, into)?,
            }
        }
        Ok(())
    }
}

fn write_line(line: &Line<'_>, into: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *into, line)?;
    into.write_all(b"\n")
}

/// The file while it is written.
pub(super) struct Writer {
    file: File,
    folder: PathBuf,
    /// Lengths in bytes, when it was made and now.
    made: u64,
    length: u64,
    /// Whether it has the name yet under which it outlasts a loss of power.
    settled: bool,
}

/// Of the file that a loss of power leaves whole.
const NAME: &str = "state.jsonl";
/// Of one that may not have reached the disk.
const FRESH_NAME: &str = "state.fresh.jsonl";

impl Writer {
    /// A new file in place of whatever is in the folder.
    pub(super) fn make(folder: &Path, everything: Batch) -> Result<Self, SnapshotError> {
        files::make_private_folder(folder).map_err(|source| io_error("make", folder, source))?;
        let path = folder.join(FRESH_NAME);
        let beside = folder.join("state.new.jsonl");
        let make = || {
            let options = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&beside);
            let mut file = BufWriter::new(options?);
            everything.write(&mut file)?;
            write_line(&Line::Whole, &mut file)?;
            let file = file.into_inner()?;
            fs::rename(&beside, &path)?;
            let made = file.metadata()?.len();
            io::Result::Ok(Self {
                file,
                folder: folder.to_owned(),
                made,
                length: made,
                settled: false,
            })
        };
        make().map_err(|source| io_error("write", &path, source))
    }

    /// Adds changes. After a failure the file must not be written on.
    pub(super) fn append(&mut self, changes: Batch) -> Result<(), SnapshotError> {
        let mut lines = Vec::new();
        changes
            .write(&mut lines)
            .and_then(|()| self.file.write_all(&lines))
            .map_err(|source| io_error("write", &self.folder, source))?;
        self.length += lines.len() as u64;
        Ok(())
    }

    /// Whether the changes have become so long that a new file is better.
    pub(super) fn has_grown(&self) -> bool {
        self.length - self.made > self.made.max(WORTH_A_FILE)
    }

    /// Has what was written outlast a loss of power.
    pub(super) fn settle(&mut self) -> Result<(), SnapshotError> {
        let (fresh, path) = (self.folder.join(FRESH_NAME), self.folder.join(NAME));
        let settled =
            if self.settled { self.file.sync_data() } else { files::make_durable(&fresh, &path) };
        settled.map_err(|source| io_error("make durable", &path, source))?;
        self.settled = true;
        Ok(())
    }
}

/// Reads what is kept in a folder; nothing when there is nothing.
pub(super) fn read(folder: &Path) -> Result<Option<ClusterState>, SnapshotError> {
    match read_file(&folder.join(FRESH_NAME)) {
        Ok(Some(state)) => return Ok(Some(state)),
        Ok(None) => {}
        Err(failure @ SnapshotError::Decode { .. }) => {
            warn!(error = %crate::join::Chain(&failure), "the power was lost while it was written");
        }
        Err(failure) => return Err(failure),
    }
    read_file(&folder.join(NAME))
}

/// Goes by all lines up to the first that cannot be read: who was killed may have begun another, and
/// a loss of power may have left none behind it. An error if not even the first part is whole.
fn read_file(path: &Path) -> Result<Option<ClusterState>, SnapshotError> {
    let mut lines = match File::open(path) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("read", path, source)),
    };
    let mut state = ClusterState::default();
    let mut whole = false;
    let mut line = Vec::new();
    loop {
        line.clear();
        lines.read_until(b'\n', &mut line).map_err(|source| io_error("read", path, source))?;
        // At the end of the file there is nothing, which is no line either.
        match apply(&line, &mut state) {
            Ok(is_last) => whole |= is_last,
            Err(_) if whole => return Ok(Some(state)),
            Err(source) => return Err(SnapshotError::Decode { path: path.to_owned(), source }),
        }
    }
}

/// Does what a line says; whether it was the last of the first part.
fn apply(line: &[u8], state: &mut ClusterState) -> Result<bool, serde_json::Error> {
    match serde_json::from_slice(line)? {
        Line::Cluster(cluster) => cluster.put_into(state),
        Line::Put { resource, key, object } => {
            if let Some((edit, _)) = state::put(resource, key.to_owned(), object.get().as_bytes())?
            {
                edit(state);
            }
        }
        Line::Removed { resource, key } => {
            if let Some((edit, _)) = state::removal(resource, key.to_owned()) {
                edit(state);
            }
        }
        Line::Whole => return Ok(true),
    }
    Ok(false)
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> SnapshotError {
    SnapshotError::Io { operation, path: path.to_owned(), source }
}
