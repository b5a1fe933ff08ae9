//! The ReplicaSets of a Deployment: what the one for the present template is like, which revision each
//! is of, and what their annotations remember. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proto::k8s as k8s_openapi;

use crate::api::kinds::deployment::{RECREATE, percent};
use crate::api::kinds::template_defaults;

/// Keeps pods of different templates apart; also the end of a ReplicaSet's name.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";
/// The number of a rollout, on the Deployment and on each ReplicaSet.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Numbers that a ReplicaSet had before it was rolled back to.
pub(crate) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the Deployment when the ReplicaSet was scaled last.
pub(crate) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The same with the surge.
pub(crate) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations of the Deployment that are about it alone.
const OWN: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
];

/// What numbers of pods a Deployment wants while it replaces them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) replicas: i32,
    /// Pods beyond `replicas`.
    pub(crate) surge: i32,
    /// Pods that may be missing.
    pub(crate) unavailable: i32,
}

impl Bounds {
    pub(crate) fn of(deployment: &Deployment) -> Self {
        let spec = &deployment.spec;
        let replicas = spec.replicas.unwrap_or(1).max(0);
        if recreates(deployment) {
            return Self { replicas, surge: 0, unavailable: 0 };
        }
        let rolling = spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.clone());
        let rolling = rolling.unwrap_or_default();
        let surge = resolve(rolling.max_surge.as_ref(), replicas, true);
        let mut unavailable = resolve(rolling.max_unavailable.as_ref(), replicas, false);
        if surge == 0 && unavailable == 0 {
            // Both are zero only where percentages were rounded: something has to move.
            unavailable = 1;
        }
        Self { replicas, surge, unavailable: unavailable.min(replicas) }
    }

    pub(crate) fn max(self) -> i32 {
        self.replicas.saturating_add(self.surge)
    }

    pub(crate) fn min_available(self) -> i32 {
        self.replicas - self.unavailable
    }
}

/// Whether all old pods end before new ones start.
pub(crate) fn recreates(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some(RECREATE)
}

/// A number, or a share of all replicas.
fn resolve(value: Option<&IntOrString>, replicas: i32, up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => (*number).max(0),
        Some(IntOrString::String(text)) => {
            let hundredths = percent(text).unwrap_or(0).saturating_mul(replicas.into());
            let whole = if up { hundredths.saturating_add(99) / 100 } else { hundredths / 100 };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

/// `spec.replicas`
pub(crate) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1).max(0)
}

/// Pods of a set that are available and stay so. A set that was told to shrink gives up unready pods
/// first; its status may still count pods that are on their way out.
pub(crate) fn available(set: &ReplicaSet) -> i32 {
    let status = set.status.as_ref().and_then(|status| status.available_replicas);
    status.unwrap_or(0).min(replicas(set))
}

/// Whether its status is about its present size. What it said before is no ground to take pods
/// away: it may have lost them and been told to make them again since.
pub(crate) fn is_observed(set: &ReplicaSet) -> bool {
    let observed = set.status.as_ref().and_then(|status| status.observed_generation);
    observed >= set.metadata.generation
}

/// `metadata.name`
pub(crate) fn name(set: &ReplicaSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

/// `metadata.uid`
pub(crate) fn uid(set: &ReplicaSet) -> &str {
    set.metadata.uid.as_deref().unwrap_or_default()
}

/// The order in which sets were made.
pub(crate) fn age(set: &ReplicaSet) -> (Timestamp, String) {
    let created = set.metadata.creation_timestamp.as_ref();
    (created.map_or(Timestamp::UNIX_EPOCH, |time| time.0), name(set).to_owned())
}

pub(crate) fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str)
}

/// Which rollout a set is of.
pub(crate) fn revision(set: &ReplicaSet) -> i64 {
    annotation(&set.metadata, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Whether a set is of the template that the Deployment has now.
pub(crate) fn is_of_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    set.spec.template.as_ref().is_some_and(|of| comparable(of) == comparable(template))
}

/// A template without what the controller adds to it, and with all defaults of this version.
fn comparable(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    template_defaults(&mut template);
    let meta = template.metadata.get_or_insert_default();
    meta.labels.get_or_insert_default().remove(HASH_LABEL);
    // Nothing there, said in different ways.
    if meta.labels.as_ref().is_some_and(BTreeMap::is_empty) {
        meta.labels = None;
    }
    if meta.annotations.as_ref().is_some_and(BTreeMap::is_empty) {
        meta.annotations = None;
    }
    template
}

/// The set for the present template.
pub(crate) fn for_template(deployment: &Deployment, replicas: i32, revision: i64) -> ReplicaSet {
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = hash(&deployment.spec.template, collisions);
    let with_hash = |labels: &mut Option<BTreeMap<String, String>>| {
        labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    };
    let mut template = deployment.spec.template.clone();
    with_hash(&mut template.metadata.get_or_insert_default().labels);
    let mut selector = deployment.spec.selector.clone();
    with_hash(&mut selector.match_labels);
    let mut annotations = inherited(deployment);
    annotations.insert(REVISION.to_owned(), revision.to_string());
    annotations.extend(sizes(Bounds::of(deployment)));
    let deployment_name = deployment.metadata.name.as_deref().unwrap_or_default();
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{deployment_name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: template.metadata.as_ref().and_then(|meta| meta.labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![owner_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: deployment.spec.min_ready_seconds,
            selector,
            template: Some(template),
        },
        status: None,
    }
}

/// What its ReplicaSets carry.
pub(crate) fn owner_reference(deployment: &Deployment) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        name: deployment.metadata.name.clone().unwrap_or_default(),
        uid: deployment.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Annotations of the Deployment that its sets get too: `kubernetes.io/change-cause`, say.
pub(crate) fn inherited(deployment: &Deployment) -> BTreeMap<String, String> {
    let all = deployment.metadata.annotations.clone().unwrap_or_default();
    all.into_iter().filter(|(key, _)| !OWN.contains(&key.as_str())).collect()
}

/// What a set remembers of the size of the whole.
pub(crate) fn sizes(bounds: Bounds) -> [(String, String); 2] {
    [
        (DESIRED_REPLICAS.to_owned(), bounds.replicas.to_string()),
        (MAX_REPLICAS.to_owned(), bounds.max().to_string()),
    ]
}

/// A short name of a template. That two templates get the same one is seen when the name is taken;
/// then the number of collisions goes into it.
fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    // No vowels, so that no words come about; no digits that look like letters.
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let json = serde_json::to_vec(template).unwrap_or_default();
    let collisions = collisions.map(i32::to_le_bytes);
    let bytes = json.into_iter().chain(collisions.into_iter().flatten());
    // FNV-1a
    let hash = bytes
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let digits = hash.to_string();
    digits.bytes().map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()])).collect()
}
