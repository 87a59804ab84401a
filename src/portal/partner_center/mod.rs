//! The referrals API of Partner Center, behind the port.
//!
//! Every read is lenient and every write is strict: the service's answers have documented defects, while a write that
//! breaks a rule of the sheet is refused before it is sent.

pub mod contract;
mod dialect;
mod paging;
pub mod probe;
mod scan;
pub mod settings;
#[cfg(test)]
mod tests;
pub mod webhooks;
mod wire;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH};
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use crate::http::{Answer, Call, Effect, Exchange};
use crate::model::{ETag, Fault, Patch, Referral, ReferralId, RemoteError, Side};
use crate::ports::{Cursor, Line, Page, Portal, Scan};
/// Decodes one referral as the service sends it. The error is a sentence without values.
pub fn sample(document: &serde_json::Value) -> Result<crate::model::Referral, String> {
    wire::referral_from_bytes(document.to_string().as_bytes())
}

pub use dialect::PartnerCenterDialect;
use paging::{Progress, ScanLimits};
use scan::Literal;
use settings::PartnerCenterSettings;

const LIST: &str = "list referrals";
const GET: &str = "get referral";
const PATCH: &str = "patch referral";

/// Members that no referral lacks (partner-center §1.6).
const ALWAYS_THERE: [&str; 2] = ["/status", "/substatus"];

/// Opens the adapter over a client stack. Nothing is sent yet.
pub fn open(settings: &PartnerCenterSettings, exchange: Arc<dyn Exchange>) -> PartnerCenter {
    PartnerCenter {
        exchange,
        referrals: scan::referrals_url(&settings.base_url),
        limits: ScanLimits { pages_max: settings.pages_max, empty_pages_max: settings.empty_pages_max },
        prefers_representation: settings.prefer_representation,
        updated_filter: Mutex::new(UpdatedFilter::Unknown),
        refused_versions: Mutex::default(),
        adds: AtomicBool::new(false),
    }
}

/// The referrals of one partner organization.
pub struct PartnerCenter {
    exchange: Arc<dyn Exchange>,
    /// The collection; an item is this plus its id.
    referrals: Url,
    limits: ScanLimits,
    prefers_representation: bool,
    updated_filter: Mutex<UpdatedFilter>,
    /// The version with which a write met a 412, until the referral is read again.
    refused_versions: Mutex<HashMap<ReferralId, ETag>>,
    /// The service has shown that it takes `replace` for members only that are there.
    adds: AtomicBool,
}

/// What we have learned about `updatedDateTime ge` since the process started (partner-center §4 rows 1, 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UpdatedFilter {
    Unknown,
    Works(Literal),
    Refused,
}

#[async_trait]
impl Portal for PartnerCenter {
    /// Reads one page of a scan.
    ///
    /// The rows of a page are always given, even when its link to the next one is unusable (foreign host, repeated
    /// token …): the cursor then remembers why, and reading on with it fails with `Fault::Malformed` and without a
    /// request. Any `Fault::Malformed` with a cursor means: this scan cannot be finished, start it again.
    async fn page(&self, scan: &Scan, cursor: Option<&Cursor>) -> Result<Page<Referral>, RemoteError> {
        match (scan, cursor) {
            (_, Some(cursor)) => {
                let progress = Progress::parse(cursor, scan).map_err(|reason| malformed(LIST, reason))?;
                let query = progress.may_go_on(self.limits).map_err(|reason| malformed(LIST, reason))?.to_owned();
                let answer = self.list(&query).await.map_err(|error| explain_list(error, true))?;
                self.decode_page(scan, progress, &query, &answer)
            }
            (Scan::ChangedSince(_), None) => self.first_page_changed_since(scan).await,
            (Scan::Recent | Scan::Sweep | Scan::New | Scan::Engagement(_), None) => {
                self.first_page(scan, Literal::Bare).await
            }
        }
    }

    async fn get(&self, id: ReferralId) -> Result<Referral, RemoteError> {
        let call = self.call(GET, Method::GET, self.item_url(id), Effect::Read);
        let answer = self.exchange.send(call).await.map_err(explain_item)?;
        let mut referral =
            wire::referral_from_bytes(&answer.body).map_err(|reason| malformed_answer(GET, reason, &answer))?;
        if referral.id != id {
            return Err(malformed_answer(GET, "the answer is about another referral".to_owned(), &answer));
        }
        fill_etag(&mut referral, &answer);
        self.prefer_header(&mut referral, &answer);
        Ok(referral)
    }

    async fn patch(
        &self,
        id: ReferralId,
        etag: &ETag,
        patch: &Patch,
        request: Uuid,
    ) -> Result<Option<Referral>, RemoteError> {
        let refuse = |reason: String| {
            RemoteError::new(Side::Portal, PATCH, Fault::Refused).with_message(format!("not sent: {reason}"))
        };
        let adds = self.adds.load(Ordering::Relaxed);
        let body = wire::patch_body(patch, |path| adds && !ALWAYS_THERE.contains(&path));
        contract::check_patch(&body).and_then(|()| check_own_rules(patch)).map_err(refuse)?;
        let if_match = if_match(etag).map_err(refuse)?;

        let mut call = self.call(PATCH, Method::PATCH, self.item_url(id), Effect::Write);
        call.headers.insert(IF_MATCH, if_match);
        if self.prefers_representation {
            call.headers.insert(HeaderName::from_static("prefer"), HeaderValue::from_static("return=representation"));
        }
        call.body = Some(Bytes::from(body.to_string()));
        call.request = Some(request);
        let mut result = self.exchange.send(call.clone()).await;
        if let Err(error) = &result
            && matches!(error.status, Some(400 | 422))
            && let Some(other) = self.patch_of_absent(id, patch).await.filter(|other| *other != body)
        {
            call.body = Some(Bytes::from(other.to_string()));
            result = self.exchange.send(call).await;
            if result.is_ok() {
                self.adds.store(!adds, Ordering::Relaxed);
            }
        }
        match result {
            Ok(answer) => Ok(representation(id, &answer)),
            Err(error) => {
                if error.status == Some(412) {
                    self.refused_versions().insert(id, etag.clone());
                }
                Err(explain_item(error))
            }
        }
    }

    fn line(&self) -> &dyn Line {
        self.exchange.line()
    }
}

impl PartnerCenter {
    async fn first_page(&self, scan: &Scan, literal: Literal) -> Result<Page<Referral>, RemoteError> {
        let query = scan::first_query(scan, literal);
        let answer = self.list(&query).await.map_err(|error| explain_list(error, false))?;
        self.decode_page(scan, Progress::start(scan, literal), &query, &answer)
    }

    /// Tries the bare literal, then the quoted one, and remembers what the service understands.
    async fn first_page_changed_since(&self, scan: &Scan) -> Result<Page<Referral>, RemoteError> {
        let known = *self.updated_filter.lock().unwrap_or_else(PoisonError::into_inner);
        let literals: &[Literal] = match known {
            UpdatedFilter::Unknown | UpdatedFilter::Works(Literal::Bare) => &[Literal::Bare, Literal::Quoted],
            UpdatedFilter::Works(Literal::Quoted) => &[Literal::Quoted],
            UpdatedFilter::Refused => &[],
        };
        for &literal in literals {
            match self.first_page(scan, literal).await {
                Err(error) if matches!(error.status, Some(400 | 501)) => {}
                Err(error) => return Err(error),
                Ok(page) => {
                    self.remember(UpdatedFilter::Works(literal));
                    return Ok(page);
                }
            }
        }
        self.remember(UpdatedFilter::Refused);
        let message = "the service does not know the filter `updatedDateTime ge`; \
                       read without it, and switch partner_center.use_updated_filter off";
        Err(RemoteError::new(Side::Portal, LIST, Fault::Refused).with_message(message))
    }

    fn remember(&self, learned: UpdatedFilter) {
        *self.updated_filter.lock().unwrap_or_else(PoisonError::into_inner) = learned;
    }

    fn refused_versions(&self) -> MutexGuard<'_, HashMap<ReferralId, ETag>> {
        self.refused_versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a 412, a fresh read that shows the very version that was refused cannot mean that somebody else was
    /// quicker: then the `ETag` header is the one that the service compares with (partner-center §4 row 7).
    fn prefer_header(&self, referral: &mut Referral, answer: &Answer) {
        let refused = self.refused_versions().remove(&referral.id);
        if refused.is_some()
            && refused == referral.etag
            && let Some(header) = header_etag(answer)
        {
            referral.etag = Some(header);
        }
    }

    /// The patch for a referral that lacks some of its members, by a fresh look at it; `None` when there is no look.
    ///
    /// A patch is sent with `replace` throughout, as in all documented examples. A strict reader of RFC 6902 refuses
    /// that for a member which is absent and not null, so a refused patch is worth this second try with `add` there.
    /// Where that helped, later patches say `add` at once, which such a reader takes for members that are there as well;
    /// where it does not, this second try leads back.
    async fn patch_of_absent(&self, id: ReferralId, patch: &Patch) -> Option<Value> {
        let call = self.call(GET, Method::GET, self.item_url(id), Effect::Read);
        let answer = self.exchange.send(call).await.ok()?;
        let document: Value = answer.json().ok()?;
        Some(wire::patch_body(patch, |path| document.pointer(path).is_none()))
    }

    async fn list(&self, query: &str) -> Result<Answer, RemoteError> {
        let mut url = self.referrals.clone();
        url.set_query(Some(query));
        self.exchange.send(self.call(LIST, Method::GET, url, Effect::Read)).await
    }

    fn decode_page(
        &self,
        scan: &Scan,
        progress: Progress,
        query: &str,
        answer: &Answer,
    ) -> Result<Page<Referral>, RemoteError> {
        let decoded = wire::page(&answer.body).map_err(|reason| malformed_answer(LIST, reason, answer))?;
        let is_empty = decoded.referrals.is_empty() && decoded.defects.is_empty();
        let next = progress.after_page(scan, query, is_empty, decoded.next_link, &self.referrals);
        Ok(Page { items: decoded.referrals, defects: decoded.defects, next, server_time: answer.server_time })
    }

    fn item_url(&self, id: ReferralId) -> Url {
        let mut url = self.referrals.clone();
        url.set_path(&format!("{}/{id}", self.referrals.path()));
        url
    }

    /// A call with the headers that every operation documents (partner-center §1.5); the dialect adds the correlation.
    fn call(&self, operation: &'static str, method: Method, url: Url, effect: Effect) -> Call {
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(ACCEPT, json.clone()), (CONTENT_TYPE, json)]);
        Call { operation, method, url, headers, body: None, effect, request: None, timeout: None, items: 1 }
    }
}

/// Rules of ours on top of the service's: no value that cannot be taken back, each field once (partner-center §1.7, §4 row 48).
fn check_own_rules(patch: &Patch) -> Result<(), String> {
    for (index, operation) in patch.operations.iter().enumerate() {
        let path = &operation.path;
        if contract::NEVER_WRITTEN.contains(&path.as_str()) {
            return Err(format!("{path} cannot be taken back and is never written"));
        }
        if path == "/substatus" && operation.value == "Expired" {
            return Err("Expired is set by the service alone".to_owned());
        }
        if patch.operations[..index].iter().any(|earlier| earlier.path == *path) {
            return Err(format!("{path} is in the patch twice"));
        }
    }
    Ok(())
}

/// The version as a header, verbatim with its inner quotes. `*` would overwrite whatever is there, so it is no version.
fn if_match(etag: &ETag) -> Result<HeaderValue, String> {
    if matches!(etag.0.trim(), "" | "*") {
        return Err("the version of the referral is not known; read it first".to_owned());
    }
    HeaderValue::from_bytes(etag.0.as_bytes())
        .map_err(|_| "the version of the referral cannot be a header; read it again".to_owned())
}

/// The entity a write answered with, if any. The write is done, so an answer without one, or one that cannot be read,
/// only means: read it again (partner-center §4 row 9).
fn representation(id: ReferralId, answer: &Answer) -> Option<Referral> {
    let mut referral = wire::referral_from_bytes(&answer.body).ok().filter(|referral| referral.id == id)?;
    fill_etag(&mut referral, answer);
    Some(referral)
}

/// The `ETag` header counts where the body has none (partner-center §4 rows 6, 7).
fn fill_etag(referral: &mut Referral, answer: &Answer) {
    if referral.etag.is_none() {
        referral.etag = header_etag(answer);
    }
}

/// The `ETag` header, verbatim.
fn header_etag(answer: &Answer) -> Option<ETag> {
    let header = answer.headers.get(ETAG).and_then(|value| value.to_str().ok());
    header.filter(|text| !text.trim().is_empty()).map(|text| ETag(text.to_owned()))
}

/// Gives a refused listing its meaning: it is about the whole side or about the cursor, never about one referral.
fn explain_list(mut error: RemoteError, has_cursor: bool) -> RemoteError {
    let is_forbidden = error.status == Some(403);
    match error.fault {
        Fault::Refused if is_forbidden => {
            error.fault = Fault::Unauthorized;
            error.with_message(
                "the signed-in user may not list referrals; give it the role Referrals admin in Partner Center, \
                 then run `referrald login`",
            )
        }
        Fault::Refused | Fault::Missing | Fault::Conflict if has_cursor => {
            error.fault = Fault::Malformed;
            error.with_message("the service no longer accepts the link to this page; start the scan again")
        }
        Fault::Conflict => {
            error.fault = Fault::Unavailable;
            error
        }
        Fault::Missing => {
            error.fault = Fault::Unavailable;
            error.with_message("there is no list of referrals at this address; check partner_center.base_url")
        }
        Fault::Refused
        | Fault::Throttled { .. }
        | Fault::Unavailable
        | Fault::Unauthorized
        | Fault::NeedsHuman
        | Fault::Malformed => error,
    }
}

/// Gives a refused item its meaning: a 403 is about this referral alone (partner-center §1.11).
fn explain_item(error: RemoteError) -> RemoteError {
    if error.status == Some(403) && error.fault == Fault::Refused {
        return error.with_message(
            "the signed-in user may not touch this referral; it needs the role Referrals admin or a place in its team",
        );
    }
    error
}

fn malformed(operation: &'static str, reason: impl Into<String>) -> RemoteError {
    RemoteError::new(Side::Portal, operation, Fault::Malformed).with_message(reason)
}

fn malformed_answer(operation: &'static str, reason: String, answer: &Answer) -> RemoteError {
    let mut error = malformed(operation, reason);
    error.status = Some(answer.status.as_u16());
    error.request_id.clone_from(&answer.request_id);
    error
}
