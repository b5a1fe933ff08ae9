//! Passes a request on over a connection of its own, and the answer back.

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Failure;

/// Where a request goes.
pub(super) struct To<'a> {
    /// For the header of this name.
    pub(super) host: &'a str,
    /// What the client's path starts with and the other side knows nothing of.
    pub(super) prefix: &'a str,
    /// Path and query for the other side.
    pub(super) rest: &'a str,
}

/// Headers that are between two neighbours only.
const HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Whom a browser may tell of what this server says is not for what runs behind it to allow.
const CROSS_ORIGIN: [HeaderName; 4] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
];

/// The other side was asked to speak another protocol, and goes on as before without saying why.
#[derive(Debug, thiserror::Error)]
#[error("invalid upgrade response: status code {}", .0.as_u16())]
struct NotUpgraded(StatusCode);

/// Whether a request wants to become something else, as a WebSocket.
pub(super) fn wants_upgrade(headers: &HeaderMap) -> bool {
    let connection = headers.get_all(header::CONNECTION).iter();
    let mut words = connection.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    words.any(|word| word.trim().eq_ignore_ascii_case("upgrade"))
        && headers.contains_key(header::UPGRADE)
}

/// Sends the request and gives the answer, whose body is still coming.
pub(super) async fn forward<S>(io: S, to: &To<'_>, request: Request) -> Result<Response, Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(failure)?;
    // Ends with the answer's body, or when nobody reads that any more.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection broke");
        }
    });
    let (mut parts, body) = request.into_parts();
    let upgrade = wants_upgrade(&parts.headers);
    let ours = parts.extensions.remove::<OnUpgrade>();
    let peer = parts.extensions.get::<SocketAddr>().copied();
    parts.headers = request_headers(&parts.headers, to, upgrade, peer)?;
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let without_path = format!("/{query}");
    let rest = if to.rest.is_empty() { &without_path } else { to.rest };
    parts.uri = rest.parse().map_err(failure)?;
    parts.version = http::Version::HTTP_11;
    let mut answer =
        sender.send_request(Request::from_parts(parts, body)).await.map_err(failure)?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let theirs = hyper::upgrade::on(&mut answer);
        if let Some(ours) = ours {
            tokio::spawn(join(ours, theirs));
        }
        let (parts, _) = answer.into_parts();
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let status = answer.status();
    if upgrade && !(status.is_client_error() || status.is_server_error()) {
        return Err(failure(NotUpgraded(status)));
    }
    let (mut parts, body) = answer.into_parts();
    remove_hop_headers(&mut parts.headers);
    for name in CROSS_ORIGIN {
        parts.headers.remove(name);
    }
    if let Some(location) = parts.headers.get(header::LOCATION).and_then(|l| l.to_str().ok())
        && let Some(location) = relocated(location, to)
    {
        parts.headers.insert(header::LOCATION, HeaderValue::from_str(&location).map_err(failure)?);
    }
    Ok(Response::from_parts(parts, Body::new(body)))
}

/// Carries both ways, whatever the two speak now.
async fn join(ours: OnUpgrade, theirs: OnUpgrade) {
    let joined = async {
        let (ours, theirs) = tokio::try_join!(ours, theirs).map_err(std::io::Error::other)?;
        let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
        tokio::io::copy_bidirectional(&mut ours, &mut theirs).await
    };
    if let Err(error) = joined.await {
        tracing::debug!(%error, "an upgraded connection broke");
    }
}

/// What the other side gets to see.
fn request_headers(
    headers: &HeaderMap,
    to: &To<'_>,
    upgrade: bool,
    peer: Option<SocketAddr>,
) -> Result<HeaderMap, Failure> {
    let mut sent = headers.clone();
    let wanted = sent.get(header::UPGRADE).cloned().filter(|_| upgrade);
    remove_hop_headers(&mut sent);
    // What the client is trusted with here is none of the other side's business.
    sent.remove(header::AUTHORIZATION);
    if let Some(wanted) = wanted {
        sent.insert(header::UPGRADE, wanted);
        sent.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    let value = |text: &str| HeaderValue::from_str(text).map_err(failure);
    let path = to.rest.split('?').next().unwrap_or_default();
    sent.insert("x-forwarded-uri", value(&format!("{}{path}", to.prefix))?);
    if let Some(host) = headers.get(header::HOST) {
        sent.insert("x-forwarded-host", host.clone());
    }
    if let Some(peer) = peer {
        let before = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
        let own = peer.ip().to_string();
        let all: Vec<&str> = before.chain([own.as_str()]).collect();
        sent.insert(FORWARDED_FOR, value(&all.join(", "))?);
    }
    sent.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    sent.insert(header::HOST, value(to.host)?);
    Ok(sent)
}

/// Removes what is between two neighbours, and what they name as such.
fn remove_hop_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP) {
        headers.remove(name);
    }
    headers.remove(header::UPGRADE);
}

/// Where a redirect leads for the client: within the other side, through here. Nothing when it
/// stays as it is.
fn relocated(location: &str, to: &To<'_>) -> Option<String> {
    let uri: Uri = location.parse().ok()?;
    match uri.authority() {
        Some(authority) if authority.as_str() != to.host => return None,
        None if !location.starts_with('/') => return None,
        _ => {}
    }
    let path = uri.path();
    // One that knows of the prefix has put it there itself.
    let prefix = if path.starts_with(to.prefix) { "" } else { to.prefix };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    Some(format!("{prefix}{path}{query}"))
}

fn failure(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    std::sync::Arc::new(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: To<'_> = To { host: "10.0.0.1:80", prefix: "/p/proxy", rest: "/a?b=c" };

    #[test]
    fn redirects_within_the_other_side_lead_through_here() {
        for (location, expected) in [
            ("/login", Some("/p/proxy/login")),
            ("/login?next=/a", Some("/p/proxy/login?next=/a")),
            ("http://10.0.0.1:80/x", Some("/p/proxy/x")),
            ("/p/proxy/x", Some("/p/proxy/x")),
            ("http://example.com/x", None),
            ("next", None),
        ] {
            assert_eq!(relocated(location, &TO).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn headers_between_neighbours_stay_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, x-own"),
            ("x-own", "1"),
            ("te", "trailers"),
            ("authorization", "Bearer secret"),
            ("host", "master"),
            ("cookie", "a=b"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let sent = request_headers(&headers, &TO, false, None).unwrap();
        for gone in ["connection", "x-own", "te", "authorization", "upgrade"] {
            assert!(!sent.contains_key(gone), "{gone}");
        }
        assert_eq!(sent["host"], "10.0.0.1:80");
        assert_eq!(sent["cookie"], "a=b");
        assert_eq!(sent["x-forwarded-uri"], "/p/proxy/a");
        assert_eq!(sent["x-forwarded-host"], "master");
    }

    #[test]
    fn an_upgrade_is_passed_on() {
        let mut headers = HeaderMap::new();
        headers.insert("connection", HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert("upgrade", HeaderValue::from_static("websocket"));
        assert!(wants_upgrade(&headers));
        let sent = request_headers(&headers, &TO, true, None).unwrap();
        assert_eq!(
            (&sent["connection"], &sent["upgrade"]),
            (&"Upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
        headers.remove("connection");
        assert!(!wants_upgrade(&headers));
    }
}
