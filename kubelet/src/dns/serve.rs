//! The sockets: questions over UDP and TCP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::answer::{Answerer, Next};
use super::message::{Asked, Question};
use super::seats::Seats;

/// Questions over UDP that wait for others' answers at a time; whoever asks beyond it is told to come
/// again.
const WAITING: usize = 512;
/// The same of one client: C libraries ask two at a time for each thread that looks a name up.
const WAITING_EACH: usize = 128;
/// Connections at a time. Those beyond it are closed at once.
const CONNECTIONS: usize = 128;
/// The same of one client.
const CONNECTIONS_EACH: usize = 16;
/// A connection that says nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// The longest question that is read: one name, and options.
const MAX_QUESTION: usize = 4096;
/// Questions that the kernel keeps while another one is being answered, in bytes: some thousands.
const BACKLOG: usize = 2 << 20;

/// Answers as long as it lives.
pub(crate) struct Server {
    /// Where it listens.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests let the kernel choose the port"))]
    pub(crate) address: SocketAddr,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// How many are served at once, over all addresses.
#[derive(Clone)]
pub(crate) struct Limits {
    waiting: Arc<Seats>,
    connections: Arc<Seats>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            waiting: Seats::new(WAITING, WAITING_EACH),
            connections: Seats::new(CONNECTIONS, CONNECTIONS_EACH),
        }
    }
}

impl Server {
    /// Listens at an address, which need not be this machine's yet.
    pub(crate) fn start(
        address: SocketAddr,
        answerer: Arc<Answerer>,
        limits: Limits,
    ) -> io::Result<Self> {
        let udp = bound(address, Type::DGRAM)?;
        // The kernel gives as much of it as the host allows.
        udp.set_recv_buffer_size(BACKLOG)?;
        let udp = UdpSocket::from_std(udp.into())?;
        let address = udp.local_addr()?;
        let tcp = bound(address, Type::STREAM)?;
        tcp.listen(128)?;
        let tcp = TcpListener::from_std(tcp.into())?;
        let tasks = [
            tokio::spawn(datagrams(Arc::new(udp), Arc::clone(&answerer), limits.waiting)),
            tokio::spawn(connections(tcp, answerer, limits.connections)),
        ];
        Ok(Self { address, _tasks: tasks.map(AbortOnDropHandle::new) })
    }
}

fn bound(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(kind == Type::STREAM)?;
    // The bridge comes with the first pod.
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

async fn datagrams(socket: Arc<UdpSocket>, answerer: Arc<Answerer>, waiting: Arc<Seats>) {
    let mut buffer = vec![0; MAX_QUESTION];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // Somebody who asked is not there any more.
            Err(error) => {
                debug!(%error, "a question was lost");
                continue;
            }
        };
        let question = match Question::read(&buffer[..length]) {
            Asked::Question(question) => question,
            Asked::Refused(refusal) => {
                send(&socket, &refusal, client).await;
                continue;
            }
            Asked::Nonsense => continue,
        };
        let room = question.room();
        match answerer.at_once(&question, room) {
            Next::Done(reply) => send(&socket, &reply.into_bytes(room), client).await,
            Next::AskOthers(pending) => {
                let Some(seat) = waiting.take(client.ip()) else {
                    send(&socket, &Answerer::busy(&question).into_bytes(room), client).await;
                    continue;
                };
                let (socket, answerer) = (Arc::clone(&socket), Arc::clone(&answerer));
                tokio::spawn(async move {
                    let reply = answerer.later(&question, pending).await;
                    send(&socket, &reply.into_bytes(room), client).await;
                    drop(seat);
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, client).await {
        debug!(%error, %client, "an answer was lost");
    }
}

async fn connections(listener: TcpListener, answerer: Arc<Answerer>, seats: Arc<Seats>) {
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "a connection was lost");
                // There may be no file left for it until another one is closed.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let Some(seat) = seats.take(client.ip()) else { continue };
        let answerer = Arc::clone(&answerer);
        tokio::spawn(async move {
            if let Err(error) = connection(stream, &answerer).await {
                debug!(%error, %client, "a connection failed");
            }
            drop(seat);
        });
    }
}

/// Questions and answers, each with its length before it.
async fn connection(mut stream: TcpStream, answerer: &Answerer) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let room = usize::from(u16::MAX);
    loop {
        let Some(bytes) = next_question(&mut stream).await? else { return Ok(()) };
        let answer = match Question::read(&bytes) {
            Asked::Question(question) => {
                let reply = match answerer.at_once(&question, room) {
                    Next::Done(reply) => reply,
                    Next::AskOthers(pending) => answerer.later(&question, pending).await,
                };
                reply.into_bytes(room)
            }
            Asked::Refused(refusal) => refusal,
            Asked::Nonsense => return Ok(()),
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        let Ok(written) = tokio::time::timeout(IDLE, stream.write_all(&framed)).await else {
            return Ok(());
        };
        written?;
    }
}

/// The next question of a connection; nothing when there will be none.
async fn next_question(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let read = async {
        let length = match stream.read_u16().await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            length => usize::from(length?),
        };
        if length > MAX_QUESTION {
            return Ok(None);
        }
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).await?;
        Ok(Some(bytes))
    };
    tokio::time::timeout(IDLE, read).await.unwrap_or(Ok(None))
}
