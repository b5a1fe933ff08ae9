//! `kubecfg net check`
//!
//! ```text
//! nodes ─▶ probers: a pod on each node, a Service before each pod ─▶ attempts (pure): who tries what
//!                                                                      │ exec
//!            table, findings (pure) ◀── what each attempt heard ◀── run
//! ```
//!
//! A pod says who it is to whoever connects, so an attempt shows who answered, and not merely that
//! somebody did. All of it is in a namespace of its own, which goes in the end, whatever happened.

mod attempt;
mod explain;
pub(super) mod probers;
mod run;
pub(super) mod service;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use self::attempt::{Attempt, Leg, Outcome};
use self::probers::{Prober, Probers};
use self::service::Subject;
use crate::client::Cluster;
use crate::{print, table};

/// What a shell makes of a program that was interrupted.
const INTERRUPTED: u8 = 130;

/// How to look.
pub(crate) struct How {
    /// What the probing pods run; it has to have `sh` and `nc`.
    pub(crate) image: String,
    /// How long each attempt may take.
    pub(crate) patience: Duration,
    /// How long the probing pods may take to start.
    pub(crate) start: Duration,
    pub(crate) json: bool,
}

/// What was found, as it is printed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    ok: bool,
    /// What explains the failures, or is wrong by itself.
    findings: Vec<String>,
    attempts: Vec<Outcome>,
}

/// Tries every way between all nodes, or all ways to a Service; success if all of them work.
pub(crate) async fn check(cluster: &Cluster, service: Option<&str>, how: &How) -> Result<ExitCode> {
    let subject = match service {
        Some(name) => Some(Subject::find(cluster, name).await?),
        None => None,
    };
    // Before anything is made: whoever is interrupted has to clean up from then on.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut probers = Probers::new(cluster.client.clone()).await?;
    let result = tokio::select! {
        result = look(cluster, &mut probers, subject.as_ref(), how) => Some(result),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    let removed = probers.remove().await;
    let Some(report) = result else {
        removed?;
        return Ok(ExitCode::from(INTERRUPTED));
    };
    let report = report?;
    if how.json {
        print::line(serde_json::to_string_pretty(&report)?)?;
    } else {
        show(&report)?;
    }
    removed?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn look(
    cluster: &Cluster,
    probers: &mut Probers,
    subject: Option<&Subject>,
    how: &How,
) -> Result<Report> {
    probers.start(&how.image, how.start).await?;
    // The probing pods took their time, in which the Service's own may have come or gone.
    let subject = match subject {
        Some(subject) => Some(subject.again(cluster).await?),
        None => None,
    };
    let mut findings: Vec<String> = probers.troubles().collect();
    let attempts = match &subject {
        Some(subject) => {
            findings.extend(subject.findings());
            service::attempts(subject, &ready(probers), probers.nobody())
        }
        None => attempt::between_all(probers),
    };
    if !attempts.is_empty() {
        eprintln!("trying {} ways", attempts.len());
    }
    let outcomes = run::all(probers, attempts, how.patience).await?;
    findings.extend(match &subject {
        Some(subject) => explain::service(&outcomes, &service::left_out(subject, &ready(probers))),
        None => explain::nodes(&outcomes),
    });
    let ok = findings.is_empty() && outcomes.iter().all(Outcome::is_ok);
    Ok(Report { ok, findings, attempts: outcomes })
}

fn ready(probers: &Probers) -> Vec<&Prober> {
    probers.ready().collect()
}

/// A line for each pair with a column for each leg, then what failed, then why.
fn show(report: &Report) -> Result<()> {
    let legs: Vec<Leg> = Leg::ALL
        .into_iter()
        .filter(|leg| report.attempts.iter().any(|outcome| outcome.attempt.leg == *leg))
        .collect();
    let mut pairs: BTreeMap<(&str, &str), BTreeMap<Leg, bool>> = BTreeMap::new();
    for outcome in &report.attempts {
        let Attempt { from, to, leg, .. } = &outcome.attempt;
        let ok = pairs.entry((from, to)).or_default().entry(*leg).or_insert(true);
        *ok &= outcome.is_ok();
    }
    let mut rows = vec![
        ["FROM", "TO"].into_iter().chain(legs.iter().map(|leg| leg.title())).map(str::to_owned),
    ]
    .into_iter()
    .map(Iterator::collect)
    .collect::<Vec<Vec<String>>>();
    for ((from, to), found) in &pairs {
        let cells = legs.iter().map(|leg| match found.get(leg) {
            Some(true) => "ok",
            Some(false) => "FAILED",
            None => "-",
        });
        rows.push([*from, to].into_iter().chain(cells).map(str::to_owned).collect());
    }
    let failed: Vec<&Outcome> = report.attempts.iter().filter(|outcome| !outcome.is_ok()).collect();
    let mut text = Vec::new();
    if !pairs.is_empty() {
        table::print(&mut text, &rows, &mut Vec::new())?;
    }
    if !failed.is_empty() {
        text.extend_from_slice(b"\n");
        let mut rows =
            vec![["FROM", "TO", "LEG", "ADDRESS", "WHAT HAPPENED"].map(str::to_owned).to_vec()];
        for outcome in &failed {
            let Attempt { from, to, leg, .. } = &outcome.attempt;
            let what = outcome.reason().unwrap_or_default();
            let cells = [from, to, leg.title(), &outcome.attempt.address(), &what];
            rows.push(cells.map(|cell| cell.to_owned()).to_vec());
        }
        table::print(&mut text, &rows, &mut Vec::new())?;
    }
    for finding in &report.findings {
        text.extend_from_slice(format!("\n{finding}\n").as_bytes());
    }
    let ways = report.attempts.len();
    let verdict = match failed.len() {
        _ if ways == 0 => "nothing was tried".to_owned(),
        0 if report.ok => format!("all {ways} ways work"),
        0 => format!("all {ways} ways that could be tried work"),
        count => format!("{count} of {ways} ways do not work"),
    };
    text.extend_from_slice(format!("\n{verdict}").as_bytes());
    print::line(String::from_utf8_lossy(&text))
}
