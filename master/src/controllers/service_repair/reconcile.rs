//! Decides whose a claim is, and who has to be told what. Pure.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use crate::api::kinds::ClusterConfig;
use crate::api::kinds::cidr::Family;

/// A Service that has what is claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) key: ObjectKey,
    pub(super) uid: String,
    created: Option<Timestamp>,
}

impl Holder {
    pub(super) fn of(key: &ObjectKey, service: &Service) -> Self {
        Self {
            key: key.clone(),
            uid: service.metadata.uid.clone().unwrap_or_default(),
            created: service.metadata.creation_timestamp.as_ref().map(|time| time.0),
        }
    }

    /// As a claim names it; nothing if it names nobody.
    pub(super) fn read(json: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(json).ok()?;
        let text = |field: &str| value[field].as_str().map(str::to_owned);
        Some(Self {
            key: ObjectKey::new(text("namespace")?, text("name")?),
            uid: text("uid")?,
            created: None,
        })
    }

    /// As writes of the object itself name it.
    pub(super) fn to_json(&self, plural: &str) -> Value {
        json!({
            "resource": plural,
            "namespace": self.key.namespace,
            "name": self.key.name,
            "uid": self.uid,
        })
    }

    fn is(&self, other: &Self) -> bool {
        (&self.key, &self.uid) == (&other.key, &other.uid)
    }
}

/// What becomes of a claim.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) write: Option<Write>,
    /// Whose it is.
    pub(super) keeper: Option<Holder>,
    /// Who has it all the same.
    pub(super) others: Vec<Holder>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// It is this one's.
    Put(Holder),
    /// It is nobody's.
    Delete,
}

/// Something that whoever looks after a Service should know.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Warning {
    pub(super) holder: Holder,
    /// In Kubernetes' words.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Plan {
    /// What there is to tell. What can be nobody's is told to all who have it; as in Kubernetes it is
    /// then not said that there are several.
    pub(super) fn warnings(&self, claim: &str, cluster: &ClusterConfig) -> Vec<Warning> {
        let Some(keeper) = &self.keeper else { return Vec::new() };
        if let Some(Flaw { reason, message }) = flaw(claim, cluster) {
            let warn = |holder: &Holder| Warning {
                holder: holder.clone(),
                reason,
                message: message.clone(),
            };
            return std::iter::once(keeper).chain(&self.others).map(warn).collect();
        }
        let warn = |holder: &Holder| Warning {
            holder: holder.clone(),
            reason: reasons(claim).already_allocated,
            message: format!(
                "{} is also that of Service {}, which is older and keeps it; delete this Service and \
                 create it anew to get another",
                name_of(claim),
                keeper.key
            ),
        };
        self.others.iter().map(warn).collect()
    }
}

struct Flaw {
    reason: &'static str,
    message: String,
}

/// Why a claim is such as the masters would give to nobody, as they are configured now.
fn flaw(claim: &str, cluster: &ClusterConfig) -> Option<Flaw> {
    const REMEDY: &str = "delete this Service and create it anew to get another";
    let name = name_of(claim);
    if let Some(address) = claim.strip_prefix("service-ip/") {
        let Ok(address) = address.parse::<IpAddr>() else {
            let message = format!("{name} is no IP address; {REMEDY}");
            return Some(Flaw { reason: "ClusterIPNotValid", message });
        };
        let range = cluster.service_cidrs.of(Family::of(&address.to_string()));
        if range.is_some_and(|range| range.usable(address)) {
            return None;
        }
        let ranges = cluster.service_cidrs.texts().join(" and ");
        let message = format!("{name} is not within the range of Services, {ranges}; {REMEDY}");
        return Some(Flaw { reason: "ClusterIPOutOfRange", message });
    }
    let (low, high) = cluster.node_ports;
    let number = claim.rsplit('/').next().and_then(|number| number.parse::<u16>().ok());
    if number.is_some_and(|number| (low..=high).contains(&number)) {
        return None;
    }
    let message = format!("{name} is not within the range of node ports, {low}-{high}; {REMEDY}");
    Some(Flaw { reason: "PortOutOfRange", message })
}

/// `holders` have what is claimed. `there`: whether the claim is there, and whom it names.
pub(super) fn reconcile(mut holders: Vec<Holder>, there: Option<Option<&Holder>>) -> Plan {
    holders.sort_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key)));
    let mut holders = holders.into_iter();
    let keeper = holders.next();
    let write = match (&keeper, there) {
        (None, Some(_)) => Some(Write::Delete),
        (Some(keeper), Some(Some(named))) if named.is(keeper) => None,
        (Some(keeper), _) => Some(Write::Put(keeper.clone())),
        (None, None) => None,
    };
    Plan { write, keeper, others: holders.collect() }
}

/// What events are called, in Kubernetes' words.
pub(super) struct Reasons {
    pub(super) already_allocated: &'static str,
    pub(super) not_allocated: &'static str,
}

pub(super) fn reasons(claim: &str) -> Reasons {
    if claim.starts_with("service-ip/") {
        Reasons {
            already_allocated: "ClusterIPAlreadyAllocated",
            not_allocated: "ClusterIPNotAllocated",
        }
    } else {
        Reasons { already_allocated: "PortAlreadyAllocated", not_allocated: "PortNotAllocated" }
    }
}

/// `service-ip/10.96.0.7` in words.
pub(super) fn name_of(claim: &str) -> String {
    match claim.split_once('/') {
        Some(("service-ip", address)) => format!("Cluster IP {address}"),
        Some((_, port)) => match port.split_once('/') {
            Some((protocol, number)) => format!("Node port {number}/{protocol}"),
            None => format!("Node port {port}"),
        },
        None => claim.to_owned(),
    }
}
