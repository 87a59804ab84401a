//! The Web API of Dataverse: leads and opportunities behind the port.
//!
//! Reads choose their columns by the live metadata; writes are conditional without exception.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde_json::Value;
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use crate::http::{Answer, Exchange};
use crate::model::{ETag, Fault, Lead, LeadDraft, LeadId, Opportunity, ReferralId, RemoteError, Side, Timestamp};
use crate::ports::{Crm, CrmIdentity, Cursor, Defect, FindBy, LeadSchema, Page};

use api::{Api, RawPage};
use metadata::Live;
use query::Root;
use schema::Survey;
use settings::{DataverseSettings, Identity};
use write::Condition;

pub mod codes;
pub mod contract;
pub mod dialect;
pub mod settings;

mod api;
mod metadata;
mod query;
mod schema;
mod wire;
mod write;

#[cfg(test)]
mod tests;

pub use dialect::DataverseDialect;

/// Chunks of one long list of ids that are read at once.
pub const CHUNKS_IN_FLIGHT: usize = 4;

/// Currencies outside the active ones that are looked up by id and remembered.
pub const STRAY_CURRENCIES_MAX: usize = 200;

/// How old a schema must be before a refusal makes us read it again: one bad row is no reason to ask ten questions.
pub const SCHEMA_AGE_MIN: Duration = Duration::from_secs(5 * 60);

/// A schema and when it was read.
#[derive(Clone)]
struct Loaded {
    live: Arc<Live>,
    at: Instant,
    is_stale: bool,
}

/// Leads in one Dataverse environment.
pub struct Dataverse {
    api: Api,
    identity: Identity,
    referral_column: Option<String>,
    mapped: BTreeSet<String>,
    tag: String,
    ids_per_request: u32,
    live: RwLock<Option<Loaded>>,
    loading: tokio::sync::Mutex<()>,
    /// Currencies that rows name and the schema does not: inactive ones. `None`: nobody knows it.
    strays: RwLock<BTreeMap<Uuid, Option<String>>>,
}

impl Dataverse {
    /// Opens the adapter; sends nothing. `mapped_columns` are all lead columns that callers want to read or write
    /// besides the core, the pseudo-column `transactioncurrencyid` among them or not.
    ///
    /// The error is a sentence for people that names the setting.
    pub fn open(
        settings: &DataverseSettings,
        identity: Identity,
        referral_id_column: Option<&str>,
        mapped_columns: BTreeSet<String>,
        exchange: Arc<dyn Exchange>,
    ) -> Result<Dataverse, String> {
        let url =
            settings.url.as_ref().ok_or("dataverse.url is missing, for example https://contoso.crm4.dynamics.com")?;
        let root = Root::open(url)?;
        if let Some(name) = referral_id_column.filter(|name| !contract::is_logical_name(name)) {
            return Err(format!("referral_id_column = {name:?} is no logical column name, for example new_referralid"));
        }
        if identity == Identity::AlternateKey && referral_id_column.is_none() {
            return Err("identity = \"alternate_key\" needs referral_id_column".to_owned());
        }
        if let Some(name) = mapped_columns.iter().find(|name| !contract::is_logical_name(name)) {
            return Err(format!(
                "{name:?} in the mapping is no logical column name: lower-case letters, digits, underscores"
            ));
        }
        let is_tag = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
        if settings.tag.len() > 64 || !settings.tag.bytes().all(is_tag) {
            return Err("dataverse.tag may hold 64 letters, digits and . _ ~ - at most".to_owned());
        }
        Ok(Dataverse {
            api: Api { root, exchange, page_size: settings.page_size },
            identity,
            referral_column: referral_id_column.map(str::to_owned),
            mapped: mapped_columns,
            tag: settings.tag.clone(),
            ids_per_request: settings.ids_per_request,
            live: RwLock::new(None),
            loading: tokio::sync::Mutex::new(()),
            strays: RwLock::new(BTreeMap::new()),
        })
    }

    fn survey(&self) -> Survey<'_> {
        Survey {
            api: &self.api,
            identity: self.identity,
            referral_column: self.referral_column.as_deref(),
            mapped: &self.mapped,
        }
    }

    /// The schema as last read; the first caller reads it, the others wait for that.
    async fn live(&self) -> Result<Arc<Live>, RemoteError> {
        if let Some(live) = self.fresh() {
            return Ok(live);
        }
        let _turn = self.loading.lock().await;
        match self.fresh() {
            Some(live) => Ok(live),
            None => self.load().await,
        }
    }

    fn loaded(&self) -> Option<Loaded> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fresh(&self) -> Option<Arc<Live>> {
        self.loaded().filter(|loaded| !loaded.is_stale).map(|loaded| loaded.live)
    }

    /// Reads the schema; the caller has the turn. A failure leaves the former one in place.
    async fn load(&self) -> Result<Arc<Live>, RemoteError> {
        let live = Arc::new(self.survey().run().await?);
        self.strays.write().unwrap_or_else(PoisonError::into_inner).clear();
        let loaded = Loaded { live: Arc::clone(&live), at: Instant::now(), is_stale: false };
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Some(loaded);
        Ok(live)
    }

    /// Keeps another answer about the alternate key.
    fn keep_key(&self, is_key_active: bool) -> Option<Arc<Live>> {
        let mut slot = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let loaded = slot.as_mut()?;
        loaded.live = Arc::new(loaded.live.with_key(is_key_active));
        Some(Arc::clone(&loaded.live))
    }

    /// Marks the schema when the service says that it is another one by now; the next call reads it again.
    fn noticed<T>(&self, result: Result<T, RemoteError>) -> Result<T, RemoteError> {
        if let Err(error) = &result {
            let known = error.code.as_deref().and_then(codes::find_text);
            if known.is_some_and(|known| known.is_schema_stale) {
                let mut slot = self.live.write().unwrap_or_else(PoisonError::into_inner);
                if let Some(loaded) = slot.as_mut().filter(|loaded| loaded.at.elapsed() >= SCHEMA_AGE_MIN) {
                    loaded.is_stale = true;
                }
            }
        }
        result
    }

    /// The schema, with an alternate key that may be used; asked again while it may not (dataverse §8, trap 2).
    async fn live_with_key(&self, operation: &'static str) -> Result<Arc<Live>, RemoteError> {
        let live = self.live().await?;
        if live.schema.is_key_active {
            return Ok(live);
        }
        match self.survey().is_key_active().await? {
            true => Ok(self.keep_key(true).unwrap_or(live)),
            false => Err(self.key_is_not_active(operation)),
        }
    }

    fn key_is_not_active(&self, operation: &'static str) -> RemoteError {
        let column = self.referral_column.as_deref().unwrap_or_default();
        RemoteError::new(Side::Crm, operation, Fault::Unauthorized).with_message(format!(
            "the alternate key on lead column {column} is not active: run `referrald schema install` and wait until its index is"
        ))
    }

    /// The URL of one lead, with the columns that we want to see of it.
    fn lead_url(&self, id: LeadId, live: &Live) -> Url {
        self.api.root.at(&format!("{}({id})", contract::LEADS), &[("$select", &live.select)])
    }

    /// The URL of the lead that the alternate key names.
    fn key_url(&self, referral: ReferralId, live: &Live) -> Url {
        let column = self.referral_column.as_deref().unwrap_or_default();
        self.api.root.at(&format!("{}({column}='{referral}')", contract::LEADS), &[("$select", &live.select)])
    }

    fn tagged(&self, mut url: Url) -> Url {
        if !self.tag.is_empty() {
            let query = format!("{}&tag={}", url.query().unwrap_or_default(), self.tag);
            url.set_query(Some(&query));
        }
        url
    }

    async fn read_lead(&self, operation: &'static str, url: Url, live: &Live) -> Result<Lead, RemoteError> {
        let answer = self.noticed(self.api.get(operation, url).await)?;
        self.decode_lead(operation, &answer, live).await
    }

    async fn decode_lead(&self, operation: &'static str, answer: &Answer, live: &Live) -> Result<Lead, RemoteError> {
        let row = api::object_of(operation, answer)?;
        let strays = self.strays(operation, std::slice::from_ref(&row), live).await?;
        wire::lead(row, live, &strays).map_err(|defect| api::malformed(operation, answer, &defect.reason))
    }

    async fn read_by_id(&self, operation: &'static str, id: LeadId, live: &Live) -> Result<Lead, RemoteError> {
        let lead = self.read_lead(operation, self.lead_url(id, live), live).await?;
        if lead.id != id {
            return Err(RemoteError::new(Side::Crm, operation, Fault::Malformed)
                .with_message(format!("asked for lead {id}, the service answered with another one")));
        }
        Ok(lead)
    }

    async fn read_by_key(
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
    async fn strays(&self, operation: &'static str, rows: &[Value], live: &Live) -> Result<wire::Strays, RemoteError> {
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

    async fn leads_of(
        &self,
        operation: &'static str,
        rows: Vec<Value>,
        live: &Live,
    ) -> Result<Decoded<Lead>, RemoteError> {
        let strays = self.strays(operation, &rows, live).await?;
        Ok(Decoded::of(rows, |row| wire::lead(row, live, &strays)))
    }

    async fn deals_of(
        &self,
        operation: &'static str,
        rows: Vec<Value>,
        live: &Live,
    ) -> Result<Decoded<Opportunity>, RemoteError> {
        let strays = self.strays(operation, &rows, live).await?;
        Ok(Decoded::of(rows, |row| wire::opportunity(&row, live, &strays)))
    }

    /// Reads the rows of a table whose column is one of these, in chunks.
    async fn rows_where(
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
        let size = query::terms_per_request(base, column, longest, self.ids_per_request);
        let urls: Vec<Url> = literals.chunks(size).map(|chunk| with_filter(&query::any_of(column, chunk))).collect();
        let chunks: Vec<Vec<Value>> =
            stream::iter(urls).map(|url| self.api.all(operation, url)).buffered(CHUNKS_IN_FLIGHT).try_collect().await?;
        Ok(chunks.into_iter().flatten().collect())
    }

    /// The page that a poll begins or goes on with.
    async fn poll(
        &self,
        operation: &'static str,
        cursor: Option<&Cursor>,
        first: impl FnOnce() -> Url,
    ) -> Result<RawPage, RemoteError> {
        let page = match cursor {
            Some(cursor) => self.api.page_at(operation, cursor).await,
            None => self.api.page(operation, first()).await,
        };
        self.noticed(page)
    }

    /// What came of a write that the service carried out: the lead as it says, else as a read says.
    async fn written(
        &self,
        operation: &'static str,
        answer: &Answer,
        live: &Live,
        target: Target,
    ) -> Result<Lead, RemoteError> {
        if write::is_success(answer.status) && answer.status != http::StatusCode::NO_CONTENT {
            match self.decode_lead(operation, answer, live).await {
                Ok(lead) if target.is(&lead) => return Ok(lead),
                _ => tracing::warn!(operation, "the answer to a write could not be read: reading the lead instead"),
            }
        }
        let read = match target {
            Target::Id(id) => self.read_by_id(operation, id, live).await,
            Target::Key(referral) => self.read_by_key(operation, referral, live).await,
        };
        read.map_err(|error| RemoteError {
            is_outcome_unknown: true,
            message: Some("the answer to the write could not be read, and the lead neither".to_owned()),
            fault: Fault::Malformed,
            ..error
        })
    }
}

/// How the row of a write is known.
#[derive(Clone, Copy)]
enum Target {
    Id(LeadId),
    Key(ReferralId),
}

impl Target {
    fn is(self, lead: &Lead) -> bool {
        match self {
            Target::Id(id) => lead.id == id,
            Target::Key(referral) => lead.referral.is_none_or(|found| found == referral),
        }
    }
}

/// Rows as they could be decoded.
struct Decoded<T> {
    items: Vec<T>,
    defects: Vec<Defect>,
}

impl<T> Decoded<T> {
    fn of(rows: Vec<Value>, decode: impl Fn(Value) -> Result<T, Defect>) -> Decoded<T> {
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
    fn items_only(self, operation: &'static str) -> Vec<T> {
        for defect in &self.defects {
            tracing::warn!(operation, id = defect.id.as_deref(), reason = %defect.reason, "a row could not be decoded");
        }
        self.items
    }

    fn page(self, next: Option<Cursor>, server_time: Option<Timestamp>) -> Page<T> {
        Page { items: self.items, defects: self.defects, next, server_time }
    }
}

/// The instant as a filter literal: whole seconds, rounded down, never before the epoch.
fn literal(instant: Timestamp) -> String {
    Timestamp::from_seconds(instant.millis().max(0) / 1000).to_string()
}

#[async_trait]
impl Crm for Dataverse {
    async fn identity(&self) -> Result<CrmIdentity, RemoteError> {
        const OPERATION: &str = "ask who we are";
        let answer = self.api.get(OPERATION, self.api.root.at("WhoAmI", &[])).await?;
        let body = api::object_of(OPERATION, &answer)?;
        let guid = |name: &str| body.as_object().and_then(|body| wire::guid(body, name));
        let (Some(organization), Some(user)) = (guid("OrganizationId"), guid("UserId")) else {
            return Err(api::malformed(OPERATION, &answer, "the answer names no organization or no user"));
        };
        let hint = answer.headers.get("x-ms-dop-hint").and_then(|value| value.to_str().ok());
        let parallelism = hint.and_then(|hint| hint.trim().parse().ok()).filter(|hint| *hint > 0);
        Ok(CrmIdentity { organization, user, parallelism })
    }

    async fn schema(&self) -> Result<Arc<LeadSchema>, RemoteError> {
        let _turn = self.loading.lock().await;
        Ok(Arc::clone(&self.load().await?.schema))
    }

    async fn leads_changed_since(&self, since: Timestamp, cursor: Option<&Cursor>) -> Result<Page<Lead>, RemoteError> {
        const OPERATION: &str = "list changed leads";
        let live = self.live().await?;
        let page = self
            .poll(OPERATION, cursor, || {
                let since = format!("{} ge {}", contract::MODIFIED, literal(since));
                let filter = match &live.referral_column {
                    Some(column) => format!("{column} ne null and {since}"),
                    None => since,
                };
                let options = [
                    ("$select", live.select.as_str()),
                    ("$filter", &filter),
                    ("$orderby", "modifiedon asc,leadid asc"),
                ];
                self.api.root.at(contract::LEADS, &options)
            })
            .await?;
        Ok(self.leads_of(OPERATION, page.rows, &live).await?.page(page.next, page.server_time))
    }

    async fn opportunities_changed_since(
        &self,
        since: Timestamp,
        cursor: Option<&Cursor>,
    ) -> Result<Page<Opportunity>, RemoteError> {
        const OPERATION: &str = "list changed opportunities";
        let live = self.live().await?;
        let page = self
            .poll(OPERATION, cursor, || {
                let since = literal(since);
                let filter =
                    format!("{} ge {since} and {} ne null", contract::MODIFIED, contract::ORIGINATING_LEAD_VALUE);
                let select = contract::OPPORTUNITY_CORE.join(",");
                let options = [
                    ("$select", select.as_str()),
                    ("$filter", &filter),
                    ("$orderby", "modifiedon asc,opportunityid asc"),
                ];
                self.api.root.at(contract::OPPORTUNITIES, &options)
            })
            .await?;
        Ok(self.deals_of(OPERATION, page.rows, &live).await?.page(page.next, page.server_time))
    }

    async fn leads(&self, ids: &[LeadId]) -> Result<Vec<Lead>, RemoteError> {
        const OPERATION: &str = "read leads by id";
        let ids: BTreeSet<LeadId> = ids.iter().copied().collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let live = self.live().await?;
        let literals = ids.iter().map(LeadId::to_string).collect();
        let options = [("$select", live.select.as_str())];
        let rows = self.rows_where(OPERATION, contract::LEADS, &options, contract::LEAD_ID, literals).await;
        let leads = self.leads_of(OPERATION, self.noticed(rows)?, &live).await?.items_only(OPERATION);
        Ok(leads.into_iter().filter(|lead| ids.contains(&lead.id)).collect())
    }

    async fn get(&self, id: LeadId) -> Result<Lead, RemoteError> {
        let live = self.live().await?;
        self.read_by_id("read lead", id, &live).await
    }

    async fn opportunities_of(&self, leads: &[LeadId]) -> Result<Vec<Opportunity>, RemoteError> {
        const OPERATION: &str = "read opportunities of leads";
        let leads: BTreeSet<LeadId> = leads.iter().copied().collect();
        if leads.is_empty() {
            return Ok(Vec::new());
        }
        let live = self.live().await?;
        let literals = leads.iter().map(LeadId::to_string).collect();
        let select = contract::OPPORTUNITY_CORE.join(",");
        let options = [("$select", select.as_str()), ("$orderby", "createdon asc")];
        let column = contract::ORIGINATING_LEAD_VALUE;
        let rows = self.rows_where(OPERATION, contract::OPPORTUNITIES, &options, column, literals).await;
        let deals = self.deals_of(OPERATION, self.noticed(rows)?, &live).await?.items_only(OPERATION);
        Ok(deals.into_iter().filter(|deal| deal.lead.is_some_and(|lead| leads.contains(&lead))).collect())
    }

    async fn find(&self, by: FindBy, referrals: &[ReferralId]) -> Result<Vec<Lead>, RemoteError> {
        const OPERATION: &str = "find leads of referrals";
        let referrals: BTreeSet<ReferralId> = referrals.iter().copied().collect();
        let live = self.live().await?;
        let column = match by {
            FindBy::ReferralColumn => live.referral_column.as_deref(),
            FindBy::Subject => Some(contract::SUBJECT),
        };
        let (Some(column), false) = (column, referrals.is_empty()) else { return Ok(Vec::new()) };
        let literals = referrals.iter().map(|referral| format!("'{referral}'")).collect();
        let options = [("$select", live.select.as_str())];
        let rows = self.rows_where(OPERATION, contract::LEADS, &options, column, literals).await;
        let leads = self.leads_of(OPERATION, self.noticed(rows)?, &live).await?.items_only(OPERATION);
        // The service compares without case; so do we.
        let speaks_for = |lead: &Lead| match by {
            FindBy::ReferralColumn => lead.referral,
            FindBy::Subject => lead.columns.get(contract::SUBJECT).and_then(Value::as_str).and_then(ReferralId::parse),
        };
        Ok(leads.into_iter().filter(|lead| speaks_for(lead).is_some_and(|id| referrals.contains(&id))).collect())
    }

    async fn create(
        &self,
        referral: ReferralId,
        computed: LeadId,
        draft: &LeadDraft,
        request: Uuid,
    ) -> Result<Lead, RemoteError> {
        const OPERATION: &str = "create lead";
        let live = self.live_with_key(OPERATION).await?;
        let (url, target, body) = match self.identity {
            Identity::Derived => {
                let stamp = live.referral_column.as_deref().map(|column| (column, referral));
                let body = write::create_body(OPERATION, draft, &live, None, stamp)?;
                (self.lead_url(computed, &live), Target::Id(computed), body)
            }
            Identity::AlternateKey => {
                let body = write::create_body(OPERATION, draft, &live, self.referral_column.as_deref(), None)?;
                (self.key_url(referral, &live), Target::Key(referral), body)
            }
        };
        let call = write::write(OPERATION, self.tagged(url), Condition::Absent, &body, request)?;
        match self.noticed(self.api.exchange.send(call).await) {
            Ok(answer) => self.written(OPERATION, &answer, &live, target).await,
            Err(error) => Err(self.why_not_created(write::concern_row(error)).await),
        }
    }

    async fn update(&self, id: LeadId, etag: &ETag, draft: &LeadDraft, request: Uuid) -> Result<Lead, RemoteError> {
        const OPERATION: &str = "update lead";
        let live = self.live().await?;
        let body = write::update_body(OPERATION, draft, &live)?;
        let url = self.tagged(self.lead_url(id, &live));
        let call = write::write(OPERATION, url, Condition::Version(etag), &body, request)?;
        match self.noticed(self.api.exchange.send(call).await) {
            Ok(answer) => self.written(OPERATION, &answer, &live, Target::Id(id)).await,
            Err(error) => self.why_not_updated(id, write::concern_row(error), &live).await,
        }
    }

    async fn get_by_referral(&self, referral: ReferralId, computed: LeadId) -> Result<Lead, RemoteError> {
        const OPERATION: &str = "read lead of referral";
        match self.identity {
            Identity::Derived => {
                let live = self.live().await?;
                self.read_by_id(OPERATION, computed, &live).await
            }
            Identity::AlternateKey => {
                let live = self.live_with_key(OPERATION).await?;
                self.read_by_key(OPERATION, referral, &live).await
            }
        }
    }

    fn closed_until(&self) -> Option<Timestamp> {
        self.api.exchange.closed_until()
    }

    fn close_until(&self, until: Timestamp) {
        self.api.exchange.close_until(until);
    }

    fn requests_sent(&self) -> u64 {
        self.api.exchange.requests_sent()
    }
}

impl Dataverse {
    /// Tells a refused create: a 404 cannot mean the lead, and a bad key URL may mean that the key is gone.
    async fn why_not_created(&self, error: RemoteError) -> RemoteError {
        if error.fault == Fault::Missing {
            return RemoteError { fault: Fault::Refused, ..error }
                .with_message("a row that the new lead refers to does not exist: its owner or its currency");
        }
        let may_be_the_key = self.identity == Identity::AlternateKey
            && error.status.is_some_and(|status| matches!(status, 400 | 404))
            && matches!(
                error.code.as_deref().and_then(codes::parse),
                None | Some(codes::BAD_URL | codes::KEY_NOT_DEFINED)
            )
            && matches!(error.fault, Fault::Refused | Fault::Unauthorized);
        if may_be_the_key && matches!(self.survey().is_key_active().await, Ok(false)) {
            self.keep_key(false);
            let RemoteError { status, code, request_id, .. } = error;
            return RemoteError { status, code, request_id, ..self.key_is_not_active("create lead") };
        }
        error
    }

    /// Tells a refused update: a 404 that does not clearly name the lead is settled by reading it (dataverse §8, trap 28).
    async fn why_not_updated(&self, id: LeadId, error: RemoteError, live: &Live) -> Result<Lead, RemoteError> {
        let code = error.code.as_deref().and_then(codes::parse);
        let names_lead = error.message.as_deref() == Some(dialect::LEAD_DOES_NOT_EXIST);
        let names_other = error.fault == Fault::Refused && code == Some(codes::OBJECT_DOES_NOT_EXIST);
        let is_gone = error.status == Some(404) || error.fault == Fault::Missing;
        let is_clear = names_lead || names_other || !matches!(error.fault, Fault::Missing | Fault::Refused);
        if !is_gone || is_clear {
            return Err(error);
        }
        match self.read_by_id("confirm a missing lead", id, live).await {
            Ok(_) => Err(RemoteError { fault: Fault::Refused, ..error }
                .with_message("the lead exists, but a row that the update refers to does not")),
            Err(read) if read.fault == Fault::Missing => Err(RemoteError { fault: Fault::Missing, ..error }),
            // Nothing was written, so the trouble of the read is all there is to tell.
            Err(read) => Err(read),
        }
    }
}
