//! Whether this machine is a node already, of which cluster, and what to do when it is not.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use proto::names;

use crate::config::{Config, MasterUrl};
use crate::credentials::{Credentials, CredentialsError, CredentialsFolder};
use crate::files;
use crate::join::{self, JoinError, Token};

/// The masters of the cluster, one URL a line.
const MASTERS_FILE: &str = "masters";

/// Why this machine is no node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrollmentError {
    /// Nothing is known of a cluster.
    #[error(
        "this machine has not joined a cluster; run `master token create` on the master, then \
         `kubelet --join https://MASTER:6443 --token TOKEN` here"
    )]
    NotJoined,
    /// No master is known.
    #[error("no master is known; say --join https://MASTER:6443")]
    NoMaster,
    /// The certificate was not renewed in time.
    #[error(
        "the certificate of node {node} has expired; run `master token create` on the master, then \
         start the kubelet here once with --token TOKEN"
    )]
    Expired {
        /// Whose certificate.
        node: String,
    },
    /// The token is for another cluster.
    #[error("this machine belongs to another cluster; remove {path} to join a new one")]
    OtherCluster {
        /// The certificates' folder.
        path: PathBuf,
    },
    /// The machine has another name already.
    #[error("this machine has joined as {joined}, not as {asked}; remove {path} to join again")]
    OtherName {
        /// In the certificate.
        joined: String,
        /// On the command line.
        asked: String,
        /// The certificates' folder.
        path: PathBuf,
    },
    /// The name cannot be a node's.
    #[error("\"{name}\" cannot be the name of a node: {reason}; choose one with --node-name")]
    InvalidName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The host has no name.
    #[error("failed to read the host's name; choose one with --node-name")]
    Hostname(#[source] io::Error),
    /// A file of the state folder cannot be read or written.
    #[error("failed to {operation} {path}")]
    File {
        /// The verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file of masters is damaged.
    #[error("{path} is damaged: {reason}; name the masters with --join")]
    Masters {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Certificates cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The cluster does not take this machine.
    #[error(transparent)]
    Join(#[from] JoinError),
}

/// A machine that is a node.
#[derive(Debug)]
pub struct Enrolled {
    /// The masters of its cluster.
    pub masters: Vec<MasterUrl>,
    /// Who it is.
    pub credentials: Arc<Credentials>,
    /// Where that is kept.
    pub folder: CredentialsFolder,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// It has joined.
    Use,
    /// It joins, under this name.
    Join(String),
}

/// Joins when that is still to be done.
pub async fn enroll(config: &Config) -> Result<Enrolled, EnrollmentError> {
    let token = config.token.as_deref().map(str::parse::<Token>).transpose()?;
    let folder = CredentialsFolder::of(&config.traces.root_dir);
    let kept = folder.load()?;
    let decision = decide(config, kept.as_deref(), token.as_ref(), &folder)?;
    let masters = masters(config)?;
    let credentials = match (decision, token, kept) {
        (Decision::Use, _, Some(kept)) => kept,
        (Decision::Join(name), Some(token), _) => {
            let credentials = join::join(&masters, &token, &name).await?;
            folder.store(&credentials)?;
            Arc::new(credentials)
        }
        _ => return Err(EnrollmentError::NotJoined),
    };
    Ok(Enrolled { masters, credentials, folder })
}

fn decide(
    config: &Config,
    kept: Option<&Credentials>,
    token: Option<&Token>,
    folder: &CredentialsFolder,
) -> Result<Decision, EnrollmentError> {
    let Some(kept) = kept else {
        if token.is_none() {
            return Err(EnrollmentError::NotJoined);
        }
        let name = match &config.node_name {
            Some(name) => name.clone(),
            None => host_name()?.to_lowercase(),
        };
        let errors = names::dns_subdomain(&name);
        if !errors.is_empty() {
            return Err(EnrollmentError::InvalidName { name, reason: errors.join("; ") });
        }
        return Ok(Decision::Join(name));
    };
    let path = || folder.path().to_owned();
    if let Some(asked) = &config.node_name
        && asked != kept.node_name()
    {
        let (joined, asked) = (kept.node_name().to_owned(), asked.clone());
        return Err(EnrollmentError::OtherName { joined, asked, path: path() });
    }
    if token.is_some_and(|token| token.authority_digest() != kept.authority_digest()) {
        return Err(EnrollmentError::OtherCluster { path: path() });
    }
    match (kept.is_expired(SystemTime::now()), token) {
        (false, _) => Ok(Decision::Use),
        (true, Some(_)) => Ok(Decision::Join(kept.node_name().to_owned())),
        (true, None) => Err(EnrollmentError::Expired { node: kept.node_name().to_owned() }),
    }
}

/// Those on the command line, which are kept for the next time; else those of the last time.
fn masters(config: &Config) -> Result<Vec<MasterUrl>, EnrollmentError> {
    let path = config.traces.root_dir.join(MASTERS_FILE);
    let file_error = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| EnrollmentError::File { operation, path, source }
    };
    if !config.join.is_empty() {
        let text: String = config.join.iter().map(|master| format!("{master}\n")).collect();
        files::make_private_folder(&config.traces.root_dir)
            .map_err(file_error("make", &config.traces.root_dir))?;
        files::replace(&path, text.as_bytes()).map_err(file_error("write", &path))?;
        return Ok(config.join.clone());
    }
    let text = files::read_if_present(&path).map_err(file_error("read", &path))?;
    let text = String::from_utf8_lossy(text.as_deref().unwrap_or_default()).into_owned();
    let masters: Vec<MasterUrl> = text.lines().map(str::parse).collect::<Result<_, _>>().map_err(
        |error: crate::config::InvalidMasterUrl| EnrollmentError::Masters {
            path,
            reason: error.to_string(),
        },
    )?;
    if masters.is_empty() { Err(EnrollmentError::NoMaster) } else { Ok(masters) }
}

fn host_name() -> Result<String, EnrollmentError> {
    let name =
        nix::unistd::gethostname().map_err(|error| EnrollmentError::Hostname(error.into()))?;
    name.into_string().map_err(|_| EnrollmentError::Hostname(io::Error::other("it is no text")))
}

#[cfg(test)]
mod tests;
