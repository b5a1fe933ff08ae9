//! `limitranges`: what a pod or container may ask for in a namespace, and what it gets that asks for
//! nothing. `api/admission/limits.rs` holds pods to them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::quantity::Quantity;
use proto::{huge_pages, k8s as k8s_openapi, names};
use serde_json::{Value, json};

use super::columns::{NAME, column, name};
use super::path::Path;
use super::{Column, Kind, ResourceInfo, pod, resource_names};
use crate::api::field_error::{FieldError, FieldErrors};

/// The type of limits on pods as a whole.
pub(crate) const POD: &str = "Pod";
/// The type of limits on each container.
pub(crate) const CONTAINER: &str = "Container";
/// The type of limits on claims of storage. There are none that could break them.
const CLAIM: &str = "PersistentVolumeClaim";

type Amounts = BTreeMap<String, WireQuantity>;

/// `limitranges`
#[derive(Debug)]
pub enum LimitRanges {}

impl Kind for LimitRanges {
    type Object = LimitRange;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "",
        version: "v1",
        kind: "LimitRange",
        plural: "limitranges",
        singular: "limitrange",
        short_names: &["limits"],
        categories: &[],
        namespaced: true,
        status: false,
        scale: false,
    };

    const CREATE_ON_UPDATE: bool = true;

    fn default(object: &mut LimitRange) {
        let limits = object.spec.iter_mut().flat_map(|spec| spec.limits.iter_mut());
        for item in limits.filter(|item| item.type_ == CONTAINER) {
            let LimitRangeItem { default, default_request, max, min, .. } = item;
            let default = default.get_or_insert_default();
            let requests = default_request.get_or_insert_default();
            // What may not be exceeded is the limit, the limit is the request, and the least is too.
            fill(default, max.as_ref());
            fill(requests, Some(default));
            fill(requests, min.as_ref());
        }
    }

    fn validate(object: &LimitRange) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let mut types = BTreeSet::new();
        let limits = object.spec.iter().flat_map(|spec| &spec.limits);
        for (index, item) in limits.enumerate() {
            let path = Path::new("spec.limits").index(index);
            validate_type(&item.type_, &path.child("type"), &mut errors);
            if !types.insert(&item.type_) {
                errors.push(FieldError::duplicate(path.child("type"), item.type_.as_str()));
            }
            validate_item(item, &path, &mut errors);
        }
        errors
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, column("Created At", "date", "When the object was created.")];
        COLUMNS
    }

    fn row(object: &LimitRange, _now: Timestamp) -> Vec<Value> {
        vec![json!(name(&object.metadata)), json!(object.metadata.creation_timestamp)]
    }
}

fn fill(amounts: &mut Amounts, from: Option<&Amounts>) {
    for (name, amount) in from.into_iter().flatten() {
        amounts.entry(name.clone()).or_insert_with(|| amount.clone());
    }
}

fn validate_type(type_: &str, path: &Path, errors: &mut FieldErrors) {
    let reasons = names::qualified_name(type_);
    let qualified = reasons.is_empty();
    errors.extend(reasons.into_iter().map(|reason| FieldError::invalid(path, type_, reason)));
    match type_ {
        _ if !qualified => {}
        POD | CONTAINER | CLAIM => {}
        _ if type_.contains('/') => {
            let instead = "the limits of a Pod or a Container";
            pod::unsupported::refuse(path, type_, instead, errors);
        }
        _ => {
            let detail = "must be a standard limit type or fully qualified";
            errors.push(FieldError::invalid(path, type_, detail));
        }
    }
}

fn validate_item(item: &LimitRangeItem, path: &Path, errors: &mut FieldErrors) {
    // Field by field, so that a new one does not compile until somebody considers it.
    let LimitRangeItem { default, default_request, max, max_limit_request_ratio, min, type_ } =
        item;
    let lists = [
        ("max", max),
        ("min", min),
        ("default", default),
        ("defaultRequest", default_request),
        ("maxLimitRequestRatio", max_limit_request_ratio),
    ];
    for (field, list) in lists {
        let path = path.child(field);
        let on_pod = field.starts_with("default") && type_ == POD;
        if on_pod && list.as_ref().is_some_and(|list| !list.is_empty()) {
            errors.push(FieldError::forbidden(&path, "may not be specified when `type` is 'Pod'"));
            continue;
        }
        for (name, amount) in list.iter().flatten() {
            let path = path.key(name);
            if type_ == CLAIM {
                resource_names::validate(name, &path, errors);
            } else {
                pod::resources::validate_name(name, &path, errors);
            }
            pod::resources::quantity(amount, &path, errors);
        }
    }
    let storage = |list: &Option<Amounts>| list.as_ref().is_some_and(|l| l.contains_key("storage"));
    if type_ == CLAIM && !storage(min) && !storage(max) {
        let detail =
            "either minimum or maximum storage value is required, but neither was provided";
        errors.push(FieldError::required(path.child("limits"), detail));
    }
    let names: BTreeSet<&String> =
        lists.iter().flat_map(|(_, list)| list.iter().flat_map(BTreeMap::keys)).collect();
    for name in names {
        validate_order(item, name, path, errors);
    }
}

/// How the amounts of one resource have to be to each other.
fn validate_order(item: &LimitRangeItem, name: &str, path: &Path, errors: &mut FieldErrors) {
    let amount =
        |list: &Option<Amounts>| list.as_ref()?.get(name).and_then(|a| Quantity::try_from(a).ok());
    let (min, max) = (amount(&item.min), amount(&item.max));
    // A pod has no defaults.
    let of_container = |list| amount(list).filter(|_| item.type_ != POD);
    let (default, request) = (of_container(&item.default), of_container(&item.default_request));
    // (what is smaller, what is larger, and their names; where it is told, with which of the two)
    let orders = [
        (min, max, "min value", "max value", "min", min),
        (min, request, "min value", "default request value", "defaultRequest", request),
        (request, max, "default request value", "max value", "defaultRequest", request),
        (
            request,
            default,
            "default request value",
            "default limit value",
            "defaultRequest",
            request,
        ),
        (min, default, "min value", "default value", "default", min),
        (default, max, "default value", "max value", "default", max),
    ];
    for (less, more, of_less, of_more, field, told) in orders {
        if let (Some(less), Some(more), Some(told)) = (less, more, told)
            && less > more
        {
            let detail = format!("{of_less} {less} is greater than {of_more} {more}");
            let path = path.child(field).key(name);
            errors.push(FieldError::invalid(path, told.to_string(), detail));
        }
    }
    if let (Some(default), Some(request)) = (default, request)
        && huge_pages::is_resource(name)
        && default != request
    {
        let detail = format!(
            "default value {default} must equal to defaultRequest value {request} in {name}"
        );
        let path = path.child("defaultRequest").key(name);
        errors.push(FieldError::invalid(path, default.to_string(), detail));
    }
    let Some(ratio) = amount(&item.max_limit_request_ratio) else { return };
    let path = path.child("maxLimitRequestRatio").key(name);
    if ratio < Quantity::from_units(1) {
        let detail = format!("ratio {ratio} is less than 1");
        errors.push(FieldError::invalid(&path, ratio.to_string(), detail));
    }
    if let (Some(min), Some(max)) = (min, max)
        && !min.is_zero()
    {
        let possible = quotient(max, min);
        if quotient(ratio, Quantity::from_units(1)) > possible {
            let detail = format!("ratio {ratio} is greater than max/min = {possible:.6}");
            errors.push(FieldError::invalid(path, ratio.to_string(), detail));
        }
    }
}

/// How often `of` is in `amount`.
pub(crate) fn quotient(amount: Quantity, of: Quantity) -> f64 {
    // Both are far below what a double holds exactly, but for amounts that no node has.
    #[expect(clippy::cast_precision_loss, reason = "it is compared, and printed")]
    let as_float = |quantity: Quantity| quantity.nano_value() as f64;
    as_float(amount) / as_float(of)
}
