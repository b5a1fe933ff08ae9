//! Tokens by which pods say who they are: asked of the master of the present session.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use proto::ObjectKey;
use proto::node::node_client::NodeClient;
use proto::node::{IssueTokenRequest, PutMirrorRequest, RemoveMirrorRequest};
use serde::Deserialize;
use tonic::transport::Channel;

/// A token that a pod wants. The account is the pod's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// The pod.
    pub pod: ObjectKey,
    /// This very one.
    pub pod_uid: String,
    /// For whom it is; empty: for the masters.
    pub audience: String,
    /// For how long.
    pub expiration_seconds: i64,
}

/// Whoever issues tokens.
#[async_trait]
pub trait TokenIssuer: Send + Sync {
    /// A token, or why there is none, for the pod's user.
    async fn issue(&self, request: TokenRequest) -> Result<String, String>;
}

/// The way to the master of the present session, for questions beside it. Cheap to clone.
#[derive(Clone, Default)]
pub struct MasterLink(Arc<ArcSwapOption<Channel>>);

impl MasterLink {
    /// A session has begun; the link is open until the guard is dropped.
    pub(crate) fn open(&self, channel: Channel) -> OpenLink<'_> {
        self.0.store(Some(Arc::new(channel)));
        OpenLink(self)
    }
}

impl MasterLink {
    /// Whether there is a session.
    pub(crate) fn is_open(&self) -> bool {
        self.0.load().is_some()
    }

    fn client(&self) -> Result<NodeClient<Channel>, String> {
        let channel = self.0.load_full().ok_or("no master can be reached")?;
        Ok(NodeClient::new(Channel::clone(&channel)))
    }

    /// Has the API show a pod of a file; or why it does not.
    pub(crate) async fn put_mirror(&self, request: PutMirrorRequest) -> Result<(), String> {
        let answer = self.client()?.put_mirror(request).await;
        answer.map(drop).map_err(|status| status.message().to_owned())
    }

    /// Has the API show it no more.
    pub(crate) async fn remove_mirror(&self, request: RemoveMirrorRequest) -> Result<(), String> {
        let answer = self.client()?.remove_mirror(request).await;
        answer.map(drop).map_err(|status| status.message().to_owned())
    }
}

/// Closes the link when it is dropped.
pub(crate) struct OpenLink<'a>(&'a MasterLink);

impl Drop for OpenLink<'_> {
    fn drop(&mut self) {
        self.0.0.store(None);
    }
}

#[async_trait]
impl TokenIssuer for MasterLink {
    async fn issue(&self, request: TokenRequest) -> Result<String, String> {
        let mut client = self.client()?;
        let TokenRequest { pod, pod_uid, audience, expiration_seconds } = request;
        let request = IssueTokenRequest {
            namespace: pod.namespace,
            pod: pod.name,
            pod_uid,
            audience,
            expiration_seconds,
        };
        let answer = client.issue_token(request).await;
        answer.map(|answer| answer.into_inner().token).map_err(|status| status.message().to_owned())
    }
}

/// From when to when a token is good, in seconds of the master's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Life {
    #[serde(rename = "iat")]
    pub(crate) issued: i64,
    #[serde(rename = "exp")]
    pub(crate) expires: i64,
}

impl Life {
    /// What a token says of itself.
    pub(crate) fn of(token: &str) -> Option<Self> {
        let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        serde_json::from_slice(&claims).ok()
    }

    /// After so many seconds a token shall be renewed: Kubernetes' 80 % of its life, a day at most.
    pub(crate) fn renewal(self) -> i64 {
        let whole = self.expires.saturating_sub(self.issued).max(0);
        (whole / 5 * 4 + whole % 5 * 4 / 5).min(24 * 60 * 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_after_four_fifths_of_its_life_or_a_day() {
        for (whole, renewal) in [(3600, 2880), (3607, 2885), (600, 480), (1 << 32, 86_400), (-1, 0)]
        {
            assert_eq!(Life { issued: 1000, expires: 1000 + whole }.renewal(), renewal, "{whole}");
        }
    }

    #[test]
    fn what_is_no_token_says_nothing() {
        let claims = BASE64_URL_SAFE_NO_PAD.encode(r#"{"iat": 1, "exp": 5, "aud": ["x"]}"#);
        assert_eq!(
            Life::of(&format!("head.{claims}.signature")),
            Some(Life { issued: 1, expires: 5 })
        );
        for text in ["", "a.b.c", "secret", "head.e30.signature"] {
            assert_eq!(Life::of(text), None, "{text}");
        }
    }
}
