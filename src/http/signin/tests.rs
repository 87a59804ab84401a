//! Sign-in against a token endpoint on loopback.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use serde_json::{Value, json};
use url::Url;
use wiremock::matchers::{any, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::*;
use crate::http::settings::EndpointVersion;
use crate::http::tests::{FakeClock, START, Written, auth_settings, http_settings};

const AUDIENCE: &str = "https://api.example";

/// A token endpoint, a directory and settings for both.
struct Entra {
    server: MockServer,
    clock: Arc<FakeClock>,
    directory: tempfile::TempDir,
    auth: AuthSettings,
}

impl Entra {
    /// Signs in as the application.
    async fn application() -> Entra {
        let server = MockServer::start().await;
        let directory = tempfile::tempdir().unwrap();
        let auth = auth_settings(&server.uri(), directory.path());
        Entra { server, clock: FakeClock::new(), directory, auth }
    }

    /// Signs in as a user whose first refresh token is `seed-1`.
    async fn user() -> Entra {
        let mut entra = Entra::application().await;
        entra.auth.grant = Grant::RefreshToken;
        entra.auth.refresh_token_file = Some(entra.file("seed"));
        entra.seed("seed-1");
        entra
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn keep(&self) -> PathBuf {
        self.file("keep")
    }

    fn seed(&self, token: &str) {
        std::fs::write(self.file("seed"), token).unwrap();
    }

    fn tokens(&self) -> Tokens {
        self.tokens_for(AUDIENCE)
    }

    fn tokens_for(&self, audience: &str) -> Tokens {
        let clock = self.clock.clone();
        Tokens::new(Side::Portal, "pc.auth", audience, &self.auth, &http_settings(), &self.keep(), clock).unwrap()
    }

    /// Answers in this order, the last one for ever.
    async fn answers(&self, answers: Vec<ResponseTemplate>) {
        let next = AtomicUsize::new(0);
        self.respond(move |_| answers[next.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1)].clone()).await;
    }

    async fn respond(&self, answer: impl Fn(&Form) -> ResponseTemplate + Send + Sync + 'static) {
        Mock::given(any()).respond_with(move |request: &Request| answer(&form(request))).mount(&self.server).await;
    }

    async fn forms(&self) -> Vec<Form> {
        self.server.received_requests().await.unwrap().iter().map(form).collect()
    }

    fn kept(&self) -> Value {
        let name = std::fs::read_dir(self.keep()).unwrap().next().unwrap().unwrap().path();
        serde_json::from_slice(&std::fs::read(name).unwrap()).unwrap()
    }
}

type Form = BTreeMap<String, String>;

fn form(request: &Request) -> Form {
    url::form_urlencoded::parse(&request.body).into_owned().collect()
}

fn granted(token: &str, refresh_token: Option<&str>) -> ResponseTemplate {
    let mut body = json!({"token_type": "Bearer", "expires_in": 1000, "access_token": token});
    if let Some(refresh_token) = refresh_token {
        body["refresh_token"] = json!(refresh_token);
    }
    ResponseTemplate::new(200).set_body_json(body)
}

fn refused(error: &str, code: u32) -> ResponseTemplate {
    let body = json!({"error": error, "error_description": format!("AADSTS{code}: anna@contoso.com"), "error_codes": [code],
        "trace_id": "7b6a1f0e-0000-4000-8000-000000000001"});
    ResponseTemplate::new(400).set_body_json(body)
}

async fn bearer(tokens: &Tokens) -> String {
    tokens.bearer().await.unwrap().expose_secret().to_owned()
}

async fn failure(tokens: &Tokens) -> RemoteError {
    tokens.bearer().await.unwrap_err()
}

#[tokio::test]
async fn the_application_signs_in_with_scope_or_resource() {
    let mut entra = Entra::application().await;
    entra.answers(vec![granted("a", None)]).await;
    let http = "application/x-www-form-urlencoded";
    assert_eq!(bearer(&entra.tokens()).await, "a");
    entra.auth.endpoint_version = EndpointVersion::V1;
    assert_eq!(bearer(&entra.tokens_for("https://api.example/")).await, "a");

    let forms = entra.forms().await;
    let expected = [
        ("client_id", "app-1"),
        ("client_secret", "app-secret-1"),
        ("grant_type", "client_credentials"),
        ("scope", "https://api.example/.default"),
    ];
    assert_eq!(forms[0], expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert_eq!(forms[1]["resource"], "https://api.example");
    assert!(!forms[1].contains_key("scope"));
    let requests = entra.server.received_requests().await.unwrap();
    let paths: Vec<_> = requests.iter().map(|request| request.url.path()).collect();
    assert_eq!(paths, ["/contoso.example/oauth2/v2.0/token", "/contoso.example/oauth2/token"]);
    assert!(requests.iter().all(|request| request.headers["content-type"] == http));
}

#[tokio::test]
async fn the_application_signs_in_with_a_certificate() {
    let mut entra = Entra::application().await;
    let (key, certificate) = assertion::tests::made();
    std::fs::write(entra.file("key.pem"), key).unwrap();
    std::fs::write(entra.file("certificate.pem"), certificate).unwrap();
    entra.auth.client_secret_file = None;
    entra.auth.private_key_file = Some(entra.file("key.pem"));
    entra.auth.certificate_file = Some(entra.file("certificate.pem"));
    entra.answers(vec![granted("a", None)]).await;
    let tokens = entra.tokens();
    assert_eq!(bearer(&tokens).await, "a");
    let form = &entra.forms().await[0];
    assert_eq!(form["client_assertion_type"], "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
    assert_eq!(form["client_assertion"].split('.').count(), 3);
    assert_eq!(form["client_id"], "app-1");
    assert!(!form.contains_key("client_secret"));
    assert!(tokens.state().certificate_not_after.unwrap() > START);
}

#[tokio::test]
async fn a_key_that_cannot_be_used_is_reported_without_asking() {
    let mut entra = Entra::application().await;
    std::fs::write(entra.file("key.pem"), "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----")
        .unwrap();
    std::fs::write(entra.file("certificate.pem"), assertion::tests::made().1).unwrap();
    entra.auth.client_secret_file = None;
    entra.auth.private_key_file = Some(entra.file("key.pem"));
    entra.auth.certificate_file = Some(entra.file("certificate.pem"));
    let error = failure(&entra.tokens()).await;
    assert_eq!(error.fault, Fault::NeedsHuman);
    assert!(error.to_string().contains("openssl pkcs8 -topk8"), "{error}");
    assert!(entra.forms().await.is_empty());
}

#[tokio::test]
async fn a_user_signs_in_with_the_seed_and_the_rotated_token_is_kept() {
    let entra = Entra::user().await;
    entra.answers(vec![granted("a-1", Some("rotated-1")), granted("a-2", Some("rotated-2"))]).await;
    let tokens = entra.tokens();
    assert_eq!(bearer(&tokens).await, "a-1");
    assert_eq!(entra.kept()["refresh_token"], "rotated-1");
    assert_eq!(entra.kept()["previous_refresh_token"], "seed-1");
    let state = tokens.state();
    assert_eq!(state.refresh_token_obtained_at, Some(START));
    assert_eq!(state.refresh_token_expires_at, Some(START.plus(REFRESH_TOKEN_LIFETIME)));

    // Another process goes on where this one stopped.
    drop(tokens);
    assert_eq!(bearer(&entra.tokens()).await, "a-2");
    let forms = entra.forms().await;
    assert_eq!((&*forms[0]["refresh_token"], &*forms[1]["refresh_token"]), ("seed-1", "rotated-1"));
    assert_eq!(forms[0]["scope"], "https://api.example/.default offline_access");
    assert_eq!(entra.kept()["previous_refresh_token"], "rotated-1");
}

#[tokio::test]
async fn an_answer_without_a_refresh_token_keeps_the_one_in_use() {
    let entra = Entra::user().await;
    entra.answers(vec![granted("a-1", Some("rotated-1")), granted("a-2", None), granted("a-3", None)]).await;
    let tokens = entra.tokens();
    for expected in ["a-1", "a-2", "a-3"] {
        assert_eq!(bearer(&tokens).await, expected);
        entra.clock.advance(Duration::from_secs(900));
    }
    let used: Vec<_> = entra.forms().await.iter().map(|form| form["refresh_token"].clone()).collect();
    assert_eq!(used, ["seed-1", "rotated-1", "rotated-1"]);
    assert_eq!(tokens.state().refresh_token_obtained_at, Some(START), "not rotated, not younger");
}

#[tokio::test]
async fn a_token_whose_successor_cannot_be_kept_is_not_used() {
    let entra = Entra::user().await;
    let keep = entra.keep();
    // The directory is lost while the sign-in service answers.
    entra
        .respond(move |_| {
            std::fs::remove_dir_all(&keep).unwrap();
            std::fs::write(&keep, "no directory").unwrap();
            granted("a-1", Some("rotated-1"))
        })
        .await;
    let tokens = entra.tokens();
    let error = failure(&tokens).await;
    assert_eq!(error.fault, Fault::NeedsHuman);
    assert!(error.to_string().contains("cannot keep the rotated refresh token in"), "{error}");
    assert_eq!(entra.forms().await.len(), 1);

    // From now on it is seen beforehand, and nobody is asked.
    entra.clock.advance(Duration::from_secs(3600));
    failure(&tokens).await;
    assert_eq!(entra.forms().await.len(), 1);
}

#[tokio::test]
async fn a_changed_seed_is_newer_than_the_kept_token() {
    let entra = Entra::user().await;
    entra.respond(|form| granted("a", Some(&format!("after-{}", form["refresh_token"])))).await;
    bearer(&entra.tokens()).await;
    entra.seed("seed-2\n");
    bearer(&entra.tokens()).await;
    bearer(&entra.tokens()).await;
    let used: Vec<_> = entra.forms().await.iter().map(|form| form["refresh_token"].clone()).collect();
    assert_eq!(used, ["seed-1", "seed-2", "after-seed-2"]);
}

#[tokio::test]
async fn the_other_token_is_tried_when_the_newer_is_refused() {
    // A restored backup brought back an old seed.
    let entra = Entra::user().await;
    entra
        .respond(|form| match form["refresh_token"].as_str() {
            "seed-old" => refused("invalid_grant", 700082),
            used => granted("a", Some(&format!("after-{used}"))),
        })
        .await;
    bearer(&entra.tokens()).await;
    entra.seed("seed-old");
    bearer(&entra.tokens()).await;
    bearer(&entra.tokens()).await;
    let used: Vec<_> = entra.forms().await.iter().map(|form| form["refresh_token"].clone()).collect();
    assert_eq!(used, ["seed-1", "seed-old", "after-seed-1", "after-after-seed-1"], "and remembered as the better one");
}

#[tokio::test]
async fn a_kept_token_does_without_its_seed_and_a_missing_first_one_is_named() {
    let entra = Entra::user().await;
    entra.answers(vec![granted("a", Some("rotated"))]).await;
    std::fs::remove_file(entra.file("seed")).unwrap();
    let tokens = entra.tokens();
    let error = failure(&tokens).await;
    assert_eq!(error.fault, Fault::NeedsHuman);
    assert!(error.to_string().contains("pc.auth.refresh_token_file"), "{error}");

    // It appears: no restart and no waiting is needed.
    entra.seed("seed-1");
    bearer(&tokens).await;
    std::fs::remove_file(entra.file("seed")).unwrap();
    bearer(&entra.tokens()).await;
    assert_eq!(entra.forms().await[1]["refresh_token"], "rotated");
}

#[tokio::test]
async fn two_audiences_share_one_refresh_token() {
    let entra = Entra::user().await;
    entra.respond(|form| granted("a", Some(&format!("{}+", form["refresh_token"])))).await;
    let (one, two) = (entra.tokens_for("https://one.example"), entra.tokens_for("https://two.example"));
    let (first, second) = tokio::join!(one.bearer(), two.bearer());
    assert!(first.is_ok() && second.is_ok());
    let forms = entra.forms().await;
    let used: Vec<_> = forms.iter().map(|form| form["refresh_token"].as_str()).collect();
    assert_eq!(used, ["seed-1", "seed-1+"], "one after the other");
    assert_ne!(forms[0]["scope"], forms[1]["scope"]);
}

#[tokio::test]
async fn twenty_callers_share_one_renewal_and_one_failure() {
    let entra = Entra::application().await;
    entra.answers(vec![granted("a", None).set_delay(Duration::from_millis(20))]).await;
    let tokens = entra.tokens();
    let all = futures_util::future::join_all((0..20).map(|_| tokens.bearer())).await;
    assert!(all.iter().all(|token| token.as_ref().is_ok_and(|token| token.expose_secret() == "a")));
    assert_eq!(tokens.requests_sent(), 1);

    let entra = Entra::application().await;
    entra.answers(vec![refused("invalid_client", 7000222).set_delay(Duration::from_millis(20))]).await;
    let tokens = entra.tokens();
    let all = futures_util::future::join_all((0..20).map(|_| tokens.bearer())).await;
    assert!(all.iter().all(Result::is_err));
    assert_eq!(tokens.requests_sent(), 1);
}

#[tokio::test]
async fn a_token_is_renewed_at_four_fifths_of_its_life_whatever_form_the_number_has() {
    for lifetime in [json!(1000), json!("1000")] {
        let entra = Entra::application().await;
        let body = json!({"token_type": "Bearer", "expires_in": lifetime, "expires_on": "1", "access_token": "a"});
        entra.answers(vec![ResponseTemplate::new(200).set_body_json(body)]).await;
        let tokens = entra.tokens();
        bearer(&tokens).await;
        entra.clock.advance(Duration::from_secs(799));
        bearer(&tokens).await;
        assert_eq!(tokens.requests_sent(), 1, "{lifetime}");
        entra.clock.advance(Duration::from_secs(2));
        bearer(&tokens).await;
        assert_eq!(tokens.requests_sent(), 2, "{lifetime}");
    }
}

#[tokio::test]
async fn a_failed_early_renewal_does_not_hurt_while_the_token_is_good() {
    let entra = Entra::application().await;
    entra.answers(vec![granted("a", None), ResponseTemplate::new(503)]).await;
    let tokens = entra.tokens();
    bearer(&tokens).await;
    entra.clock.advance(Duration::from_secs(810));
    let sent = tokens.requests_sent();
    assert_eq!(bearer(&tokens).await, "a");
    let after_first = tokens.requests_sent();
    assert_eq!(after_first - sent, 4, "a few attempts");
    assert_eq!(bearer(&tokens).await, "a");
    assert_eq!(tokens.requests_sent(), after_first, "and not again at once");
    entra.clock.advance(Duration::from_secs(200));
    assert_eq!(failure(&tokens).await.fault, Fault::Unavailable);
}

#[tokio::test]
async fn only_the_refused_token_is_forgotten() {
    let entra = Entra::application().await;
    entra.answers(vec![granted("a-1", None), granted("a-2", None)]).await;
    let tokens = entra.tokens();
    let old = tokens.bearer().await.unwrap();
    tokens.invalidate(&old);
    assert_eq!(bearer(&tokens).await, "a-2");
    tokens.invalidate(&old);
    assert_eq!(bearer(&tokens).await, "a-2");
    assert_eq!(tokens.requests_sent(), 2);
}

/// A refusal that only a person can mend: told clearly, remembered, and asked again slowly.
async fn check_human(entra: Entra, answer: ResponseTemplate, code: &str, part: &str) {
    entra.answers(vec![answer]).await;
    let tokens = entra.tokens();
    let error = failure(&tokens).await;
    assert_eq!((&error.fault, error.code.as_deref()), (&Fault::NeedsHuman, Some(code)));
    let text = error.to_string();
    assert!(text.contains(part), "{text}");
    assert!(text.contains("7b6a1f0e-0000-4000-8000-000000000001"), "{text}");
    assert!(!text.contains("anna") && !text.contains('{'), "{text}");
    let asked = tokens.requests_sent();

    for _ in 0..20 {
        assert_eq!(failure(&tokens).await, error);
    }
    assert_eq!(tokens.requests_sent(), asked, "{code}: answered from memory");
    let state = tokens.state();
    assert!(state.needs_human && state.last_error.as_deref() == Some(&text));
    entra.clock.advance(HUMAN_RETRY_DELAY);
    failure(&tokens).await;
    assert!(tokens.requests_sent() > asked, "{code}: asked again after a while");
}

#[tokio::test]
async fn refusals_that_need_a_person_are_told_clearly_and_repeated_slowly() {
    let user = || Entra::user();
    check_human(user().await, refused("invalid_grant", 700082), "AADSTS700082", "put a fresh refresh token into").await;
    check_human(user().await, refused("invalid_grant", 50076), "AADSTS50076", "multi-factor").await;
    check_human(user().await, refused("interaction_required", 50076), "AADSTS50076", "multi-factor").await;
    check_human(user().await, refused("invalid_grant", 65001), "AADSTS65001", "grant application app-1").await;
    check_human(user().await, refused("server_error", 50196), "AADSTS50196", "loop").await;
    let secret = "the secret's value, not its id, into";
    check_human(Entra::application().await, refused("invalid_client", 7000215), "AADSTS7000215", secret).await;
    let tenant = "no tenant contoso.example: correct pc.auth.tenant_id";
    check_human(Entra::application().await, refused("invalid_request", 90002), "AADSTS90002", tenant).await;
}

#[tokio::test]
async fn a_wrong_password_is_sent_once() {
    let mut entra = Entra::application().await;
    std::fs::write(entra.file("password"), "hunter2\n").unwrap();
    entra.auth.grant = Grant::Password;
    entra.auth.username = Some("svc@contoso.example".into());
    entra.auth.password_file = Some(entra.file("password"));
    entra.answers(vec![refused("invalid_grant", 50126), granted("a", None)]).await;
    let tokens = entra.tokens();
    let error = failure(&tokens).await;
    assert!(error.to_string().contains("pc.auth.password_file"), "{error}");
    for _ in 0..10 {
        failure(&tokens).await;
    }
    let forms = entra.forms().await;
    assert_eq!(forms.len(), 1);
    assert_eq!((&*forms[0]["username"], &*forms[0]["password"]), ("svc@contoso.example", "hunter2"));

    std::fs::write(entra.file("password"), "corrected\n").unwrap();
    assert_eq!(bearer(&tokens).await, "a", "a new password is tried at once");
    assert!(!tokens.state().needs_human);
}

#[tokio::test]
async fn a_fresh_refresh_token_ends_the_waiting_at_once() {
    let entra = Entra::user().await;
    entra
        .respond(|form| match form["refresh_token"].as_str() {
            "seed-1" => refused("invalid_grant", 50173),
            _ => granted("a", Some("rotated")),
        })
        .await;
    let tokens = entra.tokens();
    failure(&tokens).await;
    failure(&tokens).await;
    assert_eq!(tokens.requests_sent(), 1);
    entra.seed("seed-2");
    assert_eq!(bearer(&tokens).await, "a");
}

/// A person signs in beside a running process: another one that keeps its token in the same file.
async fn sign_in_elsewhere(entra: &Entra, token: &str) {
    let person = entra.tokens();
    let granted =
        Granted { token: "by-hand".into(), lifetime: Duration::from_secs(1000), refresh_token: Some(token.into()) };
    person.welcome(granted, entra.clock.now()).await.unwrap();
}

#[tokio::test]
async fn a_sign_in_by_hand_replaces_the_token_in_use_at_once() {
    let entra = Entra::user().await;
    entra
        .respond(|form| granted(&format!("a-{}", form["refresh_token"]), Some(&format!("{}+", form["refresh_token"]))))
        .await;
    let (one, two) = (entra.tokens(), entra.tokens_for("https://two.example"));
    assert_eq!((&*bearer(&one).await, &*bearer(&two).await), ("a-seed-1", "a-seed-1+"));
    // The service finds no second factor: the token is all there is, and nothing is asked while nothing changes.
    for _ in 0..5 {
        one.doubt(&one.bearer().await.unwrap());
        entra.clock.advance(Duration::from_secs(60));
        assert_eq!((&*bearer(&one).await, &*bearer(&two).await), ("a-seed-1", "a-seed-1+"));
    }
    assert_eq!((one.requests_sent(), two.requests_sent()), (1, 1));

    sign_in_elsewhere(&entra, "person").await;
    for _ in 0..5 {
        assert_eq!((&*bearer(&one).await, &*bearer(&two).await), ("a-person", "a-person+"), "also the one not doubted");
        one.doubt(&one.bearer().await.unwrap());
        entra.clock.advance(Duration::from_secs(60));
    }
    assert_eq!((one.requests_sent(), two.requests_sent()), (2, 2), "their rotations are no sign-in by hand");
}

#[tokio::test]
async fn a_doubted_token_is_given_up_for_a_fresh_seed() {
    let entra = Entra::user().await;
    entra.respond(|form| granted(&format!("a-{}", form["refresh_token"]), None)).await;
    let tokens = entra.tokens();
    let first = tokens.bearer().await.unwrap();
    entra.seed("seed-2");
    assert_eq!(bearer(&tokens).await, "a-seed-1", "a good token is used up");
    tokens.doubt(&first);
    assert_eq!(bearer(&tokens).await, "a-seed-2");
}

#[tokio::test]
async fn a_sign_in_by_hand_does_not_hurt_while_the_sign_in_service_is_silent() {
    let entra = Entra::user().await;
    entra.answers(vec![granted("a-1", Some("rotated")), ResponseTemplate::new(503)]).await;
    let tokens = entra.tokens();
    bearer(&tokens).await;
    sign_in_elsewhere(&entra, "person").await;
    assert_eq!(bearer(&tokens).await, "a-1");
    tokens.doubt(&tokens.bearer().await.unwrap());
    assert_eq!(failure(&tokens).await.fault, Fault::Unavailable, "a doubted token is no way out");
}

#[tokio::test]
async fn refusals_that_may_lock_the_account_are_never_repeated() {
    for code in [50126, 50053, 50055, 50057, 50034] {
        let mut entra = Entra::application().await;
        std::fs::write(entra.file("password"), "hunter2").unwrap();
        entra.auth.grant = Grant::Password;
        entra.auth.username = Some("svc@contoso.example".into());
        entra.auth.password_file = Some(entra.file("password"));
        entra
            .respond(move |form| match form["password"].as_str() {
                "hunter2" => refused("invalid_grant", code),
                _ => granted("a", None),
            })
            .await;
        let tokens = entra.tokens();
        for _ in 0..100 {
            assert_eq!(failure(&tokens).await.fault, Fault::NeedsHuman);
            entra.clock.advance(Duration::from_secs(3600));
        }
        assert_eq!(tokens.requests_sent(), 1, "{code}");
        std::fs::write(entra.file("password"), "corrected").unwrap();
        assert_eq!(bearer(&tokens).await, "a", "{code}");
    }
}

#[tokio::test]
async fn a_device_code_of_version_1_has_its_numbers_as_text() {
    let mut entra = Entra::user().await;
    for (version, body) in [
        (
            EndpointVersion::V1,
            json!({"device_code": "d", "user_code": "ABC", "verification_url": "https://microsoft.com/devicelogin",
            "expires_in": "900", "interval": "5", "message": "m"}),
        ),
        (
            EndpointVersion::V2,
            json!({"device_code": "d", "user_code": "ABC", "verification_uri": "https://microsoft.com/devicelogin",
            "expires_in": 900, "interval": 5, "message": "m"}),
        ),
    ] {
        entra.auth.endpoint_version = version;
        entra.server.reset().await;
        entra.answers(vec![ResponseTemplate::new(200).set_body_json(body)]).await;
        let device = entra.tokens().begin_device().await.unwrap();
        assert_eq!((device.lifetime, device.interval), (Duration::from_secs(900), Duration::from_secs(5)));
        assert_eq!((&*device.user_code, device.address.as_str()), ("ABC", "https://microsoft.com/devicelogin"));
        let form = &entra.forms().await[0];
        let target = if version == EndpointVersion::V1 { form.get("resource") } else { form.get("scope") };
        assert!(target.unwrap().starts_with(AUDIENCE), "{form:?}");
        assert_eq!(form["client_id"], "app-1");
    }
}

#[tokio::test]
async fn passing_trouble_is_tried_again_a_few_times() {
    let unavailable = ResponseTemplate::new(400).set_body_json(json!({"error": "temporarily_unavailable"}));
    let entra = Entra::application().await;
    let html = ResponseTemplate::new(502).set_body_string("<html>");
    entra.answers(vec![unavailable.clone(), html, granted("a", None)]).await;
    assert_eq!(bearer(&entra.tokens()).await, "a");

    let entra = Entra::application().await;
    entra.answers(vec![unavailable]).await;
    let tokens = entra.tokens();
    assert_eq!(failure(&tokens).await.fault, Fault::Unavailable);
    assert_eq!(tokens.requests_sent(), 4);
    failure(&tokens).await;
    assert_eq!(tokens.requests_sent(), 4);
    entra.clock.advance(RENEWAL_PAUSE);
    failure(&tokens).await;
    assert_eq!(tokens.requests_sent(), 8);
}

#[tokio::test]
async fn the_sign_in_service_may_ask_to_wait() {
    let entra = Entra::application().await;
    let wait = |seconds: &str| ResponseTemplate::new(429).insert_header("retry-after", seconds);
    entra.answers(vec![wait("20"), wait("600"), granted("a", None)]).await;
    let tokens = entra.tokens();
    let error = failure(&tokens).await;
    assert!(entra.clock.slept() >= Duration::from_secs(20));
    let now = START.plus(entra.clock.slept());
    let until = now.plus(Duration::from_secs(600));
    assert_eq!(error.fault, Fault::Throttled { until });
    entra.clock.advance(Duration::from_secs(599));
    failure(&tokens).await;
    assert_eq!(tokens.requests_sent(), 2);
    entra.clock.advance(Duration::from_secs(1));
    assert_eq!(bearer(&tokens).await, "a");
}

#[tokio::test]
async fn a_success_without_a_usable_token_is_trouble_and_not_quoted() {
    for body in ["<html>a-secret</html>", "{\"access_token\":\"\"}", "{\"access_token\":\"a-secret\\nx\"}", "{}"] {
        let entra = Entra::application().await;
        let json = ResponseTemplate::new(200).set_body_raw(body, "application/json");
        entra.answers(vec![json]).await;
        let error = failure(&entra.tokens()).await;
        assert_eq!(error.fault, Fault::Unavailable, "{body}");
        assert!(!format!("{error} {error:?}").contains("a-secret"));
    }
}

#[tokio::test]
async fn a_redirect_of_the_sign_in_service_is_not_followed() {
    let entra = Entra::application().await;
    let elsewhere = MockServer::start().await;
    entra.answers(vec![ResponseTemplate::new(307).insert_header("location", elsewhere.uri())]).await;
    assert_eq!(failure(&entra.tokens()).await.fault, Fault::NeedsHuman);
    assert!(elsewhere.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn no_secret_appears_in_what_is_printed_or_logged() {
    let written = Written::default();
    let _guard = written.listen();
    let entra = Entra::user().await;
    entra.answers(vec![granted("access-1", Some("rotated-1")), refused("invalid_grant", 50173)]).await;
    let tokens = entra.tokens();
    let token = tokens.bearer().await.unwrap();
    entra.clock.advance(Duration::from_secs(999));
    let error = failure(&tokens).await;
    let printed = format!("{token:?} {tokens:?} {error} {error:?} {:?} {}", tokens.state(), written.text());
    for secret in ["access-1", "rotated-1", "seed-1", "app-secret-1", "anna"] {
        assert!(!printed.contains(secret), "{secret} in {printed}");
    }
}

#[tokio::test]
async fn all_contradictions_of_the_settings_are_reported_with_their_keys() {
    let entra = Entra::application().await;
    let problem = |change: &dyn Fn(&mut AuthSettings)| {
        let mut auth = entra.auth.clone();
        change(&mut auth);
        let clock = entra.clock.clone();
        Tokens::new(Side::Crm, "dv.auth", AUDIENCE, &auth, &http_settings(), &entra.keep(), clock)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    assert_eq!(problem(&|_| ()), "");
    let both = problem(&|auth| (auth.tenant_id, auth.client_id) = (None, None));
    assert!(both.contains("dv.auth.tenant_id is missing") && both.contains("dv.auth.client_id is missing"), "{both}");
    assert!(problem(&|auth| auth.tenant_id = Some("Common".into())).contains("is no directory"));
    assert!(problem(&|auth| auth.tenant_id = Some("a/../b".into())).contains("dv.auth.tenant_id"));
    assert!(problem(&|auth| auth.authority = Url::parse("http://login.example").unwrap()).contains("plain http"));
    assert!(problem(&|auth| auth.client_secret_file = None).contains("dv.auth.client_secret_file is missing"));
    assert!(problem(&|auth| auth.client_secret_environment = Some("X".into())).contains("give one of"));
    assert!(problem(&|auth| auth.certificate_file = Some("c".into())).contains("dv.auth.private_key_file is missing"));
    assert!(problem(&|auth| auth.private_key_file = Some("k".into())).contains("dv.auth.certificate_file is missing"));
    assert!(problem(&|auth| auth.grant = Grant::Password).contains("dv.auth.username and dv.auth.password_file"));
    let seeds = problem(&|auth| {
        auth.refresh_token_file = Some("f".into());
        auth.refresh_token_credential = Some("c".into());
    });
    assert!(seeds.contains("give one of them"), "{seeds}");
}

#[tokio::test]
async fn the_password_grant_and_open_files_are_warned_about() {
    use std::os::unix::fs::PermissionsExt as _;

    let written = Written::default();
    let _guard = written.listen();
    let mut entra = Entra::application().await;
    std::fs::set_permissions(entra.file("secret"), std::fs::Permissions::from_mode(0o644)).unwrap();
    entra.auth.grant = Grant::Password;
    entra.auth.username = Some("svc".into());
    entra.auth.password_file = Some(entra.file("password"));
    entra.tokens();
    let text = written.text();
    assert!(text.contains("compatibility mode"), "{text}");
    assert!(text.contains("pc.auth.client_secret_file") && text.contains("chmod 600"), "{text}");
}

#[tokio::test]
async fn an_authority_with_a_path_keeps_it() {
    let mut entra = Entra::application().await;
    entra.auth.authority = Url::parse(&format!("{}/proxy/", entra.server.uri())).unwrap();
    Mock::given(path("/proxy/contoso.example/oauth2/v2.0/token"))
        .respond_with(granted("a", None))
        .mount(&entra.server)
        .await;
    assert_eq!(bearer(&entra.tokens()).await, "a");
}
