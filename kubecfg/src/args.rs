//! The words of the command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Talks to a Kutter cluster.
///
/// Examples:
///   kubecfg apply web.yaml                 creates or changes what the file describes
///   kubecfg get pods -o wide               lists pods with their addresses and nodes
///   kubecfg get pods -w                    and goes on telling changes
///   kubecfg describe pod web               tells all about one of them
///   kubecfg logs -f web                    follows its output
///   kubecfg exec -it web -- sh             opens a shell in it
///   kubecfg port-forward svc/web 8080:80   leads a port of this machine to it
///   kubecfg scale rc/web --replicas=5      changes how many there are
///   kubecfg delete pod web                 ends it, and waits until it is gone
///   kubecfg net check                      tries every way between the nodes
///
/// The cluster is found in $KUBECONFIG, else in ~/.kube/config, else in
/// /var/lib/kutter/master/admin.kubeconfig.
#[derive(Debug, Parser)]
#[command(name = "kubecfg", version, verbatim_doc_comment, disable_version_flag = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which cluster, and where in it.
#[derive(Args, Debug)]
pub(crate) struct Connection {
    /// The kubeconfig file to use.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig to use.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The namespace; else the one of the context, else "default".
    #[arg(long, short, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Creates or changes objects as files describe them.
    ///
    /// Examples:
    ///   kubecfg apply pod.yaml
    ///   kubecfg apply -f folder/ -f more.yaml
    ///   cat pod.yaml | kubecfg apply -
    #[command(verbatim_doc_comment)]
    Apply {
        #[command(flatten)]
        files: Files,
    },
    /// Lists objects.
    ///
    /// Examples:
    ///   kubecfg get pods
    ///   kubecfg get pods,services -A
    ///   kubecfg get rc/web -o yaml
    ///   kubecfg get pods -l app=web --field-selector spec.nodeName=node1 -w
    #[command(verbatim_doc_comment)]
    Get {
        #[command(flatten)]
        select: Select,
        /// How to print.
        #[arg(long, short, value_enum)]
        output: Option<Output>,
        /// Go on telling changes.
        #[arg(long, short)]
        watch: bool,
        /// Leave the header line out.
        #[arg(long)]
        no_headers: bool,
        /// Add a column with the labels.
        #[arg(long)]
        show_labels: bool,
    },
    /// Tells all about objects, with their events. Of a Service also its endpoints and what is wrong
    /// with it, of a NetworkPolicy also the pods that it selects.
    ///
    /// Examples:
    ///   kubecfg describe pod web
    ///   kubecfg describe node/node1
    ///   kubecfg describe service web
    ///   kubecfg describe networkpolicy -A
    ///   kubecfg describe services -l app=web
    #[command(verbatim_doc_comment)]
    Describe {
        #[command(flatten)]
        select: Select,
    },
    /// Deletes objects and waits until they are gone.
    ///
    /// Examples:
    ///   kubecfg delete pod web
    ///   kubecfg delete -f web.yaml
    ///   kubecfg delete pods -l app=web --now
    #[command(verbatim_doc_comment)]
    Delete {
        #[command(flatten)]
        select: Select,
        #[command(flatten)]
        files: OptionalFiles,
        /// All of the kind in the namespace.
        #[arg(long)]
        all: bool,
        /// Give pods one second only to end.
        #[arg(long, conflicts_with = "grace_period")]
        now: bool,
        /// Give pods so many seconds to end.
        #[arg(long, value_name = "SECONDS")]
        grace_period: Option<u32>,
        /// Do not wait until they are gone.
        #[arg(long)]
        no_wait: bool,
        /// No error when there is nothing to delete.
        #[arg(long)]
        ignore_not_found: bool,
        /// What becomes of objects that belong to the deleted ones.
        #[arg(long, value_enum, default_value = "background")]
        cascade: Cascade,
    },
    /// Prints what a container wrote.
    ///
    /// Examples:
    ///   kubecfg logs web
    ///   kubecfg logs -f rc/web
    ///   kubecfg logs web -c sidecar --previous --tail 20
    #[command(verbatim_doc_comment)]
    Logs {
        /// A pod, or TYPE/NAME of something that has pods.
        target: String,
        /// Which container; needed when there are several.
        #[arg(long, short)]
        container: Option<String>,
        /// Go on as more is written.
        #[arg(long, short)]
        follow: bool,
        /// Of the container before the last restart.
        #[arg(long, short)]
        previous: bool,
        /// Only so many of the last lines.
        #[arg(long, value_name = "LINES")]
        tail: Option<i64>,
        /// Only what is newer, as 90, 30s, 5m or 2h.
        #[arg(long, value_name = "AGE", value_parser = parse_age)]
        since: Option<i64>,
        /// With the time of each line.
        #[arg(long)]
        timestamps: bool,
    },
    /// Runs a command in a container.
    ///
    /// Examples:
    ///   kubecfg exec web -- ls /
    ///   kubecfg exec -it web -c sidecar -- sh
    #[command(verbatim_doc_comment)]
    Exec {
        /// A pod, or TYPE/NAME of something that has pods.
        target: String,
        /// Which container; else the first.
        #[arg(long, short)]
        container: Option<String>,
        /// Hand standard input on.
        #[arg(long, short = 'i')]
        stdin: bool,
        /// With a terminal.
        #[arg(long, short = 't')]
        tty: bool,
        /// What to run, after `--`.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Joins the program that a container runs: what it writes from now on, and its input.
    ///
    /// Examples:
    ///   kubecfg attach web
    ///   kubecfg attach -it shell -c main
    #[command(verbatim_doc_comment)]
    Attach {
        /// A pod, or TYPE/NAME of something that has pods.
        target: String,
        /// Which container; else the first.
        #[arg(long, short)]
        container: Option<String>,
        /// Hand standard input on.
        #[arg(long, short = 'i')]
        stdin: bool,
        /// With a terminal, if the container has one.
        #[arg(long, short = 't')]
        tty: bool,
    },
    /// Leads ports of this machine to ports of a pod, until it is interrupted.
    ///
    /// Examples:
    ///   kubecfg port-forward pod/web 8080:80
    ///   kubecfg port-forward svc/web 8080:80 8443:https
    ///   kubecfg port-forward rc/web :80              at any free port
    #[command(verbatim_doc_comment)]
    PortForward {
        /// A pod, or TYPE/NAME of something that has pods.
        target: String,
        /// LOCAL:REMOTE, PORT for both, or :REMOTE for any free local one.
        #[arg(required = true, value_name = "PORTS")]
        ports: Vec<String>,
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1")]
        address: IpAddr,
    },
    /// Changes how many pods there are.
    ///
    /// Examples:
    ///   kubecfg scale rc/web --replicas=5
    ///   kubecfg scale rc web --replicas=2
    #[command(verbatim_doc_comment)]
    Scale {
        /// TYPE/NAME, or TYPE NAME.
        #[arg(required = true, num_args = 1..=2)]
        target: Vec<String>,
        /// How many.
        #[arg(long)]
        replicas: u32,
        /// Only if there are so many now.
        #[arg(long, value_name = "REPLICAS")]
        current_replicas: Option<u32>,
    },
    /// Looks into the cluster's network.
    Net {
        #[command(subcommand)]
        what: Net,
    },
    /// Prints the versions of kubecfg and of the cluster.
    Version {
        /// Of kubecfg only, without asking the cluster.
        #[arg(long)]
        client: bool,
    },
    /// Prints a completion script for a shell.
    ///
    /// Example:
    ///   source <(kubecfg completion bash)
    #[command(verbatim_doc_comment)]
    Completion {
        /// Which shell.
        #[arg(value_enum)]
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Net {
    /// Tries every way through the network from real pods, and says which do not work and why.
    ///
    /// A pod on each node connects to the pods of all nodes: at their own addresses, through Services,
    /// node ports and names, and looks who answers. With SERVICE, all ways to that Service and to its
    /// endpoints are tried from every node. The pods are in a namespace of their own, which is deleted
    /// in the end, also when this is interrupted. The exit code is 1 if anything does not work.
    ///
    /// Examples:
    ///   kubecfg net check
    ///   kubecfg net check web -n shop
    ///   kubecfg net check svc/web -o json
    ///   kubecfg net check --image registry.example:5000/busybox:1.37
    #[command(verbatim_doc_comment)]
    Check {
        /// Try the ways to this Service instead.
        service: Option<String>,
        /// What the pods run. It has to have sh, nc and grep, as busybox and alpine do.
        #[arg(long, default_value = "docker.io/library/busybox:1.37")]
        image: String,
        /// How long each attempt may take.
        #[arg(long, value_name = "SECONDS", default_value_t = 3,
            value_parser = clap::value_parser!(u64).range(1..=60))]
        timeout: u64,
        /// How long the pods may take to start, with the pull of their image.
        #[arg(long, value_name = "SECONDS", default_value_t = 60,
            value_parser = clap::value_parser!(u64).range(1..=3600))]
        start_timeout: u64,
        /// How to print; else as tables.
        #[arg(long, short, value_enum)]
        output: Option<Report>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Report {
    /// Every attempt, and what was found.
    Json,
}

/// Manifests to read.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct Files {
    /// Files, folders, or `-` for standard input.
    #[arg(value_name = "FILE")]
    pub(crate) positional: Vec<PathBuf>,
    /// The same.
    #[arg(long = "filename", short = 'f', value_name = "FILE")]
    pub(crate) flagged: Vec<PathBuf>,
}

/// Manifests that name what to act on.
#[derive(Args, Debug)]
pub(crate) struct OptionalFiles {
    /// Act on what these files describe: files, folders, or `-` for standard input.
    #[arg(long = "filename", short = 'f', value_name = "FILE", conflicts_with = "words")]
    pub(crate) flagged: Vec<PathBuf>,
}

/// Which objects.
#[derive(Args, Debug)]
pub(crate) struct Select {
    /// TYPE, TYPE NAME…, TYPE/NAME…, or several types with commas.
    #[arg(value_name = "TYPE [NAME]")]
    pub(crate) words: Vec<String>,
    /// Only with these labels, as `app=web,tier!=db`.
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
    /// Only with these fields, as `status.phase=Running`.
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) field_selector: Option<String>,
    /// In every namespace.
    #[arg(long, short = 'A')]
    pub(crate) all_namespaces: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A table with more columns.
    Wide,
    /// The objects as JSON.
    Json,
    /// The objects as YAML.
    Yaml,
    /// TYPE/NAME only.
    Name,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cascade {
    /// They go as well, afterwards.
    Background,
    /// They go first.
    Foreground,
    /// They stay.
    Orphan,
}

/// Seconds out of `90`, `30s`, `5m`, `2h`, `1d`.
fn parse_age(text: &str) -> Result<i64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        unit => return Err(format!("\"{unit}\" is no unit of time; use s, m, h or d")),
    };
    let count: i64 = digits.parse().map_err(|_| format!("\"{digits}\" is no number"))?;
    count.checked_mul(factor).ok_or_else(|| format!("\"{text}\" is too long ago"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }

    #[test]
    fn ages_have_units() {
        assert_eq!(super::parse_age("90"), Ok(90));
        assert_eq!(super::parse_age("5m"), Ok(300));
        assert!(super::parse_age("5y").unwrap_err().contains("\"y\""));
        assert!(super::parse_age("x").is_err());
    }
}
