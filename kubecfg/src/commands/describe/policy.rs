//! A NetworkPolicy in words, with the pods that it selects.

use anyhow::Result;
use http::Request;
use serde_json::Value;

use super::page::{Page, plain};
use crate::client::Cluster;
use crate::commands::target::escape;

pub(super) async fn describe(cluster: &Cluster, page: &mut Page, object: &Value) -> Result<()> {
    let namespace = plain(&object["metadata"]["namespace"]);
    let query = query(&object["spec"]["podSelector"]);
    let query = if query.is_empty() { query } else { format!("?labelSelector={}", escape(&query)) };
    let path = format!("/api/v1/namespaces/{namespace}/pods{query}");
    let mut list: Value = cluster.client.request(Request::get(path).body(vec![])?).await?;
    let pods = match list["items"].take() {
        Value::Array(pods) => pods,
        _ => Vec::new(),
    };
    show(page, &object["spec"], &pods);
    Ok(())
}

fn show(page: &mut Page, spec: &Value, pods: &[Value]) {
    page.line("Pod selector", &selector(&spec["podSelector"], "all pods of the namespace"));
    let types: Vec<&str> =
        spec["policyTypes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    page.line("Policy types", &types.join(", "));
    for (kind, rules, peers, side) in
        [("Ingress", "ingress", "from", "From"), ("Egress", "egress", "to", "To")]
    {
        if !types.contains(&kind) {
            page.line(kind, "not restricted by this policy");
            continue;
        }
        let rules = spec[rules].as_array().map(Vec::as_slice).unwrap_or_default();
        if rules.is_empty() {
            page.line(kind, "nothing is allowed by this policy");
            continue;
        }
        page.section(&format!("{kind}, allowed"));
        for rule in rules {
            page.text_line(&format!("  - Ports: {}", ports(&rule["ports"])));
            let peers = rule[peers].as_array().map(Vec::as_slice).unwrap_or_default();
            if peers.is_empty() {
                page.text_line(&format!("    {side}: anybody, inside and outside of the cluster"));
            }
            for one in peers {
                page.text_line(&format!("    {side}: {}", peer(one)));
            }
        }
    }
    if pods.is_empty() {
        page.line("Selects", "no pod, so it has no effect for now");
        return;
    }
    page.section(&format!("Selects ({})", pods.len()));
    for pod in pods {
        let mut line = format!("node {}", pod["spec"]["nodeName"].as_str().unwrap_or("-"));
        let address = pod["status"]["podIP"].as_str().unwrap_or("no address yet");
        line.push_str(&format!(", {address}"));
        if pod["spec"]["hostNetwork"] == true {
            line.push_str(", in the node's network: no policy has an effect on it");
        }
        page.line(&format!("  {}", plain(&pod["metadata"]["name"])), &line);
    }
}

fn ports(ports: &Value) -> String {
    let ports = ports.as_array().map(Vec::as_slice).unwrap_or_default();
    if ports.is_empty() {
        return "all, of all protocols".to_owned();
    }
    let texts = ports.iter().map(|port| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        match (&port["port"], &port["endPort"]) {
            (Value::Null, _) => format!("all/{protocol}"),
            (first, Value::Null) => format!("{}/{protocol}", plain(first)),
            (first, last) => format!("{}-{}/{protocol}", plain(first), plain(last)),
        }
    });
    texts.collect::<Vec<_>>().join(", ")
}

fn peer(peer: &Value) -> String {
    if let Some(range) = peer["ipBlock"]["cidr"].as_str() {
        let except = peer["ipBlock"]["except"].as_array().into_iter().flatten();
        let except: Vec<&str> = except.filter_map(Value::as_str).collect();
        return match except.is_empty() {
            true => format!("addresses {range}"),
            false => format!("addresses {range}, but for {}", except.join(", ")),
        };
    }
    let pods = selector(&peer["podSelector"], "all pods");
    match &peer["namespaceSelector"] {
        Value::Null => format!("{pods}, in this namespace"),
        namespaces => format!("{pods}, in {}", selector(namespaces, "all namespaces")),
    }
}

/// For people; `all` for one that is empty.
fn selector(selector: &Value, all: &str) -> String {
    let query = query(selector);
    if query.is_empty() { all.to_owned() } else { format!("those with {query}") }
}

/// As lists take it: `app=web,tier in (a,b),!old`.
fn query(selector: &Value) -> String {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let mut parts: Vec<String> =
        labels.map(|(key, value)| format!("{key}={}", plain(value))).collect();
    for one in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = plain(&one["key"]);
        let values = one["values"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let values = values.collect::<Vec<_>>().join(",");
        parts.push(match one["operator"].as_str() {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key,
        });
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(spec: Value, pods: &[Value]) -> String {
        let mut page = Page::default();
        show(&mut page, &spec, pods);
        page.text().to_owned()
    }

    #[test]
    fn rules_are_told_in_words() {
        let told = text(
            json!({
                "podSelector": {"matchLabels": {"app": "web"}},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [
                    {
                        "ports": [{"port": 80, "protocol": "TCP"}, {"port": "dns", "protocol": "UDP"},
                                  {"port": 1000, "endPort": 2000, "protocol": "TCP"}],
                        "from": [
                            {"podSelector": {}},
                            {"namespaceSelector": {}, "podSelector": {"matchExpressions": [
                                {"key": "tier", "operator": "In", "values": ["a", "b"]},
                                {"key": "old", "operator": "DoesNotExist"},
                                {"key": "x", "operator": "NotIn", "values": ["y"]},
                                {"key": "z", "operator": "Exists"},
                            ]}},
                            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                        ],
                    },
                    {},
                ],
            }),
            &[json!({"metadata": {"name": "web-a"}, "spec": {"nodeName": "node1"},
                     "status": {"podIP": "10.244.1.2"}})],
        );
        let expected = "\
Pod selector:           those with app=web
Policy types:           Ingress, Egress
Ingress, allowed:
  - Ports: 80/TCP, dns/UDP, 1000-2000/TCP
    From: all pods, in this namespace
    From: those with tier in (a,b),!old,x notin (y),z, in all namespaces
    From: addresses 10.0.0.0/8, but for 10.1.0.0/16
  - Ports: all, of all protocols
    From: anybody, inside and outside of the cluster
Egress:                 nothing is allowed by this policy
Selects (1):
  web-a:                node node1, 10.244.1.2
";
        assert_eq!(told, expected);
    }

    #[test]
    fn a_policy_without_pods_says_so() {
        let told = text(json!({"podSelector": {}, "policyTypes": ["Ingress"]}), &[]);
        assert!(told.contains("Pod selector:           all pods of the namespace"), "{told}");
        assert!(told.contains("Egress:                 not restricted by this policy"), "{told}");
        assert!(told.contains("no pod, so it has no effect"), "{told}");
    }
}
