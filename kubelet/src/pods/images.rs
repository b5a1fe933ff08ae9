//! Whether an image has to be pulled, and as whom.

use std::collections::BTreeMap;

use base64::Engine;
use proto::ObjectKey;
use proto::k8s::api::core::v1::{Pod, Secret};
use runtime::image::RegistryAuth;
use serde::Deserialize;

use crate::state::ClusterState;

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    /// What was said; without a word, an image without a tag or with `:latest` is always pulled, as
    /// in Kubernetes.
    pub(crate) fn of(said: Option<&str>, image: &str) -> Self {
        match said {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some(_) => Self::IfNotPresent,
            None if is_latest(image) => Self::Always,
            None => Self::IfNotPresent,
        }
    }
}

fn is_latest(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or(image);
    !name.contains('@') && name.rsplit_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// Who one may claim to be when pulling the image, in the order of the pod's pull secrets; nobody
/// when no secret knows the registry. Beside it: secrets that are not there, by their names, and with the reason
/// those that could not be read.
pub(crate) fn credentials(
    pod: &Pod,
    cluster: &ClusterState,
    image: &str,
) -> (Vec<RegistryAuth>, Vec<String>) {
    let (registry, repository) = place_of(image);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let (mut credentials, mut problems) = (Vec::new(), Vec::new());
    let references = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    // An empty name is none, as in Kubernetes.
    let references = references.filter(|reference| !reference.name.is_empty());
    for reference in references {
        let key = ObjectKey::new(namespace, &reference.name);
        let Some(secret) = cluster.secrets.get(&key) else {
            problems.push(reference.name.clone());
            continue;
        };
        match entries(secret) {
            Ok(entries) => credentials.extend(
                entries
                    .into_iter()
                    .filter(|(place, _)| covers(place, &registry, &repository))
                    .filter_map(|(_, entry)| entry.auth()),
            ),
            Err(problem) => {
                problems.push(format!("{}: {problem}", reference.name));
            }
        }
    }
    if credentials.is_empty() {
        credentials.push(RegistryAuth::Anonymous);
    }
    (credentials, problems)
}

/// One registry in a Docker configuration file.
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    /// `base64(user:password)`; wins over the two above.
    #[serde(default)]
    auth: String,
}

#[derive(Deserialize)]
struct DockerConfig {
    auths: BTreeMap<String, Entry>,
}

impl Entry {
    fn auth(self) -> Option<RegistryAuth> {
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(self.auth.trim())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
        let (username, password) = match pair {
            Some((username, password)) => (username.to_owned(), password.to_owned()),
            None => (self.username, self.password),
        };
        (!username.is_empty()).then_some(RegistryAuth::Basic { username, password })
    }
}

/// What a pull secret knows, the most particular places first.
fn entries(secret: &Secret) -> Result<Vec<(String, Entry)>, String> {
    let data = |key: &str| {
        let found = secret.data.as_ref().and_then(|data| data.get(key));
        found.ok_or_else(|| format!("it has no {key}"))
    };
    let auths = match secret.type_.as_deref().unwrap_or("Opaque") {
        "kubernetes.io/dockerconfigjson" => {
            let json = data(".dockerconfigjson")?;
            serde_json::from_slice::<DockerConfig>(&json.0).map_err(|e| e.to_string())?.auths
        }
        "kubernetes.io/dockercfg" => {
            serde_json::from_slice(&data(".dockercfg")?.0).map_err(|e| e.to_string())?
        }
        other => {
            return Err(format!(
                "its type is {other}, which must be kubernetes.io/dockerconfigjson or \
                 kubernetes.io/dockercfg"
            ));
        }
    };
    let mut entries: Vec<_> = auths.into_iter().map(|(place, e)| (normalise(&place), e)).collect();
    entries.sort_by_key(|(place, _)| std::cmp::Reverse(place.len()));
    Ok(entries)
}

/// What one writes about a registry that needs no more than its host: no scheme, no API version.
fn normalise(place: &str) -> String {
    let place = place.strip_prefix("https://").or(place.strip_prefix("http://")).unwrap_or(place);
    let place = place.trim_end_matches('/');
    let place = place.strip_suffix("/v1").or(place.strip_suffix("/v2")).unwrap_or(place);
    match place {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        place => place.to_owned(),
    }
}

/// Registry and repository of an image reference.
fn place_of(image: &str) -> (String, String) {
    let (first, rest) = image.split_once('/').unwrap_or(("", image));
    let is_host = first.contains(['.', ':']) || first == "localhost";
    let (registry, path) = if is_host { (first, rest) } else { ("docker.io", image) };
    let path = path.split('@').next().unwrap_or(path);
    let path = match path.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => path,
        _ => path,
    };
    (normalise(registry), path.to_owned())
}

/// Whether what is said of `place` holds for the repository: the same host, `*` standing for one
/// label of it, and a path that the repository lies in.
fn covers(place: &str, registry: &str, repository: &str) -> bool {
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let (wanted, given): (Vec<&str>, Vec<&str>) =
        (host.split('.').collect(), registry.split('.').collect());
    let host_fits = wanted.len() == given.len()
        && wanted.iter().zip(given).all(|(wanted, given)| *wanted == "*" || *wanted == given);
    let path_fits = path.is_empty()
        || repository
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    host_fits && path_fits
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::k8s::ByteString;

    use super::*;

    #[test]
    fn latest_is_pulled_always_unless_the_pod_says_otherwise() {
        let policy = |image, said| PullPolicy::of(said, image);
        assert_eq!(policy("busybox", None), PullPolicy::Always);
        assert_eq!(policy("host:5000/busybox", None), PullPolicy::Always);
        assert_eq!(policy("busybox:latest", None), PullPolicy::Always);
        assert_eq!(policy("busybox:1.36", None), PullPolicy::IfNotPresent);
        assert_eq!(policy("busybox@sha256:00", None), PullPolicy::IfNotPresent);
        assert_eq!(policy("busybox", Some("Never")), PullPolicy::Never);
    }

    fn credentials_for(image: &str, json: &str) -> (Vec<RegistryAuth>, Vec<String>) {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "shop"},
            "spec": {"containers": [], "imagePullSecrets": [{"name": "regcred"}]}
        }))
        .unwrap();
        let data = [(".dockerconfigjson".to_owned(), ByteString(json.as_bytes().to_vec()))];
        let type_ = Some("kubernetes.io/dockerconfigjson".to_owned());
        let secret = Secret { data: Some(data.into()), type_, ..Secret::default() };
        let mut cluster = ClusterState::default();
        cluster.secrets.insert(ObjectKey::new("shop", "regcred"), Arc::new(secret));
        credentials(&pod, &cluster, image)
    }

    fn basic(username: &str, password: &str) -> RegistryAuth {
        RegistryAuth::Basic { username: username.to_owned(), password: password.to_owned() }
    }

    const CONFIG: &str = r#"{"auths": {
        "https://index.docker.io/v1/": {"auth": "dTpwOnE="},
        "registry.example:5000": {"username": "a", "password": "b"},
        "registry.example:5000/team": {"username": "c", "password": "d"},
        "*.wild.example": {"username": "w", "password": "x"}
    }}"#;

    #[test]
    fn credentials_are_those_of_the_images_registry() {
        let of = |image| credentials_for(image, CONFIG).0;
        assert_eq!(of("busybox"), [basic("u", "p:q")]);
        assert_eq!(of("registry.example:5000/web:1"), [basic("a", "b")]);
        assert_eq!(of("registry.example:5000/team/web"), [basic("c", "d"), basic("a", "b")]);
        assert_eq!(of("registry.example:5000/teams/web"), [basic("a", "b")]);
        assert_eq!(of("eu.wild.example/web"), [basic("w", "x")]);
        assert_eq!(of("a.eu.wild.example/web"), [RegistryAuth::Anonymous]);
        assert_eq!(of("ghcr.io/x/y"), [RegistryAuth::Anonymous]);
    }

    #[test]
    fn a_secret_for_something_else_is_not_used() {
        let data = [(".dockerconfigjson".to_owned(), ByteString(CONFIG.as_bytes().to_vec()))];
        let secret = Secret { data: Some(data.into()), ..Secret::default() };
        let error = entries(&secret).err().unwrap();
        assert!(error.starts_with("its type is Opaque, which must be "), "{error}");
    }

    #[test]
    fn a_broken_secret_is_named() {
        let (credentials, problems) = credentials_for("busybox", "{");
        assert_eq!(credentials, [RegistryAuth::Anonymous]);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("regcred: "), "{problems:?}");
    }
}
