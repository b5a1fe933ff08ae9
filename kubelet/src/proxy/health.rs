//! What load balancers ask: whether this node has endpoints of a Service that keeps to its nodes'.
//!
//! Each such Service has a port of its own on every node, and every request there is answered the
//! same: 200 if there is an endpoint here and the rules are in place, 503 otherwise; in words that
//! kube-proxy has made customary.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proto::ObjectKey;
use serde_json::json;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::model::HealthCheck;
use super::ranges::Ranges;
use crate::nft::expr::Ip;

/// What is to be answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Health {
    /// By Service.
    pub(super) services: BTreeMap<ObjectKey, HealthCheck>,
    /// Whether the kernel has the newest rules.
    pub(super) proxy_is_healthy: bool,
    /// By version of IP: at which of the node's addresses node ports are served.
    pub(super) ranges: BTreeMap<Ip, Ranges>,
}

/// One who connects and says nothing is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many connections are served at once for each Service; balancers have few.
const CONNECTIONS: usize = 64;

/// Between attempts to listen where somebody else does.
const RETRY: Duration = Duration::from_secs(10);

/// Listens as long as there are Services to answer for.
pub(super) async fn run(mut health: watch::Receiver<Health>, shutdown: CancellationToken) {
    let mut servers: BTreeMap<(ObjectKey, u16), CancellationToken> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let services = health.borrow_and_update().services.clone();
        let wanted =
            |(key, port): &(ObjectKey, u16)| services.get(key).is_some_and(|one| one.port == *port);
        servers.retain(|server, stop| {
            let stays = wanted(server);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for (key, HealthCheck { port, .. }) in services {
            servers.entry((key.clone(), port)).or_insert_with(|| {
                let stop = shutdown.child_token();
                tasks.spawn(serve(key, port, health.clone(), stop.clone()));
                stop
            });
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = health.changed() => if changed.is_err() { break },
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
        }
    }
    shutdown.cancelled().await;
    tasks.join_all().await;
}

/// Answers for one Service at its port until told to stop.
async fn serve(
    service: ObjectKey,
    port: u16,
    health: watch::Receiver<Health>,
    stop: CancellationToken,
) {
    let listeners = loop {
        let addresses = addresses(&health.borrow().ranges);
        match addresses.into_iter().map(|at| listen(SocketAddr::new(at, port))).collect() {
            Ok(listeners) => break listeners,
            Err::<Vec<TcpListener>, _>(error) => {
                warn!(%service, port, %error, "cannot listen for health checks");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    };
    info!(%service, port, "answers health checks");
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = accept(&listeners);
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = accepted => accepted,
        };
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                debug!(%service, %error, "a health check did not come about");
                continue;
            }
        };
        // With all places taken, a further one is closed at once.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (service, health) = (service.clone(), health.clone());
        connections.spawn(async move {
            let _place = place;
            let answering = service_fn(|_| {
                let answer = answer(&service, &health.borrow());
                async { Ok::<_, std::convert::Infallible>(answer) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            let served = http.serve_connection(TokioIo::new(stream), answering);
            if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, served).await {
                debug!(%error, "a health check's connection broke");
            }
        });
    }
}

async fn accept(listeners: &[TcpListener]) -> std::io::Result<tokio::net::TcpStream> {
    let accepting = listeners.iter().map(|listener| Box::pin(listener.accept()));
    let (first, _, _) = futures::future::select_all(accepting).await;
    first.map(|(stream, _)| stream)
}

/// All addresses; or those of this node at which node ports are served.
fn addresses(ranges: &BTreeMap<Ip, Ranges>) -> Vec<IpAddr> {
    let own: Vec<IpAddr> = nix::ifaddrs::getifaddrs()
        .inspect_err(|error| warn!(%error, "cannot list the node's addresses for health checks"))
        .map(|interfaces| {
            let addresses = interfaces.filter_map(|interface| interface.address);
            addresses
                .filter_map(|address| {
                    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
                    v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
                })
                .collect()
        })
        .unwrap_or_default();
    chosen(ranges, &own)
}

fn chosen(ranges: &BTreeMap<Ip, Ranges>, own: &[IpAddr]) -> Vec<IpAddr> {
    let of = |(ip, ranges): (&Ip, &Ranges)| -> Vec<IpAddr> {
        if ranges.node_ports.is_empty() {
            return vec![super::address::any(*ip)];
        }
        let own = own
            .iter()
            .filter(|address| ranges.node_ports.iter().any(|range| range.contains(*address)));
        own.copied().collect()
    };
    ranges.iter().flat_map(of).collect()
}

fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // The kubelet that was here before may have connections that are not over yet.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

fn answer(service: &ObjectKey, health: &Health) -> Response<Full<Bytes>> {
    let endpoints = health.services.get(service).map_or(0, |check| check.endpoints);
    let proxy_is_healthy = health.proxy_is_healthy;
    let status = if endpoints > 0 && proxy_is_healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({
        "service": {"namespace": service.namespace, "name": service.name},
        "localEndpoints": endpoints,
        "serviceProxyHealthy": proxy_is_healthy,
    });
    let response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header("X-Load-Balancing-Endpoint-Weight", endpoints);
    // These are constants and a number, so nothing can be wrong with them.
    response.body(Full::new(format!("{body:#}").into())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_node_with_endpoints_and_rules_is_healthy() {
        let key = ObjectKey::new("default", "web");
        for (endpoints, proxy_is_healthy, status) in
            [(2, true, 200), (0, true, 503), (2, false, 503)]
        {
            let services = [(key.clone(), HealthCheck { port: 1, endpoints })].into();
            let health = Health { services, proxy_is_healthy, ranges: BTreeMap::new() };
            let answer = answer(&key, &health);
            assert_eq!(answer.status(), status);
            assert_eq!(answer.headers()["content-type"], "application/json");
            assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
            let weight = &answer.headers()["x-load-balancing-endpoint-weight"];
            assert_eq!(weight, &endpoints.to_string());
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let expected = json!({
                "service": {"namespace": "default", "name": "web"},
                "localEndpoints": endpoints,
                "serviceProxyHealthy": proxy_is_healthy,
            });
            assert_eq!(body, expected);
        }
        assert_eq!(answer(&key, &Health::default()).status(), 503);
    }

    #[test]
    fn is_asked_where_node_ports_are_served() {
        let own: Vec<IpAddr> =
            ["192.168.7.10", "10.9.9.9", "fd00::1"].map(|text| text.parse().unwrap()).into();
        let everywhere = Ranges::default();
        let lan =
            Ranges { node_ports: vec!["192.168.0.0/16".parse().unwrap()], ..everywhere.clone() };
        let v4: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        let v6: IpAddr = Ipv6Addr::UNSPECIFIED.into();
        let both = [(Ip::V4, everywhere.clone()), (Ip::V6, everywhere.clone())].into();
        assert_eq!(chosen(&both, &own), [v4, v6]);
        assert_eq!(chosen(&[(Ip::V4, lan)].into(), &own), own[..1]);
    }
}
