//! What names, label keys and values, ports and paths may look like.
//!
//! Each function gives all that is wrong with its text, in Kubernetes' words, and nothing when it
//! is well formed. The words say what to do, so they are shown to people unchanged.

/// Longest DNS label, label value, and name part of a qualified name.
pub const MAX_LABEL: usize = 63;
/// Longest DNS subdomain, and so the longest name of most objects.
pub const MAX_SUBDOMAIN: usize = 253;

const DNS_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
     must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used \
     for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
     '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used \
     for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_SUBDOMAIN_WITH_UNDERSCORE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' \
     or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used \
     for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
const DNS_1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
     alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', \
     regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
     alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
     validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
     '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  \
     or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
     'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} characters")
}

fn is_lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn fits_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(&first), Some(&last)) if is_lower(first) && is_lower(last))
        && bytes.iter().all(|&byte| is_lower(byte) || byte == b'-')
}

fn fits_qualified_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last))
        if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// An RFC 1123 label: namespaces, containers, volumes.
pub fn dns_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > MAX_LABEL {
        errors.push(too_long(MAX_LABEL));
    }
    if !fits_dns_label(text) {
        let subdomain = text.split('.').all(fits_dns_label);
        errors.push(if subdomain {
            "must not contain dots".to_owned()
        } else {
            DNS_LABEL.to_owned()
        });
    }
    errors
}

/// An RFC 1123 subdomain: the names of most objects.
pub fn dns_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > MAX_SUBDOMAIN {
        errors.push(too_long(MAX_SUBDOMAIN));
    }
    if !text.split('.').all(fits_dns_label) {
        errors.push(DNS_SUBDOMAIN.to_owned());
    }
    errors
}

/// The same with underscores, as domains of services have them: what resolvers search in.
pub fn dns_subdomain_with_underscore(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > MAX_SUBDOMAIN {
        errors.push(too_long(MAX_SUBDOMAIN));
    }
    let fits = |label: &str| {
        let label = label.strip_prefix('_').unwrap_or(label);
        let ends = [label.bytes().next(), label.bytes().next_back()];
        ends.iter().all(|end| end.is_some_and(is_lower))
            && label.bytes().all(|byte| is_lower(byte) || b"-_".contains(&byte))
    };
    if !text.split('.').all(fits) {
        errors.push(DNS_SUBDOMAIN_WITH_UNDERSCORE.to_owned());
    }
    errors
}

/// An RFC 1035 label, which starts with a letter: services.
pub fn dns_1035_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > MAX_LABEL {
        errors.push(too_long(MAX_LABEL));
    }
    if !fits_dns_label(text) || !text.as_bytes()[0].is_ascii_lowercase() {
        errors.push(DNS_1035_LABEL.to_owned());
    }
    errors
}

/// `name` or `example.com/name`: keys of labels and annotations, names of resources.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let mut parts = text.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors
                    .extend(dns_subdomain(prefix).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            errors.push(format!(
                "a qualified name {QUALIFIED_NAME} with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')"
            ));
            return errors;
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > MAX_LABEL {
        errors.push(format!("name part {}", too_long(MAX_LABEL)));
    }
    if !fits_qualified_part(name) {
        errors.push(format!("name part {QUALIFIED_NAME}"));
    }
    errors
}

/// The value of a label; may be empty.
pub fn label_value(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > MAX_LABEL {
        errors.push(too_long(MAX_LABEL));
    }
    if !text.is_empty() && !fits_qualified_part(text) {
        errors.push(LABEL_VALUE.to_owned());
    }
    errors
}

/// The name of a container's port, at most fifteen characters (RFC 6335).
pub fn port_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 15 {
        errors.push(too_long(15));
    }
    if !text.bytes().all(|byte| is_lower(byte) || byte == b'-') {
        errors.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// The number of a port.
pub fn port_number(port: i32) -> Vec<String> {
    if (1..=65535).contains(&port) {
        Vec::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".to_owned()]
    }
}

/// The name of an environment variable.
pub fn env_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=') {
        Vec::new()
    } else {
        vec![
            "a valid environment variable name must consist only of printable ASCII characters other \
             than '='"
                .to_owned(),
        ]
    }
}

/// A key of a ConfigMap or Secret; it becomes the name of a file.
pub fn config_key(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > MAX_SUBDOMAIN {
        errors.push(too_long(MAX_SUBDOMAIN));
    }
    if text.is_empty()
        || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    {
        errors.push(CONFIG_KEY.to_owned());
    }
    match text {
        "." => errors.push("must not be '.'".to_owned()),
        ".." => errors.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => errors.push("must not start with '..'".to_owned()),
        _ => {}
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rule = fn(&str) -> Vec<String>;

    #[track_caller]
    fn check(rule: Rule, good: &[&str], bad: &[(&str, &str)]) {
        for text in good {
            assert_eq!(rule(text), Vec::<String>::new(), "{text:?}");
        }
        for (text, fragment) in bad {
            let errors = rule(text);
            assert!(errors.iter().any(|e| e.contains(fragment)), "{text:?}: {errors:?}");
        }
    }

    #[test]
    fn names_follow_dns() {
        let long = "a".repeat(64);
        check(
            dns_label,
            &["a", "0", "a-b", &"a".repeat(63)],
            &[
                ("", "1123 label"),
                ("A", "1123 label"),
                ("a.b", "must not contain dots"),
                ("-a", "1123 label"),
                ("a_b", "1123 label"),
                (&long, "no more than 63"),
            ],
        );
        check(
            dns_subdomain,
            &["a", "a.b", "1.2-3"],
            &[
                ("", "subdomain"),
                ("a..b", "subdomain"),
                (".a", "subdomain"),
                ("ä", "subdomain"),
                (&"a.".repeat(127), "subdomain"),
                (&"a".repeat(254), "no more than 253"),
            ],
        );
        check(dns_1035_label, &["a", "a1-b"], &[("", "1035"), ("1a", "1035"), ("a.b", "1035")]);
    }

    #[test]
    fn label_keys_are_qualified_names() {
        let long = "a".repeat(64);
        check(
            qualified_name,
            &["a", "A_b.c", "example.com/a", "kubernetes.io/os"],
            &[
                ("", "name part must be non-empty"),
                ("/a", "prefix part must be non-empty"),
                ("a/", "name part must be non-empty"),
                ("A.b/c", "prefix part a lowercase"),
                ("a/b/c", "with an optional DNS subdomain prefix"),
                (&long, "name part must be no more than 63"),
                ("a b", "name part must consist"),
            ],
        );
        check(
            label_value,
            &["", "a", "1.2_3"],
            &[("-a", "a valid label"), (&long, "no more than 63")],
        );
    }

    #[test]
    fn ports_keys_and_variables_have_their_own_rules() {
        check(
            port_name,
            &["http", "p-1"],
            &[
                ("1", "at least one letter"),
                ("a--b", "consecutive"),
                ("-a", "begin or end"),
                ("Http", "alpha-numeric"),
                ("abcdefghijklmnop", "no more than 15"),
            ],
        );
        check(
            config_key,
            &["a", "A_b.c-d", ".hidden"],
            &[
                (".", "must not be '.'"),
                ("..", "must not be '..'"),
                ("..a", "start with"),
                ("a/b", "config key"),
                ("", "config key"),
            ],
        );
        check(
            env_name,
            &["A", "a.b", "9-x"],
            &[("", "printable"), ("a=b", "printable"), ("ä", "printable")],
        );
        assert!(
            port_number(0).len() == 1
                && port_number(65536).len() == 1
                && port_number(80).is_empty()
        );
    }
}
