//! How a request becomes a stream: over a WebSocket, or over SPDY for older clients.

use axum::body::Body;
use axum::extract::FromRequestParts as _;
use axum::extract::ws::WebSocketUpgrade;
use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::api::error::ApiError;

/// The longest message that a client may send over a WebSocket; they send some tens of kilobytes.
const MAX_MESSAGE: usize = 1 << 20;

/// By these headers a client and a server agree on what they speak over SPDY.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
const ACCEPTED_PROTOCOLS: &str = "x-accepted-stream-protocol-versions";

/// What is spoken, of the names that a server knows; the last is what a client that names nothing
/// speaks.
pub(crate) type Protocol = &'static str;

/// A request that wants to be a stream.
pub(crate) enum Upgrade {
    WebSocket { upgrade: Box<WebSocketUpgrade>, protocol: Protocol },
    Spdy(SpdyUpgrade),
}

/// A request that wants to be a SPDY connection.
pub(crate) struct SpdyUpgrade {
    pub(crate) protocol: Protocol,
    on_upgrade: OnUpgrade,
}

/// What a resource speaks, best first.
pub(crate) struct Spoken {
    pub(crate) websocket: &'static [Protocol],
    /// What a WebSocket without a protocol's name speaks.
    pub(crate) websocket_unnamed: Protocol,
    pub(crate) spdy: &'static [Protocol],
}

/// Why a request does not become a stream.
pub(crate) enum Refused {
    Api(ApiError),
    /// The two know no protocol in common, told as clients of SPDY expect it.
    Protocols(Box<Response>),
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl Upgrade {
    /// What a request asks for.
    pub(crate) async fn of(parts: &mut Parts, spoken: &Spoken) -> Result<Self, Refused> {
        let asked = parts.headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
        if asked.is_some_and(|asked| asked.eq_ignore_ascii_case("spdy/3.1")) {
            return spdy(parts, spoken.spdy).map(Self::Spdy);
        }
        let names = parts.headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL);
        let upgrade = WebSocketUpgrade::from_request_parts(parts, &()).await;
        let upgrade = upgrade
            .map_err(|rejection| {
                let why = rejection.body_text();
                ApiError::bad_request(format!("Upgrade request required: {why}"))
            })?
            .max_message_size(MAX_MESSAGE)
            .max_frame_size(MAX_MESSAGE)
            .protocols(spoken.websocket.iter().copied());
        let selected = upgrade.selected_protocol().and_then(|selected| {
            spoken.websocket.iter().find(|known| selected.as_bytes() == known.as_bytes())
        });
        let protocol = match selected {
            Some(protocol) => protocol,
            None if !names => spoken.websocket_unnamed,
            None => {
                return Err(Refused::Api(ApiError::bad_request(format!(
                    "unable to negotiate a protocol: the server speaks {}",
                    spoken.websocket.join(", ")
                ))));
            }
        };
        Ok(Self::WebSocket { upgrade: Box::new(upgrade), protocol })
    }
}

fn spdy(parts: &mut Parts, spoken: &'static [Protocol]) -> Result<SpdyUpgrade, Refused> {
    let offered = offered(&parts.headers);
    let protocol = match offered.as_slice() {
        [] => spoken.last().copied(),
        offered => spoken.iter().find(|known| offered.iter().any(|name| name == *known)).copied(),
    };
    let Some(protocol) = protocol else {
        return Err(Refused::Protocols(Box::new(no_common_protocol(&offered, spoken))));
    };
    let on_upgrade = parts.extensions.remove::<OnUpgrade>();
    let on_upgrade = on_upgrade
        .ok_or_else(|| ApiError::bad_request("this connection cannot be upgraded; use HTTP/1.1"))?;
    Ok(SpdyUpgrade { protocol, on_upgrade })
}

/// The protocols that a client names: one to a header, or several with commas.
fn offered(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(STREAM_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).map(str::trim);
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn no_common_protocol(offered: &[String], spoken: &[Protocol]) -> Response {
    let message = format!(
        "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
        offered.join(" "),
        spoken.join(" ")
    );
    let mut response = ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message).into_response();
    for name in spoken {
        response.headers_mut().append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(name));
    }
    response
}

impl SpdyUpgrade {
    /// Answers the request, and carries on with the connection in a task of its own.
    pub(crate) fn respond<F>(
        self,
        serve: impl FnOnce(TokioIo<hyper::upgrade::Upgraded>) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { protocol, on_upgrade } = self;
        tokio::spawn(async move {
            match on_upgrade.await {
                Ok(upgraded) => serve(TokioIo::new(upgraded)).await,
                Err(error) => tracing::debug!(%error, "a client left before it was answered"),
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(protocols: &[&str]) -> Parts {
        let mut request = http::Request::new(());
        for protocol in protocols {
            let value = HeaderValue::from_str(protocol).unwrap();
            request.headers_mut().append(STREAM_PROTOCOL, value);
        }
        request.into_parts().0
    }

    #[test]
    fn protocols_are_offered_one_by_one_or_together() {
        assert_eq!(
            offered(&parts(&["v4.channel.k8s.io", "b"]).headers),
            ["v4.channel.k8s.io", "b"]
        );
        assert_eq!(offered(&parts(&["a, b,,c"]).headers), ["a", "b", "c"]);
        assert!(offered(&parts(&[]).headers).is_empty());
    }

    #[test]
    fn without_a_common_protocol_a_client_is_told_what_there_is() {
        let Err(Refused::Protocols(response)) = spdy(&mut parts(&["v9"]), &["v2", "v1"]) else {
            panic!("agreed on v9");
        };
        assert_eq!(response.status(), 403);
        assert_eq!(response.headers().get_all(ACCEPTED_PROTOCOLS).iter().count(), 2);
    }
}
