//! `kubecfg describe`

mod isolation;
mod page;
mod pod;
mod policy;
mod service;

use std::io::Write as _;

use anyhow::Result;
use http::Request;
use serde_json::Value;

use self::page::Page;
use super::target::{escape, fetch, targets};
use crate::args::Select;
use crate::client::Cluster;
use crate::resources::Resource;

/// Tells all about objects, with their events.
pub(crate) async fn describe(cluster: &Cluster, select: &Select) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut first = true;
    for target in targets(cluster, &select.words).await? {
        for object in fetch(cluster, select, &target).await? {
            if !first {
                writeln!(out, "\n")?;
            }
            first = false;
            let mut page = Page::default();
            metadata(&mut page, &object);
            match target.resource.kind.as_str() {
                "Pod" => {
                    let node = isolation::NodeSecurity::of_node_of(cluster, &object).await?;
                    pod::describe(&mut page, &object, &node);
                }
                "Service" => service::describe(cluster, &mut page, &object).await?,
                "NetworkPolicy" => policy::describe(cluster, &mut page, &object).await?,
                "Node" => node(cluster, &mut page, &object).await?,
                "Secret" => secret(&mut page, &object),
                _ => rest(&mut page, &object),
            }
            events(cluster, &target.resource, &mut page, &object).await?;
            write!(out, "{}", page.text())?;
        }
    }
    Ok(())
}

fn metadata(page: &mut Page, object: &Value) {
    let metadata = &object["metadata"];
    page.field("Name", &metadata["name"]);
    page.optional("Namespace", &metadata["namespace"]);
    page.map("Labels", &metadata["labels"]);
    let mut annotations = metadata["annotations"].clone();
    if let Some(annotations) = annotations.as_object_mut() {
        // The whole manifest once more helps nobody.
        annotations.remove(crate::merge::LAST_APPLIED);
    }
    page.map("Annotations", &annotations);
    page.field("Created", &metadata["creationTimestamp"]);
    page.optional("Deletion asked", &metadata["deletionTimestamp"]);
    for owner in metadata["ownerReferences"].as_array().into_iter().flatten() {
        let (kind, name) = (page::plain(&owner["kind"]), page::plain(&owner["name"]));
        let word = if owner["controller"] == true { "Controlled by" } else { "Owned by" };
        page.line(word, &format!("{kind}/{name}"));
    }
}

/// Whatever a kind has beside its metadata, as YAML.
fn rest(page: &mut Page, object: &Value) {
    for (key, value) in object.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            page.tree(&page::title(key), value);
        }
    }
}

fn secret(page: &mut Page, object: &Value) {
    page.field("Type", &object["type"]);
    page.section("Data (sizes only)");
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        let text = value.as_str().unwrap_or_default();
        let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
        page.line(&format!("  {key}"), &format!("{} bytes", text.len() / 4 * 3 - padding));
    }
}

async fn node(cluster: &Cluster, page: &mut Page, object: &Value) -> Result<()> {
    let (spec, status) = (&object["spec"], &object["status"]);
    page.line("Schedulable", if spec["unschedulable"] == true { "no" } else { "yes" });
    let ranges = spec["podCIDRs"].as_array().into_iter().flatten();
    let ranges: Vec<&str> = ranges.filter_map(Value::as_str).collect();
    if !ranges.is_empty() {
        page.line("Pod CIDRs", &ranges.join(", "));
    }
    for taint in spec["taints"].as_array().into_iter().flatten() {
        let text = |key: &str| page::plain(&taint[key]);
        page.line("Taint", &format!("{}={}:{}", text("key"), text("value"), text("effect")));
    }
    page::conditions(page, &status["conditions"]);
    page.section("Addresses");
    for address in status["addresses"].as_array().into_iter().flatten() {
        page.line(
            &format!("  {}", page::plain(&address["type"])),
            &page::plain(&address["address"]),
        );
    }
    page.map("Capacity", &status["capacity"]);
    page.map("Allocatable", &status["allocatable"]);
    page.tree("System info", &status["nodeInfo"]);
    let selector = escape(&format!("spec.nodeName={}", page::plain(&object["metadata"]["name"])));
    let path = format!("/api/v1/pods?fieldSelector={selector}");
    let pods: Value = cluster.client.request(Request::get(path).body(vec![])?).await?;
    page.section("Pods");
    for pod in pods["items"].as_array().into_iter().flatten() {
        let name = format!(
            "  {}/{}",
            page::plain(&pod["metadata"]["namespace"]),
            page::plain(&pod["metadata"]["name"])
        );
        page.line(&name, &page::plain(&pod["status"]["phase"]));
    }
    Ok(())
}

async fn events(
    cluster: &Cluster,
    resource: &Resource,
    page: &mut Page,
    object: &Value,
) -> Result<()> {
    let name = page::plain(&object["metadata"]["name"]);
    let selector =
        escape(&format!("involvedObject.name={name},involvedObject.kind={}", resource.kind));
    // Events about what has no namespace are kept in "default".
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    let path = format!("/api/v1/namespaces/{namespace}/events?fieldSelector={selector}");
    let list: Value = cluster.client.request(Request::get(path).body(vec![])?).await?;
    let mut events: Vec<&Value> = list["items"].as_array().into_iter().flatten().collect();
    events.retain(|event| {
        let uid = &event["involvedObject"]["uid"];
        uid.is_null() || *uid == object["metadata"]["uid"] || resource.kind == "Node"
    });
    events.sort_by_key(|event| page::plain(&event["lastTimestamp"]));
    if events.is_empty() {
        page.line("Events", "none");
        return Ok(());
    }
    page.section("Events");
    for event in events {
        let count = event["count"].as_u64().filter(|count| *count > 1);
        let times = count.map_or(String::new(), |count| format!(" (x{count})"));
        page.text_line(&format!(
            "  {}  {}  {}{times}: {}",
            page::plain(&event["lastTimestamp"]),
            page::plain(&event["type"]),
            page::plain(&event["reason"]),
            page::plain(&event["message"])
        ));
    }
    Ok(())
}
