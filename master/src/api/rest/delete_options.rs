//! How to delete, out of a body and a query.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions as DeleteBody;
use proto::k8s as k8s_openapi;

use crate::api::error::ApiError;
use crate::api::field_error::FieldError;
use crate::api::kinds::Propagation;
use crate::api::rest::query::{Options, dry_run, invalid_options};
use crate::api::write::{DeleteOptions, Preconditions};

/// The options, each from the body if it is there. All that is wrong is told at once.
pub(crate) fn delete_options<'a>(
    body: &DeleteBody,
    options: &Options,
) -> Result<DeleteOptions<'a>, ApiError> {
    let mut errors = Vec::new();
    let grace_period_seconds = match body.grace_period_seconds {
        Some(seconds) => Some(seconds),
        None => options.integer("gracePeriodSeconds")?,
    };
    let policy = body.propagation_policy.as_deref().filter(|policy| !policy.is_empty());
    let policy = policy.or(options.get("propagationPolicy"));
    let orphan = body.orphan_dependents.or(options.optional_flag("orphanDependents"));
    let propagation = propagation(policy, orphan, &mut errors);
    let in_query = options.dry_run(&mut errors);
    let stated = body.dry_run.iter().flatten().map(String::as_str);
    let dry_run = dry_run(stated, &mut errors) || in_query;
    if !errors.is_empty() {
        return Err(invalid_options("DeleteOptions", &errors));
    }
    let preconditions = body.preconditions.clone().unwrap_or_default();
    Ok(DeleteOptions {
        preconditions: Preconditions {
            uid: preconditions.uid,
            resource_version: preconditions.resource_version,
        },
        // Nobody can mean less than none; Kubernetes takes it for the shortest that is one.
        grace_period_seconds: grace_period_seconds
            .map(|seconds| if seconds < 0 { 1 } else { seconds }),
        propagation,
        dry_run,
        fence: &[],
    })
}

fn propagation(
    policy: Option<&str>,
    orphan: Option<bool>,
    errors: &mut Vec<FieldError>,
) -> Option<Propagation> {
    if let (Some(policy), Some(_)) = (policy, orphan) {
        let detail = "orphanDependents and deletionPropagation cannot be both set";
        errors.push(FieldError::invalid("propagationPolicy", policy, detail));
    }
    match policy {
        Some("Background") => Some(Propagation::Background),
        Some("Foreground") => Some(Propagation::Foreground),
        Some("Orphan") => Some(Propagation::Orphan),
        Some(other) => {
            let supported = &["Foreground", "Background", "Orphan", "nil"];
            errors.push(FieldError::not_supported("propagationPolicy", other, supported));
            None
        }
        // The older form of the same.
        None => {
            orphan.map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn options(body: Value, query: &str) -> Result<DeleteOptions<'static>, ApiError> {
        let query = Options::parse(&format!("/?{query}").parse().unwrap()).unwrap();
        delete_options(&serde_json::from_value(body).unwrap(), &query)
    }

    #[test]
    fn the_body_wins_over_the_query() {
        let both = options(
            json!({"gracePeriodSeconds": 5, "propagationPolicy": "Orphan", "preconditions": {"uid": "u"}}),
            "gracePeriodSeconds=7&propagationPolicy=Foreground",
        );
        let both = both.unwrap();
        assert_eq!(both.grace_period_seconds, Some(5));
        assert_eq!(both.propagation, Some(Propagation::Orphan));
        assert_eq!(both.preconditions.uid.as_deref(), Some("u"));
        let query = options(json!({}), "gracePeriodSeconds=0&orphanDependents=false").unwrap();
        assert_eq!(query.grace_period_seconds, Some(0));
        assert_eq!(query.propagation, Some(Propagation::Background));
        assert!(!query.dry_run);
        assert_eq!(
            options(json!({"gracePeriodSeconds": -3}), "").unwrap().grace_period_seconds,
            Some(1)
        );
        for (body, query) in
            [(json!({"dryRun": ["All"]}), ""), (json!({}), "dryRun=All&dryRun=All")]
        {
            assert!(options(body, query).unwrap().dry_run, "{query}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let body = json!({"dryRun": ["None"], "orphanDependents": true});
        let error = options(body, "propagationPolicy=Sideways").unwrap_err().to_string();
        for part in [
            "DeleteOptions.meta.k8s.io \"\" is invalid: [",
            "propagationPolicy: Invalid value: \"Sideways\": orphanDependents and deletionPropagation cannot be both set",
            "propagationPolicy: Unsupported value: \"Sideways\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
            "dryRun: Unsupported value: [\"None\"]: supported values: \"All\"",
        ] {
            assert!(error.contains(part), "{error} lacks {part}");
        }
        assert!(options(json!({}), "gracePeriodSeconds=soon").is_err());
    }
}
