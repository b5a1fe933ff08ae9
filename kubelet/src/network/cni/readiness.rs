//! Whether there is a network to connect pods with: whether the folder has a configuration that can be used.
//! The kernel tells when something in it changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::config;
use crate::folder_watch::{News, Watch};

/// Between attempts when the folder cannot be watched.
const RETRY: Duration = Duration::from_secs(5);

/// Why plugins cannot connect pods; nothing when they can.
pub fn unready(conf_dir: &Path) -> Option<String> {
    config::load(conf_dir).err().map(|error| error.to_string())
}

/// Tells at first and whenever it changes why plugins cannot connect pods, until shutdown. Makes the folder
/// when there is none: whoever brings a configuration may come later.
pub async fn watch_configuration(
    conf_dir: PathBuf,
    tell: impl Fn(Option<String>),
    shutdown: CancellationToken,
) {
    let mut looking = Looking { conf_dir: conf_dir.clone(), tell, told: None };
    loop {
        // Watched first: what comes in between is seen.
        let watch = std::fs::create_dir_all(&conf_dir).and_then(|()| Watch::new(&conf_dir));
        looking.look().await;
        match watch {
            Ok(mut watch) => loop {
                let news = tokio::select! {
                    () = shutdown.cancelled() => return,
                    news = watch.news() => news,
                };
                looking.look().await;
                match news {
                    Ok(News::Files(_) | News::Lost) => {}
                    Ok(News::Gone) => break,
                    Err(error) => {
                        warn!(%error, folder = %conf_dir.display(), "lost sight of the folder");
                        break;
                    }
                }
            },
            Err(error) => {
                warn!(%error, folder = %conf_dir.display(), "cannot watch for network configurations");
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// What was found, and who is told.
struct Looking<F> {
    conf_dir: PathBuf,
    tell: F,
    /// What was told last, if anything.
    told: Option<Option<String>>,
}

impl<F: Fn(Option<String>)> Looking<F> {
    async fn look(&mut self) {
        let folder = self.conf_dir.clone();
        let found = tokio::task::spawn_blocking(move || unready(&folder)).await;
        // A look that panicked says nothing about the network.
        let Ok(found) = found else { return };
        if self.told.as_ref() == Some(&found) {
            return;
        }
        match &found {
            Some(reason) => warn!(reason, "there is no network for pods"),
            None => info!("plugins can connect pods"),
        }
        (self.tell)(found.clone());
        self.told = Some(found);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    #[tokio::test]
    async fn a_network_is_there_from_when_its_configuration_is_whole_until_that_goes() {
        let folder = tempfile::tempdir().unwrap();
        let conf_dir = folder.path().join("cni/net.d");
        let (told, mut heard) = unbounded_channel();
        let stop = CancellationToken::new();
        let tell = move |reason| told.send(reason).unwrap();
        let task = tokio::spawn(watch_configuration(conf_dir.clone(), tell, stop.clone()));
        let nothing = heard.recv().await.unwrap().unwrap();
        assert!(nothing.contains("there is no network configuration"), "{nothing}");

        // Half of it, then all.
        fs::write(conf_dir.join("10-a.conf"), "{\"cniVersion\":").unwrap();
        let half = heard.recv().await.unwrap().unwrap();
        assert!(half.contains("10-a.conf"), "{half}");
        let network = json!({"cniVersion": "1.0.0", "name": "a", "type": "ptp"});
        fs::write(folder.path().join("new"), network.to_string()).unwrap();
        fs::rename(folder.path().join("new"), conf_dir.join("10-a.conf")).unwrap();
        assert_eq!(heard.recv().await.unwrap(), None);

        // What counts less than it changes nothing; without it, it counts.
        fs::write(conf_dir.join("20-b.conf"), "{").unwrap();
        fs::remove_file(conf_dir.join("10-a.conf")).unwrap();
        let other = heard.recv().await.unwrap().unwrap();
        assert!(other.contains("20-b.conf"), "{other}");
        fs::remove_dir_all(&conf_dir).unwrap();
        while let Some(reason) = heard.recv().await.unwrap() {
            if reason.contains("No such file") || reason.contains("there is no network") {
                break;
            }
        }
        stop.cancel();
        task.await.unwrap();
    }
}
