//! How Kubernetes tells the end of a program.

use http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};
use proto::k8s as k8s_openapi;

/// The end with an exit code.
pub(super) fn of_exit(exit_code: i32) -> Status {
    if exit_code == 0 {
        return Status { status: Some("Success".to_owned()), ..Status::default() };
    }
    Status {
        status: Some("Failure".to_owned()),
        reason: Some("NonZeroExitCode".to_owned()),
        message: Some(format!("command terminated with non-zero exit code: exit code {exit_code}")),
        details: Some(StatusDetails {
            causes: Some(vec![StatusCause {
                reason: Some("ExitCode".to_owned()),
                message: Some(exit_code.to_string()),
                field: None,
            }]),
            ..StatusDetails::default()
        }),
        code: Some(i32::from(StatusCode::INTERNAL_SERVER_ERROR.as_u16())),
        ..Status::default()
    }
}

/// The error channel's content: an object from version 4 on, before that a sentence, and nothing
/// at all when all is well.
pub(super) fn told(status: &Status, as_object: bool) -> Vec<u8> {
    if as_object {
        return serde_json::to_vec(status).unwrap_or_default();
    }
    if status.status.as_deref() == Some("Success") {
        return Vec::new();
    }
    status.message.clone().unwrap_or_default().into_bytes()
}
