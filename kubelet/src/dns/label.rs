//! Addresses as labels of names: `10-244-1-7`, `fd00-10-244--7`. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The label of an address.
pub(crate) fn of_address(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string().replace('.', "-"),
        // A label neither begins nor ends with a hyphen.
        IpAddr::V6(address) => {
            let text = address.to_string().replace([':', '.'], "-");
            let before = if text.starts_with('-') { "0" } else { "" };
            let after = if text.ends_with('-') { "0" } else { "" };
            format!("{before}{text}{after}")
        }
    }
}

/// The address that a label stands for, in any of its spellings.
pub(crate) fn address(label: &str) -> Option<IpAddr> {
    let dotted = label.replace('-', ".");
    if let Ok(address) = dotted.parse::<Ipv4Addr>() {
        return Some(address.into());
    }
    Some(label.replace('-', ":").parse::<Ipv6Addr>().ok()?.into())
}

#[cfg(test)]
mod tests {
    use super::{address, of_address};

    #[test]
    fn labels_lead_back_to_their_addresses() {
        for (text, label) in [
            ("10.244.1.7", "10-244-1-7"),
            ("fd00:10:244::7", "fd00-10-244--7"),
            ("fd00:10::", "fd00-10--0"),
            ("::1", "0--1"),
            ("::", "0--0"),
        ] {
            let known = text.parse().unwrap();
            assert_eq!(of_address(known), label);
            assert_eq!(address(label), Some(known), "{label}");
        }
        for label in ["web-0", "10-244-1", "10-244-1-256", "10-244-1-07", "g--1", "-", ""] {
            assert_eq!(address(label), None, "{label}");
        }
    }
}
