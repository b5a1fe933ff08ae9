//! Addresses, as users write them.

use std::net::IpAddr;

use super::path::Path;
use crate::api::field_error::{FieldError, FieldErrors};

/// What is wrong with the text of an address, if anything.
pub(super) fn validate(text: &str, path: &Path, errors: &mut FieldErrors) {
    let reason = match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            "must not be an IPv4-mapped IPv6 address"
        }
        Ok(_) => return,
        Err(_) if with_zeros(text) => "must not have leading 0s",
        Err(_) => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
    };
    errors.push(FieldError::invalid(path, text, reason));
}

/// What is wrong with the text of a range of addresses, if anything; the range if that could be read.
pub(super) fn validate_range(
    text: &str,
    path: &Path,
    errors: &mut FieldErrors,
) -> Option<(IpAddr, u8)> {
    let (read, reason) = read_range(text);
    errors.extend(reason.map(|reason| FieldError::invalid(path, text, reason)));
    read
}

fn read_range(text: &str) -> (Option<(IpAddr, u8)>, Option<&'static str>) {
    const MALFORMED: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

    let Some((address, digits)) = text.split_once('/') else { return (None, Some(MALFORMED)) };
    let Ok(network) = address.parse::<IpAddr>() else {
        let zeros = with_zeros(address);
        return (None, Some(if zeros { "must not have leading 0s in IP" } else { MALFORMED }));
    };
    let prefix =
        digits.parse::<u8>().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let bits = if network.is_ipv4() { 32 } else { 128 };
    let Some(prefix) = prefix.filter(|prefix| *prefix <= bits) else {
        return (None, Some(MALFORMED));
    };
    let host_bits = match network {
        IpAddr::V4(ip) => ip.to_bits().checked_shl(prefix.into()).unwrap_or(0) != 0,
        IpAddr::V6(ip) => ip.to_bits().checked_shl(prefix.into()).unwrap_or(0) != 0,
    };
    let reason = match network {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
            Some("must not be an IPv4-mapped IPv6 address")
        }
        _ if digits.len() > 1 && digits.starts_with('0') => {
            Some("must not have leading 0s in prefix length")
        }
        _ if host_bits => Some("must not have bits set beyond the prefix length"),
        _ => None,
    };
    (Some((network, prefix)), reason)
}

/// Whether it is an address once zeros before the numbers are dropped, which others take for octal.
fn with_zeros(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').map(|part| part.trim_start_matches('0')).collect();
    let parts: Vec<&str> =
        parts.into_iter().map(|part| if part.is_empty() { "0" } else { part }).collect();
    text.split('.').all(|part| !part.is_empty()) && parts.join(".").parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_in_one_way() {
        for (text, expected) in [
            ("10.0.0.1", ""),
            ("fd00::1", ""),
            ("010.0.0.1", "must not have leading 0s"),
            ("10.0.0.00", "must not have leading 0s"),
            ("::ffff:10.0.0.1", "must not be an IPv4-mapped IPv6 address"),
            ("", "must be a valid IP address"),
            ("10.0.0.", "must be a valid IP address"),
            ("10.0.0", "must be a valid IP address"),
            ("web", "must be a valid IP address"),
        ] {
            let mut errors = FieldErrors::new();
            validate(text, &Path::new("ip"), &mut errors);
            match expected {
                "" => assert!(errors.is_empty(), "{text}: {errors:?}"),
                _ => assert!(errors[0].detail.starts_with(expected), "{text}: {errors:?}"),
            }
        }
    }

    #[test]
    fn a_range_is_written_in_one_way() {
        for (text, expected) in [
            ("10.0.0.0/8", ""),
            ("0.0.0.0/0", ""),
            ("10.0.0.1/32", ""),
            ("::/0", ""),
            ("fd00::/8", ""),
            ("10.0.0.0", "must be a valid CIDR value"),
            ("10.0.0.0/33", "must be a valid CIDR value"),
            ("10.0.0.0/+8", "must be a valid CIDR value"),
            ("fd00::/129", "must be a valid CIDR value"),
            ("010.0.0.0/8", "must not have leading 0s in IP"),
            ("10.0.0.0/08", "must not have leading 0s in prefix length"),
            ("10.0.0.1/8", "must not have bits set beyond the prefix length"),
            ("fd00::1/64", "must not have bits set beyond the prefix length"),
            ("::ffff:10.0.0.0/120", "must not be an IPv4-mapped IPv6 address"),
        ] {
            let mut errors = FieldErrors::new();
            validate_range(text, &Path::new("cidr"), &mut errors);
            match expected {
                "" => assert!(errors.is_empty(), "{text}: {errors:?}"),
                _ => assert!(errors[0].detail.starts_with(expected), "{text}: {errors:?}"),
            }
        }
    }
}
