//! Load for the bench: what a network carries, how fast it connects, when it turns elsewhere.
//!
//! Whoever is connected to says its host name at once, on a line: a connection counts when that was
//! read, not when something accepted it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::libc::linger;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Linger;

use super::http::hostname;

/// How much is written at once, in bytes.
const CHUNK: usize = 128 << 10;
/// After this long a connection counts as not answered.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks where connections lead; well below what is measured with it.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// Says who it is to everybody who connects, and reads what they write until they end.
pub(crate) fn sink(port: u16) -> io::Result<()> {
    // Both families where there are two.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?;
    let greeting = format!("{}\n", hostname().trim());
    for connection in listener.incoming() {
        let Ok(mut connection) = connection else { continue };
        // Whoever only wanted to know who this is has left already.
        if connection.write_all(greeting.as_bytes()).is_err() {
            continue;
        }
        thread::spawn(move || {
            let mut buffer = vec![0; CHUNK];
            while connection.read(&mut buffer).is_ok_and(|length| length > 0) {}
        });
    }
    Ok(())
}

/// Writes to a sink for so long; how many bytes it took in a second.
pub(crate) fn blast(address: &str, time: Duration) -> io::Result<f64> {
    let (mut connection, _) = connect(resolve(address)?)?;
    let chunk = vec![7; CHUNK];
    let (began, mut written) = (Instant::now(), 0);
    while began.elapsed() < time {
        written += connection.write(&chunk)?;
    }
    connection.shutdown(std::net::Shutdown::Write)?;
    // The sink ends when it has read everything.
    io::copy(&mut connection, &mut io::sink())?;
    Ok(written as f64 / began.elapsed().as_secs_f64())
}

/// How long each of so many connections took until the sink had said who it is, one after the other,
/// in microseconds.
pub(crate) fn dial(address: &str, count: usize) -> io::Result<Vec<u64>> {
    let address = resolve(address)?;
    let time = |_| {
        let began = Instant::now();
        let (connection, _) = connect(address)?;
        let took = began.elapsed();
        // Closed at once, or the ports of past connections become scarce, and looking for one slow.
        setsockopt(&connection, Linger, &linger { l_onoff: 1, l_linger: 0 })?;
        Ok(u64::try_from(took.as_micros()).unwrap_or(u64::MAX))
    };
    (0..count).map(time).collect()
}

/// Connects again and again until one of the name answers; says so with the time, in nanoseconds
/// since 1970.
pub(crate) fn until(address: &str, name: &str) -> io::Result<u128> {
    let address = resolve(address)?;
    println!("watching {address}");
    while !connect(address).is_ok_and(|(_, answered)| answered == name) {
        thread::sleep(BETWEEN_LOOKS);
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    Ok(since.as_nanos())
}

fn resolve(address: &str) -> io::Result<SocketAddr> {
    address.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("no such address"))
}

fn connect(address: SocketAddr) -> io::Result<(TcpStream, String)> {
    let connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut name = String::new();
    // The sink says nothing after the line, so nothing is lost in the buffer.
    BufReader::new(&connection).read_line(&mut name)?;
    Ok((connection, name.trim().to_owned()))
}
