//! Header blocks: names and values, deflated with a dictionary and a history that both sides keep.

use std::sync::LazyLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::frame::FrameError;

/// Names in small letters, with their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

/// A block has a handful of short headers; this bounds what a small one can unfold to.
const MAX_BLOCK: usize = 64 << 10;

/// Windows of 32 KiB, as everybody uses.
const LEVEL: Compression = Compression::new(6);

impl Headers {
    /// The value of a header, by its name in any letters.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    fn to_block(&self) -> Vec<u8> {
        let mut block = Vec::new();
        let mut put = |bytes: &[u8]| {
            block.extend_from_slice(&length(bytes.len()));
            block.extend_from_slice(bytes);
        };
        for (name, value) in &self.0 {
            put(name.to_ascii_lowercase().as_bytes());
            put(value.as_bytes());
        }
        [&length(self.0.len())[..], &block].concat()
    }

    fn from_block(block: &[u8]) -> Result<Self, FrameError> {
        let mut rest = block;
        let count = take_length(&mut rest)?;
        let mut headers = Vec::new();
        for _ in 0..count {
            // A count that lies runs out of bytes at once, so nothing is reserved for it.
            let name = take_text(&mut rest)?;
            headers.push((name, take_text(&mut rest)?));
        }
        Ok(Self(headers))
    }
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes()
}

fn take_length(rest: &mut &[u8]) -> Result<usize, FrameError> {
    let (head, tail) = rest.split_first_chunk::<4>().ok_or(FrameError::Headers)?;
    *rest = tail;
    usize::try_from(u32::from_be_bytes(*head)).map_err(|_| FrameError::Headers)
}

fn take_text(rest: &mut &[u8]) -> Result<String, FrameError> {
    let length = take_length(rest)?;
    let (text, tail) = rest.split_at_checked(length).ok_or(FrameError::Headers)?;
    *rest = tail;
    String::from_utf8(text.to_vec()).map_err(|_| FrameError::Headers)
}

/// Compresses the blocks of one direction.
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new() -> Result<Self, FrameError> {
        let mut history = Compress::new(LEVEL, true);
        history.set_dictionary(&DICTIONARY).map_err(|_| FrameError::Headers)?;
        Ok(Self(history))
    }

    pub(super) fn block(&mut self, headers: &Headers) -> Result<Vec<u8>, FrameError> {
        let block = headers.to_block();
        let mut out = Vec::with_capacity(block.len() + 64);
        let mut rest = block.as_slice();
        loop {
            let before = self.0.total_in();
            let room = out.capacity() - out.len();
            self.0
                .compress_vec(rest, &mut out, FlushCompress::Sync)
                .map_err(|_| FrameError::Headers)?;
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(rest.len());
            rest = &rest[taken..];
            // A flush is complete once it leaves room.
            if rest.is_empty() && out.len() < out.capacity() && room > 0 {
                return Ok(out);
            }
            out.reserve(256);
        }
    }
}

/// Reads the blocks of one direction.
pub(super) struct Inflater(Decompress);

impl Inflater {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(super) fn block(&mut self, mut compressed: &[u8]) -> Result<Headers, FrameError> {
        let mut out = Vec::with_capacity(1024);
        while !compressed.is_empty() || out.len() == out.capacity() {
            if out.len() == out.capacity() {
                if out.len() >= MAX_BLOCK {
                    return Err(FrameError::TooLarge);
                }
                out.reserve(out.len().min(MAX_BLOCK - out.len()).max(64));
            }
            let (before, had) = (self.0.total_in(), out.len());
            let result = self.0.decompress_vec(compressed, &mut out, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(0);
            compressed = compressed.get(taken..).unwrap_or_default();
            match result {
                Ok(_) if taken > 0 || out.len() > had => {}
                // No progress: there is nothing more in it.
                Ok(_) => break,
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| FrameError::Headers)?;
                }
                Err(_) => return Err(FrameError::Headers),
            }
        }
        Headers::from_block(&out)
    }
}

/// What both sides take for already said, out of the protocol's definition.
static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::new();
    for word in WORDS {
        bytes.extend_from_slice(&length(word.len()));
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(PHRASES.as_bytes());
    bytes
});

#[rustfmt::skip]
const WORDS: [&str; 65] = [
    "options", "head", "post", "put", "delete", "trace", "accept", "accept-charset",
    "accept-encoding", "accept-language", "accept-ranges", "age", "allow", "authorization",
    "cache-control", "connection", "content-base", "content-encoding", "content-language",
    "content-length", "content-location", "content-md5", "content-range", "content-type",
    "date", "etag", "expect", "expires", "from", "host", "if-match", "if-modified-since",
    "if-none-match", "if-range", "if-unmodified-since", "last-modified", "location",
    "max-forwards", "pragma", "proxy-authenticate", "proxy-authorization", "range", "referer",
    "retry-after", "server", "te", "trailer", "transfer-encoding", "upgrade", "user-agent",
    "vary", "via", "warning", "www-authenticate", "method", "get", "status", "200 OK",
    "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin",
];

const PHRASES: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
     203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Una\
     uthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service \
     UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, \
     Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,applicat\
     ion/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf\
     -8charset=iso-8859-1,utf-,*,enq=0.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_one_that_everybody_has() {
        let mut history = Compress::new(LEVEL, true);
        assert_eq!(DICTIONARY.len(), 1423);
        assert_eq!(history.set_dictionary(&DICTIONARY).unwrap(), 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_of_a_connection_share_a_history() {
        let (mut out, mut back) = (Deflater::new().unwrap(), Inflater::new());
        let mut sizes = Vec::new();
        for number in 0..100 {
            let pair = |name: &str, value: String| (name.to_owned(), value);
            let headers = Headers(vec![
                pair("streamtype", "data".to_owned()),
                pair("port", "8080".to_owned()),
                pair("requestid", number.to_string()),
                pair("long", "x".repeat(number * 50)),
            ]);
            let block = out.block(&headers).unwrap();
            sizes.push(block.len());
            assert_eq!(back.block(&block).unwrap(), headers);
        }
        assert!(sizes[1] < sizes[0], "{sizes:?}");
        assert_eq!(
            back.block(&out.block(&Headers::default()).unwrap()).unwrap(),
            Headers::default()
        );
    }

    #[test]
    fn names_are_found_in_any_letters_and_sent_in_small_ones() {
        let headers = Headers(vec![("streamType".to_owned(), "error".to_owned())]);
        assert_eq!(headers.get("STREAMTYPE"), Some("error"));
        let sent = Headers::from_block(&headers.to_block()).unwrap();
        assert_eq!(sent.0[0].0, "streamtype");
    }

    #[test]
    fn nonsense_and_bombs_are_refused() {
        let plain = |bytes: &[u8]| Headers::from_block(bytes);
        assert_eq!(plain(&[0, 0, 0, 1]), Err(FrameError::Headers));
        assert_eq!(plain(&[255, 255, 255, 255, 0, 0, 0, 9, 1]), Err(FrameError::Headers));
        assert_eq!(Inflater::new().block(b"no zlib").unwrap_err(), FrameError::Headers);
        let bomb = Headers(vec![("a".to_owned(), "a".repeat(1 << 20))]);
        let block = Deflater::new().unwrap().block(&bomb).unwrap();
        assert!(block.len() < 4096);
        assert_eq!(Inflater::new().block(&block).unwrap_err(), FrameError::TooLarge);
    }
}
