//! What runs in the pods of the tests and of the example: a static program with few parts, so that
//! an image of it needs nothing else.
//!
//! ```text
//! testserver [serve]          HTTP and UDP echo on $PORT (8080)
//! testserver get URL          fetches over HTTP, prints the body, fails unless the status is 200
//! testserver udp HOST:PORT    sends a datagram, prints the answer
//! testserver resolve NAME     prints the addresses that a name has
//! testserver cat PATH         prints a file
//! testserver lines N          prints N numbered lines
//! testserver sleep [SECONDS]  does nothing, until it is told to end
//! testserver exit CODE        ends at once
//! testserver stay FILE MILLISECONDS CODE
//!                             notes in a file that it is there, and whether it is there twice; ends
//! testserver allocate MIB     touches so much memory, then sleeps
//! testserver fork N           starts N processes that sleep, prints how many it got
//! testserver echo WORDS       prints its arguments
//! testserver terminal         prints whether it has a terminal
//! testserver read             prints what it reads, until end of input
//! testserver parrot           says back every line it reads, until end of input; ends with 3
//! testserver sink             says its host name to whoever connects to $PORT, and reads until they end
//! testserver blast HOST:PORT SECONDS
//!                             writes to a sink; prints the bytes per second
//! testserver dial HOST:PORT N connects to a sink N times; prints the microseconds of each
//! testserver until HOST:PORT NAME
//!                             connects to sinks until NAME answers; prints when, in nanoseconds
//! ```
//!
//! With `$LINGER_MS` it goes on serving for so long after it was told to end, as servers do that want
//! to lose no request: it takes others a moment to learn that nothing should be sent here any more.

mod http;
mod load;

use std::io::{IsTerminal, Read, Write};
use std::net::{ToSocketAddrs, UdpSocket};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

fn main() -> ExitCode {
    // The first process of a container gets no signal that it does not ask for.
    if let Err(error) = ends().thread_block() {
        eprintln!("cannot block signals: {error}");
        return ExitCode::FAILURE;
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    // One that stays notes that it was there, also when it is told to end before it could.
    if words.first() != Some(&"stay") {
        end_when_told();
    }
    match run(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("testserver: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The signals that tell it to end.
fn ends() -> SigSet {
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT])
}

/// Ends the process with the first signal that tells it to, one that has come already included.
fn end_when_told() {
    thread::spawn(|| {
        if let Ok(signal) = ends().wait() {
            println!("got {signal}, ending");
            let linger = std::env::var("LINGER_MS").ok().and_then(|text| text.parse().ok());
            thread::sleep(Duration::from_millis(linger.unwrap_or(0)));
            std::process::exit(0);
        }
    });
}

fn run(args: &[&str]) -> Result<ExitCode, Box<dyn std::error::Error>> {
    match args {
        [] | ["serve"] => http::serve(port()?)?,
        ["get", url] => {
            let (status, body) = http::get(url)?;
            std::io::stdout().write_all(&body)?;
            if status != 200 {
                return Err(format!("{url} answered {status}").into());
            }
        }
        ["udp", address] => println!("{}", ask_udp(address)?),
        ["resolve", name] => {
            for address in (*name, 0).to_socket_addrs()? {
                println!("{}", address.ip());
            }
        }
        ["cat", path] => std::io::stdout().write_all(&std::fs::read(path)?)?,
        ["lines", count] => {
            let mut out = std::io::stdout().lock();
            for line in 1..=count.parse::<u64>()? {
                writeln!(out, "line {line}")?;
            }
        }
        ["sleep"] => sleep(None),
        ["sleep", seconds] => sleep(Some(seconds.parse()?)),
        ["exit", code] => return Ok(ExitCode::from(code.parse::<u8>()?)),
        ["stay", path, milliseconds, code] => {
            return stay(path, Duration::from_millis(milliseconds.parse()?), code.parse()?);
        }
        ["allocate", mebibytes] => {
            println!("allocated {} MiB", allocate(mebibytes.parse()?));
            sleep(None);
        }
        ["fill", path, mebibytes] => {
            let mebibytes: usize = mebibytes.parse()?;
            std::fs::write(path, vec![7; mebibytes << 20])?;
            sleep(None);
        }
        ["fork", count] => println!("forked {}", fork(count.parse()?)),
        ["echo", words @ ..] => println!("{}", words.join(" ")),
        ["terminal"] => println!("terminal: {}", std::io::stdin().is_terminal()),
        ["read"] => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            print!("{text}");
        }
        ["sink"] => load::sink(port()?)?,
        ["blast", address, seconds] => {
            let time = Duration::from_secs(seconds.parse()?);
            println!("{:.0}", load::blast(address, time)?);
        }
        ["dial", address, count] => {
            let mut out = std::io::stdout().lock();
            for time in load::dial(address, count.parse()?)? {
                writeln!(out, "{time}")?;
            }
        }
        ["until", address, name] => println!("{}", load::until(address, name)?),
        ["parrot"] => {
            for line in std::io::stdin().lines() {
                println!("heard {}", line?);
                eprintln!("said it");
            }
            return Ok(ExitCode::from(3));
        }
        _ => return Err(format!("\"{}\" is no command of it", args.join(" ")).into()),
    }
    Ok(ExitCode::SUCCESS)
}

fn port() -> Result<u16, Box<dyn std::error::Error>> {
    Ok(std::env::var("PORT").map_or(Ok(8080), |port| port.parse())?)
}

fn sleep(seconds: Option<u64>) {
    match seconds {
        Some(seconds) => thread::sleep(Duration::from_secs(seconds)),
        None => loop {
            thread::park();
        },
    }
}

/// Holds a lock on the file for as long as it runs: a second one notes that it is one too many.
fn stay(path: &str, time: Duration, code: u8) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    match file.try_lock() {
        Ok(()) => writeln!(&file, "started")?,
        Err(_) => writeln!(&file, "doubled")?,
    }
    end_when_told();
    thread::sleep(time);
    writeln!(&file, "ended")?;
    Ok(ExitCode::from(code))
}

fn ask_udp(address: &str) -> Result<String, Box<dyn std::error::Error>> {
    let address = address.to_socket_addrs()?.next().ok_or("no such address")?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.connect(address)?;
    socket.send(b"hello")?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// Touches memory page by page and keeps it for the life of the process; returns the MiB it got.
pub(crate) fn allocate(mebibytes: usize) -> usize {
    let mut memory = vec![0_u8; mebibytes << 20];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    std::mem::forget(memory);
    mebibytes
}

/// Starts sleeping processes until one is refused; returns how many run.
pub(crate) fn fork(count: usize) -> usize {
    let program = std::env::current_exe().unwrap_or_else(|_| "/testserver".into());
    (0..count)
        .take_while(|_| Command::new(&program).args(["sleep", "3600"]).spawn().is_ok())
        .count()
}
