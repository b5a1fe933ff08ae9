//! Watches: changes as lines of JSON, for as long as the client stays.
//!
//! ```text
//! initial objects (ADDED …) ─▶ end-of-initial bookmark ─▶ events and bookmarks ─▶ end
//! ```
//!
//! The stream is pulled by the connection. A client that reads too slowly fills its bounded queue
//! in the cache and is cut off there; nobody else notices.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use serde_json::json;
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};
use tokio_util::sync::CancellationToken;

use crate::api::error::ApiError;
use crate::api::registry::AnyKind;
use crate::api::rest::accept::{self, Encoding, Shape};
use crate::api::rest::body::api_version;
use crate::api::rest::list::{cache_of, catch_up};
use crate::api::rest::list_options::{ListOptions, Version};
use crate::api::rest::query::Options;
use crate::api::rest::render::{ListMeta, partial};
use crate::api::rest::selection::Selection;
use crate::api::rest::{Api, node_leases, table};
use crate::cache::{
    CachedObject, Expired, ObjectEvent, Subscription, Update, with_resource_version,
};
use crate::store::Revision;

/// Lines are sent together up to about this size.
const CHUNK: usize = 32 * 1024;

/// How often a client that asked for bookmarks gets one while nothing else is told to it.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// A watch without `timeoutSeconds` ends after this long, or up to twice as long, so that clients
/// that started together do not all come back together.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

/// Starts a watch on the objects that the options select.
pub(crate) async fn watch(
    api: &Api,
    kind: &'static dyn AnyKind,
    namespace: Option<&str>,
    options: &Options,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let answer = accept::negotiate(headers, options.get("includeObject"), false)?;
    if answer.encoding != Encoding::Json {
        return Err(ApiError::not_acceptable("application/json, application/json;stream=watch"));
    }
    let options = ListOptions::parse(options, kind)?;
    let selection = Selection {
        namespace: namespace.map(str::to_owned),
        labels: options.labels.clone(),
        fields: options.fields.clone(),
    };
    let body = match start(api, kind, &selection, &options).await? {
        Ok(Start { initial, end_of_initial, subscription }) => {
            let mut ticks =
                tokio::time::interval_at(Instant::now() + BOOKMARK_INTERVAL, BOOKMARK_INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let watcher = Watcher {
                kind,
                shape: answer.shape,
                selection,
                initial: initial.into_iter(),
                end_of_initial,
                told: 0,
                seen: 0,
                subscription,
                bookmarks: options.bookmarks,
                ticks,
                deadline: Box::pin(tokio::time::sleep(timeout(options.timeout_seconds))),
                shutdown: api.shutdown.clone(),
                ended: false,
            };
            Body::from_stream(futures::stream::unfold(watcher, async |mut watcher| {
                let chunk = watcher.next().await?;
                Some((Ok::<Bytes, Infallible>(chunk), watcher))
            }))
        }
        Err(expired) => {
            let mut buffer = BytesMut::new();
            let error = ApiError::expired(expired.to_string());
            let status = serde_json::to_vec(&error.to_status()).map_err(ApiError::internal)?;
            line(&mut buffer, "ERROR", &status);
            Body::from(buffer.freeze())
        }
    };
    let content_type = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, content_type)], body).into_response())
}

struct Start {
    initial: Vec<Arc<CachedObject>>,
    /// The revision of the bookmark that tells the end of the initial objects, if one is wanted.
    end_of_initial: Option<Revision>,
    subscription: Subscription,
}

async fn start(
    api: &Api,
    kind: &'static dyn AnyKind,
    selection: &Selection,
    options: &ListOptions,
) -> Result<Result<Start, Expired>, ApiError> {
    let caches = api.objects.caches();
    let cache = cache_of(caches, kind)?;
    let interest = selection.interest(&kind.selectable(), kind.resource().namespaced);
    catch_up(caches, options.version).await?;
    let after = match (options.send_initial_events, options.version) {
        (Some(true), _) | (None, Version::Newest | Version::Any) => None,
        (Some(false), Version::Newest | Version::Any) => Some(caches.revision()),
        (_, Version::From(revision) | Version::Exactly(revision)) => Some(revision),
    };
    Ok(match after {
        Some(after) => cache.subscribe_to(interest, after).map(|subscription| Start {
            initial: Vec::new(),
            end_of_initial: None,
            subscription,
        }),
        None => {
            let (revision, mut initial, subscription) = cache.list_and_subscribe_to(interest);
            initial.retain(|object| selection.matches(object));
            let told = |object| node_leases::as_told(caches, kind, object);
            let initial = initial.into_iter().map(told).collect();
            let end = options.send_initial_events == Some(true) && options.bookmarks;
            Ok(Start { initial, end_of_initial: end.then_some(revision), subscription })
        }
    })
}

fn timeout(seconds: Option<i64>) -> Duration {
    match seconds {
        // Less than nothing is over at once, as in Kubernetes.
        Some(seconds) if seconds != 0 => {
            Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(24 * 3600))
        }
        _ => {
            let random = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 256.0;
            DEFAULT_TIMEOUT + DEFAULT_TIMEOUT.mul_f64(random)
        }
    }
}

struct Watcher {
    kind: &'static dyn AnyKind,
    shape: Shape,
    selection: Selection,
    initial: std::vec::IntoIter<Arc<CachedObject>>,
    end_of_initial: Option<Revision>,
    /// The newest revision that the client knows of.
    told: Revision,
    /// The newest revision of any event looked at.
    seen: Revision,
    subscription: Subscription,
    bookmarks: bool,
    ticks: Interval,
    deadline: Pin<Box<Sleep>>,
    shutdown: CancellationToken,
    ended: bool,
}

impl Watcher {
    /// The next lines; nothing when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        let mut buffer = BytesMut::new();
        while buffer.len() < CHUNK {
            let Some(object) = self.initial.next() else { break };
            self.tell(&mut buffer, "ADDED", &object.json, object.revision);
        }
        if self.initial.len() == 0
            && let Some(revision) = self.end_of_initial.take()
        {
            self.bookmark(&mut buffer, revision, true);
        }
        while buffer.is_empty() {
            if self.ended {
                return None;
            }
            self.follow(&mut buffer).await;
        }
        Some(buffer.freeze())
    }

    /// Waits for something to happen and takes it in.
    async fn follow(&mut self, buffer: &mut BytesMut) {
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => self.ended = true,
            () = &mut self.deadline => {
                self.ended = true;
                self.progress_bookmark(buffer);
            }
            update = self.subscription.next() => match update {
                Ok(Update::Event(event)) => {
                    self.event(buffer, &event);
                    self.drain(buffer);
                }
                Ok(Update::Progress(revision)) => {
                    self.seen = self.seen.max(revision);
                    self.progress_bookmark(buffer);
                }
                // The client may go on from where it is, or list again.
                Err(lagged) => {
                    tracing::info!(resource = self.kind.resource().plural, %lagged, "ended a watch");
                    self.ended = true;
                }
            },
            _ = self.ticks.tick() => self.progress_bookmark(buffer),
        }
    }

    /// Takes in what waits already.
    fn drain(&mut self, buffer: &mut BytesMut) {
        while buffer.len() < CHUNK {
            match self.subscription.try_next() {
                Ok(Some(event)) => self.event(buffer, &event),
                Ok(None) => return,
                Err(_) => {
                    self.ended = true;
                    return;
                }
            }
        }
    }

    fn event(&mut self, buffer: &mut BytesMut, event: &ObjectEvent) {
        let revision = event.revision();
        self.seen = self.seen.max(revision);
        match event {
            ObjectEvent::Added(object) if self.selection.matches(object) => {
                self.tell(buffer, "ADDED", &object.json, revision);
            }
            ObjectEvent::Deleted(object) if self.selection.matches(object) => {
                self.tell(buffer, "DELETED", &object.json, revision);
            }
            ObjectEvent::Modified { new, old } => {
                match (self.selection.matches(old), self.selection.matches(new)) {
                    (true, true) => self.tell(buffer, "MODIFIED", &new.json, revision),
                    (false, true) => self.tell(buffer, "ADDED", &new.json, revision),
                    // As it was when it still belonged, but of the revision that took it out.
                    (true, false) => match with_resource_version(&old.json, revision) {
                        Some(json) => self.tell(buffer, "DELETED", &json, revision),
                        None => {
                            self.fail(buffer, &ApiError::internal("an object without metadata"))
                        }
                    },
                    (false, false) => {}
                }
            }
            ObjectEvent::Added(_) | ObjectEvent::Deleted(_) => {}
        }
    }

    fn tell(&mut self, buffer: &mut BytesMut, event: &str, object: &Bytes, revision: Revision) {
        let shaped = match self.shape {
            Shape::Plain if self.kind.view().is_none() => Ok(None),
            Shape::Plain => {
                let told = self.kind.told(object).map_err(ApiError::internal);
                told.map(|told| Some(told.into()))
            }
            Shape::Partial => partial(object).map(Some),
            Shape::Table(include) => {
                let meta =
                    ListMeta { resource_version: revision.to_string(), ..ListMeta::default() };
                table::head(self.kind, &meta).and_then(|mut table| {
                    let now = jiff::Timestamp::now();
                    table.extend_from_slice(&table::row(self.kind, object, include, now)?);
                    table.extend_from_slice(table::TAIL.trim_ascii_end());
                    Ok(Some(table))
                })
            }
        };
        match shaped {
            Ok(shaped) => line(buffer, event, shaped.as_deref().unwrap_or(object)),
            Err(error) => self.fail(buffer, &error),
        }
        self.told = self.told.max(revision);
        self.ticks.reset();
    }

    /// Tells how far the client is, when that is further than it knows.
    fn progress_bookmark(&mut self, buffer: &mut BytesMut) {
        if let Some(revision) = self.subscription.progress() {
            self.seen = self.seen.max(revision);
        }
        if self.bookmarks && self.seen > self.told {
            self.bookmark(buffer, self.seen, false);
        }
    }

    fn bookmark(&mut self, buffer: &mut BytesMut, revision: Revision, end_of_initial: bool) {
        let resource = self.kind.resource();
        let mut metadata =
            json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if end_of_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (kind, version) = match self.shape {
            Shape::Plain => (resource.kind, api_version(resource)),
            _ => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
        };
        let object = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
        let object = match self.shape {
            Shape::Plain | Shape::Partial => object,
            Shape::Table(_) => {
                let cells = vec![serde_json::Value::Null; self.kind.columns().len()];
                json!({
                    "kind": "Table",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": {"resourceVersion": revision.to_string()},
                    "columnDefinitions": [],
                    "rows": [{"cells": cells, "object": object}],
                })
            }
        };
        line(buffer, "BOOKMARK", object.to_string().as_bytes());
        self.told = self.told.max(revision);
        self.ticks.reset();
    }

    /// Tells an error and ends.
    fn fail(&mut self, buffer: &mut BytesMut, error: &ApiError) {
        tracing::error!(resource = self.kind.resource().plural, %error, "ended a watch");
        match serde_json::to_vec(&error.to_status()) {
            Ok(status) => line(buffer, "ERROR", &status),
            Err(error) => tracing::error!(%error, "a status does not encode"),
        }
        self.ended = true;
    }
}

/// One line of a watch.
fn line(buffer: &mut BytesMut, event: &str, object: &[u8]) {
    buffer.reserve(object.len() + event.len() + 24);
    buffer.put_slice(b"{\"type\":\"");
    buffer.put_slice(event.as_bytes());
    buffer.put_slice(b"\",\"object\":");
    buffer.put_slice(object);
    buffer.put_slice(b"}\n");
}
