//! From the words of a command line to objects.

use anyhow::{Context, Result, bail};
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use serde_json::Value;

use crate::args::Select;
use crate::client::Cluster;
use crate::problem::is_not_found;
use crate::resources::Resource;
use crate::suggest;

/// A resource, and the names that were given with it; none means all that is selected.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) resource: Resource,
    pub(crate) names: Vec<String>,
}

/// `pods`, `pods,services`, `pod web db`, `pod/web service/web`.
pub(crate) async fn targets(cluster: &Cluster, words: &[String]) -> Result<Vec<Target>> {
    let Some((first, rest)) = words.split_first() else {
        bail!("say what: for instance \"pods\", \"pod NAME\" or \"pod/NAME\"");
    };
    let mut targets: Vec<Target> = Vec::new();
    if first.contains('/') {
        for word in words {
            let Some((kind, name)) = word.split_once('/') else {
                bail!("\"{word}\" follows TYPE/NAME and has to be of that form, too");
            };
            for resource in cluster.catalog.by_word(kind).await? {
                match targets.iter_mut().find(|target| target.resource == resource) {
                    Some(target) => target.names.push(name.to_owned()),
                    None => targets.push(Target { resource, names: vec![name.to_owned()] }),
                }
            }
        }
        return Ok(targets);
    }
    for kind in first.split(',').filter(|kind| !kind.is_empty()) {
        for resource in cluster.catalog.by_word(kind).await? {
            targets.push(Target { resource, names: rest.to_vec() });
        }
    }
    Ok(targets)
}

/// The namespace to look in; nothing for all, or for resources without.
pub(crate) fn namespace<'a>(
    cluster: &'a Cluster,
    select: &Select,
    resource: &Resource,
) -> Option<&'a str> {
    (resource.namespaced && !select.all_namespaces).then_some(cluster.namespace.as_str())
}

/// The query string of a list with the selectors that were given.
pub(crate) fn query(select: &Select) -> String {
    let selectors =
        [("labelSelector", &select.selector), ("fieldSelector", &select.field_selector)];
    let parts: Vec<String> = selectors
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", escape(value.as_deref()?))))
        .collect();
    parts.join("&")
}

/// Percent-encodes what is not unreserved (RFC 3986).
pub(crate) fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// The objects of a target as JSON.
pub(crate) async fn fetch(
    cluster: &Cluster,
    select: &Select,
    target: &Target,
) -> Result<Vec<Value>> {
    let path = target.resource.path(namespace(cluster, select, &target.resource));
    if !target.names.is_empty() {
        let mut objects = Vec::new();
        for name in &target.names {
            objects.push(get(cluster, &target.resource, &path, name).await?);
        }
        return Ok(objects);
    }
    let request = Request::get(format!("{path}?{}", query(select))).body(Vec::new())?;
    let mut list: Value = cluster.client.request(request).await?;
    let api_version = list["apiVersion"].take();
    let Value::Array(mut items) = list["items"].take() else { bail!("the server sent no list") };
    for item in &mut items {
        // Items of a list do not say what they are.
        item["apiVersion"] = api_version.clone();
        item["kind"] = target.resource.kind.clone().into();
    }
    Ok(items)
}

/// One object, or an error that suggests another name.
async fn get(cluster: &Cluster, resource: &Resource, path: &str, name: &str) -> Result<Value> {
    let request = Request::get(format!("{path}/{}", escape(name))).body(Vec::new())?;
    match cluster.client.request::<Value>(request).await {
        Err(error) if is_not_found(&error) => {
            Err(not_found(cluster, resource, path, name, error).await)
        }
        result => Ok(result?),
    }
}

/// The server's words for an object that is not there, with a name that may have been meant.
pub(crate) async fn not_found(
    cluster: &Cluster,
    _resource: &Resource,
    path: &str,
    name: &str,
    error: kube::Error,
) -> anyhow::Error {
    let names = match Request::get(format!("{path}?limit=500")).body(Vec::new()) {
        Ok(request) => cluster.client.request::<Value>(request).await.ok().map(|list| {
            let items = list["items"].as_array().cloned().unwrap_or_default();
            items
                .iter()
                .filter_map(|item| item.pointer("/metadata/name")?.as_str().map(str::to_owned))
                .collect::<Vec<_>>()
        }),
        Err(_) => None,
    };
    let names = names.unwrap_or_default();
    let hint = suggest::hint(name, names.iter().map(String::as_str));
    let message = crate::problem::status(&error).map_or(String::new(), |s| s.message.clone());
    anyhow::anyhow!("{message}{hint}")
}

/// The pod that a word means: its name, or TYPE/NAME of something whose selector finds pods.
pub(crate) async fn pod(cluster: &Cluster, word: &str) -> Result<(Api<Pod>, Pod)> {
    let (pods, pod, _) = pod_and_origin(cluster, word).await?;
    Ok((pods, pod))
}

/// As [`pod`], with the object that the word names.
pub(crate) async fn pod_and_origin(
    cluster: &Cluster,
    word: &str,
) -> Result<(Api<Pod>, Pod, Value)> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let (kind, name) = word.split_once('/').unwrap_or(("pod", word));
    let resource = cluster
        .catalog
        .by_word(kind)
        .await?
        .into_iter()
        .next()
        .with_context(|| format!("\"{kind}\" means nothing"))?;
    let path = resource.path(Some(&cluster.namespace));
    let object = get(cluster, &resource, &path, name).await?;
    if resource.kind == "Pod" {
        return Ok((pods, serde_json::from_value(object.clone())?, object));
    }
    let selector = object
        .pointer("/spec/selector/matchLabels")
        .or_else(|| object.pointer("/spec/selector"))
        .and_then(Value::as_object)
        .filter(|labels| !labels.is_empty())
        .with_context(|| {
            format!("{} has no selector that would find pods", resource.called(name))
        })?;
    let selector: Vec<String> = selector
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let mut found = pods.list(&ListParams::default().labels(&selector.join(","))).await?.items;
    // A running one has more to say than one that waits or ended.
    found.sort_by_key(|pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        (phase != Some("Running"), pod.metadata.name.clone())
    });
    match found.into_iter().next() {
        Some(pod) => Ok((pods, pod, object)),
        None => bail!("{} has no pods", resource.called(name)),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_has_a_meaning_in_urls_is_escaped() {
        assert_eq!(super::escape("a=b,c in (x)"), "a%3Db%2Cc%20in%20%28x%29");
    }
}
