//! Carries attempts out: a program in each probing pod tries those of its node.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use kube::api::AttachParams;
use tokio::io::AsyncReadExt;

use super::attempt::{Attempt, Heard, Outcome, Wanted};
use super::probers::{Prober, Probers};

/// So many attempts are one program's: its command line is part of a URL, and it makes them all at once.
const AT_ONCE: usize = 40;
/// What fails is tried again, after a pause: a Service that was made just now takes a moment to be known
/// everywhere.
const ROUNDS: usize = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// Takes the seconds that each attempt may take, and four words for each. Prints number, exit code and
/// what was said, a line for each.
const SCRIPT: &str = r#"t=$1; shift
try() {
  case $2 in
    ask) said=$(nc -w "$t" "$3" "$4" </dev/null 2>&1); code=$? ;;
    connect) said=$(nc -w "$t" "$3" "$4" -e sh -c 'exit 42' </dev/null 2>&1); code=$? ;;
  esac
  echo "$1" "$code" $said
}
while [ $# -ge 4 ]; do try "$1" "$2" "$3" "$4" & shift 4; done
wait"#;

/// Tries everything, from all nodes at once.
pub(crate) async fn all(
    probers: &Probers,
    attempts: Vec<Attempt>,
    patience: Duration,
) -> Result<Vec<Outcome>> {
    let mut heard: BTreeMap<usize, Heard> = BTreeMap::new();
    for round in 0..ROUNDS {
        let outcome = |at: usize, heard: &Heard| Outcome {
            attempt: attempts[at].clone(),
            heard: heard.clone(),
        };
        let left: Vec<usize> = (0..attempts.len())
            .filter(|at| heard.get(at).is_none_or(|found| !outcome(*at, found).is_ok()))
            .collect();
        if left.is_empty() {
            break;
        }
        if round > 0 {
            eprintln!("{} ways do not work; trying them again", left.len());
            tokio::time::sleep(PAUSE).await;
        }
        let programs = probers.ready().map(|prober| {
            let (attempts, left) = (&attempts, &left);
            async move {
                let own: Vec<usize> =
                    left.iter().copied().filter(|at| attempts[*at].from == prober.node).collect();
                let mut found = Vec::new();
                for some in own.chunks(AT_ONCE) {
                    found.extend(some_of(probers, prober, attempts, some, patience).await?);
                }
                Ok::<_, anyhow::Error>(found)
            }
        });
        heard.extend(try_join_all(programs).await?.into_iter().flatten());
    }
    let outcomes = attempts.into_iter().enumerate().map(|(at, attempt)| {
        let heard = heard.remove(&at).unwrap_or(Heard::Silence);
        Outcome { attempt, heard }
    });
    Ok(outcomes.collect())
}

/// Runs one program. A node whose pods cannot be entered has nothing to tell: its attempts fail with
/// the reason.
async fn some_of(
    probers: &Probers,
    prober: &Prober,
    attempts: &[Attempt],
    some: &[usize],
    patience: Duration,
) -> Result<Vec<(usize, Heard)>> {
    let mut command = vec!["sh".to_owned(), "-c".to_owned(), SCRIPT.to_owned(), "sh".to_owned()];
    command.push(patience.as_secs().max(1).to_string());
    for at in some {
        let attempt = &attempts[*at];
        let kind = match attempt.wanted {
            Wanted::Pod(_) => "ask",
            Wanted::Connection | Wanted::Refusal => "connect",
        };
        let words =
            [at.to_string(), kind.to_owned(), attempt.host.clone(), attempt.port.to_string()];
        command.extend(words);
    }
    let mut output = Vec::new();
    let program = copy(probers, prober, command, &mut output);
    // What was said until then counts. A name that nobody resolves takes the longest, and whoever waits for
    // that has not been answered.
    let ended = tokio::time::timeout(patience * 3 + PAUSE, program).await;
    if let Ok(Err(error)) = ended {
        let why = format!("no program can be run in the pod of {}: {error:#}", prober.node);
        return Ok(some.iter().map(|at| (*at, Heard::Other(why.clone()))).collect());
    }
    let output = String::from_utf8_lossy(&output);
    let heard: Vec<(usize, Heard)> = output.lines().filter_map(read).collect();
    if heard.iter().any(|(_, heard)| is_missing(heard)) {
        bail!("the image has no nc: say another one with --image, one with busybox for instance");
    }
    Ok(heard)
}

/// Runs a program, and puts what it prints into `output` as it comes.
async fn copy(
    probers: &Probers,
    prober: &Prober,
    command: Vec<String>,
    output: &mut Vec<u8>,
) -> Result<()> {
    let parameters = AttachParams { stdout: true, stderr: false, ..AttachParams::default() };
    let mut process = probers.pods().exec(&prober.pod, command, &parameters).await?;
    let mut stream = process.stdout().context("the server gives no output")?;
    while stream.read_buf(output).await? > 0 {}
    Ok(())
}

/// A line of the script's output.
fn read(line: &str) -> Option<(usize, Heard)> {
    let mut words = line.splitn(3, ' ');
    let at = words.next()?.parse().ok()?;
    let code = words.next()?.parse().ok()?;
    Some((at, Heard::read(code, words.next().unwrap_or_default().trim())))
}

fn is_missing(heard: &Heard) -> bool {
    matches!(heard, Heard::Other(text) if text.contains("nc: not found"))
}
