//! Which pod has which addresses, kept on disk.
//!
//! A lease is written before the interface it is for is made, and taken back after that interface
//! is gone. A crash in between leaves a lease too many, never one too few, and
//! [`retain`](super::PodNetwork::retain) finds it. The file is replaced as a whole by a rename.
//!
//! An address that was given back rests: others may not have heard yet that its holder is gone. First
//! come the addresses that nobody had for longest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::HostPort;
use super::ranges::{address_at, offset_of, pod_offsets};

/// How long an address that was given back is nobody's. Other nodes hear of its end within a fraction of a
/// second and forget names after five; programs remember names for up to 30 seconds (Java), and that
/// is the pause of the one network plugin that has one (AWS').
pub(crate) const REST: Duration = Duration::from_secs(30);
/// So many addresses are remembered as given back, beyond those that rest: as many as an IPv4 node has with
/// the usual range. In larger ranges it is enough that the search goes on where it ended.
const REMEMBERED: usize = 256;

/// What one pod has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Lease {
    /// The pod's addresses, one per family, in the order of the node's ranges.
    pub(crate) addresses: Vec<IpAddr>,
    /// Ports of the node that lead to the pod.
    #[serde(default)]
    pub(crate) host_ports: Vec<HostPort>,
}

/// An address that was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Released {
    address: IpAddr,
    /// When, since the machine's start.
    at: Duration,
}

/// All leases of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Leases {
    /// Which boot these are of: after another one, no pod is left that could hold an address.
    boot: String,
    /// Where the search for a free address goes on, in the range of each family.
    #[serde(default)]
    cursors: Vec<IpAddr>,
    /// What was given back, the last at the end.
    #[serde(default)]
    released: VecDeque<Released>,
    /// By pod uid.
    pods: BTreeMap<String, Lease>,
}

impl Leases {
    /// The address of the range that is free for longest.
    fn free_address(&mut self, range: IpNet, now: Duration) -> Result<IpAddr, IpamError> {
        let in_use: BTreeSet<IpAddr> =
            self.pods.values().flat_map(|lease| lease.addresses.iter().copied()).collect();
        let released: BTreeSet<IpAddr> = self.released.iter().map(|one| one.address).collect();
        let candidates = pod_offsets(range);
        let cursor = self.cursors.iter().find_map(|cursor| offset_of(range, *cursor));
        let start = cursor.filter(|at| candidates.contains(at)).unwrap_or(candidates.start);
        // At most as many steps as there are addresses in the two sets.
        let forgotten = (start..candidates.end).chain(candidates.start..start).find(|offset| {
            let address = address_at(range, *offset);
            !in_use.contains(&address) && !released.contains(&address)
        });
        if let Some(offset) = forgotten {
            self.cursors.retain(|cursor| offset_of(range, *cursor).is_none());
            self.cursors.push(address_at(range, offset + 1));
            return Ok(address_at(range, offset));
        }
        let is_candidate = |address: IpAddr| {
            offset_of(range, address).is_some_and(|offset| candidates.contains(&offset))
                && !in_use.contains(&address)
        };
        let oldest = self.released.iter().find(|one| is_candidate(one.address)).copied();
        let Some(oldest) = oldest else { return Err(IpamError::Exhausted(range)) };
        let left = (oldest.at + REST).saturating_sub(now);
        if left.is_zero() {
            self.released.retain(|one| one.address != oldest.address);
            Ok(oldest.address)
        } else {
            Err(IpamError::Resting { range, left })
        }
    }

    /// The pod's lease with these host ports: the addresses it holds, or one of each range.
    fn take(
        &mut self,
        pod_uid: &str,
        ranges: &[IpNet],
        host_ports: &[HostPort],
        now: Duration,
    ) -> Result<Lease, IpamError> {
        let addresses = match self.pods.get(pod_uid) {
            Some(lease) => lease.addresses.clone(),
            None => ranges
                .iter()
                .map(|range| self.free_address(*range, now))
                .collect::<Result<_, _>>()?,
        };
        let lease = Lease { addresses, host_ports: host_ports.to_vec() };
        self.pods.insert(pod_uid.to_owned(), lease.clone());
        Ok(lease)
    }

    fn release(&mut self, pod_uid: &str, now: Duration) {
        let addresses = self.pods.remove(pod_uid).map(|lease| lease.addresses).unwrap_or_default();
        self.released.extend(addresses.into_iter().map(|address| Released { address, at: now }));
        let may_be_forgotten = |one: &Released| one.at + REST <= now;
        while self.released.len() > REMEMBERED
            && self.released.front().is_some_and(may_be_forgotten)
        {
            self.released.pop_front();
        }
    }

    /// What is left of these after the machine has started anew: addresses that rest.
    fn after_boot(mut self, boot: &str) -> Self {
        let held: Vec<String> = self.pods.keys().cloned().collect();
        for one in &mut self.released {
            one.at = Duration::ZERO;
        }
        for pod_uid in held {
            self.release(&pod_uid, Duration::ZERO);
        }
        Self { boot: boot.to_owned(), ..self }
    }
}

/// The leases of this node, in memory and on disk.
#[derive(Debug)]
pub(crate) struct Ipam {
    path: PathBuf,
    leases: Leases,
}

/// A failed change of the leases.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IpamError {
    /// Every address is taken.
    #[error("all addresses of {0} are in use")]
    Exhausted(IpNet),
    /// Those that are not taken were until a moment ago.
    #[error("all addresses of {range} are in use or rest, one of them for another {left:?}")]
    Resting { range: IpNet, left: Duration },
    /// The file could not be read or written.
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    /// The file holds something else.
    #[error("{path} is damaged: {source}")]
    Damaged { path: PathBuf, source: serde_json::Error },
    /// The machine does not tell for how long it runs.
    #[error("cannot tell the time: {0}")]
    Clock(#[from] nix::Error),
    /// The work ended before it was done.
    #[error("{0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl Ipam {
    /// Reads the leases of the folder; those of an earlier boot are forgotten.
    pub(crate) fn open(folder: &Path, boot: &str) -> Result<Self, IpamError> {
        let path = folder.join("addresses.json");
        let file = |source| IpamError::File { path: path.clone(), source };
        fs::create_dir_all(folder).map_err(file)?;
        let leases = match fs::read(&path) {
            // A loss of power may leave that behind a new name; no pod outlives it.
            Ok(text) if text.iter().all(|byte| *byte == 0) => Leases::default(),
            Ok(text) => serde_json::from_slice::<Leases>(&text)
                .map_err(|source| IpamError::Damaged { path: path.clone(), source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Leases::default(),
            Err(error) => return Err(file(error)),
        };
        let leases = if leases.boot == boot { leases } else { leases.after_boot(boot) };
        Ok(Self { path, leases })
    }

    /// Who has what.
    pub(crate) fn pods(&self) -> &BTreeMap<String, Lease> {
        &self.leases.pods
    }

    /// The pod's lease, the one it holds or a new one. It is written down when this returns. `now` is
    /// the time since the machine's start.
    pub(crate) fn take(
        &mut self,
        pod_uid: &str,
        ranges: &[IpNet],
        host_ports: &[HostPort],
        now: Duration,
    ) -> Result<Lease, IpamError> {
        let mut changed = self.leases.clone();
        let lease = changed.take(pod_uid, ranges, host_ports, now)?;
        self.keep(changed)?;
        Ok(lease)
    }

    /// Takes the pod's addresses back.
    pub(crate) fn release(&mut self, pod_uid: &str, now: Duration) -> Result<(), IpamError> {
        let mut changed = self.leases.clone();
        changed.release(pod_uid, now);
        self.keep(changed)
    }

    /// Memory follows the disk, so that a failed write changes nothing.
    fn keep(&mut self, changed: Leases) -> Result<(), IpamError> {
        if changed != self.leases {
            let failed = |source| IpamError::File { path: self.path.clone(), source };
            // For the next kubelet, not for the next boot: whoever holds an address ends with the
            // machine. So no pod's start waits for the disk.
            let beside = self.path.with_extension("new");
            let text = serde_json::to_vec(&changed).map_err(|error| failed(error.into()))?;
            fs::write(&beside, text).map_err(failed)?;
            fs::rename(&beside, &self.path).map_err(failed)?;
            self.leases = changed;
        }
        Ok(())
    }
}

/// The time since the machine's start, in which it may have slept.
pub(crate) fn uptime() -> Result<Duration, nix::Error> {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from)
}

/// Names the present boot of the machine.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests;
