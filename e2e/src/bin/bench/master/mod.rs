//! The master alone, under load: over TLS, with pods of one kilobyte, on processors that it shares
//! with the client.

mod client;
mod process;
mod watchers;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use e2e::lab::StoreKind;
use futures::future::try_join_all;
use http::{Method, StatusCode};

use self::client::{Connection, Server};
use self::process::Master;
use super::{percentile, report};

/// Clients that ask at a time, each with a connection of its own.
const CLIENTS: usize = 64;
/// How many pods are stored when lists and memory are looked at.
const STORED: usize = 10_000;
const GETS: usize = 10 * STORED;
const PODS: &str = "/api/v1/namespaces/default/pods";

/// Measures one store, and prints its lines of the report.
pub(super) async fn measure(store: StoreKind) -> Result<()> {
    let name = match store {
        StoreKind::Embedded => "embedded store",
        StoreKind::Etcd => "etcd",
    };
    let master = Master::start(store).await?;
    let empty = master.process.resident_mb()?;
    let mut connections = Vec::new();
    for _ in 0..CLIENTS {
        connections.push(master.server.connect().await?);
    }
    let puts = match &master.etcd {
        Some(address) => Some(etcd_puts(address).await?),
        None => None,
    };
    let working = master.process.processor_time()?;
    let creates = creates(&connections).await?;
    let each = |since: Duration, count: usize| {
        let worked = master.process.processor_time()?.saturating_sub(since);
        anyhow::Ok(format!(
            "{} µs of the master's processor time each",
            worked.as_micros() / count as u128
        ))
    };
    let each_create = each(working, STORED)?;
    let (figure, budget) = match puts {
        None => (format!("{creates:.0}/s"), "6 000/s".to_owned()),
        Some(puts) => {
            let figure = format!("{creates:.0}/s ({:.2} x etcd's puts)", creates / puts);
            (figure, format!("0.7 x etcd's own puts of the same run: {puts:.0}/s"))
        }
    };
    let conditions = format!("{name}, {CLIENTS} clients, {STORED} pods of 1 KB");
    report("pods created", &figure, &budget, &format!("{conditions}; {each_create}"));
    let working = master.process.processor_time()?;
    let gets = gets(&connections).await?;
    let each_get = each(working, GETS)?;
    let conditions = format!("{conditions}; {each_get}");
    report("pods read by name", &format!("{gets:.0}/s"), "25 000/s", &conditions);
    lists(&master, name).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let resident = master.process.resident_mb()?;
    report(
        &format!("master resident with {STORED} pods"),
        &format!("{resident:.0} MB"),
        "120 MB",
        &format!("{name}, after the load above; before it {empty:.0} MB"),
    );
    watchers::measure(&master.server, name).await
}

/// A pod of which no scheduler takes care, padded to a kilobyte.
fn pod(name: &str) -> Bytes {
    let body = |padding: &str| {
        serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": {"app": "bench", "tier": "front"},
                "annotations": {"padding": padding},
            },
            "spec": {
                "schedulerName": "bench",
                "containers": [{
                    "name": "main", "image": "registry.example.org/bench/server:1.2.3",
                    "args": ["serve", "--port=8080"],
                    "ports": [{"containerPort": 8080}],
                    "env": [{"name": "MODE", "value": "bench"}],
                    "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                }],
            },
        })
        .to_string()
    };
    let room = 1024_usize.saturating_sub(body("").len());
    Bytes::from(body(&"x".repeat(room)))
}

/// Has every connection work until `count` are done; how many per second.
async fn rate<F>(
    connections: &[Connection],
    count: usize,
    work: impl Fn(Connection, usize) -> F + Send + Sync + 'static,
) -> Result<f64>
where
    F: Future<Output = Result<Connection>> + Send,
{
    let (next, work) = (Arc::new(AtomicUsize::new(0)), Arc::new(work));
    let began = Instant::now();
    let workers = connections.iter().cloned().map(|mut connection| {
        let (next, work) = (Arc::clone(&next), Arc::clone(&work));
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(());
                }
                connection = work(connection, number).await?;
            }
        })
    });
    for ended in try_join_all(workers).await? {
        ended?;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

async fn creates(connections: &[Connection]) -> Result<f64> {
    let bodies: Arc<Vec<Bytes>> = Arc::new((0..STORED).map(|n| pod(&format!("pod-{n}"))).collect());
    rate(connections, STORED, move |mut connection, number| {
        let body = bodies[number].clone();
        async move {
            connection.exchange(Method::POST, PODS, body, StatusCode::CREATED).await?;
            Ok(connection)
        }
    })
    .await
}

async fn gets(connections: &[Connection]) -> Result<f64> {
    rate(connections, GETS, |mut connection, number| async move {
        let path = format!("{PODS}/pod-{}", number * 7919 % STORED);
        connection.exchange(Method::GET, &path, Bytes::new(), StatusCode::OK).await?;
        Ok(connection)
    })
    .await
}

async fn list(server: &Server) -> Result<(f64, usize)> {
    let mut connection = server.connect().await?;
    let began = Instant::now();
    let bytes = connection.exchange(Method::GET, PODS, Bytes::new(), StatusCode::OK).await?;
    Ok((began.elapsed().as_secs_f64() * 1000.0, bytes))
}

async fn lists(master: &Master, name: &str) -> Result<()> {
    let mut times = Vec::new();
    let mut size = 0;
    for _ in 0..20 {
        let (time, bytes) = list(&master.server).await?;
        times.push(time);
        size = bytes;
    }
    times.sort_by(f64::total_cmp);
    let size = size as f64 / f64::from(1 << 20);
    report(
        &format!("list of {STORED} pods, p50"),
        &format!("{:.0} ms", percentile(&times, 0.5)),
        "80 ms",
        &format!("{name}, {size:.1} MB of JSON read whole, 20 times; p99 {:.0} ms", times[19]),
    );
    for many in [1, 32] {
        master.process.forget_peak()?;
        let before = master.process.resident_mb()?;
        try_join_all((0..many).map(|_| list(&master.server))).await?;
        let more = master.process.peak_mb()? - before;
        report(
            &format!("memory that {many} of these lists take at a time"),
            &format!("{more:.1} MB ({:.2} x one list)", more / size),
            "2 x one list",
            &format!("{name}, the peak of the resident memory above what it was"),
        );
    }
    Ok(())
}

/// What etcd does by itself: puts of a kilobyte, as many at a time.
async fn etcd_puts(address: &str) -> Result<f64> {
    let client = etcd_client::Client::connect([address], None).await.context("etcd")?;
    let value = vec![b'x'; 1024];
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let workers = (0..CLIENTS).map(|_| {
        let (next, value) = (Arc::clone(&next), value.clone());
        let mut client = client.kv_client();
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= STORED {
                    return anyhow::Ok(());
                }
                client.put(format!("/bench/{number}"), value.clone(), None).await?;
            }
        })
    });
    for ended in try_join_all(workers).await? {
        ended?;
    }
    Ok(STORED as f64 / began.elapsed().as_secs_f64())
}
