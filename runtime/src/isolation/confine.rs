//! The last steps of a process before it becomes a program inside a container.
//!
//! It comes here with all of root's power, already in its namespaces, groups and root file
//! system, and without any other thread. The order matters:
//!
//! ```text
//! look the program up -> session keyring, profile or label -> user and groups -> filter (if it takes power to load it)
//!   -> capabilities -> no_new_privs -> filter (if it takes no_new_privs) -> execve
//! ```

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;

use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::Capabilities;
use crate::plan::{LimitKind, ProcessPlan};
use crate::sys;

/// Where programs are looked for when the environment has no `PATH`.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Gives up all that the plan does not grant and becomes the program. Returns only if that
/// fails, with the reason in words for the user.
pub(crate) fn confine_and_exec(process: &ProcessPlan, filter: Option<&[u8]>) -> String {
    match try_confine_and_exec(process, filter) {
        Ok(never) => match never {},
        Err(reason) => reason,
    }
}

fn try_confine_and_exec(
    process: &ProcessPlan,
    filter: Option<&[u8]>,
) -> Result<Infallible, String> {
    umask(Mode::from_bits_truncate(0o022));
    let env = environment(process)?;
    let program = find_program(process)?;
    let path = c_string(&program)?;
    let args = process.args.iter().map(|arg| c_string(arg)).collect::<Result<Vec<_>, _>>()?;

    // As root, who may have more keys than others. No namespace separates the sessions' keyrings: this one is
    // the kubelet's, or that of whoever started it.
    sys::leave_session_keyring().map_err(|e| format!("leave the session keyring: {e}"))?;
    if let Some(profile) = &process.app_armor {
        super::apparmor::on_exec(profile)
            .map_err(|e| format!("set the AppArmor profile {profile}: {e}"))?;
    }
    if let Some(label) = &process.selinux {
        super::selinux::on_exec(label)
            .map_err(|e| format!("set the SELinux label {label}: {e}"))?;
    }
    become_user(process).map_err(|e| format!("change the user: {e}"))?;
    let install = |filter: &[u8]| {
        sys::install_filter(filter).map_err(|e| format!("load the system-call filter: {e}"))
    };
    if let Some(filter) = filter
        && !process.no_new_privileges
    {
        install(filter)?;
    }
    keep_capabilities(process.capabilities).map_err(|e| format!("drop capabilities: {e}"))?;
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(|e| format!("set no_new_privs: {e}"))?;
        if let Some(filter) = filter {
            install(filter)?;
        }
    }
    let Err(errno) = nix::unistd::execve(&path, &args, &env);
    Err(describe_exec_failure(&program, errno))
}

/// Sets the resource limits of this process. Where there is not the power to raise a limit, as
/// when Kutter itself runs confined, the plan is followed as far as the own limit allows.
pub(crate) fn set_limits(process: &ProcessPlan) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    for limit in &process.limits {
        let resource = match limit.kind {
            LimitKind::OpenFiles => Resource::Nofile,
            LimitKind::CoreSize => Resource::Core,
        };
        let set = |soft: u64, hard: u64| {
            let finite = |value: u64| (value != u64::MAX).then_some(value);
            setrlimit(resource, Rlimit { current: finite(soft), maximum: finite(hard) })
        };
        match set(limit.soft, limit.hard) {
            Err(rustix::io::Errno::PERM) => {
                let bound = getrlimit(resource).maximum.unwrap_or(u64::MAX);
                set(limit.soft.min(bound), limit.hard.min(bound))?;
            }
            result => result?,
        }
    }
    Ok(())
}

/// Sets how readily the kernel kills this process for want of memory. To make that less likely
/// than it is takes power; without it nothing is changed, which errs on the side of the machine.
pub(crate) fn set_oom_score(score: i32) -> io::Result<()> {
    match fs::write("/proc/self/oom_score_adj", score.to_string()) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

fn environment(process: &ProcessPlan) -> Result<Vec<CString>, String> {
    let mut env = Vec::with_capacity(process.env.len() + 1);
    for (name, value) in &process.env {
        env.push(c_string(&format!("{name}={value}"))?);
    }
    if !process.env.iter().any(|(name, _)| name == "HOME") {
        env.push(c_string(&format!("HOME={}", home_of(process.user.uid)))?);
    }
    Ok(env)
}

/// The home folder of a user by the container's own `/etc/passwd`.
fn home_of(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let home = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(uid)).then(|| fields.get(5).map(|f| (*f).to_owned()))?
    });
    home.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned())
}

/// Finds the program as a shell would, and tells what is wrong with it while there is still the
/// power to look.
fn find_program(process: &ProcessPlan) -> Result<String, String> {
    let Some(name) = process.args.first().filter(|name| !name.is_empty()) else {
        return Err("exec: no command given".to_owned());
    };
    if name.contains('/') {
        return match fs::metadata(name) {
            Ok(found) if found.is_dir() => Err(format!("exec: {name:?}: is a directory")),
            Ok(found) if found.permissions().mode() & 0o111 == 0 => {
                Err(format!("exec: {name:?}: permission denied"))
            }
            Ok(_) => Ok(name.clone()),
            Err(e) => Err(format!("exec: {name:?}: stat {name}: {}", words(&e))),
        };
    }
    let path = process.env.iter().rev().find(|(name, _)| name == "PATH");
    let path = path.map_or(DEFAULT_PATH, |(_, value)| value.as_str());
    let mut denied = false;
    for folder in path.split(':') {
        let folder = if folder.is_empty() { "." } else { folder };
        let candidate = format!("{folder}/{name}");
        match fs::metadata(&candidate) {
            Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => {
                return Ok(candidate);
            }
            Ok(found) if found.is_file() => denied = true,
            _ => {}
        }
    }
    match denied {
        true => Err(format!("exec: {name:?}: permission denied")),
        false => Err(format!("exec: {name:?}: executable file not found in $PATH")),
    }
}

fn words(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(code) => Errno::from_raw(code).desc().to_lowercase(),
        None => e.to_string(),
    }
}

fn describe_exec_failure(program: &str, errno: Errno) -> String {
    match errno {
        // The file is there, so what is missing is what its first line names.
        Errno::ENOENT => format!("exec {program}: no such file or directory (its interpreter)"),
        _ => format!("exec {program}: {}", errno.desc().to_lowercase()),
    }
}

fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{text:?} contains a zero byte"))
}

/// Becomes root of the user namespace that this process has entered, and keeps its power there.
pub(crate) fn become_root() -> io::Result<()> {
    use rustix::thread;
    let (user, group) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    thread::set_thread_groups(&[])?;
    thread::set_thread_res_gid(group, group, group)?;
    thread::set_thread_res_uid(user, user, user)?;
    Ok(())
}

/// Becomes another user of the machine, with all of root's power: the user to whom a user namespace shall
/// belong that this process makes next.
pub(crate) fn become_owner(id: u32) -> io::Result<()> {
    use rustix::thread;
    let (user, group) = (rustix::process::Uid::from_raw(id), rustix::process::Gid::from_raw(id));
    thread::set_thread_groups(&[])?;
    thread::set_keep_capabilities(true)?;
    thread::set_thread_res_gid(group, group, group)?;
    thread::set_thread_res_uid(user, user, user)?;
    thread::set_keep_capabilities(false)?;
    let kept = thread::capabilities(None)?;
    thread::set_capabilities(None, CapabilitySets { effective: kept.permitted, ..kept })?;
    Ok(())
}

fn become_user(process: &ProcessPlan) -> io::Result<()> {
    use rustix::thread;
    let user = &process.user;
    let group = rustix::process::Gid::from_raw;
    let groups: Vec<_> = user.additional_gids.iter().map(|gid| group(*gid)).collect();
    thread::set_thread_groups(&groups)?;
    // Without this the change of the user would take the power that the next steps need.
    thread::set_keep_capabilities(true)?;
    let gid = group(user.gid);
    thread::set_thread_res_gid(gid, gid, gid)?;
    let uid = rustix::process::Uid::from_raw(user.uid);
    thread::set_thread_res_uid(uid, uid, uid)?;
    thread::set_keep_capabilities(false)?;
    let kept = thread::capabilities(None)?;
    thread::set_capabilities(None, CapabilitySets { effective: kept.permitted, ..kept })?;
    Ok(())
}

fn keep_capabilities(kept: Capabilities) -> io::Result<()> {
    use rustix::thread;
    thread::clear_ambient_capability_set()?;
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.0 & capability.bits() != 0 {
            continue;
        }
        match thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Beyond the last one that this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(e) => return Err(e.into()),
        }
    }
    // What the kernel does not know cannot be kept either.
    let known = thread::capabilities(None)?.permitted;
    let set = CapabilitySet::from_bits_retain(kept.0) & known;
    thread::set_capabilities(
        None,
        CapabilitySets { effective: set, permitted: set, inheritable: CapabilitySet::empty() },
    )?;
    Ok(())
}
