use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::authority::{self, Authority, ServerNames, Subject};
use super::*;
use crate::nodes::credentials::{CertificateIssuer, TokenVerdict, TokenVerifier};
use crate::store::EmbeddedStore;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

/// Whether a client with this certificate is trusted.
fn accepts(authority: &Authority, certificate: &str) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().clone()).expect("a root");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .expect("a verifier");
    verifier.verify_client_cert(&der(certificate), &[], UnixTime::now()).is_ok()
}

fn names() -> ServerNames {
    ServerNames {
        names: vec!["localhost".to_owned()],
        addresses: vec![IpAddr::from(Ipv4Addr::new(10, 96, 0, 1))],
    }
}

fn server(folder: &Path, names: ServerNames) -> ServerCertificate {
    let authority = Arc::new(Authority::open(folder).expect("an authority"));
    ServerCertificate::open(folder, "master", names, authority, provider()).expect("a certificate")
}

#[test]
fn the_authority_is_made_once_and_its_key_is_nobody_elses() {
    let folder = folder();
    let first = Authority::open(folder.path()).expect("an authority");
    let second = Authority::open(folder.path()).expect("the same");
    assert_eq!(first.fingerprint(), second.fingerprint());
    assert_eq!(first.fingerprint().len(), 64);
    let mode = |name| {
        let metadata = fs::metadata(folder.path().join(name)).expect("a file");
        metadata.permissions().mode() & 0o777
    };
    assert_eq!((mode("ca.key"), mode("ca.crt")), (0o600, 0o644));
    server(folder.path(), names());
    kubeconfig::keep(folder.path(), "https://127.0.0.1:6443", &first).expect("a kubeconfig");
    assert_eq!((mode("server.key"), mode(kubeconfig::FILE_NAME)), (0o600, 0o600));
}

#[test]
fn a_damaged_authority_is_refused_and_never_replaced() {
    let folder = folder();
    Authority::open(folder.path()).expect("an authority");
    let other = tempfile::tempdir().expect("a directory");
    Authority::open(other.path()).expect("another authority");

    let (key, certificate) = (folder.path().join("ca.key"), folder.path().join("ca.crt"));
    let kept = fs::read(&key).expect("the key");
    fs::copy(other.path().join("ca.key"), &key).expect("a copy");
    let error = Authority::open(folder.path()).expect_err("the key of somebody else");
    assert!(error.to_string().contains("not the key of ca.crt"), "{error}");
    fs::remove_file(&key).expect("removed");
    assert!(
        matches!(Authority::open(folder.path()), Err(Error::HalfAPair { path }) if path == key)
    );
    fs::write(&key, kept).expect("written");
    fs::remove_file(&certificate).expect("removed");
    Authority::open(folder.path()).expect("a first start that was interrupted is finished");
    fs::write(&certificate, "garbage").expect("written");
    assert!(matches!(Authority::open(folder.path()), Err(Error::Unusable { .. })));
    assert_eq!(fs::read(&certificate).expect("the file"), b"garbage");
}

#[test]
fn client_certificates_name_user_and_group() {
    let folder = folder();
    let authority = Authority::open(folder.path()).expect("an authority");
    let subject = Subject { common_name: "jane", organization: Some("system:masters") };
    let pair = authority.issue_client(&subject).expect("a certificate");
    assert!(accepts(&authority, &pair.certificate));
    let identity = authority::identity(&der(&pair.certificate)).expect("an identity");
    assert_eq!((identity.user.as_str(), identity.groups), ("jane", vec!["system:masters".into()]));

    let other = tempfile::tempdir().expect("a directory");
    let stranger = Authority::open(other.path()).expect("another authority");
    assert!(!accepts(&stranger, &pair.certificate));
    // A server's certificate is no client's.
    let server = authority.issue_server("master", &names()).expect("a certificate");
    assert!(!accepts(&authority, &server.certificate));
}

#[test]
fn a_node_gets_a_certificate_for_its_key_and_chooses_nothing_else() {
    let folder = folder();
    let authority = Authority::open(folder.path()).expect("an authority");
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut wish = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("parameters");
    wish.distinguished_name.push(rcgen::DnType::CommonName, "kubernetes-admin");
    wish.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    wish.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let request = wish.serialize_request(&key).expect("a request");
    let certificate = authority.issue_node("n1", request.der()).expect("a certificate");
    assert!(accepts(&authority, &certificate));
    let identity = authority::identity(&der(&certificate)).expect("an identity");
    assert_eq!(identity.user, "system:node:n1");
    assert_eq!(identity.groups, ["system:nodes"]);
    assert!(authority::is_for(&der(&certificate), &key));
    let facts = authority::facts(&der(&certificate)).expect("facts");
    assert!(facts.names.is_empty());

    let mut forged = request.der().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert!(authority.issue_node("n1", &forged).is_err(), "a signature that does not fit");
    assert!(authority.issue_node("n1", b"garbage").is_err());
}

#[test]
fn the_servers_certificate_is_kept_until_it_does_not_fit_any_more() {
    let folder = folder();
    let text = || fs::read_to_string(folder.path().join("server.crt")).expect("a file");
    server(folder.path(), names());
    let first = text();
    server(folder.path(), names());
    assert_eq!(text(), first);
    let mut more = names();
    more.addresses.push(IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)));
    server(folder.path(), more);
    let second = text();
    assert_ne!(second, first, "the address changed");
    let facts = authority::facts(&der(&second)).expect("facts");
    assert_eq!(facts.addresses.len(), 2);

    fs::remove_file(folder.path().join("server.key")).expect("removed");
    let running = server(folder.path(), names());
    let third = text();
    assert_ne!(third, second, "half a pair");
    running.renew().expect("a renewal");
    assert_ne!(text(), third, "renewed while running");
}

#[test]
fn renewal_is_due_well_before_the_end() {
    let folder = folder();
    let authority = Authority::open(folder.path()).expect("an authority");
    let pair = authority.issue_server("master", &names()).expect("a certificate");
    let facts = authority::facts(&der(&pair.certificate)).expect("facts");
    let day = Duration::from_secs(24 * 60 * 60);
    let now = SystemTime::now();
    assert!(!facts.is_due(now));
    assert!(!facts.is_due(now + 270 * day));
    assert!(facts.is_due(now + 280 * day));
    assert!(facts.is_due(now + 400 * day));
}

#[test]
fn the_administrators_kubeconfig_is_kept_while_it_is_right() {
    let folder = folder();
    let path = folder.path().join(kubeconfig::FILE_NAME);
    let authority = Authority::open(folder.path()).expect("an authority");
    let keep = |server: &str| {
        kubeconfig::keep(folder.path(), server, &authority).expect("a kubeconfig");
        fs::read_to_string(&path).expect("a file")
    };
    let first = keep("https://10.0.0.1:6443");
    assert_eq!(keep("https://10.0.0.1:6443"), first);
    assert_ne!(keep("https://10.0.0.2:6443"), first);
    fs::write(&path, "garbage").expect("written");
    keep("https://10.0.0.2:6443");
    let loaded = kubeconfig::load(&path).expect("what was written");
    assert_eq!(loaded.server, "https://10.0.0.2:6443");
    assert!(accepts(&authority, &loaded.client.certificate));
    let identity = authority::identity(&der(&loaded.client.certificate)).expect("an identity");
    assert_eq!(identity.groups, ["system:masters"]);
}

#[tokio::test]
async fn tokens_are_good_until_they_expire_and_only_whole() {
    let store = Arc::new(EmbeddedStore::in_memory().expect("a store"));
    let tokens = Tokens::new(store.clone(), "aa".repeat(32));
    let token = tokens.create(Duration::from_secs(3600)).await.expect("a token");
    let verdict = async |token: &str| tokens.verify(token).await.expect("a verdict");
    assert_eq!(verdict(&token).await, TokenVerdict::Valid);
    assert_eq!(verdict(&format!(" {token}\n")).await, TokenVerdict::Valid);
    let parts: Vec<_> = token.split('.').collect();
    let [id, secret, hash] = parts[..] else { panic!("{token}") };
    for wrong in [
        format!("{id}.{}.{hash}", "0".repeat(secret.len())),
        format!("{id}.{secret}.{}", "bb".repeat(32)),
        format!("{id}.{secret}"),
        format!("../{id}.{secret}.{hash}"),
        format!("unknown.{secret}.{hash}"),
        String::new(),
    ] {
        assert_eq!(verdict(&wrong).await, TokenVerdict::Unknown, "{wrong}");
    }
    let other = tokens.create(Duration::ZERO).await.expect("a token");
    assert_eq!(verdict(&other).await, TokenVerdict::Expired);

    // The secret is nowhere in the store.
    use crate::store::{RangeOptions, Store, keys};
    let kept = store.range(keys::BOOTSTRAP_TOKENS, RangeOptions::default()).await.expect("a list");
    assert_eq!(kept.items.len(), 2);
    assert!(kept.items.iter().all(|item| !String::from_utf8_lossy(&item.value).contains(secret)));
}
