//! Alarms of the built program: one message for each change, over a restart, and the URL nowhere.

use std::time::{Duration, Instant};

use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::stage::Stage;

const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until the webhook was given so many messages, and gives their texts.
async fn told(server: &MockServer, number: usize) -> Vec<String> {
    let began = Instant::now();
    loop {
        let requests = server.received_requests().await.unwrap();
        let texts: Vec<String> = requests
            .iter()
            .map(|request| request.body_json::<serde_json::Value>().unwrap()["text"].as_str().unwrap().to_owned())
            .collect();
        if texts.len() >= number {
            return texts;
        }
        assert!(began.elapsed() < PATIENCE, "{texts:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_told_once_over_a_restart_and_its_end_once() {
    let server = MockServer::start().await;
    let hook = || Mock::given(method("POST")).and(path("/hook/s3cret-place"));
    // The first attempt is asked to come back.
    hook()
        .respond_with(ResponseTemplate::new(503).insert_header("retry-after", "1"))
        .up_to_n_times(1)
        .mount(&server)
        .await;
    hook().respond_with(ResponseTemplate::new(200)).mount(&server).await;

    let stage = Stage::new(95, 5).await;
    std::fs::write(stage.path("secret-alarm"), format!("{}/hook/s3cret-place\n", server.uri())).unwrap();
    let file = stage.path("secret-alarm").display().to_string();
    let alarm = format!("[alarm]\nurl_file = \"{file}\"\nname = \"contoso\"\nclear_after = \"1s\"\n");
    stage.overlay(&alarm);
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    assert_eq!(stage.run(&["suspend"]).await.code, 0);
    let texts = told(&server, 2).await;
    assert!(texts[0].starts_with("contoso: to look at: writing is suspended by an operator"), "{texts:?}");
    assert_eq!(texts[0], texts[1], "what was not taken comes again");
    let status =
        daemon.until("the delivery", |status| status.alarm.as_ref().is_some_and(|alarm| alarm.delivered == 1)).await;
    assert!(status.alarm.unwrap().open.contains_key("writing"));
    daemon.until_logged("alarm: to look at: writing is suspended").await;
    let log = daemon.logged();
    assert_eq!(log.matches("alarm: to look at: writing is suspended").count(), 1, "once in the log, too");
    assert_eq!(daemon.stop().await, 0);

    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    assert_eq!(stage.run(&["resume"]).await.code, 0);
    let texts = told(&server, 3).await;
    assert!(texts[2].starts_with("contoso: well again after"), "{texts:?}");
    let status =
        daemon.until("the end", |status| status.alarm.as_ref().is_some_and(|alarm| alarm.open.is_empty())).await;
    let alarm = status.alarm.unwrap();
    assert_eq!((alarm.delivered, alarm.lost, alarm.waiting, texts.len()), (1, 0, 0, 3));
    for text in [log, daemon.logged(), std::fs::read_to_string(stage.state().join("keep/alarm.json")).unwrap()] {
        assert!(!text.contains("s3cret-place"), "whoever knows the URL can post there");
    }
    assert_eq!(daemon.stop().await, 0);
    stage.judge_discretion();
}
