//! What a request is about, as far as limits and metrics care: told from its head, without copies.

use http::{Method, Uri, header, request::Parts};

/// What is done, in the words of Kubernetes' metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Post,
    Put,
    Patch,
    Apply,
    Delete,
    DeleteCollection,
    Connect,
    Other,
}

impl Verb {
    pub(crate) const ALL: [(Self, &'static str); 11] = [
        (Self::Get, "GET"),
        (Self::List, "LIST"),
        (Self::Watch, "WATCH"),
        (Self::Post, "POST"),
        (Self::Put, "PUT"),
        (Self::Patch, "PATCH"),
        (Self::Apply, "APPLY"),
        (Self::Delete, "DELETE"),
        (Self::DeleteCollection, "DELETECOLLECTION"),
        (Self::Connect, "CONNECT"),
        (Self::Other, "other"),
    ];
}

/// A request's kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class<'a> {
    pub(crate) verb: Verb,
    pub(crate) group: &'a str,
    /// Empty: a document.
    pub(crate) plural: &'a str,
    pub(crate) subresource: &'a str,
    /// It goes on for as long as the client likes: no deadline, no place among the short ones.
    pub(crate) long_running: bool,
}

/// Subresources that are joined to something else than the store.
const CONNECTED: [&str; 4] = ["exec", "attach", "portforward", "proxy"];

impl<'a> Class<'a> {
    pub(crate) fn of(parts: &'a Parts) -> Self {
        let mut segments = parts.uri.path().trim_matches('/').split('/');
        let group = match segments.next() {
            Some("api") => "",
            Some("apis") => segments.next().unwrap_or_default(),
            _ => return Self::document(parts),
        };
        segments.next();
        let mut plural = segments.next().unwrap_or_default();
        let mut watch = is_set(&parts.uri, "watch");
        if plural == "watch" {
            watch = true;
            plural = segments.next().unwrap_or_default();
        }
        let mut name = segments.next();
        if plural == "namespaces"
            && let Some(inner) = segments.clone().next()
            && !matches!(inner, "status" | "finalize")
        {
            plural = inner;
            segments.next();
            name = segments.next();
        }
        if plural.is_empty() {
            return Self::document(parts);
        }
        let subresource = segments.next().unwrap_or_default();
        let verb = match parts.method {
            _ if CONNECTED.contains(&subresource) => Verb::Connect,
            Method::GET | Method::HEAD if watch && subresource.is_empty() => Verb::Watch,
            Method::GET | Method::HEAD if name.is_none() => Verb::List,
            Method::GET | Method::HEAD => Verb::Get,
            Method::POST => Verb::Post,
            Method::PUT => Verb::Put,
            Method::PATCH if is_apply(parts) => Verb::Apply,
            Method::PATCH => Verb::Patch,
            Method::DELETE if name.is_none() => Verb::DeleteCollection,
            Method::DELETE => Verb::Delete,
            _ => Verb::Other,
        };
        let long_running = matches!(verb, Verb::Watch | Verb::Connect) || subresource == "log";
        Self { verb, group, plural, subresource, long_running }
    }

    fn document(parts: &Parts) -> Self {
        let verb = match parts.method {
            Method::GET | Method::HEAD => Verb::Get,
            Method::POST => Verb::Post,
            _ => Verb::Other,
        };
        Self { verb, group: "", plural: "", subresource: "", long_running: false }
    }

    /// Whether it may change something.
    pub(crate) fn is_mutating(&self) -> bool {
        !matches!(self.verb, Verb::Get | Verb::List | Verb::Watch)
    }
}

fn is_apply(parts: &Parts) -> bool {
    let form = parts.headers.get(header::CONTENT_TYPE);
    form.is_some_and(|form| form.as_bytes().starts_with(b"application/apply-patch"))
}

/// Whether a boolean option is given, as Kubernetes reads them.
fn is_set(uri: &Uri, name: &str) -> bool {
    value(uri, name).is_some_and(|value| !matches!(value, "false" | "0"))
}

/// The first value of an option, as it stands.
pub(super) fn value<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    let pairs = uri.query()?.split('&');
    let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_by_their_heads() {
        use Verb::*;
        for (method, path, verb, resource, long) in [
            ("GET", "/api/v1/pods", List, "/pods/", false),
            ("GET", "/api/v1/pods?watch=true", Watch, "/pods/", true),
            ("GET", "/api/v1/pods?limit=5&watch=1", Watch, "/pods/", true),
            ("GET", "/api/v1/pods?watch=false", List, "/pods/", false),
            ("GET", "/api/v1/watch/namespaces/a/pods", Watch, "/pods/", true),
            ("GET", "/api/v1/namespaces/a/pods", List, "/pods/", false),
            ("GET", "/api/v1/namespaces/a/pods/b", Get, "/pods/", false),
            ("HEAD", "/api/v1/namespaces/a/pods/b", Get, "/pods/", false),
            ("GET", "/api/v1/namespaces/a/pods/b/log", Get, "/pods/log", true),
            ("POST", "/api/v1/namespaces/a/pods/b/exec", Connect, "/pods/exec", true),
            ("DELETE", "/api/v1/nodes/n/proxy/x/y", Connect, "/nodes/proxy", true),
            ("PUT", "/api/v1/namespaces/a/pods/b/status", Put, "/pods/status", false),
            ("GET", "/api/v1/namespaces", List, "/namespaces/", false),
            ("GET", "/api/v1/namespaces/a", Get, "/namespaces/", false),
            ("PUT", "/api/v1/namespaces/a/finalize", Put, "/namespaces/finalize", false),
            ("DELETE", "/api/v1/nodes", DeleteCollection, "/nodes/", false),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/a/deployments/d",
                Patch,
                "apps/deployments/",
                false,
            ),
            ("POST", "/apis/apps/v1/namespaces/a/deployments", Post, "apps/deployments/", false),
            ("GET", "/apis/apps/v1", Get, "//", false),
            ("GET", "/openapi/v3", Get, "//", false),
            ("GET", "/", Get, "//", false),
            ("PURGE", "/api/v1/pods", Other, "/pods/", false),
        ] {
            let request = http::Request::builder().method(method).uri(path).body(()).unwrap();
            let parts = request.into_parts().0;
            let class = Class::of(&parts);
            let told = format!("{}/{}/{}", class.group, class.plural, class.subresource);
            assert_eq!((class.verb, told.as_str()), (verb, resource), "{method} {path}");
            assert_eq!(class.long_running, long, "{method} {path}");
        }
    }

    #[test]
    fn verbs_are_listed_in_their_order() {
        for (index, (verb, _)) in Verb::ALL.iter().enumerate() {
            assert_eq!(*verb as usize, index);
        }
    }
}
