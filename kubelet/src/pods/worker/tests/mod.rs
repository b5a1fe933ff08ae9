//! Pods over a fake runtime, in a time that passes as fast as nothing happens.

mod admission;
mod ends;
mod ephemeral;
mod init;
mod resize;
mod restarts;
mod starts;
mod static_pods;
mod streams;
mod takeover;
mod tokens;

use proto::k8s::api::core::v1::{ContainerStateTerminated, Pod, PodStatus};
use serde_json::json;

use crate::pods::test_support::{container_status, one_container, pod};

/// A pod of one container that runs until told otherwise.
fn plain(name: &str) -> Pod {
    pod(name, one_container(json!({})))
}

fn last_ended(status: &PodStatus) -> &ContainerStateTerminated {
    container_status(status, "main").last_state.as_ref().unwrap().terminated.as_ref().unwrap()
}

fn ended(status: &PodStatus) -> &ContainerStateTerminated {
    container_status(status, "main").state.as_ref().unwrap().terminated.as_ref().unwrap()
}
