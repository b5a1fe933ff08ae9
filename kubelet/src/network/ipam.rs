//! Which pod has which address, kept on disk.
//!
//! A lease is written before the interface it is for is made, and taken back after that interface
//! is gone. A crash in between leaves a lease too many, never one too few, and
//! [`retain`](super::PodNetwork::retain) finds it. The file is replaced as a whole by a rename.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::HostPort;
use super::ranges::{address_at, offset_of, pod_offsets};

/// What one pod has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Lease {
    /// The pod's addresses, one per family.
    pub(crate) addresses: Vec<IpAddr>,
    /// Ports of the node that lead to the pod.
    #[serde(default)]
    pub(crate) host_ports: Vec<HostPort>,
}

/// All leases of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Leases {
    /// Which boot these are of: after another one, no pod is left that could hold an address.
    boot: String,
    /// Where the search for a free address goes on, so that one given back rests for as long as
    /// the range allows.
    next: Option<IpAddr>,
    /// By pod uid.
    pods: BTreeMap<String, Lease>,
}

impl Leases {
    /// The next free address of the range; nothing when all are taken.
    fn free_address(&self, range: IpNet) -> Option<IpAddr> {
        let candidates = pod_offsets(range);
        let taken: BTreeSet<IpAddr> =
            self.pods.values().flat_map(|lease| lease.addresses.iter().copied()).collect();
        let start = self
            .next
            .and_then(|next| offset_of(range, next))
            .filter(|next| candidates.contains(next))
            .unwrap_or(candidates.start);
        (start..candidates.end)
            .chain(candidates.start..start)
            .map(|offset| address_at(range, offset))
            .find(|address| !taken.contains(address))
    }

    /// The pod's lease, with these host ports; a new one if it has none or one of another range.
    fn take(&mut self, pod_uid: &str, range: IpNet, host_ports: &[HostPort]) -> Option<Lease> {
        let held = self.pods.get(pod_uid).map(|lease| lease.addresses.clone());
        let addresses = match held {
            Some(addresses) => addresses,
            None => {
                let address = self.free_address(range)?;
                let next = offset_of(range, address)? + 1;
                self.next = Some(address_at(range, next));
                vec![address]
            }
        };
        let lease = Lease { addresses, host_ports: host_ports.to_vec() };
        self.pods.insert(pod_uid.to_owned(), lease.clone());
        Some(lease)
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
    /// The file could not be read or written.
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    /// The file holds something else.
    #[error("{path} is damaged: {source}")]
    Damaged { path: PathBuf, source: serde_json::Error },
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
        let leases = if leases.boot == boot {
            leases
        } else {
            Leases { boot: boot.to_owned(), next: leases.next, pods: BTreeMap::new() }
        };
        Ok(Self { path, leases })
    }

    /// Who has what.
    pub(crate) fn pods(&self) -> &BTreeMap<String, Lease> {
        &self.leases.pods
    }

    /// The pod's lease, the one it holds or a new one. It is written down when this returns.
    pub(crate) fn take(
        &mut self,
        pod_uid: &str,
        range: IpNet,
        host_ports: &[HostPort],
    ) -> Result<Lease, IpamError> {
        let mut changed = self.leases.clone();
        let lease = changed.take(pod_uid, range, host_ports).ok_or(IpamError::Exhausted(range))?;
        self.keep(changed)?;
        Ok(lease)
    }

    /// Takes the pod's address back.
    pub(crate) fn release(&mut self, pod_uid: &str) -> Result<(), IpamError> {
        let mut changed = self.leases.clone();
        changed.pods.remove(pod_uid);
        self.keep(changed)
    }

    /// Memory follows the disk, so that a failed write changes nothing.
    fn keep(&mut self, changed: Leases) -> Result<(), IpamError> {
        if changed != self.leases {
            self.write(&changed)
                .map_err(|source| IpamError::File { path: self.path.clone(), source })?;
            self.leases = changed;
        }
        Ok(())
    }

    /// For the next kubelet, not for the next boot: whoever holds an address ends with the machine.
    /// So no pod's start waits for the disk.
    fn write(&self, leases: &Leases) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        fs::write(&beside, serde_json::to_vec(leases)?)?;
        fs::rename(&beside, &self.path)
    }
}

/// Names the present boot of the machine.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range() -> IpNet {
        "10.244.1.0/29".parse().unwrap()
    }

    fn take(ipam: &mut Ipam, pod: &str) -> String {
        ipam.take(pod, range(), &[]).unwrap().addresses[0].to_string()
    }

    #[test]
    fn gives_every_pod_an_address_of_its_own_and_the_same_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut ipam = Ipam::open(folder.path(), "boot").unwrap();
        assert_eq!(take(&mut ipam, "a"), "10.244.1.2");
        assert_eq!(take(&mut ipam, "b"), "10.244.1.3");
        assert_eq!(take(&mut ipam, "a"), "10.244.1.2");
    }

    #[test]
    fn goes_round_before_it_gives_an_address_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut ipam = Ipam::open(folder.path(), "boot").unwrap();
        for last in [2, 3, 4, 5, 6, 2, 3] {
            assert_eq!(take(&mut ipam, "pod"), format!("10.244.1.{last}"));
            ipam.release("pod").unwrap();
        }
    }

    #[test]
    fn a_file_that_lost_its_contents_with_the_power_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        for contents in [&b""[..], &[0; 64]] {
            fs::write(folder.path().join("addresses.json"), contents).unwrap();
            let ipam = Ipam::open(folder.path(), "boot").unwrap();
            assert!(ipam.pods().is_empty());
        }
    }

    #[test]
    fn says_when_all_are_taken_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut ipam = Ipam::open(folder.path(), "boot").unwrap();
        for pod in ["a", "b", "c", "d", "e"] {
            take(&mut ipam, pod);
        }
        let before = ipam.leases.clone();
        assert!(matches!(ipam.take("f", range(), &[]), Err(IpamError::Exhausted(_))));
        assert_eq!(ipam.leases, before);
        ipam.release("c").unwrap();
        assert_eq!(take(&mut ipam, "f"), "10.244.1.4");
    }

    #[test]
    fn remembers_across_a_restart_but_not_across_a_boot() {
        let folder = tempfile::tempdir().unwrap();
        let mut ipam = Ipam::open(folder.path(), "boot").unwrap();
        let port =
            HostPort { protocol: "TCP".into(), host_ip: None, host_port: 80, container_port: 8080 };
        ipam.take("a", range(), std::slice::from_ref(&port)).unwrap();
        drop(ipam);
        let ipam = Ipam::open(folder.path(), "boot").unwrap();
        assert_eq!(ipam.pods()["a"].host_ports, [port]);
        let mut ipam = Ipam::open(folder.path(), "next boot").unwrap();
        assert!(ipam.pods().is_empty());
        assert_eq!(take(&mut ipam, "b"), "10.244.1.3", "an old address rests even then");
    }

    #[test]
    fn refuses_a_damaged_file_rather_than_give_addresses_twice() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("addresses.json"), "{").unwrap();
        assert!(matches!(Ipam::open(folder.path(), "boot"), Err(IpamError::Damaged { .. })));
    }

    #[test]
    fn changes_nothing_when_the_disk_refuses() {
        let folder = tempfile::tempdir().unwrap();
        let mut ipam = Ipam::open(&folder.path().join("deep"), "boot").unwrap();
        fs::remove_dir_all(folder.path()).unwrap();
        assert!(matches!(ipam.take("a", range(), &[]), Err(IpamError::File { .. })));
        assert!(ipam.pods().is_empty());
    }
}
