//! What all streams of pods have in common: finding the pod, its container and its node.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use proto::node::OpenTunnel;

use crate::api::error::ApiError;
use crate::api::kinds::ResourceInfo;
use crate::api::registry::AnyKind;
use crate::api::rest::query::Options;
use crate::api::rest::{Api, list};
use crate::cache::CachedObject;

/// A container of a pod.
pub(crate) struct Place {
    /// Nothing while the pod has no node.
    pub(crate) node: Option<String>,
    /// `status.phase`
    pub(crate) phase: String,
    key: ObjectKey,
    uid: String,
    container: String,
}

impl Place {
    /// Looks up the container that a request names, or the only one there is.
    pub(crate) async fn find(
        api: &Api,
        kind: &'static dyn AnyKind,
        key: &ObjectKey,
        container: Option<&str>,
    ) -> Result<Self, ApiError> {
        let cached: Arc<CachedObject> = list::find(api, kind, key, &Options::default()).await?;
        let pod: Pod = cached.decode().map_err(ApiError::internal)?;
        let spec = pod.spec.unwrap_or_default();
        let container = choose(&key.name, &spec, container)?;
        Ok(Self {
            node: spec.node_name.filter(|node| !node.is_empty()),
            phase: pod.status.and_then(|status| status.phase).unwrap_or_default(),
            key: key.clone(),
            uid: cached.uid.clone(),
            container,
        })
    }

    /// Looks up a pod, for what concerns no container.
    pub(crate) async fn of_pod(
        api: &Api,
        kind: &'static dyn AnyKind,
        key: &ObjectKey,
    ) -> Result<(Self, Pod), ApiError> {
        let cached: Arc<CachedObject> = list::find(api, kind, key, &Options::default()).await?;
        let pod: Pod = cached.decode().map_err(ApiError::internal)?;
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
        let place = Self {
            node: node.filter(|node| !node.is_empty()),
            phase: phase.unwrap_or_default(),
            key: key.clone(),
            uid: cached.uid.clone(),
            container: String::new(),
        };
        Ok((place, pod))
    }

    /// The pod's node.
    pub(crate) fn host(&self) -> Result<String, ApiError> {
        self.node.clone().ok_or_else(|| {
            let name = &self.key.name;
            ApiError::bad_request(format!("pod {name} does not have a host assigned"))
        })
    }

    /// `metadata.uid` of the pod.
    pub(crate) fn uid(&self) -> &str {
        &self.uid
    }

    /// The pod's name.
    pub(crate) fn pod(&self) -> &str {
        &self.key.name
    }

    /// A tunnel to the pod, for whatever will be asked of it.
    pub(crate) fn tunnel_to_pod(&self) -> OpenTunnel {
        OpenTunnel {
            namespace: self.key.namespace.clone(),
            pod: self.key.name.clone(),
            pod_uid: self.uid.clone(),
            ..OpenTunnel::default()
        }
    }

    /// What the node is asked.
    pub(crate) fn tunnel(&self, request: proto::node::open_tunnel::Request) -> OpenTunnel {
        OpenTunnel {
            id: String::new(),
            namespace: self.key.namespace.clone(),
            pod: self.key.name.clone(),
            pod_uid: self.uid.clone(),
            container: self.container.clone(),
            request: Some(request),
        }
    }
}

/// The container that is meant, in Kubernetes' words when that is not clear.
fn choose(pod: &str, spec: &PodSpec, wanted: Option<&str>) -> Result<String, ApiError> {
    let main: Vec<&str> = spec.containers.iter().map(|c| c.name.as_str()).collect();
    let init: Vec<&str> = spec.init_containers.iter().flatten().map(|c| c.name.as_str()).collect();
    match wanted {
        Some(wanted) => {
            let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| c.name.as_str());
            let known = main.iter().chain(&init).copied().chain(ephemeral).any(|c| c == wanted);
            if known {
                return Ok(wanted.to_owned());
            }
            Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {pod}")))
        }
        None => match main.as_slice() {
            [only] if init.is_empty() => Ok((*only).to_owned()),
            _ => {
                let mut message = format!(
                    "a container name must be specified for pod {pod}, choose one of: [{}]",
                    main.join(" ")
                );
                if !init.is_empty() {
                    message
                        .push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(ApiError::bad_request(message))
            }
        },
    }
}

/// The names of an options object that travels in the query, for messages.
pub(crate) const fn options_of(kind: &'static str) -> ResourceInfo {
    ResourceInfo {
        group: "",
        version: "v1",
        kind,
        plural: "pods",
        singular: "",
        short_names: &[],
        categories: &[],
        namespaced: true,
        status: false,
        scale: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_containers_there_are_when_none_is_named() {
        let spec = |containers: serde_json::Value| -> PodSpec {
            serde_json::from_value(containers).unwrap()
        };
        let one = spec(serde_json::json!({"containers": [{"name": "a"}]}));
        assert_eq!(choose("web", &one, None).unwrap(), "a");
        assert_eq!(
            choose("web", &one, Some("b")).unwrap_err().message(),
            "container b is not valid for pod web"
        );
        let many = spec(serde_json::json!({
            "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]
        }));
        assert_eq!(choose("web", &many, Some("i")).unwrap(), "i");
        assert_eq!(
            choose("web", &many, None).unwrap_err().message(),
            "a container name must be specified for pod web, choose one of: [a b] or one of the \
             init containers: [i]"
        );
    }
}
