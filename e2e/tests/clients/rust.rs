//! kube-rs: every verb on every kind, a reflector, apply, and the streams.

use anyhow::{Context, Result, ensure};
use e2e::check::DEADLINE;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use kube::api::{
    Api, AttachParams, DeleteParams, DynamicObject, ListParams, LogParams, Patch, PatchParams,
    PostParams, WatchEvent, WatchParams,
};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiCapabilities, ApiResource, Scope, pinned_kind, verbs};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{POD, Suite};

pub(crate) async fn suite(suite: &Suite) -> Result<()> {
    for sample in &suite.samples {
        let types = sample.types.as_ref().context("a sample has a type")?;
        let gvk = GroupVersionKind::try_from(types)?;
        let (resource, capabilities) = pinned_kind(&suite.client, &gvk).await?;
        let what = format!("{} {}", types.api_version, types.kind);
        every_verb(suite, sample, &resource, &capabilities).await.context(what)?;
    }
    tokio::time::timeout(DEADLINE, reflected(suite)).await.context("the reflector")??;
    tokio::time::timeout(DEADLINE, streams(suite)).await.context("the streams")?
}

async fn every_verb(
    suite: &Suite,
    sample: &DynamicObject,
    resource: &ApiResource,
    capabilities: &ApiCapabilities,
) -> Result<()> {
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(suite.client.clone(), resource),
        Scope::Namespaced => Api::namespaced_with(suite.client.clone(), &suite.namespace, resource),
    };
    let name = sample.name_any();
    let labels = format!("suite={name}");
    let before = api.list(&ListParams::default().labels(&labels)).await?;
    ensure!(before.items.is_empty(), "there is one already");
    let version = before.metadata.resource_version.unwrap_or_default();
    let made = api.create(&PostParams::default(), sample).await?;
    ensure!(made.uid().is_some());
    let note = |word: &str| json!({"metadata": {"annotations": {word: "1"}}});
    let parameters = PatchParams::default();
    api.patch(&name, &parameters, &Patch::Merge(note("merge"))).await?;
    api.patch(&name, &parameters, &Patch::Strategic(note("strategic"))).await?;
    if suite.apply {
        let mut own = note("apply");
        own["apiVersion"] = json!(resource.api_version);
        own["kind"] = json!(resource.kind);
        let parameters = PatchParams::apply("suite");
        let applied = api.patch(&name, &parameters, &Patch::Apply(own)).await?;
        ensure!(
            applied.managed_fields().iter().any(|entry| entry.manager.as_deref() == Some("suite"))
        );
    }
    let mut got = api.get(&name).await?;
    ensure!(got.annotations().contains_key("merge") && got.annotations().contains_key("strategic"));
    // Others may change an object meanwhile, a node's conditions for instance.
    if resource.kind != "Lease" {
        // Leases are what clients compete for: they want to know which version was read.
        got.metadata.resource_version = None;
    }
    got.labels_mut().insert("replaced".to_owned(), "yes".to_owned());
    api.replace(&name, &PostParams::default(), &got).await?;
    if capabilities.subresources.iter().any(|(sub, _)| sub.plural == "status") {
        api.get_status(&name).await?;
        api.patch_status(&name, &parameters, &Patch::Merge(note("status"))).await?;
    }
    if capabilities.subresources.iter().any(|(sub, _)| sub.plural == "scale") {
        ensure!(api.get_scale(&name).await?.spec.is_some_and(|spec| spec.replicas == Some(0)));
    }
    api.delete(&name, &DeleteParams::default().grace_period(0)).await?;
    let events = api.watch(&WatchParams::default().labels(&labels), &version).await?;
    let mut events = std::pin::pin!(events);
    let (mut added, mut modified) = (false, false);
    let gone = async {
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(_) => added = true,
                WatchEvent::Modified(_) => modified = true,
                WatchEvent::Deleted(_) => return Ok(()),
                other => anyhow::bail!("{other:?}"),
            }
        }
        anyhow::bail!("the watch ended")
    };
    tokio::time::timeout(DEADLINE, gone).await.context("it is not deleted")??;
    ensure!(added && modified, "the watch left something out");
    if capabilities.supports_operation(verbs::DELETE_COLLECTION) {
        api.create(&PostParams::default(), sample).await?;
        api.delete_collection(&DeleteParams::default(), &ListParams::default().labels(&labels))
            .await?;
    }
    Ok(())
}

async fn reflected(suite: &Suite) -> Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(suite.client.clone(), &suite.namespace);
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let (reader, writer) = reflector::store();
        let stream = watcher(api.clone(), config.labels("suite=reflector"));
        let mut stream = std::pin::pin!(stream.reflect(writer).default_backoff());
        let mut object = ConfigMap::default();
        object.metadata.generate_name = Some("reflected-".to_owned());
        object.labels_mut().insert("suite".to_owned(), "reflector".to_owned());
        let made = api.create(&PostParams::default(), &object).await?;
        while reader.len() != 1 {
            stream.try_next().await?.context("the reflector ended")?;
        }
        ensure!(reader.state()[0].uid() == made.uid(), "another object");
        api.delete(&made.name_any(), &DeleteParams::default()).await?;
        while !reader.is_empty() {
            stream.try_next().await?.context("the reflector ended")?;
        }
    }
    Ok(())
}

async fn streams(suite: &Suite) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(suite.client.clone(), &suite.namespace);
    let log = pods.logs(POD, &LogParams { tail_lines: Some(5), ..LogParams::default() }).await?;
    ensure!(!log.is_empty(), "the log is empty");
    let parameters = AttachParams::default().stderr(false);
    let mut process = pods.exec(POD, ["/testserver", "echo", "hello", "rust"], &parameters).await?;
    let mut said = String::new();
    process.stdout().context("no output")?.read_to_string(&mut said).await?;
    let status = process.take_status().context("no status")?.await.context("no status")?;
    process.join().await?;
    ensure!(
        said == "hello rust\n" && status.status.as_deref() == Some("Success"),
        "{said}{status:?}"
    );
    if suite.has("pods/portforward") {
        let mut forward = pods.portforward(POD, &[8080]).await?;
        let mut stream = forward.take_stream(8080).context("no stream")?;
        stream.write_all(b"GET /hostname HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        ensure!(answer.contains(POD), "{answer}");
    }
    if suite.has("pods/attach") {
        let attached = pods.attach(POD, &AttachParams::default().stderr(false)).await?;
        attached.abort();
    }
    Ok(())
}
