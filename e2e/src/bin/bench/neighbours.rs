//! What a pod that takes all it can get leaves to others of its node: a fork bomb, an allocation without
//! end, a full disk. Measured is how long a connection between two other pods takes, in turns with and
//! without the bomb.

use anyhow::{Result, ensure};
use e2e::check::{self, until};
use e2e::image::SHELL_IMAGE;
use e2e::lab::{Lab, StoreKind, run};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::sinks::{self, SINK_PORT, address, start};
use super::{median, percentile, report};

/// Turns with each bomb, and as many without.
const TURNS: usize = 5;
/// Connections of each turn: some seconds of them.
const CONNECTIONS: usize = 20_000;

/// The bombs, with the shell script that each is, its limits, and how one sees that it has gone off.
struct Bomb {
    name: &'static str,
    script: &'static str,
    limits: Value,
    conditions: &'static str,
}

fn bombs() -> [Bomb; 3] {
    [
        Bomb {
            name: "forks",
            script: "bomb() { bomb | bomb & }; bomb; while :; do sleep 1; bomb; done",
            limits: json!({"memory": "512Mi"}),
            conditions: "a shell's fork bomb, started anew each second, up to the bound of processes",
        },
        Bomb {
            name: "memory",
            script: "while :; do busybox tail /dev/zero; done",
            limits: json!({"memory": "256Mi"}),
            conditions: "allocates until it is killed, at once again",
        },
        Bomb {
            name: "disk",
            script: "while :; do busybox dd if=/dev/zero of=/data/file bs=64k count=8192; done",
            limits: json!({"memory": "256Mi"}),
            conditions: "writes 512 MiB to the disk of the node, again and again",
        },
    ]
}

/// Measures and prints its lines of the report.
pub(super) fn measure() -> Result<()> {
    ensure!(check::is_root(), "the bench needs root");
    run(check::lab(1, StoreKind::Embedded), |lab| async move {
        check::import_shell(&lab)?;
        let client = check::client(&lab).await?;
        start(&client, "sink", "node1").await?;
        start(&client, "from", "node1").await?;
        let to = format!("{}:{SINK_PORT}", address(&client, "sink").await?);
        for bomb in bombs() {
            beside(&lab, &client, &to, &bomb).await?;
        }
        Ok(())
    })
}

/// The half and the last hundredth of the connections take so long, in seconds.
fn times(lab: &Lab, to: &str) -> Result<[f64; 2]> {
    let times = sinks::dial(lab, "from", to, CONNECTIONS)?;
    Ok([percentile(&times, 0.5), percentile(&times, 0.99)])
}

async fn beside(lab: &Lab, client: &Client, to: &str, bomb: &Bomb) -> Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let name = format!("bomb-{}", bomb.name);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"bomb": bomb.name}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main",
                "image": SHELL_IMAGE,
                "command": ["sh", "-c", bomb.script],
                "resources": {"limits": bomb.limits, "requests": {"cpu": "10m", "memory": "16Mi"}},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    }))?;
    let (mut calm, mut beside) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..TURNS {
        let without = times(lab, to)?;
        pods.create(&PostParams::default(), &pod).await?;
        let labels = format!("bomb={}", bomb.name);
        until(&pods, &labels, "the bomb is there", |pods| pods.iter().any(check::is_ready)).await?;
        let with = times(lab, to)?;
        pods.delete(&name, &DeleteParams::default()).await?;
        until(&pods, &labels, "the bomb is gone", |pods| pods.is_empty()).await?;
        for index in 0..2 {
            calm[index].push(without[index]);
            beside[index].push(with[index]);
        }
    }
    for (index, which) in ["p50", "p99"].into_iter().enumerate() {
        let (calm, beside) = (median(&mut calm[index]), median(&mut beside[index]));
        report(
            &format!("connections of neighbours beside a bomb of {}, {which}", bomb.name),
            &format!("{:.2} x without", beside / calm),
            "2 x",
            &format!(
                "{}; {:.0} against {:.0} µs, medians of {TURNS} turns of {CONNECTIONS}",
                bomb.conditions,
                beside * 1e6,
                calm * 1e6
            ),
        );
    }
    Ok(())
}
