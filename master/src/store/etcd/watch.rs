//! A watch that outlives its connections.
//!
//! `position` is the revision up to which everything was told. Whatever breaks, the watch is made
//! again from behind it, and events up to it are dropped should a server send them again. etcd
//! sends the events of one revision in one response (as long as fragments are not asked for).

use std::time::Duration;

use etcd_client as etcd;
use futures::Stream;
use tracing::{debug, warn};

use super::endpoints::Endpoints;
use super::{failed, key_value, signed, unsigned, utf8};
use crate::store::{Error, Event, Result, Revision, WatchBatch};

/// A server that has accepted a watch says so at once.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Between attempts, doubling up to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Ends the keys that are written only to be seen by a watch.
const MARKER: &str = "\0progress";

/// Whether a key is none of the user's.
pub(super) fn is_marker(key: &str) -> bool {
    key.ends_with(MARKER)
}

pub(super) struct Watch {
    endpoints: Endpoints,
    /// Changes when somebody wants to hear how far we are.
    wanted: tokio::sync::watch::Receiver<u64>,
    prefix: String,
    /// Everything up to here has been told.
    position: Revision,
    connection: Option<Connection>,
    pause: Duration,
    ended: bool,
}

struct Connection {
    member: usize,
    client: etcd::Client,
    stream: etcd::WatchStream,
    /// Whether the member answers a request for progress only after all events before it.
    ordered_progress: bool,
}

/// What a response means.
enum Told {
    Batch(WatchBatch),
    Nothing,
    /// The connection is of no use any more.
    Broken(String),
}

impl Watch {
    pub(super) async fn open(
        endpoints: Endpoints,
        wanted: tokio::sync::watch::Receiver<u64>,
        prefix: &str,
        after: Revision,
    ) -> Result<Self> {
        let mut watch = Self {
            endpoints,
            wanted,
            prefix: prefix.to_owned(),
            position: after,
            connection: None,
            pause: FIRST_PAUSE,
            ended: false,
        };
        watch.connection = Some(watch.connect().await?);
        Ok(watch)
    }

    pub(super) fn stream(self) -> impl Stream<Item = Result<WatchBatch>> + Send {
        futures::stream::unfold(self, |mut watch| async move {
            if watch.ended {
                return None;
            }
            let batch = watch.next().await;
            watch.ended = batch.is_err();
            Some((batch, watch))
        })
    }

    async fn next(&mut self) -> Result<WatchBatch> {
        loop {
            let Some(connection) = &mut self.connection else {
                self.reconnect().await?;
                continue;
            };
            let response = tokio::select! {
                response = connection.stream.message() => response,
                Ok(()) = self.wanted.changed() => {
                    let asked = connection.ask_for_progress(&self.prefix).await;
                    if let Err(error) = asked {
                        self.disconnect(&error.to_string());
                    }
                    continue;
                }
            };
            let told = match response {
                Ok(Some(response)) => self.interpret(&response)?,
                Ok(None) => Told::Broken("the server ended the stream".to_owned()),
                Err(error) => Told::Broken(error.to_string()),
            };
            match told {
                Told::Batch(batch) => {
                    self.pause = FIRST_PAUSE;
                    return Ok(batch);
                }
                Told::Nothing => {}
                Told::Broken(why) => self.disconnect(&why),
            }
        }
    }

    fn interpret(&mut self, response: &etcd::WatchResponse) -> Result<Told> {
        if response.compact_revision() > 0 {
            return Err(self.expired(response));
        }
        if response.canceled() {
            return Ok(Told::Broken(response.cancel_reason().to_owned()));
        }
        let events = response.events();
        let Some(last) = events.last() else {
            let ordered = self.connection.as_ref().is_some_and(|c| c.ordered_progress);
            // Of its own accord (with the id of the watch) a server always tells in order.
            if response.created() || !(ordered || response.watch_id() >= 0) {
                return Ok(Told::Nothing);
            }
            let revision = unsigned(response.header().map_or(0, |header| header.revision()));
            self.position = self.position.max(revision);
            return Ok(Told::Batch(WatchBatch { revision: self.position, events: Vec::new() }));
        };
        let revision = last.kv().map_or(0, |stored| unsigned(stored.mod_revision()));
        let mut told = Vec::with_capacity(events.len());
        for event in events {
            let Some(stored) = event.kv() else { continue };
            let at = unsigned(stored.mod_revision());
            if at <= self.position || stored.key().ends_with(MARKER.as_bytes()) {
                continue;
            }
            told.push(match event.event_type() {
                etcd::EventType::Put => Event::Put(key_value(stored)?),
                etcd::EventType::Delete => Event::Delete { key: utf8(stored.key())?, revision: at },
            });
        }
        self.position = self.position.max(revision);
        Ok(Told::Batch(WatchBatch { revision: self.position, events: told }))
    }

    fn expired(&self, response: &etcd::WatchResponse) -> Error {
        Error::Expired { requested: self.position, oldest: unsigned(response.compact_revision()) }
    }

    fn disconnect(&mut self, why: &str) {
        if let Some(connection) = self.connection.take() {
            warn!(why, position = self.position, "a watch of etcd broke; watching again");
            self.endpoints.leave(connection.member);
        }
    }

    /// Tries until there is a connection; only compaction ends it.
    async fn reconnect(&mut self) -> Result<()> {
        loop {
            match self.connect().await {
                Ok(connection) => {
                    debug!(member = connection.member, position = self.position, "watching again");
                    self.connection = Some(connection);
                    // What was asked of the old connection will not be answered there.
                    self.wanted.mark_changed();
                    return Ok(());
                }
                Err(error @ Error::Expired { .. }) => return Err(error),
                Err(error) => {
                    debug!(%error, "no watch yet");
                    tokio::time::sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// One attempt on the current member; the next one is tried after a failure.
    async fn connect(&self) -> Result<Connection> {
        let (member, client) = self.endpoints.current();
        let attempt = tokio::time::timeout(OPEN_TIMEOUT, self.connect_to(member, client)).await;
        let connected = attempt.unwrap_or_else(|_| Err(failed("watch", "etcd does not answer")));
        if matches!(connected, Err(Error::Unavailable { .. })) {
            self.endpoints.leave(member);
        }
        connected
    }

    async fn connect_to(&self, member: usize, client: etcd::Client) -> Result<Connection> {
        let watching = |e: etcd::Error| failed("watch", e);
        let status = client.maintenance_client().status().await.map_err(watching)?;
        let options = etcd::WatchOptions::new()
            .with_prefix()
            .with_start_revision(signed(self.position.saturating_add(1)))
            .with_progress_notify();
        let mut stream = client
            .watch_client()
            .max_decoding_message_size(usize::MAX)
            .watch(self.prefix.as_str(), Some(options))
            .await
            .map_err(watching)?;
        let created = stream.message().await.map_err(watching)?;
        let created = created.ok_or_else(|| failed("watch", "the server ended the stream"))?;
        if created.compact_revision() > 0 {
            return Err(self.expired(&created));
        }
        if created.canceled() || !created.created() {
            return Err(failed("watch", created.cancel_reason().to_owned()));
        }
        let ordered_progress = orders_progress(status.version());
        Ok(Connection { member, client, stream, ordered_progress })
    }
}

impl Connection {
    /// Makes a batch of at least the present revision arrive.
    async fn ask_for_progress(&mut self, prefix: &str) -> Result<(), etcd::Error> {
        if self.ordered_progress {
            self.stream.request_progress().await
        } else {
            // A write is told in order by every version.
            self.client.kv_client().put(format!("{prefix}{MARKER}"), "", None).await.map(|_| ())
        }
    }
}

/// Older servers may answer a request for progress before they have sent events of earlier
/// revisions (etcd-io/etcd#15220); Kubernetes trusts the same versions.
fn orders_progress(version: &str) -> bool {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    match (part(), part(), part()) {
        (3, 4, patch) => patch >= 31,
        (3, 5, patch) => patch >= 13,
        (3, minor, _) => minor > 5,
        (major, ..) => major > 3,
    }
}

#[cfg(test)]
mod tests {
    use super::orders_progress;

    #[test]
    fn trusts_progress_from_the_versions_that_repaired_it() {
        for version in ["3.4.31", "3.5.13", "3.5.21", "3.6.0", "3.6.0-rc.1", "4.0.0"] {
            assert!(orders_progress(version), "{version}");
        }
        for version in ["3.4.23", "3.4.30", "3.5.12", "3.3.99", "2.3.8", ""] {
            assert!(!orders_progress(version), "{version}");
        }
    }
}
