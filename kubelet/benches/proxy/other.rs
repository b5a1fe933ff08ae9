//! The same Services in kube-proxy's published design, by `nft -f`: a chain for each Service and each
//! endpoint, and maps of verdicts that lead there.

use std::fmt::Write as _;
use std::io;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::cluster::{Size, address, cluster_address};

/// So many single changes are measured.
const CHANGES: u32 = 15;

/// What it took, or why it did not work.
pub(crate) struct Other {
    pub(crate) first: String,
    /// One endpoint's change, the median.
    pub(crate) change: String,
}

/// Installs all, changes some, and removes all again. A program that takes longer than `patience` is
/// ended.
pub(crate) fn measure(size: Size, patience: Duration) -> Other {
    let mut text = String::from(
        "add table ip other\n\
         add chain ip other mark-for-masquerade\n\
         add rule ip other mark-for-masquerade meta mark set meta mark or 0x4000\n\
         add map ip other services { type ipv4_addr . inet_proto . inet_service : verdict ; }\n",
    );
    for service in 0..size.services {
        for endpoint in 0..size.endpoints {
            add_endpoint(&mut text, service, endpoint, 0);
        }
        let _ = writeln!(text, "add chain ip other service-{service}");
        add_choice(&mut text, service, size.endpoints, 0);
        let at = cluster_address(service);
        let _ = writeln!(
            text,
            "add element ip other services {{ {at} . tcp . 80 : goto service-{service} }}",
        );
    }
    let first = nft(&text, patience);
    drop(text);
    let change = match &first {
        Ok(_) => changes(size, patience),
        Err(_) => Err("-".to_owned()),
    };
    // What was not finished may be there or not.
    let _ = Command::new("nft").args(["delete", "table", "ip", "other"]).output();
    let told = |took: Result<Duration, String>| match took {
        Ok(took) => format!("{took:.2?}"),
        Err(reason) => reason,
    };
    Other { first: told(first), change: told(change) }
}

/// Another address becomes the first endpoint's: a new chain, the choice made anew, the old chain gone.
fn changes(size: Size, patience: Duration) -> Result<Duration, String> {
    let mut times = Vec::new();
    for number in 0..CHANGES.min(size.services) {
        let service = number * 7 % size.services;
        let mut text = String::new();
        add_endpoint(&mut text, service, 0, 1);
        let _ = writeln!(text, "flush chain ip other service-{service}");
        add_choice(&mut text, service, size.endpoints, 1);
        let _ = writeln!(text, "delete chain ip other endpoint-{service}-0-0");
        times.push(nft(&text, patience)?);
    }
    times.sort();
    times.get(times.len() / 2).copied().ok_or_else(|| "no change".to_owned())
}

/// The first endpoint has another chain in each version.
fn chain(service: u32, endpoint: u32, version: u32) -> String {
    format!("endpoint-{service}-{endpoint}-{}", if endpoint == 0 { version } else { 0 })
}

fn add_endpoint(text: &mut String, service: u32, endpoint: u32, version: u32) {
    let (chain, to) = (chain(service, endpoint, version), address(service, endpoint, version));
    let _ = writeln!(text, "add chain ip other {chain}");
    let _ = writeln!(text, "add rule ip other {chain} ip saddr {to} jump mark-for-masquerade");
    let _ = writeln!(text, "add rule ip other {chain} meta l4proto tcp dnat to {to}:8080");
}

fn add_choice(text: &mut String, service: u32, endpoints: u32, version: u32) {
    let at = cluster_address(service);
    let _ = writeln!(
        text,
        "add rule ip other service-{service} ip daddr {at} tcp dport 80 ip saddr != 10.128.0.0/9 jump mark-for-masquerade",
    );
    let choices: Vec<String> = (0..endpoints)
        .map(|endpoint| format!("{endpoint} : goto {}", chain(service, endpoint, version)))
        .collect();
    let _ = writeln!(
        text,
        "add rule ip other service-{service} numgen random mod {endpoints} vmap {{ {} }}",
        choices.join(", "),
    );
}

fn nft(text: &str, patience: Duration) -> Result<Duration, String> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("room for it");
    let errors = tempfile::tempfile().expect("a file");
    let began = Instant::now();
    let told = errors.try_clone().expect("a file");
    let mut command = Command::new("nft");
    command.arg("-f").arg(file.path()).stdout(Stdio::null()).stderr(told);
    match wait(&mut command, patience) {
        Ok(Some(status)) if status.success() => Ok(began.elapsed()),
        Ok(Some(_)) => {
            let mut errors = errors;
            let mut text = String::new();
            let _ = io::Seek::rewind(&mut errors)
                .and_then(|()| io::Read::read_to_string(&mut errors, &mut text));
            Err(format!("failed: {}", text.lines().next().unwrap_or_default()))
        }
        Ok(None) => Err(format!("more than {patience:?}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Nothing: it was ended.
fn wait(command: &mut Command, patience: Duration) -> io::Result<Option<ExitStatus>> {
    let mut child = command.spawn()?;
    let until = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > until {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        // There is no waiting for a child with a deadline; what is measured takes far longer.
        std::thread::sleep(Duration::from_micros(200));
    }
}
