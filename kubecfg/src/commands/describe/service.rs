//! A Service: where it is reached, where it leads, and what is wrong with it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use serde_json::Value;

use super::page::{Page, plain};
use crate::client::Cluster;
use crate::commands::net::probers::is_ready;
use crate::commands::net::service::{Subject, has_port, selector, why_not_ready};

/// Names of pods that a sentence lists.
const LISTED: usize = 3;

pub(super) async fn describe(cluster: &Cluster, page: &mut Page, object: &Value) -> Result<()> {
    let subject = Subject::of(cluster, serde_json::from_value(object.clone())?).await?;
    show(page, object, &subject);
    Ok(())
}

fn show(page: &mut Page, object: &Value, subject: &Subject) {
    let spec = &object["spec"];
    page.field("Type", &spec["type"]);
    page.optional("External name", &spec["externalName"]);
    page.map("Selector", &spec["selector"]);
    addresses(page, object);
    policies(page, spec);
    page.section("Ports");
    for port in spec["ports"].as_array().into_iter().flatten() {
        let name = port["name"].as_str().unwrap_or("-");
        page.line(&format!("  {name}"), &port_line(port));
    }
    endpoints(page, &subject.slices);
    let findings = findings(subject);
    if findings.is_empty() {
        page.line("State", &well(&subject.slices));
    } else {
        page.section("State");
        for finding in findings {
            page.text_line(&format!("  {finding}"));
        }
    }
}

fn list(value: &Value) -> String {
    let texts: Vec<&str> =
        value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    texts.join(", ")
}

fn addresses(page: &mut Page, object: &Value) {
    let spec = &object["spec"];
    let ips = list(&spec["clusterIPs"]);
    let ip = if ips.is_empty() { plain(&spec["clusterIP"]) } else { ips };
    if spec["type"] != "ExternalName" {
        let headless = if ip == "None" { " (headless: names lead to the endpoints)" } else { "" };
        page.line("Cluster IPs", &format!("{ip}{headless}"));
    }
    let families = list(&spec["ipFamilies"]);
    if !families.is_empty() {
        page.line("IP families", &format!("{families} ({})", plain(&spec["ipFamilyPolicy"])));
    }
    let external = list(&spec["externalIPs"]);
    if !external.is_empty() {
        page.line("External IPs", &external);
    }
    if spec["type"] != "LoadBalancer" {
        return;
    }
    page.optional("Load balancer class", &spec["loadBalancerClass"]);
    page.optional("Load balancer IP", &spec["loadBalancerIP"]);
    let ingress = object["status"]["loadBalancer"]["ingress"].as_array();
    let told = ingress.into_iter().flatten().map(|one| {
        let at = one["ip"].as_str().or_else(|| one["hostname"].as_str()).unwrap_or("-");
        match one["ipMode"].as_str() {
            Some("Proxy") => format!("{at} (Proxy)"),
            _ => at.to_owned(),
        }
    });
    let told: Vec<String> = told.collect();
    let told = if told.is_empty() { "pending".to_owned() } else { told.join(", ") };
    page.line("Load balancer", &told);
    let ranges = list(&spec["loadBalancerSourceRanges"]);
    if !ranges.is_empty() {
        page.line("Open to", &ranges);
    }
}

fn policies(page: &mut Page, spec: &Value) {
    let affinity = match spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].as_u64() {
        Some(seconds) => format!("{} for {seconds}s", plain(&spec["sessionAffinity"])),
        None => plain(&spec["sessionAffinity"]),
    };
    page.line("Session affinity", &affinity);
    page.optional("Internal traffic", &spec["internalTrafficPolicy"]);
    page.optional("External traffic", &spec["externalTrafficPolicy"]);
    page.optional("Health check port", &spec["healthCheckNodePort"]);
    page.optional("Traffic distribution", &spec["trafficDistribution"]);
    if spec["publishNotReadyAddresses"] == true {
        page.line("Not ready endpoints", "are served too (publishNotReadyAddresses)");
    }
}

fn port_line(port: &Value) -> String {
    let mut line = format!(
        "{}/{} -> {}",
        plain(&port["port"]),
        plain(&port["protocol"]),
        plain(&port["targetPort"])
    );
    if let Some(node_port) = port["nodePort"].as_u64() {
        let _ = write!(line, ", node port {node_port}");
    }
    if let Some(protocol) = port["appProtocol"].as_str() {
        let _ = write!(line, ", {protocol}");
    }
    line
}

fn endpoints(page: &mut Page, slices: &[EndpointSlice]) {
    let mut rows = vec![["ADDRESS", "PORTS", "STATE", "NODE", "ZONE", "TARGET"].map(String::from)];
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let ports = ports.filter_map(|port| {
            Some(format!("{}/{}", port.port?, port.protocol.as_deref().unwrap_or("TCP")))
        });
        let ports = ports.collect::<Vec<_>>().join(",");
        for endpoint in slice.endpoints.iter().flatten() {
            let or_none = |text: Option<&String>| text.map_or("-", String::as_str).to_owned();
            let target = endpoint.target_ref.as_ref().map(|target| {
                let word = |word: &Option<String>| word.clone().unwrap_or_default();
                format!("{}/{}", word(&target.kind).to_lowercase(), word(&target.name))
            });
            rows.push([
                endpoint.addresses.join(","),
                if ports.is_empty() { "-".to_owned() } else { ports.clone() },
                state(endpoint).to_owned(),
                or_none(endpoint.node_name.as_ref()),
                or_none(endpoint.zone.as_ref()),
                or_none(target.as_ref()),
            ]);
        }
    }
    if rows.len() == 1 {
        page.line("Endpoints", "none");
        return;
    }
    page.section(&format!("Endpoints ({})", rows.len() - 1));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        page.text_line(&format!("  {}", line.trim_end()));
    }
}

/// Unset conditions mean what the API says they do.
fn state(endpoint: &Endpoint) -> &'static str {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(ready);
    match (ready, serving, conditions.terminating == Some(true)) {
        (true, _, false) => "ready",
        (true, _, true) => "ready, terminating",
        (false, true, true) => "serving, terminating",
        (false, true, false) => "serving",
        (false, false, true) => "terminating",
        (false, false, false) => "not ready",
    }
}

fn is_ready_endpoint(endpoint: &&Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

fn all_endpoints(slices: &[EndpointSlice]) -> impl Iterator<Item = &Endpoint> {
    slices.iter().flat_map(|slice| slice.endpoints.iter().flatten())
}

fn well(slices: &[EndpointSlice]) -> String {
    let all = all_endpoints(slices).count();
    let ready = all_endpoints(slices).filter(is_ready_endpoint).count();
    if all == 0 {
        "nothing to tell".to_owned()
    } else {
        format!("{ready} of {all} endpoints are ready")
    }
}

/// What is wrong, each in a sentence.
fn findings(subject: &Subject) -> Vec<String> {
    let service = &subject.service;
    let spec = service.spec.clone().unwrap_or_default();
    let mut findings = Vec::new();
    if spec.type_.as_deref() == Some("ExternalName") {
        return findings;
    }
    let balanced = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balanced.and_then(|balanced| balanced.ingress.as_deref()).unwrap_or_default();
    if spec.type_.as_deref() == Some("LoadBalancer") && ingress.is_empty() {
        findings.push(
            "has no address of a load balancer yet: the events say why, if a node could not give \
             one"
            .to_owned(),
        );
    }
    let ready = all_endpoints(&subject.slices).filter(is_ready_endpoint).count();
    let (name, pods) = (service.name_any(), &subject.pods);
    match selector(service) {
        None if all_endpoints(&subject.slices).next().is_none() => findings.push(format!(
            "leads nowhere: it has no selector, and there is no EndpointSlice with the label \
             kubernetes.io/service-name={name}"
        )),
        None => {}
        Some(labels) if pods.is_empty() => findings.push(format!(
            "selects no pod: none in namespace {} has the labels {labels}",
            service.namespace().unwrap_or_default()
        )),
        Some(_) => findings.extend(of_pods(pods)),
    }
    for port in spec.ports.iter().flatten() {
        let Some(IntOrString::String(wanted)) = &port.target_port else { continue };
        let protocol = port.protocol.as_deref();
        let lacking: Vec<&Pod> =
            pods.iter().filter(|pod| !has_port(pod, wanted, protocol)).collect();
        if !lacking.is_empty() {
            findings.push(format!(
                "port {} leads to container port \"{wanted}\" ({}), which {} {} not have",
                port.port,
                protocol.unwrap_or("TCP"),
                names(&lacking),
                if lacking.len() == 1 { "does" } else { "do" },
            ));
        }
    }
    if findings.is_empty() && ready == 0 && !pods.is_empty() {
        findings.push(
            "has no ready endpoint although its pods are ready: the controller that makes \
             EndpointSlices is late; is a master the leader?"
                .to_owned(),
        );
    }
    findings
}

/// `3 pods, none ready: WHY (web-a, web-b); WHY (web-c)`; nothing if all are.
fn of_pods(pods: &[Pod]) -> Option<String> {
    let mut reasons: BTreeMap<String, Vec<&Pod>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !is_ready(pod)) {
        reasons.entry(why_not_ready(pod)).or_default().push(pod);
    }
    if reasons.is_empty() {
        return None;
    }
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    let ready = if ready == 0 { "none".to_owned() } else { format!("{ready} of them") };
    let count = match pods.len() {
        1 => "1 pod".to_owned(),
        count => format!("{count} pods"),
    };
    let reasons: Vec<String> =
        reasons.iter().map(|(why, pods)| format!("{why} ({})", names(pods))).collect();
    Some(format!("{count}, {ready} ready: {}", reasons.join("; ")))
}

fn names(pods: &[&Pod]) -> String {
    let mut names: Vec<String> = pods.iter().take(LISTED).map(|pod| pod.name_any()).collect();
    if pods.len() > LISTED {
        names.push(format!("and {} more", pods.len() - LISTED));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(service: &Value, slices: Value, pods: Value) -> String {
        let subject = Subject {
            service: serde_json::from_value(service.clone()).unwrap(),
            slices: serde_json::from_value(slices).unwrap(),
            pods: serde_json::from_value(pods).unwrap(),
        };
        let mut page = Page::default();
        show(&mut page, service, &subject);
        page.text().to_owned()
    }

    fn web(spec: Value) -> Value {
        let mut service = json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "type": "ClusterIP", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
                "sessionAffinity": "None", "selector": {"app": "web"},
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}],
            },
        });
        for (key, value) in spec.as_object().unwrap() {
            service["spec"][key] = value.clone();
        }
        service
    }

    fn pod(name: &str, why: Option<&str>) -> Value {
        json!({
            "metadata": {"name": name},
            "spec": {"containers": [{"name": "main", "ports": [
                {"name": "http", "containerPort": 8080},
            ]}]},
            "status": {"conditions": [{
                "type": "Ready", "status": if why.is_none() { "True" } else { "False" }, "message": why,
            }]},
        })
    }

    fn slices() -> Value {
        json!([{
            "metadata": {"name": "web-1"}, "addressType": "IPv4",
            "ports": [{"port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.244.1.2"], "nodeName": "node1", "zone": "north",
                 "targetRef": {"kind": "Pod", "name": "web-a"},
                 "conditions": {"ready": true, "serving": true, "terminating": false}},
                {"addresses": ["10.244.2.3"], "nodeName": "node2",
                 "targetRef": {"kind": "Pod", "name": "web-b"},
                 "conditions": {"ready": false, "serving": true, "terminating": true}},
            ],
        }])
    }

    #[test]
    fn endpoints_stand_with_their_state_and_place() {
        let told = text(&web(json!({})), slices(), json!([pod("web-a", None)]));
        let expected = "\
Endpoints (2):
  ADDRESS     PORTS     STATE                 NODE   ZONE   TARGET
  10.244.1.2  8080/TCP  ready                 node1  north  pod/web-a
  10.244.2.3  8080/TCP  serving, terminating  node2  -      pod/web-b
State:                  1 of 2 endpoints are ready
";
        assert!(told.ends_with(expected), "{told}");
    }

    #[test]
    fn what_is_wrong_stands_in_a_sentence() {
        let named = json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": "https"}]});
        let cases = [
            (json!({}), json!([]), "selects no pod: none in namespace shop has the labels app=web"),
            (
                json!({}),
                json!([
                    pod("a", Some("probe failed")),
                    pod("b", Some("probe failed")),
                    pod("c", Some("image is missing"))
                ]),
                "3 pods, none ready: image is missing (c); probe failed (a, b)",
            ),
            (
                json!({}),
                json!([pod("a", None), pod("b", Some("probe failed"))]),
                "2 pods, 1 of them ready: probe failed (b)",
            ),
            (
                named.clone(),
                json!([pod("a", None)]),
                "port 80 leads to container port \"https\" (TCP), which a does not have",
            ),
            (
                named,
                json!([pod("a", None), pod("b", None)]),
                "container port \"https\" (TCP), which a, b do not have",
            ),
            (
                json!({"ports": [{"port": 53, "protocol": "UDP", "targetPort": "http"}]}),
                json!([pod("a", None)]),
                "port 53 leads to container port \"http\" (UDP), which a does not have",
            ),
            (json!({"selector": null}), json!([]), "leads nowhere: it has no selector"),
            (
                json!({"type": "LoadBalancer"}),
                json!([pod("a", None)]),
                "no address of a load balancer",
            ),
            (json!({}), json!([pod("a", None)]), "no ready endpoint although its pods are ready"),
        ];
        for (spec, pods, words) in cases {
            let told = text(&web(spec), json!([]), pods);
            assert!(told.contains(words), "{words}: {told}");
        }
    }

    #[test]
    fn where_it_is_reached_is_told_as_far_as_it_is() {
        let mut service = web(json!({
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30111,
            "loadBalancerSourceRanges": ["192.0.2.0/24"], "externalIPs": ["192.0.2.1"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        }));
        service["status"] = json!({"loadBalancer": {"ingress": [
            {"ip": "10.0.0.1", "ipMode": "VIP"}, {"ip": "10.0.0.2", "ipMode": "Proxy"},
        ]}});
        let told = text(&service, slices(), json!([pod("web-a", None)]));
        for line in [
            "Load balancer:          10.0.0.1, 10.0.0.2 (Proxy)",
            "Open to:                192.0.2.0/24",
            "External IPs:           192.0.2.1",
            "External traffic:       Local",
            "Health check port:      30111",
            "IP families:            IPv4 (SingleStack)",
            "Session affinity:       ClientIP for 60s",
        ] {
            assert!(told.contains(line), "{line}: {told}");
        }
        let other = json!({"type": "ExternalName", "externalName": "db.example.com",
                           "clusterIPs": null, "clusterIP": null, "selector": null});
        let told = text(&web(other), json!([]), json!([]));
        assert!(told.contains("db.example.com") && told.contains("nothing to tell"), "{told}");
        let headless = json!({"clusterIP": "None", "clusterIPs": ["None"]});
        let told = text(&web(headless), slices(), json!([pod("web-a", None)]));
        assert!(told.contains("None (headless"), "{told}");
    }
}
