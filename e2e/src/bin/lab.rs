//! `lab`: a cluster of several nodes on this machine, for people.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use e2e::lab::{Lab, LabConfig, StoreKind, init};

/// A cluster of several nodes on one machine, each in namespaces of its own.
///
/// Examples:
///   lab up --nodes 3 --store etcd
///   lab up --nodes 4 --segments 2  # routed: node1, node2 | node3, node4
///   lab exec hub -- kubecfg get nodes
///   lab exec node1 -- ip address
///   lab kill node2 kubelet        # SIGKILL; `lab start node2` starts it again
///   lab partition node3           # pulls the cable; `lab heal node3` puts it back
///   lab down
#[derive(Parser)]
#[command(version, verbatim_doc_comment)]
struct Arguments {
    /// Where the lab keeps its state.
    #[arg(long, global = true, default_value = "/var/tmp/kutter-lab")]
    folder: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a lab and starts a cluster on it.
    Up {
        /// How many nodes.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=200))]
        nodes: u8,
        /// On how many segments they are, with a router between that knows nothing of pods.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=20))]
        segments: u8,
        /// Pods and Services have addresses of IPv4 and of IPv6.
        #[arg(long)]
        dual_stack: bool,
        /// Where the master keeps its state.
        #[arg(long, value_enum, default_value = "embedded")]
        store: StoreKind,
    },
    /// Runs a command on a machine: hub, master, node1 …
    Exec {
        /// Where.
        machine: String,
        /// What, after `--`.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Ends a program of a machine with SIGKILL, or a whole node when none is named.
    Kill {
        /// Where.
        machine: String,
        /// `master`, `kubelet` or `etcd`.
        program: Option<String>,
    },
    /// Starts the master or a node's kubelet again.
    Start {
        /// Where.
        machine: String,
    },
    /// Pulls a machine's network cable.
    Partition {
        /// Whose.
        machine: String,
    },
    /// Puts a machine's network cable back.
    Heal {
        /// Whose.
        machine: String,
    },
    /// Ends everything and removes what is left.
    Down,
    /// The first process of a machine; the lab starts it.
    #[command(hide = true)]
    Init {
        #[arg(long)]
        name: String,
        #[arg(long)]
        socket: PathBuf,
        #[arg(long)]
        stay: bool,
        #[arg(long)]
        inner: bool,
    },
}

fn main() -> ExitCode {
    match act(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(Arguments { folder, command }: Arguments) -> Result<()> {
    match command {
        Command::Init { name, socket, stay, inner: false } => init::launch(&name, &socket, stay),
        Command::Init { name, socket, stay, inner: true } => init::serve(&name, &socket, stay),
        Command::Up { nodes, segments, dual_stack, store } => {
            up(LabConfig { nodes, segments, dual_stack, store, ..plain(folder) })
        }
        Command::Exec { machine, command } => {
            let lab = Lab::load(&folder)?;
            let mut run = lab.machine(&machine)?.command(&command[0]);
            run.args(&command[1..]).env("KUBECONFIG", lab.kubeconfig());
            Err(run.env("PATH", path_with_own_programs()?).exec().into())
        }
        Command::Kill { machine, program: Some(program) } => {
            let lab = Lab::load(&folder)?;
            lab.kill(lab.machine(&machine)?, &program)
        }
        Command::Kill { machine, program: None } => {
            let mut lab = Lab::load(&folder)?;
            match lab.nodes.iter_mut().find(|node| node.name == machine) {
                Some(node) => node.kill(),
                None => bail!("only nodes can be killed as a whole; \"{machine}\" is none"),
            }
            Ok(())
        }
        Command::Start { machine } => {
            let lab = Lab::load(&folder)?;
            match machine.as_str() {
                "master" => lab.start_master(),
                node => lab.start_kubelet(lab.node(node)?, None),
            }
        }
        Command::Partition { machine } => {
            let lab = Lab::load(&folder)?;
            lab.partition(lab.machine(&machine)?)
        }
        Command::Heal { machine } => {
            let lab = Lab::load(&folder)?;
            lab.heal(lab.machine(&machine)?)
        }
        Command::Down => {
            Lab::load(&folder)?.down();
            Ok(())
        }
    }
}

/// A lab that stays.
fn plain(folder: PathBuf) -> LabConfig {
    LabConfig {
        folder,
        nodes: 1,
        segments: 1,
        dual_stack: false,
        store: StoreKind::Embedded,
        master_args: Vec::new(),
        kubelet_args: Vec::new(),
        stay: true,
    }
}

fn up(config: LabConfig) -> Result<()> {
    if Lab::load(&config.folder).is_ok() {
        bail!("there is a lab in {}: end it with `lab down`", config.folder.display());
    }
    let started = Instant::now();
    eprintln!("making {} nodes on {} segments ...", config.nodes, config.segments);
    let mut lab = Lab::prepare(config)?;
    eprintln!("starting the cluster ...");
    if let Err(error) = lab.start() {
        lab.down();
        return Err(error);
    }
    eprintln!("ready after {:.1} s", started.elapsed().as_secs_f64());
    println!(
        "{} exec hub -- kubecfg get nodes",
        std::env::args().next().as_deref().unwrap_or("lab")
    );
    Ok(())
}

/// `PATH`, with the folder of this program before all: `kubecfg` and the others are beside it.
fn path_with_own_programs() -> Result<OsString> {
    let program = std::env::current_exe()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = program.parent().map(PathBuf::from);
    Ok(std::env::join_paths(own.into_iter().chain(std::env::split_paths(&path)))?)
}
