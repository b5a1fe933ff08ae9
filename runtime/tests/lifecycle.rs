//! Sandboxes and containers from their start to their removal.

mod common;

use common::{Rig, is_root};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_logs_and_exits() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let (exit, output) = rig.run_to_end("hello", "echo out; echo err >&2; exit 3").await;
    assert_eq!((exit.exit_code, exit.signal, exit.oom_killed), (3, None, false));
    assert!(output.contains("out\n") && output.contains("err\n"), "{output}");
    rig.finish().await;
}
