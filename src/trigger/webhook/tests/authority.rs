//! An authority of our own: roots, intermediates, leaves of every kind, and signatures.

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, PublicKeyData, SanType, SignatureAlgorithm, date_time_ymd,
};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::super::signed::{ALGORITHM, Algorithm, CERTIFICATE_URL};
use super::super::signer::Trust;
use super::super::source::{Kind, Sources};
use super::super::verify::{Evidence, Rules, verify};
use crate::model::Timestamp;
use crate::trigger::webhook::reason::Reason;

pub(super) const NAME: &str = "pcnotifications-dispatch.microsoft.com";
pub(super) const URL: &str = "https://store.example/cert/pcnotifications-dispatch.microsoft.com.cer";
pub(super) const BODY: &[u8] = br#"{"EventName":"referral-updated","ResourceUri":"https://api.partnercenter.microsoft.com/engagements/v1/referrals/8f0c2b1e-0000-4000-8000-000000000001","ResourceName":"referral","AuditUri":null,"ResourceChangeUtcDate":"2026-11-20T10:00:00.1234567+00:00"}"#;

/// The time of these tests.
pub(super) fn now() -> Timestamp {
    Timestamp::parse("2026-11-20T10:00:00Z").expect("a time")
}

/// An RSA key that leaves are issued for.
pub(super) struct Key {
    ring: RsaKeyPair,
    public: KeyPair,
}

impl Key {
    fn read(pem: &str) -> Key {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).expect("a key");
        let ring = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).expect("an RSA key");
        let public = KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_RSA_SHA256).expect("an RSA key");
        Key { ring, public }
    }

    pub(super) fn public_pem(&self) -> String {
        self.public.public_key_pem()
    }

    pub(super) fn sign_as(&self, body: &[u8], encoding: &'static dyn RsaEncoding) -> Vec<u8> {
        let mut signature = vec![0; self.ring.public().modulus_len()];
        self.ring.sign(encoding, &SystemRandom::new(), body, &mut signature).expect("signed");
        signature
    }

    pub(super) fn sign(&self, body: &[u8]) -> Vec<u8> {
        self.sign_as(body, &RSA_PKCS1_SHA256)
    }

    pub(super) fn sign_sha512(&self, body: &[u8]) -> Vec<u8> {
        self.sign_as(body, &RSA_PKCS1_SHA512)
    }

    pub(super) fn sign_pss(&self, body: &[u8]) -> Vec<u8> {
        self.sign_as(body, &RSA_PSS_SHA256)
    }
}

/// The key that Microsoft signs with in these tests.
pub(super) static FIRST: LazyLock<Key> =
    LazyLock::new(|| Key::read(include_str!("../../../sim/webhook/first.key.pem")));
/// The key it signs with later, and a forger's key elsewhere.
pub(super) static SECOND: LazyLock<Key> =
    LazyLock::new(|| Key::read(include_str!("../../../sim/webhook/second.key.pem")));

/// An RSA key of 1024 bits, only its public half.
pub(super) struct Weak(Vec<u8>);

impl Weak {
    pub(super) fn new() -> Weak {
        let der = rustls_pki_types::SubjectPublicKeyInfoDer::from_pem_slice(include_bytes!("weak.pub.pem"));
        // What follows the algorithm, of a fixed length, is the key itself.
        Weak(der.expect("a public key").as_ref()[22..].to_vec())
    }
}

impl PublicKeyData for Weak {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_RSA_SHA256
    }
}

/// One authority: a root, or an intermediate below another.
pub(super) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pub(super) der: Vec<u8>,
}

impl Authority {
    fn params(name: &str, is_ca: bool) -> CertificateParams {
        let mut params = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, "Microsoft Corporation");
        subject.push(DnType::CommonName, name);
        params.distinguished_name = subject;
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        }
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2040, 1, 1);
        params
    }

    pub(super) fn root(name: &str) -> Authority {
        let (params, key) = (Authority::params(name, true), KeyPair::generate().expect("a key"));
        let der = params.self_signed(&key).expect("a root").der().to_vec();
        Authority { params, key, der }
    }

    pub(super) fn below(&self, name: &str) -> Authority {
        self.below_with(name, |_| {})
    }

    pub(super) fn below_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Authority {
        let (mut params, key) = (Authority::params(name, true), KeyPair::generate().expect("a key"));
        change(&mut params);
        let der = params.signed_by(&key, &self.issuer()).expect("an intermediate").der().to_vec();
        Authority { params, key, der }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// A proper leaf for a key.
    pub(super) fn leaf(&self, key: &Key) -> Vec<u8> {
        self.leaf_with(&key.public, |_| {})
    }

    /// A leaf with something odd about it.
    pub(super) fn leaf_with(&self, key: &impl PublicKeyData, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = leaf_params();
        change(&mut params);
        params.signed_by(key, &self.issuer()).expect("a leaf").der().to_vec()
    }

    /// The same for the first key.
    pub(super) fn odd_leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        self.leaf_with(&FIRST.public, change)
    }
}

/// A leaf that signs itself.
pub(super) fn self_signed(key: &Key) -> Vec<u8> {
    leaf_params().self_signed(&key.public).expect("a leaf").der().to_vec()
}

fn leaf_params() -> CertificateParams {
    let mut params = Authority::params(NAME, false);
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params.subject_alt_names = vec![SanType::DnsName(NAME.try_into().expect("a name"))];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// The subject of a leaf, part by part.
pub(super) fn subject(parts: &[(DnType, &str)]) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    for (kind, text) in parts {
        subject.push(kind.clone(), *text);
    }
    subject
}

/// The extension that names the issuer's certificate.
pub(super) fn issuer_url(url: &str) -> CustomExtension {
    let tagged = |tag: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).expect("short");
        let head: Vec<u8> = if length < 128 { vec![tag, length] } else { vec![tag, 0x81, length] };
        [head, content.to_vec()].concat()
    };
    let method = [6, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 2];
    let description = tagged(0x30, &[method.to_vec(), tagged(0x86, url.as_bytes())].concat());
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], tagged(0x30, &description))
}

pub(super) fn pem(der: &[u8]) -> Vec<u8> {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n")).into_bytes()
}

pub(super) fn trust(roots: &[&Authority]) -> Trust {
    let text: Vec<u8> = roots.iter().flat_map(|root| pem(&root.der)).collect();
    Trust::from_pem(&text, &[NAME.to_owned()]).expect("roots")
}

pub(super) fn rules_for(trust: Trust, certificate_sources: &[&str]) -> Rules {
    let prefixes: Vec<String> = certificate_sources.iter().map(|text| (*text).to_owned()).collect();
    let certificate_sources = Sources::new(Kind::Certificate, &prefixes).expect("prefixes");
    Rules { algorithms: vec![Algorithm::RsaSha256], certificate_sources, trust }
}

/// The headers of a delivery in the default style.
pub(super) fn headers(signature: &[u8], url: &str) -> HeaderMap {
    let signature = format!("Signature {}", STANDARD.encode(signature));
    header_lines(&[("authorization", &signature), (CERTIFICATE_URL, url), (ALGORITHM, "rsa-sha256")])
}

pub(super) fn header_lines(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        headers.append(name, HeaderValue::from_str(value).expect("a value"));
    }
    headers
}

/// Judges a leaf and a signature of the first key over the body, all else in order.
pub(super) fn judge(leaf: &[u8], intermediates: &[&[u8]], trust: Trust) -> Result<(), Reason> {
    judge_body(leaf, intermediates, trust, &FIRST.sign(BODY), BODY)
}

pub(super) fn judge_body(
    certificate: &[u8],
    intermediates: &[&[u8]],
    trust: Trust,
    signature: &[u8],
    body: &[u8],
) -> Result<(), Reason> {
    let rules = rules_for(trust, &["https://store.example/cert/"]);
    let intermediates: Vec<CertificateDer<'_>> =
        intermediates.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let headers = headers(signature, URL);
    verify(&Evidence { headers: &headers, body, certificate, intermediates: &intermediates }, &rules, now())
}

pub(super) const PATIENCE: Duration = Duration::from_secs(60);
