//! What one request may cost the others: a place among those that are worked on, and a deadline.
//!
//! ```text
//! request ─▶ class ─▶ seats (fair between clients) ─▶ work, within the deadline ─▶ answer
//!                        └─ no room: 429                 └─ too late: 504
//! ```
//!
//! Watches and streams take a seat until they have begun. The size of bodies, nesting, aliases and
//! patches are bounded where they are read.

mod class;
mod deadline;
mod seats;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, header};

use crate::api::authn::Identity;
use crate::api::error::ApiError;
use crate::api::registry::Registry;
use crate::metrics::requests::{Requests, Running};
pub(crate) use class::{Class, Verb};
use deadline::{Limited, Watched};
use seats::Seats;

/// Seats for what is worked on at once. Requests take milliseconds, most of them wait for the disk,
/// so these are many times what a server of this size needs; what they bound is memory.
const SEATS: usize = 256;

/// So many bytes of a body take a seat of their own: bodies under work stay below some tens of
/// megabytes, and what is parsed of them below some hundreds.
const BYTES_PER_SEAT: usize = 64 * 1024;

/// Requests that may wait for seats, all clients together. A head in memory is a few kilobytes.
const ROOM: usize = 2048;

/// How long one waits for a seat before it is told to come back: as in Kubernetes.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Decides which requests are worked on, and keeps count.
#[derive(Debug)]
pub(crate) struct Governor {
    seats: Arc<Seats>,
    pub(crate) requests: Arc<Requests>,
}

impl Governor {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self { seats: Seats::new(SEATS, ROOM), requests: Arc::new(Requests::new(registry)) }
    }

    /// Has a request served within the limits.
    pub(crate) async fn serve<F>(
        &self,
        request: Request,
        work: impl FnOnce(Request) -> F,
    ) -> Response
    where
        F: Future<Output = Result<Response, ApiError>>,
    {
        let began = Instant::now();
        let (parts, body) = request.into_parts();
        let class = Class::of(&parts);
        let (verb, long_running) = (class.verb, class.long_running);
        let running = self.requests.begin(&class);
        let limit = match long_running {
            true => None,
            false => Some(deadline::of(&parts.uri)),
        };
        let client = parts.extensions.get::<Identity>().map_or("", |identity| &identity.user);
        let client = Arc::from(client);
        let width = width(class.is_mutating(), &parts.headers);
        let admitted = async {
            let seat = tokio::time::timeout(LONGEST_WAIT, self.seats.take(client, width)).await;
            let Ok(Ok(_seat)) = seat else {
                self.requests.reject();
                return Err(ApiError::too_many_requests());
            };
            work(Request::from_parts(parts, body)).await
        };
        let (result, left) = match limit {
            None => (admitted.await, None),
            Some(Err(error)) => (Err(error), None),
            Some(Ok(limit)) => {
                let result = tokio::time::timeout(limit, admitted).await;
                let result = result.unwrap_or_else(|_| Err(deadline::exceeded(limit)));
                (result, Some(limit.saturating_sub(began.elapsed())))
            }
        };
        let response = result.unwrap_or_else(IntoResponse::into_response);
        running.answered(response.status(), began.elapsed());
        match (verb, left) {
            _ if long_running => watched(response, running),
            (Verb::List | Verb::DeleteCollection, Some(left)) => limited(response, left),
            _ => response,
        }
    }
}

/// How many seats a request takes.
fn width(mutating: bool, headers: &HeaderMap) -> usize {
    if !mutating {
        return 1;
    }
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let bytes = match announced.map(str::parse::<usize>) {
        Some(Ok(bytes)) => bytes.min(crate::api::rest::body::MAX_BODY),
        Some(Err(_)) => 0,
        None if headers.contains_key(header::CONTENT_TYPE) => {
            // It does not say. Clients do, unless they do not know themselves.
            crate::api::rest::body::MAX_BODY
        }
        None => 0,
    };
    1 + bytes / BYTES_PER_SEAT
}

/// Counts a long answer until its end.
fn watched(response: Response, running: Running) -> Response {
    response.map(|body| Body::new(Watched::new(body, running)))
}

/// Cuts an answer off that a client takes too long to read: what it holds of the past would grow.
fn limited(response: Response, left: Duration) -> Response {
    response.map(|body| Body::new(Limited::new(body, left)))
}
