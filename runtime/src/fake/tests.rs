use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn sandbox_config(id: &str) -> SandboxConfig {
    SandboxConfig {
        id: SandboxId(id.to_owned()),
        annotations: BTreeMap::new(),
        hostname: id.to_owned(),
        cgroup_parent: "/test".to_owned(),
        sysctls: BTreeMap::new(),
        ..Default::default()
    }
}

async fn runtime_with_container() -> (FakeRuntime, SandboxId, ContainerId) {
    let runtime = FakeRuntime::new();
    let sandbox = sandbox_config("pod");
    runtime.create_sandbox(&sandbox).await.unwrap();
    let config = ContainerConfig { id: ContainerId("web".to_owned()), ..Default::default() };
    runtime.start_container(&sandbox.id, &config).await.unwrap();
    (runtime, sandbox.id, config.id)
}

#[tokio::test]
async fn starting_twice_gives_the_same_container() {
    let (runtime, sandbox, container) = runtime_with_container().await;
    let first = runtime.list().await.unwrap()[0].containers[0].pid;
    let config = ContainerConfig { id: container, ..Default::default() };
    let again = runtime.start_container(&sandbox, &config).await.unwrap();
    assert_eq!(again.pid, first);
    assert_eq!(runtime.started().len(), 1);
}

#[tokio::test]
async fn an_exit_is_recorded_and_announced() {
    let (runtime, sandbox, container) = runtime_with_container().await;
    let mut events = runtime.events();
    assert!(runtime.exit(&sandbox, &container, 3));
    assert!(!runtime.exit(&sandbox, &container, 4));
    match events.recv().await.unwrap() {
        RuntimeEvent::ContainerExited { exit, .. } => assert_eq!(exit.exit_code, 3),
        other => panic!("{other:?}"),
    }
    let state = &runtime.list().await.unwrap()[0].containers[0];
    assert_eq!(state.exit.as_ref().unwrap().exit_code, 3);
    assert_eq!(state.pid, None);
}

#[tokio::test]
async fn only_kill_ends_a_container_that_ignores_signals() {
    let runtime = FakeRuntime::new();
    runtime.choose_program(|_, _| FakeProgram { ignores_signals: true, ..Default::default() });
    let sandbox = sandbox_config("pod");
    runtime.create_sandbox(&sandbox).await.unwrap();
    let config = ContainerConfig { id: ContainerId("web".to_owned()), ..Default::default() };
    runtime.start_container(&sandbox.id, &config).await.unwrap();
    runtime.signal_container(&sandbox.id, &config.id, 15).await.unwrap();
    assert!(runtime.list().await.unwrap()[0].containers[0].exit.is_none());
    runtime.signal_container(&sandbox.id, &config.id, 9).await.unwrap();
    let exit = runtime.list().await.unwrap()[0].containers[0].exit.clone().unwrap();
    assert_eq!((exit.exit_code, exit.signal), (137, Some(9)));
}

#[tokio::test]
async fn a_lost_sandbox_refuses_work_until_removed() {
    let (runtime, sandbox, container) = runtime_with_container().await;
    runtime.lose_sandbox(&sandbox);
    assert!(matches!(
        runtime.signal_container(&sandbox, &container, 15).await,
        Err(Error::Shim { .. })
    ));
    runtime.remove_sandbox(&sandbox).await.unwrap();
    runtime.remove_sandbox(&sandbox).await.unwrap();
    assert!(runtime.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn exec_streams_through_the_script() {
    let (runtime, sandbox, container) = runtime_with_container().await;
    let config = ExecConfig { command: vec!["cat".to_owned()], stdin: true, tty: false };
    let mut session = runtime.exec(&sandbox, &container, &config).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"hello").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let mut output = String::new();
    session.stdout.read_to_string(&mut output).await.unwrap();
    assert_eq!(output, "hello");
    assert_eq!(session.exit.await.unwrap().unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn exec_sync_gives_up_after_its_timeout() {
    let (runtime, sandbox, container) = runtime_with_container().await;
    let command = vec!["sleep".to_owned()];
    let output =
        runtime.exec_sync(&sandbox, &container, &command, Duration::from_secs(5)).await.unwrap();
    assert!(output.timed_out);
}
