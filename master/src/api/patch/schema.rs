//! How the fields of Kubernetes' types merge, in strategic merge patches and in server-side apply.
//!
//! Written down from what the API types say of themselves: `patchStrategy` and `patchMergeKey` for
//! patches, list, map and struct types for apply. A field that is not here merges as its JSON
//! suggests: objects field by field, lists as a whole. OpenAPI documents tell clients the same table.

mod types;

use std::collections::HashMap;
use std::sync::LazyLock;

/// How a field merges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    /// The type of the object, or of the items of the list; empty where nothing in it is remarkable.
    pub(crate) of: &'static str,
    /// How apply divides it among managers.
    pub(crate) topology: Topology,
    /// Whether each item of a list with keys has one owner, instead of one for each of its fields.
    pub(crate) whole_items: bool,
    /// How a strategic merge patch merges it.
    pub(crate) strategy: Strategy,
}

/// What of a field can have an owner of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    /// Each field of an object.
    Granular,
    /// Only all of it.
    Atomic,
    /// Each value of a list of plain values.
    Set,
    /// Each item of a list of objects, known by the values of these keys.
    Map(&'static [&'static str]),
}

/// `x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Strategy {
    /// Whether a list is merged: as a set, or by the key.
    pub(crate) merge: bool,
    /// Whether `$retainKeys` may stand in the object, or in the items.
    pub(crate) retain_keys: bool,
    /// The key of a list of objects.
    pub(crate) key: Option<&'static str>,
}

/// What the table says of a field of a type.
pub(crate) fn field(of: &str, name: &str) -> Option<Field> {
    static TYPES: LazyLock<HashMap<&str, types::Fields>> =
        LazyLock::new(|| types::TYPES.iter().copied().collect());
    if of.is_empty() {
        return None;
    }
    TYPES.get(of)?.iter().find(|(field, _)| *field == name).map(|(_, field)| *field)
}

/// The value that a key of a list's items has where an item does not say.
pub(crate) fn key_default(key: &str) -> Option<&'static str> {
    // The only one among the kinds served.
    (key == "protocol").then_some("TCP")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_that_is_named_is_there() {
        for (name, fields) in types::TYPES {
            for (field, merge) in *fields {
                let known = types::TYPES.iter().any(|(other, _)| *other == merge.of);
                assert!(merge.of.is_empty() || known, "{name}.{field}: {}", merge.of);
            }
        }
    }

    #[test]
    fn every_kind_that_is_served_is_there() {
        for kind in crate::api::kinds::registry().kinds() {
            let kind = kind.resource().kind;
            assert!(field(kind, "metadata").is_some(), "{kind}");
        }
    }
}
