//! The subresource `log`: what a container has written, as plain text, also while it writes.

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, header};
use proto::ObjectKey;
use proto::node::open_tunnel::Request;
use proto::node::tunnel_up::Message as Up;
use proto::node::{LogsRequest, TunnelUp};
use tokio_util::sync::CancellationToken;

use crate::api::error::ApiError;
use crate::api::field_error::FieldError;
use crate::api::registry::AnyKind;
use crate::api::rest::Api;
use crate::api::rest::pod_stream::{Place, options_of};
use crate::api::rest::query::Options;
use crate::api::streams::TunnelStream;

/// How long the node may take to say something before the answer begins without it. A refusal comes
/// well within; a log that is followed may stay silent for hours.
const FIRST_WORD: Duration = Duration::from_secs(2);

/// Answers `GET` on `pods/log`.
pub(crate) async fn log(
    api: &Api,
    kind: &'static dyn AnyKind,
    key: &ObjectKey,
    options: &Options,
) -> Result<Response, ApiError> {
    let request = request(&key.name, options, jiff::Timestamp::now())?;
    let place = Place::find(api, kind, key, options.get("container")).await?;
    let Some(node) = &place.node else {
        // Not scheduled yet: nothing has been written, as Kubernetes answers.
        return Ok(text(Body::empty()));
    };
    let mut tunnel = api.streams.open(node, place.tunnel(Request::Logs(request))).await?;
    let first = tokio::time::timeout(FIRST_WORD, tunnel.up.recv()).await;
    let first = match first {
        Err(_still_silent) => None,
        Ok(message) => match word(message) {
            Word::Text(bytes) => Some(bytes),
            Word::End => return Ok(text(Body::empty())),
            Word::Failed(error) => return Err(error),
        },
    };
    Ok(text(follow(first, tunnel, api.shutdown.clone())))
}

fn text(body: Body) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"))], body).into_response()
}

/// The rest of the log. When the node is lost the body breaks off, so that the client can tell it
/// from an end.
fn follow(first: Option<Bytes>, tunnel: TunnelStream, shutdown: CancellationToken) -> Body {
    let state = (first, Some(tunnel), shutdown);
    Body::from_stream(futures::stream::unfold(state, async |(mut first, tunnel, shutdown)| {
        let mut tunnel = tunnel?;
        if let Some(bytes) = first.take() {
            return Some((Ok(bytes), (None, Some(tunnel), shutdown)));
        }
        let message = shutdown.run_until_cancelled(tunnel.up.recv()).await?;
        match word(message) {
            Word::Text(bytes) => Some((Ok(bytes), (None, Some(tunnel), shutdown))),
            Word::End => None,
            Word::Failed(error) => Some((Err(io::Error::other(error)), (None, None, shutdown))),
        }
    }))
}

enum Word {
    Text(Bytes),
    End,
    Failed(ApiError),
}

fn word(message: Option<TunnelUp>) -> Word {
    match message.and_then(|message| message.message) {
        Some(Up::Data(data)) => Word::Text(data.data),
        Some(Up::Finished(_)) => Word::End,
        Some(Up::Failure(failure)) => {
            let code = u16::try_from(failure.code).unwrap_or(500);
            Word::Failed(ApiError::from_node(code, &failure.message))
        }
        Some(Up::Open(_) | Up::Connected(_) | Up::EndOfOutput(_)) | None => {
            Word::Failed(ApiError::unavailable("the connection to the node was lost"))
        }
    }
}

fn time(text: &str) -> Result<jiff::Timestamp, ApiError> {
    let refused = |error| ApiError::bad_request(format!("sinceTime: {text:?} is no time: {error}"));
    text.parse().map_err(refused)
}

/// The query's options, checked.
fn request(pod: &str, options: &Options, now: jiff::Timestamp) -> Result<LogsRequest, ApiError> {
    let mut errors = Vec::new();
    let tail_lines = options.integer("tailLines")?;
    let limit_bytes = options.integer("limitBytes")?;
    let since_seconds = options.integer("sinceSeconds")?;
    let since_time = options.get("sinceTime").map(time).transpose()?;
    let positive = |name, value: Option<i64>| {
        let value = value.filter(|value| *value < 1);
        value.map(|value| FieldError::invalid(name, value, "must be greater than 0"))
    };
    if let Some(lines) = tail_lines.filter(|lines| *lines < 0) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid("tailLines", lines, detail));
    }
    errors.extend(positive("limitBytes", limit_bytes));
    let since = match (since_time, since_seconds) {
        (Some(_), Some(_)) => {
            let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            errors.push(FieldError::forbidden("", detail));
            None
        }
        (since, None) => since,
        (None, Some(seconds)) => {
            errors.extend(positive("sinceSeconds", since_seconds));
            // Before the beginning of time is from the first line on.
            now.checked_sub(jiff::SignedDuration::from_secs(seconds)).ok()
        }
    };
    let wanted = options.get("stream").unwrap_or("All");
    let stream = match wanted {
        "All" => "",
        "Stdout" => "stdout",
        "Stderr" => "stderr",
        other => {
            errors.push(FieldError::not_supported("stream", other, &["All", "Stderr", "Stdout"]));
            ""
        }
    };
    if wanted != "All" && tail_lines.is_some() {
        let detail = "`tailLines` and specific `stream` are mutually exclusive for now";
        errors.push(FieldError::forbidden("", detail));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid(&options_of("PodLogOptions"), pod, &errors));
    }
    Ok(LogsRequest {
        follow: options.flag("follow"),
        previous: options.flag("previous"),
        timestamps: options.flag("timestamps"),
        tail_lines,
        limit_bytes,
        since_time: since.map(|time| time.to_string()),
        stream: stream.to_owned(),
    })
}
