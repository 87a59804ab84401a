//! From what one attempt brought to what to do next.
//!
//! | what happened                          | read            | write             |
//! |----------------------------------------|-----------------|-------------------|
//! | 2xx, 304                               | done            | done              |
//! | no connection                          | again           | again             |
//! | time-out, broken, cut off              | again           | unknown, at once  |
//! | success larger than allowed            | malformed       | malformed, unknown|
//! | 429, 503 with `Retry-After`, throttled | close, again    | close, again      |
//! | closed to everybody                    | close, again    | close, again      |
//! | server fault                           | again           | unknown, at once  |
//! | server fault that did nothing          | again           | again             |
//! | token refused                          | renew once      | renew once        |
//! | redirect                               | unavailable     | unknown           |
//! | anything else                          | final           | final             |
//!
//! Any 5xx that names a `Retry-After` closes the service as well, whatever becomes of the call.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};

use super::retry;
use super::transport::{Lost, Response};
use super::{Answer, Dialect, Effect, Facet, RefusalVerdict};
use crate::model::{Fault, RemoteError, Timestamp};

/// The window after a 429 that names none, when the dialect does not name one either.
const THROTTLED_WAIT: Duration = Duration::from_secs(30);
/// Longest request id that is kept.
const REQUEST_ID_LENGTH_MAX: usize = 128;

/// What an attempt means for the call and for the service.
pub struct Judged {
    /// What to do with the call.
    pub verdict: Verdict,
    /// What it says about the whole service.
    pub closing: Option<Closing>,
}

/// What to do with a call after an attempt.
pub enum Verdict {
    /// It worked.
    Done(Answer),
    /// Try again after a pause; the failure to report if that was the last attempt.
    Again(RemoteError),
    /// Renew the token once and try again; the failure if it was the second time.
    Renew(RemoteError),
    /// Report it.
    Final(RemoteError),
}

/// The service wants to be left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// From now.
    pub window: Duration,
    /// The service said for how long.
    pub is_told: bool,
    /// Which limit was met; `None` when it is no throttling.
    pub facet: Option<Facet>,
}

/// Decides what one attempt means (see the table above).
pub fn classify(
    dialect: &dyn Dialect,
    operation: &'static str,
    effect: Effect,
    result: Result<Response, Lost>,
    now: Timestamp,
) -> Judged {
    let error = |fault, message: String| RemoteError::new(dialect.side(), operation, fault).with_message(message);
    let verdict = match result {
        Ok(response) if response.status.is_success() || response.status == StatusCode::NOT_MODIFIED => {
            Verdict::Done(answer(response))
        }
        Ok(response) => return refusal(dialect, operation, effect, &response, now),
        Err(Lost::NotSent(cause)) => Verdict::Again(error(Fault::Unavailable, format!("no connection: {cause}"))),
        Err(Lost::Forbidden(reason)) => Verdict::Final(error(Fault::Refused, reason)),
        Err(Lost::TimedOut) => unclear(effect, error(Fault::Unavailable, "no answer in time".to_owned())),
        Err(Lost::Broken(cause)) => {
            unclear(effect, error(Fault::Unavailable, format!("the connection broke: {cause}")))
        }
        Err(Lost::TooLarge(status)) => Verdict::Final(RemoteError {
            status: Some(status.as_u16()),
            is_outcome_unknown: effect == Effect::Write,
            ..error(Fault::Malformed, "the answer is larger than http.response_bytes_max allows".to_owned())
        }),
    };
    Judged { verdict, closing: None }
}

fn refusal(
    dialect: &dyn Dialect,
    operation: &'static str,
    effect: Effect,
    response: &Response,
    now: Timestamp,
) -> Judged {
    let Response { status, headers, body } = response;
    let refusal = dialect.classify(*status, headers, body);
    let error = |fault| RemoteError {
        status: Some(status.as_u16()),
        code: refusal.code.clone(),
        message: refusal.message.clone(),
        request_id: request_id(headers),
        ..RemoteError::new(dialect.side(), operation, fault)
    };
    let throttling = throttling(*status, headers, refusal.verdict);
    let asked = retry::retry_after(headers, now).filter(|_| status.is_server_error() || throttling.is_some());
    let least = match refusal.verdict {
        RefusalVerdict::Closed { wait_min } => wait_min,
        _ => Duration::ZERO,
    };
    let closing = match (throttling, asked) {
        (Some(throttling), asked) => {
            let window = asked.unwrap_or(throttling.window).max(least);
            Some(Closing { window, is_told: asked.is_some(), ..throttling })
        }
        (None, Some(window)) => Some(Closing { window, is_told: true, facet: None }),
        (None, None) => None,
    };
    let verdict = match (throttling.and(closing), refusal.verdict) {
        (None, _) if status.is_redirection() => Verdict::Final(RemoteError {
            message: Some("the answer is a redirect, which is never followed; check the configured URL".to_owned()),
            is_outcome_unknown: effect == Effect::Write,
            ..error(Fault::Unavailable)
        }),
        (Some(closing), _) => Verdict::Again(error(Fault::Throttled { until: now.plus(closing.window) })),
        (None, RefusalVerdict::Unavailable) => unclear(effect, error(Fault::Unavailable)),
        // What is throttled or closed has been dealt with above.
        (None, RefusalVerdict::Again | RefusalVerdict::Throttled { .. } | RefusalVerdict::Closed { .. }) => {
            Verdict::Again(error(Fault::Unavailable))
        }
        (None, RefusalVerdict::TokenRefused) => Verdict::Renew(error(Fault::Unauthorized)),
        (None, RefusalVerdict::Conflict) => Verdict::Final(error(Fault::Conflict)),
        (None, RefusalVerdict::Missing) => Verdict::Final(error(Fault::Missing)),
        (None, RefusalVerdict::Refused) => Verdict::Final(error(Fault::Refused)),
        (None, RefusalVerdict::Unauthorized) => Verdict::Final(error(Fault::Unauthorized)),
        (None, RefusalVerdict::NeedsHuman) => Verdict::Final(error(Fault::NeedsHuman)),
    };
    Judged { verdict, closing }
}

/// A refusal that proves that nothing was done: what the dialect calls throttled, any 429, and a 503 that says when to
/// come back. The window is the one without a `Retry-After`.
fn throttling(status: StatusCode, headers: &HeaderMap, verdict: RefusalVerdict) -> Option<Closing> {
    let (window, facet) = match verdict {
        RefusalVerdict::Throttled { default_wait, facet } => (default_wait, Some(facet)),
        RefusalVerdict::Closed { wait_min } => (wait_min, None),
        _ if status == StatusCode::TOO_MANY_REQUESTS => (THROTTLED_WAIT, Some(Facet::Unknown)),
        // Nobody said that we are the reason.
        _ if status == StatusCode::SERVICE_UNAVAILABLE && headers.contains_key(RETRY_AFTER) => (THROTTLED_WAIT, None),
        _ => return None,
    };
    Some(Closing { window, is_told: false, facet })
}

/// A read is tried again; whether a write was carried out is not known.
fn unclear(effect: Effect, error: RemoteError) -> Verdict {
    match effect {
        Effect::Read => Verdict::Again(error),
        Effect::Write => Verdict::Final(RemoteError { is_outcome_unknown: true, ..error }),
    }
}

fn answer(response: Response) -> Answer {
    Answer {
        request_id: request_id(&response.headers),
        server_time: retry::date(&response.headers),
        status: response.status,
        headers: response.headers,
        body: response.body,
    }
}

/// The id to quote to support, if it looks like one.
fn request_id(headers: &HeaderMap) -> Option<String> {
    ["x-ms-service-request-id", "req_id", "request-id", "client-request-id", "ms-correlationid", "ms-requestid"]
        .iter()
        .filter_map(|name| headers.get(*name)?.to_str().ok())
        .map(str::trim)
        .find(|text| {
            (1..=REQUEST_ID_LENGTH_MAX).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:|{}=/+".contains(&byte))
        })
        .map(str::to_owned)
}
