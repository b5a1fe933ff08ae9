//! `metrics.k8s.io`: what pods and nodes use right now, for `kubectl top` and whoever scales by it.
//!
//! Nothing is stored, and nothing measured while nobody asks: a request reads the page
//! `/metrics/resource` of the kubelets that it concerns, twice if it has to, and makes rates of the
//! counters there ([`samples`]).

mod samples;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::response::Response;
use futures::StreamExt as _;
use http::{Method, StatusCode};
use jiff::Timestamp;
use k8s_openapi::schemars::SchemaGenerator;
use proto::{ObjectKey, k8s as k8s_openapi};
use serde_json::{Value, json};

pub(crate) use self::samples::Samples;
use self::samples::{Rate, Reading, Sample};
#[cfg(test)]
pub(crate) use self::types::POD_METRICS;
use crate::api::error::ApiError;
use crate::api::kinds::ResourceInfo;
use crate::api::registry::AnyKind;
use crate::api::rest::accept::{self, Shape};
use crate::api::rest::list_options::ListOptions;
use crate::api::rest::query::Options;
use crate::api::rest::target::ResourceTarget;
use crate::api::rest::{Api, list, proxy, render};
use crate::cache::CachedObject;

pub(crate) const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";
/// What can be done with what is not stored.
pub(crate) const VERBS: [&str; 2] = ["get", "list"];

/// A resource that is measured instead of stored.
pub(crate) struct Measured {
    pub(crate) resource: ResourceInfo,
    /// Its type's name in documents.
    pub(crate) type_name: &'static str,
    /// Adds the type to a generator's.
    pub(crate) describe: fn(&mut SchemaGenerator),
}

/// What discovery and OpenAPI tell of the group.
pub(crate) static MEASURED: [Measured; 2] = [
    Measured {
        resource: resource("NodeMetrics", "nodes", false),
        type_name: types::NODE_METRICS,
        describe: |generator| drop(generator.subschema_for::<types::NodeMetrics>()),
    },
    Measured {
        resource: resource("PodMetrics", "pods", true),
        type_name: types::POD_METRICS,
        describe: |generator| drop(generator.subschema_for::<types::PodMetrics>()),
    },
];

const fn resource(kind: &'static str, plural: &'static str, namespaced: bool) -> ResourceInfo {
    ResourceInfo {
        group: GROUP,
        version: VERSION,
        kind,
        plural,
        singular: "",
        short_names: &[],
        categories: &[],
        namespaced,
        status: false,
        scale: false,
    }
}

/// Kubelets that are asked at the same time.
const AT_ONCE: usize = 32;
/// A kubelet that has not answered by then is left out.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Answers a request for the group.
pub(crate) async fn serve(
    api: &Api,
    target: &ResourceTarget,
    request: Request,
) -> Result<Response, ApiError> {
    let known = |resource: &&ResourceInfo| {
        resource.plural == target.plural && resource.version == target.version
    };
    let mut resources = MEASURED.iter().map(|measured| &measured.resource);
    let resource = resources.find(known).ok_or_else(ApiError::no_such_path)?;
    let nameless = target.name.is_some() && target.namespace.is_none() && resource.namespaced;
    let astray = target.namespace.is_some() && !resource.namespaced;
    if nameless || astray || target.subresource.is_some() {
        return Err(ApiError::no_such_path());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed());
    }
    let options = Options::parse(request.uri())?;
    if options.flag("watch") {
        return Err(ApiError::method_not_allowed());
    }
    // Tables are for what has columns; who asks for one takes plain objects too.
    let answer = accept::negotiate(request.headers(), None, options.flag("pretty"))?;
    let answer = accept::Answer { shape: Shape::Plain, ..answer };
    let kind = api.objects.registry().find("", "v1", resource.plural);
    let kind = kind.ok_or_else(ApiError::no_such_path)?;
    if let Some(name) = &target.name {
        let key = ObjectKey::new(target.namespace.as_deref().unwrap_or_default(), name);
        let object = list::find(api, kind, &key, &options).await?;
        let measured = measured(api, resource, &[object]).await.pop();
        let not_found = || ApiError::not_found(resource, name);
        return render::value(StatusCode::OK, &measured.ok_or_else(not_found)?, answer);
    }
    let (meta, items) = collection(api, kind, resource, target, &options).await?;
    let list = json!({
        "kind": format!("{}List", resource.kind),
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": meta,
        "items": items,
    });
    render::value(StatusCode::OK, &list, answer)
}

async fn collection(
    api: &Api,
    kind: &'static dyn AnyKind,
    resource: &ResourceInfo,
    target: &ResourceTarget,
    options: &Options,
) -> Result<(render::ListMeta, Vec<Value>), ApiError> {
    let options = ListOptions::parse(options, kind)?;
    let (meta, objects) = list::select(api, kind, target.namespace.as_deref(), &options).await?;
    Ok((meta, measured(api, resource, &objects).await))
}

/// What the objects use, as far as their nodes say; those of which nothing is said are left out.
async fn measured(api: &Api, resource: &ResourceInfo, objects: &[Arc<CachedObject>]) -> Vec<Value> {
    let node_of = |object: &CachedObject| match object.fields.get("spec.nodeName") {
        Some(node) if resource.namespaced => node.clone(),
        _ => object.key.name.clone(),
    };
    let nodes: BTreeSet<String> =
        objects.iter().map(|object| node_of(object)).filter(|node| !node.is_empty()).collect();
    let rates = nodes.into_iter().map(async |node| {
        let rate = tokio::time::timeout(TIMEOUT, rate(api, &node)).await;
        match rate {
            Ok(Ok(rate)) => Some((node, rate)),
            Ok(Err(error)) => {
                tracing::debug!(node, %error, "a node does not say what it uses");
                None
            }
            Err(_) => None,
        }
    });
    let rates: BTreeMap<String, Rate> = futures::stream::iter(rates)
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    let of = |object: &Arc<CachedObject>| {
        let rate = rates.get(&node_of(object))?;
        if resource.namespaced { pod(object, rate) } else { node(object, rate) }
    };
    objects.iter().filter_map(of).collect()
}

/// What a node and its containers use, measured over a while.
async fn rate(api: &Api, node: &str) -> Result<Rate, ApiError> {
    let mut sample = read(api, node).await?;
    let before = match api.samples.before(node, &sample) {
        Some(before) => before,
        None => {
            api.samples.keep(node, sample.clone());
            tokio::time::sleep(samples::SHORTEST).await;
            std::mem::replace(&mut sample, read(api, node).await?)
        }
    };
    api.samples.keep(node, sample.clone());
    Ok(sample.since(&before))
}

async fn read(api: &Api, node: &str) -> Result<Sample, ApiError> {
    let page = proxy::kubelet_page(api, node, "/metrics/resource").await?;
    Ok(Sample { at: Instant::now(), reading: Reading::parse(&page) })
}

fn node(object: &CachedObject, rate: &Rate) -> Option<Value> {
    let usage = rate.node.as_ref()?;
    let mut metrics = envelope("NodeMetrics", object, rate);
    metrics["usage"] = usage.to_json();
    Some(metrics)
}

fn pod(object: &CachedObject, rate: &Rate) -> Option<Value> {
    let containers = rate.pods.get(&(object.key.namespace.clone(), object.key.name.clone()))?;
    let mut metrics = envelope("PodMetrics", object, rate);
    let told = |(name, usage): (&String, &samples::Amount)| json!({"name": name, "usage": usage.to_json()});
    metrics["containers"] = containers.iter().map(told).collect();
    Some(metrics)
}

fn envelope(kind: &str, object: &CachedObject, rate: &Rate) -> Value {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::now());
    let mut metadata = json!({"name": object.key.name, "creationTimestamp": now.to_string()});
    if !object.key.namespace.is_empty() {
        metadata["namespace"] = json!(object.key.namespace);
    }
    if !object.labels.is_empty() {
        metadata["labels"] = json!(object.labels);
    }
    json!({
        "kind": kind,
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": metadata,
        "timestamp": now.to_string(),
        "window": format!("{:.3}s", rate.window.as_secs_f64()),
    })
}
