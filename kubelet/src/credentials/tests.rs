use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};

use super::*;

/// Credentials of a node that are valid in the years given, and the authority's digest.
pub(crate) fn credentials(node: &str, from: i32, to: i32) -> Credentials {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "ca");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    let certificate = params.signed_by(&key, &authority).unwrap();
    let pem = format!("{}{}", certificate.pem(), key.serialize_pem());
    Credentials::parse(pem, authority.pem()).unwrap()
}

fn year(year: i32) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(date_time_ymd(year, 1, 1).unix_timestamp() as u64)
}

#[test]
fn a_certificate_tells_its_node_and_when_to_renew_it() {
    let credentials = credentials("n1", 2020, 2050);
    assert_eq!(credentials.node_name(), "n1");
    assert!(!credentials.is_expired(year(2049)));
    assert!(credentials.is_expired(year(2050)));
    assert!(credentials.renew_at() > year(2039) && credentials.renew_at() < year(2041));
    credentials.client_config().unwrap();
}

#[test]
fn credentials_are_kept_for_their_owner_only() {
    let root = tempfile::tempdir().unwrap();
    let folder = CredentialsFolder::of(root.path());
    assert!(folder.load().unwrap().is_none());
    let kept = credentials("n1", 2020, 2050);
    folder.store(&kept).unwrap();
    let loaded = folder.load().unwrap().unwrap();
    assert_eq!(loaded.node_name(), "n1");
    assert_eq!(loaded.authority_digest(), kept.authority_digest());
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &file.unwrap().metadata().unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn what_is_no_certificate_of_a_node_is_refused() {
    let good = credentials("n1", 2020, 2050);
    assert!(Credentials::parse(String::new(), good.authority_pem.clone()).is_err());
    assert!(Credentials::parse(good.node_pem.clone(), String::new()).is_err());
    let key_only = KeyPair::generate().unwrap().serialize_pem();
    assert!(Credentials::parse(key_only, good.authority_pem.clone()).is_err());
}
