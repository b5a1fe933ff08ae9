//! Reads what this machine has.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::SystemTime;

use proto::k8s::api::core::v1::NodeSystemInfo;
use runtime::image::{Image, ImageStore};

use super::{Facts, Observe, Reserved, architecture};

/// The machine this process runs on.
pub struct Machine {
    /// The file system it is on counts as the node's storage.
    pub root_dir: PathBuf,
    /// The node's addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// As the operator says.
    pub max_pods: u32,
    /// What pods do not get, of a memory and a storage of so many bytes.
    pub reserved: Box<dyn Fn(u64, u64) -> Reserved + Send + Sync>,
    /// Whether pods can have users of their own.
    pub maps_users: bool,
    /// Its images; nothing where there are none to tell of.
    pub images: Option<Images>,
}

/// The images of a store, read when one came or went.
pub struct Images {
    store: ImageStore,
    /// The time of the folder of records, and what was in there.
    last: Mutex<(Option<SystemTime>, Vec<Image>)>,
}

impl Images {
    /// Those of this store.
    pub fn of(store: ImageStore) -> Self {
        Self { store, last: Mutex::default() }
    }

    fn list(&self) -> Vec<Image> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let changed_at = self.store.changed_at();
        if changed_at.is_none() || changed_at != last.0 {
            match self.store.list() {
                Ok(images) => *last = (changed_at, images),
                Err(error) => tracing::warn!(%error, "cannot list the images"),
            }
        }
        last.1.clone()
    }
}

impl Observe for Machine {
    fn observe(&self) -> Facts {
        let memory_bytes = meminfo(&read("/proc/meminfo"), "MemTotal");
        let storage_bytes = nix::sys::statvfs::statvfs(&self.root_dir)
            .map_or(0, |fs| fs.blocks().saturating_mul(fs.fragment_size()));
        let processors = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN);
        Facts {
            processors: processors.ok().flatten().and_then(|n| u64::try_from(n).ok()).unwrap_or(1),
            memory_bytes,
            storage_bytes,
            huge_pages: huge_pages(),
            reserved: (self.reserved)(memory_bytes, storage_bytes),
            images: self.images.as_ref().map(Images::list).unwrap_or_default(),
            max_pods: self.max_pods,
            maps_users: self.maps_users,
            addresses: self.addresses.clone(),
            hostname: nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            info: system_info(),
        }
    }
}

fn read(path: &str) -> String {
    // What a kernel does not tell is told as unknown.
    fs::read_to_string(path).unwrap_or_default()
}

/// Bytes of a line such as `MemTotal:  16318412 kB`.
fn meminfo(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

/// Sizes of pages that the kernel can set aside, and how many bytes of each it has.
fn huge_pages() -> Vec<(u64, u64)> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let mut sizes: Vec<(u64, u64)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count = |file: &str| -> Option<u64> {
                fs::read_to_string(entry.path().join(file)).ok()?.trim().parse().ok()
            };
            // Those beyond what is set aside (`nr_overcommit_hugepages`) come and go with their use.
            let pages = count("nr_hugepages")?.saturating_sub(count("surplus_hugepages")?);
            Some((size * 1024, pages * size * 1024))
        })
        .collect();
    sizes.sort_unstable();
    sizes
}

fn system_info() -> NodeSystemInfo {
    let uname = nix::sys::utsname::uname().ok();
    let machine_id = read("/etc/machine-id").trim().to_owned();
    let product = read("/sys/class/dmi/id/product_uuid").trim().to_owned();
    let version = proto::KUBERNETES_VERSION;
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
        container_runtime_version: format!("kutter://{}", env!("CARGO_PKG_VERSION")),
        kernel_version: uname
            .map(|uname| uname.release().to_string_lossy().into_owned())
            .unwrap_or_default(),
        kube_proxy_version: version.to_owned(),
        kubelet_version: version.to_owned(),
        system_uuid: if product.is_empty() { machine_id.clone() } else { product },
        machine_id,
        operating_system: "linux".to_owned(),
        os_image: os_image(&read("/etc/os-release")),
        ..NodeSystemInfo::default()
    }
}

fn os_image(os_release: &str) -> String {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".to_owned(), |name| name.trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_files() {
        assert_eq!(meminfo("MemTotal:       16 kB\nMemAvailable:  8 kB\n", "MemTotal"), 16384);
        assert_eq!(
            os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 13\"\n"),
            "Debian GNU/Linux 13"
        );
    }

    #[test]
    fn this_machine_can_be_observed() {
        let addresses = vec![[10, 0, 0, 1].into(), "fd00::1".parse().unwrap()];
        let reserved = Box::new(|memory: u64, _| Reserved {
            memory: i64::try_from(memory / 2).unwrap(),
            ..Reserved::default()
        });
        let machine = Machine {
            root_dir: "/".into(),
            addresses: addresses.clone(),
            max_pods: 110,
            maps_users: false,
            reserved,
            images: None,
        };
        let facts = machine.observe();
        assert!(facts.processors > 0 && facts.memory_bytes > 0 && facts.storage_bytes > 0);
        assert_eq!(facts.reserved.memory, i64::try_from(facts.memory_bytes / 2).unwrap());
        assert_eq!(facts.addresses, addresses);
    }
}
