//! `bench`: Kutter's budgets, measured. A report, never a test: these figures depend on the machine,
//! so each comes with its conditions and, where there is one, the ratio to a reference of the same run.

mod idle;
mod master;
mod neighbours;
mod network;
mod pods;
mod sinks;
mod starts;
mod up;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use e2e::check;
use e2e::lab::{StoreKind, run};

/// Measures Kutter's budgets and prints a report in Markdown.
///
/// Examples:
///   cargo build --release && cargo run --release -p e2e --bin bench
///   cargo run --release -p e2e --bin bench -- --only starts
///   cargo run --release -p e2e --bin bench -- master --store etcd
///   cargo run --release -p e2e --bin bench -- network --services 1000
///   cargo run --release -p e2e --bin bench -- neighbours
#[derive(Parser)]
#[command(version, verbatim_doc_comment)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// One part only: starts, burst, single, idle, many or up.
    #[arg(long, value_parser = ["starts", "burst", "single", "idle", "many", "up"])]
    only: Option<String>,
    /// Pods to start one after the other.
    #[arg(long, default_value_t = 100)]
    pods: usize,
    /// Seconds to watch an idle cluster.
    #[arg(long, default_value_t = 30)]
    idle_seconds: u64,
}

#[derive(Subcommand)]
enum Part {
    /// The master alone, under load.
    Master {
        /// One store only.
        #[arg(long)]
        store: Option<StoreKind>,
    },
    /// What pods that take all they can get leave to others of their node.
    Neighbours,
    /// The pod network and Services.
    Network {
        /// How many Services many are.
        #[arg(long, default_value_t = 10_000)]
        services: usize,
    },
}

fn main() -> ExitCode {
    match measure(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(Arguments { part, only, pods, idle_seconds }: Arguments) -> Result<()> {
    if part.is_none() && !check::is_root() {
        bail!("the bench needs root");
    }
    let wanted = move |part: &str| only.as_deref().is_none_or(|only| only == part);
    if part.is_none() && wanted("starts") {
        starts::check_reference()?;
    }
    let model = std::fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let model = model.lines().find_map(|line| line.strip_prefix("model name\t: "));
    println!(
        "{} processors ({}), kernel {}, {} build",
        std::thread::available_parallelism()?,
        model.unwrap_or("unknown"),
        std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        if cfg!(debug_assertions) { "debug" } else { "release" },
    );
    // Who makes TLS connections here gets the provider that the workspace uses.
    let _ = rustls::crypto::ring::default_provider().install_default();
    println!("\n| measured | figure | budget | conditions |\n|---|---|---|---|");
    match part {
        Some(Part::Master { store }) => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            let mut stores = store
                .map_or(vec![StoreKind::Embedded, StoreKind::Etcd], |one| vec![one])
                .into_iter();
            return stores.try_for_each(|store| runtime.block_on(master::measure(store)));
        }
        Some(Part::Neighbours) => return neighbours::measure(),
        Some(Part::Network { services }) => return network::measure(services),
        None => {}
    }
    let up = wanted("up");
    let mut config = check::lab(1, StoreKind::Embedded);
    config.kubelet_args = vec!["--max-pods=250".to_owned()];
    run(config, move |lab| async move {
        let client = check::client(&lab).await?;
        if wanted("starts") {
            starts::one_by_one(&lab, &client, pods).await?;
        }
        if wanted("burst") {
            starts::at_once(&lab, &client, 50, "3 s").await?;
        }
        if wanted("single") {
            pods::single(&lab, &client).await?;
        }
        if wanted("idle") {
            idle::idle(&lab, &client, idle_seconds).await?;
        }
        if wanted("many") {
            starts::at_once(&lab, &client, 100, "5 s").await?;
            pods::many(&lab, &client, idle_seconds).await?;
        }
        Ok(())
    })?;
    if up {
        up::up()?;
    }
    Ok(())
}

/// A line of the report.
fn report(measured: &str, figure: &str, budget: &str, conditions: &str) {
    println!("| {measured} | {figure} | {budget} | {conditions} |");
}

/// The value in the middle.
fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    percentile(figures, 0.5)
}

/// The value below which a share of the sorted values is.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let index = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len()) - 1;
    sorted[index]
}
