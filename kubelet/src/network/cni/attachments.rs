//! Who is attached, kept on disk: what was asked of the plugins, and what came of it.
//!
//! A record is written before plugins are asked to add and removed after they were asked to delete, so
//! that whatever a killed kubelet left is deleted by the next one, with the configuration it was made
//! with. It outlives the machine's end: so do the plugins' own records.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::config::Network;
use crate::network::HostPort;

/// A network namespace: its path may come to lead to another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NamespaceId {
    pub(super) path: PathBuf,
    device: u64,
    inode: u64,
}

impl NamespaceId {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }

    /// The path, if it still leads there.
    pub(super) fn present(&self) -> Option<&Path> {
        Self::of(&self.path).is_ok_and(|now| now == *self).then_some(&self.path)
    }
}

/// A pod that plugins were asked to attach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) pod_uid: String,
    /// With what configuration: it may be another one by now.
    pub(super) network: Network,
    /// Where its plugins are.
    pub(super) programs: Vec<PathBuf>,
    pub(super) netns: NamespaceId,
    pub(super) arguments: String,
    pub(super) capabilities: Map<String, Value>,
    pub(super) host_ports: Vec<HostPort>,
    /// What the last plugin answered; nothing while they are being asked.
    pub(super) result: Option<Value>,
    /// What that means.
    pub(super) addresses: Vec<IpAddr>,
}

/// All records of a node, by pod uid, in memory and on disk.
#[derive(Debug)]
pub(super) struct Records {
    folder: PathBuf,
    pods: BTreeMap<String, Record>,
}

impl Records {
    /// Reads the folder's records.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut pods = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                // It was being written when a kubelet was killed; nothing was asked yet.
                fs::remove_file(&path)?;
                continue;
            }
            let record: Record = serde_json::from_slice(&fs::read(&path)?).map_err(|error| {
                let reason = format!("{} is damaged: {error}", path.display());
                io::Error::new(io::ErrorKind::InvalidData, reason)
            })?;
            pods.insert(record.pod_uid.clone(), record);
        }
        Ok(Self { folder: folder.to_owned(), pods })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Record> {
        self.pods.values()
    }

    pub(super) fn of(&self, pod_uid: &str) -> Option<&Record> {
        self.pods.get(pod_uid)
    }

    fn path(&self, pod_uid: &str) -> PathBuf {
        self.folder.join(format!("{pod_uid}.json"))
    }

    /// Writes a record down, durably: the plugins' own records outlive a loss of power.
    pub(super) fn put(&mut self, record: Record) -> io::Result<()> {
        let path = self.path(&record.pod_uid);
        let beside = path.with_extension("new");
        let file = fs::File::create(&beside)?;
        serde_json::to_writer(&file, &record)?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        fs::File::open(&self.folder)?.sync_all()?;
        self.pods.insert(record.pod_uid.clone(), record);
        Ok(())
    }

    pub(super) fn remove(&mut self, pod_uid: &str) -> io::Result<()> {
        match fs::remove_file(self.path(pod_uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.pods.remove(pod_uid);
        Ok(())
    }
}
