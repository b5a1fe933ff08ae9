//! `kubecfg delete`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use futures::{AsyncBufReadExt, StreamExt};
use http::Request;
use serde_json::{Value, json};

use super::apply::locate;
use super::target::{self, escape, fetch};
use crate::args::{Cascade, Select};
use crate::client::Cluster;
use crate::manifest;
use crate::print;
use crate::problem::{is_not_found, sentence};
use crate::resources::Resource;

/// How to delete.
#[derive(Debug)]
pub(crate) struct How {
    pub(crate) all: bool,
    pub(crate) grace_period_seconds: Option<u32>,
    pub(crate) wait: bool,
    pub(crate) ignore_not_found: bool,
    pub(crate) cascade: Cascade,
}

/// An object to delete.
struct Doomed {
    resource: Resource,
    /// Path of its collection.
    path: String,
    name: String,
}

/// Deletes objects, then waits until they are gone.
pub(crate) async fn delete(
    cluster: &Cluster,
    select: &Select,
    files: &[PathBuf],
    how: &How,
) -> Result<ExitCode> {
    let doomed = if files.is_empty() {
        by_words(cluster, select, how).await?
    } else {
        let mut doomed = Vec::new();
        for manifest in manifest::read(files)? {
            let (resource, path) = locate(cluster, &manifest, None).await?;
            let Some(name) = manifest.name() else {
                bail!("{}: metadata.name is missing", manifest.place("metadata"));
            };
            doomed.push(Doomed { resource, path, name: name.to_owned() });
        }
        doomed
    };
    let mut code = ExitCode::SUCCESS;
    // The work goes on when nobody reads what became of it.
    let mut told = Ok(());
    let mut going = Vec::new();
    for object in doomed {
        match request(cluster, &object, how).await {
            Ok(Some(uid)) => {
                let line = format!("{} deleted", object.resource.called(&object.name));
                told = told.and_then(|()| print::line(line));
                going.push((object, uid));
            }
            Ok(None) => {}
            Err(error) => {
                eprintln!("{}", sentence(&error));
                code = ExitCode::FAILURE;
            }
        }
    }
    if how.wait {
        for (object, uid) in &going {
            wait(cluster, object, uid).await?;
        }
    }
    told.map(|()| code)
}

async fn by_words(cluster: &Cluster, select: &Select, how: &How) -> Result<Vec<Doomed>> {
    let selected = select.selector.is_some() || select.field_selector.is_some() || how.all;
    let mut doomed = Vec::new();
    for target in target::targets(cluster, &select.words).await? {
        if target.names.is_empty() && !selected {
            bail!("say which {} to delete: by name, with -l, or --all", target.resource.plural);
        }
        let path = target.resource.path(target::namespace(cluster, select, &target.resource));
        if !target.names.is_empty() {
            for name in target.names {
                let (resource, path) = (target.resource.clone(), path.clone());
                doomed.push(Doomed { resource, path, name });
            }
            continue;
        }
        for object in fetch(cluster, select, &target).await? {
            let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
            let path = target.resource.path(text("/metadata/namespace"));
            let name = text("/metadata/name").unwrap_or_default().to_owned();
            doomed.push(Doomed { resource: target.resource.clone(), path, name });
        }
    }
    if doomed.is_empty() {
        eprintln!("nothing found to delete");
    }
    Ok(doomed)
}

/// Asks for the deletion; the uid of what goes, or nothing when there is nothing.
async fn request(cluster: &Cluster, object: &Doomed, how: &How) -> Result<Option<String>> {
    let mut options = json!({
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": match how.cascade {
            Cascade::Background => "Background",
            Cascade::Foreground => "Foreground",
            Cascade::Orphan => "Orphan",
        },
    });
    if let Some(seconds) = how.grace_period_seconds {
        options["gracePeriodSeconds"] = seconds.into();
    }
    let path = format!("{}/{}", object.path, escape(&object.name));
    let request = Request::delete(path)
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&options)?)?;
    match cluster.client.request::<Value>(request).await {
        // Either the object as it is on its way out, or a Status about one that is gone.
        Ok(answer) => {
            let uid = answer.pointer("/metadata/uid").or_else(|| answer.pointer("/details/uid"));
            Ok(Some(uid.and_then(Value::as_str).unwrap_or_default().to_owned()))
        }
        Err(error) if is_not_found(&error) && how.ignore_not_found => Ok(None),
        Err(error) if is_not_found(&error) => {
            let Doomed { resource, path, name } = object;
            Err(target::not_found(cluster, resource, path, name, error).await)
        }
        Err(error) => Err(error.into()),
    }
}

/// Waits until the object of this uid is gone; another one of its name may be there by then.
async fn wait(cluster: &Cluster, object: &Doomed, uid: &str) -> Result<()> {
    let selector = escape(&format!("metadata.name={}", object.name));
    loop {
        let path = format!("{}?fieldSelector={selector}", object.path);
        let list: Value = cluster.client.request(Request::get(path).body(vec![])?).await?;
        let there = list["items"]
            .as_array()
            .is_some_and(|items| items.iter().any(|item| item["metadata"]["uid"] == uid));
        if !there {
            return Ok(());
        }
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("0");
        let path =
            format!("{}?watch=1&fieldSelector={selector}&resourceVersion={version}", object.path);
        let stream = cluster.client.request_stream(Request::get(path).body(vec![])?).await?;
        let mut lines = std::pin::pin!(stream.lines());
        while let Some(line) = lines.next().await {
            let event: Value = serde_json::from_str(&line?)?;
            match event["type"].as_str() {
                Some("DELETED") if event["object"]["metadata"]["uid"] == uid => return Ok(()),
                // Too old a version, for instance: look again.
                Some("ERROR") => break,
                _ => {}
            }
        }
    }
}
