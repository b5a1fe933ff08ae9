//! Connections that the kernel remembers: listed, and forgotten when asked for.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;

use super::message::{Attributes, Headers, Messages, array, split};
use super::socket::NetfilterSocket;

/// A connection, or what UDP has in its place: somebody who sends, and who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Number of its transport protocol: TCP, UDP or SCTP.
    pub(crate) protocol: u8,
    /// Whether anything came back.
    pub(crate) answered: bool,
    /// As its first packet was, before any translation.
    pub(crate) original: Direction,
    /// As answers come: from where the first packet was sent in the end.
    pub(crate) reply: Direction,
    /// Tells it from one that has the same addresses later.
    pub(crate) id: [u8; 4],
}

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Direction {
    /// Who sends.
    pub(crate) source: SocketAddr,
    /// To whom.
    pub(crate) destination: SocketAddr,
}

/// A connection to the kernel's memory of flows. Its calls block.
pub(crate) struct Conntrack {
    socket: NetfilterSocket,
}

/// Numbers of `linux/netfilter/nfnetlink_conntrack.h`, and of netlink itself.
mod wire {
    pub(super) const GET: u16 = 1 << 8 | 1;
    pub(super) const DELETE: u16 = 1 << 8 | 2;
    pub(super) const REQUEST: u16 = 0x1;
    pub(super) const ACK: u16 = 0x4;
    pub(super) const DUMP: u16 = 0x300;
    pub(super) const ERROR: u16 = 2;
    pub(super) const DONE: u16 = 3;
    pub(super) const TUPLE_ORIG: u16 = 1;
    pub(super) const TUPLE_REPLY: u16 = 2;
    pub(super) const STATUS: u16 = 3;
    pub(super) const ID: u16 = 12;
    pub(super) const STATUS_MASK: u16 = 26;
    /// Bit of the status: something came back.
    pub(super) const SEEN_REPLY: u32 = 2;
    /// Address families; 0 is all.
    pub(super) const ANY: u8 = 0;
    pub(super) const IPV4: u8 = 2;
    pub(super) const IPV6: u8 = 10;
}

fn headers(kind: u16, flags: u16, family: u8) -> Headers {
    Headers { kind, flags: wire::REQUEST | flags, sequence: 1, family, resource: 0 }
}

impl Conntrack {
    /// A connection in the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { socket: NetfilterSocket::open()? })
    }

    /// All flows of protocols with ports, of both versions of IP. `only_unanswered` spares the
    /// kernel the others; one too old to know tells of them all the same.
    pub(crate) fn flows(&self, only_unanswered: bool) -> io::Result<Vec<Flow>> {
        let mut request = Messages::default();
        request.push(headers(wire::GET, wire::DUMP, wire::ANY), |message| {
            if only_unanswered {
                message.number(wire::STATUS, 0);
                message.number(wire::STATUS_MASK, wire::SEEN_REPLY);
            }
        });
        self.socket.send(request.as_slice())?;
        let mut flows = Vec::new();
        loop {
            let buffer = self.socket.receive()?;
            for message in split(&buffer) {
                match message.kind {
                    wire::DONE => return Ok(flows),
                    wire::ERROR => return Err(error_of(message.payload)),
                    _ => flows.extend(message.payload.get(4..).and_then(parse)),
                }
            }
        }
    }

    /// Has a flow forgotten; whether it was still there.
    pub(crate) fn forget(&self, flow: &Flow) -> io::Result<bool> {
        let Direction { source, destination } = flow.original;
        let family = if source.is_ipv4() { wire::IPV4 } else { wire::IPV6 };
        let mut request = Messages::default();
        request.push(headers(wire::DELETE, wire::ACK, family), |message| {
            message.nest(wire::TUPLE_ORIG, |tuple| {
                tuple.nest(1, |ip| match (source.ip(), destination.ip()) {
                    (IpAddr::V6(source), IpAddr::V6(destination)) => {
                        ip.bytes(3, &source.octets());
                        ip.bytes(4, &destination.octets());
                    }
                    (source, destination) => {
                        for (kind, address) in [(1, source), (2, destination)] {
                            if let IpAddr::V4(address) = address {
                                ip.bytes(kind, &address.octets());
                            }
                        }
                    }
                });
                tuple.nest(2, |protocol| {
                    protocol.bytes(1, &[flow.protocol]);
                    protocol.bytes(2, &source.port().to_be_bytes());
                    protocol.bytes(3, &destination.port().to_be_bytes());
                });
            });
            message.bytes(wire::ID, &flow.id);
        });
        self.socket.send(request.as_slice())?;
        loop {
            let buffer = self.socket.receive()?;
            let answer = split(&buffer).find(|message| message.kind == wire::ERROR);
            let Some(answer) = answer else { continue };
            let error = error_of(answer.payload);
            return match error.raw_os_error() {
                Some(0) => Ok(true),
                Some(code) if code == Errno::ENOENT as i32 => Ok(false),
                _ => Err(error),
            };
        }
    }
}

fn error_of(payload: &[u8]) -> io::Error {
    let code = array(payload, 0).map_or(0, i32::from_ne_bytes);
    io::Error::from_raw_os_error(-code)
}

/// A flow from its attributes, if it is of a protocol with ports.
fn parse(attributes: &[u8]) -> Option<Flow> {
    let (protocol, original) = direction(find(attributes, wire::TUPLE_ORIG)?)?;
    let (_, reply) = direction(find(attributes, wire::TUPLE_REPLY)?)?;
    let status = u32::from_be_bytes(array(find(attributes, wire::STATUS)?, 0)?);
    let answered = status & wire::SEEN_REPLY != 0;
    let id = array(find(attributes, wire::ID)?, 0)?;
    Some(Flow { protocol, answered, original, reply, id })
}

fn direction(attributes: &[u8]) -> Option<(u8, Direction)> {
    let (ip, transport) = (find(attributes, 1)?, find(attributes, 2)?);
    let protocol = *find(transport, 1)?.first()?;
    let address = |v4: u16, v6: u16| -> Option<IpAddr> {
        let short = find(ip, v4).and_then(|bytes| array::<4>(bytes, 0)).map(IpAddr::from);
        short.or_else(|| find(ip, v6).and_then(|bytes| array::<16>(bytes, 0)).map(IpAddr::from))
    };
    let port = |kind: u16| Some(u16::from_be_bytes(array(find(transport, kind)?, 0)?));
    let source = SocketAddr::new(address(1, 3)?, port(2)?);
    let destination = SocketAddr::new(address(2, 4)?, port(3)?);
    Some((protocol, Direction { source, destination }))
}

fn find(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes(attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}
