//! The subresources `pods/proxy`, `services/proxy` and `nodes/proxy`: HTTP to what runs in the
//! cluster, through the tunnel of the node where that is; and to what a Service leads to outside.
//!
//! `target` finds out what is meant, `forward` passes the request and the answer on, over a
//! connection (`Connection`) made for it.

mod bytes;
mod connection;
mod forward;
mod target;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, Method, StatusCode, header};
use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use proto::ObjectKey;
use proto::endpoints;
use proto::k8s as k8s_openapi;
use proto::node::{OpenTunnel, connect_request};

use crate::api::error::ApiError;
use crate::api::registry::AnyKind;
use crate::api::rest::pod_stream::Place;
use crate::api::rest::query::Options;
use crate::api::rest::{Api, list};
use connection::Way;
pub(crate) use target::ProxyPath;
use target::{Backend, BackendPod, SchemeNamePort};

/// No page of a kubelet is larger: a thousand containers have four lines each.
const MAX_PAGE: usize = 4 << 20;

/// Answers every method on `proxy` and below.
pub(crate) async fn proxy(
    api: &Api,
    path: ProxyPath,
    request: Request,
) -> Result<Response, ApiError> {
    let name = SchemeNamePort::parse(&path.name).ok_or_else(|| {
        ApiError::bad_request(format!("invalid {} request {:?}", path.singular(), path.name))
    })?;
    let Route { way, host } = match path.plural {
        "pods" => to_pod(api, &path, &name).await?,
        "services" => to_service(api, &path, &name).await?,
        _ => to_node(api, &name).await?,
    };
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if path.rest.is_empty() && reads && !forward::wants_upgrade(request.headers()) {
        return Ok(with_slash(&request));
    }
    let unreachable = |why: &dyn std::fmt::Display| {
        ApiError::unavailable(format!("error trying to reach service: {why}"))
    };
    let bytes = way.connect(api).await.map_err(|error| unreachable(&error))?;
    let prefix = path.prefix();
    let to = forward::To { host: &host, prefix: &prefix, rest: &path.rest };
    let forwarded = if name.secure {
        let secure = tls::connect(bytes).await.map_err(|error| unreachable(&error))?;
        forward::forward(secure, &to, request).await
    } else {
        forward::forward(bytes, &to, request).await
    };
    forwarded.map_err(|error| unreachable(&error))
}

/// A page of a node's kubelet.
pub(crate) async fn kubelet_page(api: &Api, node: &str, page: &str) -> Result<String, ApiError> {
    let failed = |why: &dyn std::fmt::Display| {
        ApiError::unavailable(format!("node {node} does not answer: {why}"))
    };
    let place = connect_request::Place::Node;
    let tunnel = connection::connecting(OpenTunnel::default(), place, 0);
    let opened = api.streams.open(node, tunnel).await?;
    let bytes = bytes::TunnelBytes::connected(opened).await.map_err(|error| failed(&error))?;
    let request = Request::get(page).body(Body::empty()).map_err(ApiError::internal)?;
    let to = forward::To { host: node, prefix: "", rest: page };
    let answer = forward::forward(bytes, &to, request).await.map_err(|error| failed(&error))?;
    if answer.status() != StatusCode::OK {
        return Err(failed(&answer.status()));
    }
    let body = axum::body::to_bytes(answer.into_body(), MAX_PAGE).await;
    let body = body.map_err(|error| failed(&error))?;
    String::from_utf8(body.into()).map_err(|error| failed(&error))
}

/// Where to.
struct Route {
    way: Way,
    /// What HTTP calls the other side.
    host: String,
}

async fn to_pod(api: &Api, path: &ProxyPath, name: &SchemeNamePort) -> Result<Route, ApiError> {
    let kind = kind(api, "pods")?;
    let (place, pod) = Place::of_pod(api, kind, &path.key(&name.name)).await?;
    let port = match name.port.as_str() {
        "" => target::first_port(&pod).unwrap_or(if name.secure { 443 } else { 80 }),
        port => port
            .parse()
            .map_err(|_| ApiError::bad_request(format!("invalid port {port:?} of a pod")))?,
    };
    let Some(address) = pod.status.and_then(|status| status.pod_ip) else {
        return Err(ApiError::bad_request(format!(
            "address not allowed: pod {} has none",
            name.name
        )));
    };
    let node = place.host()?;
    let host = target::host(&address, port);
    let place_there = connect_request::Place::PodAddress;
    let way = Way::through_node(node, place.tunnel_to_pod(), place_there, port);
    Ok(Route { way, host })
}

async fn to_service(api: &Api, path: &ProxyPath, name: &SchemeNamePort) -> Result<Route, ApiError> {
    let key = path.key(&name.name);
    let service = list::find(api, kind(api, "services")?, &key, &Options::default()).await?;
    let service: Service = service.decode().map_err(ApiError::internal)?;
    let port = target::service_port(&service, &name.name, &name.port)?;
    let found = list::find(api, kind(api, "endpoints")?, &key, &Options::default()).await;
    let endpoints: Option<Endpoints> = match found {
        Ok(found) => Some(found.decode().map_err(ApiError::internal)?),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    let Backend { address, port, pod } = target::backend(&name.name, endpoints, &port)?;
    let address = SocketAddr::new(address, port);
    let way = match pod {
        Some(BackendPod { name, uid, node }) => {
            let namespace = key.namespace;
            let tunnel = OpenTunnel { namespace, pod: name, pod_uid: uid, ..OpenTunnel::default() };
            Way::through_node(node, tunnel, connect_request::Place::PodAddress, port)
        }
        // The master would reach what listens for itself alone, or what a cloud tells its machine.
        None if endpoints::may_be_endpoint(address.ip()) => Way::Direct(address),
        None => {
            return Err(ApiError::bad_request(format!("address not allowed: {}", address.ip())));
        }
    };
    Ok(Route { way, host: address.to_string() })
}

async fn to_node(api: &Api, name: &SchemeNamePort) -> Result<Route, ApiError> {
    let key = ObjectKey::new("", &name.name);
    let node = list::find(api, kind(api, "nodes")?, &key, &Options::default()).await?;
    let node: Node = node.decode().map_err(ApiError::internal)?;
    let port: u16 = match name.port.as_str() {
        "" => target::KUBELET_PORT,
        port => port
            .parse()
            .map_err(|_| ApiError::bad_request(format!("invalid port {port:?} of a node")))?,
    };
    let address = target::node_address(&node).unwrap_or_else(|| name.name.clone());
    let host = target::host(&address, port);
    // The kubelet listens nowhere; what others have at its port is answered by itself.
    let own = port == target::KUBELET_PORT;
    let port = if own { 0 } else { port };
    if own && name.secure {
        return Err(ApiError::bad_request("the kubelet's own pages are not served over TLS"));
    }
    let node = name.name.clone();
    let way = Way::through_node(node, OpenTunnel::default(), connect_request::Place::Node, port);
    Ok(Route { way, host })
}

fn kind(api: &Api, plural: &str) -> Result<&'static dyn AnyKind, ApiError> {
    api.objects.registry().find("", "v1", plural).ok_or_else(ApiError::no_such_path)
}

/// Without a path the answer's relative links would lead elsewhere.
fn with_slash(request: &Request) -> Response {
    let uri = request.uri();
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) else {
        return ApiError::bad_request("the path cannot be repeated").into_response();
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// What the pieces of this module report; they all end as a 503.
type Failure = Arc<dyn std::error::Error + Send + Sync>;
