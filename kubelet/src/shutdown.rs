//! The machine ends: pods end before it, the least important first.
//!
//! systemd stops this node's unit early in a shutdown, and waits for it: while the kubelet ends the
//! pods, the network and the disks are still there. So no inhibitor lock on D-Bus is needed, only the
//! answer to one question, which `systemctl is-system-running` gives: whether this is a shutdown, or
//! merely a restart of the kubelet, which stops no pod.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use proto::k8s::api::core::v1::Pod;
use proto::priority::{self, SYSTEM_CRITICAL};
use tokio::process::Command;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::node_status::Health;
use crate::pods::{PodFailure, PodManager};
use crate::pressure::threshold::Period;
use crate::reporter::Reporter;

/// How long pods have when the machine ends, by the priority from which on that holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShutdownPeriods(BTreeMap<i32, Duration>);

impl ShutdownPeriods {
    /// Kubernetes' simple form: so long in all, of which the critical pods have the last part.
    ///
    /// # Errors
    /// When that part is more than all.
    pub fn simple(all: Duration, critical: Duration) -> Result<Self, String> {
        let Some(others) = all.checked_sub(critical) else {
            return Err(
                "--shutdown-grace-period-critical-pods is a part of --shutdown-grace-period, \
                 and cannot be more"
                    .to_owned(),
            );
        };
        match all.is_zero() {
            true => Ok(Self::default()),
            false => Ok(Self([(0, others), (SYSTEM_CRITICAL, critical)].into())),
        }
    }

    /// Whether pods get any time at all.
    pub fn is_off(&self) -> bool {
        self.0.values().all(Duration::is_zero)
    }

    /// How long all of it takes at the most.
    pub fn total(&self) -> Duration {
        self.0.values().sum()
    }

    /// The pods by group, in the order in which they end. A pod below the lowest priority goes with that
    /// group.
    fn groups(&self, pods: Vec<Arc<Pod>>) -> Vec<(Duration, Vec<Arc<Pod>>)> {
        let mut groups: BTreeMap<i32, Vec<Arc<Pod>>> = BTreeMap::new();
        let lowest = self.0.keys().next().copied().unwrap_or(0);
        for pod in pods {
            let group =
                self.0.range(..=priority::of(&pod)).next_back().map_or(lowest, |(from, _)| *from);
            groups.entry(group).or_default().push(pod);
        }
        groups.into_iter().map(|(from, pods)| (self.0[&from], pods)).collect()
    }
}

impl FromStr for ShutdownPeriods {
    type Err = String;

    /// `PRIORITY=TIME`, separated by commas.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut periods = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (priority, period) = part
                .split_once('=')
                .ok_or_else(|| format!("\"{part}\" is not written PRIORITY=TIME"))?;
            let priority: i32 =
                priority.parse().map_err(|_| format!("\"{priority}\" is no priority"))?;
            if periods.insert(priority, period.parse::<Period>()?.0).is_some() {
                return Err(format!("the priority {priority} is said twice"));
            }
        }
        Ok(Self(periods))
    }
}

/// Whether the whole machine is about to end. Without systemd nobody knows, and pods are left alone.
pub(crate) async fn machine_is_ending() -> bool {
    says_stopping("systemctl").await
}

async fn says_stopping(systemctl: impl AsRef<std::ffi::OsStr>) -> bool {
    let mut command = Command::new(systemctl);
    command.arg("is-system-running").stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(PATIENCE, command.output()).await {
        // It fails for every state but one.
        Ok(Ok(output)) => output.stdout.trim_ascii() == b"stopping",
        Ok(Err(error)) => {
            info!(%error, "cannot ask systemd whether the machine is about to end");
            false
        }
        Err(_) => {
            warn!("systemd does not say whether the machine is about to end");
            false
        }
    }
}

/// systemd answers within milliseconds; while much is being stopped it may take longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Who is killed at the end of its time is gone moments later, and that is to be reported too.
const LAST_KILL: Duration = Duration::from_secs(1);
/// What is to be reported at the end is on its way to the master within moments, if there is one.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Ends all pods, group by group. Whoever asks meanwhile is told that the node is not ready.
pub(crate) async fn end_pods(
    periods: &ShutdownPeriods,
    pods: &PodManager,
    health: &watch::Sender<Health>,
    reporter: &Reporter,
) {
    info!(at_the_most = ?periods.total(), "the machine is about to end; ending the pods");
    let unready = reporter.next_node_status();
    health.send_modify(|health| health.shutting_down = true);
    for (period, group) in periods.groups(pods.active()) {
        let ended = group.iter().filter_map(|pod| {
            let uid = pod.metadata.uid.as_deref()?;
            let failure = PodFailure {
                reason: "Terminated".to_owned(),
                message: "Pod was terminated in response to imminent node shutdown.".to_owned(),
                grace: Some(period),
                disruption: Some("TerminationByKubelet".to_owned()),
            };
            pods.fail(uid, failure).then(|| pods.released(uid))
        });
        let all = futures::future::join_all(ended.collect::<Vec<_>>());
        if tokio::time::timeout(period + LAST_KILL, all).await.is_err() {
            warn!(pods = group.len(), ?period, "some pods did not end in their time");
        }
    }
    let told = async {
        unready.await;
        reporter.told().await;
    };
    if tokio::time::timeout(LAST_WORDS, told).await.is_err() {
        warn!("the master does not hear that the node goes, or how the pods ended");
    }
}

#[cfg(test)]
mod tests;
