//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a pod.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use proto::k8s::api::core::v1::Pod;

use super::hostname::{HostName, is_on_host};
use super::resolver::{ClusterDns, Resolver, host_resolv_conf};

/// Writes the files into `dir`, in place: containers may have them mounted. Returns what its user
/// should know of them.
pub(crate) fn write(
    dir: &Path,
    pod: &Pod,
    addresses: &[IpAddr],
    cluster: Option<&ClusterDns>,
) -> io::Result<Vec<String>> {
    fs::create_dir_all(dir)?;
    let hostname = HostName::of(pod, cluster.map_or("", |cluster| &cluster.domain));
    let of_kernel = hostname.of_kernel().map_err(io::Error::other)?;
    let known = match is_on_host(pod) {
        true => Known::Host(fs::read_to_string("/etc/hosts")?),
        false => Known::Pod { hostname: &hostname, addresses },
    };
    fs::write(dir.join("hosts"), hosts(pod, &known))?;
    fs::write(dir.join("hostname"), format!("{of_kernel}\n"))?;
    let mut resolver = Resolver::of(pod, addresses, &host_resolv_conf()?, cluster);
    let omitted = resolver.limit();
    fs::write(dir.join("resolv.conf"), resolver.to_string())?;
    Ok(omitted)
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
}
