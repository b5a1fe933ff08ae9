//! The cables of the lab.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;

use anyhow::Result;

use super::Machine;
use super::machine::checked;

/// Which host the hub is, on each segment.
pub(crate) const HUB: u8 = 1;
/// The interface of each machine.
pub(crate) const UPLINK: &str = "eth0";
/// What is meant for pods and Services goes nowhere on the hub: a probe that no node answers must not
/// find another way.
const UNREACHABLE: [&str; 4] =
    ["10.244.0.0/16", "10.96.0.0/16", "fd00:10:244::/56", "fd00:10:96::/112"];

/// What a master is told of the ranges above.
pub(crate) const BOTH_FAMILIES: [&str; 2] =
    ["--pod-cidr=10.244.0.0/16,fd00:10:244::/56", "--service-cidr=10.96.0.0/16,fd00:10:96::/112"];

/// The addresses of a host on a segment, which is a bridge in the hub.
pub(crate) fn addresses(segment: u8, host: u8) -> (Ipv4Addr, Ipv6Addr) {
    let v6 = Ipv6Addr::new(0xfd00, 0x77, 0, segment.into(), 0, 0, 0, host.into());
    (Ipv4Addr::new(10, 77, segment, host), v6)
}

fn segment(machine: &Machine) -> u8 {
    machine.address.octets()[2]
}

fn bridge(segment: u8) -> String {
    format!("lab{segment}")
}

/// Makes the hub's bridges, and the hub the router between them.
pub(crate) fn set_up_hub(hub: &Machine, segments: u8) -> Result<()> {
    hub.run(&["ip", "link", "set", "lo", "up"])?;
    for range in UNREACHABLE {
        hub.run(&["ip", "route", "add", "unreachable", range])?;
    }
    for number in 0..segments {
        let bridge = bridge(number);
        hub.run(&["ip", "link", "add", &bridge, "type", "bridge", "forward_delay", "0"])?;
        give(hub, &bridge, addresses(number, HUB))?;
        hub.run(&["ip", "link", "set", &bridge, "up"])?;
    }
    if segments > 1 {
        hub.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])?;
    }
    Ok(())
}

/// Gives an interface addresses of both families.
fn give(machine: &Machine, interface: &str, (v4, v6): (Ipv4Addr, Ipv6Addr)) -> Result<()> {
    let (v4, v6) = (format!("{v4}/24"), format!("{v6}/64"));
    machine.run(&["ip", "address", "add", &v4, "dev", interface])?;
    machine.run(&["ip", "address", "add", &v6, "dev", interface, "nodad"]).map(drop)
}

/// Lays a cable from a machine to its segment.
pub(crate) fn connect(hub: &Machine, machine: &Machine) -> Result<()> {
    let (port, pid, segment) = (port(machine), machine.init_pid.to_string(), segment(machine));
    let words = ["ip", "link", "add", &port, "type", "veth", "peer", "name", UPLINK, "netns", &pid];
    // Process ids are the host's here, so the hub's process namespace is not entered.
    let mut command = Command::new("nsenter");
    command.args(["--target", &hub.init_pid.to_string(), "--net", "--"]).args(words);
    checked(&mut command, &words)?;
    hub.run(&["ip", "link", "set", &port, "master", &bridge(segment), "up"])?;
    machine.run(&["ip", "link", "set", "lo", "up"])?;
    give(machine, UPLINK, (machine.address, machine.address6))?;
    machine.run(&["ip", "link", "set", UPLINK, "up"])?;
    let (v4, v6) = addresses(segment, HUB);
    for gateway in [v4.to_string(), v6.to_string()] {
        machine.run(&["ip", "route", "add", "default", "via", &gateway])?;
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
