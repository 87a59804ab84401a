//! The leads port over the world.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::model::{
    ETag, Fault, Lead, LeadDraft, LeadId, LeadState, LeadStatus, Opportunity, OpportunityState, Owner, ReferralId,
    RemoteError, Side, Timestamp,
};
use crate::ports::{
    ChangeLink, Changes, ColumnKind, ColumnSchema, Crm, CrmIdentity, Cursor, FindBy, FirstPages, LeadSchema,
    LeadVersion, Line, Page, Tracked,
};

use super::super::dynamics::{Kind, Table};
use super::super::exchange::{Answer, Request, Service, encode};
use super::super::options::KeyState;
use super::super::world::World;
use super::{DirectLine, lock, stamp, text};

const ROOT: &str = "/api/data/v9.2";
/// Ids in one request.
const IDS_MAX: usize = 50;
/// Columns that every read asks for.
const CORE: [&str; 12] = [
    "leadid",
    "statecode",
    "statuscode",
    "createdon",
    "modifiedon",
    "_createdby_value",
    "_modifiedby_value",
    "merged",
    "_masterid_value",
    "_qualifyingopportunityid_value",
    "subject",
    "_transactioncurrencyid_value",
];
const OPPORTUNITY: &str = "opportunityid,statecode,createdon,modifiedon,estimatedvalue,actualvalue,estimatedclosedate,actualclosedate,_originatingleadid_value,_transactioncurrencyid_value";

/// What the adapter would have from its configuration.
#[derive(Clone, Debug)]
pub struct DirectCrmSettings {
    /// Leads are found by the alternate key instead of the computed id.
    pub is_keyed: bool,
    /// The custom column for the referral id.
    pub referral_column: Option<String>,
    /// Columns of the mapping, by logical name.
    pub columns: BTreeSet<String>,
    /// Rows per page.
    pub page_size: u32,
}

impl Default for DirectCrmSettings {
    /// Computed ids, no column, and the columns of the usual mapping.
    fn default() -> Self {
        let columns = [
            "subject",
            "companyname",
            "firstname",
            "lastname",
            "jobtitle",
            "emailaddress1",
            "telephone1",
            "mobilephone",
            "address1_line1",
            "address1_line2",
            "address1_city",
            "address1_stateorprovince",
            "address1_postalcode",
            "address1_country",
            "estimatedamount",
            "transactioncurrencyid",
            "estimatedclosedate",
            "numberofemployees",
            "leadsourcecode",
            "description",
            "websiteurl",
        ];
        DirectCrmSettings {
            is_keyed: false,
            referral_column: None,
            columns: columns.into_iter().map(str::to_owned).collect(),
            page_size: 500,
        }
    }
}

/// [`Crm`] without sockets.
#[derive(Debug)]
pub struct DirectCrm {
    line: DirectLine,
    settings: DirectCrmSettings,
    /// `$select`, as of the schema that was read last.
    selection: Mutex<Option<String>>,
    is_doubtful: AtomicBool,
}

/// Refusals by which the service says that its schema is another one: a payload or a URL it cannot read, a missing column,
/// a text that is too long, a missing option.
const CONTRADICTIONS: [&str; 5] = ["0x80048d19", "0x80060888", "0x80041103", "0x80044331", "0x8004431a"];

impl DirectCrm {
    /// A port into this world.
    pub fn new(world: Arc<Mutex<World>>, settings: DirectCrmSettings) -> Self {
        DirectCrm {
            line: DirectLine::new(world, Service::Crm, Side::Crm),
            settings,
            selection: Mutex::default(),
            is_doubtful: AtomicBool::default(),
        }
    }

    /// Sends a request. A refusal may mean that the schema is another one by now: it is looked at again.
    async fn send(&self, operation: &'static str, request: Request) -> Result<Answer, RemoteError> {
        let answer = self.line.send(operation, request).await;
        if let Err(error) = &answer
            && error.fault == Fault::Refused
        {
            *lock(&self.selection) = None;
            let code = error.code.as_deref().unwrap_or_default();
            if CONTRADICTIONS.iter().any(|known| known.eq_ignore_ascii_case(code)) {
                self.is_doubtful.store(true, Ordering::Relaxed);
            }
        }
        answer
    }

    /// The referral id column, when it is configured and there.
    fn referral_column(&self) -> Option<&str> {
        let wanted = self.settings.referral_column.as_deref()?;
        let world = lock(&self.line.world);
        (world.crm.referral_column() == Some(wanted)).then_some(wanted)
    }

    fn select(&self) -> String {
        lock(&self.selection).get_or_insert_with(|| self.selected()).clone()
    }

    fn selected(&self) -> String {
        let world = lock(&self.line.world);
        let mut names: BTreeSet<String> = CORE.into_iter().map(str::to_owned).collect();
        for column in world.crm.columns(Table::Lead) {
            let is_ours = self.settings.columns.contains(&column.name)
                || self.settings.referral_column.as_deref() == Some(column.name.as_str());
            if is_ours {
                names.insert(column.property.clone());
            }
        }
        names.into_iter().collect::<Vec<_>>().join(",")
    }

    fn decoded(&self, row: &Value) -> Option<Lead> {
        let world = lock(&self.line.world);
        let id =
            |pointer: &str| row.pointer(pointer).and_then(Value::as_str).and_then(|text| Uuid::try_parse(text).ok());
        let state = match row["statecode"].as_i64()? {
            0 => LeadState::Open,
            1 => LeadState::Qualified,
            _ => LeadState::Disqualified,
        };
        let mut columns = BTreeMap::new();
        for name in self.settings.columns.iter().chain([&"subject".to_owned()]) {
            let value = match name.as_str() {
                "transactioncurrencyid" => currency_code(&world, row),
                name => row.get(name).cloned().unwrap_or_default(),
            };
            if !value.is_null() {
                columns.insert(name.clone(), value);
            }
        }
        let referral = self.settings.referral_column.as_ref().and_then(|name| row.get(name)?.as_str());
        Some(Lead {
            id: LeadId::new(id("/leadid")?),
            etag: text(row, "/@odata.etag").map(ETag),
            status: LeadStatus { state, code: i32::try_from(row["statuscode"].as_i64()?).ok()? },
            created: stamp(row, "/createdon"),
            modified: stamp(row, "/modifiedon"),
            created_by: id("/_createdby_value"),
            modified_by: id("/_modifiedby_value"),
            is_merged: row["merged"] == true,
            master: id("/_masterid_value").map(LeadId::new),
            opportunity: id("/_qualifyingopportunityid_value"),
            referral: referral.and_then(ReferralId::parse),
            has_foreign_referral: referral.is_some_and(|text| !text.is_empty() && ReferralId::parse(text).is_none()),
            columns,
        })
    }

    fn opportunity(&self, row: &Value) -> Option<Opportunity> {
        let world = lock(&self.line.world);
        let id =
            |pointer: &str| row.pointer(pointer).and_then(Value::as_str).and_then(|text| Uuid::try_parse(text).ok());
        let amount = |name: &str| row[name].as_number().and_then(super::super::odata::number);
        let state = match row["statecode"].as_i64()? {
            0 => OpportunityState::Open,
            1 => OpportunityState::Won,
            _ => OpportunityState::Lost,
        };
        let date = if state == OpportunityState::Open { "/estimatedclosedate" } else { "/actualclosedate" };
        Some(Opportunity {
            id: id("/opportunityid")?,
            lead: id("/_originatingleadid_value").map(LeadId::new),
            state,
            created: stamp(row, "/createdon"),
            modified: stamp(row, "/modifiedon"),
            estimated_value: amount("estimatedvalue"),
            actual_value: amount("actualvalue"),
            currency: currency_code(&world, row).as_str().map(str::to_owned),
            close_date: text(row, date),
        })
    }

    async fn pages<T>(
        &self,
        operation: &'static str,
        set: &str,
        query: String,
        decode: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<T>, RemoteError> {
        let mut items = Vec::new();
        let mut query = Some(query);
        while let Some(one) = query {
            let page = self.page(operation, set, &one, &decode).await?;
            items.extend(page.items);
            query = page.next.map(|Cursor(query)| query);
        }
        Ok(items)
    }

    async fn page<T>(
        &self,
        operation: &'static str,
        set: &str,
        query: &str,
        decode: impl Fn(&Value) -> Option<T>,
    ) -> Result<Page<T>, RemoteError> {
        let size = format!("odata.maxpagesize={}", self.settings.page_size);
        let request = Request::new("GET", &format!("{ROOT}/{set}?{query}")).with("Prefer", &size);
        let answer = self.send(operation, request).await?;
        let server_time = DirectLine::server_time(&answer);
        let body = answer.into_value();
        let rows = body["value"].as_array().ok_or_else(|| self.line.malformed(operation))?;
        let next = body["@odata.nextLink"].as_str().and_then(|link| link.split_once('?'));
        Ok(Page {
            items: rows.iter().filter_map(decode).collect(),
            defects: Vec::new(),
            next: next.map(|(_, query)| Cursor(query.to_owned())),
            server_time,
        })
    }

    fn body(&self, draft: &LeadDraft) -> Value {
        let world = lock(&self.line.world);
        let mut body = Map::new();
        for (name, value) in &draft.columns {
            if name == "transactioncurrencyid" {
                let id = value.as_str().and_then(|code| world.crm.currency(code));
                let bound = id.map(|id| format!("/transactioncurrencies({id})"));
                body.insert("transactioncurrencyid@odata.bind".into(), bound.into());
            } else {
                body.insert(name.clone(), value.clone());
            }
        }
        let owner = draft.owner.map(|owner| match owner {
            Owner::User(id) => format!("/systemusers({id})"),
            Owner::Team(id) => format!("/teams({id})"),
        });
        if let Some(owner) = owner {
            body.insert("ownerid@odata.bind".into(), owner.into());
        }
        if let Some(status) = draft.status {
            let state = match status.state {
                LeadState::Open => 0,
                LeadState::Qualified => 1,
                LeadState::Disqualified => 2,
            };
            body.insert("statecode".into(), state.into());
            body.insert("statuscode".into(), status.code.into());
        }
        Value::Object(body)
    }

    fn write(&self, place: &str, body: &Value, request: Uuid) -> Request {
        Request::new("PATCH", &format!("{ROOT}/{place}?$select={}&tag=referrald", self.select()))
            .with("Prefer", "return=representation")
            .with("x-ms-client-request-id", &request.to_string())
            .with_json(body)
    }

    fn place(&self, referral: ReferralId, computed: LeadId) -> String {
        match (self.settings.is_keyed, &self.settings.referral_column) {
            (true, Some(column)) => format!("leads({column}='{referral}')"),
            _ => format!("leads({computed})"),
        }
    }

    fn lead(&self, operation: &'static str, answer: Answer) -> Result<Lead, RemoteError> {
        self.decoded(&answer.into_value()).ok_or_else(|| self.line.malformed(operation))
    }
}

#[async_trait]
impl Crm for DirectCrm {
    async fn identity(&self) -> Result<CrmIdentity, RemoteError> {
        let answer = self.send("who am i", Request::new("GET", &format!("{ROOT}/WhoAmI"))).await?;
        let body = answer.value();
        let id = |name: &str| body[name].as_str().and_then(|text| Uuid::try_parse(text).ok());
        match (id("OrganizationId"), id("UserId")) {
            (Some(organization), Some(user)) => {
                let parallelism = answer.header("x-ms-dop-hint").and_then(|text| text.parse().ok());
                Ok(CrmIdentity { organization, user, parallelism })
            }
            _ => Err(self.line.malformed("who am i")),
        }
    }

    async fn schema(&self) -> Result<Arc<LeadSchema>, RemoteError> {
        // The columns themselves come from the world below: only the way there is tried.
        let path = format!("{ROOT}/EntityDefinitions(LogicalName='lead')");
        self.send("read metadata", Request::new("GET", &path)).await?;
        *lock(&self.selection) = None;
        self.is_doubtful.store(false, Ordering::Relaxed);
        let has_referral_column = self.referral_column().is_some();
        let world = lock(&self.line.world);
        let mut schema = LeadSchema {
            has_referral_column,
            is_key_active: !self.settings.is_keyed
                || (has_referral_column && world.crm.key_state() == KeyState::Active),
            currencies: world.options.crm.currencies.iter().cloned().collect(),
            ..LeadSchema::default()
        };
        for column in world.crm.columns(Table::Lead) {
            if let Kind::Status(codes) = &column.kind {
                schema.status_codes = codes.iter().map(|(code, state, _)| (*code, *state)).collect();
            }
            let is_required = column.required == "SystemRequired"
                && !matches!(column.name.as_str(), "leadid" | "ownerid" | "statecode");
            let described = ColumnSchema {
                kind: kind_of(&column.kind, &column.name),
                length_max: match column.kind {
                    Kind::Text(max) | Kind::Memo(max) => Some(max),
                    _ => None,
                },
                options: match &column.kind {
                    Kind::Choice(choices) => Some(choices.iter().map(|(code, _)| *code).collect()),
                    _ => None,
                },
                is_required,
                is_creatable: column.is_creatable,
                is_updatable: column.is_updatable,
            };
            schema.columns.insert(column.name.clone(), described);
        }
        Ok(Arc::new(schema))
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
        let query = match cursor {
            Some(Cursor(query)) => query.clone(),
            None => {
                let mut filter = format!("modifiedon ge {since}");
                if let Some(column) = self.referral_column() {
                    let also: String = also.iter().map(|lead| format!(" or leadid eq {lead}")).collect();
                    filter = format!("({column} ne null{also}) and {filter}");
                }
                let order = encode("modifiedon asc,leadid asc");
                format!("$select={}&$filter={}&$orderby={order}", self.select(), encode(&filter))
            }
        };
        self.page("list leads", "leads", &query, |row| self.decoded(row)).await
    }

    async fn lead_changes(&self, link: Option<&Cursor>) -> Result<Tracked, RemoteError> {
        let operation = "track changes";
        let query = link.map_or("$select=leadid,modifiedon,versionnumber", |Cursor(query)| query);
        let prefer = format!("odata.track-changes,odata.maxpagesize={}", self.settings.page_size);
        let request = Request::new("GET", &format!("{ROOT}/leads?{query}")).with("Prefer", &prefer);
        let answer = match self.line.send(operation, request).await {
            Ok(answer) => answer,
            Err(error) => {
                return match error.code.as_deref() {
                    Some("0x80044352") => Ok(Tracked::Expired),
                    Some("0x80072491") => Ok(Tracked::Off("change tracking is off for the lead table".to_owned())),
                    _ if error.fault == Fault::Refused && link.is_some() => Ok(Tracked::Expired),
                    _ => Err(error),
                };
            }
        };
        let server_time = DirectLine::server_time(&answer);
        let body = answer.into_value();
        let query_of = |name: &str| body[name].as_str().and_then(|link| link.split_once('?')).map(|(_, query)| query);
        let next = match (query_of("@odata.nextLink"), query_of("@odata.deltaLink")) {
            (Some(more), _) => ChangeLink::More(Cursor(more.to_owned())),
            (None, Some(later)) => ChangeLink::Later(Cursor(later.to_owned())),
            (None, None) => return Err(self.line.malformed(operation)),
        };
        let rows = body["value"].as_array().ok_or_else(|| self.line.malformed(operation))?;
        let id = |row: &Value, name: &str| row[name].as_str().and_then(|text| Uuid::try_parse(text).ok());
        let gone = rows.iter().filter(|row| row["reason"].is_string()).filter_map(|row| id(row, "id"));
        let changed = rows.iter().filter_map(|row| {
            let etag = text(row, "/@odata.etag").map(ETag);
            Some(LeadVersion { id: LeadId::new(id(row, "leadid")?), etag, modified: stamp(row, "/modifiedon") })
        });
        Ok(Tracked::Page(Changes {
            changed: changed.collect(),
            gone: gone.map(LeadId::new).collect(),
            defects: Vec::new(),
            next,
            server_time,
        }))
    }

    async fn opportunities_changed_since(
        &self,
        since: Timestamp,
        cursor: Option<&Cursor>,
    ) -> Result<Page<Opportunity>, RemoteError> {
        let query = match cursor {
            Some(Cursor(query)) => query.clone(),
            None => {
                let filter = encode(&format!("modifiedon ge {since} and _originatingleadid_value ne null"));
                format!(
                    "$select={OPPORTUNITY}&$filter={filter}&$orderby={}",
                    encode("modifiedon asc,opportunityid asc")
                )
            }
        };
        self.page("list opportunities", "opportunities", &query, |row| self.opportunity(row)).await
    }

    /// None: this port sends no batches.
    async fn both_changed_since(
        &self,
        _leads: Timestamp,
        _also: &[LeadId],
        _opportunities: Timestamp,
    ) -> Option<Result<FirstPages, RemoteError>> {
        None
    }

    async fn leads(&self, ids: &[LeadId]) -> Result<Vec<Lead>, RemoteError> {
        let mut found = Vec::new();
        for chunk in ids.chunks(IDS_MAX) {
            let query = format!("$select={}&$filter={}", self.select(), encode(&membership("leadid", chunk)));
            found.extend(self.pages("read leads", "leads", query, |row| self.decoded(row)).await?);
        }
        Ok(found)
    }

    async fn get(&self, id: LeadId) -> Result<Lead, RemoteError> {
        let request = Request::new("GET", &format!("{ROOT}/leads({id})?$select={}", self.select()));
        self.lead("get lead", self.send("get lead", request).await?)
    }

    async fn opportunities_of(&self, leads: &[LeadId]) -> Result<Vec<Opportunity>, RemoteError> {
        let mut found = Vec::new();
        for chunk in leads.chunks(IDS_MAX) {
            let filter = encode(&membership("_originatingleadid_value", chunk));
            let query = format!("$select={OPPORTUNITY}&$filter={filter}");
            found.extend(self.pages("read opportunities", "opportunities", query, |row| self.opportunity(row)).await?);
        }
        Ok(found)
    }

    async fn find(&self, by: FindBy, referrals: &[ReferralId]) -> Result<Vec<Lead>, RemoteError> {
        let column = match by {
            FindBy::Subject => "subject".to_owned(),
            FindBy::ReferralColumn => match self.referral_column() {
                Some(column) => column.to_owned(),
                None => return Ok(Vec::new()),
            },
        };
        let mut found = Vec::new();
        for chunk in referrals.chunks(IDS_MAX) {
            let query = format!("$select={}&$filter={}", self.select(), encode(&membership(&column, chunk)));
            found.extend(self.pages("find leads", "leads", query, |row| self.decoded(row)).await?);
        }
        Ok(found)
    }

    async fn create(
        &self,
        referral: ReferralId,
        computed: LeadId,
        draft: &LeadDraft,
        request: Uuid,
    ) -> Result<Lead, RemoteError> {
        let mut body = self.body(draft);
        if let Some(column) = self.referral_column() {
            // With an alternate key the URL carries it (dataverse §3.1).
            match self.settings.is_keyed {
                true => drop(body.as_object_mut().map(|body| body.remove(column))),
                false => body[column] = referral.to_string().into(),
            }
        }
        let call = self.write(&self.place(referral, computed), &body, request).with("If-None-Match", "*");
        self.lead("create lead", self.send("create lead", call).await?)
    }

    async fn update(&self, id: LeadId, etag: &ETag, draft: &LeadDraft, request: Uuid) -> Result<Lead, RemoteError> {
        let call = self.write(&format!("leads({id})"), &self.body(draft), request).with("If-Match", &etag.0);
        self.lead("update lead", self.send("update lead", call).await?)
    }

    async fn get_by_referral(&self, referral: ReferralId, computed: LeadId) -> Result<Lead, RemoteError> {
        let place = self.place(referral, computed);
        let request = Request::new("GET", &format!("{ROOT}/{place}?$select={}", self.select()));
        self.lead("get lead", self.send("get lead", request).await?)
    }

    fn writes_at_once(&self) -> usize {
        1
    }

    fn line(&self) -> &dyn Line {
        &self.line
    }
}

fn currency_code(world: &World, row: &Value) -> Value {
    let id = row["_transactioncurrencyid_value"].as_str().and_then(|text| Uuid::try_parse(text).ok());
    id.map_or(Value::Null, |id| world.crm.value(Table::Currency, id, "isocurrencycode").clone())
}

fn membership<T: std::fmt::Display>(property: &str, ids: &[T]) -> String {
    let ids: Vec<String> = ids.iter().map(|id| format!("'{id}'")).collect();
    format!("Microsoft.Dynamics.CRM.In(PropertyName='{property}',PropertyValues=[{}])", ids.join(","))
}

fn kind_of(kind: &Kind, name: &str) -> ColumnKind {
    match kind {
        Kind::Text(_) | Kind::Memo(_) => ColumnKind::Text,
        Kind::Integer(..) => ColumnKind::Integer,
        Kind::Money(_) => ColumnKind::Money,
        Kind::Decimal | Kind::Double => ColumnKind::Number,
        Kind::Boolean => ColumnKind::Boolean,
        Kind::Choice(_) => ColumnKind::Choice,
        Kind::Date => ColumnKind::Date,
        Kind::Instant => ColumnKind::Instant,
        Kind::Lookup(_) if name == "transactioncurrencyid" => ColumnKind::Currency,
        Kind::Lookup(_) | Kind::State(_) | Kind::Status(_) | Kind::BigInteger | Kind::Guid => ColumnKind::Other,
    }
}
