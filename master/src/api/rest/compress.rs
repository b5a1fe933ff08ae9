//! Large answers, compressed for those who say that they take it; Go's clients always do.

use std::collections::VecDeque;
use std::io::{self, Write as _};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt as _;

/// Kubernetes' own bound: what is smaller is sent faster than it is compressed.
const SMALL: usize = 128 * 1024;

/// Compressed bytes are sent in pieces of about this size.
const CHUNK: usize = 32 * 1024;

/// Compresses an answer that comes to more than [`SMALL`], while it is sent: beside the pieces at
/// its beginning no more than a chunk is held. Not for answers that have no end.
pub(crate) async fn compress(headers: &HeaderMap, response: Response) -> Response {
    if !takes_gzip(headers) || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let mut source = Source { waiting: VecDeque::new(), body };
    match source.is_small().await {
        Ok(true) => {
            let whole: Vec<Bytes> = source.waiting.into();
            return Response::from_parts(parts, Body::from(whole.concat()));
        }
        Ok(false) => {}
        // The status line may still be sent; that the body breaks off tells the rest.
        Err(error) => {
            let broken = futures::stream::iter([Err::<Bytes, _>(error)]);
            return Response::from_parts(parts, Body::from_stream(broken));
        }
    }
    let head = &mut parts.headers;
    head.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    head.remove(header::CONTENT_LENGTH);
    // The fastest, as Kubernetes does: it is the time of this process that is scarce.
    let encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let chunks = futures::stream::try_unfold(Some((source, encoder)), next_chunk);
    Response::from_parts(parts, Body::from_stream(chunks))
}

type Under = Option<(Source, GzEncoder<Vec<u8>>)>;

/// The next compressed piece.
async fn next_chunk(under_way: Under) -> io::Result<Option<(Bytes, Under)>> {
    let Some((mut source, mut encoder)) = under_way else { return Ok(None) };
    while encoder.get_ref().len() < CHUNK {
        match source.next().await {
            Some(piece) => encoder.write_all(&piece?)?,
            None => return Ok(Some((encoder.finish()?.into(), None))),
        }
    }
    let chunk = std::mem::take(encoder.get_mut());
    Ok(Some((chunk.into(), Some((source, encoder)))))
}

/// A body with the pieces of it that were looked at already.
struct Source {
    waiting: VecDeque<Bytes>,
    body: Body,
}

impl Source {
    /// Reads until the body ends or turns out to be large.
    async fn is_small(&mut self) -> io::Result<bool> {
        let mut size = 0;
        while size <= SMALL {
            let Some(piece) = self.read().await else { return Ok(true) };
            let piece = piece?;
            size += piece.len();
            self.waiting.push_back(piece);
        }
        Ok(false)
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        match self.waiting.pop_front() {
            Some(piece) => Some(Ok(piece)),
            None => self.read().await,
        }
    }

    async fn read(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            match self.body.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(io::Error::other(error))),
            }
        }
    }
}

/// Whether a client wants what is compressed.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let mut words = values.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    words.any(|word| {
        let mut parts = word.split(';').map(str::trim);
        let gzip = matches!(parts.next(), Some("gzip" | "*"));
        gzip && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use axum::response::IntoResponse as _;
    use flate2::read::GzDecoder;

    use super::*;

    async fn sent(
        accepts: &str,
        pieces: Vec<io::Result<Bytes>>,
    ) -> (HeaderMap, Result<Vec<u8>, ()>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, accepts.parse().unwrap());
        let response = Body::from_stream(futures::stream::iter(pieces)).into_response();
        let (parts, body) = compress(&headers, response).await.into_parts();
        let whole = body.collect().await.map(|whole| whole.to_bytes().to_vec());
        (parts.headers, whole.map_err(drop))
    }

    fn pieces(sizes: &[usize]) -> Vec<io::Result<Bytes>> {
        let piece = |(index, size): (usize, &usize)| {
            let bytes: Vec<u8> =
                (0..*size).map(|at| (at / 7 * (index + 1)).to_le_bytes()[0]).collect();
            Ok(Bytes::from(bytes))
        };
        sizes.iter().enumerate().map(piece).collect()
    }

    fn whole(sizes: &[usize]) -> Vec<u8> {
        pieces(sizes).into_iter().flat_map(|piece| piece.unwrap().to_vec()).collect()
    }

    #[tokio::test]
    async fn what_is_large_arrives_compressed_and_whole() {
        for sizes in [&[SMALL + 1][..], &[64 << 10, 64 << 10, 1], &[64 << 10; 40]] {
            let (headers, body) = sent("gzip", pieces(sizes)).await;
            let body = body.unwrap();
            assert_eq!(headers[header::CONTENT_ENCODING], "gzip");
            assert_eq!(headers[header::VARY], "Accept-Encoding");
            let mut text = Vec::new();
            GzDecoder::new(&*body).read_to_end(&mut text).unwrap();
            assert!(text == whole(sizes) && body.len() < text.len() / 2, "{sizes:?}");
        }
    }

    #[tokio::test]
    async fn the_rest_arrives_as_it_is() {
        for (accepts, sizes) in [
            ("gzip", &[0][..]),
            ("gzip", &[SMALL]),
            ("identity", &[64 << 10; 40]),
            ("gzip;q=0", &[SMALL + 1]),
        ] {
            let (headers, body) = sent(accepts, pieces(sizes)).await;
            assert!(!headers.contains_key(header::CONTENT_ENCODING), "{accepts} {sizes:?}");
            assert!(body.unwrap() == whole(sizes), "{accepts} {sizes:?}");
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_does_so_compressed_too() {
        for before in [1, SMALL + 1] {
            let mut pieces = pieces(&[before]);
            pieces.push(Err(io::Error::other("broken")));
            assert!(sent("gzip", pieces).await.1.is_err());
        }
    }

    #[test]
    fn compresses_unless_told_not_to() {
        let mut headers = HeaderMap::new();
        assert!(!takes_gzip(&headers));
        for (value, expected) in [
            ("gzip", true),
            ("deflate, gzip;q=0.5", true),
            ("gzip;q=0", false),
            ("identity", false),
        ] {
            headers.insert(header::ACCEPT_ENCODING, value.parse().unwrap());
            assert_eq!(takes_gzip(&headers), expected, "{value}");
        }
    }
}
