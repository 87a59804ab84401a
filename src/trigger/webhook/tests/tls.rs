//! TLS of our own, and its renewal without a restart.

use std::path::Path;

use super::super::Webhook;
use super::authority::*;
use crate::config::Settings;
use crate::trigger::Bell;

/// Writes a certificate for this machine and its key; gives the certificate.
fn write(directory: &Path) -> String {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    std::fs::write(directory.join("tls.crt"), cert.pem()).expect("written");
    std::fs::write(directory.join("tls.key"), signing_key.serialize_pem()).expect("written");
    cert.pem()
}

async fn status(webhook: &Webhook, root: &str) -> Option<u16> {
    let root = reqwest::Certificate::from_pem(root.as_bytes()).expect("a certificate");
    let client =
        reqwest::Client::builder().no_proxy().tls_certs_only([root]).timeout(PATIENCE).build().expect("a client");
    let url = format!("https://{}/partner-center", webhook.addresses()[0]);
    client.get(url).send().await.ok().map(|answer| answer.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_in_force_after_a_reload_and_a_broken_one_changes_nothing() {
    crate::http::install_crypto();
    let directory = tempfile::tempdir().expect("a directory");
    let first = write(directory.path());
    let defaults = Settings::defaults();
    let mut settings = defaults.webhook.clone();
    settings.listen = Some(([127, 0, 0, 1], 0).into());
    settings.tls_certificate_file = Some(directory.path().join("tls.crt"));
    settings.tls_private_key_file = Some(directory.path().join("tls.key"));
    let started = Webhook::start(&settings, &defaults.http, directory.path(), Bell::new()).await;
    let webhook = started.expect("it starts").expect("it listens");
    assert_eq!(status(&webhook, &first).await, Some(405));

    let second = write(directory.path());
    assert_eq!(status(&webhook, &second).await, None, "not yet");
    webhook.prepare(&settings, &defaults.http).expect("it is in order")();
    assert_eq!(status(&webhook, &second).await, Some(405));
    assert_eq!(status(&webhook, &first).await, None, "not any more");

    std::fs::write(directory.path().join("tls.key"), "no key").expect("written");
    let problems = webhook.prepare(&settings, &defaults.http).err().expect("it is broken");
    assert!(problems.iter().any(|problem| problem.contains("webhook.tls_private_key_file")), "{problems:?}");
    assert_eq!(status(&webhook, &second).await, Some(405), "as before");
    // Whoever speaks plainly to it gets no answer.
    let plain = format!("http://{}/partner-center", webhook.addresses()[0]);
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
    assert!(client.get(plain).send().await.is_err());
}

#[tokio::test]
async fn every_problem_of_a_start_is_told_with_its_key() {
    let defaults = Settings::defaults();
    let mut settings = defaults.webhook.clone();
    settings.listen = Some(([127, 0, 0, 1], 0).into());
    settings.trust_anchors_file = Some("/nowhere/roots.pem".into());
    settings.intermediates_directory = Some("/nowhere/intermediates".into());
    settings.algorithms = vec!["rsa-sha1".to_owned()];
    settings.certificate_sources.push("http://store.example/".to_owned());
    let started = Webhook::start(&settings, &defaults.http, Path::new("/nowhere"), Bell::new()).await;
    let problems = started.err().expect("problems").join("\n");
    for key in ["trust_anchors_file", "intermediates_directory", "algorithms", "certificate_sources.1"] {
        assert!(problems.contains(&format!("webhook.{key}")), "{key}: {problems}");
    }
    settings.listen = None;
    let none = Webhook::start(&defaults.webhook, &defaults.http, Path::new("/nowhere"), Bell::new()).await;
    assert!(none.expect("no problem").is_none(), "off by default");
}
