//! The one narrow function: bytes in, verdict out. No network, no clock, no memory.

use http::HeaderMap;
use rustls_pki_types::CertificateDer;

use super::reason::Reason;
use super::signed::{Algorithm, Signed};
use super::signer::{Fetched, Signer, Trust};
use super::source::Sources;
use crate::model::Timestamp;

/// What a delivery is judged by.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Algorithms that are taken.
    pub algorithms: Vec<Algorithm>,
    /// Where certificates may come from.
    pub certificate_sources: Sources,
    /// Whom we believe.
    pub trust: Trust,
}

/// Everything about one delivery, as bytes.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its body, as it arrived.
    pub body: &'a [u8],
    /// What is at the URL that the headers name.
    pub certificate: &'a [u8],
    /// Further certificates that may lie between it and a root.
    pub intermediates: &'a [CertificateDer<'a>],
}

/// Judges one delivery.
///
/// # Errors
/// The first rule that fails. Nothing is accepted unless every rule was looked at and holds.
pub fn verify(evidence: &Evidence<'_>, rules: &Rules, now: Timestamp) -> Result<(), Reason> {
    let signed = read_headers(evidence.headers, rules)?;
    let fetched = Fetched::read(evidence.certificate)?;
    let intermediates: Vec<CertificateDer<'_>> = fetched.others.iter().chain(evidence.intermediates).cloned().collect();
    let signer = Signer::judge(&fetched.leaf, &intermediates, &rules.trust, now)?;
    signer.check(&signed, evidence.body, now)
}

/// What the headers claim, with a certificate from a place we may ask.
///
/// # Errors
/// The first rule that fails.
pub fn read_headers(headers: &HeaderMap, rules: &Rules) -> Result<Signed, Reason> {
    let signed = Signed::read(headers, &rules.algorithms)?;
    match rules.certificate_sources.admit(&signed.certificate_url) {
        Some(_) => Ok(signed),
        None => Err(Reason::UrlRefused),
    }
}
