//! The fewest changes that make a Service's slices say what they should. Pure.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use proto::ObjectKey;
use proto::k8s as k8s_openapi;

use super::addresses::{Family, Group, Port};

/// Endpoints in a slice at the most, as in Kubernetes: a change of one endpoint is sent as its whole
/// slice to every node.
pub(crate) const MAX_ENDPOINTS: usize = 100;

/// Names the Service of a slice.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Names who looks after a slice.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// What all slices of one Service have in common.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Frame {
    /// The Service.
    pub(crate) service: ObjectKey,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) owner: OwnerReference,
    /// Whether a Service without endpoints gets an empty slice, of this family.
    pub(crate) placeholder: Option<Family>,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// A new slice; its name is the server's choice.
    Create(EndpointSlice),
    /// An existing slice with other contents.
    Update(EndpointSlice),
    /// A slice that nothing is left for.
    Delete { key: ObjectKey, uid: String },
}

/// What makes an endpoint the same although its condition has changed.
type Identity = (Option<String>, Vec<String>);

/// A slice on its way to what it will be.
struct Draft {
    old: Option<EndpointSlice>,
    group: Option<Group>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

/// The changes that lead from the existing slices to the desired endpoints.
///
/// Endpoints stay in the slice they are in. New ones go where something changes anyhow, then where
/// there is room, then into a slice that became empty, and only then into a new one.
pub(crate) fn reconcile(
    frame: &Frame,
    existing: &[EndpointSlice],
    desired: BTreeMap<Group, Vec<Endpoint>>,
) -> Vec<Action> {
    let mut left: BTreeMap<Group, HashMap<Identity, Endpoint>> = desired
        .into_iter()
        .map(|(group, endpoints)| {
            // Of two that are the same the first, which is ready if either is.
            let mut wanted = HashMap::new();
            for one in endpoints {
                wanted.entry(identity(&one)).or_insert(one);
            }
            (group, wanted)
        })
        .collect();
    let mut drafts: Vec<Draft> =
        existing.iter().map(|slice| keep(frame, slice, &mut left)).collect();
    for (group, endpoints) in left {
        let mut endpoints: Vec<Endpoint> = endpoints.into_values().collect();
        endpoints.sort_by_key(identity);
        fill(&mut drafts, &group, endpoints);
    }
    let used = drafts.iter().any(|draft| !draft.endpoints.is_empty());
    let mut placeholder = frame.placeholder.filter(|_| !used);
    let mut actions = Vec::new();
    for draft in drafts {
        actions.extend(draft.finish(frame, &mut placeholder));
    }
    if let Some(family) = placeholder {
        actions.push(Action::Create(slice(frame, (family, Vec::new()), Vec::new())));
    }
    actions
}

/// Takes out of `left` what this slice has already.
fn keep(
    frame: &Frame,
    slice: &EndpointSlice,
    left: &mut BTreeMap<Group, HashMap<Identity, Endpoint>>,
) -> Draft {
    let group = group_of(slice);
    let mut wanted = group.as_ref().and_then(|group| left.get_mut(group));
    let mut changed = slice.metadata.labels.as_ref() != Some(&frame.labels);
    let mut endpoints = Vec::new();
    for old in slice.endpoints.iter().flatten() {
        // Whatever is too many in a slice that somebody else has made longer moves on.
        let has_room = endpoints.len() < MAX_ENDPOINTS;
        let new = wanted.as_mut().filter(|_| has_room);
        let new = new.and_then(|wanted| wanted.remove(&identity(old)));
        changed |= new.as_ref() != Some(old);
        endpoints.extend(new);
    }
    Draft { old: Some(slice.clone()), group, endpoints, changed }
}

fn fill(drafts: &mut Vec<Draft>, group: &Group, endpoints: Vec<Endpoint>) {
    let mut endpoints = endpoints.into_iter();
    let (family, _) = group;
    // The fullest that has room first, so that slices become full rather than many.
    let mut order: Vec<usize> = (0..drafts.len()).collect();
    order.sort_by_key(|index| {
        let draft = &drafts[*index];
        (
            !draft.changed,
            draft.endpoints.is_empty(),
            MAX_ENDPOINTS.saturating_sub(draft.endpoints.len()),
        )
    });
    for index in order {
        let draft = &mut drafts[index];
        let of_family =
            draft.old.as_ref().is_some_and(|slice| slice.address_type == family.as_str());
        let reusable = draft.endpoints.is_empty() && of_family;
        if draft.group.as_ref() != Some(group) && !reusable {
            continue;
        }
        let room = MAX_ENDPOINTS.saturating_sub(draft.endpoints.len());
        let before = draft.endpoints.len();
        draft.endpoints.extend(endpoints.by_ref().take(room));
        if draft.endpoints.len() > before {
            draft.changed = true;
            draft.group = Some(group.clone());
        }
    }
    loop {
        let next: Vec<Endpoint> = endpoints.by_ref().take(MAX_ENDPOINTS).collect();
        if next.is_empty() {
            return;
        }
        let group = Some(group.clone());
        drafts.push(Draft { old: None, group, endpoints: next, changed: true });
    }
}

impl Draft {
    fn finish(self, frame: &Frame, placeholder: &mut Option<Family>) -> Option<Action> {
        let Some(old) = self.old else {
            return Some(Action::Create(slice(frame, self.group?, self.endpoints)));
        };
        if self.endpoints.is_empty() {
            let stays = placeholder.is_some_and(|family| old.address_type == family.as_str());
            if !stays {
                let metadata = old.metadata;
                let name = metadata.name.unwrap_or_default();
                let key = ObjectKey::new(metadata.namespace.unwrap_or_default(), name);
                return Some(Action::Delete { key, uid: metadata.uid.unwrap_or_default() });
            }
            *placeholder = None;
        }
        self.changed.then(|| {
            let ports = self.group.map(|(_, ports)| ports).unwrap_or_default();
            Action::Update(EndpointSlice {
                metadata: ObjectMeta { labels: Some(frame.labels.clone()), ..old.metadata },
                endpoints: Some(self.endpoints),
                ports: Some(ports.into_iter().map(Into::into).collect()),
                address_type: old.address_type,
            })
        })
    }
}

fn slice(frame: &Frame, (family, ports): Group, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", frame.service.name)),
            namespace: Some(frame.service.namespace.clone()),
            labels: Some(frame.labels.clone()),
            owner_references: Some(vec![frame.owner.clone()]),
            ..ObjectMeta::default()
        },
        address_type: family.as_str().to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports.into_iter().map(Into::into).collect()),
    }
}

/// Nothing for a slice of a sort that is not made here.
fn group_of(slice: &EndpointSlice) -> Option<Group> {
    let family = match slice.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        _ => return None,
    };
    let mut ports: Vec<Port> = slice.ports.iter().flatten().map(Port::from).collect();
    ports.sort();
    Some((family, ports))
}

fn identity(endpoint: &Endpoint) -> Identity {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    (uid, endpoint.addresses.clone())
}
