//! A container that sees the processes of another one.

mod common;

use common::{PATIENCE, Rig, Running, eventually, is_root, runs};
use runtime::{ContainerId, ContainerRuntime, Error};

/// Starts a script beside a container, among its processes.
async fn join(rig: &Rig, target: &Running, id: &str, script: &str) -> Running {
    let mut config = rig.container_config(id, &["sh", "-c", script]);
    config.joins_processes_of = Some(target.container.clone());
    let events = rig.runtime.events();
    let state = rig.runtime.start_container(&target.sandbox, &config).await.unwrap();
    Running { sandbox: target.sandbox.clone(), container: config.id, state, events }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_sees_its_targets_processes_and_its_own_files() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let target = rig.run("main", "touch /of-main; while :; do sleep 1000; done").await;
    let script = "ps -o args; ls /proc/1/root; test -e /of-main || echo own files; sleep 1000";
    let debugger = join(&rig, &target, "debugger", script).await;
    rig.await_output("debugger", "own files").await;
    let seen = rig.output("debugger");
    assert!(seen.contains("while :; do sleep 1000; done"), "{seen}");
    assert!(seen.contains("of-main"), "the target's root through /proc: {seen}");
    // An exec into either is in the same namespace.
    let of = |running: Running| async {
        let output = rig.exec(&running, "readlink /proc/self/ns/pid").await.output;
        (String::from_utf8(output).unwrap(), running)
    };
    let ((one, target), (other, debugger)) = (of(target).await, of(debugger).await);
    assert_eq!(one, other);
    assert!(one.starts_with("pid:["), "{one}");
    // It is confined as any container is.
    let confined = rig.exec(&debugger, "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status").await;
    assert!(String::from_utf8_lossy(&confined.output).contains("Seccomp:\t2"));
    assert!(runs(target.pid()));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_end_takes_its_own_processes_along_and_no_others() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let target = rig.run("main", "while :; do sleep 1000; done").await;
    let script = "setsid sleep 2222 & sleep 0.2; echo away; read line";
    let mut debugger = join(&rig, &target, "debugger", script).await;
    let exit = tokio::time::timeout(PATIENCE, debugger.exit()).await.unwrap();
    assert_eq!((exit.exit_code, exit.oom_killed), (1, false));
    let left = rig.exec(&target, "ps -o args").await;
    let left = String::from_utf8(left.output).unwrap();
    assert!(!left.contains("sleep 2222"), "{left}");
    assert!(runs(target.pid()));
    rig.runtime.remove_container(&debugger.sandbox, &debugger.container).await.unwrap();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_its_target_and_cannot_join_what_has_ended() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let mut target = rig.run("main", "while :; do sleep 1000; done").await;
    let mut debugger = join(&rig, &target, "debugger", "echo here; sleep 1000").await;
    rig.await_output("debugger", "here").await;
    rig.runtime.signal_container(&target.sandbox, &target.container, 9).await.unwrap();
    let exit = tokio::time::timeout(PATIENCE, debugger.exit()).await.unwrap();
    assert_eq!(exit.exit_code, 137);
    assert_eq!(tokio::time::timeout(PATIENCE, target.exit()).await.unwrap().exit_code, 137);
    eventually("its process is gone", || !runs(debugger.pid())).await;
    let mut config = rig.container_config("late", &["true"]);
    config.joins_processes_of = Some(ContainerId("main".to_owned()));
    let refused = rig.runtime.start_container(&target.sandbox, &config).await.unwrap_err();
    let Error::Start { reason, .. } = refused else { panic!("{refused}") };
    assert_eq!(reason, "main does not run");
    rig.finish().await;
}
