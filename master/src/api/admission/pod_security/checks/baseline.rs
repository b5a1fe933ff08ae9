//! The controls of the level `baseline`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{AppArmorProfile, SELinuxOptions, SeccompProfile};
use proto::k8s as k8s_openapi;

use super::super::policy::Version;
use super::{Seen, Subject, Violation, containers, plural, quoted, quoted_set, sayers};

/// How AppArmor profiles were named before there were fields for them.
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
/// The same of seccomp.
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

pub(super) fn app_armor(pod: &Subject<'_>) -> Option<Violation> {
    let mut found = Vec::new();
    let allowed = |profile: &str| {
        profile.is_empty() || profile == "runtime/default" || profile.starts_with("localhost/")
    };
    for (key, profile) in pod.meta.annotations.iter().flatten() {
        if key.starts_with(APP_ARMOR) && !allowed(profile) {
            found.push(format!("{key}={profile:?}"));
        }
    }
    let unconfined = |profile: Option<&AppArmorProfile>| {
        profile.is_some_and(|profile| {
            !["RuntimeDefault", "Localhost"].contains(&profile.type_.as_str())
        })
    };
    let context = pod.spec.security_context.as_ref();
    let of_pod = unconfined(context.and_then(|context| context.app_armor_profile.as_ref()));
    let names = pod
        .containers_that(|one| unconfined(one.security.and_then(|s| s.app_armor_profile.as_ref())));
    if let Some(sayers) = sayers(of_pod, &names) {
        found.push(format!("{sayers} must not set AppArmor profile type to \"Unconfined\""));
    }
    let reason = plural(found.len(), "forbidden AppArmor profile", "forbidden AppArmor profiles");
    (!found.is_empty()).then(|| Violation { reason, detail: found.join(", ") })
}

pub(super) fn host_namespaces(pod: &Subject<'_>) -> Option<Violation> {
    let spec = pod.spec;
    let all = [
        ("hostIPC", spec.host_ipc),
        ("hostNetwork", spec.host_network),
        ("hostPID", spec.host_pid),
    ];
    let shared: Vec<&str> =
        all.iter().filter(|(_, shared)| *shared == Some(true)).map(|(name, _)| *name).collect();
    let detail = shared.join(", ");
    (!shared.is_empty()).then_some(Violation { reason: "host namespaces", detail })
}

pub(super) fn host_ports(pod: &Subject<'_>) -> Option<Violation> {
    let taken = |one: &Seen<'_>| -> Vec<i32> {
        one.ports.iter().filter_map(|port| port.host_port).filter(|port| *port != 0).collect()
    };
    let names = pod.containers_that(|one| !taken(one).is_empty());
    // In the order of text, as a set of texts has it.
    let ports: BTreeSet<String> =
        pod.containers.iter().flat_map(taken).map(|port| port.to_string()).collect();
    (!names.is_empty()).then(|| Violation {
        reason: "hostPort",
        detail: format!(
            "{} {} {} {}",
            containers(&names),
            plural(names.len(), "uses", "use"),
            plural(ports.len(), "hostPort", "hostPorts"),
            ports.into_iter().collect::<Vec<_>>().join(", ")
        ),
    })
}

/// Probes and hooks are made by the node, and so reach what the pod may not.
pub(super) fn probe_hosts(pod: &Subject<'_>) -> Option<Violation> {
    fn hosts<'a>(one: &Seen<'a>) -> BTreeSet<&'a str> {
        let probes = one.probes.into_iter().flatten();
        let probes = probes.flat_map(|probe| {
            [
                probe.http_get.as_ref().and_then(|get| get.host.as_deref()),
                probe.tcp_socket.as_ref().and_then(|socket| socket.host.as_deref()),
            ]
        });
        let hooks =
            one.lifecycle.into_iter().flat_map(|hooks| [&hooks.post_start, &hooks.pre_stop]);
        let hooks = hooks.flatten().flat_map(|hook| {
            [
                hook.http_get.as_ref().and_then(|get| get.host.as_deref()),
                hook.tcp_socket.as_ref().and_then(|socket| socket.host.as_deref()),
            ]
        });
        probes.chain(hooks).flatten().filter(|host| !host.is_empty()).collect()
    }
    let mut names = pod.containers_that(|one| !hosts(one).is_empty());
    names.sort_unstable();
    let found: BTreeSet<&str> = pod.containers.iter().flat_map(hosts).collect();
    (!names.is_empty()).then(|| Violation {
        reason: "probe or lifecycle host",
        detail: format!(
            "{} {} {} {}",
            containers(&names),
            plural(names.len(), "uses", "use"),
            plural(found.len(), "probe or lifecycle host", "probe or lifecycle hosts"),
            quoted_set(&found)
        ),
    })
}

pub(super) fn privileged(pod: &Subject<'_>) -> Option<Violation> {
    let names = pod.containers_that(|one| {
        one.security.is_some_and(|context| context.privileged == Some(true))
    });
    (!names.is_empty()).then(|| Violation {
        reason: "privileged",
        detail: format!("{} must not set securityContext.privileged=true", containers(&names)),
    })
}

/// Unless root in the pod is nobody on the host.
pub(super) fn proc_mount(pod: &Subject<'_>) -> Option<Violation> {
    (!pod.has_own_users()).then(|| any_proc_mount(pod)).flatten()
}

pub(super) fn any_proc_mount(pod: &Subject<'_>) -> Option<Violation> {
    fn unmasked<'a>(one: &Seen<'a>) -> Option<&'a str> {
        let said = one.security.and_then(|context| context.proc_mount.as_deref());
        said.filter(|kind| *kind != "Default")
    }
    let names = pod.containers_that(|one| unmasked(one).is_some());
    let kinds: BTreeSet<&str> = pod.containers.iter().filter_map(unmasked).collect();
    (!names.is_empty()).then(|| Violation {
        reason: "procMount",
        detail: format!(
            "{} must not set securityContext.procMount to {}",
            containers(&names),
            quoted_set(&kinds)
        ),
    })
}

pub(super) fn selinux(pod: &Subject<'_>) -> Option<Violation> {
    let mut types = BTreeSet::new();
    let (mut user, mut role) = (false, false);
    let mut known = vec!["", "container_t", "container_init_t", "container_kvm_t"];
    if pod.version >= Version::Minor(31) {
        known.push("container_engine_t");
    }
    let mut is_forbidden = |options: &SELinuxOptions| {
        let said = |field: &Option<String>| field.as_ref().is_some_and(|text| !text.is_empty());
        let kind = options.type_.clone().unwrap_or_default();
        let wrong_kind = !known.contains(&kind.as_str());
        if wrong_kind {
            types.insert(kind);
        }
        user |= said(&options.user);
        role |= said(&options.role);
        wrong_kind || said(&options.user) || said(&options.role)
    };
    let context = pod.spec.security_context.as_ref();
    let of_pod = context
        .and_then(|context| context.se_linux_options.as_ref())
        .is_some_and(&mut is_forbidden);
    let names = pod.containers_that(|one| {
        let options = one.security.and_then(|context| context.se_linux_options.as_ref());
        options.is_some_and(&mut is_forbidden)
    });
    let sayers = sayers(of_pod, &names)?;
    let mut found = Vec::new();
    if !types.is_empty() {
        let types_word = plural(types.len(), "type", "types");
        found.push(format!("{types_word} {}", quoted(types.iter().map(String::as_str))));
    }
    if user {
        found.push("user may not be set".to_owned());
    }
    if role {
        found.push("role may not be set".to_owned());
    }
    let found = found.join("; ");
    let detail = format!("{sayers} set forbidden securityContext.seLinuxOptions: {found}");
    Some(Violation { reason: "seLinuxOptions", detail })
}

/// Kernel parameters that concern nobody but the pod, with the version that found it out.
const SAFE_SYSCTLS: [(&str, u32); 14] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
    ("net.ipv4.tcp_slow_start_after_idle", 37),
    ("net.ipv4.tcp_notsent_lowat", 37),
];

pub(super) fn sysctls(pod: &Subject<'_>) -> Option<Violation> {
    let context = pod.spec.security_context.as_ref();
    let named = context.into_iter().flat_map(|context| context.sysctls.iter().flatten());
    let is_safe = |name: &str| {
        SAFE_SYSCTLS
            .iter()
            .any(|(safe, since)| *safe == name && pod.version >= Version::Minor(*since))
    };
    let unsafe_ones: Vec<&str> =
        named.map(|sysctl| sysctl.name.as_str()).filter(|name| !is_safe(name)).collect();
    let detail = unsafe_ones.join(", ");
    (!unsafe_ones.is_empty()).then_some(Violation { reason: "forbidden sysctls", detail })
}

/// What containers customarily have, but for raw sockets.
const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

pub(super) fn capabilities(pod: &Subject<'_>) -> Option<Violation> {
    added_beyond(pod, &DEFAULT_CAPABILITIES)
        .map(|detail| Violation { reason: "non-default capabilities", detail })
}

/// Which containers add capabilities that are not among these, and which they add.
pub(super) fn added_beyond(pod: &Subject<'_>, allowed: &[&str]) -> Option<String> {
    let added = |one: &Seen<'_>| -> BTreeSet<String> {
        let lists = one.security.and_then(|context| context.capabilities.as_ref());
        let added = lists.into_iter().flat_map(|lists| lists.add.iter().flatten());
        added.filter(|name| !allowed.contains(&name.as_str())).cloned().collect()
    };
    let names = pod.containers_that(|one| !added(one).is_empty());
    let all: BTreeSet<String> = pod.containers.iter().flat_map(added).collect();
    (!names.is_empty()).then(|| {
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&names),
            quoted(all.iter().map(String::as_str))
        )
    })
}

pub(super) fn host_paths(pod: &Subject<'_>) -> Option<Violation> {
    let volumes = pod.spec.volumes.iter().flatten();
    let names: Vec<&str> = volumes
        .filter(|volume| volume.host_path.is_some())
        .map(|volume| volume.name.as_str())
        .collect();
    (!names.is_empty()).then(|| Violation {
        reason: "hostPath volumes",
        detail: format!(
            "{} {}",
            plural(names.len(), "volume", "volumes"),
            quoted(names.iter().copied())
        ),
    })
}

pub(super) fn is_confining(profile: &SeccompProfile) -> bool {
    ["RuntimeDefault", "Localhost"].contains(&profile.type_.as_str())
}

pub(super) fn seccomp(pod: &Subject<'_>) -> Option<Violation> {
    if pod.version < Version::Minor(19) {
        return seccomp_annotations(pod);
    }
    unconfined_seccomp(pod).map(|detail| Violation { reason: "seccompProfile", detail })
}

/// Who names a seccomp profile that confines nothing.
pub(super) fn unconfined_seccomp(pod: &Subject<'_>) -> Option<String> {
    fn unconfined(profile: Option<&SeccompProfile>) -> Option<&str> {
        profile.filter(|profile| !is_confining(profile)).map(|profile| profile.type_.as_str())
    }
    let context = pod.spec.security_context.as_ref();
    let of_pod = unconfined(context.and_then(|context| context.seccomp_profile.as_ref()));
    let of = |one: &Seen<'_>| {
        let profile = one.security.and_then(|context| context.seccomp_profile.as_ref());
        unconfined(profile).map(str::to_owned)
    };
    let names = pod.containers_that(|one| of(one).is_some());
    let sayers = sayers(of_pod.is_some(), &names)?;
    let mut kinds: BTreeSet<String> = pod.containers.iter().filter_map(of).collect();
    kinds.extend(of_pod.map(str::to_owned));
    let kinds = quoted(kinds.iter().map(String::as_str));
    Some(format!("{sayers} must not set securityContext.seccompProfile.type to {kinds}"))
}

fn seccomp_annotations(pod: &Subject<'_>) -> Option<Violation> {
    let allowed = |profile: &str| {
        ["runtime/default", "docker/default"].contains(&profile)
            || profile.starts_with("localhost/")
    };
    let containers = pod.containers.iter().map(|one| format!("{SECCOMP_CONTAINER}{}", one.name));
    let keys = [SECCOMP_POD.to_owned()].into_iter().chain(containers);
    let annotations = pod.meta.annotations.as_ref();
    let found: BTreeSet<String> = keys
        .filter_map(|key| {
            let profile = annotations?.get(&key).filter(|profile| !allowed(profile))?;
            Some(format!("{key}={profile:?}"))
        })
        .collect();
    (!found.is_empty()).then(|| Violation {
        reason: "seccompProfile",
        detail: format!(
            "forbidden {} {}",
            plural(found.len(), "annotation", "annotations"),
            found.into_iter().collect::<Vec<_>>().join(", ")
        ),
    })
}
