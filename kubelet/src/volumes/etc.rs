//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a pod.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use proto::k8s::api::core::v1::{Pod, PodDNSConfig};

use super::hostname::{HostName, is_on_host};

/// Where the cluster's names are answered for, and what they end with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterDns {
    pub(crate) server: IpAddr,
    /// As `cluster.local`.
    pub(crate) domain: String,
}

/// Writes the files into `dir`, in place: containers may have them mounted.
pub(crate) fn write(
    dir: &Path,
    pod: &Pod,
    addresses: &[IpAddr],
    cluster: Option<&ClusterDns>,
) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let hostname = HostName::of(pod, cluster.map_or("", |cluster| &cluster.domain));
    let of_kernel = hostname.of_kernel().map_err(io::Error::other)?;
    let known = match is_on_host(pod) {
        true => Known::Host(fs::read_to_string("/etc/hosts")?),
        false => Known::Pod { hostname: &hostname, addresses },
    };
    fs::write(dir.join("hosts"), hosts(pod, &known))?;
    fs::write(dir.join("hostname"), format!("{of_kernel}\n"))?;
    fs::write(dir.join("resolv.conf"), resolv_conf(pod, &host_resolv_conf()?, cluster))
}

/// What `/etc/hosts` begins with.
enum Known<'a> {
    /// The file of the node.
    Host(String),
    /// The pod itself.
    Pod { hostname: &'a HostName, addresses: &'a [IpAddr] },
}

fn hosts(pod: &Pod, known: &Known<'_>) -> String {
    let mut text = match known {
        Known::Host(file) => format!("# Kubernetes-managed hosts file (host network).\n{file}"),
        Known::Pod { hostname, addresses } => hosts_of_pod(hostname, addresses),
    };
    let aliases = pod.spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten());
    for (index, alias) in aliases.enumerate() {
        if index == 0 {
            text.push_str("\n# Entries added by HostAliases.\n");
        }
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

fn hosts_of_pod(hostname: &HostName, addresses: &[IpAddr]) -> String {
    let mut text = "# Kubernetes-managed hosts file.\n\
        127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\n\
        fe00::0\tip6-localnet\n\
        fe00::0\tip6-mcastprefix\n\
        fe00::1\tip6-allnodes\n\
        fe00::2\tip6-allrouters\n"
        .to_owned();
    let whole = hostname.whole().map(|whole| format!("{whole}\t")).unwrap_or_default();
    for address in addresses {
        text.push_str(&format!("{address}\t{whole}{}\n", hostname.name));
    }
    text
}

/// Behind systemd-resolved's stub, which answers on the host's loopback only, are the resolvers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

fn host_resolv_conf() -> io::Result<String> {
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

/// What the pod's DNS policy makes of the host's configuration and the cluster's server.
fn resolv_conf(pod: &Pod, host: &str, cluster: Option<&ClusterDns>) -> String {
    let spec = pod.spec.as_ref();
    let on_host = is_on_host(pod);
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let cluster_first = match policy {
        "ClusterFirst" => !on_host,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut config = Resolver::default();
    if policy != "None" {
        config.read(host);
    }
    if let Some(cluster) = cluster.filter(|_| cluster_first) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let domain = &cluster.domain;
        config.name_servers = vec![cluster.server.to_string()];
        let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        config.searches.splice(0..0, own);
        // As Kubernetes has it: a name with fewer dots may be one of the cluster's.
        config.options = vec!["ndots:5".to_owned()];
    }
    if let Some(stated) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        config.add(stated);
    }
    config.to_string()
}

#[derive(Default)]
struct Resolver {
    name_servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    fn read(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => self.name_servers.extend(words.next().map(str::to_owned)),
                // The last line holds, as in the C library.
                Some("search") => self.searches = words.map(str::to_owned).collect(),
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
        for list in [&mut self.name_servers, &mut self.searches] {
            let mut seen = std::collections::HashSet::new();
            list.retain(|entry| seen.insert(entry.clone()));
        }
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

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = serde_json::json!([]);
        serde_json::from_value(serde_json::json!({"metadata": {"name": "web-0"}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn hosts_names_the_pods_addresses_and_aliases() {
        let pod = pod(serde_json::json!({
            "subdomain": "shops",
            "hostAliases": [{"ip": "10.0.0.9", "hostnames": ["db", "db.local"]}]
        }));
        let addresses = ["10.244.1.7".parse().unwrap()];
        let hostname = HostName::of(&pod, "cluster.local");
        let text = hosts(&pod, &Known::Pod { hostname: &hostname, addresses: &addresses });
        assert!(text.contains("127.0.0.1\tlocalhost\n"), "{text}");
        let own = "\n10.244.1.7\tweb-0.shops..svc.cluster.local\tweb-0\n";
        assert!(text.contains(own), "{text}");
        assert!(
            text.ends_with("# Entries added by HostAliases.\n10.0.0.9\tdb\tdb.local\n"),
            "{text}"
        );
    }

    #[test]
    fn on_the_hosts_network_its_names_are_known() {
        let pod = pod(serde_json::json!({
            "hostNetwork": true,
            "hostname": "db",
            "hostAliases": [{"ip": "10.0.0.9", "hostnames": ["db"]}]
        }));
        assert_eq!(
            hosts(&pod, &Known::Host("10.0.0.1\tnode-1\n".to_owned())),
            "# Kubernetes-managed hosts file (host network).\n10.0.0.1\tnode-1\n\n\
             # Entries added by HostAliases.\n10.0.0.9\tdb\n"
        );
    }

    #[test]
    fn resolvers_follow_the_dns_policy() {
        let host =
            "# made by hand\nnameserver 10.0.0.2\nsearch example.org\noptions ndots:1 rotate\n";
        let cluster = ClusterDns {
            server: IpAddr::from([10, 244, 1, 1]),
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
            let mut pod = pod(spec.clone());
            pod.metadata.namespace = Some("shop".to_owned());
            assert_eq!(resolv_conf(&pod, host, Some(&cluster)), wanted, "{spec}");
        }
        // Before the cluster's domain is known.
        assert_eq!(resolv_conf(&pod(serde_json::json!({})), host, None), of_host);
    }
}
