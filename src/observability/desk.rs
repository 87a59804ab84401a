//! One request, from its head to its answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::time::Instant;

use super::catalogue::View;
use super::{metrics, page};
use crate::daemon::findings::unready;
use crate::daemon::{Engine, Pulse, STUCK_AFTER, Status};

/// A status is shown to everybody for so long: a flood of requests costs no more than this.
pub const STATUS_AGE_MAX: Duration = Duration::from_secs(1);
/// A status that takes longer is not waited for; the one before is shown.
pub const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// What can be asked for, as it is counted.
pub const PAGES: [&str; 5] = ["page", "healthz", "readyz", "metrics", "other"];

const TEXT: &str = "text/plain; charset=utf-8";

/// Answers requests.
pub(super) struct Desk {
    engine: Arc<dyn Engine>,
    pulse: Pulse,
    known: tokio::sync::Mutex<Option<(Instant, Arc<Status>)>>,
    answered: Mutex<BTreeMap<&'static str, u64>>,
}

/// An answer.
pub(super) type Answer = Response<Full<Bytes>>;

impl Desk {
    /// A desk in front of an engine.
    pub(super) fn new(engine: Arc<dyn Engine>, pulse: Pulse) -> Desk {
        Desk { engine, pulse, known: tokio::sync::Mutex::default(), answered: Mutex::default() }
    }

    /// How many requests were answered, by page.
    pub(super) fn answered(&self) -> BTreeMap<String, u64> {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.iter().map(|(page, count)| ((*page).to_owned(), *count)).collect()
    }

    /// Answers one request; its body is not looked at. `lag_max` is `observability.lag_max`.
    pub(super) async fn answer<B>(&self, request: &Request<B>, lag_max: Duration) -> Answer {
        let [page, healthz, readyz, metrics, other] = PAGES;
        let (name, answer) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/healthz") => (healthz, self.health()),
            (&Method::GET | &Method::HEAD, "/readyz") => (readyz, self.readiness(lag_max).await),
            (&Method::GET | &Method::HEAD, "/metrics") => (metrics, self.metrics(lag_max).await),
            (&Method::GET | &Method::HEAD, "/") => (page, self.page(request.uri().query(), lag_max).await),
            (&Method::GET | &Method::HEAD, "/icon.svg") => (other, self.icon(lag_max).await),
            (&Method::GET | &Method::HEAD, _) => {
                (other, plain(StatusCode::NOT_FOUND, "no such page; there are /, /healthz, /readyz and /metrics\n"))
            }
            (_, _) => {
                let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "this listener only shows; use GET or HEAD\n");
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                (other, answer)
            }
        };
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
        guarded(answer)
    }

    fn health(&self) -> Answer {
        match self.pulse.is_alive(STUCK_AFTER) {
            true => plain(StatusCode::OK, "alive\n"),
            false => {
                let text = format!("a cycle has been running for more than {} s\n", STUCK_AFTER.as_secs());
                plain(StatusCode::SERVICE_UNAVAILABLE, text)
            }
        }
    }

    async fn readiness(&self, lag_max: Duration) -> Answer {
        let Some(status) = self.status().await else { return speechless() };
        let why = unready(&status, lag_max);
        match why.is_empty() {
            true => plain(StatusCode::OK, "ready\n"),
            false => plain(StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}\n", why.join("\n"))),
        }
    }

    async fn metrics(&self, lag_max: Duration) -> Answer {
        let Some(status) = self.status().await else { return speechless() };
        content(StatusCode::OK, metrics::CONTENT_TYPE, metrics::text(&View { status: &status, lag_max }))
    }

    async fn page(&self, query: Option<&str>, lag_max: Duration) -> Answer {
        let Some(status) = self.status().await else { return speechless() };
        let html = page::render(&status, lag_max, page::Refresh::asked(query));
        let mut answer = content(StatusCode::OK, "text/html; charset=utf-8", html);
        let policy = HeaderValue::from_str(&page::content_security_policy()).expect("a policy is plain text");
        answer.headers_mut().insert(http::header::CONTENT_SECURITY_POLICY, policy);
        answer
    }

    async fn icon(&self, lag_max: Duration) -> Answer {
        let Some(status) = self.status().await else { return speechless() };
        content(StatusCode::OK, "image/svg+xml", page::icon(&status, lag_max))
    }

    /// How things stand, or stood at last; `None` when that was never known. Asked in a task of its own: a disk that hangs
    /// must not hang this.
    async fn status(&self) -> Option<Arc<Status>> {
        let mut known = self.known.lock().await;
        if let Some((at, status)) = known.as_ref().filter(|(at, _)| at.elapsed() < STATUS_AGE_MAX) {
            tracing::trace!(age_ms = at.elapsed().as_millis(), "the status is shown again");
            return Some(Arc::clone(status));
        }
        let engine = Arc::clone(&self.engine);
        let asked = tokio::spawn(async move { engine.status().await });
        match tokio::time::timeout(STATUS_TIMEOUT, asked).await {
            Ok(Ok(Ok(status))) => *known = Some((Instant::now(), Arc::new(status))),
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the status could not be had for the listener"),
            Ok(Err(_)) | Err(_) => tracing::warn!("the status did not come in time for the listener"),
        }
        known.as_ref().map(|(_, status)| Arc::clone(status))
    }
}

fn speechless() -> Answer {
    plain(StatusCode::SERVICE_UNAVAILABLE, "how things stand could not be found out; see the log\n")
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    content(status, TEXT, text)
}

fn content(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// What every answer says to browsers: nothing is run, framed, guessed, sent on or kept.
fn guarded(mut answer: Answer) -> Answer {
    let headers = answer.headers_mut();
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers
        .entry(http::header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    answer
}
