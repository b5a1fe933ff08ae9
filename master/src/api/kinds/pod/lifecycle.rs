//! Hooks, the stop signal, and when a container is started again.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Lifecycle, PodSpec};
use proto::k8s as k8s_openapi;

use super::super::path::Path;
use super::handlers::Handlers;
use super::unsupported::refuse;
use super::validate::one_of;
use crate::api::field_error::{FieldError, FieldErrors};

/// All that is wrong with a container's hooks and its stop signal.
pub(super) fn validate(
    lifecycle: &Lifecycle,
    spec: &PodSpec,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let Lifecycle { post_start, pre_stop, stop_signal } = lifecycle;
    for (field, hook) in [("postStart", post_start), ("preStop", pre_stop)] {
        if let Some(hook) = hook {
            if let Some(tcp) = &hook.tcp_socket {
                let instead = "use exec, httpGet or sleep";
                refuse(&path.child(field).child("tcpSocket"), tcp, instead, errors);
            }
            let grace_period = spec.termination_grace_period_seconds;
            Handlers::of_hook(hook).validate(grace_period, &path.child(field), errors);
        }
    }
    if let Some(signal) = stop_signal {
        let path = path.child("stopSignal");
        if spec.os.as_ref().is_none_or(|os| os.name.is_empty()) {
            let detail = "may not be set for containers with empty `spec.os.name`";
            errors.push(FieldError::forbidden(path, detail));
        } else if !is_signal(signal) {
            errors.push(FieldError::not_supported(path, signal.as_str(), SIGNALS));
        }
    }
}

/// Linux's, but for those between the first and the last of the real-time ones.
const SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMIN",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

fn is_signal(name: &str) -> bool {
    // No zero and no sign, as in `SIGRTMIN+3`.
    let within = |text: &str, most: u8| {
        !text.starts_with(['0', '+']) && text.parse().is_ok_and(|n: u8| n <= most)
    };
    let real_time = name
        .strip_prefix("SIGRTMIN+")
        .map(|offset| within(offset, 15))
        .or_else(|| name.strip_prefix("SIGRTMAX-").map(|offset| within(offset, 14)));
    real_time.unwrap_or_else(|| SIGNALS.contains(&name))
}

const POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const OPERATORS: &[&str] = &["In", "NotIn"];
/// Kubernetes' bounds.
const MAX_RULES: usize = 20;
const MAX_CODES: usize = 255;

/// All that is wrong with the policy and the rules by which a container is started again.
pub(super) fn validate_restarts(container: &Container, path: &Path, errors: &mut FieldErrors) {
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    let policy = path.child("restartPolicy");
    match container.restart_policy.as_deref() {
        Some(own) => one_of(Some(own), POLICIES, &policy, errors),
        None if !rules.is_empty() => {
            let detail = "must specify restartPolicy when restart rules are used";
            errors.push(FieldError::required(policy, detail));
        }
        None => {}
    }
    let path = path.child("restartPolicyRules");
    if rules.len() > MAX_RULES {
        errors.push(FieldError::too_many(&path, rules.len(), MAX_RULES));
    }
    for (index, rule) in rules.iter().enumerate() {
        validate_rule(rule, &path.index(index), errors);
    }
}

fn validate_rule(rule: &ContainerRestartRule, path: &Path, errors: &mut FieldErrors) {
    let ContainerRestartRule { action, exit_codes } = rule;
    let on_action = path.child("action");
    match action.as_str() {
        "RestartAllContainers" => {
            refuse(&on_action, action, "a rule restarts its own container", errors);
        }
        action => one_of(Some(action), &["Restart"], &on_action, errors),
    }
    let path = path.child("exitCodes");
    let Some(codes) = exit_codes else {
        errors.push(FieldError::required(path, "must be specified"));
        return;
    };
    one_of(Some(&codes.operator), OPERATORS, &path.child("operator"), errors);
    let count = codes.values.as_ref().map_or(0, Vec::len);
    if count > MAX_CODES {
        errors.push(FieldError::too_many(path.child("values"), count, MAX_CODES));
    }
}
