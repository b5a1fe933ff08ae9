//! The sockets: questions over UDP and TCP.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::Shared;
use super::forward::{Forward, Told};
use super::message::{Asked, Question, Reply};
use super::zone::Answer;

/// Questions that wait for others' answers at a time; beyond it they are told to come again.
const WAITING: usize = 512;
/// Connections at a time.
const CONNECTIONS: usize = 128;
/// A connection that says nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// The longest question that is read: one name, and options.
const MAX_QUESTION: usize = 4096;
/// Aliases that are followed, one to the next.
const MAX_ALIASES: usize = 8;

/// Answers as long as it lives.
pub(crate) struct Server {
    /// Where it listens.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests let the kernel choose the port"))]
    pub(crate) address: SocketAddr,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// What the tasks share.
struct Service {
    known: Shared,
    forward: Forward,
    waiting: Arc<Semaphore>,
}

impl Server {
    /// Listens at an address, which need not be this machine's yet.
    pub(crate) fn start(address: SocketAddr, known: Shared, forward: Forward) -> io::Result<Self> {
        let udp = UdpSocket::from_std(bound(address, Type::DGRAM)?.into())?;
        let address = udp.local_addr()?;
        let tcp = bound(address, Type::STREAM)?;
        tcp.listen(128)?;
        let tcp = TcpListener::from_std(tcp.into())?;
        let service =
            Arc::new(Service { known, forward, waiting: Arc::new(Semaphore::new(WAITING)) });
        let tasks = [
            tokio::spawn(datagrams(Arc::new(udp), Arc::clone(&service))),
            tokio::spawn(connections(tcp, service)),
        ];
        Ok(Self { address, _tasks: tasks.map(AbortOnDropHandle::new) })
    }
}

fn bound(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(kind == Type::STREAM)?;
    // The bridge comes with the first pod.
    socket.set_freebind_v4(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

async fn datagrams(socket: Arc<UdpSocket>, service: Arc<Service>) {
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
        match service.at_once(&question) {
            Ok(reply) => send(&socket, &reply.into_bytes(room), client).await,
            Err(pending) => {
                let Ok(place) = Arc::clone(&service.waiting).try_acquire_owned() else {
                    let busy = question.answer(ResponseCode::ServFail);
                    send(&socket, &busy.into_bytes(room), client).await;
                    continue;
                };
                let (socket, service) = (Arc::clone(&socket), Arc::clone(&service));
                tokio::spawn(async move {
                    let reply = service.later(&question, pending).await;
                    send(&socket, &reply.into_bytes(room), client).await;
                    drop(place);
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

async fn connections(listener: TcpListener, service: Arc<Service>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else { continue };
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            if let Err(error) = connection(stream, &service).await {
                debug!(%error, "a connection failed");
            }
            drop(place);
        });
    }
}

/// Questions and answers, each with its length before it.
async fn connection(mut stream: TcpStream, service: &Service) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let Ok(length) = tokio::time::timeout(IDLE, stream.read_u16()).await else { return Ok(()) };
        let length = match length {
            Ok(length) => usize::from(length),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        if length > MAX_QUESTION {
            return Ok(());
        }
        let mut bytes = vec![0; length];
        let Ok(read) = tokio::time::timeout(IDLE, stream.read_exact(&mut bytes)).await else {
            return Ok(());
        };
        read?;
        let answer = match Question::read(&bytes) {
            Asked::Question(question) => {
                let reply = match service.at_once(&question) {
                    Ok(reply) => reply,
                    Err(pending) => service.later(&question, pending).await,
                };
                reply.into_bytes(usize::from(u16::MAX))
            }
            Asked::Refused(refusal) => refusal,
            Asked::Nonsense => return Ok(()),
        };
        let mut framed = Vec::with_capacity(2 + answer.len());
        framed.extend_from_slice(&u16::try_from(answer.len()).unwrap_or(u16::MAX).to_be_bytes());
        framed.extend_from_slice(&answer);
        let Ok(written) = tokio::time::timeout(IDLE, stream.write_all(&framed)).await else {
            return Ok(());
        };
        written?;
    }
}

/// An answer that others have to complete: what there is of it, and the name to ask them for.
struct Pending {
    reply: Reply,
    name: Name,
}

impl Service {
    /// The answer, if all of it is known here.
    fn at_once(&self, question: &Question) -> Result<Reply, Box<Pending>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let record_type = question.query.query_type;
        let mut reply = question.answer(ResponseCode::NoError);
        let mut name = question.query.name.clone();
        for _ in 0..MAX_ALIASES {
            let turn = question.id();
            let answer = known.zone.answer(&known.names, &name, record_type, turn);
            if reply.0.answers.is_empty() {
                reply.0.metadata.authoritative = !matches!(answer, Answer::Elsewhere);
            }
            match answer {
                Answer::Records { answers, additionals } => {
                    reply.0.answers.extend(answers);
                    reply.0.additionals.extend(additionals);
                    return Ok(reply);
                }
                Answer::Nothing(authority) => {
                    reply.0.authorities.push(authority);
                    return Ok(reply);
                }
                Answer::NoSuchName(authority) => {
                    reply.0.metadata.response_code = ResponseCode::NXDomain;
                    reply.0.authorities.push(authority);
                    return Ok(reply);
                }
                Answer::Alias(record, target) => {
                    let wanted = record_type == record.record_type();
                    reply.0.answers.push(record);
                    if wanted {
                        return Ok(reply);
                    }
                    name = target;
                }
                Answer::Elsewhere => return Err(Box::new(Pending { reply, name })),
            }
        }
        reply.0.metadata.response_code = ResponseCode::ServFail;
        Ok(reply)
    }

    /// The answer with what others know.
    async fn later(&self, question: &Question, pending: Box<Pending>) -> Reply {
        let Pending { mut reply, name } = *pending;
        let told = self.forward.ask(name, question.query.query_type).await;
        let Told { code, answers, authority } = told;
        reply.0.metadata.response_code = code;
        reply.0.answers.extend(answers);
        reply.0.authorities.extend(authority);
        reply
    }
}
