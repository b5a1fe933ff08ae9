//! Fetching an image from a registry.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth as ClientAuth;
use oci_client::{Client, Reference, RegistryOperation};
use tokio::io::AsyncWriteExt;

use super::store::{ImageRecord, ImageStore, is_digest};
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
    let anonymous = [RegistryAuth::Anonymous];
    let candidates = if auth.is_empty() { &anonymous[..] } else { auth };
    let mut refusal = None;
    for candidate in candidates {
        let client = client(store, &reference);
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

fn client(store: &ImageStore, reference: &Reference) -> Client {
    // The client builds on rustls without a provider of its own. An error says that the process
    // has chosen one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let protocol = if store.is_insecure(reference.resolve_registry()) {
        ClientProtocol::Http
    } else {
        ClientProtocol::Https
    };
    Client::new(ClientConfig {
        protocol,
        read_timeout: Some(READ_TIMEOUT),
        connect_timeout: Some(CONNECT_TIMEOUT),
        user_agent: concat!("kutter/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    })
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

    let store_for_layers = Arc::new(store.clone());
    stream::iter(manifest.layers.iter().zip(&diff_ids).map(Ok))
        .try_for_each_concurrent(PARALLEL_LAYERS, |(layer, diff_id)| {
            let store = Arc::clone(&store_for_layers);
            async move { fetch_layer(&store, client, reference, layer, diff_id).await }
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
    };
    Ok(store.commit(record, &[reference.whole()])?)
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
) -> Result<(), PullError> {
    if !is_digest(&layer.digest) {
        return Err(failed(reference, format!("\"{}\" is no SHA-256 digest", layer.digest)).into());
    }
    let _alone = store.lock_blob(&layer.digest).await;
    if store.layer_path(diff_id).is_dir() {
        return Ok(());
    }
    let blob = download(store, client, reference, layer).await?;
    let (store, diff_id, digest) = (store.clone(), diff_id.to_owned(), layer.digest.clone());
    let unpacked = tokio::task::spawn_blocking(move || {
        let result = unpack::verify_blob(&blob, &digest)
            .and_then(|()| unpack::unpack_layer(&store, &blob, &diff_id));
        // Whole or wrong, it has served; a wrong one must not be resumed.
        let removed = std::fs::remove_file(&blob).map_err(io_error("remove", &blob));
        result.and(removed)
    });
    match unpacked.await {
        Ok(result) => Ok(result?),
        Err(error) => Err(failed(reference, format!("unpacking failed: {error}")).into()),
    }
}

/// Downloads a blob to a file, going on where an earlier attempt stopped. Not verified yet.
async fn download(
    store: &ImageStore,
    client: &Client,
    reference: &Reference,
    layer: &OciDescriptor,
) -> Result<PathBuf, PullError> {
    let path = store.ingest_path(&format!("blob-{}", layer.digest.replacen(':', "-", 1)));
    let have = tokio::fs::metadata(&path).await.map_or(0, |metadata| metadata.len());
    let size = u64::try_from(layer.size).unwrap_or(0);
    if have == size && size > 0 {
        return Ok(path);
    }
    let explain = |error| explain(reference, error);
    let mut options = tokio::fs::OpenOptions::new();
    options.create(true);
    let (stream, options) = if have > 0 && have < size {
        match client
            .pull_blob_stream_partial(reference, layer, have, None)
            .await
            .map_err(explain)?
        {
            BlobResponse::Partial(stream) => (stream, options.append(true)),
            BlobResponse::Full(stream) => (stream, options.write(true).truncate(true)),
        }
    } else {
        let stream = client.pull_blob_stream(reference, layer).await.map_err(explain)?;
        (stream, options.write(true).truncate(true))
    };
    let mut file = options.open(&path).await.map_err(io_error("open", &path))?;
    let mut stream = stream.stream;
    let mut written = 0;
    while let Some(chunk) = stream.next().await {
        let chunk =
            chunk.map_err(|error| failed(reference, format!("download broke off: {error}")))?;
        written += chunk.len() as u64;
        if size > 0 && written > size {
            let reason = format!("layer {} is larger than its manifest says", layer.digest);
            return Err(failed(reference, reason).into());
        }
        file.write_all(&chunk).await.map_err(io_error("write", &path))?;
    }
    file.flush().await.map_err(io_error("write", &path))?;
    Ok(path)
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
