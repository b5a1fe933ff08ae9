//! Configurations and results, as they are read.

use std::fs;

use serde_json::{Value, json};

use super::config::{self, Network};
use super::result;

fn load(files: &[(&str, &str)]) -> Result<Network, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    config::load(folder.path())
        .map_err(|error| error.to_string().replace(&folder.path().display().to_string(), "DIR"))
}

#[test]
fn the_first_file_by_name_counts() {
    let of = |name: &str| {
        json!({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": "p"}]}).to_string()
    };
    let (a, b) = (of("a"), of("b"));
    let single =
        json!({"cniVersion": "0.3.1", "name": "one", "type": "p", "mtu": 1400}).to_string();
    let found = |files: &[(&str, &str)]| load(files).unwrap().name;
    assert_eq!(found(&[("20.conflist", &a), ("10.conflist", &b)]), "b");
    assert_eq!(found(&[("20.conflist", &a), ("10.txt", &b)]), "a");
    let one = load(&[("10.conf", &single), ("20.conflist", &a)]).unwrap();
    assert_eq!((one.name.as_str(), one.version.as_str()), ("one", "0.3.1"));
    assert_eq!(one.plugins[0]["mtu"], 1400);
}

#[test]
fn the_newest_version_that_both_know_is_spoken() {
    let spoken = |version: Value, versions: Value| {
        let file =
            json!({"cniVersion": version, "cniVersions": versions, "name": "n", "type": "p"});
        load(&[("1.conf", &file.to_string())]).map(|network| network.version)
    };
    assert_eq!(spoken(json!("1.0.0"), json!(["1.1.0", "2.0.0"])).unwrap(), "1.1.0");
    assert_eq!(spoken(json!("0.4.0"), Value::Null).unwrap(), "0.4.0");
    let too_old = spoken(json!("0.2.0"), Value::Null).unwrap_err();
    assert!(too_old.contains("1.conf: cniVersion: 0.2.0; spoken are 1.1.0, 1.0.0"), "{too_old}");
    assert!(spoken(Value::Null, Value::Null).unwrap_err().contains("cniVersion: is missing"));
}

#[test]
fn what_is_wrong_with_a_file_is_told() {
    for (text, said) in [
        ("[]", "is no JSON object"),
        ("{", "EOF while parsing"),
        (r#"{"cniVersion": "1.0.0", "type": "p"}"#, "name: is missing"),
        (r#"{"cniVersion": "1.0.0", "name": "../x", "type": "p"}"#, "name: \"../x\" is no name"),
        (r#"{"cniVersion": "1.0.0", "name": "n"}"#, "plugins[0].type: is missing"),
        (r#"{"cniVersion": "1.0.0", "name": "n", "plugins": []}"#, "plugins: at least one"),
        (r#"{"cniVersion": "1.0.0", "name": "n", "plugins": 3}"#, "plugins: 3 is no list"),
        (
            r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "p"}, {"type": "/bin/sh"}]}"#,
            "plugins[1].type: \"/bin/sh\" is no program's name",
        ),
    ] {
        let error = load(&[("1.conflist", text)]).unwrap_err();
        assert!(error.starts_with("DIR/1.conflist: ") && error.contains(said), "{text}: {error}");
    }
    assert!(load(&[("1.txt", "")]).unwrap_err().starts_with("there is no network configuration"));
}

#[test]
fn a_pod_has_one_address_of_each_family_of_its_own_interface() {
    let of = |result: Value| {
        result::addresses(&result, "eth0")
            .map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let interfaces = json!([{"name": "eth0"}, {"name": "eth0", "sandbox": "/netns"}, {"name": "net1", "sandbox": "/netns"}]);
    let ips = json!([
        {"address": "10.0.0.1/24", "interface": 0},
        {"address": "fd00::7/64", "interface": 1},
        {"address": "fd00::8/64", "interface": 1},
        {"address": "10.0.0.9/24", "interface": 2},
        {"address": "10.0.0.7/24", "interface": 1},
    ]);
    assert_eq!(of(json!({"interfaces": interfaces, "ips": ips})).unwrap(), ["fd00::7", "10.0.0.7"]);
    // As version 0.3 had it, and plugins that do not say of which interface.
    let old = json!({"ips": [{"version": "4", "address": "10.0.0.7/24"}]});
    assert_eq!(of(old).unwrap(), ["10.0.0.7"]);
    assert!(of(Value::Null).is_err());
    assert_eq!(of(json!({})).unwrap_err(), "the plugins gave the pod's eth0 no address");
    let wrong = of(json!({"ips": [{"address": "10.0.0.7"}]})).unwrap_err();
    assert_eq!(wrong, "the plugins' result has \"10.0.0.7\" for an address");
}
