//! `kubecfg scale`

use anyhow::{Result, bail};
use http::Request;
use serde_json::{Value, json};

use super::target::{escape, not_found};
use crate::client::Cluster;
use crate::print;
use crate::problem::is_not_found;

/// Sets the number of replicas through the `scale` subresource.
pub(crate) async fn scale(
    cluster: &Cluster,
    target: &[String],
    replicas: u32,
    expected: Option<u32>,
) -> Result<()> {
    let (kind, name) = match target {
        [word] => match word.split_once('/') {
            Some((kind, name)) => (kind, name),
            None => bail!("say what to scale as TYPE/NAME, for instance rc/{word}"),
        },
        [kind, name, ..] => (kind.as_str(), name.as_str()),
        [] => bail!("say what to scale as TYPE/NAME"),
    };
    for resource in cluster.catalog.by_word(kind).await? {
        let collection = resource.path(Some(&cluster.namespace));
        let path = format!("{collection}/{}/scale", escape(name));
        let scale: Value = match cluster.client.request(Request::get(&path).body(vec![])?).await {
            Ok(scale) => scale,
            Err(error) if is_not_found(&error) => {
                let object = Request::get(format!("{collection}/{}", escape(name))).body(vec![])?;
                if cluster.client.request::<Value>(object).await.is_ok() {
                    bail!(
                        "{} cannot be scaled: only what has replicas can, a replicationcontroller for instance",
                        resource.called(name)
                    );
                }
                return Err(not_found(cluster, &resource, &collection, name, error).await);
            }
            Err(error) => return Err(error.into()),
        };
        let current = scale.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(0);
        if expected.is_some_and(|expected| u64::from(expected) != current) {
            bail!(
                "{} has {current} replicas, not {}: nothing was changed",
                resource.called(name),
                expected.unwrap_or_default()
            );
        }
        let mut patch = json!({"spec": {"replicas": replicas}});
        if expected.is_some() {
            patch["metadata"] = json!({"resourceVersion": scale["metadata"]["resourceVersion"]});
        }
        let request = Request::patch(&path)
            .header("content-type", "application/merge-patch+json")
            .body(serde_json::to_vec(&patch)?)?;
        cluster.client.request::<Value>(request).await?;
        print::line(format_args!("{} scaled", resource.called(name)))?;
    }
    Ok(())
}
