//! What the columns of several kinds share: ages as `kubectl` prints them, shortened lists.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use proto::k8s as k8s_openapi;

use super::Column;

/// What stands in a cell that has nothing to say.
pub(super) const NONE: &str = "<none>";
/// What stands in a cell of which nobody knows.
pub(super) const UNKNOWN: &str = "<unknown>";

/// A column that is always shown.
pub(super) const fn column(name: &'static str, kind: &'static str, about: &'static str) -> Column {
    Column { name, kind, format: "", description: about, priority: 0 }
}

/// A column of `-o wide`.
pub(super) const fn wide(name: &'static str, kind: &'static str, about: &'static str) -> Column {
    Column { name, kind, format: "", description: about, priority: 1 }
}

/// The column that names the object.
pub(super) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace.",
    priority: 0,
};

/// The column of the time since creation.
pub(super) const AGE: Column = column("Age", "string", "Time since the object was created.");

/// The object's name.
pub(super) fn name(metadata: &ObjectMeta) -> String {
    metadata.name.clone().unwrap_or_default()
}

/// Time since creation.
pub(super) fn age(metadata: &ObjectMeta, now: Timestamp) -> String {
    since(metadata.creation_timestamp.as_ref(), now)
}

/// Time since some moment, as `5m`.
pub(super) fn since(moment: Option<&Time>, now: Timestamp) -> String {
    moment.map_or_else(|| UNKNOWN.to_owned(), |moment| since_timestamp(moment.0, now))
}

/// Time since some moment, as `5m`.
pub(super) fn since_timestamp(moment: Timestamp, now: Timestamp) -> String {
    human_duration(now.duration_since(moment).as_secs())
}

/// A duration with at most two units, more exact the shorter it is, as `kubectl` prints it.
fn human_duration(seconds: i64) -> String {
    let two = |major: i64, unit: char, minor: i64, small: char| match minor {
        0 => format!("{major}{unit}"),
        _ => format!("{major}{unit}{minor}{small}"),
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    match () {
        () if seconds < -1 => "<invalid>".to_owned(),
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, 'd', hours % 24, 'h'),
        () if days < 365 * 2 => format!("{days}d"),
        () if days < 365 * 8 => two(days / 365, 'y', days % 365, 'd'),
        () => format!("{}y", days / 365),
    }
}

/// At most three items, then how many more there are: `a,b,c + 2 more...`.
pub(super) fn shortened(items: impl IntoIterator<Item = String>) -> Option<String> {
    const SHOWN: usize = 3;
    let mut items = items.into_iter();
    let shown: Vec<String> = items.by_ref().take(SHOWN).collect();
    if shown.is_empty() {
        return None;
    }
    let joined = shown.join(",");
    Some(match items.count() {
        0 => joined,
        more => format!("{joined} + {more} more..."),
    })
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn labels(labels: Option<&BTreeMap<String, String>>) -> String {
    match labels {
        Some(labels) if !labels.is_empty() => {
            let pairs: Vec<String> =
                labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            pairs.join(",")
        }
        _ => NONE.to_owned(),
    }
}

/// The text, or `<none>`.
pub(super) fn or_none(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or(NONE).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_prints_them() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (10 * 60 + 5, "10m"),
            (179 * 60, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (9 * 3600 + 60, "9h"),
            (48 * 3600, "2d"),
            (49 * 3600, "2d1h"),
            (8 * 86400 + 7200, "8d"),
            (2 * 365 * 86400, "2y"),
            (2 * 365 * 86400 + 86400, "2y1d"),
            (9 * 365 * 86400 + 86400, "9y"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn long_lists_are_shortened() {
        let items = |n: usize| (0..n).map(|i| i.to_string());
        assert_eq!(shortened(items(0)), None);
        assert_eq!(shortened(items(3)).as_deref(), Some("0,1,2"));
        assert_eq!(shortened(items(5)).as_deref(), Some("0,1,2 + 2 more..."));
    }
}
