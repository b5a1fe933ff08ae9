//! The administrator's kubeconfig: everything in one file, to be copied to where it is used.

use std::path::Path;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use super::authority::{self, Authority, Pair, Subject};
use super::files::{self, Readers};
use super::{Error, Result};
use crate::api::authn::ADMINISTRATORS;

/// Its name in a data directory.
pub const FILE_NAME: &str = "admin.kubeconfig";
const USER: &str = "kubernetes-admin";
const CLUSTER: &str = "kutter";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
    contexts: Vec<NamedContext>,
    current_context: String,
}

#[derive(Serialize, Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: String,
}

#[derive(Serialize, Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: String,
    client_key_data: String,
}

#[derive(Serialize, Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Serialize, Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

/// What a client needs to call a master as an administrator.
pub struct Credentials {
    /// `https://10.0.0.1:6443`
    pub server: String,
    /// The cluster's authority, PEM.
    pub authority: String,
    /// The client's pair.
    pub client: Pair,
}

/// Makes sure that the folder has a good one for `server`.
///
/// # Errors
/// When it cannot be read, made or written.
pub fn keep(folder: &Path, server: &str, authority: &Authority) -> Result<()> {
    let path = folder.join(FILE_NAME);
    if let Ok(kept) = load(&path)
        && kept.server == server
        && kept.authority == authority.certificate()
        && CertificateDer::from_pem_slice(kept.client.certificate.as_bytes()).is_ok_and(|der| {
            authority.has_signed(&der)
                && authority::facts(&der).is_some_and(|facts| !facts.is_due(SystemTime::now()))
        })
    {
        return Ok(());
    }
    let subject = Subject { common_name: USER, organization: Some(ADMINISTRATORS) };
    let client = authority.issue_client(&subject)?;
    let text = render(&Credentials {
        server: server.to_owned(),
        authority: authority.certificate().to_owned(),
        client,
    });
    let text =
        text.map_err(|error| Error::Unusable { path: path.clone(), reason: error.to_string() })?;
    files::write(&path, &text, Readers::Owner)
}

fn render(credentials: &Credentials) -> Result<String, serde_yaml::Error> {
    let encode = |text: &str| BASE64.encode(text);
    serde_yaml::to_string(&Kubeconfig {
        api_version: "v1".to_owned(),
        kind: "Config".to_owned(),
        clusters: vec![NamedCluster {
            name: CLUSTER.to_owned(),
            cluster: Cluster {
                server: credentials.server.clone(),
                certificate_authority_data: encode(&credentials.authority),
            },
        }],
        users: vec![NamedUser {
            name: USER.to_owned(),
            user: User {
                client_certificate_data: encode(&credentials.client.certificate),
                client_key_data: encode(&credentials.client.key),
            },
        }],
        contexts: vec![NamedContext {
            name: CLUSTER.to_owned(),
            context: Context { cluster: CLUSTER.to_owned(), user: USER.to_owned() },
        }],
        current_context: CLUSTER.to_owned(),
    })
}

/// Reads a file that [`keep`] has written.
///
/// # Errors
/// When it is missing or is not such a file.
pub fn load(path: &Path) -> Result<Credentials> {
    let unusable = |reason: String| Error::Unusable { path: path.to_owned(), reason };
    let text = files::read(path)?.ok_or_else(|| unusable("there is no such file".to_owned()))?;
    let config: Kubeconfig =
        serde_yaml::from_str(&text).map_err(|error| unusable(error.to_string()))?;
    let (Some(cluster), Some(user)) = (config.clusters.first(), config.users.first()) else {
        return Err(unusable("it names no cluster or no user".to_owned()));
    };
    let decode = |text: &str| {
        let bytes = BASE64.decode(text).map_err(|error| unusable(error.to_string()))?;
        String::from_utf8(bytes).map_err(|error| unusable(error.to_string()))
    };
    Ok(Credentials {
        server: cluster.cluster.server.clone(),
        authority: decode(&cluster.cluster.certificate_authority_data)?,
        client: Pair {
            certificate: decode(&user.user.client_certificate_data)?,
            key: decode(&user.user.client_key_data)?,
        },
    })
}
