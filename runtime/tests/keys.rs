//! Keys of the kernel that the machine and neighbours have in their sessions, which no namespace separates.

mod common;

use std::collections::BTreeMap;

use common::{Rig, Running, is_root};
use runtime::{ContainerConfig, ContainerRuntime as _, SandboxConfig, SeccompProfile};

/// The number of a key that this thread, and all that begins in it, has in a session of its own.
#[allow(unsafe_code)]
fn key_of_a_session() -> i64 {
    use nix::libc;
    // SAFETY: the strings live for ever, and the payload has the length that is said.
    let (session, key) = unsafe {
        let unnamed = std::ptr::null::<libc::c_char>();
        let join = libc::KEYCTL_JOIN_SESSION_KEYRING;
        let session = libc::syscall(libc::SYS_keyctl, join, unnamed);
        let (kind, name) = (c"user".as_ptr(), c"kutter-attack".as_ptr());
        let (secret, ring) = (c"secret".as_ptr(), libc::KEY_SPEC_SESSION_KEYRING);
        (session, libc::syscall(libc::SYS_add_key, kind, name, secret, 6usize, ring))
    };
    assert!(session > 0 && key > 0, "{session} {key} {}", std::io::Error::last_os_error());
    key
}

#[track_caller]
fn judge(who: &str, output: &str) {
    assert!(output.ends_with("end\n"), "{output}");
    let outcomes: BTreeMap<&str, &str> =
        output.lines().filter_map(|line| line.split_once(": ")).collect();
    let wanted = [
        ("change the key", "EACCES"),
        ("link the key", "EACCES"),
        ("list the session", "0"),
        ("read the key", "EACCES"),
        ("request the key", "ENOKEY"),
        ("search the session", "ENOKEY"),
    ];
    assert_eq!(outcomes, wanted.into(), "{who}");
}

async fn start(rig: &Rig, id: &str, own_users: bool, args: &[&str]) -> Running {
    let sandbox = SandboxConfig { own_users, ..rig.sandbox_config(id) };
    let sandbox = rig.runtime.create_sandbox(&sandbox).await.unwrap().config.id;
    // The filter would refuse the calls.
    let seccomp = SeccompProfile::Unconfined;
    let config = ContainerConfig { seccomp, ..common::attacker(rig, id, args) };
    let events = rig.runtime.events();
    let state = rig.runtime.start_container(&sandbox, &config).await.unwrap();
    Running { sandbox, container: config.id, state, events }
}

async fn nobody_else_reaches(key: &str, own_users: bool, rig: &Rig) {
    let id = |name: &str| format!("{name}-{own_users}");
    start(rig, &id("host"), own_users, &["keys", key]).await.exit().await;
    judge("the machine's", &rig.output(&id("host")));

    let holder = start(rig, &id("holder"), own_users, &["hold"]).await;
    rig.await_output(&id("holder"), "\n").await;
    let output = rig.output(&id("holder"));
    let serial = output.trim().strip_prefix("holds ").unwrap_or_else(|| panic!("{output}"));
    start(rig, &id("neighbour"), own_users, &["keys", serial]).await.exit().await;
    judge("a neighbour's", &rig.output(&id("neighbour")));
    for serial in [key, serial] {
        let command = ["attack", "keys", serial].map(str::to_owned);
        let (sandbox, container) = (&holder.sandbox, &holder.container);
        let executed = rig.runtime.exec_sync(sandbox, container, &command, common::PATIENCE).await;
        judge("by exec", &String::from_utf8(executed.unwrap().output).unwrap());
    }
}

#[test]
fn keys_of_the_machine_and_of_neighbours_are_out_of_reach() {
    if !is_root() {
        return;
    }
    let key = key_of_a_session().to_string();
    // Its threads have this one's session, as a kubelet's have that of whoever started it.
    let executor = tokio::runtime::Runtime::new().unwrap();
    executor.block_on(async {
        let rig = Rig::new().await;
        common::arm(&rig);
        nobody_else_reaches(&key, false, &rig).await;
        match rig.runtime.own_users() {
            Ok(()) => nobody_else_reaches(&key, true, &rig).await,
            Err(reason) => eprintln!("left out: {reason}"),
        }
        rig.finish().await;
    });
}
