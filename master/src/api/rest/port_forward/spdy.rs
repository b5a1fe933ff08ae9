//! Forwarding over SPDY: pairs of streams.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::node::tunnel_down::Message as Down;
use proto::node::tunnel_up::Message as Up;
use proto::node::{Data, EndOfInput, TunnelDown};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Target;
use crate::api::spdy::{Gone, Incoming, Stream};
use crate::api::streams::TunnelStream;

/// The two streams of a pair come one right after the other.
const PAIR_WITHIN: Duration = Duration::from_secs(30);

/// Bytes are passed on in pieces of this size, as tunnels want them.
const PIECE: usize = 16 << 10;

/// One stream of a pair that waits for the other.
struct Half {
    stream: Stream,
    is_error: bool,
    since: Instant,
}

/// Two streams that belong together.
struct Pair {
    data: Stream,
    error: Stream,
    port: u16,
}

/// Serves the pairs that a client opens, at once, until it leaves.
pub(super) async fn forward(target: Target, mut incoming: Incoming) {
    let target = Arc::new(target);
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut connections = JoinSet::new();
    loop {
        let oldest = halves.values().map(|half| half.since + PAIR_WITHIN).min();
        let timer = async {
            match oldest {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stream = incoming.next() => {
                let Some(stream) = stream else { return };
                if let Some(pair) = pair(stream, &mut halves) {
                    let target = Arc::clone(&target);
                    connections.spawn(async move { serve(&target, pair).await });
                }
            }
            () = timer => give_up(&mut halves).await,
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Files a stream; gives the pair that it makes whole. A stream that is for nothing is broken off.
fn pair(mut stream: Stream, halves: &mut HashMap<String, Half>) -> Option<Pair> {
    let is_error = match stream.headers.get("streamtype") {
        Some("error") => true,
        Some("data") => false,
        _ => {
            stream.writer.reset();
            return None;
        }
    };
    let port = stream.headers.get("port").and_then(|port| port.parse().ok()).filter(|p| *p != 0);
    let Some(port) = port else {
        stream.writer.reset();
        return None;
    };
    // The oldest clients have none, and forward one connection at a time.
    let id = stream.headers.get("requestid").unwrap_or_default().to_owned();
    match halves.remove(&id) {
        Some(half) if half.is_error != is_error => {
            let (error, data) =
                if is_error { (stream, half.stream) } else { (half.stream, stream) };
            Some(Pair { data, error, port })
        }
        other => {
            if let Some(mut half) = other {
                half.stream.writer.reset();
            }
            halves.insert(id, Half { stream, is_error, since: Instant::now() });
            None
        }
    }
}

/// Breaks off what has waited too long.
async fn give_up(halves: &mut HashMap<String, Half>) {
    let now = Instant::now();
    let late = |half: &Half| half.since + PAIR_WITHIN <= now;
    let ids: Vec<String> =
        halves.iter().filter(|(_, half)| late(half)).map(|(id, _)| id.clone()).collect();
    for id in ids {
        let Some(mut half) = halves.remove(&id) else { continue };
        if half.is_error {
            let _ = half.stream.writer.write("timed out waiting for streams".into()).await;
            let _ = half.stream.writer.finish().await;
        } else {
            half.stream.writer.reset();
        }
    }
}

/// Connects, and carries until both directions have ended.
async fn serve(target: &Target, pair: Pair) {
    let Pair { mut data, mut error, port } = pair;
    let connected = tokio::select! {
        connected = target.connect(port) => connected,
        // A client that takes the connection back while it is made.
        () = is_reset(&mut error) => return data.writer.reset(),
    };
    match connected {
        Ok(tunnel) => {
            if carry(tunnel, &mut data, &mut error).await.is_err() {
                data.writer.reset();
            }
            let _ = error.writer.finish().await;
        }
        Err(why) => {
            tracing::debug!(port, why, "a port is not forwarded");
            let _ = error.writer.write(why.into()).await;
            let _ = error.writer.finish().await;
            let _ = data.writer.finish().await;
        }
    }
}

/// Clients end their side of the error stream at once, and say nothing on it.
async fn is_reset(stream: &mut Stream) {
    loop {
        match stream.reader.read().await {
            Ok(Some(_)) => {}
            Ok(None) => std::future::pending().await,
            Err(Gone) => return,
        }
    }
}

/// Carries both ways. An error when either side breaks off.
async fn carry(tunnel: TunnelStream, data: &mut Stream, error: &mut Stream) -> Result<(), Gone> {
    let TunnelStream { down, mut up } = tunnel;
    let Stream { reader, writer, .. } = data;
    let outward = async {
        loop {
            match up.recv().await.and_then(|message| message.message) {
                Some(Up::Data(Data { data, .. })) => writer.write(data).await?,
                Some(Up::EndOfOutput(_)) => {
                    writer.finish().await?;
                    // Older clients let go of a connection only when its error stream ends.
                    error.writer.finish().await?;
                }
                Some(Up::Finished(_)) => return Ok(()),
                _ => return Err(Gone),
            }
        }
    };
    let inward = async {
        let send = async |message: Down| down.send(TunnelDown { message: Some(message) }).await;
        loop {
            let bytes: Option<Bytes> = reader.read().await?;
            let Some(mut bytes) = bytes else { break };
            while !bytes.is_empty() {
                let data = bytes.split_to(bytes.len().min(PIECE));
                if send(Down::Data(Data { channel: 0, data })).await.is_err() {
                    // The node is about to say how it ends.
                    return std::future::pending().await;
                }
            }
        }
        let _ = send(Down::EndOfInput(EndOfInput {})).await;
        // What the pod still says is carried on; only a reset ends that.
        std::future::pending().await
    };
    tokio::select! {
        ended = outward => ended,
        ended = inward => ended,
    }
}
