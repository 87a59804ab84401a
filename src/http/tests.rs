//! The client stack against a server on loopback and a clock that only moves when somebody waits.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderMap, Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;
use uuid::Uuid;
use wiremock::matchers::{body_string_contains, header, method, path};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use super::settings::{AuthSettings, EndpointVersion, Grant, HttpSettings, LimitSettings};
use super::*;
use crate::config::HumanDuration;
use crate::ports::{Clock, Line};

/// 2026-11-20T10:00:00Z.
pub(super) const START: Timestamp = Timestamp::from_seconds(1_795_168_800);

/// A clock that moves exactly when somebody sleeps on it.
pub(super) struct FakeClock {
    now: Mutex<Timestamp>,
    slept: Mutex<Vec<Duration>>,
}

impl FakeClock {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(FakeClock { now: Mutex::new(START), slept: Mutex::default() })
    }

    pub(super) fn advance(&self, duration: Duration) {
        let mut now = self.now.lock().unwrap();
        *now = now.plus(duration);
    }

    fn set(&self, instant: Timestamp) {
        *self.now.lock().unwrap() = instant;
    }

    pub(super) fn slept(&self) -> Duration {
        self.slept.lock().unwrap().iter().sum()
    }
}

#[async_trait]
impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }

    async fn sleep(&self, duration: Duration) {
        self.advance(duration);
        self.slept.lock().unwrap().push(duration);
        tokio::task::yield_now().await;
    }
}

pub(super) fn http_settings() -> HttpSettings {
    HttpSettings {
        user_agent: "referrald/test".into(),
        extra_roots_file: None,
        proxy: None,
        connect_timeout: HumanDuration::from_seconds(5),
        read_timeout: HumanDuration::from_seconds(20),
        write_timeout: HumanDuration::from_seconds(20),
        response_bytes_max: 64 * 1024,
        attempts_max: 4,
        retry_delay: HumanDuration::from_seconds(1),
        retry_delay_max: HumanDuration::from_seconds(30),
        retry_after_wait_max: HumanDuration::from_seconds(60),
    }
}

/// Client credentials by a secret in `directory/secret`.
pub(super) fn auth_settings(authority: &str, directory: &Path) -> AuthSettings {
    let secret = directory.join("secret");
    std::fs::write(&secret, "app-secret-1\n").unwrap();
    AuthSettings {
        authority: Url::parse(authority).unwrap(),
        tenant_id: Some("contoso.example".into()),
        client_id: Some("app-1".into()),
        client_secret_file: Some(secret),
        client_secret_credential: None,
        client_secret_environment: None,
        client_secret_expires: None,
        certificate_file: None,
        private_key_file: None,
        grant: Grant::ClientCredentials,
        refresh_token_file: None,
        refresh_token_credential: None,
        username: None,
        password_file: None,
        endpoint_version: EndpointVersion::V2,
        audience: None,
    }
}

/// A dialect with the common meanings; 401 with `900421` in the body needs a human.
struct Plain;

impl Dialect for Plain {
    fn side(&self) -> Side {
        Side::Portal
    }

    fn classify(&self, status: StatusCode, _headers: &HeaderMap, body: &[u8]) -> Refusal {
        let text = String::from_utf8_lossy(body);
        let verdict = match status.as_u16() {
            401 if text.contains("900421") => RefusalVerdict::NeedsHuman,
            401 => RefusalVerdict::TokenRefused,
            403 => RefusalVerdict::Unauthorized,
            404 => RefusalVerdict::Missing,
            409 | 412 => RefusalVerdict::Conflict,
            429 => RefusalVerdict::Throttled {
                default_wait: Duration::from_secs(7),
                facet: if text.contains("concurrent") { Facet::Concurrency } else { Facet::Unknown },
            },
            507 => RefusalVerdict::Again,
            508 => RefusalVerdict::Closed { wait_min: Duration::from_secs(300) },
            500.. => RefusalVerdict::Unavailable,
            _ => RefusalVerdict::Refused,
        };
        let code = text.contains("900421").then(|| "900421".to_owned());
        let message = (status.as_u16() == 508).then(|| "closed for repair".to_owned());
        super::Refusal { verdict, code, message }
    }

    fn headers(&self, correlation: Uuid, request: Option<Uuid>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("ms-correlationid", correlation.to_string().parse().unwrap());
        if let Some(request) = request {
            headers.insert("ms-requestid", request.to_string().parse().unwrap());
        }
        headers
    }
}

/// A service, its token endpoint and a client for both.
struct Stage {
    server: MockServer,
    clock: Arc<FakeClock>,
    client: Arc<Client>,
    directory: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Stage {
        Stage::with(http_settings(), LimitSettings { requests_per_minute: 6000, in_flight_max: 8, protection: None })
            .await
    }

    async fn with(http: HttpSettings, limits: LimitSettings) -> Stage {
        let server = MockServer::start().await;
        let base = Url::parse(&server.uri()).unwrap();
        Stage::at(server, base, http, limits).await
    }

    /// Tokens from `server`, calls to `base`.
    async fn at(server: MockServer, base: Url, http: HttpSettings, limits: LimitSettings) -> Stage {
        let count = AtomicUsize::new(0);
        Mock::given(path("/contoso.example/oauth2/v2.0/token"))
            .respond_with(move |_: &Request| {
                let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                let body =
                    json!({"token_type": "Bearer", "expires_in": 3600, "access_token": format!("access-{number}")});
                ResponseTemplate::new(200).set_body_json(body)
            })
            .mount(&server)
            .await;
        let directory = tempfile::tempdir().unwrap();
        let clock = FakeClock::new();
        let auth = auth_settings(&server.uri(), directory.path());
        let keep = directory.path().join("keep");
        let tokens = Tokens::new(Side::Portal, "t.auth", "https://api.example", &auth, &http, &keep, clock.clone());
        let client = Client::new(Arc::new(Plain), base, &http, limits, Arc::new(tokens.unwrap()), clock.clone());
        Stage { server, clock, client: Arc::new(client.unwrap()), directory }
    }

    /// Answers calls to `/thing` with these, the last one for ever.
    async fn answers(&self, answers: Vec<ResponseTemplate>) {
        let next = AtomicUsize::new(0);
        Mock::given(path("/thing"))
            .respond_with(move |_: &Request| {
                let index = next.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1);
                answers[index].clone()
            })
            .mount(&self.server)
            .await;
    }

    fn call(&self, effect: Effect) -> Call {
        call(&format!("{}/thing", self.server.uri()), effect)
    }

    async fn read(&self) -> Result<Answer, RemoteError> {
        self.client.send(self.call(Effect::Read)).await
    }

    async fn write(&self) -> Result<Answer, RemoteError> {
        self.client.send(self.call(Effect::Write)).await
    }

    /// Requests that the service saw.
    async fn seen(&self) -> Vec<Request> {
        let mut requests = self.server.received_requests().await.unwrap();
        requests.retain(|request| request.url.path() == "/thing");
        requests
    }
}

fn call(url: &str, effect: Effect) -> Call {
    let (method, body) = match effect {
        Effect::Read => (Method::GET, None),
        Effect::Write => (Method::PATCH, Some(Bytes::from_static(b"{\"name\":\"private\"}"))),
    };
    Call {
        operation: "get thing",
        method,
        url: Url::parse(url).unwrap(),
        headers: HeaderMap::new(),
        body,
        effect,
        request: Some(Uuid::from_u128(7)),
        timeout: None,
        items: 1,
    }
}

fn status(status: u16) -> ResponseTemplate {
    ResponseTemplate::new(status)
}

fn ok() -> ResponseTemplate {
    status(200).set_body_json(json!({"value": 1}))
}

#[tokio::test]
async fn a_call_carries_token_correlation_and_request_id_and_brings_the_answer() {
    let stage = Stage::new().await;
    let date = "Fri, 20 Nov 2026 10:00:05 GMT";
    let templates = vec![status(503), ok().insert_header("Request-ID", "r-1").insert_header("date", date)];
    stage.answers(templates).await;
    let answer = stage.read().await.unwrap();
    assert_eq!(answer.json::<serde_json::Value>().unwrap(), json!({"value": 1}));
    assert_eq!(answer.request_id.as_deref(), Some("r-1"));
    assert_eq!(answer.server_time, Timestamp::parse("2026-11-20T10:00:05Z"));

    let seen = stage.seen().await;
    let value = |index: usize, name: &str| seen[index].headers[name].to_str().unwrap().to_owned();
    assert_eq!(value(0, "authorization"), "Bearer access-1");
    assert_eq!(value(0, "user-agent"), "referrald/test");
    assert_ne!(value(0, "ms-correlationid"), value(1, "ms-correlationid"), "fresh for each attempt");
    assert_eq!(value(0, "ms-requestid"), value(1, "ms-requestid"), "the same for every replay");
    assert_eq!(stage.client.requests_sent(), 2);
    assert_eq!(stage.client.tokens().requests_sent(), 1);
}

#[tokio::test]
async fn headers_of_the_call_win_and_json_is_the_default() {
    let stage = Stage::new().await;
    stage.answers(vec![status(204)]).await;
    stage.write().await.unwrap();
    let mut special = stage.call(Effect::Write);
    special.headers.insert("content-type", "application/json-patch+json".parse().unwrap());
    special.headers.insert("authorization", "Basic c3B5".parse().unwrap());
    stage.client.send(special).await.unwrap();
    let seen = stage.seen().await;
    assert_eq!(seen[0].headers["content-type"], "application/json");
    assert_eq!(seen[1].headers.get_all("content-type").iter().count(), 1);
    assert_eq!(seen[1].headers["content-type"], "application/json-patch+json");
    assert_eq!(seen[1].headers["authorization"], "Bearer access-1");
    assert_eq!(seen[1].body, b"{\"name\":\"private\"}");
}

#[tokio::test]
async fn a_refused_token_is_renewed_once() {
    let stage = Stage::new().await;
    stage.answers(vec![status(401), ok()]).await;
    stage.write().await.unwrap();
    let tokens: Vec<_> = stage.seen().await.iter().map(|request| request.headers["authorization"].clone()).collect();
    assert_eq!(tokens, ["Bearer access-1", "Bearer access-2"]);
}

#[tokio::test]
async fn a_token_refused_twice_is_unauthorized() {
    let stage = Stage::new().await;
    stage.answers(vec![status(401)]).await;
    let error = stage.read().await.unwrap_err();
    assert_eq!((error.fault, error.status), (Fault::Unauthorized, Some(401)));
    assert_eq!(stage.seen().await.len(), 2);
}

#[tokio::test]
async fn a_missing_mfa_claim_needs_a_human_at_once() {
    let stage = Stage::new().await;
    stage.answers(vec![status(401).set_body_string(r#"{"code":"900421","description":"anna@contoso.com"}"#)]).await;
    let error = stage.read().await.unwrap_err();
    assert_eq!((&error.fault, error.code.as_deref()), (&Fault::NeedsHuman, Some("900421")));
    assert!(!error.to_string().contains("anna"));
    assert_eq!((stage.seen().await.len(), stage.client.tokens().requests_sent()), (1, 1));
}

#[tokio::test]
async fn a_token_that_the_service_doubts_is_renewed_as_soon_as_the_sign_in_has_changed() {
    let mfa = || status(401).set_body_string(r#"{"code":"900421"}"#);
    for doubt in [mfa(), status(403)] {
        let stage = Stage::new().await;
        stage.answers(vec![doubt.clone(), doubt.clone(), doubt, ok()]).await;
        for _ in 0..3 {
            stage.read().await.unwrap_err();
        }
        assert_eq!(stage.client.tokens().requests_sent(), 1, "nothing has changed");
        std::fs::write(stage.directory.path().join("secret"), "another\n").unwrap();
        stage.read().await.unwrap();
        assert_eq!(stage.client.tokens().requests_sent(), 2);
        assert_eq!(stage.seen().await[3].headers["authorization"], "Bearer access-2");
    }
}

/// One throttled answer, then success: returns how long the call waited.
async fn waited(throttled: ResponseTemplate, effect: Effect) -> Duration {
    let stage = Stage::new().await;
    stage.answers(vec![throttled, ok()]).await;
    stage.client.send(stage.call(effect)).await.unwrap();
    assert_eq!(stage.seen().await.len(), 2);
    stage.clock.slept()
}

#[tokio::test]
async fn a_short_retry_after_is_waited_out_in_full() {
    let seconds = |count| Duration::from_secs(count);
    for (answer, asked) in [
        (status(429).insert_header("retry-after", "30"), 30),
        (
            status(429)
                .insert_header("date", "Fri, 20 Nov 2026 08:00:00 GMT")
                .insert_header("retry-after", "Fri, 20 Nov 2026 08:00:40 GMT"),
            40,
        ),
        (status(429), 7),
        (status(503).insert_header("retry-after", "12"), 12),
        (status(429).insert_header("retry-after", "0"), 1),
    ] {
        for effect in [Effect::Read, Effect::Write] {
            let waited = waited(answer.clone(), effect).await;
            assert!(waited >= seconds(asked), "{asked} s: waited {waited:?}");
            assert!(waited <= seconds(asked).mul_f64(1.15), "{asked} s: waited {waited:?}");
        }
    }
}

#[tokio::test]
async fn a_service_that_does_not_say_how_long_is_asked_ever_more_seldom_up_to_five_minutes() {
    let stage = Stage::new().await;
    let throttled = || vec![status(429); 12];
    stage.answers([throttled(), vec![ok(), status(429)]].concat()).await;
    let mut longest = Vec::new();
    while stage.seen().await.len() < 12 {
        let Err(error) = stage.read().await else { panic!("throttled {} times only", stage.seen().await.len()) };
        let Fault::Throttled { until } = error.fault else { panic!("{error}") };
        longest.push(until.since(stage.clock.now()).as_secs_f64().round() as u64);
        stage.clock.set(until);
    }
    assert_eq!(longest.last(), Some(&client::UNTOLD_WAIT_MAX.as_secs()), "{longest:?}");
    assert!(longest.is_sorted(), "{longest:?}");
    // An answer, and it is as patient as at first.
    stage.read().await.unwrap();
    stage.client.send(stage.call(Effect::Read)).await.unwrap_err();
    assert!(stage.client.closed_until().unwrap().since(stage.clock.now()) <= Duration::from_secs(60));
}

#[tokio::test]
async fn nothing_is_sent_beyond_an_allowance_retries_included_until_its_end() {
    let stage = Stage::new().await;
    stage.answers(vec![status(503), status(503), ok(), ok()]).await;
    let until = START.plus(Duration::from_secs(3600));
    stage.client.allow(Some(crate::ports::Allowance { requests: 2, until }));
    let error = stage.read().await.unwrap_err();
    assert_eq!(error.fault, Fault::Throttled { until }, "the third attempt is one too many");
    let error = stage.client.send(stage.call(Effect::Write)).await.unwrap_err();
    assert_eq!((error.fault, error.is_outcome_unknown), (Fault::Throttled { until }, false));
    assert_eq!((stage.seen().await.len(), stage.client.requests_sent()), (2, 2));
    assert_eq!(stage.client.closed_until(), None, "the service did not ask for it");
    stage.clock.set(until);
    stage.read().await.unwrap();
}

#[tokio::test]
async fn nothing_is_sent_inside_a_long_window_and_every_call_learns_its_end() {
    let stage = Stage::new().await;
    stage.answers(vec![status(429).insert_header("retry-after", "600"), ok()]).await;
    let until = START.plus(Duration::from_secs(600));
    let error = stage.read().await.unwrap_err();
    assert_eq!(error.fault, Fault::Throttled { until });
    assert_eq!(stage.client.closed_until(), Some(until));
    for effect in [Effect::Read, Effect::Write] {
        stage.clock.advance(Duration::from_secs(100));
        let error = stage.client.send(stage.call(effect)).await.unwrap_err();
        assert_eq!((error.fault, error.is_outcome_unknown), (Fault::Throttled { until }, false));
    }
    assert_eq!((stage.seen().await.len(), stage.client.requests_sent()), (1, 1));
    stage.clock.set(until);
    assert_eq!(stage.client.closed_until(), None);
    stage.read().await.unwrap();
    assert_eq!(stage.clock.slept(), Duration::ZERO);
}

#[tokio::test]
async fn a_service_that_is_closed_to_everybody_is_left_alone_and_has_done_nothing() {
    for (answer, seconds) in [(status(508), 300), (status(508).insert_header("retry-after", "20"), 300)] {
        let stage = Stage::new().await;
        stage.answers(vec![answer]).await;
        let until = START.plus(Duration::from_secs(seconds));
        let error = stage.write().await.unwrap_err();
        assert_eq!((error.fault, error.is_outcome_unknown), (Fault::Throttled { until }, false));
        let later = stage.read().await.unwrap_err();
        assert_eq!((later.fault, later.message.as_deref()), (Fault::Throttled { until }, Some("closed for repair")));
        assert_eq!((stage.seen().await.len(), stage.client.closed_until()), (1, Some(until)));
    }
}

/// Answers 429 once and writes down when requests come.
struct Recorder {
    clock: Arc<FakeClock>,
    arrivals: Mutex<Vec<Timestamp>>,
}

impl Respond for Recorder {
    fn respond(&self, _: &Request) -> ResponseTemplate {
        let mut arrivals = self.arrivals.lock().unwrap();
        arrivals.push(self.clock.now());
        // The third request closes the service.
        if arrivals.len() == 3 { status(429).insert_header("retry-after", "50") } else { ok() }
    }
}

#[tokio::test]
async fn one_refusal_holds_back_all_callers() {
    let stage =
        Stage::with(http_settings(), LimitSettings { requests_per_minute: 6000, in_flight_max: 1, protection: None })
            .await;
    let recorder = Arc::new(Recorder { clock: stage.clock.clone(), arrivals: Mutex::default() });
    let shared = recorder.clone();
    Mock::given(path("/thing"))
        .respond_with(move |request: &Request| shared.respond(request))
        .mount(&stage.server)
        .await;
    let calls = (0..10).map(|_| {
        let (client, call) = (stage.client.clone(), stage.call(Effect::Write));
        tokio::spawn(async move { client.send(call).await })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().unwrap();
    }
    let arrivals = recorder.arrivals.lock().unwrap();
    assert_eq!(arrivals.len(), 11);
    let window_ends = arrivals[2].plus(Duration::from_secs(50));
    assert!(arrivals[3..].iter().all(|arrival| *arrival >= window_ends), "{arrivals:?}, window ends {window_ends}");
}

#[tokio::test]
async fn callers_who_stood_in_line_when_the_service_closed_do_not_send() {
    let stage =
        Stage::with(http_settings(), LimitSettings { requests_per_minute: 6000, in_flight_max: 1, protection: None })
            .await;
    let long = status(429).insert_header("retry-after", "600");
    stage.answers(vec![ok(), ok(), long, ok()]).await;
    let calls = (0..10).map(|_| stage.client.send(stage.call(Effect::Write)));
    let results = futures_util::future::join_all(calls).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 2);
    assert_eq!((stage.seen().await.len(), stage.client.requests_sent()), (3, 3));
}

#[tokio::test]
async fn the_call_that_met_a_long_window_tells_the_whole_story() {
    let stage = Stage::new().await;
    stage.answers(vec![status(429).insert_header("retry-after", "600").insert_header("request-id", "r-7")]).await;
    let error = stage.write().await.unwrap_err();
    assert_eq!((error.status, error.request_id.as_deref()), (Some(429), Some("r-7")));
}

#[tokio::test]
async fn any_server_fault_may_close_the_service() {
    for (effect, is_unknown) in [(Effect::Read, false), (Effect::Write, true)] {
        let stage = Stage::new().await;
        stage.answers(vec![status(502).insert_header("retry-after", "600")]).await;
        let error = stage.client.send(stage.call(effect)).await.unwrap_err();
        assert_eq!((error.fault, error.is_outcome_unknown), (Fault::Unavailable, is_unknown));
        assert_eq!(stage.client.closed_until(), Some(START.plus(Duration::from_secs(600))));
        assert_eq!(stage.seen().await.len(), 1);
    }
    let stage = Stage::new().await;
    stage.answers(vec![status(502).insert_header("retry-after", "20"), ok()]).await;
    stage.read().await.unwrap();
    assert!(stage.clock.slept() >= Duration::from_secs(20));
}

#[tokio::test]
async fn a_window_of_a_former_process_is_restored_and_never_shortened() {
    let stage = Stage::new().await;
    stage.answers(vec![ok()]).await;
    let until = START.plus(Duration::from_secs(900));
    stage.client.close_until(until);
    stage.client.close_until(START.plus(Duration::from_secs(10)));
    assert_eq!(stage.client.closed_until(), Some(until));
    assert_eq!(stage.read().await.unwrap_err().fault, Fault::Throttled { until });
    stage.client.close_until(START.minus(Duration::from_secs(1)));
    assert_eq!(stage.seen().await.len(), 0);
}

#[tokio::test]
async fn a_local_clock_set_back_does_not_prolong_a_window() {
    let stage = Stage::new().await;
    stage.client.close_until(START.plus(Duration::from_secs(100)));
    let earlier = START.minus(Duration::from_secs(3600));
    stage.clock.set(earlier);
    assert_eq!(stage.client.closed_until(), Some(earlier.plus(Duration::from_secs(100))));
}

#[tokio::test]
async fn throttling_without_end_gives_up_after_the_attempts() {
    let stage = Stage::new().await;
    stage.answers(vec![status(429).insert_header("retry-after", "5")]).await;
    let error = stage.write().await.unwrap_err();
    assert!(matches!(error.fault, Fault::Throttled { until } if until > stage.clock.now()), "{error}");
    assert!(!error.is_outcome_unknown);
    assert_eq!(stage.seen().await.len(), 4);
}

#[tokio::test]
async fn an_alarm_is_raised_once_for_a_window_of_more_than_an_hour() {
    let written = Written::default();
    let _guard = written.listen();
    let stage = Stage::new().await;
    stage.answers(vec![status(429).insert_header("retry-after", "7200")]).await;
    stage.read().await.unwrap_err();
    stage.read().await.unwrap_err();
    stage.client.close_until(START.plus(Duration::from_secs(7300)));
    assert_eq!(written.text().matches("more than an hour").count(), 1, "{}", written.text());
}

#[tokio::test]
async fn a_concurrency_refusal_halves_the_parallelism_and_success_restores_it() {
    let stage = Stage::new().await;
    let refusal = status(429).set_body_string("concurrent").insert_header("retry-after", "1");
    stage.answers(vec![refusal.clone(), refusal, ok()]).await;
    stage.read().await.unwrap();
    assert_eq!(stage.client.parallelism(), 2);
    for _ in 0..100 {
        stage.read().await.unwrap();
    }
    assert_eq!(stage.client.parallelism(), 8);
}

#[tokio::test]
async fn the_rate_is_kept() {
    let stage =
        Stage::with(http_settings(), LimitSettings { requests_per_minute: 60, in_flight_max: 4, protection: None })
            .await;
    stage.answers(vec![ok()]).await;
    for _ in 0..31 {
        stage.read().await.unwrap();
    }
    let slept = stage.clock.slept();
    assert!((Duration::from_secs(29)..=Duration::from_secs(31)).contains(&slept), "{slept:?}");
}

#[tokio::test]
async fn no_more_than_the_allowed_requests_are_under_way() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (under_way, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counters = (under_way.clone(), most.clone());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let (under_way, most) = counters.clone();
            tokio::spawn(async move {
                while read_request(&mut socket).await > 0 {
                    let now = under_way.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    for _ in 0..50 {
                        tokio::task::yield_now().await;
                    }
                    under_way.fetch_sub(1, Ordering::SeqCst);
                    let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
                }
            });
        }
    });
    let limits = LimitSettings { requests_per_minute: 60_000, in_flight_max: 3, protection: None };
    let stage = Stage::at(MockServer::start().await, Url::parse(&base).unwrap(), http_settings(), limits).await;
    let calls = (0..30).map(|_| stage.client.send(call(&format!("{base}/thing"), Effect::Read)));
    let results = futures_util::future::join_all(calls).await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

/// Reads one request with its body; the number of bytes, 0 at the end.
async fn read_request(socket: &mut TcpStream) -> usize {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = socket.read(&mut buffer).await.unwrap_or(0);
        seen.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&seen).to_lowercase();
        let Some(head) = text.find("\r\n\r\n") else {
            if count == 0 {
                return 0;
            }
            continue;
        };
        let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let length: usize = length.and_then(|text| text.parse().ok()).unwrap_or(0);
        if count == 0 || seen.len() >= head + 4 + length {
            return seen.len();
        }
    }
}

/// A service that plays one line per connection after it has read the request: nothing, or these bytes, then the end.
async fn script(lines: Vec<Option<&'static str>>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let requests = count.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            if read_request(&mut socket).await == 0 {
                continue;
            }
            let index = requests.fetch_add(1, Ordering::SeqCst).min(lines.len() - 1);
            if let Some(line) = lines[index] {
                let _ = socket.write_all(line.as_bytes()).await;
            }
        }
    });
    (base, count)
}

const GOOD: Option<&str> = Some("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}");
const CUT_OFF: Option<&str> = Some("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{\"value\":");

async fn scripted(lines: Vec<Option<&'static str>>, effect: Effect) -> (Result<Answer, RemoteError>, usize) {
    let (base, count) = script(lines).await;
    let limits = LimitSettings { requests_per_minute: 6000, in_flight_max: 8, protection: None };
    let stage = Stage::at(MockServer::start().await, Url::parse(&base).unwrap(), http_settings(), limits).await;
    let result = stage.client.send(call(&format!("{base}/thing"), effect)).await;
    (result, count.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_connection_that_breaks_after_sending_leaves_a_write_unknown_and_a_read_is_repeated() {
    for broken in [None, CUT_OFF] {
        let (result, count) = scripted(vec![broken, GOOD], Effect::Write).await;
        let error = result.unwrap_err();
        assert_eq!((error.fault, error.is_outcome_unknown, count), (Fault::Unavailable, true, 1));

        let (result, count) = scripted(vec![broken, GOOD], Effect::Read).await;
        assert!(result.is_ok());
        assert_eq!(count, 2);
    }
}

#[tokio::test]
async fn a_write_on_a_connection_that_the_service_closed_is_never_sent_twice() {
    // The first request is answered and the connection kept; the second meets its end.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let requests = count.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let requests = requests.clone();
            tokio::spawn(async move {
                for is_answered in [true, false] {
                    if read_request(&mut socket).await == 0 {
                        return;
                    }
                    requests.fetch_add(1, Ordering::SeqCst);
                    if is_answered {
                        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
                    }
                }
            });
        }
    });
    let limits = LimitSettings { requests_per_minute: 6000, in_flight_max: 8, protection: None };
    let stage = Stage::at(MockServer::start().await, Url::parse(&base).unwrap(), http_settings(), limits).await;
    let url = format!("{base}/thing");
    stage.client.send(call(&url, Effect::Write)).await.unwrap();
    let error = stage.client.send(call(&url, Effect::Write)).await.unwrap_err();
    assert!(error.is_outcome_unknown, "{error}");
    assert_eq!(count.load(Ordering::SeqCst), 2);
    assert_eq!(stage.client.requests_sent(), 2);
}

#[tokio::test]
async fn a_time_out_of_a_write_is_an_unknown_outcome() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let limits = LimitSettings { requests_per_minute: 6000, in_flight_max: 8, protection: None };
    let stage = Stage::at(MockServer::start().await, Url::parse(&base).unwrap(), http_settings(), limits).await;
    for (effect, is_unknown, attempts) in [(Effect::Write, true, 1), (Effect::Read, false, 4)] {
        let before = stage.client.requests_sent();
        let call = Call { timeout: Some(Duration::from_millis(40)), ..call(&format!("{base}/thing"), effect) };
        let error = stage.client.send(call).await.unwrap_err();
        assert_eq!((&error.fault, error.is_outcome_unknown), (&Fault::Unavailable, is_unknown));
        assert!(error.to_string().contains("in time"), "{error}");
        assert_eq!(stage.client.requests_sent() - before, attempts);
    }
    drop(listener);
}

#[tokio::test]
async fn a_refused_connection_proves_that_nothing_was_sent_so_a_write_is_tried_again() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let base = format!("http://{free}");
    let limits = LimitSettings { requests_per_minute: 6000, in_flight_max: 8, protection: None };
    let stage = Stage::at(MockServer::start().await, Url::parse(&base).unwrap(), http_settings(), limits).await;
    let error = stage.client.send(call(&format!("{base}/thing"), Effect::Write)).await.unwrap_err();
    assert_eq!((&error.fault, error.is_outcome_unknown), (&Fault::Unavailable, false));
    assert!(error.to_string().contains("no connection"), "{error}");
    assert_eq!(stage.client.requests_sent(), 4);
}

#[tokio::test]
async fn server_faults_are_repeated_for_reads_and_unknown_for_writes() {
    for code in [500, 502, 504] {
        let stage = Stage::new().await;
        stage.answers(vec![status(code).set_body_string("<html>Bad Gateway</html>"), ok()]).await;
        stage.read().await.unwrap();
        assert_eq!(stage.seen().await.len(), 2);

        let stage = Stage::new().await;
        stage.answers(vec![status(code).set_body_string("<html>Bad Gateway</html>"), ok()]).await;
        let error = stage.write().await.unwrap_err();
        assert_eq!((error.fault, error.status, error.is_outcome_unknown), (Fault::Unavailable, Some(code), true));
        assert_eq!(stage.seen().await.len(), 1);
    }
}

#[tokio::test]
async fn a_fault_that_did_nothing_is_tried_again_for_writes_too() {
    let stage = Stage::new().await;
    stage.answers(vec![status(507)]).await;
    let error = stage.write().await.unwrap_err();
    assert_eq!((error.fault, error.is_outcome_unknown), (Fault::Unavailable, false));
    assert_eq!(stage.seen().await.len(), 4);
}

#[tokio::test]
async fn a_write_gets_a_new_key_after_every_answer_and_keeps_it_through_silence() {
    let stage = Stage::new().await;
    let wait = status(429).insert_header("retry-after", "1");
    stage.answers(vec![wait, status(401), status(409), status(500), status(502), status(403), ok(), ok()]).await;
    for expected in [Fault::Conflict, Fault::Unavailable, Fault::Unavailable, Fault::Unauthorized] {
        assert_eq!(stage.write().await.unwrap_err().fault, expected);
    }
    stage.write().await.unwrap();
    stage.write().await.unwrap();
    let seen = stage.seen().await;
    let keys: Vec<&str> = seen.iter().map(|request| request.headers["ms-requestid"].to_str().unwrap()).collect();
    assert_eq!(keys.len(), 8);
    assert_eq!(keys[0], Uuid::from_u128(7).to_string());
    let (fresh, replays) = ([keys[0], keys[1], keys[2], keys[3], keys[6]], &keys[3..6]);
    assert_eq!(std::collections::BTreeSet::from(fresh).len(), fresh.len(), "{keys:?}");
    assert!(replays.iter().all(|key| *key == keys[3]), "500 and 502 are no definite answers: {keys:?}");
    assert_eq!(keys[7], keys[0], "what was done is forgotten");
}

#[tokio::test]
async fn final_refusals_are_not_repeated() {
    for (code, fault) in [
        (400, Fault::Refused),
        (403, Fault::Unauthorized),
        (404, Fault::Missing),
        (409, Fault::Conflict),
        (412, Fault::Conflict),
    ] {
        let stage = Stage::new().await;
        stage.answers(vec![status(code).insert_header("REQ_ID", "q-9")]).await;
        let error = stage.write().await.unwrap_err();
        assert_eq!((&error.fault, error.request_id.as_deref()), (&fault, Some("q-9")));
        assert!(!error.is_outcome_unknown);
        assert_eq!(stage.seen().await.len(), 1);
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_cut_while_it_arrives() {
    let large = "x".repeat(200 * 1024);
    for (effect, is_unknown) in [(Effect::Read, false), (Effect::Write, true)] {
        let stage = Stage::new().await;
        stage.answers(vec![status(200).set_body_string(large.clone())]).await;
        let error = stage.client.send(stage.call(effect)).await.unwrap_err();
        assert_eq!((error.fault, error.status, error.is_outcome_unknown), (Fault::Malformed, Some(200), is_unknown));
        assert_eq!(stage.seen().await.len(), 1);
    }
    let stage = Stage::new().await;
    stage.answers(vec![status(404).set_body_string(large)]).await;
    assert_eq!(stage.read().await.unwrap_err().fault, Fault::Missing, "the status is not masked");
}

#[tokio::test]
async fn a_compressed_answer_is_read_and_its_real_size_counts() {
    let stage = Stage::new().await;
    let small = hex("1f8b0800000000000203abae050043bfa6a302000000");
    stage.answers(vec![status(200).insert_header("content-encoding", "gzip").set_body_bytes(small)]).await;
    let answer = stage.read().await.unwrap();
    assert_eq!(&answer.body[..], b"{}");

    // 200 KiB of spaces, then "{}".
    let stage = Stage::new().await;
    let bomb = hex(concat!(
        "1f8b0800000000000203edc1010d00000c02a02af674767f8f0f480000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
        "00000000000000000000000000000000000000000000000000f8a43b9ace3afe02200300",
    ));
    stage.answers(vec![status(200).insert_header("content-encoding", "gzip").set_body_bytes(bomb)]).await;
    assert_eq!(stage.read().await.unwrap_err().fault, Fault::Malformed);
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|index| u8::from_str_radix(&text[index..index + 2], 16).unwrap()).collect()
}

#[tokio::test]
async fn a_call_to_another_host_is_refused_unsent() {
    let stage = Stage::new().await;
    let other = MockServer::start().await;
    let own = Url::parse(&stage.server.uri()).unwrap();
    for url in [
        format!("{}/thing", other.uri()),
        format!("https://127.0.0.1:{}/thing", own.port().unwrap()),
        format!("http://localhost:{}/thing", own.port().unwrap()),
        format!("http://user:secret@127.0.0.1:{}/thing", own.port().unwrap()),
    ] {
        let error = stage.client.send(call(&url, Effect::Write)).await.unwrap_err();
        assert_eq!((&error.fault, error.is_outcome_unknown), (&Fault::Refused, false), "{url}");
        assert!(!error.to_string().contains("secret"));
    }
    assert_eq!((stage.client.requests_sent(), stage.client.tokens().requests_sent()), (0, 0));
    assert!(other.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn redirects_are_never_followed() {
    let stage = Stage::new().await;
    let other = MockServer::start().await;
    stage.answers(vec![status(307).insert_header("location", other.uri())]).await;
    let error = stage.write().await.unwrap_err();
    assert_eq!((&error.fault, error.status), (&Fault::Unavailable, Some(307)));
    assert!(error.to_string().contains("redirect"), "{error}");
    assert!(other.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn not_modified_is_an_answer() {
    let stage = Stage::new().await;
    stage.answers(vec![status(304)]).await;
    assert_eq!(stage.read().await.unwrap().status, StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn cookies_are_not_kept() {
    let stage = Stage::new().await;
    stage.answers(vec![ok().insert_header("set-cookie", "ARRAffinity=1; Path=/")]).await;
    stage.read().await.unwrap();
    stage.read().await.unwrap();
    assert!(stage.seen().await.iter().all(|request| !request.headers.contains_key("cookie")));
}

#[test]
fn a_byte_order_mark_before_an_answer_is_no_part_of_it() {
    let answer = |body: &'static str| Answer {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: Bytes::from_static(body.as_bytes()),
        request_id: None,
        server_time: None,
    };
    assert_eq!(answer("\u{feff}{\"value\":7}").json::<serde_json::Value>().unwrap()["value"], 7);
    let error = answer("\u{feff}<html>").json::<serde_json::Value>().unwrap_err();
    assert!(error.reason.contains("web page"), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_is_no_json_is_malformed_without_being_quoted() {
    for (body, part) in [
        ("<html>anna@contoso.com</html>", "web page"),
        ("", "empty"),
        ("{\"value\":", "cut off"),
        ("{\"value\":\"anna@contoso.com\"}", "unexpected shape"),
        ("nonsense", "no JSON"),
    ] {
        let answer = Answer {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
            request_id: Some("r-2".into()),
            server_time: None,
        };
        #[derive(Debug, serde::Deserialize)]
        struct Shape {
            #[serde(rename = "value")]
            _value: u32,
        }
        let error = answer.json::<Shape>().unwrap_err().into_error(Side::Crm, "get lead", Effect::Write);
        assert_eq!((&error.fault, error.is_outcome_unknown, error.status), (&Fault::Malformed, true, Some(200)));
        let text = error.to_string();
        assert!(text.contains(part) && text.contains("r-2") && !text.contains("anna"), "{text}");
    }
}

#[tokio::test]
async fn impossible_settings_are_refused_with_their_key() {
    let stage = Stage::new().await;
    let directory = tempfile::tempdir().unwrap();
    let auth = auth_settings("https://login.example", directory.path());
    let http = http_settings();
    let tokens = Tokens::new(Side::Crm, "d.auth", "https://x", &auth, &http, directory.path(), stage.clock.clone());
    let tokens = Arc::new(tokens.unwrap());
    let build = |base: &str, http: &HttpSettings, requests_per_minute, in_flight_max| {
        let limits = LimitSettings { requests_per_minute, in_flight_max, protection: None };
        let base = Url::parse(base).unwrap();
        let result = Client::new(Arc::new(Plain), base, http, limits, tokens.clone(), stage.clock.clone());
        result.err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(build("https://example.com", &http, 1, 1), "");
    assert!(build("http://example.com", &http, 1, 1).contains("plain http"));
    assert!(build("https://example.com", &http, 0, 1).contains("requests_per_minute"));
    assert!(build("https://example.com", &http, 1, 0).contains("in_flight_max"));
    let roots = directory.path().join("roots.pem");
    let with_roots = HttpSettings { extra_roots_file: Some(roots.clone()), ..http.clone() };
    assert!(build("https://example.com", &with_roots, 1, 1).contains("http.extra_roots_file"));
    std::fs::write(&roots, "nothing").unwrap();
    assert!(build("https://example.com", &with_roots, 1, 1).contains("no PEM certificate"));
    let root = rcgen::generate_simple_self_signed(["root".to_owned()]).unwrap().cert.pem();
    std::fs::write(&roots, root).unwrap();
    assert_eq!(build("https://example.com", &with_roots, 1, 1), "");
}

#[tokio::test]
async fn neither_tokens_nor_bodies_appear_in_what_is_printed() {
    let written = Written::default();
    let _guard = written.listen();
    let stage = Stage::new().await;
    stage.answers(vec![status(401), ok()]).await;
    let call = stage.call(Effect::Write);
    let answer = stage.client.send(call.clone()).await.unwrap();
    let printed = format!("{call:?} {answer:?} {:?} {:?} {}", stage.client, stage.client.tokens(), written.text());
    for secret in ["private", "access-", "app-secret", "value"] {
        assert!(!printed.contains(secret), "{secret} in {printed}");
    }
}

#[tokio::test]
async fn method_body_and_accepted_type_reach_the_service() {
    let stage = Stage::new().await;
    Mock::given(path("/thing"))
        .and(method("PATCH"))
        .and(header("accept", "application/json"))
        .and(body_string_contains("private"))
        .respond_with(status(204))
        .mount(&stage.server)
        .await;
    assert_eq!(stage.write().await.unwrap().status, StatusCode::NO_CONTENT);
}

/// Collects everything that is logged on this thread.
#[derive(Clone, Default)]
pub(super) struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    pub(super) fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let sink = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || sink.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
