//! Label selectors, from their query-string form, from `LabelSelector` and from plain maps; and
//! field selectors.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::names;

/// A selector that cannot be read, or demands what cannot be. The words are Kubernetes'.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The grammar is broken.
    #[error("unable to parse requirement: {0}")]
    Syntax(String),
    /// A key is not a label's.
    #[error("key: Invalid value: {key:?}: {reason}")]
    Key {
        /// What stands there.
        key: String,
        /// The rule.
        reason: String,
    },
    /// A value is not a label's.
    #[error("values[{index}][{key}]: Invalid value: {value:?}: {reason}")]
    Value {
        /// Whose.
        key: String,
        /// Which of several.
        index: usize,
        /// What stands there.
        value: String,
        /// The rule.
        reason: String,
    },
    /// The operator does not go with so many values.
    #[error("values: Invalid value: [{values}]: {reason}")]
    Values {
        /// What stands there.
        values: String,
        /// The rule.
        reason: &'static str,
    },
    /// `matchExpressions` names an operator that does not exist.
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
    /// A field selector that cannot be read.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    FieldSyntax {
        /// All of it.
        selector: String,
        /// The part that makes no sense.
        term: String,
    },
}

/// What is demanded of one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Requirement {
    /// The label is there with one of the values: `a=b`, `a in (b,c)`.
    In(String, BTreeSet<String>),
    /// The label is absent or has none of the values: `a!=b`, `a notin (b,c)`.
    NotIn(String, BTreeSet<String>),
    /// `a`
    Exists(String),
    /// `!a`
    DoesNotExist(String),
    /// The label is a whole number above: `a>1`.
    GreaterThan(String, i64),
    /// The label is a whole number below: `a<1`.
    LessThan(String, i64),
}

impl Requirement {
    /// The label it speaks about.
    pub fn key(&self) -> &str {
        match self {
            Self::In(key, _)
            | Self::NotIn(key, _)
            | Self::Exists(key)
            | Self::DoesNotExist(key)
            | Self::GreaterThan(key, _)
            | Self::LessThan(key, _) => key,
        }
    }

    /// Whether labels meet it.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let number = |key: &str| labels.get(key).and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => {
                !labels.get(key).is_some_and(|value| values.contains(value))
            }
            Self::Exists(key) => labels.contains_key(key),
            Self::DoesNotExist(key) => !labels.contains_key(key),
            Self::GreaterThan(key, bound) => number(key).is_some_and(|value| value > *bound),
            Self::LessThan(key, bound) => number(key).is_some_and(|value| value < *bound),
        }
    }

    fn check(&self) -> Result<(), SelectorError> {
        let key = self.key();
        if let Some(reason) = names::qualified_name(key).into_iter().next() {
            return Err(SelectorError::Key { key: key.to_owned(), reason });
        }
        let (Self::In(_, values) | Self::NotIn(_, values)) = self else { return Ok(()) };
        if values.is_empty() {
            return Err(SelectorError::Values {
                values: String::new(),
                reason: "for 'in', 'notin' operators, values set can't be empty",
            });
        }
        for (index, value) in values.iter().enumerate() {
            if let Some(reason) = names::label_value(value).into_iter().next() {
                let (key, value) = (key.to_owned(), value.clone());
                return Err(SelectorError::Value { key, index, value, reason });
            }
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |values: &BTreeSet<String>| {
            values.iter().map(String::as_str).collect::<Vec<_>>().join(",")
        };
        match self {
            Self::In(key, values) if values.len() == 1 => write!(f, "{key}={}", joined(values)),
            Self::NotIn(key, values) if values.len() == 1 => write!(f, "{key}!={}", joined(values)),
            Self::In(key, values) => write!(f, "{key} in ({})", joined(values)),
            Self::NotIn(key, values) => write!(f, "{key} notin ({})", joined(values)),
            Self::Exists(key) => f.write_str(key),
            Self::DoesNotExist(key) => write!(f, "!{key}"),
            Self::GreaterThan(key, bound) => write!(f, "{key}>{bound}"),
            Self::LessThan(key, bound) => write!(f, "{key}<{bound}"),
        }
    }
}

/// Requirements that all have to hold; without any it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

impl Selector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// From the query-string form: `a=b,c!=d,e in (x,y),!f,g>1`.
    ///
    /// # Errors
    /// When the grammar is broken, or a key or value cannot be a label's.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let requirements = Parser::new(text).selector()?;
        requirements.iter().try_for_each(Requirement::check)?;
        Ok(Self { requirements })
    }

    /// From a map, as in `spec.selector` of Services and ReplicationControllers. What an empty or
    /// absent map means is the caller's to say; here it selects everything.
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        let requirements = labels
            .iter()
            .map(|(key, value)| Requirement::In(key.clone(), BTreeSet::from([value.clone()])))
            .collect();
        Self { requirements }
    }

    /// From `matchLabels` and `matchExpressions`; an empty one selects everything.
    ///
    /// # Errors
    /// When an operator is unknown or does not go with its values, or a key or value cannot be a label's.
    pub fn from_label_selector(selector: &LabelSelector) -> Result<Self, SelectorError> {
        let mut result = Self::from_map(selector.match_labels.as_ref().unwrap_or(&BTreeMap::new()));
        for expression in selector.match_expressions.iter().flatten() {
            let key = expression.key.clone();
            let values: BTreeSet<String> = expression.values.iter().flatten().cloned().collect();
            let without_values = |requirement| {
                if values.is_empty() {
                    return Ok(requirement);
                }
                Err(SelectorError::Values {
                    values: expression
                        .values
                        .iter()
                        .flatten()
                        .cloned()
                        .collect::<Vec<_>>()
                        .join(" "),
                    reason: "values set must be empty for exists and does not exist",
                })
            };
            result.requirements.push(match expression.operator.as_str() {
                "In" => Requirement::In(key, values),
                "NotIn" => Requirement::NotIn(key, values),
                "Exists" => without_values(Requirement::Exists(key))?,
                "DoesNotExist" => without_values(Requirement::DoesNotExist(key))?,
                other => return Err(SelectorError::Operator(other.to_owned())),
            });
        }
        result.requirements.iter().try_for_each(Requirement::check)?;
        Ok(result)
    }

    /// The same with another requirement.
    #[must_use]
    pub fn with(mut self, requirement: Requirement) -> Self {
        self.requirements.push(requirement);
        self
    }

    /// Whether labels meet every requirement.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The requirements, for those who look for an index to use.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    /// `=`, `==`, `!=`, `!`, `<`, `>`, `(`, `)`, `,`
    Symbol(&'a str),
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(text) | Self::Symbol(text) => f.write_str(text),
            Self::End => Ok(()),
        }
    }
}

fn syntax<T>(found: Token<'_>, expected: &str) -> Result<T, SelectorError> {
    Err(SelectorError::Syntax(format!("found '{found}', expected: {expected}")))
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    fn next(&mut self) -> Token<'a> {
        self.rest = self.rest.trim_start();
        let is_symbol = |c: char| "=!<>(),".contains(c);
        let end = match self.rest.chars().next() {
            None => return Token::End,
            Some('=') if self.rest.starts_with("==") => 2,
            Some('!') if self.rest.starts_with("!=") => 2,
            Some(c) if is_symbol(c) => 1,
            Some(_) => {
                let end = self.rest.find(|c: char| is_symbol(c) || c.is_whitespace());
                let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                self.rest = rest;
                return Token::Word(word);
            }
        };
        let (symbol, rest) = self.rest.split_at(end);
        self.rest = rest;
        Token::Symbol(symbol)
    }

    fn peek(&self) -> Token<'a> {
        Parser { rest: self.rest }.next()
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut requirements = Vec::new();
        if self.peek() == Token::End {
            return Ok(requirements);
        }
        loop {
            requirements.push(self.requirement()?);
            match self.next() {
                Token::End => return Ok(requirements),
                Token::Symbol(",") => match self.peek() {
                    Token::Word(_) | Token::Symbol("!") => {}
                    other => return syntax(other, "identifier after ','"),
                },
                other => return syntax(other, "',' or 'end of string'"),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let key = match self.next() {
            Token::Word(key) => key.to_owned(),
            Token::Symbol("!") => match self.next() {
                Token::Word(key) => return Ok(Requirement::DoesNotExist(key.to_owned())),
                other => return syntax(other, "identifier"),
            },
            other => return syntax(other, "!, identifier, or 'end of string'"),
        };
        match self.peek() {
            Token::End | Token::Symbol(",") => return Ok(Requirement::Exists(key)),
            _ => {}
        }
        match self.next() {
            Token::Symbol("=" | "==") => Ok(Requirement::In(key, BTreeSet::from([self.value()?]))),
            Token::Symbol("!=") => Ok(Requirement::NotIn(key, BTreeSet::from([self.value()?]))),
            Token::Symbol(">") => Ok(Requirement::GreaterThan(key, self.number()?)),
            Token::Symbol("<") => Ok(Requirement::LessThan(key, self.number()?)),
            Token::Word("in") => Ok(Requirement::In(key, self.values()?)),
            Token::Word("notin") => Ok(Requirement::NotIn(key, self.values()?)),
            other => syntax(other, "in, notin, =, ==, !=, gt, lt"),
        }
    }

    /// A value, which may be empty; `in` and `notin` may be values too.
    fn value(&mut self) -> Result<String, SelectorError> {
        match self.peek() {
            Token::End | Token::Symbol(",") => return Ok(String::new()),
            _ => {}
        }
        match self.next() {
            Token::Word(value) => Ok(value.to_owned()),
            other => syntax(other, "identifier"),
        }
    }

    fn number(&mut self) -> Result<i64, SelectorError> {
        let value = self.value()?;
        value.parse().map_err(|_| SelectorError::Values {
            values: value,
            reason: "for 'Gt', 'Lt' operators, the value must be an integer",
        })
    }

    fn values(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        match self.next() {
            Token::Symbol("(") => {}
            other => return syntax(other, "'('"),
        }
        let mut values = BTreeSet::new();
        loop {
            // `(,b)` and `(a,)` contain an empty value.
            match self.peek() {
                Token::Word(_) => {
                    if let Token::Word(value) = self.next() {
                        values.insert(value.to_owned());
                    }
                }
                Token::Symbol("," | ")") => {
                    values.insert(String::new());
                }
                other => return syntax(other, "',', or identifier"),
            }
            match self.next() {
                Token::Symbol(",") => {}
                Token::Symbol(")") => return Ok(values),
                other => return syntax(other, "',' or ')'"),
            }
        }
    }
}

/// One term of a field selector: `a=b` or `a!=b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// `spec.nodeName`, `metadata.name` …
    pub field: String,
    /// `!=`
    pub negated: bool,
    /// The value, escapes resolved.
    pub value: String,
}

/// Terms that all have to hold; without any it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// From `a=b,c==d,e!=f`, where `\` escapes `\`, `,` and `=`.
    ///
    /// # Errors
    /// When a term has no operator, or an escape is none.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let error = |term: &str| SelectorError::FieldSyntax {
            selector: text.to_owned(),
            term: term.to_owned(),
        };
        let mut requirements = Vec::new();
        for term in split_unescaped(text, ',') {
            if term.is_empty() {
                continue;
            }
            let equals = split_unescaped(term, '=').next().map_or(0, str::len);
            let (left, right) = term.split_at(equals);
            let Some(right) = right.strip_prefix('=') else { return Err(error(term)) };
            let (field, negated, value) = match left.strip_suffix('!') {
                Some(field) => (field, true, right),
                None => (left, false, right.strip_prefix('=').unwrap_or(right)),
            };
            let value = unescape(value).ok_or_else(|| error(term))?;
            requirements.push(FieldRequirement { field: field.to_owned(), negated, value });
        }
        Ok(Self { requirements })
    }

    /// The same with other names for some fields: `(name, other name)`.
    #[must_use]
    pub fn renamed(mut self, names: &[(&str, &str)]) -> Self {
        for requirement in &mut self.requirements {
            if let Some((_, other)) = names.iter().find(|(name, _)| *name == requirement.field) {
                requirement.field = (*other).to_owned();
            }
        }
        self
    }

    /// Whether the fields of an object, as `value` tells them, meet every term. A field that is
    /// not there counts as empty; that a field can be selected at all is checked beforehand,
    /// by [`requirements`](Self::requirements).
    pub fn matches<'a>(&self, mut value: impl FnMut(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| {
            let found = value(&requirement.field).unwrap_or_default();
            (found == requirement.value) != requirement.negated
        })
    }

    /// The value that a field must have, if a term says so: for those who look for an index to use.
    pub fn exact(&self, field: &str) -> Option<&str> {
        let mut terms = self.requirements.iter();
        terms.find(|term| term.field == field && !term.negated).map(|term| term.value.as_str())
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The terms.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, FieldRequirement { field, negated, value }) in
            self.requirements.iter().enumerate()
        {
            let comma = if index > 0 { "," } else { "" };
            let operator = if *negated { "!=" } else { "=" };
            write!(f, "{comma}{field}{operator}")?;
            for character in value.chars() {
                if matches!(character, '\\' | ',' | '=') {
                    f.write_str("\\")?;
                }
                write!(f, "{character}")?;
            }
        }
        Ok(())
    }
}

/// The parts between separators that no `\` stands before.
fn split_unescaped(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c| {
        let splits = c == separator && !escaped;
        escaped = c == '\\' && !escaped;
        splits
    })
}

fn unescape(text: &str) -> Option<String> {
    let mut result = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => result.push(escaped),
                _ => return None,
            },
            // Kubernetes wants them escaped, so that a typing error is not taken for a value.
            ',' | '=' => return None,
            other => result.push(other),
        }
    }
    Some(result)
}

#[cfg(test)]
mod tests;
