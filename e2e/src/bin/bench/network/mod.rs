//! What Services cost: throughput, connections, and the time until a change is everywhere.
//!
//! Two nodes, a pod on each that receives and one that sends; all figures are taken from within pods,
//! and each with a Service beside the same without one, in turns.

mod objects;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use e2e::check;
use e2e::lab::{Lab, StoreKind, run};
use kube::Client;

use self::objects::{fill, point, service};
use super::sinks::{self, SINK_PORT, Watching, address, start};
use super::{median, percentile, report};

/// Services in the way when there are few.
const FEW: usize = 10;
/// Endpoints of each of the others.
const ENDPOINTS: usize = 25;
/// Turns of each measurement.
const TURNS: usize = 5;
/// How long each turn writes.
const WRITING: Duration = Duration::from_secs(2);
/// Connections of each turn, one after the other.
const CONNECTIONS: usize = 2000;
/// Changes of an endpoint.
const CHANGES: usize = 15;

/// Measures and prints its lines of the report.
pub(super) fn measure(many: usize) -> Result<()> {
    ensure!(check::is_root(), "the bench needs root");
    ensure!(many > FEW, "--services has to be more than {FEW}");
    run(check::lab(2, StoreKind::Embedded), move |lab| async move {
        let client = check::client(&lab).await?;
        for (pod, node) in
            [("sink-1", "node1"), ("sink-2", "node2"), ("from-1", "node1"), ("from-2", "node2")]
        {
            start(&client, pod, node).await?;
        }
        let mut bench = Bench { lab: &lab, client: &client, first: Vec::new() };
        bench.fill(0..FEW).await?;
        bench.throughput().await?;
        let few = bench.connections(FEW).await?;
        bench.change(FEW, "50 ms").await?;
        let before = bench.kubelets()?;
        let began = Instant::now();
        bench.fill(FEW..many).await?;
        let last = bench.served(many - 1).await?;
        report(
            &format!(
                "{} Services of {ENDPOINTS} endpoints written, to the last one served",
                many - FEW
            ),
            &format!("{:.1} s", began.elapsed().as_secs_f64()),
            "-",
            &format!("two nodes; written in {:.1} s", (began.elapsed() - last).as_secs_f64()),
        );
        let after = bench.kubelets()?;
        report(
            &format!("a kubelet's memory for {many} Services of {ENDPOINTS} endpoints"),
            &format!("{:.0} MB", after - before),
            "150 MB",
            &format!("resident, the larger of two; before {before:.0} MB"),
        );
        let with_many = bench.connections(many).await?;
        report(
            &format!("a connection's p99 with {many} Services, beside {FEW}"),
            &format!("{:.2} x", with_many / few),
            "1.05 x",
            "each as the ratio to direct connections of the same turns",
        );
        bench.change(many, "60 ms").await?;
        bench.restart(many).await
    })
}

struct Bench<'a> {
    lab: &'a Lab,
    client: &'a Client,
    /// The addresses of the Services, by number.
    first: Vec<String>,
}

impl Bench<'_> {
    /// Makes these Services; the last leads to a pod, the others to nobody.
    async fn fill(&mut self, numbers: std::ops::Range<usize>) -> Result<()> {
        let sink = address(self.client, "sink-1").await?;
        let last = numbers.end - 1;
        self.first.extend(fill(self.client, numbers, ENDPOINTS, last, &sink).await?);
        Ok(())
    }

    /// Waits until a Service is served to the pods of both nodes; how long that took.
    async fn served(&self, number: usize) -> Result<Duration> {
        let began = Instant::now();
        for from in ["from-1", "from-2"] {
            Watching::start(self.lab, from, &self.first[number], "sink-1")?.end()?;
        }
        Ok(began.elapsed())
    }

    async fn throughput(&self) -> Result<()> {
        for (to, where_) in [("sink-1", "on one node"), ("sink-2", "across nodes")] {
            let (mut direct, mut through) = (Vec::new(), Vec::new());
            let pod = format!("{}:{SINK_PORT}", address(self.client, to).await?);
            let by_service = service(self.client, to).await?;
            point(self.client, to, &address(self.client, to).await?).await?;
            Watching::start(self.lab, "from-1", &by_service, to)?.end()?;
            for _ in 0..TURNS {
                for (at, into) in [(&pod, &mut direct), (&by_service, &mut through)] {
                    let seconds = WRITING.as_secs().to_string();
                    let figure = sinks::run(self.lab, "from-1", &["blast", at, &seconds])?;
                    into.push(figure.trim().parse::<f64>()? * 8e-9);
                }
            }
            let (direct, through) = (median(&mut direct), median(&mut through));
            report(
                &format!("throughput pod → Service → pod {where_}"),
                &format!("{:.2} x direct", through / direct),
                "0.97 x",
                &format!(
                    "{through:.1} against {direct:.1} Gbit/s, medians of {TURNS} turns of {WRITING:?}"
                ),
            );
        }
        Ok(())
    }

    /// Connections through a Service beside direct ones; the ratio of their p99.
    async fn connections(&self, services: usize) -> Result<f64> {
        let direct = format!("{}:{SINK_PORT}", address(self.client, "sink-1").await?);
        let through = self.first.get(services - 1).context("no such service")?;
        self.served(services - 1).await?;
        let (mut rates, mut tails, mut lines) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..TURNS {
            let direct = self.dial(&direct)?;
            let through = self.dial(through)?;
            rates.push(through.rate / direct.rate);
            tails.push(through.p99 / direct.p99);
            lines.push(through.rate);
        }
        let (rate, tail, per_second) = (median(&mut rates), median(&mut tails), median(&mut lines));
        report(
            &format!("new connections through one of {services} Services"),
            &format!("{rate:.2} x direct"),
            "0.9 x",
            &format!(
                "on one node, one after the other, {per_second:.0}/s; p99 {tail:.2} x direct; medians of {TURNS} turns of {CONNECTIONS}"
            ),
        );
        Ok(tail)
    }

    fn dial(&self, to: &str) -> Result<Dialled> {
        let times = sinks::dial(self.lab, "from-1", to, CONNECTIONS)?;
        let rate = times.len() as f64 / times.iter().sum::<f64>();
        Ok(Dialled { rate, p99: percentile(&times, 0.99) })
    }

    /// From the write of an endpoint slice to the first connection that takes the new way, on the node
    /// where that is last.
    async fn change(&self, services: usize, budget: &str) -> Result<()> {
        let at = service(self.client, "moving").await?;
        let sinks = ["sink-1", "sink-2"];
        let addresses =
            [address(self.client, sinks[0]).await?, address(self.client, sinks[1]).await?];
        point(self.client, "moving", &addresses[0]).await?;
        for from in ["from-1", "from-2"] {
            Watching::start(self.lab, from, &at, sinks[0])?.end()?;
        }
        let mut times = Vec::new();
        for number in 0..CHANGES {
            let to = (number + 1) % 2;
            let watching =
                ["from-1", "from-2"].map(|from| Watching::start(self.lab, from, &at, sinks[to]));
            let began = SystemTime::now().duration_since(UNIX_EPOCH)?;
            point(self.client, "moving", &addresses[to]).await?;
            let mut last = Duration::ZERO;
            for watching in watching {
                last = last.max(watching?.end()?);
            }
            times.push(last.saturating_sub(began).as_secs_f64() * 1000.0);
        }
        times.sort_by(f64::total_cmp);
        let most = times.last().copied().unwrap_or_default();
        report(
            &format!(
                "an endpoint's change, from the write to the new way on all nodes, {services} Services, p50"
            ),
            &format!("{:.0} ms", percentile(&times, 0.5)),
            budget,
            &format!("{CHANGES} changes, two nodes, looked at each millisecond; most {most:.0} ms"),
        );
        Ok(())
    }

    /// A kubelet that starts where no rules are.
    async fn restart(&self, services: usize) -> Result<()> {
        let node = self.lab.node("node1")?;
        self.lab.kill(node, "kubelet")?;
        node.run(&["nft", "flush", "ruleset"])?;
        let began = Instant::now();
        self.lab.start_kubelet(node, None)?;
        let (address, port) = self.first[services - 1].split_once(':').context("no port")?;
        // From the node itself: into a pod leads only the kubelet. An attempt that nobody answers is
        // given up soon, or it is repeated too seldom.
        let look = format!("read name < /dev/tcp/{address}/{port} && test \"$name\" = sink-1");
        let until = format!("until timeout 0.1 bash -c '{look}' 2> /dev/null; do :; done");
        node.run(&["bash", "-c", &until])?;
        report(
            &format!(
                "a kubelet's start, to the last of {services} Services served, without rules before"
            ),
            &format!("{:.1} s", began.elapsed().as_secs_f64()),
            "10 s",
            "its start, the session and the state in it included",
        );
        Ok(())
    }

    /// What the larger of the kubelets has in memory, in MB.
    fn kubelets(&self) -> Result<f64> {
        let mut largest: f64 = 0.0;
        for node in &self.lab.nodes {
            let pid = node.running("kubelet")?.context("a kubelet has ended")?;
            let status = node.run(&["cat", &format!("/proc/{pid}/status")])?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
            largest = largest.max(kilobytes.context("no VmRSS")?.trim().parse::<f64>()? / 1024.0);
        }
        Ok(largest)
    }
}

struct Dialled {
    /// In a second.
    rate: f64,
    /// In seconds.
    p99: f64,
}
