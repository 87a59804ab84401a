//! A person signs in, by browser, by pasting and by device code, beside a running daemon.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Child;
use std::time::Duration;

use referrald::sim::entra::Person;
use serde_json::{Value, json};

use crate::sign_in::signed_out;
use crate::stage::{Stage, says};

/// Starts `login` on any free port, and reads where the person shall go.
fn begin(stage: &Stage, more: &[&str]) -> (Child, BufReader<std::process::ChildStdout>, Value) {
    let mut child = stage.talk(&[&["login", "--json", "--port", "0"], more].concat());
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let said = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    (child, lines, said)
}

fn browser() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

/// Opens the address as the person would, and gives the one that the browser is sent to.
async fn open(said: &Value) -> String {
    let answer = browser().get(said["open"].as_str().unwrap()).send().await.unwrap();
    answer.headers()["location"].to_str().unwrap().to_owned()
}

/// The end of `login`: exit code, the proof, complaints.
async fn ended(stage: &Stage, child: Child, mut lines: BufReader<std::process::ChildStdout>) -> (i32, Value, String) {
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut lines, &mut rest).unwrap();
    let finished = stage.finished(child).await;
    let said: Vec<Value> = serde_json::Deserializer::from_str(&rest).into_iter().map_while(Result::ok).collect();
    (finished.code, said.last().cloned().unwrap_or_default(), finished.trouble)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_by_browser_is_proven_and_a_running_daemon_goes_on_with_it() {
    let (stage, daemon, fresh, status) = signed_out(71).await;
    let trouble = status.sides.values().find_map(|side| side.trouble.clone()).unwrap_or_default();
    assert!(trouble.contains("50173") && trouble.contains(" login`"), "{trouble}");
    assert_eq!(stage.lead_of(fresh), None);

    let (child, lines, said) = begin(&stage, &[]);
    let redirect = said["redirect"].as_str().unwrap().to_owned();
    let here = redirect.replace("localhost", "127.0.0.1");
    // Rubbish first: a port scan, a wrong state, an icon.
    let client = browser();
    for path in ["/favicon.ico", "/?code=stolen&state=guessed", "/?error=x"] {
        let status = client.get(format!("{here}{path}")).send().await.unwrap().status().as_u16();
        assert!(status == 400 || status == 404, "{path}: {status}");
    }
    let location = open(&said).await;
    assert!(location.starts_with(&redirect), "{location}");
    let answer = client.get(location.replace("localhost", "127.0.0.1")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.text().await.unwrap().contains("go back to the terminal"));
    let (code, proof, trouble) = ended(&stage, child, lines).await;
    assert_eq!(code, 0, "{proof:#} {trouble}");
    assert_eq!(proof["methods"], json!(["pwd", "mfa"]), "{proof:#}");
    assert_eq!((&proof["partner_center"]["answers"], &proof["dynamics"]["answers"]), (&json!(true), &json!(true)));
    let kept = proof["kept"].as_str().unwrap();
    assert_eq!(std::fs::metadata(kept).unwrap().permissions().mode() & 0o777, 0o600);

    // The daemon notices by itself, although the file with the first token is the old one.
    let status = daemon.cycle().await;
    assert!(status.sides.values().all(|side| side.trouble.is_none()), "{status:#?}");
    assert!(stage.lead_of(fresh).is_some());
    assert_eq!(daemon.stop().await, 0);
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_pasted_does_as_well_as_a_browser_here() {
    let stage = Stage::new(72, 3).await;
    let (mut child, lines, said) = begin(&stage, &[]);
    let location = open(&said).await;
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "what shall I type\nhttp://localhost:1/?code=x&state=y\n\n{location}").unwrap();
    let (code, proof, trouble) = ended(&stage, child, lines).await;
    assert_eq!(code, 0, "{proof:#} {trouble}");
    // The code was good once.
    assert_eq!(proof["partner_center"]["sees_referrals"], true);
    stage.judge_discretion();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_code_is_polled_with_patience() {
    let stage = Stage::new(73, 3).await;
    stage.simulator.with(|world| world.options.device_interval = Duration::from_millis(1500));
    let mut child = stage.talk(&["login", "--device-code"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    std::io::Read::read_to_string(&mut lines, &mut said).unwrap();
    let finished = stage.finished(child).await;
    assert_eq!(finished.code, 0, "{said} {}", finished.trouble);
    assert!(said.contains("SIM123456") && said.contains("https://microsoft.com/devicelogin"), "{said}");
    assert!(said.contains("Second factor   yes (pwd, mfa)"), "{said}");
    assert!(!said.contains("example.test"), "no account name outside a terminal: {said}");
    stage.judge_discretion();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_daemon_leaves_a_refused_token_as_soon_as_somebody_signs_in() {
    let stage = Stage::new(75, 3).await;
    stage.simulator.with(|world| {
        world.options.device_interval = Duration::ZERO;
        world.options.person = Person::SignsInWithoutMfa;
    });
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    // Its access token would be good for an hour; a sign-in replaces it, even one without a second factor.
    assert_eq!(stage.run(&["login", "--device-code"]).await.code, 1);
    for _ in 0..2 {
        let status = daemon.cycle().await;
        let trouble = status.sides.values().find_map(|side| side.trouble.clone()).unwrap_or_default();
        assert!(trouble.contains("900421"), "{trouble}");
    }
    stage.simulator.with(|world| world.options.person = Person::SignsIn);
    let finished = stage.run(&["login", "--device-code"]).await;
    assert_eq!(finished.code, 0, "{finished:?}");
    let status = daemon.cycle().await;
    assert!(status.sides.values().all(|side| side.trouble.is_none()), "{status:#?}");
    assert_eq!(daemon.stop().await, 0);
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_a_sign_in_fails_is_told_in_a_sentence() {
    let stage = Stage::new(74, 3).await;
    stage.simulator.with(|world| world.options.device_interval = Duration::from_millis(200));
    for (person, words) in
        [(Person::Declines, "the code was declined"), (Person::StaysAway, "the code was not entered in time")]
    {
        stage.simulator.with(|world| world.options.person = person);
        let finished = stage.run(&["login", "--device-code"]).await;
        assert_eq!(finished.code, 1, "{finished:?}");
        assert!(finished.complains(words) && finished.complains("sign in again"), "{}", finished.trouble);
    }
    stage.simulator.with(|world| world.options.person = Person::Declines);
    let (child, lines, said) = begin(&stage, &[]);
    let location = open(&said).await;
    browser().get(location.replace("localhost", "127.0.0.1")).send().await.unwrap();
    let (code, _, trouble) = ended(&stage, child, lines).await;
    assert!(code == 1 && trouble.contains("AADSTS65004") && says(&trouble, "did not agree"), "{trouble}");

    // Signed in, but with a password alone: kept, tried, and refused by Partner Center.
    stage.simulator.with(|world| world.options.person = Person::SignsInWithoutMfa);
    let finished = stage.run(&["login", "--device-code"]).await;
    assert!(finished.code == 1 && finished.out.contains("900421"), "{finished:?}");
    assert!(finished.out.contains("Second factor   no (pwd)"), "{}", finished.out);

    // A side whose application signs in by itself is just proven.
    let finished = stage.run(&["login", "--side", "dataverse"]).await;
    assert!(finished.code == 0 && finished.out.contains("nobody has to sign in by hand"), "{finished:?}");
    stage.judge_discretion();
}
