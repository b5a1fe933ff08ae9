//! What a container asks to be called after its start and before its end.

use std::net::IpAddr;
use std::time::Duration;

use proto::k8s::api::core::v1::{Container, LifecycleHandler};
use runtime::{ContainerId, ContainerRuntime, SandboxId};

use super::probes::{HttpTarget, port};

/// How one is called.
#[derive(Clone, Debug)]
pub(crate) enum Hook {
    /// A program in the container, which has to end with 0.
    Exec(Vec<String>),
    /// A request, which has to be answered.
    Http(HttpTarget),
    /// Nothing but time.
    Sleep(Duration),
}

/// Nothing bounds a program but the time of whoever waits for it; this is longer than anybody's.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

impl Hook {
    /// What the handler asks for; the error is for the user. Only requests need the pod's address: a
    /// pod that ends under a new kubelet has its hook called although nobody attached it here.
    pub(crate) fn of(
        handler: &LifecycleHandler,
        container: &Container,
        pod: Option<IpAddr>,
    ) -> Result<Self, String> {
        if let Some(exec) = &handler.exec {
            return Ok(Self::Exec(exec.command.clone().unwrap_or_default()));
        }
        if let Some(get) = &handler.http_get {
            let port = match port(&get.port, container) {
                Ok(port) => port,
                // As Kubernetes has it, for hooks alone.
                Err(_) if is_empty(&get.port) => 80,
                Err(problem) => return Err(problem),
            };
            let pod = pod.ok_or("the pod has no address")?;
            let target = HttpTarget::new(get, port, pod)?;
            return Ok(Self::Http(target.sent_by("kube-lifecycle")));
        }
        if let Some(sleep) = &handler.sleep {
            return Ok(Self::Sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))));
        }
        Err("invalid handler: neither exec, httpGet nor sleep".to_owned())
    }

    /// Calls it and waits for its end. The error is for the log: it may tell secrets.
    pub(crate) async fn call(
        &self,
        runtime: &dyn ContainerRuntime,
        sandbox: &SandboxId,
        container: &ContainerId,
    ) -> Result<(), String> {
        match self {
            Self::Exec(command) => {
                let ran = runtime.exec_sync(sandbox, container, command, FOREVER).await;
                let ran = ran.map_err(|error| error.to_string())?;
                if ran.exit_code == 0 {
                    return Ok(());
                }
                let output = String::from_utf8_lossy(&ran.output).into_owned();
                Err(format!("command {command:?} exited with {}: {output}", ran.exit_code))
            }
            Self::Http(target) => target.ask().await,
            Self::Sleep(duration) => {
                tokio::time::sleep(*duration).await;
                Ok(())
            }
        }
    }
}

fn is_empty(port: &proto::k8s::apimachinery::pkg::util::intstr::IntOrString) -> bool {
    use proto::k8s::apimachinery::pkg::util::intstr::IntOrString;
    matches!(port, IntOrString::String(name) if name.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn hook(handler: Value, pod: Option<IpAddr>) -> Result<Hook, String> {
        let handler = serde_json::from_value(handler).unwrap();
        Hook::of(&handler, &Container::default(), pod)
    }

    #[test]
    fn only_a_request_needs_the_pods_address() {
        let sleep = hook(json!({"sleep": {"seconds": 2}}), None);
        assert!(matches!(sleep, Ok(Hook::Sleep(time)) if time == Duration::from_secs(2)));
        let exec = hook(json!({"exec": {"command": ["true"]}}), None);
        assert!(matches!(exec, Ok(Hook::Exec(command)) if command == ["true"]));
        let get = json!({"httpGet": {"port": 8080}});
        assert_eq!(hook(get.clone(), None).unwrap_err(), "the pod has no address");
        assert!(matches!(hook(get, Some(IpAddr::from([10, 244, 0, 5]))), Ok(Hook::Http(_))));
    }
}
