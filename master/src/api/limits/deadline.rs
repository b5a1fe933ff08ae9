//! How long a request may take.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http::Uri;
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

use super::class::value;
use crate::api::error::ApiError;
use crate::metrics::requests::Running;

/// The longest a request may take that is no watch and no stream: as in Kubernetes.
const LONGEST: Duration = Duration::from_secs(60);

/// What a client allows: `timeout`, as Go writes durations, or `timeoutSeconds`; and not more than
/// we do.
pub(super) fn of(uri: &Uri) -> Result<Duration, ApiError> {
    let invalid = |text: &str| {
        ApiError::bad_request(format!(
            "invalid timeout specified in the request URL - unable to parse the value: {text:?}"
        ))
    };
    let wanted = match (value(uri, "timeout"), value(uri, "timeoutSeconds")) {
        (Some(text), _) if !text.is_empty() => parse(text).ok_or_else(|| invalid(text))?,
        (_, Some(text)) if !text.is_empty() => {
            Duration::from_secs(text.parse().map_err(|_| invalid(text))?)
        }
        _ => LONGEST,
    };
    Ok(if wanted.is_zero() { LONGEST } else { wanted.min(LONGEST) })
}

/// `1m30s`, `1.5h`, `200ms`, `0`.
fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|byte: char| !byte.is_ascii_digit() && byte != '.')?;
        let (number, after) = rest.split_at(end);
        let number: f64 = number.parse().ok()?;
        let end = after.find(|byte: char| byte.is_ascii_digit() || byte == '.');
        let (unit, after) = after.split_at(end.unwrap_or(after.len()));
        total += number
            * match unit {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" | "%C2%B5s" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = after;
    }
    Duration::try_from_secs_f64(total).ok().filter(|_| !text.is_empty())
}

pub(super) fn exceeded(limit: Duration) -> ApiError {
    let message =
        format!("Timeout: request did not complete within the allotted timeout {limit:?}");
    ApiError::timeout(message, 1)
}

/// A body that breaks off when its time is over.
pub(super) struct Limited {
    body: Body,
    over: Pin<Box<Sleep>>,
}

impl Limited {
    pub(super) fn new(body: Body, left: Duration) -> Self {
        Self { body, over: Box::pin(tokio::time::sleep(left)) }
    }
}

/// The client took too long.
#[derive(Debug, thiserror::Error)]
#[error("the answer was not read in time")]
struct TooSlow;

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        if self.over.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(TooSlow.into())));
        }
        Pin::new(&mut self.body).poll_frame(context).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body that is counted until it is dropped.
pub(super) struct Watched {
    body: Body,
    _running: Running,
}

impl Watched {
    pub(super) fn new(body: Body, running: Running) -> Self {
        Self { body, _running: running }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_may_ask_for_less_time() {
        for (query, seconds) in [
            ("", Some(60.0)),
            ("?timeout=10s", Some(10.0)),
            ("?timeout=1m", Some(60.0)),
            ("?timeout=1h", Some(60.0)),
            ("?timeout=500ms", Some(0.5)),
            ("?timeout=1.5s", Some(1.5)),
            ("?timeout=0", Some(60.0)),
            ("?timeout=1m30x", None),
            ("?timeout=soon", None),
            ("?timeout=5", None),
            ("?timeoutSeconds=7", Some(7.0)),
            ("?timeoutSeconds=0", Some(60.0)),
            ("?timeoutSeconds=-1", None),
            ("?other=1", Some(60.0)),
        ] {
            let uri: Uri = format!("/api/v1/pods{query}").parse().unwrap();
            assert_eq!(of(&uri).ok().map(|limit| limit.as_secs_f64()), seconds, "{query}");
        }
    }
}
