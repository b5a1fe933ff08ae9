//! What plugins say that a pod has.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    ips: Vec<Address>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct Address {
    /// With the length of its network's prefix.
    address: String,
    interface: Option<usize>,
}

/// The pod's addresses among those of a result, one of each family: those of its interface, in the plugins'
/// order.
pub(super) fn addresses(result: &Value, interface: &str) -> Result<Vec<IpAddr>, String> {
    let answer = Answer::deserialize(result)
        .map_err(|error| format!("the plugins' result makes no sense: {error}"))?;
    let is_pods = |address: &&Address| match address.interface {
        // Plugins may name addresses of the node, too.
        Some(index) => answer
            .interfaces
            .get(index)
            .is_some_and(|found| found.name == interface && !found.sandbox.is_empty()),
        None => true,
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for Address { address, .. } in answer.ips.iter().filter(is_pods) {
        let address = address
            .parse::<IpNet>()
            .map_err(|_| format!("the plugins' result has {address:?} for an address"))?
            .addr();
        if addresses.iter().all(|known| known.is_ipv4() != address.is_ipv4()) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(format!("the plugins gave the pod's {interface} no address"));
    }
    Ok(addresses)
}
