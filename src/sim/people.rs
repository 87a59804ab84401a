//! People: customers, Microsoft and sellers, who do what they like between two requests.

use std::fmt;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::customers;
use super::dynamics::Table;
use super::exchange::Answer;
use super::journal::Actor;
use super::world::World;

/// Tries to find an edit that is possible before a customer just sends a new referral.
const TRIES_MAX: usize = 20;

/// What a person did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// In words.
    pub what: &'static str,
    /// The row it was done to.
    pub subject: Uuid,
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.what, self.subject)
    }
}

impl World {
    /// Adds a referral. Members that the document lacks get their usual values; an `id` and `createdDateTime` are kept.
    pub fn add_referral(&mut self, document: Value) -> Uuid {
        let days = self.options.portal.expiry_days;
        self.act(Actor::Person, |world, turn| world.portal.insert(turn, days, document))
    }

    /// Changes a referral in any way; version and stamps follow. `false` when it does not exist.
    pub fn edit_referral(&mut self, id: Uuid, change: impl FnOnce(&mut Value)) -> bool {
        self.act(Actor::Person, |world, turn| world.portal.edit(turn, id, change))
    }

    /// Creates a lead as a seller would.
    ///
    /// # Errors
    /// The service's refusal.
    pub fn add_lead(&mut self, columns: Value) -> Result<Uuid, Answer> {
        self.act(Actor::Person, |world, turn| {
            world.crm.create(&world.options.crm, Table::Lead, None, None, map(columns), turn)
        })
    }

    /// Changes columns of a lead or an opportunity as a seller would.
    ///
    /// # Errors
    /// The service's refusal.
    pub fn edit_row(&mut self, table: Table, id: Uuid, columns: Value) -> Result<(), Answer> {
        self.act(Actor::Person, |world, turn| world.crm.update(&world.options.crm, table, id, map(columns), turn))
    }

    /// Qualifies an open lead, with or without an opportunity; gives the opportunity.
    ///
    /// # Errors
    /// The service's refusal.
    pub fn qualify_lead(&mut self, lead: Uuid, with_opportunity: bool) -> Result<Option<Uuid>, Answer> {
        let made =
            self.act(Actor::Person, |world, turn| world.crm.qualify(turn, lead, [true, true, with_opportunity]))?;
        Ok(made.into_iter().find(|(table, _)| *table == Table::Opportunity).map(|(_, id)| id))
    }

    /// Wins or loses an open opportunity.
    ///
    /// # Errors
    /// The service's refusal.
    pub fn close_opportunity(&mut self, id: Uuid, is_won: bool) -> Result<(), Answer> {
        self.act(Actor::Person, |world, turn| world.crm.close_opportunity(turn, id, is_won, None))
    }

    /// Merges `loser` into `target`.
    ///
    /// # Errors
    /// The service's refusal.
    pub fn merge_leads(&mut self, target: Uuid, loser: Uuid) -> Result<(), Answer> {
        self.act(Actor::Person, |world, turn| world.crm.merge(turn, target, loser))
    }

    /// Deletes a lead; it goes to the recycle bin.
    pub fn delete_lead(&mut self, lead: Uuid) {
        self.act(Actor::Person, |world, turn| world.crm.delete(turn, Table::Lead, lead));
    }

    /// Takes a lead out of the recycle bin. `false` when that is not possible.
    pub fn restore_lead(&mut self, lead: Uuid) -> bool {
        self.act(Actor::Person, |world, turn| world.crm.restore(turn, lead))
    }

    /// Sends `count` referrals of varied shape, and the counterparts that some of them have.
    pub fn populate(&mut self, seed: u64, count: usize) -> Vec<Uuid> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| self.send_referral(&mut rng)).collect()
    }

    /// Lets one person do one thing.
    pub fn random_edit(&mut self, rng: &mut ChaCha8Rng) -> Edit {
        let edit = (0..TRIES_MAX).find_map(|_| match rng.random_range(0..10) {
            0 => Some(Edit { what: "a customer sent", subject: self.send_referral(rng) }),
            1..=3 => self.edit_some_referral(rng),
            4..=6 => self.edit_some_lead(rng),
            _ => self.move_some_lead(rng),
        });
        edit.unwrap_or_else(|| Edit { what: "a customer sent", subject: self.send_referral(rng) })
    }

    fn send_referral(&mut self, rng: &mut ChaCha8Rng) -> Uuid {
        let organization = self.portal.organization();
        let document = customers::referral(rng, organization);
        let is_shared = document["type"] == "Shared";
        let id = self.add_referral(document);
        if is_shared && rng.random_bool(0.3) {
            // Microsoft's own copy of the same deal.
            let mut copy = self.portal.get(id).cloned().unwrap_or_default();
            if let Value::Object(map) = &mut copy {
                map.remove("id");
                map.remove("eTag");
            }
            copy["organizationId"] = "msft".into();
            copy["organizationName"] = "Microsoft".into();
            copy["externalReferenceId"] = Value::Null;
            self.add_referral(copy);
        }
        id
    }

    /// A customer or Microsoft changes a referral.
    fn edit_some_referral(&mut self, rng: &mut ChaCha8Rng) -> Option<Edit> {
        let ids: Vec<Uuid> =
            self.portal.all().filter(|(_, document)| document["status"] != "Closed").map(|(id, _)| id).collect();
        let id = pick(&ids, rng)?;
        let is_new = self.portal.get(id)?["status"] == "New";
        let choice = rng.random_range(0..9);
        let company = customers::company(rng);
        let person = customers::contact(rng, 500);
        let amount = rng.random_range(1..1_000_000_i64);
        let day = rng.random_range(1..=28);
        let what = match choice {
            0 => "the customer's name changed on",
            1 => "the amount changed on",
            2 => "the closing date changed on",
            3 => "a contact changed on",
            4 => "the notes changed on",
            5 => "the portal's star changed on",
            6 => "the consent changed on",
            7 if is_new => "somebody accepted in the portal",
            7 => "somebody closed as lost in the portal",
            _ => "somebody closed in the portal",
        };
        if choice == 8 && rng.random_bool(0.7) {
            return None;
        }
        self.edit_referral(id, |document| match choice {
            0 => document["customerProfile"]["name"] = company.into(),
            1 => document["details"]["dealValue"] = amount.into(),
            2 => document["details"]["closingDateTime"] = format!("2027-06-{day:02}T00:00:00Z").into(),
            3 => document["customerProfile"]["team"] = json!([person]),
            4 => document["details"]["notes"] = format!("Note {amount}").into(),
            5 => document["favorite"] = (amount % 2 == 0).into(),
            6 => document["consent"]["consentToContact"] = (amount % 2 == 0).into(),
            7 if is_new => {
                document["status"] = "Active".into();
                document["substatus"] = "Accepted".into();
            }
            _ => {
                document["status"] = "Closed".into();
                document["substatus"] = if is_new { "Declined" } else { "Lost" }.into();
                document["statusReason"] = "closed by hand".into();
            }
        });
        Some(Edit { what, subject: id })
    }

    /// A seller edits columns of an open lead.
    fn edit_some_lead(&mut self, rng: &mut ChaCha8Rng) -> Option<Edit> {
        let lead = pick(&self.leads_in(&[0]), rng)?;
        let code = ["USD", "EUR", "KRW"][rng.random_range(0..3)];
        let currency = self.crm.currency(code)?;
        let (what, columns) = match rng.random_range(0..8) {
            0 => ("a seller renamed the company of", json!({"companyname": customers::company(rng)})),
            1 => (
                "a seller changed the contact of",
                json!({"firstname": "Eve", "lastname": format!("Sales{}", rng.random_range(0..99))}),
            ),
            2 => (
                "a seller changed the amount of",
                json!({"estimatedamount": rng.random_range(1..500_000), "transactioncurrencyid@odata.bind": format!("/transactioncurrencies({currency})")}),
            ),
            3 => (
                "a seller changed the date of",
                json!({"estimatedclosedate": format!("2027-09-{:02}", rng.random_range(1..=28))}),
            ),
            4 => ("a seller contacted", json!({"statuscode": 2})),
            5 => (
                "a seller changed the phone of",
                json!({"telephone1": format!("+4930{}", rng.random_range(10_000..99_999))}),
            ),
            6 => ("a seller cleared the e-mail of", json!({"emailaddress1": null})),
            _ => {
                let seller = self.crm.sellers()[rng.random_range(0..self.crm.sellers().len())];
                ("a seller handed over", json!({"ownerid@odata.bind": format!("/systemusers({seller})")}))
            }
        };
        self.edit_row(Table::Lead, lead, columns).ok().map(|()| Edit { what, subject: lead })
    }

    /// A seller moves a lead or its opportunity along.
    fn move_some_lead(&mut self, rng: &mut ChaCha8Rng) -> Option<Edit> {
        let choice = rng.random_range(0..20);
        match choice {
            0..=3 => {
                let lead = pick(&self.leads_in(&[0]), rng)?;
                self.qualify_lead(lead, rng.random_bool(0.8)).ok()?;
                Some(Edit { what: "a seller qualified", subject: lead })
            }
            4..=6 => {
                let lead = pick(&self.leads_in(&[0]), rng)?;
                let code = rng.random_range(4..=7);
                self.edit_row(Table::Lead, lead, json!({"statecode": 2, "statuscode": code})).ok()?;
                Some(Edit { what: "a seller disqualified", subject: lead })
            }
            7..=8 => {
                let lead = pick(&self.leads_in(&[1, 2]), rng)?;
                self.edit_row(Table::Lead, lead, json!({"statecode": 0, "statuscode": 1})).ok()?;
                Some(Edit { what: "a seller reopened", subject: lead })
            }
            9..=12 => {
                let opportunity = pick(&self.opportunities_in(0), rng)?;
                let is_won = rng.random_bool(0.5);
                self.close_opportunity(opportunity, is_won).ok()?;
                Some(Edit { what: if is_won { "a seller won" } else { "a seller lost" }, subject: opportunity })
            }
            13 => {
                let opportunity = pick(&self.opportunities_in(2), rng)?;
                self.edit_row(Table::Opportunity, opportunity, json!({"statecode": 0, "statuscode": 1})).ok()?;
                Some(Edit { what: "a seller reopened the opportunity", subject: opportunity })
            }
            14..=15 => {
                let opportunity = pick(&self.opportunities_in(0), rng)?;
                let value = rng.random_range(1..900_000);
                self.edit_row(Table::Opportunity, opportunity, json!({"estimatedvalue": value})).ok()?;
                Some(Edit { what: "a seller changed the value of the opportunity", subject: opportunity })
            }
            16 => {
                let lead = pick(&self.leads_in(&[0, 2]), rng)?;
                self.delete_lead(lead);
                Some(Edit { what: "a seller deleted", subject: lead })
            }
            17 => {
                let lead = pick(&self.crm.deleted_lead_ids(), rng)?;
                self.restore_lead(lead).then_some(Edit { what: "a seller restored", subject: lead })
            }
            18 => {
                let open = self.leads_in(&[0]);
                let (target, loser) = (pick(&open, rng)?, pick(&open, rng)?);
                self.merge_leads(target, loser).ok()?;
                Some(Edit { what: "a seller merged away", subject: loser })
            }
            _ => {
                let columns =
                    json!({"subject": "Walk-in", "lastname": "Visitor", "companyname": customers::company(rng)});
                self.add_lead(columns).ok().map(|lead| Edit { what: "a seller created", subject: lead })
            }
        }
    }

    /// Leads in one of these states that were not merged away.
    fn leads_in(&self, states: &[i64]) -> Vec<Uuid> {
        let mut ids = self.crm.lead_ids();
        ids.retain(|id| {
            let state = self.crm.value(Table::Lead, *id, "statecode").as_i64();
            states.iter().any(|one| state == Some(*one))
                && *self.crm.value(Table::Lead, *id, "merged") != Value::Bool(true)
        });
        ids
    }

    fn opportunities_in(&self, state: i64) -> Vec<Uuid> {
        let mut ids = self.crm.ids(Table::Opportunity);
        ids.retain(|id| self.crm.value(Table::Opportunity, *id, "statecode").as_i64() == Some(state));
        ids
    }
}

fn pick(ids: &[Uuid], rng: &mut ChaCha8Rng) -> Option<Uuid> {
    (!ids.is_empty()).then(|| ids[rng.random_range(0..ids.len())])
}

fn map(columns: Value) -> Map<String, Value> {
    match columns {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Options, SimClock, World};
    use super::*;
    use crate::model::Timestamp;

    fn history(seed: u64) -> (World, Vec<String>) {
        let clock = SimClock::paused(Timestamp::from_seconds(1_795_000_000));
        let mut world = World::new(seed, clock, Options::default());
        world.populate(seed, 40);
        for number in 0..20 {
            world.add_lead(json!({"subject": format!("Lead {number}"), "lastname": "Doe"})).expect("a lead");
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let edits = (0..400).map(|_| {
            world.clock().advance(std::time::Duration::from_secs(97));
            world.random_edit(&mut rng).what.to_owned()
        });
        let edits = edits.collect();
        (world, edits)
    }

    #[test]
    fn the_same_seed_makes_the_same_history() {
        let (one, edits_one) = history(7);
        let (two, edits_two) = history(7);
        assert_eq!(edits_one, edits_two);
        let print = |world: &World| {
            let rows: Vec<Value> = world.portal.all().map(|(_, document)| document.clone()).collect();
            (json!(rows).to_string(), json!(world.crm.all(Table::Lead)).to_string())
        };
        assert_eq!(print(&one), print(&two));
        let (three, _) = history(8);
        assert_ne!(print(&one), print(&three));
    }

    #[test]
    fn people_do_everything_they_can() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..4 {
            seen.extend(history(seed).1);
        }
        for what in [
            "a seller qualified",
            "a seller won",
            "a seller merged away",
            "a seller restored",
            "a customer sent",
            "the amount changed on",
        ] {
            assert!(seen.contains(what), "{what} is missing in {seen:?}");
        }
    }
}
