//! From security contexts to how a process is confined. What the container says wins over what
//! the pod says.

use std::path::{Component, Path, PathBuf};

use proto::k8s::api::core::v1::{AppArmorProfile as PodAppArmorProfile, Container, Pod, PodSpec};
use runtime::{AppArmorProfile, CapabilityChanges, HostNamespaces, SeccompProfile, User};

use super::env::ConfigError;

/// How a container's program is confined beyond the default.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Confinement {
    pub(crate) user: User,
    pub(crate) privileged: bool,
    pub(crate) unmasked_proc: bool,
    pub(crate) capabilities: CapabilityChanges,
    pub(crate) seccomp: SeccompProfile,
    pub(crate) app_armor: AppArmorProfile,
    pub(crate) no_new_privileges: bool,
    pub(crate) read_only_root: bool,
}

/// As whom the program is to run, as one would write it into an image; to be looked up there.
pub(crate) fn user_name(
    pod: &Pod,
    container: &Container,
    image_user: &str,
) -> Result<String, ConfigError> {
    match wanted_user(pod, container) {
        Some(uid) => Ok(id(uid)?.to_string()),
        None => Ok(image_user.to_owned()),
    }
}

/// What the pod has of its node instead of having it for itself.
pub(crate) fn namespaces_of_host(pod: &Pod) -> HostNamespaces {
    let says =
        |field: fn(&PodSpec) -> Option<bool>| pod.spec.as_ref().and_then(field) == Some(true);
    HostNamespaces {
        network: says(|spec| spec.host_network),
        processes: says(|spec| spec.host_pid),
        ipc: says(|spec| spec.host_ipc),
    }
}

/// Whether the pod's users are others than its node's. One that says nothing has what the node has
/// for a default, unless it asks for the node itself: its namespaces, or all of root's power.
pub(crate) fn has_own_users(pod: &Pod, default: bool) -> bool {
    let Some(spec) = &pod.spec else { return false };
    if let Some(of_host) = spec.host_users {
        return !of_host;
    }
    let privileged = |container: &Container| {
        let context = container.security_context.as_ref();
        context.and_then(|context| context.privileged) == Some(true)
    };
    let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    default && namespaces_of_host(pod) == HostNamespaces::default() && !containers.any(privileged)
}

/// Where a node's own system-call filters are, below the kubelet's folder, as in Kubernetes.
const SECCOMP_PROFILES: &str = "seccomp";

/// Works out the confinement. `user` is what the image makes of [`user_name`].
pub(crate) fn confinement(
    pod: &Pod,
    container: &Container,
    user: Result<User, String>,
    root_dir: &Path,
) -> Result<Confinement, ConfigError> {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let of_container = container.security_context.as_ref();
    let user = with_groups(pod, container, user.map_err(ConfigError)?)?;
    let profile = of_container
        .and_then(|context| context.seccomp_profile.as_ref())
        .or(of_pod.and_then(|context| context.seccomp_profile.as_ref()));
    let seccomp = match profile.map(|profile| profile.type_.as_str()) {
        None | Some("RuntimeDefault") => SeccompProfile::RuntimeDefault,
        Some("Unconfined") => SeccompProfile::Unconfined,
        Some("Localhost") => {
            let file = profile.and_then(|profile| profile.localhost_profile.as_deref());
            SeccompProfile::File(profile_file(file.unwrap_or_default(), root_dir)?)
        }
        Some(other) => {
            return Err(ConfigError(format!("seccomp profile type {other:?} is not supported")));
        }
    };
    let changes = of_container.and_then(|context| context.capabilities.as_ref());
    let names = |list: Option<&Vec<String>>| -> Vec<String> {
        list.into_iter()
            .flatten()
            .map(|name| name.strip_prefix("CAP_").unwrap_or(name).to_owned())
            .collect()
    };
    Ok(Confinement {
        user,
        privileged: of_container.and_then(|context| context.privileged) == Some(true),
        unmasked_proc: of_container.and_then(|context| context.proc_mount.as_deref())
            == Some("Unmasked"),
        capabilities: CapabilityChanges {
            add: names(changes.and_then(|changes| changes.add.as_ref())),
            drop: names(changes.and_then(|changes| changes.drop.as_ref())),
        },
        seccomp,
        app_armor: app_armor(pod, container)?,
        no_new_privileges: of_container.and_then(|context| context.allow_privilege_escalation)
            == Some(false),
        read_only_root: of_container.and_then(|context| context.read_only_root_filesystem)
            == Some(true),
    })
}

/// What a container or its pod says of AppArmor. Who says nothing has the default, unless it is privileged.
fn app_armor(pod: &Pod, container: &Container) -> Result<AppArmorProfile, ConfigError> {
    let Some(profile) = wanted_app_armor(pod, container) else {
        let context = container.security_context.as_ref();
        return Ok(match context.and_then(|context| context.privileged) {
            Some(true) => AppArmorProfile::Unconfined,
            _ => AppArmorProfile::RuntimeDefault,
        });
    };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(AppArmorProfile::RuntimeDefault),
        "Unconfined" => Ok(AppArmorProfile::Unconfined),
        "Localhost" => {
            Ok(AppArmorProfile::Named(profile.localhost_profile.clone().unwrap_or_default()))
        }
        other => Err(ConfigError(format!("AppArmor profile type {other:?} is not supported"))),
    }
}

fn wanted_app_armor<'a>(pod: &'a Pod, container: &'a Container) -> Option<&'a PodAppArmorProfile> {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let of_container = container.security_context.as_ref();
    of_container
        .and_then(|context| context.app_armor_profile.as_ref())
        .or(of_pod.and_then(|context| context.app_armor_profile.as_ref()))
}

/// Whether a pod says that it is to be confined by AppArmor; without saying so it can do without.
pub(crate) fn demands_app_armor(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let is_set = |profile: &PodAppArmorProfile| profile.type_ != "Unconfined";
    let of_pod = spec.security_context.as_ref();
    let of_pod = of_pod.and_then(|context| context.app_armor_profile.as_ref());
    let own = |container: &Container| {
        let context = container.security_context.as_ref();
        context.and_then(|context| context.app_armor_profile.as_ref()).is_some_and(is_set)
    };
    let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    of_pod.is_some_and(is_set) || containers.any(own)
}

/// The file of a `Localhost` profile. The name is checked by the master; what it leads to is the node's.
fn profile_file(name: &str, root_dir: &Path) -> Result<PathBuf, ConfigError> {
    let path = Path::new(name);
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if name.is_empty() || !path.components().all(plain) {
        return Err(ConfigError(format!("{name:?} is no name of a seccomp profile")));
    }
    Ok(root_dir.join(SECCOMP_PROFILES).join(path))
}

fn wanted_user(pod: &Pod, container: &Container) -> Option<i64> {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let of_container = container.security_context.as_ref();
    of_container
        .and_then(|context| context.run_as_user)
        .or(of_pod.and_then(|context| context.run_as_user))
}

fn with_groups(pod: &Pod, container: &Container, mut user: User) -> Result<User, ConfigError> {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let of_container = container.security_context.as_ref();
    let wanted_group = of_container
        .and_then(|context| context.run_as_group)
        .or(of_pod.and_then(|context| context.run_as_group));
    let non_root = of_container
        .and_then(|context| context.run_as_non_root)
        .or(of_pod.and_then(|context| context.run_as_non_root));

    if let Some(gid) = wanted_group {
        user.gid = id(gid)?;
    }
    if of_pod.and_then(|context| context.supplemental_groups_policy.as_deref()) == Some("Strict") {
        // What the image knows the user to be in does not count.
        user.additional_gids.clear();
    }
    let supplemental = of_pod.and_then(|context| context.supplemental_groups.as_ref());
    let of_files = of_pod.and_then(|context| context.fs_group);
    for gid in supplemental.into_iter().flatten().chain(&of_files) {
        let gid = id(*gid)?;
        if !user.additional_gids.contains(&gid) {
            user.additional_gids.push(gid);
        }
    }
    if non_root == Some(true) && user.uid == 0 {
        let metadata = &pod.metadata;
        let place = format!(
            "(pod: \"{}_{}({})\", container: {})",
            metadata.name.as_deref().unwrap_or_default(),
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.uid.as_deref().unwrap_or_default(),
            container.name
        );
        return Err(ConfigError(match wanted_user(pod, container) {
            Some(_) => format!("container's runAsUser breaks non-root policy {place}"),
            None => format!("container has runAsNonRoot and image will run as root {place}"),
        }));
    }
    Ok(user)
}

fn id(number: i64) -> Result<u32, ConfigError> {
    u32::try_from(number).map_err(|_| ConfigError(format!("{number} is no user or group id")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confined(
        pod_context: serde_json::Value,
        context: serde_json::Value,
        image_user: &str,
    ) -> Result<Confinement, String> {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u"},
            "spec": {
                "securityContext": pod_context,
                "containers": [{"name": "main", "securityContext": context}]
            }
        }))
        .unwrap();
        let resolve = |name: &str| match name {
            "" | "0" | "root" => Ok(User::default()),
            "app" | "100" => Ok(User { uid: 100, gid: 101, additional_gids: vec![5] }),
            other => other
                .parse()
                .map(|uid| User { uid, ..User::default() })
                .map_err(|_| format!("no user {other}")),
        };
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let name = user_name(&pod, container, image_user).map_err(|error| error.0)?;
        confinement(&pod, container, resolve(&name), Path::new("/root-dir"))
            .map_err(|error| error.0)
    }

    fn user_of(pod: serde_json::Value, context: serde_json::Value, image: &str) -> User {
        confined(pod, context, image).unwrap().user
    }

    use serde_json::json;

    #[test]
    fn the_image_says_who_runs_unless_the_pod_does() {
        assert_eq!(user_of(json!({}), json!({}), "app").uid, 100);
        assert_eq!(user_of(json!({"runAsUser": 7}), json!({}), "app").uid, 7);
        assert_eq!(user_of(json!({"runAsUser": 7}), json!({"runAsUser": 8}), "app").uid, 8);
    }

    #[test]
    fn a_numeric_user_has_the_groups_the_image_knows_it_by() {
        let user = user_of(json!({"supplementalGroups": [5, 9]}), json!({"runAsUser": 100}), "");
        assert_eq!((user.gid, user.additional_gids), (101, vec![5, 9]));
        assert_eq!(user_of(json!({"runAsGroup": 3}), json!({}), "app").gid, 3);
        let strict = json!({
            "supplementalGroupsPolicy": "Strict", "supplementalGroups": [9], "fsGroup": 2000
        });
        let user = user_of(strict, json!({}), "app");
        assert_eq!((user.gid, user.additional_gids), (101, vec![9, 2000]));
    }

    #[test]
    fn run_as_non_root_refuses_root_whoever_says_so() {
        let policy = || json!({"runAsNonRoot": true});
        assert_eq!(
            confined(policy(), json!({}), "").unwrap_err(),
            "container has runAsNonRoot and image will run as root \
             (pod: \"web_shop(u)\", container: main)"
        );
        assert_eq!(
            confined(policy(), json!({"runAsUser": 0}), "app").unwrap_err(),
            "container's runAsUser breaks non-root policy (pod: \"web_shop(u)\", container: main)"
        );
        assert!(confined(policy(), json!({}), "app").is_ok());
        assert!(confined(policy(), json!({"runAsNonRoot": false}), "").is_ok());
    }

    #[test]
    fn confinement_is_the_default_unless_said_otherwise() {
        let default = confined(json!({}), json!({}), "").unwrap();
        assert_eq!(default.seccomp, SeccompProfile::RuntimeDefault);
        assert!(!default.no_new_privileges && !default.read_only_root);

        let tight = confined(
            json!({"seccompProfile": {"type": "Unconfined"}}),
            json!({
                "seccompProfile": {"type": "RuntimeDefault"},
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"], "add": ["CAP_NET_BIND_SERVICE"]}
            }),
            "",
        )
        .unwrap();
        assert_eq!(tight.seccomp, SeccompProfile::RuntimeDefault);
        assert!(tight.no_new_privileges && tight.read_only_root);
        assert_eq!(tight.capabilities.drop, ["ALL"]);
        assert_eq!(tight.capabilities.add, ["NET_BIND_SERVICE"]);
    }

    #[test]
    fn a_profile_of_the_node_is_a_file_below_the_kubelets_folder() {
        let profile =
            |name: &str| json!({"seccompProfile": {"type": "Localhost", "localhostProfile": name}});
        let found = confined(profile("audit.json"), json!({}), "").unwrap();
        assert_eq!(found.seccomp, SeccompProfile::File("/root-dir/seccomp/audit.json".into()));
        for name in ["", "../x", "/etc/x", "a/../../x"] {
            assert!(confined(profile(name), json!({}), "").is_err(), "{name}");
        }
    }

    #[test]
    fn the_container_says_which_app_armor_profile_before_the_pod_does() {
        let named = json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "tight"}});
        let unconfined = json!({"appArmorProfile": {"type": "Unconfined"}});
        let default = json!({"appArmorProfile": {"type": "RuntimeDefault"}, "privileged": true});
        let power = json!({"privileged": true});
        let tight = AppArmorProfile::Named("tight".to_owned());
        for (of_pod, own, wanted) in [
            (json!({}), json!({}), AppArmorProfile::RuntimeDefault),
            (json!({}), power, AppArmorProfile::Unconfined),
            (json!({}), default, AppArmorProfile::RuntimeDefault),
            (named.clone(), json!({}), tight.clone()),
            (named.clone(), unconfined.clone(), AppArmorProfile::Unconfined),
            (unconfined, named, tight),
        ] {
            assert_eq!(confined(of_pod, own, "").unwrap().app_armor, wanted);
        }
    }

    #[test]
    fn power_is_given_when_asked_for() {
        let confined = confined(json!({}), json!({"privileged": true}), "").unwrap();
        assert!(confined.privileged && !confined.unmasked_proc);
        let unmasked = super::tests::confined(json!({}), json!({"procMount": "Unmasked"}), "");
        assert!(unmasked.unwrap().unmasked_proc);
    }

    #[test]
    fn users_are_its_own_by_default_unless_the_pod_asks_for_the_node() {
        let own = |spec: serde_json::Value, default| {
            let mut spec = spec;
            if spec.get("containers").is_none() {
                spec["containers"] = json!([{"name": "main"}]);
            }
            let pod = json!({"metadata": {"name": "web"}, "spec": spec});
            has_own_users(&serde_json::from_value(pod).unwrap(), default)
        };
        assert!(own(json!({}), true));
        assert!(!own(json!({}), false));
        for default in [true, false] {
            assert!(own(json!({"hostUsers": false}), default));
            assert!(!own(json!({"hostUsers": true}), default));
        }
        for asks in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(!own(json!({asks: true}), true), "{asks}");
            assert!(own(json!({asks: false}), true), "{asks}");
        }
        let privileged = json!([{"name": "main", "securityContext": {"privileged": true}}]);
        assert!(!own(json!({"containers": privileged}), true));
        assert!(own(json!({"containers": privileged, "hostUsers": false}), true));
        assert!(!own(json!({"initContainers": privileged}), true));
    }
}
