//! A program's streams over a WebSocket.
//!
//! Every message starts with the number of its channel: 0 input, 1 output, 2 errors, 3 how it
//! ended, 4 terminal sizes. In v5 the message 255, n closes channel n, which is how input ends. In
//! base64 the number is a digit, and all is text.

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use proto::k8s as k8s_openapi;

use super::{FromClient, Input, Left, Output, STDIN, STDOUT, status};
use crate::api::rest::channels::Coding;

const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

pub(super) struct WebSocketInput {
    socket: SplitStream<WebSocket>,
    coding: Coding,
    /// Whether channels can be closed.
    closes: bool,
}

pub(super) struct WebSocketOutput {
    socket: SplitSink<WebSocket, Message>,
    coding: Coding,
    /// Whether the error channel carries an object.
    objects: bool,
}

/// The two directions of a WebSocket that speaks `protocol`.
pub(super) fn split(socket: WebSocket, protocol: &str) -> (WebSocketInput, WebSocketOutput) {
    let coding = Coding::of(protocol);
    let (sink, stream) = socket.split();
    let closes = protocol.starts_with("v5.");
    let objects = closes || protocol.starts_with("v4.");
    let input = WebSocketInput { socket: stream, coding, closes };
    (input, WebSocketOutput { socket: sink, coding, objects })
}

impl Input for WebSocketInput {
    async fn next(&mut self) -> Option<FromClient> {
        let message = self.socket.next().await?.ok()?;
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Close(_) => return None,
            Message::Ping(_) | Message::Pong(_) => return Some(FromClient::Nothing),
        };
        Some(match self.coding.decode(&bytes) {
            Some((channel, data)) => read(channel, data, self.closes),
            None => FromClient::Nothing,
        })
    }
}

fn read(channel: u8, data: Bytes, closes: bool) -> FromClient {
    match (channel, &*data) {
        // Nothing means nothing: clients open channels with it.
        (STDIN, []) => FromClient::Nothing,
        (STDIN, _) => FromClient::Input(data),
        (RESIZE, size) => match serde_json::from_slice(size) {
            Ok(size) => FromClient::Resize(size),
            Err(error) => {
                tracing::debug!(%error, "ignored a terminal size that is none");
                FromClient::Nothing
            }
        },
        (CLOSE, [STDIN]) if closes => FromClient::EndOfInput,
        // Channels that only the server writes to, and closing them.
        _ => FromClient::Nothing,
    }
}

impl WebSocketOutput {
    async fn send(&mut self, message: Message) -> Result<(), Left> {
        self.socket.send(message).await.map_err(|_| Left)
    }
}

impl Output for WebSocketOutput {
    /// With an empty message, as Kubernetes does.
    async fn begin(&mut self) -> Result<(), Left> {
        self.data(STDOUT, Bytes::new()).await
    }

    async fn data(&mut self, channel: u8, data: Bytes) -> Result<(), Left> {
        let message = self.coding.encode(channel, &data);
        self.send(message).await
    }

    async fn ping(&mut self) -> Result<(), Left> {
        self.send(Message::Ping(Bytes::new())).await
    }

    async fn end(&mut self, status: &Status) -> Result<(), Left> {
        let told = status::told(status, self.objects);
        if !told.is_empty() {
            self.send(self.coding.encode(ERROR, &told)).await?;
        }
        let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        self.send(Message::Close(Some(close))).await
    }
}
