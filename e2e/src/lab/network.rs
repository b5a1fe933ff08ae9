//! The cables of the lab.

use std::process::Command;

use anyhow::Result;

use super::Machine;
use super::machine::checked;

/// The bridge in the hub.
const BRIDGE: &str = "lab0";
/// The interface of each machine.
pub(crate) const UPLINK: &str = "eth0";

/// Makes the hub's bridge, and sends what is meant for pods and services nowhere: a probe that no
/// node answers must not find another way.
pub(crate) fn set_up_hub(hub: &Machine) -> Result<()> {
    let address = format!("{}/24", hub.address);
    for command in [
        &["ip", "link", "set", "lo", "up"][..],
        &["ip", "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0"],
        &["ip", "address", "add", &address, "dev", BRIDGE],
        &["ip", "link", "set", BRIDGE, "up"],
        &["ip", "route", "add", "unreachable", "10.244.0.0/16"],
        &["ip", "route", "add", "unreachable", "10.96.0.0/16"],
    ] {
        hub.run(command)?;
    }
    Ok(())
}

/// Lays a cable from a machine to the hub.
pub(crate) fn connect(hub: &Machine, machine: &Machine) -> Result<()> {
    let port = port(machine);
    let (pid, address) = (machine.init_pid.to_string(), format!("{}/24", machine.address));
    let words = ["ip", "link", "add", &port, "type", "veth", "peer", "name", UPLINK, "netns", &pid];
    // Process ids are the host's here, so the hub's process namespace is not entered.
    let mut command = Command::new("nsenter");
    command.args(["--target", &hub.init_pid.to_string(), "--net", "--"]).args(words);
    checked(&mut command, &words)?;
    hub.run(&["ip", "link", "set", &port, "master", BRIDGE, "up"])?;
    let gateway = hub.address.to_string();
    for command in [
        &["ip", "link", "set", "lo", "up"][..],
        &["ip", "address", "add", &address, "dev", UPLINK],
        &["ip", "link", "set", UPLINK, "up"],
        &["ip", "route", "add", "default", "via", &gateway],
    ] {
        machine.run(command)?;
    }
    Ok(())
}

/// Pulls the cable, or puts it back.
pub(crate) fn set_connected(hub: &Machine, machine: &Machine, connected: bool) -> Result<()> {
    let state = if connected { "up" } else { "down" };
    hub.run(&["ip", "link", "set", &port(machine), state]).map(drop)
}

fn port(machine: &Machine) -> String {
    format!("to-{}", machine.name)
}
