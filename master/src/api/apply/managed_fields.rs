//! `metadata.managedFields`: which manager owns which fields, and how writes change it.
//!
//! Whoever changes a field by create, update or patch owns it from then on, and nobody else does.
//! Whoever applies a configuration owns the fields in it, shared with others as long as all want the
//! same; wanting another value is a conflict, which `force` decides.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, Time};
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::field_set::{FieldSet, ParseError};
use super::merge::{self, MergeError};
use super::versions::translated;
use crate::api::kinds::ResourceInfo;

/// Kubernetes' bound on managers that update; the oldest are put together beyond it.
const MAX_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// Owns what was there when a first configuration is applied to an object without a record.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The manager of `kubectl apply --server-side`, which takes over from client-side apply.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What of the metadata is the server's and has no owner.
const SERVERS: [&str; 11] = [
    "f:name",
    "f:namespace",
    "f:creationTimestamp",
    "f:selfLink",
    "f:uid",
    "f:clusterName",
    "f:generation",
    "f:managedFields",
    "f:resourceVersion",
    "f:deletionTimestamp",
    "f:deletionGracePeriodSeconds",
];

/// Who writes, by a name of its choice and the subresource it writes through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manager {
    pub(crate) name: String,
    /// Empty: the object itself.
    pub(crate) subresource: &'static str,
}

/// How a manager came to own something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Apply,
    Update,
}

/// What tells two entries of a record apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    operation: Operation,
    manager: String,
    subresource: String,
    /// Empty for `Apply`: a manager that applies another version goes on where it was.
    api_version: String,
}

#[derive(Clone, Debug)]
struct Managed {
    set: FieldSet,
    api_version: String,
    time: Option<Time>,
}

/// The record of an object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Managers(BTreeMap<Identity, Managed>);

/// Why a configuration was not applied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ApplyError {
    /// Others own fields that the configuration wants to be different, each manager in Kubernetes'
    /// words with the paths of these fields.
    Conflicts(Vec<(String, Vec<String>)>),
    Merge(MergeError),
}

/// A configuration to apply.
pub(crate) struct Configuration<'a> {
    pub(crate) tree: &'a Value,
    pub(crate) manager: &'a Manager,
    pub(crate) force: bool,
}

impl Managers {
    /// Reads a record, in the words of this version of the object.
    pub(crate) fn decode(
        resource: &ResourceInfo,
        entries: &[ManagedFieldsEntry],
    ) -> Result<Self, ParseError> {
        let mut managers = Self::default();
        let present = api_version(resource);
        for entry in entries {
            let operation = match entry.operation.as_deref() {
                Some("Apply") => Operation::Apply,
                _ => Operation::Update,
            };
            let set = match &entry.fields_v1 {
                Some(FieldsV1(value)) => FieldSet::from_value(value)?,
                None => FieldSet::default(),
            };
            let manager =
                Manager { name: entry.manager.clone().unwrap_or_default(), subresource: "" };
            let api_version = entry.api_version.clone().unwrap_or_default();
            let set = translated(&set, resource, &api_version, &present);
            let mut identity = Identity::new(operation, &manager, &api_version);
            identity.subresource = entry.subresource.clone().unwrap_or_default();
            managers.0.insert(identity, Managed { set, api_version, time: entry.time.clone() });
        }
        Ok(managers)
    }

    /// Writes a record: appliers first, each group by age, and each in the words that it has spoken.
    pub(crate) fn encode(&self, resource: &ResourceInfo) -> Option<Vec<ManagedFieldsEntry>> {
        let present = api_version(resource);
        let mut entries: Vec<(&Identity, &Managed)> = self.0.iter().collect();
        entries.sort_by_key(|(identity, managed)| {
            (identity.operation, managed.time.as_ref().map(|time| time.0))
        });
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let entry = |(identity, managed): (&Identity, &Managed)| {
            let set = translated(&managed.set, resource, &present, &managed.api_version);
            ManagedFieldsEntry {
                api_version: text(&managed.api_version),
                fields_type: Some("FieldsV1".to_owned()),
                fields_v1: Some(FieldsV1(set.to_value())),
                manager: text(&identity.manager),
                operation: Some(format!("{:?}", identity.operation)),
                subresource: text(&identity.subresource),
                time: managed.time.clone(),
            }
        };
        (!entries.is_empty()).then(|| entries.into_iter().map(entry).collect())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The record after `manager` has made `new` out of `old` (nothing: it created it).
    pub(crate) fn updated(
        mut self,
        resource: &ResourceInfo,
        old: Option<&Value>,
        new: &Value,
        manager: &Manager,
        now: Time,
    ) -> Self {
        let nothing = blank(resource);
        let mut changes = merge::compare(resource.kind, old.unwrap_or(&nothing), new);
        strip(&mut changes.added, resource, manager.subresource);
        strip(&mut changes.modified, resource, manager.subresource);
        strip(&mut changes.removed, resource, manager.subresource);
        if changes.is_same() {
            return self;
        }
        let api_version = api_version(resource);
        let identity = Identity::new(Operation::Update, manager, &api_version);
        let taken = changes.added.union(&changes.modified);
        let own = self.0.get(&identity).map(|own| own.set.clone()).unwrap_or_default();
        self.take_away(&taken);
        self.take_away(&changes.removed);
        let set = own.difference(&changes.removed).union(&taken);
        if set.is_empty() {
            self.0.remove(&identity);
        } else {
            let time = Some(now);
            self.0.insert(identity, Managed { set, api_version, time });
        }
        self.cap();
        self
    }

    /// Takes fields from everybody; who has nothing left goes.
    fn take_away(&mut self, fields: &FieldSet) {
        if fields.is_empty() {
            return;
        }
        self.0.retain(|_, managed| {
            managed.set = managed.set.difference(fields);
            !managed.set.is_empty()
        });
    }

    /// Puts the oldest updaters together when there are too many.
    fn cap(&mut self) {
        let mut updaters: Vec<(Option<jiff::Timestamp>, Identity)> = self
            .0
            .iter()
            .filter(|(identity, _)| identity.operation == Operation::Update)
            .map(|(identity, managed)| (managed.time.as_ref().map(|time| time.0), identity.clone()))
            .collect();
        if updaters.len() <= MAX_UPDATERS {
            return;
        }
        updaters.sort();
        let excess = updaters.len() - MAX_UPDATERS + 1;
        for (_, identity) in updaters.into_iter().take(excess) {
            let Some(old) = self.0.remove(&identity) else { continue };
            let ancient = Manager { name: ANCIENT.to_owned(), subresource: "" };
            let identity = Identity::new(Operation::Update, &ancient, &old.api_version);
            match self.0.get_mut(&identity) {
                Some(managed) => {
                    managed.set.add(&old.set);
                    managed.time = old.time;
                }
                None => {
                    self.0.insert(identity, old);
                }
            }
        }
    }

    /// Applies a configuration to the live object (nothing: there is none yet). Returns what it
    /// becomes, and its record.
    pub(crate) fn applied(
        &self,
        resource: &ResourceInfo,
        live: Option<&Value>,
        config: &Configuration<'_>,
        now: &Time,
    ) -> Result<(Value, Self), ApplyError> {
        merge::check(resource.kind, config.tree).map_err(ApplyError::Merge)?;
        let mut before = self.clone();
        if let (true, Some(live)) = (before.is_empty(), live) {
            let name = BEFORE_FIRST_APPLY.to_owned();
            let manager = Manager { name, subresource: config.manager.subresource };
            before = before.updated(resource, None, live, &manager, now.clone());
        }
        let nothing = json!({});
        let live = live.unwrap_or(&nothing);
        let (mut object, after) = match before.try_apply(resource, live, config, now) {
            Err(Conflicts(conflicts)) if may_upgrade(resource, live, config, &conflicts) => {
                let forced = Configuration { force: true, ..*config };
                before.try_apply(resource, live, &forced, now)
            }
            result => result,
        }
        .map_err(|conflicts| conflicts.told(resource))?;
        if config.manager.name == KUBECTL && last_applied(live).is_some() {
            // Client-side apply may come back and has to know what was wanted last.
            object["metadata"]["annotations"][LAST_APPLIED] = json!(config.tree.to_string());
        }
        Ok((object, after))
    }

    fn try_apply(
        &self,
        resource: &ResourceInfo,
        live: &Value,
        config: &Configuration<'_>,
        now: &Time,
    ) -> Result<(Value, Self), Conflicts> {
        let kind = resource.kind;
        let api_version = api_version(resource);
        let identity = Identity::new(Operation::Apply, config.manager, &api_version);
        let mut set = merge::fields_of(kind, config.tree);
        let mut object = merge::merge(kind, live, config.tree);
        let last = self.0.get(&identity).map(|own| &own.set);
        let mut others = self.clone();
        others.0.remove(&identity);
        if let Some(last) = last {
            let kept = others.0.values().fold(set.clone(), |kept, other| kept.union(&other.set));
            merge::prune(kind, &mut object, last, &kept);
        }
        let changes = merge::compare(kind, live, &object);
        let wanted = changes.added.union(&changes.modified);
        let conflict = |(other, managed): (&Identity, &Managed)| {
            let fields = managed.set.intersection(&wanted);
            let api_version = managed.api_version.clone();
            (!fields.is_empty()).then(|| Conflict { with: other.clone(), api_version, fields })
        };
        let conflicts: Vec<Conflict> = others.0.iter().filter_map(conflict).collect();
        if !conflicts.is_empty() && !config.force {
            return Err(Conflicts(conflicts));
        }
        others.take_away(&wanted);
        others.take_away(&changes.removed);
        strip(&mut set, resource, config.manager.subresource);
        if !set.is_empty() {
            let unchanged = self.0.get(&identity).filter(|own| own.set == set);
            let time = match unchanged {
                // Applying the same once more is no write.
                Some(own) if wanted.is_empty() && changes.removed.is_empty() => own.time.clone(),
                _ => Some(now.clone()),
            };
            others.0.insert(identity, Managed { set, api_version, time });
        }
        Ok((object, others))
    }
}

/// Who stands in the way, with which fields.
struct Conflict {
    with: Identity,
    /// The version that the other has spoken.
    api_version: String,
    fields: FieldSet,
}

struct Conflicts(Vec<Conflict>);

impl Conflicts {
    /// Each in the other's words.
    fn told(self, resource: &ResourceInfo) -> ApplyError {
        let present = api_version(resource);
        let told = self.0.into_iter().map(|Conflict { with, api_version, fields }| {
            (with.told(), translated(&fields, resource, &present, &api_version).paths())
        });
        ApplyError::Conflicts(told.collect())
    }
}

impl Identity {
    fn new(operation: Operation, manager: &Manager, api_version: &str) -> Self {
        let api_version = match operation {
            Operation::Apply => String::new(),
            Operation::Update => api_version.to_owned(),
        };
        Self {
            operation,
            manager: manager.name.clone(),
            subresource: manager.subresource.to_owned(),
            api_version,
        }
    }

    /// `"kubectl-create" using v1`
    fn told(&self) -> String {
        let mut told = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            told.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            told.push_str(&format!(" using {}", self.api_version));
        }
        told
    }
}

/// Whether all conflicts are about what client-side apply wanted, which kubectl takes over.
fn may_upgrade(
    resource: &ResourceInfo,
    live: &Value,
    config: &Configuration<'_>,
    conflicts: &[Conflict],
) -> bool {
    if config.manager.name != KUBECTL {
        return false;
    }
    let Some(last) = last_applied(live) else { return false };
    let changes = merge::compare(resource.kind, live, &last);
    let as_applied = merge::fields_of(resource.kind, &last)
        .difference(&changes.added)
        .difference(&changes.modified);
    conflicts.iter().all(|conflict| conflict.fields.difference(&as_applied).is_empty())
}

/// What client-side apply wanted last.
fn last_applied(live: &Value) -> Option<Value> {
    let text = live.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()?;
    serde_json::from_str(text).ok().filter(Value::is_object)
}

/// An object before anybody has said anything: the parts that every object of the kind has.
fn blank(resource: &ResourceInfo) -> Value {
    let spec = match resource.kind {
        "Deployment" => json!({"strategy": {}, "template": {"metadata": {}, "spec": {}}}),
        "ReplicaSet" => json!({"template": {"metadata": {}, "spec": {}}}),
        _ => json!({}),
    };
    json!({"metadata": {}, "spec": spec, "status": {}})
}

/// Takes out of a set what can have no owner: what the server keeps, and what the path of the
/// request cannot change.
fn strip(set: &mut FieldSet, resource: &ResourceInfo, subresource: &str) {
    set.remove_tree(&["f:apiVersion"]);
    set.remove_tree(&["f:kind"]);
    for field in SERVERS {
        set.remove_tree(&["f:metadata", field]);
    }
    if subresource == "status" {
        set.remove_tree(&["f:spec"]);
        for member in kept_by_status(resource) {
            set.remove_tree(&["f:metadata", &format!("f:{member}")]);
        }
    } else if resource.status {
        set.remove_tree(&["f:status"]);
    }
}

/// What of the metadata a write to the status does not change; of the rest it does, as in Kubernetes.
pub(crate) fn kept_by_status(resource: &ResourceInfo) -> &'static [&'static str] {
    match resource.kind {
        "Pod" => &["ownerReferences"],
        "Deployment" => &["labels"],
        _ => &[],
    }
}

fn api_version(resource: &ResourceInfo) -> String {
    crate::api::rest::body::api_version(resource)
}
