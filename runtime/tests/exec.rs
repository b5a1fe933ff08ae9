//! Programs executed in running containers.

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{PATIENCE, Rig, Running, eventually, is_root, processes, status_field};
use runtime::{ContainerRuntime, Error, ExecConfig, ExecSession, User};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn start(rig: &Rig, running: &Running, script: &str, stdin: bool, tty: bool) -> ExecSession {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let config = ExecConfig { command, stdin, tty };
    rig.runtime.exec(&running.sandbox, &running.container, &config).await.unwrap()
}

async fn read_to_end(mut from: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut text = String::new();
    let read = from.read_to_string(&mut text);
    tokio::time::timeout(PATIENCE, read).await.expect("the stream ends").unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn output_errors_and_exit_code_come_back() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let running = rig.run("pod", "sleep 600").await;
    let session = start(&rig, &running, "echo out; echo err >&2; exit 42", false, false).await;
    assert_eq!(read_to_end(session.stdout).await, "out\n");
    assert_eq!(read_to_end(session.stderr.unwrap()).await, "err\n");
    assert_eq!(session.exit.await.unwrap().unwrap(), 42);
    assert!(session.stdin.is_none());

    let session = start(&rig, &running, "kill -9 $$", false, false).await;
    assert_eq!(session.exit.await.unwrap().unwrap(), 137);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn input_flows_to_the_program_and_ends() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let running = rig.run("pod", "sleep 600").await;
    let mut session = start(&rig, &running, "cat; echo end", true, false).await;
    let mut stdin = session.stdin.take().unwrap();
    let data = "0123456789abcdef".repeat(64 * 1024);
    let sent = data.clone();
    let writer = tokio::spawn(async move {
        stdin.write_all(sent.as_bytes()).await.unwrap();
        stdin.shutdown().await.unwrap();
    });
    let output = read_to_end(session.stdout).await;
    writer.await.unwrap();
    assert_eq!(output.len(), data.len() + 4);
    assert!(output.starts_with(&data) && output.ends_with("end\n"));
    assert_eq!(session.exit.await.unwrap().unwrap(), 0);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_name_a_size_and_control() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let running = rig.run("pod", "sleep 600").await;
    // The size may be set before or after the program looks.
    let script = "tty; read line; echo got $line; \
                  until [ \"$(stty size)\" = '43 132' ]; do sleep 0.01; done; stty size; exit 3";
    let mut session = start(&rig, &running, script, true, true).await;
    assert!(session.stderr.is_none());
    let mut stdin = session.stdin.take().unwrap();
    session.resize.send((132, 43)).await.unwrap();
    let mut output = String::new();
    let mut bytes = [0; 256];
    while !output.contains("/dev/pts/0") {
        let length = session.stdout.read(&mut bytes).await.unwrap();
        output.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
    }
    stdin.write_all(b"hello\n").await.unwrap();
    output.push_str(&read_to_end(&mut session.stdout).await);
    assert!(output.contains("got hello\r\n43 132\r\n"), "{output:?}");
    assert_eq!(session.exit.await.unwrap().unwrap(), 3);

    // Control-C reaches the program because the terminal controls it.
    let mut session = start(&rig, &running, "echo ready; sleep 600", true, true).await;
    let mut stdin = session.stdin.take().unwrap();
    session.stdout.read_exact(&mut [0; 5]).await.unwrap();
    stdin.write_all(&[3]).await.unwrap();
    let code = tokio::time::timeout(PATIENCE, session.exit).await.unwrap().unwrap().unwrap();
    assert_eq!(code, 130);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_up_kills_the_program_and_its_children() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let running = rig.run("pod", "sleep 600").await;
    let running_sleeps = |seconds: &str| {
        let wanted = format!("sleep {seconds}");
        processes().iter().filter(|p| p.command_line.trim() == wanted).count()
    };
    for tty in [false, true] {
        let mut session =
            start(&rig, &running, "echo ready; sleep 4711 & sleep 4712", true, tty).await;
        session.stdout.read_exact(&mut [0; 5]).await.unwrap();
        eventually("the children run", || running_sleeps("4711") + running_sleeps("4712") == 2)
            .await;
        drop(session);
        eventually("the children die", || running_sleeps("4711") + running_sleeps("4712") == 0)
            .await;
    }
    assert!(rig.state(&running).await.exit.is_none());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_has_a_timeout_and_a_bounded_output() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let running = rig.run("pod", "sleep 600").await;
    let output = rig.exec(&running, "echo yes; echo no >&2; exit 9").await;
    assert_eq!((output.exit_code, output.timed_out), (9, false));
    assert_eq!(output.output, b"yes\nno\n");

    let command = ["sh", "-c", "echo begun; sleep 600"].map(str::to_owned);
    let (sandbox, container) = (&running.sandbox, &running.container);
    // On a slow machine even the first words take a while: more time, until they have come.
    let mut timeout = Duration::from_millis(500);
    loop {
        let output = rig.runtime.exec_sync(sandbox, container, &command, timeout).await.unwrap();
        assert!(output.timed_out);
        if output.output == b"begun\n" {
            break;
        }
        assert!(output.output.is_empty() && timeout < PATIENCE, "{:?}", output.output);
        timeout *= 2;
    }

    let output = rig.exec(&running, "yes | head -c 1000000").await;
    assert_eq!((output.exit_code, output.output.len()), (0, 64 * 1024));

    // Something that stays behind with the output open does not hold the probe up.
    let began = Instant::now();
    let output = rig.exec(&running, "sleep 30 & echo done").await;
    assert_eq!((output.exit_code, output.output.as_slice()), (0, b"done\n".as_slice()));
    assert!(began.elapsed() < Duration::from_secs(20));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_executed_is_an_error_in_words() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let mut running = rig.run("pod", "while [ ! -e /stop ]; do sleep 0.02; done").await;
    let result = rig
        .runtime
        .exec_sync(&running.sandbox, &running.container, &["foo".to_owned()], PATIENCE)
        .await;
    match result {
        Err(Error::Exec { reason, .. }) => {
            assert_eq!(reason, "exec: \"foo\": executable file not found in $PATH");
        }
        other => panic!("{other:?}"),
    }
    rig.exec(&running, "touch /stop").await;
    running.exit().await;
    let result = rig
        .runtime
        .exec_sync(&running.sandbox, &running.container, &["true".to_owned()], PATIENCE)
        .await;
    assert!(matches!(result, Err(Error::NotRunning(_))), "{result:?}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_confined_as_its_container_is() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let look = "cat /proc/self/status | grep -E '^(Cap|Sig(Ign|Blk)|Seccomp:|NoNewPrivs|Uid|Gid|Groups)'; \
                for n in mnt pid net ipc uts cgroup user; do readlink /proc/self/ns/$n; done; \
                pwd; env | sort | grep -v -E '^(SHLVL|PWD|_)='; cat /proc/self/cgroup; \
                cat /proc/self/limits | grep 'open files'; cat /proc/self/oom_score_adj; umask";
    for (id, uid, no_new_privileges) in [("root", 0, false), ("user", 1000, true)] {
        let mut config = rig.container_config(id, &["sh", "-c", &format!("{look}; sleep 600")]);
        config.user = User { uid, gid: uid, additional_gids: vec![7] };
        config.no_new_privileges = no_new_privileges;
        config.working_directory = "/tmp".to_owned();
        config.env = vec![("COLOUR".to_owned(), "blue".to_owned())];
        config.resources.oom_score_adj = Some(500);
        config.capabilities.add = vec!["SYS_TIME".to_owned()];
        let running = rig.run_config(id, config).await;
        rig.await_output(id, "\n0022").await;
        let own = rig.output(id);
        let executed = String::from_utf8(rig.exec(&running, look).await.output).unwrap();
        assert_eq!(executed, own);
        assert_eq!(status_field(&own, "Seccomp"), "2");
        assert_eq!(status_field(&own, "CapBnd"), "00000000aa0405fb");
        let effective = if uid == 0 { "00000000aa0405fb" } else { "0000000000000000" };
        assert_eq!(status_field(&own, "CapEff"), effective);
        assert_eq!(status_field(&own, "SigIgn"), "0000000000000000");
        assert_eq!(status_field(&own, "SigBlk"), "0000000000000000");
        assert_eq!(status_field(&own, "CapInh"), "0000000000000000");
        assert_eq!(status_field(&own, "NoNewPrivs"), if no_new_privileges { "1" } else { "0" });
        assert!(own.contains("COLOUR=blue") && own.contains("/tmp\n"), "{own}");
        let host = fs::read_link("/proc/self/ns/cgroup").unwrap();
        assert!(!own.contains(host.to_str().unwrap()));
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_programs_run_at_once() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let running = rig.run("pod", "sleep 600").await;
    let execs = (0..20).map(|number| {
        let (rig, running) = (&rig, &running);
        async move {
            let output = rig.exec(running, &format!("echo {number}; exit {number}")).await;
            assert_eq!(output.exit_code, number);
            assert_eq!(output.output, format!("{number}\n").into_bytes());
        }
    });
    futures::future::join_all(execs).await;
    rig.finish().await;
}
