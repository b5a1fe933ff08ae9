//! When a node counts as short of something, in Kubernetes' notation: `memory.available<100Mi`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use proto::quantity::Quantity;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Memory that is to be had without swapping.
    MemoryAvailable,
    /// Free bytes where the kubelet keeps its state.
    NodefsAvailable,
    /// Free inodes there.
    NodefsInodesFree,
    /// Free bytes where the images are.
    ImagefsAvailable,
    /// Free inodes there.
    ImagefsInodesFree,
    /// Process ids that are free.
    PidAvailable,
}

/// What a pod uses up when a signal is low.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Memory.
    Memory,
    /// Bytes on disk.
    EphemeralStorage,
    /// Files.
    Inodes,
    /// Processes.
    Pids,
}

/// A condition of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// `MemoryPressure`.
    Memory,
    /// `DiskPressure`.
    Disk,
    /// `PIDPressure`.
    Pid,
}

impl Signal {
    const ALL: [Self; 6] = [
        Self::MemoryAvailable,
        Self::NodefsAvailable,
        Self::NodefsInodesFree,
        Self::ImagefsAvailable,
        Self::ImagefsInodesFree,
        Self::PidAvailable,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::NodefsAvailable => "nodefs.available",
            Self::NodefsInodesFree => "nodefs.inodesFree",
            Self::ImagefsAvailable => "imagefs.available",
            Self::ImagefsInodesFree => "imagefs.inodesFree",
            Self::PidAvailable => "pid.available",
        }
    }

    /// What there is too little of.
    pub fn resource(self) -> Resource {
        match self {
            Self::MemoryAvailable => Resource::Memory,
            Self::NodefsAvailable | Self::ImagefsAvailable => Resource::EphemeralStorage,
            Self::NodefsInodesFree | Self::ImagefsInodesFree => Resource::Inodes,
            Self::PidAvailable => Resource::Pids,
        }
    }

    /// What the node says of it.
    pub fn condition(self) -> Condition {
        match self.resource() {
            Resource::Memory => Condition::Memory,
            Resource::EphemeralStorage | Resource::Inodes => Condition::Disk,
            Resource::Pids => Condition::Pid,
        }
    }
}

impl Resource {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::EphemeralStorage => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }

    /// A number of it, as people write it.
    pub fn format(self, amount: i64) -> String {
        match self {
            Self::Memory | Self::EphemeralStorage => Quantity::from_bytes(amount).to_string(),
            Self::Inodes | Self::Pids => Quantity::from_units(amount).to_string(),
        }
    }
}

impl Condition {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pid => "PIDPressure",
        }
    }
}

impl FromStr for Signal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|signal| signal.name() == text)
            .ok_or_else(|| format!("unsupported eviction signal \"{text}\"; there are {}", known()))
    }
}

/// So much, or a share of all there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// Bytes or numbers.
    Fixed(i64),
    /// 0.1 is a tenth.
    Share(f64),
}

impl Amount {
    /// Of so much.
    pub fn of(self, capacity: i64) -> i64 {
        match self {
            Self::Fixed(amount) => amount,
            Self::Share(share) => (capacity as f64 * share) as i64,
        }
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| format!("\"{text}\" is no share"))?;
            if !(0.0..=100.0).contains(&percent) {
                return Err(format!("\"{text}\" is not between 0% and 100%"));
            }
            return Ok(Self::Share(percent / 100.0));
        }
        let amount = Quantity::parse(text).map_err(|error| error.to_string())?;
        if amount.is_negative() || amount.is_zero() {
            return Err(format!("\"{text}\" is not above zero"));
        }
        Ok(Self::Fixed(amount.value()))
    }
}

/// A bound of a signal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// Of what.
    pub signal: Signal,
    /// Below it something is done.
    pub amount: Amount,
    /// For so long it has to be below; nothing: not a moment, a hard threshold.
    pub grace: Option<Duration>,
    /// So much more has to be free before all is well again.
    pub minimum_reclaim: Option<Amount>,
}

/// `SIGNAL<AMOUNT`, separated by commas. A share of 0% or 100% switches a signal off.
#[derive(Clone, Debug, PartialEq)]
pub struct Statements(pub Vec<(Signal, Amount)>);

impl FromStr for Statements {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = pairs(text, '<')?;
        let off = |amount: &Amount| matches!(amount, Amount::Share(share) if *share == 0.0 || *share == 1.0);
        Ok(Self(all.into_iter().filter(|(_, amount)| !off(amount)).collect()))
    }
}

/// `SIGNAL=AMOUNT`, separated by commas.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reclaims(pub BTreeMap<Signal, Amount>);

impl FromStr for Reclaims {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        pairs(text, '=').map(|all| Self(all.into_iter().collect()))
    }
}

/// `SIGNAL=1m30s`, separated by commas.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graces(pub BTreeMap<Signal, Period>);

impl FromStr for Graces {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        pairs(text, '=').map(|all| Self(all.into_iter().collect()))
    }
}

fn pairs<T: FromStr<Err = String>>(text: &str, between: char) -> Result<Vec<(Signal, T)>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let mut all: Vec<(Signal, T)> = Vec::new();
    for part in parts {
        let (signal, value) = part
            .split_once(between)
            .ok_or_else(|| format!("\"{part}\" is not written SIGNAL{between}VALUE"))?;
        let signal = signal.trim().parse()?;
        if all.iter().any(|(known, _)| *known == signal) {
            return Err(format!("{} is said twice", signal.name()));
        }
        all.push((signal, value.trim().parse()?));
    }
    Ok(all)
}

/// A time as Go's programs write it: `1h2m3.5s`, `300ms`, `0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no time; write it as 1m30s");
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let mut rest = text;
        let mut seconds = 0.0;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(wrong)?;
            let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
            rest = &rest[end..];
            let units = [("ms", 0.001), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
            let (unit, factor) =
                units.into_iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(wrong)?;
            rest = &rest[unit.len()..];
            seconds += number * factor;
        }
        if text.is_empty() {
            return Err(wrong());
        }
        Duration::try_from_secs_f64(seconds).map(Self).map_err(|_| wrong())
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0.as_secs_f64())
    }
}

/// Puts the operator's words together.
///
/// # Errors
/// When a soft threshold has no grace period.
pub fn thresholds(
    hard: &Statements,
    soft: &Statements,
    graces: &Graces,
    reclaims: &Reclaims,
) -> Result<Vec<Threshold>, String> {
    let reclaim = |signal: Signal| reclaims.0.get(&signal).copied();
    let mut all: Vec<Threshold> = hard
        .0
        .iter()
        .map(|&(signal, amount)| Threshold {
            signal,
            amount,
            grace: None,
            minimum_reclaim: reclaim(signal),
        })
        .collect();
    for &(signal, amount) in &soft.0 {
        let Some(grace) = graces.0.get(&signal) else {
            return Err(format!(
                "the soft threshold of {} needs a time in --eviction-soft-grace-period",
                signal.name()
            ));
        };
        let minimum_reclaim = reclaim(signal);
        all.push(Threshold { signal, amount, grace: Some(grace.0), minimum_reclaim });
    }
    Ok(all)
}
