//! As much of the FUSE protocol as a folder of small read-only files takes. Numbers are in the machine's
//! order; what is not named here stays zero.

/// What the kernel asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Call<'a> {
    Init {
        minor: u32,
    },
    Lookup {
        name: &'a [u8],
    },
    Attributes {
        node: u64,
    },
    Open,
    Read {
        node: u64,
        offset: u64,
        size: u32,
    },
    ReadFolder,
    /// To be answered with success.
    Fine,
    /// Not to be answered.
    Unheard,
    Unknown,
}

/// What is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Init { minor: u32 },
    Entry { node: u64, size: u64 },
    Attributes { node: u64, size: u64 },
    Opened,
    Data(Vec<u8>),
    Done,
    Error(i32),
}

const HEADER: usize = 40;

/// The version of the protocol whose structures these are.
const MAJOR: u32 = 7;
const MINOR: u32 = 31;

/// A file that is not kept by the kernel: each read asks.
const DIRECT: u32 = 1;

/// The number of the only folder.
const FOLDER: u64 = 1;

/// The number of a request, and what it asks.
pub(super) fn parse(bytes: &[u8]) -> Option<(u64, Call<'_>)> {
    let opcode = u32_at(bytes, 4)?;
    let (unique, node) = (u64_at(bytes, 8)?, u64_at(bytes, 16)?);
    let body = bytes.get(HEADER..)?;
    let call = match opcode {
        1 => Call::Lookup { name: body.split(|byte| *byte == 0).next()? },
        2 | 36 | 42 => Call::Unheard,
        3 => Call::Attributes { node },
        14 | 27 => Call::Open,
        15 => Call::Read { node, offset: u64_at(body, 8)?, size: u32_at(body, 16)? },
        // Release, flush, its folder's release, access, the end.
        18 | 25 | 29 | 34 | 38 => Call::Fine,
        26 => Call::Init { minor: u32_at(body, 4)? },
        28 => Call::ReadFolder,
        _ => Call::Unknown,
    };
    Some((unique, call))
}

impl Answer {
    /// As it goes to the kernel.
    pub(super) fn bytes(&self, unique: u64) -> Vec<u8> {
        let mut body = Vec::new();
        let mut error = 0i32;
        match self {
            Answer::Init { minor } => {
                let (readahead, flags) = (0u32, 0u32);
                for number in [MAJOR, MINOR.min(*minor), readahead, flags] {
                    body.extend(number.to_ne_bytes());
                }
                body.extend(16u16.to_ne_bytes());
                body.extend(12u16.to_ne_bytes());
                // The least that may be written at once, and times to the nanosecond.
                for number in [4096u32, 1] {
                    body.extend(number.to_ne_bytes());
                }
                body.resize(64, 0);
            }
            Answer::Entry { node, size } => {
                body.extend(node.to_ne_bytes());
                body.resize(40, 0);
                body.extend(attributes(*node, *size));
            }
            Answer::Attributes { node, size } => {
                body.resize(16, 0);
                body.extend(attributes(*node, *size));
            }
            Answer::Opened => {
                body.resize(8, 0);
                body.extend(DIRECT.to_ne_bytes());
                body.resize(16, 0);
            }
            Answer::Data(data) => body.extend(data),
            Answer::Done => {}
            Answer::Error(number) => error = -number,
        }
        let length = (16 + body.len()) as u32;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(error.to_ne_bytes());
        bytes.extend(unique.to_ne_bytes());
        bytes.extend(body);
        bytes
    }
}

/// Root's, for everybody to read.
fn attributes(node: u64, size: u64) -> Vec<u8> {
    let mode: u32 = if node == FOLDER { 0o40555 } else { 0o100_444 };
    let mut bytes = node.to_ne_bytes().to_vec();
    bytes.extend(size.to_ne_bytes());
    bytes.resize(60, 0);
    bytes.extend(mode.to_ne_bytes());
    bytes.extend(1u32.to_ne_bytes());
    bytes.resize(88, 0);
    bytes
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(opcode.to_ne_bytes());
        bytes.extend(7u64.to_ne_bytes());
        bytes.extend(node.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn requests_are_understood() {
        let mut read = 3u64.to_ne_bytes().to_vec();
        read.extend(4096u64.to_ne_bytes());
        read.extend(512u32.to_ne_bytes());
        for (bytes, call) in [
            (request(1, 1, b"meminfo@web\0"), Call::Lookup { name: b"meminfo@web" }),
            (request(15, 5, &read), Call::Read { node: 5, offset: 4096, size: 512 }),
            (request(3, 9, &[]), Call::Attributes { node: 9 }),
            (request(2, 9, &[]), Call::Unheard),
            (request(16, 9, &[]), Call::Unknown),
        ] {
            assert_eq!(parse(&bytes), Some((7, call)));
        }
        assert_eq!(parse(&[0; 12]), None);
        assert_eq!(parse(&request(15, 5, &[0; 4])), None);
    }

    #[test]
    fn answers_have_the_lengths_that_the_kernel_expects() {
        for (answer, length) in [
            (Answer::Init { minor: 45 }, 64),
            (Answer::Entry { node: 2, size: 9 }, 128),
            (Answer::Attributes { node: 1, size: 0 }, 104),
            (Answer::Opened, 16),
            (Answer::Data(b"abc".to_vec()), 3),
            (Answer::Error(2), 0),
        ] {
            let bytes = answer.bytes(7);
            assert_eq!(bytes.len(), 16 + length, "{answer:?}");
            assert_eq!(u32_at(&bytes, 0), Some(bytes.len() as u32));
            assert_eq!(u64_at(&bytes, 8), Some(7));
        }
        assert_eq!(u32_at(&Answer::Error(2).bytes(1), 4), Some(-2i32 as u32));
    }
}
