//! Programs and logs of pods.

use std::fs;

use futures::StreamExt;
use proto::ObjectKey;
use runtime::ExecConfig;
use serde_json::json;

use super::plain;
use crate::pods::test_support::{Bench, container_status, one_container, pod};
use crate::streams::{ContainerTarget, LogOptions, PodStreams};

fn target(container: &str) -> ContainerTarget {
    ContainerTarget {
        pod: ObjectKey::new("shop", "web"),
        pod_uid: "uid-web".to_owned(),
        container: container.to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn programs_run_in_running_containers_only() {
    let mut bench = Bench::new();
    bench.images.make_unpullable("app:2", "no");
    bench.start();
    let mut spec = one_container(json!({}));
    spec["containers"].as_array_mut().unwrap().push(json!({"name": "late", "image": "app:2"}));
    bench.put(pod("web", spec));
    bench.until_started(1).await;
    bench
        .until("it is known to run", || {
            bench.status("uid-web").is_some_and(|s| container_status(&s, "main").ready)
        })
        .await;
    let echo = ExecConfig { command: vec!["true".to_owned()], stdin: false, tty: false };
    let session = bench.manager.exec(&target("main"), &echo).await.unwrap();
    assert_eq!(session.exit.await.unwrap().unwrap(), 0);

    let refused = |container: &'static str| {
        let (manager, echo) = (bench.manager.clone(), echo.clone());
        async move { manager.exec(&target(container), &echo).await.map(|_| ()).unwrap_err() }
    };
    assert_eq!(refused("late").await.code, 404);
    let unknown = refused("nope").await;
    assert_eq!((unknown.code, &*unknown.message), (400, "container nope is not valid for pod web"));
    let mut other = target("main");
    other.pod_uid = "another".to_owned();
    let gone = bench.manager.exec(&other, &echo).await.map(|_| ()).unwrap_err();
    assert_eq!((gone.code, &*gone.message), (404, "pods \"web\" not found"));
}

#[tokio::test(start_paused = true)]
async fn logs_are_those_of_the_newest_or_the_previous_attempt() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(plain("web"));
    bench.until_phase("uid-web", "Running").await;
    let folder = bench.folder.path().join("logs/shop_web_uid-web/main");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("0.log"), "2026-11-23T15:00:00Z stdout F first\n").unwrap();
    fs::write(folder.join("1.log"), "2026-11-23T15:00:00Z stdout F second\n").unwrap();
    let previous = LogOptions { previous: true, ..LogOptions::default() };
    let refused = bench.manager.logs(&target("main"), previous.clone()).await.err().unwrap();
    assert_eq!(
        (refused.code, &*refused.message),
        (400, "previous terminated container \"main\" in pod \"web\" not found")
    );
    bench.exit("uid-web", "main-0", 1);
    bench.until_started(2).await;
    bench
        .until("the restart is reported", || {
            bench
                .status("uid-web")
                .is_some_and(|status| container_status(&status, "main").restart_count == 1)
        })
        .await;
    let read = |options: LogOptions| async {
        let stream = bench.manager.logs(&target("main"), options).await.unwrap();
        let chunks: Vec<_> = stream.collect().await;
        chunks.into_iter().flat_map(|chunk| chunk.unwrap()).collect::<Vec<u8>>()
    };
    assert_eq!(read(previous).await, b"first\n");
    assert_eq!(read(LogOptions::default()).await, b"second\n");

    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let (followed, ()) = tokio::join!(read(follow), async {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        bench.exit("uid-web", "main-1", 1);
    });
    assert_eq!(followed, b"second\n");
}

#[tokio::test(start_paused = true)]
async fn logs_of_a_container_that_waits_say_why() {
    let mut bench = Bench::new();
    bench.images.make_unpullable("app:1", "no");
    bench.start();
    bench.put(plain("web"));
    bench.until("a failure", || bench.status("uid-web").is_some()).await;
    let refused = bench.manager.logs(&target("main"), LogOptions::default()).await.err().unwrap();
    assert_eq!(
        (refused.code, &*refused.message),
        (
            400,
            "container \"main\" in pod \"web\" is waiting to start: trying and failing to pull image"
        )
    );
}
