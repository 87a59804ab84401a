//! A command's end of the control socket.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;

use super::place::Place;
use super::{ANSWER_BYTES_MAX, ANSWER_TIMEOUT, PLAN_TIMEOUT, Refusal, STATE_TIMEOUT, request_of};
use crate::cycle::{Explanation, Forecast};
use crate::daemon::{DecisionAnswer, DecisionRequest, Detail, Status};
use crate::model::ReferralId;
use crate::ports::{Check, HistoryLine};

/// A client waits a little longer than the server, so that the server's sentence arrives.
const SLACK: Duration = Duration::from_secs(5);

/// Talks to the running daemon; one connection for each request.
#[derive(Clone, Debug)]
pub struct Client {
    place: Place,
}

/// The daemon could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket is there, and opening it is not allowed.
    #[error(
        "the control socket may not be opened ({0}); run this as root, as the daemon's user, or as a member of its group"
    )]
    Forbidden(std::io::Error),
    /// The connection failed or the answer made no sense.
    #[error("the daemon could not be asked: {0}")]
    Failed(String),
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

impl Client {
    /// Looks for a running daemon; `None` when there is none.
    pub async fn find(place: &Place) -> Result<Option<Self>, ControlError> {
        match place.connect().await {
            Ok(Some(_)) => Ok(Some(Client { place: place.clone() })),
            Ok(None) => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(ControlError::Forbidden(error)),
            Err(error) => Err(ControlError::Failed(error.to_string())),
        }
    }

    /// Asks how things stand.
    pub async fn status(&self) -> Result<Status, ControlError> {
        self.call(http::Method::GET, "/status", None, ANSWER_TIMEOUT).await
    }

    /// Asks what the next cycle would do.
    pub async fn plan(&self, detail: Detail) -> Result<Forecast, ControlError> {
        let path = match detail {
            Detail::Names => "/plan",
            Detail::Values => "/plan?values=true",
        };
        self.call(http::Method::GET, path, None, PLAN_TIMEOUT).await
    }

    /// Asks about one referral, named by its own id or its lead's.
    pub async fn explain(&self, id: uuid::Uuid, detail: Detail) -> Result<Explanation, ControlError> {
        let values = match detail {
            Detail::Names => "",
            Detail::Values => "&values=true",
        };
        self.call(http::Method::GET, &format!("/explain?id={id}{values}"), None, PLAN_TIMEOUT).await
    }

    /// Rings the bell.
    pub async fn reconcile(&self) -> Result<DecisionAnswer, ControlError> {
        self.call(http::Method::POST, "/reconcile", None, ANSWER_TIMEOUT).await
    }

    /// Has a decision carried out.
    pub async fn decide(&self, decision: &DecisionRequest) -> Result<DecisionAnswer, ControlError> {
        let (path, body) = request_of(decision).map_err(failed)?;
        let limit = if matches!(decision, DecisionRequest::Forget { .. }) { STATE_TIMEOUT } else { ANSWER_TIMEOUT };
        self.call(http::Method::POST, path, body, limit).await
    }

    /// Asks what was done to a referral.
    pub async fn history(&self, id: ReferralId) -> Result<Vec<HistoryLine>, ControlError> {
        self.call(http::Method::GET, &format!("/history?id={id}"), None, STATE_TIMEOUT).await
    }

    /// Has the whole ledger read.
    pub async fn check(&self) -> Result<Check, ControlError> {
        self.call(http::Method::GET, "/state/check", None, STATE_TIMEOUT).await
    }

    /// Writes an export of the ledger into `out`, piece by piece.
    pub async fn export(&self, out: &mut (dyn Write + Send)) -> Result<(), ControlError> {
        let streaming = async {
            let (answer, driver) = self.send(http::Method::GET, "/state/export", None).await?;
            let status = answer.status();
            let mut body = answer.into_body();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|_| failed("the export broke off; see the daemon's log"))?;
                if let (true, Some(bytes)) = (status.is_success(), frame.data_ref()) {
                    out.write_all(bytes).map_err(failed)?;
                }
            }
            driver.abort();
            if status.is_success() { Ok(()) } else { Err(failed(format!("it answered {status}"))) }
        };
        tokio::time::timeout(STATE_TIMEOUT, streaming).await.map_err(|_| failed("no answer in time"))?
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: http::Method,
        path: &str,
        body: Option<Vec<u8>>,
        limit: Duration,
    ) -> Result<T, ControlError> {
        let (status, body) = tokio::time::timeout(limit + SLACK, self.exchange(method, path, body))
            .await
            .map_err(|_| failed("no answer in time"))??;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| {
                failed(format!("its answer could not be read ({error}); is it another version? restart it"))
            });
        }
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => Err(ControlError::Refused(refusal.error)),
            Err(_) => Err(failed(format!("it answered {status}"))),
        }
    }

    async fn exchange(
        &self,
        method: http::Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(http::StatusCode, Bytes), ControlError> {
        let (answer, driver) = self.send(method, path, body).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(failed);
        driver.abort();
        Ok((status, body?.to_bytes()))
    }

    async fn send(
        &self,
        method: http::Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(http::Response<hyper::body::Incoming>, Driver), ControlError> {
        let stream = self.place.connect().await.map_err(failed)?.ok_or_else(|| failed("it has just stopped"))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let driver = Driver(tokio::spawn(connection));
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "localhost")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(failed)?;
        Ok((sender.send_request(request).await.map_err(failed)?, driver))
    }
}

/// What moves the bytes of one connection; ends with it.
struct Driver(tokio::task::JoinHandle<Result<(), hyper::Error>>);

impl Driver {
    fn abort(&self) {
        self.0.abort();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.abort();
    }
}

fn failed(error: impl std::fmt::Display) -> ControlError {
    ControlError::Failed(error.to_string())
}
