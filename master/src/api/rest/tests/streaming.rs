//! `log` and `exec` against nodes that behave as the test says, over real connections.

use super::*;

use base64::Engine as _;
use proto::node::open_tunnel::Request as Wanted;
use proto::node::tunnel_down::Message as Down;
use proto::node::tunnel_up::Message as Up;
use proto::node::{Data, Failure, Finished, LogsRequest, TunnelDown, TunnelUp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Nodes that hand their end of every tunnel to the test.
struct TestStreams {
    tunnels: mpsc::UnboundedSender<NodeEnd>,
}

pub(super) struct NodeEnd {
    node: String,
    pub(super) request: OpenTunnel,
    pub(super) up: mpsc::Sender<TunnelUp>,
    pub(super) down: mpsc::Receiver<TunnelDown>,
}

impl NodeEnd {
    pub(super) async fn say(&self, message: Up) {
        self.up.send(TunnelUp { message: Some(message) }).await.unwrap();
    }

    async fn data(&self, channel: u32, text: &str) {
        self.say(Up::Data(Data { channel, data: text.to_owned().into() })).await;
    }

    async fn heard(&mut self) -> Down {
        self.down.recv().await.expect("the client is there").message.unwrap()
    }
}

#[async_trait]
impl Streams for TestStreams {
    async fn open(&self, node: &str, request: OpenTunnel) -> Result<TunnelStream, StreamError> {
        if node == "lost" {
            return Err(StreamError::NotConnected(node.to_owned()));
        }
        let (up, from_node) = mpsc::channel(8);
        let (to_node, down) = mpsc::channel(8);
        let end = NodeEnd { node: node.to_owned(), request, up, down };
        self.tunnels.send(end).map_err(|_| StreamError::TimedOut(node.to_owned()))?;
        Ok(TunnelStream { down: to_node, up: from_node })
    }
}

/// A server with a pod on node `n1`, another on `lost` and one without a node.
pub(super) async fn with_pods() -> (Server, mpsc::UnboundedReceiver<NodeEnd>) {
    let server = Server::start().await;
    let (tunnels, ends) = mpsc::unbounded_channel();
    let api = Api {
        objects: server.objects.clone(),
        streams: Arc::new(TestStreams { tunnels }),
        accounts: super::accounts(&server.objects, &*server.store).await,
        samples: Arc::default(),
        shutdown: server.shutdown.clone(),
    };
    for (name, node) in [("web", Some("n1")), ("far", Some("lost")), ("new", None)] {
        server.post(PODS, pod(name)).await.ok();
        if let Some(node) = node {
            let binding = json!({"target": {"kind": "Node", "name": node}});
            server.post(&format!("{PODS}/{name}/binding"), binding).await.ok();
        }
    }
    let mut server = server;
    server.router = router(api);
    (server, ends)
}

#[tokio::test]
async fn a_log_is_sent_as_it_comes() {
    let (server, mut ends) = with_pods().await;
    let path = format!(
        "{PODS}/web/log?follow=true&tailLines=5&sinceSeconds=60&timestamps=true&previous=1"
    );
    let node = async {
        let end = ends.recv().await.unwrap();
        assert_eq!(end.node, "n1");
        assert_eq!((end.request.pod.as_str(), end.request.container.as_str()), ("web", "main"));
        assert!(!end.request.pod_uid.is_empty());
        let Some(Wanted::Logs(wanted)) = &end.request.request else { panic!("not a log") };
        assert!(wanted.follow && wanted.timestamps && wanted.previous);
        assert_eq!((wanted.tail_lines, wanted.limit_bytes), (Some(5), None));
        assert!(wanted.since_time.as_ref().unwrap().parse::<jiff::Timestamp>().is_ok());
        end.data(1, "one\n").await;
        end.data(2, "two\n").await;
        end.say(Up::Finished(Finished { exit_code: 0 })).await;
    };
    let (answer, ()) = tokio::join!(server.get(&path), node);
    assert_eq!(answer.headers[header::CONTENT_TYPE], "text/plain");
    assert_eq!(answer.ok(), "one\ntwo\n");
}

#[tokio::test]
async fn the_options_of_a_log_reach_the_node() {
    let (server, mut ends) = with_pods().await;
    let cases = [
        ("", LogsRequest::default()),
        ("stream=All&tailLines=3", LogsRequest { tail_lines: Some(3), ..LogsRequest::default() }),
        ("stream=Stdout", LogsRequest { stream: "stdout".to_owned(), ..LogsRequest::default() }),
        (
            "stream=Stderr&timestamps=true&limitBytes=7",
            LogsRequest {
                stream: "stderr".to_owned(),
                timestamps: true,
                limit_bytes: Some(7),
                ..LogsRequest::default()
            },
        ),
        (
            "sinceTime=2026-01-02T03:04:05%2B02:00&previous=true&follow=false",
            LogsRequest {
                previous: true,
                since_time: Some("2026-01-02T01:04:05Z".to_owned()),
                ..LogsRequest::default()
            },
        ),
        // It is about a connection that there is none of: the node dials, and both have certificates.
        ("insecureSkipTLSVerifyBackend=true", LogsRequest::default()),
    ];
    for (query, wanted) in cases {
        let node = async {
            let end = ends.recv().await.unwrap();
            assert_eq!(end.request.request, Some(Wanted::Logs(wanted)), "{query}");
            end.say(Up::Finished(Finished { exit_code: 0 })).await;
        };
        let path = format!("{PODS}/web/log?{query}");
        let (answer, ()) = tokio::join!(server.get(&path), node);
        assert_eq!(answer.ok(), "");
    }
}

#[tokio::test]
async fn refusals_of_a_log_are_told_as_a_status() {
    let (server, mut ends) = with_pods().await;
    let path = format!("{PODS}/web/log");
    let waiting = "container \"main\" in pod \"web\" is waiting to start: ContainerCreating";
    let node = async {
        let end = ends.recv().await.unwrap();
        end.say(Up::Failure(Failure { code: 400, message: waiting.to_owned() })).await;
    };
    let (answer, ()) = tokio::join!(server.get(&path), node);
    assert_eq!(answer.refused(400, "BadRequest"), waiting);
    let answer = server.get(&format!("{path}?container=other")).await;
    assert_eq!(answer.refused(400, "BadRequest"), "container other is not valid for pod web");
    let not_both = "at most one of `sinceTime` or `sinceSeconds` may be specified";
    let no_tail = "`tailLines` and specific `stream` are mutually exclusive for now";
    let streams = "stream: Unsupported value: \"stdout\": supported values";
    let cases: [(&str, &[&str]); 6] = [
        (
            "tailLines=-1&limitBytes=0&sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
            &[
                "tailLines: Invalid value: -1: must be greater than or equal to 0",
                "limitBytes: Invalid value: 0: must be greater than 0",
                not_both,
            ],
        ),
        ("sinceSeconds=0", &["sinceSeconds: Invalid value: 0: must be greater than 0"]),
        ("stream=stdout", &[streams]),
        ("stream=Stdout&tailLines=1", &[no_tail]),
        ("stream=Stderr&tailLines=0", &[no_tail]),
        ("stream=stdout&tailLines=1", &[streams, no_tail]),
    ];
    for (bad, causes) in cases {
        let answer = server.get(&format!("{path}?{bad}")).await;
        let message = answer.refused(422, "Invalid");
        assert!(message.starts_with("PodLogOptions \"web\" is invalid: "), "{message}");
        for cause in causes {
            assert!(message.contains(cause), "{bad}: {message}");
        }
        let told = answer.body["details"]["causes"].as_array().unwrap().len();
        assert_eq!(told, causes.len(), "{bad}: {message}");
    }
    for bad in ["sinceTime=yesterday", "tailLines=many", "limitBytes=1.5"] {
        server.get(&format!("{path}?{bad}")).await.refused(400, "BadRequest");
    }
    server.get(&format!("{PODS}/none/log")).await.refused(404, "NotFound");
    server.get(&format!("{PODS}/far/log")).await.refused(503, "ServiceUnavailable");
    assert_eq!(server.get(&format!("{PODS}/new/log")).await.ok(), "");
}

/// A client of a WebSocket, as small as can be.
pub(super) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Asks for an upgrade; gives the head of the answer.
    pub(super) async fn connect(server: &Server, path: &str, headers: &str) -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let administrator =
            Identity { user: "admin".to_owned(), groups: vec!["system:masters".to_owned()] };
        let router = server.router.clone().layer(axum::Extension(administrator));
        let stop = server.shutdown.clone();
        tokio::spawn(async move {
            let serve = axum::serve(listener, router);
            serve.with_graceful_shutdown(stop.cancelled_owned()).await.unwrap();
        });
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut client = Self { stream, buffer: Vec::new() };
        let end = loop {
            let found = client.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
            match found {
                Some(at) => break at + 4,
                None => client.read().await,
            }
        };
        let head = client.buffer.drain(..end).collect();
        (client, String::from_utf8(head).unwrap())
    }

    /// Speaks a protocol of exec.
    pub(super) async fn exec(server: &Server, path: &str, protocol: &str) -> Self {
        let key = base64::engine::general_purpose::STANDARD.encode([7; 16]);
        let headers = format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {protocol}\r\n"
        );
        let (client, head) = Self::connect(server, path, &headers).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(head.to_lowercase().contains(&format!("sec-websocket-protocol: {protocol}")));
        client
    }

    async fn read(&mut self) {
        let mut bytes = [0; 4096];
        let count = tokio::time::timeout(Duration::from_secs(10), self.stream.read(&mut bytes));
        let count = count.await.expect("an answer in time").unwrap();
        assert!(count > 0, "the server closed the connection");
        self.buffer.extend_from_slice(&bytes[..count]);
    }

    /// The next frame: its opcode and payload.
    pub(super) async fn frame(&mut self) -> (u8, Vec<u8>) {
        loop {
            if let [first, second, rest @ ..] = self.buffer.as_slice() {
                let (length, start) = match second & 127 {
                    126 if rest.len() >= 2 => {
                        (usize::from(u16::from_be_bytes([rest[0], rest[1]])), 4)
                    }
                    126 => (usize::MAX, 4),
                    short => (usize::from(short), 2),
                };
                if length != usize::MAX && self.buffer.len() >= start + length {
                    let opcode = first & 15;
                    let frame: Vec<u8> = self.buffer.drain(..start + length).collect();
                    return (opcode, frame[start..].to_vec());
                }
            }
            self.read().await;
        }
    }

    pub(super) async fn send(&mut self, payload: &[u8]) {
        assert!(payload.len() < 126);
        // A mask of zeroes leaves the payload as it is.
        let mut frame = vec![0x82, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame).await.unwrap();
    }

    /// The status on the error channel, the close behind it checked.
    async fn status(&mut self) -> Value {
        let (opcode, payload) = self.frame().await;
        assert_eq!((opcode, payload[0]), (2, 3), "{payload:?}");
        let (opcode, close) = self.frame().await;
        assert_eq!((opcode, close), (8, 1000_u16.to_be_bytes().to_vec()));
        serde_json::from_slice(&payload[1..]).unwrap()
    }
}

#[tokio::test]
async fn exec_carries_input_output_sizes_and_the_exit_code() {
    let (server, mut ends) = with_pods().await;
    let path =
        format!("{PODS}/web/exec?command=sh&command=-c&command=exit%203&stdin=1&stdout=1&stderr=1");
    let mut client = Client::exec(&server, &path, "v5.channel.k8s.io").await;
    let mut node = ends.recv().await.unwrap();
    let Some(Wanted::Exec(wanted)) = &node.request.request else { panic!("not an exec") };
    assert_eq!(wanted.command, ["sh", "-c", "exit 3"]);
    assert!(wanted.stdin && wanted.stdout && wanted.stderr && !wanted.tty);
    assert_eq!(client.frame().await, (2, vec![1]));

    client.send(b"\x00hello").await;
    assert_eq!(node.heard().await, Down::Data(Data { channel: 0, data: "hello".into() }));
    client.send(b"\x04{\"Width\":80,\"Height\":24}").await;
    let Down::Resize(size) = node.heard().await else { panic!("not a size") };
    assert_eq!((size.columns, size.rows), (80, 24));
    client.send(&[255, 0]).await;
    assert!(matches!(node.heard().await, Down::EndOfInput(_)));
    node.data(1, "out").await;
    assert_eq!(client.frame().await, (2, b"\x01out".to_vec()));
    node.data(2, "err").await;
    assert_eq!(client.frame().await, (2, b"\x02err".to_vec()));
    node.say(Up::Finished(Finished { exit_code: 3 })).await;
    let status = client.status().await;
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"], json!([{"reason": "ExitCode", "message": "3"}]));
}

#[tokio::test]
async fn exec_succeeds_quietly_and_ends_when_the_client_goes() {
    let (server, mut ends) = with_pods().await;
    let path = format!("{PODS}/web/exec?command=true&stdout=true&stderr=true&tty=true");
    let mut client = Client::exec(&server, &path, "v4.channel.k8s.io").await;
    let node = ends.recv().await.unwrap();
    let Some(Wanted::Exec(wanted)) = &node.request.request else { panic!("not an exec") };
    assert!(wanted.tty && !wanted.stderr);
    node.say(Up::Finished(Finished { exit_code: 0 })).await;
    client.frame().await;
    assert_eq!(client.status().await["status"], "Success");

    let client = Client::exec(&server, &path, "v4.channel.k8s.io").await;
    let node = ends.recv().await.unwrap();
    drop(client);
    let gone = tokio::time::timeout(Duration::from_secs(10), node.up.closed()).await;
    assert!(gone.is_ok(), "the tunnel outlives its client");
}

#[tokio::test]
async fn failures_of_an_exec_reach_the_client() {
    let (server, mut ends) = with_pods().await;
    let path = format!("{PODS}/web/exec?command=nothing&stdout=true");
    let mut client = Client::exec(&server, &path, "v5.channel.k8s.io").await;
    let node = ends.recv().await.unwrap();
    let message = "executable file not found in $PATH".to_owned();
    node.say(Up::Failure(Failure { code: 400, message: message.clone() })).await;
    client.frame().await;
    let status = client.status().await;
    assert_eq!((&status["message"], &status["reason"]), (&json!(message), &json!("BadRequest")));
    let far = format!("{PODS}/far/exec?command=ls&stdout=true");
    let mut client = Client::exec(&server, &far, "v5.channel.k8s.io").await;
    assert_eq!(client.status().await["message"], "node lost is not connected");
    // A node that vanishes is no success.
    let mut client = Client::exec(&server, &path, "v5.channel.k8s.io").await;
    drop(ends.recv().await.unwrap());
    client.frame().await;
    assert_eq!(client.status().await["status"], "Failure");
}

#[tokio::test]
async fn exec_without_a_websocket_gets_a_status() {
    let (server, _ends) = with_pods().await;
    let path = format!("{PODS}/web/exec?command=ls&stdout=true");
    let answer = server.post(&path, Value::Null).await;
    assert!(answer.refused(400, "BadRequest").contains("Upgrade request required"));
    server.get(&format!("{PODS}/web/exec")).await.refused(422, "Invalid");
    let new = server.get(&format!("{PODS}/new/exec?command=ls&stdout=1")).await;
    assert_eq!(new.refused(400, "BadRequest"), "pod new does not have a host assigned");
    let spdy = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v9\r\n";
    let (_, head) = Client::connect(&server, &path, spdy).await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    assert!(head.to_lowercase().contains("x-accepted-stream-protocol-versions: v4.channel.k8s.io"));
}

#[tokio::test]
async fn over_base64_everything_is_text() {
    let (server, mut ends) = with_pods().await;
    let path = format!("{PODS}/web/attach?stdin=1&stdout=1");
    let mut client = Client::exec(&server, &path, "base64.channel.k8s.io").await;
    let mut node = ends.recv().await.unwrap();
    let Some(Wanted::Attach(wanted)) = &node.request.request else { panic!("not an attach") };
    assert!(wanted.stdin && wanted.stdout && !wanted.stderr && !wanted.tty);
    assert_eq!(client.frame().await, (1, b"1".to_vec()));
    client.send(b"0aGVsbG8=").await;
    assert_eq!(node.heard().await, Down::Data(Data { channel: 0, data: "hello".into() }));
    node.data(1, "hi").await;
    assert_eq!(client.frame().await, (1, b"1aGk=".to_vec()));
    // Before version 4 a good end is told by the close alone.
    node.say(Up::Finished(Finished { exit_code: 0 })).await;
    assert_eq!(client.frame().await.0, 8);
}

#[tokio::test]
async fn ports_named_in_the_query_get_two_channels_each() {
    let (server, mut ends) = with_pods().await;
    let path = format!("{PODS}/web/portforward?ports=80,81");
    let mut client = Client::exec(&server, &path, "v4.channel.k8s.io").await;
    let mut nodes = std::collections::HashMap::new();
    for _ in 0..2 {
        let node = ends.recv().await.unwrap();
        let Some(Wanted::Connect(wanted)) = node.request.request else { panic!("no connection") };
        nodes.insert(wanted.port, node);
    }
    let mut first: Vec<_> = Vec::new();
    for _ in 0..4 {
        first.push(client.frame().await.1);
    }
    first.sort();
    assert_eq!(first, [[0, 80, 0], [1, 80, 0], [2, 81, 0], [3, 81, 0]]);
    let web = nodes.get_mut(&80).unwrap();
    web.say(Up::Connected(proto::node::Connected {})).await;
    client.send(b"\x00ping").await;
    assert_eq!(web.heard().await, Down::Data(Data { channel: 0, data: "ping".into() }));
    web.data(1, "pong").await;
    assert_eq!(client.frame().await, (2, b"\x00pong".to_vec()));
    let refused = "connection refused".to_owned();
    nodes[&81].say(Up::Failure(Failure { code: 502, message: refused })).await;
    let (_, told) = client.frame().await;
    let text = String::from_utf8(told[1..].to_vec()).unwrap();
    assert_eq!(told[0], 3);
    assert!(text.starts_with("error forwarding port 81 to pod web, uid "), "{text}");
    assert!(text.ends_with(": connection refused"), "{text}");
    // The last connection takes the client with it.
    nodes[&80].say(Up::EndOfOutput(proto::node::EndOfOutput {})).await;
    assert_eq!(client.frame().await.0, 8);
}
