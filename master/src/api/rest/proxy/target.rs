//! What a proxied request is meant for. Pure.

use std::net::IpAddr;

use http::Uri;
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use proto::ObjectKey;
use proto::k8s as k8s_openapi;

use crate::api::error::ApiError;

/// Where a kubelet's own HTTP is, by custom.
pub(super) const KUBELET_PORT: u16 = 10250;

/// A path that leads to a proxy: `/api/v1/namespaces/NAMESPACE/pods/NAME/proxy/REST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProxyPath {
    namespace: String,
    pub(super) plural: &'static str,
    /// `web`, `web:80`, `https:web:443`.
    pub(super) name: String,
    /// As the client wrote it: from the slash on, with the query.
    pub(super) rest: String,
    written_name: String,
}

impl ProxyPath {
    /// Nothing when it leads elsewhere.
    pub(crate) fn parse(uri: &Uri) -> Option<Self> {
        let path = uri.path().strip_prefix("/api/v1/")?;
        let (namespace, path) = match path.strip_prefix("namespaces/") {
            Some(path) => path.split_once('/').filter(|(namespace, _)| !namespace.is_empty())?,
            None => ("", path),
        };
        let (plural, path) = path.split_once('/')?;
        let plural = match (plural, namespace) {
            ("nodes", "") => "nodes",
            (_, "") => return None,
            ("pods", _) => "pods",
            ("services", _) => "services",
            _ => return None,
        };
        let (written_name, path) = path.split_once('/')?;
        let rest = path.strip_prefix("proxy")?;
        if !(rest.is_empty() || rest.starts_with('/')) {
            return None;
        }
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let rest = if rest.is_empty() { String::new() } else { format!("{rest}{query}") };
        Some(Self {
            namespace: namespace.to_owned(),
            plural,
            name: written_name.replace("%3A", ":").replace("%3a", ":"),
            rest,
            written_name: written_name.to_owned(),
        })
    }

    pub(super) fn singular(&self) -> &'static str {
        self.plural.trim_end_matches('s')
    }

    pub(super) fn key(&self, name: &str) -> ObjectKey {
        ObjectKey::new(&self.namespace, name)
    }

    /// What comes before the rest.
    pub(crate) fn prefix(&self) -> String {
        let Self { namespace, plural, written_name, .. } = self;
        if namespace.is_empty() {
            format!("/api/v1/{plural}/{written_name}/proxy")
        } else {
            format!("/api/v1/namespaces/{namespace}/{plural}/{written_name}/proxy")
        }
    }
}

/// `name`, `name:port` or `scheme:name:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SchemeNamePort {
    /// `https`
    pub(super) secure: bool,
    pub(super) name: String,
    /// Empty when there is none.
    pub(super) port: String,
}

impl SchemeNamePort {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        let secure = match scheme {
            "" | "http" => false,
            "https" => true,
            _ => return None,
        };
        if name.is_empty() || name.contains(['%', '/']) {
            return None;
        }
        Some(Self { secure, name: name.to_owned(), port: port.to_owned() })
    }
}

/// The first port that a pod tells.
pub(super) fn first_port(pod: &Pod) -> Option<u16> {
    let containers = &pod.spec.as_ref()?.containers;
    let mut ports = containers.iter().filter_map(|container| container.ports.as_ref()?.first());
    ports.next().and_then(|port| u16::try_from(port.container_port).ok())
}

/// The name of the service's port that is meant, by its number or its name.
pub(super) fn service_port(service: &Service, name: &str, port: &str) -> Result<String, ApiError> {
    let Ok(number) = port.parse::<i32>() else { return Ok(port.to_owned()) };
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let mut named = ports.filter(|port| port.port == number);
    match named.next() {
        Some(port) => Ok(port.name.clone().unwrap_or_default()),
        None => Err(ApiError::unavailable(format!(
            "no service port {number} found for service {name:?}"
        ))),
    }
}

/// Who answers for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// Nothing: somebody outside of the cluster, written into the endpoints by hand.
    pub(super) pod: Option<BackendPod>,
}

/// The pod that has a backend's address, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackendPod {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) node: String,
}

/// One of the ready addresses behind a service's port, any of them.
pub(super) fn backend(
    service: &str,
    endpoints: Option<Endpoints>,
    port: &str,
) -> Result<Backend, ApiError> {
    let mut ready = Vec::new();
    for subset in endpoints.into_iter().flat_map(|endpoints| endpoints.subsets).flatten() {
        let ports = subset.ports.unwrap_or_default();
        let found = ports.iter().find(|known| known.name.as_deref().unwrap_or_default() == port);
        let Some(number) = found.and_then(|port| u16::try_from(port.port).ok()) else { continue };
        for address in subset.addresses.unwrap_or_default() {
            let Ok(ip) = address.ip.parse() else { continue };
            let target = address.target_ref.filter(|target| target.kind.as_deref() == Some("Pod"));
            let pod = target.zip(address.node_name).map(|(target, node)| BackendPod {
                name: target.name.unwrap_or_default(),
                uid: target.uid.unwrap_or_default(),
                node,
            });
            ready.push(Backend { address: ip, port: number, pod });
        }
    }
    if ready.is_empty() {
        let message = format!("no endpoints available for service {service:?}");
        return Err(ApiError::unavailable(message));
    }
    // As good as random, and there is no state to keep.
    let any = uuid::Uuid::new_v4().as_u128() % ready.len() as u128;
    Ok(ready.swap_remove(usize::try_from(any).unwrap_or(0)))
}

/// The address at which a node is known.
pub(super) fn node_address(node: &Node) -> Option<String> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().find(|address| address.type_ == "InternalIP");
    Some(internal?.address.clone())
}

/// `10.0.0.1:80`, `[fd00::1]:80`.
pub(super) fn host(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(path: &str) -> Option<(String, &'static str, String, String)> {
        let path = ProxyPath::parse(&path.parse().unwrap())?;
        Some((path.namespace.clone(), path.plural, path.name.clone(), path.rest))
    }

    #[test]
    fn paths_are_split_and_the_rest_is_left_as_it_is() {
        let found = |namespace: &str, plural, name: &str, rest: &str| {
            Some((namespace.to_owned(), plural, name.to_owned(), rest.to_owned()))
        };
        for (path, expected) in [
            ("/api/v1/namespaces/a/pods/web/proxy", found("a", "pods", "web", "")),
            ("/api/v1/namespaces/a/pods/web:80/proxy/", found("a", "pods", "web:80", "/")),
            (
                "/api/v1/namespaces/a/services/https:web:x/proxy/b%2Fc//d?e=%20f",
                found("a", "services", "https:web:x", "/b%2Fc//d?e=%20f"),
            ),
            ("/api/v1/nodes/n1/proxy/healthz", found("", "nodes", "n1", "/healthz")),
            ("/api/v1/namespaces/a/pods/web%3A80/proxy/", found("a", "pods", "web:80", "/")),
            ("/api/v1/namespaces/a/pods/web/proxyish", None),
            ("/api/v1/namespaces/a/pods/web/log", None),
            ("/api/v1/namespaces/a/secrets/web/proxy/", None),
            ("/api/v1/namespaces/a/nodes/n1/proxy/", None),
            ("/api/v1/pods/web/proxy/", None),
            ("/api/v1/namespaces//nodes/n1/proxy/", None),
            ("/apis/apps/v1/namespaces/a/pods/web/proxy/", None),
        ] {
            assert_eq!(parsed(path), expected, "{path}");
        }
        let path = "/api/v1/namespaces/a/pods/web:80/proxy/x?y";
        let path = ProxyPath::parse(&path.parse().unwrap()).unwrap();
        assert_eq!(path.prefix(), "/api/v1/namespaces/a/pods/web:80/proxy");
    }

    #[test]
    fn names_may_have_a_scheme_and_a_port() {
        let found = |secure, name: &str, port: &str| {
            Some(SchemeNamePort { secure, name: name.to_owned(), port: port.to_owned() })
        };
        for (text, expected) in [
            ("web", found(false, "web", "")),
            ("web:80", found(false, "web", "80")),
            ("http:web:", found(false, "web", "")),
            ("https:web:name", found(true, "web", "name")),
            (":web:80", found(false, "web", "80")),
            ("ftp:web:80", None),
            ("a:b:c:d", None),
            (":80", None),
            ("a%2Fb", None),
        ] {
            assert_eq!(SchemeNamePort::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_service_port_is_meant_by_number_or_name() {
        let service: Service = serde_json::from_value(json!({
            "spec": {"ports": [{"port": 80, "name": "web"}, {"port": 81}]}
        }))
        .unwrap();
        assert_eq!(service_port(&service, "s", "80").unwrap(), "web");
        assert_eq!(service_port(&service, "s", "81").unwrap(), "");
        assert_eq!(service_port(&service, "s", "other").unwrap(), "other");
        let error = service_port(&service, "s", "9").unwrap_err();
        assert_eq!(error.message(), "no service port 9 found for service \"s\"");
    }

    #[test]
    fn a_backend_is_ready_and_a_pod_or_somebody_outside() {
        let endpoints: Endpoints = serde_json::from_value(json!({"subsets": [
            {"ports": [{"name": "outside", "port": 1}], "addresses": [{"ip": "192.0.2.1"}]},
            {
                "ports": [{"name": "web", "port": 8080}],
                "addresses": [{
                    "ip": "10.0.0.3",
                    "nodeName": "n1",
                    "targetRef": {"kind": "Pod", "name": "p", "uid": "u"},
                }],
                "notReadyAddresses": [{
                    "ip": "10.0.0.4",
                    "nodeName": "n1",
                    "targetRef": {"kind": "Pod", "name": "q", "uid": "v"},
                }],
            },
        ]}))
        .unwrap();
        let pod = BackendPod { name: "p".to_owned(), uid: "u".to_owned(), node: "n1".to_owned() };
        for (name, address, port, pod) in
            [("web", [10, 0, 0, 3], 8080, Some(pod)), ("outside", [192, 0, 2, 1], 1, None)]
        {
            let expected = Backend { address: address.into(), port, pod };
            assert_eq!(backend("s", Some(endpoints.clone()), name).unwrap(), expected);
        }
        for (endpoints, port) in [(Some(endpoints), "other"), (None, "web")] {
            let error = backend("s", endpoints, port).unwrap_err();
            assert_eq!(error.message(), "no endpoints available for service \"s\"");
        }
    }
}
