//! `kubecfg exec` and `kubecfg attach`

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use futures::SinkExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{AttachParams, AttachedProcess, TerminalSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use super::{logs, target};
use crate::client::Cluster;

/// Runs a command in a container; ends with the command's exit code.
pub(crate) async fn exec(
    cluster: &Cluster,
    word: &str,
    container: Option<String>,
    stdin: bool,
    tty: bool,
    command: Vec<String>,
) -> Result<ExitCode> {
    let tty = tty && on_terminal("-t");
    let (pods, pod) = target::pod(cluster, word).await?;
    logs::check_container(&pod, container.as_deref())?;
    let container = container.or_else(|| first_container(&pod));
    let parameters = parameters(container, stdin, tty);
    let process = pods.exec(&pod.name_any(), command, &parameters).await?;
    converse(process, stdin, tty).await
}

/// Joins the program that a container runs; ends when that does.
pub(crate) async fn attach(
    cluster: &Cluster,
    word: &str,
    container: Option<String>,
    stdin: bool,
    tty: bool,
) -> Result<ExitCode> {
    let tty = tty && on_terminal("-t");
    let (pods, pod) = target::pod(cluster, word).await?;
    logs::check_container(&pod, container.as_deref())?;
    let container = container.or_else(|| first_container(&pod));
    let containers = pod
        .spec
        .iter()
        .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let found = containers.into_iter().find(|known| Some(&known.name) == container.as_ref());
    let has = |offered: Option<bool>, flag: &str, what: &str| {
        if offered != Some(true) {
            eprintln!("note: the container has no {what}, so {flag} is left out");
        }
        offered == Some(true)
    };
    let stdin = stdin && has(found.and_then(|c| c.stdin), "-i", "standard input");
    let tty = tty && has(found.and_then(|c| c.tty), "-t", "terminal");
    let process = pods.attach(&pod.name_any(), &parameters(container, stdin, tty)).await?;
    if tty {
        eprintln!("attached; press Enter if nothing is to be seen");
    }
    converse(process, stdin, tty).await
}

/// Whether this is run on a terminal; says so if not.
fn on_terminal(flag: &str) -> bool {
    let terminal = std::io::stdin().is_terminal();
    if !terminal {
        eprintln!("note: standard input is no terminal, so {flag} is left out");
    }
    terminal
}

fn first_container(pod: &Pod) -> Option<String> {
    let first = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    first.map(|container| container.name.clone())
}

fn parameters(container: Option<String>, stdin: bool, tty: bool) -> AttachParams {
    AttachParams { container, stdin, stdout: true, stderr: !tty, tty, ..AttachParams::default() }
}

/// Carries between the program and this process until it ends.
async fn converse(mut process: AttachedProcess, stdin: bool, tty: bool) -> Result<ExitCode> {
    let _raw = if tty && stdin { Some(RawTerminal::enter()?) } else { None };

    if let Some(mut sizes) = process.terminal_size() {
        let mut changes = signal(SignalKind::window_change())?;
        tokio::spawn(async move {
            loop {
                if let Some((width, height)) = terminal_size()
                    && sizes.send(TerminalSize { width, height }).await.is_err()
                {
                    return;
                }
                if changes.recv().await.is_none() {
                    return;
                }
            }
        });
    }
    if let Some(mut input) = process.stdin() {
        tokio::spawn(async move {
            let mut own = tokio::io::stdin();
            // The program may end before it has read everything.
            if tokio::io::copy(&mut own, &mut input).await.is_ok() {
                let _ = input.shutdown().await;
            }
        });
    }
    let status = process.take_status().context("the server tells no exit code")?;
    let stdout = process.stdout();
    let stderr = process.stderr();
    let output = async {
        match stdout {
            Some(stream) => copy(stream, std::io::stdout()).await,
            None => Ok(()),
        }
    };
    let errors = async {
        match stderr {
            Some(stream) => copy(stream, std::io::stderr()).await,
            None => Ok(()),
        }
    };
    tokio::try_join!(output, errors)?;
    let Some(status) = status.await else { bail!("the connection broke off") };
    if status.status.as_deref() == Some("Success") {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let code = causes
        .filter(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .find_map(|cause| cause.message.as_deref()?.parse::<u8>().ok());
    match code {
        Some(code) => Ok(ExitCode::from(code)),
        None => bail!("{}", status.message.unwrap_or_else(|| "the command failed".to_owned())),
    }
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl Write) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..length])?;
        to.flush()?;
    }
}

fn terminal_size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdin()).ok()?;
    Some((size.ws_col, size.ws_row))
}

/// Hands every key on as it is pressed, until it is dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).context("the terminal tells no settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).context("the terminal takes no settings")?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
