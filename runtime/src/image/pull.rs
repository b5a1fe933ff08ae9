//! Fetching an image from a registry.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::{ImageIndexEntry, OciDescriptor};
use oci_client::secrets::RegistryAuth as ClientAuth;
use oci_client::{Client, Reference, RegistryOperation};
use tokio::io::AsyncWriteExt;

use super::bounds::Bounds;
use super::claims::Claim;
use super::platform::{self, Machine};
use super::store::{ImageRecord, ImageStore, is_digest, seconds_now};
use super::{Image, ImageError, RegistryAuth, io_error, unpack};

/// Layers fetched at a time: what container engines use; more only splits the line further.
const PARALLEL_LAYERS: usize = 3;
/// A configuration is a few KiB; a registry must not be able to fill the memory.
const MAX_CONFIG_BYTES: i64 = 4 << 20;
/// A registry that says nothing for so long is given up; the next attempt resumes.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Fetches what is missing of an image and makes it known under its reference.
pub(super) async fn pull(
    store: &ImageStore,
    reference: Reference,
    auth: &[RegistryAuth],
) -> Result<Image, ImageError> {
    for mirror in store.mirrors().iter().filter(|mirror| mirror.serves(reference.registry())) {
        let mut there = reference.clone();
        there.set_mirror_registry(mirror.host.clone());
        let client = client(mirror.plain_http || store.is_insecure(&mirror.host));
        // What a pod may show to the registry itself is not a mirror's to know.
        let error = match pull_as(store, &client, &there, &RegistryAuth::Anonymous).await {
            Ok(image) => return Ok(image),
            Err(PullError::Refused(reason)) => failed(&reference, reason),
            Err(PullError::Other(error)) => error,
        };
        tracing::info!(mirror = mirror.host, %error, "a mirror does not have an image");
    }
    let anonymous = [RegistryAuth::Anonymous];
    let candidates = if auth.is_empty() { &anonymous[..] } else { auth };
    let mut refusal = None;
    for candidate in candidates {
        let client = client(store.is_insecure(reference.resolve_registry()));
        match pull_as(store, &client, &reference, candidate).await {
            Err(PullError::Refused(reason)) => refusal = Some(reason),
            Err(PullError::Other(error)) => return Err(error),
            Ok(image) => return Ok(image),
        }
    }
    Err(failed(&reference, refusal.unwrap_or_else(|| "no credentials were accepted".to_owned())))
}

/// Whether it makes sense to try the next credentials.
enum PullError {
    Refused(String),
    Other(ImageError),
}

impl From<ImageError> for PullError {
    fn from(error: ImageError) -> Self {
        Self::Other(error)
    }
}

fn client(plain_http: bool) -> Client {
    // The client builds on rustls without a provider of its own. An error says that the process
    // has chosen one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let protocol = if plain_http { ClientProtocol::Http } else { ClientProtocol::Https };
    Client::new(ClientConfig {
        protocol,
        read_timeout: Some(READ_TIMEOUT),
        connect_timeout: Some(CONNECT_TIMEOUT),
        user_agent: concat!("kutter/", env!("CARGO_PKG_VERSION")),
        platform_resolver: Some(Box::new(for_this_machine)),
        ..ClientConfig::default()
    })
}

fn for_this_machine(entries: &[ImageIndexEntry]) -> Option<String> {
    let chosen = platform::choose(&Machine::here(), entries, |entry| {
        let platform = entry.platform.as_ref()?;
        Some((&platform.os, &platform.architecture, platform.variant.as_deref()))
    });
    chosen.map(|entry| entry.digest.clone())
}

async fn pull_as(
    store: &ImageStore,
    client: &Client,
    reference: &Reference,
    auth: &RegistryAuth,
) -> Result<Image, PullError> {
    let auth = match auth {
        RegistryAuth::Anonymous => ClientAuth::Anonymous,
        RegistryAuth::Basic { username, password } => {
            ClientAuth::Basic(username.clone(), password.clone())
        }
    };
    let explain = |error| explain(reference, error);
    client.auth(reference, &auth, RegistryOperation::Pull).await.map_err(explain)?;
    let (manifest, digest, list_digest) =
        client.pull_image_manifest_and_list_digest(reference, &auth).await.map_err(explain)?;

    let config_digest = &manifest.config.digest;
    if !is_digest(config_digest) || manifest.config.size > MAX_CONFIG_BYTES {
        let reason = format!("its configuration {config_digest} is no small SHA-256 blob");
        return Err(failed(reference, reason).into());
    }
    // `pull_blob` verifies the digest.
    let mut raw = Vec::new();
    client.pull_blob(reference, &manifest.config, &mut raw).await.map_err(explain)?;
    let config: serde_json::Value = serde_json::from_slice(&raw)
        .map_err(|error| failed(reference, format!("its configuration is not JSON: {error}")))?;
    let diff_ids =
        diff_ids(&config).filter(|ids| ids.len() == manifest.layers.len()).ok_or_else(|| {
            failed(reference, "its configuration does not name its layers".to_owned())
        })?;

    let (claiming, ids) = (store.clone(), diff_ids.clone());
    let claim = tokio::task::spawn_blocking(move || Claim::new(&claiming, &ids)).await;
    let _claim = claim.map_err(|error| failed(reference, error.to_string()))??;
    let store_for_layers = Arc::new(store.clone());
    let bounds = Arc::new(Bounds::default());
    stream::iter(manifest.layers.iter().zip(&diff_ids).map(Ok))
        .try_for_each_concurrent(PARALLEL_LAYERS, |(layer, diff_id)| {
            let (store, bounds) = (Arc::clone(&store_for_layers), Arc::clone(&bounds));
            async move { fetch_layer(&store, client, reference, layer, diff_id, bounds).await }
        })
        .await?;

    let repository = format!("{}/{}", reference.registry(), reference.repository());
    let record = ImageRecord {
        id: config_digest.clone(),
        repo_digests: vec![format!("{repository}@{}", list_digest.unwrap_or(digest))],
        tags: reference.tag().map(|tag| format!("{repository}:{tag}")).into_iter().collect(),
        diff_ids,
        size_bytes: manifest.layers.iter().map(|layer| layer.size.max(0) as u64).sum(),
        config,
        added_at: seconds_now(),
    };
    let (committing, name) = (store.clone(), reference.whole());
    let committed = tokio::task::spawn_blocking(move || committing.commit(record, &[name])).await;
    Ok(committed.map_err(|error| failed(reference, error.to_string()))??)
}

/// The digests of the unpacked layers, out of an image's configuration.
pub(super) fn diff_ids(config: &serde_json::Value) -> Option<Vec<String>> {
    let ids = config.pointer("/rootfs/diff_ids")?.as_array()?;
    ids.iter()
        .map(|id| id.as_str().filter(|id| is_digest(id)).map(str::to_owned))
        .collect::<Option<Vec<_>>>()
}

async fn fetch_layer(
    store: &ImageStore,
    client: &Client,
    reference: &Reference,
    layer: &OciDescriptor,
    diff_id: &str,
    bounds: Arc<Bounds>,
) -> Result<(), PullError> {
    if !is_digest(&layer.digest) {
        return Err(failed(reference, format!("\"{}\" is no SHA-256 digest", layer.digest)).into());
    }
    let _alone = store.lock_blob(&layer.digest).await;
    if store.layer_path(diff_id).is_dir() {
        return Ok(());
    }
    let blob = download_whole(store, client, reference, layer).await?;
    let (store, diff_id, digest) = (store.clone(), diff_id.to_owned(), layer.digest.clone());
    let unpacked = tokio::task::spawn_blocking(move || {
        let result = unpack::verify_blob(&blob, &digest)
            .and_then(|()| unpack::unpack_layer(&store, &blob, &diff_id, &bounds));
        // Whole or wrong, it has served; a wrong one must not be resumed.
        let removed = std::fs::remove_file(&blob).map_err(io_error("remove", &blob));
        result.and(removed)
    });
    match unpacked.await {
        Ok(result) => Ok(result?),
        Err(error) => Err(failed(reference, format!("unpacking failed: {error}")).into()),
    }
}

/// Downloads a blob to a file. A connection that breaks is made anew as long as each one brings the
/// download further. Not verified yet.
async fn download_whole(
    store: &ImageStore,
    client: &Client,
    reference: &Reference,
    layer: &OciDescriptor,
) -> Result<PathBuf, PullError> {
    let path = store.ingest_path(&format!("blob-{}", layer.digest.replacen(':', "-", 1)));
    let mut before = length(&path).await;
    loop {
        let error = match download(client, reference, layer, &path).await {
            Ok(()) => return Ok(path),
            Err(DownloadError::Final(error)) => return Err(error),
            Err(DownloadError::BrokeOff(reason)) => reason,
        };
        let now = length(&path).await;
        if now <= before {
            return Err(failed(reference, format!("download broke off: {error}")).into());
        }
        tracing::info!(image = %reference, bytes = now, error, "resuming a download that broke off");
        before = now;
    }
}

async fn length(path: &Path) -> u64 {
    tokio::fs::metadata(path).await.map_or(0, |metadata| metadata.len())
}

/// Whether going on makes sense.
enum DownloadError {
    BrokeOff(String),
    Final(PullError),
}

impl From<ImageError> for DownloadError {
    fn from(error: ImageError) -> Self {
        Self::Final(error.into())
    }
}

/// Downloads a blob to a file, going on where an earlier attempt stopped.
async fn download(
    client: &Client,
    reference: &Reference,
    layer: &OciDescriptor,
    path: &Path,
) -> Result<(), DownloadError> {
    let have = length(path).await;
    let size = u64::try_from(layer.size).unwrap_or(0);
    if have == size && size > 0 {
        return Ok(());
    }
    let explain = |error| DownloadError::Final(explain(reference, error));
    let mut options = tokio::fs::OpenOptions::new();
    options.create(true);
    let (stream, options, mut written) = if have > 0 && have < size {
        match client
            .pull_blob_stream_partial(reference, layer, have, None)
            .await
            .map_err(explain)?
        {
            BlobResponse::Partial(stream) => (stream, options.append(true), have),
            BlobResponse::Full(stream) => (stream, options.write(true).truncate(true), 0),
        }
    } else {
        let stream = client.pull_blob_stream(reference, layer).await.map_err(explain)?;
        (stream, options.write(true).truncate(true), 0)
    };
    let mut file = options.open(path).await.map_err(io_error("open", path))?;
    let mut stream = stream.stream;
    while let Some(chunk) = stream.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => {
                // What came is there to go on from.
                file.flush().await.map_err(io_error("write", path))?;
                return Err(DownloadError::BrokeOff(error.to_string()));
            }
        };
        written += chunk.len() as u64;
        if size > 0 && written > size {
            let reason = format!("layer {} is larger than its manifest says", layer.digest);
            return Err(failed(reference, reason).into());
        }
        file.write_all(&chunk).await.map_err(io_error("write", path))?;
    }
    file.flush().await.map_err(io_error("write", path))?;
    match written < size {
        true => Err(DownloadError::BrokeOff(format!("it ended after {written} of {size} bytes"))),
        false => Ok(()),
    }
}

fn failed(reference: &Reference, reason: String) -> ImageError {
    ImageError::Pull { reference: reference.whole(), reason }
}

/// The client's error in words for whoever wrote the manifest.
fn explain(reference: &Reference, error: OciDistributionError) -> PullError {
    let registry = reference.resolve_registry();
    let other = |reason: String| PullError::Other(failed(reference, reason));
    match error {
        OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::AuthenticationFailure(_) => PullError::Refused(format!(
            "{registry} refuses access: the image does not exist there, or needs other credentials"
        )),
        OciDistributionError::ImageManifestNotFoundError(_) => {
            other(format!("{registry} does not have it"))
        }
        OciDistributionError::RegistryError { envelope, .. } => {
            let has = |code: OciErrorCode| envelope.errors.iter().any(|error| error.code == code);
            if has(OciErrorCode::Unauthorized) || has(OciErrorCode::Denied) {
                return PullError::Refused(format!("{registry} refuses access"));
            }
            if has(OciErrorCode::ManifestUnknown) || has(OciErrorCode::NameUnknown) {
                return other(format!("{registry} does not have it"));
            }
            other(envelope.to_string())
        }
        OciDistributionError::ServerError { code: 404, .. } => {
            other(format!("{registry} does not have it"))
        }
        OciDistributionError::ServerError { code: 401 | 403, .. } => {
            PullError::Refused(format!("{registry} refuses access"))
        }
        OciDistributionError::RequestError(error) => {
            let mut reason = format!("{registry} cannot be reached: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                reason.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            other(reason)
        }
        error => other(error.to_string()),
    }
}
