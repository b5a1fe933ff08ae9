//! Watches over WebSockets, as browsers have them: a message for each event.

use axum::body::Body;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts as _, Request};
use axum::response::Response;
use bytes::{Buf as _, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;

use crate::api::error::ApiError;

/// What a client says is passed over; so much of it at once.
const MAX_MESSAGE: usize = 4096;

/// Tells a watch over a WebSocket, if that is what was asked for, else as it is.
pub(crate) async fn answer(request: Request, watch: Response) -> Result<Response, ApiError> {
    if !is_websocket(request.headers()) || watch.status() != StatusCode::OK {
        return Ok(watch);
    }
    let mut parts = request.into_parts().0;
    // A browser wants one of the protocols that it names to be chosen; they are all the same here.
    let names = parts.headers.get(header::SEC_WEBSOCKET_PROTOCOL);
    let names = names.and_then(|names| names.to_str().ok()).unwrap_or_default();
    let names: Vec<String> = names.split(',').map(|name| name.trim().to_owned()).collect();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let upgrade = upgrade
        .map_err(|rejection| ApiError::bad_request(rejection.body_text()))?
        .max_message_size(MAX_MESSAGE)
        .protocols(names);
    let body = watch.into_body();
    Ok(upgrade.on_upgrade(async move |socket| tell(socket, body).await))
}

fn is_websocket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"))
}

/// Until the watch is over or the client has gone.
async fn tell(mut socket: WebSocket, mut body: Body) {
    let mut lines = BytesMut::new();
    loop {
        tokio::select! {
            frame = body.frame() => {
                let Some(Ok(frame)) = frame else { break };
                let Ok(data) = frame.into_data() else { continue };
                lines.extend_from_slice(&data);
                while let Some(line) = take_line(&mut lines) {
                    if socket.send(line).await.is_err() {
                        return;
                    }
                }
            }
            received = socket.recv() => match received {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
    // The client may have gone meanwhile.
    let _ = socket.send(Message::Close(None)).await;
}

/// The next event that is there as a whole.
fn take_line(lines: &mut BytesMut) -> Option<Message> {
    let end = lines.iter().position(|byte| *byte == b'\n')?;
    let line = lines.split_to(end).freeze();
    lines.advance(1);
    Some(Message::Text(line.try_into().ok()?))
}
