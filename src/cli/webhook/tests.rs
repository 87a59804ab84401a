//! What counts as a drift, and what is kept of another consumer.

use super::{drift, is_success, previous};
use crate::config::Settings;
use crate::portal::partner_center::webhooks::Registration;

#[test]
fn a_drift_is_named_without_the_url_of_somebody_else() {
    let mut settings = Settings::defaults().webhook;
    let ours = "https://hook.example/partner-center";
    let found = |url: &str, events: &[&str]| {
        let events = events.iter().map(|event| (*event).to_owned()).collect();
        Registration { url: url.to_owned(), events }
    };
    assert_eq!(drift(&settings, None), None, "nothing is wanted");
    settings.url = Some(ours.parse().expect("a URL"));
    let all: Vec<&str> = settings.events.iter().map(String::as_str).collect();
    assert_eq!(drift(&settings, Some(&found(ours, &all))), None);
    assert!(drift(&settings, None).expect("a drift").contains("webhook register"));
    let other = drift(&settings, Some(&found("https://other.example/?sig=secret", &all))).expect("a drift");
    assert!(other.contains("--take-over") && !other.contains("secret"), "{other}");
    let fewer = drift(&settings, Some(&found(ours, &["test-created"]))).expect("a drift");
    assert!(fewer.contains("referral-created") && !fewer.contains("test-created"), "{fewer}");
}

#[test]
fn what_was_replaced_is_kept_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().expect("a directory");
    assert_eq!(previous::read(directory.path()), Ok(None));
    let one = Registration { url: "https://other.example/?sig=x".to_owned(), events: vec!["invoice-ready".to_owned()] };
    previous::keep(directory.path(), &one).expect("kept");
    assert_eq!(previous::read(directory.path()), Ok(Some(one)));
    let file = directory.path().join("keep/webhook-previous.json");
    assert_eq!(std::fs::metadata(file).expect("there").permissions().mode() & 0o777, 0o600);
    previous::forget(directory.path());
    assert_eq!(previous::read(directory.path()), Ok(None));
}

#[test]
fn a_report_is_good_when_our_end_took_it() {
    for (code, is_good) in
        [("OK", true), ("ok", true), ("200", true), ("204", true), ("Unauthorized", false), ("503", false), ("", false)]
    {
        assert_eq!(is_success(code), is_good, "{code}");
    }
}

#[tokio::test]
async fn an_empty_post_says_over_http_1_that_it_is_empty_once() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let directory = tempfile::tempdir().expect("a directory");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base: url::Url = format!("http://{}", listener.local_addr().expect("bound")).parse().expect("a URL");
    let mut settings = Settings::defaults();
    settings.state.directory = directory.path().to_owned();
    let portal = &mut settings.partner_center;
    portal.webhook_api_url = base.clone();
    portal.auth.authority = base;
    portal.auth.tenant_id = Some("contoso.example".to_owned());
    portal.webhook_auth.client_id = Some("app-1".to_owned());
    portal.webhook_auth.grant = Some(crate::http::settings::Grant::ClientCredentials);
    portal.webhook_auth.client_secret_file = Some(directory.path().join("secret"));
    std::fs::write(directory.path().join("secret"), "s").expect("written");

    // First the token, then the test event; each on a connection of its own.
    let served = tokio::spawn(async move {
        let mut head = String::new();
        for body in [r#"{"token_type":"Bearer","access_token":"a"}"#, r#"{"correlationId":"c-1"}"#] {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let mut bytes = Vec::new();
            while !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
                socket.read_buf(&mut bytes).await.expect("a request");
            }
            head = String::from_utf8_lossy(&bytes).to_lowercase();
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            socket.write_all(answer.as_bytes()).await.expect("answered");
        }
        head
    });
    let api = super::super::build::webhook_api(&settings).expect("an API");
    assert_eq!(api.send_test().await, Ok("c-1".to_owned()));
    let head = served.await.expect("served");
    assert!(head.starts_with("post /webhooks/v1/registration/validationevents http/1.1\r\n"), "{head}");
    let lengths: Vec<&str> = head.lines().filter(|line| line.starts_with("content-length")).collect();
    assert_eq!(lengths, ["content-length: 0"], "{head}");
    assert!(!head.contains("transfer-encoding"), "{head}");
}
