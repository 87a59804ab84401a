//! Builds rows in one line and prints what is planned for them.
//!
//! The mapping has two groups: `notes` (two-way where the test says so) and `company`. Everything that agrees says `old`.

use std::collections::BTreeMap;
use std::sync::Arc;

use figment::Figment;
use figment::providers::{Format, Toml};
use serde_json::{Value, json};

use crate::model::{
    Base, Deal, ETag, Entry, ExternalReference, Fault, GroupMemory, Lead, LeadId, LeadState, LeadStatus, Link,
    Opportunity, OpportunityState, Qualification, Referral, ReferralId, ReferralStatus, ReferralType, RemoteError,
    Side, Standing, Substatus, Timestamp,
};
use crate::plan::mapping::Mapping;
use crate::plan::settings::{FieldOwner, MappingSettings, Writes};
use crate::plan::{Action, Adoption, Claim, Next, Outcome, Policy, Row, RowPlan, Seen, fields, plan_row, settle};
use crate::ports::{ColumnKind, ColumnSchema, Decisions, LeadSchema};

const BUILT_IN: &str = include_str!("../../../config/default.toml");

/// The instant of every plan that does not say otherwise.
pub(super) const NOW: Timestamp = Timestamp::from_seconds(1_795_000_000);

pub(super) fn minutes(count: i64) -> Timestamp {
    Timestamp::from_seconds(1_795_000_000 + 60 * count)
}

pub(super) fn id(number: u128) -> ReferralId {
    ReferralId::new(uuid::Uuid::from_u128(number))
}

pub(super) fn lead_id(number: u128) -> LeadId {
    LeadId::new(uuid::Uuid::from_u128(number))
}

/// The referral of every row.
pub(super) const R: u128 = 0x0a;

/// A user of ours in the CRM.
pub(super) const US: uuid::Uuid = uuid::Uuid::from_u128(0x77);

/// The policy of the defaults, with the two groups of this module.
pub(super) fn policy(owner: FieldOwner, is_two_way: bool, overrides: &str) -> Policy {
    let settings = Figment::from(Toml::string(BUILT_IN)).merge(Toml::string(overrides));
    let mut mapping: MappingSettings = settings.extract_inner("mapping").expect("a mapping");
    mapping.groups.retain(|name, _| ["notes", "company", "contact", "amount"].contains(&name.as_str()));
    let keeps: Vec<String> = settings.extract_inner("keep").unwrap_or_default();
    mapping.groups.retain(|name, _| name == "notes" || name == "company" || keeps.contains(name));
    let notes = mapping.groups.get_mut("notes").expect("a built-in group");
    notes.enabled = true;
    notes.owner = owner;
    if !is_two_way {
        notes.write_back.clear();
    }
    let (mapping, problems) = Mapping::compile(&mapping, &schema(), [7; 16]);
    assert_eq!(problems, Vec::new());
    Policy {
        writes: Writes::Both,
        link: settings.extract_inner("link").expect("link"),
        scope: settings.extract_inner("scope").expect("scope"),
        status: settings.extract_inner("status").expect("status"),
        retry: settings.extract_inner("retry").expect("retry"),
        mapping: Arc::new(mapping),
        on_consent_withdrawn: settings.extract_inner("mapping.on_consent_withdrawn").expect("consent"),
        consent_mark_column: None,
        referral_column: None,
        is_derived: true,
        crm_user: Some(US),
        organization: Some("us".to_owned()),
        configuration: 1,
        decisions: Decisions::default(),
        ignores_delays: false,
    }
}

fn schema() -> LeadSchema {
    let text = |units| ColumnSchema {
        kind: ColumnKind::Text,
        length_max: Some(units),
        options: None,
        is_required: false,
        is_creatable: true,
        is_updatable: true,
    };
    let mut columns = BTreeMap::new();
    for name in ["companyname", "firstname", "lastname", "emailaddress1", "telephone1", "jobtitle"] {
        columns.insert(name.to_owned(), text(100));
    }
    columns.insert("qualificationcomments".to_owned(), text(2000));
    for (name, kind) in [("estimatedamount", ColumnKind::Money), ("transactioncurrencyid", ColumnKind::Currency)] {
        columns.insert(name.to_owned(), ColumnSchema { kind, length_max: None, ..text(0) });
    }
    LeadSchema {
        columns,
        currencies: BTreeMap::from([("USD".to_owned(), 2), ("EUR".to_owned(), 2)]),
        is_key_active: true,
        ..LeadSchema::default()
    }
}

/// One row with its policy and its instant.
#[derive(Clone)]
pub(super) struct Sample {
    pub(super) row: Row,
    pub(super) policy: Policy,
    pub(super) now: Timestamp,
    pub(super) document: Value,
}

impl std::fmt::Debug for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at {} {:#?}\nplans:\n{}", self.now, self.row, print(&self.plan()))
    }
}

/// A row about which nothing is known: the owner of `notes` is `crm`, and it goes one way.
pub(super) fn row() -> Sample {
    row_with(FieldOwner::Crm, false)
}

/// As [`row`], with the owner of `notes` and whether it goes both ways.
pub(super) fn row_with(owner: FieldOwner, is_two_way: bool) -> Sample {
    row_of(policy(owner, is_two_way, ""))
}

/// As [`row`], with a policy.
pub(super) fn row_of(policy: Policy) -> Sample {
    let document = json!({
        "id": id(R).to_string(), "type": "Independent", "qualification": "Direct",
        "customerProfile": {"name": "old", "address": {"country": "US"}}, "details": {"notes": "old"},
    });
    Sample { row: Row::new(id(R)), policy, now: NOW, document }
}

/// How a group's base is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Memory {
    None,
    Common,
    Apart,
    Disputed,
    Recalled,
}

impl Sample {
    pub(super) fn with(mut self, edit: impl FnOnce(&mut Policy)) -> Self {
        edit(&mut self.policy);
        self
    }

    pub(super) fn at(mut self, now: Timestamp) -> Self {
        self.now = now;
        self
    }

    /// The referral is seen in this status.
    pub(super) fn referral(mut self, status: ReferralStatus) -> Self {
        let referral = self.referral_in(status);
        self.row.referral = Seen::from(referral);
        self
    }

    fn referral_in(&self, status: ReferralStatus) -> Referral {
        Referral {
            id: id(R),
            etag: Some(ETag("\"r1\"".to_owned())),
            status,
            substatus: match status {
                ReferralStatus::New => Substatus::Pending,
                ReferralStatus::Active => Substatus::Accepted,
                ReferralStatus::Closed => Substatus::Won,
                ReferralStatus::Other => Substatus::Other,
            },
            created: Some(minutes(-60)),
            updated: Some(minutes(-30)),
            expires: None,
            external_reference: None,
            engagement: None,
            organization: Some("us".to_owned()),
            kind: ReferralType::Independent,
            qualification: Qualification::Direct,
            is_outgoing: false,
            is_spam: false,
            invited_by: None,
            consent_to_contact: None,
            has_registration: false,
            document: self.document.clone().into(),
        }
    }

    /// Edits the referral that was seen; what an edit changes makes a new version.
    pub(super) fn referral_is(mut self, edit: impl FnOnce(&mut Referral)) -> Self {
        if let Seen::Present(referral) = &mut self.row.referral {
            edit(referral);
        }
        self
    }

    /// The referral says other notes.
    pub(super) fn says(self, notes: &str) -> Self {
        let notes = notes.to_owned();
        self.document(|document| document["details"]["notes"] = notes.into())
    }

    pub(super) fn document(self, edit: impl FnOnce(&mut Value)) -> Self {
        self.referral_is(|referral| {
            let mut document = (*referral.document).clone();
            edit(&mut document);
            referral.document = document.into();
            referral.etag = Some(ETag("\"r2\"".to_owned()));
        })
    }

    /// The linked lead is seen in this state and status code.
    pub(super) fn lead(mut self, state: LeadState, code: i32) -> Self {
        self.row.lead = Seen::from(self.lead_in(LeadStatus { state, code }));
        if state == LeadState::Qualified && self.row.opportunities.is_none() {
            self.row.opportunities = Some(Vec::new());
        }
        self
    }

    pub(super) fn open(self) -> Self {
        self.lead(LeadState::Open, 1)
    }

    pub(super) fn lead_in(&self, status: LeadStatus) -> Lead {
        Lead {
            id: self.policy.computed(id(R)),
            etag: Some(ETag("W/\"1\"".to_owned())),
            status,
            created: Some(minutes(-50)),
            modified: Some(minutes(-20)),
            created_by: None,
            modified_by: None,
            is_merged: false,
            master: None,
            opportunity: None,
            referral: None,
            has_foreign_referral: false,
            columns: [("companyname", "old"), ("qualificationcomments", "old")]
                .map(|(name, value)| (name.to_owned(), value.into()))
                .into(),
        }
    }

    pub(super) fn lead_is(mut self, edit: impl FnOnce(&mut Lead)) -> Self {
        if let Seen::Present(lead) = &mut self.row.lead {
            edit(lead);
        }
        self
    }

    /// The lead shows other notes.
    pub(super) fn shows(self, notes: &str) -> Self {
        let notes = notes.to_owned();
        self.lead_is(|lead| {
            lead.columns.insert("qualificationcomments".to_owned(), notes.clone().into());
            if notes.is_empty() {
                lead.columns.remove("qualificationcomments");
            }
            lead.etag = Some(ETag("W/\"2\"".to_owned()));
        })
    }

    pub(super) fn opportunities(mut self, states: &[OpportunityState]) -> Self {
        let lead = self.row.lead.present().map(|lead| lead.id);
        let one = |(number, state): (u128, &OpportunityState)| Opportunity {
            id: uuid::Uuid::from_u128(number),
            lead,
            state: *state,
            created: None,
            modified: Some(minutes(-10)),
            estimated_value: None,
            actual_value: None,
            currency: None,
            close_date: None,
        };
        self.row.opportunities = Some((1..).zip(states).map(one).collect());
        self
    }

    /// A search was made and gave these leads; the only one is read as well.
    pub(super) fn found(mut self, candidates: &[Lead]) -> Self {
        self.row.adoption = Some(Adoption { candidates: candidates.to_vec(), ..Adoption::default() });
        if let [lead] = candidates {
            self.row.lead = Seen::from(lead.clone());
            if lead.status.state == LeadState::Qualified && self.row.opportunities.is_none() {
                self.row.opportunities = Some(Vec::new());
            }
        }
        self
    }

    pub(super) fn claimed(mut self, lead: LeadId, by: ReferralId) -> Self {
        self.row.claims.insert(lead, Claim { referral: by, created: None });
        self
    }

    /// Our memory: linked, everything agreed, the lead made by us.
    pub(super) fn linked(self, status: ReferralStatus) -> Self {
        self.linked_as(status, LeadStatus { state: LeadState::Open, code: 1 })
    }

    /// As [`Sample::linked`], with the lead's status as last seen.
    pub(super) fn linked_as(mut self, status: ReferralStatus, lead: LeadStatus) -> Self {
        let referral = self.referral_in(status);
        let seen = Lead { ..self.lead_in(lead) };
        let entry = Entry {
            standing: Standing::Linked,
            first_seen: minutes(-55),
            referral_etag: referral.etag.clone(),
            referral_status: status,
            referral_substatus: referral.substatus,
            referral_created: referral.created,
            referral_updated: referral.updated,
            deadline: None,
            external_reference: ExternalReference::Ours,
            consent: None,
            is_consent_withdrawn: false,
            is_registered_co_sell: false,
            is_frozen: false,
            link: Some(Link {
                lead: seen.id,
                etag: seen.etag.clone(),
                status: lead,
                modified: seen.modified,
                deal: Deal::None,
                is_ours: true,
                has_changed_state: false,
            }),
            groups: Vec::new(),
            outcome: None,
            closed_by_us: None,
            reported_after_closing: None,
            trouble: None,
            holds: 0,
            primary_contact: None,
            look_at: None,
        };
        self.row.entry = Some(entry);
        self.remembering(Memory::Common).linked_reference()
    }

    /// The referral names the linked lead, as it does once linked.
    fn linked_reference(self) -> Self {
        let lead = self.policy.computed(id(R)).to_string();
        self.referral_is(|referral| referral.external_reference = Some(lead))
    }

    /// What `notes` is remembered as; the other groups agree.
    pub(super) fn remembering(self, memory: Memory) -> Self {
        let mapping = self.policy.mapping.clone();
        let derived = mapping.derive_linked(&self.referral_in(ReferralStatus::Active), None, true);
        let observed = mapping.observe(&self.lead_in(LeadStatus { state: LeadState::Open, code: 1 }), None);
        self.entry(|entry| {
            entry.groups = Vec::new();
            for (index, group) in mapping.groups().iter().enumerate() {
                let (referral, lead) = (derived.groups[index].fingerprint, observed[index].fingerprint);
                let agreed = fields::agreed(group.key, group.mapping_hash, referral, lead);
                let apart =
                    |is_disputed| GroupMemory { base: Base::Apart { referral, lead, is_disputed }, ..agreed.clone() };
                match memory {
                    _ if group.name != "notes" => entry.groups.push(agreed),
                    Memory::None => {}
                    Memory::Common => entry.groups.push(agreed),
                    Memory::Apart => entry.groups.push(apart(false)),
                    Memory::Disputed => entry.groups.push(apart(true)),
                    Memory::Recalled => {
                        entry.groups.push(GroupMemory { base: Base::Recalled { referral, lead }, ..agreed });
                    }
                }
            }
            entry.groups.sort_by_key(|memory| memory.group);
        })
    }

    pub(super) fn entry(mut self, edit: impl FnOnce(&mut Entry)) -> Self {
        edit(self.row.entry.as_mut().expect("an entry"));
        self
    }

    /// Edits the memory of `notes`.
    pub(super) fn notes(self, edit: impl FnOnce(&mut GroupMemory)) -> Self {
        let key = self.policy.mapping.groups().iter().find(|group| group.name == "notes").expect("notes").key;
        self.entry(|entry| edit(entry.groups.iter_mut().find(|memory| memory.group == key).expect("notes")))
    }

    pub(super) fn plan(&self) -> RowPlan {
        plan_row(&self.row, &self.policy, self.now)
    }

    /// The same row one cycle later: what was planned is remembered, nothing was written.
    pub(super) fn later(mut self, now: Timestamp) -> Self {
        self.row.entry = self.plan().entry;
        self.now = now;
        self
    }

    /// Writes what is planned into services that store everything as it is, until nothing is planned any more.
    ///
    /// Panics when it does not come to rest.
    pub(super) fn written(mut self) -> Self {
        for _ in 0..8 {
            let plan = self.plan();
            self.row.entry = plan.entry.clone();
            let Some(action) = plan.action else { return self };
            let outcome = echo(&self.row, &action);
            let (row, next) = settle(self.row.clone(), &action, &outcome, &self.policy, self.now);
            assert_eq!(next, Next::Plan);
            self.row = row;
            if self.row.lead.present().is_some_and(|lead| lead.status.state == LeadState::Qualified) {
                self.row.opportunities.get_or_insert_default();
            }
        }
        panic!("it does not come to rest:\n{}", print(&self.plan()));
    }
}

/// What services that store everything as it is answer.
pub(super) fn echo(row: &Row, action: &Action) -> Outcome {
    match action {
        Action::Create { lead, draft, .. } => {
            let sample = Sample {
                row: row.clone(),
                policy: policy(FieldOwner::Crm, false, ""),
                now: NOW,
                document: Value::Null,
            };
            let made = Lead {
                id: *lead,
                columns: draft.columns.clone(),
                ..sample.lead_in(LeadStatus { state: LeadState::Open, code: 1 })
            };
            Outcome::LeadWritten(Box::new(made))
        }
        Action::Update { draft, .. } => {
            let Seen::Present(lead) = &row.lead else { panic!("a blind update has no echo") };
            let mut lead = (**lead).clone();
            for (name, value) in &draft.columns {
                match value {
                    Value::Null => lead.columns.remove(name),
                    value => lead.columns.insert(name.clone(), value.clone()),
                };
            }
            lead.status = draft.status.unwrap_or(lead.status);
            lead.etag = lead.etag.map(|etag| ETag(format!("{etag}+")));
            Outcome::LeadWritten(Box::new(lead))
        }
        Action::Patch { patch, .. } => {
            let Seen::Present(referral) = &row.referral else { return Outcome::ReferralWritten(None) };
            let mut referral = (**referral).clone();
            let mut document = (*referral.document).clone();
            for operation in &patch.operations {
                let word = operation.value.as_str().unwrap_or_default();
                match operation.path.as_str() {
                    "/status" => {
                        referral.status =
                            if word == "Active" { ReferralStatus::Active } else { ReferralStatus::Closed };
                    }
                    "/substatus" => {
                        referral.substatus = match word {
                            "Accepted" => Substatus::Accepted,
                            "Won" => Substatus::Won,
                            "Lost" => Substatus::Lost,
                            "Declined" => Substatus::Declined,
                            other => panic!("{other} is never written"),
                        };
                    }
                    "/externalReferenceId" => referral.external_reference = Some(word.to_owned()),
                    "/statusReason" => {}
                    path => *document.pointer_mut(path).expect("a path of the document") = operation.value.clone(),
                }
            }
            referral.document = document.into();
            referral.etag = referral.etag.map(|etag| ETag(format!("{etag}+")));
            Outcome::ReferralWritten(Some(Box::new(referral)))
        }
    }
}

/// A plan as text: the action, then holds, then reads that are missing; ids as letters.
pub(super) fn print(plan: &RowPlan) -> String {
    let mut lines = Vec::new();
    if let Some(reason) = plan.out_of_scope {
        lines.push(format!("out of scope: {reason}"));
    }
    lines.extend(plan.action.iter().map(ToString::to_string));
    lines.extend(plan.holds.iter().map(|hold| format!("hold: {hold}")));
    let needs = [
        (plan.needs.referral, "the referral"),
        (plan.needs.lead, "the lead"),
        (plan.needs.opportunities, "the opportunities"),
        (plan.needs.adoption, "a search"),
    ];
    lines.extend(needs.iter().filter(|(is_missing, _)| *is_missing).map(|(_, what)| format!("needs {what}")));
    let computed = LeadId::computed("85bd8765-40f0-51b4-a713-1aabed049d80".parse().expect("a GUID"), id(R));
    let text = lines.join("\n").replace(&computed.to_string(), "L").replace(&id(R).to_string(), "R");
    (0x10..0x20).fold(text, |text, number| text.replace(&id(number).to_string(), &format!("#{number:x}")))
}

#[track_caller]
pub(super) fn check(sample: Sample, expected: &str) {
    assert_eq!(print(&sample.plan()), expected);
}

/// Checks every line of a table; says which line is wrong.
#[track_caller]
pub(super) fn check_all(table: Vec<(&str, Sample, &str)>) {
    let mut wrong = Vec::new();
    for (line, sample, expected) in table {
        let printed = print(&sample.plan());
        if printed != expected {
            wrong.push(format!("{line}\n  expected: {expected}\n  printed:  {printed}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

pub(super) fn failure(side: Side, fault: Fault) -> RemoteError {
    RemoteError::new(side, "write", fault)
}
