//! What is remembered of a pod on disk: who it is, and what was last reported of it.
//!
//! The runtime remembers containers; what it cannot know is here: restart counts and last states
//! of containers whose records are gone, the outcome of a pod that is over, when it started. It
//! is written before the status is reported, so that it is never behind what the master knows.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use jiff::Timestamp;
use proto::ObjectKey;
use proto::k8s::api::core::v1::{Pod, PodStatus};
use serde::{Deserialize, Serialize};

use super::names::PodIdentity;
use super::observed::{Observed, PodFailure, Stopping};
use super::recover::Promises;
use crate::volumes::PodDir;

/// Containers that are to end, by their names.
pub(crate) type Stops = BTreeMap<String, Stop>;

/// An attempt that is to end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stop {
    /// Which attempt of its container it is.
    pub(crate) number: u32,
    pub(crate) stopping: Stopping,
}

/// What is to be remembered of the containers that are asked to end.
pub(crate) fn stops(observed: &Observed) -> Stops {
    let all = observed.containers.iter().filter_map(|record| {
        let number = record.running()?.labels.number;
        Some((record.name.clone(), Stop { number, stopping: record.stopping.clone()? }))
    });
    all.collect()
}

/// Goes on with what another kubelet began. A clock that was set back leaves nobody more time.
pub(crate) fn resume_stops(observed: &mut Observed, stops: &Stops, now: Timestamp) {
    for record in &mut observed.containers {
        let number = record.running().map(|attempt| attempt.labels.number);
        let stop = stops.get(&record.name).filter(|stop| Some(stop.number) == number);
        record.stopping = stop.map(|stop| {
            let mut stopping = stop.stopping.clone();
            stopping.since = stopping.since.min(now);
            stopping.signalled = stopping.signalled.map(|at| at.min(now));
            stopping.killed = stopping.killed.map(|at| at.min(now));
            stopping
        });
    }
}

/// The content of `record.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// Nothing before the first report.
    pub(crate) status: Option<PodStatus>,
    /// The resources that its containers were promised; nothing in a record of an earlier version.
    #[serde(default)]
    pub(crate) promised: Option<Promises>,
    /// Why it has to go, which its next kubelet goes on with.
    #[serde(default)]
    pub(crate) failed: Option<PodFailure>,
    /// The containers that were asked to end, by their names: a new kubelet goes on with what is left of
    /// their time.
    #[serde(default)]
    pub(crate) stops: Stops,
    /// The pod itself, if it comes from a file of this node: with the file nobody else knows how it is
    /// to end.
    #[serde(default)]
    pub(crate) from_file: Option<Pod>,
}

impl Record {
    pub(crate) fn new(
        pod: &PodIdentity,
        status: Option<PodStatus>,
        promised: Promises,
        failed: Option<PodFailure>,
    ) -> Self {
        Self {
            namespace: pod.key.namespace.clone(),
            name: pod.key.name.clone(),
            uid: pod.uid.clone(),
            status,
            promised: Some(promised),
            failed,
            stops: Stops::new(),
            from_file: None,
        }
    }

    pub(crate) fn identity(&self) -> PodIdentity {
        PodIdentity { key: ObjectKey::new(&self.namespace, &self.name), uid: self.uid.clone() }
    }

    /// Nothing when there is none. One that cannot be read is worth a warning and no more: the
    /// runtime and the master know most of it too.
    pub(crate) fn read(dir: &PodDir) -> Option<Self> {
        let path = dir.record();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "failed to read a pod's record");
                return None;
            }
        };
        match serde_json::from_slice(&text) {
            Ok(record) => Some(record),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "failed to decode a pod's record");
                None
            }
        }
    }

    /// Replaces the record in one step.
    pub(crate) fn write(&self, dir: &PodDir) -> io::Result<()> {
        fs::create_dir_all(dir.path())?;
        let path = dir.record();
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(&new, &path)
    }

    /// The records of all pods that ever had a folder here. A folder without one has nothing but
    /// its name to tell.
    pub(crate) fn read_all(root_dir: &Path) -> io::Result<Vec<(String, Option<Self>)>> {
        let all = PodDir::all(root_dir);
        fs::create_dir_all(&all)?;
        // Below are other people's secrets; containers have them bound, and pass through no folder.
        fs::set_permissions(&all, fs::Permissions::from_mode(0o700))?;
        let mut records = Vec::new();
        for entry in fs::read_dir(&all)? {
            let uid = entry?.file_name().to_string_lossy().into_owned();
            let record = Self::read(&PodDir::new(root_dir, &uid));
            records.push((uid, record));
        }
        Ok(records)
    }
}
