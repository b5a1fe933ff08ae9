//! Telling others whose a token is.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{TokenReviewSpec, TokenReviewStatus, UserInfo};
use proto::k8s as k8s_openapi;

use super::claims::Reference;
use super::{Accounts, Bearer};
use crate::api::error::ApiError;

/// What is known of a token's bearer beside the user starts so.
const EXTRA: &str = "authentication.kubernetes.io/";

impl Accounts {
    /// What is to be said of a token.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub(crate) async fn review(
        &self,
        spec: &TokenReviewSpec,
    ) -> Result<TokenReviewStatus, ApiError> {
        let own = [self.shared.issuer.clone()];
        let stated = spec.audiences.as_deref().filter(|audiences| !audiences.is_empty());
        let audiences: Vec<&str> = stated.unwrap_or(&own).iter().map(String::as_str).collect();
        let bearer = match self.bearer(&spec.token, &audiences).await? {
            Ok(bearer) => bearer,
            Err(why) => {
                let error = Some(format!("invalid bearer token: {why}"));
                return Ok(TokenReviewStatus { error, ..TokenReviewStatus::default() });
            }
        };
        let common = bearer.claims.aud.iter().filter(|one| audiences.contains(&one.as_str()));
        Ok(TokenReviewStatus {
            audiences: Some(common.cloned().collect()),
            authenticated: Some(true),
            user: Some(bearer.user_info()),
            error: None,
        })
    }
}

impl Bearer {
    fn user_info(self) -> UserInfo {
        let own = self.claims.kubernetes;
        let mut extra = BTreeMap::new();
        let mut add = |what: &str, value: String| {
            extra.insert(format!("{EXTRA}{what}"), vec![value]);
        };
        add("credential-id", format!("JTI={}", self.claims.jti));
        for (what, reference) in [("node", own.node), ("pod", own.pod)] {
            let Some(Reference { name, uid }) = reference else { continue };
            add(&format!("{what}-name"), name);
            if !uid.is_empty() {
                add(&format!("{what}-uid"), uid);
            }
        }
        UserInfo {
            extra: Some(extra),
            groups: Some(self.identity.groups),
            uid: Some(own.service_account.uid),
            username: Some(self.identity.user),
        }
    }
}
