//! Which subresources are served. Discovery and OpenAPI are made out of this table.

use crate::api::kinds::ResourceInfo;
use crate::api::rest::{metrics_api, reviews};

/// A subresource: its name, the type it speaks, and its verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subresource {
    /// `status`, `log` …
    pub(crate) name: &'static str,
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    /// `Scale`, `PodExecOptions` …
    pub(crate) kind: &'static str,
    /// As discovery tells them, in their order there.
    pub(crate) verbs: &'static [&'static str],
}

impl Subresource {
    /// Whether it is a way to something else, whose type only tells the options: `exec`.
    pub(crate) fn connects(&self) -> bool {
        self.kind.ends_with("Options")
    }
}

/// The subresources of a kind, by name.
pub(crate) fn subresources(resource: &ResourceInfo) -> Vec<Subresource> {
    let mut all = Vec::new();
    let mut add = |name, group, version, kind, verbs| {
        all.push(Subresource { name, group, version, kind, verbs });
    };
    if resource.plural == "pods" && resource.group.is_empty() {
        add("attach", "", "v1", "PodAttachOptions", &["create", "get"][..]);
        add("binding", "", "v1", "Binding", &["create"]);
        add("ephemeralcontainers", "", "v1", "Pod", &["get", "patch", "update"]);
        add("eviction", "policy", "v1", "Eviction", &["create"]);
        add("exec", "", "v1", "PodExecOptions", &["create", "get"]);
        add("log", "", "v1", "Pod", &["get"]);
        add("portforward", "", "v1", "PodPortForwardOptions", &["create", "get"]);
        add("resize", "", "v1", "Pod", &["get", "patch", "update"]);
    }
    if resource.plural == "serviceaccounts" {
        add("token", reviews::GROUP, "v1", "TokenRequest", &["create"]);
    }
    if resource.plural == "namespaces" {
        add("finalize", "", "v1", "Namespace", &["update"]);
    }
    if resource.group.is_empty() {
        let proxied = match resource.plural {
            "nodes" => Some("NodeProxyOptions"),
            "pods" => Some("PodProxyOptions"),
            "services" => Some("ServiceProxyOptions"),
            _ => None,
        };
        if let Some(options) = proxied {
            add("proxy", "", "v1", options, &["create", "delete", "get", "patch", "update"]);
        }
    }
    if resource.scale {
        add("scale", "autoscaling", "v1", "Scale", &["get", "patch", "update"]);
    }
    if resource.status {
        let own = (resource.group, resource.version, resource.kind);
        add("status", own.0, own.1, own.2, &["get", "patch", "update"]);
    }
    all.sort_unstable_by_key(|subresource| subresource.name);
    all
}

/// The verbs of a kind itself, as discovery tells them.
pub(crate) fn verbs(resource: &ResourceInfo) -> Vec<&'static str> {
    if resource.group == metrics_api::GROUP {
        return metrics_api::VERBS.to_vec();
    }
    if resource.group == reviews::GROUP {
        return reviews::VERBS.to_vec();
    }
    let all = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    // Nobody wants to delete all namespaces at once by accident.
    let has = |verb: &&str| resource.plural != "namespaces" || *verb != "deletecollection";
    all.into_iter().filter(has).collect()
}
