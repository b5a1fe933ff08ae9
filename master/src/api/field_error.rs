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
            message.push_str(&value.to_string());
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
            field: Some(self.path.clone()),
        }
    }
}

impl std::fmt::Display for FieldError {
    /// `spec.replicas: Invalid value: -1: must be …`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.message())
    }
}
