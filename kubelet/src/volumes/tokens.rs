//! Which tokens the volumes of a pod show, and show already.

use std::fs;

use proto::k8s::api::core::v1::Pod;

use super::PodDir;

/// A token in a file of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TokenFile {
    pub(crate) volume: String,
    /// Within the volume.
    pub(crate) path: String,
}

/// A token that a volume is to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WantedToken {
    pub(crate) file: TokenFile,
    pub(crate) audience: String,
    pub(crate) expiration_seconds: i64,
}

/// All that the pod's volumes are to show.
pub(crate) fn wanted(pod: &Pod) -> Vec<WantedToken> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let projected = volumes.filter_map(|volume| Some((&volume.name, volume.projected.as_ref()?)));
    let sources = projected.flat_map(|(name, projected)| {
        projected.sources.iter().flatten().map(move |source| (name, source))
    });
    sources
        .filter_map(|(volume, source)| {
            let token = source.service_account_token.as_ref()?;
            Some(WantedToken {
                file: TokenFile { volume: volume.clone(), path: token.path.clone() },
                audience: token.audience.clone().unwrap_or_default(),
                // Filled in by the master.
                expiration_seconds: token.expiration_seconds.unwrap_or(60 * 60),
            })
        })
        .collect()
}

/// What the file holds now. That is where tokens are kept, in memory: a kubelet that starts again finds
/// them there.
pub(crate) fn present(dir: &PodDir, file: &TokenFile) -> Option<String> {
    fs::read_to_string(dir.volume(&file.volume).join(&file.path)).ok()
}
