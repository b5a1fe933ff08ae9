//! Whether an object may live on without some of its owners. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use proto::k8s as k8s_openapi;

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// It is there. Owners of a kind that is not served count as there: nobody can tell.
    Present,
    /// It is being deleted and waits for what it owns to go first.
    Waiting,
    /// It is not there, or another has its name.
    Absent,
}

/// What has to be done about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Keep,
    /// Some owners are gone, others are not: it loses its references to these, by their uids.
    Disown(Vec<String>),
    /// No owner is left.
    Delete {
        /// An owner waits for it, so what it owns has to go before it.
        foreground: bool,
    },
}

/// Decides about an object with these owners.
pub(crate) fn judge(owners: &[(&OwnerReference, Owner)], has_dependents: bool) -> Verdict {
    let of = |wanted: Owner| owners.iter().filter(move |(_, state)| *state == wanted);
    if owners.is_empty() {
        return Verdict::Keep;
    }
    if of(Owner::Present).next().is_none() {
        let waited_for = of(Owner::Waiting).next().is_some();
        return Verdict::Delete { foreground: waited_for && has_dependents };
    }
    let lost: Vec<String> = of(Owner::Absent)
        .chain(of(Owner::Waiting))
        .map(|(reference, _)| reference.uid.clone())
        .collect();
    if lost.is_empty() { Verdict::Keep } else { Verdict::Disown(lost) }
}

/// Whether an owner that waits has to wait for an object with these owners.
pub(crate) fn blocks(references: &[OwnerReference], owner: &str) -> bool {
    let blocking = |reference: &OwnerReference| reference.block_owner_deletion == Some(true);
    references.iter().any(|reference| reference.uid == owner && blocking(reference))
}
