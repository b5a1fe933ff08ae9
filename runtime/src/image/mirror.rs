//! Registries that are asked before the one that an image names.

use super::reference::{DEFAULT_REGISTRY, check_registry};

/// Another place for the images of a registry, as `docker.io=https://mirror.example:5000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryMirror {
    /// Whose images it has, as in a full image reference; `*` is every registry.
    pub registry: String,
    /// Where it is, as `host` or `host:port`.
    pub host: String,
    /// Whether it is spoken to in plain HTTP.
    pub plain_http: bool,
}

impl RegistryMirror {
    /// Whether it may have images of this registry.
    pub(super) fn serves(&self, registry: &str) -> bool {
        self.registry == "*" || self.registry == registry
    }
}

/// Text that names no mirror.
#[derive(Debug, thiserror::Error)]
#[error("\"{text}\" names no mirror: {reason}; write REGISTRY=https://HOST:PORT")]
pub struct InvalidMirror {
    text: String,
    reason: String,
}

impl std::str::FromStr for RegistryMirror {
    type Err = InvalidMirror;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid =
            |reason: &str| InvalidMirror { text: text.to_owned(), reason: reason.to_owned() };
        let (registry, url) = text.split_once('=').ok_or_else(|| invalid("it has no \"=\""))?;
        let (plain_http, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(invalid("the mirror is no http or https address")),
        };
        let host = rest.strip_suffix('/').unwrap_or(rest);
        if host.contains('/') {
            return Err(invalid("a mirror has no path"));
        }
        if registry != "*" {
            check_registry(registry).map_err(|reason| invalid(&reason))?;
        }
        check_registry(host).map_err(|reason| invalid(&reason))?;
        let registry = match registry {
            "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
            registry => registry,
        };
        Ok(Self { registry: registry.to_owned(), host: host.to_owned(), plain_http })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_a_registry_and_an_address() {
        let mirror = |text: &str| text.parse::<RegistryMirror>();
        let is = |registry: &str, host: &str, plain_http| RegistryMirror {
            registry: registry.to_owned(),
            host: host.to_owned(),
            plain_http,
        };
        for (text, expected) in [
            ("docker.io=https://mirror.example", is("docker.io", "mirror.example", false)),
            ("index.docker.io=https://a:5000/", is("docker.io", "a:5000", false)),
            ("*=http://10.0.0.1:5000", is("*", "10.0.0.1:5000", true)),
            ("quay.io:443=http://[fd00::1]:80", is("quay.io:443", "[fd00::1]:80", true)),
        ] {
            assert_eq!(mirror(text).unwrap(), expected, "{text}");
        }
        for text in [
            "docker.io",
            "docker.io=mirror",
            "=https://a",
            "a=https://",
            "a=https://b/c",
            "a b=https://c",
        ] {
            let error = mirror(text).unwrap_err().to_string();
            assert!(
                error.contains(text) && error.contains("REGISTRY=https://HOST:PORT"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_star_serves_every_registry() {
        let mirror = |text: &str| text.parse::<RegistryMirror>().unwrap();
        assert!(mirror("*=https://m").serves("quay.io"));
        assert!(mirror("quay.io=https://m").serves("quay.io"));
        assert!(!mirror("quay.io=https://m").serves("docker.io"));
    }
}
