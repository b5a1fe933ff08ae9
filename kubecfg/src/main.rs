//! `kubecfg`: the command line of Kutter, and of anything else that speaks the Kubernetes API.

mod args;
mod client;
mod commands;
mod lines;
mod manifest;
mod merge;
mod print;
mod problem;
mod resources;
mod suggest;
mod table;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};

use crate::args::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and the version are "errors", too. Where they cannot be written nobody reads.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    if let Command::Completion { shell } = arguments.command {
        let mut command = Arguments::command();
        clap_complete::generate(shell, &mut command, "kubecfg", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(commands::run(arguments));
    // A read of the terminal may be under way that nobody will end.
    runtime.shutdown_background();
    // What was printed so far belongs before the error.
    let flushed = std::io::stdout().flush().context("cannot write to standard output");
    match result.and_then(|code| flushed.map(|()| code)) {
        Ok(code) => code,
        // Whoever read the output has seen enough.
        Err(error) if problem::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", problem::sentence(&error));
            ExitCode::FAILURE
        }
    }
}
