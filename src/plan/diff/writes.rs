//! The two writes of a row: to the lead, and to the referral with the status step that is due.

use super::Draft;
use super::link::reference;
use crate::model::{
    Entry, ExternalReference, LeadDraft, LeadState, Link, ObservedOutcome, Patch, ReferralStatus, Side,
};
use crate::plan::action::{Action, GroupWrite, Hold, Step};
use crate::plan::backoff;
use crate::plan::settings::OnReferralClosed;
use crate::plan::status::{self, Outcome, Target};

impl Draft<'_> {
    /// Fills the empty referral id column of a lead that the referral names, that was just adopted or that is computed.
    ///
    /// A master stays without: the lead that was merged into it still holds the key, and is never written again. Where
    /// only the refusal tells that it is one, everything else is written without the column.
    pub(super) fn column(&mut self, link: &Link, writes: &mut Writes) {
        let Some(column) = &self.policy.referral_column else { return };
        let taken = Hold::ReferralIdTaken { lead: link.lead };
        let foreign = Hold::ForeignReferralId { lead: link.lead };
        let Some(lead) = self.row.lead.present() else {
            self.raised |= self.before & (taken.bit() | foreign.bit());
            return;
        };
        let is_named = self.row.referral.present().and_then(reference) == Some(lead.id);
        let is_adopted = self.row.adoption.as_ref().is_some_and(|adoption| adoption.followed.is_empty());
        let is_meant = is_named || is_adopted || lead.id == self.policy.computed(self.row.id);
        // Refused once, it is refused until somebody does something about the other lead, and says so.
        let was_refused = self.row.is_key_taken || self.had(&taken);
        if lead.referral.is_none() && was_refused {
            self.holds.push(taken);
        } else if is_meant && lead.has_foreign_referral && link.status.state == LeadState::Open {
            // Whatever a person noted there, nobody asked us to replace it.
            self.holds.push(foreign);
        } else if is_meant && lead.referral.is_none() && link.status.state == LeadState::Open {
            writes.draft.columns.insert(column.clone(), self.row.id.to_string().into());
            writes.also.push("the referral id (referral_id_column)");
        }
    }

    /// The referral was closed over there while the lead is open.
    ///
    /// What else there is to write goes first: a lead that is being closed may refuse every other column (dataverse §2.3).
    pub(super) fn closed_over_there(&mut self, entry: &Entry, link: &Link, writes: &mut Writes) {
        if !self.is_closing_news(entry, link) || !writes.draft.is_empty() {
            return;
        }
        match self.policy.status.on_referral_closed {
            // The groups have said it, or kept silent.
            OnReferralClosed::Note | OnReferralClosed::Nothing => {}
            OnReferralClosed::Disqualify => {
                let code = self.policy.status.disqualify_code;
                writes.draft.status = Some(crate::model::LeadStatus { state: LeadState::Disqualified, code });
                writes.also.push("the referral was closed (status.on_referral_closed = \"disqualify\")");
            }
        }
    }

    /// True when the lead hears nothing of what was closed over there, not even by columns that are mapped from the status.
    pub(super) fn says_nothing_of_closing(&self, entry: &Entry) -> bool {
        self.policy.status.on_referral_closed == OnReferralClosed::Nothing
            && entry.referral_status == ReferralStatus::Closed
            && entry.closed_by_us.is_none()
    }

    /// True until the closing of a referral that was linked before has been answered on its open lead.
    pub(super) fn is_closing_news(&self, entry: &Entry, link: &Link) -> bool {
        let was_linked = self.row.entry.as_ref().is_some_and(|entry| entry.link.is_some());
        let is_over_there = entry.referral_status == ReferralStatus::Closed && entry.closed_by_us.is_none();
        let is_answered = entry.reported_after_closing.is_some() || self.was_opened_again(link);
        was_linked && is_over_there && !is_answered && link.status.state == LeadState::Open
    }

    /// The write to the lead, if any.
    pub(super) fn lead_action(&mut self, entry: &mut Entry, link: &Link, writes: &mut Writes) {
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
    pub(super) fn referral_action(&mut self, entry: &mut Entry, link: &Link, writes: Writes) {
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
            is_fresh: self.row.is_referral_fresh(self.now),
            why,
        });
    }

    pub(super) fn wants_reference(&mut self, entry: &Entry) -> bool {
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
    pub(super) fn step(&mut self, entry: &mut Entry, link: &Link, outcome: Outcome) -> (Step, String) {
        let target = status::target(entry.referral_status, outcome);
        let lead = || format!("lead {} is {} (status {})", link.lead, link.status.state, link.status.code);
        let closing = match target {
            Target::Nothing => {
                entry.outcome = None;
                return (Step::None, String::new());
            }
            Target::Accept => {
                entry.outcome = None;
                return (Step::Accept, format!("{} (status.codes)", lead()));
            }
            Target::TooLate => {
                self.too_late(entry, link, outcome);
                return (Step::None, String::new());
            }
            Target::Close(closing) | Target::AcceptThenClose(closing) => closing,
        };
        // A lost deal and a refused lead may close a referral alike, and so may two reasons to refuse it: they are two
        // outcomes all the same, for between them the lead was open again.
        let before = self.row.entry.as_ref().and_then(|entry| entry.link.as_ref());
        let says_the_same = before.is_some_and(|before| (before.status, before.deal) == (link.status, link.deal));
        let observed = match entry.outcome {
            Some(observed) if says_the_same && is_same(observed.closing, closing) => {
                ObservedOutcome { closing, ..observed }
            }
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
        let (until, key) =
            status::settled_at(closing, observed.since, entry.is_registered_co_sell, &self.policy.status);
        if let Target::AcceptThenClose(_) = target {
            return (Step::Accept, format!("{}, on the way to {closing} (status.codes)", lead()));
        }
        if self.now < until {
            self.holds.push(Hold::NotSettled { closing, until, key });
            entry.look_at = Some(entry.look_at.map_or(until, |look_at| look_at.min(until)));
            return (Step::None, String::new());
        }
        (Step::Close(closing), format!("{} since {} (status.codes, {key})", lead(), observed.since))
    }

    /// The referral is closed and the lead goes on: said once.
    pub(super) fn too_late(&mut self, entry: &mut Entry, link: &Link, outcome: Outcome) {
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
        let hold = Hold::ClosedAlready { now: status::words(link.status, link.deal) };
        let is_plain = matches!(outcome, Outcome::Nothing | Outcome::Working) && entry.closed_by_us.is_none();
        let is_told = self.was_opened_again(link) || (before == Some(mark) && self.had(&hold));
        if is_plain && !is_told {
            return;
        }
        if before == Some(mark) {
            let earlier = self.row.entry.as_ref().map_or(0, |entry| entry.holds);
            self.raised |= earlier & hold.bit();
        } else {
            self.holds.push(hold);
        }
    }

    /// True (with a hold) while a part of this row is not asked for again, because it could not be read for its own reason.
    pub(super) fn waits_to_be_read(&mut self, entry: &mut Entry) -> bool {
        let Some(side) = backoff::unread_side(entry) else { return false };
        let is_read = match side {
            Side::Portal => !self.row.referral.is_unseen(),
            Side::Crm => !self.row.lead.is_unseen() || self.row.adoption.is_some(),
        };
        if is_read || backoff::is_worth_a_look(entry, &self.row.referral, self.policy.configuration) {
            entry.trouble = None;
            return false;
        }
        if !self.is_waiting(entry, side) {
            return false;
        }
        if !self.row.lead.is_unseen() {
            entry.outcome = None; // What the lead says meanwhile is not weighed.
        }
        entry.holds = self.holds.iter().fold(entry.holds, |bits, hold| bits | hold.bit());
        true
    }

    /// True (with a hold) while this row waits after a failure on that side.
    pub(super) fn is_waiting(&mut self, entry: &mut Entry, side: Side) -> bool {
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
}

/// What is collected for the two writes of a row.
#[derive(Default)]
pub(super) struct Writes {
    pub(super) draft: LeadDraft,
    pub(super) groups: Vec<GroupWrite>,
    pub(super) also: Vec<&'static str>,
    pub(super) back: Patch,
    pub(super) back_groups: Vec<GroupWrite>,
    pub(super) waiting: Vec<String>,
}

/// Declined and Lost are the same news: which of them is written depends on the referral.
pub(super) fn is_same(left: crate::model::Closing, right: crate::model::Closing) -> bool {
    use crate::model::Closing::{Declined, Lost, Won};
    matches!((left, right), (Won, Won) | (Lost | Declined, Lost | Declined))
}
