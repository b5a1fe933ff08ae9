//! The subresource `exec`: a program in a container, joined to the client over a WebSocket.
//!
//! Every message starts with the number of its channel: 0 input, 1 output, 2 errors, 3 how it
//! ended, 4 terminal sizes. In v5 the message 255, n closes channel n, which is how input ends.

use std::time::Duration;

use axum::extract::FromRequestParts as _;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use http::{StatusCode, header, request::Parts};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use proto::node::open_tunnel::Request;
use proto::node::tunnel_down::Message as Down;
use proto::node::tunnel_up::Message as Up;
use proto::node::{Data, EndOfInput, ExecRequest, Resize, TunnelDown};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::api::error::ApiError;
use crate::api::field_error::FieldError;
use crate::api::registry::AnyKind;
use crate::api::rest::Api;
use crate::api::rest::pod_stream::{Place, options_of};
use crate::api::rest::query::Options;
use crate::api::streams::TunnelStream;

/// What is spoken, best first.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// The longest message that a client may send; they send some tens of kilobytes.
const MAX_MESSAGE: usize = 1 << 20;

/// Input is passed on in pieces of this size, as tunnels want them.
const PIECE: usize = 16 << 10;

/// How long a client may take to read how it ended and to close its side.
const FAREWELL: Duration = Duration::from_secs(10);

/// Answers `GET` and `POST` on `pods/exec`.
pub(crate) async fn exec(
    api: &Api,
    kind: &'static dyn AnyKind,
    key: &ObjectKey,
    mut parts: Parts,
) -> Result<Response, ApiError> {
    let options = Options::parse(&parts.uri)?;
    let request = request(&key.name, &options)?;
    let place = Place::find(api, kind, key, options.get("container")).await?;
    if matches!(place.phase.as_str(), "Succeeded" | "Failed") {
        return Err(ApiError::bad_request(format!(
            "cannot exec into a container in a completed pod; current phase is {}",
            place.phase
        )));
    }
    let Some(node) = place.node.clone() else {
        let message = format!("pod {} does not have a host assigned", key.name);
        return Err(ApiError::bad_request(message));
    };
    let upgrade = upgrade(&mut parts).await?;
    let v5 = upgrade.selected_protocol().is_some_and(|protocol| protocol == PROTOCOLS[0]);
    let tunnel = place.tunnel(Request::Exec(request));
    let (streams, shutdown) = (api.streams.clone(), api.shutdown.clone());
    Ok(upgrade.on_upgrade(async move |socket| {
        let joined = async {
            // From here on errors travel on the error channel: clients show those as they are,
            // while a failed upgrade makes them try older protocols first.
            match streams.open(&node, tunnel).await {
                Ok(tunnel) => join(socket, tunnel, v5).await,
                Err(error) => end(socket, &ApiError::from(error).to_status()).await,
            }
        };
        shutdown.run_until_cancelled(joined).await;
    }))
}

/// The WebSocket that a request asks for, or what to say to one that asks for none.
async fn upgrade(parts: &mut Parts) -> Result<WebSocketUpgrade, ApiError> {
    let protocol = parts.headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if protocol.is_some_and(|protocol| protocol.to_ascii_lowercase().starts_with("spdy/")) {
        return Err(ApiError::bad_request(
            "SPDY is not supported; use a client that speaks WebSocket (kubectl 1.30 or newer)",
        ));
    }
    let upgrade = WebSocketUpgrade::from_request_parts(parts, &()).await;
    let upgrade = upgrade
        .map_err(|rejection| {
            ApiError::bad_request(format!("Upgrade request required: {}", rejection.body_text()))
        })?
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE)
        .protocols(PROTOCOLS);
    if upgrade.selected_protocol().is_none() {
        return Err(ApiError::bad_request(format!(
            "unable to negotiate a protocol: the server speaks {}",
            PROTOCOLS.join(", ")
        )));
    }
    Ok(upgrade)
}

/// The query's options, checked.
fn request(pod: &str, options: &Options) -> Result<ExecRequest, ApiError> {
    let command: Vec<String> = options.all("command").map(str::to_owned).collect();
    let tty = options.flag("tty");
    let request = ExecRequest {
        stdin: options.flag("stdin"),
        stdout: options.flag("stdout"),
        // A terminal has one output.
        stderr: options.flag("stderr") && !tty,
        tty,
        command,
    };
    let mut errors = Vec::new();
    if request.command.is_empty() {
        errors.push(FieldError::required("command", ""));
    }
    if !(request.stdin || request.stdout || request.stderr) {
        let detail = "must specify at least one of stdin, stdout, stderr";
        errors.push(FieldError::required("stdout", detail));
    }
    if errors.is_empty() {
        Ok(request)
    } else {
        Err(ApiError::invalid(&options_of("PodExecOptions"), pod, &errors))
    }
}

/// Carries both ways until the program has ended or the client is gone.
async fn join(socket: WebSocket, tunnel: TunnelStream, v5: bool) {
    let TunnelStream { down, mut up } = tunnel;
    let (mut to_client, mut from_client) = socket.split();
    // Tells the client that the connection stands, as Kubernetes does.
    if to_client.send(framed(STDOUT, &[])).await.is_err() {
        return;
    }
    let output = async {
        loop {
            let message = up.recv().await.and_then(|message| message.message);
            match message {
                Some(Up::Data(Data { channel, data })) => {
                    let channel = if channel == u32::from(STDERR) { STDERR } else { STDOUT };
                    if to_client.send(framed(channel, &data)).await.is_err() {
                        return None;
                    }
                }
                Some(Up::Finished(finished)) => return Some(exit_status(finished.exit_code)),
                Some(Up::Failure(failure)) => {
                    let code = u16::try_from(failure.code).unwrap_or(500);
                    return Some(ApiError::from_node(code, &failure.message).to_status());
                }
                Some(Up::Open(_)) | None => {
                    let lost = ApiError::unavailable("the connection to the node was lost");
                    return Some(lost.to_status());
                }
            }
        }
    };
    let input = async {
        while let Some(Ok(message)) = from_client.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => text.into(),
                Message::Close(_) => return,
                Message::Ping(_) | Message::Pong(_) => continue,
            };
            if pass_on(&bytes, v5, &down).await.is_err() {
                // The node has stopped listening and is about to say why.
                std::future::pending::<()>().await;
            }
        }
    };
    let status = tokio::select! {
        status = output => status,
        () = input => None,
    };
    let Some(status) = status else { return };
    if let Ok(socket) = to_client.reunite(from_client) {
        end(socket, &status).await;
    }
}

/// The node does not listen any more.
struct Deaf;

/// Passes one message of the client on to the node.
async fn pass_on(message: &Bytes, v5: bool, down: &mpsc::Sender<TunnelDown>) -> Result<(), Deaf> {
    let send = async |message: Down| {
        down.send(TunnelDown { message: Some(message) }).await.map_err(|_| Deaf)
    };
    match message.split_first() {
        Some((&STDIN, input)) => {
            for piece in input.chunks(PIECE) {
                let data = Data { channel: u32::from(STDIN), data: message.slice_ref(piece) };
                send(Down::Data(data)).await?;
            }
            Ok(())
        }
        Some((&RESIZE, size)) => match serde_json::from_slice::<Size>(size) {
            Ok(Size { width, height }) => {
                send(Down::Resize(Resize { columns: width.into(), rows: height.into() })).await
            }
            Err(error) => {
                tracing::debug!(%error, "ignored a terminal size that is none");
                Ok(())
            }
        },
        Some((&CLOSE, [STDIN])) if v5 => send(Down::EndOfInput(EndOfInput {})).await,
        // Channels that only the server writes to, and closing them.
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Tells how it ended and closes.
async fn end(mut socket: WebSocket, status: &Status) {
    let farewell = async {
        let told = serde_json::to_vec(status).unwrap_or_default();
        socket.send(framed(ERROR, &told)).await?;
        let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        socket.send(Message::Close(Some(close))).await?;
        // What the client still sends is of no use, but it has to be read to see its close.
        while let Some(Ok(_)) = socket.next().await {}
        Ok::<(), axum::Error>(())
    };
    if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
        tracing::debug!("a client did not close its side of an exec");
    }
}

fn framed(channel: u8, data: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(data.len() + 1);
    message.extend_from_slice(&[channel]);
    message.extend_from_slice(data);
    Message::Binary(message.freeze())
}

/// How Kubernetes tells the end of a program.
fn exit_status(exit_code: i32) -> Status {
    if exit_code == 0 {
        return Status { status: Some("Success".to_owned()), ..Status::default() };
    }
    Status {
        status: Some("Failure".to_owned()),
        reason: Some("NonZeroExitCode".to_owned()),
        message: Some(format!("command terminated with non-zero exit code: exit code {exit_code}")),
        details: Some(StatusDetails {
            causes: Some(vec![StatusCause {
                reason: Some("ExitCode".to_owned()),
                message: Some(exit_code.to_string()),
                field: None,
            }]),
            ..StatusDetails::default()
        }),
        code: Some(i32::from(StatusCode::INTERNAL_SERVER_ERROR.as_u16())),
        ..Status::default()
    }
}
