//! What must hold for every input: used by the fuzz targets, and by the tests that run their corpus.
//!
//! Each check says whether the input was believed. Only what the simulated authority has really signed may be.

#![allow(dead_code)]

use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue};
use referrald::model::Timestamp;
use referrald::sim::webhooks::{ROOT_PEM, Webhooks};
use referrald::trigger::webhook::signed::Algorithm;
use referrald::trigger::webhook::signer::{Fetched, Signer, Trust, issuer_urls};
use referrald::trigger::webhook::source::{Kind, Sources};
use referrald::trigger::webhook::verify::{Evidence, Rules, read_headers, verify};

/// The only place that certificates may come from.
const SOURCE: &str = "https://store.example/cert/";
/// The body that was signed.
pub const BODY: &[u8] = br#"{"EventName":"referral-updated","ResourceName":"referral"}"#;
/// The certificate it was signed with.
pub const CERTIFICATE: &str = include_str!("../../src/sim/webhook/first.pem");

struct Genuine {
    rules: Rules,
    headers: HeaderMap,
    signature: Vec<u8>,
    leaf: Vec<u8>,
}

static GENUINE: LazyLock<Genuine> = LazyLock::new(|| {
    let names = ["pcnotifications-dispatch.microsoft.com".to_owned()];
    let rules = Rules {
        algorithms: vec![Algorithm::RsaSha256, Algorithm::RsaSha384, Algorithm::RsaSha512],
        certificate_sources: Sources::new(Kind::Certificate, &[SOURCE.to_owned()]).expect("a prefix"),
        trust: Trust::from_pem(ROOT_PEM.as_bytes(), &names).expect("a root"),
    };
    let headers = header_map(genuine_headers().as_bytes());
    let signature = read_headers(&headers, &rules).expect("genuine headers").signature;
    let leaf = Fetched::read(CERTIFICATE.as_bytes()).expect("a certificate").leaf.to_vec();
    Genuine { rules, headers, signature, leaf }
});

/// The headers of a delivery that is believed, one a line.
pub fn genuine_headers() -> String {
    let headers = Webhooks::default().headers("https://store.example", BODY, true);
    headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
}

fn now() -> Timestamp {
    Timestamp::parse("2026-11-20T10:00:00Z").expect("a time")
}

/// Lines of `name: value`; what is no header is left out.
fn header_map(input: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n').take(32) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(line[..colon].trim_ascii());
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// Headers lead to no other place, and are believed with the genuine signature only.
pub fn headers(input: &[u8]) -> bool {
    let (genuine, map) = (&*GENUINE, header_map(input));
    let read = read_headers(&map, &genuine.rules);
    if let Ok(signed) = &read {
        assert!(signed.certificate_url.starts_with(SOURCE), "{}", signed.certificate_url);
    }
    let evidence = Evidence { headers: &map, body: BODY, certificate: &genuine.leaf, intermediates: &[] };
    let is_believed = verify(&evidence, &genuine.rules, now()).is_ok();
    assert!(!is_believed || read.is_ok_and(|signed| signed.signature == genuine.signature));
    is_believed
}

/// Nothing is a signer's certificate but the genuine one, in whatever form it comes.
pub fn certificate(input: &[u8]) -> bool {
    let genuine = &*GENUINE;
    let _ = issuer_urls(input);
    let Ok(fetched) = Fetched::read(input) else { return false };
    let is_believed = Signer::judge(&fetched.leaf, &fetched.others, &genuine.rules.trust, now()).is_ok();
    assert!(!is_believed || *fetched.leaf == *genuine.leaf);
    is_believed
}

/// No body is believed but the one that was signed.
pub fn body(input: &[u8]) -> bool {
    let genuine = &*GENUINE;
    let evidence = Evidence { headers: &genuine.headers, body: input, certificate: &genuine.leaf, intermediates: &[] };
    let is_believed = verify(&evidence, &genuine.rules, now()).is_ok();
    assert_eq!(is_believed, input == BODY);
    is_believed
}
