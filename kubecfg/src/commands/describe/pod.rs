//! A pod: what runs, how it is confined, and why it may not run.

use serde_json::Value;

use super::isolation::{self, NodeSecurity};
use super::page::{Page, conditions, plain};

pub(super) fn describe(page: &mut Page, object: &Value, node: &NodeSecurity) {
    let (spec, status) = (&object["spec"], &object["status"]);
    page.line("Node", spec["nodeName"].as_str().unwrap_or("<not scheduled yet>"));
    page.optional("Nominated node", &status["nominatedNodeName"]);
    page.field("Phase", &status["phase"]);
    page.optional("Reason", &status["reason"]);
    page.optional("Message", &status["message"]);
    page.optional("Started", &status["startTime"]);
    page.field("IP", &status["podIP"]);
    let ips: Vec<&str> = status["podIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|ip| ip["ip"].as_str())
        .collect();
    if ips.len() > 1 {
        page.line("IPs", &ips.join(", "));
    }
    page.optional("Runtime class", &spec["runtimeClassName"]);
    if spec["overhead"].is_object() {
        page.map("Overhead", &spec["overhead"]);
    }
    page.optional("QoS class", &status["qosClass"]);
    page.field("Restart policy", &spec["restartPolicy"]);
    let priority = plain(&spec["priority"]);
    match spec["priorityClassName"].as_str().filter(|class| !class.is_empty()) {
        Some(class) => page.line("Priority", &format!("{priority} ({class})")),
        None => page.line("Priority", &priority),
    }
    if spec["preemptionPolicy"] == "Never" {
        page.line("Preemption", "never: nobody has to give way to it");
    }
    let gates: Vec<String> = spec["schedulingGates"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|gate| plain(&gate["name"]))
        .collect();
    if !gates.is_empty() {
        page.line("Scheduling gates", &gates.join(", "));
    }
    if let Some(selector) = spec["nodeSelector"].as_object() {
        page.map("Node selector", &Value::Object(selector.clone()));
    }
    for (list, statuses) in
        [("initContainers", "initContainerStatuses"), ("containers", "containerStatuses")]
    {
        for container in spec[list].as_array().into_iter().flatten() {
            let empty = Value::Null;
            let state = status[statuses]
                .as_array()
                .and_then(|states| states.iter().find(|state| state["name"] == container["name"]))
                .unwrap_or(&empty);
            page.section(&format!("{} {}", what(list, container), plain(&container["name"])));
            describe_container(page, container, state);
            isolation::of_container(page, spec, container, node);
        }
    }
    isolation::of_pod(page, spec, node);
    volumes(page, &spec["volumes"]);
    conditions(page, &status["conditions"]);
}

/// What the container is to its pod.
fn what(list: &str, container: &Value) -> &'static str {
    match (list, container["restartPolicy"].as_str()) {
        ("initContainers", Some("Always")) => "Sidecar",
        ("initContainers", _) => "Init container",
        _ => "Container",
    }
}

fn describe_container(page: &mut Page, container: &Value, state: &Value) {
    page.field("  Image", &container["image"]);
    page.optional("  Image ID", &state["imageID"]);
    page.optional("  Container ID", &state["containerID"]);
    for (name, key) in [("  Command", "command"), ("  Arguments", "args")] {
        let words: Vec<String> =
            container[key].as_array().into_iter().flatten().map(plain).collect();
        if !words.is_empty() {
            page.line(name, &words.join(" "));
        }
    }
    let ports: Vec<String> = container["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| format!("{}/{}", plain(&port["containerPort"]), plain(&port["protocol"])))
        .collect();
    if !ports.is_empty() {
        page.line("  Ports", &ports.join(", "));
    }
    page.line("  State", &describe_state(&state["state"]));
    if state["lastState"].as_object().is_some_and(|last| !last.is_empty()) {
        page.line("  Last state", &describe_state(&state["lastState"]));
    }
    page.line("  Ready", if state["ready"] == true { "yes" } else { "no" });
    page.line("  Restarts", &state["restartCount"].as_u64().unwrap_or(0).to_string());
    for (name, key) in [("  Requests", "requests"), ("  Limits", "limits")] {
        if container["resources"][key].is_object() {
            page.map(name, &container["resources"][key]);
        }
    }
    page.optional("  Restart policy", &container["restartPolicy"]);
    for (name, key) in [
        ("  Startup", "startupProbe"),
        ("  Liveness", "livenessProbe"),
        ("  Readiness", "readinessProbe"),
    ] {
        if container[key].is_object() {
            page.line(name, &describe_probe(&container[key]));
        }
    }
    for (name, key) in [("  After start", "postStart"), ("  Before stop", "preStop")] {
        if container["lifecycle"][key].is_object() {
            page.line(name, &how(&container["lifecycle"][key]));
        }
    }
    page.optional("  Stop signal", &container["lifecycle"]["stopSignal"]);
    for variable in container["env"].as_array().into_iter().flatten() {
        let value = if variable["valueFrom"].is_object() {
            format!("from {}", variable["valueFrom"])
        } else {
            variable["value"].as_str().unwrap_or_default().to_owned()
        };
        page.line(&format!("  Env {}", plain(&variable["name"])), &value);
    }
    for mount in container["volumeMounts"].as_array().into_iter().flatten() {
        let mode = if mount["readOnly"] == true { "read only" } else { "writable" };
        let text = format!("{} ({mode})", plain(&mount["name"]));
        page.line(&format!("  Mount {}", plain(&mount["mountPath"])), &text);
    }
}

fn describe_state(state: &Value) -> String {
    let Some((kind, detail)) = state.as_object().and_then(|state| state.iter().next()) else {
        return "Waiting".to_owned();
    };
    let mut text = super::page::title(kind);
    for key in ["reason", "message", "exitCode", "startedAt", "finishedAt"] {
        if !detail[key].is_null() {
            text.push_str(&format!("  {key}: {}", plain(&detail[key]).trim_end()));
        }
    }
    text
}

/// What a probe or a hook does.
fn how(handler: &Value) -> String {
    if let Some(http) = handler["httpGet"].as_object() {
        let part = |key: &str| http.get(key).map_or_else(String::new, plain);
        format!("{} {}:{}", part("scheme"), part("port"), part("path"))
    } else if handler["tcpSocket"].is_object() {
        format!("TCP {}", plain(&handler["tcpSocket"]["port"]))
    } else if handler["grpc"].is_object() {
        let grpc = &handler["grpc"];
        format!("gRPC {} {}", plain(&grpc["port"]), plain(&grpc["service"])).trim_end().to_owned()
    } else if handler["sleep"].is_object() {
        format!("sleep {} s", plain(&handler["sleep"]["seconds"]))
    } else {
        let words = handler["exec"]["command"].as_array().into_iter().flatten().map(plain);
        format!("exec {}", words.collect::<Vec<_>>().join(" "))
    }
}

fn describe_probe(probe: &Value) -> String {
    let how = how(probe);
    let number = |key: &str| plain(&probe[key]);
    format!(
        "{how}, every {} s, within {} s, fails after {}",
        number("periodSeconds"),
        number("timeoutSeconds"),
        number("failureThreshold")
    )
}

fn volumes(page: &mut Page, volumes: &Value) {
    for volume in volumes.as_array().into_iter().flatten() {
        let text = volume
            .as_object()
            .into_iter()
            .flatten()
            .find(|(key, _)| *key != "name")
            .map_or_else(String::new, |(kind, detail)| format!("{kind} {}", source(detail)));
        page.line(&format!("Volume {}", plain(&volume["name"])), text.trim_end());
    }
}

/// What the source of a volume says, without the braces.
fn source(detail: &Value) -> String {
    let fields = detail.as_object().into_iter().flatten();
    let fields = fields.filter(|(_, value)| !plain(value).is_empty());
    fields.map(|(key, value)| format!("{key}: {}", plain(value))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn how_important_a_pod_is_and_why_it_waits_is_told() {
        let mut page = Page::default();
        let why = "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 \
                   node(s) didn't match pod topology spread constraints.";
        describe(
            &mut page,
            &json!({
                "spec": {
                    "containers": [], "priority": 7, "priorityClassName": "high",
                    "preemptionPolicy": "Never", "schedulingGates": [{"name": "a.b/c"}, {"name": "d"}],
                },
                "status": {
                    "phase": "Pending", "nominatedNodeName": "node1",
                    "conditions": [{
                        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                        "message": why,
                    }],
                },
            }),
            &NodeSecurity::default(),
        );
        let text = page.text();
        for line in [
            "Node:                   <not scheduled yet>\n",
            "Nominated node:         node1\n",
            "Priority:               7 (high)\n",
            "Preemption:             never: nobody has to give way to it\n",
            "Scheduling gates:       a.b/c, d\n",
            &format!("  PodScheduled:         False  Unschedulable  {why}\n"),
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        let mut page = Page::default();
        let pod = json!({"spec": {"containers": [], "priority": 0}, "status": {}});
        describe(&mut page, &pod, &NodeSecurity::default());
        let text = page.text();
        assert!(text.contains("Priority:               0\n"), "{text}");
        assert!(!text.contains("Preemption") && !text.contains("gates"), "{text}");
    }
}
