//! The kubelet's program.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use kubelet::config::{Cli, Command, ImageCommand, images};
use kubelet::{cleanup, node};
use runtime::image::{Image, ImageStore};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    memory::bound(WORKERS);
    let Cli { config, command } = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let result = match command {
        Some(Command::Image(command)) => image(command),
        Some(Command::Cleanup(traces)) => {
            block_on(async move { cleanup::run(&traces).await.context("failed to clean up") })
        }
        None => block_on(async move {
            let shutdown = CancellationToken::new();
            stop_on_signals(shutdown.clone())?;
            Ok(node::run(config, shutdown).await?)
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("{failure:#}");
            ExitCode::FAILURE
        }
    }
}

/// A node agent waits more than it computes, and each worker costs memory.
const WORKERS: u8 = 2;

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS.into())
        // Files and unpacking; each further thread costs memory long after its burst.
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .context("failed to start the executor")?;
    runtime.block_on(work)
}

fn stop_on_signals(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen to SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => info!("told to stop"),
            _ = interrupt.recv() => info!("interrupted"),
        }
        shutdown.cancel();
    });
    Ok(())
}

fn image(command: ImageCommand) -> anyhow::Result<()> {
    let open = |root_dir: &Path| ImageStore::open(images(root_dir));
    match command {
        ImageCommand::Import { file, root_dir } => {
            let imported = open(&root_dir)?
                .import(&file)
                .with_context(|| format!("failed to import {}", file.display()))?;
            imported.iter().for_each(print_image);
        }
        ImageCommand::List { root_dir } => open(&root_dir)?.list()?.iter().for_each(print_image),
    }
    Ok(())
}

/// A line per name of an image.
fn print_image(image: &Image) {
    let megabytes = image.size_bytes as f64 / 1e6;
    let names = if image.tags.is_empty() { &image.repo_digests } else { &image.tags };
    for name in names {
        println!("{name}\t{}\t{megabytes:.1} MB", image.id);
    }
}
