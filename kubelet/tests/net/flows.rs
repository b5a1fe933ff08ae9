//! What was begun before an endpoint went.

use std::time::Duration;

use crate::ground::{eventually, is_root};
use crate::services::{Web, put_slice, slice, web_service};

#[test]
fn a_connection_begun_to_an_endpoint_that_never_answers_is_made_to_the_next() {
    if !is_root("a_connection_begun_to_an_endpoint_that_never_answers_is_made_to_the_next") {
        return;
    }
    let web = Web::new(&web_service());
    let silent = web.cluster.nodes[0].pod("silent");
    for line in [
        "nft add table ip silence",
        "nft add chain ip silence input { type filter hook input priority 0 ; policy drop ; }",
    ] {
        silent.namespace.command(line);
    }
    put_slice(&web.cluster, &slice("web", &[(silent.address, "node-0", true)]));
    let client = &web.client.namespace;
    let moment = Duration::from_millis(300);
    eventually(
        "silence",
        || client.ask_tcp_within(moment, "10.96.0.10:80"),
        |answer| answer.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::TimedOut),
    )
    .unwrap_err();
    let answer = std::thread::scope(|scope| {
        let asking = scope.spawn(|| client.ask_tcp("10.96.0.10:80"));
        let waiting = || client.command("ss -tnH state syn-sent");
        eventually("the question", waiting, |list| list.contains("10.96.0.10:80"));
        web.endpoints(&[("far", true)]);
        asking.join().unwrap()
    });
    assert_eq!(answer.unwrap().server, "far");
}
