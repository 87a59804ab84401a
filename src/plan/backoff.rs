//! How long to wait after a failure, when to stop trying, and what wakes a dead letter.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use siphasher::sip::SipHasher24;

use crate::model::{Cause, ETag, Entry, Fault, Lead, Referral, ReferralId, RemoteError, Side, Timestamp, Trouble};
use crate::plan::action::Hold;
use crate::plan::policy::Policy;
use crate::plan::settings::RetrySettings;
use crate::plan::snapshot::{Row, Seen};

/// Trouble about this or less is that a part of the row cannot be read: it is over when that part is read, and tried again
/// when the referral or the configuration changes. Other trouble is about 64 bits.
const UNREAD_MAX: u64 = u32::MAX as u64;

/// When a failed row is tried again: exponential with full jitter, capped; the jitter comes from the row itself, so that
/// the same input gives the same plan.
pub fn next_attempt(trouble: &Trouble, id: ReferralId, settings: &RetrySettings) -> Timestamp {
    let doublings = u32::from(trouble.attempts.saturating_sub(1)).min(20);
    let ceiling = settings.delay.get().saturating_mul(1 << doublings).min(settings.delay_max.get());
    let mut hasher = SipHasher24::new();
    (id, trouble.attempts).hash(&mut hasher);
    let share = (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64;
    let floor = settings.delay.get().min(ceiling) / 2;
    let wait = floor + Duration::from_secs_f64((ceiling.saturating_sub(floor)).as_secs_f64() * share);
    trouble.since.plus(wait)
}

/// Forgets trouble when what it was about has changed: either side's version, or the configuration. True when it did.
pub fn wake(entry: &mut Entry, referral: &Seen<Referral>, lead: &Seen<Lead>, configuration: u64) -> bool {
    let about = about(entry, referral, lead, configuration);
    let is_over = entry.trouble.as_ref().is_some_and(|trouble| !is_unread(trouble) && trouble.about != about);
    if is_over {
        entry.trouble = None;
    }
    is_over
}

/// Notes a failure that belongs to this row.
pub fn failed(
    entry: &mut Entry,
    error: &RemoteError,
    now: Timestamp,
    configuration: u64,
    referral: &Seen<Referral>,
    lead: &Seen<Lead>,
    settings: &RetrySettings,
) {
    let attempts = attempts_with(entry);
    let is_final = matches!(error.fault, Fault::Refused);
    entry.trouble = Some(Trouble {
        cause: cause(error),
        attempts,
        since: now,
        is_dead_letter: is_final || attempts >= settings.attempts_max,
        about: about(entry, referral, lead, configuration),
    });
}

/// Notes that a part of this row cannot be read although its service answers for others. Nothing that was seen of the row
/// counts as known, so both sides are read when it is tried again, and not before.
pub fn unread(entry: &mut Entry, error: &RemoteError, now: Timestamp, row: &Row, policy: &Policy) {
    let attempts = attempts_with(entry);
    let is_dead_letter = attempts >= policy.retry.attempts_max;
    let about = unread_about(entry, &row.referral, policy.configuration);
    let trouble = Trouble { cause: cause(error), attempts, since: now, is_dead_letter, about };
    let until = next_attempt(&trouble, row.id, &policy.retry);
    entry.look_at = (!is_dead_letter).then_some(until);
    entry.forget_versions();
    if error.side == Side::Crm {
        entry.outcome = None; // Nobody sees whether it stands, so settling begins anew.
    }
    let cause = trouble.cause.clone();
    entry.holds |= if is_dead_letter { Hold::DeadLetter { cause } } else { Hold::Retrying { cause, until } }.bit();
    entry.trouble = Some(trouble);
}

/// The side of which a part could not be read.
pub fn unread_side(entry: &Entry) -> Option<Side> {
    entry.trouble.as_ref().filter(|trouble| is_unread(trouble))?.cause.side
}

/// The part that could not be read may be another one by now: the referral is listed in another version, or something else
/// is configured. Versions are forgotten with such trouble, so the instant of the last update tells.
pub fn is_worth_a_look(entry: &Entry, referral: &Seen<Referral>, configuration: u64) -> bool {
    let about = unread_about(entry, referral, configuration);
    referral.present().is_some() && entry.trouble.as_ref().is_some_and(|trouble| trouble.about != about)
}

fn is_unread(trouble: &Trouble) -> bool {
    trouble.about <= UNREAD_MAX
}

/// Fingerprint of what an attempt to read is about; never zero, which is what it was before it told anything.
fn unread_about(entry: &Entry, referral: &Seen<Referral>, configuration: u64) -> u64 {
    let mut hasher = SipHasher24::new();
    let updated = referral.present().map_or(entry.referral_updated, |referral| referral.updated);
    (updated, configuration).hash(&mut hasher);
    (hasher.finish() & UNREAD_MAX) | 1
}

fn attempts_with(entry: &Entry) -> u16 {
    entry.trouble.as_ref().map_or(0, |trouble| trouble.attempts).saturating_add(1)
}

fn cause(error: &RemoteError) -> Cause {
    let what = match (&error.code, error.status) {
        (Some(code), _) => format!("{} {code}", error.operation),
        (None, Some(status)) => format!("{} HTTP {status}", error.operation),
        (None, None) => format!("{} {}", error.operation, error.fault),
    };
    Cause::new(Some(error.side), &what)
}

/// Codes by which Dynamics refuses the owner of a new lead: no such owner, disabled, or without a role
/// (dataverse §7).
const OWNER_CODES: [&str; 4] = ["0x80040217", "0x80040229", "0x8004022b", "0x80040231"];

/// How the cause of a refused owner begins.
const OWNER_REFUSED: &str = "owner refused";

/// True when the row failed because of its owner: the next create takes the fallback owner.
pub fn is_owner_refused(trouble: &Trouble) -> bool {
    !trouble.is_dead_letter && trouble.cause.what.starts_with(OWNER_REFUSED)
}

/// Notes a refused owner; false when the failure is of another kind, or the fallback owner was refused, too.
pub fn owner_refused(
    entry: &mut Entry,
    error: &RemoteError,
    now: Timestamp,
    configuration: u64,
    referral: &Seen<Referral>,
    lead: &Seen<Lead>,
) -> bool {
    let Some(code) = error.code.as_deref().filter(|code| OWNER_CODES.iter().any(|one| one.eq_ignore_ascii_case(code)))
    else {
        return false;
    };
    if entry.trouble.as_ref().is_some_and(is_owner_refused) {
        return false;
    }
    entry.trouble = Some(Trouble {
        cause: Cause::new(Some(error.side), &format!("{OWNER_REFUSED} ({code})")),
        attempts: 1,
        since: now,
        is_dead_letter: false,
        about: about(entry, referral, lead, configuration),
    });
    true
}

/// Notes that a row cannot be written for a reason of our own: a dead letter until something changes.
pub fn block(
    entry: &mut Entry,
    reason: &str,
    now: Timestamp,
    configuration: u64,
    referral: &Seen<Referral>,
    lead: &Seen<Lead>,
) {
    let cause = Cause::new(None, reason);
    if entry.trouble.as_ref().is_some_and(|trouble| trouble.is_dead_letter && trouble.cause == cause) {
        return;
    }
    entry.trouble = Some(Trouble {
        cause,
        attempts: 1,
        since: now,
        is_dead_letter: true,
        about: about(entry, referral, lead, configuration),
    });
}

/// Fingerprint of what an attempt is about: both versions and the configuration.
fn about(entry: &Entry, referral: &Seen<Referral>, lead: &Seen<Lead>, configuration: u64) -> u64 {
    let mut hasher = SipHasher24::new();
    let referral_etag: Option<&ETag> = match referral {
        Seen::Present(referral) => referral.etag.as_ref(),
        Seen::Unseen | Seen::Absent => entry.referral_etag.as_ref(),
    };
    let lead_etag: Option<&ETag> = match lead {
        Seen::Present(lead) => lead.etag.as_ref(),
        Seen::Unseen | Seen::Absent => entry.link.as_ref().and_then(|link| link.etag.as_ref()),
    };
    (referral_etag, lead_etag, configuration).hash(&mut hasher);
    hasher.finish()
}
