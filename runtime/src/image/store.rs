//! The content store on disk.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use futures::future::{BoxFuture, FutureExt, Shared};
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::access::Access;
use super::reference::{normalise_reference, parse_reference};
use super::{
    Image, ImageConfig, ImageError, ImageService, ImageStorage, RegistryAuth, RegistryMirror,
    StoredImage, io_error, removal,
};

/// Where an [`ImageStore`] is and whom it may ask.
#[derive(Clone, Debug, Default)]
pub struct ImageStoreConfig {
    /// The folder of the store; made when it does not exist.
    pub root: PathBuf,
    /// Registries, as `host:port`, that are asked over plain HTTP. Loopback registries always are.
    pub insecure_registries: Vec<String>,
    /// Asked in this order, as nobody, before the registry that an image names.
    pub mirrors: Vec<RegistryMirror>,
}

/// Images on this machine. Several processes may use one store at a time.
#[derive(Clone)]
pub struct ImageStore {
    config: Arc<ImageStoreConfig>,
    pulls: Pulls,
    layers: LayerLocks,
}

type SharedPull = Shared<BoxFuture<'static, Result<Image, Arc<ImageError>>>>;
/// Downloads that are under way, so that all who want the same image share one.
type Pulls = Arc<Mutex<HashMap<(String, Vec<RegistryAuth>), SharedPull>>>;
/// Held while a layer is fetched: images share layers, and one file cannot be downloaded to twice.
type LayerLocks = Arc<Mutex<HashMap<String, Weak<Mutex<()>>>>>;

/// What the store remembers of an image; `images/<id>.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    pub(super) id: String,
    pub(super) repo_digests: Vec<String>,
    pub(super) tags: Vec<String>,
    /// Digests of the unpacked layers, the lowest first.
    pub(super) diff_ids: Vec<String>,
    pub(super) size_bytes: u64,
    /// The image's configuration, as it came.
    pub(super) config: serde_json::Value,
    /// Seconds since the epoch; 0 in a record of an earlier version.
    #[serde(default)]
    pub(super) added_at: u64,
    /// Who may have it.
    #[serde(default)]
    pub(super) access: Access,
}

/// What a name stands for; `refs/<sha256 of the name>.json`.
#[derive(Serialize, Deserialize)]
pub(super) struct ReferenceRecord {
    pub(super) reference: String,
    pub(super) id: String,
}

impl ImageStore {
    /// Opens a store, making its folders.
    ///
    /// # Errors
    /// When the folders cannot be made.
    pub fn open(config: ImageStoreConfig) -> Result<Self, ImageError> {
        for folder in ["images", "refs", "layers", "ingest", "claims"] {
            let path = config.root.join(folder);
            fs::create_dir_all(&path).map_err(io_error("create", &path))?;
        }
        Ok(Self {
            config: Arc::new(config),
            pulls: Pulls::default(),
            layers: LayerLocks::default(),
        })
    }

    /// Reads an image archive (`docker save`, an OCI layout in a tar, either also gzipped) into
    /// the store and returns what it held. Blocks: call it where that is allowed.
    ///
    /// # Errors
    /// When the file cannot be read, is no image archive, or is damaged; the store then is as before.
    pub fn import(&self, archive: &Path) -> Result<Vec<Image>, ImageError> {
        super::import::import(self, archive)
    }

    /// Every image in the store, ordered by id.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let mut images = self
            .records()?
            .into_iter()
            .map(|(_, record)| self.image(record))
            .collect::<Result<Vec<_>, _>>()?;
        images.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(images)
    }

    /// When an image last came or went; nothing when that cannot be told.
    pub fn changed_at(&self) -> Option<SystemTime> {
        fs::metadata(self.folder("images")).ok()?.modified().ok()
    }

    /// The records of all images, and their files.
    pub(super) fn records(&self) -> Result<Vec<(PathBuf, ImageRecord)>, ImageError> {
        self.read_all("images")
    }

    /// All names, and their files.
    pub(super) fn references(&self) -> Result<Vec<(PathBuf, ReferenceRecord)>, ImageError> {
        self.read_all("refs")
    }

    fn read_all<T: serde::de::DeserializeOwned>(
        &self,
        folder: &str,
    ) -> Result<Vec<(PathBuf, T)>, ImageError> {
        let folder = self.folder(folder);
        let mut all = Vec::new();
        for entry in fs::read_dir(&folder).map_err(io_error("read", &folder))? {
            let path = entry.map_err(io_error("read", &folder))?.path();
            if path.extension().is_some_and(|extension| extension == "json")
                && let Some(content) = read_json(&path)?
            {
                all.push((path, content));
            }
        }
        Ok(all)
    }

    /// One of the store's folders.
    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.config.root.join(name)
    }

    pub(super) fn mirrors(&self) -> &[RegistryMirror] {
        &self.config.mirrors
    }

    /// Waits until no other process, and nobody else in this one, changes what the store holds. Held
    /// for the moments in which names, records and layers are put in or taken out together.
    pub(super) fn lock(&self) -> Result<fs::File, ImageError> {
        let path = self.config.root.join("lock");
        let file = fs::File::create(&path).map_err(io_error("create", &path))?;
        file.lock().map_err(io_error("lock", &path))?;
        Ok(file)
    }

    pub(super) fn find(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let Some(record) = self.record(&normalise_reference(reference)?)? else {
            return Ok(None);
        };
        // A layer that somebody removed by hand makes the image one that has to be fetched again.
        let whole = record.diff_ids.iter().all(|id| self.layer_path(id).is_dir());
        if whole { self.image(record).map(Some) } else { Ok(None) }
    }

    /// The record of what a whole reference stands for.
    fn record(&self, reference: &str) -> Result<Option<ImageRecord>, ImageError> {
        match read_json::<ReferenceRecord>(&self.reference_path(reference))? {
            Some(named) => read_json(&self.record_path(&named.id)),
            None => Ok(None),
        }
    }

    /// Writes the record of an image whose layers are all there, then the names for it.
    pub(super) fn commit(
        &self,
        mut record: ImageRecord,
        references: &[String],
    ) -> Result<Image, ImageError> {
        let _alone = self.lock()?;
        let path = self.record_path(&record.id);
        if let Some(known) = read_json::<ImageRecord>(&path)? {
            record.repo_digests.extend(known.repo_digests);
            record.tags.extend(known.tags);
            record.added_at = known.added_at;
            record.access.follow(known.access);
        }
        for names in [&mut record.repo_digests, &mut record.tags] {
            names.sort();
            names.dedup();
        }
        self.write_json(&path, &record)?;
        for reference in references {
            let named = ReferenceRecord { reference: reference.clone(), id: record.id.clone() };
            self.write_json(&self.reference_path(reference), &named)?;
        }
        self.image(record)
    }

    pub(super) fn layer_path(&self, diff_id: &str) -> PathBuf {
        self.config.root.join("layers").join(file_name(diff_id))
    }

    /// Where things are made before they get their name.
    pub(super) fn ingest_path(&self, name: &str) -> PathBuf {
        self.config.root.join("ingest").join(name)
    }

    /// Waits until nobody else in this process fetches the blob.
    pub(super) async fn lock_blob(&self, digest: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.layers.lock().await;
            locks.retain(|_, lock| lock.strong_count() > 0);
            match locks.get(digest).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(Mutex::new(()));
                    locks.insert(digest.to_owned(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }

    /// Whether a registry is asked over plain HTTP.
    pub(super) fn is_insecure(&self, registry: &str) -> bool {
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            || self.config.insecure_registries.iter().any(|insecure| insecure == registry)
    }

    pub(super) fn record_path(&self, id: &str) -> PathBuf {
        self.config.root.join("images").join(format!("{}.json", file_name(id)))
    }

    fn reference_path(&self, reference: &str) -> PathBuf {
        let name = hex(&Sha256::digest(reference.as_bytes()));
        self.config.root.join("refs").join(format!("{name}.json"))
    }

    pub(super) fn image(&self, record: ImageRecord) -> Result<Image, ImageError> {
        let config: ImageConfiguration =
            serde_json::from_value(record.config).map_err(|error| ImageError::Io {
                operation: "decode",
                path: self.record_path(&record.id),
                source: error.into(),
            })?;
        Ok(Image {
            layers: record.diff_ids.iter().map(|id| self.layer_path(id)).collect(),
            id: record.id,
            repo_digests: record.repo_digests,
            tags: record.tags,
            size_bytes: record.size_bytes,
            config: image_config(&config),
        })
    }

    fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<(), ImageError> {
        let temporary = self.ingest_path(&format!("json-{}", uuid::Uuid::new_v4()));
        let bytes = serde_json::to_vec(value).map_err(|e| io_error("encode", path)(e.into()))?;
        let mut file = fs::File::create(&temporary).map_err(io_error("create", &temporary))?;
        file.write_all(&bytes)
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&temporary, path))
            .map_err(io_error("write", path))
    }
}

#[async_trait::async_trait]
impl ImageService for ImageStore {
    async fn lookup(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        // Two small files that the page cache holds: quicker than a trip to the blocking pool.
        let found = self.find(reference)?;
        if let Some(image) = &found {
            removal::touch(self, &image.id)?;
        }
        Ok(found)
    }

    async fn is_open_to(&self, reference: &str, auth: &[RegistryAuth]) -> Result<bool, ImageError> {
        let reference = parse_reference(reference)?;
        let record = self.record(&reference.whole())?;
        Ok(record.is_some_and(|record| record.access.is_open_to(&reference, auth)))
    }

    async fn pull(&self, reference: &str, auth: &[RegistryAuth]) -> Result<Image, ImageError> {
        let parsed = parse_reference(reference)?;
        let key = (parsed.whole(), auth.to_vec());
        let pull = {
            let mut pulls = self.pulls.lock().await;
            // A download that nobody waits for any more is given up with its last waiter.
            pulls.retain(|_, pull| pull.strong_count().is_some_and(|count| count > 1));
            pulls
                .entry(key.clone())
                .or_insert_with(|| {
                    let (store, auth) = (self.clone(), auth.to_vec());
                    async move { super::pull::pull(&store, parsed, &auth).await.map_err(Arc::new) }
                        .boxed()
                        .shared()
                })
                .clone()
        };
        let result = pull.clone().await;
        // The next request asks the registry anew.
        let mut pulls = self.pulls.lock().await;
        if pulls.get(&key).is_some_and(|current| current.ptr_eq(&pull)) {
            pulls.remove(&key);
        }
        drop((pulls, pull));
        result.map_err(|error| match Arc::try_unwrap(error) {
            Ok(error) => error,
            Err(shared) => ImageError::Pull {
                reference: key.0,
                reason: match &*shared {
                    ImageError::Pull { reason, .. } => reason.clone(),
                    other => error_chain(other),
                },
            },
        })
    }
}

#[async_trait::async_trait]
impl ImageStorage for ImageStore {
    async fn inventory(&self) -> Result<Vec<StoredImage>, ImageError> {
        self.blocking(removal::inventory).await
    }

    async fn mark_used(&self, ids: &[String]) -> Result<(), ImageError> {
        let ids = ids.to_vec();
        self.blocking(move |store| ids.iter().try_for_each(|id| removal::touch(store, id))).await
    }

    async fn remove(&self, id: &str) -> Result<u64, ImageError> {
        let id = id.to_owned();
        self.blocking(move |store| removal::remove(store, &id)).await
    }

    async fn sweep(&self) -> Result<u64, ImageError> {
        self.blocking(removal::sweep).await
    }
}

impl ImageStore {
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let store = self.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(result) => result,
            Err(error) => Err(io_error("use", &self.config.root)(std::io::Error::other(error))),
        }
    }
}

/// An error with what led to it.
pub(super) fn error_chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", error_chain(source)),
        None => error.to_string(),
    }
}

fn image_config(configuration: &ImageConfiguration) -> ImageConfig {
    let Some(config) = configuration.config() else { return ImageConfig::default() };
    ImageConfig {
        user: config.user().clone().unwrap_or_default(),
        env: config
            .env()
            .iter()
            .flatten()
            .filter_map(|entry| entry.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        cmd: config.cmd().clone().unwrap_or_default(),
        working_dir: config.working_dir().clone().unwrap_or_default(),
        stop_signal: config.stop_signal().clone(),
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, ImageError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| io_error("decode", path)(error.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

/// `sha256:abc…` as a file name; digests are checked to be such before they get here.
fn file_name(digest: &str) -> String {
    digest.replacen(':', "-", 1)
}

/// Seconds since the epoch.
pub(super) fn seconds_now() -> u64 {
    let now = SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

/// Whether the text is a SHA-256 digest in the form `sha256:` and 64 lower-case hexadecimal digits.
pub(super) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|digits| {
        digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}
