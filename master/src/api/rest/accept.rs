//! In what form a client wants its answer.

use http::{HeaderMap, header};

use crate::api::error::ApiError;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) encoding: Encoding,
    pub(crate) shape: Shape,
    /// For people: indented.
    pub(crate) pretty: bool,
}

/// JSON or YAML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
}

impl Encoding {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
        }
    }
}

/// The objects as they are, or digests of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As they are.
    Plain,
    /// A `Table`, each row with this much of its object.
    Table(Include),
    /// `PartialObjectMetadata`.
    Partial,
}

/// What a table's row carries of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

/// What is named when nothing fits.
const OFFERED: &str =
    "application/json, application/yaml, application/json;as=Table;v=v1;g=meta.k8s.io";

/// One alternative of an `Accept` header.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MediaRange<'a> {
    /// `application/json`
    pub(crate) media_type: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> MediaRange<'a> {
    /// The value of a parameter, as of `as` in `;as=Table`.
    pub(crate) fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }
}

/// The alternatives of the `Accept` headers, best first. None at all means anything.
pub(crate) fn media_ranges(headers: &HeaderMap) -> Vec<MediaRange<'_>> {
    let mut ranges: Vec<(f32, MediaRange<'_>)> = Vec::new();
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for alternative in values.flat_map(|value| value.split(',')) {
        let mut parts = alternative.split(';').map(str::trim);
        let Some(media_type) = parts.next().filter(|media_type| !media_type.is_empty()) else {
            continue;
        };
        let parameters: Vec<(&str, &str)> =
            parts.filter_map(|parameter| parameter.split_once('=')).collect();
        let range = MediaRange { media_type, parameters };
        let quality = range.parameter("q").and_then(|q| q.parse().ok()).unwrap_or(1.0);
        if quality > 0.0 {
            ranges.push((quality, range));
        }
    }
    // Stable: equal alternatives stay in the client's order.
    ranges.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    ranges.into_iter().map(|(_, range)| range).collect()
}

/// The encoding for answers that have one shape only.
pub(crate) fn encoding(headers: &HeaderMap) -> Result<Encoding, ApiError> {
    let ranges = media_ranges(headers);
    if says_nothing(headers) {
        return Ok(Encoding::Json);
    }
    let found = ranges.iter().filter(|range| range.parameter("as").is_none()).find_map(known);
    found.ok_or_else(|| ApiError::not_acceptable(OFFERED))
}

/// Chooses an answer for objects. `include` and `pretty` are the query's options of these names.
pub(crate) fn negotiate(
    headers: &HeaderMap,
    include: Option<&str>,
    pretty: bool,
) -> Result<Answer, ApiError> {
    let ranges = media_ranges(headers);
    if says_nothing(headers) {
        return Ok(Answer { encoding: Encoding::Json, shape: Shape::Plain, pretty });
    }
    for range in &ranges {
        let Some(encoding) = known(range) else { continue };
        let meta = range.parameter("g") == Some("meta.k8s.io")
            && matches!(range.parameter("v"), Some("v1" | "v1beta1"));
        let shape = match range.parameter("as") {
            None => Shape::Plain,
            Some("Table") if meta => Shape::Table(match include {
                None | Some("Metadata") => Include::Metadata,
                Some("None") => Include::None,
                Some("Object") => Include::Object,
                Some(other) => {
                    return Err(ApiError::bad_request(format!(
                        "includeObject: Unsupported value: {other:?}: supported values: \
                         \"None\", \"Metadata\", \"Object\""
                    )));
                }
            }),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") if meta => Shape::Partial,
            Some(_) => continue,
        };
        return Ok(Answer { encoding, shape, pretty });
    }
    Err(ApiError::not_acceptable(OFFERED))
}

fn says_nothing(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().all(|value| value.as_bytes().trim_ascii().is_empty())
}

fn known(range: &MediaRange<'_>) -> Option<Encoding> {
    match range.media_type {
        "application/json" | "*/*" | "application/*" => Some(Encoding::Json),
        "application/yaml" => Some(Encoding::Yaml),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &str) -> Result<Answer, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, value.parse().unwrap());
        negotiate(&headers, None, false)
    }

    #[test]
    fn serves_the_first_alternative_it_can() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(accept(table).unwrap().shape, Shape::Table(Include::Metadata));
        let protobuf = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(accept(protobuf).unwrap().encoding, Encoding::Json);
        let partial = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(accept(partial).unwrap().shape, Shape::Partial);
        assert_eq!(accept("application/yaml").unwrap().encoding, Encoding::Yaml);
        let preferred = "application/yaml;q=0.5, application/json";
        assert_eq!(accept(preferred).unwrap().encoding, Encoding::Json);
        assert_eq!(accept("text/html, */*;q=0.1").unwrap().shape, Shape::Plain);
        assert_eq!(accept(" ").unwrap().shape, Shape::Plain);
    }

    #[test]
    fn refuses_when_nothing_fits() {
        for value in ["text/html", "application/vnd.kubernetes.protobuf", "application/json;q=0"] {
            assert!(accept(value).is_err(), "{value}");
        }
        assert!(accept("application/json;as=Table;v=v2;g=meta.k8s.io").is_err());
    }
}
