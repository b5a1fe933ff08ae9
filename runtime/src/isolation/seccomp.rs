//! The system-call filter: compiled once per set of capabilities, kept on disk, loaded as bytes.
//!
//! Compiling costs more than all else of starting a container, so it happens in the caller of
//! the shim, the first time a set of capabilities is seen on the machine.

use std::fs;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext};
use libseccomp::{ScmpSyscall, error::SeccompError};
use nix::libc;
use sha2::{Digest, Sha256};

use super::Capabilities;
use super::{seccomp_file, seccomp_profile as profile};

/// Compiled filters in a folder, by what they were compiled from.
#[derive(Clone, Debug)]
pub(crate) struct FilterCache {
    folder: PathBuf,
}

impl FilterCache {
    pub(crate) fn new(folder: PathBuf) -> FilterCache {
        FilterCache { folder }
    }

    /// The file with the default filter for these capabilities.
    pub(crate) fn runtime_default(&self, capabilities: Capabilities) -> io::Result<PathBuf> {
        let path = self.folder.join(format!("{}.bpf", fingerprint(capabilities)));
        if !path.exists() {
            fs::create_dir_all(&self.folder)?;
            let program = compile(capabilities)?;
            write_atomically(&path, &program)?;
        }
        Ok(path)
    }

    /// The file with the filter that another file describes, for these capabilities. It is looked up by
    /// what that says now, so a changed one is compiled anew. The error is for the user.
    pub(crate) fn of_file(
        &self,
        file: &Path,
        capabilities: Capabilities,
    ) -> Result<PathBuf, String> {
        let of = |e: &dyn std::fmt::Display| format!("seccomp profile {}: {e}", file.display());
        let text = match fs::read(file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(of(&"there is no such file on this node"));
            }
            read => read.map_err(|e| of(&e))?,
        };
        let mut hash = Sha256::new();
        hash.update(&text);
        hash.update(format!("{capabilities:?} {:?}", libseccomp::ScmpVersion::current().ok()));
        let path = self.folder.join(format!("file-{}.bpf", name_of(hash)));
        if !path.exists() {
            let program = seccomp_file::compile(&text, capabilities).map_err(|e| of(&e))?;
            fs::create_dir_all(&self.folder)
                .and_then(|()| write_atomically(&path, &program))
                .map_err(|e| of(&e))?;
        }
        Ok(path)
    }
}

fn name_of(hash: Sha256) -> String {
    hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", uuid::Uuid::new_v4()));
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, path)
}

/// Names everything that decides what comes out of [`compile`], so that a change of the profile
/// never finds an old program.
fn fingerprint(capabilities: Capabilities) -> String {
    let mut hash = Sha256::new();
    hash.update(format!(
        "{:?} {:?} {:?} {} {} {:?} {:?}",
        profile::allowed(capabilities),
        profile::PERSONALITIES,
        profile::SOCKET_FAMILIES,
        profile::NAMESPACE_FLAGS,
        profile::FIRST_BY_NUMBER,
        profile::ALLOWED_BY_NUMBER,
        architectures(),
    ));
    // The compiler's version: its tables decide which names are known.
    let version = libseccomp::ScmpVersion::current().map(|v| format!("{v:?}"));
    hash.update(version.unwrap_or_default());
    name_of(hash)
}

/// The native architecture and those that its kernel runs beside it.
fn architectures() -> &'static [ScmpArch] {
    if cfg!(target_arch = "x86_64") {
        &[ScmpArch::X86, ScmpArch::X32]
    } else if cfg!(target_arch = "aarch64") {
        &[ScmpArch::Arm]
    } else {
        &[]
    }
}

/// Compiles the default filter to what the kernel takes.
pub(super) fn compile(capabilities: Capabilities) -> io::Result<Vec<u8>> {
    let filter = build(capabilities).map_err(io::Error::other)?;
    let mut program = by_number();
    program.extend(export(&filter)?);
    Ok(program)
}

fn build(capabilities: Capabilities) -> Result<ScmpFilterContext, SeccompError> {
    let refuse = ScmpAction::Errno(libc::EPERM);
    let mut filter = ScmpFilterContext::new(refuse)?;
    for architecture in architectures() {
        filter.add_arch(*architecture)?;
    }
    // Sorts the calls into a tree, so that a call costs some eight comparisons and not hundreds.
    filter.set_ctl_optimize(2)?;

    for name in profile::allowed(capabilities) {
        add(&mut filter, ScmpAction::Allow, name, &[])?;
    }
    let equals = |argument, value| ScmpArgCompare::new(argument, ScmpCompareOp::Equal, value);
    for value in profile::PERSONALITIES {
        add(&mut filter, ScmpAction::Allow, "personality", &[equals(0, *value)])?;
    }
    for (mask, value) in profile::SOCKET_FAMILIES {
        let family = ScmpArgCompare::new(0, ScmpCompareOp::MaskedEqual(*mask), *value);
        add(&mut filter, ScmpAction::Allow, "socket", &[family])?;
    }
    if !capabilities.has("SYS_ADMIN") {
        let masked = ScmpCompareOp::MaskedEqual(profile::NAMESPACE_FLAGS);
        add(&mut filter, ScmpAction::Allow, "clone", &[ScmpArgCompare::new(0, masked, 0)])?;
        add(&mut filter, ScmpAction::Errno(libc::ENOSYS), "clone3", &[])?;
    }
    Ok(filter)
}

/// Adds a rule. A call that this libseccomp has no name for cannot be allowed by name.
fn add(
    filter: &mut ScmpFilterContext,
    action: ScmpAction,
    name: &str,
    conditions: &[ScmpArgCompare],
) -> Result<(), SeccompError> {
    let Ok(call) = ScmpSyscall::from_name(name) else { return Ok(()) };
    match conditions {
        [] => filter.add_rule(action, call)?,
        conditions => filter.add_rule_conditional(action, call, conditions)?,
    };
    Ok(())
}

pub(super) fn export(filter: &ScmpFilterContext) -> io::Result<Vec<u8>> {
    let memory = rustix::fs::memfd_create("filter", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = fs::File::from(memory);
    filter.export_bpf(&file).map_err(io::Error::other)?;
    let mut program = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut program)?;
    Ok(program)
}

/// The first part of the program, which decides the calls that have no name yet. What is newer
/// than this profile is said not to exist, so that programs fall back to what is older; EPERM
/// would make them give up.
fn by_number() -> Vec<u8> {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_GREATER_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    /// The calls of x32 count from here; they are decided by name.
    const X32: u32 = 0x4000_0000;

    let allowed = profile::ALLOWED_BY_NUMBER;
    let count = allowed.len() as u8;
    let mut code: Vec<(u16, u8, u8, u32)> = vec![
        (LOAD_NUMBER, 0, 0, 0),
        // Older ones go past all of this, to the part compiled from names.
        (JUMP_GREATER_EQUAL, 0, count + 3, profile::FIRST_BY_NUMBER),
        (JUMP_GREATER_EQUAL, count + 2, 0, X32),
    ];
    for (position, number) in allowed.iter().enumerate() {
        // Past the remaining comparisons and the refusal.
        code.push((JUMP_EQUAL, count - position as u8, 0, *number));
    }
    code.push((RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32));
    code.push((RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    code.iter()
        .flat_map(|(operation, yes, no, value)| {
            let mut bytes = operation.to_ne_bytes().to_vec();
            bytes.extend([*yes, *no]);
            bytes.extend(value.to_ne_bytes());
            bytes
        })
        .collect()
}

#[cfg(test)]
mod tests;
