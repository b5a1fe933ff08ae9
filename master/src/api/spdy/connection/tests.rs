//! A connection against a peer that speaks frames.

use super::*;

use tokio::io::DuplexStream;

/// The other side.
struct Peer {
    io: DuplexStream,
    deflater: Deflater,
    inflater: Inflater,
}

impl Peer {
    fn new(io: DuplexStream) -> Self {
        Self { io, deflater: Deflater::new().unwrap(), inflater: Inflater::new() }
    }

    async fn send(&mut self, frame: Frame) {
        let bytes = frame.encode(&mut self.deflater).unwrap();
        self.io.write_all(&bytes).await.unwrap();
    }

    async fn open(&mut self, stream: u32, kind: &str) {
        let headers = Headers(vec![("streamType".to_owned(), kind.to_owned())]);
        self.send(Frame::SynStream { stream, fin: false, headers }).await;
        assert!(matches!(self.next().await, Frame::SynReply { stream: id, .. } if id == stream));
    }

    async fn data(&mut self, stream: u32, text: &'static str, fin: bool) {
        self.send(Frame::Data { stream, fin, bytes: text.into() }).await;
    }

    async fn next(&mut self) -> Frame {
        let mut head = [0; HEAD];
        self.io.read_exact(&mut head).await.unwrap();
        match Head::parse(&head).unwrap() {
            Head::Data { stream, fin, length } => {
                let mut bytes = vec![0; length];
                self.io.read_exact(&mut bytes).await.unwrap();
                Frame::Data { stream, fin, bytes: bytes.into() }
            }
            Head::Control { kind, flags, length } => {
                let mut payload = vec![0; length];
                self.io.read_exact(&mut payload).await.unwrap();
                Frame::parse(kind, flags, &payload, &mut self.inflater).unwrap()
            }
        }
    }
}

/// Echoes every stream to its end.
async fn echo(mut incoming: Incoming) {
    let mut tasks = tokio::task::JoinSet::new();
    while let Some(mut stream) = incoming.next().await {
        tasks.spawn(async move {
            while let Ok(Some(bytes)) = stream.reader.read().await {
                if stream.writer.write(bytes).await.is_err() {
                    return;
                }
            }
            let _ = stream.writer.finish().await;
        });
    }
}

fn echoing() -> (Peer, tokio::task::JoinHandle<()>) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    (Peer::new(theirs), tokio::spawn(serve(ours, echo)))
}

#[tokio::test]
async fn streams_carry_bytes_and_end_each_way_by_itself() {
    let (mut peer, server) = echoing();
    peer.open(1, "data").await;
    peer.open(3, "data").await;
    peer.data(1, "one", false).await;
    assert_eq!(peer.next().await, Frame::Data { stream: 1, fin: false, bytes: "one".into() });
    peer.data(3, "three", true).await;
    assert_eq!(peer.next().await, Frame::Data { stream: 3, fin: false, bytes: "three".into() });
    assert_eq!(peer.next().await, Frame::Data { stream: 3, fin: true, bytes: Bytes::new() });
    peer.send(Frame::Ping(1)).await;
    assert_eq!(peer.next().await, Frame::Ping(1));
    peer.data(1, "", true).await;
    assert_eq!(peer.next().await, Frame::Data { stream: 1, fin: true, bytes: Bytes::new() });
    drop(peer);
    server.await.unwrap();
}

#[tokio::test]
async fn a_stream_with_a_wrong_number_is_refused_and_the_others_go_on() {
    let (mut peer, _server) = echoing();
    peer.open(5, "data").await;
    for stream in [2, 3, 5] {
        peer.send(Frame::SynStream { stream, fin: false, headers: Headers::default() }).await;
        let status = Reset::Protocol as u32;
        assert_eq!(peer.next().await, Frame::RstStream { stream, status });
    }
    peer.data(99, "nobody's", false).await;
    peer.data(5, "still", false).await;
    assert_eq!(peer.next().await, Frame::Data { stream: 5, fin: false, bytes: "still".into() });
}

#[tokio::test]
async fn there_is_a_bound_on_streams() {
    let (mut peer, _server) = echoing();
    for number in 0..MAX_STREAMS as u32 {
        peer.open(2 * number + 1, "data").await;
    }
    let stream = 2 * MAX_STREAMS as u32 + 1;
    peer.send(Frame::SynStream { stream, fin: false, headers: Headers::default() }).await;
    let status = Reset::Refused as u32;
    assert_eq!(peer.next().await, Frame::RstStream { stream, status });
    // One that was broken off makes room.
    peer.send(Frame::RstStream { stream: 1, status }).await;
    peer.open(stream + 2, "data").await;
}

/// Sends on the first stream without waiting for anything.
async fn pour(mut incoming: Incoming, total: usize) {
    let Some(mut stream) = incoming.next().await else { return };
    let _ = stream.writer.write(vec![7; total].into()).await;
    let _ = stream.writer.finish().await;
}

#[tokio::test]
async fn a_peer_that_never_speaks_of_windows_gets_everything() {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let _server = tokio::spawn(serve(ours, |incoming| pour(incoming, 1 << 20)));
    let mut peer = Peer::new(theirs);
    peer.open(1, "data").await;
    let mut total = 0;
    loop {
        match peer.next().await {
            Frame::Data { bytes, fin: false, .. } => total += bytes.len(),
            Frame::Data { fin: true, .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(total, 1 << 20);
}

#[tokio::test(start_paused = true)]
async fn a_peer_with_windows_gets_what_fits_into_them() {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let _server = tokio::spawn(serve(ours, |incoming| pour(incoming, 100_000)));
    let mut peer = Peer::new(theirs);
    peer.send(Frame::Settings { initial_window: Some(1000) }).await;
    peer.open(1, "data").await;
    assert!(matches!(peer.next().await, Frame::Data { bytes, .. } if bytes.len() == 1000));
    // Nothing but pings while the window is closed.
    assert!(matches!(peer.next().await, Frame::Ping(_)));
    peer.send(Frame::WindowUpdate { stream: 1, more: 500 }).await;
    assert!(matches!(peer.next().await, Frame::Data { bytes, .. } if bytes.len() == 500));
    // The window of the connection holds as well.
    peer.send(Frame::WindowUpdate { stream: 1, more: 1_000_000 }).await;
    let mut total = 1500;
    while let Frame::Data { bytes, .. } = peer.next().await {
        total += bytes.len();
    }
    assert_eq!(total, 64 << 10);
    peer.send(Frame::WindowUpdate { stream: 0, more: 1_000_000 }).await;
    while let Frame::Data { bytes, fin: false, .. } = peer.next().await {
        total += bytes.len();
    }
    assert_eq!(total, 100_000);
}

#[tokio::test]
async fn what_is_read_opens_the_window_for_more() {
    let (mut peer, _server) = echoing();
    peer.open(1, "data").await;
    let mut opened = [0; 2];
    for _ in 0..4 {
        peer.send(Frame::Data { stream: 1, fin: false, bytes: vec![1; 16 << 10].into() }).await;
        loop {
            match peer.next().await {
                Frame::WindowUpdate { stream, more } => opened[stream as usize] += more,
                Frame::Data { .. } => break,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(opened, [64 << 10, 64 << 10]);
}

#[tokio::test]
async fn a_reset_ends_both_directions() {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (told, heard) = tokio::sync::oneshot::channel();
    let _server = tokio::spawn(serve(ours, async move |mut incoming: Incoming| {
        let mut stream = incoming.next().await.unwrap();
        let read = stream.reader.read().await;
        let written = stream.writer.write("late".into()).await;
        told.send((read, written)).unwrap();
    }));
    let mut peer = Peer::new(theirs);
    peer.open(1, "data").await;
    peer.send(Frame::RstStream { stream: 1, status: 5 }).await;
    assert_eq!(heard.await.unwrap(), (Err(Gone), Err(Gone)));
}

#[tokio::test]
async fn the_handler_ends_with_the_peer() {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (alive, ended) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(serve(ours, async move |_incoming: Incoming| {
        let _alive = alive;
        std::future::pending::<()>().await;
    }));
    drop(theirs);
    assert!(ended.await.is_err());
    server.await.unwrap();
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_hung_up_on() {
    let (mut peer, server) = echoing();
    peer.io.write_all(b"GET / HTTP/1.1\r\n\r\n\x80\x09\x00\x01").await.unwrap();
    peer.io.write_all(&[0x80, 2, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0]).await.unwrap();
    drop(peer);
    server.await.unwrap();
}
