use master::api::streams::{StreamError, TunnelStream};
use proto::node::open_tunnel::Request;
use proto::node::tunnel_down::Message as Down;
use proto::node::tunnel_up::Message as Up;
use proto::node::{
    AttachRequest, ConnectRequest, Connected, Data, EndOfInput, EndOfOutput, ExecRequest, Failure,
    Finished, LogsRequest, OpenTunnel, Resize, TunnelDown, TunnelOpen, TunnelUp,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::cluster::Cluster;
use crate::node::{BareClient, TestNode};

fn exec(container: &str, command: &str) -> OpenTunnel {
    OpenTunnel {
        namespace: "default".to_owned(),
        pod: "p".to_owned(),
        pod_uid: "u".to_owned(),
        container: container.to_owned(),
        request: Some(Request::Exec(ExecRequest {
            command: vec![command.to_owned()],
            stdin: true,
            stdout: true,
            stderr: true,
            tty: false,
        })),
        ..OpenTunnel::default()
    }
}

async fn send(stream: &TunnelStream, message: Down) {
    stream.down.send(TunnelDown { message: Some(message) }).await.unwrap();
}

/// What came on each channel, and the last message.
async fn collect(stream: &mut TunnelStream) -> (String, String, Option<Up>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(TunnelUp { message }) = stream.up.recv().await {
        match message.unwrap() {
            Up::Data(Data { channel: 1, data }) => out.extend_from_slice(&data),
            Up::Data(Data { channel: 2, data }) => err.extend_from_slice(&data),
            last => {
                let text = |bytes| String::from_utf8(bytes).unwrap();
                return (text(out), text(err), Some(last));
            }
        }
    }
    (String::new(), String::new(), None)
}

#[tokio::test]
async fn a_program_reads_writes_and_ends_through_a_tunnel() {
    let cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    node.connected().await;
    let streams = cluster.nodes().streams();
    let mut stream = streams.open("n1", exec("main", "cat")).await.unwrap();
    // More than fits into all buffers on the way: the writer has to wait for the reader.
    let input = "many words ".repeat(200_000);
    let (down, bytes) = (stream.down.clone(), input.clone().into_bytes());
    let writing = tokio::spawn(async move {
        let parts =
            bytes.chunks(10_000).map(|part| Data { channel: 0, data: part.to_vec().into() });
        for message in parts.map(Down::Data).chain([Down::EndOfInput(EndOfInput {})]) {
            down.send(TunnelDown { message: Some(message) }).await.unwrap();
        }
    });
    let (out, err, last) = collect(&mut stream).await;
    assert_eq!(out, input);
    assert_eq!(err, "cat");
    assert_eq!(last, Some(Up::Finished(Finished { exit_code: 7 })));
    assert!(stream.up.recv().await.is_none());
    writing.await.unwrap();
}

#[tokio::test]
async fn a_terminal_hears_of_its_size() {
    let cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    node.connected().await;
    let streams = cluster.nodes().streams();
    let mut stream = streams.open("n1", exec("main", "wait-for-resize")).await.unwrap();
    send(&stream, Down::Resize(Resize { columns: 80, rows: 24 })).await;
    assert_eq!(collect(&mut stream).await.0, "80x24");
}

#[tokio::test]
async fn a_connection_carries_both_ways_and_each_way_ends_by_itself() {
    let cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    node.connected().await;
    let streams = cluster.nodes().streams();
    let connect = |port| OpenTunnel {
        request: Some(Request::Connect(ConnectRequest { place: 0, port })),
        ..exec("", "")
    };
    let mut stream = streams.open("n1", connect(80)).await.unwrap();
    let heard = async |stream: &mut TunnelStream| stream.up.recv().await.unwrap().message.unwrap();
    assert_eq!(heard(&mut stream).await, Up::Connected(Connected {}));
    send(&stream, Down::Data(Data { channel: 0, data: "hello".into() })).await;
    assert_eq!(heard(&mut stream).await, Up::Data(Data { channel: 1, data: "hello".into() }));
    send(&stream, Down::EndOfInput(EndOfInput {})).await;
    assert_eq!(heard(&mut stream).await, Up::EndOfOutput(EndOfOutput {}));
    assert_eq!(heard(&mut stream).await, Up::Finished(Finished { exit_code: 0 }));
    let mut refused = streams.open("n1", connect(1)).await.unwrap();
    let Up::Failure(failure) = heard(&mut refused).await else { panic!("nobody is there") };
    assert_eq!((failure.code, failure.message.as_str()), (502, "connection refused"));
}

#[tokio::test]
async fn how_a_container_ends_is_no_failure_of_an_attach() {
    let cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    node.connected().await;
    let attach = AttachRequest { stdin: true, stdout: true, stderr: true, tty: false };
    let request = OpenTunnel { request: Some(Request::Attach(attach)), ..exec("main", "") };
    let mut stream = cluster.nodes().streams().open("n1", request).await.unwrap();
    send(&stream, Down::Data(Data { channel: 0, data: "hello".into() })).await;
    send(&stream, Down::EndOfInput(EndOfInput {})).await;
    let (out, _, last) = collect(&mut stream).await;
    assert_eq!((out.as_str(), last), ("hello", Some(Up::Finished(Finished { exit_code: 0 }))));
}

#[tokio::test]
async fn logs_come_through_a_tunnel() {
    let cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    node.connected().await;
    let request = Request::Logs(LogsRequest { tail_lines: Some(1), ..LogsRequest::default() });
    let request = OpenTunnel { request: Some(request), ..exec("main", "") };
    let mut stream = cluster.nodes().streams().open("n1", request).await.unwrap();
    let (out, _, last) = collect(&mut stream).await;
    assert_eq!(out, "one\n");
    assert_eq!(last, Some(Up::Finished(Finished { exit_code: 0 })));
}

#[tokio::test]
async fn a_node_says_why_it_cannot() {
    let cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    node.connected().await;
    let streams = cluster.nodes().streams();
    let mut stream = streams.open("n1", exec("absent", "cat")).await.unwrap();
    let failure = Failure { code: 404, message: "no container absent".to_owned() };
    assert_eq!(collect(&mut stream).await.2, Some(Up::Failure(failure)));

    let since = LogsRequest { since_time: Some("yesterday".to_owned()), ..Default::default() };
    let request = OpenTunnel { request: Some(Request::Logs(since)), ..exec("main", "") };
    let mut stream = streams.open("n1", request).await.unwrap();
    let Some(Up::Failure(Failure { code: 400, .. })) = collect(&mut stream).await.2 else {
        panic!("a time that is none is refused");
    };
}

#[tokio::test]
async fn a_node_without_a_session_cannot_be_asked() {
    let cluster = Cluster::start().await;
    let error = cluster.nodes().streams().open("n1", exec("main", "cat")).await.unwrap_err();
    assert!(matches!(error, StreamError::NotConnected(_)), "{error}");
}

#[tokio::test]
async fn a_node_at_another_master_is_named() {
    let cluster = Cluster::start().await;
    let key = master::store::keys::node_session("n1");
    let put = master::store::Op::Put { key, value: "master-2".into(), lease: None };
    let txn = master::store::Txn { compares: Vec::new(), ops: vec![put] };
    cluster.store.txn(txn).await.unwrap();
    cluster.objects().caches().fresh().await.unwrap();
    let error = cluster.nodes().streams().open("n1", exec("main", "cat")).await.unwrap_err();
    assert!(error.to_string().contains("master-2"), "{error}");
}

#[tokio::test]
async fn a_tunnel_cannot_be_joined_by_another_node_or_by_guessing() {
    let cluster = Cluster::start().await;
    let first = cluster.join("n1", "good").await.unwrap();
    let second = cluster.join("n2", "good").await.unwrap();
    let mut client = BareClient::connect(&cluster, &first).await;
    let mut session = client.session("n1").await;
    session.snapshot().await;
    let streams = cluster.nodes().streams();
    let opening = tokio::spawn(async move { streams.open("n1", exec("main", "cat")).await });
    let id = loop {
        use proto::node::session_down::Message;
        if let Message::OpenTunnel(open) = session.hear().await.unwrap() {
            break open.id;
        }
    };
    let join = async |client: &mut BareClient, id: &str| {
        let (up, receiver) = tokio::sync::mpsc::channel(1);
        let open = TunnelUp { message: Some(Up::Open(TunnelOpen { id: id.to_owned() })) };
        up.send(open).await.unwrap();
        client.client.tunnel(ReceiverStream::new(receiver)).await.map(|down| (up, down))
    };
    let mut other = BareClient::connect(&cluster, &second).await;
    assert_eq!(join(&mut other, &id).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(join(&mut client, "guessed").await.unwrap_err().code(), Code::NotFound);
    let joined = join(&mut client, &id).await.unwrap();
    let stream = opening.await.unwrap().unwrap();
    // And only once.
    assert_eq!(join(&mut client, &id).await.unwrap_err().code(), Code::NotFound);
    drop((joined, stream));
}

#[tokio::test]
async fn the_program_ends_when_the_client_leaves() {
    let cluster = Cluster::start().await;
    let credentials = cluster.join("n1", "good").await.unwrap();
    let mut client = BareClient::connect(&cluster, &credentials).await;
    let mut session = client.session("n1").await;
    session.snapshot().await;
    let streams = cluster.nodes().streams();
    let opening = tokio::spawn(async move { streams.open("n1", exec("main", "cat")).await });
    let id = loop {
        use proto::node::session_down::Message;
        if let Message::OpenTunnel(open) = session.hear().await.unwrap() {
            break open.id;
        }
    };
    let (up, receiver) = tokio::sync::mpsc::channel(1);
    up.send(TunnelUp { message: Some(Up::Open(TunnelOpen { id })) }).await.unwrap();
    let mut down = client.client.tunnel(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    drop(opening.await.unwrap().unwrap());
    assert!(down.message().await.unwrap().is_none());
}
