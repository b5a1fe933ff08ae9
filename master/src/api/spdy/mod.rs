//! SPDY/3.1, the server's side: what older clients run programs and forward ports over.
//!
//! Clients open streams, each with a few headers, and name by them what a stream is for. A stream
//! carries bytes both ways, and each direction ends by itself.
//!
//! ```text
//! bytes ── frame (pure) ── connection: one reader, one writer ── Stream, a handful for each client
//!            └ headers: names and values, compressed by one history for the whole connection
//! ```
//!
//! The clients in use are written over one library (moby/spdystream), which neither keeps to windows
//! nor opens them. So windows hold for a peer only from when it first speaks of them.

mod connection;
mod frame;
mod headers;

pub(crate) use connection::{Gone, Incoming, Reader, Stream, Writer, serve};
