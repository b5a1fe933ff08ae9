//! Attaching to running containers.

mod common;

use std::time::Duration;

use common::{PATIENCE, Rig, Running, is_root};
use runtime::{AttachConfig, ContainerRuntime, Error, ExecSession};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ALL: AttachConfig = AttachConfig { stdin: true, stdout: true, stderr: true, once: false };

async fn attach(rig: &Rig, running: &Running, config: AttachConfig) -> ExecSession {
    rig.runtime.attach(&running.sandbox, &running.container, &config).await.unwrap()
}

/// Reads until the text has been seen.
async fn until(session: &mut ExecSession, text: &str) -> String {
    let mut seen = String::new();
    let read = async {
        let mut bytes = [0; 4096];
        while !seen.contains(text) {
            let length = session.stdout.read(&mut bytes).await.unwrap();
            assert!(length > 0, "the output ended with {seen:?}");
            seen.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("no {text:?} came"));
    seen
}

/// A container that says back what it hears.
async fn parrot(rig: &Rig, tty: bool) -> Running {
    let script = "echo early; while read line; do echo \"heard $line\"; echo err >&2; done; exit 4";
    let mut config = rig.container_config("pod", &["sh", "-c", script]);
    config.stdin = true;
    config.tty = tty;
    let running = rig.run_config("pod", config).await;
    rig.await_output("pod", "early").await;
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn several_see_what_is_said_from_then_on_and_the_log_has_it_all() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let running = parrot(&rig, false).await;
    let mut first = attach(&rig, &running, ALL).await;
    let watching = AttachConfig { stdin: false, ..ALL };
    let mut second = attach(&rig, &running, watching).await;
    assert!(second.stdin.is_none());
    first.stdin.as_mut().unwrap().write_all(b"one\n").await.unwrap();
    assert_eq!(until(&mut first, "one\n").await, "heard one\n");
    assert_eq!(until(&mut second, "one\n").await, "heard one\n");
    let mut errors = [0; 4];
    second.stderr.as_mut().unwrap().read_exact(&mut errors).await.unwrap();
    assert_eq!(&errors, b"err\n");

    // Who leaves takes nothing along: without `once` the input stays open.
    drop(first);
    let mut third = attach(&rig, &running, ALL).await;
    let mut stdin = third.stdin.take().unwrap();
    stdin.write_all(b"two\n").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    until(&mut third, "heard two\n").await;
    until(&mut second, "heard two\n").await;
    assert!(rig.state(&running).await.exit.is_none());

    let once = AttachConfig { once: true, ..ALL };
    let mut last = attach(&rig, &running, once).await;
    last.stdin.take().unwrap().shutdown().await.unwrap();
    for session in [second, third, last] {
        let code = tokio::time::timeout(PATIENCE, session.exit).await.unwrap().unwrap().unwrap();
        assert_eq!(code, 4);
    }
    rig.await_output("pod", "heard two").await;
    let gone = rig.runtime.attach(&running.sandbox, &running.container, &ALL).await;
    assert!(matches!(gone, Err(Error::NotRunning(_))));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_reads_its_end_of_input_when_the_only_one_leaves() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let mut running = parrot(&rig, false).await;
    let once = AttachConfig { once: true, ..ALL };
    drop(attach(&rig, &running, once).await);
    let exit = tokio::time::timeout(PATIENCE, running.exit()).await.unwrap();
    assert_eq!(exit.exit_code, 4);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_shared_and_has_a_size() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let running = parrot(&rig, true).await;
    let mut session = attach(&rig, &running, AttachConfig { stderr: false, ..ALL }).await;
    session.resize.send((100, 30)).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"hello\n").await.unwrap();
    until(&mut session, "heard hello\r\n").await;
    let size = rig.exec(&running, "stty size < /proc/1/fd/0").await;
    assert_eq!(size.output, b"30 100\n");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_does_not_read_is_let_go_and_nothing_waits_for_it() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let script = format!("read line; yes {} | head -c 8000000; echo all", "x".repeat(63));
    let mut config = rig.container_config("pod", &["sh", "-c", &script]);
    config.stdin = true;
    config.log_max_bytes = 64 << 20;
    let mut running = rig.run_config("pod", config).await;
    let mut idle = attach(&rig, &running, AttachConfig { stderr: false, ..ALL }).await;
    idle.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    // It comes to its end though nobody reads.
    let exit = tokio::time::timeout(PATIENCE, running.exit()).await.unwrap();
    assert_eq!(exit.exit_code, 0);
    let told = tokio::time::timeout(PATIENCE, idle.exit).await.unwrap().unwrap();
    let Err(Error::Attach { reason, .. }) = told else { panic!("{told:?}") };
    assert!(reason.contains("too slow"), "{reason}");
    rig.await_output("pod", "all").await;
    assert_eq!(rig.output("pod").matches('x').count(), 8_000_000 / 64 * 63);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attaching_has_a_bound_and_leaves_room_when_one_goes() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let running = parrot(&rig, false).await;
    let mut sessions = Vec::new();
    let refused = loop {
        match rig.runtime.attach(&running.sandbox, &running.container, &ALL).await {
            Ok(session) => sessions.push(session),
            Err(error) => break error,
        }
    };
    assert_eq!(sessions.len(), 16);
    assert!(refused.to_string().contains("too many"), "{refused}");
    drop(sessions);
    let retry = async {
        loop {
            let again = rig.runtime.attach(&running.sandbox, &running.container, &ALL).await;
            if let Ok(session) = again {
                return session;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, retry).await.unwrap();
    rig.finish().await;
}
