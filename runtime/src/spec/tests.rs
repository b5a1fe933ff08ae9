use super::*;
use crate::api::{CapabilityChanges, ContainerId, Resources, User};

fn around() -> Surroundings {
    Surroundings {
        hostname: "web-0".to_owned(),
        shared_memory: PathBuf::from("/run/kutter/sandboxes/a/shm"),
        cgroup: "/kutter/pod1/web".to_owned(),
        processes: Processes::Own,
        users: None,
        stage: PathBuf::from("/mnt"),
        folder: ContainerFolder(PathBuf::from("/run/kutter/sandboxes/a/containers/web")),
        views: None,
        has_clocks: false,
        devices: Vec::new(),
        unified_cgroups: false,
        bounds_huge_pages: true,
        swap_accounting: true,
        mounts_cgroups: false,
        labels: Labels::default(),
    }
}

fn config() -> ContainerConfig {
    ContainerConfig {
        id: ContainerId("web".to_owned()),
        args: vec!["/bin/server".to_owned(), "--port=80".to_owned()],
        working_directory: "/srv".to_owned(),
        ..Default::default()
    }
}

fn root() -> RootPlan {
    RootPlan {
        layers: vec![],
        upper: PathBuf::from("/upper"),
        work: PathBuf::from("/work"),
        owner: 0,
        label: None,
        mount_points: vec![],
    }
}

fn plan(config: &ContainerConfig) -> LaunchPlan {
    launch_plan(config, &around(), root(), None, None).unwrap()
}

#[test]
fn a_plain_container_is_isolated() {
    let spec = oci_spec(&config(), &around());
    let expected = include_str!("plain.json");
    assert_eq!(serde_json::to_string_pretty(&spec).unwrap(), expected.trim_end());
}

#[test]
fn the_specification_is_one_that_libcontainer_reads() {
    let spec = oci_spec(&config(), &around());
    serde_json::from_value::<oci_spec::runtime::Spec>(spec).unwrap();
}

#[test]
fn control_groups_are_shown_with_version_two_alone() {
    let shown = |unified_cgroups| {
        let around = Surroundings { unified_cgroups, ..around() };
        let spec = oci_spec(&config(), &around);
        let mounts = spec["mounts"].as_array().unwrap().clone();
        mounts.into_iter().find(|m| m["destination"] == "/sys/fs/cgroup")
    };
    assert_eq!(shown(false), None);
    let mount = shown(true).unwrap();
    assert!(mount["options"].as_array().unwrap().contains(&json!("ro")));
}

#[test]
fn a_memory_limit_includes_swap() {
    let resources = Resources { memory_limit_bytes: Some(1 << 20), ..Default::default() };
    let config = ContainerConfig { resources, ..config() };
    let spec = oci_spec(&config, &around());
    assert_eq!(spec["linux"]["resources"]["memory"], json!({ "limit": 1 << 20, "swap": 1 << 20 }));
    let unified = Surroundings { unified_cgroups: true, ..around() };
    let spec = oci_spec(&config, &unified);
    assert_eq!(spec["linux"]["resources"]["memory"], json!({ "limit": 1 << 20 }));
    let expected = json!({ "memory.oom.group": "1", "memory.swap.max": "0" });
    assert_eq!(spec["linux"]["resources"]["unified"], expected);
}

#[test]
fn huge_pages_are_bounded_where_the_kernel_can() {
    let resources =
        Resources { huge_page_limits: [(2 << 20, 4 << 20)].into(), ..Default::default() };
    let config = ContainerConfig { resources, ..config() };
    let unified = |bounds_huge_pages| {
        let around = Surroundings { unified_cgroups: true, bounds_huge_pages, ..around() };
        oci_spec(&config, &around)["linux"]["resources"]["unified"].clone()
    };
    let expected = json!({ "hugetlb.2MB.max": "4194304", "hugetlb.2MB.rsvd.max": "4194304" });
    assert_eq!(unified(true), expected);
    assert_eq!(unified(false), Value::Null);
}

#[test]
fn processor_bounds_are_passed_on() {
    let resources = Resources {
        cpu_shares: Some(512),
        cpu_quota_us: Some(50_000),
        pids_limit: Some(10),
        ..Default::default()
    };
    let spec = oci_spec(&ContainerConfig { resources, ..config() }, &around());
    let resources = &spec["linux"]["resources"];
    assert_eq!(resources["cpu"], json!({ "shares": 512, "quota": 50_000, "period": 100_000 }));
    assert_eq!(resources["pids"], json!({ "limit": 10 }));
}

#[test]
fn own_mounts_come_after_the_standard_ones_in_their_order() {
    let mounts = vec![
        Mount {
            source: MountSource::Host(PathBuf::from("/data")),
            destination: "/data".to_owned(),
            access: Access::ReadOnly,
            propagation: Propagation::None,
        },
        Mount {
            source: MountSource::Tmpfs { size_bytes: Some(4096) },
            destination: "/data/cache".to_owned(),
            access: Access::ReadWrite,
            propagation: Propagation::None,
        },
    ];
    let spec = oci_spec(&ContainerConfig { mounts, ..config() }, &around());
    let all = spec["mounts"].as_array().unwrap();
    let own = &all[all.len() - 2..];
    assert_eq!(own[0]["options"], json!(["rbind", "ro"]));
    assert_eq!(own[1]["destination"], "/data/cache");
    assert_eq!(own[1]["options"], json!(["nosuid", "nodev", "rw", "mode=1777", "size=4096"]));
    let throughout = vec![Mount {
        source: MountSource::Host(PathBuf::from("/data")),
        destination: "/data".to_owned(),
        access: Access::ReadOnlyThroughout,
        propagation: Propagation::None,
    }];
    let spec = oci_spec(&ContainerConfig { mounts: throughout, ..config() }, &around());
    let last = spec["mounts"].as_array().unwrap().last().unwrap();
    assert_eq!(last["options"], json!(["rbind", "ro", "rro"]));
}

#[test]
fn what_is_shared_with_the_machine_is_taken_by_the_creator() {
    let mount = |path: &str, propagation| Mount {
        source: MountSource::Host(PathBuf::from(path)),
        destination: path.to_owned(),
        access: Access::ReadWrite,
        propagation,
    };
    let mut mounts = vec![mount("/a", Propagation::HostToContainer)];
    let spec = oci_spec(&ContainerConfig { mounts: mounts.clone(), ..config() }, &around());
    assert_eq!(spec["linux"].get("rootfsPropagation"), None);
    mounts.push(mount("/b", Propagation::Bidirectional));
    let spec = oci_spec(&ContainerConfig { mounts, ..config() }, &around());
    assert_eq!(spec["linux"]["rootfsPropagation"], "shared");
    let all = spec["mounts"].as_array().unwrap();
    let sources: Vec<_> = all[all.len() - 2..].iter().map(|mount| &mount["source"]).collect();
    let taken = around().folder.sub_path(1);
    assert_eq!(sources, [&json!("/a"), &json!(taken)]);
}

#[test]
fn no_new_privileges_is_named_only_when_wanted() {
    assert_eq!(oci_spec(&config(), &around())["process"].get("noNewPrivileges"), None);
    let config = ContainerConfig { no_new_privileges: true, ..config() };
    assert_eq!(oci_spec(&config, &around())["process"]["noNewPrivileges"], json!(true));
}

#[test]
fn customary_variables_are_there_unless_the_container_has_its_own() {
    let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let env = plan(&ContainerConfig { env: vec![own("A", "1")], ..config() }).process.env;
    let names: Vec<&str> = env.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["PATH", "HOSTNAME", "A"]);
    let env = vec![own("PATH", "/bin"), own("HOSTNAME", "x")];
    let config = ContainerConfig { env: env.clone(), ..config() };
    assert_eq!(plan(&config).process.env, env);
}

#[test]
fn the_plan_carries_user_and_capabilities() {
    let config = ContainerConfig {
        user: User { uid: 1000, gid: 100, additional_gids: vec![5] },
        capabilities: CapabilityChanges { add: vec![], drop: vec!["ALL".to_owned()] },
        ..config()
    };
    let process = plan(&config).process;
    assert_eq!(process.user, config.user);
    assert_eq!(process.capabilities, Capabilities(0));
    assert_eq!(process.working_directory, "/srv");
    let wrong = CapabilityChanges { add: vec!["FLY".to_owned()], drop: vec![] };
    let config = ContainerConfig { capabilities: wrong, ..config };
    assert!(launch_plan(&config, &around(), root(), None, None).is_err());
}

#[test]
fn a_container_may_see_the_processes_of_another() {
    let target = ContainerId("main-0".to_owned());
    let config = ContainerConfig { joins_processes_of: Some(target), ..config() };
    let spec = oci_spec(&config, &around());
    assert_eq!(
        spec["linux"]["namespaces"][0],
        json!({ "type": "pid", "path": "/run/kutter/sandboxes/a/containers/web/processes" })
    );
    serde_json::from_value::<oci_spec::runtime::Spec>(spec).unwrap();
    assert_eq!(plan(&config).joins_processes_of.as_deref(), Some("main-0"));
}

#[test]
fn processes_are_its_own_the_sandboxs_or_the_machines() {
    let namespace = |processes| {
        let spec = oci_spec(&config(), &Surroundings { processes, ..around() });
        let all = spec["linux"]["namespaces"].as_array().unwrap().clone();
        all.into_iter().find(|namespace| namespace["type"] == "pid")
    };
    assert_eq!(namespace(Processes::Own), Some(json!({ "type": "pid" })));
    assert_eq!(
        namespace(Processes::OfSandbox).unwrap()["path"],
        "/run/kutter/sandboxes/a/containers/web/processes"
    );
    assert_eq!(namespace(Processes::OfHost), None);
}

#[test]
fn a_privileged_container_has_all_devices_and_nothing_masked() {
    let disk = DeviceNode {
        path: PathBuf::from("/dev/vda"),
        is_block: true,
        number: (254, 0),
        mode: 0o660,
        uid: 0,
        gid: 6,
    };
    let around = Surroundings { devices: vec![disk], ..around() };
    let config = ContainerConfig { privileged: true, ..config() };
    let spec = oci_spec(&config, &around);
    let linux = &spec["linux"];
    assert_eq!((&linux["maskedPaths"], &linux["readonlyPaths"]), (&json!([]), &json!([])));
    assert_eq!(linux["resources"]["devices"], json!([{ "allow": true, "access": "rwm" }]));
    let disk = json!({
        "path": "/dev/vda", "type": "b", "major": 254, "minor": 0,
        "fileMode": 0o660, "uid": 0, "gid": 6,
    });
    assert_eq!(linux["devices"], json!([disk]));
    let mounts = spec["mounts"].as_array().unwrap();
    let sys = mounts.iter().find(|mount| mount["destination"] == "/sys").unwrap();
    assert!(sys["options"].as_array().unwrap().contains(&json!("rw")));
    serde_json::from_value::<oci_spec::runtime::Spec>(spec.clone()).unwrap();
    let plan = launch_plan(&config, &around, root(), None, None).unwrap();
    assert_eq!(plan.process.capabilities, Capabilities::ALL);
    // Of other users than the machine's, it could not open them.
    let users = Some(IdRange { first: 100_000, count: 65_536 });
    let spec = oci_spec(&config, &Surroundings { users, ..around });
    assert_eq!(spec["linux"].get("devices"), None);
}

#[test]
fn with_users_of_its_own_everything_is_found_on_the_stage() {
    let users = Some(IdRange { first: 100_000, count: 65_536 });
    let around = Surroundings { users, has_clocks: true, ..around() };
    let mount = |path: &str, source| Mount {
        source,
        destination: path.to_owned(),
        access: Access::ReadWrite,
        propagation: Propagation::None,
    };
    let mounts = vec![
        mount("/a", MountSource::Host(PathBuf::from("/data/a"))),
        mount("/tmp", MountSource::Tmpfs { size_bytes: None }),
        mount("/b", MountSource::Host(PathBuf::from("/data/b"))),
    ];
    let config = ContainerConfig { mounts, ..config() };
    let spec = oci_spec(&config, &around);
    assert_eq!(spec["root"]["path"], "/mnt/rootfs");
    let sources = ["/dev/shm", "/a", "/b"].map(|destination| {
        let mounts = spec["mounts"].as_array().unwrap();
        mounts.iter().find(|m| m["destination"] == destination).unwrap()["source"].clone()
    });
    assert_eq!(sources, ["/mnt/mounts/0", "/mnt/mounts/1", "/mnt/mounts/2"]);
    let entered = json!([
        { "type": "pid" }, { "type": "mount" }, { "type": "cgroup" },
        { "type": "user", "path": "/mnt/user" },
        { "type": "time", "path": "/mnt/time" },
    ]);
    assert_eq!(spec["linux"]["namespaces"], entered);
    serde_json::from_value::<oci_spec::runtime::Spec>(spec).unwrap();
    let plan = launch_plan(&config, &around, root(), None, None).unwrap();
    let sources = ["/run/kutter/sandboxes/a/shm", "/data/a", "/data/b"].map(PathBuf::from);
    assert_eq!(plan.stage.clone().unwrap().mounts, sources);
    assert_eq!((plan.on_host(0), plan.on_host(7)), (100_000, 100_007));
}

#[test]
fn a_bounded_container_sees_itself_where_it_would_see_the_machine() {
    let around = Surroundings { views: Some(PathBuf::from("/run/a/views")), ..around() };
    let seen = |resources, around: &Surroundings| -> Vec<(String, String)> {
        let spec = oci_spec(&ContainerConfig { resources, ..config() }, around);
        let mounts = spec["mounts"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        mounts
            .map(|mount| (text(&mount["destination"]), text(&mount["source"])))
            .filter(|(destination, _)| destination.starts_with("/proc/"))
            .collect()
    };
    let pair = |file: &str, source: &str| (format!("/proc/{file}"), source.to_owned());
    let memory = || Resources { memory_limit_bytes: Some(1 << 20), ..Default::default() };
    assert_eq!(seen(Resources::default(), &around), []);
    let own = |file: &str| pair(file, &format!("/run/a/views/{file}@web"));
    assert_eq!(seen(memory(), &around), ["meminfo", "loadavg"].map(own));
    let cpu = Resources { cpu_quota_us: Some(50_000), ..Default::default() };
    assert_eq!(seen(cpu, &around), ["cpuinfo", "stat", "loadavg"].map(own));
    let users = Some(IdRange { first: 100_000, count: 65_536 });
    let around = Surroundings { users, ..around };
    let staged = [pair("meminfo", "/mnt/mounts/1"), pair("loadavg", "/mnt/mounts/2")];
    assert_eq!(seen(memory(), &around), staged);
    assert_eq!(seen(memory(), &Surroundings { views: None, ..around }), []);
}

#[test]
fn with_version_1_the_group_is_the_creators() {
    let plan = |config: &ContainerConfig, around: &Surroundings| {
        let root = RootPlan {
            layers: Vec::new(),
            upper: PathBuf::new(),
            work: PathBuf::new(),
            owner: 0,
            label: None,
            mount_points: Vec::new(),
        };
        launch_plan(config, around, root, None, None).unwrap().group
    };
    let old = Surroundings { unified_cgroups: false, ..around() };
    let group = plan(&config(), &old).unwrap();
    assert_eq!(group.resources.pids_limit, Some(DEFAULT_PIDS_LIMIT));
    assert!(group.can_hide);
    let shown = Surroundings { mounts_cgroups: true, ..old.clone() };
    assert!(!plan(&config(), &shown).unwrap().can_hide);
    assert_eq!(plan(&config(), &Surroundings { unified_cgroups: true, ..around() }), None);
    assert_eq!(plan(&ContainerConfig { privileged: true, ..config() }, &old), None);

    let lean = without_group(oci_spec(&config(), &old), Path::new("/c/rootfs"));
    assert_eq!(lean["linux"].get("resources"), None);
    assert_eq!(lean["root"]["path"], json!("/c/rootfs"));
    serde_json::from_value::<oci_spec::runtime::Spec>(lean).unwrap();
}

#[test]
fn what_takes_an_selinux_label_has_the_containers() {
    let labels =
        Labels { process: Some("u:r:t:s0:c1,c2".into()), file: Some("u:r:f:s0:c1,c2".into()) };
    let around_it = Surroundings { labels: labels.clone(), ..around() };
    let mounts = oci_spec(&config(), &around_it)["mounts"].as_array().unwrap().clone();
    let has = |mount: &&Value| {
        mount["options"].as_array().unwrap().contains(&json!("context=u:r:f:s0:c1,c2"))
    };
    let places: Vec<_> = mounts.iter().filter(has).map(|mount| &mount["destination"]).collect();
    assert_eq!(places, ["/dev", "/dev/pts"]);
    let around = Surroundings { labels, ..around() };
    let plan = launch_plan(&config(), &around, root(), None, None).unwrap();
    assert_eq!(plan.process.selinux.as_deref(), Some("u:r:t:s0:c1,c2"));
}
