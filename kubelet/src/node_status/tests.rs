use super::*;

fn facts() -> Facts {
    Facts {
        processors: 2,
        memory_bytes: 8 << 30,
        memory_available_bytes: 4 << 30,
        storage_bytes: 100 << 30,
        storage_free_bytes: 50 << 30,
        inodes: 1000,
        inodes_free: 500,
        processes: 300,
        processes_max: 32768,
        max_pods: 110,
        addresses: vec!["10.0.0.5".parse().unwrap()],
        hostname: "n1".to_owned(),
        info: NodeSystemInfo::default(),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn find<'a>(status: &'a NodeStatus, type_: &str) -> &'a NodeCondition {
    status.conditions.as_ref().unwrap().iter().find(|condition| condition.type_ == type_).unwrap()
}

#[test]
fn tells_capacity_and_addresses() {
    let status = describe(&facts(), None, at(1));
    let capacity = status.capacity.unwrap();
    assert_eq!(capacity["cpu"].0, "2");
    assert_eq!(capacity["memory"].0, "8388608Ki");
    assert_eq!(capacity["ephemeral-storage"].0, "104857600Ki");
    assert_eq!(capacity["pods"].0, "110");
    let addresses = status.addresses.unwrap();
    assert_eq!(addresses[0], node_address("InternalIP", "10.0.0.5".to_owned()));
    assert_eq!(addresses[1], node_address("Hostname", "n1".to_owned()));
}

#[test]
fn a_machine_with_room_is_ready_and_under_no_pressure() {
    let status = describe(&facts(), None, at(1));
    assert_eq!(find(&status, "Ready").status, "True");
    for pressure in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
        assert_eq!(find(&status, pressure).status, "False", "{pressure}");
    }
}

#[test]
fn want_of_memory_disk_inodes_or_processes_shows() {
    let cases = [
        ("MemoryPressure", Facts { memory_available_bytes: 50 << 20, ..facts() }),
        ("DiskPressure", Facts { storage_free_bytes: 900 << 20, ..facts() }),
        ("DiskPressure", Facts { inodes_free: 40, ..facts() }),
        ("PIDPressure", Facts { processes: 30000, ..facts() }),
    ];
    for (pressure, facts) in cases {
        assert_eq!(find(&describe(&facts, None, at(1)), pressure).status, "True", "{pressure}");
    }
}

#[test]
fn what_is_unknown_is_no_pressure() {
    let facts = Facts { max_pods: 110, ..Facts::default() };
    let status = describe(&facts, None, at(1));
    for pressure in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
        assert_eq!(find(&status, pressure).status, "False", "{pressure}");
    }
}

#[test]
fn a_small_share_of_a_large_disk_is_no_pressure() {
    let facts = Facts { storage_free_bytes: 2 << 30, ..facts() };
    assert_eq!(find(&describe(&facts, None, at(1)), "DiskPressure").status, "False");
}

#[test]
fn a_transition_time_changes_with_its_condition_only() {
    let first = describe(&facts(), None, at(1));
    let low = Facts { memory_available_bytes: 0, ..facts() };
    let second = describe(&low, Some(&first), at(2));
    assert_eq!(find(&second, "MemoryPressure").last_transition_time, Some(Time(at(2))));
    assert_eq!(find(&second, "DiskPressure").last_transition_time, Some(Time(at(1))));
}

#[test]
fn a_later_look_at_the_same_says_the_same() {
    let first = describe(&facts(), None, at(1));
    let second = describe(&facts(), Some(&first), at(2));
    assert!(says_the_same(&first, &second));
    let used = Facts { storage_free_bytes: 40 << 30, ..facts() };
    assert!(says_the_same(&first, &describe(&used, Some(&first), at(3))));
}

#[test]
fn reads_the_kernels_files() {
    assert_eq!(meminfo("MemTotal:       16 kB\nMemAvailable:  8 kB\n", "MemAvailable"), 8192);
    assert_eq!(processes("0.00 0.01 0.05 2/345 6789\n"), 345);
    assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 13\"\n"), "Debian GNU/Linux 13");
}

#[test]
fn this_machine_can_be_observed() {
    let address = [10, 0, 0, 1].into();
    let facts = Machine { root_dir: "/".into(), address, max_pods: 110 }.observe();
    assert!(facts.processors > 0 && facts.memory_bytes > 0 && facts.storage_bytes > 0);
    assert!(facts.processes > 0 && facts.processes_max > 0);
    assert_eq!(facts.addresses, [address]);
}

#[tokio::test]
async fn the_address_of_a_node_is_the_one_it_reaches_a_master_from() {
    let masters = ["https://127.0.0.1:6443".parse().unwrap()];
    assert_eq!(address_towards(&masters).await, Some([127, 0, 0, 1].into()));
}
