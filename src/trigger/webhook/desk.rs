//! One delivery, from its head to its answer. Cheap questions first; the body is read only when the head is in order.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::certificates::{Certificates, Now};
use super::reason::Reason;
use super::ringer::Ringer;
use super::signed::Signed;
use super::signer::Signer;
use super::tally::Tally;
use super::verify::{Rules, read_headers};

/// Largest body, in bytes. Real ones have about 200.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// From the last byte of a delivery to its answer; what cannot be verified within this time is asked for again by 503.
pub const ANSWER_TIME_MAX: Duration = Duration::from_millis(800);

/// Everything that one delivery is judged with. A reload makes a new one.
pub struct Desk {
    /// The one path that is answered.
    pub path: String,
    /// What deliveries are judged by.
    pub rules: Arc<Rules>,
    /// Known certificates.
    pub certificates: Certificates,
    /// How long a delivery may take to arrive, head and body each.
    pub request_timeout: Duration,
    /// TLS of our own; absent behind a reverse proxy.
    pub tls: Option<TlsAcceptor>,
    /// Counts.
    pub tally: Arc<Tally>,
    /// Asked by each verified event about referrals.
    pub ringer: Ringer,
    /// The time of day.
    pub now: Now,
}

/// Why a request is not even judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    NotFound,
    Method,
    MediaType,
    TooLarge,
    Slow,
    Broken,
    Judged(Reason),
}

impl Desk {
    /// Answers one request.
    pub async fn answer<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        match self.take(&head, body).await {
            Ok(body) => {
                self.tally.verified((self.now)());
                if is_about_referrals(&body) {
                    self.ringer.ask();
                }
                Response::new(Full::default())
            }
            Err(refusal) => {
                self.tally.refused(refusal.code());
                refusal.answer()
            }
        }
    }

    /// The body of a verified delivery.
    async fn take<B>(&self, head: &http::request::Parts, body: B) -> Result<Bytes, Refusal>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if head.uri.path() != self.path {
            return Err(Refusal::NotFound);
        }
        if head.method != Method::POST {
            return Err(Refusal::Method);
        }
        framing(&head.headers)?;
        let signed = read_headers(&head.headers, &self.rules).map_err(Refusal::Judged)?;
        let body = self.read(body).await?;
        self.judge(&signed, &body).await.map_err(Refusal::Judged)?;
        Ok(body)
    }

    async fn read<B>(&self, body: B) -> Result<Bytes, Refusal>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let reading = std::pin::pin!(Limited::new(body, BODY_BYTES_MAX).collect());
        match tokio::time::timeout(self.request_timeout, reading).await {
            Err(_) => Err(Refusal::Slow),
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Refusal::TooLarge),
            Ok(Err(_)) => Err(Refusal::Broken),
        }
    }

    async fn judge(&self, signed: &Signed, body: &[u8]) -> Result<(), Reason> {
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        let place = self.rules.certificate_sources.admit(&signed.certificate_url).ok_or(Reason::UrlRefused)?;
        let signers = self.certificates.signers(&place, ANSWER_TIME_MAX).await?;
        let first = self.check(&signers, signed, body);
        if !matches!(first, Err(Reason::SignatureWrong | Reason::SignatureLength)) {
            return first;
        }
        // There may be a new key at the old place.
        let left = deadline.saturating_duration_since(Instant::now());
        match self.certificates.signers_anew(&place, left).await {
            None => first,
            Some(signers) => self.check(&signers?, signed, body),
        }
    }

    /// Any of them may have signed; the newest one's refusal is told.
    fn check(&self, signers: &[Arc<Signer>], signed: &Signed, body: &[u8]) -> Result<(), Reason> {
        let now = (self.now)();
        let mut verdicts = signers.iter().map(|signer| signer.check(signed, body, now));
        let newest = verdicts.next().unwrap_or(Err(Reason::CertificateUnavailable));
        if newest.is_ok() || verdicts.any(|verdict| verdict.is_ok()) { Ok(()) } else { newest }
    }
}

/// What the head says about the body.
fn framing(headers: &HeaderMap) -> Result<(), Refusal> {
    // Two lengths are how requests are smuggled past a proxy.
    let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
    if lengths > 1 || lengths == 1 && headers.contains_key(TRANSFER_ENCODING) {
        return Err(Refusal::Broken);
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > BODY_BYTES_MAX as u64) {
        return Err(Refusal::TooLarge);
    }
    let media = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    let encoding = headers.get(CONTENT_ENCODING).map_or(b"identity".as_slice(), HeaderValue::as_bytes);
    let is_plain = encoding.eq_ignore_ascii_case(b"identity");
    if media.eq_ignore_ascii_case("application/json") && is_plain { Ok(()) } else { Err(Refusal::MediaType) }
}

/// Whether a verified body is an event about referrals. Everything else is acknowledged and ignored, and so is a body that
/// cannot be read: it is verified, so sending it again would not help.
fn is_about_referrals(body: &[u8]) -> bool {
    let Ok(event) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(body) else { return false };
    let name = event.iter().find(|(key, _)| key.eq_ignore_ascii_case("EventName"));
    let name = name.and_then(|(_, value)| value.as_str()).unwrap_or_default().to_ascii_lowercase();
    name.contains("referral")
}

impl Refusal {
    fn code(self) -> &'static str {
        match self {
            Refusal::NotFound => "not-found",
            Refusal::Method => "wrong-method",
            Refusal::MediaType => "wrong-content-type",
            Refusal::TooLarge => "too-large",
            Refusal::Slow => "too-slow",
            Refusal::Broken => "broken-off",
            Refusal::Judged(reason) => reason.code(),
        }
    }

    /// Never a body: what is wrong is for the operator, not for the sender.
    fn answer(self) -> Response<Full<Bytes>> {
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = match self {
            Refusal::NotFound => StatusCode::NOT_FOUND,
            Refusal::Method => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Refusal::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::Slow => StatusCode::REQUEST_TIMEOUT,
            Refusal::Broken => StatusCode::BAD_REQUEST,
            Refusal::Judged(reason) => reason.status(),
        };
        match self {
            Refusal::Method => {
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            }
            Refusal::Slow | Refusal::Broken | Refusal::TooLarge => {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Refusal::NotFound | Refusal::MediaType | Refusal::Judged(_) => {}
        }
        answer
    }
}
