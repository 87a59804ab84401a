//! The registration of webhooks: one URL for the whole tenant, replaced as a whole, never deleted (partner-center §3.1).

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Map, Value, json};
use url::Url;

use crate::http::{Answer, Call, Effect, Exchange};
use crate::model::{Fault, RemoteError, Side};

/// The event that a test sends.
pub const TEST_EVENT: &str = "test-created";

/// What is registered. The URL may carry a secret of somebody else: it is for the operator's eyes, not for logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    /// Where events are delivered.
    pub url: String,
    /// Which.
    pub events: Vec<String>,
}

/// How the delivery of a test event went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestReport {
    /// The service's word; `completed` is the only documented one.
    pub status: String,
    /// Where it was delivered.
    pub url: String,
    /// Each attempt: code, message, time as the service writes it.
    pub attempts: Vec<TestAttempt>,
}

/// One attempt of a delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestAttempt {
    /// What our end answered, for example `OK`.
    pub code: String,
    /// More about it, often empty.
    pub message: String,
    /// When, in UTC without a zone.
    pub at: String,
}

/// The registration API.
pub struct WebhookApi {
    exchange: Arc<dyn Exchange>,
    base: Url,
}

impl WebhookApi {
    /// Over a client stack for the host of `base`.
    pub fn new(exchange: Arc<dyn Exchange>, base: Url) -> Self {
        WebhookApi { exchange, base }
    }

    /// The events that exist.
    ///
    /// # Errors
    /// As the client stack.
    pub async fn events(&self) -> Result<Vec<String>, RemoteError> {
        let answer = self.send("list webhook events", Method::GET, "registration/events", None).await?;
        let value: Value = read(&answer, "list webhook events", Effect::Read)?;
        Ok(words(Some(&value)))
    }

    /// What is registered; `None` when nothing is.
    ///
    /// # Errors
    /// As the client stack.
    pub async fn registration(&self) -> Result<Option<Registration>, RemoteError> {
        const OPERATION: &str = "read webhook registration";
        let answer = match self.send(OPERATION, Method::GET, "registration", None).await {
            Err(error) if error.fault == Fault::Missing => return Ok(None),
            answer => answer?,
        };
        if answer.body.trim_ascii().is_empty() {
            return Ok(None);
        }
        Ok(registration(&read(&answer, OPERATION, Effect::Read)?))
    }

    /// Registers: creates where there is nothing, else replaces.
    ///
    /// # Errors
    /// As the client stack.
    pub async fn register(
        &self,
        wanted: &Registration,
        use_ms_signature_header: bool,
        is_there_one: bool,
    ) -> Result<(), RemoteError> {
        let body = json!({
            "WebhookUrl": wanted.url,
            "WebhookEvents": wanted.events,
            "SignatureTokenToMsSignatureHeader": use_ms_signature_header,
        });
        let method = if is_there_one { Method::PUT } else { Method::POST };
        self.send("register webhook", method, "registration", Some(&body)).await.map(|_| ())
    }

    /// Asks for a test event, at most two a minute; gives the id under which its report is found.
    ///
    /// # Errors
    /// As the client stack.
    pub async fn send_test(&self) -> Result<String, RemoteError> {
        const OPERATION: &str = "send webhook test event";
        let answer = self.send(OPERATION, Method::POST, "registration/validationEvents", None).await?;
        let value: Value = read(&answer, OPERATION, Effect::Write)?;
        let id = text(&value, "correlationId");
        let is_plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        match id.is_empty() || !is_plain {
            true => Err(RemoteError::new(Side::Portal, OPERATION, Fault::Malformed)
                .with_message("the answer carries no correlation id")),
            false => Ok(id),
        }
    }

    /// How the delivery of a test event goes.
    ///
    /// # Errors
    /// As the client stack.
    pub async fn test_report(&self, id: &str) -> Result<TestReport, RemoteError> {
        const OPERATION: &str = "read webhook test report";
        let path = format!("registration/validationEvents/{id}");
        let answer = self.send(OPERATION, Method::GET, &path, None).await?;
        let value: Value = read(&answer, OPERATION, Effect::Read)?;
        let attempts = member(&value, "results").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let attempt = |one: &Value| TestAttempt {
            code: text(one, "responseCode"),
            message: text(one, "responseMessage"),
            at: text(one, "dateTimeUtc"),
        };
        Ok(TestReport {
            status: text(&value, "status"),
            url: text(&value, "callbackUrl"),
            attempts: attempts.iter().map(attempt).collect(),
        })
    }

    async fn send(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, RemoteError> {
        let mut url = self.base.clone();
        url.set_path(&format!("/webhooks/v1/{path}"));
        let effect = if method == Method::GET { Effect::Read } else { Effect::Write };
        let request = (effect == Effect::Write).then(uuid::Uuid::new_v4);
        let body = body.map(|body| Bytes::from(body.to_string()));
        let mut headers = HeaderMap::new();
        if method == Method::POST && body.is_none() {
            // Nothing says so by itself over HTTP/1.1, and gateways answer 411 without it (partner-center §3.1).
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let call = Call { operation, method, url, headers, body, effect, request, timeout: None, items: 1 };
        self.exchange.send(call).await
    }
}

fn read(answer: &Answer, operation: &'static str, effect: Effect) -> Result<Value, RemoteError> {
    answer.json().map_err(|malformed| malformed.into_error(Side::Portal, operation, effect))
}

fn registration(value: &Value) -> Option<Registration> {
    let url = text(value, "WebhookUrl");
    (!url.is_empty()).then(|| Registration { url, events: words(member(value, "WebhookEvents")) })
}

/// A member by its name in any case: documents and connector differ.
fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let members: &Map<String, Value> = value.as_object()?;
    members.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn text(value: &Value, name: &str) -> String {
    member(value, name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn words(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_members_are_read_in_any_case_and_an_empty_url_is_none() {
        for body in [
            json!({"WebhookUrl": "https://a.example/", "WebhookEvents": ["test-created"]}),
            json!({"webhookUrl": "https://a.example/", "webhookEvents": ["test-created", 7]}),
        ] {
            let found = registration(&body).expect("one");
            assert_eq!((found.url.as_str(), found.events), ("https://a.example/", vec!["test-created".to_owned()]));
        }
        for body in [json!({"WebhookUrl": "", "WebhookEvents": []}), json!({}), json!([]), json!(null)] {
            assert_eq!(registration(&body), None);
        }
    }
}
