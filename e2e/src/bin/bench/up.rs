//! `deploy/up` with the build done.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use e2e::lab::Machine;

use super::report;

/// Runs `deploy/up` and `deploy/down` on a machine of their own.
pub(crate) fn up() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let id = uuid::Uuid::new_v4().simple().to_string();
    let folder = PathBuf::from("/var/tmp").join(format!("kutter-up-{id}"));
    let addresses = (Ipv4Addr::new(10, 78, 0, 1), Ipv6Addr::new(0xfd00, 0x78, 0, 0, 0, 0, 0, 1));
    let machine = Machine::start("up", addresses, folder.clone(), false)?;
    machine.run(&["ip", "link", "set", "lo", "up"])?;
    // Some kernels have no dummy interfaces; the other end of the cable hangs loose.
    machine.run(&["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "loose"])?;
    machine.run(&["ip", "link", "set", "loose", "up"])?;
    machine.run(&["ip", "address", "add", "10.78.0.1/24", "dev", "eth0"])?;
    machine.run(&["ip", "link", "set", "eth0", "up"])?;
    let script = |name: &str| -> Command {
        let mut command = machine.command(root.join("deploy").join(name));
        command
            .env("KUTTER_ADDRESS", "10.78.0.1")
            .env("KUTTER_DATA", folder.join("data"))
            .env("KUTTER_RUN", folder.join("run"))
            .env("KUTTER_LOG_DIR", folder.join("log"))
            .stdin(Stdio::null());
        command
    };
    let output = script("up").output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let down = script("down").arg("--purge").output()?;
    drop(machine);
    // Nothing is mounted there any more.
    std::fs::remove_dir_all(&folder)?;
    if !output.status.success() || !down.status.success() {
        bail!("deploy/up or deploy/down failed: {text}{}", String::from_utf8_lossy(&down.stderr));
    }
    let time = |what: &str| -> Result<f64> {
        let line = text.lines().find(|line| line.contains(what)).context("a step is missing")?;
        let number = line.trim_start_matches(|c: char| !c.is_ascii_digit());
        Ok(number.split(' ').next().unwrap_or_default().parse()?)
    };
    let (built, answers) = (time("built")?, time("answers at")?);
    report(
        "`deploy/up` with the build done, to the example answering",
        &format!("{:.1} s", answers - built),
        "5 s",
        "three replicas with readiness probes, fresh data",
    );
    Ok(())
}
