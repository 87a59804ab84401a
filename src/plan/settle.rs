//! What came of an action, and what the row and its entry are after it.

use crate::model::{
    Closing, Entry, ExternalReference, Fault, GroupMemory, Lead, LeadState, Link, Referral, ReferralStatus,
    RemoteError, Standing, Timestamp,
};
use crate::plan::action::{Action, GroupWrite, Step};
use crate::plan::diff::groups::may_contact;
use crate::plan::diff::link::external_reference;
use crate::plan::policy::Policy;
use crate::plan::settings::WriteWhen;
use crate::plan::snapshot::{Row, Seen};
use crate::plan::{backoff, fields};

/// Another lead holds the value of an alternate key (dataverse §7).
const DUPLICATE_KEY: &str = "0x80060892";

/// What came of one action.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The lead was written; this is what the service holds now.
    LeadWritten(Box<Lead>),
    /// The referral was written; the service may have sent what it holds now.
    ReferralWritten(Option<Box<Referral>>),
    /// It was not written.
    Failed(RemoteError),
}

/// How a row goes on after an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Plan it again from what is known now: more may follow.
    Plan,
    /// Read the side that was written, then plan it again: the version changed or the outcome is unknown.
    Read,
    /// Leave it for a later cycle: the side is down.
    Later,
    /// It failed for its own reason; the entry says when it is tried again.
    Failed,
}

/// Settles one action: the row as it is after the outcome (its entry included), and how it goes on.
pub fn settle(mut row: Row, action: &Action, outcome: &Outcome, policy: &Policy, now: Timestamp) -> (Row, Next) {
    let Some(mut entry) = row.entry.take() else { return (row, Next::Plan) };
    let next = match outcome {
        Outcome::LeadWritten(lead) => {
            lead_written(&mut entry, &mut row, action, lead, policy, now);
            Next::Plan
        }
        Outcome::ReferralWritten(referral) => {
            referral_written(&mut entry, &mut row, action, referral.as_deref(), policy, now);
            Next::Plan
        }
        Outcome::Failed(error) => failed(&mut entry, &mut row, action, error, policy, now),
    };
    row.entry = Some(entry);
    (row, next)
}

fn lead_written(entry: &mut Entry, row: &mut Row, action: &Action, lead: &Lead, policy: &Policy, now: Timestamp) {
    entry.trouble = None;
    entry.standing = Standing::Linked;
    let before = entry.link.take();
    let is_created = matches!(action, Action::Create { .. });
    entry.link = Some(Link {
        lead: lead.id,
        etag: lead.etag.clone(),
        status: lead.status,
        modified: lead.modified,
        deal: before.as_ref().map_or_else(Default::default, |link| link.deal),
        is_ours: is_created || before.as_ref().is_some_and(|link| link.is_ours),
        has_changed_state: before.as_ref().is_some_and(|link| link.has_changed_state),
    });
    if is_created {
        entry.groups.clear();
        let referral = row.referral.present();
        entry.external_reference =
            referral.map_or(ExternalReference::Empty, |referral| external_reference(referral, lead.id));
    }
    for write in action.groups() {
        let group = policy.mapping.group(write.group);
        let lead_half = group.map_or(write.lead, |group| policy.mapping.fingerprint(group, lead));
        agree(entry, action, write, write.referral, lead_half, policy, now);
    }
    row.lead = Seen::from(lead.clone());
    row.intent = None;
    if lead.status.state == LeadState::Open {
        row.opportunities = None;
    }
}

fn referral_written(
    entry: &mut Entry,
    row: &mut Row,
    action: &Action,
    referral: Option<&Referral>,
    policy: &Policy,
    now: Timestamp,
) {
    entry.trouble = None;
    row.intent = None;
    if let Action::Patch { step, sets_reference, .. } = action {
        match step {
            Step::None => {}
            Step::Accept => {
                entry.referral_status = ReferralStatus::Active;
                entry.referral_substatus = crate::model::Substatus::Accepted;
                entry.deadline = None;
            }
            Step::Close(closing) => close(entry, *closing),
        }
        if *sets_reference {
            entry.external_reference = ExternalReference::Ours;
        }
    }
    let Some(referral) = referral else {
        // What was sent is what it shows: read later, our own write is no change of the referral.
        for write in action.groups() {
            agree(entry, action, write, write.referral, write.lead, policy, now);
        }
        // The version is unknown now; who needs it reads the referral first.
        entry.referral_etag = None;
        row.referral = Seen::Unseen;
        row.referral_read = None;
        return;
    };
    let derived = policy.mapping.derive_linked(referral, entry.primary_contact, may_contact(entry));
    for write in action.groups() {
        if let Some(index) = policy.mapping.groups().iter().position(|group| group.key == write.group) {
            agree(entry, action, write, derived.groups[index].fingerprint, write.lead, policy, now);
        }
    }
    row.referral = Seen::from(referral.clone());
    row.referral_read = Some(now);
}

fn close(entry: &mut Entry, closing: Closing) {
    entry.referral_status = ReferralStatus::Closed;
    entry.referral_substatus = closing.substatus();
    entry.closed_by_us = Some(closing);
    entry.outcome = None;
    entry.deadline = None;
}

fn failed(
    entry: &mut Entry,
    row: &mut Row,
    action: &Action,
    error: &RemoteError,
    policy: &Policy,
    now: Timestamp,
) -> Next {
    if error.is_outcome_unknown {
        row.intent = Some(action.intended());
        return Next::Read;
    }
    let is_duplicate = error.code.as_deref().is_some_and(|code| code.eq_ignore_ascii_case(DUPLICATE_KEY));
    row.is_key_taken |= is_duplicate && matches!(action, Action::Update { .. });
    match error.fault {
        Fault::Conflict | Fault::Missing => Next::Read,
        Fault::Throttled { .. } | Fault::Unavailable | Fault::Unauthorized | Fault::NeedsHuman => Next::Later,
        Fault::Refused
            if has_owner(action)
                && backoff::owner_refused(entry, error, now, policy.configuration, &row.referral, &row.lead) =>
        {
            Next::Plan // With the fallback owner.
        }
        Fault::Refused | Fault::Malformed => {
            backoff::failed(entry, error, now, policy.configuration, &row.referral, &row.lead, &policy.retry);
            if let Some(trouble) = entry.trouble.as_ref().filter(|trouble| !trouble.is_dead_letter) {
                entry.look_at = Some(backoff::next_attempt(trouble, row.id, &policy.retry));
            }
            Next::Failed
        }
    }
}

fn has_owner(action: &Action) -> bool {
    matches!(action, Action::Create { draft, .. } if draft.owner.is_some())
}

/// Makes the halves of a written group its base; groups that are written on create only keep no memory.
fn agree(
    entry: &mut Entry,
    action: &Action,
    write: &GroupWrite,
    referral: u64,
    lead: u64,
    policy: &Policy,
    now: Timestamp,
) {
    let group = policy.mapping.group(write.group);
    if group.is_some_and(|group| group.write == WriteWhen::Create) {
        return;
    }
    let before = entry.groups.iter().find(|memory| memory.group == write.group);
    let is_to_lead = !matches!(action, Action::Patch { .. });
    let flips = fields::after_write(before, write.lead, is_to_lead, now);
    entry.groups.retain(|memory| memory.group != write.group);
    entry.groups.push(GroupMemory { flips, ..fields::agreed(write.group, write.mapping, referral, lead) });
    entry.groups.sort_by_key(|memory| memory.group);
}
