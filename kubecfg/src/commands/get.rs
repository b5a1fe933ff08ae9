//! `kubecfg get`

use std::io::Write;

use anyhow::{Result, bail};
use futures::{AsyncBufReadExt, StreamExt};
use http::Request;
use serde_json::{Value, json};

use super::target::{self, Target, escape, fetch, namespace, query};
use crate::args::{Output, Select};
use crate::client::Cluster;
use crate::problem::is_not_found;
use crate::table::{ACCEPT, Column, Style, Table, header, print};

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) output: Option<Output>,
    pub(crate) watch: bool,
    pub(crate) headers: bool,
    pub(crate) labels: bool,
}

/// Lists objects, and goes on with their changes when asked to.
pub(crate) async fn get(cluster: &Cluster, select: &Select, how: How) -> Result<()> {
    let targets = target::targets(cluster, &select.words).await?;
    if how.watch && (targets.len() > 1 || targets.iter().any(|target| target.names.len() > 1)) {
        bail!("only one resource type, or one object, can be watched at a time");
    }
    match how.output {
        Some(Output::Json | Output::Yaml | Output::Name) => {
            objects(cluster, select, &targets, how).await
        }
        None | Some(Output::Wide) => tables(cluster, select, &targets, how).await,
    }
}

async fn objects(cluster: &Cluster, select: &Select, targets: &[Target], how: How) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut found = Vec::new();
    let mut single = false;
    for target in targets {
        single |= target.names.len() == 1 && targets.len() == 1;
        for object in fetch(cluster, select, target).await? {
            found.push((target, object));
        }
    }
    if how.output == Some(Output::Name) {
        for (target, object) in &found {
            writeln!(out, "{}", target.resource.called(name_of(object)))?;
        }
    } else if single || how.watch {
        for (_, object) in &found {
            write_object(&mut out, object, how.output)?;
        }
    } else {
        let items: Vec<Value> = found.into_iter().map(|(_, object)| object).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items});
        write_object(&mut out, &list, how.output)?;
    }
    out.flush()?;
    if how.watch
        && let Some(target) = targets.first()
    {
        let path = collection(cluster, select, target, "");
        let list: Value = cluster.client.request(Request::get(&path).body(vec![])?).await?;
        let version = list.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        let mut changes = Changes { version: version.unwrap_or("0").to_owned(), accept: None };
        changes
            .follow(cluster, select, target, |_, object| {
                if how.output == Some(Output::Name) {
                    writeln!(out, "{}", target.resource.called(name_of(&object)))?;
                } else {
                    write_object(&mut out, &object, how.output)?;
                }
                Ok(out.flush()?)
            })
            .await?;
    }
    Ok(())
}

fn name_of(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

fn write_object(out: &mut impl Write, object: &Value, output: Option<Output>) -> Result<()> {
    if output == Some(Output::Yaml) {
        let text = serde_yaml::to_string(object)?;
        if object["kind"] != "List" {
            writeln!(out, "---")?;
        }
        write!(out, "{text}")?;
    } else {
        writeln!(out, "{}", serde_json::to_string_pretty(object)?)?;
    }
    Ok(())
}

async fn tables(cluster: &Cluster, select: &Select, targets: &[Target], how: How) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut empty = true;
    let mut first = true;
    for target in targets {
        let style = Style {
            wide: how.output == Some(Output::Wide),
            namespaces: select.all_namespaces && target.resource.namespaced,
            labels: how.labels,
            prefix: (targets.len() > 1).then_some(target.resource.singular.as_str()),
        };
        let mut widths = Vec::new();
        let mut columns: Vec<Column> = Vec::new();
        let mut rows = Vec::new();
        let mut version = String::from("0");
        for table in fetch_tables(cluster, select, target).await? {
            if columns.is_empty() {
                columns.clone_from(&table.column_definitions);
            }
            rows.extend(table.texts(&columns, style));
            version = table.metadata.resource_version;
        }
        if !rows.is_empty() || how.watch {
            if !first {
                writeln!(out)?;
            }
            first = false;
            if how.headers {
                rows.insert(0, header(&columns, style));
            }
            empty = false;
            print(&mut out, &rows, &mut widths)?;
            out.flush()?;
        }
        if how.watch {
            let mut changes = Changes { version, accept: Some(ACCEPT) };
            changes
                .follow(cluster, select, target, |_, object| {
                    let table: Table = serde_json::from_value(object)?;
                    print(&mut out, &table.texts(&columns, style), &mut widths)?;
                    Ok(out.flush()?)
                })
                .await?;
        }
    }
    if empty && targets.iter().all(|target| target.names.is_empty()) {
        match targets.iter().find_map(|target| namespace(cluster, select, &target.resource)) {
            Some(namespace) => eprintln!("nothing found in namespace {namespace}"),
            None => eprintln!("nothing found"),
        }
    }
    Ok(())
}

async fn fetch_tables(cluster: &Cluster, select: &Select, target: &Target) -> Result<Vec<Table>> {
    let path = target.resource.path(namespace(cluster, select, &target.resource));
    let request = |path: &str| Request::get(path).header("accept", ACCEPT).body(Vec::new());
    if target.names.is_empty() {
        let path = collection(cluster, select, target, "");
        return Ok(vec![cluster.client.request(request(&path)?).await?]);
    }
    let mut tables = Vec::new();
    for name in &target.names {
        let object = format!("{path}/{}", escape(name));
        match cluster.client.request(request(&object)?).await {
            Ok(table) => tables.push(table),
            Err(error) if is_not_found(&error) => {
                return Err(target::not_found(cluster, &target.resource, &path, name, error).await);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(tables)
}

/// The path of what is selected, with the query that selects it.
fn collection(cluster: &Cluster, select: &Select, target: &Target, more: &str) -> String {
    let path = target.resource.path(namespace(cluster, select, &target.resource));
    let mut query = query(select);
    if let [name] = target.names.as_slice() {
        let by_name = format!("fieldSelector={}", escape(&format!("metadata.name={name}")));
        query = by_name;
    }
    match (query.is_empty(), more.is_empty()) {
        (true, true) => path,
        (false, true) => format!("{path}?{query}"),
        (true, false) => format!("{path}?{more}"),
        (false, false) => format!("{path}?{query}&{more}"),
    }
}

/// A watch that goes on where it was when the server ends it.
struct Changes {
    version: String,
    accept: Option<&'static str>,
}

impl Changes {
    async fn follow(
        &mut self,
        cluster: &Cluster,
        select: &Select,
        target: &Target,
        mut tell: impl FnMut(&str, Value) -> Result<()>,
    ) -> Result<()> {
        loop {
            let more = format!("watch=1&allowWatchBookmarks=true&resourceVersion={}", self.version);
            let path = collection(cluster, select, target, &more);
            let mut request = Request::get(path);
            if let Some(accept) = self.accept {
                request = request.header("accept", accept);
            }
            let stream = cluster.client.request_stream(request.body(Vec::new())?).await?;
            let mut lines = std::pin::pin!(stream.lines());
            while let Some(line) = lines.next().await {
                let mut event: Value = serde_json::from_str(&line?)?;
                let kind = event["type"].as_str().unwrap_or_default().to_owned();
                let object = event["object"].take();
                if kind == "ERROR" {
                    let message = object["message"].as_str().unwrap_or("the watch broke off");
                    bail!("{message}; start again to see what is there now");
                }
                let version = object
                    .pointer("/rows/0/object/metadata/resourceVersion")
                    .or_else(|| object.pointer("/metadata/resourceVersion"))
                    .and_then(Value::as_str);
                if let Some(version) = version.filter(|version| !version.is_empty()) {
                    version.clone_into(&mut self.version);
                }
                if kind != "BOOKMARK" {
                    tell(&kind, object)?;
                }
            }
        }
    }
}
