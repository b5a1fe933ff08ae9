//! Netlink messages, byte by byte.
//!
//! A message is a header, a family header, and attributes; an attribute is its length, its type and
//! a value, which may be attributes again. All begin at multiples of four. Headers are in the
//! machine's byte order, what nf_tables puts into attributes is in network byte order.

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// Marks an attribute that holds attributes.
const NESTED: u16 = 1 << 15;

/// Messages under construction, in one buffer.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    buffer: Vec<u8>,
    /// Where the message being written begins.
    start: usize,
}

/// What stands in the headers of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headers {
    /// Subsystem and operation.
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// Protocol family the message is about.
    pub(crate) family: u8,
    /// For the messages around a batch: which subsystem it is for.
    pub(crate) resource: u16,
}

impl Messages {
    /// Appends a message whose attributes `write` writes.
    pub(crate) fn push(&mut self, headers: Headers, write: impl FnOnce(&mut Self)) {
        self.start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&headers.kind.to_ne_bytes());
        self.buffer.extend_from_slice(&headers.flags.to_ne_bytes());
        self.buffer.extend_from_slice(&headers.sequence.to_ne_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&[headers.family, 0]);
        self.buffer.extend_from_slice(&headers.resource.to_be_bytes());
        write(self);
        // A message of ours stays far below 4 GiB: its nested attributes have 16-bit lengths.
        let length = (self.buffer.len() - self.start) as u32;
        self.buffer[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// An attribute with these bytes.
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = (4 + value.len()) as u16;
        self.buffer.extend_from_slice(&length.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(value);
        self.pad();
    }

    /// An attribute with a text, terminated.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let length = (5 + value.len()) as u16;
        self.buffer.extend_from_slice(&length.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(value.as_bytes());
        self.buffer.push(0);
        self.pad();
    }

    /// An attribute with a number of 32 bits.
    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// An attribute that holds what `write` writes, which must be less than 64 KiB.
    pub(crate) fn nest(&mut self, kind: u16, write: impl FnOnce(&mut Self)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 2]);
        self.buffer.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        write(self);
        let length = (self.buffer.len() - start) as u16;
        self.buffer[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Sets flags of the message written last.
    pub(crate) fn add_flags_to_last(&mut self, flags: u16) {
        let at = self.start + 6;
        if let Some(present) = array(&self.buffer, at).map(u16::from_ne_bytes) {
            self.buffer[at..at + 2].copy_from_slice(&(present | flags).to_ne_bytes());
        }
    }

    /// How long the message being written is.
    pub(crate) fn length_of_last(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// All messages.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.buffer
    }

    fn pad(&mut self) {
        self.buffer.resize(self.buffer.len().next_multiple_of(4), 0);
    }
}

/// A message that was received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// What follows the netlink header.
    pub(crate) payload: &'a [u8],
}

/// Takes a received buffer apart. Ends at the first thing that is no whole message.
pub(crate) fn split(mut buffer: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(array(buffer, 0)?) as usize;
        let message = buffer.get(..length).filter(|_| length >= HEADER)?;
        buffer = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Received {
            kind: u16::from_ne_bytes(array(message, 4)?),
            flags: u16::from_ne_bytes(array(message, 6)?),
            sequence: u32::from_ne_bytes(array(message, 8)?),
            payload: &message[HEADER..],
        })
    })
}

/// Attributes of a received message, by type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(array(self.0, 0)?));
        let kind = u16::from_ne_bytes(array(self.0, 2)?) & !NESTED;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// So many bytes from there on, if there are as many.
pub(crate) fn array<const N: usize>(bytes: &[u8], start: usize) -> Option<[u8; N]> {
    bytes.get(start..start.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADERS: Headers = Headers { kind: 7, flags: 1, sequence: 3, family: 2, resource: 10 };

    #[test]
    fn reads_what_it_writes() {
        let mut messages = Messages::default();
        messages.push(HEADERS, |message| {
            message.text(1, "abc");
            message.nest(2, |list| {
                list.number(3, 0x0102_0304);
                list.bytes(4, &[9]);
            });
        });
        messages.push(Headers { sequence: 4, ..HEADERS }, |_| {});
        let received: Vec<Received<'_>> = split(messages.as_slice()).collect();
        assert_eq!(received.len(), 2);
        assert_eq!((received[0].kind, received[0].flags, received[0].sequence), (7, 1, 3));
        assert_eq!(received[1].sequence, 4);
        assert_eq!(received[0].payload[..4], [2, 0, 0, 10]);
        let attributes: Vec<_> = Attributes(&received[0].payload[4..]).collect();
        assert_eq!(attributes[0], (1, b"abc\0".as_slice()));
        let nested: Vec<_> = Attributes(attributes[1].1).collect();
        assert_eq!(nested, [(3, [1, 2, 3, 4].as_slice()), (4, [9].as_slice())]);
    }

    #[test]
    fn ends_at_what_is_no_message() {
        let mut messages = Messages::default();
        messages.push(HEADERS, |message| message.number(1, 1));
        let whole = messages.as_slice();
        for length in 0..whole.len() {
            assert_eq!(split(&whole[..length]).count(), 0, "{length}");
        }
        assert_eq!(split(&[0; 64]).count(), 0);
        assert_eq!(Attributes(&[255, 255, 1, 0, 0]).count(), 0);
        assert_eq!(Attributes(&[0, 0, 1, 0, 0, 0, 0, 0]).count(), 0, "a length of 0 never ends");
    }
}
