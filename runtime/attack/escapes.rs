//! Files that lead out of the container, or drive the machine.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{chdir, chroot, fchdir};

use super::{Attempt, Outcome, errno, ok};

/// Opens for writing and writes; kernel files decide at either.
pub(crate) fn write(path: &str, text: &str) -> Outcome {
    let file = OpenOptions::new().write(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map(ok).map_err(|e| errno(&e))
}

/// What can be read: nothing, or something.
fn read(path: &str) -> Outcome {
    let mut bytes = [0; 64];
    let count = File::open(path).and_then(|mut file| file.read(&mut bytes));
    match count.map_err(|e| errno(&e))? {
        0 => Ok("empty".to_owned()),
        _ => Ok("ok".to_owned()),
    }
}

fn entries(path: &str) -> Outcome {
    let count = fs::read_dir(path).map_err(|e| errno(&e))?.count();
    Ok(if count == 0 { "empty".to_owned() } else { "ok".to_owned() })
}

/// Makes a device node and opens it.
pub(crate) fn device(kind: SFlag, major: u64, minor: u64) -> Outcome {
    let path = Path::new("/tmp/node");
    let _ = fs::remove_file(path);
    mknod(path, kind, Mode::S_IRUSR | Mode::S_IWUSR, makedev(major, minor))?;
    File::open(path).map(ok).map_err(|e| errno(&e))
}

/// Whether a file is one of the container's own root.
fn root_mark(path: &str) -> Outcome {
    let (reached, own) = (fs::metadata(path), fs::metadata("/"));
    match (reached, own) {
        (Ok(reached), Ok(own)) if (reached.dev(), reached.ino()) == (own.dev(), own.ino()) => {
            Ok("inside".to_owned())
        }
        (Ok(_), _) => Ok("ok".to_owned()),
        (Err(e), _) => Err(errno(&e)),
    }
}

/// What the program was given open beyond the three streams. Comes first: others leave some open.
pub(crate) fn leaked_descriptors() -> Outcome {
    let open = fs::read_dir("/proc/self/fd").map_err(|e| errno(&e))?;
    let names = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    // 3 is the listing itself.
    let more: Vec<u32> = names.filter(|number| *number > 3).collect();
    Ok(if more.is_empty() { "none".to_owned() } else { format!("{more:?}") })
}

pub(crate) const ATTEMPTS: &[Attempt] = &[
    // Control groups.
    ("raise a limit", || {
        let mut found = Vec::new();
        walk(Path::new("/sys/fs/cgroup"), 0, &mut found);
        let limits =
            ["memory.max", "memory.limit_in_bytes", "pids.max", "cpu.max", "release_agent"];
        let wanted = |path: &String| limits.iter().any(|limit| path.ends_with(limit));
        let first = found.iter().find(|path| wanted(path));
        first.map_or(Err(Errno::ENOENT), |path| write(path, "max"))
    }),
    ("leave the control group", || write("/sys/fs/cgroup/cgroup.procs", "0")),
    ("make a control group", || {
        fs::create_dir("/sys/fs/cgroup/mine").map(ok).map_err(|e| errno(&e))
    }),
    // Kernel parameters.
    ("core_pattern", || write("/proc/sys/kernel/core_pattern", "|/tmp/x")),
    ("modprobe", || write("/proc/sys/kernel/modprobe", "/tmp/x")),
    ("ip_forward", || write("/proc/sys/net/ipv4/ip_forward", "1")),
    ("sysrq-trigger", || write("/proc/sysrq-trigger", "h")),
    ("sysrq", || write("/proc/sys/kernel/sysrq", "1")),
    ("binfmt_misc", || write("/proc/sys/fs/binfmt_misc/register", ":x:M::x::/tmp/x:")),
    ("drop_caches", || write("/proc/sys/vm/drop_caches", "1")),
    ("irq", || write("/proc/irq/default_smp_affinity", "1")),
    ("uevent_helper", || write("/sys/kernel/uevent_helper", "/tmp/x")),
    ("power", || write("/sys/power/state", "mem")),
    ("block device queue", || write("/sys/module/loop/parameters/max_loop", "1")),
    ("write into /sys", || File::create("/sys/x").map(ok).map_err(|e| errno(&e))),
    ("poweroff_cmd", || write("/proc/sys/kernel/poweroff_cmd", "/tmp/x")),
    ("the next process number", || write("/proc/sys/kernel/ns_last_pid", "1")),
    ("panic", || write("/proc/sys/kernel/panic_on_oops", "1")),
    ("limit of watchers", || write("/proc/sys/fs/inotify/max_user_instances", "1000000")),
    ("limit of namespaces", || write("/proc/sys/user/max_user_namespaces", "0")),
    ("dumps of setuid programs", || write("/proc/sys/fs/suid_dumpable", "2")),
    ("rescan a bus", || write("/sys/bus/pci/rescan", "1")),
    ("its own profile", || write("/proc/self/attr/apparmor/current", "changeprofile unconfined")),
    // What tells of the machine.
    ("addresses of the kernel", || {
        let mut first = [b'0'; 8];
        let mut file = File::open("/proc/kallsyms").map_err(|e| errno(&e))?;
        file.read_exact(&mut first).map_err(|e| errno(&e))?;
        Ok(if first == [b'0'; 8] { "hidden".to_owned() } else { "ok".to_owned() })
    }),
    ("debugfs", || entries("/sys/kernel/debug")),
    ("tracefs", || entries("/sys/kernel/tracing")),
    ("securityfs", || entries("/sys/kernel/security")),
    ("pstore", || entries("/sys/fs/pstore")),
    ("bpffs", || entries("/sys/fs/bpf")),
    ("efi variables", || entries("/sys/firmware/efi/efivars")),
    ("kcore", || read("/proc/kcore")),
    ("keys", || read("/proc/keys")),
    ("timer_list", || read("/proc/timer_list")),
    ("interrupts", || read("/proc/interrupts")),
    ("acpi", || entries("/proc/acpi")),
    ("scsi", || entries("/proc/scsi")),
    ("firmware", || entries("/sys/firmware")),
    ("/proc/kmsg", || read("/proc/kmsg")),
    ("/dev/kmsg", || read("/dev/kmsg")),
    ("/dev/mem", || read("/dev/mem")),
    ("/dev/fuse", || read("/dev/fuse")),
    ("/dev/net/tun", || read("/dev/net/tun")),
    // Devices.
    ("node of a disk", || device(SFlag::S_IFBLK, 8, 0)),
    ("node of a virtual disk", || device(SFlag::S_IFBLK, 254, 0)),
    ("node of memory", || device(SFlag::S_IFCHR, 1, 1)),
    ("node of the kernel log", || device(SFlag::S_IFCHR, 1, 11)),
    ("node of a terminal", || device(SFlag::S_IFCHR, 4, 0)),
    ("node of fuse", || device(SFlag::S_IFCHR, 10, 229)),
    ("node of kvm", || device(SFlag::S_IFCHR, 10, 232)),
    // Ways out of the root.
    ("above the root", || root_mark("/../../../../..")),
    ("root of the first process", || root_mark("/proc/1/root/")),
    ("a link above the root", || {
        let _ = symlink("../../../../../../../../..", "/tmp/up");
        root_mark("/tmp/up/")
    }),
    ("chroot and back", || {
        fs::create_dir_all("/tmp/cell").map_err(|e| errno(&e))?;
        let outside = File::open("/").map_err(|e| errno(&e))?;
        let inode = fs::metadata("/").map_err(|e| errno(&e))?.ino();
        chroot("/tmp/cell")?;
        fchdir(&outside)?;
        for _ in 0..64 {
            chdir("..")?;
        }
        chroot(".")?;
        chdir("/")?;
        let reached = fs::metadata("/").map_err(|e| errno(&e))?.ino();
        Ok(if reached == inode { "inside".to_owned() } else { "ok".to_owned() })
    }),
    ("overwrite the own program", || {
        let file = OpenOptions::new().write(true).open("/proc/self/exe");
        file.map(ok).map_err(|e| errno(&e))
    }),
    ("program of the first process", || {
        if std::process::id() == 1 {
            return Ok("itself".to_owned());
        }
        write("/proc/1/exe", "x")
    }),
    ("memory of the first process", || {
        if std::process::id() == 1 {
            return Ok("itself".to_owned());
        }
        let file = OpenOptions::new().write(true).open("/proc/1/mem");
        file.map(ok).map_err(|e| errno(&e))
    }),
    ("an unchangeable file", || {
        let file = File::create("/tmp/unchangeable").map_err(|e| errno(&e))?;
        let flags = rustix::fs::IFlags::IMMUTABLE;
        let set = rustix::fs::ioctl_setflags(&file, flags);
        set.map(ok).map_err(|e| Errno::from_raw(e.raw_os_error()))
    }),
];

/// All files below a folder, a few levels down.
fn walk(folder: &Path, depth: usize, found: &mut Vec<String>) {
    if depth > 4 {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&path, depth + 1, found),
            _ => found.extend(path.to_str().map(str::to_owned)),
        }
    }
}
