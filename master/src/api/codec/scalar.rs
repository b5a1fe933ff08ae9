//! What a YAML scalar means: as for a Kubernetes API server, whose reader follows YAML 1.1.
//!
//! So `0440` is octal, `yes` and `on` are true, `1_000` is a thousand. Numbers that are whole become
//! integers, however they are written: a port of `8e1` is 80.

use serde_json::{Number, Value};

/// The prefix of the tags of YAML itself: `!!int` is `tag:yaml.org,2002:int`.
const CORE: &str = "tag:yaml.org,2002:";

/// A scalar that is not what its tag says, or has no place in JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScalarError {
    /// `!!int x`.
    #[error("cannot decode `{text}` as a !!{tag}")]
    Mistagged {
        /// The scalar.
        text: String,
        /// Without prefix.
        tag: String,
    },
    /// `.inf` and `.nan`.
    #[error("a number has to be finite")]
    NotFinite,
}

/// What plain text may turn out to be.
enum Resolved {
    Null,
    Bool(bool),
    Int(i64),
    /// Beyond `i64`.
    Unsigned(u64),
    Float(f64),
    Text,
}

/// The value of a scalar. `plain`: without quotes, and no block. `tag`: in full, as
/// `tag:yaml.org,2002:int`.
pub(super) fn resolve(text: &str, plain: bool, tag: Option<&str>) -> Result<Value, ScalarError> {
    let core = match tag {
        None if !plain => return Ok(Value::from(text)),
        None => None,
        Some(tag) => match tag.strip_prefix(CORE) {
            Some(core @ ("bool" | "int" | "float" | "null" | "timestamp")) => Some(core),
            // `!!str`, and tags that mean something to the client only.
            _ => return Ok(Value::from(text)),
        },
    };
    let resolved = look(text);
    let fits = matches!(
        (core, &resolved),
        (None | Some("timestamp"), _)
            | (Some("null"), Resolved::Null)
            | (Some("bool"), Resolved::Bool(_))
            | (Some("int"), Resolved::Int(_) | Resolved::Unsigned(_))
            | (Some("float"), Resolved::Int(_) | Resolved::Unsigned(_) | Resolved::Float(_))
    );
    if !fits {
        let tag = core.unwrap_or_default().to_owned();
        return Err(ScalarError::Mistagged { text: text.to_owned(), tag });
    }
    match resolved {
        _ if core == Some("timestamp") => Ok(Value::from(text)),
        Resolved::Null => Ok(Value::Null),
        Resolved::Bool(value) => Ok(Value::Bool(value)),
        Resolved::Int(value) => Ok(Value::from(value)),
        Resolved::Unsigned(value) => Ok(Value::from(value)),
        Resolved::Float(value) => number(value),
        Resolved::Text => Ok(Value::from(text)),
    }
}

/// The name of a field; nothing for what cannot be one. Numbers and booleans are written out.
pub(super) fn field_name(value: &Value, text: &str) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) if matches!(look(text), Resolved::Float(_)) => {
            number.as_f64().map(short_float)
        }
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn look(text: &str) -> Resolved {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Resolved::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Resolved::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Resolved::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Resolved::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Resolved::Float(f64::INFINITY);
        }
        "-.inf" | "-.Inf" | "-.INF" => return Resolved::Float(f64::NEG_INFINITY),
        _ => {}
    }
    match text.as_bytes()[0] {
        b'.' => decimal(text),
        b'+' | b'-' | b'0'..=b'9' => {
            let digits = text.replace('_', "");
            integer(&digits).unwrap_or_else(|| decimal(&digits))
        }
        _ => Resolved::Text,
    }
}

/// An integer with the base in its prefix; a leading zero means octal, as for the mode of a file.
fn integer(text: &str) -> Option<Resolved> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (base, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', _, ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', _, ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', _, ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // `from_str_radix` would take a second sign.
    if !digits.starts_with(|first: char| first.is_digit(base)) {
        return None;
    }
    let value = i128::from_str_radix(digits, base).ok()?;
    let value = if negative { -value } else { value };
    if let Ok(value) = i64::try_from(value) {
        return Some(Resolved::Int(value));
    }
    match u64::try_from(value) {
        Ok(value) if !text.starts_with('+') => Some(Resolved::Unsigned(value)),
        // Too large to be exact.
        _ => Some(Resolved::Float(value as f64)),
    }
}

/// A decimal fraction, perhaps with an exponent; text if it is none.
fn decimal(text: &str) -> Resolved {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_is_good = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !digits.is_empty() && all_digits(digits)
    });
    let is_number = all_digits(whole)
        && all_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent_is_good;
    match text.parse::<f64>() {
        Ok(value) if is_number && value.is_finite() => Resolved::Float(value),
        _ => Resolved::Text,
    }
}

fn number(value: f64) -> Result<Value, ScalarError> {
    // Within this, whole numbers are exact and convert without loss.
    const EXACT: f64 = (1_u64 << 53) as f64;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        return Ok(Value::from(value as i64));
    }
    Number::from_f64(value).map(Value::Number).ok_or(ScalarError::NotFinite)
}

/// A number as the name of a field: the shortest form in single precision, with an exponent from a
/// million on.
fn short_float(value: f64) -> String {
    let value = value as f32;
    let scientific = format!("{value:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(-4..=5) => value.to_string(),
        Ok(exponent) if exponent < 0 => format!("{mantissa}e-{:02}", -exponent),
        Ok(exponent) => format!("{mantissa}e+{exponent:02}"),
        Err(_) => scientific,
    }
}
