//! A request for each connection, with a bound on its time.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection that is not answered by then counts as not answered.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Fetches `path` from `address` (`host:port`); the body of a 200.
///
/// # Errors
/// When nobody answers, or something else.
pub async fn get(address: &str, path: &str) -> Result<String> {
    let fetch = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!("{}: {}", head.lines().next().unwrap_or_default(), body.trim());
        }
        Ok(body.to_owned())
    };
    match tokio::time::timeout(TIMEOUT, fetch).await {
        Ok(result) => result.with_context(|| format!("http://{address}{path}")),
        Err(_) => bail!("http://{address}{path} does not answer"),
    }
}
