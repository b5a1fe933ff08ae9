//! The options in a request's query string.

use axum::extract::Query;
use http::Uri;
use proto::selector::{FieldSelector, Selector};

use crate::api::error::ApiError;
use crate::api::field_error::{FieldError, FieldErrorKind};
use crate::api::kinds::{Propagation, ResourceInfo};
use crate::api::registry::AnyKind;
use crate::store::Revision;

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

    /// As Kubernetes reads booleans: anything but `false` and `0` is true.
    pub(crate) fn flag(&self, name: &str) -> bool {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.is_some_and(|(_, value)| !matches!(value.as_str(), "false" | "0"))
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

/// 422 about an option, as Kubernetes words it.
pub(crate) fn invalid_option(errors: &[FieldError]) -> ApiError {
    let options = ResourceInfo {
        group: "meta.k8s.io",
        version: "v1",
        kind: "ListOptions",
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

/// From which version on a list or a watch is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// Nothing said: the newest there is.
    Newest,
    /// `0`: whatever is at hand.
    Any,
    /// Not older than it, or after it for a watch.
    From(Revision),
    /// Precisely it.
    Exactly(Revision),
}

/// The options of lists, watches and `deletecollection`.
#[derive(Clone, Debug)]
pub(crate) struct ListOptions {
    pub(crate) labels: Selector,
    pub(crate) fields: FieldSelector,
    pub(crate) version: Version,
    /// 0: all.
    pub(crate) limit: usize,
    pub(crate) continue_token: Option<String>,
    pub(crate) bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
    pub(crate) timeout_seconds: Option<u64>,
}

impl ListOptions {
    pub(crate) fn parse(options: &Options, kind: &dyn AnyKind) -> Result<Self, ApiError> {
        let labels = options.get("labelSelector").unwrap_or_default();
        let labels =
            Selector::parse(labels).map_err(|error| ApiError::bad_request(error.to_string()))?;
        let fields = options.get("fieldSelector").unwrap_or_default();
        let fields = FieldSelector::parse(fields)
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        check_fields(&fields, kind)?;
        let limit = options.integer("limit")?.unwrap_or(0);
        let timeout_seconds = options.integer("timeoutSeconds")?;
        let send_initial_events = options.optional_flag("sendInitialEvents");
        let watch = options.flag("watch");
        let continue_token = options.get("continue").map(str::to_owned);
        Ok(Self {
            labels,
            fields,
            version: version(options, watch, send_initial_events, continue_token.is_some())?,
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token,
            bookmarks: options.flag("allowWatchBookmarks"),
            send_initial_events,
            timeout_seconds: timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok()),
        })
    }
}

fn check_fields(fields: &FieldSelector, kind: &dyn AnyKind) -> Result<(), ApiError> {
    let resource = kind.resource();
    let selectable = kind.selectable();
    for requirement in fields.requirements() {
        let known = match requirement.field.as_str() {
            "metadata.name" => true,
            "metadata.namespace" => resource.namespaced,
            field => selectable.contains(&field),
        };
        if !known {
            let message = format!("field label not supported: {}", requirement.field);
            return Err(ApiError::bad_request(message));
        }
    }
    Ok(())
}

fn version(
    options: &Options,
    watch: bool,
    send_initial_events: Option<bool>,
    continued: bool,
) -> Result<Version, ApiError> {
    let text = options.get("resourceVersion");
    let matching = options.get("resourceVersionMatch");
    let forbidden =
        |path: &str, detail: &str| invalid_option(&[FieldError::forbidden(path, detail)]);
    match matching {
        None => {
            if watch && send_initial_events.is_some() {
                return Err(forbidden(
                    "resourceVersionMatch",
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
        }
        Some(_) if watch && send_initial_events.is_none() => {
            return Err(forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        Some(_) if !watch && continued => {
            return Err(forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        Some(_) if !watch && text.is_none() => {
            return Err(forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        Some("NotOlderThan") => {}
        Some("Exact") if watch => {
            return Err(forbidden(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        Some("Exact") if text == Some("0") => {
            return Err(forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
        Some("Exact") => {}
        Some(other) => {
            return Err(invalid_option(&[FieldError {
                kind: FieldErrorKind::NotSupported,
                path: "resourceVersionMatch".to_owned(),
                value: Some(other.into()),
                detail: "supported values: \"Exact\", \"NotOlderThan\", \"\"".to_owned(),
            }]));
        }
    }
    if !watch && send_initial_events.is_some() {
        return Err(forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    let Some(text) = text else { return Ok(Version::Newest) };
    match (parse_version(text)?, matching) {
        (0, _) => Ok(Version::Any),
        (revision, Some("Exact")) => Ok(Version::Exactly(revision)),
        (revision, _) => Ok(Version::From(revision)),
    }
}

/// A `resourceVersion` that a client sends back.
pub(crate) fn parse_version(text: &str) -> Result<Revision, ApiError> {
    text.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "resourceVersion: Invalid value: {text:?}: must be a number that a list or an object gave"
        ))
    })
}
