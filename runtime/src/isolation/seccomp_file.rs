//! System-call filters out of files: the `seccomp` of an OCI specification, and what Docker adds to it
//! (`archMap`, and rules that hold only with certain capabilities, architectures or kernels).

use std::io;

use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext};
use libseccomp::{ScmpSyscall, error::SeccompError};
use nix::libc;
use serde::Deserialize;

use super::Capabilities;
use super::seccomp::export;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    default_action: Action,
    default_errno_ret: Option<i32>,
    #[serde(default)]
    architectures: Vec<Architecture>,
    #[serde(default)]
    arch_map: Vec<ArchitectureAndOthers>,
    #[serde(default)]
    flags: Vec<Flag>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ArchitectureAndOthers {
    architecture: Architecture,
    #[serde(default)]
    sub_architectures: Option<Vec<Architecture>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    /// Of Docker's oldest files.
    name: Option<String>,
    action: Action,
    errno_ret: Option<i32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
    /// For people.
    #[serde(rename = "comment")]
    _comment: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: Operator,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum Action {
    #[default]
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Operator {
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Architecture {
    #[serde(rename = "SCMP_ARCH_X86")]
    X86,
    #[serde(rename = "SCMP_ARCH_X86_64")]
    X8664,
    #[serde(rename = "SCMP_ARCH_X32")]
    X32,
    #[serde(rename = "SCMP_ARCH_ARM")]
    Arm,
    #[serde(rename = "SCMP_ARCH_AARCH64")]
    Aarch64,
    /// Of machines that containers do not run on here.
    #[serde(other)]
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Flag {
    #[serde(rename = "SECCOMP_FILTER_FLAG_TSYNC")]
    AllThreads,
    #[serde(rename = "SECCOMP_FILTER_FLAG_LOG")]
    Log,
    #[serde(rename = "SECCOMP_FILTER_FLAG_SPEC_ALLOW")]
    AllowSpeculation,
}

/// Compiles what a file says, for a container with these capabilities. The error is for the user.
pub(super) fn compile(text: &[u8], capabilities: Capabilities) -> Result<Vec<u8>, String> {
    let file: File = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    // A process has one thread when its filter is loaded; the others belong to the loading, which is
    // done as if they were not there.
    if let Some(flag) = file.flags.iter().find(|flag| **flag != Flag::AllThreads) {
        return Err(format!("the flag {flag:?} is not supported"));
    }
    let filter = build(&file, capabilities).map_err(|e| e.to_string())?;
    export(&filter).map_err(|e: io::Error| e.to_string())
}

fn build(file: &File, capabilities: Capabilities) -> Result<ScmpFilterContext, SeccompError> {
    let default = action(file.default_action, file.default_errno_ret);
    let mut filter = ScmpFilterContext::new(default)?;
    for architecture in architectures(file) {
        filter.add_arch(architecture)?;
    }
    filter.set_ctl_optimize(2)?;
    for rule in file.syscalls.iter().filter(|rule| holds(rule, capabilities)) {
        let action = action(rule.action, rule.errno_ret);
        // A rule that says what happens anyway is none to libseccomp.
        if action == default {
            continue;
        }
        for name in rule.names.iter().chain(&rule.name) {
            let Ok(call) = ScmpSyscall::from_name(name) else { continue };
            add(&mut filter, action, call, rule.args.as_deref().unwrap_or_default())?;
        }
    }
    Ok(filter)
}

/// Conditions on different arguments hold together; of those on one argument any is enough, as in
/// Docker's and runc's reading.
fn add(
    filter: &mut ScmpFilterContext,
    action: ScmpAction,
    call: ScmpSyscall,
    arguments: &[Argument],
) -> Result<(), SeccompError> {
    let conditions: Vec<ScmpArgCompare> = arguments.iter().map(compare).collect();
    let mut indices: Vec<u32> = arguments.iter().map(|argument| argument.index).collect();
    indices.sort_unstable();
    indices.dedup();
    if conditions.is_empty() {
        filter.add_rule(action, call)?;
    } else if indices.len() == conditions.len() {
        filter.add_rule_conditional(action, call, &conditions)?;
    } else {
        for condition in conditions {
            filter.add_rule_conditional(action, call, &[condition])?;
        }
    }
    Ok(())
}

fn compare(argument: &Argument) -> ScmpArgCompare {
    let (operator, value) = match argument.op {
        Operator::NotEqual => (ScmpCompareOp::NotEqual, argument.value),
        Operator::Less => (ScmpCompareOp::Less, argument.value),
        Operator::LessOrEqual => (ScmpCompareOp::LessOrEqual, argument.value),
        Operator::Equal => (ScmpCompareOp::Equal, argument.value),
        Operator::GreaterEqual => (ScmpCompareOp::GreaterEqual, argument.value),
        Operator::Greater => (ScmpCompareOp::Greater, argument.value),
        Operator::MaskedEqual => (ScmpCompareOp::MaskedEqual(argument.value), argument.value_two),
    };
    ScmpArgCompare::new(argument.index, operator, value)
}

fn action(action: Action, errno: Option<i32>) -> ScmpAction {
    let number = errno.unwrap_or(libc::EPERM);
    match action {
        Action::Errno => ScmpAction::Errno(number),
        Action::KillThread => ScmpAction::KillThread,
        Action::KillProcess => ScmpAction::KillProcess,
        Action::Trap => ScmpAction::Trap,
        Action::Trace => ScmpAction::Trace(u16::try_from(number).unwrap_or_default()),
        Action::Log => ScmpAction::Log,
        Action::Allow => ScmpAction::Allow,
    }
}

/// Those beside the native one.
fn architectures(file: &File) -> Vec<ScmpArch> {
    let native = match cfg!(target_arch = "aarch64") {
        true => Architecture::Aarch64,
        false => Architecture::X8664,
    };
    let mapped = file.arch_map.iter().filter(|entry| entry.architecture == native);
    let mapped = mapped.flat_map(|entry| entry.sub_architectures.iter().flatten());
    let mut all: Vec<ScmpArch> = Vec::new();
    for architecture in file.architectures.iter().chain(mapped) {
        let known = match (architecture, native) {
            (Architecture::X86, Architecture::X8664) => ScmpArch::X86,
            (Architecture::X32, Architecture::X8664) => ScmpArch::X32,
            (Architecture::Arm, Architecture::Aarch64) => ScmpArch::Arm,
            _ => continue,
        };
        if !all.contains(&known) {
            all.push(known);
        }
    }
    all
}

fn holds(rule: &Rule, capabilities: Capabilities) -> bool {
    let has = |name: &String| capabilities.has(name);
    let here = |name: &String| {
        let own = match cfg!(target_arch = "aarch64") {
            true => ["arm64", "aarch64"],
            false => ["amd64", "x86_64"],
        };
        own.contains(&name.as_str())
    };
    if let Some(Condition { caps, arches, min_kernel }) = &rule.excludes
        && (caps.iter().any(has)
            || arches.iter().any(here)
            || min_kernel.as_deref().is_some_and(is_kernel_at_least))
    {
        return false;
    }
    rule.includes.as_ref().is_none_or(|Condition { caps, arches, min_kernel }| {
        caps.iter().all(has)
            && (arches.is_empty() || arches.iter().any(here))
            && min_kernel.as_deref().is_none_or(is_kernel_at_least)
    })
}

/// Of "4.8" and the like.
fn is_kernel_at_least(wanted: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        text.split(|c: char| !c.is_ascii_digit()).take(2).filter_map(|n| n.parse().ok()).collect()
    };
    let release = rustix::system::uname();
    numbers(&release.release().to_string_lossy()) >= numbers(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(file: serde_json::Value) -> Result<Vec<u8>, String> {
        compile(file.to_string().as_bytes(), Capabilities(0))
    }

    use serde_json::json;

    #[test]
    fn a_file_of_docker_is_understood() {
        let file = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "archMap": [{
                "architecture": "SCMP_ARCH_X86_64",
                "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]
            }],
            "syscalls": [
                {"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
                {
                    "names": ["personality"], "action": "SCMP_ACT_ALLOW", "comment": "some",
                    "args": [{"index": 0, "value": 8, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]
                },
                {
                    "names": ["mount"], "action": "SCMP_ACT_ALLOW",
                    "includes": {"caps": ["CAP_SYS_ADMIN"]}, "excludes": {}
                },
                {
                    "names": ["ptrace"], "action": "SCMP_ACT_ALLOW",
                    "includes": {"minKernel": "4.8"}
                }
            ]
        });
        let program = compiled(file.clone()).unwrap();
        assert!(program.len().is_multiple_of(8) && program.len() > 80, "{}", program.len());
        // With the capability, one rule more.
        let more = compile(file.to_string().as_bytes(), Capabilities::ALL).unwrap();
        assert!(more.len() > program.len());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (file, complaint) in [
            (json!({}), "missing field `defaultAction`"),
            (json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "unknown variant `SCMP_ACT_NOTIFY`"),
            (json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}), "listenerPath"),
            (
                json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}),
                "the flag Log is not supported",
            ),
        ] {
            let refusal = compiled(file.clone()).unwrap_err();
            assert!(refusal.contains(complaint), "{file}: {refusal}");
        }
    }

    #[test]
    fn kernels_are_compared_by_number() {
        assert!(is_kernel_at_least("4.8") && !is_kernel_at_least("400.0"));
    }
}
