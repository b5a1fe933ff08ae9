//! The probes of a container.

use k8s_openapi::api::core::v1::{Container, Probe};
use proto::k8s as k8s_openapi;

use super::super::path::Path;
use super::NOT_NEGATIVE;
use super::handlers::Handlers;
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
    let handlers = Handlers { exec, http_get, tcp_socket, grpc, sleep: None };
    handlers.validate(None, path, errors);
}
