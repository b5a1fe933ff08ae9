//! How to delete, out of a body or a query.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions as DeleteBody;
use proto::k8s as k8s_openapi;

use crate::api::error::ApiError;
use crate::api::field_error::FieldError;
use crate::api::kinds::Propagation;
use crate::api::rest::query::{Options, dry_run, invalid_options};
use crate::api::write::{DeleteOptions, Preconditions};

/// What a query says, for a request without a body. A query beside a body means nothing, as in
/// Kubernetes: the body is all that counts.
pub(crate) fn of_query(options: &Options) -> Result<DeleteBody, ApiError> {
    let dry_run: Vec<String> =
        options.all("dryRun").filter(|value| !value.is_empty()).map(str::to_owned).collect();
    Ok(DeleteBody {
        dry_run: Some(dry_run),
        grace_period_seconds: options.integer("gracePeriodSeconds")?,
        orphan_dependents: options.optional_flag("orphanDependents"),
        propagation_policy: options.get("propagationPolicy").map(str::to_owned),
        ..DeleteBody::default()
    })
}

/// The options of a body. All that is wrong is told at once.
pub(crate) fn delete_options<'a>(body: &DeleteBody) -> Result<DeleteOptions<'a>, ApiError> {
    let mut errors = Vec::new();
    let policy = body.propagation_policy.as_deref().filter(|policy| !policy.is_empty());
    let propagation = propagation(policy, body.orphan_dependents, &mut errors);
    let stated = body.dry_run.iter().flatten().map(String::as_str);
    let dry_run = dry_run(stated, &mut errors);
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
        grace_period_seconds: body
            .grace_period_seconds
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

    fn body(body: Value) -> Result<DeleteOptions<'static>, ApiError> {
        delete_options(&serde_json::from_value(body).unwrap())
    }

    fn query(query: &str) -> Result<DeleteOptions<'static>, ApiError> {
        let query = Options::parse(&format!("/?{query}").parse().unwrap()).unwrap();
        delete_options(&of_query(&query)?)
    }

    #[test]
    fn options_are_read_out_of_a_body_or_a_query() {
        let stated = body(json!({
            "gracePeriodSeconds": 5, "propagationPolicy": "Orphan", "preconditions": {"uid": "u"},
        }));
        let stated = stated.unwrap();
        assert_eq!(stated.grace_period_seconds, Some(5));
        assert_eq!(stated.propagation, Some(Propagation::Orphan));
        assert_eq!(stated.preconditions.uid.as_deref(), Some("u"));
        assert!(!stated.dry_run);
        let stated = query("gracePeriodSeconds=0&orphanDependents=false").unwrap();
        assert_eq!(stated.grace_period_seconds, Some(0));
        assert_eq!(stated.propagation, Some(Propagation::Background));
        assert!(!stated.dry_run);
        assert_eq!(body(json!({"gracePeriodSeconds": -3})).unwrap().grace_period_seconds, Some(1));
        assert!(body(json!({"dryRun": ["All"]})).unwrap().dry_run);
        assert!(query("dryRun=All&dryRun=All").unwrap().dry_run);
        assert_eq!(query("").unwrap().grace_period_seconds, None);
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let in_body = json!({
            "dryRun": ["None"], "orphanDependents": true, "propagationPolicy": "Sideways",
        });
        let in_query = "dryRun=None&orphanDependents=true&propagationPolicy=Sideways";
        for error in [body(in_body).unwrap_err(), query(in_query).unwrap_err()] {
            let error = error.to_string();
            for part in [
                "DeleteOptions.meta.k8s.io \"\" is invalid: [",
                "propagationPolicy: Invalid value: \"Sideways\": orphanDependents and deletionPropagation cannot be both set",
                "propagationPolicy: Unsupported value: \"Sideways\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
                "dryRun: Unsupported value: [\"None\"]: supported values: \"All\"",
            ] {
                assert!(error.contains(part), "{error} lacks {part}");
            }
        }
        assert!(query("gracePeriodSeconds=soon").is_err());
    }
}
