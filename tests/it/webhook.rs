//! The webhook of the built program against the simulator: registered, rung, tested, taken over and put back.

use std::time::{Duration, Instant};

use referrald::daemon::status::WebhookStatus;
use referrald::sim::webhooks::{CERTIFICATE_PATH, ROOT_PEM, Registered};
use serde_json::json;

use crate::stage::{Daemon, Stage};

const QUIET: &str = "[schedule]\nreconcile = \"0 0 0 1 1 *\"\nsweep = \"0 0 0 1 1 *\"\n";
const PATIENCE: Duration = Duration::from_secs(120);

/// Lays the webhook's configuration over the stage's.
fn configure(stage: &Stage, listen: &str, more: &str) {
    std::fs::write(stage.path("roots.pem"), ROOT_PEM).unwrap();
    let (portal, roots) = (&stage.simulator.portal_url, stage.path("roots.pem"));
    stage.overlay(&format!(
        "[partner_center]\nwebhook_api_url = \"{portal}\"\n{QUIET}\n[webhook]\nlisten = \"{listen}\"\n\
         certificate_sources = [\"{portal}/cert/\"]\ntrust_anchors_file = \"{}\"\ndebounce = \"100ms\"\n{more}",
        roots.display()
    ));
}

async fn webhook(daemon: &Daemon) -> WebhookStatus {
    daemon.status().await.webhook.expect("the webhook runs")
}

/// A stage whose daemon listens, with the URL configured.
async fn listening(seed: u64) -> (Stage, Daemon, String) {
    let stage = Stage::new(seed, 5).await;
    configure(&stage, "127.0.0.1:0", "");
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    let status = webhook(&daemon).await;
    assert_eq!((status.trouble, status.addresses.len()), (None, 1));
    let url = format!("http://{}/partner-center", status.addresses[0]);
    configure(&stage, "127.0.0.1:0", &format!("url = \"{url}\"\n"));
    (stage, daemon, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_event_brings_a_new_referral_across_without_the_clock() {
    let (stage, daemon, url) = listening(61).await;
    let shown = stage.run(&["webhook", "show"]).await;
    assert!(shown.code == 0 && shown.out.contains("nothing is registered"), "{shown:?}");
    let registered = stage.run(&["webhook", "register"]).await;
    assert!(registered.code == 0 && registered.out.contains("before: nothing"), "{registered:?}");
    assert!(registered.out.contains(&format!("now: {url}")), "{registered:?}");

    let fresh = stage.simulator.with(|world| world.add_referral(json!({"name": "Fresh by webhook"})));
    let began = Instant::now();
    while stage.lead_of(fresh).is_none() {
        assert!(began.elapsed() < PATIENCE, "{:#?}", webhook(&daemon).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = webhook(&daemon).await;
    assert!(status.rings >= 1 && status.last_ring.is_some() && status.certificate_until.is_some(), "{status:#?}");
    let screen = stage.run(&["status"]).await.out;
    assert!(screen.contains("Webhook") && screen.contains("last ring"), "{screen}");
    assert_eq!(daemon.stop().await, 0);
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_event_is_delivered_and_its_report_shown() {
    let (stage, daemon, _) = listening(62).await;
    let early = stage.run(&["webhook", "test"]).await;
    assert!(early.code == 1 && early.trouble.contains("webhook register"), "{early:?}");
    assert_eq!(stage.run(&["webhook", "register"]).await.code, 0);
    let test = stage.run(&["webhook", "test"]).await;
    assert!(test.code == 0 && test.out.contains("report: completed") && test.out.contains("OK"), "{test:?}");
    assert_eq!(webhook(&daemon).await.verdicts.get("verified"), Some(&1));
    let json = stage.json(&["webhook", "events"], 0).await;
    assert!(json.as_array().unwrap().contains(&json!("referral-created")), "{json}");
    assert_eq!(daemon.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_consumer_is_replaced_only_when_asked_and_can_be_put_back() {
    let stage = Stage::new(63, 1).await;
    let ours = "http://127.0.0.1:9/partner-center";
    configure(&stage, "127.0.0.1:0", &format!("url = \"{ours}\"\n"));
    let other = Registered {
        url: "http://127.0.0.1:9/flows/run?sig=another-secret".to_owned(),
        events: vec!["referral-created".to_owned(), "invoice-ready".to_owned()],
        use_ms_signature_header: false,
    };
    stage.simulator.with(|world| world.webhooks.registration = Some(other.clone()));
    let registered = || stage.simulator.with(|world| world.webhooks.registration.clone()).unwrap();

    let refused = stage.run(&["webhook", "register"]).await;
    assert!(refused.code == 1 && refused.trouble.contains("--take-over"), "{refused:?}");
    assert!(refused.out.contains(&other.url), "what is there is shown: {refused:?}");
    assert_eq!(registered(), other);
    let refused = stage.run(&["webhook", "unregister"]).await;
    assert!(refused.code == 1 && refused.trouble.contains("not ours"), "{refused:?}");

    let taken = stage.run(&["webhook", "register", "--take-over"]).await;
    assert!(taken.code == 0 && taken.out.contains(&other.url), "{taken:?}");
    assert_eq!(registered().url, ours);
    let again = stage.run(&["webhook", "register"]).await;
    assert!(again.code == 0 && again.out.contains("nothing to do"), "{again:?}");

    assert_eq!(stage.run(&["webhook", "unregister"]).await.code, 0);
    assert_eq!((registered().url, registered().events), (other.url, other.events), "put back");
    assert_eq!(stage.run(&["webhook", "register", "--take-over"]).await.code, 0);
    std::fs::remove_file(stage.state().join("keep/webhook-previous.json")).unwrap();
    assert_eq!(stage.run(&["webhook", "unregister"]).await.code, 0);
    assert_eq!((registered().url.as_str(), registered().events), (ours, vec!["test-created".to_owned()]), "parked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_drifts_is_told_in_the_status() {
    let stage = Stage::new(64, 1).await;
    configure(&stage, "127.0.0.1:0", "url = \"http://127.0.0.1:9/partner-center\"\n");
    let daemon = stage.daemon().await;
    let drift = |status: &referrald::daemon::Status| {
        let webhook = status.webhook.as_ref()?;
        webhook.registration.clone()
    };
    let status = daemon.until("the drift", |status| drift(status).is_some()).await;
    assert!(drift(&status).unwrap().contains("nothing is registered"), "{status:#?}");
    assert_eq!(daemon.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captured_delivery_is_explained() {
    let stage = Stage::new(65, 1).await;
    configure(&stage, "127.0.0.1:0", "");
    let body = br#"{"EventName":"referral-updated"}"#;
    let portal = stage.simulator.portal_url.clone();
    let headers = stage.simulator.with(|world| world.webhooks.headers(&portal, body, true));
    let text: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let (headers_file, body_file) = (stage.path("headers"), stage.path("body"));
    let verify = async |text: &str, body: &[u8]| {
        std::fs::write(&headers_file, text).unwrap();
        std::fs::write(&body_file, body).unwrap();
        let (headers, body) = (headers_file.display().to_string(), body_file.display().to_string());
        stage.run(&["webhook", "verify", "--headers", &headers, "--body", &body]).await
    };
    let good = verify(&text, body).await;
    assert!(good.code == 0 && good.out.starts_with("verified"), "{good:?}");
    for (text, body, code) in [
        (text.clone(), &b"{}"[..], "signature-wrong"),
        (text.replace("rsa-sha256", "rsa-sha1"), body, "algorithm-refused"),
        (text.replace(CERTIFICATE_PATH, "/other/a.cer"), body, "url-refused"),
        (text.replace(CERTIFICATE_PATH, "/cert/nothing.cer"), body, "certificate-unavailable"),
        (text.lines().filter(|line| !line.contains("algorithm")).collect::<Vec<_>>().join("\n"), body, "no-algorithm"),
    ] {
        let refused = verify(&text, body).await;
        assert!(refused.code == 1 && refused.out.starts_with(code), "{code}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_cannot_listen_does_not_keep_the_daemon_from_polling() {
    let stage = Stage::new(66, 5).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    configure(&stage, &taken.local_addr().unwrap().to_string(), "");
    let daemon = stage.daemon().await;
    let status = daemon.first_cycle().await;
    assert!(status.linked > 0);
    let trouble = status.webhook.and_then(|webhook| webhook.trouble).expect("it is told");
    assert!(trouble.contains("webhook.listen"), "{trouble}");
    assert_eq!(daemon.stop().await, 0);
}
