//! A whole master: its port, its certificates, its tokens, its end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use http::{Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use master::config::{Cli, Config};
use master::nodes::credentials::CertificateIssuer;
use master::pki::authority::Pair;
use master::pki::{Authority, Subject, kubeconfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

/// A master in this process, on a runtime of its own: nothing of it is left when it has stopped.
struct Master {
    folder: PathBuf,
    server: SocketAddr,
    shutdown: CancellationToken,
    thread: JoinHandle<Result<(), master::RunError>>,
}

impl Master {
    async fn start(folder: &Path) -> Self {
        let shutdown = CancellationToken::new();
        let running = master::run(config(folder), shutdown.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(running)
        });
        let server = server(folder).await;
        Self { folder: folder.to_owned(), server, shutdown, thread }
    }

    fn administrator(&self) -> Pair {
        kubeconfig::load(&self.folder.join(kubeconfig::FILE_NAME)).expect("credentials").client
    }

    async fn get(&self, path: &str, client: Option<&Pair>) -> (StatusCode, serde_json::Value) {
        let request = Request::get(path).body(Full::default()).expect("a request");
        let (code, body) = http1(&self.folder, self.server, client, request).await;
        let text = || serde_json::Value::String(String::from_utf8_lossy(&body).into_owned());
        (code, serde_json::from_slice(&body).unwrap_or_else(|_| text()))
    }

    async fn stop(self) {
        self.shutdown.cancel();
        let thread = self.thread;
        let joined = tokio::task::spawn_blocking(move || thread.join());
        let ended = tokio::time::timeout(PATIENCE, joined).await.expect("it stops in time");
        ended.expect("joined").expect("no panic").expect("no failure");
    }
}

fn config(folder: &Path) -> Config {
    let data_dir = format!("--data-dir={}", folder.display());
    let cli = Cli::try_parse_from(["master", &data_dir, "--listen=127.0.0.1:0"]).expect("parses");
    Config::try_from(cli.serve).expect("good")
}

/// Where the master of a folder serves, as its kubeconfig tells once it is written.
async fn server(folder: &Path) -> SocketAddr {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(credentials) = kubeconfig::load(&folder.join(kubeconfig::FILE_NAME)) {
            let server = credentials.server.trim_start_matches("https://");
            let server: SocketAddr = server.parse().expect("an address");
            if TcpStream::connect(server).await.is_ok() {
                return server;
            }
        }
        assert!(Instant::now() < deadline, "no master came up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn connect(
    folder: &Path,
    server: SocketAddr,
    client: Option<&Pair>,
    protocol: &[u8],
) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    let ca = std::fs::read(folder.join("ca.crt")).expect("the authority");
    roots.add(CertificateDer::from_pem_slice(&ca).expect("PEM")).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match client {
        Some(pair) => {
            let certificate =
                CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("PEM");
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(vec![certificate], key).expect("a pair")
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(server).await.expect("a connection");
    let name = ServerName::try_from("kubernetes.default.svc.cluster.local").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake")
}

async fn http1(
    folder: &Path,
    server: SocketAddr,
    client: Option<&Pair>,
    mut request: Request<Full<Bytes>>,
) -> (StatusCode, Bytes) {
    request.headers_mut().insert("host", "master".parse().expect("a value"));
    let stream = connect(folder, server, client, b"http/1.1").await;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.expect("an answer");
    assert_eq!(response.version(), Version::HTTP_11);
    let code = response.status();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    drop(sender);
    connection.await.expect("no panic").expect("a clean end");
    (code, body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_needs_a_good_certificate() {
    let folder = tempfile::tempdir().expect("a directory");
    let master = Master::start(folder.path()).await;
    for open in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(master.get(open, None).await.0, StatusCode::OK, "{open}");
    }
    let path = "/api/v1/namespaces/default";
    let (code, status) = master.get(path, None).await;
    assert_eq!((code, &status["kind"]), (StatusCode::UNAUTHORIZED, &"Status".into()));

    let administrator = master.administrator();
    let (code, namespace) = master.get(path, Some(&administrator)).await;
    assert_eq!((code, &namespace["metadata"]["name"]), (StatusCode::OK, &"default".into()));

    // Of another cluster: the same answer, not a broken connection.
    let other = tempfile::tempdir().expect("a directory");
    let stranger = Authority::open(other.path()).expect("an authority");
    let subject = Subject { common_name: "kubernetes-admin", organization: Some("system:masters") };
    let forged = stranger.issue_client(&subject).expect("a certificate");
    assert_eq!(master.get(path, Some(&forged)).await.0, StatusCode::UNAUTHORIZED);

    // Known, but not an administrator.
    let authority = Authority::open(folder.path()).expect("the authority");
    let subject = Subject { common_name: "jane", organization: Some("developers") };
    let jane = authority.issue_client(&subject).expect("a certificate");
    let (code, status) = master.get(path, Some(&jane)).await;
    assert_eq!((code, &status["reason"]), (StatusCode::FORBIDDEN, &"Forbidden".into()));
    let key = rcgen::KeyPair::generate().expect("a key");
    let request = rcgen::CertificateParams::default().serialize_request(&key).expect("a request");
    let certificate = authority.issue_node("n1", request.der()).expect("a certificate");
    let node = Pair { certificate, key: key.serialize_pem() };
    assert_eq!(master.get(path, Some(&node)).await.0, StatusCode::FORBIDDEN);
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_and_grpc_share_the_port_with_rest() {
    let folder = tempfile::tempdir().expect("a directory");
    let master = Master::start(folder.path()).await;
    let administrator = master.administrator();
    let stream = connect(&master.folder, master.server, Some(&administrator), b"h2").await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let request = Request::get("https://master/api/v1/namespaces").body(Full::<Bytes>::default());
    let response = sender.send_request(request.expect("a request")).await.expect("an answer");
    assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2));

    // A gRPC call that is none: the node service answers, not REST.
    let call = Request::post("https://master/kutter.node.v1.Node/Session")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::<Bytes>::default())
        .expect("a request");
    let response = sender.send_request(call).await.expect("an answer");
    let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
    assert_eq!(kind, Some("application/grpc"));
    let code = response.headers().get("grpc-status").and_then(|code| code.to_str().ok());
    assert_eq!(code, Some("7"), "an administrator is not a node");
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_starts_again_is_the_same_cluster() {
    let folder = tempfile::tempdir().expect("a directory");
    let master = Master::start(folder.path()).await;
    let file = |name: &str| std::fs::read(folder.path().join(name)).expect("a file");
    let before = (file("ca.crt"), file("server.crt"));
    let administrator = master.administrator();
    let (_, first) = master.get("/api/v1/namespaces/default", Some(&administrator)).await;

    let second = master::run(config(folder.path()), CancellationToken::new()).await;
    assert!(matches!(second, Err(master::RunError::Running(_))), "{second:?}");
    master.stop().await;

    let master = Master::start(folder.path()).await;
    assert_eq!(before, (file("ca.crt"), file("server.crt")));
    let (_, again) = master.get("/api/v1/namespaces/default", Some(&administrator)).await;
    assert_eq!(first["metadata"], again["metadata"]);
    master.stop().await;

    // With the store of a cluster but without its authority there is nothing to be done.
    std::fs::remove_file(folder.path().join("ca.crt")).expect("removed");
    std::fs::remove_file(folder.path().join("ca.key")).expect("removed");
    let orphan = master::run(config(folder.path()), CancellationToken::new()).await;
    assert!(matches!(orphan, Err(master::RunError::OtherAuthority(_))), "{orphan:?}");
    assert!(!folder.path().join("ca.key").exists(), "nothing was made that would be of no use");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_ends_watches_and_does_not_wait_for_idle_clients() {
    let folder = tempfile::tempdir().expect("a directory");
    let master = Master::start(folder.path()).await;
    let administrator = master.administrator();
    let stream = connect(&master.folder, master.server, Some(&administrator), b"http/1.1").await;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    let request = Request::get("/api/v1/namespaces?watch=true").header("host", "master");
    let request = request.body(Full::<Bytes>::default()).expect("a request");
    let mut watch = sender.send_request(request).await.expect("an answer").into_body();
    watch.frame().await.expect("an event").expect("a frame");
    let idle = connect(&master.folder, master.server, None, b"http/1.1").await;
    let begun = Instant::now();
    master.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    while let Some(frame) = watch.frame().await {
        frame.expect("a clean end");
    }
    drop(idle);
}

/// The program itself.
struct Program(Child);

impl Program {
    fn start(folder: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_master"))
            .arg("--data-dir")
            .arg(folder)
            .args(["--listen", "127.0.0.1:0"])
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the program starts");
        Self(child)
    }

    fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn token_create(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_master"))
        .args(["token", "create", "--data-dir"])
        .arg(folder)
        .args(arguments)
        .output()
        .expect("the program runs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_makes_tokens_and_stops_when_told() {
    let folder = tempfile::tempdir().expect("a directory");
    let failed = token_create(folder.path(), &[]);
    assert!(!failed.status.success());
    let words = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(words.contains("has a master been started"), "{words}");

    let mut program = Program::start(folder.path());
    server(folder.path()).await;
    let made = token_create(folder.path(), &["--ttl", "1h"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let token = String::from_utf8(made.stdout).expect("text");
    let authority = Authority::open(folder.path()).expect("the authority");
    let parts: Vec<_> = token.trim().split('.').collect();
    assert_eq!((parts.len(), parts[2]), (3, authority.fingerprint().as_str()));
    let refused = token_create(folder.path(), &["--ttl", "0s"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("a second at least"));

    program.signal("-TERM");
    assert!(program.0.wait().expect("an end").success(), "a clean exit");
    let failed = token_create(folder.path(), &[]);
    let words = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(words.contains("no master answers"), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_for_administrators_to_make() {
    let folder = tempfile::tempdir().expect("a directory");
    let master = Master::start(folder.path()).await;
    let ask = async |client: Option<&Pair>| {
        let request = Request::builder()
            .method(Method::POST)
            .uri(master::token_api::PATH)
            .header("content-type", "application/json")
            .body(Full::from(r#"{"ttlSeconds":60}"#))
            .expect("a request");
        http1(&master.folder, master.server, client, request).await.0
    };
    assert_eq!(ask(None).await, StatusCode::UNAUTHORIZED);
    let authority = Authority::open(folder.path()).expect("the authority");
    let subject = Subject { common_name: "system:node:n1", organization: Some("system:nodes") };
    let node = authority.issue_client(&subject).expect("a certificate");
    assert_eq!(ask(Some(&node)).await, StatusCode::FORBIDDEN);
    assert_eq!(ask(Some(&master.administrator())).await, StatusCode::CREATED);
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_killed_at_once_starts_again_at_once() {
    let folder = tempfile::tempdir().expect("a directory");
    for round in 0..8u64 {
        let program = Program::start(folder.path());
        // At all stages of a first and of later starts.
        tokio::time::sleep(Duration::from_millis(round * 15)).await;
        program.signal("-KILL");
        drop(program);
    }
    let begun = Instant::now();
    let _program = Program::start(folder.path());
    server(folder.path()).await;
    let administrator = kubeconfig::load(&folder.path().join(kubeconfig::FILE_NAME));
    let administrator = administrator.expect("credentials");
    let server: SocketAddr =
        administrator.server.trim_start_matches("https://").parse().expect("an address");
    let request = Request::get("/api/v1/namespaces/kube-system").body(Full::default());
    let request = request.expect("a request");
    let (code, _) = http1(folder.path(), server, Some(&administrator.client), request).await;
    assert_eq!(code, StatusCode::OK, "after {:?}", begun.elapsed());
}
