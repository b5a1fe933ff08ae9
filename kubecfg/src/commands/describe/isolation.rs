//! How a pod is confined: the defaults, what the pod changes of them, and what its node can do.

use anyhow::Result;
use http::Request;
use serde_json::Value;

use super::page::{Page, plain};
use crate::client::Cluster;

/// What a node's kubelet tells of itself by labels; nothing where it tells nothing.
#[derive(Debug, Default)]
pub(super) struct NodeSecurity {
    own_users: Option<bool>,
    app_armor: Option<bool>,
    selinux: Option<bool>,
}

impl NodeSecurity {
    /// That of a pod's node, as far as whoever asks may see nodes.
    pub(super) async fn of_node_of(cluster: &Cluster, pod: &Value) -> Result<Self> {
        let Some(name) = pod["spec"]["nodeName"].as_str().filter(|name| !name.is_empty()) else {
            return Ok(Self::default());
        };
        let request =
            Request::get(format!("/api/v1/nodes/{}", super::escape(name))).body(vec![])?;
        match cluster.client.request::<Value>(request).await {
            Ok(node) => Ok(Self::of(&node)),
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                Ok(Self::default())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn of(node: &Value) -> Self {
        let says = |name: &str| match node["metadata"]["labels"][name].as_str() {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => None,
        };
        Self {
            own_users: says("kutter.dev/own-users"),
            app_armor: says("kutter.dev/apparmor"),
            selinux: says("kutter.dev/selinux"),
        }
    }
}

/// How the pod is confined: what its containers share, with each other or with the node.
pub(super) fn of_pod(page: &mut Page, spec: &Value, node: &NodeSecurity) {
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
    page.line("  Users", users(spec, node));
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

fn users(spec: &Value, node: &NodeSecurity) -> &'static str {
    let asks_for_node = ["hostNetwork", "hostPID", "hostIPC"].iter().any(|key| spec[*key] == true)
        || ["containers", "initContainers"]
            .iter()
            .flat_map(|key| spec[*key].as_array().into_iter().flatten())
            .any(|container| container["securityContext"]["privileged"] == true);
    match (spec["hostUsers"].as_bool(), node.own_users) {
        (Some(true), _) => "the node's: root is root of the node",
        (Some(false), _) => "its own: root is nobody on the node",
        (None, _) if asks_for_node => {
            "the node's, since it asks for the node: root is root of the node"
        }
        (None, Some(true)) => "its own: root is nobody on the node",
        (None, Some(false)) => {
            "the node's, which gives pods none of their own: root is root of the node"
        }
        (None, None) => "its own, where the node can and does not say otherwise",
    }
}

/// How the container is confined: the defaults, and what the pod changes of them.
pub(super) fn of_container(page: &mut Page, spec: &Value, container: &Value, node: &NodeSecurity) {
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
        None => match node.app_armor {
            Some(true) => "RuntimeDefault".to_owned(),
            Some(false) => "none: the node has none".to_owned(),
            None => "RuntimeDefault where the node has AppArmor".to_owned(),
        },
        Some("Localhost") => format!("Localhost {}", plain(&profile["localhostProfile"])),
        Some(kind) => kind.to_owned(),
    };
    page.line("    AppArmor", &app_armor);
    let label = selinux(&pod["seLinuxOptions"], &own["seLinuxOptions"], privileged, node);
    page.line("    SELinux", &label);
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
fn selinux(of_pod: &Value, own: &Value, privileged: bool, node: &NodeSecurity) -> String {
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
        (true, false) => match node.selinux {
            Some(true) => "the label of the node's policy".to_owned(),
            Some(false) => "none: the node has none".to_owned(),
            None => "the label of the node's policy, where it has SELinux".to_owned(),
        },
        (false, true) => format!("files: {}; processes: none (privileged)", said.join(", ")),
        (false, false) => said.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::pod;
    use super::*;

    fn described(node: &NodeSecurity, spec: Value) -> String {
        let mut page = Page::default();
        pod::describe(&mut page, &json!({"spec": spec, "status": {}}), node);
        page.text().to_owned()
    }

    #[test]
    fn confinement_is_told_as_it_is_by_default() {
        let unknown = NodeSecurity::default();
        let text = described(&unknown, json!({"containers": [{"name": "main"}]}));
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
    fn what_the_node_can_do_is_told_where_it_is_known() {
        let node = |says: &str| {
            let labels = ["own-users", "apparmor", "selinux"]
                .map(|name| (format!("kutter.dev/{name}"), json!(says)));
            NodeSecurity::of(&json!({"metadata": {"labels": serde_json::Map::from_iter(labels)}}))
        };
        for (says, lines) in [
            (
                "true",
                [
                    "  Users:                its own: root is nobody on the node\n",
                    "    AppArmor:           RuntimeDefault\n",
                    "    SELinux:            the label of the node's policy\n",
                ],
            ),
            (
                "false",
                [
                    "  Users:                the node's, which gives pods none of their own",
                    "    AppArmor:           none: the node has none\n",
                    "    SELinux:            none: the node has none\n",
                ],
            ),
        ] {
            let text = described(&node(says), json!({"containers": [{"name": "main"}]}));
            for line in lines {
                assert!(text.contains(line), "{line}\n{text}");
            }
        }
    }

    #[test]
    fn labels_are_told_as_they_come_of_pod_and_container() {
        let unknown = NodeSecurity::default();
        for (own, wanted) in [
            (json!(null), "type a_t, level s0:c1"),
            (json!({"role": "r"}), "role r, level s0:c1"),
            (json!({"level": "s0:c2"}), "level s0:c2"),
        ] {
            let text = described(
                &unknown,
                json!({
                    "securityContext": {"seLinuxOptions": {"type": "a_t", "level": "s0:c1"}},
                    "containers": [{"name": "main", "securityContext": {"seLinuxOptions": own}}]
                }),
            );
            assert!(text.contains(&format!("    SELinux:            {wanted}\n")), "{own}: {text}");
        }
    }

    #[test]
    fn what_a_pod_has_of_its_node_is_told() {
        let unknown = NodeSecurity::default();
        let privileged = json!({"privileged": true});
        let text = described(
            &unknown,
            json!({
                "hostNetwork": true, "hostPID": true,
                "containers": [{"name": "main", "securityContext": privileged}]
            }),
        );
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
        let text = described(
            &unknown,
            json!({
                "hostUsers": false, "shareProcessNamespace": true,
                "securityContext": {"seccompProfile": profile},
                "containers": [{"name": "main", "securityContext": {"allowPrivilegeEscalation": false}}]
            }),
        );
        for line in [
            "  Users:                its own: root is nobody on the node",
            "  Processes:            shared by its containers",
            "    Seccomp:            Localhost audit.json",
            "    New privileges:     no (no_new_privs)",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
