//! Profiles of AppArmor: set where the kernel enforces them, refused where it does not.

mod common;

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use common::{Rig, Running, is_root};
use runtime::{AppArmorProfile, ContainerConfig, ContainerRuntime as _, Error, SandboxConfig};

/// Runs a script under a profile, in a container and by exec, and gives what both said.
async fn said(
    rig: &Rig,
    id: &str,
    own_users: bool,
    app_armor: AppArmorProfile,
    script: &str,
) -> [String; 2] {
    let sandbox = SandboxConfig { own_users, ..rig.sandbox_config(id) };
    let sandbox = rig.runtime.create_sandbox(&sandbox).await.unwrap().config.id;
    let all = format!("{script}; echo end; sleep 600");
    // Without new privileges the kernel is stricter about profiles, too.
    let config = ContainerConfig {
        app_armor,
        no_new_privileges: own_users,
        ..rig.container_config(id, &["sh", "-c", &all])
    };
    let events = rig.runtime.events();
    let state = rig.runtime.start_container(&sandbox, &config).await.unwrap();
    let running = Running { sandbox, container: config.id, state, events };
    rig.await_output(id, "end\n").await;
    let executed = rig.exec(&running, script).await;
    let own = rig.output(id).trim_end_matches("end\n").to_owned();
    [own, String::from_utf8(executed.output).unwrap()]
}

fn parse(action: &str, profile: &str) {
    let mut child = Command::new("apparmor_parser")
        .args([action, "--skip-cache", "--quiet"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(profile.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

const OWN: &str = "profile kutter-test-tight flags=(attach_disconnected) {\n\
                   file,\n network,\n capability,\n signal,\n deny /etc/** w,\n}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_is_set_where_the_kernel_enforces_it() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    if let Err(reason) = rig.runtime.app_armor() {
        eprintln!("left out: {reason}");
        return rig.finish().await;
    }
    let current = "cat /proc/self/attr/current";
    let users = [false, true].into_iter().filter(|own| !own || rig.runtime.own_users().is_ok());
    for own in users {
        let id = |name: &str| format!("{name}-{own}");
        let default = AppArmorProfile::RuntimeDefault;
        for text in said(&rig, &id("default"), own, default, current).await {
            assert!(
                text.starts_with("kutter-default-") && text.ends_with(" (enforce)\n"),
                "{text}"
            );
        }
        let none = AppArmorProfile::Unconfined;
        assert_eq!(said(&rig, &id("none"), own, none, current).await, ["unconfined\n"; 2]);

        parse("--replace", OWN);
        let tight = AppArmorProfile::Named("kutter-test-tight".to_owned());
        let script = format!("{current}; touch /tmp/x && echo made; touch /etc/x || echo refused");
        for text in said(&rig, &id("tight"), own, tight, &script).await {
            let text: Vec<&str> = text.lines().filter(|line| !line.starts_with("touch")).collect();
            assert_eq!(text, ["kutter-test-tight (enforce)", "made", "refused"]);
        }
        rig.runtime.shutdown_all().await.unwrap();
        parse("--remove", OWN);
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_nobody_enforces_is_refused_with_the_reason() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let sandbox = rig.sandbox("pod").await.config.id;
    let app_armor = AppArmorProfile::Named("kutter-test-none".to_owned());
    let config = ContainerConfig { app_armor, ..rig.container_config("pod", &["true"]) };
    let error = rig.runtime.start_container(&sandbox, &config).await.unwrap_err();
    let loaded = "/sys/kernel/security/apparmor/profiles";
    let reason = match fs::exists(loaded).unwrap() {
        true => "is not loaded on this node",
        false => "AppArmor is not enabled on the host",
    };
    assert!(matches!(&error, Error::Create { .. }), "{error:?}");
    let text = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source())
        .map(|error| error.to_string())
        .collect::<Vec<_>>()
        .join(": ");
    assert!(text.contains("\"kutter-test-none\"") && text.contains(reason), "{text}");
    rig.finish().await;
}
