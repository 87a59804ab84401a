//! How long to wait after a failure, when to stop trying, and what wakes a dead letter.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use siphasher::sip::SipHasher24;

use crate::model::{Cause, ETag, Entry, Fault, Lead, Referral, ReferralId, RemoteError, Timestamp, Trouble};
use crate::plan::settings::RetrySettings;
use crate::plan::snapshot::Seen;

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
    let is_over = entry.trouble.as_ref().is_some_and(|trouble| trouble.about != about);
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
    let what = match (&error.code, error.status) {
        (Some(code), _) => format!("{} {code}", error.operation),
        (None, Some(status)) => format!("{} HTTP {status}", error.operation),
        (None, None) => format!("{} {}", error.operation, error.fault),
    };
    let attempts = entry.trouble.as_ref().map_or(0, |trouble| trouble.attempts).saturating_add(1);
    let is_final = matches!(error.fault, Fault::Refused);
    entry.trouble = Some(Trouble {
        cause: Cause::new(Some(error.side), &what),
        attempts,
        since: now,
        is_dead_letter: is_final || attempts >= settings.attempts_max,
        about: about(entry, referral, lead, configuration),
    });
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
