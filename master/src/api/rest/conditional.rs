//! Answers that a client may have already: `ETag` and `If-None-Match`.

use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};

/// The hash that names a document.
pub(crate) fn hash(document: &[u8]) -> String {
    hexadecimal(&Sha256::digest(document))
}

/// A digest as text.
pub(crate) fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// The entity tag of a document, in its quotes.
pub(crate) fn etag(document: &[u8]) -> String {
    format!("\"{}\"", hash(document))
}

/// Whether the client has the document with this tag.
pub(crate) fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|tag| {
        let tag = tag.trim();
        // A proxy that compresses makes a tag weak; the document is the same.
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_tag_in_any_form() {
        let mut headers = HeaderMap::new();
        assert!(!is_known(&headers, "\"A\""));
        for (value, expected) in
            [("\"A\"", true), ("\"B\", W/\"A\"", true), ("*", true), ("A", false), ("\"B\"", false)]
        {
            headers.insert(header::IF_NONE_MATCH, value.parse().unwrap());
            assert_eq!(is_known(&headers, "\"A\""), expected, "{value}");
        }
    }
}
