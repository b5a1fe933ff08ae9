//! The options in a request's query string.

use axum::extract::Query;
use http::{HeaderMap, Uri, header};

use crate::api::apply::managed_fields::Manager;
use crate::api::error::ApiError;
use crate::api::field_error::{FieldError, FieldErrorKind};
use crate::api::kinds::{Propagation, ResourceInfo};

/// The pairs of a query string.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options(Vec<(String, String)>);

impl Options {
    pub(crate) fn parse(uri: &Uri) -> Result<Self, ApiError> {
        Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map(|Query(pairs)| Self(pairs))
            .map_err(|error| ApiError::bad_request(format!("the query is broken: {error}")))
    }

    /// The first value; an empty one counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// With the field selector narrowed down to one object.
    pub(crate) fn selecting_name(mut self, name: &str) -> Self {
        let escaped = name.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
        let own = format!("metadata.name={escaped}");
        match self.0.iter_mut().find(|(key, _)| key == "fieldSelector") {
            Some((_, selector)) if !selector.is_empty() => *selector = format!("{selector},{own}"),
            Some((_, selector)) => *selector = own,
            None => self.0.push(("fieldSelector".to_owned(), own)),
        }
        self
    }

    /// All values.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// As Kubernetes reads booleans: anything but `false` and `0` is true; Python says `False`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.is_some_and(|(_, value)| !(value == "0" || value.eq_ignore_ascii_case("false")))
    }

    /// A boolean that may be left open.
    pub(crate) fn optional_flag(&self, name: &str) -> Option<bool> {
        self.0.iter().any(|(key, _)| key == name).then(|| self.flag(name))
    }

    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                ApiError::bad_request(format!(
                    "{name}: Invalid value: {text:?}: must be an integer"
                ))
            })
        };
        self.get(name).map(parse).transpose()
    }

    /// `dryRun=All`.
    pub(crate) fn dry_run(&self) -> Result<bool, ApiError> {
        let mut dry = false;
        for value in self.all("dryRun").filter(|value| !value.is_empty()) {
            if value != "All" {
                return Err(invalid_option(&[FieldError {
                    kind: FieldErrorKind::NotSupported,
                    path: "dryRun".to_owned(),
                    value: Some(value.into()),
                    detail: "supported values: \"All\"".to_owned(),
                }]));
            }
            dry = true;
        }
        Ok(dry)
    }

    /// `fieldManager`; without it what the client calls itself.
    pub(crate) fn manager(
        &self,
        headers: &HeaderMap,
        subresource: &'static str,
    ) -> Result<Manager, ApiError> {
        let name = match self.get("fieldManager") {
            Some(name) => {
                check_manager(name)?;
                name.to_owned()
            }
            None => {
                let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
                let program = agent.and_then(|agent| agent.split('/').next()).unwrap_or_default();
                let program: String = program.chars().take(MAX_MANAGER).collect();
                if program.is_empty() { "unknown".to_owned() } else { program }
            }
        };
        Ok(Manager { name, subresource })
    }

    /// `fieldManager` and `force` of a configuration to be applied.
    pub(crate) fn applier(
        &self,
        headers: &HeaderMap,
        subresource: &'static str,
    ) -> Result<(Manager, bool), ApiError> {
        if self.get("fieldManager").is_none() {
            let error = FieldError::required("fieldManager", "is required for apply patch");
            return Err(invalid_options("PatchOptions", &[error]));
        }
        Ok((self.manager(headers, subresource)?, self.flag("force")))
    }

    /// `fieldValidation=Strict|Warn|Ignore`; without it, warnings.
    pub(crate) fn field_validation(&self) -> Result<FieldValidation, ApiError> {
        match self.get("fieldValidation") {
            Some("Strict") => Ok(FieldValidation::Strict),
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some(other) => Err(invalid_option(&[FieldError {
                kind: FieldErrorKind::NotSupported,
                path: "fieldValidation".to_owned(),
                value: Some(other.into()),
                detail: "supported values: \"Ignore\", \"Warn\", \"Strict\"".to_owned(),
            }])),
        }
    }
}

/// What to do about unknown and duplicate fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// Refuse.
    Strict,
    /// Tell in `Warning` headers.
    Warn,
    /// Drop silently.
    Ignore,
}

/// Kubernetes' bound on the name of a field manager.
const MAX_MANAGER: usize = 128;

/// 422: only a configuration that is applied can be forced.
pub(crate) fn forbidden_force() -> ApiError {
    let error = FieldError::forbidden("force", "may not be specified for non-apply patch");
    invalid_options("PatchOptions", &[error])
}

fn check_manager(name: &str) -> Result<(), ApiError> {
    let wrong = if name.chars().count() > MAX_MANAGER {
        format!("may not be more than {MAX_MANAGER} bytes")
    } else if name.chars().any(char::is_control) {
        "should only contain printable characters".to_owned()
    } else {
        return Ok(());
    };
    Err(invalid_options("PatchOptions", &[FieldError::invalid("fieldManager", name, wrong)]))
}

/// 422 about an option, as Kubernetes words it.
pub(crate) fn invalid_option(errors: &[FieldError]) -> ApiError {
    invalid_options("ListOptions", errors)
}

fn invalid_options(kind: &'static str, errors: &[FieldError]) -> ApiError {
    let options = ResourceInfo {
        group: "meta.k8s.io",
        version: "v1",
        kind,
        plural: "listoptions",
        singular: "",
        short_names: &[],
        categories: &[],
        namespaced: false,
        status: false,
        scale: false,
    };
    ApiError::invalid(&options, "", errors)
}

/// `propagationPolicy`, by its name.
pub(crate) fn propagation(name: &str) -> Result<Propagation, ApiError> {
    match name {
        "Background" => Ok(Propagation::Background),
        "Foreground" => Ok(Propagation::Foreground),
        "Orphan" => Ok(Propagation::Orphan),
        other => Err(ApiError::bad_request(format!(
            "propagationPolicy: Unsupported value: {other:?}: supported values: \"Background\", \
             \"Foreground\", \"Orphan\""
        ))),
    }
}
