//! A pod: what runs, how it is confined, and why it may not run.

use serde_json::Value;

use super::page::{Page, conditions, plain};

pub(super) fn describe(page: &mut Page, object: &Value) {
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
            isolation(page, spec, container);
        }
    }
    isolation_of_pod(page, spec);
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

/// How the pod is confined: what its containers share, with each other or with the node.
fn isolation_of_pod(page: &mut Page, spec: &Value) {
    let is = |key: &str| spec[key] == true;
    let own = |key: &str, name: &'static str| (!is(key)).then_some(name);
    let names = [own("hostNetwork", "net, uts"), own("hostIPC", "ipc"), own("hostPID", "time")];
    let list = |names: &[Option<&str>]| match names.iter().flatten().copied().collect::<Vec<_>>() {
        none if none.is_empty() => "none".to_owned(),
        names => names.join(", "),
    };
    page.section("Isolation");
    page.line("  Own namespaces", &list(&names));
    let of_node = [
        is("hostNetwork").then_some("net, uts"),
        is("hostIPC").then_some("ipc"),
        is("hostPID").then_some("pid, time"),
    ];
    page.line("  Of the node", &list(&of_node));
    page.line("  Users", &describe_users(spec));
    let processes = match (is("hostPID"), is("shareProcessNamespace")) {
        (true, _) => "the node's",
        (false, true) => "shared by its containers",
        (false, false) => "each container's own",
    };
    page.line("  Processes", processes);
    for sysctl in spec["securityContext"]["sysctls"].as_array().into_iter().flatten() {
        page.line(&format!("  Sysctl {}", plain(&sysctl["name"])), &plain(&sysctl["value"]));
    }
}

fn describe_users(spec: &Value) -> String {
    let asks_for_node = ["hostNetwork", "hostPID", "hostIPC"].iter().any(|key| spec[*key] == true)
        || ["containers", "initContainers"]
            .iter()
            .flat_map(|key| spec[*key].as_array().into_iter().flatten())
            .any(|container| container["securityContext"]["privileged"] == true);
    let text = match spec["hostUsers"].as_bool() {
        Some(true) => "the node's: root is root of the node",
        Some(false) => "its own: root is nobody on the node",
        None if asks_for_node => "the node's, since it asks for the node: root is root of the node",
        None => "its own, where the node can and does not say otherwise",
    };
    text.to_owned()
}

/// How the container is confined: the defaults, and what the pod changes of them.
fn isolation(page: &mut Page, spec: &Value, container: &Value) {
    let (pod, own) = (&spec["securityContext"], &container["securityContext"]);
    let either = |key: &str| if own[key].is_null() { &pod[key] } else { &own[key] };
    let privileged = own["privileged"] == true;
    page.section("  Isolation");
    let of_pod = spec["hostPID"] == true || spec["shareProcessNamespace"] == true;
    page.line("    Namespaces", if of_pod { "mount, cgroup" } else { "pid, mount, cgroup" });
    let user = either("runAsUser");
    let user = if user.is_null() { "as the image says".to_owned() } else { plain(user) };
    page.line("    User", &user);
    let list = |key: &str, sign: &str| -> String {
        let names = own["capabilities"][key].as_array().into_iter().flatten();
        names.map(|name| format!(" {sign}{}", plain(name))).collect()
    };
    let capabilities = format!("default{}{}", list("drop", "-"), list("add", "+"));
    page.line("    Capabilities", if privileged { "all (privileged)" } else { &capabilities });
    let profile = either("seccompProfile");
    let seccomp = match profile["type"].as_str().unwrap_or("RuntimeDefault") {
        _ if privileged => "none (privileged)".to_owned(),
        "Localhost" => format!("Localhost {}", plain(&profile["localhostProfile"])),
        kind => kind.to_owned(),
    };
    page.line("    Seccomp", &seccomp);
    let profile = either("appArmorProfile");
    let app_armor = match profile["type"].as_str() {
        None | Some("RuntimeDefault") if privileged => "none (privileged)".to_owned(),
        None => "RuntimeDefault where the node has AppArmor".to_owned(),
        Some("Localhost") => format!("Localhost {}", plain(&profile["localhostProfile"])),
        Some(kind) => kind.to_owned(),
    };
    page.line("    AppArmor", &app_armor);
    page.line("    SELinux", &selinux(&pod["seLinuxOptions"], &own["seLinuxOptions"], privileged));
    let escalation = privileged || own["allowPrivilegeEscalation"] != false;
    page.line(
        "    New privileges",
        if escalation { "by set-user-id programs" } else { "no (no_new_privs)" },
    );
    let read_only = own["readOnlyRootFilesystem"] == true;
    page.line("    Root file system", if read_only { "read only" } else { "copy on write" });
    let unmasked = privileged || own["procMount"] == "Unmasked";
    let paths = if unmasked { "all open" } else { "masked or read only where they drive the node" };
    page.line("    /proc and /sys", paths);
    let devices = if privileged { "all of the node" } else { "null, zero, full, random, tty only" };
    page.line("    Devices", devices);
    let memory = &container["resources"]["limits"]["memory"];
    let memory = if memory.is_null() { "no limit".to_owned() } else { plain(memory) };
    page.line("    Memory, swap", &format!("{memory}; no swap beyond a limit"));
    page.line("    Processes", "of the pod, bounded by the node's --pod-max-pids");
}

/// The label of a container: the node's, and what the pod says of it. Of a pod, a container that says something
/// keeps the level alone.
fn selinux(of_pod: &Value, own: &Value, privileged: bool) -> String {
    let said = |options: &Value, part: &str| {
        options[part].as_str().filter(|value| !value.is_empty()).map(str::to_owned)
    };
    let part = |part: &str| match own.is_null() || part == "level" {
        true => said(own, part).or_else(|| said(of_pod, part)),
        false => said(own, part),
    };
    let parts = ["user", "role", "type", "level"].into_iter();
    let said: Vec<String> =
        parts.filter_map(|name| part(name).map(|value| format!("{name} {value}"))).collect();
    match (said.is_empty(), privileged && part("type").is_none()) {
        (true, true) => "none (privileged)".to_owned(),
        (true, false) => "the label of the node's policy, where it has SELinux".to_owned(),
        (false, true) => format!("files: {}; processes: none (privileged)", said.join(", ")),
        (false, false) => said.join(", "),
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn described(spec: Value) -> String {
        let mut page = Page::default();
        describe(&mut page, &json!({"spec": spec, "status": {}}));
        page.text().to_owned()
    }

    #[test]
    fn confinement_is_told_as_it_is_by_default() {
        let text = described(json!({"containers": [{"name": "main"}]}));
        for line in [
            "  Own namespaces:       net, uts, ipc, time",
            "  Of the node:          none",
            "  Users:                its own, where the node can and does not say otherwise",
            "    Namespaces:         pid, mount, cgroup",
            "    Capabilities:       default",
            "    Seccomp:            RuntimeDefault",
            "    AppArmor:           RuntimeDefault where the node has AppArmor",
            "    SELinux:            the label of the node's policy, where it has SELinux",
            "    Root file system:   copy on write",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn labels_are_told_as_they_come_of_pod_and_container() {
        for (own, wanted) in [
            (json!(null), "type a_t, level s0:c1"),
            (json!({"role": "r"}), "role r, level s0:c1"),
            (json!({"level": "s0:c2"}), "level s0:c2"),
        ] {
            let text = described(json!({
                "securityContext": {"seLinuxOptions": {"type": "a_t", "level": "s0:c1"}},
                "containers": [{"name": "main", "securityContext": {"seLinuxOptions": own}}]
            }));
            assert!(text.contains(&format!("    SELinux:            {wanted}\n")), "{own}: {text}");
        }
    }

    #[test]
    fn what_a_pod_has_of_its_node_is_told() {
        let privileged = json!({"privileged": true});
        let text = described(json!({
            "hostNetwork": true, "hostPID": true,
            "containers": [{"name": "main", "securityContext": privileged}]
        }));
        for line in [
            "  Of the node:          net, uts, pid, time",
            "  Users:                the node's, since it asks for the node",
            "    Namespaces:         mount, cgroup",
            "    Capabilities:       all (privileged)",
            "    Seccomp:            none (privileged)",
            "    AppArmor:           none (privileged)",
            "    SELinux:            none (privileged)",
            "    Devices:            all of the node",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        let profile = json!({"type": "Localhost", "localhostProfile": "audit.json"});
        let text = described(json!({
            "hostUsers": false, "shareProcessNamespace": true,
            "securityContext": {"seccompProfile": profile},
            "containers": [{"name": "main", "securityContext": {"allowPrivilegeEscalation": false}}]
        }));
        for line in [
            "  Users:                its own: root is nobody on the node",
            "  Processes:            shared by its containers",
            "    Seccomp:            Localhost audit.json",
            "    New privileges:     no (no_new_privs)",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

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
        let text = described(json!({"containers": [], "priority": 0}));
        assert!(text.contains("Priority:               0\n"), "{text}");
        assert!(!text.contains("Preemption") && !text.contains("gates"), "{text}");
    }
}
