//! What is in the file: tables, and the reads and writes of them that transactions are made of.
//!
//! * `versions`: (key, revision) → what the key was from that revision on;
//! * `log`: revision → the keys it changed, in the order of its operations;
//! * `leases`: id → seconds; `lease_keys`: (id, key);
//! * `meta`: the counters.
//!
//! The newest version of a key is its state. Older ones and the log are history, which
//! [`Tables::compact`] removes.

use std::ops::Bound;

use bytes::Bytes;
use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableTable, Table, TableDefinition,
    WriteTransaction,
};

use super::failed;
use crate::store::{
    Compare, Error, Event, KeyValue, LeaseId, Op, Range, RangeOptions, Result, Revision, Txn,
};

const VERSIONS: TableDefinition<'static, (&str, u64), &[u8]> = TableDefinition::new("versions");
const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");
const LEASES: TableDefinition<'static, i64, u64> = TableDefinition::new("leases");
const LEASE_KEYS: TableDefinition<'static, (i64, &str), ()> = TableDefinition::new("lease_keys");
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");

const REVISION: &str = "revision";
const COMPACTED: &str = "compacted";
const LAST_LEASE: &str = "last_lease";
/// The layout above. A file that says anything else is of a future Kutter.
const FORMAT: &str = "format";
const FORMAT_1: u64 = 1;

/// As in etcd, so that no object ever has the resourceVersion 0, which means "any".
const FIRST_REVISION: Revision = 1;

/// What has to be known before the first request.
#[derive(Debug)]
pub(super) struct State {
    pub(super) revision: Revision,
    /// Leases with their seconds.
    pub(super) leases: Vec<(LeaseId, u64)>,
}

/// Creates what is missing, reads what is needed.
pub(super) fn prepare(database: &Database) -> Result<State> {
    let transaction = database.begin_write().map_err(|e| failed("open its tables", e))?;
    let mut leases = Vec::new();
    let revision;
    let fresh;
    {
        let mut tables = Tables::open(&transaction)?;
        let format = tables.meta(FORMAT)?;
        if !matches!(format, 0 | FORMAT_1) {
            return Err(failed("open its file", format!("its format {format} is not known")));
        }
        fresh = format == 0;
        if fresh {
            tables.set_meta(FORMAT, FORMAT_1)?;
            tables.set_meta(REVISION, FIRST_REVISION)?;
        }
        revision = tables.meta(REVISION)?;
        for lease in tables.leases.iter().map_err(read)? {
            let (id, seconds) = lease.map_err(read)?;
            leases.push((LeaseId(id.value()), seconds.value()));
        }
    }
    if fresh {
        transaction.commit().map_err(|e| failed("create its tables", e))?;
    } else {
        transaction.abort().map_err(|e| failed("open its tables", e))?;
    }
    Ok(State { revision, leases })
}

/// A version, out of its bytes.
struct Version<'a> {
    create_revision: Revision,
    lease: i64,
    /// Nothing: deleted.
    value: Option<&'a [u8]>,
}

/// Kind, revision of creation and lease come before the value.
const HEADER: usize = 1 + 8 + 8;
const DELETED: u8 = 0;
const PUT: u8 = 1;

impl<'a> Version<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self> {
        let bad = || failed("read", "a version is damaged");
        let (kind, rest) = bytes.split_first().ok_or_else(bad)?;
        let (create, rest) = rest.split_first_chunk::<8>().ok_or_else(bad)?;
        let (lease, value) = rest.split_first_chunk::<8>().ok_or_else(bad)?;
        Ok(Self {
            create_revision: u64::from_le_bytes(*create),
            lease: i64::from_le_bytes(*lease),
            value: match *kind {
                PUT => Some(value),
                DELETED => None,
                _ => return Err(bad()),
            },
        })
    }

    fn encode(&self, out: &mut [u8]) {
        out[0] = if self.value.is_some() { PUT } else { DELETED };
        out[1..9].copy_from_slice(&self.create_revision.to_le_bytes());
        out[9..HEADER].copy_from_slice(&self.lease.to_le_bytes());
        out[HEADER..].copy_from_slice(self.value.unwrap_or_default());
    }

    fn len(&self) -> usize {
        HEADER + self.value.map_or(0, <[u8]>::len)
    }

    fn key_value(&self, key: &str, revision: Revision) -> Option<KeyValue> {
        self.value.map(|value| KeyValue {
            key: key.to_owned(),
            value: Bytes::copy_from_slice(value),
            create_revision: self.create_revision,
            mod_revision: revision,
        })
    }
}

/// The keys of a log entry, each with its length before it.
fn encode_keys<'a>(keys: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut out = Vec::new();
    for key in keys {
        // Keys are bounded by far less than 4 GiB: a request body is 3 MB.
        out.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(key.as_bytes());
    }
    out
}

fn decode_keys(mut bytes: &[u8]) -> Result<Vec<&str>> {
    let bad = || failed("read", "a log entry is damaged");
    let mut keys = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(bad)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| bad())?;
        let (key, rest) = rest.split_at_checked(length).ok_or_else(bad)?;
        keys.push(std::str::from_utf8(key).map_err(|_| bad())?);
        bytes = rest;
    }
    Ok(keys)
}

fn read(error: redb::StorageError) -> Error {
    failed("read", error)
}

fn write(error: redb::StorageError) -> Error {
    failed("write", error)
}

/// The newest version of a key, given to `look`.
fn newest<T>(
    versions: &impl ReadableTable<(&'static str, u64), &'static [u8]>,
    key: &str,
    look: impl FnOnce(Revision, &Version<'_>) -> T,
) -> Result<Option<T>> {
    let mut range = versions.range((key, 0)..=(key, u64::MAX)).map_err(read)?;
    let Some(entry) = range.next_back() else { return Ok(None) };
    let (place, bytes) = entry.map_err(read)?;
    let version = Version::decode(bytes.value())?;
    Ok(Some(look(place.value().1, &version)))
}

/// The store at one moment.
pub(super) struct Snapshot {
    versions: ReadOnlyTable<(&'static str, u64), &'static [u8]>,
    log: ReadOnlyTable<u64, &'static [u8]>,
    revision: Revision,
    compacted: Revision,
}

impl Snapshot {
    pub(super) fn new(transaction: &ReadTransaction) -> Result<Self> {
        let open = |e: redb::TableError| failed("read", e);
        let meta = transaction.open_table(META).map_err(open)?;
        let counter = |name| Ok(meta.get(name).map_err(read)?.map_or(0, |value| value.value()));
        Ok(Self {
            versions: transaction.open_table(VERSIONS).map_err(open)?,
            log: transaction.open_table(LOG).map_err(open)?,
            revision: counter(REVISION)?,
            compacted: counter(COMPACTED)?,
        })
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        newest(&self.versions, key, |revision, version| version.key_value(key, revision))
            .map(Option::flatten)
    }

    pub(super) fn range(&self, prefix: &str, options: &RangeOptions) -> Result<Range> {
        let revision = options.revision.unwrap_or(self.revision);
        if revision < self.compacted {
            return Err(Error::Expired { requested: revision, oldest: self.compacted });
        }
        if revision > self.revision {
            return Err(failed("read", format!("revision {revision} is in the future")));
        }
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let start = match &options.after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded((after.as_str(), u64::MAX)),
            _ => Bound::Included((prefix, 0)),
        };
        let mut items: Vec<KeyValue> = Vec::new();
        // The newest version so far of the key that the scan is at: versions of a key come oldest first.
        let mut last: Option<KeyValue> = None;
        let scan = self.versions.range::<(&str, u64)>((start, Bound::Unbounded)).map_err(read)?;
        for entry in scan {
            let (place, bytes) = entry.map_err(read)?;
            let (key, at) = place.value();
            if !key.starts_with(prefix) {
                break;
            }
            if at > revision {
                continue;
            }
            if last.as_ref().is_some_and(|last| last.key != key) {
                items.extend(last.take());
                if items.len() > limit {
                    break;
                }
            }
            last = Version::decode(bytes.value())?.key_value(key, at);
        }
        items.extend(last);
        let more = items.len() > limit;
        items.truncate(limit);
        Ok(Range { revision, items, more })
    }

    /// The changes under a prefix after a revision, of at most `revisions` revisions that have
    /// any, and how far that goes.
    pub(super) fn changes(
        &self,
        prefix: &str,
        after: Revision,
        revisions: usize,
    ) -> Result<(Revision, Vec<Event>)> {
        if after.saturating_add(1) < self.compacted {
            return Err(Error::Expired { requested: after, oldest: self.compacted });
        }
        let mut events = Vec::new();
        let log = self.log.range(after.saturating_add(1)..).map_err(read)?;
        for (count, entry) in log.enumerate() {
            let (revision, keys) = entry.map_err(read)?;
            let revision = revision.value();
            if count == revisions {
                return Ok((revision - 1, events));
            }
            for key in decode_keys(keys.value())? {
                if !key.starts_with(prefix) {
                    continue;
                }
                let version = self.versions.get((key, revision)).map_err(read)?;
                let version = version
                    .ok_or_else(|| failed("read", "the log names a version that is gone"))?;
                let version = Version::decode(version.value())?;
                events.push(match version.key_value(key, revision) {
                    Some(stored) => Event::Put(stored),
                    None => Event::Delete { key: key.to_owned(), revision },
                });
            }
        }
        Ok((self.revision.max(after), events))
    }
}

/// All tables, open for writing.
pub(super) struct Tables<'t> {
    versions: Table<'t, (&'static str, u64), &'static [u8]>,
    log: Table<'t, u64, &'static [u8]>,
    leases: Table<'t, i64, u64>,
    lease_keys: Table<'t, (i64, &'static str), ()>,
    meta: Table<'t, &'static str, u64>,
}

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self> {
        let open = |e: redb::TableError| failed("write", e);
        Ok(Self {
            versions: transaction.open_table(VERSIONS).map_err(open)?,
            log: transaction.open_table(LOG).map_err(open)?,
            leases: transaction.open_table(LEASES).map_err(open)?,
            lease_keys: transaction.open_table(LEASE_KEYS).map_err(open)?,
            meta: transaction.open_table(META).map_err(open)?,
        })
    }

    fn meta(&self, name: &str) -> Result<u64> {
        Ok(self.meta.get(name).map_err(read)?.map_or(0, |value| value.value()))
    }

    fn set_meta(&mut self, name: &str, value: u64) -> Result<()> {
        self.meta.insert(name, value).map_err(write)?;
        Ok(())
    }

    /// To be called once at the end of a group.
    pub(super) fn set_revision(&mut self, revision: Revision) -> Result<()> {
        self.set_meta(REVISION, revision)
    }

    /// The index of the first compare that does not hold.
    pub(super) fn first_conflict(&self, txn: &Txn) -> Result<Option<usize>> {
        for (index, compare) in txn.compares.iter().enumerate() {
            let (key, wanted) = match compare {
                Compare::Absent(key) => (key, None),
                Compare::Present(key) => (key, Some(None)),
                Compare::ModRevision(key, revision) => (key, Some(Some(*revision))),
            };
            let found = newest(&self.versions, key, |revision, version| {
                version.value.is_some().then_some(revision)
            })?
            .flatten();
            let holds = match wanted {
                None => found.is_none(),
                Some(None) => found.is_some(),
                Some(revision) => found == revision,
            };
            if !holds {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Refuses operations with leases that do not exist, before anything is written.
    pub(super) fn check_leases(&self, ops: &[Op]) -> Result<()> {
        for op in ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && self.leases.get(lease.0).map_err(read)?.is_none()
            {
                return Err(Error::NoSuchLease(*lease));
            }
        }
        Ok(())
    }

    /// Performs operations at `revision`. No event: nothing changed and the revision is not used.
    pub(super) fn apply(&mut self, ops: Vec<Op>, revision: Revision) -> Result<Vec<Event>> {
        let mut events = Vec::with_capacity(ops.len());
        for op in ops {
            match op {
                Op::Put { key, value, lease } => {
                    events.push(Event::Put(self.put(key, value, lease, revision)?));
                }
                Op::Delete { key } => events.extend(self.delete(key, revision)?),
            }
        }
        if !events.is_empty() {
            let keys = encode_keys(events.iter().map(Event::key));
            self.log.insert(revision, keys.as_slice()).map_err(write)?;
        }
        Ok(events)
    }

    fn put(
        &mut self,
        key: String,
        value: Bytes,
        lease: Option<LeaseId>,
        revision: Revision,
    ) -> Result<KeyValue> {
        let previous = newest(&self.versions, &key, |_, version| {
            version.value.is_some().then_some((version.create_revision, version.lease))
        })?
        .flatten();
        let (create_revision, old_lease) = previous.unwrap_or((revision, 0));
        let lease = lease.map_or(0, |lease| lease.0);
        if old_lease != lease {
            if old_lease != 0 {
                self.lease_keys.remove((old_lease, key.as_str())).map_err(write)?;
            }
            if lease != 0 {
                self.lease_keys.insert((lease, key.as_str()), ()).map_err(write)?;
            }
        }
        self.insert(&key, revision, &Version { create_revision, lease, value: Some(&value) })?;
        Ok(KeyValue { key, value, create_revision, mod_revision: revision })
    }

    fn delete(&mut self, key: String, revision: Revision) -> Result<Option<Event>> {
        let lease = newest(&self.versions, &key, |_, version| {
            version.value.is_some().then_some(version.lease)
        })?;
        let Some(lease) = lease.flatten() else { return Ok(None) };
        if lease != 0 {
            self.lease_keys.remove((lease, key.as_str())).map_err(write)?;
        }
        self.insert(&key, revision, &Version { create_revision: 0, lease: 0, value: None })?;
        Ok(Some(Event::Delete { key, revision }))
    }

    fn insert(&mut self, key: &str, revision: Revision, version: &Version<'_>) -> Result<()> {
        let mut place =
            self.versions.insert_reserve((key, revision), version.len()).map_err(write)?;
        version.encode(place.as_mut());
        Ok(())
    }

    pub(super) fn grant(&mut self, seconds: u64) -> Result<LeaseId> {
        let id = self.meta(LAST_LEASE)? + 1;
        self.set_meta(LAST_LEASE, id)?;
        let lease = LeaseId(i64::try_from(id).map_err(|e| failed("grant a lease", e))?);
        self.leases.insert(lease.0, seconds).map_err(write)?;
        Ok(lease)
    }

    /// Ends a lease; its keys go at `revision`.
    pub(super) fn revoke(&mut self, lease: LeaseId, revision: Revision) -> Result<Vec<Event>> {
        self.leases.remove(lease.0).map_err(write)?;
        let mut ops = Vec::new();
        // Keys are never empty, so that every key of this lease lies between.
        for entry in self.lease_keys.range((lease.0, "")..(lease.0 + 1, "")).map_err(read)? {
            let (place, _) = entry.map_err(read)?;
            ops.push(Op::Delete { key: place.value().1.to_owned() });
        }
        self.apply(ops, revision)
    }

    /// From now on history before `revision` cannot be asked for. Tells whether that is news.
    pub(super) fn mark_compacted(&mut self, revision: Revision) -> Result<bool> {
        let news = revision > self.meta(COMPACTED)?;
        if news {
            self.set_meta(COMPACTED, revision)?;
        }
        Ok(news)
    }

    /// Removes the history of the `revisions` oldest revisions in the log, as far as it is before
    /// the mark. Tells whether nothing is left to do.
    pub(super) fn compact(&mut self, revisions: usize) -> Result<bool> {
        let compacted = self.meta(COMPACTED)?;
        let mut changed: Vec<(Revision, Vec<String>)> = Vec::new();
        for entry in self.log.range(..=compacted).map_err(read)?.take(revisions) {
            let (revision, keys) = entry.map_err(read)?;
            let keys = decode_keys(keys.value())?.into_iter().map(str::to_owned).collect();
            changed.push((revision.value(), keys));
        }
        let done = changed.len() < revisions;
        for (revision, keys) in changed {
            for key in keys {
                // Superseded by what was written at `revision`.
                let older: Vec<Revision> = self
                    .versions
                    .range((key.as_str(), 0)..(key.as_str(), revision))
                    .map_err(read)?
                    .map(|entry| entry.map(|(place, _)| place.value().1))
                    .collect::<Result<_, _>>()
                    .map_err(read)?;
                for revision in older {
                    self.versions.remove((key.as_str(), revision)).map_err(write)?;
                }
                // A watch may still begin at the mark itself; a deletion before it is of no use to anybody.
                if revision < compacted {
                    let place = (key.as_str(), revision);
                    let deleted = match self.versions.get(place).map_err(read)? {
                        Some(version) => Version::decode(version.value())?.value.is_none(),
                        None => false,
                    };
                    if deleted {
                        self.versions.remove(place).map_err(write)?;
                    }
                }
            }
            if revision < compacted {
                self.log.remove(revision).map_err(write)?;
            }
        }
        Ok(done)
    }
}
