//! How rows become leads and opportunities: pages, chunks, single rows, and the currencies they name.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use super::metadata::Live;
use super::{Dataverse, api, contract, metadata, query, wire};
use crate::http::Answer;
use crate::model::{Fault, Lead, LeadId, Opportunity, ReferralId, RemoteError, Side, Timestamp};
use crate::ports::{Cursor, Defect, Page};

/// Chunks of one long list of ids that are read at once.
pub const CHUNKS_IN_FLIGHT: usize = 4;

/// Leads that are searched for with one request, by their referral. The sheet limits the reading of known ids
/// (dataverse §4.2); an import searches for every referral, and with 50 at once it falls behind what the service grants.
pub const SEARCHED_MAX: u32 = 100;

/// Currencies outside the active ones that are looked up by id and remembered.
pub const STRAY_CURRENCIES_MAX: usize = 200;

impl Dataverse {
    pub(super) async fn read_lead(&self, operation: &'static str, url: Url, live: &Live) -> Result<Lead, RemoteError> {
        let answer = self.noticed(self.api.get(operation, url).await)?;
        self.decode_lead(operation, &answer, live).await
    }

    pub(super) async fn decode_lead(
        &self,
        operation: &'static str,
        answer: &Answer,
        live: &Live,
    ) -> Result<Lead, RemoteError> {
        let row = api::object_of(operation, answer)?;
        let strays = self.strays(operation, std::slice::from_ref(&row), live).await?;
        let lead = wire::lead(row, live, &strays);
        self.note_named(&lead);
        lead.map_err(|defect| api::malformed(operation, answer, &defect.reason))
    }

    pub(super) async fn read_by_id(
        &self,
        operation: &'static str,
        id: LeadId,
        live: &Live,
    ) -> Result<Lead, RemoteError> {
        let lead = self.read_lead(operation, self.lead_url(id, live), live).await?;
        if lead.id != id {
            return Err(RemoteError::new(Side::Crm, operation, Fault::Malformed)
                .with_message(format!("asked for lead {id}, the service answered with another one")));
        }
        Ok(lead)
    }

    pub(super) async fn read_by_key(
        &self,
        operation: &'static str,
        referral: ReferralId,
        live: &Live,
    ) -> Result<Lead, RemoteError> {
        let lead = self.read_lead(operation, self.key_url(referral, live), live).await?;
        if lead.referral.is_some_and(|found| found != referral) {
            return Err(RemoteError::new(Side::Crm, operation, Fault::Malformed).with_message(format!(
                "asked for the lead of referral {referral}, the service answered with another one"
            )));
        }
        Ok(lead)
    }

    /// Names the currencies of these rows that the schema does not have: inactive ones, or added since.
    pub(super) async fn strays(
        &self,
        operation: &'static str,
        rows: &[Value],
        live: &Live,
    ) -> Result<wire::Strays, RemoteError> {
        let wanted: BTreeSet<Uuid> = rows.iter().filter_map(wire::currency_of).collect();
        for id in wanted.into_iter().filter(|id| live.currencies.code(*id).is_none()) {
            let (is_known, count) = {
                let strays = self.strays.read().unwrap_or_else(PoisonError::into_inner);
                (strays.contains_key(&id), strays.len())
            };
            if is_known || count >= STRAY_CURRENCIES_MAX {
                continue;
            }
            let url = self.api.root.at(
                &format!("{}({id})", contract::CURRENCIES),
                &[("$select", "transactioncurrencyid,isocurrencycode,currencyprecision")],
            );
            let code = match self.api.object(operation, url).await {
                Ok(row) => row.as_object().and_then(metadata::currency_code),
                Err(error) if matches!(error.fault, Fault::Missing | Fault::Refused) => None,
                Err(error) => return Err(error),
            };
            self.strays.write().unwrap_or_else(PoisonError::into_inner).insert(id, code);
        }
        let strays = self.strays.read().unwrap_or_else(PoisonError::into_inner);
        Ok(strays.iter().filter_map(|(id, code)| Some((*id, code.clone()?))).collect())
    }

    pub(super) async fn leads_of(
        &self,
        operation: &'static str,
        rows: Vec<Value>,
        live: &Live,
    ) -> Result<Decoded<Lead>, RemoteError> {
        let strays = self.strays(operation, &rows, live).await?;
        let decoded = Decoded::of(rows, |row| wire::lead(row, live, &strays));
        self.note_named(&decoded.items);
        Ok(decoded)
    }

    pub(super) async fn deals_of(
        &self,
        operation: &'static str,
        rows: Vec<Value>,
        live: &Live,
    ) -> Result<Decoded<Opportunity>, RemoteError> {
        let strays = self.strays(operation, &rows, live).await?;
        Ok(Decoded::of(rows, |row| wire::opportunity(&row, live, &strays)))
    }

    /// Reads the rows of a table whose column is one of these, in chunks.
    pub(super) async fn rows_where(
        &self,
        operation: &'static str,
        set: &str,
        options: &[(&str, &str)],
        column: &str,
        literals: Vec<String>,
    ) -> Result<Vec<Value>, RemoteError> {
        let with_filter = |filter: &str| {
            let mut all = options.to_vec();
            all.push(("$filter", filter));
            self.api.root.at(set, &all)
        };
        let longest = literals.iter().map(String::len).max().unwrap_or_default();
        let base = with_filter("").as_str().len();
        // Texts are searched for; ids are known.
        let is_search = literals.iter().any(|literal| literal.starts_with('\''));
        let most = if is_search { SEARCHED_MAX } else { self.ids_per_request };
        let size = query::terms_per_request(base, column, longest, most);
        let urls: Vec<Url> = literals.chunks(size).map(|chunk| with_filter(&query::any_of(column, chunk))).collect();
        let chunks: Vec<Vec<Value>> =
            stream::iter(urls).map(|url| self.api.all(operation, url)).buffered(CHUNKS_IN_FLIGHT).try_collect().await?;
        Ok(chunks.into_iter().flatten().collect())
    }
}

/// Rows as they could be decoded.
pub(super) struct Decoded<T> {
    items: Vec<T>,
    defects: Vec<Defect>,
}

impl<T> Decoded<T> {
    pub(super) fn of(rows: Vec<Value>, decode: impl Fn(Value) -> Result<T, Defect>) -> Decoded<T> {
        let mut decoded = Decoded { items: Vec::with_capacity(rows.len()), defects: Vec::new() };
        for row in rows {
            match decode(row) {
                Ok(item) => decoded.items.push(item),
                Err(defect) => decoded.defects.push(defect),
            }
        }
        decoded
    }

    /// For reads by id, where a row that cannot be read counts as not found by this read.
    pub(super) fn items_only(self, operation: &'static str) -> Vec<T> {
        for defect in &self.defects {
            tracing::warn!(operation, id = defect.id.as_deref(), reason = %defect.reason, "a row could not be decoded");
        }
        self.items
    }

    pub(super) fn page(self, next: Option<Cursor>, server_time: Option<Timestamp>) -> Page<T> {
        Page { items: self.items, defects: self.defects, next, server_time }
    }
}
