//! Making tokens.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::TokenRequestSpec;
use k8s_openapi::api::core::v1::Pod;
use proto::{ObjectKey, k8s as k8s_openapi};

use super::claims::{self, Claims, Own, Reference};
use super::{Accounts, Shared};
use crate::api::error::ApiError;
use crate::api::field_error::{FieldError, FieldErrors};
use crate::api::kinds::{Kind, Nodes, Pods, ResourceInfo, Secrets, ServiceAccounts};
use crate::cache::CachedObject;

/// For a request that does not say.
const DEFAULT_SECONDS: i64 = 60 * 60;
const MIN_SECONDS: i64 = 10 * 60;
const MAX_SECONDS: i64 = 1 << 32;

/// A token and its end.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub(crate) token: String,
    pub(crate) expires: Timestamp,
}

/// What a token is good as long as, beside its account.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    /// `Pod`, `Secret` or `Node`.
    pub(crate) kind: String,
    pub(crate) name: String,
    /// Any, if empty.
    pub(crate) uid: String,
}

impl Accounts {
    /// Issues a token as a `TokenRequest` wants it; fills in what that leaves out.
    ///
    /// # Errors
    /// What a client of `serviceaccounts/token` is told.
    pub(crate) async fn issue(
        &self,
        account: &ObjectKey,
        spec: &mut TokenRequestSpec,
    ) -> Result<Issued, ApiError> {
        let Shared { key, issuer, .. } = &*self.shared;
        let seconds = *spec.expiration_seconds.get_or_insert(DEFAULT_SECONDS);
        let audiences = spec.audiences.get_or_insert_default();
        if audiences.is_empty() {
            audiences.push(issuer.clone());
        }
        let resource = &ServiceAccounts::RESOURCE;
        let found = self.object(resource.plural, account, None).await?;
        let found = found.ok_or_else(|| ApiError::not_found(resource, &account.name))?;
        let errors = validate(seconds);
        if !errors.is_empty() {
            return Err(ApiError::invalid(&TOKEN_REQUEST, "", &errors));
        }
        let mut own = Own {
            namespace: account.namespace.clone(),
            node: None,
            pod: None,
            secret: None,
            service_account: reference(&found),
        };
        if let Some(wanted) = &spec.bound_object_ref {
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            let (version, kind) = (text(&wanted.api_version), text(&wanted.kind));
            if version != "v1" {
                return Err(unbindable(&version, &kind));
            }
            let bound = Bound { kind, name: text(&wanted.name), uid: text(&wanted.uid) };
            self.bind(account, &bound, &mut own).await?;
        }
        let now = Timestamp::now();
        let expires = now
            .checked_add(Duration::from_secs(seconds.unsigned_abs()))
            .map_err(ApiError::internal)?;
        let claims = Claims {
            aud: audiences.clone(),
            exp: expires.as_second(),
            iat: now.as_second(),
            iss: issuer.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            kubernetes: own,
            nbf: now.as_second(),
            sub: claims::user(account),
        };
        let token = claims::sign(key, &claims).map_err(ApiError::internal)?;
        let expires = Timestamp::from_second(claims.exp).map_err(ApiError::internal)?;
        Ok(Issued { token, expires })
    }

    async fn bind(
        &self,
        account: &ObjectKey,
        bound: &Bound,
        own: &mut Own,
    ) -> Result<(), ApiError> {
        let namespaced = ObjectKey::new(account.namespace.as_str(), bound.name.as_str());
        match bound.kind.as_str() {
            "Pod" => {
                let found = self.bound(&Pods::RESOURCE, &namespaced, bound).await?;
                let pod: Pod = found.decode().map_err(ApiError::internal)?;
                let spec = pod.spec.unwrap_or_default();
                if spec.service_account_name.as_deref() != Some(&account.name) {
                    return Err(ApiError::bad_request(format!(
                        "cannot bind token for serviceaccount {:?} to pod running with different \
                         serviceaccount name.",
                        account.name
                    )));
                }
                own.pod = Some(reference(&found));
                if let Some(name) = spec.node_name.filter(|name| !name.is_empty()) {
                    let key = ObjectKey::new("", name.as_str());
                    let node = self.object(Nodes::RESOURCE.plural, &key, None).await?;
                    let uid = node.map(|node| node.uid.clone()).unwrap_or_default();
                    own.node = Some(Reference { name, uid });
                }
            }
            "Secret" => {
                let found = self.bound(&Secrets::RESOURCE, &namespaced, bound).await?;
                own.secret = Some(reference(&found));
            }
            "Node" => {
                let key = ObjectKey::new("", bound.name.as_str());
                let found = self.bound(&Nodes::RESOURCE, &key, bound).await?;
                own.node = Some(reference(&found));
            }
            other => return Err(unbindable("v1", other)),
        }
        Ok(())
    }

    async fn bound(
        &self,
        resource: &ResourceInfo,
        key: &ObjectKey,
        bound: &Bound,
    ) -> Result<Arc<CachedObject>, ApiError> {
        let found = self.object(resource.plural, key, None).await?;
        let found = found.ok_or_else(|| ApiError::not_found(resource, &key.name))?;
        if !bound.uid.is_empty() && found.uid != bound.uid {
            let why = format!(
                "the UID in the bound object reference ({}) does not match the UID in record. \
                 The object might have been deleted and then recreated",
                bound.uid
            );
            return Err(ApiError::conflict(resource, &key.name, why));
        }
        Ok(found)
    }
}

fn validate(seconds: i64) -> FieldErrors {
    let detail = match seconds {
        ..MIN_SECONDS => "may not specify a duration less than 10 minutes",
        MIN_SECONDS..=MAX_SECONDS => return FieldErrors::new(),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let mut errors = FieldErrors::new();
    errors.push(FieldError::invalid("spec.expirationSeconds", seconds, detail));
    errors
}

fn unbindable(version: &str, kind: &str) -> ApiError {
    ApiError::bad_request(format!(
        "cannot bind token to object of type {version}, Kind={kind}: name a v1 Pod, Secret or Node"
    ))
}

fn reference(object: &CachedObject) -> Reference {
    Reference { name: object.key.name.clone(), uid: object.uid.clone() }
}

/// The names of a TokenRequest, for messages.
const TOKEN_REQUEST: ResourceInfo = ResourceInfo {
    group: "authentication.k8s.io",
    version: "v1",
    kind: "TokenRequest",
    plural: "tokenrequests",
    singular: "tokenrequest",
    short_names: &[],
    categories: &[],
    namespaced: true,
    status: false,
    scale: false,
};
