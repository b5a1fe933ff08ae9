//! The specification's examples as others ask them: `dig`, and a stub resolver.

use std::net::SocketAddr;
use std::process::Command;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use super::forward::Upstream;
use super::serve::serve;
use super::spec::{EXAMPLES, example};
use super::*;

/// What `dig` prints for a question.
async fn dig(server: SocketAddr, words: &[&str]) -> String {
    let mut command = Command::new("dig");
    command.args(["@127.0.0.1", "-p", &server.port().to_string(), "+tries=1", "+nocookie"]);
    command.args(words);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    String::from_utf8(output.expect("dig is installed, by deploy/test").stdout).unwrap()
}

#[tokio::test]
async fn dig_is_told_the_specifications_examples() {
    let (server, _known) = serve(&example(), Vec::new());
    for (question, record_type, wanted) in EXAMPLES {
        let name = question;
        for way in ["+notcp", "+tcp"] {
            let told = dig(server.address, &[way, name, &record_type.to_string()]).await;
            let status = if wanted.is_empty() { "status: NXDOMAIN" } else { "status: NOERROR" };
            assert!(told.contains(status) && told.contains("flags: qr aa rd ra"), "{told}");
            // It has its opinion of `.local`, and should have no other.
            assert_eq!(told.matches("WARNING").count(), told.matches("is reserved for").count());
            let short = dig(server.address, &[way, "+short", name, &record_type.to_string()]).await;
            let mut found: Vec<&str> = short.lines().map(|line| line.trim_matches('"')).collect();
            let mut wanted = wanted.to_vec();
            found.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(found, wanted, "{question} {record_type} {way}");
        }
    }
    // There is the name, and no record of this type: for how long says the zone's own record.
    let none = dig(server.address, &["kubernetes.default.svc.cluster.local", "MX"]).await;
    assert!(none.contains("status: NOERROR") && none.contains("ANSWER: 0"), "{none}");
    assert!(none.contains("ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"));
    for (words, wanted) in [
        (&["+edns=1", "+noednsnegotiation", "cluster.local", "SOA"][..], "status: BADVERS"),
        (&["cluster.local", "AXFR"], "Transfer failed"),
        (&["version.bind", "TXT", "CH"], "status: REFUSED"),
        (&["+opcode=NOTIFY", "cluster.local", "SOA"], "status: NOTIMP"),
        (&["+bufsize=4096", "+dnssec", "cluster.local", "SOA"], "flags: do; udp: 1232"),
        (&["+noedns", "cluster.local", "SOA"], "ADDITIONAL: 0"),
    ] {
        let told = dig(server.address, words).await;
        assert!(told.contains(wanted), "{words:?}: {told}");
    }
}

#[tokio::test]
async fn a_stub_resolver_finds_names_by_its_search_domains() {
    let upstream = Upstream::customary().await;
    let (server, _known) = serve(&example(), vec![upstream.address]);
    let mut config = NameServerConfig::udp_and_tcp(server.address.ip());
    for connection in &mut config.connections {
        connection.port = server.address.port();
    }
    let domains = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"];
    let domains = domains.map(name).to_vec();
    let config = ResolverConfig::from_parts(None, domains, vec![config]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    // As in the resolv.conf of pods.
    builder.options_mut().ndots = 5;
    builder.options_mut().case_randomization = true;
    let resolver = builder.build().unwrap();
    for (text, wanted) in [
        ("kubernetes", &["10.3.0.1", "2001:db8::1"][..]),
        ("kubernetes.default", &["10.3.0.1", "2001:db8::1"]),
        ("kubernetes.default.svc", &["10.3.0.1", "2001:db8::1"]),
        ("my-pet.headless", &["10.3.0.100", "2001:db8::2"]),
        ("www.example.com", &["192.0.2.1"]),
        ("foo", &["192.0.2.1"]),
    ] {
        let found =
            resolver.lookup_ip(text).await.unwrap_or_else(|error| panic!("{text}: {error}"));
        let mut found: Vec<String> = found.iter().map(|address| address.to_string()).collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, wanted, "{text}");
    }
    let srv = resolver.srv_lookup("_https._tcp.headless").await.unwrap();
    assert_eq!(srv.answers().len(), 3);
    let back = resolver.reverse_lookup("10.3.0.100".parse::<std::net::IpAddr>().unwrap()).await;
    let back = back.unwrap().answers().iter().map(told).collect::<Vec<_>>();
    assert_eq!(back, ["my-pet.headless.default.svc.cluster.local."]);
    for text in ["empty", "nobody", "nobody.default.svc.cluster.local."] {
        let error = resolver.lookup_ip(text).await.expect_err(text);
        assert!(error.is_nx_domain() || error.is_no_records_found(), "{text}: {error}");
    }
}
