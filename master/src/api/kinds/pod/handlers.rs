//! What probes and hooks do: run a program, send a request, connect, or wait.

use k8s_openapi::api::core::v1::{
    ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proto::{k8s as k8s_openapi, names};

use super::super::path::Path;
use super::unsupported;
use super::validate::{invalid_each, one_of};
use crate::api::field_error::{FieldError, FieldErrors};

/// All that a probe or a hook names; it may name one.
pub(super) struct Handlers<'a> {
    pub(super) exec: &'a Option<ExecAction>,
    pub(super) http_get: &'a Option<HTTPGetAction>,
    pub(super) tcp_socket: &'a Option<TCPSocketAction>,
    pub(super) grpc: &'a Option<GRPCAction>,
    pub(super) sleep: Option<&'a SleepAction>,
}

impl<'a> Handlers<'a> {
    pub(super) fn of_hook(hook: &'a LifecycleHandler) -> Self {
        let LifecycleHandler { exec, http_get, sleep, tcp_socket } = hook;
        Self { exec, http_get, tcp_socket, grpc: &None, sleep: sleep.as_ref() }
    }

    /// All that is wrong with them. `grace_period` is that of the pod, which bounds a hook's sleep.
    pub(super) fn validate(
        &self,
        grace_period: Option<i64>,
        path: &Path,
        errors: &mut FieldErrors,
    ) {
        // The first counts, each further one is one too many.
        let mut handled = false;
        let mut is_first = |field: &str, errors: &mut FieldErrors| {
            if handled {
                let detail = "may not specify more than 1 handler type";
                errors.push(FieldError::forbidden(path.child(field), detail));
            }
            !std::mem::replace(&mut handled, true)
        };
        if let Some(exec) = self.exec
            && is_first("exec", errors)
            && exec.command.as_ref().is_none_or(Vec::is_empty)
        {
            errors.push(FieldError::required(path.child("exec.command"), ""));
        }
        if let Some(http) = self.http_get
            && is_first("httpGet", errors)
        {
            validate_http(http, &path.child("httpGet"), errors);
        }
        if let Some(tcp) = self.tcp_socket
            && is_first("tcpSocket", errors)
        {
            validate_port(&tcp.port, &path.child("tcpSocket.port"), errors);
        }
        if let Some(grpc) = self.grpc
            && is_first("grpc", errors)
        {
            validate_grpc(grpc, &path.child("grpc"), errors);
        }
        if let Some(sleep) = self.sleep
            && is_first("sleep", errors)
            && let Some(grace_period) = grace_period
            && !(0..=grace_period).contains(&sleep.seconds)
        {
            let detail = format!(
                "must be non-negative and less than terminationGracePeriodSeconds ({grace_period})"
            );
            errors.push(FieldError::invalid(path.child("sleep"), sleep.seconds, detail));
        }
        if !handled {
            errors.push(FieldError::required(path, "must specify a handler type"));
        }
    }
}

fn validate_http(http: &HTTPGetAction, path: &Path, errors: &mut FieldErrors) {
    let HTTPGetAction { host: _, http_headers, path: http_path, port, protocol, scheme } = http;
    if http_path.as_deref().unwrap_or_default().is_empty() {
        errors.push(FieldError::required(path.child("path"), ""));
    }
    validate_port(port, &path.child("port"), errors);
    one_of(scheme.as_deref(), &["HTTP", "HTTPS"], &path.child("scheme"), errors);
    if protocol.as_ref().is_some_and(|protocol| !protocol.is_empty()) {
        let instead = "probes speak HTTP/1.1";
        unsupported::refuse(&path.child("protocol"), protocol, instead, errors);
    }
    for header in http_headers.iter().flatten() {
        let fits = !header.name.is_empty()
            && header.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        // Which one it is, its value tells.
        let path = path.child("httpHeaders");
        if !fits {
            let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. \
                'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
            errors.push(FieldError::invalid(&path, header.name.as_str(), detail));
        }
        if header.value.contains(['\r', '\n', '\0']) {
            let detail = "its value must be one line";
            errors.push(FieldError::invalid(&path, header.name.as_str(), detail));
        }
    }
}

fn validate_grpc(grpc: &GRPCAction, path: &Path, errors: &mut FieldErrors) {
    // Any service may be asked for, and none.
    let GRPCAction { mode, port, service: _ } = grpc;
    validate_port(&IntOrString::Int(*port), &path.child("port"), errors);
    if mode.is_some() {
        one_of(mode.as_deref(), &["Plaintext", "TLS"], &path.child("mode"), errors);
    }
}

/// A number, or the name of a port of the container.
fn validate_port(port: &IntOrString, path: &Path, errors: &mut FieldErrors) {
    match port {
        IntOrString::Int(number) => {
            for reason in names::port_number(*number) {
                errors.push(FieldError::invalid(path, *number, reason));
            }
        }
        IntOrString::String(name) => {
            invalid_each(path, name, names::port_name(name), errors);
        }
    }
}
