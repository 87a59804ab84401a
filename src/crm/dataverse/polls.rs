//! What changed since an instant: the polls of both tables, and both in one request.

use std::sync::atomic::Ordering;

use http::header::{ACCEPT, HeaderValue};
use url::Url;

use super::api::RawPage;
use super::batch::{self, multipart};
use super::metadata::Live;
use super::{Dataverse, contract, query};
use crate::http::{Answer, Effect, Response};
use crate::model::{LeadId, RemoteError, Timestamp};
use crate::ports::{Cursor, FirstPages};

/// What the poll of leads is called in messages.
pub(super) const LEADS_POLL: &str = "list changed leads";

/// What the poll of opportunities is called.
pub(super) const DEALS_POLL: &str = "list changed opportunities";

/// Times in a row that the common request may be refused while each poll is answered; then it is not tried any more.
pub(super) const POLLS_REFUSED_MAX: u32 = 3;

impl Dataverse {
    /// Leads that changed since, oldest first.
    pub(super) fn leads_since(&self, live: &Live, since: Timestamp, also: &[LeadId]) -> Url {
        let since = format!("{} ge {}", contract::MODIFIED, literal(since));
        let filter = match &live.referral_column {
            Some(column) if also.is_empty() => format!("{column} ne null and {since}"),
            Some(column) => {
                let also: Vec<String> = also.iter().map(LeadId::to_string).collect();
                format!("({column} ne null or {}) and {since}", query::any_of(contract::LEAD_ID, &also))
            }
            None => since,
        };
        let options =
            [("$select", live.select.as_str()), ("$filter", &filter), ("$orderby", "modifiedon asc,leadid asc")];
        self.api.root.at(contract::LEADS, &options)
    }

    /// Opportunities that came from leads and changed since, oldest first.
    pub(super) fn deals_since(&self, since: Timestamp) -> Url {
        let since = literal(since);
        let filter = format!("{} ge {since} and {} ne null", contract::MODIFIED, contract::ORIGINATING_LEAD_VALUE);
        let select = contract::OPPORTUNITY_CORE.join(",");
        let options =
            [("$select", select.as_str()), ("$filter", &filter), ("$orderby", "modifiedon asc,opportunityid asc")];
        self.api.root.at(contract::OPPORTUNITIES, &options)
    }

    /// The page that a poll begins or goes on with.
    pub(super) async fn poll(
        &self,
        operation: &'static str,
        cursor: Option<&Cursor>,
        first: impl FnOnce() -> Url,
    ) -> Result<RawPage, RemoteError> {
        let page = match cursor {
            Some(cursor) => self.api.page_at(operation, cursor).await,
            None => self.api.page(operation, first()).await,
        };
        if page.is_err() {
            // Both ways fail: that is trouble of the service and says nothing of the common request.
            self.polls_refused.store(0, Ordering::Relaxed);
        }
        let is_refused = self.polls_refused.load(Ordering::Relaxed) >= POLLS_REFUSED_MAX;
        if is_refused && !self.polls_apart.load(Ordering::Relaxed) {
            let _: Option<()> = self.poll_apart("it was refused again and again while each is answered");
        }
        self.noticed(page)
    }

    /// The first pages of both polls in one request (dataverse §5.1). `None` when one of them has to be asked for by itself,
    /// whatever the reason: asked alone it fails with its own words.
    pub(super) async fn both_since(
        &self,
        leads: Timestamp,
        also: &[LeadId],
        deals: Timestamp,
    ) -> Option<Result<FirstPages, RemoteError>> {
        if self.polls_apart.load(Ordering::Relaxed) {
            return None;
        }
        let live = self.live().await.ok()?;
        let asked = [(LEADS_POLL, self.leads_since(&live, leads, also)), (DEALS_POLL, self.deals_since(deals))];
        let calls = asked.clone().map(|(operation, url)| {
            let mut call = self.api.page_call(operation, url);
            call.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
            call
        });
        let both = batch::call(&self.api.root, "list changes", Effect::Read, &calls.each_ref());
        let answer = match self.api.exchange.send(both).await {
            Ok(answer) => answer,
            Err(error) if batch::is_of_all_requests(&error) => return Some(Err(error)),
            Err(error) if batch::is_of_the_moment(&error.fault) && !batch::is_not_spoken(&error) => {
                // A gateway may refuse this one form (dataverse §5.1, outer rejection).
                self.polls_refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("both polls in one request were refused, so each is asked by itself: {error}");
                return None;
            }
            Err(error) => return self.poll_apart(&error.to_string()),
        };
        let parts = multipart::parts(&answer).unwrap_or_default();
        let Ok([leads, deals]) = <[_; 2]>::try_from(parts) else {
            return self.poll_apart("the answer does not have two parts");
        };
        let page = |(operation, url): &(&'static str, Url), part: Response| {
            let part = Answer { status: part.status, headers: part.headers, body: part.body, ..answer.clone() };
            self.api.page_in(operation, url, &part).ok()
        };
        self.polls_refused.store(0, Ordering::Relaxed);
        let (leads, deals) = (page(&asked[0], leads)?, page(&asked[1], deals)?);
        Some(self.decoded(&live, leads, deals).await)
    }

    async fn decoded(&self, live: &Live, leads: RawPage, deals: RawPage) -> Result<FirstPages, RemoteError> {
        Ok(FirstPages {
            leads: self.leads_of(LEADS_POLL, leads.rows, live).await?.page(leads.next, leads.server_time),
            opportunities: self.deals_of(DEALS_POLL, deals.rows, live).await?.page(deals.next, deals.server_time),
        })
    }

    /// Remembers that both polls cannot be asked in one request.
    fn poll_apart<T>(&self, why: &str) -> Option<T> {
        tracing::warn!(
            "both polls in one request do not work, so each is asked by itself: {why} (dataverse.batch_size = 1 never tries)"
        );
        self.polls_apart.store(true, Ordering::Relaxed);
        None
    }
}

/// The instant as a filter literal: whole seconds, rounded down, never before the epoch.
pub(super) fn literal(instant: Timestamp) -> String {
    Timestamp::from_seconds(instant.millis().max(0) / 1000).to_string()
}
