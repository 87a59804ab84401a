//! Seeded mutations of headers, certificate and body: nothing that differs is believed, and nothing breaks.

use http::{HeaderMap, HeaderName, HeaderValue};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustls_pki_types::CertificateDer;

use super::super::signer::{Fetched, Signer, issuer_urls};
use super::super::source::{Kind, Sources};
use super::super::verify::{Evidence, verify};
use super::authority::*;

/// Mutants per test; together some seconds. `REFERRALD_MUTANTS` makes a longer run of it.
fn mutants() -> usize {
    std::env::var("REFERRALD_MUTANTS").ok().and_then(|text| text.parse().ok()).unwrap_or(4000)
}

/// Another seed for a longer run: `REFERRALD_MUTANT_SEED`.
fn seed() -> u64 {
    std::env::var("REFERRALD_MUTANT_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn rng(number: u64) -> ChaCha8Rng {
    let seed = seed().wrapping_mul(100).wrapping_add(number);
    println!("REFERRALD_MUTANT_SEED={} (seed {seed})", self::seed());
    ChaCha8Rng::seed_from_u64(seed)
}

fn mutate(rng: &mut ChaCha8Rng, bytes: &[u8]) -> Vec<u8> {
    let mut mutant = bytes.to_vec();
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..mutant.len().max(1));
        match rng.random_range(0..6) {
            0 if !mutant.is_empty() => mutant[at] ^= 1 << rng.random_range(0..8),
            1 if !mutant.is_empty() => mutant[at] = rng.random(),
            2 => mutant.insert(at.min(mutant.len()), rng.random()),
            3 if !mutant.is_empty() => {
                mutant.remove(at);
            }
            4 => mutant.truncate(at),
            _ => {
                let piece = mutant[at.min(mutant.len())..].iter().take(16).copied().collect::<Vec<u8>>();
                mutant.extend(piece);
            }
        }
    }
    mutant
}

#[test]
fn no_mutant_of_a_certificate_is_believed() {
    let root = Authority::root("Root");
    let issuing = root.below("Issuing CA");
    let (leaf, trust) = (issuing.leaf(&FIRST), trust(&[&root]));
    let good = [CertificateDer::from(issuing.der.clone())];
    let mut rng = rng(1);
    for _ in 0..mutants() {
        let mutant = mutate(&mut rng, &leaf);
        let _ = issuer_urls(&mutant);
        let Ok(fetched) = Fetched::read(&mutant) else { continue };
        let judged = Signer::judge(&fetched.leaf, &good, &trust, now());
        assert!(judged.is_err() || fetched.leaf.as_ref() == leaf.as_slice(), "{mutant:?}");
    }
    for _ in 0..mutants() / 4 {
        let mutant = mutate(&mut rng, &issuing.der);
        let intermediates = [CertificateDer::from(mutant.clone())];
        let judged = Signer::judge(&CertificateDer::from(leaf.clone()), &intermediates, &trust, now());
        assert!(judged.is_err() || mutant == issuing.der, "{mutant:?}");
    }
}

#[test]
fn no_mutant_of_a_text_form_breaks_the_reader() {
    let leaf = Authority::root("Root").leaf(&FIRST);
    let mut rng = rng(2);
    for form in [pem(&leaf), [pem(&leaf), pem(&leaf)].concat()] {
        for _ in 0..mutants() {
            // Other white space is the same certificate; anything else is not the same bytes.
            let _ = Fetched::read(&mutate(&mut rng, &form));
        }
    }
}

#[test]
fn no_mutant_of_a_body_or_a_signature_is_believed() {
    let root = Authority::root("Root");
    let (leaf, trust) = (root.leaf(&FIRST), trust(&[&root]));
    let signature = FIRST.sign(BODY);
    let mut rng = rng(3);
    for round in 0..mutants() / 4 {
        let (mut signature, mut body) = (signature.clone(), BODY.to_vec());
        if round % 2 == 0 {
            body = mutate(&mut rng, &body)
        } else {
            signature = mutate(&mut rng, &signature)
        }
        let is_same = body == BODY && signature == FIRST.sign(BODY);
        let judged = judge_body(&leaf, &[], trust.clone(), &signature, &body);
        assert!(judged.is_err() || is_same, "{body:?} {signature:?}");
    }
}

#[test]
fn no_mutant_of_the_headers_leads_to_another_place_or_is_believed_for_another_body() {
    let root = Authority::root("Root");
    let leaf = root.leaf(&FIRST);
    let rules = rules_for(trust(&[&root]), &["https://store.example/cert/"]);
    let good = headers(&FIRST.sign(BODY), URL);
    let mut rng = rng(4);
    let mut believed = 0;
    for _ in 0..mutants() {
        let mut mutant = HeaderMap::new();
        for (name, value) in &good {
            let (name, value) = match rng.random_range(0..4) {
                0 => (name.as_str().as_bytes().to_vec(), mutate(&mut rng, value.as_bytes())),
                1 if rng.random_range(0..8) == 0 => {
                    (mutate(&mut rng, name.as_str().as_bytes()), value.as_bytes().to_vec())
                }
                _ => (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec()),
            };
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&name), HeaderValue::from_bytes(&value)) {
                mutant.append(name, value);
            }
        }
        let evidence = Evidence { headers: &mutant, body: BODY, certificate: &leaf, intermediates: &[] };
        believed += usize::from(verify(&evidence, &rules, now()).is_ok());
        let other = Evidence { body: b"{}", ..evidence };
        assert!(verify(&other, &rules, now()).is_err());
    }
    println!("{believed} of {} still said the same", mutants());
    assert!(believed < mutants() / 2, "the mutations do nothing");
}

#[test]
fn no_mutant_of_a_url_leads_elsewhere() {
    let prefixes = ["https://store.example/cert/".to_owned(), "http://127.0.0.1:8099/cert/".to_owned()];
    let sources = Sources::new(Kind::Certificate, &prefixes).expect("prefixes");
    let mut rng = rng(5);
    for good in ["https://store.example/cert/a.cer", "http://127.0.0.1:8099/cert/a.cer"] {
        for _ in 0..mutants() * 5 {
            let Ok(mutant) = String::from_utf8(mutate(&mut rng, good.as_bytes())) else { continue };
            let Some(place) = sources.admit(&mutant) else { continue };
            assert!(
                prefixes.iter().any(|prefix| place.url().as_str().starts_with(prefix)),
                "{mutant} → {}",
                place.url()
            );
        }
    }
}
