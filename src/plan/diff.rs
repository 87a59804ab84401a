//! The truth table: one row in, what it needs out.
//!
//! | referral | lead    | entry    | then                                              |
//! |----------|---------|----------|---------------------------------------------------|
//! | seen     |         |          | scope, adoption, then create or link               |
//! | seen     | any     | linked   | both ways, each group by its base and its owner    |
//! |          | seen    | linked   | status and two-way groups go back                  |
//! | any      | absent  | linked   | the lead was deleted: leave it or create it again  |
//! | absent   | any     | linked   | hold: it may come back                             |
//! |          |         | linked   | what was due: settled closings, retries            |

use crate::model::{
    Base, Cause, Column, Entry, ExternalReference, GroupMemory, Lead, LeadDraft, LeadId, LeadState, Link,
    ObservedOutcome, Patch, Referral, ReferralId, ReferralStatus, Side, Standing, Substatus, Timestamp,
};
use crate::plan::action::{Action, GroupWrite, Hold, Needs, Rule, Step};
use crate::plan::fields::{self, Merge, Sight};
use crate::plan::mapping::{Group, GroupValue};
use crate::plan::policy::Policy;
use crate::plan::settings::{
    ImportClosed, OnConsentWithdrawn, OnLeadDeleted, OnLeavingFilter, OnReferralClosed, WriteWhen,
};
use crate::plan::snapshot::{Row, Seen};
use crate::plan::status::{self, Outcome, Target};
use crate::plan::{backoff, scope};

/// How often a referral that could not be found any more is asked for again.
const MISSING_AGAIN: std::time::Duration = std::time::Duration::from_secs(15 * 60);

/// How often a referral that several leads claim is searched again, besides its own changes.
const CANDIDATES_AGAIN: std::time::Duration = std::time::Duration::from_secs(3600);

/// What one row needs.
#[derive(Clone, Debug, PartialEq)]
pub struct RowPlan {
    /// Which referral.
    pub id: ReferralId,
    /// The next entry, should no write be made; `None` when nothing is known of this referral.
    pub entry: Option<Entry>,
    /// Reads that are missing before the row can be decided.
    pub needs: Needs,
    /// The next write; what follows it is planned again from its answer.
    pub action: Option<Action>,
    /// Differences left alone.
    pub holds: Vec<Hold>,
    /// The linked lead vanished in this row: the brake counts these.
    pub vanished: Option<LeadId>,
    /// Why it is not imported.
    pub out_of_scope: Option<scope::OutOfScope>,
    /// Order of urgency; smaller first.
    pub urgency: Urgency,
}

/// Order of urgency: expiring, new, high value, rest; within one kind the older deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Urgency(u8, i64);

impl Urgency {
    /// It is about to expire unanswered, or new.
    pub fn is_urgent(self) -> bool {
        self.0 <= 1
    }
}

/// Decides what one row needs.
pub fn plan_row(row: &Row, policy: &Policy, now: Timestamp) -> RowPlan {
    let mut draft = Draft::new(row, policy, now);
    draft.run();
    draft.finish()
}

/// A row while it is being decided.
struct Draft<'a> {
    row: &'a Row,
    policy: &'a Policy,
    now: Timestamp,
    entry: Option<Entry>,
    needs: Needs,
    action: Option<Action>,
    holds: Vec<Hold>,
    vanished: Option<LeadId>,
    out_of_scope: Option<scope::OutOfScope>,
    /// The row was due by itself.
    was_due: bool,
    /// Bits of the holds it had before.
    before: u32,
    /// Bits of holds that were raised once and still stand.
    raised: u32,
}

impl<'a> Draft<'a> {
    fn new(row: &'a Row, policy: &'a Policy, now: Timestamp) -> Self {
        let entry = match (&row.entry, row.referral.present()) {
            (Some(entry), _) => Some(entry.clone()),
            (None, Some(referral)) => Some(first_entry(referral, now)),
            (None, None) => None,
        };
        Draft {
            row,
            policy,
            now,
            entry,
            needs: Needs::default(),
            action: None,
            holds: Vec::new(),
            vanished: None,
            out_of_scope: None,
            was_due: false,
            before: 0,
            raised: 0,
        }
    }

    /// The row had this kind of hold when it was last planned.
    fn had(&self, hold: &Hold) -> bool {
        self.before & hold.bit() != 0
    }

    fn run(&mut self) {
        let Some(mut entry) = self.entry.take() else {
            self.needs.referral = matches!(self.row.referral, Seen::Unseen);
            return;
        };
        self.was_due = entry.look_at.is_some_and(|at| at <= self.now);
        self.before = entry.holds;
        if self.policy.decisions.held.contains(&self.row.id) {
            // As it was, so that whatever changes meanwhile is news when the hold is lifted.
            self.holds.push(Hold::ByOperator);
            entry.holds = Hold::ByOperator.bit();
            entry.look_at = None;
            self.entry = Some(entry);
            return;
        }
        entry.look_at = None;
        if self.had(&Hold::ByOperator) {
            self.needs.referral = matches!(self.row.referral, Seen::Unseen);
            self.needs.lead = entry.link.is_some() && matches!(self.row.lead, Seen::Unseen);
        }
        if self.had(&Hold::LeadVanished) {
            self.needs.lead |= entry.link.is_some() && matches!(self.row.lead, Seen::Unseen);
        }
        if let Some(referral) = self.row.referral.present() {
            remember_referral(&mut entry, referral);
            let is_close =
                self.row.intent.as_ref().is_some_and(|intent| intent.kind == crate::ports::ActionKind::Close);
            // Somebody else may have closed it in another way before our write arrived.
            let closing = closing_of(entry.referral_substatus);
            let is_meant = entry.outcome.is_none_or(|outcome| Some(outcome.closing) == closing);
            if is_close && is_meant && entry.referral_status == ReferralStatus::Closed {
                entry.closed_by_us = closing;
            }
        }
        if backoff::wake(&mut entry, &self.row.referral, &self.row.lead, self.policy.configuration) {
            // What failed is to be tried again: it takes both sides to know what that was.
            self.needs.referral |= matches!(self.row.referral, Seen::Unseen);
            self.needs.lead |= entry.link.is_some() && matches!(self.row.lead, Seen::Unseen);
        }
        if matches!(self.row.referral, Seen::Absent) {
            // Its version is forgotten, so that it is looked at again as soon as it is listed.
            entry.referral_etag = None;
            self.holds.push(Hold::ReferralMissing);
            entry.look_at = Some(self.now.plus(MISSING_AGAIN));
        } else {
            match entry.standing {
                Standing::Pending | Standing::OutOfScope | Standing::ClosedUnlinked => self.link(&mut entry),
                Standing::LeadTaken | Standing::LeadGone => self.look_again(&mut entry),
                Standing::Linked => {}
            }
            if entry.standing == Standing::Linked {
                self.linked(&mut entry);
            }
        }
        entry.holds = self.holds.iter().fold(self.raised, |bits, hold| bits | hold.bit());
        self.entry = Some(entry);
    }

    fn finish(self) -> RowPlan {
        let urgency = urgency(self.row, self.entry.as_ref(), self.now, self.policy);
        RowPlan {
            id: self.row.id,
            entry: self.entry,
            needs: self.needs,
            action: self.action,
            holds: self.holds,
            vanished: self.vanished,
            out_of_scope: self.out_of_scope,
            urgency,
        }
    }

    /// A referral without a lead: scope, adoption, link or create.
    fn link(&mut self, entry: &mut Entry) {
        let Some(referral) = self.row.referral.present() else {
            self.needs.referral = entry.standing == Standing::Pending;
            return;
        };
        self.out_of_scope = scope::out_of_scope(referral, self.policy.organization.as_deref(), &self.policy.scope);
        if self.out_of_scope.is_some() {
            entry.standing = Standing::OutOfScope;
            return;
        }
        let Some(adoption) = &self.row.adoption else {
            entry.standing = Standing::Pending;
            self.needs.adoption = true;
            return;
        };
        match adoption.candidates.as_slice() {
            [] => self.create(entry, referral, adoption.is_reference_gone),
            [lead] => self.adopt(entry, lead),
            several => {
                entry.standing = Standing::Pending;
                entry.look_at = Some(self.now.plus(CANDIDATES_AGAIN));
                self.holds.push(Hold::TwoCandidates { leads: several.iter().map(|lead| lead.id).collect() });
            }
        }
    }

    /// Links an existing lead, unless it speaks for another referral.
    fn adopt(&mut self, entry: &mut Entry, lead: &Lead) {
        if let Some(by) = self.taken_by(lead) {
            entry.standing = Standing::LeadTaken;
            entry.link = None;
            self.holds.push(Hold::LeadTaken { lead: lead.id, by });
            return;
        }
        entry.standing = Standing::Linked;
        entry.groups.clear();
        entry.outcome = None;
        entry.link = Some(self.link_to(lead));
        self.recall(entry, lead);
        if let Some(referral) = self.row.referral.present() {
            let followed = self.row.adoption.as_ref().map_or(&[][..], |adoption| &adoption.followed);
            entry.external_reference = match external_reference(referral, lead.id) {
                // It names the lead that was merged into this one: not rewritten after a merge.
                ExternalReference::OtherLead if reference(referral).is_some_and(|id| followed.contains(&id)) => {
                    ExternalReference::Ours
                }
                other => other,
            };
        }
    }

    /// Takes over what an export remembers of this pair; nothing of it is believed before it is proven.
    ///
    /// That the lead was in another state once stays true for ever, and so does how we closed a referral that is closed
    /// like that. Everything else (settle times, trouble, consent, decisions) begins anew.
    fn recall(&self, entry: &mut Entry, lead: &Lead) {
        let Some(old) = self.row.recalled.as_deref() else { return };
        let (Some(before), Some(link)) = (&old.link, &mut entry.link) else { return };
        if before.lead != lead.id {
            return; // A merge since then, or another lead: no base.
        }
        link.has_changed_state = before.has_changed_state || before.status.state != lead.status.state;
        entry.groups.clone_from(&old.groups);
        entry.first_seen = entry.first_seen.min(old.first_seen);
        entry.primary_contact = old.primary_contact.or(entry.primary_contact);
        if (entry.referral_status, entry.referral_substatus) == (ReferralStatus::Closed, old.referral_substatus) {
            entry.closed_by_us = old.closed_by_us;
            entry.reported_after_closing = old.reported_after_closing;
        }
    }

    /// A link to a lead that was there before: its outcome is no news.
    fn link_to(&self, lead: &Lead) -> Link {
        Link {
            lead: lead.id,
            etag: lead.etag.clone(),
            status: lead.status,
            modified: lead.modified,
            deal: Default::default(),
            is_ours: self.is_ours(lead),
            has_changed_state: false,
        }
    }

    fn is_ours(&self, lead: &Lead) -> bool {
        let is_computed = self.policy.is_derived && lead.id == self.policy.computed(self.row.id);
        is_computed || (lead.created_by.is_some() && lead.created_by == self.policy.crm_user)
    }

    /// Creates the lead, unless it was there once or the referral is over.
    fn create(&mut self, entry: &mut Entry, referral: &Referral, is_reference_gone: bool) {
        let is_wanted = match (referral.status, self.policy.scope.import_closed) {
            (ReferralStatus::New | ReferralStatus::Active | ReferralStatus::Other, _) => true,
            (ReferralStatus::Closed, ImportClosed::None) => false,
            (ReferralStatus::Closed, ImportClosed::Won) => referral.substatus == Substatus::Won,
            (ReferralStatus::Closed, ImportClosed::All) => true,
        };
        if !is_wanted {
            entry.standing = Standing::ClosedUnlinked;
            return;
        }
        let computed = self.policy.computed(self.row.id);
        let reference = reference(referral);
        let was_linked = is_reference_gone && reference.is_some_and(|lead| !self.policy.is_derived || lead == computed);
        // The lead's place is still taken by the one that was merged into a master that is gone.
        let is_master_gone = self.row.adoption.as_ref().is_some_and(|adoption| adoption.is_master_gone);
        if is_master_gone || (was_linked && self.policy.link.on_lead_deleted == OnLeadDeleted::Leave) {
            let lead = reference.unwrap_or(computed);
            entry.standing = Standing::LeadGone;
            self.holds.push(Hold::LeadDeleted { lead });
            return;
        }
        entry.standing = Standing::Pending;
        let derived = self.policy.mapping.derive(referral, entry.primary_contact, may_contact(entry));
        let is_owner_refused = entry.trouble.as_ref().is_some_and(backoff::is_owner_refused);
        let owner = match is_owner_refused {
            true => self.policy.mapping.fallback_owner(),
            false => self.policy.mapping.owner(referral),
        };
        let mut draft = LeadDraft { owner, ..LeadDraft::default() };
        let mut groups = Vec::new();
        for (group, value) in self.policy.mapping.groups().iter().zip(&derived.groups) {
            self.note_skipped(group, value);
            if let Some(reason) = &value.blocked {
                self.holds.push(Hold::DeadLetter { cause: Cause::new(None, reason) });
                backoff::block(entry, reason, self.now, self.policy.configuration, &self.row.referral, &self.row.lead);
                return;
            }
            let columns: Vec<_> = value.draft.iter().filter(|(_, value)| !value.is_null()).collect();
            if columns.is_empty() {
                continue;
            }
            let names = columns.iter().map(|(name, _)| (*name).clone()).collect();
            groups.push(write_of(group, value.fingerprint, value.draft_fingerprint, names, Rule::NewLead));
            draft.columns.extend(columns.into_iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        if !is_owner_refused && self.is_waiting(entry, Side::Crm) {
            return;
        }
        self.action = Some(Action::Create { referral: self.row.id, lead: computed, draft, groups });
    }

    /// Entries whose lead is gone or taken: a lead that is back is linked again, a taken one waits for a release.
    fn look_again(&mut self, entry: &mut Entry) {
        if entry.standing == Standing::LeadTaken {
            self.holds.push(Hold::LeadTakenBefore);
            return;
        }
        let lead = entry.link.as_ref().map(|link| link.lead);
        if self.row.lead.present().is_some_and(|seen| Some(seen.id) == lead) {
            // What the referral became while its lead was gone was not weighed: it is read again.
            self.needs.referral = matches!(self.row.referral, Seen::Unseen);
            entry.standing = Standing::Linked;
            return;
        }
        let is_found = self.row.adoption.as_ref().is_some_and(|adoption| !adoption.candidates.is_empty());
        if is_found || self.policy.link.on_lead_deleted == OnLeadDeleted::Recreate {
            entry.standing = Standing::Pending;
            entry.link = None;
            return self.link(entry);
        }
        // It may be back (recycle bin, restored backup), and what came of a row that was due is not known otherwise.
        let may_be_back = self.was_due || self.row.referral.present().is_some();
        self.needs.lead = lead.is_some() && may_be_back && matches!(self.row.lead, Seen::Unseen);
        // Without a link nothing but a search can find it again.
        let is_unsearched = lead.is_none() && self.row.adoption.is_none();
        self.needs.adoption = is_unsearched && self.row.referral.present().is_some();
        self.needs.referral = is_unsearched && self.was_due && matches!(self.row.referral, Seen::Unseen);
        self.holds.push(Hold::LeadDeleted { lead: lead.unwrap_or_else(|| self.policy.computed(self.row.id)) });
    }

    /// A linked referral: what was seen is remembered, then fields, then status.
    fn linked(&mut self, entry: &mut Entry) {
        let Some(mut link) = entry.link.take() else {
            entry.standing = Standing::Pending;
            self.needs.referral = matches!(self.row.referral, Seen::Unseen);
            return;
        };
        if entry.referral_etag.is_none() && link.etag.is_none() {
            // Nothing seen meanwhile counts (an operator has just released it): both sides are read.
            self.needs.referral = matches!(self.row.referral, Seen::Unseen);
            self.needs.lead = matches!(self.row.lead, Seen::Unseen);
            if !self.needs.is_empty() {
                entry.link = Some(link);
                return;
            }
        }
        if entry.has_recalled() {
            // A recalled base is proven by versions, and only while both are the ones recalled: in one go.
            self.needs.referral = matches!(self.row.referral, Seen::Unseen);
            self.needs.lead = matches!(self.row.lead, Seen::Unseen);
            if !self.needs.is_empty() {
                entry.link = Some(link);
                return;
            }
        }
        match &self.row.lead {
            Seen::Absent => return self.lead_is_gone(entry, link),
            Seen::Present(lead) if lead.id != link.lead => {
                if let Some(by) = self.taken_by(lead) {
                    self.holds.push(Hold::LeadTaken { lead: lead.id, by });
                    entry.standing = Standing::LeadTaken;
                    entry.link = None;
                    return;
                }
                // A merge: followed to the master, with no base and the reference as it is. What the master says was
                // said before it spoke for this referral.
                entry.groups.clear();
                entry.outcome = None;
                link = self.link_to(lead);
            }
            Seen::Present(lead) if lead.is_merged && lead.master.is_some() => {
                self.needs.lead = true; // It speaks no more: its master does.
                entry.link = Some(link);
                return;
            }
            Seen::Present(lead) => remember_lead(&mut link, lead),
            Seen::Unseen => {}
        }
        if let Some(opportunities) = &self.row.opportunities {
            let deal = status::deal(opportunities);
            let before = self.row.entry.as_ref().and_then(|entry| entry.link.as_ref());
            let was_heard =
                before.is_some_and(|before| before.lead == link.lead && before.status.state == LeadState::Qualified);
            link.has_changed_state |= was_heard && deal != link.deal;
            link.deal = deal;
        } else if link.status.state == LeadState::Qualified && matches!(self.row.lead, Seen::Present(_)) {
            self.needs.opportunities = true;
        }
        if self.needs.opportunities {
            entry.link = Some(link);
            return;
        }
        self.freeze(entry);
        let mut writes = Writes::default();
        self.fields(entry, &link, &mut writes);
        self.column(&link, &mut writes);
        entry.link = Some(link.clone());
        if !self.needs.is_empty() {
            return;
        }
        self.closed_over_there(entry, &link, &mut writes);
        self.lead_action(entry, &link, &mut writes);
        self.referral_action(entry, &link, writes);
    }

    /// The linked lead was deleted (confirmed by id).
    fn lead_is_gone(&mut self, entry: &mut Entry, link: Link) {
        self.vanished = Some(link.lead);
        match self.policy.link.on_lead_deleted {
            OnLeadDeleted::Leave => {
                self.holds.push(Hold::LeadDeleted { lead: link.lead });
                entry.standing = Standing::LeadGone;
                entry.link = Some(link);
            }
            OnLeadDeleted::Recreate => {
                entry.standing = Standing::Pending;
                entry.groups.clear();
                entry.outcome = None;
                if entry.referral_status == ReferralStatus::Closed {
                    entry.standing = Standing::ClosedUnlinked;
                } else if let Some(referral) = self.row.referral.present() {
                    self.create(entry, referral, false);
                } else {
                    self.needs.referral = true;
                    entry.look_at = Some(self.now);
                }
            }
        }
    }

    /// A linked referral that left a filter.
    fn freeze(&mut self, entry: &mut Entry) {
        let Some(referral) = self.row.referral.present() else { return };
        let left = scope::out_of_scope(referral, self.policy.organization.as_deref(), &self.policy.scope).is_some();
        entry.is_frozen = left && self.policy.scope.on_leaving_filter == OnLeavingFilter::Freeze;
    }

    /// Merges every group and collects what goes where.
    fn fields(&mut self, entry: &mut Entry, link: &Link, writes: &mut Writes) {
        let mapping = &self.policy.mapping;
        let derived = self.row.referral.present().map(|referral| {
            mapping.derive_linked(referral, entry.primary_contact, may_contact(entry) || entry.is_consent_withdrawn)
        });
        let is_clearing = entry.is_consent_withdrawn && self.policy.on_consent_withdrawn == OnConsentWithdrawn::Clear;
        let without_people = self
            .row
            .referral
            .present()
            .filter(|_| is_clearing)
            .map(|referral| mapping.derive_linked(referral, entry.primary_contact, false));
        let speaks = match (link.status.state, &self.row.opportunities) {
            (LeadState::Qualified, opportunities) => opportunities.as_deref(),
            (LeadState::Open | LeadState::Disqualified, _) => None,
        };
        let is_lead_known = link.status.state != LeadState::Qualified || speaks.is_some();
        let observed = self.row.lead.present().filter(|_| is_lead_known).map(|lead| mapping.observe(lead, speaks));
        if let Some(derived) = &derived {
            entry.primary_contact = derived.primary_contact;
        }
        let mut memories: Vec<GroupMemory> = Vec::with_capacity(mapping.groups().len());
        let mut frozen_contacts = Vec::new();
        for (index, group) in mapping.groups().iter().enumerate() {
            if group.write == WriteWhen::Create {
                continue;
            }
            let memory = entry.groups.iter().find(|memory| memory.group == group.key);
            // A composed text says the rest without the people in it, or stays as it is.
            let is_text = group.mentions_contacts && !group.is_contact && entry.is_consent_withdrawn;
            let derived = if is_text && is_clearing { &without_people } else { &derived };
            let referral = derived.as_ref().map(|derived| &derived.groups[index]);
            let lead = observed.as_ref().map(|observed| &observed[index]);
            if group.is_contact && entry.is_consent_withdrawn {
                frozen_contacts.push(group.name.clone());
                self.withdraw(group, memory, lead, writes);
            }
            let is_frozen_text = is_text && !is_clearing;
            if is_frozen_text {
                frozen_contacts.push(group.name.clone());
            }
            // What moves while a group is frozen is remembered, so that nobody's value is overwritten afterwards.
            let is_silent = entry.is_frozen || is_frozen_text || (group.is_contact && !may_contact(entry));
            let sight = self.sight(group, referral, lead);
            let (decision, next) = fields::merge(memory, &sight, self.now);
            let (decision, next) = self.without_change(group, &sight, decision, next);
            memories.extend(next.or_else(|| memory.cloned()));
            if is_silent {
                continue;
            }
            self.decide(entry, link, group, &sight, decision, writes);
        }
        memories.sort_by_key(|memory| memory.group);
        entry.groups = memories;
        if !frozen_contacts.is_empty() {
            self.holds.push(Hold::ConsentWithdrawn { groups: frozen_contacts });
        }
        if !writes.waiting.is_empty() {
            let groups = std::mem::take(&mut writes.waiting);
            self.holds.push(Hold::LeadClosed { lead: link.lead, state: link.status.state, groups });
        }
    }

    fn sight<'s>(&self, group: &Group, referral: Option<&'s GroupValue>, lead: Option<&'s GroupValue>) -> Sight<'s> {
        let intent = self.row.intent.as_ref().and_then(|intent| {
            intent.groups.iter().find(|(key, _, _)| *key == group.key).map(|(_, referral, lead)| (*referral, *lead))
        });
        let spoken = self.row.opportunities.iter().flatten().filter_map(|opportunity| opportunity.modified).max();
        Sight {
            mapping: group.mapping_hash,
            group: group.key,
            owner: group.owner,
            is_two_way: group.is_two_way,
            referral,
            lead,
            referral_changed: self.row.referral.present().and_then(|referral| referral.updated),
            lead_changed: self.row.lead.present().and_then(|lead| lead.modified).max(spoken),
            intent,
            is_intent_to_lead: self.row.intent.as_ref().is_some_and(|intent| {
                use crate::ports::ActionKind::{Create, Disqualify, Update};
                matches!(intent.kind, Create | Update | Disqualify)
            }),
            is_referral_new: self.is_referral_new(),
            is_lead_new: self.is_lead_new(),
            is_backfilled: self.row.backfill.is_some_and(|groups| groups.contains(group.key)),
            is_referral_proven: self.is_referral_proven(),
            is_lead_proven: self.is_lead_proven(),
        }
    }

    /// Our memory of this pair as it was before this row: the ledger's, else what an export remembers.
    fn memory(&self) -> Option<&Entry> {
        let known = self.row.entry.as_ref().filter(|entry| entry.link.is_some());
        known.or(self.row.recalled.as_deref())
    }

    fn is_referral_proven(&self) -> bool {
        let (Some(memory), Some(referral)) = (self.memory(), self.row.referral.present()) else { return false };
        match &referral.etag {
            Some(etag) => memory.referral_etag.as_ref() == Some(etag),
            // A listing may leave the version out (partner-center §4 row 6).
            None => referral.updated.is_some() && memory.referral_updated == referral.updated,
        }
    }

    fn is_lead_proven(&self) -> bool {
        let (Some(memory), Some(lead)) = (self.memory(), self.row.lead.present()) else { return false };
        let before = memory.link.as_ref().filter(|link| link.lead == lead.id).and_then(|link| link.etag.as_ref());
        before.is_some() && before == lead.etag.as_ref()
    }

    /// The referral is another version than the one last seen, or that one is not known.
    fn is_referral_new(&self) -> bool {
        let entry = self.row.entry.as_ref();
        let was_linked = entry.is_some_and(|entry| entry.link.is_some());
        let before = entry.and_then(|entry| entry.referral_etag.as_ref());
        self.row.referral.present().is_some_and(|referral| was_linked && referral.etag.as_ref() != before)
    }

    /// The lead is another version than the one last seen, or that one is not known.
    fn is_lead_new(&self) -> bool {
        let link = self.row.entry.as_ref().and_then(|entry| entry.link.as_ref());
        let before = link.and_then(|link| link.etag.as_ref());
        self.row.lead.present().is_some_and(|lead| link.is_some() && lead.etag.as_ref() != before)
    }

    /// A write to the lead that would change no column is an agreement.
    fn without_change(
        &self,
        group: &Group,
        sight: &Sight<'_>,
        decision: Merge,
        next: Option<GroupMemory>,
    ) -> (Merge, Option<GroupMemory>) {
        let (Merge::WriteLead(_), Some(referral), Some(lead)) = (decision, sight.referral, sight.lead) else {
            return (decision, next);
        };
        let is_writable = !referral.draft.is_empty() && referral.blocked.is_none();
        if !is_writable || !self.policy.mapping.changes(group, referral, lead).is_empty() {
            return (decision, next);
        }
        let agreed = fields::agreed(group.key, group.mapping_hash, referral.fingerprint, lead.fingerprint);
        (Merge::Rest, Some(GroupMemory { flips: next.and_then(|next| next.flips), ..agreed }))
    }

    /// Turns the decision about one group into a part of a write or into a hold.
    fn decide(
        &mut self,
        entry: &Entry,
        link: &Link,
        group: &Group,
        sight: &Sight<'_>,
        decision: Merge,
        writes: &mut Writes,
    ) {
        if let Some(value) = sight.referral {
            self.note_skipped(group, value);
        }
        match decision {
            Merge::Rest => {}
            Merge::NeedReferral => self.needs.referral = true,
            Merge::NeedLead => self.need_lead(),
            Merge::NoCommonBase => self.holds.push(Hold::NoCommonBase { group: group.name.clone() }),
            Merge::BothMoved => {
                self.holds.push(Hold::BothMoved { group: group.name.clone(), owner: owner_word(group) });
            }
            Merge::Flapping => {
                let Some(lead) = self.row.lead.present() else {
                    self.need_lead(); // For its last author.
                    return;
                };
                let is_ours = lead.modified_by.is_some() && lead.modified_by == self.policy.crm_user;
                let group = group.name.clone();
                self.holds.push(Hold::Flapping { group, author: lead.modified_by, is_ours });
            }
            Merge::WriteLead(rule) => {
                let Some(value) = sight.referral else {
                    self.needs.referral = true;
                    return;
                };
                if link.status.state != LeadState::Open {
                    writes.waiting.push(group.name.clone());
                } else if let Some(reason) = &value.blocked {
                    self.holds.push(Hold::DeadLetter { cause: Cause::new(None, reason) });
                } else if value.draft.is_empty() {
                    // Nothing of it can be written: skipped columns are noted above.
                } else {
                    let draft = match sight.lead {
                        Some(lead) => self.policy.mapping.changes(group, value, lead),
                        None => value.draft.clone(),
                    };
                    let names = draft.keys().cloned().collect();
                    writes.draft.columns.extend(draft);
                    writes.groups.push(write_of(group, value.fingerprint, value.draft_fingerprint, names, rule));
                }
            }
            Merge::WriteBack(rule) => {
                let Some(value) = sight.lead else {
                    self.need_lead();
                    return;
                };
                if !self.policy.writes_referrals() {
                    return;
                }
                if !matches!(entry.referral_status, ReferralStatus::New | ReferralStatus::Active) {
                    let reason = format!("the referral is {}", entry.referral_status);
                    self.holds.push(Hold::NotWritable { group: group.name.clone(), reason });
                    return;
                }
                let was_cut = sight.referral.is_some_and(|referral| referral.is_cut);
                if was_cut {
                    let reason = "its text was cut to fit and is not the whole text".to_owned();
                    self.holds.push(Hold::NotWritable { group: group.name.clone(), reason });
                    return;
                }
                match self.policy.mapping.write_back(group, value, self.row.referral.present()) {
                    Err(reason) => {
                        self.holds.push(Hold::NotWritable { group: group.name.clone(), reason: reason.to_string() });
                    }
                    Ok(operations) if operations.is_empty() => {} // The referral says the same in its own words.
                    Ok(operations) => {
                        let paths = operations.iter().map(|operation| operation.path.clone()).collect();
                        writes.back.operations.extend(operations);
                        writes.back_groups.push(write_of(group, value.fingerprint, value.fingerprint, paths, rule));
                    }
                }
            }
        }
    }

    /// The lead's values are missing: the lead itself, or the opportunities that speak for it.
    fn need_lead(&mut self) {
        match self.row.lead {
            Seen::Present(_) => self.needs.opportunities = true,
            Seen::Unseen | Seen::Absent => self.needs.lead = true,
        }
    }

    /// What a withdrawn consent does to a contact group.
    fn withdraw(
        &mut self,
        group: &Group,
        memory: Option<&GroupMemory>,
        lead: Option<&GroupValue>,
        writes: &mut Writes,
    ) {
        match self.policy.on_consent_withdrawn {
            OnConsentWithdrawn::Hold => {}
            OnConsentWithdrawn::Mark => {
                let Some(column) = &self.policy.consent_mark_column else { return };
                self.needs.lead |= matches!(self.row.lead, Seen::Unseen);
                let is_marked = self.row.lead.present().map(|lead| lead.columns.get(column) == Some(&true.into()));
                if is_marked == Some(false) {
                    writes.draft.columns.insert(column.clone(), true.into());
                    writes.also.push("the customer withdrew the consent (mapping.on_consent_withdrawn = \"mark\")");
                }
            }
            OnConsentWithdrawn::Clear => {
                self.needs.lead |= matches!(self.row.lead, Seen::Unseen);
                // Once: what a seller enters afterwards is the seller's.
                let nothing = self.policy.mapping.nothing(group);
                let is_done = memory.is_some_and(|memory| base_of(memory) == (nothing, nothing));
                let Some(value) = lead.filter(|value| !value.is_empty && !is_done) else { return };
                let names: Vec<_> = value.columns.keys().cloned().collect();
                let nulls = names.iter().map(|column| (column.clone(), serde_json::Value::Null));
                writes.draft.columns.extend(nulls);
                writes.groups.push(write_of(group, nothing, nothing, names, Rule::ConsentWithdrawn));
                writes.also.push("the customer withdrew the consent (mapping.on_consent_withdrawn = \"clear\")");
            }
        }
    }

    /// Fills the empty referral id column of a lead that the referral names, that was just adopted or that is computed.
    ///
    /// A master stays without: the lead that was merged into it still holds the key, and is never written again.
    fn column(&mut self, link: &Link, writes: &mut Writes) {
        let (Some(column), Some(lead)) = (&self.policy.referral_column, self.row.lead.present()) else { return };
        let is_named = self.row.referral.present().and_then(reference) == Some(lead.id);
        let is_adopted = self.row.adoption.as_ref().is_some_and(|adoption| adoption.followed.is_empty());
        let is_meant = is_named || is_adopted || lead.id == self.policy.computed(self.row.id);
        if is_meant && lead.referral.is_none() && link.status.state == LeadState::Open {
            writes.draft.columns.insert(column.clone(), self.row.id.to_string().into());
            writes.also.push("the referral id (referral_id_column)");
        }
    }

    /// The referral that a lead speaks for already, if it is another one: by our memory, or by the lead's own column.
    fn taken_by(&self, lead: &Lead) -> Option<ReferralId> {
        let claimed = self.row.claims.get(&lead.id).map(|claim| claim.referral);
        claimed.or(lead.referral).filter(|referral| *referral != self.row.id)
    }

    /// The referral was closed over there while the lead is open.
    fn closed_over_there(&mut self, entry: &Entry, link: &Link, writes: &mut Writes) {
        if !self.is_closing_news(entry, link) {
            return;
        }
        match self.policy.status.on_referral_closed {
            OnReferralClosed::Note | OnReferralClosed::Nothing => {}
            OnReferralClosed::Disqualify => {
                let code = self.policy.status.disqualify_code;
                writes.draft.status = Some(crate::model::LeadStatus { state: LeadState::Disqualified, code });
                writes.also.push("the referral was closed (status.on_referral_closed = \"disqualify\")");
            }
        }
    }

    /// True until the closing of a referral that was linked before has been answered on its open lead.
    fn is_closing_news(&self, entry: &Entry, link: &Link) -> bool {
        let was_linked = self.row.entry.as_ref().is_some_and(|entry| entry.link.is_some());
        let is_over_there = entry.referral_status == ReferralStatus::Closed && entry.closed_by_us.is_none();
        let is_answered = entry.reported_after_closing.is_some();
        was_linked && is_over_there && !is_answered && link.status.state == LeadState::Open
    }

    /// The write to the lead, if any.
    fn lead_action(&mut self, entry: &mut Entry, link: &Link, writes: &mut Writes) {
        if writes.draft.is_empty() || link.status.state != LeadState::Open || self.is_waiting(entry, Side::Crm) {
            return;
        }
        let Some(etag) = link.etag.clone() else {
            self.needs.lead = true;
            return;
        };
        self.action = Some(Action::Update {
            referral: self.row.id,
            lead: link.lead,
            etag,
            draft: std::mem::take(&mut writes.draft),
            groups: std::mem::take(&mut writes.groups),
            also: std::mem::take(&mut writes.also),
        });
    }

    /// The write to the referral, if any: fields, the lead id and the status step in one patch.
    fn referral_action(&mut self, entry: &mut Entry, link: &Link, writes: Writes) {
        let outcome = status::outcome(link.status, link.deal, &self.policy.status);
        let (step, why) = self.step(entry, link, outcome);
        let is_open = matches!(entry.referral_status, ReferralStatus::New | ReferralStatus::Active);
        if !is_open || !self.policy.writes_referrals() {
            return;
        }
        let mut patch = Patch::default();
        match step {
            Step::None => {}
            Step::Accept => {
                patch.replace("/status", "Active");
                patch.replace("/substatus", "Accepted");
            }
            Step::Close(closing) => {
                patch.replace("/status", "Closed");
                patch.replace("/substatus", closing.substatus().to_string());
                patch.replace("/statusReason", status::reason(link.status, &self.policy.status));
            }
        }
        let sets_reference = self.wants_reference(entry);
        if sets_reference {
            patch.replace("/externalReferenceId", link.lead.to_string());
        }
        patch.operations.extend(writes.back.operations);
        if patch.is_empty() {
            return;
        }
        let Some(etag) = entry.referral_etag.clone() else {
            self.needs.referral = true;
            return;
        };
        if self.action.is_some() || self.is_waiting(entry, Side::Portal) {
            return; // The lead first; the referral is planned again from the answer.
        }
        self.action = Some(Action::Patch {
            referral: self.row.id,
            lead: link.lead,
            etag,
            patch,
            step,
            groups: writes.back_groups,
            sets_reference,
            is_fresh: self.row.is_referral_fresh,
            why,
        });
    }

    fn wants_reference(&mut self, entry: &Entry) -> bool {
        match entry.external_reference {
            ExternalReference::Empty | ExternalReference::OtherLead => true,
            ExternalReference::Ours => false,
            ExternalReference::Foreign if self.policy.link.overwrite_foreign_reference => true,
            ExternalReference::Foreign => {
                self.holds.push(Hold::ForeignReference);
                false
            }
        }
    }

    /// The status step that is due now, with its reason.
    fn step(&mut self, entry: &mut Entry, link: &Link, outcome: Outcome) -> (Step, String) {
        let target = status::target(entry.referral_status, outcome);
        let lead = format!("lead {} is {} (status {})", link.lead, link.status.state, link.status.code);
        let closing = match target {
            Target::Nothing => {
                entry.outcome = None;
                return (Step::None, String::new());
            }
            Target::Accept => {
                entry.outcome = None;
                return (Step::Accept, format!("{lead} (status.codes)"));
            }
            Target::TooLate => {
                self.too_late(entry, link, outcome);
                return (Step::None, String::new());
            }
            Target::Close(closing) | Target::AcceptThenClose(closing) => closing,
        };
        let observed = match entry.outcome {
            Some(observed) if is_same(observed.closing, closing) => ObservedOutcome { closing, ..observed },
            Some(_) | None => ObservedOutcome { closing, since: self.now, is_approved: false },
        };
        entry.outcome = Some(observed);
        if !(link.is_ours || link.has_changed_state || observed.is_approved) {
            self.holds.push(Hold::OutcomeOlderThanLink { closing });
            return (Step::None, String::new());
        }
        if !self.policy.writes_referrals() {
            return (Step::None, String::new());
        }
        let until = status::settled_at(closing, observed.since, entry.is_registered_co_sell, &self.policy.status);
        if let Target::AcceptThenClose(_) = target {
            return (Step::Accept, format!("{lead}, on the way to {closing} (status.codes)"));
        }
        if self.now < until {
            self.holds.push(Hold::NotSettled { closing, until });
            entry.look_at = Some(entry.look_at.map_or(until, |look_at| look_at.min(until)));
            return (Step::None, String::new());
        }
        (Step::Close(closing), format!("{lead} since {} (status.codes, status.settle_time)", observed.since))
    }

    /// The referral is closed and the lead goes on: said once.
    fn too_late(&mut self, entry: &mut Entry, link: &Link, outcome: Outcome) {
        entry.outcome = None;
        if entry.referral_status != ReferralStatus::Closed {
            return;
        }
        if self.policy.status.on_referral_closed == OnReferralClosed::Disqualify && self.is_closing_news(entry, link) {
            return; // The lead is written first.
        }
        let mark = status::mark(link.status, link.deal);
        let before = entry.reported_after_closing.replace(mark);
        if status::fits_closed(entry.referral_substatus, outcome) {
            return;
        }
        if matches!(outcome, Outcome::Nothing | Outcome::Working) && entry.closed_by_us.is_none() {
            return;
        }
        let hold = Hold::ClosedAlready { now: status::words(link.status, link.deal) };
        if before == Some(mark) {
            let earlier = self.row.entry.as_ref().map_or(0, |entry| entry.holds);
            self.raised |= earlier & hold.bit();
        } else {
            self.holds.push(hold);
        }
    }

    /// True (with a hold) while this row waits after a failure on that side.
    fn is_waiting(&mut self, entry: &mut Entry, side: Side) -> bool {
        let Some(trouble) = entry.trouble.as_ref().filter(|trouble| trouble.cause.side.unwrap_or(Side::Crm) == side)
        else {
            return false;
        };
        let cause = trouble.cause.clone();
        if trouble.is_dead_letter {
            self.holds.push(Hold::DeadLetter { cause });
            return true;
        }
        let until = backoff::next_attempt(trouble, self.row.id, &self.policy.retry);
        if self.now >= until || self.policy.ignores_delays {
            return false;
        }
        self.holds.push(Hold::Retrying { cause, until });
        entry.look_at = Some(entry.look_at.map_or(until, |look_at| look_at.min(until)));
        true
    }

    fn note_skipped(&mut self, group: &Group, value: &GroupValue) {
        for skipped in &value.skipped {
            self.holds.push(Hold::ColumnSkipped {
                group: group.name.clone(),
                column: skipped.column.clone(),
                reason: skipped.reason.to_string(),
            });
        }
    }
}

/// What is collected for the two writes of a row.
#[derive(Default)]
struct Writes {
    draft: LeadDraft,
    groups: Vec<GroupWrite>,
    also: Vec<&'static str>,
    back: Patch,
    back_groups: Vec<GroupWrite>,
    waiting: Vec<String>,
}

fn write_of(group: &Group, referral: u64, lead: u64, columns: Vec<Column>, rule: Rule) -> GroupWrite {
    GroupWrite {
        group: group.key,
        name: group.name.clone(),
        mapping: group.mapping_hash,
        referral,
        lead,
        columns,
        rule,
    }
}

fn owner_word(group: &Group) -> &'static str {
    use crate::plan::settings::FieldOwner;
    match group.owner {
        FieldOwner::PartnerCenter => "partner_center",
        FieldOwner::Crm => "crm",
        FieldOwner::Newest => "newest",
        FieldOwner::Hold => "hold",
    }
}

/// Declined and Lost are the same news: which of them is written depends on the referral.
fn is_same(left: crate::model::Closing, right: crate::model::Closing) -> bool {
    use crate::model::Closing::{Declined, Lost, Won};
    matches!((left, right), (Won, Won) | (Lost | Declined, Lost | Declined))
}

/// Whether contact columns may be filled: the customer did not say no.
fn may_contact(entry: &Entry) -> bool {
    entry.consent != Some(false)
}

/// The memory of a referral that was never seen before.
fn first_entry(referral: &Referral, now: Timestamp) -> Entry {
    let mut entry = Entry {
        standing: Standing::Pending,
        first_seen: now,
        referral_etag: None,
        referral_status: referral.status,
        referral_substatus: referral.substatus,
        referral_created: referral.created,
        referral_updated: referral.updated,
        deadline: None,
        external_reference: ExternalReference::Empty,
        consent: referral.consent_to_contact,
        is_consent_withdrawn: false,
        is_registered_co_sell: false,
        is_frozen: false,
        link: None,
        groups: Vec::new(),
        outcome: None,
        closed_by_us: None,
        reported_after_closing: None,
        trouble: None,
        holds: 0,
        primary_contact: None,
        look_at: None,
    };
    remember_referral(&mut entry, referral);
    entry
}

/// Notes what the referral says now.
fn remember_referral(entry: &mut Entry, referral: &Referral) {
    // A listing may leave the version out (partner-center §4 row 6): the known one stays while nothing was updated.
    if referral.etag.is_some() || entry.referral_updated != referral.updated {
        entry.referral_etag.clone_from(&referral.etag);
    }
    entry.referral_status = referral.status;
    entry.referral_substatus = referral.substatus;
    entry.referral_created = referral.created.or(entry.referral_created);
    entry.referral_updated = referral.updated.or(entry.referral_updated);
    entry.deadline = match referral.status {
        ReferralStatus::New => {
            referral.expires.or_else(|| referral.created.map(|created| created.plus(status::ANSWER_TIME)))
        }
        ReferralStatus::Active | ReferralStatus::Closed | ReferralStatus::Other => None,
    };
    if entry.consent != Some(false) && referral.consent_to_contact == Some(false) {
        // Of a recalled entry nobody knows whether that was answered before: it counts as seen for the first time.
        entry.is_consent_withdrawn = entry.link.is_some() && !entry.has_recalled();
    }
    if referral.consent_to_contact == Some(true) {
        entry.is_consent_withdrawn = false;
    }
    entry.consent = referral.consent_to_contact.or(entry.consent);
    entry.is_registered_co_sell = scope::is_registered_co_sell(referral);
    if let Some(link) = &entry.link {
        let was_ours = entry.external_reference == ExternalReference::Ours;
        entry.external_reference = match external_reference(referral, link.lead) {
            // The id we wrote before a merge stays as it is.
            ExternalReference::OtherLead if was_ours => ExternalReference::Ours,
            other => other,
        };
    }
}

/// What `externalReferenceId` holds, seen from a lead.
fn external_reference(referral: &Referral, lead: LeadId) -> ExternalReference {
    match referral.external_reference.as_deref() {
        None => ExternalReference::Empty,
        Some(text) => match LeadId::parse(text) {
            Some(id) if id == lead => ExternalReference::Ours,
            Some(_) => ExternalReference::OtherLead,
            None => ExternalReference::Foreign,
        },
    }
}

/// How a closed referral was closed, in our words.
fn closing_of(substatus: Substatus) -> Option<crate::model::Closing> {
    match substatus {
        Substatus::Won => Some(crate::model::Closing::Won),
        Substatus::Lost => Some(crate::model::Closing::Lost),
        Substatus::Declined => Some(crate::model::Closing::Declined),
        Substatus::Pending | Substatus::Received | Substatus::Accepted | Substatus::Expired | Substatus::Other => None,
    }
}

/// The lead that a referral names.
fn reference(referral: &Referral) -> Option<LeadId> {
    referral.external_reference.as_deref().and_then(LeadId::parse)
}

/// Notes what the lead says now.
fn remember_lead(link: &mut Link, lead: &Lead) {
    link.has_changed_state |= lead.status.state != link.status.state;
    link.etag.clone_from(&lead.etag);
    link.status = lead.status;
    link.modified = lead.modified.or(link.modified);
}

/// Order of urgency of a row.
fn urgency(row: &Row, entry: Option<&Entry>, now: Timestamp, policy: &Policy) -> Urgency {
    let Some(entry) = entry else { return Urgency(9, 0) };
    let deadline = entry.deadline.map_or(i64::MAX, Timestamp::millis);
    let is_expiring = entry.deadline.is_some_and(|end| end.minus(policy.status.deadline_warning.get()) <= now);
    let is_new = entry.referral_status == ReferralStatus::New;
    let is_valuable = row.referral.present().is_some_and(scope::is_high_value);
    let class = match (is_expiring, is_new, is_valuable) {
        (true, _, _) => 0,
        (false, true, _) => 1,
        (false, false, true) => 2,
        (false, false, false) => 3,
    };
    Urgency(class, deadline)
}

/// The fingerprint pair a group's memory holds now, for people and tests.
pub fn base_of(memory: &GroupMemory) -> (u64, u64) {
    match memory.base {
        Base::Common { referral, lead } | Base::Apart { referral, lead, .. } | Base::Recalled { referral, lead } => {
            (referral, lead)
        }
    }
}
