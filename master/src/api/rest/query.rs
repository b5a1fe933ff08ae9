//! The options in a request's query string.

use axum::extract::Query;
use http::{HeaderMap, Uri, header};

use crate::api::apply::managed_fields::Manager;
use crate::api::error::ApiError;
use crate::api::field_error::FieldError;
use crate::api::kinds::ResourceInfo;

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

    /// `dryRun`, `fieldValidation` and whatever else a write of this kind may say; all that is wrong at
    /// once.
    pub(crate) fn writing(&self, write: Write) -> Result<WriteOptions, ApiError> {
        let mut errors = Vec::new();
        match write {
            Write::Apply if self.get("fieldManager").is_none() => {
                errors.push(FieldError::required("fieldManager", "is required for apply patch"));
            }
            Write::Patch if self.optional_flag("force").is_some() => {
                let detail = "may not be specified for non-apply patch";
                errors.push(FieldError::forbidden("force", detail));
            }
            Write::Create | Write::Update | Write::Patch | Write::Apply => {}
        }
        errors.extend(check_manager(self.get("fieldManager").unwrap_or_default()));
        let dry_run = self.dry_run(&mut errors);
        let validation = match self.get("fieldValidation") {
            Some("Strict") => FieldValidation::Strict,
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some(other) => {
                let supported = &["", "Ignore", "Strict", "Warn"];
                errors.push(FieldError::not_supported("fieldValidation", other, supported));
                FieldValidation::Strict
            }
        };
        if errors.is_empty() {
            return Ok(WriteOptions { dry_run, validation, force: self.flag("force") });
        }
        Err(invalid_options(write.options(), &errors))
    }

    /// `dryRun=All`.
    pub(crate) fn dry_run(&self, errors: &mut Vec<FieldError>) -> bool {
        let stated = self.all("dryRun").filter(|value| !value.is_empty());
        dry_run(stated, errors)
    }

    /// `fieldManager`; without it what the client calls itself.
    pub(crate) fn manager(&self, headers: &HeaderMap, subresource: &'static str) -> Manager {
        let name = match self.get("fieldManager") {
            Some(name) => name.to_owned(),
            None => {
                let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
                let program = agent.and_then(|agent| agent.split('/').next()).unwrap_or_default();
                let program: String = program.chars().take(MAX_MANAGER).collect();
                if program.is_empty() { "unknown".to_owned() } else { program }
            }
        };
        Manager { name, subresource }
    }
}

/// How a client writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Create,
    Update,
    /// Any but a configuration to be applied.
    Patch,
    Apply,
}

impl Write {
    /// What Kubernetes calls its options.
    fn options(self) -> &'static str {
        match self {
            Self::Create => "CreateOptions",
            Self::Update => "UpdateOptions",
            Self::Patch | Self::Apply => "PatchOptions",
        }
    }
}

/// The options of a write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) validation: FieldValidation,
    /// Takes fields over that others own.
    pub(crate) force: bool,
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

fn check_manager(name: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if name.len() > MAX_MANAGER {
        errors.push(FieldError::too_long("fieldManager", MAX_MANAGER));
    }
    for (position, character) in name.char_indices().filter(|(_, char)| !is_printable(*char)) {
        let code = u32::from(character);
        let detail = format!("invalid character U+{code:04X} (at position {position})");
        errors.push(FieldError::invalid("fieldManager", name, detail));
    }
    errors
}

/// Nearly as Go has it: to Go, code points that are not assigned do not print either.
fn is_printable(character: char) -> bool {
    let formats = matches!(
        character,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{e000}'..='\u{f8ff}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}' | '\u{f0000}'..
    );
    character == ' ' || !(character.is_control() || character.is_whitespace() || formats)
}

/// Whether one of the values is `All`; there are no others.
pub(crate) fn dry_run<'a>(
    stated: impl Iterator<Item = &'a str>,
    errors: &mut Vec<FieldError>,
) -> bool {
    let stated: Vec<&str> = stated.collect();
    if stated.iter().any(|value| *value != "All") {
        errors.push(FieldError::not_supported("dryRun", stated.clone(), &["All"]));
    }
    !stated.is_empty()
}

/// 422 about options of a kind, as Kubernetes words it.
pub(crate) fn invalid_options(kind: &'static str, errors: &[FieldError]) -> ApiError {
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
