//! One question to one resolver: over UDP, and over TCP if the answer was cut short.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::super::message::MAX_DATAGRAM;

/// More than a resolver sends that was told how much there is room for.
const MAX_ANSWER: usize = 4096;

/// What an asker wants beside the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Wanted {
    /// The records that prove the answer.
    pub(crate) proofs: bool,
    /// Also what does not stand the resolver's own check.
    pub(crate) unchecked: bool,
}

/// Asks, and waits for as long as it is polled. Every question has a socket, and with that a port, of
/// its own: an answer is hard to forge for whoever sees neither port nor number.
pub(crate) async fn exchange(
    server: SocketAddr,
    query: &Query,
    wanted: Wanted,
) -> io::Result<Message> {
    let id = random_u64().ok_or_else(|| io::Error::other("the kernel has no chance to give"))?;
    let id = u16::from_be_bytes([id.to_be_bytes()[0], id.to_be_bytes()[1]]);
    let asked = message(id, query, wanted).to_vec().map_err(io::Error::other)?;
    let unspecified: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((unspecified, 0)).await?;
    socket.connect(server).await?;
    socket.send(&asked).await?;
    let mut buffer = vec![0; MAX_ANSWER];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What is no answer to this is not from who was asked.
        let Some(answer) = read(&buffer[..length], id, query) else { continue };
        if answer.metadata.truncation {
            return over_tcp(server, &asked, id, query).await;
        }
        return Ok(answer);
    }
}

async fn over_tcp(server: SocketAddr, asked: &[u8], id: u16, query: &Query) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let length = u16::try_from(asked.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), asked].concat()).await?;
    let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut bytes).await?;
    read(&bytes, id, query).ok_or_else(|| io::Error::other("what it answered is something else"))
}

fn message(id: u16, query: &Query, wanted: Wanted) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = wanted.unchecked;
    message.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_DATAGRAM).set_dnssec_ok(wanted.proofs);
    message.set_edns(edns);
    message
}

/// A message, if it answers this question.
pub(crate) fn read(bytes: &[u8], id: u16, query: &Query) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    let same = message.metadata.id == id && message.metadata.message_type == MessageType::Response;
    (same && message.queries.as_slice() == std::slice::from_ref(query)).then_some(message)
}

/// A number that nobody can foresee.
pub(crate) fn random_u64() -> Option<u64> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(u64::from_be_bytes(bytes))
}
