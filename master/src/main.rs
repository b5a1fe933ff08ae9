//! The control plane of Kutter.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use master::config::{Cli, Command, Config, TokenCommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Two threads serve thousands of requests per second; each further one costs memory when idle.
const WORKERS: u8 = 2;

fn main() -> ExitCode {
    memory::bound(WORKERS);
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS.into())
        .max_blocking_threads(8)
        .enable_all()
        .build();
    let result = runtime.context("cannot start").and_then(|runtime| runtime.block_on(start(cli)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("master: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn start(cli: Cli) -> anyhow::Result<()> {
    // Whoever uses TLS without naming a provider gets the one that we name.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match cli.command {
        None => {
            let config = Config::try_from(cli.serve)?;
            Ok(master::run(config, stop_signal()?).await?)
        }
        Some(Command::Token { command: TokenCommand::Create(args) }) => {
            println!("{}", master::client::create_token(&args.data_dir, args.ttl).await?);
            Ok(())
        }
    }
}

/// Cancelled by SIGTERM and SIGINT.
fn stop_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot receive signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot receive signals")?;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stop.cancel();
    });
    Ok(shutdown)
}
