//! A tunnel's connection as a stream of bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use proto::node::tunnel_down::Message as Down;
use proto::node::tunnel_up::Message as Up;
use proto::node::{Data, EndOfInput, TunnelDown, TunnelUp};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use crate::api::streams::TunnelStream;

/// Bytes go in pieces of this size, as tunnels want them.
const PIECE: usize = 16 << 10;

/// Dropping it closes the connection.
pub(super) struct TunnelBytes {
    down: PollSender<TunnelDown>,
    up: mpsc::Receiver<TunnelUp>,
    unread: Bytes,
    read_to_end: bool,
}

impl TunnelBytes {
    /// Waits until the other side has accepted the connection.
    pub(super) async fn connected(tunnel: TunnelStream) -> io::Result<Self> {
        let TunnelStream { down, mut up } = tunnel;
        match up.recv().await.and_then(|message| message.message) {
            Some(Up::Connected(_)) => {}
            Some(Up::Failure(failure)) => return Err(io::Error::other(failure.message)),
            _ => return Err(lost()),
        }
        let (down, unread) = (PollSender::new(down), Bytes::new());
        Ok(Self { down, up, unread, read_to_end: false })
    }
}

fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the connection to the node was lost")
}

impl AsyncRead for TunnelBytes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            if self.read_to_end {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.up.poll_recv(context)).and_then(|message| message.message) {
                Some(Up::Data(Data { data, .. })) => self.unread = data,
                Some(Up::EndOfOutput(_) | Up::Finished(_)) => self.read_to_end = true,
                Some(Up::Failure(failure)) => {
                    return Poll::Ready(Err(io::Error::other(failure.message)));
                }
                _ => return Poll::Ready(Err(lost())),
            }
        }
        let length = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread[..length]);
        self.unread.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelBytes {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.down.poll_reserve(context)).map_err(|_| broken())?;
        let piece = &bytes[..bytes.len().min(PIECE)];
        let data = Data { channel: 0, data: Bytes::copy_from_slice(piece) };
        let message = TunnelDown { message: Some(Down::Data(data)) };
        self.down.send_item(message).map_err(|_| broken())?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // One that is gone needs to be told nothing.
        if ready!(self.down.poll_reserve(context)).is_ok() {
            let message = TunnelDown { message: Some(Down::EndOfInput(EndOfInput {})) };
            let _ = self.down.send_item(message);
        }
        Poll::Ready(Ok(()))
    }
}
