//! Which lead a referral has: found, adopted, created, gone, back again.

use super::Draft;
use super::groups::{may_contact, write_of};
use crate::model::{
    Cause, Entry, ExternalReference, Lead, LeadDraft, LeadId, Link, Referral, ReferralId, ReferralStatus, Side,
    Standing, Substatus,
};
use crate::plan::action::{Action, Hold, Rule};
use crate::plan::settings::{ImportClosed, OnLeadDeleted};
use crate::plan::snapshot::Adoption;
use crate::plan::{backoff, scope};

/// How often a referral that several leads claim is searched again, besides its own changes.
const CANDIDATES_AGAIN: std::time::Duration = std::time::Duration::from_secs(3600);

impl Draft<'_> {
    /// A referral without a lead: scope, adoption, link or create.
    pub(super) fn link(&mut self, entry: &mut Entry) {
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
            [] => self.create(entry, referral, adoption),
            [lead] => self.adopt(entry, lead),
            several => {
                entry.standing = Standing::Pending;
                entry.look_at = Some(self.now.plus(CANDIDATES_AGAIN));
                self.holds.push(Hold::TwoCandidates { leads: several.iter().map(|lead| lead.id).collect() });
            }
        }
    }

    /// Links an existing lead, unless it speaks for another referral.
    pub(super) fn adopt(&mut self, entry: &mut Entry, lead: &Lead) {
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
    pub(super) fn recall(&self, entry: &mut Entry, lead: &Lead) {
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
    pub(super) fn link_to(&self, lead: &Lead) -> Link {
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

    pub(super) fn is_ours(&self, lead: &Lead) -> bool {
        let is_computed = self.policy.is_derived && lead.id == self.policy.computed(self.row.id);
        is_computed || (lead.created_by.is_some() && lead.created_by == self.policy.crm_user)
    }

    /// The referral that a lead speaks for already, if it is another one: by our memory, or by the lead's own column.
    pub(super) fn taken_by(&self, lead: &Lead) -> Option<ReferralId> {
        let claimed = self.row.claims.get(&lead.id).map(|claim| claim.referral);
        claimed.or(lead.referral).filter(|referral| *referral != self.row.id)
    }

    /// Creates the lead, unless it was there once, the referral is over or another referral has that lead.
    pub(super) fn create(&mut self, entry: &mut Entry, referral: &Referral, adoption: &Adoption) {
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
        let names_ours = reference.is_some_and(|lead| !self.policy.is_derived || lead == computed);
        let was_linked = (adoption.is_reference_gone && names_ours) || adoption.lost.is_some();
        // The lead's place is still taken by the one that was merged into a master that is gone.
        if adoption.is_master_gone || (was_linked && self.policy.link.on_lead_deleted == OnLeadDeleted::Leave) {
            let lead = adoption.lost.or(reference).unwrap_or(computed);
            entry.standing = Standing::LeadGone;
            self.holds.push(Hold::LeadDeleted { lead });
            return;
        }
        // Deleted, and who speaks for it (since a merge, say) may not know yet: created, it would speak for two.
        let claim =
            self.row.claims.get(&computed).filter(|claim| self.policy.is_derived && claim.referral != self.row.id);
        if let Some(by) = claim.map(|claim| claim.referral) {
            entry.standing = Standing::LeadTaken;
            entry.link = None;
            self.holds.push(Hold::LeadTaken { lead: computed, by });
            return;
        }
        entry.standing = Standing::Pending;
        let derived = self.policy.mapping.derive(referral, entry.primary_contact, may_contact(entry));
        let is_owner_refused = entry.trouble.as_ref().is_some_and(backoff::is_owner_refused);
        let owner = match is_owner_refused {
            true => self.policy.mapping.fallback_owner(),
            false => self.policy.mapping.owner(referral),
        };
        if is_owner_refused && owner.is_none() {
            self.holds.push(Hold::NoOwner);
        }
        let mut draft = LeadDraft { owner, ..LeadDraft::default() };
        let mut groups = Vec::new();
        for (group, value) in self.policy.mapping.groups().iter().zip(derived.groups) {
            self.note_skipped(group, &value);
            if let Some(reason) = &value.blocked {
                self.holds.push(Hold::DeadLetter { cause: Cause::new(None, reason) });
                backoff::block(entry, reason, self.now, self.policy.configuration, &self.row.referral, &self.row.lead);
                return;
            }
            let columns: Vec<_> = value.draft.into_iter().filter(|(_, value)| !value.is_null()).collect();
            if columns.is_empty() {
                continue;
            }
            let names = columns.iter().map(|(name, _)| name.clone()).collect();
            groups.push(write_of(group, value.fingerprint, value.draft_fingerprint, names, Rule::NewLead));
            draft.columns.extend(columns);
        }
        if !is_owner_refused && self.is_waiting(entry, Side::Crm) {
            return;
        }
        self.action = Some(Action::Create { referral: self.row.id, lead: computed, draft, groups });
    }

    /// Entries whose lead is gone or taken: a lead that is back is linked again, a taken one waits for a release.
    pub(super) fn look_again(&mut self, entry: &mut Entry) {
        if entry.standing == Standing::LeadTaken {
            self.holds.push(Hold::LeadTakenBefore);
            return;
        }
        let lead = entry.link.as_ref().map(|link| link.lead);
        if self.row.lead.present().is_some_and(|seen| Some(seen.id) == lead) {
            // What the referral became while its lead was gone was not weighed: it is read again.
            self.needs.referral = self.row.referral.is_unseen();
            entry.standing = Standing::Linked;
            return;
        }
        let is_found = self.row.adoption.as_ref().is_some_and(|adoption| !adoption.candidates.is_empty());
        let recreates = self.policy.link.on_lead_deleted == OnLeadDeleted::Recreate;
        if recreates && !is_found && lead.is_some() && self.row.lead.is_unseen() {
            self.needs.lead = true; // It may be back, and nothing else knows of it.
            return;
        }
        if is_found || recreates {
            entry.standing = Standing::Pending;
            entry.link = None;
            return self.link(entry);
        }
        // It may be back (recycle bin, restored backup), and what came of a row that was due is not known otherwise.
        let may_be_back = self.was_due || self.row.referral.present().is_some();
        self.needs.lead = lead.is_some() && may_be_back && self.row.lead.is_unseen();
        // Without a link nothing but a search can find it again.
        let is_unsearched = lead.is_none() && self.row.adoption.is_none();
        self.needs.adoption = is_unsearched && self.row.referral.present().is_some();
        self.needs.referral = is_unsearched && self.was_due && self.row.referral.is_unseen();
        self.holds.push(Hold::LeadDeleted { lead: lead.unwrap_or_else(|| self.policy.computed(self.row.id)) });
    }

    /// The linked lead was deleted (confirmed by id).
    pub(super) fn lead_is_gone(&mut self, entry: &mut Entry, link: Link) {
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
                match entry.referral_status {
                    ReferralStatus::Closed => entry.standing = Standing::ClosedUnlinked,
                    // Searched for first: somebody may have made another lead for it.
                    ReferralStatus::New | ReferralStatus::Active | ReferralStatus::Other => self.link(entry),
                }
            }
        }
    }
}

/// What `externalReferenceId` holds, seen from a lead.
pub(in crate::plan) fn external_reference(referral: &Referral, lead: LeadId) -> ExternalReference {
    match referral.external_reference.as_deref() {
        None => ExternalReference::Empty,
        Some(text) => match LeadId::parse(text) {
            Some(id) if id == lead => ExternalReference::Ours,
            Some(_) => ExternalReference::OtherLead,
            None => ExternalReference::Foreign,
        },
    }
}

/// The lead that a referral names.
pub(super) fn reference(referral: &Referral) -> Option<LeadId> {
    referral.external_reference.as_deref().and_then(LeadId::parse)
}
