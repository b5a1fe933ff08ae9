//! The kernel's settings that a pod network needs, of the network namespace of the calling thread.

use std::fs;
use std::io;
use std::path::Path;

use ipnet::IpNet;

use super::links::VETH_PREFIX;

/// Where the settings of IPv6 interfaces are, a folder for each.
const IPV6: &str = "/proc/sys/net/ipv6/conf";

/// Lets the node pass packets of its pods' families on.
pub(crate) fn allow_forwarding(ranges: &[IpNet]) -> io::Result<()> {
    let has = |ipv4: bool| ranges.iter().any(|range| matches!(range, IpNet::V4(_)) == ipv4);
    if has(true) {
        set_once("/proc/sys/net/ipv4/ip_forward", "1")?;
    }
    if has(false) {
        forward_ipv6()?;
    }
    Ok(())
}

/// An interface hears no router any more once the node is one itself, and the routes it had heard of
/// are dropped: those that listened until now are told to go on first.
fn forward_ipv6() -> io::Result<()> {
    let forwarding = format!("{IPV6}/all/forwarding");
    if read(&forwarding)? == "1" {
        // The operator's decision, who may have told interfaces not to listen.
        return Ok(());
    }
    for interface in fs::read_dir(IPV6)? {
        let interface = interface?;
        let name = interface.file_name();
        let name = name.to_string_lossy();
        if matches!(&*name, "all" | "default" | "lo") || name.starts_with(VETH_PREFIX) {
            continue;
        }
        match listen_on(&interface.path().join("accept_ra")) {
            // The interface is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    set_once(&forwarding, "1")
}

fn listen_on(accept_ra: &Path) -> io::Result<()> {
    if fs::read_to_string(accept_ra)?.trim() == "1" {
        fs::write(accept_ra, "2")?;
    }
    Ok(())
}

/// The bridge, and the tunnels, of a node whose pods have IPv6 addresses. Nobody beside the node has its addresses, so
/// none has to be waited for; and no pod can tell the node of routers.
pub(crate) fn ipv6_of_node(name: &str) -> io::Result<()> {
    for (setting, value) in [("disable_ipv6", "0"), ("accept_ra", "0"), ("accept_dad", "0")] {
        set_once(&format!("{IPV6}/{name}/{setting}"), value)?;
    }
    Ok(())
}

/// The node does not tell pods of shorter ways. It would whenever one reaches another through a Service, for both are
/// behind the same bridge; none heeds it (below), and older kernels count it against the refusals that they send
/// to a pod in a second, which then are not sent. An interface is silent when all are, too; the others keep
/// their own word.
pub(crate) fn silence_redirects(bridge: &str) -> io::Result<()> {
    for interface in ["all", bridge] {
        set_once(&format!("/proc/sys/net/ipv4/conf/{interface}/send_redirects"), "0")?;
    }
    Ok(())
}

/// Before a pod's interface comes, inside its namespace. The node is the only way out, whatever it may
/// say of shorter ones (it says so because packets between two pods leave it over the bridge they
/// came from), and whatever others say. There are no link-local addresses: what is sent to one goes
/// from port to port, past the node's rules.
pub(crate) fn prepare_pod(has_ipv6: bool) -> io::Result<()> {
    set_once("/proc/sys/net/ipv4/conf/all/accept_redirects", "0")?;
    set_once("/proc/sys/net/ipv4/conf/default/accept_redirects", "0")?;
    if has_ipv6 {
        for setting in ["all/disable_ipv6", "default/disable_ipv6"] {
            set_once(&format!("{IPV6}/{setting}"), "0")?;
        }
    } else if !Path::new(IPV6).exists() {
        return Ok(());
    }
    // The kernel's "none" of the ways to make a link-local address is 1.
    let settings = [
        ("addr_gen_mode", "1"),
        ("accept_ra", "0"),
        ("accept_dad", "0"),
        ("accept_redirects", "0"),
    ];
    for (setting, value) in settings {
        set_once(&format!("{IPV6}/default/{setting}"), value)?;
    }
    Ok(())
}

/// Writes only what differs: the folder may be read-only where all is well already.
pub(crate) fn set_once(path: &str, value: &str) -> io::Result<()> {
    if read(path)? != value {
        fs::write(path, value).map_err(|error| at(path, &error))?;
    }
    Ok(())
}

fn read(path: &str) -> io::Result<String> {
    let text = fs::read_to_string(path).map_err(|error| at(path, &error))?;
    Ok(text.trim().to_owned())
}

fn at(path: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}
