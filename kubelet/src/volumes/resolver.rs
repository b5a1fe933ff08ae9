//! `/etc/resolv.conf`: the host's, and what becomes of it in a pod.

use std::fs;
use std::io;
use std::net::IpAddr;

use proto::k8s::api::core::v1::{Pod, PodDNSConfig};

use super::hostname::is_on_host;

/// Servers beyond the third are never asked: C libraries stop reading there, and so does Kubernetes.
const MAX_SERVERS: usize = 3;
/// Kubernetes' own bounds.
const MAX_SEARCHES: usize = 32;
/// The same, in characters with the blanks between.
const MAX_SEARCH_LINE: usize = 2048;

/// Where the cluster's names are answered for, and what they end with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterDns {
    pub(crate) servers: Vec<IpAddr>,
    /// As `cluster.local`.
    pub(crate) domain: String,
}

/// Where the host's is.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Behind systemd-resolved's stub, which answers on the host's loopback only, are the resolvers.
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

pub(crate) fn host_resolv_conf() -> io::Result<String> {
    let read = |path: &str| match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        result => result,
    };
    let text = read(RESOLV_CONF)?;
    if text.lines().any(|line| line.trim() == "nameserver 127.0.0.53") {
        let behind = read(BEHIND_RESOLVED)?;
        if !behind.is_empty() {
            return Ok(behind);
        }
    }
    Ok(text)
}

/// The resolvers that this host asks.
pub(crate) fn host_resolvers() -> io::Result<Vec<IpAddr>> {
    let mut config = Resolver::default();
    config.read(&host_resolv_conf()?);
    Ok(config.name_servers.iter().filter_map(|server| server.parse().ok()).collect())
}

/// What a resolver is told.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    name_servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    /// What the pod's DNS policy makes of the host's configuration and the cluster's servers.
    pub(crate) fn of(
        pod: &Pod,
        addresses: &[IpAddr],
        host: &str,
        cluster: Option<&ClusterDns>,
    ) -> Self {
        let spec = pod.spec.as_ref();
        let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
        let cluster_first = match policy {
            "ClusterFirst" => !is_on_host(pod),
            "ClusterFirstWithHostNet" => true,
            _ => false,
        };
        let mut config = Self::default();
        if policy != "None" {
            config.read(host);
        }
        if let Some(cluster) = cluster.filter(|_| cluster_first) {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let domain = &cluster.domain;
            config.name_servers = servers_for(addresses, &cluster.servers);
            let own =
                [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            config.searches.splice(0..0, own);
            // As Kubernetes has it: a name with fewer dots may be one of the cluster's.
            config.options = vec!["ndots:5".to_owned()];
        }
        if let Some(stated) = spec.and_then(|spec| spec.dns_config.as_ref()) {
            config.add(stated);
        }
        for list in [&mut config.name_servers, &mut config.searches] {
            let mut seen = std::collections::HashSet::new();
            list.retain(|entry| seen.insert(entry.clone()));
        }
        config
    }

    /// Leaves out what nobody would read; tells what that was, in Kubernetes' words.
    pub(crate) fn limit(&mut self) -> Vec<String> {
        let mut omitted = Vec::new();
        if self.name_servers.len() > MAX_SERVERS {
            self.name_servers.truncate(MAX_SERVERS);
            omitted.push(format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied \
                 nameserver line is: {}",
                self.name_servers.join(" ")
            ));
        }
        let fits = |searches: &[String]| {
            let length = searches.iter().map(|one| one.len() + 1).sum::<usize>();
            searches.len() <= MAX_SEARCHES && length <= MAX_SEARCH_LINE + 1
        };
        if !fits(&self.searches) {
            while !fits(&self.searches) {
                self.searches.pop();
            }
            omitted.push(format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied \
                 search line is: {}",
                self.searches.join(" ")
            ));
        }
        omitted
    }

    fn read(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => self.name_servers.extend(words.next().map(str::to_owned)),
                // The last line holds, as in the C library.
                Some("search") => self.searches = words.map(without_dot).collect(),
                Some("options") => self.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
    }

    fn add(&mut self, stated: &PodDNSConfig) {
        self.name_servers.extend(stated.nameservers.iter().flatten().cloned());
        self.searches.extend(stated.searches.iter().flatten().cloned());
        for option in stated.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            self.options.retain(|known| known.split(':').next() != Some(name));
            self.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
}

/// The servers of the families that a pod has addresses of.
fn servers_for(addresses: &[IpAddr], servers: &[IpAddr]) -> Vec<String> {
    let has = |server: &&IpAddr| addresses.iter().any(|own| own.is_ipv4() == server.is_ipv4());
    let mut chosen: Vec<&IpAddr> = servers.iter().filter(has).collect();
    if chosen.is_empty() {
        chosen = servers.iter().collect();
    }
    chosen.into_iter().map(IpAddr::to_string).collect()
}

/// The root itself keeps its dot.
fn without_dot(domain: &str) -> String {
    match domain {
        "." => domain.to_owned(),
        _ => domain.trim_end_matches('.').to_owned(),
    }
}

impl std::fmt::Display for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.searches.is_empty() {
            writeln!(f, "search {}", self.searches.join(" "))?;
        }
        for server in &self.name_servers {
            writeln!(f, "nameserver {server}")?;
        }
        if !self.options.is_empty() {
            writeln!(f, "options {}", self.options.join(" "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "10.244.1.1";
    const V6: &str = "fd00:10:244:1::1";

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = serde_json::json!([]);
        serde_json::from_value(
            serde_json::json!({"metadata": {"name": "web-0", "namespace": "shop"}, "spec": spec}),
        )
        .unwrap()
    }

    #[test]
    fn resolvers_follow_the_dns_policy() {
        let addresses = ["10.244.1.7".parse().unwrap()];
        let host =
            "# made by hand\nnameserver 10.0.0.2\nsearch example.org\noptions ndots:1 rotate\n";
        let cluster = ClusterDns {
            servers: vec![V4.parse().unwrap(), V6.parse().unwrap()],
            domain: "cluster.local".to_owned(),
        };
        let config = serde_json::json!({
            "nameservers": ["10.0.0.2", "10.0.0.3"],
            "searches": ["shop.local"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]
        });
        let of_host = "search example.org\nnameserver 10.0.0.2\noptions ndots:1 rotate\n";
        let own = "search shop.svc.cluster.local svc.cluster.local cluster.local example.org";
        let of_cluster = format!("{own}\nnameserver 10.244.1.1\noptions ndots:5\n");
        let cases = [
            (serde_json::json!({}), of_cluster.clone()),
            (serde_json::json!({"dnsPolicy": "ClusterFirst"}), of_cluster.clone()),
            (serde_json::json!({"dnsPolicy": "Default"}), of_host.to_owned()),
            (serde_json::json!({"hostNetwork": true}), of_host.to_owned()),
            (
                serde_json::json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                of_cluster,
            ),
            (
                serde_json::json!({"dnsPolicy": "None", "dnsConfig": config}),
                "search shop.local\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n\
                 options ndots:2 edns0\n"
                    .to_owned(),
            ),
            (
                serde_json::json!({"dnsConfig": config}),
                format!(
                    "{own} shop.local\nnameserver 10.244.1.1\nnameserver 10.0.0.2\n\
                     nameserver 10.0.0.3\noptions ndots:2 edns0\n"
                ),
            ),
        ];
        for (spec, wanted) in cases {
            let found = Resolver::of(&pod(spec.clone()), &addresses, host, Some(&cluster));
            assert_eq!(found.to_string(), wanted, "{spec}");
        }
        // Before the cluster's domain is known.
        let found = Resolver::of(&pod(serde_json::json!({})), &addresses, host, None);
        assert_eq!(found.to_string(), of_host);
        // In the families that the pod has.
        let both = [addresses[0], "fd00:10:244:1::7".parse().unwrap()];
        for (addresses, servers) in
            [(&both[..], &[V4, V6][..]), (&both[..1], &[V4]), (&both[1..], &[V6]), (&[], &[V4, V6])]
        {
            let found = Resolver::of(&pod(serde_json::json!({})), addresses, host, Some(&cluster));
            assert_eq!(found.name_servers, servers, "{addresses:?}");
        }
    }

    #[test]
    fn what_nobody_would_read_is_left_out_and_told() {
        let servers: Vec<String> = (1..=3).map(|last| format!("10.0.0.{last}")).collect();
        let searches: Vec<String> = (1..=32).map(|number| format!("s{number}.example")).collect();
        let spec = |servers: &[String], searches: &[String]| {
            let config = serde_json::json!({"nameservers": servers, "searches": searches});
            pod(serde_json::json!({"dnsPolicy": "Default", "dnsConfig": config}))
        };
        let host = "nameserver 10.0.0.9\nsearch example.org. .\n";
        let mut fits = Resolver::of(&spec(&servers[..2], &searches[..30]), &[], host, None);
        assert_eq!(fits.limit(), Vec::<String>::new());
        assert_eq!(fits.searches[..3], ["example.org", ".", "s1.example"]);
        let mut more = Resolver::of(&spec(&servers, &searches), &[], host, None);
        let told = more.limit();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].ends_with("line is: 10.0.0.9 10.0.0.1 10.0.0.2"), "{}", told[0]);
        assert!(told[1].ends_with(" s30.example"), "{}", told[1]);
        let long: Vec<String> = (0..10).map(|n| format!("{n}{}", "x.y".repeat(80))).collect();
        let mut long = Resolver::of(&spec(&servers[..1], &long), &[], host, None);
        assert_eq!((long.limit().len(), long.searches.len()), (1, 2 + 8));
    }
}
