//! The command lines that people use, one as good as the other.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::lab::{Lab, program};

/// A command line client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Ours.
    Kubecfg,
    /// Everybody's, from PyPI; `deploy/test` puts it into `target/`.
    Kubectl,
    /// The same, told to stream over SPDY.
    KubectlOverSpdy,
    /// That of some years ago, Debian 12's. It streams over SPDY, and validates by OpenAPI v2.
    OldKubectl,
}

impl Tool {
    /// The arguments that apply a file.
    #[must_use]
    pub fn apply(self, file: &str) -> Vec<String> {
        match self {
            Self::Kubecfg => vec!["apply".to_owned(), file.to_owned()],
            Self::Kubectl | Self::KubectlOverSpdy | Self::OldKubectl => {
                ["apply", "-f", file].map(str::to_owned).to_vec()
            }
        }
    }

    /// Runs it on the lab's hub; its standard output.
    ///
    /// # Errors
    /// When it fails; with its standard error.
    pub fn run<S: AsRef<str>>(self, lab: &Lab, arguments: &[S]) -> Result<String> {
        self.run_with(lab, arguments, "")
    }

    /// As [`run`](Self::run), with a standard input.
    ///
    /// # Errors
    /// When it fails; with its standard error.
    pub fn run_with<S: AsRef<str>>(
        self,
        lab: &Lab,
        arguments: &[S],
        input: &str,
    ) -> Result<String> {
        let mut command = self.command(lab)?;
        command.args(arguments.iter().map(AsRef::as_ref));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{self:?} does not start"))?;
        {
            use std::io::Write;
            let mut stdin = child.stdin.take().context("no standard input")?;
            stdin.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let words: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("{self:?} {}: {}: {}", words.join(" "), output.status, stderr.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The command, to be run on the hub's network.
    ///
    /// # Errors
    /// When the program is not there.
    pub fn command(self, lab: &Lab) -> Result<Command> {
        let program = match self {
            Self::Kubecfg => program("kubecfg")?,
            Self::Kubectl | Self::KubectlOverSpdy => installed("kubectl-1.37.1/kubectl")?,
            Self::OldKubectl => installed("kubectl-1.20.2/kubectl")?,
        };
        let mut command = lab.hub.command(program);
        // kubectl keeps a cache of discovery; it must not outlive the lab.
        command.env("KUBECONFIG", lab.kubeconfig()).env("HOME", &lab.hub.folder);
        if self == Self::KubectlOverSpdy {
            command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false");
            command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false");
        }
        Ok(command)
    }
}

/// What `deploy/test` puts into `target/`: clients of others, each in the version that is tried.
///
/// # Errors
/// When it is not there.
pub fn installed(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    own.ancestors()
        .map(|folder| folder.join(name))
        .find(|path| path.exists())
        .with_context(|| format!("{name} is not in target/: deploy/test puts it there"))
}
