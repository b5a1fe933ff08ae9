//! Putting an image into a registry, over the distribution API.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use base64::Engine;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Pushes the image of an OCI archive written by [`write_archive`](crate::image::write_archive) to
/// a registry in plain HTTP, as `user:password`.
///
/// # Errors
/// When the registry does not take it.
pub async fn push(
    archive: &Path,
    registry: &str,
    repository: &str,
    tag: &str,
    credentials: &str,
) -> Result<()> {
    let mut files = HashMap::new();
    let mut tar = tar::Archive::new(std::fs::File::open(archive)?);
    for entry in tar.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        files.insert(name, bytes);
    }
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().context("no digest")?.to_owned();
        let bytes = files.get(&format!("blobs/{}", digest.replacen(':', "/", 1)));
        Ok::<_, anyhow::Error>((digest, bytes.context("no blob")?.clone()))
    };
    let index: Value = serde_json::from_slice(files.get("index.json").context("no index")?)?;
    let (_, manifest_bytes) = blob(&index["manifests"][0])?;
    let manifest: Value = serde_json::from_slice(&manifest_bytes)?;

    wait_for(registry).await?;
    let layers = manifest["layers"].as_array().into_iter().flatten();
    for descriptor in layers.chain([&manifest["config"]]) {
        let (digest, bytes) = blob(descriptor)?;
        let path = format!("/v2/{repository}/blobs/uploads/");
        let answer = request(registry, "POST", &path, credentials, "", &[]).await?;
        let location = answer
            .lines()
            .find_map(|line| line.strip_prefix("Location: "))
            .context("the registry names no place to upload to")?;
        let place = location.split_once("/v2/").map_or(location, |(_, rest)| rest).trim();
        let separator = if place.contains('?') { '&' } else { '?' };
        let path = format!("/v2/{place}{separator}digest={digest}");
        request(registry, "PUT", &path, credentials, "application/octet-stream", &bytes).await?;
    }
    let path = format!("/v2/{repository}/manifests/{tag}");
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    request(registry, "PUT", &path, credentials, media_type, &manifest_bytes).await?;
    Ok(())
}

async fn wait_for(registry: &str) -> Result<()> {
    let deadline = tokio::time::Instant::now() + crate::check::DEADLINE;
    while TcpStream::connect(registry).await.is_err() {
        if tokio::time::Instant::now() > deadline {
            bail!("no registry answers at {registry}");
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Ok(())
}

/// One request; the head of a successful answer.
async fn request(
    registry: &str,
    method: &str,
    path: &str,
    credentials: &str,
    media_type: &str,
    body: &[u8],
) -> Result<String> {
    let credentials = base64::engine::general_purpose::STANDARD.encode(credentials);
    let mut stream = TcpStream::connect(registry).await?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {registry}\r\nAuthorization: Basic {credentials}\r\n\
         Content-Type: {media_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    if !answer.starts_with("HTTP/1.1 2") {
        bail!("{method} {path}: {}", answer.lines().next().unwrap_or_default());
    }
    Ok(answer)
}
