//! The Web API of Dataverse: leads and opportunities behind the port.
//!
//! Reads choose their columns by the live metadata; writes are conditional without exception.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use async_trait::async_trait;
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use crate::http::{Dialect, Exchange};
use crate::model::{ETag, Lead, LeadDraft, LeadId, Opportunity, ReferralId, RemoteError, Timestamp};
use crate::ports::{Clock, Crm, CrmIdentity, Cursor, FindBy, FirstPages, LeadSchema, Line, Page, Tracked};

use api::Api;
use deals::Named;
use knowledge::Loaded;
use metadata::Live;
use outcome::Target;
use polls::{DEALS_POLL, LEADS_POLL};
use query::Root;
use settings::{DataverseSettings, Identity};
use write::Condition;

pub mod codes;
pub mod contract;
pub mod dialect;
pub mod settings;
pub mod setup;

mod api;
mod batch;
mod changes;
mod deals;
mod knowledge;
mod metadata;
mod outcome;
mod polls;
mod query;
mod reading;
mod schema;
mod wire;
mod write;

#[cfg(test)]
mod tests;

/// What the lead table is like as the product ships it.
pub fn shipped_schema(mapped: &std::collections::BTreeSet<String>) -> crate::ports::LeadSchema {
    crate::ports::LeadSchema::clone(&metadata::shipped(mapped, None).schema)
}

pub use batch::{BATCH_MIN, BATCH_PAUSE, BATCH_SIZE_MAX, BATCH_TIMEOUT, BATCH_WORK_MAX};
pub use changes::SWITCH_ON;
pub use deals::NAMED_MIN;
pub use dialect::DataverseDialect;
pub use knowledge::SCHEMA_AGE_MIN;
pub use reading::{CHUNKS_IN_FLIGHT, STRAY_CURRENCIES_MAX};

/// A client stack that lets writes which want to leave at the same moment travel together.
///
/// The error is a sentence for people that names the setting.
pub fn gather_writes(
    settings: &DataverseSettings,
    dialect: Arc<dyn Dialect>,
    exchange: Arc<dyn Exchange>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn Exchange>, String> {
    let root = Root::open(environment(settings)?)?;
    Ok(Arc::new(batch::Batches::new(exchange, dialect, clock, root, settings.batch_size)))
}

fn environment(settings: &DataverseSettings) -> Result<&Url, &'static str> {
    settings.url.as_ref().ok_or("dataverse.url is missing, for example https://contoso.crm4.dynamics.com")
}

/// Leads in one Dataverse environment.
pub struct Dataverse {
    api: Api,
    identity: Identity,
    referral_column: Option<String>,
    mapped: BTreeSet<String>,
    tag: String,
    ids_per_request: u32,
    writes_at_once: usize,
    live: RwLock<Option<Loaded>>,
    loading: tokio::sync::Mutex<()>,
    /// Something has contradicted the schema since somebody asked for it.
    is_doubtful: AtomicBool,
    /// The service does not take both polls in one request.
    polls_apart: AtomicBool,
    /// Times in a row that both polls in one request were refused.
    polls_refused: AtomicU32,
    /// What qualified leads name.
    named: Mutex<Named>,
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
        let root = Root::open(environment(settings)?)?;
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
            api: Api { root, exchange, page_size: settings.page_size, is_strong: false },
            identity,
            referral_column: referral_id_column.map(str::to_owned),
            mapped: mapped_columns,
            tag: settings.tag.clone(),
            ids_per_request: settings.ids_per_request,
            writes_at_once: settings.batch_size.saturating_mul(settings.in_flight_max) as usize,
            live: RwLock::new(None),
            loading: tokio::sync::Mutex::new(()),
            is_doubtful: AtomicBool::new(false),
            polls_apart: AtomicBool::new(settings.batch_size < 2),
            polls_refused: AtomicU32::new(0),
            named: Mutex::default(),
            strays: RwLock::new(BTreeMap::new()),
        })
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
        if let Some(parallelism) = parallelism {
            self.api.exchange.recommend(parallelism); // (dataverse §6.1)
        }
        Ok(CrmIdentity { organization, user, parallelism })
    }

    async fn schema(&self) -> Result<Arc<LeadSchema>, RemoteError> {
        let _turn = self.loading.lock().await;
        let live = self.load().await?;
        self.is_doubtful.store(false, Ordering::Relaxed);
        Ok(Arc::clone(&live.schema))
    }

    fn is_schema_doubtful(&self) -> bool {
        self.is_doubtful.load(Ordering::Relaxed)
    }

    async fn leads_changed_since(
        &self,
        since: Timestamp,
        also: &[LeadId],
        cursor: Option<&Cursor>,
    ) -> Result<Page<Lead>, RemoteError> {
        let live = self.live().await?;
        let page = self.poll(LEADS_POLL, cursor, || self.leads_since(&live, since, also)).await?;
        Ok(self.leads_of(LEADS_POLL, page.rows, &live).await?.page(page.next, page.server_time))
    }

    async fn lead_changes(&self, link: Option<&Cursor>) -> Result<Tracked, RemoteError> {
        self.changes(link).await
    }

    async fn opportunities_changed_since(
        &self,
        since: Timestamp,
        cursor: Option<&Cursor>,
    ) -> Result<Page<Opportunity>, RemoteError> {
        let live = self.live().await?;
        let page = self.poll(DEALS_POLL, cursor, || self.deals_since(since)).await?;
        Ok(self.deals_of(DEALS_POLL, page.rows, &live).await?.page(page.next, page.server_time))
    }

    async fn both_changed_since(
        &self,
        leads: Timestamp,
        also: &[LeadId],
        opportunities: Timestamp,
    ) -> Option<Result<FirstPages, RemoteError>> {
        self.both_since(leads, also, opportunities).await
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
        let leads: BTreeSet<LeadId> = leads.iter().copied().collect();
        if leads.is_empty() {
            return Ok(Vec::new());
        }
        self.deals_by_lead(&leads).await
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
                let body = self.fitting(write::create_body(OPERATION, draft, &live, None, stamp))?;
                (self.lead_url(computed, &live), Target::Id(computed), body)
            }
            Identity::AlternateKey => {
                let column = self.referral_column.as_deref();
                let body = self.fitting(write::create_body(OPERATION, draft, &live, column, None))?;
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
        let body = self.fitting(write::update_body(OPERATION, draft, &live))?;
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

    fn writes_at_once(&self) -> usize {
        self.writes_at_once
    }

    fn line(&self) -> &dyn Line {
        self.api.exchange.line()
    }
}
