//! Forwarding over a WebSocket: the n-th port has channel 2n for data and 2n+1 for errors. The first
//! message on each is the port's number, the low byte first.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use proto::node::tunnel_down::Message as Down;
use proto::node::tunnel_up::Message as Up;
use proto::node::{Data, TunnelDown};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Target;
use crate::api::rest::channels::Coding;

/// Messages to the client on their way, of all ports together.
const UNSENT: usize = 8;

/// Messages of the client to one port that wait for its connection.
const UNREAD: usize = 8;

/// Bytes are passed on in pieces of this size, as tunnels want them.
const PIECE: usize = 16 << 10;

/// A client is asked for a sign of life so often; one that is gone breaks the connection by it.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// Connects to all ports at once, and carries until the last of the connections has ended or the
/// client leaves.
pub(super) async fn forward(target: Target, socket: WebSocket, ports: Vec<u16>, protocol: &str) {
    let coding = Coding::of(protocol);
    let (mut to_client, mut from_client) = socket.split();
    let (say, mut said) = mpsc::channel::<(u8, Bytes)>(UNSENT);
    let mut inputs = Vec::new();
    let target = std::sync::Arc::new(target);
    let mut connections = JoinSet::new();
    for (channel, port) in (0..).step_by(2).zip(ports) {
        let (input, pieces) = mpsc::channel(UNREAD);
        inputs.push(input);
        let (target, say) = (target.clone(), say.clone());
        connections.spawn(async move { serve(&target, channel, port, pieces, &say).await });
    }
    drop(say);
    let outward = async {
        loop {
            let message = match tokio::time::timeout(PING_INTERVAL, said.recv()).await {
                Ok(Some((channel, data))) => coding.encode(channel, &data),
                Ok(None) => break,
                Err(_quiet) => Message::Ping(Bytes::new()),
            };
            if to_client.send(message).await.is_err() {
                return;
            }
        }
        let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        let _ = to_client.send(Message::Close(Some(close))).await;
    };
    let inward = async {
        while let Some(Ok(message)) = from_client.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => text.into(),
                Message::Close(_) => return,
                Message::Ping(_) | Message::Pong(_) => continue,
            };
            let Some((channel, mut data)) = coding.decode(&bytes) else { continue };
            // Nobody reads what a client says on an error channel.
            let Some(input) = inputs.get(usize::from(channel / 2)).filter(|_| channel % 2 == 0)
            else {
                continue;
            };
            while !data.is_empty() {
                let piece = data.split_to(data.len().min(PIECE));
                if input.send(piece).await.is_err() {
                    break;
                }
            }
        }
    };
    tokio::select! {
        () = outward => {}
        () = inward => {}
    }
}

/// One port.
async fn serve(
    target: &Target,
    channel: u8,
    port: u16,
    mut pieces: mpsc::Receiver<Bytes>,
    say: &mpsc::Sender<(u8, Bytes)>,
) {
    for channel in [channel, channel + 1] {
        let number = Bytes::copy_from_slice(&port.to_le_bytes());
        if say.send((channel, number)).await.is_err() {
            return;
        }
    }
    let tunnel = match target.connect(port).await {
        Ok(tunnel) => tunnel,
        Err(why) => {
            let _ = say.send((channel + 1, why.into())).await;
            return;
        }
    };
    let (down, mut up) = (tunnel.down, tunnel.up);
    let outward = async {
        // This protocol knows no end of one direction, so the first end is the connection's.
        while let Some(Up::Data(Data { data, .. })) = up.recv().await.and_then(|m| m.message) {
            if say.send((channel, data)).await.is_err() {
                return;
            }
        }
    };
    let inward = async {
        while let Some(data) = pieces.recv().await {
            let message = Some(Down::Data(Data { channel: 0, data }));
            if down.send(TunnelDown { message }).await.is_err() {
                break;
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        () = outward => {}
        () = inward => {}
    }
}
