//! Reads: single rows, pages, and whole listings.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH};
use http::{Method, StatusCode};
use serde_json::Value;
use url::Url;

use super::query::Root;
use super::wire::{self, Rows};
use crate::http::{Answer, Call, Effect, Exchange};
use crate::model::{Fault, RemoteError, Side, Timestamp};
use crate::ports::Cursor;

/// Most rows the service puts on a page (dataverse §1.4).
pub const PAGE_SIZE_MAX: u32 = 5000;

/// Pages that one inner listing (ids of a chunk, metadata, currencies) may have.
pub const LISTING_PAGES_MAX: usize = 100;

/// The Web API as far as it only reads.
pub struct Api {
    /// Where it is.
    pub root: Root,
    /// How it is reached.
    pub exchange: Arc<dyn Exchange>,
    /// Rows per page.
    pub page_size: u32,
    /// Every read sees what was written just before, past the service's caches (dataverse §1.4).
    pub is_strong: bool,
}

/// One page of rows that are still to be decoded.
pub struct RawPage {
    /// The rows.
    pub rows: Vec<Value>,
    /// How to go on.
    pub next: Option<Cursor>,
    /// How to ask for what changes later; only where changes are tracked, and on the last page (dataverse §4.1).
    pub delta: Option<Cursor>,
    /// Server time.
    pub server_time: Option<Timestamp>,
}

impl Api {
    /// Reads one thing.
    pub async fn get(&self, operation: &'static str, url: Url) -> Result<Answer, RemoteError> {
        self.exchange.send(self.read(operation, url, None)).await
    }

    /// Reads one JSON object.
    pub async fn object(&self, operation: &'static str, url: Url) -> Result<Value, RemoteError> {
        let answer = self.get(operation, url).await?;
        object_of(operation, &answer)
    }

    /// Reads one page of our size.
    pub async fn page(&self, operation: &'static str, url: Url) -> Result<RawPage, RemoteError> {
        let call = self.page_call(operation, url.clone());
        let answer = self.exchange.send(call).await?;
        self.page_in(operation, &url, &answer)
    }

    /// Asks for one page of our size; the preference goes with every page (dataverse §4.3).
    pub fn page_call(&self, operation: &'static str, url: Url) -> Call {
        self.read(operation, url, Some(&format!("odata.maxpagesize={}", self.page_size.clamp(1, PAGE_SIZE_MAX))))
    }

    /// Reads one page of a table whose changes are tracked: as long as pages get, because its rows are short.
    pub async fn tracked(&self, operation: &'static str, url: Url) -> Result<RawPage, RemoteError> {
        let preference = format!("odata.track-changes,odata.maxpagesize={PAGE_SIZE_MAX}");
        self.page_of(operation, url, Some(&preference)).await
    }

    async fn page_of(
        &self,
        operation: &'static str,
        url: Url,
        preference: Option<&str>,
    ) -> Result<RawPage, RemoteError> {
        let answer = self.exchange.send(self.read(operation, url.clone(), preference)).await?;
        self.page_in(operation, &url, &answer)
    }

    fn read(&self, operation: &'static str, url: Url, preference: Option<&str>) -> Call {
        let mut call = read(operation, url, preference);
        if self.is_strong {
            call.headers.insert(CONSISTENCY, HeaderValue::from_static("Strong"));
        }
        call
    }

    /// The page in an answer.
    pub fn page_in(&self, operation: &'static str, asked: &Url, answer: &Answer) -> Result<RawPage, RemoteError> {
        let rows: Option<Rows> = if answer.status == StatusCode::OK { wire::json(&answer.body) } else { None };
        let Some(rows) = rows else {
            return Err(malformed(operation, answer, "the answer is no list of rows"));
        };
        let keep = |link: Option<&str>| {
            match link.filter(|link| !link.is_empty()) {
            None => Ok(None),
            Some(link) => self.root.keep(link).map(Some).ok_or_else(|| {
                malformed(
                    operation,
                    answer,
                    "the link to the next page does not lead to this environment's Web API: set dataverse.url to the host that the service itself uses",
                )
            }),
        }
        };
        let (next, delta) = (keep(rows.next.as_deref())?, keep(rows.delta.as_deref())?);
        if next.as_ref().and_then(|next| self.root.resume(next)).is_some_and(|next| next == *asked) {
            return Err(malformed(operation, answer, "the link to the next page leads to the same page again"));
        }
        Ok(RawPage { rows: rows.value, next, delta, server_time: answer.server_time })
    }

    /// Continues a listing.
    pub async fn page_at(&self, operation: &'static str, cursor: &Cursor) -> Result<RawPage, RemoteError> {
        let Some(url) = self.root.resume(cursor) else {
            return Err(RemoteError::new(Side::Crm, operation, Fault::Malformed)
                .with_message("the kept link to the next page is damaged: begin the listing again"));
        };
        self.page(operation, url).await
    }

    /// Reads metadata, which comes on one page whatever its size (dataverse §2.1).
    pub async fn metadata(&self, operation: &'static str, url: Url) -> Result<Vec<Value>, RemoteError> {
        let first = self.page_of(operation, url, None).await?;
        self.to_the_end(operation, first).await
    }

    /// Reads a listing to its end.
    pub async fn all(&self, operation: &'static str, url: Url) -> Result<Vec<Value>, RemoteError> {
        let first = self.page(operation, url).await?;
        self.to_the_end(operation, first).await
    }

    async fn to_the_end(&self, operation: &'static str, mut page: RawPage) -> Result<Vec<Value>, RemoteError> {
        let mut rows = std::mem::take(&mut page.rows);
        let mut followed = BTreeSet::new();
        while let Some(next) = page.next.take() {
            if followed.len() == LISTING_PAGES_MAX || !followed.insert(next.0.clone()) {
                return Err(RemoteError::new(Side::Crm, operation, Fault::Malformed)
                    .with_message("the links from page to page do not come to an end"));
            }
            page = self.page_at(operation, &next).await?;
            rows.append(&mut page.rows);
        }
        Ok(rows)
    }
}

/// The body of an answer as a JSON object.
pub fn object_of(operation: &'static str, answer: &Answer) -> Result<Value, RemoteError> {
    let value = wire::json(&answer.body).filter(Value::is_object);
    value.ok_or_else(|| malformed(operation, answer, "the answer is no JSON object"))
}

/// An answer that could not be understood.
pub fn malformed(operation: &'static str, answer: &Answer, message: &str) -> RemoteError {
    RemoteError {
        status: Some(answer.status.as_u16()),
        request_id: answer.request_id.clone(),
        ..RemoteError::new(Side::Crm, operation, Fault::Malformed)
    }
    .with_message(message)
}

/// A read. `If-None-Match: null` defeats answers out of a cache (dataverse §1.4).
fn read(operation: &'static str, url: Url, preference: Option<&str>) -> Call {
    let mut headers = HeaderMap::new();
    headers.insert(IF_NONE_MATCH, HeaderValue::from_static("null"));
    if let Some(preference) = preference.and_then(|text| HeaderValue::from_str(text).ok()) {
        headers.insert(PREFER, preference);
    }
    Call {
        operation,
        method: Method::GET,
        url,
        headers,
        body: None,
        effect: Effect::Read,
        request: None,
        timeout: None,
        items: 1,
    }
}

/// The header that asks for what is true now.
pub const CONSISTENCY: HeaderName = HeaderName::from_static("consistency");

/// The header of preferences.
pub const PREFER: HeaderName = HeaderName::from_static("prefer");
