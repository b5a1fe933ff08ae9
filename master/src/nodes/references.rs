//! Which ConfigMaps, Secrets and network policies a node may know: those that its pods name, or that
//! select them, and no others.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use proto::ObjectKey;
use proto::k8s::api::core::v1::{EnvFromSource, EnvVar, PodSpec, Volume};

use crate::store::Revision;

/// A resource whose objects nodes are sent because of their pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Referable {
    ConfigMap,
    Secret,
    /// Selects pods instead of being named by them.
    NetworkPolicy,
}

impl Referable {
    /// Its plural.
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::Secret => "secrets",
            Self::NetworkPolicy => "networkpolicies",
        }
    }
}

/// An object that a pod names.
pub(crate) type Reference = (Referable, ObjectKey);

/// All that a pod names, in its own namespace.
pub(crate) fn references(namespace: &str, spec: &PodSpec) -> BTreeSet<Reference> {
    let mut named = BTreeSet::new();
    let mut name = |kind, name: &str| {
        // An empty name is no reference; Kubernetes lets it through for old clients.
        if !name.is_empty() {
            named.insert((kind, ObjectKey::new(namespace, name)));
        }
    };
    for secret in spec.image_pull_secrets.iter().flatten() {
        name(Referable::Secret, &secret.name);
    }
    for volume in spec.volumes.iter().flatten() {
        in_volume(volume, &mut name);
    }
    let plain = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let environments = plain.map(|container| (&container.env, &container.env_from)).chain(
        spec.ephemeral_containers
            .iter()
            .flatten()
            .map(|container| (&container.env, &container.env_from)),
    );
    for (env, env_from) in environments {
        in_environment(env.as_deref(), env_from.as_deref(), &mut name);
    }
    named
}

fn in_volume(volume: &Volume, name: &mut impl FnMut(Referable, &str)) {
    if let Some(config_map) = &volume.config_map {
        name(Referable::ConfigMap, &config_map.name);
    }
    if let Some(secret) = volume.secret.as_ref().and_then(|secret| secret.secret_name.as_deref()) {
        name(Referable::Secret, secret);
    }
    let sources = volume.projected.as_ref().and_then(|projected| projected.sources.as_ref());
    for source in sources.into_iter().flatten() {
        if let Some(config_map) = &source.config_map {
            name(Referable::ConfigMap, &config_map.name);
        }
        if let Some(secret) = &source.secret {
            name(Referable::Secret, &secret.name);
        }
    }
}

fn in_environment(
    env: Option<&[EnvVar]>,
    env_from: Option<&[EnvFromSource]>,
    name: &mut impl FnMut(Referable, &str),
) {
    for source in env.into_iter().flatten().filter_map(|var| var.value_from.as_ref()) {
        if let Some(key) = &source.config_map_key_ref {
            name(Referable::ConfigMap, &key.name);
        }
        if let Some(key) = &source.secret_key_ref {
            name(Referable::Secret, &key.name);
        }
    }
    for source in env_from.into_iter().flatten() {
        if let Some(config_map) = &source.config_map_ref {
            name(Referable::ConfigMap, &config_map.name);
        }
        if let Some(secret) = &source.secret_ref {
            name(Referable::Secret, &secret.name);
        }
    }
}

/// What one node was told: its pods, and how many of them name each object.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pods: HashMap<ObjectKey, ToldPod>,
    counts: HashMap<Reference, usize>,
    policies: HashMap<ObjectKey, BTreeSet<Arc<str>>>,
    peer_sets: HashMap<Arc<str>, usize>,
}

#[derive(Debug)]
struct ToldPod {
    revision: Revision,
    references: BTreeSet<Reference>,
}

/// How the set of objects that a node may know changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Named for the first time.
    pub(crate) added: Vec<Reference>,
    /// Named no more.
    pub(crate) removed: Vec<Reference>,
}

impl Told {
    /// The revision of a pod that the node knows.
    pub(crate) fn pod_revision(&self, pod: &ObjectKey) -> Option<Revision> {
        self.pods.get(pod).map(|told| told.revision)
    }

    /// The pods of a namespace that the node knows, and of which revision.
    pub(crate) fn pods_in(&self, namespace: &str) -> Vec<(ObjectKey, Revision)> {
        let pods = self.pods.iter().filter(|(key, _)| key.namespace == namespace);
        pods.map(|(key, told)| (key.clone(), told.revision)).collect()
    }

    /// A policy names these sets of pods from now on; none when it is gone. Tells which sets no
    /// policy named before, and which none names any more.
    pub(crate) fn policy(
        &mut self,
        policy: &ObjectKey,
        sets: BTreeSet<Arc<str>>,
    ) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let mut added = Vec::new();
        for set in &sets {
            let count = self.peer_sets.entry(set.clone()).or_insert(0);
            if *count == 0 {
                added.push(set.clone());
            }
            *count += 1;
        }
        let old = if sets.is_empty() {
            self.policies.remove(policy)
        } else {
            self.policies.insert(policy.clone(), sets)
        };
        let mut removed = Vec::new();
        for set in old.into_iter().flatten() {
            if let Some(count) = self.peer_sets.get_mut(&set) {
                *count -= 1;
                if *count == 0 {
                    self.peer_sets.remove(&set);
                    removed.push(set);
                }
            }
        }
        (added, removed)
    }

    /// Whether a policy of the node's names the set.
    pub(crate) fn has_peer_set(&self, set: &str) -> bool {
        self.peer_sets.contains_key(set)
    }

    /// Whether some pod of the node names an object.
    pub(crate) fn is_named(&self, reference: &Reference) -> bool {
        self.counts.contains_key(reference)
    }

    /// All that the pods of the node name.
    pub(crate) fn named(&self) -> impl Iterator<Item = &Reference> {
        self.counts.keys()
    }

    /// A pod came or changed.
    pub(crate) fn put(
        &mut self,
        pod: &ObjectKey,
        revision: Revision,
        references: BTreeSet<Reference>,
    ) -> Difference {
        let mut difference = Difference::default();
        for reference in &references {
            let count = self.counts.entry(reference.clone()).or_insert(0);
            if *count == 0 {
                difference.added.push(reference.clone());
            }
            *count += 1;
        }
        // Counted after the new ones, so that what both name is neither added nor removed.
        let old = self.pods.insert(pod.clone(), ToldPod { revision, references });
        difference.removed = self.release(old);
        difference
    }

    /// A pod went; nothing when the node did not know it.
    pub(crate) fn remove(&mut self, pod: &ObjectKey) -> Option<Difference> {
        let old = self.pods.remove(pod)?;
        Some(Difference { added: Vec::new(), removed: self.release(Some(old)) })
    }

    fn release(&mut self, pod: Option<ToldPod>) -> Vec<Reference> {
        let mut removed = Vec::new();
        for reference in pod.into_iter().flat_map(|pod| pod.references) {
            if let Some(count) = self.counts.get_mut(&reference) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&reference);
                    removed.push(reference);
                }
            }
        }
        removed
    }
}

#[cfg(test)]
mod tests;
