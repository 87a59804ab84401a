//! Whose certificate it is, and whether we believe it: chain, validity, subject, key (partner-center §3.4). Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::ring as algorithms;
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::reason::Reason;
use super::signed::{Algorithm, SIGNATURE_BYTES_MAX, Signed};
use crate::model::Timestamp;

/// The one organization that signs.
pub const ORGANIZATION: &str = "Microsoft Corporation";
/// Shortest RSA key, in bits.
pub const KEY_BITS_MIN: usize = 2048;
/// Certificates taken from one PEM text at most; what follows the first counts as intermediates.
pub const CERTIFICATES_PER_TEXT_MAX: usize = 8;
/// Issuer addresses of one certificate that are looked at.
pub const ISSUER_URLS_MAX: usize = 4;

const PEM_MARK: &[u8] = b"-----BEGIN CERTIFICATE-----";
/// The tag of a sequence.
const DER_MARK: u8 = 0x30;

/// Roots that certificates of Microsoft end at today (partner-center §3.4).
const BUILT_IN_ROOTS: [&str; 3] =
    ["Microsoft RSA Root Certificate Authority 2017", "DigiCert Global Root G2", "DigiCert Global Root G3"];

/// Signatures that may hold a chain together. None with SHA-1.
const CHAIN_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// Whom we believe.
#[derive(Clone, Debug)]
pub struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
    names: Vec<String>,
    pins: Vec<Pin>,
}

/// A public key that is believed: the SHA-256 of its SubjectPublicKeyInfo, in DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin([u8; SHA256_OUTPUT_LEN]);

impl Pin {
    /// Reads it as base64; `None` when the text is something else.
    pub fn parse(text: &str) -> Option<Pin> {
        STANDARD.decode(text).ok()?.try_into().ok().map(Pin)
    }

    fn of(certificate: &X509Certificate<'_>) -> Option<Pin> {
        digest(&SHA256, certificate.public_key().raw).as_ref().try_into().ok().map(Pin)
    }
}

impl Trust {
    /// The built-in roots, filtered out of Mozilla's list.
    pub fn built_in(names: &[String]) -> Self {
        let is_ours = |der: &&CertificateDer<'static>| {
            X509Certificate::from_der(der).is_ok_and(|(_, certificate)| {
                let mut subjects = certificate.subject().iter_common_name();
                subjects.any(|name| name.as_str().is_ok_and(|name| BUILT_IN_ROOTS.contains(&name)))
            })
        };
        let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().filter(is_ours);
        let anchors = roots.filter_map(|der| Some(webpki::anchor_from_trusted_cert(der).ok()?.to_owned())).collect();
        Trust { anchors, names: names.to_vec(), pins: Vec::new() }
    }

    /// The roots of a PEM text.
    ///
    /// # Errors
    /// In words, when there is none, or one is no certificate.
    pub fn from_pem(pem: &[u8], names: &[String]) -> Result<Self, String> {
        let mut anchors = Vec::new();
        for der in CertificateDer::pem_slice_iter(pem) {
            let der = der.map_err(|error| format!("it is no PEM text: {error}"))?;
            let anchor = webpki::anchor_from_trusted_cert(&der);
            anchors
                .push(anchor.map_err(|error| format!("one of its certificates cannot be used: {error}"))?.to_owned());
        }
        match anchors.is_empty() {
            true => Err("it holds no PEM certificate".to_owned()),
            false => Ok(Trust { anchors, names: names.to_vec(), pins: Vec::new() }),
        }
    }

    /// The same, and only certificates with one of these keys; with any, when there is none.
    pub fn pinned(self, pins: Vec<Pin>) -> Self {
        Trust { pins, ..self }
    }

    /// How many roots there are.
    pub fn anchor_count(&self) -> usize {
        self.anchors.len()
    }
}

/// A certificate as it was fetched, and what came with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The certificate.
    pub leaf: CertificateDer<'static>,
    /// Further certificates of the same text.
    pub others: Vec<CertificateDer<'static>>,
}

impl Fetched {
    /// Reads DER, PEM or bare base64. The first certificate of a PEM text is the one that signs.
    ///
    /// # Errors
    /// [`Reason::CertificateUnreadable`].
    pub fn read(bytes: &[u8]) -> Result<Fetched, Reason> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let unreadable = Reason::CertificateUnreadable;
        // Tools write words in front of PEM; DER begins with its own mark.
        let is_pem = bytes.windows(PEM_MARK.len()).any(|window| window == PEM_MARK);
        let mut all: Vec<CertificateDer<'static>> = if bytes.first() == Some(&DER_MARK) {
            vec![CertificateDer::from(bytes.to_vec())]
        } else if is_pem {
            let sections = CertificateDer::pem_slice_iter(bytes).take(CERTIFICATES_PER_TEXT_MAX);
            sections.collect::<Result<_, _>>().map_err(|_| unreadable)?
        } else {
            let text: Vec<u8> = bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
            vec![CertificateDer::from(STANDARD.decode(text).map_err(|_| unreadable)?)]
        };
        if all.is_empty() {
            return Err(unreadable);
        }
        let leaf = all.remove(0);
        // Trailing bytes and anything else that is no certificate.
        match X509Certificate::from_der(&leaf) {
            Ok(([], _)) => Ok(Fetched { leaf, others: all }),
            Ok(_) | Err(_) => Err(unreadable),
        }
    }
}

/// Where a certificate says its issuer's certificate is. Claims of a stranger: to be judged before they are followed.
pub fn issuer_urls(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
    let mut found = Vec::new();
    for extension in certificate.extensions() {
        let ParsedExtension::AuthorityInfoAccess(access) = extension.parsed_extension() else { continue };
        for description in &access.accessdescs {
            let is_issuer =
                description.access_method == x509_parser::oid_registry::OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS;
            if let (true, GeneralName::URI(url)) = (is_issuer, &description.access_location) {
                found.push((*url).to_owned());
            }
        }
    }
    found.truncate(ISSUER_URLS_MAX);
    found
}

/// A certificate we believe, ready to check signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    der: CertificateDer<'static>,
    signature_bytes: usize,
    /// Not before.
    pub valid_from: Timestamp,
    /// The end of the certificate or of the first intermediate to end, whichever comes first.
    pub valid_until: Timestamp,
}

impl Signer {
    /// Judges a certificate: readable, in its time, for signatures, of Microsoft Corporation and nobody else, with a
    /// configured name and an RSA key of at least 2048 bits, one of the pinned ones if there are any; chained to a root we
    /// trust, whatever its extended key usage. The chain comes last: only for a certificate that claims all the rest is
    /// it worth asking for intermediates.
    ///
    /// # Errors
    /// The first rule that fails.
    pub fn judge(
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        trust: &Trust,
        now: Timestamp,
    ) -> Result<Signer, Reason> {
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| Reason::CertificateUnreadable)?;
        let (valid_from, mut valid_until) = validity(&certificate);
        if now < valid_from {
            return Err(Reason::CertificateNotYetValid);
        }
        if now > valid_until {
            return Err(Reason::CertificateExpired);
        }

        if let Some(usage) = certificate.key_usage().map_err(|_| Reason::CertificateUnreadable)?
            && !usage.value.digital_signature()
        {
            return Err(Reason::KeyUsageRefused);
        }
        organization(&certificate)?;
        name(&certificate, &trust.names)?;
        let signature_bytes = key_bytes(&certificate)?;
        if !trust.pins.is_empty() && !Pin::of(&certificate).is_some_and(|pin| trust.pins.contains(&pin)) {
            return Err(Reason::KeyNotPinned);
        }

        let time = UnixTime::since_unix_epoch(std::time::Duration::from_millis(now.millis().unsigned_abs()));
        let entity = EndEntityCert::try_from(leaf).map_err(reason_of)?;
        let path = entity
            .verify_for_usage(CHAIN_ALGORITHMS, &trust.anchors, intermediates, time, Purposes, None, None)
            .map_err(reason_of)?;
        for intermediate in path.intermediate_certificates() {
            if let Ok((_, intermediate)) = X509Certificate::from_der(&intermediate.der()) {
                valid_until = valid_until.min(validity(&intermediate).1);
            }
        }
        Ok(Signer { der: leaf.clone().into_owned(), signature_bytes, valid_from, valid_until })
    }

    /// Checks the signature over the raw bytes: RSASSA-PKCS1-v1_5 and no other scheme.
    ///
    /// # Errors
    /// When the certificate is out of its time by now, or the signature is not of this key over these bytes.
    pub fn check(&self, signed: &Signed, body: &[u8], now: Timestamp) -> Result<(), Reason> {
        if now > self.valid_until {
            return Err(Reason::CertificateExpired);
        }
        if now < self.valid_from {
            return Err(Reason::CertificateNotYetValid);
        }
        if signed.signature.len() != self.signature_bytes {
            return Err(Reason::SignatureLength);
        }
        let algorithm = match signed.algorithm {
            Algorithm::RsaSha256 => algorithms::RSA_PKCS1_2048_8192_SHA256,
            Algorithm::RsaSha384 => algorithms::RSA_PKCS1_2048_8192_SHA384,
            Algorithm::RsaSha512 => algorithms::RSA_PKCS1_2048_8192_SHA512,
        };
        let entity = EndEntityCert::try_from(&self.der).map_err(reason_of)?;
        entity.verify_signature(algorithm, body, &signed.signature).map_err(|_| Reason::SignatureWrong)
    }
}

fn validity(certificate: &X509Certificate<'_>) -> (Timestamp, Timestamp) {
    let validity = certificate.validity();
    let at = |time: x509_parser::time::ASN1Time| Timestamp::from_millis(time.timestamp().saturating_mul(1000));
    (at(validity.not_before), at(validity.not_after))
}

/// Exactly one organization in the subject, byte for byte the one.
fn organization(certificate: &X509Certificate<'_>) -> Result<(), Reason> {
    let mut organizations = certificate.subject().iter_organization();
    match (organizations.next(), organizations.next()) {
        (Some(one), None) if one.as_str().is_ok_and(|text| text == ORGANIZATION) => Ok(()),
        _ => Err(Reason::OrganizationRefused),
    }
}

/// One of the names as common name or DNS name, whole and literally: a wildcard matches nothing.
fn name(certificate: &X509Certificate<'_>, names: &[String]) -> Result<(), Reason> {
    let is_listed = |text: &str| names.iter().any(|name| name.eq_ignore_ascii_case(text));
    let mut common = certificate.subject().iter_common_name();
    let is_common_name = match (common.next(), common.next()) {
        (Some(one), None) => one.as_str().is_ok_and(is_listed),
        _ => false,
    };
    let alternatives = certificate.subject_alternative_name().map_err(|_| Reason::CertificateUnreadable)?;
    let is_alternative = alternatives.is_some_and(|extension| {
        let mut names = extension.value.general_names.iter();
        names.any(|name| matches!(name, GeneralName::DNSName(text) if is_listed(text)))
    });
    if is_common_name || is_alternative { Ok(()) } else { Err(Reason::NameRefused) }
}

/// Length of the modulus in bytes, which is the length of every signature.
fn key_bytes(certificate: &X509Certificate<'_>) -> Result<usize, Reason> {
    let key = certificate.public_key().parsed().map_err(|_| Reason::KeyRefused)?;
    let PublicKey::RSA(key) = key else { return Err(Reason::KeyRefused) };
    let zeros = key.modulus.iter().take_while(|byte| **byte == 0).count();
    let modulus = &key.modulus[zeros..];
    let Some(first) = modulus.first() else { return Err(Reason::KeyRefused) };
    let bits = modulus.len() * 8 - first.leading_zeros() as usize;
    if bits < KEY_BITS_MIN {
        return Err(Reason::KeyTooShort);
    }
    if modulus.len() > SIGNATURE_BYTES_MAX { Err(Reason::KeyRefused) } else { Ok(modulus.len()) }
}

/// Any purposes or none: what the certificate is for is not documented, and subject, name, key and anchors bind it
/// already (partner-center §3.4: no assumptions about extended key usage).
struct Purposes;

impl ExtendedKeyUsageValidator for Purposes {
    fn validate(&self, _purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

/// The rule behind a refusal of the path builder. Whatever it is, it is a refusal.
fn reason_of(error: webpki::Error) -> Reason {
    match error {
        webpki::Error::CertExpired { .. } => Reason::CertificateExpired,
        webpki::Error::CertNotValidYet { .. } => Reason::CertificateNotYetValid,
        webpki::Error::UnknownIssuer => Reason::IssuerUnknown,
        webpki::Error::BadDer | webpki::Error::TrailingData(_) | webpki::Error::UnsupportedCertVersion => {
            Reason::CertificateUnreadable
        }
        _ => Reason::ChainRefused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_roots_are_all_there() {
        assert_eq!(Trust::built_in(&[]).anchor_count(), BUILT_IN_ROOTS.len());
    }

    #[test]
    fn a_file_without_roots_is_refused() {
        for pem in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(Trust::from_pem(pem.as_bytes(), &[]).is_err(), "{pem}");
        }
    }
}
