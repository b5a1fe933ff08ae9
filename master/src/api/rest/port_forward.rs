//! The subresource `portforward`: TCP connections to a pod's `localhost`, each over a tunnel of its
//! own.
//!
//! * over SPDY a client opens two streams for each connection, one for data and one for errors, that
//!   belong together by their `requestID`;
//! * newer clients speak the same SPDY inside a WebSocket;
//! * libraries that know WebSockets only name their ports in the query, and get one connection to each.

mod spdy;
mod tunnelled;
mod websocket;

use std::sync::Arc;

use axum::response::Response;
use http::request::Parts;
use proto::ObjectKey;
use proto::node::open_tunnel::Request;
use proto::node::tunnel_up::Message as Up;
use proto::node::{ConnectRequest, connect_request};

use crate::api::error::ApiError;
use crate::api::field_error::FieldError;
use crate::api::registry::AnyKind;
use crate::api::rest::Api;
use crate::api::rest::pod_stream::{Place, options_of};
use crate::api::rest::query::Options;
use crate::api::rest::upgrade::{Protocol, Refused, Spoken, Upgrade};
use crate::api::streams::{Streams, TunnelStream};

/// SPDY inside a WebSocket.
const TUNNELLED: Protocol = "SPDY/3.1+portforward.k8s.io";

const SPOKEN: Spoken = Spoken {
    websocket: &[TUNNELLED, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"],
    websocket_unnamed: "v4.channel.k8s.io",
    spdy: &["portforward.k8s.io"],
};

/// Ports to one WebSocket: each takes two of its channels' numbers.
const MAX_PORTS: usize = 64;

/// Answers `GET` and `POST` on `pods/portforward`.
pub(crate) async fn port_forward(
    api: &Api,
    kind: &'static dyn AnyKind,
    key: &ObjectKey,
    mut parts: Parts,
) -> Result<Response, ApiError> {
    let options = Options::parse(&parts.uri)?;
    let (place, _) = Place::of_pod(api, kind, key).await?;
    let target = Target { streams: api.streams.clone(), node: place.host()?, place };
    let upgrade = match Upgrade::of(&mut parts, &SPOKEN).await {
        Ok(upgrade) => upgrade,
        Err(Refused::Api(error)) => return Err(error),
        Err(Refused::Protocols(response)) => return Ok(*response),
    };
    let shutdown = api.shutdown.clone();
    Ok(match upgrade {
        Upgrade::WebSocket { upgrade, protocol: TUNNELLED } => {
            upgrade.on_upgrade(async move |socket| {
                let io = tunnelled::WebSocketBytes::new(socket);
                let serve = crate::api::spdy::serve(io, |incoming| spdy::forward(target, incoming));
                shutdown.run_until_cancelled(serve).await;
            })
        }
        Upgrade::WebSocket { upgrade, protocol } => {
            let ports = ports(&key.name, &options)?;
            upgrade.on_upgrade(async move |socket| {
                let forward = websocket::forward(target, socket, ports, protocol);
                shutdown.run_until_cancelled(forward).await;
            })
        }
        Upgrade::Spdy(upgrade) => upgrade.respond(async move |io| {
            let serve = crate::api::spdy::serve(io, |incoming| spdy::forward(target, incoming));
            shutdown.run_until_cancelled(serve).await;
        }),
    })
}

/// The ports of the query: `ports=80,443`, or one by one.
fn ports(pod: &str, options: &Options) -> Result<Vec<u16>, ApiError> {
    let named = options.all("ports").chain(options.all("port")).flat_map(|ports| ports.split(','));
    let mut ports = Vec::new();
    let mut errors = Vec::new();
    for text in named {
        match text.trim().parse() {
            Ok(port) if port != 0 => ports.push(port),
            _ => {
                let detail = "must be between 1 and 65535, inclusive";
                errors.push(FieldError::invalid("ports", text, detail));
            }
        }
    }
    if ports.is_empty() && errors.is_empty() {
        errors.push(FieldError::required("ports", "name the ports to forward"));
    }
    if ports.len() > MAX_PORTS {
        let detail = format!("must have at most {MAX_PORTS} items");
        errors.push(FieldError::invalid("ports", ports.len(), detail));
    }
    if errors.is_empty() {
        Ok(ports)
    } else {
        Err(ApiError::invalid(&options_of("PodPortForwardOptions"), pod, &errors))
    }
}

/// The pod that is connected to.
struct Target {
    streams: Arc<dyn Streams>,
    node: String,
    place: Place,
}

impl Target {
    /// A connection that the pod has accepted; else why there is none, in Kubernetes' words.
    async fn connect(&self, port: u16) -> Result<TunnelStream, String> {
        let connect =
            ConnectRequest { place: connect_request::Place::PodLoopback.into(), port: port.into() };
        let request = self.place.tunnel(Request::Connect(connect));
        let failed = |why: &str| {
            let (pod, uid) = (self.place.pod(), self.place.uid());
            format!("error forwarding port {port} to pod {pod}, uid {uid}: {why}")
        };
        let mut tunnel = self
            .streams
            .open(&self.node, request)
            .await
            .map_err(|error| failed(&error.to_string()))?;
        match tunnel.up.recv().await.and_then(|message| message.message) {
            Some(Up::Connected(_)) => Ok(tunnel),
            Some(Up::Failure(failure)) => Err(failed(&failure.message)),
            _ => Err(failed("the connection to the node was lost")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_named_together_or_one_by_one() {
        let of = |query: &str| {
            let uri = format!("/x?{query}").parse().unwrap();
            ports("web", &Options::parse(&uri).unwrap())
        };
        assert_eq!(of("ports=80,443&ports=22").unwrap(), [80, 443, 22]);
        assert_eq!(of("port=80").unwrap(), [80]);
        for bad in ["", "ports=0", "ports=65536", "ports=http", "ports=80,"] {
            assert_eq!(of(bad).unwrap_err().code(), 422, "{bad}");
        }
        let many = format!("ports={}", vec!["1"; MAX_PORTS + 1].join(","));
        assert_eq!(of(&many).unwrap_err().code(), 422);
    }
}
