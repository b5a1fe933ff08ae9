//! A connection of a tunnel: bytes both ways, each direction with an end of its own.

use bytes::BytesMut;
use proto::node::tunnel_down::Message as Down;
use proto::node::tunnel_up::Message as Up;
use proto::node::{Connected, Data, EndOfOutput, TunnelDown};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tonic::Streaming;

use super::{CHUNK, STDIN, STDOUT, Sender};
use crate::streams::{Connection, StreamFailure};

/// Carries until both directions have ended. Nothing when the client left before.
pub(super) async fn carry(
    connection: Connection,
    down: &mut Streaming<TunnelDown>,
    up: &Sender,
) -> Result<Option<i32>, StreamFailure> {
    if !up.send(Up::Connected(Connected {})).await {
        return Ok(None);
    }
    let (from_pod, to_pod) = tokio::io::split(connection);
    let both = async { tokio::try_join!(inward(to_pod, down), outward(from_pod, up)).map(drop) };
    tokio::select! {
        ended = both => match ended {
            Ok(()) => Ok(Some(0)),
            Err(End::ClientLeft) => Ok(None),
            Err(End::Broken(reason)) => Err(StreamFailure::unreachable(reason)),
        },
        () = up.closed() => Ok(None),
    }
}

/// Why a direction broke off.
enum End {
    ClientLeft,
    Broken(String),
}

/// To the pod, until the client has nothing more to say or nobody takes it any more.
async fn inward(
    mut to_pod: WriteHalf<Connection>,
    down: &mut Streaming<TunnelDown>,
) -> Result<(), End> {
    loop {
        let message = down.message().await.ok().flatten().ok_or(End::ClientLeft)?;
        match message.message {
            Some(Down::Data(Data { channel: STDIN, data })) => {
                let taken = to_pod.write_all(&data).await.and(to_pod.flush().await);
                // What it has said before it stopped listening still comes.
                if taken.is_err() {
                    return Ok(());
                }
            }
            Some(Down::EndOfInput(_)) => {
                let _ = to_pod.shutdown().await;
                return Ok(());
            }
            _ => {}
        }
    }
}

/// From the pod, until it has nothing more to say.
async fn outward(mut from_pod: ReadHalf<Connection>, up: &Sender) -> Result<(), End> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        match from_pod.read_buf(&mut buffer).await {
            Ok(0) => {
                let told = up.send(Up::EndOfOutput(EndOfOutput {})).await;
                return if told { Ok(()) } else { Err(End::ClientLeft) };
            }
            Ok(_) => {
                let mut bytes = buffer.split().freeze();
                while !bytes.is_empty() {
                    let chunk = bytes.split_to(bytes.len().min(CHUNK));
                    if !up.data(STDOUT, chunk).await {
                        return Err(End::ClientLeft);
                    }
                }
            }
            Err(error) => return Err(End::Broken(error.kind().to_string())),
        }
    }
}
