//! How long a change takes to everybody who watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http::{Method, StatusCode};
use http_body_util::BodyExt;

use super::client::{Connection, Server};
use super::{PODS, pod};
use crate::{percentile, report};

const WATCHERS: usize = 100;
const PER_SECOND: usize = 1000;
const SECONDS: usize = 5;
/// Creations under way at a time.
const WRITERS: usize = 8;
/// Marks the pods of this part; their number follows.
const MARK: &[u8] = b"\"name\":\"watched-";

/// When each creation was sent, in microseconds after the start.
type Sent = Arc<Vec<AtomicU64>>;

pub(super) async fn measure(server: &Server, name: &str) -> Result<()> {
    let count = PER_SECOND * SECONDS;
    let sent: Sent = Arc::new((0..count).map(|_| AtomicU64::new(0)).collect());
    let began = Instant::now();
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let connection = server.connect().await?;
        watchers.push(tokio::spawn(watch(connection, Arc::clone(&sent), began)));
    }
    // They are all there; nothing is told of what was there before.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let writing = Instant::now();
    let writers = try_join_all((0..WRITERS).map(async |_| server.connect().await)).await?;
    let writers = writers.into_iter().enumerate().map(|(index, mut connection)| {
        let sent = Arc::clone(&sent);
        tokio::spawn(async move {
            for number in (index..count).step_by(WRITERS) {
                let due = writing + Duration::from_secs_f64(number as f64 / PER_SECOND as f64);
                tokio::time::sleep_until(due.into()).await;
                let body = pod(&format!("watched-{number}"));
                sent[number].store(micros(began), Ordering::Relaxed);
                connection.exchange(Method::POST, PODS, body, StatusCode::CREATED).await?;
            }
            anyhow::Ok(())
        })
    });
    for ended in try_join_all(writers).await? {
        ended?;
    }
    let rate = count as f64 / writing.elapsed().as_secs_f64();
    let mut times = Vec::new();
    for ended in try_join_all(watchers).await? {
        times.extend(ended?);
    }
    times.sort_by(f64::total_cmp);
    ensure!(times.len() == WATCHERS * count, "{} events", times.len());
    report(
        &format!("an event to {WATCHERS} watchers, p99"),
        &format!("{:.1} ms", percentile(&times, 0.99)),
        "20 ms",
        &format!(
            "{name}, {rate:.0} pods created per second, from the request sent to the event read; \
             p50 {:.1} ms, most {:.1} ms",
            percentile(&times, 0.5),
            times[times.len() - 1]
        ),
    );
    Ok(())
}

fn micros(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Reads until the last pod was seen; how long each took, in milliseconds.
async fn watch(mut connection: Connection, sent: Sent, began: Instant) -> Result<Vec<f64>> {
    // From now on.
    let path =
        format!("{PODS}?watch=true&sendInitialEvents=false&resourceVersionMatch=NotOlderThan");
    let response = connection.send(Method::GET, &path, Bytes::new()).await?;
    ensure!(response.status() == StatusCode::OK, "{path}: {}", response.status());
    let mut body = response.into_body();
    let mut times = Vec::with_capacity(sent.len());
    // What is left of the last frame: an event may lie in two.
    let mut rest: Vec<u8> = Vec::new();
    while times.len() < sent.len() {
        let frame = body.frame().await.context("the watch ended")??;
        let Ok(data) = frame.into_data() else { continue };
        let now = micros(began);
        rest.extend_from_slice(&data);
        let mut from = 0;
        while let Some(end) = rest[from..].iter().position(|byte| *byte == b'\n') {
            let line = &rest[from..from + end];
            from += end + 1;
            let Some(place) = line.windows(MARK.len()).position(|part| part == MARK) else {
                continue;
            };
            let digits = &line[place + MARK.len()..];
            let digits = digits.split(|byte| *byte == b'"').next().unwrap_or_default();
            let number: usize = std::str::from_utf8(digits)?.parse()?;
            let at = sent[number].load(Ordering::Relaxed);
            times.push(now.saturating_sub(at) as f64 / 1000.0);
        }
        rest.drain(..from);
    }
    Ok(times)
}
