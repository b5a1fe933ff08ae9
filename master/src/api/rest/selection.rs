//! Which objects of a resource a request is about.

use proto::ObjectKey;
use proto::selector::{FieldSelector, Selector};

use crate::cache::{CachedObject, Interest};

/// A namespace, labels and fields, all of which have to fit.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    /// Nothing: all namespaces, or a cluster-scoped resource.
    pub(crate) namespace: Option<String>,
    pub(crate) labels: Selector,
    pub(crate) fields: FieldSelector,
}

impl Selection {
    /// Whether an object belongs to it.
    pub(crate) fn matches(&self, object: &CachedObject) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| object.key.namespace == *namespace)
            && self.labels.matches(&object.labels)
            && self.fields.matches(|field| match field {
                "metadata.name" => Some(&object.key.name),
                "metadata.namespace" => Some(&object.key.namespace),
                field => object.fields.get(field).map(String::as_str),
            })
    }

    /// Whether it leaves nothing out within its namespace.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// The smallest part of the resource, among those the cache can pick by itself, that holds all of it.
    pub(crate) fn interest(&self, selectable: &[&'static str], namespaced: bool) -> Interest {
        if let Some(name) = self.fields.exact("metadata.name") {
            match &self.namespace {
                Some(namespace) => return Interest::Object(ObjectKey::new(namespace, name)),
                None if !namespaced => return Interest::Object(ObjectKey::new("", name)),
                None => {}
            }
        }
        let field = selectable.iter().find_map(|field| {
            // "Has no node" is no small part of anything, and no index knows it.
            self.fields.exact(field).filter(|value| !value.is_empty()).map(|value| (*field, value))
        });
        match (field, &self.namespace) {
            (Some((field, value)), _) => Interest::Field(field, value.to_owned()),
            (None, Some(namespace)) => Interest::Namespace(namespace.clone()),
            (None, None) => Interest::All,
        }
    }
}
