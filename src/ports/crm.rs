//! The port to the leads, and what the live organization says about them.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Cursor, Defect, Line, Page};
use crate::model::{ETag, Lead, LeadDraft, LeadId, Opportunity, ReferralId, RemoteError, Timestamp};

/// Where leads live.
#[async_trait]
pub trait Crm: Send + Sync {
    /// Who we are and where. Checked against the stamp in the ledger.
    async fn identity(&self) -> Result<CrmIdentity, RemoteError>;

    /// Reads what the live organization allows; also (re)configures the adapter's column selection and currencies.
    async fn schema(&self) -> Result<Arc<LeadSchema>, RemoteError>;

    /// True when something has contradicted the schema since [`Crm::schema`] told it: a column or an option is gone, for
    /// example. An adapter that cannot tell says no.
    fn is_schema_doubtful(&self) -> bool;

    /// Leads changed since (`modifiedon ge`), oldest first. Filtered to ours where a referral id column exists: those
    /// with a value there, and `also` these.
    async fn leads_changed_since(
        &self,
        since: Timestamp,
        also: &[LeadId],
        cursor: Option<&Cursor>,
    ) -> Result<Page<Lead>, RemoteError>;

    /// One page of the lead table's changes, by change tracking (dataverse §4.1). `link` is what the page before ended with;
    /// `None` begins anew, with the whole table.
    async fn lead_changes(&self, link: Option<&Cursor>) -> Result<Tracked, RemoteError>;

    /// Opportunities that came from leads, changed since, oldest first.
    async fn opportunities_changed_since(
        &self,
        since: Timestamp,
        cursor: Option<&Cursor>,
    ) -> Result<Page<Opportunity>, RemoteError>;

    /// The first pages of both in one request. `None` when each has to be asked for by itself: there is no such way, or
    /// the answer leaves something open.
    async fn both_changed_since(
        &self,
        leads: Timestamp,
        also: &[LeadId],
        opportunities: Timestamp,
    ) -> Option<Result<FirstPages, RemoteError>>;

    /// Reads leads by id, any number (chunked inside). A lead that is not in the answer was not found by this read.
    async fn leads(&self, ids: &[LeadId]) -> Result<Vec<Lead>, RemoteError>;

    /// Reads one lead. `Fault::Missing` only when the service says that this lead does not exist.
    async fn get(&self, id: LeadId) -> Result<Lead, RemoteError>;

    /// All opportunities of these leads, any number (chunked inside).
    async fn opportunities_of(&self, leads: &[LeadId]) -> Result<Vec<Opportunity>, RemoteError>;

    /// Leads whose referral id column (or subject) is one of these referral ids, batched.
    async fn find(&self, by: FindBy, referrals: &[ReferralId]) -> Result<Vec<Lead>, RemoteError>;

    /// Creates the lead of a referral, only if there is none (`If-None-Match: *`). `Fault::Conflict`: there is one.
    ///
    /// `computed` is the id to use in derived mode; in alternate-key mode the service chooses.
    async fn create(
        &self,
        referral: ReferralId,
        computed: LeadId,
        draft: &LeadDraft,
        request: uuid::Uuid,
    ) -> Result<Lead, RemoteError>;

    /// Updates a lead only if its version is still `etag`. `Fault::Conflict`: it changed; `Fault::Missing`: it is gone.
    async fn update(
        &self,
        id: LeadId,
        etag: &ETag,
        draft: &LeadDraft,
        request: uuid::Uuid,
    ) -> Result<Lead, RemoteError>;

    /// How many writes it is worth to begin at once: those that do not leave yet may gather.
    fn writes_at_once(&self) -> usize;

    /// Reads the lead that the referral's key names in alternate-key mode, else the lead with the computed id.
    /// `Fault::Missing` when there is none.
    async fn get_by_referral(&self, referral: ReferralId, computed: LeadId) -> Result<Lead, RemoteError>;

    /// The line to the service.
    fn line(&self) -> &dyn Line;
}

/// What changed on the leads side, as far as the first page of each table shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct FirstPages {
    /// As [`Crm::leads_changed_since`] without a cursor.
    pub leads: Page<Lead>,
    /// As [`Crm::opportunities_changed_since`] without a cursor.
    pub opportunities: Page<Opportunity>,
}

/// What change tracking answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Tracked {
    /// Some of what changed.
    Page(Changes),
    /// The link is not taken any more: it is too old, or of another selection of columns.
    Expired,
    /// The service keeps no changes for us: why and what to do, for people.
    Off(String),
}

/// One page of changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    /// Leads that are new or changed, of whomever: as they were at some moment since.
    pub changed: Vec<LeadVersion>,
    /// Leads that were deleted, or that we may not see any more: a notice, and no proof.
    pub gone: Vec<LeadId>,
    /// Rows whose id could not be read.
    pub defects: Vec<Defect>,
    /// How to go on.
    pub next: ChangeLink,
    /// The `Date` header of the answer: server time.
    pub server_time: Option<Timestamp>,
}

/// Which version of a lead there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeadVersion {
    /// The lead.
    pub id: LeadId,
    /// Its version.
    pub etag: Option<ETag>,
    /// `modifiedon`.
    pub modified: Option<Timestamp>,
}

/// Where a page of changes leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeLink {
    /// The next page.
    More(Cursor),
    /// This was the last page: what changes from now on.
    Later(Cursor),
}

/// How leads are searched for adoption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindBy {
    /// The configured referral id column.
    ReferralColumn,
    /// The subject equals the referral id, as the flow this product replaces wrote it.
    Subject,
}

/// Who we are in the CRM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrmIdentity {
    /// The organization; a change stops writing.
    pub organization: uuid::Uuid,
    /// Our application user.
    pub user: uuid::Uuid,
    /// Parallelism the service recommends, if it said.
    pub parallelism: Option<u16>,
}

/// What the live organization allows on a lead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LeadSchema {
    /// Every column by logical name.
    pub columns: BTreeMap<String, ColumnSchema>,
    /// Active currencies by ISO 4217 code: decimal places.
    pub currencies: BTreeMap<String, u32>,
    /// The referral id column exists (when one is configured).
    pub has_referral_column: bool,
    /// In alternate-key mode: the key exists and its index is Active. True in derived mode.
    pub is_key_active: bool,
    /// Status codes and the state (0, 1, 2) each belongs to.
    pub status_codes: BTreeMap<i32, i32>,
}

/// One lead column.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnSchema {
    /// What it holds.
    pub kind: ColumnKind,
    /// Longest text in UTF-16 code units.
    pub length_max: Option<u32>,
    /// Option numbers of a choice.
    pub options: Option<Vec<i32>>,
    /// The service refuses a lead without it (system required, and not filled in by the service).
    pub is_required: bool,
    /// May be set when creating.
    pub is_creatable: bool,
    /// May be set when updating.
    pub is_updatable: bool,
}

/// What a column holds; decides the canonical form of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// Text, single or many lines.
    Text,
    /// Whole number.
    Integer,
    /// Exact decimal, money.
    Money,
    /// Decimal or floating number that is not money.
    Number,
    /// `YYYY-MM-DD`.
    Date,
    /// Instant.
    Instant,
    /// One option of a choice.
    Choice,
    /// True or false.
    Boolean,
    /// Reference to a currency, given as ISO 4217 code.
    Currency,
    /// Any other reference or type: not writable by a mapping.
    Other,
}
