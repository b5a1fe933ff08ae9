//! The probes of a container.

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proto::{k8s as k8s_openapi, names};

use super::super::path::Path;
use super::validate::{invalid_each, one_of};
use super::{NOT_NEGATIVE, unsupported};
use crate::api::field_error::{FieldError, FieldErrors};

/// All that is wrong with the three probes.
pub(super) fn validate(container: &Container, path: &Path, errors: &mut FieldErrors) {
    for (field, probe) in [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        let Some(probe) = probe else { continue };
        let path = path.child(field);
        validate_probe(probe, &path, errors);
        if field == "readinessProbe" {
            if let Some(seconds) = probe.termination_grace_period_seconds {
                let path = path.child("terminationGracePeriodSeconds");
                let detail = "must not be set for readinessProbes";
                errors.push(FieldError::invalid(path, seconds, detail));
            }
        } else if let Some(threshold) = probe.success_threshold.filter(|number| *number != 1) {
            let path = path.child("successThreshold");
            errors.push(FieldError::invalid(path, threshold, "must be 1"));
        }
    }
}

fn validate_probe(probe: &Probe, path: &Path, errors: &mut FieldErrors) {
    let Probe {
        exec,
        failure_threshold,
        grpc,
        http_get,
        initial_delay_seconds,
        period_seconds,
        success_threshold,
        tcp_socket,
        termination_grace_period_seconds,
        timeout_seconds,
    } = probe;
    for (field, value) in [
        ("initialDelaySeconds", initial_delay_seconds),
        ("timeoutSeconds", timeout_seconds),
        ("periodSeconds", period_seconds),
        ("successThreshold", success_threshold),
        ("failureThreshold", failure_threshold),
    ] {
        if let Some(value) = value.filter(|value| *value < 0) {
            errors.push(FieldError::invalid(path.child(field), value, NOT_NEGATIVE));
        }
    }
    if let Some(seconds) = termination_grace_period_seconds.filter(|seconds| *seconds <= 0) {
        let path = path.child("terminationGracePeriodSeconds");
        errors.push(FieldError::invalid(path, seconds, "must be greater than 0"));
    }
    // The first counts, each further one is one too many.
    let mut handled = false;
    let mut is_first = |field: &str, errors: &mut FieldErrors| {
        if handled {
            let detail = "may not specify more than 1 handler type";
            errors.push(FieldError::forbidden(path.child(field), detail));
        }
        !std::mem::replace(&mut handled, true)
    };
    if let Some(exec) = exec
        && is_first("exec", errors)
        && exec.command.as_ref().is_none_or(Vec::is_empty)
    {
        errors.push(FieldError::required(path.child("exec.command"), ""));
    }
    if let Some(http) = http_get
        && is_first("httpGet", errors)
    {
        validate_http(http, &path.child("httpGet"), errors);
    }
    if let Some(tcp) = tcp_socket
        && is_first("tcpSocket", errors)
    {
        validate_port(&tcp.port, &path.child("tcpSocket.port"), errors);
    }
    if grpc.is_some() && is_first("grpc", errors) {
        let instead = "use an exec, httpGet or tcpSocket probe";
        unsupported::refuse(&path.child("grpc"), grpc, instead, errors);
    }
    if !handled {
        errors.push(FieldError::required(path, "must specify a handler type"));
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
