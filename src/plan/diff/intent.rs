//! A write of ours whose answer was lost, on a row that is not decided: an operator holds it, or its referral is missing.
//!
//! What it left behind is remembered before it is forgotten that it was sent. Seen later, after the next change of either
//! side, our own write would be taken for somebody's edit.

use super::memory::closing_of;
use super::{Draft, groups};
use crate::model::{Entry, LeadState, Link, Referral, ReferralStatus, Side, Standing};
use crate::plan::action::Hold;
use crate::plan::settings::WriteWhen;
use crate::plan::{fields, status};
use crate::ports::ActionKind;

impl Draft<'_> {
    /// Takes over what our write left behind, and nothing else of what is seen.
    ///
    /// A write to a referral that cannot be found is the one case in which nobody knows: the record of it is kept, and
    /// costs nothing until the referral is looked for again anyway.
    pub(super) fn remember_intent(&mut self, entry: &mut Entry) {
        let Some(intent) = &self.row.intent else { return };
        let referral = self.row.referral.present();
        if side_of(intent.kind) == Side::Portal && referral.is_none() {
            self.keeps_intent = true;
            self.holds.extend((!self.holds.contains(&Hold::ReferralMissing)).then_some(Hold::ReferralMissing));
            return;
        }
        if intent.kind == ActionKind::Create && entry.standing == Standing::Pending && entry.link.is_none() {
            // The lead that it made is the lead of this referral.
            if let Some([lead]) = self.row.adoption.as_ref().map(|adoption| adoption.candidates.as_slice()) {
                self.adopt(entry, lead);
            }
        }
        if let Some(referral) = referral {
            self.note_our_closing(entry, referral);
        }
        if let (ActionKind::Disqualify, Some(lead), Some(link)) = (intent.kind, self.row.lead.present(), &entry.link) {
            let is_answered = lead.status.state != LeadState::Open || self.is_lead_new();
            if lead.id == link.lead && is_answered {
                entry.reported_after_closing = Some(status::mark(lead.status, link.deal));
            }
        }
        self.remember_written_groups(entry);
    }

    /// A disqualification of ours whose answer was lost has been answered by a person: the lead is open, and in another
    /// version than the one that was to be disqualified. In doubt it has: nobody's lead is taken away twice.
    pub(super) fn was_opened_again(&self, link: &Link) -> bool {
        let is_ours = self.row.intent.as_ref().is_some_and(|intent| intent.kind == ActionKind::Disqualify);
        is_ours && link.status.state == LeadState::Open && self.is_lead_new()
    }

    /// A closing of ours whose answer was lost is ours, unless somebody else closed the referral in another way before.
    pub(super) fn note_our_closing(&self, entry: &mut Entry, referral: &Referral) {
        let is_close = self.row.intent.as_ref().is_some_and(|intent| intent.kind == ActionKind::Close);
        let closing = closing_of(referral.substatus);
        let is_meant = entry.outcome.is_none_or(|outcome| Some(outcome.closing) == closing);
        if is_close && is_meant && referral.status == ReferralStatus::Closed {
            entry.closed_by_us = closing;
        }
    }

    /// Groups whose side still shows what we were about to write have that as their base.
    fn remember_written_groups(&self, entry: &mut Entry) {
        let Some(link) = entry.link.as_ref().filter(|_| entry.standing == Standing::Linked) else { return };
        let mapping = &self.policy.mapping;
        let derived = self.row.referral.present().map(|referral| {
            let may_contact = groups::may_contact(entry) || entry.is_consent_withdrawn;
            mapping.derive_linked(referral, entry.primary_contact, may_contact)
        });
        let lead = self.row.lead.present().filter(|lead| lead.id == link.lead);
        let is_qualified = lead.is_some_and(|lead| lead.status.state == LeadState::Qualified);
        let speaks = self.row.opportunities.as_deref().filter(|_| is_qualified);
        let observed = lead.map(|lead| mapping.observe(lead, speaks));
        for (index, group) in mapping.groups().iter().enumerate() {
            let is_out_of_sight = is_qualified && speaks.is_none() && group.is_spoken_for();
            if group.write == WriteWhen::Create || is_out_of_sight {
                continue;
            }
            let referral = derived.as_ref().map(|derived| &derived.groups[index]);
            let sight = self.sight(group, referral, observed.as_ref().map(|observed| &observed[index]));
            let place = entry.groups.binary_search_by_key(&group.key, |memory| memory.group);
            let memory = place.ok().map(|place| &entry.groups[place]);
            let Some(left_behind) = fields::left_behind(memory, &sight, self.now) else { continue };
            match place {
                Ok(place) => entry.groups[place] = left_behind,
                Err(place) => entry.groups.insert(place, left_behind),
            }
        }
    }
}

/// Where a write goes.
pub(super) fn side_of(kind: ActionKind) -> Side {
    match kind {
        ActionKind::Create | ActionKind::Update | ActionKind::Disqualify => Side::Crm,
        ActionKind::WriteBack | ActionKind::Accept | ActionKind::Close => Side::Portal,
    }
}
