//! Who may have an image that is present.
//!
//! Pods share what their node has fetched. An image that came with credentials is therefore for those only who
//! show the same ones, or whom its registry lets have it when it is asked again: whoever knows a private
//! image's name would get it otherwise. Kubernetes calls it `KubeletEnsureSecretPulledImages`, and its default
//! policy is ours: what nobody has fetched from a registry, such as an imported image, is for all.

use std::collections::BTreeMap;

use oci_client::Reference;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::RegistryAuth;
use super::store::hex;

/// So many credentials are remembered of a repository, the latest: registries give tokens that change by the
/// hour. Whoever shows a forgotten one is looked up at the registry again.
const MAX_REMEMBERED: usize = 64;

/// What is remembered of an image, by repository: the same image may be public in one and private in another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Access(BTreeMap<String, Admitted>);

/// Whom a repository has let have the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Admitted {
    anyone: bool,
    /// Digests of credentials, the latest last.
    credentials: Vec<String>,
}

impl Access {
    /// The repository of the reference has let somebody have it.
    pub(super) fn given(reference: &Reference, auth: &RegistryAuth) -> Self {
        let repository = repository(reference);
        let credentials = digest(&repository, auth);
        let admitted = Admitted {
            anyone: credentials.is_none(),
            credentials: credentials.into_iter().collect(),
        };
        Self([(repository, admitted)].into())
    }

    /// The node's administrator has put it there under these names.
    pub(super) fn for_all(references: &[Reference]) -> Self {
        let admitted = Admitted { anyone: true, credentials: Vec::new() };
        Self(references.iter().map(|name| (repository(name), admitted.clone())).collect())
    }

    /// Whether whoever shows these may have it under this reference.
    pub(super) fn is_open_to(&self, reference: &Reference, auth: &[RegistryAuth]) -> bool {
        let repository = repository(reference);
        match self.0.get(&repository) {
            Some(admitted) => {
                let mut shown = auth.iter().filter_map(|auth| digest(&repository, auth));
                admitted.anyone || shown.any(|shown| admitted.credentials.contains(&shown))
            }
            // It did not come from a registry, or before this was remembered.
            None => self.0.is_empty(),
        }
    }

    /// Adds what was remembered before.
    pub(super) fn follow(&mut self, before: Self) {
        for (repository, earlier) in before.0 {
            let admitted = self.0.entry(repository).or_default();
            admitted.anyone |= earlier.anyone;
            let mut all = earlier.credentials;
            all.retain(|one| !admitted.credentials.contains(one));
            all.append(&mut admitted.credentials);
            admitted.credentials = all.split_off(all.len().saturating_sub(MAX_REMEMBERED));
        }
    }
}

fn repository(reference: &Reference) -> String {
    format!("{}/{}", reference.registry(), reference.repository())
}

/// Nothing of nobody's.
fn digest(repository: &str, auth: &RegistryAuth) -> Option<String> {
    let RegistryAuth::Basic { username, password } = auth else { return None };
    let mut hash = Sha256::new();
    for part in [repository, username, password] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Some(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::reference::parse_reference;

    fn basic(password: &str) -> RegistryAuth {
        RegistryAuth::Basic { username: "me".to_owned(), password: password.to_owned() }
    }

    #[test]
    fn an_image_is_for_who_could_have_fetched_it() {
        let image = |name: &str| parse_reference(name).unwrap();
        let mut access = Access::given(&image("a.example/web:1"), &basic("x"));
        let open =
            |access: &Access, name, auth: &[RegistryAuth]| access.is_open_to(&image(name), auth);
        assert!(open(&access, "a.example/web:2", &[basic("y"), basic("x")]));
        assert!(!open(&access, "a.example/web:1", &[basic("y")]));
        assert!(!open(&access, "a.example/web:1", &[RegistryAuth::Anonymous]));
        assert!(!open(&access, "b.example/web:1", &[basic("x")]));
        access.follow(Access::given(&image("b.example/web:1"), &RegistryAuth::Anonymous));
        assert!(open(&access, "b.example/web:1", &[]));
        assert!(!open(&access, "a.example/web:1", &[]));
        access.follow(Access::for_all(&[image("a.example/web:1")]));
        assert!(open(&access, "a.example/web:1", &[]));
        assert!(open(&Access::default(), "a.example/web:1", &[]));
    }

    #[test]
    fn old_credentials_are_forgotten_at_last() {
        let image = parse_reference("a.example/web:1").unwrap();
        let mut access = Access::default();
        for number in 0..=MAX_REMEMBERED {
            let mut next = Access::given(&image, &basic(&number.to_string()));
            next.follow(access);
            access = next;
        }
        let knows = |number: usize| access.is_open_to(&image, &[basic(&number.to_string())]);
        assert!(!knows(0) && (1..=MAX_REMEMBERED).all(knows));
    }
}
