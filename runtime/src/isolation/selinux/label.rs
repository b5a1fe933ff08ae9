//! What a label is made of.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `USER:ROLE:TYPE`, and with a policy of several levels `:LEVEL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(super) user: String,
    pub(super) role: String,
    pub(super) kind: String,
    pub(super) level: Option<String>,
}

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Label, String> {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        let mut part = || parts.next().filter(|part| !part.is_empty());
        match (part(), part(), part()) {
            (Some(user), Some(role), Some(kind)) => Ok(Label { user, role, kind, level: part() }),
            _ => Err(format!("{text:?} is no SELinux label")),
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:{}", self.user, self.role, self.kind)?;
        match &self.level {
            Some(level) => write!(out, ":{level}"),
            None => Ok(()),
        }
    }
}

/// So many categories policies have.
const CATEGORIES: u32 = 1024;

/// Two categories, by which a sandbox differs from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Level {
    lower: u32,
    higher: u32,
}

impl Level {
    /// As many numbers as [`Level::number`] tells apart; each pair comes twice.
    pub(crate) const NUMBERS: u32 = CATEGORIES * (CATEGORIES - 1);

    /// One of the pairs.
    pub(crate) fn number(number: u32) -> Level {
        let (one, other) = (number / (CATEGORIES - 1) % CATEGORIES, number % (CATEGORIES - 1));
        let other = other + u32::from(other >= one);
        Level { lower: one.min(other), higher: one.max(other) }
    }

    /// With the sensitivity of a level of the policy, which may be a range.
    pub(super) fn beside(self, of_policy: &str) -> String {
        let sensitivity = of_policy.split(['-', ':']).next().unwrap_or(of_policy);
        format!("{sensitivity}:c{},c{}", self.lower, self.higher)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_label_is_read_and_written_with_or_without_a_level() {
        for text in ["u:r:t", "system_u:system_r:container_t:s0", "u:r:t:s0-s0:c0.c1023"] {
            assert_eq!(text.parse::<Label>().unwrap().to_string(), text);
        }
        for text in ["", "u", "u:r", "u::t"] {
            text.parse::<Label>().unwrap_err();
        }
    }

    #[test]
    fn every_pair_of_categories_is_a_level() {
        let all: HashSet<Level> = (0..Level::NUMBERS).map(Level::number).collect();
        assert_eq!(all.len() as u32, Level::NUMBERS / 2);
        assert!(all.iter().all(|level| level.lower < level.higher && level.higher < CATEGORIES));
    }

    #[test]
    fn a_level_has_the_sensitivity_of_the_policy() {
        let level = Level::number(2);
        assert_eq!(level.beside("s0"), "s0:c0,c3");
        assert_eq!(level.beside("s3-s5:c0.c1023"), "s3:c0,c3");
    }
}
