//! The daemon's end of the control socket.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::place::{Bound, BoundFiles, Place, PlaceError};
use super::{
    ANSWER_TIMEOUT, Approve, Backfill, CONNECTIONS_MAX, EXPORT_PIECES_MAX, Hold, PLAN_TIMEOUT, REQUEST_BYTES_MAX,
    REQUEST_TIMEOUT, Refusal, Release, Retry, STATE_TIMEOUT,
};
use crate::cycle::CycleError;
use crate::daemon::{DecisionAnswer, DecisionRequest, Detail, Engine, Which};
use crate::model::ReferralId;
use crate::trigger::Bell;

/// A control socket that is served until it is dropped.
pub struct Server {
    files: BoundFiles,
    stop: CancellationToken,
}

impl Server {
    /// Makes the socket and serves it. When this returns, commands find the daemon.
    pub async fn start(place: &Place, engine: Arc<dyn Engine>, bell: Bell) -> Result<Self, PlaceError> {
        let Bound { listener, files } = place.bind().await?;
        let stop = CancellationToken::new();
        let router = router(Desk { engine, bell, stop: stop.clone() });
        tokio::spawn(accept(listener, router, stop.clone()));
        Ok(Server { files, stop })
    }

    /// Where it listens.
    pub fn path(&self) -> &std::path::Path {
        self.files.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: UnixListener, router: Router, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            (place, listener.accept().await)
        };
        let (place, stream) = tokio::select! {
            () = stop.cancelled() => return,
            (place, stream) = accepted => (place, stream),
        };
        match stream {
            Ok((stream, _)) => {
                let serving = serve(stream, router.clone());
                let stop = stop.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = serving => {}
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: others must finish first.
                tracing::warn!(%error, "the control socket could not accept a connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, router: Router) {
    let result = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        // One request a connection: an idle client holds no place.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = result {
        tracing::debug!(%error, "a control connection ended early");
    }
}

/// What the handlers need.
#[derive(Clone)]
struct Desk {
    engine: Arc<dyn Engine>,
    bell: Bell,
    stop: CancellationToken,
}

fn router(desk: Desk) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/plan", get(plan))
        .route("/explain", get(explain))
        .route("/reconcile", post(reconcile))
        .route("/suspend", post(|State(desk): State<Desk>| decide(desk, DecisionRequest::Suspend)))
        .route("/resume", post(|State(desk): State<Desk>| decide(desk, DecisionRequest::Resume)))
        .route("/approve", post(approve))
        .route("/hold", post(hold))
        .route("/release", post(release))
        .route("/retry", post(retry))
        .route("/backfill", post(backfill))
        .route("/forget", post(forget))
        .route("/history", get(history))
        .route("/state/check", get(check))
        .route("/state/export", get(export))
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "no such request") })
        .method_not_allowed_fallback(|| async {
            refuse(StatusCode::METHOD_NOT_ALLOWED, "wrong method for this request")
        })
        .layer(DefaultBodyLimit::disable()) // bodies are read by `read` below, with its own limit
        .with_state(desk)
}

async fn status(State(desk): State<Desk>) -> Response {
    let status = async { answer(desk.engine.status().await) };
    within(ANSWER_TIMEOUT, status).await
}

#[derive(Deserialize)]
struct PlanQuery {
    #[serde(default)]
    values: bool,
}

async fn plan(State(desk): State<Desk>, Query(query): Query<PlanQuery>) -> Response {
    let detail = if query.values { Detail::Values } else { Detail::Names };
    // A command that was interrupted closes its connection; hyper then drops this future, and the guard stops the scan.
    let stop = desk.stop.child_token();
    let _stopped_with_us = stop.clone().drop_guard();
    within(PLAN_TIMEOUT, async { answer(desk.engine.forecast(detail, &stop).await) }).await
}

#[derive(Deserialize)]
struct ExplainQuery {
    id: uuid::Uuid,
    #[serde(default)]
    values: bool,
}

async fn explain(State(desk): State<Desk>, Query(query): Query<ExplainQuery>) -> Response {
    let detail = if query.values { Detail::Values } else { Detail::Names };
    let stop = desk.stop.child_token();
    let _stopped_with_us = stop.clone().drop_guard();
    within(PLAN_TIMEOUT, async { answer(desk.engine.explain(query.id, detail, &stop).await) }).await
}

async fn reconcile(State(desk): State<Desk>) -> Response {
    desk.bell.ring();
    let text = "a cycle was asked for; it begins now, or as soon as the one under way has ended".to_owned();
    Json(DecisionAnswer { is_done: true, text, ..DecisionAnswer::default() }).into_response()
}

async fn approve(State(desk): State<Desk>, body: Body) -> Response {
    match read::<Approve>(body).await {
        Ok(Approve { digest }) => decide(desk, DecisionRequest::Approve { digest }).await,
        Err(refusal) => refusal,
    }
}

async fn hold(State(desk): State<Desk>, body: Body) -> Response {
    match read::<Hold>(body).await {
        Ok(Hold { ids }) => decide(desk, DecisionRequest::Hold { ids }).await,
        Err(refusal) => refusal,
    }
}

async fn release(State(desk): State<Desk>, body: Body) -> Response {
    match read::<Release>(body).await {
        Ok(Release { which: Which::Cause(_), .. }) => {
            refuse(StatusCode::UNPROCESSABLE_ENTITY, "a release is by ids or for all, not by cause")
        }
        Ok(Release { which, group, take }) => decide(desk, DecisionRequest::Release { which, group, take }).await,
        Err(refusal) => refusal,
    }
}

async fn retry(State(desk): State<Desk>, body: Body) -> Response {
    match read::<Retry>(body).await {
        Ok(Retry { which }) => decide(desk, DecisionRequest::Retry { which }).await,
        Err(refusal) => refusal,
    }
}

async fn backfill(State(desk): State<Desk>, body: Body) -> Response {
    match read::<Backfill>(body).await {
        Ok(Backfill { group, is_stop }) => decide(desk, DecisionRequest::Backfill { group, is_stop }).await,
        Err(refusal) => refusal,
    }
}

async fn forget(State(desk): State<Desk>, body: Body) -> Response {
    match read::<Hold>(body).await {
        Ok(Hold { ids }) => decide(desk, DecisionRequest::Forget { ids }).await,
        Err(refusal) => refusal,
    }
}

#[derive(Deserialize)]
struct HistoryQuery {
    id: ReferralId,
}

async fn history(State(desk): State<Desk>, Query(query): Query<HistoryQuery>) -> Response {
    within(STATE_TIMEOUT, async { answer(desk.engine.history(query.id).await) }).await
}

async fn check(State(desk): State<Desk>) -> Response {
    within(STATE_TIMEOUT, async { answer(desk.engine.check().await) }).await
}

/// Streams an export, so that neither side ever holds all of it. When it fails the connection breaks off, and what has
/// arrived lacks its last line.
async fn export(State(desk): State<Desk>) -> Response {
    let (pieces, taken) = mpsc::channel::<std::io::Result<Bytes>>(EXPORT_PIECES_MAX);
    let failed = pieces.clone();
    tokio::spawn(async move {
        let out = std::io::BufWriter::with_capacity(64 * 1024, Pieces(pieces));
        if let Err(error) = desk.engine.export(Box::new(out)).await {
            // A client that hung up hears nothing of it.
            let _ = failed.send(Err(std::io::Error::other(error.to_string()))).await;
        }
    });
    let pieces = futures_util::stream::unfold(taken, async |mut taken| taken.recv().await.map(|piece| (piece, taken)));
    Response::new(Body::from_stream(pieces))
}

/// The writing end of a stream.
struct Pieces(mpsc::Sender<std::io::Result<Bytes>>);

impl std::io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Carries out a decision and rings, so that it takes effect now and not at the next tick.
async fn decide(desk: Desk, request: DecisionRequest) -> Response {
    let is_worth_a_cycle =
        !matches!(request, DecisionRequest::Suspend | DecisionRequest::Hold { .. } | DecisionRequest::Forget { .. });
    let limit = if matches!(request, DecisionRequest::Forget { .. }) { STATE_TIMEOUT } else { ANSWER_TIMEOUT };
    // In a task of its own: a client that hangs up does not leave a decision half carried out.
    let engine = desk.engine.clone();
    let decided = tokio::spawn(async move { engine.decide(request).await });
    within(limit, async {
        match decided.await {
            Ok(decided) => {
                if is_worth_a_cycle && decided.as_ref().is_ok_and(|answer| answer.is_done) {
                    desk.bell.ring();
                }
                answer(decided)
            }
            Err(_panic) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the decision broke; see the daemon's log"),
        }
    })
    .await
}

async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Response> {
    let bytes: Bytes = match tokio::time::timeout(REQUEST_TIMEOUT, axum::body::to_bytes(body, REQUEST_BYTES_MAX)).await
    {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => {
            return Err(refuse(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the request is too large; name fewer referrals at once",
            ));
        }
        Err(_) => return Err(refuse(StatusCode::REQUEST_TIMEOUT, "the request was not sent to its end in time")),
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| refuse(StatusCode::UNPROCESSABLE_ENTITY, &format!("the request could not be read: {error}")))
}

fn answer<T: serde::Serialize>(result: Result<T, CycleError>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

async fn within(limit: Duration, work: impl Future<Output = Response>) -> Response {
    match tokio::time::timeout(limit, work).await {
        Ok(response) => response,
        Err(_) => refuse(
            StatusCode::GATEWAY_TIMEOUT,
            &format!("the daemon did not answer within {} seconds; see its log", limit.as_secs()),
        ),
    }
}

fn refuse(status: StatusCode, error: &str) -> Response {
    (status, Json(Refusal { error: error.to_owned() })).into_response()
}
