//! HTTP/1.1 as far as a test needs it: one request for each connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// A request line and each header may have so many bytes.
const MAX_LINE: u64 = 8192;
const TIMEOUT: Duration = Duration::from_secs(10);

static UNHEALTHY: AtomicBool = AtomicBool::new(false);
static HANGING: AtomicBool = AtomicBool::new(false);

/// Serves until the process ends; UDP datagrams on the same port are answered with the host name.
pub(crate) fn serve(port: u16) -> io::Result<()> {
    let datagrams = UdpSocket::bind(&everywhere(port)[..])?;
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((_, from)) = datagrams.recv_from(&mut buffer) {
            // The asker may be gone; the next one counts.
            let _ = datagrams.send_to(hostname().as_bytes(), from);
        }
    });
    let listener = TcpListener::bind(&everywhere(port)[..])?;
    println!("listening on port {port}");
    for connection in listener.incoming() {
        match connection {
            Ok(connection) => {
                thread::spawn(move || {
                    if let Err(error) = answer(connection) {
                        eprintln!("request failed: {error}");
                    }
                });
            }
            Err(error) => eprintln!("accept failed: {error}"),
        }
    }
    Ok(())
}

fn answer(mut connection: TcpStream) -> io::Result<()> {
    connection.set_read_timeout(Some(TIMEOUT))?;
    let peer = connection.peer_addr()?;
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut request = String::new();
    (&mut reader).take(MAX_LINE).read_line(&mut request)?;
    let (mut body_length, mut upgrade) = (0, String::new());
    loop {
        let mut header = String::new();
        let length = (&mut reader).take(MAX_LINE).read_line(&mut header)?;
        if length == 0 || header.trim_end().is_empty() {
            break;
        }
        let Some((name, value)) = header.split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => body_length = value.trim().parse().unwrap_or(0),
            "upgrade" => upgrade = value.trim().to_owned(),
            _ => {}
        }
    }
    if HANGING.load(Ordering::Relaxed) {
        loop {
            thread::park();
        }
    }
    let target = request.split(' ').nth(1).unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let number =
        || query.rsplit('=').next().and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    if path == "/echo" {
        let mut body = Vec::new();
        reader.take(body_length).read_to_end(&mut body)?;
        return respond_with(&mut connection, 200, &body);
    }
    if path == "/upgrade" && upgrade == "echo" {
        // From here on it is no HTTP: everything is said back, until nothing more is said.
        let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\n";
        write!(connection, "{head}Connection: Upgrade\r\n\r\n")?;
        io::copy(&mut reader, &mut connection)?;
        return Ok(());
    }
    if path == "/moved" {
        let head = "HTTP/1.1 302 Found\r\nLocation: /hostname\r\nContent-Length: 0\r\n";
        return write!(connection, "{head}Connection: close\r\n\r\n");
    }
    let (status, body) = match path {
        "/" => (200, format!("hello from {}\n", hostname())),
        "/hostname" => (200, format!("{}\n", hostname())),
        "/peer" => (200, format!("{}\n", peer.ip().to_canonical())),
        "/env" => {
            (200, std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect())
        }
        "/user" | "/status" => (200, std::fs::read_to_string("/proc/self/status")?),
        "/mounts" => (200, std::fs::read_to_string("/proc/self/mounts")?),
        "/healthz" if UNHEALTHY.load(Ordering::Relaxed) => (500, "unhealthy\n".to_owned()),
        "/healthz" => (200, "ok\n".to_owned()),
        "/unhealthy" => {
            UNHEALTHY.store(true, Ordering::Relaxed);
            (200, "unhealthy from now on\n".to_owned())
        }
        "/healthy" => {
            UNHEALTHY.store(false, Ordering::Relaxed);
            (200, "healthy from now on\n".to_owned())
        }
        "/hang" => {
            HANGING.store(true, Ordering::Relaxed);
            (200, "hanging from now on\n".to_owned())
        }
        "/delay" => {
            thread::sleep(Duration::from_millis(number() as u64));
            (200, format!("hello from {}\n", hostname()))
        }
        "/allocate" => (200, format!("allocated {} MiB\n", crate::allocate(number()))),
        "/fork" => (200, format!("forked {}\n", crate::fork(number()))),
        "/exit" => {
            respond(&mut connection, 200, "ending\n")?;
            std::process::exit(i32::try_from(number()).unwrap_or(1));
        }
        "/crash" => {
            respond(&mut connection, 200, "crashing\n")?;
            std::process::abort();
        }
        _ => (404, format!("there is no {path}\n")),
    };
    respond(&mut connection, status, &body)
}

fn respond(connection: &mut TcpStream, status: u16, body: &str) -> io::Result<()> {
    respond_with(connection, status, body.as_bytes())
}

fn respond_with(connection: &mut TcpStream, status: u16, body: &[u8]) -> io::Result<()> {
    let reason = if status == 200 { "OK" } else { "Error" };
    write!(
        connection,
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    )?;
    connection.write_all(body)?;
    connection.flush()
}

pub(crate) fn hostname() -> String {
    nix::unistd::gethostname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// At all addresses of both families, or of IPv4 where there is no other.
fn everywhere(port: u16) -> [SocketAddr; 2] {
    [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
}

/// Fetches `http://HOST[:PORT][/PATH]`; returns status and body.
pub(crate) fn get(url: &str) -> Result<(u16, Vec<u8>), Box<dyn std::error::Error>> {
    let rest = url.strip_prefix("http://").ok_or("only http:// is understood")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    // The colons in brackets are an address's of IPv6.
    let has_port = host.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
    let address = if has_port { host.to_owned() } else { format!("{host}:80") };
    let address = address.to_socket_addrs()?.next().ok_or("no such host")?;
    let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    write!(connection, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .ok_or("the answer is not HTTP")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or("no status")?;
    Ok((status, answer.split_off(end + 4)))
}
