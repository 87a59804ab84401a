//! What people do with leads beside editing columns: qualify, win, lose, merge, delete, restore (dataverse §2.4, §2.5).

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::super::clock::print_seconds;
use super::super::exchange::{Answer, Request};
use super::super::journal::Event;
use super::super::options::CrmOptions;
use super::super::world::Turn;
use super::{Dynamics, ROOT, Row, Table, body_of, no_such};

impl Dynamics {
    pub(super) fn qualify_action(
        &mut self,
        options: &CrmOptions,
        key: &str,
        request: &Request,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Answer> {
        turn.note.operation = Some("qualify lead");
        let target = self.target(Table::Lead, key)?;
        let Some(id) = target.id.filter(|_| target.exists) else { return Err(self.missing(Table::Lead, &target)) };
        let body = body_of(request)?;
        let wants = |name: &str| body.get(name).and_then(Value::as_bool);
        let (Some(account), Some(contact), Some(opportunity)) =
            (wants("CreateAccount"), wants("CreateContact"), wants("CreateOpportunity"))
        else {
            return Err(Answer::crm_error(
                400,
                "0x80048d19",
                "CreateAccount, CreateContact and CreateOpportunity are needed",
            ));
        };
        let made = self.qualify(turn, id, [account, contact, opportunity])?;
        turn.note.is_committed = true;
        let rows: Vec<Value> = made
            .iter()
            .map(|(table, id)| {
                let mut row = Map::new();
                row.insert("@odata.type".into(), format!("#Microsoft.Dynamics.CRM.{}", table.name()).into());
                row.insert(table.key().into(), id.to_string().into());
                Value::Object(row)
            })
            .collect();
        let context = format!("{}{ROOT}$metadata#Collection(Microsoft.Dynamics.CRM.crmbaseentity)", options.url);
        Ok(Answer::json(200, json!({"@odata.context": context, "value": rows})))
    }

    /// Qualifies an open lead; makes account, contact, opportunity as asked.
    pub(crate) fn qualify(
        &mut self,
        turn: &mut Turn<'_>,
        lead: Uuid,
        [account, contact, opportunity]: [bool; 3],
    ) -> Result<Vec<(Table, Uuid)>, Answer> {
        let Some(mut row) = self.row(Table::Lead, lead).cloned() else { return Err(no_such(Table::Lead, lead)) };
        if row.get("statecode") != 0 {
            return Err(Answer::crm_error(400, "0x80040519", "The lead is already closed."));
        }
        let mut made = Vec::new();
        if account {
            let id = turn.guid();
            self.place(turn, Table::Account, id, json!({"name": row.get("companyname")}));
            row.set("_parentaccountid_value", id.to_string());
            made.push((Table::Account, id));
        }
        if contact {
            let id = turn.guid();
            let names = json!({"firstname": row.get("firstname"), "lastname": row.get("lastname")});
            self.place(turn, Table::Contact, id, names);
            row.set("_parentcontactid_value", id.to_string());
            made.push((Table::Contact, id));
        }
        if opportunity {
            let id = turn.guid();
            // A custom column is not copied (dataverse §2.4).
            let columns = json!({
                "name": row.get("subject"), "estimatedvalue": row.get("estimatedamount"),
                "estimatedclosedate": row.get("estimatedclosedate"), "statecode": 0, "statuscode": 1,
                "_originatingleadid_value": lead, "_ownerid_value": row.get("_ownerid_value"),
                "_transactioncurrencyid_value": row.get("_transactioncurrencyid_value"),
            });
            self.place(turn, Table::Opportunity, id, columns);
            row.set("_qualifyingopportunityid_value", id.to_string());
            made.push((Table::Opportunity, id));
        }
        row.set("statecode", 1);
        row.set("statuscode", 3);
        let by = self.sellers[0];
        self.store(turn.now, Table::Lead, lead, row, by);
        Ok(made)
    }

    pub(super) fn unbound_action(
        &mut self,
        _options: &CrmOptions,
        action: &str,
        request: &Request,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Answer> {
        let body = body_of(request)?;
        if action == "Merge" {
            turn.note.operation = Some("merge");
            let id = |name: &str| body.get(name).and_then(|row| Uuid::try_parse(row["leadid"].as_str()?).ok());
            let (Some(target), Some(loser)) = (id("Target"), id("Subordinate")) else {
                return Err(Answer::crm_error(400, "0x80048d19", "Target and Subordinate are needed"));
            };
            self.merge(turn, target, loser)?;
        } else {
            turn.note.operation = Some("close opportunity");
            let is_won = action == "WinOpportunity";
            let close = body.get("OpportunityClose").cloned().unwrap_or_default();
            let bind = close["opportunityid@odata.bind"].as_str().unwrap_or_default();
            let id = bind.trim_end_matches(')').rsplit('(').next().and_then(|id| Uuid::try_parse(id).ok());
            let Some(id) = id else { return Err(Answer::crm_error(400, "0x80048d19", "an opportunity is needed")) };
            self.close_opportunity(turn, id, is_won, close.get("actualrevenue").cloned())?;
        }
        turn.note.is_committed = true;
        Ok(Answer::empty(204))
    }

    /// Wins or loses an open opportunity; the lead is not touched.
    pub(crate) fn close_opportunity(
        &mut self,
        turn: &mut Turn<'_>,
        id: Uuid,
        is_won: bool,
        revenue: Option<Value>,
    ) -> Result<(), Answer> {
        let Some(mut row) = self.row(Table::Opportunity, id).cloned() else {
            return Err(no_such(Table::Opportunity, id));
        };
        if row.get("statecode") != 0 {
            return Err(Answer::crm_error(400, "0x80040203", "The opportunity is already closed."));
        }
        row.set("statecode", if is_won { 1 } else { 2 });
        row.set("statuscode", if is_won { 3 } else { 4 });
        row.set("actualvalue", revenue.unwrap_or_else(|| row.get("estimatedvalue").clone()));
        row.set("actualclosedate", print_seconds(turn.now).get(..10).map(str::to_owned));
        let by = self.sellers[0];
        self.store(turn.now, Table::Opportunity, id, row, by);
        Ok(())
    }

    /// Merges two leads: the loser is closed, keeps its columns and points to its master (dataverse §2.5).
    pub(crate) fn merge(&mut self, turn: &mut Turn<'_>, target: Uuid, loser: Uuid) -> Result<(), Answer> {
        let Some(master) = self.row(Table::Lead, target).cloned() else { return Err(no_such(Table::Lead, target)) };
        let Some(mut row) = self.row(Table::Lead, loser).cloned() else { return Err(no_such(Table::Lead, loser)) };
        if target == loser || master.get("merged") == true || row.get("merged") == true {
            return Err(Answer::crm_error(400, "0x80040203", "these leads cannot be merged"));
        }
        row.set("merged", true);
        row.set("_masterid_value", target.to_string());
        row.set("statecode", 2);
        row.set("statuscode", 7);
        let by = self.sellers[0];
        self.store(turn.now, Table::Lead, loser, row, by);
        self.store(turn.now, Table::Lead, target, master, by);
        Ok(())
    }

    pub(super) fn remove(&mut self, table: Table, key: &str, turn: &mut Turn<'_>) -> Result<Answer, Answer> {
        turn.note.operation = Some("delete row");
        let target = self.target(table, key)?;
        let Some(id) = target.id.filter(|_| target.exists) else { return Err(self.missing(table, &target)) };
        self.delete(turn, table, id);
        turn.note.is_committed = true;
        Ok(Answer::empty(204))
    }

    /// Deletes a row; a lead goes to the recycle bin.
    pub(crate) fn delete(&mut self, turn: &mut Turn<'_>, table: Table, id: Uuid) {
        let Some(row) = self.tables.get_mut(&table).and_then(|rows| rows.rows.remove(&id)) else { return };
        if let Some(rows) = self.tables.get_mut(&table) {
            rows.modified.remove(&(row.modified, id));
        }
        if table == Table::Lead {
            self.unindex(&row);
            self.graveyard.insert(id, row);
            self.versions += 1;
            self.deletions.insert(id, self.versions);
            turn.note.events.push(Event::LeadDeleted { at: turn.now, lead: id });
        }
    }

    /// Takes a lead out of the recycle bin under its old id. `false` when it is not there or its place is taken.
    pub(crate) fn restore(&mut self, turn: &mut Turn<'_>, id: Uuid) -> bool {
        let Some(row) = self.graveyard.get(&id) else { return false };
        let is_taken = self.key_of(row).is_some_and(|key| self.key_index.contains_key(&key));
        if is_taken || self.row(Table::Lead, id).is_some() {
            return false;
        }
        let Some(row) = self.graveyard.remove(&id) else { return false };
        let by = self.sellers[0];
        self.store(turn.now, Table::Lead, id, Row { hidden_until: None, ..row }, by);
        turn.note.events.push(Event::LeadRestored { at: turn.now, lead: id });
        true
    }
}
