//! Frames as bytes. Nothing here reads or writes anything.
//!
//! ```text
//! control: 1 version:15 type:16 flags:8 length:24 …     data: 0 stream:31 flags:8 length:24 bytes
//! ```

use super::headers::{Deflater, Headers, Inflater};

/// Every frame starts with so many bytes.
pub(super) const HEAD: usize = 8;

/// The longest control frame; real ones have some tens of bytes.
const MAX_CONTROL: usize = 16 << 10;

const VERSION: u16 = 3;
const FIN: u8 = 1;
/// The setting that says how much may be sent before a window is first opened.
const INITIAL_WINDOW: u32 = 7;

/// What is wrong with what a peer sends. The connection cannot go on after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of another version of the protocol")]
    Version,
    #[error("a frame is too large")]
    TooLarge,
    #[error("a frame is too short for what it is")]
    TooShort,
    #[error("broken headers")]
    Headers,
}

/// The first eight bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// So many bytes of a stream follow.
    Data { stream: u32, fin: bool, length: usize },
    /// A control frame, whose payload has this length.
    Control { kind: u16, flags: u8, length: usize },
}

impl Head {
    pub(super) fn parse(head: &[u8; HEAD]) -> Result<Self, FrameError> {
        let [a, b, c, d, flags, length @ ..] = *head;
        let length = usize::from(length[0]) << 16 | usize::from(length[1]) << 8;
        let length = length | usize::from(head[7]);
        if a & 0x80 == 0 {
            let stream = u32::from_be_bytes([a, b, c, d]);
            return Ok(Self::Data { stream, fin: flags & FIN != 0, length });
        }
        if u16::from_be_bytes([a & 0x7f, b]) != VERSION {
            return Err(FrameError::Version);
        }
        if length > MAX_CONTROL {
            return Err(FrameError::TooLarge);
        }
        Ok(Self::Control { kind: u16::from_be_bytes([c, d]), flags, length })
    }
}

/// Why a stream was broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reset {
    Protocol = 1,
    Refused = 3,
    Cancel = 5,
}

/// A control frame, or a whole data frame to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    SynStream {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    SynReply {
        stream: u32,
        headers: Headers,
    },
    RstStream {
        stream: u32,
        status: u32,
    },
    /// The window that streams begin with, if that is among the settings.
    Settings {
        initial_window: Option<u32>,
    },
    Ping(u32),
    GoAway {
        last_stream: u32,
    },
    Headers {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    WindowUpdate {
        stream: u32,
        more: u32,
    },
    Data {
        stream: u32,
        fin: bool,
        bytes: bytes::Bytes,
    },
    /// One that means nothing to us.
    Unknown(u16),
}

impl Frame {
    /// A control frame out of its payload.
    pub(super) fn parse(
        kind: u16,
        flags: u8,
        payload: &[u8],
        inflater: &mut Inflater,
    ) -> Result<Self, FrameError> {
        let fin = flags & FIN != 0;
        let mut rest = Payload(payload);
        Ok(match kind {
            1 => {
                let stream = rest.stream()?;
                // What it is associated to, its priority and its slot are of no consequence here.
                rest.skip(6)?;
                Self::SynStream { stream, fin, headers: inflater.block(rest.0)? }
            }
            2 => Self::SynReply { stream: rest.stream()?, headers: inflater.block(rest.0)? },
            3 => Self::RstStream { stream: rest.stream()?, status: rest.number()? },
            4 => {
                let mut initial_window = None;
                for _ in 0..rest.number()? {
                    let (id, value) = (rest.number()? & 0x00ff_ffff, rest.number()?);
                    if id == INITIAL_WINDOW {
                        initial_window = Some(value);
                    }
                }
                Self::Settings { initial_window }
            }
            6 => Self::Ping(rest.number()?),
            7 => Self::GoAway { last_stream: rest.stream()? },
            8 => Self::Headers { stream: rest.stream()?, fin, headers: inflater.block(rest.0)? },
            9 => Self::WindowUpdate { stream: rest.stream()?, more: rest.stream()? },
            other => Self::Unknown(other),
        })
    }

    /// The frame as bytes. Header blocks have to be sent in the order in which they are made.
    pub(super) fn encode(&self, deflater: &mut Deflater) -> Result<Vec<u8>, FrameError> {
        let fin = |fin: bool| if fin { FIN } else { 0 };
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect();
        let (kind, flags, payload): (u16, u8, Vec<u8>) = match self {
            Self::SynStream { stream, fin: ends, headers } => {
                let mut payload: Vec<u8> = words(&[*stream, 0]);
                payload.extend_from_slice(&[0, 0]);
                payload.extend(deflater.block(headers)?);
                (1, fin(*ends), payload)
            }
            Self::SynReply { stream, headers } => {
                let mut payload: Vec<u8> = words(&[*stream]);
                payload.extend(deflater.block(headers)?);
                (2, 0, payload)
            }
            Self::RstStream { stream, status } => (3, 0, words(&[*stream, *status])),
            Self::Settings { initial_window: None } => (4, 0, words(&[0])),
            Self::Settings { initial_window: Some(window) } => {
                (4, 0, words(&[1, INITIAL_WINDOW, *window]))
            }
            Self::Ping(id) => (6, 0, words(&[*id])),
            Self::GoAway { last_stream } => (7, 0, words(&[*last_stream, 0])),
            Self::Headers { stream, fin: ends, headers } => {
                let mut payload: Vec<u8> = words(&[*stream]);
                payload.extend(deflater.block(headers)?);
                (8, fin(*ends), payload)
            }
            Self::WindowUpdate { stream, more } => (9, 0, words(&[*stream, *more])),
            Self::Data { stream, fin: ends, bytes } => {
                let mut frame = stream.to_be_bytes().to_vec();
                frame.extend_from_slice(&head_end(fin(*ends), bytes.len())?);
                frame.extend_from_slice(bytes);
                return Ok(frame);
            }
            Self::Unknown(kind) => (*kind, 0, Vec::new()),
        };
        let mut frame = (0x8000 | VERSION).to_be_bytes().to_vec();
        frame.extend_from_slice(&kind.to_be_bytes());
        frame.extend_from_slice(&head_end(flags, payload.len())?);
        frame.extend_from_slice(&payload);
        Ok(frame)
    }
}

/// Flags and length.
fn head_end(flags: u8, length: usize) -> Result<[u8; 4], FrameError> {
    let length = u32::try_from(length).ok().filter(|length| length >> 24 == 0);
    let [_, a, b, c] = length.ok_or(FrameError::TooLarge)?.to_be_bytes();
    Ok([flags, a, b, c])
}

/// What is left of a payload.
struct Payload<'a>(&'a [u8]);

impl Payload<'_> {
    fn number(&mut self) -> Result<u32, FrameError> {
        let (head, tail) = self.0.split_first_chunk::<4>().ok_or(FrameError::TooShort)?;
        self.0 = tail;
        Ok(u32::from_be_bytes(*head))
    }

    /// The highest bit has no meaning.
    fn stream(&mut self) -> Result<u32, FrameError> {
        Ok(self.number()? & 0x7fff_ffff)
    }

    fn skip(&mut self, count: usize) -> Result<(), FrameError> {
        self.0 = self.0.get(count..).ok_or(FrameError::TooShort)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(bytes: &[u8], inflater: &mut Inflater) -> Result<Frame, FrameError> {
        let (head, payload) = bytes.split_first_chunk::<HEAD>().unwrap();
        match Head::parse(head)? {
            Head::Data { stream, fin, length } => {
                assert_eq!(length, payload.len());
                Ok(Frame::Data { stream, fin, bytes: payload.to_vec().into() })
            }
            Head::Control { kind, flags, length } => {
                assert_eq!(length, payload.len());
                Frame::parse(kind, flags, payload, inflater)
            }
        }
    }

    #[test]
    fn frames_look_as_the_protocol_says() {
        let mut deflater = Deflater::new().unwrap();
        for (frame, bytes) in [
            (Frame::Ping(2), vec![0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2]),
            (
                Frame::RstStream { stream: 5, status: Reset::Cancel as u32 },
                vec![0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 5],
            ),
            (
                Frame::WindowUpdate { stream: 1, more: 0x8000 },
                vec![0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0x80, 0],
            ),
            (
                Frame::Data { stream: 3, fin: true, bytes: "hi".into() },
                vec![0, 0, 0, 3, 1, 0, 0, 2, b'h', b'i'],
            ),
            (
                Frame::Settings { initial_window: Some(1) },
                vec![0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 1],
            ),
        ] {
            assert_eq!(frame.encode(&mut deflater).unwrap(), bytes, "{frame:?}");
        }
    }

    /// A number that looks random, and the next.
    fn next(seed: &mut u64) -> u32 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        (*seed >> 16) as u32
    }

    fn any_frame(seed: &mut u64) -> Frame {
        let stream = next(seed) & 0x7fff_ffff;
        let fin = next(seed).is_multiple_of(2);
        let headers = |seed: &mut u64| {
            let text = |seed: &mut u64| {
                let length = next(seed) % 40;
                (0..length).map(|_| char::from(b'a' + (next(seed) % 26) as u8)).collect::<String>()
            };
            Headers((0..next(seed) % 6).map(|_| (text(seed), text(seed))).collect())
        };
        match next(seed) % 9 {
            0 => Frame::SynStream { stream, fin, headers: headers(seed) },
            1 => Frame::SynReply { stream, headers: headers(seed) },
            2 => Frame::RstStream { stream, status: next(seed) },
            3 => Frame::Settings { initial_window: fin.then(|| next(seed)) },
            4 => Frame::Ping(next(seed)),
            5 => Frame::GoAway { last_stream: stream },
            6 => Frame::Headers { stream, fin, headers: headers(seed) },
            7 => Frame::WindowUpdate { stream, more: next(seed) & 0x7fff_ffff },
            _ => {
                let bytes: Vec<u8> = (0..next(seed) % 500).map(|_| next(seed) as u8).collect();
                Frame::Data { stream, fin, bytes: bytes.into() }
            }
        }
    }

    #[test]
    fn every_frame_survives_the_way_there() {
        for start in 1..=50_u64 {
            let mut seed = start.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let (mut deflater, mut inflater) = (Deflater::new().unwrap(), Inflater::new());
            for _ in 0..40 {
                let frame = any_frame(&mut seed);
                let bytes = frame.encode(&mut deflater).unwrap();
                assert_eq!(back(&bytes, &mut inflater).unwrap(), frame, "from {start}");
            }
        }
    }

    #[test]
    fn random_bytes_are_an_error_or_a_frame_and_never_a_panic() {
        let mut seed = 42;
        for _ in 0..20_000 {
            let bytes: Vec<u8> =
                (0..8 + next(&mut seed) % 40).map(|_| next(&mut seed) as u8).collect();
            let (head, payload) = bytes.split_first_chunk::<HEAD>().unwrap();
            let _ = Head::parse(head);
            let kind = (next(&mut seed) % 11) as u16;
            let _ = Frame::parse(kind, head[0], payload, &mut Inflater::new());
        }
    }

    #[test]
    fn what_is_too_large_or_of_another_version_is_refused() {
        let head = [0x80, 2, 0, 6, 0, 0, 0, 4];
        assert_eq!(Head::parse(&head), Err(FrameError::Version));
        let head = [0x80, 3, 0, 1, 0, 1, 0, 0];
        assert_eq!(Head::parse(&head), Err(FrameError::TooLarge));
        let short = Frame::parse(9, 0, &[0, 0, 0, 1], &mut Inflater::new());
        assert_eq!(short, Err(FrameError::TooShort));
        // Settings that promise more than they have.
        let many = Frame::parse(4, 0, &[255; 12], &mut Inflater::new());
        assert_eq!(many, Err(FrameError::TooShort));
    }
}
