//! What lists, watches and `deletecollection` are asked for, and which of it goes together.

use proto::selector::{FieldSelector, Selector};

use crate::api::error::ApiError;
use crate::api::field_error::FieldError;
use crate::api::kinds::ResourceInfo;
use crate::api::registry::AnyKind;
use crate::api::rest::query::{Options, invalid_options};
use crate::store::Revision;

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
    pub(crate) timeout_seconds: Option<i64>,
}

impl ListOptions {
    pub(crate) fn parse(options: &Options, kind: &dyn AnyKind) -> Result<Self, ApiError> {
        let labels = options.get("labelSelector").unwrap_or_default();
        let labels =
            Selector::parse(labels).map_err(|error| ApiError::bad_request(error.to_string()))?;
        let fields = options.get("fieldSelector").unwrap_or_default();
        let fields = FieldSelector::parse(fields)
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        let limit = options.integer("limit")?.unwrap_or(0);
        let timeout_seconds = options.integer("timeoutSeconds")?;
        let versions = Versions::of(options);
        let errors = versions.check();
        if !errors.is_empty() {
            return Err(invalid_options("ListOptions", &errors));
        }
        check_fields(&fields, kind)?;
        let stored_fields = kind.view().map(|view| view.fields()).unwrap_or_default();
        let fields = fields.renamed(stored_fields);
        let broken = |text: &&str| text.parse::<Revision>().is_err();
        if let Some(text) = versions.version.filter(broken)
            && versions.watch
        {
            // Lists answer 400, watches 422 about the resource.
            let resource = kind.resource();
            let named = ResourceInfo { kind: resource.plural, ..*resource };
            return Err(ApiError::invalid(&named, "", &[no_version(text)]));
        }
        let version = versions.wanted(limit > 0)?;
        Ok(Self {
            labels,
            fields,
            version,
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token: versions.continued.map(str::to_owned),
            bookmarks: options.flag("allowWatchBookmarks"),
            send_initial_events: versions.initial_events(),
            timeout_seconds,
        })
    }
}

/// Which state is wanted, in the client's words.
#[derive(Clone, Copy, Debug, Default)]
struct Versions<'a> {
    watch: bool,
    version: Option<&'a str>,
    matching: Option<&'a str>,
    continued: Option<&'a str>,
    send_initial_events: Option<bool>,
}

impl<'a> Versions<'a> {
    fn of(options: &'a Options) -> Self {
        Self {
            watch: options.flag("watch"),
            version: options.get("resourceVersion"),
            matching: options.get("resourceVersionMatch"),
            continued: options.get("continue"),
            send_initial_events: options.optional_flag("sendInitialEvents"),
        }
    }

    /// All that does not go together, in Kubernetes' order and words.
    fn check(&self) -> Vec<FieldError> {
        let forbidden = |path: &str, detail: &str| FieldError::forbidden(path, detail);
        let match_forbidden = |detail: &str| forbidden("resourceVersionMatch", detail);
        let mut errors = Vec::new();
        let Some(matching) = self.matching else {
            if self.watch && self.send_initial_events.is_some() {
                errors.push(match_forbidden(NEEDS_NOT_OLDER));
            }
            if !self.watch && self.send_initial_events.is_some() {
                errors.push(forbidden("sendInitialEvents", NO_LIST));
            }
            return errors;
        };
        let continued = "resourceVersionMatch is forbidden when continue is provided";
        if self.watch {
            if self.send_initial_events.is_none() {
                errors.push(match_forbidden(
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
            if matching != "NotOlderThan" {
                if self.send_initial_events.is_some() {
                    errors.push(match_forbidden(NEEDS_NOT_OLDER));
                }
                let supported = &["NotOlderThan"];
                errors.push(FieldError::not_supported("resourceVersionMatch", matching, supported));
            }
            if self.continued.is_some() {
                errors.push(match_forbidden(continued));
            }
            return errors;
        }
        if self.version.is_none() {
            errors.push(match_forbidden(
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        if self.continued.is_some() {
            errors.push(match_forbidden(continued));
        }
        if !matches!(matching, "Exact" | "NotOlderThan") {
            let supported = &["Exact", "NotOlderThan", ""];
            errors.push(FieldError::not_supported("resourceVersionMatch", matching, supported));
        }
        if matching == "Exact" && self.version == Some("0") {
            errors.push(match_forbidden(
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
        if self.send_initial_events.is_some() {
            errors.push(forbidden("sendInitialEvents", NO_LIST));
        }
        errors
    }

    /// The state that is meant, for a list of one page or of all.
    fn wanted(&self, paged: bool) -> Result<Version, ApiError> {
        let revision = match self.version {
            None => return Ok(Version::Newest),
            Some(text) => parse_version(text)?,
        };
        if revision == 0 {
            return Ok(Version::Any);
        }
        if self.continued.is_some() && !self.watch {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        // Of a page it has always been that very version, unless something else is said.
        let exactly = match self.matching {
            Some(matching) => matching == "Exact",
            None => paged && !self.watch,
        };
        Ok(if exactly { Version::Exactly(revision) } else { Version::From(revision) })
    }

    /// A watch from no version in particular tells what is there first, like one that asks for it.
    fn initial_events(&self) -> Option<bool> {
        let legacy = self.watch && matches!(self.version, None | Some("0"));
        self.send_initial_events.or((legacy && self.matching.is_none()).then_some(true))
    }
}

const NEEDS_NOT_OLDER: &str =
    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
const NO_LIST: &str = "sendInitialEvents is forbidden for list";

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

/// A `resourceVersion` that a client sends back.
pub(crate) fn parse_version(text: &str) -> Result<Revision, ApiError> {
    let refusal =
        |_| ApiError::bad_request(format!("invalid resource version: {}", no_version(text)));
    text.parse().map_err(refusal)
}

fn no_version(text: &str) -> FieldError {
    let detail = "must be a number that a list or an object gave";
    FieldError::invalid("resourceVersion", text, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(query: &str) -> Options {
        Options::parse(&format!("/?{query}").parse().unwrap()).unwrap()
    }

    #[test]
    fn tells_all_that_does_not_go_together() {
        let unless = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
        let continued = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided";
        let needs = "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        let for_watch = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        let only = "resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\"";
        let on_list = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list";
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("resourceVersion=5&resourceVersionMatch=Exact", &[]),
            ("resourceVersion=0&resourceVersionMatch=NotOlderThan&limit=5", &[]),
            ("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan", &[]),
            (
                "watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=7",
                &[],
            ),
            ("resourceVersionMatch=Exact", &[unless]),
            ("resourceVersionMatch=NotOlderThan&continue=x", &[unless, continued]),
            (
                "resourceVersion=5&resourceVersionMatch=Nearly",
                &[
                    "resourceVersionMatch: Unsupported value: \"Nearly\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
                ],
            ),
            (
                "resourceVersion=0&resourceVersionMatch=Exact&sendInitialEvents=true",
                &[
                    "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                    on_list,
                ],
            ),
            ("sendInitialEvents=false", &[on_list]),
            ("watch=1&sendInitialEvents=true", &[needs]),
            ("watch=1&sendInitialEvents=true&resourceVersionMatch=Exact", &[needs, only]),
            ("watch=1&resourceVersionMatch=NotOlderThan", &[for_watch]),
            ("watch=true&resourceVersionMatch=Exact&continue=x", &[for_watch, only, continued]),
        ];
        for (query, wanted) in cases {
            let told: Vec<String> =
                Versions::of(&options(query)).check().iter().map(ToString::to_string).collect();
            assert_eq!(told, *wanted, "{query}");
        }
    }

    #[test]
    fn versions_mean_what_the_table_of_kubernetes_says() {
        let cases = [
            ("", Version::Newest, Version::Newest),
            ("resourceVersion=0", Version::Any, Version::Any),
            ("resourceVersion=5", Version::From(5), Version::Exactly(5)),
            (
                "resourceVersion=5&resourceVersionMatch=NotOlderThan",
                Version::From(5),
                Version::From(5),
            ),
            (
                "resourceVersion=5&resourceVersionMatch=Exact",
                Version::Exactly(5),
                Version::Exactly(5),
            ),
            ("watch=1&resourceVersion=5", Version::From(5), Version::From(5)),
            ("resourceVersion=0&continue=x", Version::Any, Version::Any),
        ];
        for (query, all, page) in cases {
            let options = options(query);
            let versions = Versions::of(&options);
            assert_eq!(versions.wanted(false).unwrap(), all, "{query}");
            assert_eq!(versions.wanted(true).unwrap(), page, "{query} of a page");
        }
        for query in ["resourceVersion=5&continue=x", "resourceVersion=x", "resourceVersion=-1"] {
            assert!(Versions::of(&options(query)).wanted(true).is_err(), "{query}");
        }
    }

    #[test]
    fn a_watch_from_nowhere_tells_what_is_there() {
        let cases = [
            ("watch=1", Some(true)),
            ("watch=1&resourceVersion=0", Some(true)),
            ("watch=1&resourceVersion=5", None),
            ("watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan", Some(false)),
            ("watch=False", None),
        ];
        for (query, wanted) in cases {
            assert_eq!(Versions::of(&options(query)).initial_events(), wanted, "{query}");
        }
    }
}
