//! What an entry remembers of what was seen.

use super::link::external_reference;
use crate::model::{Entry, ExternalReference, Lead, Link, Referral, ReferralStatus, Standing, Substatus, Timestamp};
use crate::plan::{scope, status};

/// The memory of a referral that was never seen before.
pub(super) fn first_entry(referral: &Referral, now: Timestamp) -> Entry {
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
pub(super) fn remember_referral(entry: &mut Entry, referral: &Referral) {
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

/// How a closed referral was closed, in our words.
pub(super) fn closing_of(substatus: Substatus) -> Option<crate::model::Closing> {
    match substatus {
        Substatus::Won => Some(crate::model::Closing::Won),
        Substatus::Lost => Some(crate::model::Closing::Lost),
        Substatus::Declined => Some(crate::model::Closing::Declined),
        Substatus::Pending | Substatus::Received | Substatus::Accepted | Substatus::Expired | Substatus::Other => None,
    }
}

/// Notes what the lead says now.
pub(super) fn remember_lead(link: &mut Link, lead: &Lead) {
    link.has_changed_state |= lead.status.state != link.status.state;
    link.etag.clone_from(&lead.etag);
    link.status = lead.status;
    link.modified = lead.modified.or(link.modified);
}
