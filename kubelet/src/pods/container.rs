//! From a pod's specification to what the runtime starts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::k8s::api::core::v1::{
    Container, ContainerStatus, ImageVolumeStatus, Pod, ResourceRequirements, VolumeMount,
    VolumeMountStatus, VolumeStatus,
};
use runtime::image::Image;
use runtime::{
    Access, ContainerConfig, ContainerId, Mount, MountSource, Propagation, Resources,
    SandboxConfig, User,
};

use super::PodsConfig;
use super::bounds;
use super::env::{self, ConfigError, Sources};
use super::huge_pages::HugePages;
use super::names::{AttemptLabels, PodIdentity, log_path};
use super::observed::Images;
use super::resources::{cgroup_parent, resources};
use super::security::{confinement, has_own_users, namespaces_of_host};
use super::selinux;
use crate::state::ClusterState;
use crate::volumes::hostname::HostName;
use crate::volumes::{PodDir, Volumes};

/// Everything a container is made from.
pub(crate) struct ContainerInput<'a> {
    pub(crate) config: &'a PodsConfig,
    pub(crate) identity: &'a PodIdentity,
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) cluster: &'a ClusterState,
    pub(crate) images: &'a Images,
    pub(crate) volumes: &'a Volumes,
    pub(crate) pod_ips: &'a [IpAddr],
    /// The container whose processes it sees, as an ephemeral one does that names a target.
    pub(crate) target: Option<&'a ContainerId>,
    pub(crate) number: u32,
    pub(crate) restart_delay: Duration,
}

/// A container that can be started.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) labels: AttemptLabels,
    pub(crate) config: ContainerConfig,
    /// Where the container may leave a word about its end; to be made before the start.
    pub(crate) termination_message: PathBuf,
    /// What it may use.
    pub(crate) resources: ResourceRequirements,
    /// Keys that could not become variables.
    pub(crate) skipped_variables: Vec<String>,
    /// What of its volumes has to be there before the start.
    pub(crate) sub_paths: Vec<SubPath>,
}

/// A path below a volume that is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubPath {
    pub(crate) volume: String,
    pub(crate) folder: PathBuf,
    pub(crate) path: PathBuf,
}

/// A log file is rotated at this size, and so many are kept: Kubernetes' defaults.
const LOG_MAX_BYTES: u64 = 10 << 20;
const LOG_MAX_FILES: u32 = 5;

/// Where a container may leave a word about its end, unless it says otherwise.
const TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";

/// What the sandbox of a pod is made from, whose host is called so.
pub(crate) fn sandbox(
    config: &PodsConfig,
    identity: &PodIdentity,
    pod: &Pod,
    hostname: String,
) -> SandboxConfig {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    SandboxConfig {
        id: identity.sandbox(),
        annotations: identity.annotations(),
        hostname,
        cgroup_parent: cgroup_parent(&config.cgroup_root, pod, &identity.uid),
        resources: Resources {
            huge_page_limits: HugePages::of_pod(pod).limits(&config.page_sizes),
            ..bounds::of_pod(pod, config.pod_max_pids)
        },
        sysctls: context
            .and_then(|context| context.sysctls.as_ref())
            .into_iter()
            .flatten()
            .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
            .collect(),
        of_host: namespaces_of_host(pod),
        shares_processes: pod.spec.as_ref().and_then(|spec| spec.share_process_namespace)
            == Some(true),
        own_users: has_own_users(pod, config.own_users),
        selinux: selinux::of_pod(pod),
    }
}

/// Works out one container. `user` is what its image makes of whom it is to run as. The error says
/// what the specification asks for in vain.
pub(crate) fn prepare(
    input: &ContainerInput<'_>,
    user: Result<User, String>,
) -> Result<Prepared, ConfigError> {
    let ContainerInput { config, identity, pod, container, images, .. } = *input;
    let image = &images.own;
    let dir = PodDir::new(&config.root_dir, &identity.uid);
    let hostname = HostName::of(pod, &input.cluster.cluster_domain);
    let hostname = hostname.of_kernel().map_err(ConfigError)?;
    let sources = Sources {
        pod,
        cluster: input.cluster,
        pod_ips: input.pod_ips,
        host_ips: &config.node_addresses,
        node_name: &config.node_name,
        hostname: &hostname,
    };
    let environment = env::environment(container, &image.config, &sources)?;
    let args = env::command_line(container, &image.config, &sources)?;
    let confinement = confinement(pod, container, user, &config.root_dir)?;
    let stated = container.lifecycle.as_ref().and_then(|all| all.stop_signal.as_deref());
    let labels = AttemptLabels {
        container: container.name.clone(),
        number: input.number,
        image: container.image.clone().unwrap_or_default(),
        image_id: image_ref(image),
        volume_images: images
            .volumes
            .iter()
            .map(|(volume, image)| (volume.clone(), image_ref(image)))
            .collect(),
        stop_signal: stop_signal(stated.or(image.config.stop_signal.as_deref()))?,
        restart_delay: input.restart_delay,
    };
    let termination_message = dir.termination_message(&container.name, input.number);
    let labelled = selinux::labelled(
        pod,
        container,
        input.volumes,
        [termination_message.clone()],
        ETC_FILES.map(|name| dir.etc().join(name)),
    );
    let mut mounts = etc_mounts(&dir.etc());
    let (of_volumes, sub_paths) =
        volume_mounts(container, input.volumes, &images.volumes, &sources)?;
    mounts.extend(of_volumes);
    mounts.push(Mount {
        source: MountSource::Host(termination_message.clone()),
        destination: termination_message_path(container).to_owned(),
        access: Access::ReadWrite,
        propagation: Propagation::None,
    });
    let working_directory = [container.working_dir.as_deref(), Some(&image.config.working_dir)]
        .into_iter()
        .flatten()
        .find(|path| !path.is_empty())
        .unwrap_or("/");
    let log_dir = identity.log_dir(&config.log_dir);
    let config = ContainerConfig {
        id: labels.id(),
        annotations: labels.annotations(identity),
        layers: image.layers.clone(),
        args,
        env: environment.variables,
        working_directory: working_directory.to_owned(),
        user: confinement.user,
        mounts: without_shadowed(mounts),
        resources: resources(pod, container, config),
        privileged: confinement.privileged,
        unmasked_proc: confinement.unmasked_proc,
        capabilities: confinement.capabilities,
        seccomp: confinement.seccomp,
        app_armor: confinement.app_armor,
        selinux: selinux::of_container(pod, container),
        labelled,
        no_new_privileges: confinement.no_new_privileges,
        read_only_root: confinement.read_only_root,
        joins_processes_of: input.target.cloned(),
        tty: container.tty == Some(true),
        stdin: container.stdin == Some(true),
        log_path: Some(log_path(&log_dir, &container.name, input.number)),
        log_max_bytes: LOG_MAX_BYTES,
        log_max_files: LOG_MAX_FILES,
    };
    Ok(Prepared {
        labels,
        config,
        termination_message,
        resources: container.resources.clone().unwrap_or_default(),
        skipped_variables: environment.skipped,
        sub_paths,
    })
}

/// Where the container leaves its last words.
pub(crate) fn termination_message_path(container: &Container) -> &str {
    container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or(TERMINATION_MESSAGE_PATH)
}

/// The files of `/etc` that are each pod's own.
const ETC_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

fn etc_mounts(etc: &Path) -> Vec<Mount> {
    ETC_FILES
        .map(|name| Mount {
            source: MountSource::Host(etc.join(name)),
            destination: format!("/etc/{name}"),
            access: Access::ReadWrite,
            propagation: Propagation::None,
        })
        .into()
}

fn volume_mounts(
    container: &Container,
    volumes: &Volumes,
    images: &BTreeMap<String, Image>,
    sources: &Sources<'_>,
) -> Result<(Vec<Mount>, Vec<SubPath>), ConfigError> {
    let mut sub_paths = Vec::new();
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let sub_path = sub_path(container, mount, sources)?.map(PathBuf::from);
        if let Some(image) = images.get(&mount.name) {
            mounts.push(Mount {
                source: MountSource::Image { layers: image.layers.clone(), path: sub_path },
                destination: mount.mount_path.clone(),
                access: access(true, mount),
                propagation: Propagation::None,
            });
            continue;
        }
        let volume = volumes
            .get(&mount.name)
            .ok_or_else(|| ConfigError(format!("there is no volume {:?}", mount.name)))?;
        let source = match sub_path {
            None => MountSource::Host(volume.source.clone()),
            Some(path) => {
                let folder = volume.source.clone();
                sub_paths.push(SubPath {
                    volume: mount.name.clone(),
                    folder: folder.clone(),
                    path: path.clone(),
                });
                MountSource::Below { folder, path }
            }
        };
        mounts.push(Mount {
            source,
            destination: mount.mount_path.clone(),
            access: access(volume.read_only, mount),
            propagation: propagation(mount),
        });
    }
    Ok((mounts, sub_paths))
}

/// What the container may do with the files of a mount.
fn access(is_volume_read_only: bool, mount: &VolumeMount) -> Access {
    match (is_throughout(mount), is_volume_read_only || mount.read_only == Some(true)) {
        (true, _) => Access::ReadOnlyThroughout,
        (false, true) => Access::ReadOnly,
        (false, false) => Access::ReadWrite,
    }
}

/// Which mounts below the mount, made after it, are seen on the other side. The master knows the values.
fn propagation(mount: &VolumeMount) -> Propagation {
    match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => Propagation::HostToContainer,
        Some("Bidirectional") => Propagation::Bidirectional,
        _ => Propagation::None,
    }
}

/// Whether what is mounted below is read-only with the mount. The kernel can wherever containers
/// run at all, so what is asked for if possible is done.
fn is_throughout(mount: &VolumeMount) -> bool {
    let mode = mount.recursive_read_only.as_deref();
    mount.read_only == Some(true) && matches!(mode, Some("IfPossible" | "Enabled"))
}

/// An image as statuses name it.
fn image_ref(image: &Image) -> String {
    image.repo_digests.first().unwrap_or(&image.id).clone()
}

/// What the status says of a container's mounts. `images` are those that it has mounted, by volume.
pub(crate) fn mount_statuses(
    container: &Container,
    images: Option<&BTreeMap<String, String>>,
) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref().filter(|mounts| !mounts.is_empty())?;
    let status = |mount: &VolumeMount| {
        let mode = if is_throughout(mount) { "Enabled" } else { "Disabled" };
        let image = images
            .and_then(|images| images.get(&mount.name))
            .map(|id| VolumeStatus { image: Some(ImageVolumeStatus { image_ref: id.clone() }) });
        VolumeMountStatus {
            mount_path: mount.mount_path.clone(),
            name: mount.name.clone(),
            read_only: mount.read_only,
            recursive_read_only: (mount.read_only == Some(true)).then(|| mode.to_owned()),
            volume_status: image,
        }
    };
    Some(mounts.iter().map(status).collect())
}

/// The images that a container had mounted by its status, by volume.
pub(crate) fn mounted_images(status: &ContainerStatus) -> BTreeMap<String, String> {
    let mounts = status.volume_mounts.iter().flatten();
    mounts
        .filter_map(|mount| {
            let image = mount.volume_status.as_ref()?.image.as_ref()?;
            Some((mount.name.clone(), image.image_ref.clone()))
        })
        .collect()
}

/// What of the volume is mounted; nothing: all of it.
fn sub_path(
    container: &Container,
    mount: &VolumeMount,
    sources: &Sources<'_>,
) -> Result<Option<String>, ConfigError> {
    let stated = |field: &Option<String>| field.clone().filter(|path| !path.is_empty());
    let path = match (stated(&mount.sub_path), stated(&mount.sub_path_expr)) {
        (Some(path), _) => path,
        (None, Some(expression)) => env::expand_whole(&expression, container, sources)?,
        (None, None) => return Ok(None),
    };
    // What a variable holds is checked by nobody before.
    if path.starts_with('/') {
        return Err(ConfigError(format!("error SubPath `{path}` must not be an absolute path")));
    }
    if path.split('/').any(|part| part == "..") {
        let reason = "must not contain '..'";
        return Err(ConfigError(format!("unable to provision SubPath `{path}`: {reason}")));
    }
    Ok(Some(path).filter(|path| !path.is_empty()))
}

/// A pod's own mount on `/etc/hosts` and the like takes the place of ours. What lies deeper is
/// mounted later, so that nothing hides what is mounted below it.
fn without_shadowed(mounts: Vec<Mount>) -> Vec<Mount> {
    let mut by_destination: BTreeMap<String, Mount> = BTreeMap::new();
    for mount in mounts {
        let destination = mount.destination.trim_end_matches('/').to_owned();
        by_destination.insert(destination, mount);
    }
    let mut mounts: Vec<Mount> = by_destination.into_values().collect();
    mounts.sort_by_key(|mount| mount.destination.split('/').filter(|p| !p.is_empty()).count());
    mounts
}

/// The number of the signal that a container is to be stopped by; SIGTERM without one.
fn stop_signal(name: Option<&str>) -> Result<i32, ConfigError> {
    use nix::sys::signal::Signal;
    let Some(name) = name.map(str::trim).filter(|name| !name.is_empty()) else {
        return Ok(Signal::SIGTERM as i32);
    };
    let unknown = || ConfigError(format!("the stop signal {name:?} is not known"));
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number).ok_or_else(unknown);
    }
    let upper = name.to_uppercase();
    // Older names of the same signals.
    let plain = match upper.strip_prefix("SIG").unwrap_or(&upper) {
        "CLD" => "CHLD",
        "IOT" => "ABRT",
        "POLL" => "IO",
        plain => plain,
    };
    // Real-time signals: the C library keeps the first two to itself.
    let offset = |text: &str, sign: i32| text.parse::<i32>().ok().map(|n| sign * n);
    if let Some(rest) = plain.strip_prefix("RTMIN") {
        let number =
            if rest.is_empty() { Some(0) } else { offset(rest.trim_start_matches('+'), 1) };
        return number.map(|n| 34 + n).filter(|n| (34..=64).contains(n)).ok_or_else(unknown);
    }
    if let Some(rest) = plain.strip_prefix("RTMAX") {
        let number =
            if rest.is_empty() { Some(0) } else { offset(rest.trim_start_matches('-'), -1) };
        return number.map(|n| 64 + n).filter(|n| (34..=64).contains(n)).ok_or_else(unknown);
    }
    let signal: Signal = format!("SIG{plain}").parse().map_err(|_| unknown())?;
    Ok(signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_are_known_by_name_and_number() {
        let cases = [
            (None, Some(15)),
            (Some("SIGQUIT"), Some(3)),
            (Some("usr1"), Some(10)),
            (Some("SIGPOLL"), Some(29)),
            (Some("37"), Some(37)),
            (Some("SIGRTMIN+3"), Some(37)),
            (Some("RTMAX-1"), Some(63)),
            (Some("SIGNOTHING"), None),
            (Some("99"), None),
        ];
        for (name, number) in cases {
            assert_eq!(stop_signal(name).ok(), number, "{name:?}");
        }
    }

    #[test]
    fn mounts_are_as_read_only_as_the_volume_and_the_pod_say() {
        use Access::{ReadOnly, ReadOnlyThroughout, ReadWrite};
        let cases = [
            ((false, None, None), ReadWrite, None),
            ((false, Some(false), None), ReadWrite, None),
            ((true, None, None), ReadOnly, None),
            ((false, Some(true), None), ReadOnly, Some("Disabled")),
            ((false, Some(true), Some("Disabled")), ReadOnly, Some("Disabled")),
            ((false, Some(true), Some("IfPossible")), ReadOnlyThroughout, Some("Enabled")),
            ((true, Some(true), Some("Enabled")), ReadOnlyThroughout, Some("Enabled")),
        ];
        for ((of_volume, read_only, recursive), wanted, told) in cases {
            let mount = VolumeMount {
                name: "data".to_owned(),
                mount_path: "/data".to_owned(),
                read_only,
                recursive_read_only: recursive.map(str::to_owned),
                ..VolumeMount::default()
            };
            assert_eq!(access(of_volume, &mount), wanted, "{read_only:?} {recursive:?}");
            let volume_mounts = Some(vec![mount]);
            let container = Container { volume_mounts, ..Container::default() };
            let status = mount_statuses(&container, None).unwrap().remove(0);
            assert_eq!((status.name.as_str(), status.mount_path.as_str()), ("data", "/data"));
            assert_eq!(status.read_only, read_only);
            assert_eq!(status.recursive_read_only.as_deref(), told);
        }
        assert_eq!(mount_statuses(&Container::default(), None), None);
    }

    #[test]
    fn deeper_mounts_come_later_and_a_pods_own_mount_wins() {
        let mount = |destination: &str, source: &str| Mount {
            source: MountSource::Host(source.into()),
            destination: destination.to_owned(),
            access: Access::ReadWrite,
            propagation: Propagation::None,
        };
        let mounts = without_shadowed(vec![
            mount("/etc/hosts", "ours"),
            mount("/data/a/b", "deep"),
            mount("/data", "shallow"),
            mount("/etc/hosts/", "theirs"),
        ]);
        let order: Vec<_> = mounts.iter().map(|mount| mount.destination.as_str()).collect();
        assert_eq!(order, ["/data", "/etc/hosts/", "/data/a/b"]);
        assert_eq!(mounts[1].source, MountSource::Host("theirs".into()));
    }
}
