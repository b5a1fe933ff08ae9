//! What a client may write of the status of a Service: where a load balancer of its own reaches it.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Service, ServiceSpec};
use proto::{k8s as k8s_openapi, names};

use super::super::ip;
use super::super::path::Path;
use super::{LOAD_BALANCER, type_of};
use crate::api::field_error::{FieldError, FieldErrors};

const MODES: &[&str] = &["Proxy", "VIP"];

/// Fills in defaults.
pub(super) fn default(service: &mut Service) {
    if service.spec.as_ref().is_none_or(|spec| type_of(spec) != LOAD_BALANCER) {
        return;
    }
    for ingress in ingresses_mut(service) {
        if ingress.ip.as_ref().is_some_and(|ip| !ip.is_empty()) {
            ingress.ip_mode.get_or_insert_with(|| "VIP".to_owned());
        }
    }
}

/// What is no longer balanced is no longer reached there.
pub(super) fn forget(new: &mut Service, old: &Service) {
    let balanced = |service: &Service| {
        service.spec.as_ref().is_some_and(|spec| type_of(spec) == LOAD_BALANCER)
    };
    if balanced(old) && !balanced(new) {
        new.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus::default());
    }
}

fn ingresses_mut(service: &mut Service) -> impl Iterator<Item = &mut LoadBalancerIngress> {
    let balancer = service.status.as_mut().and_then(|status| status.load_balancer.as_mut());
    balancer.into_iter().flat_map(|balancer| balancer.ingress.iter_mut().flatten())
}

/// All that is wrong with it.
pub(super) fn validate(service: &Service) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let default = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&default);
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingresses = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let path = Path::new("status.loadBalancer.ingress");
    if type_of(spec) != LOAD_BALANCER && !ingresses.is_empty() {
        let detail = "may only be used when `spec.type` is 'LoadBalancer'";
        errors.push(FieldError::forbidden(path, detail));
        return errors;
    }
    for (index, ingress) in ingresses.iter().enumerate() {
        validate_ingress(ingress, &path.index(index), &mut errors);
    }
    errors
}

fn validate_ingress(ingress: &LoadBalancerIngress, path: &Path, errors: &mut FieldErrors) {
    let text = ingress.ip.as_deref().unwrap_or_default();
    if !text.is_empty() {
        ip::validate(text, &path.child("ip"), errors);
    }
    let path_to_mode = path.child("ipMode");
    match ingress.ip_mode.as_deref() {
        None if !text.is_empty() => {
            errors.push(FieldError::required(path_to_mode, "must be specified when `ip` is set"));
        }
        None => {}
        Some(_) if text.is_empty() => {
            let detail = "may not be specified when `ip` is not set";
            errors.push(FieldError::forbidden(path_to_mode, detail));
        }
        Some(mode) if !MODES.contains(&mode) => {
            errors.push(FieldError::not_supported(path_to_mode, mode, MODES));
        }
        Some(_) => {}
    }
    let path = path.child("hostname");
    let Some(name) = ingress.hostname.as_deref().filter(|name| !name.is_empty()) else { return };
    for reason in names::dns_subdomain(name) {
        errors.push(FieldError::invalid(&path, name, reason));
    }
    if name.parse::<IpAddr>().is_ok() {
        let detail = "must be a DNS name, not an IP address";
        errors.push(FieldError::invalid(&path, name, detail));
    }
}
