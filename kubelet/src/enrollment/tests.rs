use clap::Parser;

use super::*;
use crate::config::Cli;
use crate::credentials::tests::credentials;

fn config(arguments: &[&str]) -> Config {
    Cli::parse_from([&["kubelet"], arguments].concat()).config
}

fn token(digest: [u8; 32]) -> Token {
    let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("id.secret.{hash}").parse().unwrap()
}

fn folder() -> CredentialsFolder {
    CredentialsFolder::of(Path::new("/nowhere"))
}

#[test]
fn a_machine_joins_under_its_given_name_when_it_has_a_token() {
    let decision = decide(&config(&["--node-name=n1"]), None, Some(&token([0; 32])), &folder());
    assert_eq!(decision.unwrap(), Decision::Join("n1".to_owned()));
}

#[test]
fn without_certificate_and_token_it_says_how_to_join() {
    let error = decide(&config(&[]), None, None, &folder()).unwrap_err();
    assert!(error.to_string().contains("master token create"), "{error}");
}

#[test]
fn a_name_that_cannot_be_a_nodes_is_refused_before_anybody_is_asked() {
    let config = config(&["--node-name=Not_A_Name"]);
    let error = decide(&config, None, Some(&token([0; 32])), &folder()).unwrap_err();
    assert!(matches!(error, EnrollmentError::InvalidName { .. }), "{error}");
}

#[test]
fn a_node_needs_no_token_and_ignores_one_of_its_own_cluster() {
    let kept = credentials("n1", 2020, 2050);
    let config = config(&["--node-name=n1"]);
    assert_eq!(decide(&config, Some(&kept), None, &folder()).unwrap(), Decision::Use);
    let own = token(kept.authority_digest());
    assert_eq!(decide(&config, Some(&kept), Some(&own), &folder()).unwrap(), Decision::Use);
}

#[test]
fn a_node_does_not_change_its_cluster_or_name_by_itself() {
    let kept = credentials("n1", 2020, 2050);
    let other = token([7; 32]);
    let error = decide(&config(&[]), Some(&kept), Some(&other), &folder()).unwrap_err();
    assert!(matches!(error, EnrollmentError::OtherCluster { .. }), "{error}");
    let error = decide(&config(&["--node-name=n2"]), Some(&kept), None, &folder()).unwrap_err();
    assert!(matches!(error, EnrollmentError::OtherName { .. }), "{error}");
}

#[test]
fn an_expired_certificate_takes_a_token() {
    let kept = credentials("n1", 2010, 2011);
    let error = decide(&config(&[]), Some(&kept), None, &folder()).unwrap_err();
    assert!(matches!(error, EnrollmentError::Expired { .. }), "{error}");
    let own = token(kept.authority_digest());
    let decision = decide(&config(&[]), Some(&kept), Some(&own), &folder()).unwrap();
    assert_eq!(decision, Decision::Join("n1".to_owned()));
}

#[test]
fn the_masters_are_remembered() {
    let root = tempfile::tempdir().unwrap();
    let root = format!("--root-dir={}", root.path().display());
    assert!(matches!(masters(&config(&[&root])), Err(EnrollmentError::NoMaster)));
    let first = config(&[&root, "--join=https://10.0.0.1:6443", "--join=https://m2:7443"]);
    let named = masters(&first).unwrap();
    assert_eq!(named.len(), 2);
    assert_eq!(masters(&config(&[&root])).unwrap(), named);
}
