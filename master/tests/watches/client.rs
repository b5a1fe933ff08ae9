//! A master in this process, and connections to it as clients make them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use clap::Parser as _;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use master::config::{Cli, Config};
use master::pki::kubeconfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::PATIENCE;
use crate::selection::{Object, Selection, State};

/// A window for each stream that one watcher who does not read fills without holding up the others
/// of its connection.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 16 << 20;

pub(crate) struct Master {
    pub(crate) client: Client,
    shutdown: CancellationToken,
    thread: JoinHandle<Result<(), master::RunError>>,
}

impl Master {
    pub(crate) async fn start(folder: &Path) -> Self {
        let shutdown = CancellationToken::new();
        let data_dir = format!("--data-dir={}", folder.display());
        let cli = ["master", &data_dir, "--listen=127.0.0.1:0"];
        let config = Config::try_from(Cli::try_parse_from(cli).expect("parses").serve);
        let running = master::run(config.expect("good"), shutdown.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(running)
        });
        Self { client: Client::of(folder).await, shutdown, thread }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        let thread = self.thread;
        let joined = tokio::task::spawn_blocking(move || thread.join());
        let ended = tokio::time::timeout(PATIENCE, joined).await.expect("it stops in time");
        ended.expect("joined").expect("no panic").expect("no failure");
    }
}

/// Makes connections as the administrator.
#[derive(Clone)]
pub(crate) struct Client {
    server: SocketAddr,
    http1: TlsConnector,
    http2: TlsConnector,
}

impl Client {
    /// As the kubeconfig in a master's folder says, once it is there.
    async fn of(folder: &Path) -> Self {
        let deadline = Instant::now() + PATIENCE;
        let credentials = loop {
            let file = kubeconfig::load(&folder.join(kubeconfig::FILE_NAME));
            if let Ok(credentials) = file
                && TcpStream::connect(address(&credentials.server)).await.is_ok()
            {
                break credentials;
            }
            assert!(Instant::now() < deadline, "no master came up");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let mut roots = rustls::RootCertStore::empty();
        let ca = std::fs::read(folder.join("ca.crt")).expect("the authority");
        roots.add(CertificateDer::from_pem_slice(&ca).expect("PEM")).expect("a root");
        let pair = credentials.client;
        let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate.expect("PEM")], key.expect("PEM"))
            .expect("a pair");
        let connector = |protocol: &[u8]| {
            let mut config = config.clone();
            config.alpn_protocols = vec![protocol.to_vec()];
            TlsConnector::from(Arc::new(config))
        };
        Self {
            server: address(&credentials.server),
            http1: connector(b"http/1.1"),
            http2: connector(b"h2"),
        }
    }

    async fn connect(&self, tls: &TlsConnector) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.server).await.expect("a connection");
        stream.set_nodelay(true).expect("an option");
        let name = ServerName::try_from("kubernetes.default.svc.cluster.local").expect("a name");
        tls.connect(name, stream).await.expect("a handshake")
    }

    /// A connection for one request.
    pub(crate) async fn http1(&self) -> Connection {
        let stream = TokioIo::new(self.connect(&self.http1).await);
        let (sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        Connection::Http1(sender)
    }

    /// A connection for many requests.
    pub(crate) async fn http2(&self) -> Connection {
        let stream = TokioIo::new(self.connect(&self.http2).await);
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(STREAM_WINDOW);
        builder.initial_connection_window_size(CONNECTION_WINDOW);
        let (sender, connection) = builder.handshake(stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        Connection::Http2(sender)
    }
}

fn address(server: &str) -> SocketAddr {
    server.trim_start_matches("https://").parse().expect("an address")
}

pub(crate) enum Connection {
    /// For one request.
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Clone for Connection {
    /// Another handle on a connection for many requests.
    fn clone(&self) -> Self {
        let Self::Http2(sender) = self else { panic!("a connection for one request") };
        Self::Http2(sender.clone())
    }
}

impl Connection {
    /// Begins a request; gives the answer's code and its body to be read.
    pub(crate) async fn begin(
        &mut self,
        method: Method,
        path: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> (StatusCode, Incoming) {
        let request = Request::builder().method(method);
        let request = match self {
            Self::Http1(_) => request.uri(path).header(header::HOST, "master"),
            Self::Http2(_) => request.uri(format!("https://master{path}")),
        };
        let (form, body) = body.unwrap_or_default();
        let request = match form {
            "" => request,
            form => request.header(header::CONTENT_TYPE, form),
        };
        let request = request.body(Full::from(body)).expect("a request");
        let answer = match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        };
        let answer = answer.expect("an answer");
        (answer.status(), answer.into_body())
    }

    /// A request with its answer, over HTTP/2.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> (StatusCode, Bytes) {
        let (code, body) = self.clone().begin(method, path, body).await;
        (code, body.collect().await.expect("a body").to_bytes())
    }

    pub(crate) async fn create(&self, path: &str, object: &Value) -> Value {
        let body = Some(("application/json", object.to_string().into_bytes()));
        let (code, answer) = self.ask(Method::POST, path, body).await;
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(code, StatusCode::CREATED, "{text}");
        serde_json::from_slice(&answer).expect("an object")
    }

    /// What a list says precisely at a revision.
    pub(crate) async fn list_at(&self, selection: &Selection, revision: u64) -> State {
        let version = format!("&resourceVersion={revision}&resourceVersionMatch=Exact");
        let path = format!("{}{version}", selection.path());
        let (code, body) = self.ask(Method::GET, &path, None).await;
        assert_eq!(code, StatusCode::OK, "{path}: {}", String::from_utf8_lossy(&body));
        List::parse(&body).state()
    }
}

/// A list, as far as it matters here.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct List {
    metadata: ListMeta,
    pub(crate) items: Vec<Object>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next_page: Option<String>,
}

impl List {
    pub(crate) fn parse(body: &[u8]) -> Self {
        serde_json::from_slice(body).expect("a list")
    }

    pub(crate) fn next_page(&self) -> Option<&str> {
        self.metadata.next_page.as_deref().filter(|token| !token.is_empty())
    }

    pub(crate) fn revision(&self) -> u64 {
        self.metadata.resource_version.parse().expect("a number")
    }

    pub(crate) fn state(&self) -> State {
        self.items.iter().map(|object| (object.key(), object.revision())).collect()
    }
}

/// The lines of a watch.
pub(crate) struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    pub(crate) fn new(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next line; nothing when the watch has ended. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end).freeze();
                self.buffer.advance(1);
                return Some(line);
            }
            match self.body.frame().await {
                Some(frame) => {
                    let data = frame.expect("a clean end").into_data();
                    self.buffer.extend_from_slice(&data.unwrap_or_default());
                }
                None => {
                    assert!(self.buffer.is_empty(), "a watch ended within a line");
                    return None;
                }
            }
        }
    }
}
