//! Several channels over one WebSocket: the first byte of a message says which it belongs to.

use axum::extract::ws::Message;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};

/// How a message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// The channel's number, then the bytes.
    Binary,
    /// The channel as a digit, then the bytes in base64: for clients that know text only.
    Base64,
}

impl Coding {
    /// That of a protocol, by its name.
    pub(crate) fn of(protocol: &str) -> Self {
        if protocol.contains("base64") { Self::Base64 } else { Self::Binary }
    }

    /// Nothing for a message that cannot be read.
    pub(crate) fn decode(self, message: &Bytes) -> Option<(u8, Bytes)> {
        let (&channel, data) = message.split_first()?;
        match self {
            Self::Binary => Some((channel, message.slice_ref(data))),
            Self::Base64 => {
                let channel = channel.checked_sub(b'0')?;
                Some((channel, STANDARD.decode(data).ok()?.into()))
            }
        }
    }

    pub(crate) fn encode(self, channel: u8, data: &[u8]) -> Message {
        match self {
            Self::Binary => {
                let mut message = BytesMut::with_capacity(data.len() + 1);
                message.extend_from_slice(&[channel]);
                message.extend_from_slice(data);
                Message::Binary(message.freeze())
            }
            Self::Base64 => {
                let mut text = String::new();
                text.push(char::from(b'0'.saturating_add(channel)));
                STANDARD.encode_string(data, &mut text);
                Message::Text(text.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_way_there() {
        for coding in [Coding::Binary, Coding::Base64] {
            for (channel, data) in [(0, &b"hello"[..]), (4, b""), (12, b"\x00\xff\n")] {
                let message = match coding.encode(channel, data) {
                    Message::Binary(bytes) => bytes,
                    Message::Text(text) => text.into(),
                    other => panic!("{other:?}"),
                };
                let (back, bytes) = coding.decode(&message).unwrap();
                assert_eq!((back, &*bytes), (channel, data));
            }
        }
        assert_eq!(Coding::of("v4.base64.channel.k8s.io"), Coding::Base64);
        assert_eq!(Coding::Base64.decode(&"1aGk=".into()), Some((1, "hi".into())));
        assert_eq!(Coding::Base64.decode(&"1not base64".into()), None);
        assert_eq!(Coding::Binary.decode(&Bytes::new()), None);
    }
}
