use super::*;
use crate::api::CapabilityChanges;

/// What the kernel would do with a call: runs the compiled program on it.
fn verdict(program: &[u8], architecture: u32, number: i64, arguments: [u64; 2]) -> u32 {
    let mut data = [0u8; 64];
    data[0..4].copy_from_slice(&(number as u32).to_ne_bytes());
    data[4..8].copy_from_slice(&architecture.to_ne_bytes());
    data[16..24].copy_from_slice(&arguments[0].to_ne_bytes());
    data[24..32].copy_from_slice(&arguments[1].to_ne_bytes());
    let (mut at, mut accumulator) = (0, 0u32);
    loop {
        let code = &program[at * 8..at * 8 + 8];
        let operation = u16::from_ne_bytes([code[0], code[1]]);
        let (yes, no) = (code[2] as usize, code[3] as usize);
        let value = u32::from_ne_bytes(code[4..8].try_into().unwrap());
        let jump = |taken: bool| if taken { yes } else { no };
        at += 1;
        match operation {
            0x20 => {
                let offset = value as usize;
                accumulator = u32::from_ne_bytes(data[offset..offset + 4].try_into().unwrap());
            }
            0x54 => accumulator &= value,
            0x05 => at += value as usize,
            0x15 => at += jump(accumulator == value),
            0x25 => at += jump(accumulator > value),
            0x35 => at += jump(accumulator >= value),
            0x06 => return value,
            other => panic!("unexpected operation {other:#x}"),
        }
    }
}

#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

fn default_filter() -> Vec<u8> {
    compile(Capabilities::with_changes(&CapabilityChanges::default()).unwrap()).unwrap()
}

#[test]
fn everyday_calls_are_allowed() {
    let filter = default_filter();
    for call in [libc::SYS_read, libc::SYS_openat, libc::SYS_execve, libc::SYS_futex] {
        assert_eq!(verdict(&filter, NATIVE, call, [0, 0]), ALLOW, "{call}");
    }
    assert_eq!(verdict(&filter, NATIVE, libc::SYS_socket, [2, 0]), ALLOW);
    assert_eq!(verdict(&filter, NATIVE, libc::SYS_clone, [0x0120_0011, 0]), ALLOW);
}

#[test]
fn calls_that_reach_the_host_are_refused() {
    let filter = default_filter();
    for call in [libc::SYS_mount, libc::SYS_unshare, libc::SYS_init_module, libc::SYS_kexec_load] {
        assert_eq!(verdict(&filter, NATIVE, call, [0, 0]), EPERM, "{call}");
    }
    assert_eq!(verdict(&filter, NATIVE, libc::SYS_socket, [40, 0]), EPERM);
    assert_eq!(verdict(&filter, NATIVE, libc::SYS_io_uring_setup, [0, 0]), EPERM);
    assert_eq!(verdict(&filter, NATIVE, libc::SYS_clone, [0x1002_0000, 0]), EPERM);
    assert_eq!(verdict(&filter, NATIVE, libc::SYS_keyctl, [0, 0]), EPERM);
}

#[test]
fn sockets_are_told_by_what_the_kernel_takes_of_their_family() {
    let filter = default_filter();
    for family in 0..48u64 {
        let expected = if [38, 40].contains(&family) { EPERM } else { ALLOW };
        for more in [0, 1 << 32, 0xffff_ffff << 32] {
            let arguments = [more | family, 0];
            let found = verdict(&filter, NATIVE, libc::SYS_socket, arguments);
            assert_eq!(found, expected, "{family} {more:#x}");
        }
    }
    assert_eq!(verdict(&filter, NATIVE, libc::SYS_socket, [48, 0]), EPERM);
}

#[test]
fn what_cannot_be_looked_into_is_said_not_to_exist() {
    let filter = default_filter();
    assert_eq!(verdict(&filter, NATIVE, libc::SYS_clone3, [0, 0]), ENOSYS);
    assert_eq!(verdict(&filter, NATIVE, 500, [0, 0]), ENOSYS);
    assert_eq!(verdict(&filter, NATIVE, 457, [0, 0]), ENOSYS);
}

#[test]
fn newer_calls_are_decided_by_number() {
    let filter = default_filter();
    for number in profile::ALLOWED_BY_NUMBER {
        assert_eq!(verdict(&filter, NATIVE, i64::from(*number), [0, 0]), ALLOW, "{number}");
    }
    assert_eq!(verdict(&filter, NATIVE, 450, [0, 0]), EPERM);
}

#[test]
fn a_capability_brings_its_calls_back() {
    let changes = CapabilityChanges { add: vec!["SYS_ADMIN".to_owned()], drop: vec![] };
    let filter = compile(Capabilities::with_changes(&changes).unwrap()).unwrap();
    assert_eq!(verdict(&filter, NATIVE, libc::SYS_mount, [0, 0]), ALLOW);
    assert_eq!(verdict(&filter, NATIVE, libc::SYS_clone, [0x1002_0000, 0]), ALLOW);
    assert_eq!(verdict(&filter, NATIVE, libc::SYS_init_module, [0, 0]), EPERM);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn programs_of_32_bits_are_filtered_too() {
    const I386: u32 = 0x4000_0003;
    let filter = default_filter();
    // read and mount of the 32-bit table.
    assert_eq!(verdict(&filter, I386, 3, [0, 0]), ALLOW);
    assert_eq!(verdict(&filter, I386, 21, [0, 0]), EPERM);
}

#[test]
fn a_filter_is_compiled_once() {
    let folder = tempfile::tempdir().unwrap();
    let cache = FilterCache::new(folder.path().join("filters"));
    let first = cache.runtime_default(Capabilities(0)).unwrap();
    let written = fs::metadata(&first).unwrap().modified().unwrap();
    assert_eq!(cache.runtime_default(Capabilities(0)).unwrap(), first);
    assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), written);
    assert_ne!(cache.runtime_default(Capabilities(1 << 21)).unwrap(), first);
}

#[test]
fn the_default_in_the_words_of_oci_decides_alike() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("default.json");
    fs::write(&file, crate::default_seccomp(&CapabilityChanges::default()).unwrap().to_string())
        .unwrap();
    let capabilities = Capabilities::with_changes(&CapabilityChanges::default()).unwrap();
    let cache = FilterCache::new(folder.path().join("filters"));
    let theirs = fs::read(cache.of_file(&file, capabilities).unwrap()).unwrap();
    let ours = fs::read(cache.runtime_default(capabilities).unwrap()).unwrap();
    let other: &[u32] = if cfg!(target_arch = "x86_64") { &[0x4000_0003] } else { &[] };
    for architecture in [NATIVE].iter().chain(other) {
        for number in 0..i64::from(profile::FIRST_BY_NUMBER) {
            for argument in [0, 2, 38, 40, 0x0120_0011, 0x1002_0000, 0xffff_ffff] {
                let of = |filter| verdict(filter, *architecture, number, [argument, 0]);
                assert_eq!(of(&theirs), of(&ours), "{architecture:#x} {number} {argument:#x}");
            }
        }
    }
}
