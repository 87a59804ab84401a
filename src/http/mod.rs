//! The client stack, its order written in one place: deadline, limiter, shared gate, token, send, classify, retry.

mod body;
mod classify;
mod client;
pub mod exchange;
mod limit;
mod pace;
pub mod probe;
pub(crate) mod retry;
pub mod settings;
pub mod signin;
pub(crate) mod transport;

#[cfg(test)]
mod tests;

pub use body::{json, with_whole_letters, without_mark};
pub use exchange::Exchange;
pub use pace::{Facet, Protection, Remaining};

use std::time::Duration;

use bytes::Bytes;

use crate::model::{Fault, RemoteError, Side, Timestamp};

pub use client::Client;
pub use signin::Tokens;
pub use transport::{Lost, Request, Response, SetupError, Wire, check_base, install_crypto, is_loopback, refuse};

/// One call, before limits, token and correlation headers are added.
#[derive(Clone)]
pub struct Call {
    /// A fixed phrase for messages, for example `get referral`.
    pub operation: &'static str,
    /// The method.
    pub method: http::Method,
    /// Absolute URL; its scheme, host and port must be the configured ones or the call is refused unsent.
    pub url: url::Url,
    /// Further headers.
    pub headers: http::HeaderMap,
    /// JSON text of the body, if any. Sent verbatim as `application/json` unless `headers` says otherwise.
    pub body: Option<Bytes>,
    /// Whether a lost answer leaves the outcome unknown.
    pub effect: Effect,
    /// The idempotency key of a write (`MS-RequestId`): the same for every replay of one write. What leaves is derived
    /// from it anew after every definite answer.
    pub request: Option<uuid::Uuid>,
    /// Replaces the time-out of its effect.
    pub timeout: Option<Duration>,
    /// How many requests it counts as in the daily budget: items of a batch count singly (dataverse §6.2).
    pub items: u32,
}

/// Whether a call may change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// May be repeated freely: retried inside the call.
    Read,
    /// A lost answer (time-out, broken connection after sending, 5xx without a documented refusal) is an unknown
    /// outcome: returned at once with `is_outcome_unknown`, never repeated blindly. Refusals that prove that nothing
    /// was done (429, 503 with `Retry-After`, connection refused, 401) are retried like reads.
    Write,
}

/// A 2xx (or 304) answer.
#[derive(Clone)]
pub struct Answer {
    /// The status.
    pub status: http::StatusCode,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The whole body, within the size limit.
    pub body: Bytes,
    /// The service's request id, if it sent one.
    pub request_id: Option<String>,
    /// The `Date` header: server time.
    pub server_time: Option<Timestamp>,
}

impl Answer {
    /// Reads the body as JSON.
    ///
    /// # Errors
    /// When it is no JSON of this shape. The error says where, never what: the text may hold personal data.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Malformed> {
        let body = without_mark(&self.body);
        serde_json::from_slice(body).map_err(|error| {
            let kind = match (body.trim_ascii_start().first(), error.classify()) {
                (None, _) => "the answer is empty",
                (Some(b'<'), _) => "the answer is a web page and no JSON",
                (_, serde_json::error::Category::Data) => "the answer has an unexpected shape",
                (_, serde_json::error::Category::Eof) => "the answer is cut off",
                (_, serde_json::error::Category::Syntax | serde_json::error::Category::Io) => "the answer is no JSON",
            };
            Malformed {
                status: self.status.as_u16(),
                request_id: self.request_id.clone(),
                reason: format!("{kind} (line {}, column {})", error.line(), error.column()),
            }
        })
    }
}

/// Headers and body stay out: both may hold personal data.
impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .field("request_id", &self.request_id)
            .field("server_time", &self.server_time)
            .finish_non_exhaustive()
    }
}

/// Query, headers and body stay out: all may hold personal data.
impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call")
            .field("operation", &self.operation)
            .field("method", &self.method)
            .field("path", &self.url.path())
            .field("body_bytes", &self.body.as_ref().map(Bytes::len))
            .field("effect", &self.effect)
            .field("request", &self.request)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A successful answer that could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    /// The HTTP status.
    pub status: u16,
    /// The id to quote to support.
    pub request_id: Option<String>,
    /// What is wrong and where, without quoting.
    pub reason: String,
}

impl Malformed {
    /// The failure of the call that got this answer. A write that was answered with 2xx has been carried out, but what
    /// came of it must be read: its outcome counts as unknown.
    pub fn into_error(self, side: Side, operation: &'static str, effect: Effect) -> RemoteError {
        RemoteError {
            status: Some(self.status),
            request_id: self.request_id,
            is_outcome_unknown: effect == Effect::Write,
            ..RemoteError::new(side, operation, Fault::Malformed).with_message(self.reason)
        }
    }
}

/// What one part of an answer to many calls means for its own call.
pub enum PartVerdict {
    /// It worked.
    Done(Answer),
    /// It failed, or nobody knows.
    Failed(RemoteError),
    /// Surely nothing was done: the call may be sent again on its own, after the window of a throttling.
    NotDone(RemoteError),
}

/// Judges one part by the same table as a whole answer.
pub fn judge_part(
    dialect: &dyn Dialect,
    operation: &'static str,
    effect: Effect,
    part: Response,
    now: Timestamp,
) -> PartVerdict {
    match classify::classify(dialect, operation, effect, Ok(part), now).verdict {
        classify::Verdict::Done(answer) => PartVerdict::Done(answer),
        classify::Verdict::Final(error) => PartVerdict::Failed(error),
        classify::Verdict::Again(error) | classify::Verdict::Renew(error) => PartVerdict::NotDone(error),
    }
}

/// What one service's refusals mean: the part of classification that only its adapter knows.
pub trait Dialect: Send + Sync {
    /// Which service this is.
    fn side(&self) -> Side;
    /// Reads a non-2xx answer. Must cope with HTML and empty bodies; must not quote the body.
    fn classify(&self, status: http::StatusCode, headers: &http::HeaderMap, body: &[u8]) -> Refusal;
    /// What an answer shows as left of the service's own limits.
    fn remaining(&self, _headers: &http::HeaderMap) -> Remaining {
        Remaining::default()
    }
    /// Headers that every call of this service carries (correlation ids are fresh per attempt).
    fn headers(&self, correlation: uuid::Uuid, request: Option<uuid::Uuid>) -> http::HeaderMap;
}

/// What a refusal means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What to do about it.
    pub verdict: RefusalVerdict,
    /// The service's own code, safe to print.
    pub code: Option<String>,
    /// A sentence of ours for people: what it means and what to do.
    pub message: Option<String>,
}

/// What to do about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalVerdict {
    /// Throttled: close the service for `Retry-After` (or the given time without that header).
    Throttled {
        /// Used when there is no `Retry-After`.
        default_wait: Duration,
        /// Which limit it was.
        facet: Facet,
    },
    /// The service is closed to everybody for a reason of its own: as throttled, but our pace is not why.
    Closed {
        /// At least so long, whatever `Retry-After` says.
        wait_min: Duration,
    },
    /// A server fault: reads are tried again, a write's outcome is unknown.
    Unavailable,
    /// A server fault of which a write surely did nothing, or that is worth a few tries.
    Again,
    /// The token was refused: renew once, then give up as unauthorized.
    TokenRefused,
    /// 412, 409: version or duplicate.
    Conflict,
    /// 404, 410.
    Missing,
    /// Final for this item.
    Refused,
    /// Final for the whole side until configuration or rights change.
    Unauthorized,
    /// A person must act.
    NeedsHuman,
}
