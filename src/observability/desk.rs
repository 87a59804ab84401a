//! One request, from its head to its answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, VARY};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::catalogue::View;
use super::{metrics, page};
use crate::cycle::CycleError;
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
    known: tokio::sync::Mutex<Known>,
    status_timeout: Duration,
    answered: Mutex<BTreeMap<&'static str, u64>>,
}

/// What is known of the status.
#[derive(Default)]
struct Known {
    shown: Option<(Instant, Arc<Status>)>,
    /// It was asked for and has not come yet.
    asked: Option<JoinHandle<Result<Status, CycleError>>>,
}

/// An answer.
pub(super) type Answer = Response<Full<Bytes>>;

impl Desk {
    /// A desk in front of an engine.
    pub(super) fn new(engine: Arc<dyn Engine>, pulse: Pulse) -> Desk {
        Desk {
            engine,
            pulse,
            known: tokio::sync::Mutex::default(),
            status_timeout: STATUS_TIMEOUT,
            answered: Mutex::default(),
        }
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
            (&Method::GET | &Method::HEAD, "/metrics") => (metrics, self.metrics(request, lag_max).await),
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

    async fn metrics<B>(&self, request: &Request<B>, lag_max: Duration) -> Answer {
        let Some(status) = self.status().await else { return speechless() };
        let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
        let format = metrics::Format::asked(accept);
        let mut answer =
            content(StatusCode::OK, format.content_type(), format.text(&View { status: &status, lag_max }));
        answer.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
        answer
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

    /// How things stand, or stood at last; `None` when that was never known.
    ///
    /// Asked on a thread of its own, by one at a time: a disk that hangs takes one thread and neither the listener nor the
    /// daemon with it.
    async fn status(&self) -> Option<Arc<Status>> {
        let mut known = self.known.lock().await;
        if let Some((_, status)) = known.shown.as_ref().filter(|(at, _)| at.elapsed() < STATUS_AGE_MAX) {
            return Some(Arc::clone(status));
        }
        let asked = known.asked.get_or_insert_with(|| {
            let (engine, runtime) = (Arc::clone(&self.engine), Handle::current());
            tokio::task::spawn_blocking(move || runtime.block_on(engine.status()))
        });
        match tokio::time::timeout(self.status_timeout, asked).await {
            Err(_) => tracing::warn!("the status did not come in time for the listener; what is shown is older"),
            Ok(answer) => {
                known.asked = None;
                match answer {
                    Ok(Ok(status)) => known.shown = Some((Instant::now(), Arc::new(status))),
                    Ok(Err(error)) => tracing::warn!(%error, "the status could not be had for the listener"),
                    Err(_) => tracing::warn!("asking for the status broke; see the log above"),
                }
            }
        }
        known.shown.as_ref().map(|(_, status)| Arc::clone(status))
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use http::{Method, Request, StatusCode};
    use http_body_util::BodyExt as _;

    use super::{Answer, Desk};
    use crate::daemon::Pulse;
    use crate::daemon::fake::FakeEngine;
    use crate::observability::sample;

    const LAG_MAX: Duration = Duration::from_secs(900);

    async fn ask(desk: &Desk, method: Method, path: &str) -> Answer {
        let request = Request::builder().method(method).uri(path).body(()).expect("a request");
        desk.answer(&request, LAG_MAX).await
    }

    async fn get(desk: &Desk, path: &str) -> (StatusCode, String) {
        let answer = ask(desk, Method::GET, path).await;
        let status = answer.status();
        let body = answer.into_body().collect().await.expect("whole").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn each_path_has_its_answer_and_all_are_guarded() {
        let engine = FakeEngine { status: sample::busy(), ..FakeEngine::default() };
        let desk = Desk::new(Arc::new(engine), Pulse::new());
        assert_eq!(get(&desk, "/healthz").await, (StatusCode::OK, "alive\n".to_owned()));
        let (status, why) = get(&desk, "/readyz").await;
        assert!(status == StatusCode::SERVICE_UNAVAILABLE && why.starts_with("not ready\nPartner Center: "), "{why}");
        assert!(get(&desk, "/").await.1.contains("A person is needed"));
        assert_eq!(get(&desk, "/nothing").await.0, StatusCode::NOT_FOUND);
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE] {
            assert_eq!(ask(&desk, method, "/").await.status(), StatusCode::METHOD_NOT_ALLOWED);
        }
        for path in ["/", "/healthz", "/readyz", "/metrics", "/icon.svg", "/nothing"] {
            let answer = ask(&desk, Method::HEAD, path).await;
            for name in ["content-security-policy", "x-content-type-options", "x-frame-options", "cache-control"] {
                assert!(answer.headers().contains_key(name), "{path} {name}");
            }
        }
        assert_eq!(desk.answered()["healthz"], 2);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_status_that_hangs_takes_nothing_with_it() {
        let gate = Arc::new(Mutex::new(()));
        let engine =
            FakeEngine { status: sample::quiet(), status_gate: Some(Arc::clone(&gate)), ..FakeEngine::default() };
        let mut desk = Desk::new(Arc::new(engine), Pulse::new());
        desk.status_timeout = Duration::from_millis(20);
        let (closed, (open, opened)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
        std::thread::spawn(move || {
            let _gate = gate.lock();
            let _ = closed.0.send(());
            let _ = opened.recv();
        });
        closed.1.recv().expect("the gate is closed");
        for _ in 0..3 {
            let (status, text) = get(&desk, "/readyz").await;
            assert!(status == StatusCode::SERVICE_UNAVAILABLE && text.contains("could not be found out"), "{text}");
            assert_eq!(get(&desk, "/healthz").await.0, StatusCode::OK);
        }
        drop(open);
        desk.status_timeout = Duration::from_secs(60);
        assert_eq!(get(&desk, "/readyz").await.0, StatusCode::OK, "it comes back by itself");
    }
}
