//! Creating and changing rows: upsert forms, conditional headers, column checks (dataverse §2.2, §2.3, §3).

use std::collections::BTreeMap;

use rust_decimal::RoundingStrategy;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::super::clock::print_seconds;
use super::super::exchange::{Answer, Request};
use super::super::journal::{Actor, Refusal};
use super::super::odata::number;
use super::super::options::{ClosedLeads, CrmOptions, KeyState, PlugIn};
use super::super::world::Turn;
use super::checks::guid;
use super::{Dynamics, Kind, ROOT, Row, Table, Target, body_of, no_such, payload};

/// Checked values by property.
pub(super) type Values = BTreeMap<String, Value>;

impl Dynamics {
    pub(super) fn patch(
        &mut self,
        options: &CrmOptions,
        table: Table,
        key: &str,
        request: &Request,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Answer> {
        turn.note.operation = Some(match table {
            Table::Lead => "patch lead",
            _ => "patch row",
        });
        let target = self.target(table, key)?;
        turn.note.subject = target.id;
        let mut body = body_of(request)?;
        turn.note.written = written(&body);
        if let Some(tag) = request.header("if-match") {
            if !target.exists {
                return Err(self.missing(table, &target));
            }
            let is_stale = target.id.and_then(|id| self.row(table, id)).is_some_and(|row| row.etag() != tag);
            if tag != "*" && is_stale {
                let message = "The version of the existing record doesn't match the RowVersion property provided.";
                return Err(Answer::crm_error(412, "0x80060882", message));
            }
        }
        if request.header("if-none-match") == Some("*") && target.exists {
            return Err(Answer::crm_error(412, "0x80040237", "A record with matching key values already exists."));
        }
        let (id, is_new) = match (target.id, target.exists) {
            (Some(id), true) => {
                if let Some((column, _)) = &target.key {
                    // The key columns of a found row are dropped (dataverse §3.1).
                    body.remove(column);
                }
                self.note_closed_lead(table, id, &body, turn);
                self.update(options, table, id, body, turn)?;
                (id, false)
            }
            (id, _) => (self.create(options, table, id, target.key.clone(), body, turn)?, true),
        };
        self.written(options, table, id, is_new, &target, request, turn)
    }

    pub(super) fn post(
        &mut self,
        options: &CrmOptions,
        table: Table,
        request: &Request,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Answer> {
        turn.note.operation = Some(match table {
            Table::Lead => "post lead",
            _ => "post row",
        });
        let mut body = body_of(request)?;
        turn.note.written = written(&body);
        let id = match body.remove(table.key()) {
            None => None,
            Some(value) => Some(guid(&value).ok_or_else(|| payload("the key is no GUID"))?),
        };
        if id.is_some_and(|id| self.row(table, id).is_some()) {
            return Err(Answer::crm_error(412, "0x80040237", "A record with matching key values already exists."));
        }
        let id = self.create(options, table, id, None, body, turn)?;
        let target = Target { id: Some(id), exists: false, key: None };
        self.written(options, table, id, true, &target, request, turn)
    }

    /// The answer to a write: 204, or the row when the client prefers it (dataverse §3.2).
    #[allow(clippy::too_many_arguments)] // One line of the status table each.
    fn written(
        &mut self,
        options: &CrmOptions,
        table: Table,
        id: Uuid,
        is_new: bool,
        target: &Target,
        request: &Request,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Answer> {
        turn.note.subject = Some(id);
        turn.note.is_committed = true;
        let select = request.parameter("$select");
        let answer = if request.prefers("return=representation") {
            let body = self.render(table, id, select.as_deref(), None, request)?;
            Answer::json(if is_new { 201 } else { 200 }, body).with("preference-applied", "return=representation")
        } else {
            Answer::empty(204)
        };
        // After an upsert by key the header holds the key, not the GUID (dataverse §3.2).
        let place = match &target.key {
            Some((name, value)) => format!("{}({name}='{value}')", table.set()),
            None => format!("{}({id})", table.set()),
        };
        for plug_in in &options.plug_ins {
            if *plug_in == PlugIn::Touches && table == Table::Lead {
                self.touch(turn, id);
            }
        }
        Ok(answer.with("odata-entityid", &format!("{}{ROOT}{place}", options.url)))
    }

    /// Creates a row; without an id the service chooses one.
    pub(crate) fn create(
        &mut self,
        options: &CrmOptions,
        table: Table,
        id: Option<Uuid>,
        key: Option<(String, String)>,
        mut body: Map<String, Value>,
        turn: &mut Turn<'_>,
    ) -> Result<Uuid, Answer> {
        let id = match id {
            Some(id) => id,
            None => turn.guid(),
        };
        if let Some((name, value)) = key {
            // The value of the body wins, even if it differs (dataverse §3.1).
            body.entry(name).or_insert(value.into());
        }
        body.remove("statecode");
        let mut values = self.checked(options, table, body, true)?;
        let mut row = Row::default();
        if table == Table::Lead || table == Table::Opportunity {
            let code = values.get("statuscode").and_then(Value::as_i64).unwrap_or(1);
            if self.state_of(table, code) != Some(0) {
                return Err(wrong_pair(code, 0));
            }
            row.set("statecode", 0);
            row.set("statuscode", code);
            values.remove("statuscode");
            let user = match turn.by {
                Actor::Client => self.application_user,
                Actor::Person => self.sellers[0],
                Actor::Service => self.system_user,
            };
            row.set("_ownerid_value", user.to_string());
            row.set("_createdby_value", user.to_string());
        }
        if table == Table::Lead {
            row.set("merged", false);
        }
        row.set(table.key(), id.to_string());
        row.set("createdon", print_seconds(turn.now));
        self.apply(table, &mut row, values)?;
        self.check_rules(options, table, &row)?;
        self.check_key(table, id, &row)?;
        let ghosts = self.ghosts(id, &row);
        let by = self.user_of(turn.by);
        self.store(turn.now, table, id, row, by);
        if table == Table::Lead {
            self.announce_creation(turn, id, ghosts);
            self.graveyard.remove(&id);
        }
        Ok(id)
    }

    /// Changes a row that exists.
    pub(crate) fn update(
        &mut self,
        options: &CrmOptions,
        table: Table,
        id: Uuid,
        mut body: Map<String, Value>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Answer> {
        let Some(old) = self.row(table, id).cloned() else { return Err(no_such(table, id)) };
        body.remove(table.key());
        let mut values = self.checked(options, table, body, false)?;
        let mut row = old.clone();
        if table == Table::Lead || table == Table::Opportunity {
            self.change_state(table, &mut row, &mut values, turn.by)?;
            let is_closed = row.get("statecode") != 0;
            let refuses = table == Table::Lead && options.closed_leads == ClosedLeads::Refuse;
            if is_closed && refuses && !values.is_empty() {
                let message = "The object cannot be updated because it is inactive.";
                return Err(Answer::crm_error(400, "0x80040230", message));
            }
        }
        self.apply(table, &mut row, values)?;
        self.check_rules(options, table, &row)?;
        self.check_key(table, id, &row)?;
        let by = self.user_of(turn.by);
        self.store(turn.now, table, id, row, by);
        Ok(())
    }

    fn user_of(&self, actor: Actor) -> Uuid {
        match actor {
            Actor::Client => self.application_user,
            Actor::Person => self.sellers[0],
            Actor::Service => self.system_user,
        }
    }

    fn note_closed_lead(&self, table: Table, id: Uuid, body: &Map<String, Value>, turn: &mut Turn<'_>) {
        let is_closed = self.row(table, id).is_some_and(|row| row.get("statecode") != 0);
        let has_data = body.keys().any(|name| name != "statecode" && name != "statuscode");
        if table == Table::Lead && is_closed && has_data && turn.by == Actor::Client {
            turn.note.refusal = Some(Refusal::ClosedLead);
        }
    }

    /// Deleted leads whose place this row takes.
    fn ghosts(&self, id: Uuid, row: &Row) -> Vec<Uuid> {
        let key = self.key_of(row);
        self.graveyard
            .iter()
            .filter(|(dead, old)| **dead == id || (key.is_some() && self.key_of(old) == key))
            .map(|(dead, _)| *dead)
            .collect()
    }

    fn check_key(&self, table: Table, id: Uuid, row: &Row) -> Result<(), Answer> {
        if table != Table::Lead || self.key != KeyState::Active {
            return Ok(());
        }
        match self.key_of(row).and_then(|key| self.key_index.get(&key)) {
            Some(other) if *other != id => {
                let message = "A record that has the attribute values of the key already exists.";
                Err(Answer::crm_error(412, "0x80060892", message))
            }
            _ => Ok(()),
        }
    }

    /// What customers added: required columns and plug-ins.
    fn check_rules(&self, options: &CrmOptions, table: Table, row: &Row) -> Result<(), Answer> {
        if table != Table::Lead {
            return Ok(());
        }
        if let Some(column) = &options.required_column
            && row.get(column).as_str().is_none_or(str::is_empty)
        {
            let message = format!("The required column '{column}' is missing.");
            return Err(Answer::crm_error(400, "0x80040203", &message));
        }
        let holds = |column: &str, word: &str| row.get(column).as_str().is_some_and(|text| text.contains(word));
        for plug_in in &options.plug_ins {
            match plug_in {
                PlugIn::Refuses { column, word } if holds(column, word) => {
                    return Err(Answer::crm_error(400, "0x80040265", "Our rules do not allow this lead."));
                }
                PlugIn::Crashes { column, word } if holds(column, word) => {
                    return Err(Answer::crm_error(500, "0x80040224", "An unexpected error occurred from ISV code."));
                }
                PlugIn::Refuses { .. } | PlugIn::Crashes { .. } | PlugIn::Touches => {}
            }
        }
        Ok(())
    }

    fn state_of(&self, table: Table, code: i64) -> Option<i64> {
        match &self.column(table, "statuscode")?.kind {
            Kind::Status(codes) => {
                codes.iter().find(|(one, _, _)| i64::from(*one) == code).map(|(_, state, _)| i64::from(*state))
            }
            _ => None,
        }
    }

    fn default_code(&self, table: Table, state: i64) -> Option<i64> {
        match &self.column(table, "statuscode")?.kind {
            Kind::Status(codes) => {
                codes.iter().find(|(_, of, _)| i64::from(*of) == state).map(|(code, _, _)| i64::from(*code))
            }
            _ => None,
        }
    }

    /// Applies statecode and statuscode by the rules of dataverse §2.3.
    fn change_state(&self, table: Table, row: &mut Row, values: &mut Values, by: Actor) -> Result<(), Answer> {
        let from = row.get("statecode").as_i64().unwrap_or(0);
        let state = values.remove("statecode").and_then(|value| value.as_i64());
        let code = values.remove("statuscode").and_then(|value| value.as_i64());
        let to = state.unwrap_or(from);
        let Some(default) = self.default_code(table, to) else {
            return Err(Answer::crm_error(400, "0x8004431a", "The state is not an option of this table."));
        };
        let code = match (code, state) {
            (Some(code), _) => code,
            (None, Some(_)) if to != from => default,
            (None, _) => return Ok(()),
        };
        if self.state_of(table, code) != Some(to) {
            return Err(wrong_pair(code, to));
        }
        if table == Table::Lead && from != 0 && to != 0 && from != to {
            return Err(Answer::crm_error(400, "0x8004f00e", "The state transition is not valid."));
        }
        if table == Table::Opportunity && from == 0 && to != 0 && by == Actor::Client {
            let message = "Use the WinOpportunityRequest or LoseOpportunityRequest message.";
            return Err(Answer::crm_error(400, "0x80040203", message));
        }
        row.set("statecode", to);
        row.set("statuscode", code);
        Ok(())
    }

    /// Puts checked values into a row and computes what follows from them.
    fn apply(&self, table: Table, row: &mut Row, values: Values) -> Result<(), Answer> {
        let has_money = values.keys().any(|name| self.is_money(table, name) && !values[name].is_null());
        for (property, value) in values {
            row.set(&property, value);
        }
        if has_money && row.id("_transactioncurrencyid_value").is_none() {
            // The base currency is assumed (dataverse §2.2: not verified).
            let base = self.row(Table::Organization, self.organization).and_then(|row| row.id("_basecurrencyid_value"));
            row.set("_transactioncurrencyid_value", base.map(|id| id.to_string()));
        }
        let currency = row.id("_transactioncurrencyid_value").and_then(|id| self.row(Table::Currency, id));
        let places = currency.and_then(|row| row.get("currencyprecision").as_u64()).unwrap_or(2);
        let money: Vec<String> =
            row.columns.keys().filter(|name| self.is_money(table, name) && !name.ends_with("_base")).cloned().collect();
        for name in money {
            let amount = match row.get(&name) {
                Value::Number(one) => number(one),
                _ => None,
            };
            let Some(amount) = amount else { continue };
            let places = u32::try_from(places).unwrap_or(2);
            let rounded = amount.round_dp_with_strategy(places, RoundingStrategy::MidpointAwayFromZero);
            let value: Value = serde_json::from_str(&rounded.to_string()).map_err(|_| payload("not a number"))?;
            if self.column(table, &format!("{name}_base")).is_some() {
                row.set(&format!("{name}_base"), value.clone());
            }
            row.set(&name, value);
        }
        if table == Table::Lead {
            let name = joined(row, &["firstname", "middlename", "lastname"], " ");
            row.set("fullname", name);
            let parts = [
                "address1_line1",
                "address1_line2",
                "address1_line3",
                "address1_city",
                "address1_stateorprovince",
                "address1_postalcode",
                "address1_country",
            ];
            let address = joined(row, &parts, "\r\n");
            row.set("address1_composite", address);
        }
        Ok(())
    }

    fn is_money(&self, table: Table, property: &str) -> bool {
        self.column(table, property).is_some_and(|column| matches!(column.kind, Kind::Money(_)))
    }
}

fn joined(row: &Row, names: &[&str], between: &str) -> Option<String> {
    let parts: Vec<&str> = names.iter().filter_map(|name| row.get(name).as_str()).collect();
    (!parts.is_empty()).then(|| parts.join(between))
}

/// The columns a body names, lookups by their logical name.
fn written(body: &Map<String, Value>) -> Vec<String> {
    let names = body.keys().filter(|name| !name.starts_with('@'));
    names.map(|name| name.strip_suffix("@odata.bind").unwrap_or(name).to_owned()).collect()
}

fn wrong_pair(code: i64, state: i64) -> Answer {
    let message = format!("{code} is not a valid status code for state code {state}.");
    Answer::crm_error(400, "0x80048408", &message)
}
