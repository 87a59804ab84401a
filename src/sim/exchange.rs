//! A request and its answer as plain values: what a socket would carry, and how the carrying goes wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

/// Whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// The referrals API.
    Portal,
    /// The Dataverse Web API.
    Crm,
    /// Entra ID.
    Authority,
}

/// One request as it arrives.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The method in capitals.
    pub method: String,
    /// The path, still percent-encoded.
    pub path: String,
    /// The raw query without `?`; empty when there is none.
    pub query: String,
    /// Headers by lower-case name.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
    /// The caller is inside the process and needs no token.
    pub is_trusted: bool,
    /// Requests of the same client at work, this one included (concurrency limit, dataverse §6.1).
    pub in_flight: u32,
}

impl Request {
    /// A request for a path with an optional query.
    pub fn new(method: &str, path_and_query: &str) -> Self {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            in_flight: 1,
            ..Request::default()
        }
    }

    /// The same from inside the process, without a token.
    pub fn trusted(method: &str, path_and_query: &str) -> Self {
        Request { is_trusted: true, ..Request::new(method, path_and_query) }
    }

    /// With a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.to_ascii_lowercase(), value.to_owned());
        self
    }

    /// With a JSON body.
    #[must_use]
    pub fn with_json(mut self, body: &Value) -> Self {
        self.body = body.to_string().into_bytes();
        self.with("content-type", "application/json")
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// One of the comma-joined preferences of `Prefer`, for example `return=representation`.
    pub fn prefers(&self, preference: &str) -> bool {
        self.preferences().any(|one| one.eq_ignore_ascii_case(preference))
    }

    /// The value of a preference such as `odata.maxpagesize`.
    pub fn preference(&self, name: &str) -> Option<&str> {
        self.preferences().find_map(|one| one.strip_prefix(name)?.strip_prefix('=')).map(|text| text.trim_matches('"'))
    }

    fn preferences(&self) -> impl Iterator<Item = &str> {
        self.header("prefer").unwrap_or("").split(',').map(str::trim)
    }

    /// The raw text of a query parameter.
    pub fn raw_parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let is_plain = !key.contains(['%', '+']);
            (if is_plain { key == name } else { decode(key) == name }).then_some(value)
        })
    }

    /// The decoded text of a query parameter.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.raw_parameter(name).map(decode)
    }

    /// The body as JSON.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// True for methods that may change something.
    pub fn is_write(&self) -> bool {
        !matches!(self.method.as_str(), "GET" | "HEAD")
    }
}

/// Decodes percent-encoding; `+` is a blank, as in the query strings of both services.
pub fn decode(text: &str) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let digit = |at: usize| bytes.get(at).and_then(|digit| char::from(*digit).to_digit(16));
                if let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) {
                    decoded.push((high << 4 | low) as u8);
                    at += 3;
                    continue;
                }
                decoded.push(b'%');
            }
            b'+' => decoded.push(b' '),
            _ => {
                // Plain text comes in runs.
                let run = bytes[at..].iter().take_while(|byte| !matches!(byte, b'%' | b'+')).count();
                decoded.extend_from_slice(&bytes[at..at + run]);
                at += run;
                continue;
            }
        }
        at += 1;
    }
    String::from_utf8(decoded).unwrap_or_else(|damaged| String::from_utf8_lossy(damaged.as_bytes()).into_owned())
}

/// Percent-encodes everything but letters, digits and `-._~`; capital hex.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            other => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                encoded.push('%');
                encoded.push(char::from(DIGITS[usize::from(other >> 4)]));
                encoded.push(char::from(DIGITS[usize::from(other & 15)]));
            }
        }
    }
    encoded
}

/// One answer, and how it travels.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Headers by lower-case name.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Body,
    /// How it reaches the client.
    pub delivery: Delivery,
}

/// The body of an answer. JSON becomes text only where it has to: behind the ports nobody reads the text.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A document.
    Json(Value),
    /// A listing: its envelope, and the rows of its `value`, shared with the world until they travel.
    Page(Value, Vec<Arc<Value>>),
    /// Anything else, and nothing.
    Bytes(Vec<u8>),
}

impl Body {
    /// True when there is nothing.
    pub fn is_empty(&self) -> bool {
        matches!(self, Body::Bytes(bytes) if bytes.is_empty())
    }

    /// As it travels.
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Body::Json(value) => value.to_string().into_bytes(),
            Body::Page(envelope, rows) => whole(envelope, rows).to_string().into_bytes(),
            Body::Bytes(bytes) => bytes,
        }
    }

    /// As text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.clone().into_bytes()).into_owned()
    }
}

/// A listing as one document.
fn whole(mut envelope: Value, rows: Vec<Arc<Value>>) -> Value {
    envelope["value"] = rows.into_iter().map(Arc::unwrap_or_clone).collect();
    envelope
}

/// How an answer reaches the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// At once and whole.
    Whole,
    /// Whole, but late.
    Slow(Duration),
    /// Never: the connection stays open in silence.
    Hang,
    /// Never: the connection breaks.
    Reset,
    /// The head and the first bytes of the body; then the connection breaks.
    Truncated(usize),
}

impl Answer {
    /// An empty answer.
    pub fn empty(status: u16) -> Self {
        Answer { status, headers: BTreeMap::new(), body: Body::Bytes(Vec::new()), delivery: Delivery::Whole }
    }

    /// A JSON answer.
    pub fn json(status: u16, body: Value) -> Self {
        let mut answer = Answer::empty(status).with("content-type", "application/json; charset=utf-8");
        answer.body = Body::Json(body);
        answer
    }

    /// A listing.
    pub fn page(envelope: Value, rows: Vec<Arc<Value>>) -> Self {
        let mut answer = Answer::json(200, Value::Null);
        answer.body = Body::Page(envelope, rows);
        answer
    }

    /// An HTML page, as gateways answer.
    pub fn html(status: u16) -> Self {
        let mut answer = Answer::empty(status).with("content-type", "text/html");
        let page = format!("<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>");
        answer.body = Body::Bytes(page.into_bytes());
        answer
    }

    /// With a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.to_ascii_lowercase(), value.to_owned());
        self
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The body as JSON; null when it is none.
    pub fn value(&self) -> Value {
        self.clone().into_value()
    }

    /// The body as JSON; null when it is none.
    pub fn into_value(self) -> Value {
        match self.body {
            Body::Json(value) => value,
            Body::Page(envelope, rows) => whole(envelope, rows),
            Body::Bytes(bytes) => serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        }
    }

    /// An error in the shape of the referrals API (partner-center §1.11).
    pub fn portal_error(status: u16, code: &str, message: &str, inner: Option<&str>) -> Self {
        let inner = inner.map(|code| json!({"code": code, "message": message, "details": null}));
        Answer::json(status, json!({"error": {"code": code, "message": message, "innerError": inner}}))
    }

    /// An error in the shape of Dataverse (dataverse §7).
    pub fn crm_error(status: u16, code: &str, message: &str) -> Self {
        Answer::json(status, json!({"error": {"code": code, "message": message}}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plus_in_a_query_is_a_blank_and_encoded_text_comes_back() {
        assert_eq!(decode("a+b%2bc%2F"), "a b+c/");
        assert_eq!(decode(&encode("한 'é' / +")), "한 'é' / +");
    }

    #[test]
    fn preferences_are_found_among_others() {
        let request = Request::new("GET", "/x").with("Prefer", "odata.maxpagesize=50, return=representation");
        assert!(request.prefers("return=representation"));
        assert_eq!(request.preference("odata.maxpagesize"), Some("50"));
    }
}
