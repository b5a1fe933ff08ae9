//! What a path means: `/api/v1/namespaces/default/pods/web/log` and its like.

use std::borrow::Cow;

/// A path under `/api` or `/apis`, taken apart. Whether there is such a resource is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/<group>`
    Group {
        group: String,
    },
    /// `/api/v1`, `/apis/<group>/<version>`
    Resources {
        group: String,
        version: String,
    },
    Resource(ResourceTarget),
}

/// A path that names objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourceTarget {
    /// Empty for the core group.
    pub(crate) group: String,
    pub(crate) version: String,
    /// Nothing where the path names no namespace: cluster-scoped objects, or all namespaces.
    pub(crate) namespace: Option<String>,
    pub(crate) plural: String,
    /// Nothing: the collection.
    pub(crate) name: Option<String>,
    /// `status`, `log` …
    pub(crate) subresource: Option<String>,
}

impl Target {
    /// Nothing when the path is none of the API's, or broken.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let mut segments = Vec::new();
        for segment in path.trim_matches('/').split('/') {
            let segment = decode(segment)?;
            if segment.is_empty() {
                return None;
            }
            segments.push(segment.into_owned());
        }
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let owned = |text: &str| text.to_owned();
        match segments.as_slice() {
            ["api"] => Some(Self::CoreVersions),
            ["apis"] => Some(Self::Groups),
            ["apis", group] => Some(Self::Group { group: owned(group) }),
            ["api", version] => {
                Some(Self::Resources { group: String::new(), version: owned(version) })
            }
            ["apis", group, version] => {
                Some(Self::Resources { group: owned(group), version: owned(version) })
            }
            ["api", version, rest @ ..] => resource("", version, rest).map(Self::Resource),
            ["apis", group, version, rest @ ..] => {
                resource(group, version, rest).map(Self::Resource)
            }
            _ => None,
        }
    }
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Option<ResourceTarget> {
    let target = |namespace: Option<&str>, plural: &str, rest: &[&str]| {
        let (name, subresource) = match rest {
            [] => (None, None),
            [name] => (Some(*name), None),
            [name, subresource] => (Some(*name), Some(*subresource)),
            _ => return None,
        };
        Some(ResourceTarget {
            group: group.to_owned(),
            version: version.to_owned(),
            namespace: namespace.map(str::to_owned),
            plural: plural.to_owned(),
            name: name.map(str::to_owned),
            subresource: subresource.map(str::to_owned),
        })
    };
    match rest {
        // A namespace's own subresources come before resources of the same name; there are none.
        ["namespaces", name, sub @ ("status" | "finalize")] => {
            target(None, "namespaces", &[name, sub])
        }
        ["namespaces", namespace, plural, rest @ ..] => target(Some(namespace), plural, rest),
        [plural, rest @ ..] => target(None, plural, rest),
        [] => None,
    }
}

/// Undoes percent-encoding.
fn decode(segment: &str) -> Option<Cow<'_, str>> {
    if !segment.contains('%') {
        return Some(Cow::Borrowed(segment));
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    // A slash inside a segment would build keys of other objects.
    let text = String::from_utf8(bytes).ok()?;
    (!text.contains('/') && !text.contains('\0')).then_some(Cow::Owned(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(path: &str) -> ResourceTarget {
        match Target::parse(path) {
            Some(Target::Resource(target)) => target,
            other => panic!("{path} is {other:?}"),
        }
    }

    #[test]
    fn takes_paths_apart() {
        let target = parsed("/api/v1/namespaces/default/pods/web/log");
        assert_eq!(target.namespace.as_deref(), Some("default"));
        assert_eq!(target.plural, "pods");
        assert_eq!(target.name.as_deref(), Some("web"));
        assert_eq!(target.subresource.as_deref(), Some("log"));
        let target = parsed("/apis/discovery.k8s.io/v1/endpointslices");
        assert_eq!((target.group.as_str(), target.version.as_str()), ("discovery.k8s.io", "v1"));
        assert_eq!((target.namespace, target.name), (None, None));
        let target = parsed("/api/v1/namespaces/default/status");
        assert_eq!((target.plural.as_str(), target.namespace), ("namespaces", None));
        assert_eq!(target.subresource.as_deref(), Some("status"));
        assert_eq!(parsed("/api/v1/namespaces/a").name.as_deref(), Some("a"));
        assert_eq!(parsed("/api/v1/nodes/a%2eb").name.as_deref(), Some("a.b"));
        assert_eq!(Target::parse("/api"), Some(Target::CoreVersions));
        assert_eq!(Target::parse("/apis/"), Some(Target::Groups));
    }

    #[test]
    fn refuses_paths_that_could_reach_other_keys() {
        for path in ["/api/v1/pods/a%2fb", "/api/v1//pods", "/api/v1/pods/%zz", "/other", "/"] {
            assert_eq!(Target::parse(path), None, "{path}");
        }
        assert_eq!(Target::parse("/api/v1/namespaces/a/pods/b/proxy/c"), None);
    }
}
