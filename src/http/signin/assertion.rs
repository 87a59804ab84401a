//! The certificate assertion (`private_key_jwt`): PS256 with `x5t#S256` (partner-center §2.6).
//!
//! Written on `ring`, which is here for TLS anyway: a JWT library would bring a second set of RSA code for fifteen lines.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PSS_SHA256, RsaKeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::json;

use crate::model::Timestamp;

/// How long an assertion is good for; a new one is made for every request.
const LIFETIME: Duration = Duration::from_secs(10 * 60);
/// How far the local clock may be ahead of the service's.
const SKEW: Duration = Duration::from_secs(60);

/// A certificate with its private key.
pub struct Identity {
    key: RsaKeyPair,
    certificate: CertificateDer<'static>,
    /// The end of the certificate.
    pub not_after: Timestamp,
}

impl Identity {
    /// Reads both from PEM text. `key_place` and `certificate_place` name them in errors.
    ///
    /// # Errors
    /// What is wrong and which command mends it; never any part of the key.
    pub fn read(key: &[u8], certificate: &[u8], key_place: &str, certificate_place: &str) -> Result<Self, String> {
        let key = read_key(key, key_place)?;
        let (certificate, not_after) = read_certificate(certificate, Some(&key), certificate_place)?;
        Ok(Identity { key, certificate, not_after })
    }

    /// A signed assertion that `client_id` may call `token_url`.
    pub fn assertion(&self, client_id: &str, token_url: &str, now: Timestamp) -> String {
        let thumbprint = ring::digest::digest(&ring::digest::SHA256, &self.certificate);
        let header = json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": URL_SAFE_NO_PAD.encode(thumbprint) });
        let seconds = |instant: Timestamp| instant.millis().div_euclid(1000);
        let claims = json!({
            "aud": token_url,
            "iss": client_id,
            "sub": client_id,
            "jti": uuid::Uuid::new_v4().to_string(),
            "iat": seconds(now.minus(SKEW)),
            "nbf": seconds(now.minus(SKEW)),
            "exp": seconds(now.plus(LIFETIME)),
        });
        let encode = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(&header), encode(&claims));
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(&RSA_PSS_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .expect("a key that ring accepted signs into a buffer of its modulus' length");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The end of the first certificate in PEM text.
///
/// # Errors
/// When there is none.
pub fn not_after(certificate: &[u8], place: &str) -> Result<Timestamp, String> {
    read_certificate(certificate, None, place).map(|(_, not_after)| not_after)
}

fn read_key(text: &[u8], place: &str) -> Result<RsaKeyPair, String> {
    let holds = |label: &str| text.windows(label.len()).any(|window| window == label.as_bytes());
    if holds("-----BEGIN RSA PRIVATE KEY-----") {
        return Err(format!(
            "{place} is a PKCS#1 key; convert it with: openssl pkcs8 -topk8 -nocrypt -in {place} -out key.pem"
        ));
    }
    if holds("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        return Err(format!("{place} is an encrypted key; decrypt it with: openssl pkcs8 -in {place} -out key.pem"));
    }
    if holds("-----BEGIN EC PRIVATE KEY-----") {
        return Err(format!("{place} is an elliptic-curve key; Entra ID needs an RSA key"));
    }
    if text.first() == Some(&0x30) {
        return Err(format!(
            "{place} is binary, probably a PFX file; convert it with: openssl pkcs12 -in {place} -nocerts -nodes -out key.pem, and: openssl pkcs12 -in {place} -clcerts -nokeys -out certificate.pem"
        ));
    }
    let der = PrivatePkcs8KeyDer::from_pem_slice(text)
        .map_err(|_| format!("{place} holds no PEM block \"PRIVATE KEY\" (PKCS#8)"))?;
    RsaKeyPair::from_pkcs8(der.secret_pkcs8_der())
        .map_err(|reason| format!("{place} holds no RSA key of 2048 bits or more that can be used: {reason}"))
}

/// The certificate of `key`, else the first one.
fn read_certificate(
    text: &[u8],
    key: Option<&RsaKeyPair>,
    place: &str,
) -> Result<(CertificateDer<'static>, Timestamp), String> {
    if text.first() == Some(&0x30) {
        return Err(format!(
            "{place} is binary; convert it with: openssl x509 -inform der -in {place} -out certificate.pem"
        ));
    }
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(text) {
        let certificate = certificate.map_err(|_| format!("{place} is damaged PEM text"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|_| format!("{place} holds a damaged certificate"))?;
        let belongs = key.is_none_or(|key| *parsed.public_key().subject_public_key.data == *key.public().as_ref());
        let not_after = Timestamp::from_seconds(parsed.validity().not_after.timestamp());
        if belongs {
            return Ok((certificate, not_after));
        }
        count += 1;
    }
    Err(match count {
        0 => format!("{place} holds no PEM block \"CERTIFICATE\""),
        _ => format!("the private key does not belong to any certificate in {place}"),
    })
}

#[cfg(test)]
pub mod tests {
    use ring::signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};

    use super::*;

    /// A throw-away RSA key and its certificate, both as PEM text: `ring` cannot make RSA keys.
    pub fn made() -> (String, String) {
        let key = include_str!("../../../tests/it/fixtures/sign_in/throwaway_key.pem");
        let certificate = include_str!("../../../tests/it/fixtures/sign_in/throwaway_certificate.pem");
        (key.to_owned(), certificate.to_owned())
    }

    #[test]
    fn an_assertion_is_signed_by_the_key_of_the_certificate() {
        let (key, certificate) = made();
        let identity = Identity::read(key.as_bytes(), certificate.as_bytes(), "k", "c").expect("readable");
        let now = Timestamp::from_seconds(1_800_000_000);
        let assertion = identity.assertion("app", "https://login.example/token", now);

        let (message, signature) = assertion.rsplit_once('.').expect("three parts");
        let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
        UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, identity.key.public().as_ref())
            .verify(message.as_bytes(), &signature)
            .expect("the signature fits");

        let part = |text: &str| -> serde_json::Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).expect("base64url")).expect("JSON")
        };
        let (header, claims) = message.split_once('.').expect("two parts");
        let thumbprint = ring::digest::digest(&ring::digest::SHA256, &identity.certificate);
        assert_eq!(part(header), json!({"alg": "PS256", "typ": "JWT", "x5t#S256": URL_SAFE_NO_PAD.encode(thumbprint)}));
        let claims = part(claims);
        assert_eq!(claims["aud"], "https://login.example/token");
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!("app"), &json!("app")));
        assert_eq!((&claims["nbf"], &claims["exp"]), (&json!(1_799_999_940), &json!(1_800_000_600)));
        assert_ne!(assertion, identity.assertion("app", "https://login.example/token", now), "a fresh jti each time");
    }

    #[test]
    fn keys_in_other_forms_are_named_with_the_command_that_converts_them() {
        let (key, certificate) = made();
        let fails = |key: &[u8], certificate: &[u8]| match Identity::read(key, certificate, "/k.pem", "/c.pem") {
            Ok(_) => panic!("accepted"),
            Err(text) => text,
        };
        let certificate_bytes = certificate.as_bytes();
        let pkcs1 = fails(b"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----", certificate_bytes);
        assert!(pkcs1.contains("openssl pkcs8 -topk8 -nocrypt -in /k.pem"), "{pkcs1}");
        let pfx = fails(&[0x30, 0x82, 0x01, 0x02], certificate_bytes);
        assert!(pfx.contains("openssl pkcs12 -in /k.pem"), "{pfx}");
        let encrypted = fails(b"-----BEGIN ENCRYPTED PRIVATE KEY-----", certificate_bytes);
        assert!(encrypted.contains("openssl pkcs8 -in /k.pem"), "{encrypted}");
        assert!(fails(b"", certificate_bytes).contains("no PEM block \"PRIVATE KEY\""));
        assert!(fails(key.as_bytes(), b"").contains("no PEM block \"CERTIFICATE\""));
        assert!(fails(key.as_bytes(), &[0x30, 0x82]).contains("openssl x509 -inform der"));

        let other = rcgen::generate_simple_self_signed(["other".to_owned()]).expect("made").cert.pem();
        assert!(fails(key.as_bytes(), other.as_bytes()).contains("does not belong"));
    }

    #[test]
    fn the_certificate_of_the_key_is_found_in_a_bundle() {
        let (key, certificate) = made();
        let other = rcgen::generate_simple_self_signed(["other".to_owned()]).expect("made").cert.pem();
        let bundle = format!("{other}{certificate}");
        assert!(Identity::read(key.as_bytes(), bundle.as_bytes(), "k", "c").is_ok());
    }
}
