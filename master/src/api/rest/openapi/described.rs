//! What a document tells of: the kinds that are stored, and the types that are measured.

use std::borrow::Cow;

use k8s_openapi::schemars::SchemaGenerator;
use proto::k8s as k8s_openapi;

use crate::api::kinds::ResourceInfo;
use crate::api::registry::{AnyKind, Registry};
use crate::api::rest::{metrics_api, reviews};

/// A resource with the type of its objects.
#[derive(Clone, Copy)]
pub(crate) enum Described {
    Stored(&'static dyn AnyKind),
    Measured(&'static metrics_api::Measured),
}

/// All that is served.
pub(crate) fn all(registry: &Registry) -> Vec<Described> {
    let stored = registry.kinds().iter().copied().map(Described::Stored);
    let unstored = metrics_api::MEASURED.iter().chain(&reviews::REVIEWS);
    stored.chain(unstored.map(Described::Measured)).collect()
}

impl Described {
    pub(crate) fn resource(self) -> &'static ResourceInfo {
        match self {
            Self::Stored(kind) => kind.resource(),
            Self::Measured(measured) => &measured.resource,
        }
    }

    /// The type's name in documents.
    pub(crate) fn type_name(self) -> Cow<'static, str> {
        match self {
            Self::Stored(kind) => kind.type_name(),
            Self::Measured(measured) => Cow::Borrowed(measured.type_name),
        }
    }

    /// Adds the type to the generator's.
    pub(crate) fn describe(self, generator: &mut SchemaGenerator) {
        match self {
            Self::Stored(kind) => kind.describe(generator),
            Self::Measured(measured) => (measured.describe)(generator),
        }
    }
}
