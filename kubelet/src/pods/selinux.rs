//! From security contexts to labels of SELinux. Pure.

use std::path::PathBuf;

use proto::k8s::api::core::v1::{Container, Pod, SELinuxOptions};
use runtime::{Labelled, SelinuxOptions};

use crate::volumes::Volumes;

/// What the pod says of all that is in it.
pub(crate) fn of_pod(pod: &Pod) -> SelinuxOptions {
    converted(said_by_pod(pod))
}

/// What holds for a container: what it says stands for all that the pod says, as in Kubernetes, but that without a
/// level of its own it has the pod's, and so may use the pod's files.
pub(crate) fn of_container(pod: &Pod, container: &Container) -> SelinuxOptions {
    let of_pod = of_pod(pod);
    match said_by(container) {
        None => of_pod,
        own => {
            let own = converted(own);
            SelinuxOptions { level: own.level.or(of_pod.level), ..own }
        }
    }
}

/// Whether the pod says how it is to be labelled; without saying so it can do without.
pub(crate) fn is_demanded(pod: &Pod) -> bool {
    let says = |options: Option<&SELinuxOptions>| converted(options).says_anything();
    says(said_by_pod(pod)) || containers(pod).any(|container| says(said_by(container)))
}

/// The files of the pod's that a container uses, and whose label they get. A volume has that of the first container
/// that mounts it, whichever starts first. Those of a `hostPath` are not the pod's, and stay as they are.
pub(crate) fn labelled(
    pod: &Pod,
    container: &Container,
    volumes: &Volumes,
    own: impl IntoIterator<Item = PathBuf>,
    of_pod: impl IntoIterator<Item = PathBuf>,
) -> Vec<Labelled> {
    let spec = pod.spec.as_ref();
    let stated = spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let of_node =
        |name: &str| stated.clone().any(|volume| volume.name == name && volume.host_path.is_some());
    let mounts = |container: &Container, name: &str| {
        container.volume_mounts.iter().flatten().any(|mount| mount.name == name)
    };
    let mounted = volumes.iter().filter(|(name, _)| mounts(container, name) && !of_node(name)).map(
        |(name, volume)| {
            let first = containers(pod).find(|container| mounts(container, name));
            Labelled {
                path: volume.source.clone(),
                selinux: of_container(pod, first.unwrap_or(container)),
            }
        },
    );
    let own = own.into_iter().map(|path| (path, of_container(pod, container)));
    let of_pod = of_pod.into_iter().map(|path| (path, self::of_pod(pod)));
    let files = own.chain(of_pod).map(|(path, selinux)| Labelled { path, selinux });
    mounted.chain(files).collect()
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
    init.chain(spec.into_iter().flat_map(|spec| &spec.containers))
}

fn said_by_pod(pod: &Pod) -> Option<&SELinuxOptions> {
    pod.spec.as_ref()?.security_context.as_ref()?.se_linux_options.as_ref()
}

fn said_by(container: &Container) -> Option<&SELinuxOptions> {
    container.security_context.as_ref()?.se_linux_options.as_ref()
}

fn converted(options: Option<&SELinuxOptions>) -> SelinuxOptions {
    let Some(SELinuxOptions { level, role, type_, user }) = options else {
        return SelinuxOptions::default();
    };
    let said = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    SelinuxOptions { user: said(user), role: said(role), kind: said(type_), level: said(level) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::volumes::PreparedVolume;

    fn pod(of_pod: Value, containers: &[(&str, Value, &[&str])]) -> Pod {
        let containers: Vec<Value> = containers
            .iter()
            .map(|(name, options, volumes)| {
                let mount = |name: &&str| json!({"name": name, "mountPath": format!("/{name}")});
                json!({
                    "name": name,
                    "securityContext": {"seLinuxOptions": options},
                    "volumeMounts": volumes.iter().map(mount).collect::<Vec<_>>(),
                })
            })
            .collect();
        serde_json::from_value(json!({"spec": {
            "securityContext": {"seLinuxOptions": of_pod},
            "containers": containers,
            "volumes": [
                {"name": "data", "emptyDir": {}},
                {"name": "node", "hostPath": {"path": "/srv"}},
            ],
        }}))
        .unwrap()
    }

    fn effective(of_pod: Value, own: Value) -> SelinuxOptions {
        let pod = pod(of_pod, &[("main", own, &[])]);
        of_container(&pod, &pod.spec.as_ref().unwrap().containers[0])
    }

    fn options(kind: Option<&str>, level: Option<&str>) -> SelinuxOptions {
        let text = |value: Option<&str>| value.map(str::to_owned);
        SelinuxOptions { kind: text(kind), level: text(level), ..SelinuxOptions::default() }
    }

    #[test]
    fn the_container_says_before_the_pod_does() {
        let cases = [
            (json!(null), json!(null), options(None, None)),
            (json!({"type": "a"}), json!(null), options(Some("a"), None)),
            (json!({"type": "a"}), json!({"level": "s1"}), options(None, Some("s1"))),
            (json!({"level": "s0"}), json!({"type": "b"}), options(Some("b"), Some("s0"))),
            (json!({"level": "s0"}), json!({"level": "s1"}), options(None, Some("s1"))),
            (json!({"level": ""}), json!({}), options(None, None)),
        ];
        for (of_pod, own, wanted) in cases {
            assert_eq!(effective(of_pod.clone(), own.clone()), wanted, "{of_pod} {own}");
        }
        let all = json!({"user": "u", "role": "r", "type": "t", "level": "l"});
        let text = |text: &str| Some(text.to_owned());
        let wanted =
            SelinuxOptions { user: text("u"), role: text("r"), kind: text("t"), level: text("l") };
        assert_eq!(effective(json!(null), all), wanted);
    }

    #[test]
    fn who_says_nothing_demands_nothing() {
        let cases = [
            (json!(null), json!(null), false),
            (json!({}), json!({"level": ""}), false),
            (json!({"level": "s0"}), json!(null), true),
            (json!(null), json!({"role": "r"}), true),
        ];
        for (of_pod, own, wanted) in cases {
            let pod = pod(of_pod.clone(), &[("main", own.clone(), &[])]);
            assert_eq!(is_demanded(&pod), wanted, "{of_pod} {own}");
        }
    }

    #[test]
    fn a_volume_has_the_label_of_the_first_that_mounts_it() {
        let volume = |path: &str| PreparedVolume { source: path.into(), read_only: false };
        let volumes: Volumes = [("data", "/pod/data"), ("node", "/srv")]
            .map(|(n, p)| (n.to_owned(), volume(p)))
            .into();
        let pod = pod(
            json!({"level": "s0"}),
            &[
                ("other", json!({"type": "other"}), &[]),
                ("first", json!({"type": "first"}), &["data", "node"]),
                ("second", json!({"type": "second"}), &["data"]),
            ],
        );
        let of = |index: usize| {
            let container = &pod.spec.as_ref().unwrap().containers[index];
            labelled(&pod, container, &volumes, ["/own".into()], ["/hosts".into()])
                .into_iter()
                .map(|file| (file.path.to_string_lossy().into_owned(), file.selinux))
                .collect::<Vec<_>>()
        };
        let hosts = ("/hosts".to_owned(), options(None, Some("s0")));
        let data = ("/pod/data".to_owned(), options(Some("first"), Some("s0")));
        let own = |kind: &str| ("/own".to_owned(), options(Some(kind), Some("s0")));
        assert_eq!(of(0), [own("other"), hosts.clone()]);
        assert_eq!(of(1), [data.clone(), own("first"), hosts.clone()]);
        assert_eq!(of(2), [data, own("second"), hosts]);
    }
}
