//! An independent judge of a world's history. It shares no code with the planner and knows only the promises.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::dynamics::Table;
use super::exchange::Service;
use super::journal::{Actor, Event, Refusal};
use super::world::World;

/// Namespace of computed lead ids (the product's constant).
const NAMESPACE: Uuid = Uuid::from_u128(0x85bd_8765_40f0_51b4_a713_1aab_ed04_9d80);
/// Lead columns of the usual mapping, and what goes with them.
const COLUMNS: [&str; 36] = [
    "subject",
    "companyname",
    "firstname",
    "middlename",
    "lastname",
    "salutation",
    "jobtitle",
    "emailaddress1",
    "emailaddress2",
    "telephone1",
    "telephone2",
    "mobilephone",
    "websiteurl",
    "address1_name",
    "address1_line1",
    "address1_line2",
    "address1_line3",
    "address1_city",
    "address1_stateorprovince",
    "address1_postalcode",
    "address1_county",
    "address1_country",
    "estimatedamount",
    "transactioncurrencyid",
    "estimatedclosedate",
    "numberofemployees",
    "industrycode",
    "leadsourcecode",
    "leadqualitycode",
    "description",
    "ownerid",
    "campaignid",
    "statecode",
    "statuscode",
    "donotemail",
    "donotphone",
];
/// Referral paths that may be written.
const PATHS: [&str; 8] = [
    "/status",
    "/substatus",
    "/statusReason",
    "/externalReferenceId",
    "/details/dealValue",
    "/details/currency",
    "/details/closingDateTime",
    "/details/notes",
];

/// What the judge has to know about the configuration of the program under test.
#[derive(Clone, Debug)]
pub struct Checker {
    /// Namespace of computed lead ids.
    pub namespace: Uuid,
    /// Lead columns that may be written; the referral id column is allowed besides.
    pub columns: BTreeSet<String>,
    /// Referral paths that may be written.
    pub paths: BTreeSet<String>,
    /// `on_lead_deleted = "recreate"`: deleted leads may come back.
    pub may_recreate: bool,
    /// Leads whose id was not computed are unknown to a daemon that lost its ledger: their referral names a lead that
    /// may never have been one of ours, so it gets a lead of its own (spec 2, "Deleted leads").
    pub may_forget_foreign: bool,
    /// A request this soon after the answer that closed a service was sent before the client could read it.
    pub window_grace: Duration,
}

impl Default for Checker {
    fn default() -> Self {
        Checker {
            namespace: NAMESPACE,
            columns: COLUMNS.into_iter().map(str::to_owned).collect(),
            paths: PATHS.into_iter().map(str::to_owned).collect(),
            may_recreate: false,
            may_forget_foreign: false,
            window_grace: Duration::ZERO,
        }
    }
}

impl Checker {
    /// Every broken promise, as a sentence; empty when all is well.
    pub fn check(&self, world: &World) -> Vec<String> {
        let mut found = self.duplicates(world);
        found.extend(self.journal(world));
        found.extend(self.events(world));
        found
    }

    /// P1: one lead per referral, one referral per lead.
    fn duplicates(&self, world: &World) -> Vec<String> {
        let mut leads_of: BTreeMap<String, BTreeSet<Uuid>> = BTreeMap::new();
        let mut referrals_of: BTreeMap<Uuid, BTreeSet<String>> = BTreeMap::new();
        let mut link = |referral: &str, lead: Uuid| {
            leads_of.entry(referral.to_owned()).or_default().insert(lead);
            referrals_of.entry(lead).or_default().insert(referral.to_owned());
        };
        let leads: BTreeMap<Uuid, _> = world.crm.all(Table::Lead).into_iter().collect();
        for (id, _) in world.portal.all() {
            let computed = Uuid::new_v5(&self.namespace, id.to_string().as_bytes());
            if leads.get(&computed).is_some_and(|lead| !is_merged(lead)) {
                link(&id.to_string(), computed);
            }
        }
        for (id, lead) in leads.iter().filter(|(_, lead)| !is_merged(lead)) {
            let column = world.crm.referral_column().and_then(|name| lead.get(name)).and_then(Value::as_str);
            let named = column.map(|text| text.trim().to_lowercase()).filter(|text| Uuid::try_parse(text).is_ok());
            if let Some(referral) = named {
                link(&referral, *id);
            }
        }
        let mut found = Vec::new();
        for (referral, leads) in leads_of.iter().filter(|(_, leads)| leads.len() > 1) {
            found.push(format!("referral {referral} has {} leads: {leads:?}", leads.len()));
        }
        for (lead, referrals) in referrals_of.iter().filter(|(_, referrals)| referrals.len() > 1) {
            found.push(format!("lead {lead} speaks for {} referrals: {referrals:?}", referrals.len()));
        }
        found
    }

    /// P5, P6, P10 by what was asked.
    fn journal(&self, world: &World) -> Vec<String> {
        let mut found = Vec::new();
        for record in world.journal.records() {
            let what = format!("{} {} at {}", record.operation, record.subject.unwrap_or_default(), record.at);
            if record.inside_window.is_some_and(|age| age > self.window_grace) {
                found.push(format!("{what} was sent inside a Retry-After window"));
            }
            match record.refusal {
                Some(Refusal::ClosedReferral) => found.push(format!("{what} wrote to a closed referral")),
                Some(Refusal::IllegalTransition) => found.push(format!("{what} asked for a step that does not exist")),
                Some(Refusal::ForbiddenPath) => found.push(format!("{what} named a path that is not allowed")),
                Some(Refusal::ClosedLead) => found.push(format!("{what} wrote to a closed lead")),
                None => {}
            }
            if record.method != "PATCH" && record.method != "POST" {
                continue;
            }
            for name in &record.written {
                let is_allowed = match record.service {
                    Service::Portal => self.paths.contains(name),
                    Service::Crm if record.operation == "patch lead" || record.operation == "post lead" => {
                        self.columns.contains(name) || world.crm.referral_column() == Some(name)
                    }
                    Service::Crm | Service::Authority => true,
                };
                if !is_allowed {
                    found.push(format!("{what} wrote {name}, which is not ours"));
                }
            }
        }
        found
    }

    /// P5 and deleted leads, by what happened.
    fn events(&self, world: &World) -> Vec<String> {
        let mut found = Vec::new();
        for event in world.journal.events() {
            match event {
                Event::ReferralMoved { at, referral, from, to, by: Actor::Client } => {
                    if !is_step(&from.0, &to.0) || to.1 == "Expired" {
                        found.push(format!(
                            "referral {referral} went from {} / {} to {} / {} at {at}",
                            from.0, from.1, to.0, to.1
                        ));
                    }
                }
                Event::LeadCreated {
                    at,
                    lead,
                    by: Actor::Client,
                    is_revival: true,
                    was_referenced: true,
                    is_same_id,
                } if !self.may_recreate && (*is_same_id || !self.may_forget_foreign) => {
                    found.push(format!("deleted lead came back as {lead} at {at}"));
                }
                Event::ReferralMoved { .. }
                | Event::LeadCreated { .. }
                | Event::LeadDeleted { .. }
                | Event::ReferralSaved { .. }
                | Event::RowSaved { .. }
                | Event::Hidden { .. }
                | Event::LeadRestored { .. } => {}
            }
        }
        found
    }
}

fn is_merged(lead: &BTreeMap<String, Value>) -> bool {
    lead.get("merged") == Some(&Value::Bool(true))
}

/// The transition table (partner-center §1.7).
fn is_step(from: &str, to: &str) -> bool {
    matches!((from, to), ("New", "New" | "Active" | "Closed") | ("Active", "Active" | "Closed"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::exchange::Request;
    use super::super::faults::Class;
    use super::super::{Options, SimClock};
    use super::*;
    use crate::model::Timestamp;

    fn world() -> World {
        World::new(5, SimClock::paused(Timestamp::from_seconds(1_795_000_000)), Options::default())
    }

    fn only(world: &World, part: &str) {
        let found = Checker::default().check(world);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(part), "{found:?}");
    }

    #[test]
    fn a_world_that_only_people_touched_is_in_order() {
        let mut world = world();
        world.populate(1, 30);
        assert_eq!(Checker::default().check(&world), Vec::<String>::new());
    }

    #[test]
    fn two_leads_of_one_referral_are_found() {
        let mut world = world();
        let referral = world.add_referral(json!({}));
        let computed = Uuid::new_v5(&NAMESPACE, referral.to_string().as_bytes());
        for (place, column) in
            [(format!("leads({computed})"), json!({})), ("leads".into(), json!({"new_referralid": referral}))]
        {
            let method = if place == "leads" { "POST" } else { "PATCH" };
            let request = Request::trusted(method, &format!("/api/data/v9.2/{place}")).with_json(&column);
            assert_eq!(world.ask(Service::Crm, &request).status, 204);
        }
        only(&world, "has 2 leads");
    }

    #[test]
    fn writes_to_closed_referrals_foreign_columns_and_closed_windows_are_found() {
        let mut world_one = world();
        let id = world_one.add_referral(json!({"status": "Closed", "substatus": "Won"}));
        let patch = json!([{"op": "replace", "path": "/statusReason", "value": "x"}]);
        let request = Request::trusted("PATCH", &format!("/v1.0/engagements/referrals/{id}")).with_json(&patch);
        assert_eq!(world_one.ask(Service::Portal, &request).status, 400);
        only(&world_one, "closed referral");

        let mut world_two = world();
        let lead = world_two.add_lead(json!({"subject": "s"})).expect("a lead");
        let request =
            Request::trusted("PATCH", &format!("/api/data/v9.2/leads({lead})")).with_json(&json!({"revenue": 5}));
        assert_eq!(world_two.ask(Service::Crm, &request).status, 204);
        only(&world_two, "revenue");

        let mut world_three = world();
        world_three.faults.play_next(Class::Throttle);
        let request = Request::trusted("GET", "/api/data/v9.2/WhoAmI");
        assert_eq!(world_three.ask(Service::Crm, &request).status, 429);
        world_three.clock().advance(Duration::from_millis(500));
        assert_eq!(world_three.ask(Service::Crm, &request).status, 429);
        only(&world_three, "Retry-After");
    }

    #[test]
    fn a_deleted_lead_that_comes_back_is_found_unless_it_was_never_written_back() {
        for (is_written_back, expected) in [(true, 1), (false, 0)] {
            let mut world = world();
            let lead = world.add_lead(json!({"subject": "s"})).expect("a lead");
            world.add_referral(json!({"externalReferenceId": if is_written_back { Some(lead) } else { None }}));
            world.delete_lead(lead);
            let request =
                Request::trusted("PATCH", &format!("/api/data/v9.2/leads({lead})")).with_json(&json!({"subject": "t"}));
            assert_eq!(world.ask(Service::Crm, &request).status, 204);
            let found = Checker::default().check(&world);
            assert_eq!(found.len(), expected, "{found:?}");
        }
    }
}
