//! Reading: one object, or many.
//!
//! The first page of a list comes out of the cache and fixes a revision; further pages come out of
//! the store as of that revision, so that all pages together are one consistent snapshot.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, StatusCode};
use proto::ObjectKey;
use serde::{Deserialize, Serialize};

use crate::api::error::ApiError;
use crate::api::kinds::{Kind as _, Leases};
use crate::api::registry::AnyKind;
use crate::api::rest::list_options::{ListOptions, Version, parse_version};
use crate::api::rest::query::Options;
use crate::api::rest::render::{self, ListMeta};
use crate::api::rest::selection::Selection;
use crate::api::rest::{Api, accept, node_leases};
use crate::cache::{CachedObject, Caches, Interest, ResourceCache};
use crate::store::{self, RangeOptions, Revision, Store, keys};

/// How long a request waits for a revision that this master has not seen yet.
const MAX_WAIT: Duration = Duration::from_secs(3);

/// Objects read from the store at a time for a further page.
const PAGE: usize = 500;

/// Where a list goes on. Opaque to clients.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Continue {
    /// Of the snapshot; none when that is gone, and the list goes on in the newest.
    revision: Option<Revision>,
    /// The last key told.
    after: String,
    /// How many follow, if that is known: of a snapshot it stays true.
    #[serde(default)]
    remaining: Option<usize>,
}

impl Continue {
    fn encode(&self) -> Result<String, ApiError> {
        let json = serde_json::to_vec(self).map_err(ApiError::internal)?;
        Ok(URL_SAFE_NO_PAD.encode(json))
    }

    fn decode(text: &str) -> Result<Self, ApiError> {
        let decoded = URL_SAFE_NO_PAD.decode(text).ok();
        decoded
            .and_then(|json| serde_json::from_slice(&json).ok())
            .ok_or_else(|| ApiError::bad_request(INVALID_TOKEN))
    }
}

const INVALID_TOKEN: &str = "invalid continue token: continue key is not valid";

/// For a client that wants the rest although it does not fit what it has.
const TOKEN_EXPIRED: &str = "The provided continue parameter is too old to display a consistent \
    list result. A new list can be started without it. The continue token in this answer goes on \
    from the same place, but in what is there now: objects that were made, changed or deleted since \
    the first page may be told as they are now, twice, or not at all.";

const VERSION_EXPIRED: &str = "The resourceVersion for the provided list is too old.";

/// The cache of a kind; there is one for every kind that is registered.
pub(crate) fn cache_of<'a>(
    caches: &'a Caches,
    kind: &dyn AnyKind,
) -> Result<&'a Arc<ResourceCache>, ApiError> {
    let plural = kind.resource().plural;
    caches
        .resource(plural)
        .ok_or_else(|| ApiError::internal(format!("there is no cache of {plural}")))
}

/// One object.
pub(crate) async fn get(
    api: &Api,
    kind: &'static dyn AnyKind,
    key: &ObjectKey,
    options: &Options,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let answer = accept::negotiate(headers, options.get("includeObject"), options.flag("pretty"))?;
    let object = find(api, kind, key, options).await?;
    render::object(StatusCode::OK, kind, object.json.clone(), answer)
}

/// One object as the cache has it, as fresh as the request wants it.
pub(crate) async fn find(
    api: &Api,
    kind: &'static dyn AnyKind,
    key: &ObjectKey,
    options: &Options,
) -> Result<Arc<CachedObject>, ApiError> {
    let version = match options.get("resourceVersion").map(parse_version).transpose()? {
        None => Version::Newest,
        Some(0) => Version::Any,
        Some(revision) => Version::From(revision),
    };
    let caches = api.objects.caches();
    catch_up(caches, version).await?;
    let found = cache_of(caches, kind)?.get(key);
    let found = found.ok_or_else(|| ApiError::not_found(kind.resource(), &key.name))?;
    Ok(node_leases::as_told(caches, kind, found))
}

/// Waits until the caches are as fresh as wanted.
pub(crate) async fn catch_up(caches: &Caches, version: Version) -> Result<(), ApiError> {
    match version {
        Version::Any => Ok(()),
        Version::Newest => Ok(caches.fresh().await.map(drop)?),
        Version::From(revision) | Version::Exactly(revision) => {
            let waited = tokio::time::timeout(MAX_WAIT, caches.wait_for(revision)).await;
            waited.map_err(|_| {
                let current = caches.revision();
                let message = format!("Too large resource version: {revision}, current: {current}");
                ApiError::timeout(message, 1).with_cause(
                    "ResourceVersionTooLarge",
                    "Too large resource version",
                    "",
                )
            })
        }
    }
}

/// A list.
pub(crate) async fn list(
    api: &Api,
    kind: &'static dyn AnyKind,
    namespace: Option<&str>,
    options: &Options,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let answer = accept::negotiate(headers, options.get("includeObject"), options.flag("pretty"))?;
    let options = ListOptions::parse(options, kind)?;
    let (meta, objects) = select(api, kind, namespace, &options).await?;
    render::list(kind, &meta, objects, answer)
}

/// The objects that a list's options select, one page of them.
pub(crate) async fn select(
    api: &Api,
    kind: &'static dyn AnyKind,
    namespace: Option<&str>,
    options: &ListOptions,
) -> Result<(ListMeta, Vec<Arc<CachedObject>>), ApiError> {
    let selection = Selection {
        namespace: namespace.map(str::to_owned),
        labels: options.labels.clone(),
        fields: options.fields.clone(),
    };
    if let Some(token) = &options.continue_token {
        let token = Continue::decode(token)?;
        return further_page(api, kind, &selection, token, options.limit).await;
    }
    let caches = api.objects.caches();
    catch_up(caches, options.version).await?;
    if let Version::Exactly(revision) = options.version {
        let start = Continue { revision: Some(revision), after: String::new(), remaining: None };
        return further_page(api, kind, &selection, start, options.limit).await;
    }
    let cache = cache_of(caches, kind)?;
    let interest = selection.interest(&kind.selectable(), kind.resource().namespaced);
    let (revision, mut objects) = match &interest {
        Interest::Object(key) => {
            // The revision is read first: what the object looks like then or later is no lie.
            let revision = caches.revision();
            (revision, cache.get(key).into_iter().collect())
        }
        Interest::Field(field, value) => match cache.list_by_field(field, value) {
            Some(listed) => listed,
            None => cache.list(namespace),
        },
        Interest::All | Interest::Namespace(_) => cache.list(namespace),
    };
    if !matches!(interest, Interest::All) || !selection.is_everything() {
        objects.retain(|object| selection.matches(object));
    }
    if kind.resource().plural == Leases::RESOURCE.plural {
        let told = |object| node_leases::as_told(caches, kind, object);
        objects = objects.into_iter().map(told).collect();
    }
    let mut meta = ListMeta { resource_version: revision.to_string(), ..ListMeta::default() };
    if options.limit > 0 && objects.len() > options.limit {
        // In the order in which the store has them, so that the next page can go on there.
        objects.sort_by(|a, b| store_order(&a.key, &b.key));
        let remaining = objects.len() - options.limit;
        objects.truncate(options.limit);
        let after = objects.last().map(|last| keys::object(kind.resource().plural, &last.key));
        let after = after.unwrap_or_default();
        let remaining = selection.is_everything().then_some(remaining);
        let token = Continue { revision: Some(revision), after, remaining };
        meta.continue_token = Some(token.encode()?);
        meta.remaining_item_count = remaining;
    }
    Ok((meta, objects))
}

/// How the keys of two objects compare as text. (`a-b/x` comes before `a/x`.)
fn store_order(a: &ObjectKey, b: &ObjectKey) -> Ordering {
    fn text(key: &ObjectKey) -> impl Iterator<Item = u8> {
        key.namespace.bytes().chain([b'/']).chain(key.name.bytes())
    }
    text(a).cmp(text(b))
}

/// A page as of an older revision, out of the store. Without a revision it is the newest.
async fn further_page(
    api: &Api,
    kind: &'static dyn AnyKind,
    selection: &Selection,
    mut from: Continue,
    limit: usize,
) -> Result<(ListMeta, Vec<Arc<CachedObject>>), ApiError> {
    let store = &api.objects.writer().store;
    let plural = kind.resource().plural;
    let prefix = match &selection.namespace {
        Some(namespace) => format!("{}{namespace}/", keys::resource_prefix(plural)),
        None => keys::resource_prefix(plural),
    };
    if !from.after.is_empty() && !from.after.starts_with(&prefix) {
        return Err(ApiError::bad_request(INVALID_TOKEN));
    }
    let first = from.clone();
    let mut meta = ListMeta::default();
    let mut objects = Vec::new();
    loop {
        let options = RangeOptions {
            limit: PAGE,
            after: Some(from.after.clone()).filter(|after| !after.is_empty()),
            revision: from.revision,
        };
        let range = store.range(&prefix, options).await.map_err(|error| expired(error, &first))?;
        // Whatever follows, on this page and on others, is of the same state.
        let revision = *from.revision.get_or_insert(range.revision);
        meta.resource_version = revision.to_string();
        let mut items = range.items.into_iter().peekable();
        while let Some(stored) = items.next() {
            from.after.clone_from(&stored.key);
            let Some((_, key)) = keys::parse_object(&stored.key) else { continue };
            let object = CachedObject::from_stored(
                key,
                stored.mod_revision,
                &stored.value,
                kind.stored_fields(),
            )
            .map_err(ApiError::internal)?;
            if !selection.matches(&object) {
                continue;
            }
            objects.push(node_leases::as_told(api.objects.caches(), kind, Arc::new(object)));
            if limit > 0 && objects.len() == limit {
                if items.peek().is_some() || range.more {
                    from.remaining = match from.remaining {
                        _ if !selection.is_everything() => None,
                        Some(remaining) => Some(remaining.saturating_sub(objects.len())),
                        None => Some(count(&**store, &prefix, &from).await?),
                    };
                    meta.remaining_item_count = from.remaining;
                    meta.continue_token = Some(from.encode()?);
                }
                return Ok((meta, objects));
            }
        }
        if !range.more {
            return Ok((meta, objects));
        }
    }
}

/// How many objects of a snapshot follow. It is asked once in a list, and only in one that did not
/// begin in the cache.
async fn count(store: &dyn Store, prefix: &str, from: &Continue) -> Result<usize, ApiError> {
    let (mut count, mut after) = (0, from.after.clone());
    loop {
        let after_key = Some(after.clone());
        let options = RangeOptions { limit: PAGE, after: after_key, revision: from.revision };
        let range = store.range(prefix, options).await.map_err(|error| expired(error, from))?;
        let keys = range.items.iter().map(|stored| &stored.key);
        count += keys.filter(|key| keys::parse_object(key).is_some()).count();
        match range.items.into_iter().next_back() {
            Some(last) if range.more => after = last.key,
            _ => return Ok(count),
        }
    }
}

/// A snapshot that is gone: 410, for a further page with a token for what is there now.
fn expired(error: store::Error, from: &Continue) -> ApiError {
    if !matches!(error, store::Error::Expired { .. }) {
        return error.into();
    }
    if from.after.is_empty() {
        return ApiError::expired(VERSION_EXPIRED);
    }
    match (Continue { revision: None, remaining: None, ..from.clone() }).encode() {
        Ok(token) => ApiError::expired(TOKEN_EXPIRED).with_continue(token),
        Err(error) => error,
    }
}
