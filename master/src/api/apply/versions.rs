//! The record of an object that is served in more than one version: each manager's fields are written
//! down in the words of the version that it has spoken, and compared in those of the present request.

use super::field_set::FieldSet;
use crate::api::kinds::{Events, EventsView, Kind as _, RENAMED, ResourceInfo};
use crate::api::rest::body::api_version;

/// Fields of an object of this kind, as another version names them.
pub(super) fn translated(
    set: &FieldSet,
    resource: &ResourceInfo,
    from: &str,
    to: &str,
) -> FieldSet {
    if from == to || resource.plural != Events::RESOURCE.plural {
        return set.clone();
    }
    let (stored, told) = (api_version(&Events::RESOURCE), api_version(&EventsView::RESOURCE));
    let other_name = |field: &str| {
        let as_told = RENAMED.iter().find(|(was, _)| from == stored && *was == field);
        let as_stored = RENAMED.iter().find(|(_, was)| from == told && *was == field);
        as_told.map(|(_, name)| *name).or(as_stored.map(|(name, _)| *name))
    };
    // A version that is not served is not known to differ.
    if [from, to].iter().all(|version| [&stored, &told].iter().any(|known| version == known)) {
        set.renamed(other_name)
    } else {
        set.clone()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_called_as_a_version_calls_them() {
        let stored = FieldSet::from_value(&json!({
            "f:message": {}, "f:metadata": {"f:labels": {"f:message": {}}}, "f:reason": {},
            "f:involvedObject": {"f:name": {}},
        }));
        let told = FieldSet::from_value(&json!({
            "f:note": {}, "f:metadata": {"f:labels": {"f:message": {}}}, "f:reason": {},
            "f:regarding": {"f:name": {}},
        }));
        let (stored, told) = (stored.unwrap(), told.unwrap());
        for resource in [&Events::RESOURCE, &EventsView::RESOURCE] {
            assert_eq!(translated(&stored, resource, "v1", "events.k8s.io/v1"), told);
            assert_eq!(translated(&told, resource, "events.k8s.io/v1", "v1"), stored);
            assert_eq!(translated(&told, resource, "events.k8s.io/v1beta1", "v1"), told);
        }
        let pods = &crate::api::kinds::Pods::RESOURCE;
        assert_eq!(translated(&stored, pods, "v1", "events.k8s.io/v1"), stored);
    }
}
