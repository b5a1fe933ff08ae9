//! Errors about fields, as validation finds them; they become `details.causes` of a `Status`.

use proto::k8s::apimachinery::pkg::apis::meta::v1::StatusCause;

/// What is wrong with a field. The words are Kubernetes' (`field.ErrorType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// `FieldValueRequired`
    Required,
    /// `FieldValueInvalid`
    Invalid,
    /// `FieldValueNotSupported`
    NotSupported,
    /// `FieldValueDuplicate`
    Duplicate,
    /// `FieldValueForbidden`
    Forbidden,
    /// `FieldValueTooLong`
    TooLong,
    /// `FieldValueTooMany`
    TooMany,
    /// `FieldValueTypeInvalid`
    TypeInvalid,
    /// `FieldValueNotFound`
    NotFound,
}

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// Where, as `spec.containers[0].image`.
    pub path: String,
    /// The offending value; nothing for required and forbidden.
    pub value: Option<serde_json::Value>,
    /// The remedy, in a sentence.
    pub detail: String,
}

impl FieldError {
    /// A required field is absent.
    pub fn required(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            kind: FieldErrorKind::Required,
            path: path.into(),
            value: None,
            detail: detail.into(),
        }
    }

    /// A value breaks a rule.
    pub fn invalid(
        path: impl Into<String>,
        value: impl Into<serde_json::Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind: FieldErrorKind::Invalid,
            path: path.into(),
            value: Some(value.into()),
            detail: detail.into(),
        }
    }

    /// A field may not be set, or not be changed.
    pub fn forbidden(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            kind: FieldErrorKind::Forbidden,
            path: path.into(),
            value: None,
            detail: detail.into(),
        }
    }

    /// A value is none of those that are known.
    pub fn not_supported(
        path: impl Into<String>,
        value: impl Into<serde_json::Value>,
        supported: &[&str],
    ) -> Self {
        let listed: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let detail = if listed.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", listed.join(", "))
        };
        Self {
            kind: FieldErrorKind::NotSupported,
            path: path.into(),
            value: Some(value.into()),
            detail,
        }
    }

    /// A value that must be unique is there twice.
    pub fn duplicate(path: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        Self {
            kind: FieldErrorKind::Duplicate,
            path: path.into(),
            value: Some(value.into()),
            detail: String::new(),
        }
    }

    /// A value names something that is not there.
    pub fn not_found(path: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        Self {
            kind: FieldErrorKind::NotFound,
            path: path.into(),
            value: Some(value.into()),
            detail: String::new(),
        }
    }

    /// A text is longer than `limit` bytes. The text itself is not repeated.
    pub fn too_long(path: impl Into<String>, limit: usize) -> Self {
        Self {
            kind: FieldErrorKind::TooLong,
            path: path.into(),
            value: None,
            detail: format!("may not be more than {limit} bytes"),
        }
    }

    /// A list has more than `limit` items.
    pub fn too_many(path: impl Into<String>, count: usize, limit: usize) -> Self {
        Self {
            kind: FieldErrorKind::TooMany,
            path: path.into(),
            value: Some(count.into()),
            detail: format!("must have at most {limit} items"),
        }
    }
}

/// What is wrong with one object: everything, up to a bound, since a body of megabytes can be wrong in
/// a hundred thousand places.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldErrors(Vec<FieldError>);

/// More than anybody reads, and little enough to answer with.
pub(crate) const MAX_ERRORS: usize = 100;

/// Characters of a value that are repeated in a message: those of any name that may be meant.
const MAX_SHOWN: usize = 300;

impl FieldErrors {
    /// Nothing is wrong.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an error, unless there are too many already.
    pub fn push(&mut self, error: FieldError) {
        if self.0.len() < MAX_ERRORS {
            self.0.push(error);
        }
    }
}

impl std::ops::Deref for FieldErrors {
    type Target = [FieldError];

    fn deref(&self) -> &[FieldError] {
        &self.0
    }
}

impl Extend<FieldError> for FieldErrors {
    fn extend<I: IntoIterator<Item = FieldError>>(&mut self, errors: I) {
        let left = MAX_ERRORS - self.0.len();
        self.0.extend(errors.into_iter().take(left));
    }
}

impl IntoIterator for FieldErrors {
    type Item = FieldError;
    type IntoIter = std::vec::IntoIter<FieldError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl From<FieldError> for FieldErrors {
    fn from(error: FieldError) -> Self {
        Self(vec![error])
    }
}

/// The text, or its beginning.
pub(crate) fn cut(text: &str) -> std::borrow::Cow<'_, str> {
    match text.char_indices().nth(MAX_SHOWN) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]).into(),
    }
}

impl FieldErrorKind {
    /// The reason of the cause, as `FieldValueInvalid`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::NotFound => "FieldValueNotFound",
        }
    }

    /// How the message starts.
    fn words(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
        }
    }
}

impl FieldError {
    /// The message without the path: `Invalid value: "a_b": must be …`.
    pub fn message(&self) -> String {
        let mut message = self.kind.words().to_owned();
        // Kubernetes leaves out values that are long by nature.
        let shown = self.value.as_ref().filter(|_| {
            !matches!(
                self.kind,
                FieldErrorKind::Required | FieldErrorKind::Forbidden | FieldErrorKind::TooLong
            )
        });
        if let Some(value) = shown {
            message.push_str(": ");
            message.push_str(&match value.as_str() {
                Some(text) => serde_json::Value::from(cut(text)).to_string(),
                None => cut(&value.to_string()).into_owned(),
            });
        }
        if !self.detail.is_empty() {
            message.push_str(": ");
            message.push_str(&self.detail);
        }
        message
    }

    /// As an entry of `details.causes`.
    pub fn to_cause(&self) -> StatusCause {
        StatusCause {
            reason: Some(self.kind.reason().to_owned()),
            message: Some(self.message()),
            field: Some(cut(&self.path).into_owned()),
        }
    }
}

impl std::fmt::Display for FieldError {
    /// `spec.replicas: Invalid value: -1: must be …`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", cut(&self.path), self.message())
    }
}
