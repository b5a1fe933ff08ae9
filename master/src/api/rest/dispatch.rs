//! From a request to what answers it.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::{Method, StatusCode};
use k8s_openapi::api::core::v1::Binding as BindingObject;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;

use crate::api::codec::Decoder;
use crate::api::error::ApiError;
use crate::api::field_error::FieldError;
use crate::api::kinds::ResourceInfo;
use crate::api::limits::Governor;
use crate::api::objects::{Binding, Part};
use crate::api::registry::AnyKind;
use crate::api::rest::change::Change;
use crate::api::rest::proxy::ProxyPath;
use crate::api::rest::query::{Options, Write, WriteOptions};
use crate::api::rest::target::{ResourceTarget, Target};
use crate::api::rest::{
    Api, account_tokens, body, compress, discovery, eviction, finalize, list, log, metrics_api,
    port_forward, program, proxy, render, reviews, scale, watch, watch_socket,
};

/// Answers every request that has no route of its own, within the limits.
pub(crate) async fn dispatch(
    State(api): State<Arc<Api>>,
    State(governor): State<Arc<Governor>>,
    request: Request,
) -> Response {
    governor.serve(request, |request| serve(&api, request)).await
}

async fn serve(api: &Api, request: Request) -> Result<Response, ApiError> {
    let path = request.uri().path();
    // What is behind a proxy has paths of its own, which mean nothing here.
    if let Some(path) = ProxyPath::parse(request.uri()) {
        return proxy::proxy(api, path, request).await;
    }
    let target = Target::parse(path).ok_or_else(ApiError::no_such_path)?;
    match target {
        Target::Resource(target) if target.group == metrics_api::GROUP => {
            metrics_api::serve(api, &target, request).await
        }
        Target::Resource(target) if target.group == reviews::GROUP => {
            reviews::serve(api, &target, request).await
        }
        Target::Resource(target) => resource(api, target, request).await,
        document => {
            if !matches!(*request.method(), Method::GET | Method::HEAD) {
                return Err(ApiError::method_not_allowed());
            }
            discovery::document(api.objects.registry(), &document, request.headers())
        }
    }
}

async fn resource(
    api: &Api,
    target: ResourceTarget,
    request: Request,
) -> Result<Response, ApiError> {
    let kind = api
        .objects
        .registry()
        .find(&target.group, &target.version, &target.plural)
        .ok_or_else(ApiError::no_such_path)?;
    let namespaced = kind.resource().namespaced;
    if target.namespace.is_some() && !namespaced {
        return Err(ApiError::no_such_path());
    }
    let namespace = target.namespace.as_deref();
    let Some(name) = &target.name else {
        return collection(api, kind, namespace, request).await;
    };
    if namespaced && namespace.is_none() {
        return Err(ApiError::no_such_path());
    }
    let key = ObjectKey::new(namespace.unwrap_or_default(), name);
    let resource = kind.resource();
    match target.subresource.as_deref() {
        None => object(api, kind, &key, Part::Spec, request).await,
        Some("status") if resource.status => object(api, kind, &key, Part::Status, request).await,
        Some("finalize") if resource.plural == "namespaces" => match *request.method() {
            Method::PUT => finalize::finalize(change(api, kind, request).await?, &key).await,
            _ => Err(ApiError::method_not_allowed()),
        },
        Some("ephemeralcontainers") if resource.plural == "pods" => {
            object(api, kind, &key, Part::EphemeralContainers, request).await
        }
        Some("resize") if resource.plural == "pods" => {
            object(api, kind, &key, Part::Resize, request).await
        }
        Some("scale") if resource.scale => match *request.method() {
            Method::GET | Method::HEAD => {
                let options = Options::parse(request.uri())?;
                scale::get(api, kind, &key, &options, request.headers()).await
            }
            Method::PUT => scale::update(&change(api, kind, request).await?, &key).await,
            Method::PATCH => scale::patch(&change(api, kind, request).await?, &key).await,
            _ => Err(ApiError::method_not_allowed()),
        },
        Some("binding") if resource.plural == "pods" => match *request.method() {
            Method::POST => bind(&change(api, kind, request).await?, &key).await,
            _ => Err(ApiError::method_not_allowed()),
        },
        Some("eviction") if resource.plural == "pods" => match *request.method() {
            Method::POST => eviction::evict(&change(api, kind, request).await?, &key).await,
            _ => Err(ApiError::method_not_allowed()),
        },
        Some("token") if resource.plural == "serviceaccounts" => match *request.method() {
            Method::POST => account_tokens::create(&change(api, kind, request).await?, &key).await,
            _ => Err(ApiError::method_not_allowed()),
        },
        Some("log") if resource.plural == "pods" => match *request.method() {
            Method::GET | Method::HEAD => {
                log::log(api, kind, &key, &Options::parse(request.uri())?).await
            }
            _ => Err(ApiError::method_not_allowed()),
        },
        Some(stream @ ("exec" | "attach" | "portforward")) if resource.plural == "pods" => {
            if !matches!(*request.method(), Method::GET | Method::POST) {
                return Err(ApiError::method_not_allowed());
            }
            let parts = request.into_parts().0;
            match stream {
                "exec" => program::exec(api, kind, &key, parts).await,
                "attach" => program::attach(api, kind, &key, parts).await,
                _ => port_forward::port_forward(api, kind, &key, parts).await,
            }
        }
        Some(_) => Err(ApiError::no_such_path()),
    }
}

async fn collection(
    api: &Api,
    kind: &'static dyn AnyKind,
    namespace: Option<&str>,
    request: Request,
) -> Result<Response, ApiError> {
    match *request.method() {
        Method::GET | Method::HEAD => {
            let options = Options::parse(request.uri())?;
            if options.flag("watch") {
                let answer = watch::watch(api, kind, namespace, &options, request.headers()).await;
                watch_socket::answer(request, answer?).await
            } else {
                let headers = request.headers();
                let answer = list::list(api, kind, namespace, &options, headers).await?;
                Ok(compress::compress(headers, answer).await)
            }
        }
        Method::POST => change(api, kind, request).await?.create(namespace).await,
        // Not of all namespaces at once, as in Kubernetes.
        Method::DELETE
            if kind.resource().plural != "namespaces"
                && namespace.is_some() == kind.resource().namespaced =>
        {
            change(api, kind, request).await?.delete_collection(namespace).await
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// An object, or what part of it a subresource shows and changes.
async fn object(
    api: &Api,
    kind: &'static dyn AnyKind,
    key: &ObjectKey,
    part: Part,
    request: Request,
) -> Result<Response, ApiError> {
    match *request.method() {
        Method::GET | Method::HEAD => {
            let options = Options::parse(request.uri())?;
            if part == Part::Spec && options.flag("watch") {
                let options = options.selecting_name(&key.name);
                let namespace = Some(key.namespace.as_str()).filter(|name| !name.is_empty());
                let answer = watch::watch(api, kind, namespace, &options, request.headers()).await;
                watch_socket::answer(request, answer?).await
            } else {
                let answer = list::get(api, kind, key, &options, request.headers()).await?;
                Ok(compress::compress(request.headers(), answer).await)
            }
        }
        Method::PUT => change(api, kind, request).await?.update(key, part).await,
        Method::PATCH => change(api, kind, request).await?.patch(key, part).await,
        Method::DELETE if part == Part::Spec => change(api, kind, request).await?.delete(key).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// A writing request with its body read.
async fn change<'a>(
    api: &'a Api,
    kind: &'static dyn AnyKind,
    request: Request,
) -> Result<Change<'a>, ApiError> {
    let options = Options::parse(request.uri())?;
    let (parts, body) = request.into_parts();
    let body = body::read(&parts.headers, body).await?;
    Ok(Change { api, kind, options, headers: parts.headers, body })
}

/// The names of a Binding, for messages.
const BINDING: ResourceInfo = ResourceInfo {
    group: "",
    version: "v1",
    kind: "Binding",
    plural: "bindings",
    singular: "binding",
    short_names: &[],
    categories: &[],
    namespaced: true,
    status: false,
    scale: false,
};

/// `POST` on `pods/binding`.
async fn bind(change: &Change<'_>, key: &ObjectKey) -> Result<Response, ApiError> {
    let answer = change.answer()?;
    let tree = body::parse(&change.headers, &change.body)?;
    let binding: BindingObject = Decoder::new()
        .decode(&tree.value)
        .map_err(|error| ApiError::bad_request(format!("Binding: {error}")))?;
    if binding.metadata.name.as_ref().is_some_and(|name| *name != key.name) {
        return Err(ApiError::bad_request(
            "the name of the binding does not match the name on the URL",
        ));
    }
    let target = binding.target;
    let mut errors = Vec::new();
    if let Some(kind) = target.kind.as_deref().filter(|kind| !matches!(*kind, "" | "Node")) {
        errors.push(FieldError::not_supported("target.kind", kind, &["Node", "<empty>"]));
    }
    let node = target.name.unwrap_or_default();
    if node.is_empty() {
        errors.push(FieldError::required("target.name", ""));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid(&BINDING, &key.name, &errors));
    }
    let WriteOptions { dry_run, .. } = change.options.writing(Write::Create)?;
    let uid = binding.metadata.uid.unwrap_or_default();
    let binding = Binding { pod: key.clone(), uid, node };
    if dry_run {
        change.api.objects.writer().check_binding(&binding).await?;
    } else {
        for result in change.api.objects.bind(vec![binding], &[]).await {
            result?;
        }
    }
    let status = Status { status: Some("Success".to_owned()), ..Status::default() };
    render::value(StatusCode::CREATED, &status, answer)
}
