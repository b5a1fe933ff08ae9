//! Which of the Pod Security Standards a namespace asks for, and in which version, by its labels.
//!
//! The three levels are those of Kubernetes' Pod Security Standards; the labels and what becomes of
//! wrong ones are those of its Pod Security admission.

use std::collections::BTreeMap;
use std::fmt;

use crate::api::field_error::{FieldError, FieldErrors};

/// How much a pod may ask for; the later, the less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Everything.
    #[default]
    Privileged,
    /// Nothing by which privileges are known to be gained.
    Baseline,
    /// What hardened programs need.
    Restricted,
}

impl Level {
    const ALL: [(&str, Self); 3] = [
        ("privileged", Self::Privileged),
        ("baseline", Self::Baseline),
        ("restricted", Self::Restricted),
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(name, _)| *name == text).map(|(_, level)| *level)
    }
}

/// Of which Kubernetes version the standards are meant: what later versions forbid is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// 1 and this.
    Minor(u32),
    /// Whatever is newest.
    #[default]
    Latest,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self::Latest);
        }
        let minor = text.strip_prefix("v1.")?;
        let plain = minor.bytes().all(|byte| byte.is_ascii_digit());
        let canonical = minor == "0" || !minor.starts_with('0');
        (plain && canonical).then(|| minor.parse().ok().map(Self::Minor)).flatten()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minor(minor) => write!(f, "v1.{minor}"),
            Self::Latest => f.write_str("latest"),
        }
    }
}

/// What a pod is held to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standard {
    pub(crate) level: Level,
    pub(crate) version: Version,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level.name(), self.version)
    }
}

/// What a namespace asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Pods that do not meet it are refused.
    pub(crate) enforce: Standard,
    /// Pods that do not meet it are written down.
    pub(crate) audit: Standard,
    /// Whoever makes a pod that does not meet it is told.
    pub(crate) warn: Standard,
}

impl Policy {
    /// Reads a namespace's labels. What they do not say is unrestricted; what cannot be understood
    /// is taken at its strictest where it is enforced, and left out where it is not.
    pub(crate) fn of(labels: &BTreeMap<String, String>) -> (Self, FieldErrors) {
        let mut policy = Self::default();
        let mut errors = FieldErrors::new();
        let modes = [
            ("enforce", &mut policy.enforce, Level::Restricted),
            ("audit", &mut policy.audit, Level::Privileged),
            ("warn", &mut policy.warn, Level::Privileged),
        ];
        for (mode, standard, in_doubt) in modes {
            let label = format!("pod-security.kubernetes.io/{mode}");
            if let Some(value) = labels.get(&label) {
                standard.level = Level::parse(value).unwrap_or_else(|| {
                    errors.push(wrong(
                        &label,
                        value,
                        "must be one of privileged, baseline, restricted",
                    ));
                    in_doubt
                });
            }
            let label = format!("{label}-version");
            if let Some(value) = labels.get(&label) {
                standard.version = Version::parse(value).unwrap_or_else(|| {
                    errors.push(wrong(&label, value, r#"must be "latest" or "v1.x""#));
                    Version::Latest
                });
            }
        }
        (policy, errors)
    }
}

fn wrong(label: &str, value: &str, detail: &str) -> FieldError {
    FieldError::invalid(format!("metadata.labels[{label}]"), value, detail)
}
