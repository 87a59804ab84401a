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
         certificate_sources = [\"{portal}/cert/\"]\ntrust_anchors_file = \"{}\"\ndebounce = \"100ms\"\nrings_per_minute = 1000\n{more}",
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
    assert!(early.code == 1 && early.complains("webhook register"), "{early:?}");
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
    assert!(refused.code == 1 && refused.complains("not ours"), "{refused:?}");

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
async fn the_registration_may_have_a_sign_in_of_its_own() {
    let stage = Stage::new(70, 1).await;
    configure(&stage, "127.0.0.1:0", "[partner_center.webhook_auth]\ngrant = \"client_credentials\"\n");
    // The application alone, which the referrals would refuse; and no refresh token is needed.
    std::fs::remove_file(stage.path("refresh")).unwrap();
    let shown = stage.run(&["webhook", "show"]).await;
    assert!(shown.code == 0 && shown.out.contains("registered: nothing"), "{shown:?}");
    std::fs::write(stage.path("wrong"), "wrong secret").unwrap();
    let wrong = format!("[partner_center.webhook_auth]\nclient_secret_file = \"{}\"\n", stage.path("wrong").display());
    configure(&stage, "127.0.0.1:0", &format!("{wrong}grant = \"client_credentials\"\n"));
    let refused = stage.run(&["webhook", "show"]).await;
    assert!(refused.code == 1 && refused.trouble.contains("webhook_auth"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_over_what_is_believed() {
    let (stage, daemon, url) = listening(71).await;
    let body = br#"{"EventName":"referral-updated"}"#;
    let portal = stage.simulator.portal_url.clone();
    let headers = stage.simulator.with(|world| world.webhooks.headers(&portal, body, true));
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let post = async || stage.post(&url, &headers, body).await;
    let until = async |expected: u16| {
        let began = Instant::now();
        while post().await != expected {
            assert!(began.elapsed() < PATIENCE, "never {expected}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    until(200).await;
    let reload = || {
        let pid = daemon.pid().to_string();
        assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    };
    configure(&stage, "127.0.0.1:0", "certificate_names = [\"somebody-else.example\"]\n");
    reload();
    until(401).await;
    // What does not check out changes nothing.
    configure(&stage, "127.0.0.1:0", "certificate_names = []\nalgorithms = [\"none\"]\n");
    reload();
    daemon.until_logged("old one stays in force").await;
    assert_eq!(post().await, 401);
    // Nor does what the webhook could take over, when another part of the daemon cannot.
    configure(&stage, "127.0.0.1:0", "[http]\nread_timeout = \"29s\"\n");
    reload();
    daemon.until_logged("http.read_timeout changed: restart the daemon").await;
    assert_eq!(post().await, 401);
    configure(&stage, "127.0.0.1:0", "");
    reload();
    until(200).await;
    assert_eq!(daemon.stop().await, 0);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_systemd_passes_is_served() {
    let stage = Stage::new(67, 1).await;
    configure(&stage, "127.0.0.1:0", "");
    let text = std::fs::read_to_string(stage.path("referrald.toml.d/10.toml")).unwrap();
    stage.overlay(&text.replace("listen = \"127.0.0.1:0\"\n", ""));
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let daemon = stage.daemon_with_socket(socket).await;
    let status = daemon.first_cycle().await;
    assert_eq!(status.webhook.expect("it runs").addresses, [address.to_string()]);
    let answer = stage.post(&format!("http://{address}/partner-center"), &[], b"{}").await;
    assert_eq!(answer, 415);
    assert_eq!(daemon.stop().await, 0);
}

/// Percentile of sorted values.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// From the first byte of a delivery to the lead in Dynamics, the proof of its signature included. Run by hand, it prints
/// figures: `cargo test --test it webhook::how_long -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures, asserts none"]
async fn how_long_from_a_delivery_to_the_lead() {
    let (stage, _daemon, url) = listening(68).await;
    let portal = stage.simulator.portal_url.clone();
    let mut times = Vec::new();
    for number in 0..100 {
        let (fresh, body, headers) = stage.simulator.with(|world| {
            let fresh = world.add_referral(json!({"name": format!("Timed {number}")}));
            let body = json!({"EventName": "referral-created", "ResourceUri": format!("{portal}/{fresh}")}).to_string();
            let headers = world.webhooks.headers(&portal, body.as_bytes(), true);
            (fresh, body, headers)
        });
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let began = Instant::now();
        assert_eq!(stage.post(&url, &headers, body.as_bytes()).await, 200);
        while stage.lead_of(fresh).is_none() {
            assert!(began.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        times.push(began.elapsed().saturating_sub(Duration::from_millis(100)));
        // The cycle ends with its write-back.
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    times.sort();
    println!(
        "delivery to lead, less 100 ms debounce: p50 {:?}, p99 {:?}",
        percentile(&times, 50),
        percentile(&times, 99)
    );
}

/// Ten seconds of valid and forged deliveries as fast as they go. Run by hand, it prints figures:
/// `cargo test --test it webhook::a_flood -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "prints figures, asserts few"]
async fn a_flood_of_valid_and_forged_deliveries_does_not_hurt() {
    let (stage, daemon, url) = listening(69).await;
    let body = br#"{"EventName":"referral-updated"}"#;
    let portal = stage.simulator.portal_url.clone();
    let headers = stage.simulator.with(|world| world.webhooks.headers(&portal, body, true));
    let resident = || {
        let text = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default().trim().to_owned()
    };
    let before = resident();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let stop = Instant::now() + Duration::from_secs(10);
    let senders = (0..32).map(|number| {
        let (client, url, headers) = (client.clone(), url.clone(), headers.clone());
        tokio::spawn(async move {
            let (mut worst, mut count) = (Duration::ZERO, [0_u64; 3]);
            while Instant::now() < stop {
                let is_forged = (number + count.iter().sum::<u64>()) % 2 == 0;
                let mut request = client.post(&url).body(if is_forged { b"{}".to_vec() } else { body.to_vec() });
                for (name, value) in &headers {
                    request = request.header(*name, value);
                }
                let began = Instant::now();
                let status = request.send().await.map_or(0, |answer| answer.status().as_u16());
                worst = worst.max(began.elapsed());
                count[match status {
                    200 => 0,
                    401 => 1,
                    _ => 2,
                }] += 1;
                assert!(!(is_forged && status == 200));
            }
            (worst, count)
        })
    });
    let senders: Vec<_> = senders.collect();
    let mut cycles = std::collections::BTreeSet::new();
    while Instant::now() < stop {
        cycles.insert(daemon.status().await.last_cycle.map(|cycle| cycle.started.millis()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (mut worst, mut count) = (Duration::ZERO, [0_u64; 3]);
    for sender in senders {
        let (slowest, counts) = sender.await.unwrap();
        worst = worst.max(slowest);
        count.iter_mut().zip(counts).for_each(|(sum, one)| *sum += one);
    }
    println!(
        "10 s: {} accepted, {} refused, {} other; slowest answer {worst:?}; {} cycles; resident {before} → {}",
        count[0],
        count[1],
        count[2],
        cycles.len(),
        resident()
    );
    println!("{} rings", webhook(&daemon).await.rings);
    assert_eq!(daemon.stop().await, 0);
}
