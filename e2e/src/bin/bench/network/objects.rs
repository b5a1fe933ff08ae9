//! The Services: without selectors, with endpoints made by hand, so that a change is one write.

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::sinks::SINK_PORT;

/// How many are made at a time.
const AT_ONCE: usize = 16;

/// Makes Services of so many endpoints, all of addresses that no pod has but those of `real`: it
/// leads to `sink` alone. Returns where they are.
pub(super) async fn fill(
    client: &Client,
    numbers: std::ops::Range<usize>,
    endpoints: usize,
    real: usize,
    sink: &str,
) -> Result<Vec<String>> {
    let make = |number: usize| async move {
        let name = format!("of-many-{number}");
        // Within the pods' range, beyond what the nodes of the lab have.
        let nobody = |index: usize| {
            let within = (number * endpoints + index) % (1 << 15);
            format!("10.244.{}.{}", 128 + within / 256, within % 256)
        };
        let addresses: Vec<String> = if number == real {
            vec![sink.to_owned()]
        } else {
            (0..endpoints).map(nobody).collect()
        };
        let at = service(client, &name).await?;
        let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
        slices.create(&PostParams::default(), &slice(&name, &addresses)?).await?;
        anyhow::Ok(at)
    };
    stream::iter(numbers.map(make)).buffered(AT_ONCE).try_collect().await
}

/// Makes a Service if it is not there; where it is.
pub(super) async fn service(client: &Client, name: &str) -> Result<String> {
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let wanted: Service = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"ports": [{"port": SINK_PORT}]},
    }))?;
    let made = match services.create(&PostParams::default(), &wanted).await {
        Err(kube::Error::Api(status)) if status.code == 409 => services.get(name).await?,
        made => made?,
    };
    let address = made.spec.and_then(|spec| spec.cluster_ip).context("no address")?;
    Ok(format!("{address}:{SINK_PORT}"))
}

/// Leads a Service to one address.
pub(super) async fn point(client: &Client, name: &str, to: &str) -> Result<()> {
    let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
    let wanted = slice(name, &[to.to_owned()])?;
    slices.patch(name, &PatchParams::apply("bench").force(), &Patch::Apply(&wanted)).await?;
    Ok(())
}

fn slice(name: &str, addresses: &[String]) -> Result<EndpointSlice> {
    let endpoints: Vec<_> =
        addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    Ok(serde_json::from_value(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": SINK_PORT, "protocol": "TCP"}],
        "endpoints": endpoints,
    }))?)
}
