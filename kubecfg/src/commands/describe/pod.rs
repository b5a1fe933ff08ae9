//! A pod: what runs, how it is confined, and why it may not run.

use serde_json::Value;

use super::page::{Page, conditions, plain};

pub(super) fn describe(page: &mut Page, object: &Value) {
    let (spec, status) = (&object["spec"], &object["status"]);
    page.line("Node", spec["nodeName"].as_str().unwrap_or("<not scheduled yet>"));
    page.field("Phase", &status["phase"]);
    page.optional("Reason", &status["reason"]);
    page.optional("Message", &status["message"]);
    page.optional("Started", &status["startTime"]);
    page.field("IP", &status["podIP"]);
    page.optional("QoS class", &status["qosClass"]);
    page.field("Restart policy", &spec["restartPolicy"]);
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
            isolation(page, spec, container);
        }
    }
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

/// How the container is confined: the defaults, and what the pod changes of them.
fn isolation(page: &mut Page, spec: &Value, container: &Value) {
    let (pod, own) = (&spec["securityContext"], &container["securityContext"]);
    let either = |key: &str| if own[key].is_null() { &pod[key] } else { &own[key] };
    page.section("  Isolation");
    page.line("    Namespaces", "pid, mount, cgroup; with its pod: net, ipc, uts");
    let user = either("runAsUser");
    let user = if user.is_null() { "as the image says".to_owned() } else { plain(user) };
    page.line("    User", &user);
    let list = |key: &str, sign: &str| -> String {
        let names = own["capabilities"][key].as_array().into_iter().flatten();
        names.map(|name| format!(" {sign}{}", plain(name))).collect()
    };
    page.line("    Capabilities", &format!("default{}{}", list("drop", "-"), list("add", "+")));
    let seccomp = either("seccompProfile")["type"].as_str().unwrap_or("RuntimeDefault");
    page.line("    Seccomp", seccomp);
    let escalation = own["allowPrivilegeEscalation"] != false;
    page.line(
        "    Privilege escalation",
        if escalation { "by set-user-id programs" } else { "no" },
    );
    let read_only = own["readOnlyRootFilesystem"] == true;
    page.line("    Root file system", if read_only { "read only" } else { "copy on write" });
}

fn volumes(page: &mut Page, volumes: &Value) {
    for volume in volumes.as_array().into_iter().flatten() {
        let source = volume
            .as_object()
            .into_iter()
            .flatten()
            .find(|(key, _)| *key != "name")
            .map_or_else(String::new, |(kind, detail)| format!("{kind} {detail}"));
        page.line(&format!("Volume {}", plain(&volume["name"])), &source);
    }
}
