//! The leads side: the Dataverse Web API over a handful of tables (dataverse §1–§7).

pub mod columns;

mod actions;
mod batch;
mod checks;
pub(crate) mod delta;
mod limits;
mod metadata;
mod query;
mod roles;
mod write;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::model::Timestamp;

pub use columns::{Column, Kind, Table};

use super::clock::print_seconds;
use super::exchange::{Answer, Delivery, Request, decode};
use super::journal::{Actor, Event};
use super::options::{CrmOptions, KeyState, Options};
use super::world::Turn;
use limits::Protection;

/// Root of the Web API.
const ROOT: &str = "/api/data/v9.2/";

/// The organization with its rows.
#[derive(Clone, Debug)]
pub struct Dynamics {
    tables: BTreeMap<Table, Rows>,
    /// The columns of each table in the order of their properties.
    schema: BTreeMap<Table, Vec<Column>>,
    graveyard: BTreeMap<Uuid, Row>,
    /// Leads that were deleted and whose place a newer lead took: new lead, old leads.
    ghosts: BTreeMap<Uuid, Vec<Uuid>>,
    referral_column: Option<String>,
    key: KeyState,
    key_active_at: Option<Timestamp>,
    key_index: BTreeMap<String, Uuid>,
    versions: u64,
    /// Deleted leads and the version at which they went, for change tracking.
    deletions: BTreeMap<Uuid, u64>,
    organization: Uuid,
    business_unit: Uuid,
    application_user: Uuid,
    system_user: Uuid,
    sellers: Vec<Uuid>,
    protection: Protection,
    /// Rows that our user may not read, beside others that it may.
    out_of_reach: BTreeSet<Uuid>,
    /// Rows that the service cannot print.
    unprintable: BTreeSet<Uuid>,
    /// Searches by subject take longer than the database waits.
    times_out_searches: bool,
    /// Saved rows that the journal has not been told of.
    news: Vec<Event>,
}

/// The rows of one table.
#[derive(Clone, Debug, Default)]
struct Rows {
    rows: BTreeMap<Uuid, Row>,
    /// By `modifiedon` in seconds.
    modified: BTreeSet<(i64, Uuid)>,
}

/// One row; an absent column is null.
#[derive(Clone, Debug, Default)]
struct Row {
    columns: BTreeMap<String, Value>,
    version: u64,
    modified: i64,
    hidden_until: Option<Timestamp>,
}

impl Row {
    fn get(&self, property: &str) -> &Value {
        self.columns.get(property).unwrap_or(&Value::Null)
    }

    fn id(&self, property: &str) -> Option<Uuid> {
        Uuid::try_parse(self.get(property).as_str()?).ok()
    }

    fn set(&mut self, property: &str, value: impl Into<Value>) {
        match value.into() {
            Value::Null => self.columns.remove(property),
            value => self.columns.insert(property.to_owned(), value),
        };
    }

    fn etag(&self) -> String {
        format!("W/\"{}\"", self.version)
    }
}

impl Dynamics {
    pub(crate) fn new(options: &Options, turn: &mut Turn<'_>) -> Self {
        let sorted = |table| {
            let mut columns = columns::columns(table, &options.crm);
            columns.sort_by(|left, right| left.property.cmp(&right.property));
            (table, columns)
        };
        let schema = columns::TABLES.into_iter().map(sorted).collect();
        let mut crm = Dynamics {
            tables: columns::TABLES.into_iter().map(|table| (table, Rows::default())).collect(),
            schema,
            graveyard: BTreeMap::new(),
            ghosts: BTreeMap::new(),
            referral_column: options.crm.referral_column.clone(),
            key: if options.crm.referral_column.is_some() { options.crm.key } else { KeyState::Absent },
            key_active_at: None,
            key_index: BTreeMap::new(),
            versions: 1_000_000,
            deletions: BTreeMap::new(),
            organization: turn.guid(),
            business_unit: turn.guid(),
            application_user: turn.guid(),
            system_user: turn.guid(),
            sellers: (0..3).map(|_| turn.guid()).collect(),
            protection: Protection::default(),
            out_of_reach: BTreeSet::new(),
            unprintable: BTreeSet::new(),
            times_out_searches: false,
            news: Vec::new(),
        };
        crm.furnish(&options.crm, turn);
        crm
    }

    /// The rows every organization has.
    fn furnish(&mut self, options: &CrmOptions, turn: &mut Turn<'_>) {
        let mut base = None;
        for (code, places) in &options.currencies {
            let id = turn.guid();
            base = base.or(Some(id));
            let row = json!({"isocurrencycode": code, "currencyname": code, "currencysymbol": code,
                "currencyprecision": places, "exchangerate": 1, "statecode": 0});
            self.place(turn, Table::Currency, id, row);
        }
        let organization = json!({"name": "Contoso", "languagecode": 1033,
            "expirechangetrackingindays": options.delta_life.as_secs() / 86_400, "_basecurrencyid_value": base});
        self.place(turn, Table::Organization, self.organization, organization);
        self.place(
            turn,
            Table::User,
            self.application_user,
            json!({"fullname": "# referral link", "isdisabled": false}),
        );
        self.place(turn, Table::User, self.system_user, json!({"fullname": "SYSTEM", "isdisabled": false}));
        for (number, id) in self.sellers.clone().into_iter().enumerate() {
            self.place(turn, Table::User, id, json!({"fullname": format!("Seller {number}"), "isdisabled": false}));
        }
        let team = turn.guid();
        self.place(turn, Table::Team, team, json!({"name": "Inside sales"}));
        let campaign = turn.guid();
        self.place(turn, Table::Campaign, campaign, json!({"name": "Spring"}));
    }

    /// Puts a row in its place without any check.
    fn place(&mut self, turn: &Turn<'_>, table: Table, id: Uuid, columns: Value) {
        let mut row = Row::default();
        if let Value::Object(map) = columns {
            row.columns = map.into_iter().filter(|(_, value)| !value.is_null()).collect();
        }
        row.set(table.key(), id.to_string());
        row.set("createdon", print_seconds(turn.now));
        self.store(turn.now, table, id, row, self.system_user);
    }

    /// Stores a changed row under a new version.
    fn store(&mut self, now: Timestamp, table: Table, id: Uuid, mut row: Row, by: Uuid) {
        self.versions += 1;
        row.version = self.versions;
        row.set("versionnumber", row.version);
        row.set("modifiedon", print_seconds(now));
        self.deletions.remove(&id);
        row.set("_modifiedby_value", by.to_string());
        let rows = self.tables.entry(table).or_default();
        let old = rows.rows.remove(&id);
        if matches!(table, Table::Lead | Table::Opportunity) {
            let changed = difference(old.as_ref(), &row);
            let by = match by {
                user if user == self.application_user => Actor::Client,
                user if user == self.system_user => Actor::Service,
                _ => Actor::Person,
            };
            self.news.push(Event::RowSaved { at: now, table, row: id, by, changed });
        }
        let rows = self.tables.entry(table).or_default();
        if let Some(old) = old {
            rows.modified.remove(&(old.modified, id));
            if table == Table::Lead {
                self.unindex(&old);
            }
        }
        row.modified = now.millis().div_euclid(1000);
        if table == Table::Lead
            && let Some(key) = self.key_of(&row)
        {
            self.key_index.entry(key).or_insert(id);
        }
        let rows = self.tables.entry(table).or_default();
        rows.modified.insert((row.modified, id));
        rows.rows.insert(id, row);
    }

    fn unindex(&mut self, row: &Row) {
        if let (Some(key), Some(id)) = (self.key_of(row), row.id("leadid"))
            && self.key_index.get(&key) == Some(&id)
        {
            self.key_index.remove(&key);
        }
    }

    /// Keys are compared without case and trailing blanks (dataverse §3.3).
    fn key_of(&self, row: &Row) -> Option<String> {
        let text = row.get(self.referral_column.as_deref()?).as_str()?;
        Some(text.trim_end().to_lowercase())
    }

    fn row(&self, table: Table, id: Uuid) -> Option<&Row> {
        self.tables.get(&table)?.rows.get(&id)
    }

    fn columns_of(&self, table: Table) -> &[Column] {
        self.schema.get(&table).map(Vec::as_slice).unwrap_or_default()
    }

    fn column(&self, table: Table, property: &str) -> Option<&Column> {
        let columns = self.columns_of(table);
        let place = columns.binary_search_by(|column| column.property.as_str().cmp(property)).ok()?;
        columns.get(place)
    }

    /// The rows of a table as the service would show them in full, for tests and checks.
    pub fn all(&self, table: Table) -> Vec<(Uuid, BTreeMap<String, Value>)> {
        let rows = self.tables.get(&table);
        rows.into_iter().flat_map(|rows| &rows.rows).map(|(id, row)| (*id, row.columns.clone())).collect()
    }

    /// One column of one row; null when either is missing.
    pub fn value(&self, table: Table, id: Uuid, property: &str) -> &Value {
        self.row(table, id).map_or(&Value::Null, |row| row.get(property))
    }

    /// The columns of a table.
    pub fn columns(&self, table: Table) -> &[Column] {
        self.columns_of(table)
    }

    /// The ids of all leads.
    pub fn lead_ids(&self) -> Vec<Uuid> {
        self.ids(Table::Lead)
    }

    /// How many rows a table has.
    pub fn len(&self, table: Table) -> usize {
        self.tables.get(&table).map_or(0, |rows| rows.rows.len())
    }

    /// The ids of a table's rows.
    pub fn ids(&self, table: Table) -> Vec<Uuid> {
        self.tables.get(&table).map(|rows| rows.rows.keys().copied().collect()).unwrap_or_default()
    }

    /// The ids of deleted leads that can be restored.
    pub fn deleted_lead_ids(&self) -> Vec<Uuid> {
        self.graveyard.keys().copied().collect()
    }

    /// Our application user.
    pub fn application_user(&self) -> Uuid {
        self.application_user
    }

    /// The organization.
    pub fn organization(&self) -> Uuid {
        self.organization
    }

    /// An administrator disables a user.
    pub fn disable(&mut self, user: Uuid) {
        if let Some(row) = self.tables.get_mut(&Table::User).and_then(|rows| rows.rows.get_mut(&user)) {
            row.set("isdisabled", true);
        }
    }

    /// The same rows in another organization: a copied or moved environment.
    pub fn move_to(&mut self, organization: Uuid) {
        self.organization = organization;
    }

    /// People who work with leads.
    pub fn sellers(&self) -> &[Uuid] {
        &self.sellers
    }

    /// The id of a currency by its code.
    pub fn currency(&self, code: &str) -> Option<Uuid> {
        let rows = &self.tables.get(&Table::Currency)?.rows;
        rows.iter().find(|(_, row)| row.get("isocurrencycode") == code).map(|(id, _)| *id)
    }

    /// The custom column that holds the referral id, when it exists.
    pub fn referral_column(&self) -> Option<&str> {
        self.referral_column.as_deref()
    }

    /// The index of the alternate key becomes another one.
    pub fn set_key_state(&mut self, state: KeyState) {
        self.key = state;
    }

    /// State of the alternate key.
    pub fn key_state(&self) -> KeyState {
        self.key
    }

    pub(crate) fn ghosts_of(&self, lead: Uuid) -> Vec<Uuid> {
        self.ghosts.get(&lead).cloned().unwrap_or_default()
    }

    /// Takes what happened since the last call.
    pub(crate) fn take_news(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.news)
    }

    /// An administrator removes a custom or optional column.
    pub fn remove_column(&mut self, table: Table, name: &str) {
        self.schema.entry(table).or_default().retain(|column| column.name != name);
    }

    /// An administrator removes an option of a choice.
    pub fn remove_option(&mut self, table: Table, name: &str, option: i32) {
        for column in self.schema.entry(table).or_default().iter_mut().filter(|column| column.name == name) {
            if let Kind::Choice(options) = &mut column.kind {
                options.retain(|(code, _)| *code != option);
            }
        }
    }

    /// An administrator makes a line of text shorter; what is stored stays.
    pub fn shorten(&mut self, table: Table, name: &str, length_max: u32) {
        for column in self.schema.entry(table).or_default().iter_mut().filter(|column| column.name == name) {
            if let Kind::Text(length) | Kind::Memo(length) = &mut column.kind {
                *length = length_max;
            }
        }
    }

    /// A row that our user may not read or write, or may again: somebody moved it to another business unit.
    pub fn set_out_of_reach(&mut self, id: Uuid, is_out: bool) {
        if is_out {
            self.out_of_reach.insert(id)
        } else {
            self.out_of_reach.remove(&id)
        };
    }

    /// Searches by subject, which has no index, time out in a large table, or are answered again (dataverse §6.3).
    pub fn time_out_searches(&mut self, is_so: bool) {
        self.times_out_searches = is_so;
    }

    /// A row that the service cannot print, or can again: whatever answer would show it is a fault, lists among them.
    pub fn set_unprintable(&mut self, id: Uuid, is_so: bool) {
        if is_so {
            self.unprintable.insert(id)
        } else {
            self.unprintable.remove(&id)
        };
    }

    pub(crate) fn hide(&mut self, lead: Uuid, until: Timestamp) {
        if let Some(row) = self.tables.get_mut(&Table::Lead).and_then(|rows| rows.rows.get_mut(&lead)) {
            row.hidden_until = Some(until);
        }
    }

    /// Saves a row again without a change: a new version and a new `modifiedon`.
    pub(crate) fn touch(&mut self, turn: &Turn<'_>, id: Uuid) {
        for table in [Table::Lead, Table::Opportunity] {
            if let Some(row) = self.row(table, id).cloned() {
                self.store(turn.now, table, id, row, self.system_user);
            }
        }
    }

    pub(crate) fn pass_time(&mut self, now: Timestamp) {
        if self.key != KeyState::Pending || self.key_active_at.is_none_or(|at| at > now) {
            return;
        }
        self.key = if self.has_duplicate_keys() { KeyState::Failed } else { KeyState::Active };
        let rows = self.tables.get(&Table::Lead).into_iter().flat_map(|rows| &rows.rows);
        self.key_index = rows.filter_map(|(id, row)| Some((self.key_of(row)?, *id))).collect();
    }

    fn has_duplicate_keys(&self) -> bool {
        let rows = self.tables.get(&Table::Lead);
        let mut seen = BTreeSet::new();
        rows.into_iter()
            .flat_map(|rows| rows.rows.values())
            .filter_map(|row| self.key_of(row))
            .any(|key| !seen.insert(key))
    }

    /// What the daily pool of requests was charged with on each day, oldest first (dataverse §6.2).
    pub fn operations_by_day(&self) -> Vec<u64> {
        self.protection.operations_by_day()
    }

    pub(crate) fn answer(&mut self, options: &CrmOptions, request: &Request, turn: &mut Turn<'_>) -> Answer {
        if let Some(answer) = self.protection.admit(&options.limits, request, turn.now) {
            turn.note.operation = Some("over the limit");
            return answer;
        }
        let mut answer = self.route(options, request, turn).unwrap_or_else(|answer| answer);
        if options.limits.takes_time {
            answer.delivery = Delivery::Slow(self.protection.last_charge());
        }
        self.protection.tell(&options.limits, answer)
    }

    pub(crate) fn route(
        &mut self,
        options: &CrmOptions,
        request: &Request,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Answer> {
        let Some(rest) = request.path.strip_prefix(ROOT) else {
            return Err(Answer::crm_error(404, "0x80060888", "Resource not found for the segment."));
        };
        // A plus in a path is a plus.
        let path = decode(&rest.replace('+', "%2B"));
        let (head, tail) = path.split_once('/').unwrap_or((&path, ""));
        let (set, key) = match head.split_once('(') {
            Some((set, key)) => (set, Some(key.strip_suffix(')').unwrap_or(key))),
            None => (head, None),
        };
        if let Some(code) = &options.user_refusal {
            return Err(Answer::crm_error(403, code, "The user is not a member of the organization, or is disabled."));
        }
        match (request.method.as_str(), set) {
            ("GET", "WhoAmI") => {
                turn.note.operation = Some("who am i");
                return Ok(self.who_am_i(options));
            }
            (_, "EntityDefinitions") => {
                turn.note.operation = Some("metadata");
                return self.metadata(options, request, key, tail, turn);
            }
            ("POST", "PublishXml" | "ReactivateEntityKey") => return Ok(self.maintain(options, set, turn)),
            ("POST", "$batch") => return self.batch(options, request, turn),
            ("POST", "WinOpportunity" | "LoseOpportunity" | "Merge") => {
                return self.unbound_action(options, set, request, turn);
            }
            _ => {}
        }
        let Some(table) = Table::of_set(set) else {
            let message = format!("Resource not found for the segment '{set}'.");
            return Err(Answer::crm_error(404, "0x80060888", &message));
        };
        roles::check(options, table, request.method.as_str())?;
        match (request.method.as_str(), key, tail) {
            ("GET", Some(_), "Microsoft.Dynamics.CRM.RetrieveUserPrivileges") if table == Table::User => {
                turn.note.operation = Some("privileges");
                roles::told(options)
            }
            ("GET", None, "") if delta::is_wanted(request) => self.changes(options, table, request, turn),
            ("GET", None, "") => self.list(options, table, request, turn),
            ("GET", None, "$count") => Ok(self.count(table, turn)),
            ("GET", Some(key), "") => self.read(options, table, key, request, turn),
            ("PATCH", Some(key), "") => self.patch(options, table, key, request, turn),
            ("POST", None, "") => self.post(options, table, request, turn),
            ("DELETE", Some(key), "") => self.remove(table, key, turn),
            ("POST", Some(key), "Microsoft.Dynamics.CRM.QualifyLead") if table == Table::Lead => {
                self.qualify_action(options, key, request, turn)
            }
            _ => Err(Answer::crm_error(405, "0x80060888", "The method is not supported here.")),
        }
    }

    fn who_am_i(&self, options: &CrmOptions) -> Answer {
        let body = json!({
            "@odata.context": format!("{}{ROOT}$metadata#Microsoft.Dynamics.CRM.WhoAmIResponse", options.url),
            "BusinessUnitId": self.business_unit,
            "UserId": self.application_user,
            "OrganizationId": self.organization,
        });
        Answer::json(200, body).with("x-ms-dop-hint", &options.parallelism_hint.to_string())
    }

    /// Finds the row that a URL names, by id or by alternate key.
    fn target(&self, table: Table, key: &str) -> Result<Target, Answer> {
        if let Ok(id) = Uuid::try_parse(key.trim_matches('\'')) {
            if self.out_of_reach.contains(&id) {
                let message = "Principal user is missing ReadAccess rights for this record";
                return Err(Answer::crm_error(403, "0x80048306", message));
            }
            return Ok(Target { id: Some(id), exists: self.row(table, id).is_some(), key: None });
        }
        let is_usable = |name: &str| {
            table == Table::Lead && self.referral_column.as_deref() == Some(name) && self.key == KeyState::Active
        };
        match key.split_once('=') {
            Some((name, value))
                if is_usable(name) && value.starts_with('\'') && value.ends_with('\'') && value.len() >= 2 =>
            {
                let value = value[1..value.len() - 1].replace("''", "'");
                let id = self.key_index.get(&value.trim_end().to_lowercase()).copied();
                Ok(Target { id, exists: id.is_some(), key: Some((name.to_owned(), value)) })
            }
            _ => {
                let message = format!(
                    "The key in the request URI is not valid for resource 'Microsoft.Dynamics.CRM.{}'. Ensure that the names and number of key properties match the declared or alternate key properties for the resource '{}'.",
                    table.name(),
                    table.name()
                );
                Err(Answer::crm_error(400, "0x80060888", &message))
            }
        }
    }

    fn missing(&self, table: Table, target: &Target) -> Answer {
        match (&target.key, target.id) {
            (Some(_), _) => {
                let message =
                    format!("A record with the specified key values does not exist in {} entity", table.name());
                Answer::crm_error(404, "0x80060891", &message)
            }
            (None, id) => no_such(table, id.unwrap_or_default()),
        }
    }

    fn announce_creation(&mut self, turn: &mut Turn<'_>, lead: Uuid, ghosts: Vec<Uuid>) {
        let is_revival = !ghosts.is_empty();
        let is_same_id = ghosts.contains(&lead);
        if is_revival {
            self.ghosts.insert(lead, ghosts);
        }
        let (at, by) = (turn.now, turn.by);
        turn.note.events.push(Event::LeadCreated { at, lead, by, is_revival, is_same_id, was_referenced: false });
    }
}

/// What is different in the second row; versions and stamps of changes apart.
fn difference(old: Option<&Row>, new: &Row) -> BTreeMap<String, Value> {
    const SKIPPED: [&str; 3] = ["versionnumber", "modifiedon", "_modifiedby_value"];
    let gone = old.into_iter().flat_map(|old| old.columns.keys()).filter(|name| !new.columns.contains_key(*name));
    let gone = gone.map(|name| (name.clone(), Value::Null)).collect::<Vec<_>>();
    let fresh = new.columns.iter().filter(|(name, value)| {
        !SKIPPED.contains(&name.as_str()) && old.is_none_or(|old| old.columns.get(*name) != Some(value))
    });
    fresh.map(|(name, value)| (name.clone(), value.clone())).chain(gone).collect()
}

/// What a URL names.
#[derive(Clone, Debug)]
struct Target {
    id: Option<Uuid>,
    exists: bool,
    /// Column and value of an alternate key.
    key: Option<(String, String)>,
}

/// 404 that names the table (dataverse §8 row 28).
fn no_such(table: Table, id: Uuid) -> Answer {
    Answer::crm_error(404, "0x80040217", &format!("{} With Id = {id} Does Not Exist", table.name()))
}

fn payload(message: &str) -> Answer {
    let message = format!(
        "Error identified in Payload provided by the user for Entity :'', For more information on this error please follow this help link https://go.microsoft.com/fwlink/?linkid=2195293  ---->  InnerException : {message}"
    );
    Answer::crm_error(400, "0x80048d19", &message)
}

fn body_of(request: &Request) -> Result<Map<String, Value>, Answer> {
    match request.json() {
        Some(Value::Object(map)) => Ok(map),
        _ => Err(payload("the body could not be read as a JSON object")),
    }
}
