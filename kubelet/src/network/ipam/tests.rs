//! Addresses are given, rest, and survive whoever is killed.

use super::*;

const NOW: Duration = Duration::from_secs(1000);

fn range() -> IpNet {
    "10.244.1.0/29".parse().unwrap()
}

fn both() -> Vec<IpNet> {
    vec![range(), "fd00:10:0:1::/64".parse().unwrap()]
}

fn take_at(ipam: &mut Ipam, pod: &str, now: Duration) -> String {
    ipam.take(pod, &[range()], &[], now).unwrap().addresses[0].to_string()
}

fn take(ipam: &mut Ipam, pod: &str) -> String {
    take_at(ipam, pod, NOW)
}

fn new() -> (tempfile::TempDir, Ipam) {
    let folder = tempfile::tempdir().unwrap();
    let ipam = Ipam::open(folder.path(), "boot").unwrap();
    (folder, ipam)
}

#[test]
fn gives_every_pod_an_address_of_its_own_and_the_same_again() {
    let (_folder, mut ipam) = new();
    assert_eq!(take(&mut ipam, "a"), "10.244.1.2");
    assert_eq!(take(&mut ipam, "b"), "10.244.1.3");
    assert_eq!(take(&mut ipam, "a"), "10.244.1.2");
}

#[test]
fn gives_an_address_of_each_family_in_the_order_of_the_ranges() {
    let (_folder, mut ipam) = new();
    let mut take = |pod: &str, ranges: &[IpNet]| {
        let lease = ipam.take(pod, ranges, &[], NOW).unwrap();
        lease.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>()
    };
    assert_eq!(take("a", &both()), ["10.244.1.2", "fd00:10:0:1::2"]);
    let turned: Vec<IpNet> = both().into_iter().rev().collect();
    assert_eq!(take("b", &turned), ["fd00:10:0:1::3", "10.244.1.3"]);
    assert_eq!(take("c", &turned[..1]), ["fd00:10:0:1::4"]);
    // Whoever has addresses keeps them.
    assert_eq!(take("c", &turned), ["fd00:10:0:1::4"]);
}

#[test]
fn takes_nothing_when_one_family_is_exhausted() {
    let (_folder, mut ipam) = new();
    for pod in ["a", "b", "c", "d", "e"] {
        take(&mut ipam, pod);
    }
    let before = ipam.leases.clone();
    assert!(matches!(ipam.take("f", &both(), &[], NOW), Err(IpamError::Exhausted(_))));
    assert_eq!(ipam.leases, before);
}

#[test]
fn goes_round_before_it_gives_an_address_again() {
    let (_folder, mut ipam) = new();
    let mut now = NOW;
    for last in [2, 3, 4, 5, 6, 2, 3] {
        assert_eq!(take_at(&mut ipam, "pod", now), format!("10.244.1.{last}"));
        ipam.release("pod", now).unwrap();
        now += Duration::from_secs(7);
    }
}

#[test]
fn first_comes_the_address_that_nobody_had_for_longest() {
    let (_folder, mut ipam) = new();
    for pod in ["a", "b", "c", "d", "e"] {
        take(&mut ipam, pod);
    }
    for (pod, seconds) in [("d", 1), ("a", 2), ("b", 3)] {
        ipam.release(pod, NOW + Duration::from_secs(seconds)).unwrap();
    }
    let later = NOW + REST + Duration::from_secs(3);
    assert_eq!(take_at(&mut ipam, "f", later), "10.244.1.5");
    assert_eq!(take_at(&mut ipam, "g", later), "10.244.1.2");
    assert_eq!(take_at(&mut ipam, "h", later), "10.244.1.3");
}

#[test]
fn says_for_how_long_addresses_rest_when_no_other_is_free() {
    let (_folder, mut ipam) = new();
    for pod in ["a", "b", "c", "d", "e"] {
        take(&mut ipam, pod);
    }
    ipam.release("c", NOW).unwrap();
    let later = NOW + REST - Duration::from_secs(2);
    match ipam.take("f", &[range()], &[], later) {
        Err(IpamError::Resting { left, .. }) => assert_eq!(left, Duration::from_secs(2)),
        other => panic!("{other:?}"),
    }
    assert_eq!(take_at(&mut ipam, "f", NOW + REST), "10.244.1.4");
}

#[test]
fn what_is_remembered_of_the_past_is_bounded() {
    let (_folder, mut ipam) = new();
    let ranges = both()[1..].to_vec();
    let mut now = NOW;
    for _ in 0..2 * REMEMBERED {
        ipam.take("pod", &ranges, &[], now).unwrap();
        ipam.release("pod", now).unwrap();
        now += REST;
    }
    assert_eq!(ipam.leases.released.len(), REMEMBERED);
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
fn reads_what_an_earlier_version_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"{"boot":"boot","next":"10.244.1.4","pods":{"a":{"addresses":["10.244.1.3"]}}}"#;
    fs::write(folder.path().join("addresses.json"), text).unwrap();
    let mut ipam = Ipam::open(folder.path(), "boot").unwrap();
    assert_eq!(take(&mut ipam, "a"), "10.244.1.3");
    assert_eq!(take(&mut ipam, "b"), "10.244.1.2");
    assert_eq!(take(&mut ipam, "c"), "10.244.1.4");
}

#[test]
fn remembers_across_a_restart_but_not_across_a_boot() {
    let (folder, mut ipam) = new();
    let port =
        HostPort { protocol: "TCP".into(), host_ip: None, host_port: 80, container_port: 8080 };
    ipam.take("a", &[range()], std::slice::from_ref(&port), NOW).unwrap();
    drop(ipam);
    let ipam = Ipam::open(folder.path(), "boot").unwrap();
    assert_eq!(ipam.pods()["a"].host_ports, [port]);
    let mut ipam = Ipam::open(folder.path(), "next boot").unwrap();
    assert!(ipam.pods().is_empty());
    let soon = Duration::from_secs(5);
    for (pod, last) in [("b", 3), ("c", 4), ("d", 5), ("e", 6)] {
        assert_eq!(take_at(&mut ipam, pod, soon), format!("10.244.1.{last}"));
    }
    let rests = ipam.take("f", &[range()], &[], soon);
    assert!(matches!(rests, Err(IpamError::Resting { .. })), "an old address rests even then");
    assert_eq!(take_at(&mut ipam, "f", REST), "10.244.1.2");
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
    assert!(matches!(ipam.take("a", &[range()], &[], NOW), Err(IpamError::File { .. })));
    assert!(ipam.pods().is_empty());
}

/// A node whose kubelet is killed wherever one likes.
struct Machine {
    folder: tempfile::TempDir,
    ipam: Ipam,
    ranges: Vec<IpNet>,
    /// The interfaces in the kernel: by pod, with their addresses.
    interfaces: BTreeMap<String, Vec<IpAddr>>,
    /// The pods that have been started and not removed.
    alive: BTreeSet<String>,
    /// Who last had an address, and when its interface went.
    gone: BTreeMap<IpAddr, (String, Duration)>,
    now: Duration,
}

/// Where a kubelet is killed within an attach or a detach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Killed {
    /// While the new file was written beside the old one: so many bytes got there.
    Writing(usize),
    /// After the first of file and kernel was changed.
    Between,
    /// After both were.
    After,
    Never,
}

impl Killed {
    fn any(random: &mut fastrand::Rng) -> Self {
        match random.u8(..8) {
            0 => Self::Writing(random.usize(..200)),
            1 => Self::Between,
            2 => Self::After,
            _ => Self::Never,
        }
    }
}

impl Machine {
    fn new(ranges: Vec<IpNet>) -> Self {
        let (folder, ipam) = new();
        let (interfaces, alive) = (BTreeMap::new(), BTreeSet::new());
        Self { folder, ipam, ranges, interfaces, alive, gone: BTreeMap::new(), now: NOW }
    }

    /// A change of the leases, which may not survive.
    fn change<T>(
        &mut self,
        killed: Killed,
        work: impl FnOnce(&mut Ipam) -> Result<T, IpamError>,
    ) -> Option<Result<T, IpamError>> {
        let path = self.ipam.path.clone();
        let before = fs::read(&path).ok();
        let result = work(&mut self.ipam);
        let Killed::Writing(bytes) = killed else { return Some(result) };
        let after = fs::read(&path).unwrap_or_default();
        fs::write(path.with_extension("new"), &after[..bytes.min(after.len())]).unwrap();
        match before {
            Some(before) => fs::write(&path, before).unwrap(),
            None => fs::remove_file(&path).unwrap_or_default(),
        }
        None
    }

    /// As `BridgeNetwork` does it: first the lease, then the interface.
    fn attach(&mut self, pod: &str, killed: Killed) {
        self.alive.insert(pod.to_owned());
        let (ranges, now) = (self.ranges.clone(), self.now);
        match self.change(killed, |ipam| ipam.take(pod, &ranges, &[], now)) {
            Some(Ok(lease)) if killed != Killed::Between => self.connect(pod, lease.addresses),
            // The pod waits, and is gone before it gets one.
            Some(Err(IpamError::Exhausted(_) | IpamError::Resting { .. })) => {
                self.alive.remove(pod);
            }
            Some(Ok(_)) | None => {}
            Some(Err(error)) => panic!("{error}"),
        }
        if killed != Killed::Never {
            self.restart();
        }
    }

    fn connect(&mut self, pod: &str, addresses: Vec<IpAddr>) {
        let before = self.interfaces.insert(pod.to_owned(), addresses.clone());
        assert!(before.is_none_or(|before| before == addresses), "{pod} has other addresses");
        assert_eq!(addresses.len(), self.ranges.len());
        for address in addresses {
            let holders = self.interfaces.values().flatten();
            assert_eq!(holders.filter(|held| **held == address).count(), 1, "{address} twice");
            if let Some((last, at)) = self.gone.remove(&address) {
                assert!(last == pod || at + REST <= self.now, "{address} has not rested");
            }
        }
    }

    /// First the interface, then the lease.
    fn detach(&mut self, pod: &str, killed: Killed) {
        for address in self.interfaces.remove(pod).unwrap_or_default() {
            self.gone.insert(address, (pod.to_owned(), self.now));
        }
        let now = self.now;
        if killed != Killed::Between {
            let released = self.change(killed, |ipam| ipam.release(pod, now));
            released.transpose().unwrap();
        }
        if killed != Killed::Never {
            self.restart();
        }
    }

    /// Another kubelet, which attaches all pods that are to live, and takes back the rest.
    fn restart(&mut self) {
        self.ipam = Ipam::open(self.folder.path(), "boot").unwrap();
        let leases: Vec<String> = self.ipam.pods().keys().cloned().collect();
        for pod in leases {
            if !self.alive.contains(&pod) {
                self.detach(&pod, Killed::Never);
            }
        }
        for pod in self.alive.clone() {
            self.attach(&pod, Killed::Never);
        }
        assert!(self.ipam.pods().keys().eq(self.alive.iter()), "a lease too many or too few");
        assert!(self.interfaces.keys().eq(self.alive.iter()));
    }
}

#[test]
fn no_address_is_lost_or_given_twice_wherever_the_kubelet_is_killed() {
    let seed = std::env::var("KUTTER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("KUTTER_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for ranges in [both(), both()[..1].to_vec(), both()[1..].to_vec()] {
        let mut machine = Machine::new(ranges);
        for _ in 0..600 {
            // Twice as many pods as there are addresses, so that they are scarce.
            let pod = format!("pod-{}", random.u8(..10));
            machine.now += Duration::from_millis(random.u64(..8_000));
            let killed = Killed::any(&mut random);
            if machine.alive.remove(&pod) {
                machine.detach(&pod, killed);
            } else {
                machine.attach(&pod, killed);
            }
        }
        for pod in std::mem::take(&mut machine.alive) {
            machine.detach(&pod, Killed::Never);
        }
        assert!(machine.ipam.pods().is_empty() && machine.interfaces.is_empty());
        // Everything is to be had again.
        machine.now += REST;
        for pod in 0..5 {
            machine.attach(&format!("last-{pod}"), Killed::Never);
        }
        assert_eq!(machine.interfaces.len(), 5);
    }
}
