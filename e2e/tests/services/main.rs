//! Services of every kind, with real traffic from a machine that is no node.

mod balancers;
mod kinds;
mod rolling;

use anyhow::Result;
use e2e::check::{self, Tool, replicas};
use e2e::lab::Lab;
use k8s_openapi::api::core::v1::{Event, Service};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::Value;

const WEB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/web.yaml");

/// The cluster, with six pods of the test server on it.
struct Cluster {
    client: Client,
}

impl Cluster {
    async fn with_pods(lab: &Lab) -> Result<Self> {
        let client = check::client(lab).await?;
        Tool::Kubecfg.run(lab, &Tool::Kubecfg.apply(WEB))?;
        replicas(&client, "web", 6).await?;
        Ok(Self { client })
    }

    fn services(&self) -> Api<Service> {
        Api::default_namespaced(self.client.clone())
    }

    async fn create(&self, service: Value) -> Result<Service> {
        let service = serde_json::from_value(service)?;
        Ok(self.services().create(&PostParams::default(), &service).await?)
    }

    async fn patch(&self, name: &str, patch: Value) -> Result<Service> {
        let patch = Patch::Merge(patch);
        Ok(self.services().patch(name, &PatchParams::default(), &patch).await?)
    }

    /// Waits until a Service is as it should be.
    async fn until(
        &self,
        name: &str,
        what: &str,
        mut is_so: impl FnMut(&Service) -> bool,
    ) -> Result<Service> {
        let found = check::until(&self.services(), "", what, |services| {
            services.iter().any(|service| named(service, name) && is_so(service))
        })
        .await?;
        let mut found = found.into_iter().filter(|service| named(service, name));
        found.next().ok_or_else(|| anyhow::anyhow!("{name} is gone"))
    }

    /// Waits until a Service is reached at these addresses of a load balancer.
    async fn balanced(&self, name: &str, addresses: &[&str]) -> Result<Service> {
        let what = format!("{name} is reached at {addresses:?}");
        self.until(name, &what, |service| ingress(service) == addresses).await
    }

    /// Waits for an event of an object that says so.
    async fn told(&self, name: &str, reason: &str, words: &str) -> Result<()> {
        let events: Api<Event> = Api::default_namespaced(self.client.clone());
        let what = format!("{name} has an event {reason} that says {words:?}");
        check::until(&events, "", &what, |events| {
            events.iter().any(|event| {
                event.involved_object.name.as_deref() == Some(name)
                    && event.reason.as_deref() == Some(reason)
                    && event.message.as_ref().is_some_and(|text| text.contains(words))
            })
        })
        .await
        .map(drop)
    }
}

fn named(service: &Service, name: &str) -> bool {
    service.metadata.name.as_deref() == Some(name)
}

/// A load balancer's addresses.
fn ingress(service: &Service) -> Vec<&str> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.into_iter().flat_map(|status| status.ingress.iter().flatten());
    ingress.filter_map(|one| one.ip.as_deref()).collect()
}
