//! The corpus of the fuzz targets, run as ordinary tests.

use std::path::{Path, PathBuf};

#[path = "../fuzz/checks.rs"]
mod checks;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

/// Runs every input; those named `genuine…` are believed, and no other is.
fn run(target: &str, check: fn(&[u8]) -> bool) {
    let mut believed = 0;
    for file in std::fs::read_dir(folder(target)).unwrap() {
        let path = file.unwrap().path();
        let is_genuine = path.file_name().unwrap().to_string_lossy().starts_with("genuine");
        assert_eq!(check(&std::fs::read(&path).unwrap()), is_genuine, "{}", path.display());
        believed += usize::from(is_genuine);
    }
    assert!(believed > 0, "{target}: nothing shows that the check can tell the difference");
}

#[test]
fn headers_of_the_corpus_lead_nowhere_else_and_only_genuine_ones_are_believed() {
    run("headers", checks::headers);
}

#[test]
fn certificates_of_the_corpus_are_believed_only_when_genuine() {
    run("certificate", checks::certificate);
}

#[test]
fn bodies_of_the_corpus_are_believed_only_when_genuine() {
    run("body", checks::body);
}

/// Writes what every fuzzer begins with: `cargo test --test it corpus::first -- --ignored`.
#[test]
#[ignore = "writes the first inputs of the corpus"]
fn first_inputs() {
    use base64::Engine as _;
    let write = |target: &str, name: &str, bytes: &[u8]| std::fs::write(folder(target).join(name), bytes).unwrap();
    let headers = checks::genuine_headers();
    let line = |name: &str| headers.lines().find(|line| line.to_lowercase().starts_with(name)).unwrap().to_owned();
    let signature = line("x-ms-signature:").split_once(':').unwrap().1.trim().to_owned();
    write("headers", "genuine", headers.as_bytes());
    let authorized = headers.replace("x-ms-signature:", "Authorization:");
    let bearer = headers.replace("x-ms-signature:", "Authorization: Bearer a\nx-ms-signature:");
    write("headers", "genuine-authorization", authorized.as_bytes());
    write("headers", "bearer-beside-it", bearer.as_bytes());
    write("headers", "other-place", headers.replace("store.example", "store.example.evil.example").as_bytes());
    write("headers", "other-scheme", headers.replace("https://", "http://").as_bytes());
    write("headers", "up-and-away", headers.replace("/cert/", "/cert/../").as_bytes());
    write("headers", "user-in-place", headers.replace("store.example", "store.example@evil.example").as_bytes());
    write("headers", "sha1", headers.replace("rsa-sha256", "rsa-sha1").as_bytes());
    write("headers", "none", headers.replace("rsa-sha256", "none").as_bytes());
    write("headers", "twice", format!("{headers}{headers}").as_bytes());
    write("headers", "short", headers.replace(&signature, &signature[..40]).as_bytes());
    let pem = checks::CERTIFICATE;
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(&base64).unwrap();
    write("certificate", "genuine-pem", pem.as_bytes());
    write("certificate", "genuine-base64", base64.as_bytes());
    write("certificate", "genuine-der", &der);
    write("certificate", "cut", &der[..der.len() / 2]);
    write("certificate", "root", referrald::sim::webhooks::ROOT_PEM.as_bytes());
    write("certificate", "long-length", &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0x30]);
    write("certificate", "indefinite", &[0x30, 0x80, 0x30, 0x80, 0, 0, 0, 0]);
    write("certificate", "web-page", b"<html><body>not found</body></html>");
    let mut changed = der.clone();
    changed[der.len() - 20] ^= 1;
    write("certificate", "changed", &changed);
    write("body", "genuine", checks::BODY);
    write("body", "empty", b"");
    write("body", "blank-after-it", &[checks::BODY, b" "].concat());
    write("body", "other-event", br#"{"EventName":"referral-created","ResourceName":"referral"}"#);
}
