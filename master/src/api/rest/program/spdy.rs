//! A program's streams over SPDY: the client opens one for each, and says by a header what it is for.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use proto::k8s as k8s_openapi;

use super::{FromClient, Input, Left, Output, STDERR, Size, Wanted, status};
use crate::api::spdy::{Incoming, Reader, Stream, Writer};

/// A client opens all its streams at once.
const STREAMS_WITHIN: Duration = Duration::from_secs(30);

/// A terminal's size is told in some thirty bytes.
const MAX_SIZE_TEXT: usize = 1024;

pub(super) struct SpdyInput {
    stdin: Option<Stdin>,
    resize: Option<Resizes>,
    // Dropping a direction ends it, which is too early for these.
    _unused: Vec<Writer>,
}

struct Stdin(Reader);

struct Resizes {
    reader: Reader,
    text: BytesMut,
}

pub(super) struct SpdyOutput {
    stdout: Option<Writer>,
    stderr: Option<Writer>,
    error: Writer,
    /// Whether the error stream carries an object.
    objects: bool,
}

/// Waits for all streams that there have to be. Nothing when they do not come.
pub(super) async fn streams(
    mut incoming: Incoming,
    wanted: Wanted,
    protocol: &str,
) -> Option<(SpdyInput, SpdyOutput)> {
    // Sizes came with the third version, the object with the fourth.
    let objects = protocol.starts_with("v4.");
    let resizes = wanted.tty && (objects || protocol.starts_with("v3."));
    let mut missing = vec!["error"];
    let expected = [
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr),
        ("resize", resizes),
    ];
    missing.extend(expected.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name));
    let mut found: Vec<(&str, Stream)> = Vec::new();
    let all = async {
        while !missing.is_empty() {
            let stream = incoming.next().await?;
            let kind = stream.headers.get("streamtype").unwrap_or_default();
            match missing.iter().position(|name| *name == kind) {
                Some(position) => found.push((missing.swap_remove(position), stream)),
                None => tracing::debug!(kind, "a client opens a stream that is for nothing"),
            }
        }
        Some(())
    };
    match tokio::time::timeout(STREAMS_WITHIN, all).await {
        Ok(Some(())) => {}
        Ok(None) => return None,
        Err(_) => {
            tracing::debug!(?missing, "a client does not open its streams");
            return None;
        }
    }
    let mut take = |name: &str| {
        let position = found.iter().position(|(kind, _)| *kind == name)?;
        Some(found.swap_remove(position).1)
    };
    let mut unused = Vec::new();
    let mut reader = |stream: Stream| {
        unused.push(stream.writer);
        stream.reader
    };
    let stdin = take("stdin").map(&mut reader).map(Stdin);
    let resize = take("resize").map(&mut reader);
    let resize = resize.map(|reader| Resizes { reader, text: BytesMut::new() });
    let writer = |stream: Stream| stream.writer;
    let output = SpdyOutput {
        stdout: take("stdout").map(writer),
        stderr: take("stderr").map(writer),
        error: take("error").map(writer)?,
        objects,
    };
    Some((SpdyInput { stdin, resize, _unused: unused }, output))
}

impl Input for SpdyInput {
    /// A client that has left ends the connection, and this with it.
    async fn next(&mut self) -> Option<FromClient> {
        let stdin = async {
            match &mut self.stdin {
                Some(Stdin(reader)) => reader.read().await,
                None => std::future::pending().await,
            }
        };
        let resize = async {
            match &mut self.resize {
                Some(resizes) => resizes.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            bytes = stdin => match bytes {
                Ok(Some(bytes)) => Some(FromClient::Input(bytes)),
                // One that was broken off says nothing more either.
                Ok(None) | Err(_) => {
                    self.stdin = None;
                    Some(FromClient::EndOfInput)
                }
            },
            size = resize => match size {
                Some(size) => Some(FromClient::Resize(size)),
                None => {
                    self.resize = None;
                    Some(FromClient::Nothing)
                }
            },
        }
    }
}

impl Resizes {
    /// Sizes come as objects one after the other, cut anywhere.
    async fn next(&mut self) -> Option<Size> {
        loop {
            let mut sizes = serde_json::Deserializer::from_slice(&self.text).into_iter::<Size>();
            let size = sizes.next();
            let end = sizes.byte_offset();
            match size {
                Some(Ok(size)) => {
                    let _ = self.text.split_to(end);
                    return Some(size);
                }
                Some(Err(error)) if !error.is_eof() => return None,
                Some(Err(_)) | None => {}
            }
            if self.text.len() > MAX_SIZE_TEXT {
                return None;
            }
            let more = self.reader.read().await.ok().flatten()?;
            self.text.extend_from_slice(&more);
        }
    }
}

impl Output for SpdyOutput {
    /// The streams stand, which is all a client waits for.
    async fn begin(&mut self) -> Result<(), Left> {
        Ok(())
    }

    async fn data(&mut self, channel: u8, data: Bytes) -> Result<(), Left> {
        let writer = if channel == STDERR { &mut self.stderr } else { &mut self.stdout };
        // A client may close its output and still want to know how it ends.
        if let Some(output) = writer
            && output.write(data).await.is_err()
        {
            *writer = None;
        }
        Ok(())
    }

    /// The connection does that by itself.
    async fn ping(&mut self) -> Result<(), Left> {
        Ok(())
    }

    async fn end(&mut self, status: &Status) -> Result<(), Left> {
        for writer in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            let _ = writer.finish().await;
        }
        let told = status::told(status, self.objects);
        self.error.write(told.into()).await.map_err(|_| Left)?;
        self.error.finish().await.map_err(|_| Left)
    }
}
