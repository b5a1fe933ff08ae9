//! Kubernetes quantities (`100m`, `1Gi`, `1e3`): exact values out of their text.
//!
//! A value is a whole number of nano-units in an `i128`. As in Kubernetes nothing finer than a
//! nano-unit can be said (it is rounded away from zero) and nothing beyond ±(2⁶³-1) units (it is capped).

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

/// Nano-units in a unit.
const NANO: i128 = 1_000_000_000;
/// Nano-units in a milli-unit.
const NANO_PER_MILLI: i128 = 1_000_000;
/// The largest magnitude there is, in nano-units.
const MAX: i128 = i64::MAX as i128 * NANO;
/// Decimal digits of a nano value that can still lie below [`MAX`] (9.3·10²⁷).
const MAX_NANO_DIGITS: i64 = 28;
/// Fraction digits that are kept before a binary suffix is multiplied in: 10¹⁸·2⁶⁰ fits an `i128`.
const BINARY_FRACTION_DIGITS: usize = 18;

/// How a quantity was written, and so how it is printed again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `1500m`, `2`, `3G`
    #[default]
    Decimal,
    /// `512Mi`
    Binary,
    /// `12e6`
    Exponent,
}

/// The text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a quantity: quantities must match the regular expression \
     '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)]
pub struct ParseQuantityError {
    /// What was written, cut after 64 characters.
    pub text: String,
}

impl ParseQuantityError {
    /// What is demanded, in Kubernetes' words, without the text.
    pub const RULE: &'static str = "quantities must match the regular expression \
        '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

    fn new(text: &str) -> Self {
        Self { text: text.chars().take(64).collect() }
    }
}

/// An exact amount of a resource. Compared by value: `1Ki` equals `1024`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nano: 0, format: Format::Decimal };

    /// Reads a text such as `100m`.
    ///
    /// # Errors
    /// When the text does not follow the grammar.
    pub fn parse(text: &str) -> Result<Self, ParseQuantityError> {
        parse(text).ok_or_else(|| ParseQuantityError::new(text))
    }

    /// Whole units, printed as `1000`.
    pub fn from_units(units: i64) -> Self {
        Self { nano: i128::from(units) * NANO, format: Format::Decimal }
    }

    /// Bytes, printed as `1Ki`.
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nano: i128::from(bytes) * NANO, format: Format::Binary }
    }

    /// Thousandths, printed as `250m`.
    pub fn from_milli(milli: i64) -> Self {
        Self { nano: i128::from(milli) * NANO_PER_MILLI, format: Format::Decimal }
    }

    /// Whole units, rounded away from zero as Kubernetes does: `100m` is 1.
    pub fn value(&self) -> i64 {
        saturate(div_away_from_zero(self.nano, NANO))
    }

    /// Thousandths, rounded away from zero, capped at what fits.
    pub fn milli_value(&self) -> i64 {
        saturate(div_away_from_zero(self.nano, NANO_PER_MILLI))
    }

    /// Exact, in nano-units.
    pub fn nano_value(&self) -> i128 {
        self.nano
    }

    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// Whether it is less than nothing.
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }

    /// Whether it is a whole number of units.
    pub fn is_whole(&self) -> bool {
        self.nano % NANO == 0
    }

    /// How it is printed.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The same amount printed otherwise.
    pub fn with_format(self, format: Format) -> Self {
        Self { format, ..self }
    }

    /// For objects on the wire.
    pub fn to_wire(&self) -> WireQuantity {
        WireQuantity(self.to_string())
    }

    fn capped(nano: i128, format: Format) -> Self {
        Self { nano: nano.clamp(-MAX, MAX), format }
    }

    /// What a sum is printed like: as its first part, unless that says nothing.
    fn format_with(&self, other: &Self) -> Format {
        if self.is_zero() { other.format } else { self.format }
    }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn div_away_from_zero(value: i128, divisor: i128) -> i128 {
    let quotient = value / divisor;
    match value % divisor {
        0 => quotient,
        rest if rest > 0 => quotient + 1,
        _ => quotient - 1,
    }
}

/// What stands behind the digits.
enum Suffix {
    /// Powers of ten.
    Ten(i64, Format),
    /// Powers of two.
    Two(u32),
}

fn parse_suffix(text: &str) -> Option<Suffix> {
    let decimal = |power| Some(Suffix::Ten(power, Format::Decimal));
    match text {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => Some(Suffix::Two(10)),
        "Mi" => Some(Suffix::Two(20)),
        "Gi" => Some(Suffix::Two(30)),
        "Ti" => Some(Suffix::Two(40)),
        "Pi" => Some(Suffix::Two(50)),
        "Ei" => Some(Suffix::Two(60)),
        _ => {
            let exponent = text.strip_prefix(['e', 'E'])?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            // Kubernetes takes exponents that fit 32 bits.
            Some(Suffix::Ten(exponent.parse::<i32>().ok()?.into(), Format::Exponent))
        }
    }
}

fn parse(text: &str) -> Option<Quantity> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'+' => (false, &text[1..]),
        b'-' => (true, &text[1..]),
        _ => (false, text),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (whole, rest) = rest.split_at(end);
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let (nano, format) = match parse_suffix(suffix)? {
        Suffix::Ten(power, format) => (decimal_nano(whole, fraction, power), format),
        Suffix::Two(power) => (binary_nano(whole, fraction, power), Format::Binary),
    };
    let nano = nano.min(MAX);
    Some(Quantity { nano: if negative { -nano } else { nano }, format })
}

/// Shifts the decimal point by `power` + 9 places and rounds what remains behind it up.
fn decimal_nano(whole: &str, fraction: &str, power: i64) -> i128 {
    let digits = || whole.bytes().chain(fraction.bytes());
    let Some(leading_zeros) = digits().position(|digit| digit != b'0') else { return 0 };
    let point = whole.len() as i64 + power + 9;
    if point - leading_zeros as i64 > MAX_NANO_DIGITS {
        return MAX;
    }
    let mut value: i128 = 0;
    let mut digits = digits();
    for _ in 0..point.max(0) {
        value = value * 10 + digits.next().map_or(0, |digit| i128::from(digit - b'0'));
    }
    if digits.any(|digit| digit != b'0') { value + 1 } else { value }
}

/// `whole.fraction` · 2^`power` in nano-units, rounded up.
fn binary_nano(whole: &str, fraction: &str, power: u32) -> i128 {
    let factor = 1_i128 << power;
    // 2⁶³ has nineteen digits.
    let whole = if whole.len() > 19 { None } else { format!("0{whole}").parse::<i128>().ok() };
    let Some(whole) = whole
        .and_then(|whole| whole.checked_mul(factor))
        .filter(|units| *units <= i128::from(i64::MAX))
    else {
        return MAX;
    };
    let kept = &fraction[..fraction.len().min(BINARY_FRACTION_DIGITS)];
    let mut parts: i128 = 0;
    for index in 0..BINARY_FRACTION_DIGITS {
        parts = parts * 10 + kept.as_bytes().get(index).map_or(0, |digit| i128::from(digit - b'0'));
    }
    if kept.len() < fraction.len() {
        parts += 1;
    }
    // parts/10¹⁸ · factor · 10⁹
    whole * NANO + div_away_from_zero(parts * factor, NANO)
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<&WireQuantity> for Quantity {
    type Error = ParseQuantityError;

    fn try_from(wire: &WireQuantity) -> Result<Self, Self::Error> {
        Self::parse(&wire.0)
    }
}

impl From<Quantity> for WireQuantity {
    fn from(quantity: Quantity) -> Self {
        quantity.to_wire()
    }
}

impl fmt::Display for Quantity {
    /// Kubernetes' canonical form: no fraction, the largest suffix that allows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        if self.nano == 0 {
            return f.write_str("0");
        }
        // Below 1024 a binary suffix cannot say anything.
        if self.format == Format::Binary && self.nano.abs() >= 1024 * NANO {
            let mut value = div_away_from_zero(self.nano, NANO);
            let mut power = 0;
            while value % 1024 == 0 && power + 1 < BINARY.len() {
                value /= 1024;
                power += 1;
            }
            return write!(f, "{value}{}", BINARY[power]);
        }
        let mut value = self.nano;
        let mut power = 0;
        while value % 1000 == 0 && power + 1 < DECIMAL.len() {
            value /= 1000;
            power += 1;
        }
        match (self.format, power) {
            (Format::Exponent, 3) => write!(f, "{value}"),
            (Format::Exponent, _) => write!(f, "{value}e{}", power as i32 * 3 - 9),
            _ => write!(f, "{value}{}", DECIMAL[power]),
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nano.hash(state);
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::capped(self.nano + other.nano, self.format_with(&other))
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self::capped(self.nano - other.nano, self.format_with(&other))
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(text: &str) -> Quantity {
        Quantity::parse(text).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn every_suffix_has_its_value() {
        for (text, nano) in [
            ("0", 0),
            ("1", NANO),
            ("+1", NANO),
            ("-1", -NANO),
            ("1n", 1),
            ("1u", 1_000),
            ("1m", NANO_PER_MILLI),
            ("1k", 1_000 * NANO),
            ("1M", 1_000_000 * NANO),
            ("1G", NANO * NANO),
            ("1T", 1_000 * NANO * NANO),
            ("1P", 1_000_000 * NANO * NANO),
            ("1E", NANO * NANO * NANO),
            ("1Ki", 1024 * NANO),
            ("1Mi", (1 << 20) * NANO),
            ("1Gi", (1 << 30) * NANO),
            ("1Ti", (1 << 40) * NANO),
            ("1Pi", (1 << 50) * NANO),
            ("1Ei", (1 << 60) * NANO),
            ("1e3", 1_000 * NANO),
            ("1E3", 1_000 * NANO),
            ("1e+3", 1_000 * NANO),
            ("25e-3", 25 * NANO_PER_MILLI),
            ("0.5", NANO / 2),
            (".5", NANO / 2),
            ("5.", 5 * NANO),
            ("0.5Gi", (1 << 29) * NANO),
            ("0000000000000000000000000000000000000000012", 12 * NANO),
            ("1.500000000000000000000000000000000000", NANO * 3 / 2),
        ] {
            assert_eq!(quantity(text).nano_value(), nano, "{text}");
        }
    }

    #[test]
    fn what_is_finer_than_nano_is_rounded_away_from_zero() {
        assert_eq!(quantity("0.0000000001").nano_value(), 1);
        assert_eq!(quantity("-0.0000000001").nano_value(), -1);
        assert_eq!(quantity("1e-2147483648").nano_value(), 1);
        assert_eq!(quantity("0e-2147483648").nano_value(), 0);
        assert_eq!(quantity("0.1n").nano_value(), 1);
        assert_eq!(quantity("1.0000000000000000000000000000001").nano_value(), NANO + 1);
    }

    #[test]
    fn what_is_too_large_is_capped() {
        for text in ["1e100", "9223372036854775807", "8Ei", "1e2147483647", "99999999999999999999"]
        {
            assert_eq!(quantity(text).value(), i64::MAX, "{text}");
            assert_eq!(quantity(&format!("-{text}")).value(), -i64::MAX, "{text}");
        }
        let digits = "9".repeat(100_000);
        assert_eq!(quantity(&digits).value(), i64::MAX);
        assert_eq!((quantity("9E") + quantity("9E")).value(), i64::MAX);
    }

    #[test]
    fn what_is_no_quantity_is_named() {
        for text in [
            "",
            " ",
            ".",
            "+",
            "-",
            "1 Gi",
            "Gi",
            "1gi",
            "1KI",
            "1K",
            "0x10",
            "1e",
            "1e1.5",
            "--1",
            "1.2.3",
            "1mm",
            "1Mib",
            "١",
            "1e99999999999",
            "abc",
            "1,5",
            "1e+",
            "NaN",
            "inf",
        ] {
            let error = Quantity::parse(text).expect_err(text);
            assert!(error.to_string().starts_with(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn whole_and_milli_values_round_up() {
        assert_eq!(quantity("100m").value(), 1);
        assert_eq!(quantity("1100m").value(), 2);
        assert_eq!(quantity("-100m").value(), -1);
        assert_eq!(quantity("100u").milli_value(), 1);
        assert_eq!(quantity("1.5").milli_value(), 1500);
        assert_eq!(quantity("9E").milli_value(), i64::MAX);
    }

    #[test]
    fn prints_the_canonical_form_and_reads_it_back() {
        for (text, canonical) in [
            ("0", "0"),
            ("0.1", "100m"),
            ("1.5", "1500m"),
            ("1000m", "1"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("0.5Gi", "512Mi"),
            ("1.5Ki", "1536"),
            ("100Ki", "100Ki"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("12000e3", "12e6"),
            ("5e0", "5"),
            ("1e-3", "1e-3"),
            ("-2Gi", "-2Gi"),
            ("1n", "1n"),
        ] {
            assert_eq!(quantity(text).to_string(), canonical, "{text}");
            assert_eq!(quantity(canonical), quantity(text));
            assert_eq!(quantity(canonical).to_string(), canonical);
        }
    }

    #[test]
    fn compares_by_value_and_adds() {
        assert_eq!(quantity("1Ki"), quantity("1024"));
        assert!(quantity("100m") < quantity("0.2"));
        assert_eq!((quantity("100m") + quantity("0.9")).to_string(), "1");
        assert_eq!((Quantity::ZERO + quantity("1Gi")).to_string(), "1Gi");
        assert_eq!((quantity("1Gi") - quantity("512Mi")).to_string(), "512Mi");
        let sum: Quantity = ["1", "500m", "1500m"].into_iter().map(quantity).sum();
        assert_eq!(sum.value(), 3);
    }
}
