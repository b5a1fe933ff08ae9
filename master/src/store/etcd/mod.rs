//! The store in an etcd cluster, for more masters than one.
//!
//! One client per etcd member; all calls go to one of them until it fails, then to the next. A
//! balancer over all members would go on sending a share of the calls to a member that is down.

mod endpoints;
mod revision;
mod watch;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client as etcd;
use futures::{FutureExt, StreamExt};
use tonic::Code;

use crate::store::{
    Compare, Error, KeyValue, LeaseId, Op, Range, RangeOptions, Result, Revision, Store, Txn,
    TxnOutcome, WatchStream,
};
use endpoints::{Endpoints, Repeat};
use revision::NewestRevision;

/// Where etcd is, and how it is trusted.
#[derive(Clone, Debug, Default)]
pub struct EtcdOptions {
    /// `http://10.0.0.1:2379`, one per member.
    pub servers: Vec<String>,
    /// For `https` servers.
    pub tls: Option<EtcdTls>,
}

/// PEM texts.
#[derive(Clone)]
pub struct EtcdTls {
    /// Who signs the servers' certificates.
    pub ca: Vec<u8>,
    /// Our certificate and its key, where etcd wants one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for EtcdTls {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdTls")
            .field("identity", &self.identity.is_some())
            .finish_non_exhaustive()
    }
}

/// A store in etcd. See the module's documentation.
#[derive(Debug)]
pub struct EtcdStore {
    endpoints: Endpoints,
    newest: NewestRevision,
    /// Counts the requests for progress; every watch follows it.
    progress: tokio::sync::watch::Sender<u64>,
}

impl EtcdStore {
    /// Checks the options and that one of the servers answers.
    ///
    /// # Errors
    /// When an address is malformed, or none of the servers can be reached.
    pub async fn connect(options: &EtcdOptions) -> Result<Self> {
        let endpoints = Endpoints::new(options).await.map_err(|e| failed("connect to etcd", e))?;
        let asked = endpoints.clone();
        let newest = NewestRevision::new(move || {
            let endpoints = asked.clone();
            async move { endpoints.call(Repeat::Freely, newest_revision).await }.boxed()
        });
        let store = Self { endpoints, newest, progress: tokio::sync::watch::Sender::new(0) };
        store.current_revision().await?;
        Ok(store)
    }

    async fn get_page(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        revision: Option<Revision>,
    ) -> Result<etcd::GetResponse, etcd::Error> {
        let start = match after {
            // The next key in order.
            Some(after) if after >= prefix => format!("{after}\0").into_bytes(),
            _ => prefix.as_bytes().to_vec(),
        };
        let mut options = etcd::GetOptions::new()
            .with_range(prefix_end(prefix))
            .with_limit(i64::try_from(limit).unwrap_or(i64::MAX));
        if let Some(revision) = revision {
            options = options.with_revision(signed(revision));
        }
        self.endpoints
            .call(Repeat::Freely, |client| {
                let (start, options) = (start.clone(), options.clone());
                async move {
                    client
                        .kv_client()
                        .max_decoding_message_size(usize::MAX)
                        .get(start, Some(options))
                        .await
                }
            })
            .await
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        let response = self
            .endpoints
            .call(Repeat::Freely, |client| {
                let key = key.to_owned();
                async move { client.kv_client().get(key, None).await }
            })
            .await
            .map_err(|e| failed("get a key", e))?;
        response.kvs().first().map(key_value).transpose()
    }

    async fn range(&self, prefix: &str, options: RangeOptions) -> Result<Range> {
        let RangeOptions { limit, mut after, mut revision } = options;
        let requested = revision;
        let mut items: Vec<KeyValue> = Vec::new();
        loop {
            let wanted = if limit == 0 { 0 } else { limit - items.len() };
            let response = match self.get_page(prefix, after.as_deref(), wanted, revision).await {
                Ok(response) => response,
                Err(error) if is(&error, Code::OutOfRange, "compacted") => {
                    return Err(Error::Expired {
                        requested: requested.unwrap_or_default(),
                        // Older ones may be there as well, but etcd does not tell.
                        oldest: self.current_revision().await?,
                    });
                }
                Err(error) => return Err(failed("list keys", error)),
            };
            // All pages are of one revision.
            let at = revision.unwrap_or(unsigned(response.header().map_or(0, |h| h.revision())));
            revision = Some(at);
            after = response.kvs().last().map(|last| utf8(last.key())).transpose()?;
            for stored in response.kvs().iter().map(key_value) {
                let stored = stored?;
                if !watch::is_marker(&stored.key) {
                    items.push(stored);
                }
            }
            let full = limit != 0 && items.len() >= limit;
            if full || !response.more() {
                return Ok(Range { revision: at, items, more: response.more() });
            }
        }
    }

    async fn current_revision(&self) -> Result<Revision> {
        self.newest.get().await.map_err(|e| failed("tell its revision", e))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        txn.check()?;
        let lease = txn.ops.iter().find_map(|op| match op {
            Op::Put { lease, .. } => *lease,
            Op::Delete { .. } => None,
        });
        let request = etcd::Txn::new()
            .when(txn.compares.iter().map(compare).collect::<Vec<_>>())
            .and_then(txn.ops.into_iter().map(operation).collect::<Vec<_>>())
            .or_else(txn.compares.iter().map(look_up).collect::<Vec<_>>());
        let response = self
            .endpoints
            .call(Repeat::IfNeverSent, |client| {
                let request = request.clone();
                async move { client.kv_client().txn(request).await }
            })
            .await;
        let response = match (response, lease) {
            (Ok(response), _) => response,
            (Err(error), Some(lease)) if is(&error, Code::NotFound, "lease") => {
                return Err(Error::NoSuchLease(lease));
            }
            (Err(error), _) => return Err(failed("commit a transaction", error)),
        };
        if response.succeeded() {
            let revision = response.header().map_or(0, |header| header.revision());
            return Ok(TxnOutcome::Committed(unsigned(revision)));
        }
        let found = response.op_responses().into_iter().map(|response| match response {
            etcd::TxnOpResponse::Get(found) => {
                found.kvs().first().map(|stored| unsigned(stored.mod_revision()))
            }
            _ => None,
        });
        let failing = txn.compares.iter().zip(found).position(|(compare, found)| match compare {
            Compare::Absent(_) => found.is_some(),
            Compare::Present(_) => found.is_none(),
            Compare::ModRevision(_, revision) => found != Some(*revision),
        });
        failing.map(TxnOutcome::Conflict).ok_or_else(|| {
            failed("commit a transaction", "etcd refused it although every compare holds")
        })
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream> {
        let progress = self.progress.subscribe();
        let watch = watch::Watch::open(self.endpoints.clone(), progress, prefix, after).await?;
        Ok(watch.stream().boxed())
    }

    async fn request_progress(&self) -> Result<()> {
        self.progress.send_modify(|count| *count += 1);
        Ok(())
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId> {
        let seconds = match i64::try_from(ttl.as_secs()) {
            Ok(seconds) if seconds > 0 => seconds,
            _ => return Err(failed("grant a lease", "a lease lasts a second at least")),
        };
        // One that was granted without our hearing of it ends by itself.
        let response = self
            .endpoints
            .call(Repeat::Freely, |client| async move {
                client.lease_client().grant(seconds, None).await
            })
            .await
            .map_err(|e| failed("grant a lease", e))?;
        Ok(LeaseId(response.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        let renewed = self
            .endpoints
            .call(Repeat::Freely, |client| async move {
                // Answers once the first renewal is done; renewals are seconds apart, so that a
                // stream of their own costs nothing.
                client.lease_client().keep_alive(lease.0).await.map(|_| ())
            })
            .await;
        match renewed {
            Ok(()) => Ok(()),
            Err(etcd::Error::LeaseKeepAliveError(why)) if why.contains("not found") => {
                Err(Error::NoSuchLease(lease))
            }
            Err(error) => Err(failed("renew a lease", error)),
        }
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<()> {
        let revoked = self
            .endpoints
            .call(Repeat::IfNeverSent, |client| async move {
                client.lease_client().revoke(lease.0).await
            })
            .await;
        match revoked {
            Ok(_) => Ok(()),
            Err(error) if is(&error, Code::NotFound, "lease") => Err(Error::NoSuchLease(lease)),
            Err(error) => Err(failed("revoke a lease", error)),
        }
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let compacted = self
            .endpoints
            .call(Repeat::Freely, |client| async move {
                client.kv_client().compact(signed(revision), None).await
            })
            .await;
        match compacted {
            Ok(_) => Ok(()),
            // Somebody did it already.
            Err(error) if is(&error, Code::OutOfRange, "has been compacted") => Ok(()),
            Err(error) => Err(failed("compact", error)),
        }
    }
}

async fn newest_revision(client: etcd::Client) -> Result<Revision, etcd::Error> {
    let options = etcd::GetOptions::new().with_count_only();
    let response = client.kv_client().get("/", Some(options)).await?;
    Ok(unsigned(response.header().map_or(0, |header| header.revision())))
}

fn compare(compare: &Compare) -> etcd::Compare {
    use etcd::{Compare as E, CompareOp::*};
    match compare {
        Compare::Absent(key) => E::version(key.as_str(), Equal, 0),
        Compare::Present(key) => E::version(key.as_str(), Greater, 0),
        Compare::ModRevision(key, revision) => {
            E::mod_revision(key.as_str(), Equal, signed(*revision))
        }
    }
}

/// Finds out, in the same transaction, why a compare did not hold.
fn look_up(compare: &Compare) -> etcd::TxnOp {
    let key = match compare {
        Compare::Absent(key) | Compare::Present(key) | Compare::ModRevision(key, _) => key,
    };
    etcd::TxnOp::get(key.as_str(), Some(etcd::GetOptions::new().with_keys_only()))
}

fn operation(op: Op) -> etcd::TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| etcd::PutOptions::new().with_lease(lease.0));
            etcd::TxnOp::put(key, Vec::from(value), options)
        }
        Op::Delete { key } => etcd::TxnOp::delete(key, None),
    }
}

fn key_value(stored: &etcd::KeyValue) -> Result<KeyValue> {
    Ok(KeyValue {
        key: utf8(stored.key())?,
        value: Bytes::copy_from_slice(stored.value()),
        create_revision: unsigned(stored.create_revision()),
        mod_revision: unsigned(stored.mod_revision()),
    })
}

fn utf8(key: &[u8]) -> Result<String> {
    String::from_utf8(key.to_vec()).map_err(|e| failed("read a key", e))
}

/// The first key behind all keys with the prefix. `\0` stands for "no end".
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    vec![0]
}

/// etcd's revisions are signed but never negative.
fn unsigned(revision: i64) -> Revision {
    u64::try_from(revision).unwrap_or_default()
}

/// A revision beyond what etcd can count is in its future all the same.
fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn is(error: &etcd::Error, code: Code, word: &str) -> bool {
    matches!(error, etcd::Error::GRpcStatus(status)
        if status.code() == code && status.message().contains(word))
}

fn failed(
    operation: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::Unavailable { operation, source: source.into() }
}
