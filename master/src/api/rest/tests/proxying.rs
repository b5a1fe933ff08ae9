//! `proxy` to real servers, through tunnels that behave as a node's: with TLS and without, and what
//! becomes a WebSocket on the way.

use std::net::SocketAddr;

use super::streaming::{Client, NodeEnd, with_pods};
use super::*;

use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use proto::node::open_tunnel::Request as Wanted;
use proto::node::tunnel_down::Message as Down;
use proto::node::tunnel_up::Message as Up;
use proto::node::{Connected, Data, EndOfOutput};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What runs in the pod: it tells what it was asked, and echoes what it is told.
fn app() -> Router {
    async fn told(request: Request<Body>) -> Response {
        let mut text = format!("{} {}\n", request.method(), request.uri());
        for (name, value) in request.headers() {
            text.push_str(&format!("{name}: {}\n", value.to_str().unwrap_or_default()));
        }
        let body = request.into_body().collect().await.unwrap().to_bytes();
        text.push_str(&String::from_utf8_lossy(&body));
        let cross = ("access-control-allow-origin", "*");
        ([cross, ("x-own", "kept")], text).into_response()
    }
    async fn echo(mut socket: WebSocket) {
        while let Some(Ok(message)) = socket.recv().await {
            if socket.send(message).await.is_err() {
                return;
            }
        }
    }
    async fn upgrade(upgrade: WebSocketUpgrade) -> Response {
        upgrade.protocols(["chat"]).on_upgrade(echo)
    }
    let moved = async || (StatusCode::FOUND, [("location", "/login?next=/a")]);
    Router::new().route("/ws", any(upgrade)).route("/moved", any(moved)).fallback(told)
}

/// Serves it, over TLS with a certificate that nobody knows or over none.
async fn serve(secure: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = secure.then(|| {
        let own = rcgen::generate_simple_self_signed(["pod".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(app());
            let tls = tls.clone();
            tokio::spawn(async move {
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                match tls {
                    Some(tls) => {
                        let stream = TokioIo::new(tls.accept(stream).await.unwrap());
                        let _ = builder.serve_connection_with_upgrades(stream, service).await;
                    }
                    None => {
                        let stream = TokioIo::new(stream);
                        let _ = builder.serve_connection_with_upgrades(stream, service).await;
                    }
                }
            });
        }
    });
    address
}

/// The node's part: a connection to the server, joined to the tunnel.
async fn join(mut end: NodeEnd, address: SocketAddr) {
    let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
    end.say(Up::Connected(Connected {})).await;
    let up = end.up.clone();
    let say = async move |message| {
        let message = proto::node::TunnelUp { message: Some(message) };
        up.send(message).await.is_ok()
    };
    tokio::spawn(async move {
        let mut bytes = vec![0; 4096];
        loop {
            let count = read.read(&mut bytes).await.unwrap_or(0);
            if count == 0 {
                return say(Up::EndOfOutput(EndOfOutput {})).await;
            }
            let data = bytes[..count].to_vec().into();
            if !say(Up::Data(Data { channel: 1, data })).await {
                return false;
            }
        }
    });
    while let Some(message) = end.down.recv().await {
        match message.message {
            Some(Down::Data(data)) => write.write_all(&data.data).await.unwrap(),
            _ => break,
        }
    }
}

/// A server with the pod `web` at an address, and nodes that lead to what is served. Tells the ports
/// that were asked for.
async fn cluster(secure: bool) -> (Server, tokio::sync::mpsc::UnboundedReceiver<u32>) {
    let (server, mut ends) = with_pods().await;
    let status = json!({"status": {"podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}]}});
    server.patch(&format!("{PODS}/web/status"), "merge-patch+json", status).await.ok();
    let address = serve(secure).await;
    let (ports, asked) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(end) = ends.recv().await {
            let Some(Wanted::Connect(wanted)) = &end.request.request else {
                panic!("no connection")
            };
            let _ = ports.send(wanted.port);
            tokio::spawn(join(end, address));
        }
    });
    (server, asked)
}

#[tokio::test]
async fn a_request_is_passed_on_as_it_is_but_for_what_is_between_neighbours() {
    let (server, mut asked) = cluster(false).await;
    let path = format!("{PODS}/web:8080/proxy/a%20b//c?d=%2F&e");
    let mut request = request(Method::PUT, &path, Some("text/plain"), Body::from("words"));
    for (name, value) in [
        ("host", "master:6443"),
        ("authorization", "Bearer secret"),
        ("connection", "x-gone"),
        ("x-gone", "1"),
        ("x-forwarded-for", "192.0.2.1"),
        ("accept", "text/html"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request.extensions_mut().insert(SocketAddr::from(([198, 51, 100, 7], 4711)));
    let answer = server.send(request).await;
    assert_eq!(asked.recv().await, Some(8080));
    assert_eq!(answer.headers["x-own"], "kept");
    assert!(!answer.headers.contains_key("access-control-allow-origin"), "it is not ours to give");
    let text = answer.ok();
    let text = text.as_str().unwrap();
    assert!(text.starts_with("PUT /a%20b//c?d=%2F&e\n"), "{text}");
    assert!(text.ends_with("\nwords"), "{text}");
    for line in [
        "host: 10.0.0.7:8080",
        "x-forwarded-for: 192.0.2.1, 198.51.100.7",
        "x-forwarded-host: master:6443",
        "x-forwarded-proto: https",
        "accept: text/html",
        "content-type: text/plain",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in {text}");
    }
    assert!(!text.contains("secret") && !text.contains("x-gone"), "{text}");
}

#[tokio::test]
async fn without_a_path_readers_are_sent_to_the_slash_and_others_are_passed_on() {
    let (server, _asked) = cluster(false).await;
    let path = format!("{PODS}/web:8080/proxy?a=b");
    let answer = server.get(&path).await;
    assert_eq!(answer.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(answer.headers[header::LOCATION], format!("{PODS}/web:8080/proxy/?a=b"));
    let answer = server.post(&path, json!(7)).await.ok();
    assert!(answer.as_str().unwrap().starts_with("POST /?a=b\n"), "{answer}");
    let answer = server.get(&format!("{PODS}/web:8080/proxy/moved")).await;
    assert_eq!(answer.status, StatusCode::FOUND);
    let location = format!("{PODS}/web:8080/proxy/login?next=/a");
    assert_eq!(answer.headers[header::LOCATION], location);
}

#[tokio::test]
async fn the_scheme_says_whether_tls_is_spoken() {
    let (server, mut asked) = cluster(true).await;
    for (name, port) in [("https:web:8443", 8443), ("https:web:", 443), ("https%3Aweb%3A9", 9)] {
        let answer = server.get(&format!("{PODS}/{name}/proxy/x?y=z")).await.ok();
        assert!(answer.as_str().unwrap().starts_with("GET /x?y=z\n"), "{answer}");
        assert_eq!(asked.recv().await, Some(port), "{name}");
    }
    // Whoever speaks none to it, or it to whoever speaks none, gets no answer that makes sense.
    let plain = server.get(&format!("{PODS}/http:web:8443/proxy/x")).await;
    assert!(!plain.status.is_success(), "{}: {}", plain.status, plain.body);
    let (server, _asked) = cluster(false).await;
    let wrong = server.get(&format!("{PODS}/https:web:80/proxy/x")).await;
    let message = wrong.refused(503, "ServiceUnavailable");
    assert!(message.starts_with("error trying to reach service: "), "{message}");
}

#[tokio::test]
async fn a_web_socket_goes_through_over_tls_and_without() {
    for (secure, name) in [(false, "web:80"), (true, "https:web:443")] {
        let (server, _asked) = cluster(secure).await;
        let path = format!("{PODS}/{name}/proxy/ws?room=1");
        let mut client = Client::exec(&server, &path, "chat").await;
        for words in ["hello", "and again"] {
            client.send(words.as_bytes()).await;
            assert_eq!(client.frame().await, (2, words.as_bytes().to_vec()), "{name}");
        }
        // What does not become one is no answer to who asked for it, unless it says why.
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let headers = format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {key}\r\n"
        );
        let path = format!("{PODS}/{name}/proxy/told");
        let (_, head) = Client::connect(&server, &path, &headers).await;
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    }
}
