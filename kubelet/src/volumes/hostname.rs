//! What a pod's host is called: by its kernel, in its files, and in the cluster's DNS.

use proto::k8s::api::core::v1::Pod;

/// The name of the host that a pod's containers think they run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostName {
    /// One label, unless the pod says otherwise.
    pub(crate) name: String,
    /// What follows it in the cluster's DNS, if the pod names a Service of its own there.
    domain: Option<String>,
    /// Whether the kernel is told the whole name.
    whole: bool,
}

/// What Linux takes.
const MAX_NAME: usize = 64;
/// What DNS takes of a label.
const MAX_LABEL: usize = 63;

/// Whether the pod has its node's network, and with that its name.
pub(crate) fn is_on_host(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
}

impl HostName {
    /// As the pod says. `cluster_domain` is what the cluster's names end with; empty: it is not known.
    pub(crate) fn of(pod: &Pod, cluster_domain: &str) -> Self {
        let plain = |name: String| Self { name, domain: None, whole: false };
        if is_on_host(pod)
            && let Ok(name) = nix::unistd::gethostname()
        {
            return plain(name.to_string_lossy().into_owned());
        }
        let spec = pod.spec.as_ref();
        let stated = |field: Option<&String>| field.filter(|text| !text.is_empty()).cloned();
        if let Some(name) = stated(spec.and_then(|spec| spec.hostname_override.as_ref())) {
            return plain(name);
        }
        let name = stated(spec.and_then(|spec| spec.hostname.as_ref()));
        let name = name.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
        let subdomain = stated(spec.and_then(|spec| spec.subdomain.as_ref()));
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let domain = subdomain.filter(|_| !cluster_domain.is_empty());
        Self {
            name: cut(&name),
            domain: domain.map(|service| format!("{service}.{namespace}.svc.{cluster_domain}")),
            whole: spec.and_then(|spec| spec.set_hostname_as_fqdn) == Some(true),
        }
    }

    /// The whole name, if it has a domain.
    pub(crate) fn whole(&self) -> Option<String> {
        self.domain.as_ref().map(|domain| format!("{}.{domain}", self.name))
    }

    /// What the kernel is told. The error is for the user.
    pub(crate) fn of_kernel(&self) -> Result<String, String> {
        let Some(whole) = self.whole().filter(|_| self.whole) else { return Ok(self.name.clone()) };
        if whole.len() > MAX_NAME {
            let length = whole.len();
            return Err(format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {whole} is too \
                 long ({MAX_NAME} characters is the max, {length} characters requested)"
            ));
        }
        Ok(whole)
    }
}

/// A pod's name may be longer than a host's.
fn cut(name: &str) -> String {
    let mut end = name.len().min(MAX_LABEL);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].trim_end_matches(['-', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, mut spec: Value) -> Pod {
        spec["containers"] = json!([]);
        let metadata = json!({"name": name, "namespace": "shop"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    #[test]
    fn the_host_is_called_as_the_pod_unless_it_says_otherwise() {
        let whole = Some("web-0.db.shop.svc.cluster.local");
        let long = format!("{}-{}", "a".repeat(62), "b".repeat(10));
        let cut = "a".repeat(62);
        // Name, specification, label, whole name, the kernel's.
        let cases = [
            ("web-0", json!({}), "web-0", None, "web-0"),
            ("web-0", json!({"hostname": "db"}), "db", None, "db"),
            ("web-0", json!({"subdomain": "db"}), "web-0", whole, "web-0"),
            ("web-0", json!({"setHostnameAsFQDN": true}), "web-0", None, "web-0"),
            (
                "web-0",
                json!({"subdomain": "db", "setHostnameAsFQDN": true}),
                "web-0",
                whole,
                "web-0.db.shop.svc.cluster.local",
            ),
            (
                "web-0",
                json!({"hostname": "x", "subdomain": "db", "hostnameOverride": "a.example"}),
                "a.example",
                None,
                "a.example",
            ),
            (&long, json!({}), &cut, None, &cut),
        ];
        for (name, spec, label, whole, kernel) in cases {
            let found = HostName::of(&pod(name, spec.clone()), "cluster.local");
            assert_eq!((&*found.name, found.whole().as_deref()), (label, whole), "{spec}");
            assert_eq!(found.of_kernel().as_deref(), Ok(kernel), "{spec}");
        }
        let unknown = HostName::of(&pod("web-0", json!({"subdomain": "db"})), "");
        assert_eq!(unknown.whole(), None);
    }

    #[test]
    fn a_whole_name_that_no_kernel_takes_is_refused() {
        let spec = json!({"subdomain": "d".repeat(40), "setHostnameAsFQDN": true});
        let problem = HostName::of(&pod("web-0", spec), "cluster.local").of_kernel().unwrap_err();
        assert!(problem.contains("is too long (64 characters is the max"), "{problem}");
    }

    #[test]
    fn on_the_hosts_network_it_has_the_hosts_name() {
        let on_host = pod("web-0", json!({"hostNetwork": true, "hostname": "db"}));
        let own = nix::unistd::gethostname().unwrap().to_string_lossy().into_owned();
        assert_eq!(HostName::of(&on_host, "cluster.local").name, own);
    }
}
