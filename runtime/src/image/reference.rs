//! Image references: `registry/repository:tag@digest`, by the grammar of the
//! [distribution project](https://github.com/distribution/reference/blob/main/reference.go).
//!
//! Parsed by hand: the regular expression that `oci-spec` builds for it takes 7 MB, for as long as
//! the process lives, which is more than all else that an idle agent has on its heap.

use std::net::Ipv6Addr;

use oci_client::Reference;

use super::ImageError;

pub(super) const DEFAULT_REGISTRY: &str = "docker.io";
/// What Docker once called it.
const DEFAULT_REGISTRY_ALIAS: &str = "index.docker.io";
/// Holds the images of the default registry that are named without an owner.
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const MAX_REPOSITORY_LENGTH: usize = 255;
const MAX_TAG_LENGTH: usize = 128;

/// The full form of an image reference: `busybox` is `docker.io/library/busybox:latest`.
///
/// # Errors
/// When the text is no image reference.
pub fn normalise_reference(reference: &str) -> Result<String, ImageError> {
    parse_reference(reference).map(|reference| reference.whole())
}

pub(super) fn parse_reference(reference: &str) -> Result<Reference, ImageError> {
    parse(reference)
        .map_err(|reason| ImageError::InvalidReference { reference: reference.to_owned(), reason })
}

fn parse(text: &str) -> Result<Reference, String> {
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (text, None),
    };
    // A colon before the last slash is that of the registry's port.
    let path_begins = named.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match named[path_begins..].rfind(':') {
        Some(colon) => (&named[..path_begins + colon], Some(&named[path_begins + colon + 1..])),
        None => (named, None),
    };
    let (registry, repository) = split_registry(name)?;
    check_repository(&repository)?;
    tag.map_or(Ok(()), check_tag)?;
    digest.map_or(Ok(()), check_digest)?;
    let tag = tag.map(str::to_owned);
    Ok(match (tag, digest.map(str::to_owned)) {
        (Some(tag), Some(digest)) => {
            Reference::with_tag_and_digest(registry, repository, tag, digest)
        }
        (None, Some(digest)) => Reference::with_digest(registry, repository, digest),
        (tag, None) => {
            let tag = tag.unwrap_or_else(|| DEFAULT_TAG.to_owned());
            Reference::with_tag(registry, repository, tag)
        }
    })
}

/// The registry and the repository in it. What comes before the first slash is a registry when it
/// cannot be an owner's name.
fn split_registry(name: &str) -> Result<(String, String), String> {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.contains(|letter: char| letter.is_ascii_uppercase()) =>
        {
            check_registry(first)?;
            (if first == DEFAULT_REGISTRY_ALIAS { DEFAULT_REGISTRY } else { first }, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    };
    let is_official = registry == DEFAULT_REGISTRY && !repository.is_empty();
    let prefix = if is_official && !repository.contains('/') { OFFICIAL_PREFIX } else { "" };
    Ok((registry.to_owned(), format!("{prefix}{repository}")))
}

pub(super) fn check_registry(registry: &str) -> Result<(), String> {
    let wrong = || {
        Err(format!(
            "the registry \"{registry}\" must be a host name or an address, with :port or without"
        ))
    };
    let (is_host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return wrong() };
            (address.parse::<Ipv6Addr>().is_ok(), (!port.is_empty()).then_some(port))
        }
        None => {
            let end = registry.find(':').unwrap_or(registry.len());
            let (host, port) = registry.split_at(end);
            (host.split('.').all(is_host_label), (!port.is_empty()).then_some(port))
        }
    };
    let is_port = port.is_none_or(|port| {
        port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
    });
    if is_host && is_port { Ok(()) } else { wrong() }
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn check_repository(repository: &str) -> Result<(), String> {
    if repository.is_empty() {
        return Err("the repository's name is missing".to_owned());
    }
    if repository.len() > MAX_REPOSITORY_LENGTH {
        return Err(format!("the repository's name has more than {MAX_REPOSITORY_LENGTH} letters"));
    }
    if repository.contains(|letter: char| letter.is_ascii_uppercase()) {
        return Err(format!("the repository \"{repository}\" must be in lowercase"));
    }
    if let Some(wrong) = repository.split('/').find(|part| !is_path_component(part)) {
        return Err(format!(
            "the repository's part \"{wrong}\" must be lowercase letters and digits, with single \
             '.', '_', '__' or any number of '-' between them"
        ));
    }
    Ok(())
}

/// Letters and digits, separated by one of `.`, `_`, `__` or dashes.
fn is_path_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    is_word(*first)
        && is_word(*last)
        && bytes.split(|byte| is_word(*byte)).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__")
                || separator.iter().all(|byte| *byte == b'-')
        })
}

fn check_tag(tag: &str) -> Result<(), String> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let begins_well = tag.bytes().next().is_some_and(is_word);
    let is_tag = begins_well
        && tag.len() <= MAX_TAG_LENGTH
        && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'));
    if is_tag {
        return Ok(());
    }
    Err(format!(
        "the tag \"{tag}\" must be 1 to {MAX_TAG_LENGTH} letters, digits, '_', '.' and '-', the first none of the last two"
    ))
}

fn check_digest(digest: &str) -> Result<(), String> {
    let (algorithm, hex) = digest.split_once(':').unwrap_or((digest, ""));
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => {
            return Err(format!(
                "the digest \"{digest}\" must begin with sha256:, sha384: or sha512:"
            ));
        }
    };
    let is_hex = hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex && hex.len() == length {
        return Ok(());
    }
    Err(format!(
        "the digest \"{digest}\" must have {length} lowercase hexadecimal digits after its colon"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_has_a_full_form() {
        let digest = format!("sha256:{}", "0f".repeat(32));
        let long = format!("a/{}", "b".repeat(253));
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("owner/tool", "docker.io/owner/tool:latest".to_owned()),
            ("localhost/tool", "localhost/tool:latest".to_owned()),
            ("localhost:5000/tool:v1", "localhost:5000/tool:v1".to_owned()),
            ("host:5000/tool", "host:5000/tool:latest".to_owned()),
            ("Host/tool", "Host/tool:latest".to_owned()),
            ("10.77.0.1:5000/a/b/c:x", "10.77.0.1:5000/a/b/c:x".to_owned()),
            ("[fd00::1]:5000/tool", "[fd00::1]:5000/tool:latest".to_owned()),
            ("kutter.example/demo:1", "kutter.example/demo:1".to_owned()),
            ("a.b/c__d/e-f---g.h_i", "a.b/c__d/e-f---g.h_i:latest".to_owned()),
            (&format!("tool@{digest}"), format!("docker.io/library/tool@{digest}")),
            (&format!("x.y/tool:1@{digest}"), format!("x.y/tool:1@{digest}")),
            (&long, format!("docker.io/{long}:latest")),
        ] {
            assert_eq!(normalise_reference(text).unwrap(), full, "{text}");
        }
    }

    #[test]
    fn what_is_none_is_explained() {
        let long = "b".repeat(256);
        let tag = format!("a:{}", "t".repeat(129));
        let short = "a@sha256:0f";
        let upper = format!("a@sha256:{}", "0F".repeat(32));
        for (text, reason) in [
            ("", "is missing"),
            ("a.b/", "is missing"),
            (":1", "is missing"),
            ("Busybox", "must be in lowercase"),
            ("a/B", "must be in lowercase"),
            ("a b", "part \"a b\""),
            ("a//b", "part \"\""),
            ("a/b/", "part \"\""),
            ("-a", "part \"-a\""),
            ("a..b", "part \"a..b\""),
            ("a___b", "part \"a___b\""),
            ("a._b", "part \"a._b\""),
            ("é", "part \"é\""),
            ("https://a.b/c", "registry \"https:\""),
            ("a.b:x/c", "registry \"a.b:x\""),
            ("a.b:65536/c", "registry \"a.b:65536\""),
            ("a..b/c", "registry \"a..b\""),
            ("-a.b/c", "registry \"-a.b\""),
            ("[fd00::1/c", "registry \"[fd00::1\""),
            ("[fd00::g]/c", "registry \"[fd00::g]\""),
            ("a:", "tag \"\""),
            ("a:-1", "tag \"-1\""),
            ("a:b c", "tag \"b c\""),
            (&tag, "tag \"ttt"),
            ("a@", "digest \"\""),
            ("a@md5:00", "must begin with sha256:"),
            (short, "64 lowercase hexadecimal"),
            (&upper, "64 lowercase hexadecimal"),
            (&long, "more than 255"),
        ] {
            let error = normalise_reference(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
