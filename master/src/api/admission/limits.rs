//! Holds a pod to the LimitRanges of its namespace: what it does not ask for it gets from them, and
//! what it asks for has to be within. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, LimitRange, LimitRangeItem, Pod, PodSpec, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::k8s as k8s_openapi;
use proto::quantity::Quantity;

use super::quota::with_initial;
use crate::api::kinds::limit_range::{CONTAINER, POD, quotient};

/// Tells people what was not in their manifest.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

type Wire = BTreeMap<String, WireQuantity>;
type Amounts = BTreeMap<String, Quantity>;

/// Fills in what containers do not say.
pub(super) fn complete(ranges: &[LimitRange], pod: &mut Pod) {
    let mut told = Vec::new();
    let spec = pod.spec.get_or_insert_default();
    for item in items(ranges).filter(|item| item.type_ == CONTAINER) {
        let inits = spec.init_containers.iter_mut().flatten().map(|one| (one, "init container"));
        let containers = spec.containers.iter_mut().map(|one| (one, "container"));
        for (container, what) in containers.chain(inits) {
            let resources = container.resources.get_or_insert_default();
            let name = &container.name;
            for (list, defaults, word) in [
                (&mut resources.requests, &item.default_request, "request"),
                (&mut resources.limits, &item.default, "limit"),
            ] {
                let set = fill(list, defaults.as_ref());
                if !set.is_empty() {
                    told.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !told.is_empty() {
        let text = format!("LimitRanger plugin set: {}", told.join("; "));
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(ANNOTATION.to_owned(), text);
    }
}

/// Adds what is missing; tells the names.
fn fill(list: &mut Option<Wire>, defaults: Option<&Wire>) -> Vec<String> {
    let mut set = Vec::new();
    for (name, amount) in defaults.into_iter().flatten() {
        let list = list.get_or_insert_default();
        if !list.contains_key(name) {
            list.insert(name.clone(), amount.clone());
            set.push(name.clone());
        }
    }
    set
}

/// Everything in which the pod is beyond its limits, in Kubernetes' words.
pub(super) fn check(ranges: &[LimitRange], pod: &Pod) -> Result<(), String> {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let mut wrong = Vec::new();
    for item in items(ranges) {
        match item.type_.as_str() {
            CONTAINER => {
                for container in spec.containers.iter().chain(spec.init_containers.iter().flatten())
                {
                    check_item(item, &requests(container), &limits(container), &mut wrong);
                }
            }
            POD => check_item(item, &together(spec, requests), &together(spec, limits), &mut wrong),
            _ => {}
        }
    }
    match wrong.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

fn items(ranges: &[LimitRange]) -> impl Iterator<Item = &LimitRangeItem> {
    ranges.iter().filter_map(|range| range.spec.as_ref()).flat_map(|spec| &spec.limits)
}

fn requests(container: &Container) -> Amounts {
    container.resources.as_ref().map_or_else(Amounts::new, |all| amounts(all.requests.as_ref()))
}

fn limits(container: &Container) -> Amounts {
    let of = |resources: &ResourceRequirements| amounts(resources.limits.as_ref());
    container.resources.as_ref().map_or_else(Amounts::new, of)
}

/// What does not parse is told by the validation.
fn amounts(list: Option<&Wire>) -> Amounts {
    let all = list.into_iter().flatten();
    all.filter_map(|(name, wire)| Some((name.clone(), Quantity::try_from(wire).ok()?))).collect()
}

/// What all containers say together, of resources of which all of them say something; with the init
/// containers, as far as they need more.
fn together(spec: &PodSpec, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let containers: Vec<Amounts> = spec.containers.iter().map(&of).collect();
    let mut all: Amounts = containers.first().cloned().unwrap_or_default();
    for one in containers.iter().skip(1) {
        all.retain(|name, _| one.contains_key(name));
        for (name, sum) in &mut all {
            *sum += one.get(name).copied().unwrap_or_default();
        }
    }
    with_initial(all, spec, of)
}

fn check_item(
    item: &LimitRangeItem,
    requests: &Amounts,
    limits: &Amounts,
    wrong: &mut Vec<String>,
) {
    let type_ = &item.type_;
    for (name, bound) in amounts(item.min.as_ref()) {
        let told = format!("minimum {name} usage per {type_} is {bound}");
        match (requests.get(&name), limits.get(&name)) {
            (None, _) => wrong.push(format!("{told}.  No request is specified")),
            (Some(request), _) if *request < bound => {
                wrong.push(format!("{told}, but request is {request}"));
            }
            (_, Some(limit)) if *limit < bound => {
                wrong.push(format!("{told}, but limit is {limit}"));
            }
            _ => {}
        }
    }
    for (name, bound) in amounts(item.max.as_ref()) {
        let told = format!("maximum {name} usage per {type_} is {bound}");
        match (requests.get(&name), limits.get(&name)) {
            (_, None) => wrong.push(format!("{told}.  No limit is specified")),
            (_, Some(limit)) if *limit > bound => {
                wrong.push(format!("{told}, but limit is {limit}"));
            }
            (Some(request), _) if *request > bound => {
                wrong.push(format!("{told}, but request is {request}"));
            }
            _ => {}
        }
    }
    for (name, bound) in amounts(item.max_limit_request_ratio.as_ref()) {
        let told = format!("{name} max limit to request ratio per {type_} is {bound}");
        let said = |list: &Amounts| list.get(&name).copied().filter(|amount| !amount.is_zero());
        match (said(requests), said(limits)) {
            (None, _) => wrong.push(format!("{told}, but no request is specified or request is 0")),
            (_, None) => wrong.push(format!("{told}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let ratio = quotient(limit, request);
                if ratio > quotient(bound, Quantity::from_units(1)) {
                    wrong.push(format!("{told}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }
}
