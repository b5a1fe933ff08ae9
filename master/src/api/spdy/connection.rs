//! A connection: one loop that reads, one that writes, and the streams between them and their users.
//!
//! What is bounded, for one connection: open streams, bytes of a stream that nobody has read yet (then
//! nothing more is read from the connection), and answers that the peer leaves unread (then it ends).

mod table;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, ReadHalf, WriteHalf,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::frame::{Frame, FrameError, HEAD, Head, Reset};
use super::headers::{Deflater, Headers, Inflater};
use table::{Accepted, Table};

/// Streams a peer may have open. A client that forwards a port opens two for each connection.
const MAX_STREAMS: usize = 512;

/// Bytes go through in pieces of this size.
const PIECE: usize = 16 << 10;

/// Pieces of a stream that wait for whoever reads it: what a peer that keeps to windows sends ahead.
const UNREAD_PIECES: usize = 4;

/// Frames with data on their way to the socket, of all streams together.
const UNSENT: usize = 8;

/// Answers to a peer that does not read: pings, replies. A peer with so many is not one.
const UNSENT_ANSWERS: usize = 4096;

/// A peer is asked for a sign of life so often: one that is gone breaks the connection by it.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// After the last stream was closed, so long a peer may take to close the connection.
const FAREWELL: Duration = Duration::from_secs(10);

/// The other side of a stream does not listen, or does not speak any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// Streams that the peer opens.
pub(crate) struct Incoming(mpsc::Receiver<Stream>);

impl Incoming {
    /// The next stream.
    pub(crate) async fn next(&mut self) -> Option<Stream> {
        self.0.recv().await
    }
}

/// A stream: bytes both ways.
pub(crate) struct Stream {
    /// What it was opened with.
    pub(crate) headers: Headers,
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
}

/// What the peer says on a stream.
pub(crate) struct Reader {
    id: u32,
    inbox: mpsc::Receiver<Bytes>,
    reset: CancellationToken,
    shared: Arc<Shared>,
    /// Read, and not yet told to the peer.
    consumed: u32,
}

impl Reader {
    /// The next bytes; nothing when the peer has said all. May be dropped and asked again.
    pub(crate) async fn read(&mut self) -> Result<Option<Bytes>, Gone> {
        let piece = tokio::select! {
            biased;
            () = self.reset.cancelled() => return Err(Gone),
            piece = self.inbox.recv() => piece,
        };
        let Some(piece) = piece else {
            return if self.reset.is_cancelled() { Err(Gone) } else { Ok(None) };
        };
        self.consumed += u32::try_from(piece.len()).unwrap_or(u32::MAX);
        // Half a window, as is customary. Clients that know of no windows take no notice.
        if self.consumed >= 32 << 10 {
            let more = std::mem::take(&mut self.consumed);
            for stream in [self.id, 0] {
                self.shared.answer(Frame::WindowUpdate { stream, more });
            }
        }
        Ok(Some(piece))
    }
}

/// What is said to the peer on a stream. Dropping it in the middle breaks the stream off.
pub(crate) struct Writer {
    id: u32,
    /// Something was said, and may still be on its way.
    begun: bool,
    reset: CancellationToken,
    shared: Arc<Shared>,
    ended: bool,
}

impl Writer {
    /// Waits until there is room on the connection, and in the window of a peer that has windows.
    pub(crate) async fn write(&mut self, mut bytes: Bytes) -> Result<(), Gone> {
        self.begun |= !bytes.is_empty();
        while !bytes.is_empty() {
            let wanted = bytes.len().min(PIECE);
            let granted = self.or_gone(self.shared.table.credit(self.id, wanted)).await?;
            let bytes = bytes.split_to(granted);
            self.send(Frame::Data { stream: self.id, fin: false, bytes }).await?;
        }
        Ok(())
    }

    /// Says that this is all.
    pub(crate) async fn finish(&mut self) -> Result<(), Gone> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        let sent = self.send(Frame::Data { stream: self.id, fin: true, bytes: Bytes::new() }).await;
        self.shared.table.we_end(self.id);
        sent
    }

    /// Breaks the stream off, both ways.
    pub(crate) fn reset(&mut self) {
        self.ended = true;
        self.shared.answer(Frame::RstStream { stream: self.id, status: Reset::Cancel as u32 });
        self.shared.table.remove(self.id);
    }

    async fn send(&self, frame: Frame) -> Result<(), Gone> {
        self.or_gone(self.shared.data.send(frame)).await?.map_err(|_| Gone)
    }

    async fn or_gone<T>(&self, work: impl Future<Output = T>) -> Result<T, Gone> {
        tokio::select! {
            biased;
            () = self.reset.cancelled() => Err(Gone),
            () = self.shared.closed.cancelled() => Err(Gone),
            done = work => Ok(done),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if self.begun {
            self.reset();
        } else {
            self.shared.answer(Frame::Data { stream: self.id, fin: true, bytes: Bytes::new() });
            self.shared.table.we_end(self.id);
        }
    }
}

/// What the loops and the streams have in common.
struct Shared {
    table: Table,
    answers: mpsc::Sender<Frame>,
    data: mpsc::Sender<Frame>,
    closed: CancellationToken,
}

impl Shared {
    /// Sends what nobody waits for.
    fn answer(&self, frame: Frame) {
        if self.answers.try_send(frame).is_err() {
            self.closed.cancel();
        }
    }
}

/// Serves a connection: `handler` gets its streams. Returns when the handler is done and the peer has
/// closed, or when the peer breaks off; the handler is dropped then.
pub(crate) async fn serve<S, F>(io: S, handler: impl FnOnce(Incoming) -> F)
where
    S: AsyncRead + AsyncWrite + Send,
    F: Future<Output = ()>,
{
    let (answers, mut unsent_answers) = mpsc::channel(UNSENT_ANSWERS);
    let (data, mut unsent) = mpsc::channel(UNSENT);
    let (accept, incoming) = mpsc::channel(MAX_STREAMS);
    let closed = CancellationToken::new();
    let shared =
        Arc::new(Shared { table: Table::default(), answers, data, closed: closed.clone() });
    let (read, write) = tokio::io::split(io);
    let reading = read_loop(read, &shared, accept);
    let writing = write_loop(write, &mut unsent_answers, &mut unsent);
    let handling = async {
        handler(Incoming(incoming)).await;
        tokio::time::sleep(FAREWELL).await;
    };
    let ended = tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
        () = handling => Ok(()),
        () = closed.cancelled() => Ok(()),
    };
    closed.cancel();
    if let Err(error) = ended {
        tracing::debug!(%error, "a SPDY connection broke");
    }
}

/// Why a connection ends before its time.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the peer breaks the protocol: {0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Reads until the peer closes.
async fn read_loop<S: AsyncRead>(
    read: ReadHalf<S>,
    shared: &Arc<Shared>,
    accept: mpsc::Sender<Stream>,
) -> Result<(), Broken> {
    let mut read = BufReader::with_capacity(PIECE, read);
    let mut inflater = Inflater::new();
    let mut payload = Vec::new();
    loop {
        let mut head = [0; HEAD];
        match read.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        match Head::parse(&head)? {
            Head::Data { stream, fin, length } => {
                pass_on(&mut read, shared, stream, length).await?;
                if fin {
                    shared.table.peer_ends(stream);
                }
            }
            Head::Control { kind, flags, length } => {
                payload.resize(length, 0);
                read.read_exact(&mut payload).await?;
                match Frame::parse(kind, flags, &payload, &mut inflater)? {
                    Frame::GoAway { .. } => return Ok(()),
                    frame => heed(frame, shared, &accept),
                }
            }
        }
    }
}

/// Reads a data frame, however long, and hands it over in pieces.
async fn pass_on<R: AsyncRead + Unpin>(
    read: &mut R,
    shared: &Shared,
    stream: u32,
    mut length: usize,
) -> Result<(), Broken> {
    let inbox = shared.table.inbox(stream);
    while length > 0 {
        let mut piece = BytesMut::zeroed(length.min(PIECE));
        read.read_exact(&mut piece).await?;
        length -= piece.len();
        // A stream that is gone, or that nobody reads: what is still on its way is of no use.
        let Some(inbox) = &inbox else { continue };
        let _ = inbox.send(piece.freeze()).await;
    }
    Ok(())
}

/// Acts on a control frame.
fn heed(frame: Frame, shared: &Arc<Shared>, accept: &mpsc::Sender<Stream>) {
    let refuse = |stream: u32, why: Reset| {
        shared.answer(Frame::RstStream { stream, status: why as u32 });
    };
    match frame {
        Frame::SynStream { stream: id, fin, headers } => {
            let (inbox, pieces) = mpsc::channel(UNREAD_PIECES);
            let reset = CancellationToken::new();
            match shared.table.open(id, inbox, reset.clone()) {
                Accepted::Yes => {}
                Accepted::TooMany => return refuse(id, Reset::Refused),
                Accepted::BadId => return refuse(id, Reset::Protocol),
            }
            // Clients drop data that comes before the reply.
            shared.answer(Frame::SynReply { stream: id, headers: Headers::default() });
            if fin {
                shared.table.peer_ends(id);
            }
            let reader = Reader {
                id,
                inbox: pieces,
                reset: reset.clone(),
                shared: Arc::clone(shared),
                consumed: 0,
            };
            let writer =
                Writer { id, begun: false, reset, shared: Arc::clone(shared), ended: false };
            // Without anybody to take it, it is dropped and so ended.
            let _ = accept.try_send(Stream { headers, reader, writer });
        }
        Frame::RstStream { stream, .. } => shared.table.remove(stream),
        Frame::Headers { stream, fin: true, .. } => shared.table.peer_ends(stream),
        Frame::Ping(id) => {
            // Ours are even; those come back.
            if id % 2 == 1 {
                shared.answer(Frame::Ping(id));
            }
        }
        Frame::WindowUpdate { stream, more } => shared.table.open_window(stream, more),
        Frame::Settings { initial_window: Some(window) } => shared.table.set_window(window),
        Frame::Settings { initial_window: None }
        | Frame::SynReply { .. }
        | Frame::Headers { .. }
        | Frame::GoAway { .. }
        | Frame::Data { .. }
        | Frame::Unknown(_) => {}
    }
}

/// Writes answers first, then data, and a ping when there was nothing to write for a while.
async fn write_loop<S: AsyncWrite>(
    mut write: WriteHalf<S>,
    answers: &mut mpsc::Receiver<Frame>,
    data: &mut mpsc::Receiver<Frame>,
) -> Result<(), Broken> {
    let mut deflater = Deflater::new()?;
    let mut ping_id = 0_u32;
    loop {
        let next = async {
            tokio::select! {
                biased;
                frame = answers.recv() => frame,
                frame = data.recv() => frame,
            }
        };
        let frame = match tokio::time::timeout(PING_INTERVAL, next).await {
            Ok(Some(frame)) => frame,
            // The senders live as long as this loop.
            Ok(None) => return Ok(()),
            Err(_quiet) => {
                ping_id = ping_id.wrapping_add(2);
                Frame::Ping(ping_id)
            }
        };
        write.write_all(&frame.encode(&mut deflater)?).await?;
        if answers.is_empty() && data.is_empty() {
            write.flush().await?;
        }
    }
}

#[cfg(test)]
mod tests;
