//! `authentication.k8s.io`: whose a token is, and who asks. Nothing is stored; a review is created, and
//! answers itself.

use axum::extract::Request;
use axum::response::Response;
use http::{Method, StatusCode};
use k8s_openapi::api::authentication::v1::{
    SelfSubjectReview, SelfSubjectReviewStatus, TokenReview, UserInfo,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::k8s as k8s_openapi;

use crate::api::authn::{AUTHENTICATED, Identity};
use crate::api::codec::Decoder;
use crate::api::error::ApiError;
use crate::api::field_error::FieldError;
use crate::api::kinds::ResourceInfo;
use crate::api::rest::accept::{self, Answer, Shape};
use crate::api::rest::metrics_api::Measured;
use crate::api::rest::query::Options;
use crate::api::rest::target::ResourceTarget;
use crate::api::rest::{Api, body, render};

pub(crate) const GROUP: &str = "authentication.k8s.io";
const VERSION: &str = "v1";
/// What can be done with what only answers.
pub(crate) const VERBS: [&str; 1] = ["create"];

/// What discovery and OpenAPI tell of the group.
pub(crate) static REVIEWS: [Measured; 2] = [
    Measured {
        resource: resource("SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview"),
        type_name: "io.k8s.api.authentication.v1.SelfSubjectReview",
        describe: |generator| drop(generator.subschema_for::<SelfSubjectReview>()),
    },
    Measured {
        resource: resource("TokenReview", "tokenreviews", "tokenreview"),
        type_name: "io.k8s.api.authentication.v1.TokenReview",
        describe: |generator| drop(generator.subschema_for::<TokenReview>()),
    },
];

const fn resource(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
) -> ResourceInfo {
    ResourceInfo {
        group: GROUP,
        version: VERSION,
        kind,
        plural,
        singular,
        short_names: &[],
        categories: &[],
        namespaced: false,
        status: false,
        scale: false,
    }
}

/// Answers a request for the group.
pub(crate) async fn serve(
    api: &Api,
    target: &ResourceTarget,
    request: Request,
) -> Result<Response, ApiError> {
    let known = |one: &&Measured| {
        one.resource.plural == target.plural && one.resource.version == target.version
    };
    let review = REVIEWS.iter().find(known).ok_or_else(ApiError::no_such_path)?;
    if target.name.is_some() || target.namespace.is_some() {
        return Err(ApiError::no_such_path());
    }
    if *request.method() != Method::POST {
        return Err(ApiError::method_not_allowed());
    }
    let options = Options::parse(request.uri())?;
    let answer = accept::negotiate(request.headers(), None, options.flag("pretty"))?;
    let answer = Answer { shape: Shape::Plain, ..answer };
    let (parts, body) = request.into_parts();
    let body = body::read(&parts.headers, body).await?;
    let tree = body::parse(&parts.headers, &body)?;
    let broken = |error| ApiError::bad_request(format!("{}: {error}", review.resource.kind));
    let now = Some(Time(jiff::Timestamp::now()));
    if review.resource.kind == "TokenReview" {
        let mut review: TokenReview = Decoder::new().decode(&tree.value).map_err(broken)?;
        if review.spec.token.is_empty() {
            let errors = [FieldError::required(
                "spec.token",
                "token is required for TokenReview in authentication",
            )];
            return Err(ApiError::invalid(&REVIEWS[1].resource, "", &errors));
        }
        review.status = Some(api.accounts.review(&review.spec).await?);
        review.metadata.creation_timestamp = now;
        return render::value(StatusCode::CREATED, &review, answer);
    }
    let mut review: SelfSubjectReview = Decoder::new().decode(&tree.value).map_err(broken)?;
    let identity = parts.extensions.get::<Identity>().ok_or_else(ApiError::unauthorized)?;
    let mut groups = identity.groups.clone();
    if !identity.is_in(AUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    let user_info = Some(UserInfo {
        username: Some(identity.user.clone()),
        groups: Some(groups),
        ..UserInfo::default()
    });
    review.status = Some(SelfSubjectReviewStatus { user_info });
    review.metadata.creation_timestamp = now;
    render::value(StatusCode::CREATED, &review, answer)
}
