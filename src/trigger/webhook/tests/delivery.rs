//! Deliveries at the desk: what is good is answered 200 and rings, and how often it rings.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::Full;
use tokio_util::sync::CancellationToken;

use super::super::certificates::Certificates;
use super::super::desk::Desk;
use super::super::ringer::{Pace, Ringer};
use super::super::source::{Kind, Sources};
use super::super::tally::{Tally, VERIFIED};
use super::authority::*;
use super::fetching::Net;
use crate::trigger::Bell;

pub(super) fn desk(root: &Authority, net: &Arc<Net>) -> Desk {
    let rules = Arc::new(rules_for(trust(&[root]), &["https://store.example/cert/"]));
    let issuers = Sources::new(Kind::Intermediate, &["http://issuers.example/certs/".to_owned()]).expect("prefixes");
    Desk {
        path: "/partner-center".to_owned(),
        certificates: Certificates::new(rules.clone(), issuers, Vec::new(), net.clone(), Arc::new(now), None),
        rules,
        request_timeout: Duration::from_millis(300),
        tls: None,
        tally: Arc::new(Tally::default()),
        ringer: Ringer::default(),
        now: Arc::new(now),
    }
}

async fn post(desk: &Desk, headers: HeaderMap, body: &[u8]) -> StatusCode {
    let mut request =
        Request::post("/partner-center").body(Full::new(Bytes::copy_from_slice(body))).expect("a request");
    *request.headers_mut() = headers;
    request.headers_mut().insert("content-type", "application/json; charset=utf-8".parse().expect("a value"));
    let answer = desk.answer(request).await;
    answer.status()
}

fn style(lines: &[(&str, &str)]) -> HeaderMap {
    let fixed = [("x-ms-certificate-url", URL), ("x-ms-signature-algorithm", "RSA-SHA256")];
    header_lines(&[lines, &fixed].concat())
}

#[tokio::test(start_paused = true)]
async fn good_deliveries_are_taken_in_every_style() {
    let root = Authority::root("Root");
    let desk = desk(&root, &Net::with(&[(URL, root.leaf(&FIRST))]));
    let bare = STANDARD.encode(FIRST.sign(BODY));
    let prefixed = format!("Signature {bare}");
    for lines in [
        vec![("authorization", prefixed.as_str())],
        vec![("x-ms-signature", prefixed.as_str())],
        vec![("x-ms-signature", bare.as_str())],
        vec![("authorization", prefixed.as_str()), ("x-ms-signature", bare.as_str())],
    ] {
        assert_eq!(post(&desk, style(&lines), BODY).await, StatusCode::OK, "{lines:?}");
    }
    assert_eq!(desk.tally.counts().verdicts, [(VERIFIED, 4)].into());
    for body in [&b"no json"[..], b"[]", b"", br#"{"EventName":"invoice-ready"}"#, br#"{"eventname":7}"#] {
        assert_eq!(post(&desk, headers(&FIRST.sign(body), URL), body).await, StatusCode::OK, "{body:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cold_certificate_is_asked_for_again_and_a_new_key_is_found_within_the_answer() {
    let root = Authority::root("Root");
    let net = Net::with(&[(URL, root.leaf(&FIRST))]);
    *net.delay.lock().expect("not poisoned") = Duration::from_secs(2);
    let desk = desk(&root, &net);
    let good = |key: &Key| headers(&key.sign(BODY), URL);
    assert_eq!(post(&desk, good(&FIRST), BODY).await, StatusCode::SERVICE_UNAVAILABLE);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(post(&desk, good(&FIRST), BODY).await, StatusCode::OK, "delivered again");
    *net.delay.lock().expect("not poisoned") = Duration::from_millis(50);
    net.put(URL, root.leaf(&SECOND));
    assert_eq!(post(&desk, good(&SECOND), BODY).await, StatusCode::OK, "rolled over");
    assert_eq!(post(&desk, good(&FIRST), BODY).await, StatusCode::OK, "still under way");
    for _ in 0..50 {
        assert_eq!(post(&desk, good(&SECOND), b"{}").await, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(net.count(), 2, "a forger does not make it ask more often");
}

#[tokio::test(start_paused = true)]
async fn replays_of_a_valid_old_event_cost_at_most_one_ring_per_pause() {
    let root = Authority::root("Root");
    let desk = Arc::new(desk(&root, &Net::with(&[(URL, root.leaf(&FIRST))])));
    let (bell, stop) = (Bell::new(), CancellationToken::new());
    let (ringer, tally, stopped) = (desk.ringer.clone(), desk.tally.clone(), stop.clone());
    let pace = Pace { debounce: Duration::from_secs(1), rings_per_minute: 20 };
    tokio::spawn(async move { ringer.run(&bell, move || pace, || tally.rung(now()), &stopped).await });
    let headers = headers(&FIRST.sign(BODY), URL);
    // Ten seconds, a hundred replays a second.
    for _ in 0..1000 {
        assert_eq!(post(&desk, headers.clone(), BODY).await, StatusCode::OK);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let counts = desk.tally.counts();
    assert_eq!(counts.verdicts[VERIFIED], 1000);
    assert!((1..=11).contains(&counts.rings), "{} rings", counts.rings);
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn events_about_other_things_do_not_ring() {
    let root = Authority::root("Root");
    let desk = desk(&root, &Net::with(&[(URL, root.leaf(&FIRST))]));
    let (bell, stop) = (Bell::new(), CancellationToken::new());
    let (ringer, tally, stopped) = (desk.ringer.clone(), desk.tally.clone(), stop.clone());
    let pace = Pace { debounce: Duration::ZERO, rings_per_minute: 20 };
    tokio::spawn(async move { ringer.run(&bell, move || pace, || tally.rung(now()), &stopped).await });
    for body in [&br#"{"EventName":"test-created"}"#[..], br#"{"EventName":"invoice-ready"}"#, b"x"] {
        assert_eq!(post(&desk, headers(&FIRST.sign(body), URL), body).await, StatusCode::OK);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(desk.tally.counts().rings, 0);
    for name in ["referral-created", "referral-updated", "related-referral-created", "related-referral-updated"] {
        let body = format!(r#"{{"eventName":"{name}"}}"#).into_bytes();
        assert_eq!(post(&desk, headers(&FIRST.sign(&body), URL), &body).await, StatusCode::OK);
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(desk.tally.counts().rings, 4);
}
