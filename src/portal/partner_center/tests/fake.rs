//! A service that answers from a queue and keeps every call. It fails in the way the client stack does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use super::super::settings::PartnerCenterSettings;
use super::super::{PartnerCenter, PartnerCenterDialect, contract, open};
use crate::http::settings::{AuthSettings, EndpointVersion, Grant};
use crate::http::{Answer, Call, Dialect as _, Effect, Exchange, RefusalVerdict};
use crate::model::{Fault, ReferralId, RemoteError, Side, Timestamp};
use crate::ports::{Allowance, Line, Traffic};

/// One scripted answer of the service, or its silence.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// Status, headers, body.
    Http(u16, Vec<(&'static str, &'static str)>, Vec<u8>),
    /// The answer never came.
    Silence,
}

/// A 200 with this body.
pub(super) fn ok(body: impl AsRef<[u8]>) -> Reply {
    Reply::Http(200, Vec::new(), body.as_ref().to_vec())
}

/// An answer with this status and an error body as the service writes it.
pub(super) fn status(status: u16) -> Reply {
    Reply::Http(status, Vec::new(), br#"{"error":{"code":"invalidRequest","message":"Ada said no"}}"#.to_vec())
}

#[derive(Default)]
pub(super) struct Fake {
    replies: Mutex<VecDeque<Reply>>,
    calls: Mutex<Vec<Call>>,
}

impl Fake {
    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("no test panics while holding it").clone()
    }

    /// The queries sent so far.
    pub(super) fn queries(&self) -> Vec<String> {
        self.calls().iter().map(|call| call.url.query().unwrap_or_default().to_owned()).collect()
    }
}

/// An adapter in front of a service that will answer so.
pub(super) fn adapter(replies: impl IntoIterator<Item = Reply>) -> (PartnerCenter, Arc<Fake>) {
    adapter_with(replies, |_| {})
}

/// The same with other settings.
pub(super) fn adapter_with(
    replies: impl IntoIterator<Item = Reply>,
    change: impl FnOnce(&mut PartnerCenterSettings),
) -> (PartnerCenter, Arc<Fake>) {
    let fake = Arc::new(Fake { replies: Mutex::new(replies.into_iter().collect()), ..Fake::default() });
    let mut settings = settings();
    change(&mut settings);
    (open(&settings, Arc::clone(&fake) as Arc<dyn Exchange>), fake)
}

/// The first referral of the fixture.
pub(super) fn first_id() -> ReferralId {
    ReferralId::parse("8f0c2b1e-0000-4000-8000-000000000001").expect("a GUID")
}

fn settings() -> PartnerCenterSettings {
    let url = |text: &str| url::Url::parse(text).expect("a URL");
    PartnerCenterSettings {
        base_url: url("https://api.partner.microsoft.com"),
        webhook_api_url: url("https://api.partnercenter.microsoft.com"),
        pages_max: 100,
        empty_pages_max: 2,
        use_updated_filter: true,
        prefer_representation: true,
        requests_per_minute: 60,
        in_flight_max: 2,
        requests_per_day: 100_000,
        webhook_auth: Default::default(),
        auth: AuthSettings {
            authority: url("https://login.microsoftonline.com"),
            tenant_id: None,
            client_id: None,
            client_secret_file: None,
            client_secret_credential: None,
            client_secret_environment: None,
            client_secret_expires: None,
            certificate_file: None,
            private_key_file: None,
            grant: Grant::RefreshToken,
            refresh_token_file: None,
            refresh_token_credential: None,
            username: None,
            password_file: None,
            endpoint_version: EndpointVersion::V2,
            audience: None,
        },
    }
}

#[async_trait]
impl Exchange for Fake {
    async fn send(&self, call: Call) -> Result<Answer, RemoteError> {
        check_call(&call);
        let (operation, effect) = (call.operation, call.effect);
        self.calls.lock().expect("no test panics while holding it").push(call);
        let reply = self.replies.lock().expect("no test panics while holding it").pop_front();
        match reply.expect("the script holds an answer for every call") {
            Reply::Silence => {
                let mut error = RemoteError::new(Side::Portal, operation, Fault::Unavailable);
                error.is_outcome_unknown = effect == Effect::Write;
                Err(error)
            }
            Reply::Http(status, headers, body) => answer(operation, effect, status, &headers, body),
        }
    }

    fn line(&self) -> &dyn Line {
        self
    }

    fn recommend(&self, _: u16) {}

    fn parallelism(&self) -> usize {
        1
    }

    fn write_time(&self) -> Duration {
        Duration::ZERO
    }
}

#[async_trait]
impl Line for Fake {
    fn closed_until(&self) -> Option<Timestamp> {
        Some(Timestamp::from_seconds(7))
    }

    fn close_until(&self, _: Timestamp) {}

    async fn closed_beyond(&self, _: Option<Timestamp>) -> Timestamp {
        std::future::pending().await
    }

    fn lose_patience(&self) {}

    fn requests_sent(&self) -> u64 {
        self.calls().len() as u64
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    fn allow(&self, _: Option<Allowance>) {}
}

/// What every call must look like, whatever it is for.
fn check_call(call: &Call) {
    assert_eq!(call.url.origin(), settings().base_url.origin(), "{}", call.url);
    assert_eq!(call.headers["accept"], "application/json");
    assert_eq!(call.headers["content-type"], "application/json");
    let path = call.url.path().strip_prefix("/v1.0/engagements").expect("under the base path");
    let path = match path.strip_prefix("/referrals/") {
        Some(id) => path.replace(&ReferralId::parse(id).expect("an id").to_string(), "{id}"),
        None => path.to_owned(),
    };
    let method = call.method.as_str().to_ascii_lowercase();
    assert!(contract::OPERATIONS.contains(&(method.as_str(), path.as_str())), "{method} {path}");
    for option in call.url.query().into_iter().flat_map(|query| query.split('&')) {
        let name = option.split('=').next().unwrap_or_default();
        assert!(name == "$skiptoken" || contract::QUERY_OPTIONS.contains(&name), "{name}");
    }
    match (&call.body, call.effect) {
        (None, Effect::Read) => assert_eq!(call.method, http::Method::GET),
        (Some(body), Effect::Write) => {
            let body = serde_json::from_slice(body).expect("the body is JSON");
            assert_eq!(contract::check_patch(&body), Ok(()));
        }
        (body, effect) => panic!("{effect:?} with {} bytes", body.as_ref().map_or(0, Bytes::len)),
    }
}

fn answer(
    operation: &'static str,
    effect: Effect,
    status: u16,
    headers: &[(&'static str, &'static str)],
    body: Vec<u8>,
) -> Result<Answer, RemoteError> {
    let code = StatusCode::from_u16(status).expect("a status");
    let headers: HeaderMap =
        headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
    if code.is_success() {
        let request_id = headers.get("request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let server_time = Some(Timestamp::from_seconds(1_795_000_000));
        return Ok(Answer { status: code, headers, body: Bytes::from(body), request_id, server_time });
    }
    let refusal = PartnerCenterDialect.classify(code, &headers, &body);
    let mut error = RemoteError::new(Side::Portal, operation, fault(refusal.verdict, &headers));
    error.status = Some(status);
    error.code = refusal.code;
    error.message = refusal.message;
    error.is_outcome_unknown = effect == Effect::Write && refusal.verdict == RefusalVerdict::Unavailable;
    Err(error)
}

fn fault(verdict: RefusalVerdict, headers: &HeaderMap) -> Fault {
    match verdict {
        RefusalVerdict::Throttled { default_wait, .. } => {
            let wait = headers.get(RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse().ok());
            let until = Timestamp::EPOCH.plus(wait.map_or(default_wait, std::time::Duration::from_secs));
            Fault::Throttled { until }
        }
        RefusalVerdict::Closed { .. } | RefusalVerdict::Unavailable | RefusalVerdict::Again => Fault::Unavailable,
        RefusalVerdict::TokenRefused | RefusalVerdict::Unauthorized => Fault::Unauthorized,
        RefusalVerdict::Conflict => Fault::Conflict,
        RefusalVerdict::Missing => Fault::Missing,
        RefusalVerdict::Refused => Fault::Refused,
        RefusalVerdict::NeedsHuman => Fault::NeedsHuman,
    }
}
