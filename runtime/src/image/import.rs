//! Reading image archives: `docker save` archives and OCI layouts, each as a tar file.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::access::Access;
use super::bounds::Bounds;
use super::claims::Claim;
use super::headers::{Allowance, Bounded, finish_reading};
use super::platform::{self, Machine};
use super::pull::diff_ids;
use super::reference::parse_reference;
use super::store::{ImageRecord, ImageStore, hex, is_digest, seconds_now};
use super::{Image, ImageError, io_error, unpack};

/// Indexes, manifests and configurations are read whole; real ones have some KiB.
const MAX_JSON: u64 = 4 << 20;
/// How deep an index may name indexes.
const MAX_DEPTH: u32 = 4;
/// Where containerd and Docker write the full name of an image in an OCI layout.
const NAME_ANNOTATIONS: [&str; 2] =
    ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// An image found in an archive.
struct Found {
    config: Vec<u8>,
    config_digest: String,
    layers: Vec<PathBuf>,
    names: Vec<String>,
}

/// See [`ImageStore::import`].
pub(super) fn import(store: &ImageStore, archive: &Path) -> Result<Vec<Image>, ImageError> {
    let claim = Claim::new(store, &[])?;
    let folder = store.ingest_path(&format!("import-{}", uuid::Uuid::new_v4()));
    fs::create_dir(&folder).map_err(io_error("create", &folder))?;
    let importer = Importer { archive, folder: &folder, claim, links: HashMap::new() };
    let result = importer.run(store);
    fs::remove_dir_all(&folder).map_err(io_error("remove", &folder))?;
    result
}

struct Importer<'a> {
    archive: &'a Path,
    folder: &'a Path,
    claim: Claim,
    /// Symbolic links of the archive: old Docker writes a layer once and links the others to it.
    links: HashMap<PathBuf, PathBuf>,
}

impl Importer<'_> {
    fn run(mut self, store: &ImageStore) -> Result<Vec<Image>, ImageError> {
        self.extract()?;
        let found = if self.file("manifest.json").is_some() {
            self.docker_images()?
        } else if self.file("index.json").is_some() {
            self.oci_images()?
        } else {
            let reason = "it has neither manifest.json (docker save) nor index.json (OCI layout)";
            return Err(self.error(reason));
        };
        if found.is_empty() {
            return Err(self.error("it holds no image for this machine's platform"));
        }
        found.into_iter().map(|image| self.store(store, image)).collect()
    }

    /// Writes the archive's regular files below the folder.
    fn extract(&mut self) -> Result<(), ImageError> {
        let file = File::open(self.archive).map_err(io_error("open", self.archive))?;
        let mut file = BufReader::new(file);
        let gzipped = io::BufRead::fill_buf(&mut file)
            .map_err(io_error("read", self.archive))?
            .starts_with(&[0x1f, 0x8b]);
        let reader: Box<dyn Read> = if gzipped {
            Box::new(flate2::bufread::MultiGzDecoder::new(file))
        } else {
            Box::new(file)
        };
        let allowance = Allowance::default();
        let mut archive = tar::Archive::new(Bounded { inner: reader, allowance: &allowance });
        let broken = |error: io::Error| self.error(format!("it is no tar archive: {error}"));
        let mut links = HashMap::new();
        let mut entries = archive.entries().map_err(broken)?;
        while let Some(entry) = allowance.during_headers(|| entries.next()) {
            let mut entry = entry.map_err(broken)?;
            let Some(path) = inside(&entry.path().map_err(broken)?) else {
                return Err(self.error("a path in it leads out of it"));
            };
            let kind = entry.header().entry_type();
            if kind.is_symlink() || kind.is_hard_link() {
                let target = entry.link_name().map_err(broken)?.unwrap_or_default();
                let base = match path.parent() {
                    Some(parent) if kind.is_symlink() => parent.to_owned(),
                    _ => PathBuf::new(),
                };
                if let Some(target) = normalise(&base.join(target)) {
                    links.insert(path, target);
                }
            } else if kind.is_file() {
                let target = self.folder.join(&path);
                if let Some(parent) = target.parent() {
                    fs::create_dir_all(parent).map_err(io_error("create", parent))?;
                }
                let mut file = File::create(&target).map_err(io_error("create", &target))?;
                io::copy(&mut entry, &mut file).map_err(io_error("write", &target))?;
            }
            finish_reading(&mut entry).map_err(broken)?;
        }
        self.links = links;
        Ok(())
    }

    fn docker_images(&self) -> Result<Vec<Found>, ImageError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Entry {
            config: String,
            repo_tags: Option<Vec<String>>,
            layers: Vec<String>,
        }
        let entries: Vec<Entry> = self.json("manifest.json")?;
        entries
            .into_iter()
            .map(|entry| {
                let config = self.bytes(&entry.config)?;
                let layers =
                    entry.layers.iter().map(|layer| self.path(layer)).collect::<Result<_, _>>()?;
                Ok(Found {
                    config_digest: format!("sha256:{}", hex(&Sha256::digest(&config))),
                    config,
                    layers,
                    names: entry.repo_tags.unwrap_or_default(),
                })
            })
            .collect()
    }

    fn oci_images(&self) -> Result<Vec<Found>, ImageError> {
        let mut found = Vec::new();
        self.oci_index("index.json", &[], 0, &mut found)?;
        Ok(found)
    }

    fn oci_index(
        &self,
        path: &str,
        inherited: &[String],
        depth: u32,
        found: &mut Vec<Found>,
    ) -> Result<(), ImageError> {
        if depth == MAX_DEPTH {
            return Err(self.error("its indexes are nested too deeply"));
        }
        let index: ImageIndex = self.json(path)?;
        for descriptor in for_this_machine(index.manifests()) {
            let mut names = inherited.to_vec();
            names.extend(name_of(descriptor).map(str::to_owned));
            let blob = self.blob(descriptor.digest().as_ref())?;
            if descriptor.media_type().to_string().contains("index")
                || descriptor.media_type().to_string().contains("manifest.list")
            {
                self.oci_index(&blob, &names, depth + 1, found)?;
                continue;
            }
            let manifest: ImageManifest = self.json(&blob)?;
            let config_digest = manifest.config().digest().to_string();
            found.push(Found {
                config: self.bytes(&self.blob(&config_digest)?)?,
                config_digest,
                layers: manifest
                    .layers()
                    .iter()
                    .map(|layer| self.path(&self.blob(layer.digest().as_ref())?))
                    .collect::<Result<_, _>>()?,
                names,
            });
        }
        Ok(())
    }

    fn store(&self, store: &ImageStore, image: Found) -> Result<Image, ImageError> {
        let actual = format!("sha256:{}", hex(&Sha256::digest(&image.config)));
        if actual != image.config_digest {
            return Err(self.error(format!("configuration {} is damaged", image.config_digest)));
        }
        let config: Value = serde_json::from_slice(&image.config)
            .map_err(|error| self.error(format!("a configuration is not JSON: {error}")))?;
        let diff_ids = diff_ids(&config)
            .filter(|ids| ids.len() == image.layers.len())
            .ok_or_else(|| self.error("a configuration does not name its layers"))?;
        let references =
            image.names.iter().map(|name| parse_reference(name)).collect::<Result<Vec<_>, _>>()?;
        self.claim.add(store, &diff_ids)?;
        let (mut size_bytes, bounds) = (0, Bounds::default());
        for (layer, diff_id) in image.layers.iter().zip(&diff_ids) {
            size_bytes += fs::metadata(layer).map_err(io_error("read", layer))?.len();
            // The digest of the unpacked form covers the packed one: nothing wrong gets in.
            unpack::unpack_layer(store, layer, diff_id, &bounds)?;
        }
        let access = Access::for_all(&references);
        let references: Vec<String> = references.iter().map(|r| r.whole()).collect();
        let record = ImageRecord {
            id: image.config_digest,
            repo_digests: Vec::new(),
            tags: references.clone(),
            diff_ids,
            size_bytes,
            config,
            added_at: seconds_now(),
            access,
        };
        store.commit(record, &references)
    }

    /// Where the archive's file of this name is, links followed.
    fn file(&self, name: &str) -> Option<PathBuf> {
        let mut path = inside(Path::new(name))?;
        // A chain of links ends, whatever the archive says.
        for _ in 0..8 {
            let full = self.folder.join(&path);
            if full.is_file() {
                return Some(full);
            }
            path = self.links.get(&path)?.clone();
        }
        None
    }

    fn path(&self, name: &str) -> Result<PathBuf, ImageError> {
        self.file(name).ok_or_else(|| self.error(format!("it lacks \"{name}\"")))
    }

    fn blob(&self, digest: &str) -> Result<String, ImageError> {
        if !is_digest(digest) {
            return Err(self.error(format!("\"{digest}\" is no SHA-256 digest")));
        }
        Ok(format!("blobs/{}", digest.replacen(':', "/", 1)))
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let path = self.path(name)?;
        let file = File::open(&path).map_err(io_error("open", &path))?;
        let mut bytes = Vec::new();
        file.take(MAX_JSON + 1).read_to_end(&mut bytes).map_err(io_error("read", &path))?;
        if bytes.len() as u64 > MAX_JSON {
            return Err(self.error(format!("\"{name}\" is larger than {MAX_JSON} bytes")));
        }
        Ok(bytes)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, ImageError> {
        serde_json::from_slice(&self.bytes(name)?)
            .map_err(|error| self.error(format!("\"{name}\" cannot be understood: {error}")))
    }

    fn error(&self, reason: impl Into<String>) -> ImageError {
        ImageError::Import { archive: self.archive.to_owned(), reason: reason.into() }
    }
}

/// The name that an index gives an image.
fn name_of(descriptor: &Descriptor) -> Option<&str> {
    let annotations = descriptor.annotations().as_ref()?;
    let name = NAME_ANNOTATIONS.iter().find_map(|key| annotations.get(*key))?;
    // A bare tag is no name for an image.
    name.contains(['/', ':']).then_some(name)
}

/// Of each name's images for several platforms the best one, and all that are for none in particular.
fn for_this_machine(descriptors: &[Descriptor]) -> Vec<&Descriptor> {
    let machine = Machine::here();
    let mut by_name: Vec<(Option<&str>, Vec<&Descriptor>)> = Vec::new();
    let mut chosen = Vec::new();
    for descriptor in descriptors {
        let name = name_of(descriptor);
        if descriptor.platform().is_none() {
            chosen.push(descriptor);
        } else if let Some((_, list)) = by_name.iter_mut().find(|(known, _)| *known == name) {
            list.push(descriptor);
        } else {
            by_name.push((name, vec![descriptor]));
        }
    }
    chosen.extend(by_name.iter().filter_map(|(_, list)| {
        platform::choose(&machine, list, |descriptor| {
            let platform = descriptor.platform().as_ref()?;
            Some((platform.os(), platform.architecture(), platform.variant().as_deref()))
        })
        .copied()
    }));
    chosen
}

/// A path of the archive without anything that leads out of it.
fn inside(path: &Path) -> Option<PathBuf> {
    if path.components().any(|component| component == Component::ParentDir) {
        return None;
    }
    normalise(path)
}

/// Resolves `.` and `..` by their text; nothing when that leads out.
fn normalise(path: &Path) -> Option<PathBuf> {
    let mut parts = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::ParentDir => {
                if !parts.pop() {
                    return None;
                }
            }
            Component::CurDir | Component::RootDir => {}
            Component::Prefix(_) => return None,
        }
    }
    Some(parts)
}
