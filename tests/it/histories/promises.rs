//! The promises, judged by replaying the journal of both worlds. It shares no code with the program: ids, outcomes, legal
//! steps and who may write what are written down here once more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use referrald::model::Timestamp;
use referrald::sim::World;
use referrald::sim::dynamics::Table;
use referrald::sim::exchange::Service;
use referrald::sim::journal::{Actor, Event, Moment, Record};
use serde_json::Value;
use uuid::Uuid;

/// What the judge is told of the configuration.
pub struct Terms {
    /// A mapped outcome is this old before a referral is closed as won or declined.
    pub settle: Duration,
    /// As `settle`, for lost deals.
    pub settle_lost: Duration,
    /// The custom column with the referral id.
    pub referral_column: Option<&'static str>,
    /// Leads have computed ids.
    pub is_derived: bool,
    /// Until then no referral may be written.
    pub leads_only_until: Option<Timestamp>,
    /// Passes whose disk was full or whose process ended: what they read may not be remembered.
    pub unrecorded: Vec<(Timestamp, Timestamp)>,
    /// Losses of memory and changes of the configuration: each may cause one write per row.
    pub upheavals: usize,
}

/// Namespace of computed lead ids.
const NAMESPACE: Uuid = Uuid::from_u128(0x85bd_8765_40f0_51b4_a713_1aab_ed04_9d80);
/// A fresh read is not older than this when the irreversible write follows.
const FRESH: Duration = Duration::from_secs(120);
/// After a row was out of sight, decisions may rest on what was seen before for so long.
const BLIND: Duration = Duration::from_secs(3_600);

/// Lead columns that are merged as one, the referral path that feeds each group, and whether the seller owns it.
const GROUPS: [Group; 4] = [
    Group { name: "company", columns: &["companyname"], paths: &["/customerProfile/name"], is_sellers: true },
    Group {
        name: "contact",
        columns: &["firstname", "lastname", "jobtitle", "emailaddress1", "telephone1", "mobilephone"],
        paths: &["/customerProfile/team", "/consent/consentToContact"],
        is_sellers: true,
    },
    Group {
        name: "amount",
        columns: &["estimatedamount", "_transactioncurrencyid_value"],
        paths: &["/details/dealValue", "/details/currency"],
        is_sellers: false,
    },
    Group {
        name: "closing date",
        columns: &["estimatedclosedate"],
        paths: &["/details/closingDateTime"],
        is_sellers: false,
    },
];

struct Group {
    name: &'static str,
    columns: &'static [&'static str],
    paths: &'static [&'static str],
    is_sellers: bool,
}

/// Every broken promise, as a sentence.
pub fn broken(world: &World, terms: &Terms) -> Vec<String> {
    let mut replay = Replay::new(world, terms);
    for moment in world.journal.moments() {
        match moment {
            Moment::Happened(event) => replay.happened(event),
            Moment::Asked(record) => replay.asked(record),
        }
    }
    replay.found
}

/// What a lead means for its referral.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Nothing,
    Contacted,
    Qualified,
    Won,
    Lost,
    Disqualified,
}

/// Lost deals and a disqualified lead close the referral in the same way.
fn is_same_news(left: Outcome, right: Outcome) -> bool {
    use Outcome::{Disqualified, Lost};
    left == right || matches!((left, right), (Lost, Disqualified) | (Disqualified, Lost))
}

/// The instant from which on a poll asks for what changed.
fn polled_since(path: &str) -> Option<Timestamp> {
    let mut options = url::form_urlencoded::parse(path.split_once('?')?.1.as_bytes());
    let filter = options.find(|(name, _)| name == "$filter")?.1;
    let (_, since) = filter.split_once("modifiedon ge ")?;
    let text = since.split([' ', ')']).next()?;
    Some(text.parse::<jiff::Timestamp>().expect("an instant").into())
}

/// An outcome, and since when.
#[derive(Clone, Copy, Debug)]
struct Meaning {
    outcome: Outcome,
    since: Timestamp,
    is_read: bool,
}

#[derive(Debug, Default)]
struct LeadSeen {
    columns: BTreeMap<String, Value>,
    exists: bool,
    outcome: Option<Meaning>,
    /// What it meant before, while nobody has read what it means now.
    before: Option<Meaning>,
    /// What it meant when it was read and may have been forgotten again.
    half_known: Vec<Meaning>,
    /// Everything it ever meant.
    past: Vec<Outcome>,
    /// Groups whose value a person entered and the referral has not agreed to since.
    entered: BTreeSet<&'static str>,
}

#[derive(Debug, Default)]
struct ReferralSeen {
    values: BTreeMap<String, Value>,
    /// Groups that moved on the referral since a lead of it was written.
    moved: BTreeSet<&'static str>,
}

/// Writes that outside edits have paid for, per deal.
#[derive(Clone, Copy, Debug, Default)]
struct Purse {
    to_crm: i64,
    to_portal: i64,
}

struct Replay<'a> {
    terms: &'a Terms,
    found: Vec<String>,
    groups: Unions,
    purses: BTreeMap<Uuid, Purse>,
    computed: BTreeMap<Uuid, Uuid>,
    leads: BTreeMap<Uuid, LeadSeen>,
    opportunities: BTreeMap<Uuid, (Uuid, i64)>,
    referrals: BTreeMap<Uuid, ReferralSeen>,
    hidden: BTreeMap<Uuid, Timestamp>,
    /// Leads cannot be seen until then: the role may have been lost in the middle of a pass that had seen them.
    blind_until: Option<Timestamp>,
    /// The last delivered reading of a referral since it was written, and when.
    read: BTreeMap<Uuid, Timestamp>,
    /// The last list of leads has another page that was not read yet.
    leads_go_on: bool,
    /// What the request in hand did; judged when the request itself comes.
    steps: Vec<(Uuid, String, Timestamp)>,
    created: Vec<Uuid>,
}

impl<'a> Replay<'a> {
    fn new(world: &World, terms: &'a Terms) -> Self {
        let mut replay = Replay {
            terms,
            found: Vec::new(),
            groups: Unions::default(),
            purses: BTreeMap::new(),
            computed: BTreeMap::new(),
            leads: BTreeMap::new(),
            opportunities: BTreeMap::new(),
            referrals: BTreeMap::new(),
            hidden: BTreeMap::new(),
            blind_until: None,
            read: BTreeMap::new(),
            leads_go_on: false,
            steps: Vec::new(),
            created: Vec::new(),
        };
        let mut referrals = BTreeSet::new();
        for moment in world.journal.moments() {
            let Moment::Happened(event) = moment else { continue };
            match event {
                Event::ReferralSaved { referral, changed, .. } => {
                    if referrals.insert(*referral) {
                        let computed = Uuid::new_v5(&NAMESPACE, referral.to_string().as_bytes());
                        replay.computed.insert(computed, *referral);
                        replay.groups.join(*referral, computed);
                    }
                    if let Some(lead) = changed.get("/externalReferenceId").and_then(guid) {
                        replay.groups.join(*referral, lead);
                    }
                }
                Event::RowSaved { row, changed, .. } => {
                    let names = ["subject", "_masterid_value", "_originatingleadid_value"];
                    for other in names.into_iter().chain(terms.referral_column).filter_map(|name| changed.get(name)) {
                        replay.groups.join_known(*row, guid(other));
                    }
                }
                _ => {}
            }
        }
        // The lead, its id on the referral, an acceptance on the way to a closing; and once more after each upheaval.
        let upheavals = i64::try_from(terms.upheavals).unwrap_or(0);
        for referral in referrals {
            let purse = replay.purses.entry(replay.groups.root(referral)).or_default();
            purse.to_crm += 1 + upheavals;
            purse.to_portal += 2 + upheavals;
        }
        replay
    }

    fn happened(&mut self, event: &Event) {
        match event {
            Event::ReferralSaved { referral, by, changed, .. } => self.referral_saved(*referral, *by, changed),
            Event::RowSaved { at, table: Table::Lead, row, by, changed } => self.lead_saved(*row, *by, changed, *at),
            Event::RowSaved { at, table: Table::Opportunity, row, by, changed } => {
                let lead = changed.get("_originatingleadid_value").and_then(guid);
                let (origin, state) = self.opportunities.entry(*row).or_insert((lead.unwrap_or_default(), 0));
                *origin = lead.unwrap_or(*origin);
                *state = changed.get("statecode").and_then(Value::as_i64).unwrap_or(*state);
                let origin = *origin;
                if *by != Actor::Client && !changed.is_empty() {
                    self.purse(*row).to_portal += 1;
                }
                self.weigh(origin, *at);
            }
            Event::RowSaved { .. } | Event::LeadCreated { .. } => {}
            Event::LeadDeleted { lead, .. } => {
                self.leads.entry(*lead).or_default().exists = false;
                self.pay_both(*lead);
            }
            Event::LeadRestored { lead, .. } => {
                self.leads.entry(*lead).or_default().exists = true;
                self.pay_both(*lead);
            }
            Event::Hidden { at, row: Some(row), until, .. } => {
                self.hidden.insert(*row, (*at).max(*until));
            }
            Event::Hidden { service: Service::Crm, until, row: None, .. } => {
                self.blind_until = self.blind_until.max(Some(*until));
            }
            // A referral is read once more before it is written, so there is nothing to forgive.
            Event::Hidden { row: None, .. } => {}
            Event::ReferralMoved { at, referral, to, by: Actor::Client, .. } => {
                self.steps.push((*referral, if to.0 == "Active" { to.0.clone() } else { to.1.clone() }, *at));
            }
            Event::ReferralMoved { .. } => {}
        }
    }

    fn purse(&mut self, row: Uuid) -> &mut Purse {
        self.purses.entry(self.groups.root(row)).or_default()
    }

    fn pay_both(&mut self, row: Uuid) {
        let purse = self.purse(row);
        purse.to_crm += 1;
        purse.to_portal += 1;
    }

    fn referral_saved(&mut self, id: Uuid, by: Actor, changed: &BTreeMap<String, Value>) {
        const NOBODYS: [&str; 2] = ["/favorite", "/quality"];
        let is_known = self.referrals.contains_key(&id);
        let referral = self.referrals.entry(id).or_default();
        for (path, value) in changed {
            referral.values.insert(path.clone(), value.clone());
        }
        for group in GROUPS.iter().filter(|group| group.paths.iter().any(|path| changed.contains_key(*path))) {
            match by {
                Actor::Client => drop(referral.moved.remove(group.name)),
                Actor::Person | Actor::Service => drop(referral.moved.insert(group.name)),
            }
        }
        if by != Actor::Client && is_known && changed.keys().any(|path| !NOBODYS.contains(&path.as_str())) {
            self.purse(id).to_crm += 1;
        }
        if ["/customerProfile/name", "/externalReferenceId"].iter().any(|path| changed.contains_key(*path)) {
            self.agree(id);
        }
    }

    fn lead_saved(&mut self, id: Uuid, by: Actor, changed: &BTreeMap<String, Value>, at: Timestamp) {
        let is_new = !self.leads.get(&id).is_some_and(|lead| lead.exists);
        if is_new && by == Actor::Client {
            self.created.push(id);
        }
        if by != Actor::Client && !changed.is_empty() {
            let purse = self.purse(id);
            purse.to_portal += 1;
            let is_structural =
                is_new || ["statecode", "merged", "_masterid_value"].iter().any(|name| changed.contains_key(*name));
            purse.to_crm += i64::from(is_structural);
            if let Some(master) = changed.get("_masterid_value").and_then(guid) {
                self.pay_both(master);
            }
        }
        let referrals = self.referrals_of(id);
        let lead = self.leads.entry(id).or_default();
        lead.exists = true;
        for group in GROUPS.iter().filter(|group| group.columns.iter().any(|name| changed.contains_key(*name))) {
            let had = |name: &&&str| changed.contains_key(**name) && !is_nothing(lead.columns.get(**name));
            let overwritten: Vec<&&str> = group.columns.iter().filter(had).collect();
            let is_entered = lead.entered.contains(group.name) && !is_new;
            let is_other =
                |name: &&&str| changed.get(**name).is_some_and(|value| lead.columns.get(**name) != Some(value));
            if by != Actor::Client {
                // A lead that comes back brings what it had.
                if group.columns.iter().any(|name| is_other(&name)) {
                    lead.entered.insert(group.name);
                }
            } else if is_entered && !overwritten.is_empty() {
                let has_moved = |id| self.referrals.get(id).is_some_and(|seen| seen.moved.contains(group.name));
                if group.is_sellers || !referrals.iter().any(has_moved) {
                    self.found.push(format!(
                        "P6: {overwritten:?} ({}) of lead {id} was entered by a person and overwritten at {at}",
                        group.name
                    ));
                }
                lead.entered.remove(group.name);
            } else {
                lead.entered.remove(group.name);
            }
        }
        for (name, value) in changed {
            lead.columns.insert(name.clone(), value.clone());
        }
        if by == Actor::Client {
            for group in GROUPS.iter().filter(|group| group.columns.iter().any(|name| changed.contains_key(*name))) {
                for referral in &referrals {
                    self.referrals.entry(*referral).or_default().moved.remove(group.name);
                }
            }
        }
        self.weigh(id, at);
        // Only these can bring a name and a company together.
        let meets = |name: &String| {
            matches!(name.as_str(), "companyname" | "subject" | "_masterid_value")
                || self.terms.referral_column == Some(name.as_str())
        };
        if is_new || changed.keys().any(meets) {
            for referral in referrals {
                self.agree(referral);
            }
        }
    }

    /// A value that both sides show is nobody's in particular.
    fn agree(&mut self, referral: Uuid) {
        let Some(seen) = self.referrals.get(&referral) else { return };
        let Some(name) = seen.values.get("/customerProfile/name").and_then(Value::as_str).map(str::to_owned) else {
            return;
        };
        for lead in self.leads_of(referral) {
            let Some(lead) = self.leads.get_mut(&lead) else { continue };
            if lead.columns.get("companyname").and_then(Value::as_str).map(str::trim) == Some(name.trim()) {
                lead.entered.remove("company");
            }
        }
    }

    /// Since when a lead means what it means.
    fn weigh(&mut self, id: Uuid, at: Timestamp) {
        let states: Vec<i64> =
            self.opportunities.values().filter(|(lead, _)| *lead == id).map(|(_, state)| *state).collect();
        let Some(lead) = self.leads.get_mut(&id) else { return };
        let number = |name: &str| lead.columns.get(name).and_then(Value::as_i64);
        let outcome = match (number("statecode"), number("statuscode")) {
            (Some(0), Some(2)) => Outcome::Contacted,
            (Some(1), _) if states.contains(&1) => Outcome::Won,
            (Some(1), _) if states.is_empty() || states.contains(&0) => Outcome::Qualified,
            (Some(1), _) => Outcome::Lost,
            (Some(2), _) => Outcome::Disqualified,
            (_, _) => Outcome::Nothing,
        };
        lead.past.push(outcome);
        let fresh = Meaning { outcome, since: at, is_read: false };
        let half_known = lead.half_known.iter().find(|known| is_same_news(known.outcome, outcome));
        let half_known = half_known.map(|known| Meaning { outcome, ..*known });
        match lead.outcome {
            Some(now) if is_same_news(now.outcome, outcome) => lead.outcome = Some(Meaning { outcome, ..now }),
            // What may have been read and remembered may count from then on.
            now if half_known.is_some() => {
                lead.before = now.filter(|now| now.is_read).or(lead.before);
                lead.outcome = half_known;
            }
            // What came and went between two readings was never there.
            Some(now) if !now.is_read && lead.before.is_some_and(|before| is_same_news(before.outcome, outcome)) => {
                lead.outcome = lead.before.take().map(|before| Meaning { outcome, ..before });
            }
            Some(now) if !now.is_read => lead.outcome = Some(fresh),
            now => {
                lead.before = now;
                lead.outcome = Some(fresh);
            }
        }
    }

    fn asked(&mut self, record: &Record) {
        let steps = std::mem::take(&mut self.steps);
        let created = std::mem::take(&mut self.created);
        let what = format!("{} {} at {}", record.operation, record.subject.unwrap_or_default(), record.at);
        if record.service == Service::Portal {
            self.judge_steps(&what, &steps, record);
            if let Some(id) = record.subject.filter(|_| record.is_delivered && record.status == 200) {
                self.read.insert(id, record.at);
            } else if record.method == "PATCH" {
                record.subject.map(|id| self.read.remove(&id));
            }
        }
        let is_recorded = !self.terms.unrecorded.iter().any(|(from, until)| (*from..=*until).contains(&record.at));
        let is_reading = record.service == Service::Crm && record.method == "GET" && record.is_delivered;
        // Late or with a wrong date, an answer says what it says; any other trouble may have left something out.
        let is_whole = record.fault.is_none_or(|fault| matches!(fault, "slow" | "clock skew"));
        let is_of_leads = is_reading && record.status == 200 && record.operation == "list leads";
        let is_last_of_leads = is_of_leads && self.leads_go_on && !record.goes_on;
        if is_of_leads {
            self.leads_go_on = record.goes_on;
        }
        // Leads may have more pages when the opportunities are there, since both are asked for in one batch.
        let is_of_deals = is_reading && record.status == 200 && record.operation == "list opportunities";
        let is_whole = is_whole && !self.leads_go_on;
        if is_of_deals || is_last_of_leads {
            // A poll tells of every lead, a list by id of those that it names, and what changes in the future of none.
            let is_poll = polled_since(&record.path).is_some_and(|since| since <= record.at);
            let is_told = |id: &Uuid| is_poll || record.path.contains(&id.to_string());
            for (_, lead) in self.leads.iter_mut().filter(|(id, _)| is_told(id)) {
                match &mut lead.outcome {
                    Some(now) if is_recorded && is_whole => {
                        now.is_read = true;
                        lead.half_known.clear();
                    }
                    Some(now) => lead.half_known.push(*now),
                    None => {}
                }
            }
        }
        if !matches!(record.method.as_str(), "PATCH" | "POST" | "PUT" | "DELETE")
            || record.service == Service::Authority
        {
            return;
        }
        if record.method == "DELETE" && record.is_committed {
            self.found.push(format!("P4: {what} deleted something"));
        }
        let is_conditional = match (record.if_match.as_deref(), record.if_none_match.as_deref()) {
            (Some(tag), None) => tag != "*",
            (None, Some(tag)) => tag == "*",
            (_, _) => false,
        };
        if !is_conditional && record.operation != "disturbed" {
            self.found.push(format!("P5: {what} was sent without a condition"));
        }
        if record.service == Service::Portal && self.terms.leads_only_until.is_some_and(|until| record.at < until) {
            self.found.push(format!("P6: {what} was sent while only leads may be written"));
        }
        for lead in created {
            self.judge_creation(lead, record.at);
        }
        let Some(subject) = record.subject.filter(|_| record.is_committed) else { return };
        let purse = self.purse(subject);
        let left = match record.service {
            Service::Portal => &mut purse.to_portal,
            Service::Crm | Service::Authority => &mut purse.to_crm,
        };
        *left -= 1;
        if *left < 0 {
            *left = 0;
            self.found.push(format!("P3: {what} {:?} has no cause", record.written));
        }
    }

    /// P1: what was created speaks for one referral, which had no lead.
    fn judge_creation(&mut self, lead: Uuid, at: Timestamp) {
        let referrals = self.named_by(lead);
        let [referral] = referrals.as_slice() else {
            self.found.push(format!("P1: lead {lead} was created at {at} and speaks for {referrals:?}"));
            return;
        };
        if self.terms.is_derived && self.computed.get(&lead) != Some(referral) {
            self.found.push(format!("P1: lead {lead} of referral {referral} has another id than the computed one"));
        }
        let leads = self.leads_of(*referral);
        let master = |id: Uuid| self.leads.get(&id)?.columns.get("_masterid_value").and_then(guid);
        // A lead that was merged away leads to its master: while it is out of sight, so is the way there.
        let leads_to = |from: Uuid, rival: Uuid| {
            std::iter::successors(Some(from), |id| master(*id)).take(leads.len() + 1).any(|id| id == rival)
        };
        let is_out_of_sight = |id: &Uuid| self.hidden.get(id).is_some_and(|until| at <= until.plus(BLIND));
        let can_be_seen = |rival: Uuid| !leads.iter().any(|id| leads_to(*id, rival) && is_out_of_sight(id));
        let is_rival = |id: &&Uuid| {
            let exists = self.leads.get(id).is_some_and(|seen| seen.exists && !is_merged(seen));
            **id != lead && exists && can_be_seen(**id)
        };
        let is_blind = self.blind_until.is_some_and(|until| at < until);
        if let Some(rival) = leads.iter().find(is_rival).filter(|_| !is_blind) {
            self.found.push(format!("P1: lead {lead} was created at {at}, but referral {referral} had {rival}"));
        }
    }

    /// P4 and P5: a step needs a lead that asks for it, long enough, and a fresh look at the referral.
    fn judge_steps(&mut self, what: &str, steps: &[(Uuid, String, Timestamp)], record: &Record) {
        for (referral, step, at) in steps {
            let fresh = self.read.get(referral).is_some_and(|read| at.since(*read) <= FRESH);
            if !fresh {
                self.found.push(format!(
                    "P5: {what} moved {referral} to {step} without a fresh look at it, last seen {:?}",
                    self.read.get(referral)
                ));
            }
            if record.if_match.is_none() {
                self.found.push(format!("P5: {what} moved {referral} to {step} without If-Match"));
            }
            let settle = match step.as_str() {
                "Active" => Duration::ZERO,
                "Lost" => self.terms.settle_lost,
                _ => self.terms.settle,
            };
            let leads = self.leads_of(*referral);
            let asks = |outcome: Outcome| match step.as_str() {
                "Active" => outcome != Outcome::Nothing,
                "Won" => outcome == Outcome::Won,
                "Lost" => matches!(outcome, Outcome::Lost | Outcome::Disqualified),
                "Declined" => outcome == Outcome::Disqualified,
                _ => false,
            };
            let grounds = |id: &Uuid| {
                let seen = self.leads.get(id)?;
                let meant = seen.outcome.filter(|now| !is_merged(seen) && asks(now.outcome)).map(|now| now.since);
                // What became of a lead just before it was deleted cannot be read any more.
                meant.or((!seen.exists && seen.past.iter().any(|past| asks(*past))).then_some(Timestamp::EPOCH))
            };
            let is_out_of_sight = |id: &Uuid| self.hidden.get(id).is_some_and(|until| *at < until.plus(BLIND));
            let is_blind = self.blind_until.is_some_and(|until| *at < until);
            if is_blind || leads.iter().any(is_out_of_sight) {
                continue;
            }
            match leads.iter().filter_map(grounds).min() {
                None => self.found.push(format!("P4: {what} moved {referral} to {step}, which no lead asks for")),
                Some(since) if at.since(since) < settle => self.found.push(format!(
                    "P5: {what} moved {referral} to {step} after {} s, which is too early",
                    at.since(since).as_secs()
                )),
                Some(_) => {}
            }
        }
    }

    /// Leads that speak for a referral: the computed one, those that name it, the one it names, and their masters.
    fn leads_of(&self, referral: Uuid) -> Vec<Uuid> {
        let named = self.referrals.get(&referral).and_then(|seen| seen.values.get("/externalReferenceId"));
        let mut found: BTreeSet<Uuid> = named.and_then(guid).into_iter().collect();
        found.insert(Uuid::new_v5(&NAMESPACE, referral.to_string().as_bytes()));
        let names = |lead: &LeadSeen| {
            let columns = std::iter::once("subject").chain(self.terms.referral_column);
            columns.into_iter().any(|name| lead.columns.get(name).and_then(guid) == Some(referral))
        };
        found.extend(self.leads.iter().filter(|(_, lead)| names(lead)).map(|(id, _)| *id));
        let master = |id: &Uuid| self.leads.get(id)?.columns.get("_masterid_value").and_then(guid);
        while let Some(next) = found.iter().filter_map(master).find(|id| !found.contains(id)) {
            found.insert(next);
        }
        found.into_iter().filter(|id| self.leads.contains_key(id)).collect()
    }

    /// Referrals that a lead itself names.
    fn named_by(&self, lead: Uuid) -> Vec<Uuid> {
        let mut found: BTreeSet<Uuid> = self.computed.get(&lead).copied().into_iter().collect();
        if let Some(seen) = self.leads.get(&lead) {
            let columns = std::iter::once("subject").chain(self.terms.referral_column);
            let named = columns.into_iter().filter_map(|name| seen.columns.get(name).and_then(guid));
            found.extend(named.filter(|id| self.referrals.contains_key(id)));
        }
        found.into_iter().collect()
    }

    fn referrals_of(&self, lead: Uuid) -> Vec<Uuid> {
        let mut found: BTreeSet<Uuid> = self.named_by(lead).into_iter().collect();
        // A referral keeps the name of a lead that was merged into this one.
        let mut merged = BTreeSet::from([lead]);
        while let Some(loser) = self.leads.iter().find_map(|(id, seen)| {
            let master = seen.columns.get("_masterid_value").and_then(guid)?;
            (merged.contains(&master) && !merged.contains(id)).then_some(*id)
        }) {
            merged.insert(loser);
        }
        found.extend(merged.iter().flat_map(|id| self.named_by(*id)));
        let names = |seen: &ReferralSeen| {
            seen.values.get("/externalReferenceId").and_then(guid).is_some_and(|named| merged.contains(&named))
        };
        found.extend(self.referrals.iter().filter(|(_, seen)| names(seen)).map(|(id, _)| *id));
        found.into_iter().collect()
    }
}

fn is_merged(lead: &LeadSeen) -> bool {
    lead.columns.get("merged") == Some(&Value::Bool(true))
}

fn is_nothing(value: Option<&Value>) -> bool {
    value.is_none_or(|value| value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty()))
}

fn guid(value: &Value) -> Option<Uuid> {
    Uuid::try_parse(value.as_str()?.trim()).ok()
}

/// Rows that belong to one deal.
#[derive(Default)]
struct Unions(BTreeMap<Uuid, Uuid>);

impl Unions {
    fn root(&self, of: Uuid) -> Uuid {
        let mut at = of;
        while let Some(up) = self.0.get(&at).filter(|up| **up != at) {
            at = *up;
        }
        at
    }

    fn join(&mut self, one: Uuid, other: Uuid) {
        let (one, other) = (self.root(one), self.root(other));
        if one != other {
            self.0.insert(one, other);
        }
    }

    fn join_known(&mut self, one: Uuid, other: Option<Uuid>) {
        if let Some(other) = other {
            self.join(one, other);
        }
    }
}
