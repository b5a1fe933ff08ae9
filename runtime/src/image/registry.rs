//! What is asked of a registry, by the [distribution protocol](https://github.com/opencontainers/distribution-spec):
//! manifests and blobs, with whatever proof the registry wants.
//!
//! A registry is a stranger: it may answer without end, or with what nobody asked for. What is kept in memory is
//! bounded here, and what has a digest is compared with it; blobs are handed on as they come.
//!
//! Who one is is shown when the registry asks for it, at whatever address it does: some let everybody see that they
//! are registries, and few their images.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci_client::Reference;
use oci_client::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE,
};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::RwLock;

use super::RegistryAuth;
use super::store::{error_chain, hex};

/// Manifests and configurations are some KiB; larger ones than this registries need not take, either.
const MAX_DOCUMENT_BYTES: usize = 4 << 20;
/// What is read of an answer that is a refusal, or of a token.
const MAX_ANSWER_BYTES: usize = 256 << 10;
/// What is told of a refusal: it ends up in events and statuses.
const MAX_REASON_CHARS: usize = 256;
/// A registry that says nothing for so long is given up; the next attempt resumes.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a registry did not give what it was asked for, in words for the user.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Not to who one is, as it seems: others may have more luck.
    Refused(String),
    Other(String),
}

/// A repository of a registry, as one of its users sees it.
pub(super) struct Registry {
    http: reqwest::Client,
    /// `https://host/v2/repository/`
    base: String,
    host: String,
    repository: String,
    auth: RegistryAuth,
    /// What was shown last, after the registry had asked for it.
    proof: RwLock<Option<HeaderValue>>,
}

impl Registry {
    /// The one that a reference names, or its mirror.
    pub(super) fn of(
        reference: &Reference,
        plain_http: bool,
        auth: &RegistryAuth,
    ) -> Result<Self, Failure> {
        // The client builds on rustls without a provider of its own. An error says that the process
        // has chosen one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .user_agent(concat!("kutter/", env!("CARGO_PKG_VERSION")))
            .read_timeout(READ_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|error| Failure::Other(error_chain(&error)))?;
        let host = reference.resolve_registry().to_owned();
        let repository = reference.repository().to_owned();
        let scheme = if plain_http { "http" } else { "https" };
        Ok(Self {
            http,
            base: format!("{scheme}://{host}/v2/{repository}/"),
            host,
            repository,
            auth: auth.clone(),
            proof: RwLock::new(None),
        })
    }

    /// The manifest of a tag or digest, and its digest. One that was asked for by digest is that.
    pub(super) async fn manifest(&self, name: &str) -> Result<(Vec<u8>, String), Failure> {
        let kinds = [
            OCI_IMAGE_MEDIA_TYPE,
            OCI_IMAGE_INDEX_MEDIA_TYPE,
            IMAGE_MANIFEST_MEDIA_TYPE,
            IMAGE_MANIFEST_LIST_MEDIA_TYPE,
        ];
        let kinds = HeaderValue::from_str(&kinds.join(", "));
        let kinds = kinds.map_err(|error| Failure::Other(error.to_string()))?;
        let headers = HeaderMap::from_iter([(ACCEPT, kinds)]);
        let response = self.get(&format!("manifests/{name}"), headers).await?;
        let body = self.whole(response, MAX_DOCUMENT_BYTES, "manifest").await?;
        let digest = digest_of(&body);
        if name.contains(':') && name != digest {
            let host = &self.host;
            return Err(Failure::Other(format!("{host} gave {digest} in the place of {name}")));
        }
        Ok((body, digest))
    }

    /// A blob that is kept in memory, which has this digest.
    pub(super) async fn document(&self, digest: &str) -> Result<Vec<u8>, Failure> {
        let response = self.blob(digest, 0).await?;
        let body = self.whole(response, MAX_DOCUMENT_BYTES, "configuration").await?;
        match digest_of(&body) {
            actual if actual == digest => Ok(body),
            actual => {
                let host = &self.host;
                Err(Failure::Other(format!("{host} gave {actual} in the place of {digest}")))
            }
        }
    }

    /// A blob, from a byte on if the registry can: the answer's status tells whether it did.
    pub(super) async fn blob(&self, digest: &str, from: u64) -> Result<Response, Failure> {
        let mut headers = HeaderMap::new();
        if from > 0 {
            let range = HeaderValue::from_str(&format!("bytes={from}-"));
            headers.insert(RANGE, range.map_err(|error| Failure::Other(error.to_string()))?);
        }
        self.get(&format!("blobs/{digest}"), headers).await
    }

    /// Asks, and once more with a proof when one is wanted.
    async fn get(&self, path: &str, headers: HeaderMap) -> Result<Response, Failure> {
        let url = format!("{}{path}", self.base);
        let shown = self.proof.read().await.clone();
        let mut response = self.send(&url, &headers, shown.as_ref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let proof = self.prove(response.headers()).await?;
            *self.proof.write().await = Some(proof.clone());
            response = self.send(&url, &headers, Some(&proof)).await?;
        }
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            _ => Err(self.refusal(response).await),
        }
    }

    async fn send(
        &self,
        url: &str,
        headers: &HeaderMap,
        proof: Option<&HeaderValue>,
    ) -> Result<Response, Failure> {
        let mut request = self.http.get(url).headers(headers.clone());
        if let Some(proof) = proof {
            request = request.header(AUTHORIZATION, proof);
        }
        request.send().await.map_err(|error| self.unreachable(&error))
    }

    /// What the registry wants to see, if we have it.
    async fn prove(&self, headers: &HeaderMap) -> Result<HeaderValue, Failure> {
        let wanted: Vec<Challenge> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenges)
            .collect();
        let bearer = wanted.iter().find_map(|challenge| match challenge {
            Challenge::Bearer { realm, service, scope } => Some((realm, service, scope)),
            Challenge::Basic => None,
        });
        if let Some((realm, service, scope)) = bearer {
            return self.token(realm, service.as_deref(), scope.as_deref()).await;
        }
        match &self.auth {
            RegistryAuth::Basic { username, password } if wanted.contains(&Challenge::Basic) => {
                let pair = STANDARD.encode(format!("{username}:{password}"));
                secret(&format!("Basic {pair}"))
            }
            _ => Err(self.refused()),
        }
    }

    /// Gets a token from whom the registry trusts.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<HeaderValue, Failure> {
        let host = &self.host;
        let mut url = Url::parse(realm).map_err(|error| {
            Failure::Other(format!("{host} sends for tokens to \"{realm}\": {error}"))
        })?;
        let pull = format!("repository:{}:pull", self.repository);
        url.query_pairs_mut()
            .extend_pairs(service.map(|service| ("service", service)))
            .append_pair("scope", scope.unwrap_or(&pull));
        let mut request = self.http.get(url.clone());
        if let RegistryAuth::Basic { username, password } = &self.auth {
            if self.base.starts_with("https://") && url.scheme() != "https" {
                return Err(Failure::Other(format!(
                    "{host} wants its password shown to \"{realm}\", where everybody could read it"
                )));
            }
            request = request.basic_auth(username, Some(password));
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.refused()),
            _ => return Err(self.refusal(response).await),
        }
        let body = self.whole(response, MAX_ANSWER_BYTES, "token").await?;
        let token: Token = serde_json::from_slice(&body)
            .map_err(|error| Failure::Other(format!("{host}: a token is broken: {error}")))?;
        match token.token.or(token.access_token) {
            Some(token) => secret(&format!("Bearer {token}")),
            None => Err(Failure::Other(format!("{host}: a token is empty"))),
        }
    }

    /// All of an answer, which is not long.
    async fn whole(
        &self,
        mut response: Response,
        most: usize,
        what: &str,
    ) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= most => body.extend(chunk),
                Ok(Some(_)) => {
                    let host = &self.host;
                    return Err(Failure::Other(format!(
                        "{host} gave a {what} of more than {most} bytes"
                    )));
                }
                Ok(None) => return Ok(body),
                Err(error) => return Err(self.unreachable(&error)),
            }
        }
    }

    /// What an answer means that is none.
    async fn refusal(&self, mut response: Response) -> Failure {
        let (host, status) = (&self.host, response.status());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return self.refused(),
            // Many say so of what is not for who asks.
            StatusCode::NOT_FOUND => return Failure::Refused(format!("{host} does not have it")),
            _ => {}
        }
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await
            && body.len() < MAX_ANSWER_BYTES
        {
            body.extend(chunk);
        }
        let errors = serde_json::from_slice::<Errors>(&body).map(|found| found.errors);
        let errors = errors.unwrap_or_default();
        if errors.iter().any(|error| ["UNAUTHORIZED", "DENIED"].contains(&error.code.as_str())) {
            return self.refused();
        }
        let said: Vec<&str> = errors.iter().map(|error| error.message.as_str()).collect();
        let said: String = said.join(", ").chars().take(MAX_REASON_CHARS).collect();
        match said.is_empty() {
            true => Failure::Other(format!("{host} answers {status}")),
            false => Failure::Other(format!("{host} answers {status}: {said}")),
        }
    }

    fn refused(&self) -> Failure {
        let host = &self.host;
        Failure::Refused(format!(
            "{host} refuses access: the image does not exist there, or needs other credentials"
        ))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        Failure::Other(format!("{} cannot be reached: {}", self.host, error_chain(error)))
    }
}

/// How a registry wants to be shown who one is.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Those that are known of what a header names.
fn challenges(header: &str) -> Vec<Challenge> {
    let all = http_auth::parse_challenges(header).unwrap_or_default();
    let known = all.into_iter().filter_map(|challenge| {
        let named = |name: &str| {
            let mut all = challenge.params.iter();
            let found = all.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
            Some(found.1.to_unescaped())
        };
        if challenge.scheme.eq_ignore_ascii_case("bearer") {
            let (service, scope) = (named("service"), named("scope"));
            return Some(Challenge::Bearer { realm: named("realm")?, service, scope });
        }
        challenge.scheme.eq_ignore_ascii_case("basic").then_some(Challenge::Basic)
    });
    known.collect()
}

/// As token servers answer: older ones call it `token`, OAuth 2 calls it `access_token`.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<Error>,
}

#[derive(Deserialize)]
struct Error {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// A header that no log shows.
fn secret(text: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Failure::Other("credentials or token hold what no header can".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests;
