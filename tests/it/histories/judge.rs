//! Whether both sides agree when all is calm: every difference must have a name. It knows the worlds, not the planner.

use std::collections::BTreeSet;
use std::str::FromStr;

use referrald::cycle::{OLD_OUTCOMES, VANISHED_BRAKE};
use referrald::model::{Entry, LeadId, ReferralId, Standing};
use referrald::plan::HOLD_NAMES;
use referrald::ports::StateStore;
use referrald::sim::World;
use referrald::sim::dynamics::Table;
use rust_decimal::Decimal;
use serde_json::Value;
use uuid::Uuid;

use super::life::is_irreversible;

/// Every difference without a name, as a sentence.
pub fn agreement(world: &World, store: &dyn StateStore, edited_companies: Option<&BTreeSet<Uuid>>) -> Vec<String> {
    let mut found = Vec::new();
    for (id, document) in world.portal.all() {
        let referral = ReferralId::new(id);
        let entry = store.get(referral).unwrap();
        let pair = Pair { world, document, entry: entry.as_ref(), edited_companies };
        for text in pair.differences(store, referral) {
            let holds = entry.as_ref().map(names);
            let (status, substatus) = (&document["status"], &document["substatus"]);
            found.push(format!(
                "referral {id} ({status} / {substatus}): {text} [{holds:?} {} {} {entry:?}]",
                document["eTag"], document["updatedDateTime"]
            ));
        }
    }
    found
}

/// P7: what nobody looked after has recovered by itself; only irreversible writes may wait for a person, and leads that
/// were really deleted, so many at once that somebody has to look.
pub fn recovery(world: &World, store: &dyn StateStore) -> Vec<String> {
    let brakes = store.decisions().unwrap().brakes;
    let deleted = world.portal.all().filter(|(id, _)| is_vanished(world, store, ReferralId::new(*id))).count() as u64;
    let may_wait = |name: &str, count: u64| {
        is_irreversible(name) || name == OLD_OUTCOMES || (name == VANISHED_BRAKE && count <= deleted)
    };
    let latched = brakes.iter().filter(|(name, brake)| !may_wait(name, brake.count));
    let mut found: Vec<String> =
        latched.map(|(name, brake)| format!("P7: the brake {name} waits for a person: {}", brake.reason)).collect();
    let counters = store.counters().unwrap();
    found.extend(counters.dead_letters.iter().map(|(cause, count)| format!("P7: {count} dead letters: {cause}")));
    found
}

/// The linked lead of a referral does not exist, nor the one it was merged into, and the hold says so.
fn is_vanished(world: &World, store: &dyn StateStore, referral: ReferralId) -> bool {
    let Some(entry) = store.get(referral).unwrap().filter(|entry| names(entry).contains(&"lead vanished")) else {
        return false;
    };
    let mut seen = BTreeSet::new();
    let mut lead = entry.link.map(|link| link.lead.uuid());
    while let Some(id) = lead.filter(|id| seen.insert(*id)) {
        let value = |column| world.crm.value(Table::Lead, id, column);
        match (value("statecode").is_null(), value("merged") == &Value::Bool(true)) {
            (true, _) => return true,
            (false, true) => lead = value("_masterid_value").as_str().and_then(|text| Uuid::from_str(text).ok()),
            (false, false) => return false,
        }
    }
    false
}

/// The names of the holds of an entry.
fn names(entry: &Entry) -> Vec<&'static str> {
    HOLD_NAMES.iter().enumerate().filter(|(bit, _)| entry.holds & (1 << bit) != 0).map(|(_, name)| *name).collect()
}

/// A brake waits for a person.
fn is_latched(store: &dyn StateStore, brake: &str) -> bool {
    store.decisions().unwrap().brakes.contains_key(brake)
}

struct Pair<'a> {
    world: &'a World,
    document: &'a Value,
    entry: Option<&'a Entry>,
    edited_companies: Option<&'a BTreeSet<Uuid>>,
}

impl Pair<'_> {
    fn differences(&self, store: &dyn StateStore, referral: ReferralId) -> Vec<String> {
        if !self.is_in_scope() {
            return Vec::new();
        }
        let Some(entry) = self.entry else { return vec!["is not known".to_owned()] };
        let is_closed = self.document["status"] == "Closed";
        let lead = entry.link.as_ref().map(|link| link.lead.uuid());
        let exists = lead.is_some_and(|lead| !self.lead(lead, "statecode").is_null());
        match entry.standing {
            Standing::Pending if entry.holds == 0 => vec!["waits without a hold".to_owned()],
            Standing::Pending => Vec::new(),
            Standing::OutOfScope => vec!["is in scope and was left out".to_owned()],
            Standing::ClosedUnlinked if !is_closed => vec!["is open and counts as closed".to_owned()],
            Standing::LeadGone if exists && !self.is_merged(lead) => {
                vec!["its lead is back and is not linked".to_owned()]
            }
            Standing::LeadTaken if entry.holds == 0 => vec!["its lead is taken, without a hold".to_owned()],
            Standing::ClosedUnlinked | Standing::LeadGone | Standing::LeadTaken => Vec::new(),
            Standing::Linked => match lead {
                None => vec!["is linked to nothing".to_owned()],
                // A closed referral is over, whatever becomes of its lead.
                Some(_) if is_closed => Vec::new(),
                // So many vanished that a person has to look first.
                Some(_) if is_latched(store, VANISHED_BRAKE) && is_vanished(self.world, store, referral) => Vec::new(),
                Some(_) if !exists => vec!["is linked to a lead that does not exist".to_owned()],
                Some(lead) => self.linked(entry, store, referral, lead),
            },
        }
    }

    fn linked(&self, entry: &Entry, store: &dyn StateStore, referral: ReferralId, lead: Uuid) -> Vec<String> {
        let mut found = Vec::new();
        if *self.lead(lead, "merged") == Value::Bool(true) {
            found.push(format!("is linked to {lead}, which was merged away"));
        }
        let spoken_for = store.by_lead(LeadId::new(lead)).unwrap();
        if spoken_for != Some(referral) {
            found.push(format!("its lead {lead} speaks for another referral: {spoken_for:?}"));
        }
        let is_open = matches!(self.document["status"].as_str(), Some("New" | "Active"));
        if !is_open {
            return found;
        }
        if self.document["externalReferenceId"].as_str().is_none_or(|text| text.trim().is_empty()) {
            found.push("does not know its lead".to_owned());
        }
        if !self.holds(&["outcome older than the link", "dead letter", "retrying"]) {
            found.extend(self.status(lead));
        }
        let is_frozen = entry.link.as_ref().is_none_or(|_| entry.holds != 0);
        if !is_frozen && self.lead(lead, "statecode").as_i64() == Some(0) {
            found.extend(self.values(lead));
        }
        found
    }

    /// The table of statuses, written down once more.
    fn status(&self, lead: Uuid) -> Option<String> {
        let crm = &self.world.crm;
        let states: Vec<i64> = crm
            .ids(Table::Opportunity)
            .into_iter()
            .filter(|id| {
                crm.value(Table::Opportunity, *id, "_originatingleadid_value").as_str()
                    == Some(lead.to_string().as_str())
            })
            .filter_map(|id| crm.value(Table::Opportunity, id, "statecode").as_i64())
            .collect();
        let (state, code) = (self.lead(lead, "statecode").as_i64(), self.lead(lead, "statuscode").as_i64());
        let wanted = match (state, code) {
            (Some(0), Some(2)) => "Active",
            (Some(0), _) => return None,
            (Some(1), _) if states.contains(&1) => "Closed",
            (Some(1), _) if states.is_empty() || states.contains(&0) => "Active",
            _ => "Closed",
        };
        let is = self.document["status"].as_str().unwrap_or_default();
        (is != wanted)
            .then(|| format!("should be {wanted}: lead {lead} is {state:?} / {code:?}, opportunities {states:?}"))
    }

    /// Amount, currency, date and company of an open pair.
    fn values(&self, lead: Uuid) -> Vec<String> {
        let mut found = Vec::new();
        let details = &self.document["details"];
        let currency = self.lead(lead, "_transactioncurrencyid_value").as_str().and_then(|id| Uuid::parse_str(id).ok());
        let currency = currency.map(|id| self.world.crm.value(Table::Currency, id, "isocurrencycode").clone());
        let known = &self.world.options.crm.currencies;
        let places = known.iter().find(|(code, _)| details["currency"] == code.as_str()).map(|(_, places)| *places);
        if let (Some(places), Some(amount)) = (places, decimal(&details["dealValue"])) {
            let theirs = decimal(self.lead(lead, "estimatedamount"));
            let is_usable = amount <= Decimal::from(1_000_000_000_000_u64);
            if is_usable && theirs.map(|value| value.round_dp(places)) != Some(amount.round_dp(places)) {
                found.push(format!("its amount is {amount}, that of lead {lead} is {theirs:?}"));
            }
            if is_usable && currency.as_ref() != Some(&details["currency"]) {
                found.push(format!("its currency is {}, that of lead {lead} is {currency:?}", details["currency"]));
            }
        }
        if let Some(date) = details["closingDateTime"].as_str().and_then(|text| text.get(..10)) {
            let theirs = self.lead(lead, "estimatedclosedate").as_str();
            if date.starts_with("20") && theirs != Some(date) {
                found.push(format!("its date is {date}, that of lead {lead} is {theirs:?}"));
            }
        }
        let company = self.document["customerProfile"]["name"].as_str().unwrap_or_default();
        let theirs = self.lead(lead, "companyname").as_str().unwrap_or_default();
        let is_plain = company.chars().count() <= 40 && !company.contains('&');
        // Without a common base, or after a merge, the lead's value stays once the referral moves (owner crm). The referral
        // may name the master as well: when leads alone were written until after the merge.
        let is_named = self.document["externalReferenceId"].as_str() == Some(lead.to_string().as_str());
        let is_ours =
            is_named && !self.is_master(lead) && self.edited_companies.is_some_and(|edited| !edited.contains(&lead));
        if is_plain && company != theirs && is_ours {
            found.push(format!("its company is {company}, that of lead {lead} is {theirs}"));
        }
        found
    }

    fn is_merged(&self, lead: Option<Uuid>) -> bool {
        lead.is_some_and(|lead| *self.lead(lead, "merged") == Value::Bool(true))
    }

    /// Another lead was merged into it.
    fn is_master(&self, lead: Uuid) -> bool {
        let (crm, lead) = (&self.world.crm, lead.to_string());
        let is_into = |id: &Uuid| crm.value(Table::Lead, *id, "_masterid_value").as_str() == Some(lead.as_str());
        crm.ids(Table::Lead).iter().any(is_into)
    }

    fn lead(&self, lead: Uuid, property: &str) -> &Value {
        self.world.crm.value(Table::Lead, lead, property)
    }

    fn holds(&self, wanted: &[&str]) -> bool {
        self.entry.is_some_and(|entry| names(entry).iter().any(|name| wanted.contains(name)))
    }

    fn is_in_scope(&self) -> bool {
        let own = Value::from(self.world.portal.organization().to_string());
        let is_foreign = self.document["organizationId"] != own && !self.document["engagementId"].is_null();
        self.document["isSpam"] != true
            && self.document["direction"] != "Outgoing"
            && self.document["inviteContext"]["invitedBy"]["organizationId"] != own
            && !is_foreign
    }
}

fn decimal(value: &Value) -> Option<Decimal> {
    match value {
        Value::Number(number) => Decimal::from_str(&number.to_string()).ok(),
        Value::String(text) => Decimal::from_str(text.trim()).ok(),
        _ => None,
    }
}
