//! What becomes of each group of fields: merged, then made part of a write or of a hold.

use super::intent::side_of;
use super::writes::Writes;
use super::{Draft, GroupTrace};
use crate::model::{Base, Cause, Column, Deal, Entry, GroupMemory, Lead, LeadState, Link, ReferralStatus, Side};
use crate::plan::action::{GroupWrite, Hold, Rule};
use crate::plan::fields::{self, Merge, Sight};
use crate::plan::mapping::{Group, GroupValue};
use crate::plan::scope;
use crate::plan::settings::{OnConsentWithdrawn, OnLeavingFilter, WriteWhen};
use crate::plan::snapshot::Seen;

impl Draft<'_> {
    /// A linked referral that left a filter: what it would do is left alone until it is back.
    pub(super) fn freeze(&mut self, entry: &mut Entry) {
        if let Some(referral) = self.row.referral.present() {
            let left = scope::out_of_scope(referral, self.policy.organization.as_deref(), &self.policy.scope).is_some();
            entry.is_frozen = left && self.policy.scope.on_leaving_filter == OnLeavingFilter::Freeze;
        }
        if entry.is_frozen {
            self.holds.push(Hold::Frozen);
        }
    }

    /// Merges every group and collects what goes where.
    pub(super) fn fields(&mut self, entry: &mut Entry, link: &Link, writes: &mut Writes) {
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
        let seen = self.row.lead.present().filter(|_| is_lead_known);
        let before = self.row.entry.as_ref().and_then(|entry| entry.link.as_ref());
        let had_deal = before.is_some_and(|before| before.lead == link.lead && before.deal != Deal::None);
        let is_deal_gone = had_deal && speaks.is_some_and(<[_]>::is_empty);
        let observed = std::cell::OnceCell::new();
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
            if let Some(memory) = memory.filter(|memory| derived.is_none() && self.is_quiet(entry, group, memory, seen))
            {
                memories.push(memory.clone());
                continue;
            }
            if is_deal_gone && group.is_spoken_for() && memory.is_some() {
                // Out of sight is no news: only a second look that finds none either lets the lead speak again.
                memories.extend(memory.cloned());
                continue;
            }
            // A composed text says the rest without the people in it, or stays as it is.
            let is_text = group.mentions_contacts && !group.is_contact && entry.is_consent_withdrawn;
            let derived = if is_text && is_clearing { &without_people } else { &derived };
            let referral = derived.as_ref().map(|derived| &derived.groups[index]);
            let lead = seen.map(|lead| &observed.get_or_init(|| mapping.observe(lead, speaks))[index]);
            if group.is_contact && entry.is_consent_withdrawn {
                frozen_contacts.push(group.name.clone());
                self.withdraw(group, memory, lead, writes);
            }
            let is_frozen_text = is_text && !is_clearing;
            if is_frozen_text {
                frozen_contacts.push(group.name.clone());
            }
            // What moves while a group is frozen is remembered, so that nobody's value is overwritten afterwards.
            let is_silent = entry.is_frozen
                || is_frozen_text
                || (group.is_contact && !may_contact(entry))
                || (group.mentions_status && self.says_nothing_of_closing(entry));
            let sight = self.sight(group, referral, lead);
            let (decision, next) = fields::merge(memory, &sight, self.now);
            let (decision, next) = self.without_change(group, &sight, decision, next);
            if let Some(trace) = &mut self.trace {
                trace.push(GroupTrace {
                    index,
                    base: memory.map(|memory| memory.base),
                    referral_moved: next.as_ref().and_then(|next| next.referral_moved).map(|moved| moved.at),
                    lead_moved: next.as_ref().and_then(|next| next.lead_moved).map(|moved| moved.at),
                    decision,
                    is_silent,
                });
            }
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

    /// Nothing can come of this group while the referral was not read: both sides agreed, nothing was asked for or is
    /// under way, and the lead, if it was read, says what it said. What the merge would find, without building values.
    fn is_quiet(&self, entry: &Entry, group: &Group, memory: &GroupMemory, seen: Option<&Lead>) -> bool {
        let Base::Common { lead: agreed, .. } = memory.base else { return false };
        let is_at_rest = memory.mapping == group.mapping_hash
            && memory.referral_moved.is_none()
            && memory.lead_moved.is_none()
            && memory.released.is_none()
            && memory.flips.is_none();
        let is_asked = self.row.intent.is_some() || self.row.backfill.is_some() || self.trace.is_some();
        is_at_rest
            && !is_asked
            && !entry.is_consent_withdrawn
            && seen.is_none_or(|lead| {
                lead.status.state != LeadState::Qualified && self.policy.mapping.fingerprint(group, lead) == agreed
            })
    }

    pub(super) fn sight<'s>(
        &self,
        group: &Group,
        referral: Option<&'s GroupValue>,
        lead: Option<&'s GroupValue>,
    ) -> Sight<'s> {
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
            is_intent_to_lead: self.row.intent.as_ref().is_some_and(|intent| side_of(intent.kind) == Side::Crm),
            is_referral_new: self.is_referral_new(),
            is_lead_new: self.is_lead_new(),
            is_backfilled: self.row.backfill.is_some_and(|groups| groups.contains(group.key)),
            is_referral_proven: self.is_referral_proven(),
            is_lead_proven: self.is_lead_proven() && !(group.is_spoken_for() && self.is_qualified()),
            is_hold_lifted: self.had(&Hold::ByOperator),
        }
    }

    /// Our memory of this pair as it was before this row: the ledger's, else what an export remembers.
    pub(super) fn memory(&self) -> Option<&Entry> {
        let known = self.row.entry.as_ref().filter(|entry| entry.link.is_some());
        known.or(self.row.recalled.as_deref())
    }

    pub(super) fn is_referral_proven(&self) -> bool {
        let (Some(memory), Some(referral)) = (self.memory(), self.row.referral.present()) else { return false };
        match &referral.etag {
            Some(etag) => memory.referral_etag.as_ref() == Some(etag),
            // A listing may leave the version out (partner-center §4 row 6).
            None => referral.updated.is_some() && memory.referral_updated == referral.updated,
        }
    }

    pub(super) fn is_lead_proven(&self) -> bool {
        let (Some(memory), Some(lead)) = (self.memory(), self.row.lead.present()) else { return false };
        let before = memory.link.as_ref().filter(|link| link.lead == lead.id).and_then(|link| link.etag.as_ref());
        before.is_some() && before == lead.etag.as_ref()
    }

    /// Opportunities speak for some groups, and no version of the lead proves what they said.
    fn is_qualified(&self) -> bool {
        self.row.lead.present().is_some_and(|lead| lead.status.state == LeadState::Qualified)
    }

    /// The referral is another version than the one last seen, or that one is not known.
    pub(super) fn is_referral_new(&self) -> bool {
        let entry = self.row.entry.as_ref();
        let was_linked = entry.is_some_and(|entry| entry.link.is_some());
        let before = entry.and_then(|entry| entry.referral_etag.as_ref());
        self.row.referral.present().is_some_and(|referral| was_linked && referral.etag.as_ref() != before)
    }

    /// The lead is another version than the one last seen, or that one is not known.
    pub(super) fn is_lead_new(&self) -> bool {
        let link = self.row.entry.as_ref().and_then(|entry| entry.link.as_ref());
        let before = link.and_then(|link| link.etag.as_ref());
        self.row.lead.present().is_some_and(|lead| link.is_some() && lead.etag.as_ref() != before)
    }

    /// A write to the lead that would change no column is an agreement.
    pub(super) fn without_change(
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
    pub(super) fn decide(
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
    pub(super) fn need_lead(&mut self) {
        match self.row.lead {
            Seen::Present(_) => self.needs.opportunities = true,
            Seen::Unseen | Seen::Absent => self.needs.lead = true,
        }
    }

    /// What a withdrawn consent does to a contact group.
    pub(super) fn withdraw(
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
                self.needs.lead |= self.row.lead.is_unseen();
                let is_marked = self.row.lead.present().map(|lead| lead.columns.get(column) == Some(&true.into()));
                if is_marked == Some(false) {
                    writes.draft.columns.insert(column.clone(), true.into());
                    writes.also.push("the customer withdrew the consent (mapping.on_consent_withdrawn = \"mark\")");
                }
            }
            OnConsentWithdrawn::Clear => {
                self.needs.lead |= self.row.lead.is_unseen();
                // Once: what a seller enters afterwards is the seller's.
                let nothing = self.policy.mapping.nothing(group);
                let is_done = memory.is_some_and(|memory| fields::halves(memory.base) == (nothing, nothing));
                let Some(value) = lead.filter(|value| !value.is_empty && !is_done) else { return };
                let names: Vec<_> = value.columns.keys().cloned().collect();
                let nulls = names.iter().map(|column| (column.clone(), serde_json::Value::Null));
                writes.draft.columns.extend(nulls);
                writes.groups.push(write_of(group, nothing, nothing, names, Rule::ConsentWithdrawn));
                writes.also.push("the customer withdrew the consent (mapping.on_consent_withdrawn = \"clear\")");
            }
        }
    }

    pub(super) fn note_skipped(&mut self, group: &Group, value: &GroupValue) {
        for skipped in &value.skipped {
            self.holds.push(Hold::ColumnSkipped {
                group: group.name.clone(),
                column: skipped.column.clone(),
                reason: skipped.reason.to_string(),
            });
        }
    }
}

pub(super) fn write_of(group: &Group, referral: u64, lead: u64, columns: Vec<Column>, rule: Rule) -> GroupWrite {
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

pub(in crate::plan) fn owner_word(group: &Group) -> &'static str {
    use crate::plan::settings::FieldOwner;
    match group.owner {
        FieldOwner::PartnerCenter => "partner_center",
        FieldOwner::Crm => "crm",
        FieldOwner::Newest => "newest",
        FieldOwner::Hold => "hold",
    }
}

/// Whether contact columns may be filled: the customer did not say no.
pub(in crate::plan) fn may_contact(entry: &Entry) -> bool {
    entry.consent != Some(false)
}
