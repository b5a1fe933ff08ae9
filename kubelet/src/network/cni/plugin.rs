//! A plugin is a program: it is asked through its environment and standard input, and answers on its output.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// How long a plugin may take, as Kubernetes bounds what it asks of a runtime.
const PATIENCE: Duration = Duration::from_secs(120);
/// More is not read of what a plugin says: results are some hundred bytes.
const MAX_OUTPUT: u64 = 1 << 20;

/// What plugins are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
    Gc,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Gc => "GC",
        }
    }
}

/// Whose network it is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) container: &'a str,
    /// Nothing when the namespace is gone.
    pub(super) netns: Option<&'a Path>,
    pub(super) interface: &'a str,
    /// What is told of the pod.
    pub(super) arguments: &'a str,
}

/// Why a plugin did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum PluginError {
    #[error("there is no plugin {program:?} in {}; install it there", folders(.searched))]
    Missing { program: String, searched: Vec<PathBuf> },
    #[error("plugin {program:?} could not be run for {verb}: {source}")]
    Run { program: String, verb: &'static str, source: std::io::Error },
    #[error("plugin {program:?} did not end {verb} within {PATIENCE:?}, and was killed")]
    Slow { program: String, verb: &'static str },
    #[error("plugin {program:?} failed at {verb}: {reason}")]
    Failed { program: String, verb: &'static str, reason: String },
}

fn folders(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(" or ")
}

/// Where plugins are.
#[derive(Clone, Debug)]
pub(super) struct Programs(pub(super) Vec<PathBuf>);

impl Programs {
    /// Where a program is.
    pub(super) fn find(&self, program: &str) -> Result<PathBuf, PluginError> {
        let found = self.0.iter().map(|folder| folder.join(program)).find(|path| path.is_file());
        found.ok_or_else(|| PluginError::Missing {
            program: program.to_owned(),
            searched: self.0.clone(),
        })
    }

    /// Asks a plugin; returns what it answers, which may be nothing. A plugin whose asker goes away is
    /// killed.
    pub(super) async fn ask(
        &self,
        program: &str,
        verb: Verb,
        subject: Option<Subject<'_>>,
        request: &Value,
    ) -> Result<Value, PluginError> {
        let path = self.find(program)?;
        let (program, verb) = (program.to_owned(), verb.name());
        let mut command = Command::new(path);
        let searched: Vec<String> =
            self.0.iter().map(|folder| folder.to_string_lossy().into_owned()).collect();
        command
            // What lets a node join is nothing to foreign programs.
            .env_remove("KUTTER_JOIN_TOKEN")
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", searched.join(":"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(subject) = subject {
            command
                .env("CNI_CONTAINERID", subject.container)
                .env("CNI_IFNAME", subject.interface)
                .env("CNI_ARGS", subject.arguments)
                .env("CNI_NETNS", subject.netns.unwrap_or(Path::new("")));
        }
        let talk = converse(command, request.to_string());
        let spoken = match tokio::time::timeout(PATIENCE, talk).await {
            Err(_) => return Err(PluginError::Slow { program, verb }),
            Ok(Err(source)) => return Err(PluginError::Run { program, verb, source }),
            Ok(Ok(spoken)) => spoken,
        };
        let failed = |reason| PluginError::Failed { program, verb, reason };
        if !spoken.status.success() {
            return Err(failed(spoken.complaint()));
        }
        if spoken.output.trim_ascii().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&spoken.output)
            .map_err(|error| failed(format!("its answer is no JSON: {error}")))
    }
}

struct Spoken {
    status: std::process::ExitStatus,
    output: Vec<u8>,
    errors: Vec<u8>,
}

impl Spoken {
    /// What went wrong, in the plugin's words.
    fn complaint(&self) -> String {
        let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
        let told: Value = serde_json::from_slice(&self.output).unwrap_or_default();
        let mut parts: Vec<String> = [text(&told["msg"]), text(&told["details"])].into();
        parts.retain(|part| !part.is_empty());
        if parts.is_empty() {
            let errors = String::from_utf8_lossy(&self.errors);
            let last = errors.lines().rev().find(|line| !line.trim().is_empty());
            parts.push(last.unwrap_or("it says nothing more").trim().to_owned());
        }
        let code = match told["code"].as_u64() {
            Some(code) => format!("code {code}"),
            None => self.status.to_string(),
        };
        format!("{} ({code})", parts.join(": "))
    }
}

async fn converse(mut command: Command, request: String) -> std::io::Result<Spoken> {
    let mut child = command.spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // One that ends without reading tells why by its exit.
            let _ = stdin.write_all(request.as_bytes()).await;
        }
    };
    let ((), output, errors) = tokio::join!(write, read(stdout), read(stderr));
    // A plugin that says too much meets a closed pipe.
    Ok(Spoken { status: child.wait().await?, output: output?, errors: errors? })
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MAX_OUTPUT).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}
