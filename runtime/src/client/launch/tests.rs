use super::*;

fn sandbox() -> SandboxConfig {
    SandboxConfig {
        id: SandboxId("a".to_owned()),
        hostname: "a".to_owned(),
        cgroup_parent: "/kutter/pod1".to_owned(),
        ..Default::default()
    }
}

fn with_sysctl(name: &str) -> SandboxConfig {
    let sysctls = [(name.to_owned(), "1".to_owned())].into();
    SandboxConfig { sysctls, ..sandbox() }
}

#[test]
fn ids_are_plain_names() {
    for id in ["a", "pod-1_x.y", &"a".repeat(64)] {
        assert!(check_id(id, MAX_SANDBOX_ID).is_ok(), "{id}");
    }
    for id in ["", ".", "..", ".a", "a/b", "a b", "ä", &"a".repeat(65)] {
        assert!(check_id(id, MAX_SANDBOX_ID).is_err(), "{id}");
    }
}

#[test]
fn only_the_sandbox_own_kernel_parameters_may_be_set() {
    for name in ["net.ipv4.ip_forward", "net/ipv4/conf/eth0.1/forwarding", "kernel.shmmax"] {
        assert!(check_sandbox(&with_sysctl(name)).is_ok(), "{name}");
    }
    for name in ["kernel.core_pattern", "vm.swappiness", "net...kernel.core_pattern", "net/../x"] {
        assert!(check_sandbox(&with_sysctl(name)).is_err(), "{name}");
    }
}

#[test]
fn control_groups_stay_below_the_root() {
    for group in ["kutter", "/a/../b", "", "/./a/.."] {
        let config = SandboxConfig { cgroup_parent: group.to_owned(), ..sandbox() };
        assert!(check_sandbox(&config).is_err(), "{group}");
    }
    assert!(check_sandbox(&sandbox()).is_ok());
}

#[test]
fn containers_need_a_command_and_an_image() {
    let good = ContainerConfig {
        id: ContainerId("c".to_owned()),
        args: vec!["true".to_owned()],
        layers: vec![PathBuf::from("/layer")],
        ..Default::default()
    };
    assert!(check_container(&good).is_ok());
    assert!(check_container(&ContainerConfig { args: vec![], ..good.clone() }).is_err());
    assert!(check_container(&ContainerConfig { layers: vec![], ..good.clone() }).is_err());
    let relative = "srv".to_owned();
    assert!(check_container(&ContainerConfig { working_directory: relative, ..good }).is_err());
}

#[test]
fn ids_beyond_those_of_a_container_are_refused_with_the_way_out() {
    let users = IdRange { first: 100_000, count: 65_536 };
    assert!(check_owners(None, users).is_ok());
    assert!(check_owners(Some(65_535), users).is_ok());
    let refusal = check_owners(Some(65_536), users).unwrap_err();
    assert!(refusal.contains("65536") && refusal.ends_with("set hostUsers: true in the pod"));
    let user = User { uid: 0, gid: 0, additional_gids: vec![70_000] };
    assert!(check_users(&user, users).unwrap_err().starts_with("group 70000 is beyond"));
}
