//! Programs that a fake container can be asked to execute.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, oneshot};

use crate::api::*;
use crate::{Error, Result};

/// What runs for an exec; its result is the exit code.
pub type ExecScript = dyn Fn(FakeExec) -> BoxFuture<'static, i32> + Send + Sync;

/// An exec as the script sees it. Streams close when they are dropped.
pub struct FakeExec {
    /// In which container.
    pub container: ContainerId,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Whether a terminal was asked for.
    pub tty: bool,
    /// Present when asked for.
    pub stdin: Option<DuplexStream>,
    /// Standard output.
    pub stdout: DuplexStream,
    /// Absent with a terminal.
    pub stderr: Option<DuplexStream>,
    /// Changes of the terminal's size.
    pub resize: mpsc::Receiver<(u16, u16)>,
}

impl FakeExec {
    /// Writes to standard output and gives the exit code back. A caller that has hung up is
    /// none of the program's business.
    pub async fn print_and_exit(mut self, output: &[u8], exit_code: i32) -> i32 {
        let _ = self.stdout.write_all(output).await;
        exit_code
    }
}

/// As much as a pipe holds.
const PIPE_BYTES: usize = 64 * 1024;

/// The customary few: `true`, `false`, `echo`, `cat` (of its input), `sleep` (until killed).
pub(super) async fn everyday_programs(mut exec: FakeExec) -> i32 {
    match exec.command.first().map(String::as_str) {
        Some("true") => 0,
        Some("false") => 1,
        Some("echo") => {
            let line = format!("{}\n", exec.command[1..].join(" "));
            exec.print_and_exit(line.as_bytes(), 0).await
        }
        Some("cat") => {
            let Some(mut stdin) = exec.stdin.take() else { return 0 };
            match tokio::io::copy(&mut stdin, &mut exec.stdout).await {
                Ok(_) => 0,
                Err(_) => 1,
            }
        }
        Some("sleep") => std::future::pending().await,
        _ => 127,
    }
}

pub(super) fn start(
    script: Arc<ExecScript>,
    container: &ContainerId,
    config: &ExecConfig,
) -> ExecSession {
    let (stdin_in, stdin_out) = match config.stdin {
        true => {
            let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
            (Some(Box::pin(ours) as Input), Some(theirs))
        }
        false => (None, None),
    };
    let (stdout, script_stdout) = tokio::io::duplex(PIPE_BYTES);
    let (stderr, script_stderr) = match config.tty {
        true => (None, None),
        false => {
            let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
            (Some(Box::pin(ours) as Output), Some(theirs))
        }
    };
    let (resize, resized) = mpsc::channel(1);
    let (mut exit_sender, exit) = oneshot::channel();
    let program = script(FakeExec {
        container: container.clone(),
        command: config.command.clone(),
        tty: config.tty,
        stdin: stdin_out,
        stdout: script_stdout,
        stderr: script_stderr,
        resize: resized,
    });
    tokio::spawn(async move {
        let code = tokio::select! {
            code = program => code,
            () = exit_sender.closed() => return,
        };
        let _ = exit_sender.send(Ok(code));
    });
    ExecSession { stdin: stdin_in, stdout: Box::pin(stdout), stderr, resize, exit }
}

pub(super) async fn run_to_end(
    script: Arc<ExecScript>,
    container: &ContainerId,
    command: &[String],
    timeout: Duration,
) -> Result<ExecOutput> {
    let config = ExecConfig { command: command.to_vec(), stdin: false, tty: false };
    let mut session = start(script, container, &config);
    let mut output = Vec::new();
    let mut errors = Vec::new();
    let finish = async {
        let stderr = session.stderr.as_mut();
        let read_errors = async {
            match stderr {
                Some(stderr) => stderr.read_to_end(&mut errors).await.map(|_| ()),
                None => Ok(()),
            }
        };
        let (read, read_errors) =
            tokio::join!(session.stdout.read_to_end(&mut output), read_errors);
        let failed =
            |e: std::io::Error| Error::Exec { container: container.clone(), reason: e.to_string() };
        read.map_err(failed)?;
        read_errors.map_err(failed)?;
        (&mut session.exit).await.map_err(|_| Error::Exec {
            container: container.clone(),
            reason: "the program vanished".to_owned(),
        })?
    };
    let ended = tokio::time::timeout(timeout, finish).await;
    output.append(&mut errors);
    output.truncate(PIPE_BYTES);
    match ended {
        Ok(code) => Ok(ExecOutput { exit_code: code?, output, timed_out: false }),
        Err(_) => Ok(ExecOutput { exit_code: 137, output, timed_out: true }),
    }
}
