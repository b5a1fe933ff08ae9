//! The kinds that keep a number of pods: what each says in its own words.

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use proto::selector::Selector;

use super::reconcile::Desired;
use crate::api::kinds::{Kind, ReplicaSets, ReplicationControllers};

/// A kind whose objects keep a number of pods.
pub(in crate::controllers) trait Replicated: Kind {
    /// For logs and events.
    const CONTROLLER: &'static str;

    /// What an object wants.
    fn desired(object: Self::Object) -> Desired;

    /// Sets what was found out; tells whether it says anything new.
    fn set_status(object: &mut Self::Object, status: ReplicaSetStatus) -> bool;
}

impl Replicated for ReplicaSets {
    const CONTROLLER: &'static str = "replicaset-controller";

    fn desired(object: ReplicaSet) -> Desired {
        let spec = object.spec;
        Desired {
            replicas: count(spec.replicas),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            // The API lets none in that is broken; one that is selects nothing.
            selector: Selector::from_label_selector(&spec.selector).unwrap_or_default(),
            template: spec.template.unwrap_or_default(),
            status: object.status.unwrap_or_default(),
            ..identity::<Self>(object.metadata)
        }
    }

    fn set_status(object: &mut ReplicaSet, status: ReplicaSetStatus) -> bool {
        let status = Some(status);
        let changed = object.status != status;
        object.status = status;
        changed
    }
}

impl Replicated for ReplicationControllers {
    const CONTROLLER: &'static str = "replication-controller";

    fn desired(object: ReplicationController) -> Desired {
        let spec = object.spec.unwrap_or_default();
        let status = object.status.unwrap_or_default();
        Desired {
            replicas: count(spec.replicas),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            selector: Selector::from_map(&spec.selector.unwrap_or_default()),
            template: spec.template.unwrap_or_default(),
            status: from_controller(status),
            ..identity::<Self>(object.metadata)
        }
    }

    fn set_status(object: &mut ReplicationController, status: ReplicaSetStatus) -> bool {
        let status = Some(to_controller(status));
        let changed = object.status != status;
        object.status = status;
        changed
    }
}

fn count(replicas: Option<i32>) -> usize {
    usize::try_from(replicas.unwrap_or(1)).unwrap_or(0)
}

/// All that the metadata tells.
fn identity<K: Kind>(metadata: ObjectMeta) -> Desired {
    let resource = K::RESOURCE;
    let api_version = match resource.group {
        "" => resource.version.to_owned(),
        group => format!("{group}/{}", resource.version),
    };
    let name = metadata.name.unwrap_or_default();
    Desired {
        key: ObjectKey::new(metadata.namespace.unwrap_or_default(), name.clone()),
        owner: OwnerReference {
            api_version,
            kind: resource.kind.to_owned(),
            name,
            uid: metadata.uid.unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        },
        generation: metadata.generation,
        deleting: metadata.deletion_timestamp.is_some(),
        replicas: 0,
        min_ready_seconds: 0,
        selector: Selector::default(),
        template: Default::default(),
        status: ReplicaSetStatus::default(),
    }
}

// Field by field, so that a new one does not compile until somebody considers it.
fn to_controller(status: ReplicaSetStatus) -> ReplicationControllerStatus {
    let ReplicaSetStatus {
        available_replicas,
        conditions,
        fully_labeled_replicas,
        observed_generation,
        ready_replicas,
        replicas,
        // ReplicationControllers have no place for it.
        terminating_replicas: _,
    } = status;
    let conditions = conditions.map(|conditions| {
        let same = |one: ReplicaSetCondition| {
            let ReplicaSetCondition { last_transition_time, message, reason, status, type_ } = one;
            let (status, type_) = (status.unwrap_or_default(), type_.unwrap_or_default());
            ReplicationControllerCondition { last_transition_time, message, reason, status, type_ }
        };
        conditions.into_iter().map(same).collect()
    });
    ReplicationControllerStatus {
        available_replicas,
        conditions,
        fully_labeled_replicas,
        observed_generation,
        ready_replicas,
        replicas,
    }
}

fn from_controller(status: ReplicationControllerStatus) -> ReplicaSetStatus {
    let ReplicationControllerStatus {
        available_replicas,
        conditions,
        fully_labeled_replicas,
        observed_generation,
        ready_replicas,
        replicas,
    } = status;
    let conditions = conditions.map(|conditions| {
        let same = |one: ReplicationControllerCondition| {
            let ReplicationControllerCondition {
                last_transition_time,
                message,
                reason,
                status,
                type_,
            } = one;
            let (status, type_) = (Some(status), Some(type_));
            ReplicaSetCondition { last_transition_time, message, reason, status, type_ }
        };
        conditions.into_iter().map(same).collect()
    });
    ReplicaSetStatus {
        available_replicas,
        conditions,
        fully_labeled_replicas,
        observed_generation,
        ready_replicas,
        replicas,
        terminating_replicas: None,
    }
}
