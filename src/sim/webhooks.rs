//! Webhooks: the registration API, signed deliveries with their attempts, and the certificate they are signed with
//! (partner-center §3).
//!
//! The keys are simulated ones and stand in this repository for everybody to read: nothing but a test believes their root.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use uuid::Uuid;

use super::exchange::{Answer, Body, Request};
use super::world::Turn;
use crate::model::Timestamp;

/// The root that a client of the simulator has to trust.
pub const ROOT_PEM: &str = include_str!("webhook/root.pem");
/// Where the certificate lies, on the host of the referrals API.
pub const CERTIFICATE_PATH: &str = "/cert/pcnotifications-dispatch.microsoft.com.cer";
/// Attempts of one delivery (partner-center §3.3).
pub const ATTEMPTS_MAX: usize = 10;

const CERTIFICATES: [&str; 2] = [include_str!("webhook/first.pem"), include_str!("webhook/second.pem")];
const KEYS: [&str; 2] = [include_str!("webhook/first.key.pem"), include_str!("webhook/second.key.pem")];
/// Test events within a minute.
const TESTS_PER_MINUTE: usize = 2;
const MINUTE: Duration = Duration::from_secs(60);
const EVENTS: [&str; 8] = [
    "test-created",
    "referral-created",
    "referral-updated",
    "related-referral-created",
    "related-referral-updated",
    "subscription-updated",
    "invoice-ready",
    "granular-admin-relationship-approved",
];

/// Everything about webhooks.
#[derive(Debug, Default)]
pub struct Webhooks {
    /// What is registered.
    pub registration: Option<Registered>,
    /// The certificate at its place is the second one, and its key signs.
    pub is_rolled_over: bool,
    /// What waits to be delivered.
    pub outbox: VecDeque<Delivery>,
    /// Deliveries that were answered, with the status of the last attempt; 0: none came.
    pub delivered: Vec<(String, u16)>,
    tests: BTreeMap<String, Test>,
    asked: Vec<Timestamp>,
}

/// One registration, for the whole tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Where events go.
    pub url: String,
    /// Which.
    pub events: Vec<String>,
    /// The signature goes into `x-ms-signature`.
    pub use_ms_signature_header: bool,
}

/// One event on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Where to.
    pub url: String,
    /// The event's name.
    pub event: String,
    /// The headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The test it belongs to.
    pub test: Option<String>,
    /// Attempts made.
    pub attempts: usize,
}

#[derive(Debug, Default)]
struct Test {
    url: String,
    results: Vec<(String, Timestamp)>,
    is_completed: bool,
}

impl Webhooks {
    /// The certificate, for which nobody needs a token.
    pub(crate) fn certificate(&self, request: &Request) -> Option<Answer> {
        if request.method != "GET" || request.path != CERTIFICATE_PATH {
            return None;
        }
        let mut answer = Answer::empty(200).with("content-type", "application/x-x509-ca-cert");
        answer.body = Body::Bytes(CERTIFICATES[usize::from(self.is_rolled_over)].into());
        Some(answer)
    }

    /// The registration API.
    pub(crate) fn answer(&mut self, host: &str, request: &Request, turn: &mut Turn<'_>) -> Answer {
        let path = request.path.trim_start_matches("/webhooks/v1/registration").trim_matches('/');
        let steps: Vec<&str> = path.split('/').collect();
        match (request.method.as_str(), steps.as_slice()) {
            ("GET", ["events"]) => Answer::json(200, json!(EVENTS)),
            ("GET", [""]) => match &self.registration {
                Some(one) => Answer::json(200, json!({"WebhookUrl": one.url, "WebhookEvents": one.events})),
                None => flat_error(404, "600009", "no registration"),
            },
            ("POST", [""]) if self.registration.is_some() => flat_error(409, "600010", "there is a registration"),
            ("PUT", [""]) if self.registration.is_none() => flat_error(404, "600009", "no registration"),
            ("POST" | "PUT", [""]) => self.register(request, turn),
            ("POST", ["validationEvents"]) => self.test(host, turn),
            ("GET", ["validationEvents", id]) => match self.tests.get(*id) {
                Some(test) => Answer::json(200, test.report(id)),
                None => flat_error(404, "600011", "no such test"),
            },
            _ => Answer::html(404),
        }
    }

    fn register(&mut self, request: &Request, turn: &mut Turn<'_>) -> Answer {
        let Some(Value::Object(body)) = request.json() else { return flat_error(400, "400", "no JSON object") };
        let member = |name: &str| body.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        let url = member("WebhookUrl").and_then(Value::as_str).unwrap_or_default().to_owned();
        let events = member("WebhookEvents").and_then(Value::as_array).cloned().unwrap_or_default();
        let events: Vec<String> = events.iter().filter_map(|event| event.as_str().map(str::to_owned)).collect();
        if !url.starts_with("http") || events.is_empty() || events.iter().any(|event| !EVENTS.contains(&event.as_str()))
        {
            return flat_error(400, "400", "the registration is not valid");
        }
        let use_ms_signature_header =
            member("SignatureTokenToMsSignatureHeader").and_then(Value::as_bool).unwrap_or_default();
        turn.note.is_committed = true;
        let answer = json!({"SubscriberId": turn.guid(), "WebhookUrl": url, "WebhookEvents": events});
        self.registration = Some(Registered { url, events, use_ms_signature_header });
        Answer::json(200, answer)
    }

    fn test(&mut self, host: &str, turn: &mut Turn<'_>) -> Answer {
        self.asked.retain(|at| turn.now.since(*at) < MINUTE);
        if self.asked.len() >= TESTS_PER_MINUTE {
            return flat_error(429, "429", "two validation events a minute").with("retry-after", "60");
        }
        let id = turn.guid().to_string();
        let uri = format!("http://api.partnercenter.microsoft.com/webhooks/v1/registration/validationEvents/{id}");
        if !self.send(host, "test-created", "test", &uri, turn.now, Some(id.clone())) {
            return flat_error(400, "400", "test-created is not registered");
        }
        self.asked.push(turn.now);
        let url = self.registration.as_ref().map(|one| one.url.clone()).unwrap_or_default();
        self.tests.insert(id.clone(), Test { url, ..Test::default() });
        Answer::json(200, json!({"correlationId": id}))
    }

    /// A referral came to be or changed.
    pub(crate) fn referral(&mut self, host: &str, id: Uuid, is_new: bool, now: Timestamp) {
        let event = if is_new { "referral-created" } else { "referral-updated" };
        let uri = format!("https://api.partnercenter.microsoft.com/engagements/v1/referrals/{id}");
        self.send(host, event, "referral", &uri, now, None);
    }

    /// Puts an event into the outbox, if it is registered.
    fn send(
        &mut self,
        host: &str,
        event: &str,
        resource: &str,
        uri: &str,
        now: Timestamp,
        test: Option<String>,
    ) -> bool {
        let Some(registered) = self.registration.as_ref().filter(|one| one.events.iter().any(|name| name == event))
        else {
            return false;
        };
        let body = json!({
            "EventName": event,
            "ResourceUri": uri,
            "ResourceName": resource,
            "AuditUri": null,
            "ResourceChangeUtcDate": now.to_string().replace('Z', "+00:00"),
        });
        let body = body.to_string().into_bytes();
        let headers = self.headers(host, &body, registered.use_ms_signature_header);
        let delivery =
            Delivery { url: registered.url.clone(), event: event.to_owned(), headers, body, test, attempts: 0 };
        self.outbox.push_back(delivery);
        true
    }

    /// The headers of a delivery: the body signed with the current key.
    pub fn headers(&self, host: &str, body: &[u8], use_ms_signature_header: bool) -> Vec<(&'static str, String)> {
        let name = if use_ms_signature_header { "x-ms-signature" } else { "authorization" };
        vec![
            ("content-type", "application/json".to_owned()),
            (name, format!("Signature {}", STANDARD.encode(sign(usize::from(self.is_rolled_over), body)))),
            ("x-ms-certificate-url", format!("{host}{CERTIFICATE_PATH}")),
            ("x-ms-signature-algorithm", "rsa-sha256".to_owned()),
        ]
    }

    /// An attempt was answered with a status; 0: there was no answer. True when the delivery is to be tried again.
    pub(crate) fn attempted(&mut self, delivery: &mut Delivery, status: u16, now: Timestamp) -> bool {
        delivery.attempts += 1;
        let is_done = (200..300).contains(&status) || delivery.attempts >= ATTEMPTS_MAX;
        let word = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        if let Some(test) = delivery.test.as_ref().and_then(|id| self.tests.get_mut(id)) {
            let word = word.unwrap_or("ConnectFailure").replace(' ', "");
            test.results.push((word, now));
            test.is_completed = is_done;
        }
        if is_done {
            self.delivered.push((delivery.event.clone(), status));
        }
        !is_done
    }
}

impl Test {
    fn report(&self, id: &str) -> Value {
        let result = |(code, at): &(String, Timestamp)| {
            let time = at.to_string();
            json!({"responseCode": code, "responseMessage": "", "systemError": false,
                   "dateTimeUtc": time.trim_end_matches('Z')})
        };
        let results: Vec<Value> = self.results.iter().map(result).collect();
        let status = if self.is_completed { "completed" } else { "running" };
        json!({"correlationId": id, "partnerId": "aaaaaaaa-0000-4000-8000-000000000001", "status": status,
               "callbackUrl": self.url, "results": results})
    }
}

/// RSASSA-PKCS1-v1_5 with SHA-256 over the bytes.
fn sign(key: usize, body: &[u8]) -> Vec<u8> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(KEYS[key].as_bytes()).expect("the simulated key is PEM");
    let key = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).expect("the simulated key is an RSA key");
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), body, &mut signature)
        .expect("the buffer has the modulus' length");
    signature
}

/// The flat shape of this host's errors (partner-center §1.11).
fn flat_error(status: u16, code: &str, description: &str) -> Answer {
    Answer::json(status, json!({"code": code, "description": description, "data": [], "source": "simulator"}))
}
