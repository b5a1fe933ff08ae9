//! Running a test inside a lab.

use std::fs::File;
use std::future::Future;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use super::{Lab, LabConfig};

/// Makes a lab, starts its cluster, and runs a test with it, on the hub's network. The lab is gone
/// when this returns, or when the process ends. A failure prints the state of the pods and the
/// ends of the logs.
///
/// # Errors
/// What the test returned, or why the lab did not start.
pub fn run<F, Fut>(config: LabConfig, test: F) -> Result<()>
where
    F: FnOnce(std::sync::Arc<Lab>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<()>>,
{
    let lab = Lab::prepare(config)?;
    let network = PathBuf::from(format!("/proc/{}/ns/net", lab.hub.init_pid));
    // A network namespace is a thread's own, and handed on to the threads it starts: the
    // runtime's workers are where this thread is.
    let thread = std::thread::spawn(move || {
        let namespace = File::open(&network).with_context(|| network.display().to_string())?;
        setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the hub's network")?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let lab = std::sync::Arc::new(lab);
        let result = lab.start().and_then(|()| runtime.block_on(test(std::sync::Arc::clone(&lab))));
        if let Err(error) = &result {
            // First and last, for whoever keeps only one end of a long output.
            eprintln!("failed: {error:#}");
            eprintln!("{}", lab.log_tails(60));
            for what in
                [&["get", "pods,services,nodes", "-A", "-o", "wide"][..], &["get", "events", "-A"]]
            {
                eprintln!("{}", lab.kubecfg(what).unwrap_or_else(|error| format!("{error:#}")));
            }
        }
        result
    });
    thread.join().map_err(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        anyhow::anyhow!("the test panicked: {}", text.unwrap_or_default())
    })?
}
