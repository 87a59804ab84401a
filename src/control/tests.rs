//! Round trips over a real socket, with an engine that has nothing behind it.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{CONNECTIONS_MAX, Client, ControlError, Place, REQUEST_BYTES_MAX, REQUEST_TIMEOUT, Server};
use crate::cycle::{Forecast, report::Sentence};
use crate::daemon::fake::FakeEngine;
use crate::daemon::{DecisionAnswer, DecisionRequest, Detail, Engine, Status, Which};
use crate::model::ReferralId;
use crate::ports::Take;
use crate::trigger::Bell;

struct Desk {
    engine: Arc<FakeEngine>,
    bell: Bell,
    place: Place,
    _server: Server,
    directory: tempfile::TempDir,
}

impl Desk {
    async fn open(engine: FakeEngine) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let place = Place::new(None, None, directory.path());
        let (engine, bell) = (Arc::new(engine), Bell::new());
        let server = Server::start(&place, engine.clone() as Arc<dyn Engine>, bell.clone()).await.expect("served");
        Desk { engine, bell, place, _server: server, directory }
    }

    async fn client(&self) -> Client {
        Client::find(&self.place).await.expect("no trouble").expect("it runs")
    }

    async fn has_rung(&self) -> bool {
        tokio::time::timeout(Duration::from_millis(20), self.bell.rung()).await.is_ok()
    }

    /// Sends bytes as they are, returns what comes back.
    async fn raw(&self, request: &[u8]) -> String {
        let path = self.directory.path().join("control.sock");
        let mut stream = tokio::net::UnixStream::connect(path).await.expect("connected");
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn id(number: u128) -> ReferralId {
    ReferralId::new(uuid::Uuid::from_u128(number))
}

#[tokio::test]
async fn status_and_plan_arrive_whole() {
    let status = Status { version: "1.2.3".into(), backlog: 7, ..Status::default() };
    let line = Sentence { referral: "r".into(), kind: "create".into(), text: "create a lead".into() };
    let forecast = Forecast { actions: vec![line], ..Forecast::default() };
    let desk =
        Desk::open(FakeEngine { status: status.clone(), forecast: forecast.clone(), ..FakeEngine::default() }).await;
    let client = desk.client().await;
    assert_eq!(client.status().await.expect("answered"), status);
    assert_eq!(client.plan(Detail::Values).await.expect("answered"), forecast);
}

#[tokio::test]
async fn every_decision_arrives_as_it_was_sent() {
    let desk = Desk::open(FakeEngine::default()).await;
    let client = desk.client().await;
    let decisions = vec![
        DecisionRequest::Suspend,
        DecisionRequest::Resume,
        DecisionRequest::Approve { digest: "organization".into() },
        DecisionRequest::Hold { ids: vec![id(1), id(2)] },
        DecisionRequest::Release { which: Which::All, group: Some("amount".into()), take: Some(Take::Lead) },
        DecisionRequest::Release { which: Which::Ids(vec![id(3)]), group: None, take: None },
        DecisionRequest::Retry { which: Which::Ids(vec![id(4)]) },
        DecisionRequest::Retry { which: Which::Cause("refused".into()) },
        DecisionRequest::Retry { which: Which::All },
        DecisionRequest::Forget { ids: vec![id(5), id(6)] },
    ];
    for decision in &decisions {
        assert!(client.decide(decision).await.expect("answered").is_done);
    }
    assert_eq!(*desk.engine.decisions.lock().expect("not poisoned"), decisions);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_can_be_looked_at_and_an_export_arrives_piece_by_piece() {
    let desk = Desk::open(FakeEngine::default()).await;
    let client = desk.client().await;
    assert_eq!(client.check().await.expect("answered").entries, 7);
    let history = client.history(id(9)).await.expect("answered");
    assert_eq!((history.len(), history[0].referral), (1, id(9)));
    let mut out = Vec::new();
    client.export(&mut out).await.expect("answered");
    assert_eq!(out, "a line\n".repeat(30_000).into_bytes());
}

#[tokio::test]
async fn reconcile_rings_and_so_do_decisions_that_allow_something() {
    let desk = Desk::open(FakeEngine::default()).await;
    let client = desk.client().await;
    client.reconcile().await.expect("answered");
    assert!(desk.has_rung().await);
    client.decide(&DecisionRequest::Resume).await.expect("answered");
    assert!(desk.has_rung().await);
    client.decide(&DecisionRequest::Suspend).await.expect("answered");
    assert!(!desk.has_rung().await, "a pause needs no cycle");
}

#[tokio::test]
async fn a_decision_about_nothing_is_told_and_rings_nothing() {
    let answer = DecisionAnswer { text: "no brake has this digest".into(), ..DecisionAnswer::default() };
    let desk = Desk::open(FakeEngine { answer: answer.clone(), ..FakeEngine::default() }).await;
    let told = desk.client().await.decide(&DecisionRequest::Approve { digest: "0".into() }).await.expect("answered");
    assert_eq!(told, answer);
    assert!(!desk.has_rung().await);
}

#[tokio::test]
async fn without_a_daemon_nobody_is_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::new(None, None, directory.path());
    assert!(Client::find(&place).await.expect("no trouble").is_none());
    let desk = Desk::open(FakeEngine::default()).await;
    let client = desk.client().await;
    let place = desk.place.clone();
    drop(desk);
    assert!(Client::find(&place).await.expect("no trouble").is_none());
    assert!(matches!(client.status().await, Err(ControlError::Failed(_))));
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_with_a_sentence() {
    let desk = Desk::open(FakeEngine::default()).await;
    for (request, status, words) in [
        ("GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n", "404", "no such request"),
        ("POST /status HTTP/1.1\r\nhost: x\r\n\r\n", "405", "wrong method"),
        ("POST /approve HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}", "422", "digest"),
        ("POST /approve HTTP/1.1\r\nhost: x\r\ncontent-length: 22\r\n\r\n{\"digest\":\"1\",\"all\":1}", "422", "all"),
        (
            "POST /hold HTTP/1.1\r\nhost: x\r\ncontent-length: 15\r\n\r\n{\"ids\":[\"seven\"]}",
            "422",
            "could not be read",
        ),
        ("POST /release HTTP/1.1\r\nhost: x\r\ncontent-length: 25\r\n\r\n{\"which\":{\"cause\":\"word\"}}", "422", ""),
    ] {
        let answer = desk.raw(request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(words), "{request}\n{answer}");
    }
    assert!(desk.engine.decisions.lock().expect("not poisoned").is_empty());
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let desk = Desk::open(FakeEngine::default()).await;
    let body = "x".repeat(REQUEST_BYTES_MAX + 1);
    let head = format!("POST /hold HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    let answer = desk.raw(format!("{head}{body}").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(desk.engine.decisions.lock().expect("not poisoned").is_empty());
}

#[tokio::test]
async fn silent_connections_up_to_the_limit_are_cut_and_others_are_served_then() {
    let desk = Desk::open(FakeEngine::default()).await;
    let path = desk.directory.path().join("control.sock");
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        silent.push(tokio::net::UnixStream::connect(&path).await.expect("connected"));
    }
    let client = Client::find(&desk.place).await.expect("no trouble").expect("it runs");
    let waiting = tokio::time::timeout(Duration::from_millis(100), client.status()).await;
    assert!(waiting.is_err(), "the limit does not hold");
    silent.clear();
    client.status().await.expect("answered when there is room");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_finish_its_request_is_cut_off() {
    let desk = Desk::open(FakeEngine::default()).await;
    let began = tokio::time::Instant::now();
    // The clock runs to the next timer whenever everybody waits.
    desk.raw(b"GET /status HTTP/1.1\r\nhost:").await;
    assert_eq!(began.elapsed(), REQUEST_TIMEOUT);
    let answer = desk.raw(b"POST /approve HTTP/1.1\r\nhost: x\r\ncontent-length: 20\r\n\r\n{\"dig").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(desk.engine.decisions.lock().expect("not poisoned").is_empty());
}
