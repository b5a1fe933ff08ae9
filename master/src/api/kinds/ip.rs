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
}
