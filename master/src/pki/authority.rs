//! The certificate authority.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::files::{self, Readers};
use super::{Error, Result};
use crate::api::authn::NODES;
use crate::nodes::credentials::{CertificateIssuer, RequestRefused};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// As long as kubeadm's.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// As long as kubeadm's.
const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Clocks of nodes may be behind.
const BACKDATED: Duration = Duration::from_secs(60 * 60);
/// Renewal is due when less than this is left: plenty of time for a master that is off for weeks.
const RENEW_BEFORE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The user.
    pub common_name: &'a str,
    /// Its group.
    pub organization: Option<&'a str>,
}

/// The names under which a server is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerNames {
    /// DNS names.
    pub names: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// PKCS#8.
    pub key: String,
}

/// What of a certificate decides whether it can stay in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) not_after: SystemTime,
    pub(super) names: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
}

impl Facts {
    /// Whether so little time is left that a new one should be made.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        self.not_after < now + RENEW_BEFORE
    }
}

/// The cluster's certificate authority.
pub struct Authority {
    certificate: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// The authority of `folder`, made when there is none yet.
    ///
    /// # Errors
    /// When it cannot be read, used or made.
    pub fn open(folder: &Path) -> Result<Self> {
        let (certificate_path, key_path) = (folder.join("ca.crt"), folder.join("ca.key"));
        let pair = match (files::read(&certificate_path)?, files::read(&key_path)?) {
            (Some(certificate), Some(key)) => Pair { certificate, key },
            (Some(_), None) => return Err(Error::HalfAPair { path: key_path }),
            // The key is written first: this is where a first start was interrupted.
            (None, Some(key)) => {
                let key = KeyPair::from_pem(&key).map_err(|error| Error::Unusable {
                    path: key_path.clone(),
                    reason: error.to_string(),
                })?;
                let pair = make(&key)?;
                files::write(&certificate_path, &pair.certificate, Readers::All)?;
                pair
            }
            (None, None) => {
                let key = KeyPair::generate()
                    .map_err(|source| Error::Make { what: "the authority's key", source })?;
                let pair = make(&key)?;
                files::write(&key_path, &pair.key, Readers::Owner)?;
                files::write(&certificate_path, &pair.certificate, Readers::All)?;
                pair
            }
        };
        let unusable =
            |path: &Path, reason: String| Error::Unusable { path: path.to_owned(), reason };
        let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes())
            .map_err(|error| unusable(&certificate_path, error.to_string()))?;
        let key =
            KeyPair::from_pem(&pair.key).map_err(|error| unusable(&key_path, error.to_string()))?;
        if !X509Certificate::from_der(&der).is_ok_and(|(_, certificate)| certificate.is_ca()) {
            return Err(unusable(&certificate_path, "it is not an authority's".to_owned()));
        }
        if !is_for(&der, &key) {
            return Err(unusable(&key_path, "it is not the key of ca.crt".to_owned()));
        }
        if facts(&der).is_none_or(|facts| facts.not_after < SystemTime::now()) {
            return Err(unusable(&certificate_path, "it has expired".to_owned()));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|error| unusable(&certificate_path, error.to_string()))?;
        Ok(Self { certificate: pair.certificate, der, issuer })
    }

    /// PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The SHA-256 of the certificate's DER, in hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        hex(&Sha256::digest(&self.der))
    }

    /// Whether a certificate carries this authority's signature.
    pub(super) fn has_signed(&self, der: &[u8]) -> bool {
        let (Ok((_, authority)), Ok((_, certificate))) =
            (X509Certificate::from_der(&self.der), X509Certificate::from_der(der))
        else {
            return false;
        };
        certificate.verify_signature(Some(authority.public_key())).is_ok()
    }

    /// A client certificate with a new key.
    ///
    /// # Errors
    /// When the subject cannot stand in a certificate.
    pub fn issue_client(&self, subject: &Subject<'_>) -> Result<Pair> {
        let mut params = leaf(subject);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&params, "a client certificate")
    }

    /// A server certificate with a new key.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate.
    pub fn issue_server(&self, common_name: &str, names: &ServerNames) -> Result<Pair> {
        let mut params = leaf(&Subject { common_name, organization: None });
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in &names.names {
            let name = name.as_str().try_into();
            let name =
                name.map_err(|source| Error::Make { what: "a server certificate", source })?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(names.addresses.iter().copied().map(SanType::IpAddress));
        self.issue(&params, "a server certificate")
    }

    fn issue(&self, params: &CertificateParams, what: &'static str) -> Result<Pair> {
        let make = |source| Error::Make { what, source };
        let key = KeyPair::generate().map_err(make)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(make)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

impl CertificateIssuer for Authority {
    fn issue_node(
        &self,
        node_name: &str,
        certificate_request_der: &[u8],
    ) -> Result<String, RequestRefused> {
        let refused = |error: rcgen::Error| RequestRefused(error.to_string());
        let der = CertificateSigningRequestDer::from(certificate_request_der);
        // Checks the request's signature.
        let request = CertificateSigningRequestParams::from_der(&der).map_err(refused)?;
        let user = format!("system:node:{node_name}");
        let mut params = leaf(&Subject { common_name: &user, organization: Some(NODES) });
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params
            .signed_by(&request.public_key, &self.issuer)
            .map(|certificate| certificate.pem())
            .map_err(refused)
    }

    fn authority(&self) -> String {
        self.certificate.clone()
    }
}

fn make(key: &KeyPair) -> Result<Pair> {
    let make = |source| Error::Make { what: "the certificate authority", source };
    let mut params = CertificateParams::default();
    set_validity(&mut params, AUTHORITY_LIFETIME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "kutter-ca");
    let certificate = params.self_signed(key).map_err(make)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn leaf(subject: &Subject<'_>) -> CertificateParams {
    let mut params = CertificateParams::default();
    set_validity(&mut params, LEAF_LIFETIME);
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.serial_number = Some(SerialNumber::from_slice(&uuid::Uuid::new_v4().into_bytes()));
    params.distinguished_name = DistinguishedName::new();
    if let Some(organization) = subject.organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, subject.common_name);
    params
}

/// Valid from a little before now.
fn set_validity(params: &mut CertificateParams, lifetime: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + lifetime;
}

/// Reads what matters out of a certificate; nothing when it is none.
pub(super) fn facts(der: &[u8]) -> Option<Facts> {
    use x509_parser::extensions::GeneralName;
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let not_after = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    let mut facts = Facts {
        not_after: UNIX_EPOCH + Duration::from_secs(not_after),
        names: Vec::new(),
        addresses: Vec::new(),
    };
    let names = certificate.subject_alternative_name().ok()?;
    for name in names.map(|names| &names.value.general_names).into_iter().flatten() {
        match name {
            GeneralName::DNSName(name) => facts.names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let address = match bytes.len() {
                    4 => <[u8; 4]>::try_from(*bytes).ok().map(IpAddr::from),
                    _ => <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from),
                };
                facts.addresses.extend(address);
            }
            _ => {}
        }
    }
    Some(facts)
}

/// Who a verified client certificate names: common name and organisations.
pub fn identity(der: &[u8]) -> Option<crate::api::authn::Identity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject
        .iter_organization()
        .filter_map(|organization| organization.as_str().ok().map(str::to_owned))
        .collect();
    Some(crate::api::authn::Identity { user, groups })
}

/// How often somebody should look whether a renewal is due.
pub(super) const RENEWAL_CHECK: Duration = DAY;

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether a certificate is the one of a key.
pub(super) fn is_for(der: &[u8], key: &KeyPair) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| {
        certificate.public_key().raw == key.subject_public_key_info().as_slice()
    })
}
