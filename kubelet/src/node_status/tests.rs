use serde_json::json;

use super::*;

fn facts() -> Facts {
    Facts {
        processors: 2,
        memory_bytes: 8 << 30,
        storage_bytes: 100 << 30,
        huge_pages: vec![(2 << 20, 64 << 20), (1 << 30, 0)],
        reserved: Reserved::default(),
        images: Vec::new(),
        max_pods: 110,
        maps_users: true,
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
    let status = described(&facts(), None, at(1));
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
fn tells_how_it_runs_pods() {
    for maps_users in [true, false] {
        let status = described(&Facts { maps_users, ..facts() }, None, at(1));
        let features = json!({"recursiveReadOnlyMounts": true, "userNamespaces": maps_users});
        let handlers = json!([
            {"name": "", "features": features}, {"name": "kutter", "features": features}
        ]);
        assert_eq!(json!(status.runtime_handlers), handlers);
    }
}

#[test]
fn a_machine_with_room_is_ready_and_under_no_pressure() {
    let status = described(&facts(), None, at(1));
    assert_eq!(find(&status, "Ready").status, "True");
    for pressure in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
        assert_eq!(find(&status, pressure).status, "False", "{pressure}");
    }
}

fn described(facts: &Facts, previous: Option<&NodeStatus>, now: Timestamp) -> NodeStatus {
    describe(facts, &Health::default(), previous, now)
}

#[test]
fn what_the_node_is_short_of_shows() {
    let cases = [
        ("MemoryPressure", Condition::Memory),
        ("DiskPressure", Condition::Disk),
        ("PIDPressure", Condition::Pid),
    ];
    for (name, condition) in cases {
        let health = Health { pressures: [condition].into(), ..Health::default() };
        let status = describe(&facts(), &health, None, at(1));
        let short = |(other, _): &(&str, Condition)| find(&status, other).status == "True";
        assert!(cases.iter().filter(|case| short(case)).all(|(other, _)| *other == name), "{name}");
        assert_eq!(find(&status, "Ready").status, "True");
    }
}

#[test]
fn a_machine_that_ends_is_not_ready() {
    let health = Health { shutting_down: true, ..Health::default() };
    let ready = describe(&facts(), &health, None, at(1));
    let ready = find(&ready, "Ready");
    assert_eq!(ready.status, "False");
    assert_eq!(ready.reason.as_deref(), Some("KubeletNotReady"));
    assert_eq!(ready.message.as_deref(), Some("node is shutting down"));
}

#[test]
fn a_node_without_a_network_is_not_ready() {
    let no_network = Some("there is no configuration".to_owned());
    let health = Health { no_network, ..Health::default() };
    let without = describe(&facts(), &health, None, at(1));
    let ready = find(&without, "Ready");
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_deref()),
        ("False", Some("KubeletNotReady"))
    );
    let said = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
                message:Network plugin returns error: there is no configuration";
    assert_eq!(ready.message.as_deref(), Some(said));
    let both = Health { shutting_down: true, ..health };
    let both = describe(&facts(), &both, None, at(1));
    let message = format!("[{said}, node is shutting down]");
    assert_eq!(find(&both, "Ready").message.as_deref(), Some(message.as_str()));
    let found = describe(&facts(), &Health::default(), Some(&without), at(2));
    let ready = find(&found, "Ready");
    assert_eq!((ready.status.as_str(), &ready.last_transition_time), ("True", &Some(Time(at(2)))));
}

#[test]
fn pods_do_not_get_what_is_reserved_or_set_aside() {
    let reserved =
        Reserved { cpu_milli: 250, memory: 1 << 30, ephemeral_storage: 10 << 30, processes: 0 };
    let status = described(&Facts { reserved, ..facts() }, None, at(1));
    let (capacity, allocatable) = (status.capacity.unwrap(), status.allocatable.unwrap());
    assert_eq!(capacity["hugepages-2Mi"].0, "64Mi");
    assert_eq!(capacity["hugepages-1Gi"].0, "0");
    assert_eq!(allocatable["cpu"].0, "1750m");
    let memory = (8 << 20) - (1 << 20) - (64 << 10);
    assert_eq!(allocatable["memory"].0, format!("{memory}Ki"));
    assert_eq!(allocatable["ephemeral-storage"].0, format!("{}Ki", 90 << 20));
    assert_eq!(allocatable["hugepages-2Mi"].0, "64Mi");
}

#[test]
fn the_largest_images_are_named() {
    let image = |number: u64| Image {
        id: format!("sha256:{number}"),
        repo_digests: (0..4).map(|n| format!("a@{number}-{n}")).collect(),
        tags: vec![format!("a:{number}"), "never".to_owned()],
        layers: Vec::new(),
        size_bytes: number,
        config: runtime::image::ImageConfig::default(),
    };
    let facts = Facts { images: (0..60).map(image).collect(), ..facts() };
    let images = described(&facts, None, at(1)).images.unwrap();
    assert_eq!(images.len(), 50);
    assert_eq!(images[0].size_bytes, Some(59));
    let names = images[0].names.as_ref().unwrap();
    assert_eq!(names, &["a@59-0", "a@59-1", "a@59-2", "a@59-3", "a:59"]);
}

#[test]
fn a_transition_time_changes_with_its_condition_only() {
    let first = described(&facts(), None, at(1));
    let low = Health { pressures: [Condition::Memory].into(), ..Health::default() };
    let second = describe(&facts(), &low, Some(&first), at(2));
    assert_eq!(find(&second, "MemoryPressure").last_transition_time, Some(Time(at(2))));
    assert_eq!(find(&second, "DiskPressure").last_transition_time, Some(Time(at(1))));
}

#[test]
fn a_later_look_at_the_same_says_the_same() {
    let first = described(&facts(), None, at(1));
    let second = described(&facts(), Some(&first), at(2));
    assert!(says_the_same(&first, &second));
}

#[tokio::test]
async fn the_address_of_a_node_is_the_one_it_reaches_a_master_from() {
    let masters = ["https://127.0.0.1:6443".parse().unwrap()];
    assert_eq!(address_towards(&masters).await, Some([127, 0, 0, 1].into()));
}
