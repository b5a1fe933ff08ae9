//! What the master and the kubelets have to agree on of endpoints.

use std::net::IpAddr;

/// Whether clients may be sent to an address: to none that means another machine, or another service, to
/// each who is sent there. The API refuses those, but an endpoint can be written past it, and who asks would
/// be led to what listens on a machine for itself alone, or to what a cloud tells its machines.
#[must_use]
pub fn may_be_endpoint(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            // All of 0.0.0.0/8 means this very host.
            let this_host = address.octets()[0] == 0;
            !(this_host
                || address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast())
        }
        IpAddr::V6(address) => {
            !(address.is_unspecified()
                || address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_multicast())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_else_to_everybody_is_no_endpoint() {
        for address in ["192.0.2.1", "10.1.2.3", "2001:db8::1", "fd00::1"] {
            assert!(may_be_endpoint(address.parse().unwrap()), "{address}");
        }
        for address in [
            "127.0.0.1",
            "127.8.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(!may_be_endpoint(address.parse().unwrap()), "{address}");
        }
    }
}
