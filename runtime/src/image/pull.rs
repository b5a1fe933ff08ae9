//! Fetching an image from a registry.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{TryStreamExt, stream};
use oci_client::Reference;
use oci_client::manifest::{ImageIndexEntry, OciDescriptor, OciImageManifest, OciManifest};
use reqwest::StatusCode;
use tokio::io::AsyncWriteExt;

use super::access::Access;
use super::bounds::Bounds;
use super::claims::Claim;
use super::platform::{self, Machine};
use super::registry::{Failure, Registry};
use super::store::{ImageRecord, ImageStore, is_digest, seconds_now};
use super::{Image, ImageError, RegistryAuth, io_error, unpack};

/// Layers fetched at a time: what container engines use; more only splits the line further.
const PARALLEL_LAYERS: usize = 3;

/// Fetches what is missing of an image and makes it known under its reference.
pub(super) async fn pull(
    store: &ImageStore,
    reference: Reference,
    auth: &[RegistryAuth],
) -> Result<Image, ImageError> {
    for mirror in store.mirrors().iter().filter(|mirror| mirror.serves(reference.registry())) {
        let mut there = reference.clone();
        there.set_mirror_registry(mirror.host.clone());
        let plain_http = mirror.plain_http || store.is_insecure(&mirror.host);
        // What a pod may show to the registry itself is not a mirror's to know.
        let error = match pull_as(store, plain_http, &there, &RegistryAuth::Anonymous).await {
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
        let plain_http = store.is_insecure(reference.resolve_registry());
        match pull_as(store, plain_http, &reference, candidate).await {
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

fn for_this_machine(entries: &[ImageIndexEntry]) -> Option<String> {
    let chosen = platform::choose(&Machine::here(), entries, |entry| {
        let platform = entry.platform.as_ref()?;
        Some((&platform.os, &platform.architecture, platform.variant.as_deref()))
    });
    chosen.map(|entry| entry.digest.clone())
}

async fn pull_as(
    store: &ImageStore,
    plain_http: bool,
    reference: &Reference,
    auth: &RegistryAuth,
) -> Result<Image, PullError> {
    let access = Access::given(reference, auth);
    let explain = |failure| explain(reference, failure);
    let registry = Registry::of(reference, plain_http, auth).map_err(explain)?;
    let (manifest, digest) = manifest(&registry, reference).await?;

    let config_digest = &manifest.config.digest;
    if !is_digest(config_digest) {
        let reason = format!("its configuration {config_digest} is no SHA-256 digest");
        return Err(failed(reference, reason).into());
    }
    let raw = registry.document(config_digest).await.map_err(explain)?;
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
            let registry = &registry;
            async move { fetch_layer(&store, registry, reference, layer, diff_id, bounds).await }
        })
        .await?;

    let repository = format!("{}/{}", reference.registry(), reference.repository());
    let record = ImageRecord {
        id: config_digest.clone(),
        repo_digests: vec![format!("{repository}@{digest}")],
        tags: reference.tag().map(|tag| format!("{repository}:{tag}")).into_iter().collect(),
        diff_ids,
        size_bytes: manifest.layers.iter().map(|layer| layer.size.max(0) as u64).sum(),
        config,
        added_at: seconds_now(),
        access,
    };
    let (committing, name) = (store.clone(), reference.whole());
    let committed = tokio::task::spawn_blocking(move || committing.commit(record, &[name])).await;
    Ok(committed.map_err(|error| failed(reference, error.to_string()))??)
}

/// The manifest of the image for this machine, and the digest that the reference stands for.
async fn manifest(
    registry: &Registry,
    reference: &Reference,
) -> Result<(OciImageManifest, String), PullError> {
    let name = reference.digest().or(reference.tag()).unwrap_or_default();
    let read = async |name: &str| {
        let (body, digest) = registry.manifest(name).await.map_err(|f| explain(reference, f))?;
        let manifest: OciManifest = serde_json::from_slice(&body)
            .map_err(|_| failed(reference, "its manifest is of no image".to_owned()))?;
        Ok::<_, PullError>((manifest, digest))
    };
    let (found, digest) = read(name).await?;
    let index = match found {
        OciManifest::Image(manifest) => return Ok((manifest, digest)),
        OciManifest::ImageIndex(index) => index,
    };
    let here = for_this_machine(&index.manifests).filter(|digest| is_digest(digest));
    let here =
        here.ok_or_else(|| failed(reference, "it is not for machines such as this".to_owned()))?;
    match read(&here).await?.0 {
        OciManifest::Image(manifest) => Ok((manifest, digest)),
        OciManifest::ImageIndex(_) => {
            Err(failed(reference, "its indexes are nested".to_owned()).into())
        }
    }
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
    registry: &Registry,
    reference: &Reference,
    layer: &OciDescriptor,
    diff_id: &str,
    bounds: Arc<Bounds>,
) -> Result<(), PullError> {
    if !is_digest(&layer.digest) {
        return Err(failed(reference, format!("\"{}\" is no SHA-256 digest", layer.digest)).into());
    }
    if layer.size <= 0 {
        let reason = format!("its manifest does not say how large layer {} is", layer.digest);
        return Err(failed(reference, reason).into());
    }
    let _alone = store.lock_blob(&layer.digest).await;
    if store.layer_path(diff_id).is_dir() {
        return Ok(());
    }
    let blob = download_whole(store, registry, reference, layer).await?;
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
    registry: &Registry,
    reference: &Reference,
    layer: &OciDescriptor,
) -> Result<PathBuf, PullError> {
    let path = store.ingest_path(&format!("blob-{}", layer.digest.replacen(':', "-", 1)));
    let mut before = length(&path).await;
    loop {
        let error = match download(registry, reference, layer, &path).await {
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

impl From<PullError> for DownloadError {
    fn from(error: PullError) -> Self {
        Self::Final(error)
    }
}

impl From<ImageError> for DownloadError {
    fn from(error: ImageError) -> Self {
        Self::Final(error.into())
    }
}

/// Downloads a blob to a file, going on where an earlier attempt stopped.
async fn download(
    registry: &Registry,
    reference: &Reference,
    layer: &OciDescriptor,
    path: &Path,
) -> Result<(), DownloadError> {
    let have = length(path).await;
    let size = u64::try_from(layer.size).unwrap_or(0);
    if have == size {
        return Ok(());
    }
    let from = if have < size { have } else { 0 };
    let answer = registry.blob(&layer.digest, from).await;
    let mut answer = answer.map_err(|failure| explain(reference, failure))?;
    let mut options = tokio::fs::OpenOptions::new();
    options.create(true);
    let mut written = match answer.status() {
        StatusCode::PARTIAL_CONTENT if from > 0 => {
            options.append(true);
            from
        }
        _ => {
            options.write(true).truncate(true);
            0
        }
    };
    let mut file = options.open(path).await.map_err(io_error("open", path))?;
    loop {
        let chunk = match answer.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) => {
                // What came is there to go on from.
                file.flush().await.map_err(io_error("write", path))?;
                return Err(DownloadError::BrokeOff(error.to_string()));
            }
        };
        written += chunk.len() as u64;
        if written > size {
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

/// A registry's failure, of this image.
fn explain(reference: &Reference, failure: Failure) -> PullError {
    match failure {
        Failure::Refused(reason) => PullError::Refused(reason),
        Failure::Other(reason) => PullError::Other(failed(reference, reason)),
    }
}
