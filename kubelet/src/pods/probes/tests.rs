use std::sync::Mutex;

use proto::ObjectKey;
use runtime::{ContainerConfig, FakeRuntime, SandboxConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::pods::names::PodIdentity;
use crate::reporter::Reporter;

fn check(probe: Value) -> Result<Check, String> {
    let container: Container = serde_json::from_value(json!({
        "name": "a", "ports": [{"name": "web", "containerPort": 8080}]
    }))
    .unwrap();
    let probe: Probe = serde_json::from_value(probe).unwrap();
    Check::of(&probe, &container, "127.0.0.1".parse().unwrap())
}

/// Answers each connection with the next of `answers`, the last one for ever; gives the requests.
async fn server(answers: Vec<&'static str>) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        let mut answers = answers.into_iter().peekable();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            seen.lock().unwrap().push(String::from_utf8_lossy(&request[..read]).into_owned());
            let answer = answers.next().unwrap();
            if answers.peek().is_none() {
                answers = vec![answer].into_iter().peekable();
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (port, requests)
}

async fn get(get: Value) -> Result<(), String> {
    match check(json!({ "httpGet": get })).unwrap() {
        Check::Http(target) => target.get().await,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_http_probe_counts_statuses_from_200_to_399() {
    let cases = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Ok(())),
        (
            "HTTP/1.1 302 Found\r\nlocation: http://elsewhere.test/\r\ncontent-length: 0\r\n\r\n",
            Ok(()),
        ),
        (
            "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
            Err("HTTP probe failed with statuscode: 500".to_owned()),
        ),
        (
            "HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n",
            Err("HTTP probe failed with statuscode: 404".to_owned()),
        ),
    ];
    for (answer, expected) in cases {
        let (port, _) = server(vec![answer]).await;
        assert_eq!(get(json!({"port": port, "path": "/health"})).await, expected, "{answer}");
    }
}

/// Says of `shop` that it is well, of `mill` that it is not, of all others that it does not know them.
struct Shop(Arc<Mutex<Vec<String>>>);

#[tonic::async_trait]
impl proto::health::health_server::Health for Shop {
    async fn check(
        &self,
        request: tonic::Request<proto::health::HealthCheckRequest>,
    ) -> Result<tonic::Response<proto::health::HealthCheckResponse>, tonic::Status> {
        use proto::health::health_check_response::ServingStatus;
        let agent = request.metadata().get("user-agent").unwrap().to_str().unwrap().to_owned();
        self.0.lock().unwrap().push(agent);
        let status = match request.into_inner().service.as_str() {
            "" | "shop" => ServingStatus::Serving,
            "mill" => ServingStatus::NotServing,
            "slow" => std::future::pending().await,
            _ => return Err(tonic::Status::not_found("unknown service")),
        };
        let status = status.into();
        Ok(tonic::Response::new(proto::health::HealthCheckResponse { status }))
    }
}

#[tokio::test]
async fn a_grpc_probe_asks_for_a_service_or_for_the_server() {
    let agents = Arc::new(Mutex::new(Vec::new()));
    let service = proto::health::health_server::HealthServer::new(Shop(Arc::clone(&agents)));
    let listener = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap());
    let listener = listener.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(listener));
    let ask = async |probe: Value| match check(json!({ "grpc": probe })).unwrap() {
        // Long enough for a machine with other work: who is to be too slow never answers.
        Check::Grpc(target) => target.check(Duration::from_secs(5)).await,
        other => panic!("{other:?}"),
    };
    for (service, expected) in [
        (json!(null), Ok(())),
        (json!(""), Ok(())),
        (json!("shop"), Ok(())),
        (json!("mill"), Err("service unhealthy (responded with \"NOT_SERVING\")")),
        (
            json!("inn"),
            Err("health rpc failed: Some requested entity was not found: unknown service"),
        ),
        (json!("slow"), Err("timeout: health rpc did not complete within 5s")),
    ] {
        let found = ask(json!({"port": port, "service": service})).await;
        assert_eq!(found, expected.map_err(str::to_owned), "{service}");
    }
    assert!(agents.lock().unwrap()[0].starts_with("kube-probe/kutter-"), "{agents:?}");
    let refused = ask(json!({"port": 1})).await.unwrap_err();
    assert!(refused.contains("Connection refused"), "{refused}");
}

#[tokio::test]
async fn a_grpc_probe_by_tls_takes_whatever_certificate_it_is_shown() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["somebody.test".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let incoming = futures::stream::unfold((listener, acceptor), |(listener, acceptor)| async {
        let (tcp, _) = listener.accept().await.unwrap();
        // Who does not speak TLS is turned away.
        let stream = acceptor.accept(tcp).await.inspect(|stream| {
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        });
        Some((stream, (listener, acceptor)))
    });
    let service = proto::health::health_server::HealthServer::new(Shop(Arc::default()));
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    let ask = async |mode: Value| match check(
        json!({"grpc": {"port": port, "service": "shop", "mode": mode}}),
    )
    .unwrap()
    {
        Check::Grpc(target) => target.check(Duration::from_secs(5)).await,
        other => panic!("{other:?}"),
    };
    assert_eq!(ask(json!("TLS")).await, Ok(()));
    ask(json!("Plaintext")).await.unwrap_err();
    ask(json!(null)).await.unwrap_err();
    assert_eq!(
        check(json!({"grpc": {"port": port, "mode": "STARTTLS"}})).unwrap_err(),
        "unknown mode \"STARTTLS\" of a gRPC probe"
    );
}

#[tokio::test]
async fn a_grpc_probe_of_a_server_without_the_protocol_fails() {
    let (port, _) = server(vec!["HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]).await;
    let Check::Grpc(target) = check(json!({"grpc": {"port": port}})).unwrap() else {
        panic!("it is another kind");
    };
    target.check(Duration::from_secs(5)).await.unwrap_err();
}

#[tokio::test]
async fn an_http_probe_sends_its_headers_and_its_path() {
    let (port, requests) = server(vec!["HTTP/1.1 204 OK\r\n\r\n"]).await;
    let headers = json!([{"name": "Host", "value": "web.test"}, {"name": "X-Probe", "value": "1"}]);
    get(json!({"port": port, "path": "health?full=1", "httpHeaders": headers})).await.unwrap();
    let request = requests.lock().unwrap().remove(0).to_lowercase();
    assert!(request.starts_with("get /health?full=1 http/1.1\r\n"), "{request}");
    assert!(request.contains("host: web.test\r\n"), "{request}");
    assert!(request.contains("x-probe: 1\r\n"), "{request}");
    assert!(request.contains("user-agent: kube-probe/"), "{request}");
}

#[tokio::test]
async fn a_redirect_within_the_host_is_followed() {
    let (port, requests) = server(vec![
        "HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
    ])
    .await;
    let failed = get(json!({"port": port, "path": "/"})).await;
    assert_eq!(failed.unwrap_err(), "HTTP probe failed with statuscode: 500");
    assert!(requests.lock().unwrap()[1].starts_with("GET /login "));
}

#[tokio::test]
async fn an_http_probe_does_not_read_without_end() {
    let endless = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\nxxxxxxxxxxxxxxxxxxxxx";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(endless.as_bytes()).await.unwrap();
        let chunk = [b'x'; 4096];
        while stream.write_all(&chunk).await.is_ok() {}
    });
    assert_eq!(get(json!({ "port": port })).await, Ok(()));
}

#[tokio::test]
async fn a_refused_connection_is_a_failure_in_words() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let problem = get(json!({ "port": port })).await.unwrap_err();
    assert!(
        problem
            .starts_with(&format!("Get \"http://127.0.0.1:{port}/\": dial tcp 127.0.0.1:{port}")),
        "{problem}"
    );
}

#[test]
fn ports_may_be_named() {
    assert!(matches!(
        check(json!({"tcpSocket": {"port": "web"}})),
        Ok(Check::Tcp { port: 8080, .. })
    ));
    assert_eq!(
        check(json!({"tcpSocket": {"port": "none"}})).unwrap_err(),
        "couldn't find port: none"
    );
    assert!(check(json!({"tcpSocket": {"port": 70000}})).is_err());
    assert!(check(json!({})).is_err());
}

#[test]
fn a_verdict_changes_at_its_threshold() {
    let mut count = Count::new(2, 3);
    assert_eq!(count.success(), None);
    assert_eq!(count.success(), Some(true));
    assert_eq!(count.success(), None, "no news");
    assert_eq!(count.failure().verdict, None);
    assert_eq!(count.failure().verdict, None);
    assert_eq!(count.success(), None, "the row is broken");
    for expected in [None, None, Some(false), None] {
        assert_eq!(count.failure().verdict, expected);
    }
}

/// A probe task over a fake container whose program answers as `healthy` says.
struct Bench {
    news: mpsc::Receiver<ProbeNews>,
    reporter: Reporter,
    task: tokio::task::JoinHandle<()>,
    began: tokio::time::Instant,
}

async fn bench(
    kind: ProbeKind,
    probe: Value,
    known: Option<bool>,
    healthy: impl Fn(u32) -> bool + Send + Sync + 'static,
) -> Bench {
    let runtime = FakeRuntime::new();
    let sandbox = SandboxId("pod".to_owned());
    let container = ContainerId("a-0".to_owned());
    let config = SandboxConfig { id: sandbox.clone(), ..Default::default() };
    runtime.create_sandbox(&config).await.unwrap();
    let config = ContainerConfig { id: container.clone(), ..Default::default() };
    runtime.start_container(&sandbox, &config).await.unwrap();
    let looks = Mutex::new(0);
    runtime.answer_exec(move |_, _| {
        let mut looks = looks.lock().unwrap();
        *looks += 1;
        (b"oh no\n".to_vec(), if healthy(*looks) { 0 } else { 1 })
    });
    let mut probe = probe;
    probe["exec"] = json!({"command": ["check"]});
    let probe: Probe = serde_json::from_value(probe).unwrap();
    let (sender, news) = mpsc::channel(16);
    let (reporter, clock) = (Reporter::default(), Clock::tokio(runtime.now()));
    let identity = PodIdentity { key: ObjectKey::new("shop", "web"), uid: "u".to_owned() };
    let task = ProbeTask {
        kind,
        container_name: "a".to_owned(),
        container,
        sandbox,
        timing: Timing::of(&probe),
        check: Check::Exec(vec!["check".to_owned()]),
        known,
        started_at: clock.now(),
        runtime: Arc::new(runtime),
        clock: clock.clone(),
        teller: Teller::new(reporter.clone(), clock, "node".to_owned(), identity),
        news: sender,
    };
    let began = tokio::time::Instant::now();
    Bench { news, reporter, task: tokio::spawn(task.run()), began }
}

impl Bench {
    async fn next(&mut self) -> (bool, u64) {
        let news = self.news.recv().await.unwrap();
        (news.healthy, self.began.elapsed().as_secs())
    }
}

#[tokio::test(start_paused = true)]
async fn a_liveness_probe_fails_after_its_threshold() {
    let probe = json!({"initialDelaySeconds": 5, "periodSeconds": 10, "failureThreshold": 3});
    let mut bench = bench(ProbeKind::Liveness, probe, None, |look| look == 1).await;
    assert_eq!(bench.next().await, (true, 5));
    assert_eq!(bench.next().await, (false, 35));
    let events = bench.reporter.with(|outbox| outbox.events.clone());
    let messages: Vec<_> = events.iter().filter_map(|e| e.message.as_deref()).collect();
    assert_eq!(messages, ["Liveness probe failed: oh no", "Liveness probe failed: oh no"]);
}

#[tokio::test(start_paused = true)]
async fn readiness_comes_and_goes() {
    let probe = json!({"periodSeconds": 1, "failureThreshold": 2, "successThreshold": 2});
    let mut bench = bench(ProbeKind::Readiness, probe, None, |look| !(3..6).contains(&look)).await;
    assert_eq!(bench.next().await, (true, 1));
    assert_eq!(bench.next().await, (false, 3));
    assert_eq!(bench.next().await, (true, 6));
}

#[tokio::test(start_paused = true)]
async fn what_was_known_before_is_news_only_when_it_changes() {
    let probe = json!({"periodSeconds": 1, "failureThreshold": 1});
    let mut bench = bench(ProbeKind::Readiness, probe, Some(true), |look| look < 4).await;
    assert_eq!(bench.next().await, (false, 3));
}

#[tokio::test(start_paused = true)]
async fn a_startup_probe_ends_with_its_success() {
    let probe = json!({"periodSeconds": 1, "failureThreshold": 30});
    let mut bench = bench(ProbeKind::Startup, probe, None, |look| look == 4).await;
    assert_eq!(bench.next().await, (true, 3));
    bench.task.await.unwrap();
}
