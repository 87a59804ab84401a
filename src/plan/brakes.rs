//! Brakes: what holds a whole kind of writes when there are suddenly too many (spec 6). Decided over the whole plan.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::{ReferralId, Timestamp};
use crate::plan::action::{Action, Step};
use crate::plan::settings::BrakeSettings;
use crate::ports::{ActionKind, LatchedBrake};

/// The window of the hourly brakes.
pub const HOUR: Duration = Duration::from_secs(3600);

/// A brake by name, with the kind it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brake {
    /// Its name in messages and in `keep/`.
    pub name: &'static str,
    /// The kind it holds.
    pub kind: ActionKind,
    /// Its limit; 0 is off.
    pub limit: u64,
    /// The configuration key.
    pub key: &'static str,
}

/// The brakes over kinds of writes, as configured.
pub fn brakes(settings: &BrakeSettings) -> [Brake; 5] {
    use ActionKind::{Accept, Close, Create, Disqualify, Update};
    let brake = |name, kind, limit, key| Brake { name, kind, limit, key };
    [
        brake("acceptances", Accept, settings.acceptances_per_hour, "brakes.acceptances_per_hour"),
        brake("closings", Close, settings.closings_per_hour, "brakes.closings_per_hour"),
        brake(
            "disqualifications",
            Disqualify,
            settings.disqualifications_per_cycle,
            "brakes.disqualifications_per_cycle",
        ),
        brake("creates", Create, settings.creates_per_cycle, "brakes.creates_per_cycle"),
        brake("updates", Update, settings.updates_per_cycle, "brakes.updates_per_cycle"),
    ]
}

/// Judges one kind over the whole plan: `None` lets it pass, else the latch that holds all of it.
///
/// `window` holds the instants of the last writes of this kind: of an hour, or of this cycle. If plan + window exceed the limit, none is sent.
pub fn judge(
    brake: Brake,
    planned: &[&Action],
    window: &[Timestamp],
    is_approved: impl Fn(&str) -> bool,
    now: Timestamp,
) -> Option<LatchedBrake> {
    let recent = window.iter().filter(|at| now.since(**at) < HOUR).count() as u64;
    let count = planned.len() as u64;
    if brake.limit == 0 || count == 0 || count + recent <= brake.limit {
        return None;
    }
    let digest = digest(planned);
    if is_approved(&digest) {
        return None;
    }
    let span = match brake.kind {
        ActionKind::Accept | ActionKind::Close => "in the last hour",
        ActionKind::Create | ActionKind::Update | ActionKind::Disqualify | ActionKind::WriteBack => "in this cycle",
    };
    let reason = format!(
        "{count} {}s planned and {recent} sent {span} exceed the limit of {} ({}); `referrald approve {digest}` sends exactly these",
        brake.kind, brake.limit, brake.key
    );
    Some(LatchedBrake { since: now, count, limit: brake.limit, digest, reason, side: None })
}

/// Judges vanished leads: more than the number and more than the percentage of the linked ones. `recent` of them were let
/// pass within the last hour: a pass sees no more than it has time to ask for one by one.
pub fn judge_vanished(
    vanished: &BTreeSet<ReferralId>,
    recent: u64,
    linked: u64,
    settings: &BrakeSettings,
    is_approved: impl Fn(&str) -> bool,
    now: Timestamp,
) -> Option<LatchedBrake> {
    let count = vanished.len() as u64;
    let (gone, known) = (count + recent, linked + recent);
    let is_many = gone > settings.leads_vanished && gone * 100 > known * settings.leads_vanished_percent;
    if settings.leads_vanished == 0 || count == 0 || !is_many {
        return None;
    }
    let digest = digest_vanished(vanished);
    if is_approved(&digest) {
        return None;
    }
    let before = match recent {
        0 => String::new(),
        recent => format!(" after {recent} in the last hour"),
    };
    let reason = format!(
        "{count} of {linked} linked leads are gone at once{before}, more than {} and {} % (brakes.leads_vanished); nothing is done about them; `referrald approve {digest}` accepts that they were deleted",
        settings.leads_vanished, settings.leads_vanished_percent
    );
    Some(LatchedBrake { since: now, count, limit: settings.leads_vanished, digest, reason, side: None })
}

/// The digest that names an exact set of referrals whose leads vanished.
pub fn digest_vanished(vanished: &BTreeSet<ReferralId>) -> String {
    let mut lines: Vec<String> = vanished.iter().map(|id| line_of_vanished(*id)).collect();
    digest_lines(&mut lines)
}

/// One vanished lead as a set names it.
pub fn line_of_vanished(id: ReferralId) -> String {
    format!("vanished {id}")
}

/// Judges visibility on a finished unfiltered incremental scan: it must meet one of the newest known referrals.
///
/// `newest` are the newest known ids, `met` says which ids the scan met, `is_first_page_empty` that it listed nothing.
pub fn judge_visibility(
    newest: &[ReferralId],
    known: u64,
    met: impl Fn(ReferralId) -> bool,
    is_first_page_empty: bool,
    settings: &BrakeSettings,
    is_approved: impl Fn(&str) -> bool,
    now: Timestamp,
) -> Option<LatchedBrake> {
    if settings.visibility_min == 0 || known < settings.visibility_min {
        return None;
    }
    if !is_first_page_empty && newest.iter().any(|id| met(*id)) {
        return None;
    }
    let digest = digest_unlisted(newest);
    if is_approved(&digest) {
        return None;
    }
    let what = if is_first_page_empty {
        format!("the list is empty although {known} referrals are known")
    } else {
        format!("none of the {} newest known referrals is listed any more", newest.len())
    };
    let reason = format!(
        "{what}: visibility is lost, probably a role (Referrals admin) or the signed-in user; nothing is written until the list shows them again (brakes.visibility_newest); if the loss is meant, `referrald approve {digest}` goes on"
    );
    Some(LatchedBrake { since: now, count: known, limit: settings.visibility_min, digest, reason, side: None })
}

/// The digest that names the newest referrals that no scan met.
pub fn digest_unlisted(newest: &[ReferralId]) -> String {
    let mut lines: Vec<String> = newest.iter().map(|id| format!("not listed {id}")).collect();
    digest_lines(&mut lines)
}

/// So many known referrals were missing from a complete listing that visibility may be lost.
pub fn misses_many(missing: u64, known: u64, settings: &BrakeSettings) -> bool {
    let is_many = known >= settings.visibility_min && missing * 100 > known * settings.visibility_missing_percent;
    settings.visibility_min > 0 && settings.visibility_missing_percent > 0 && is_many
}

/// Judges visibility on a finished sweep that missed many known referrals; `set` is the sum of [`weight`] over all of them.
pub fn judge_sweep(
    missing: u64,
    known: u64,
    set: u128,
    settings: &BrakeSettings,
    is_approved: impl Fn(&str) -> bool,
    now: Timestamp,
) -> Option<LatchedBrake> {
    let digest = digest_lines(&mut [format!("not listed {set:032x}")]);
    if is_approved(&digest) {
        return None;
    }
    let reason = format!(
        "{missing} of {known} known referrals were missing from a complete listing: visibility is lost, probably a role (Referrals admin); nothing is written until a sweep meets them again (brakes.visibility_missing_percent); if the loss is meant, `referrald approve {digest}` goes on"
    );
    Some(LatchedBrake {
        since: now,
        count: missing,
        limit: settings.visibility_missing_percent,
        digest,
        reason,
        side: None,
    })
}

/// What one id adds to the sum that stands for a set of ids. A sweep of a million has no room for the set itself, and
/// subtracts what it met from what is known.
pub fn weight(id: ReferralId) -> u128 {
    let hash = ring::digest::digest(&ring::digest::SHA256, id.uuid().as_bytes());
    hash.as_ref().iter().take(16).fold(0, |sum, byte| sum << 8 | u128::from(*byte))
}

/// The digest that names an exact set of actions: 12 hexadecimal digits.
pub fn digest(actions: &[&Action]) -> String {
    let mut lines: Vec<String> = actions.iter().map(|action| line(action)).collect();
    digest_lines(&mut lines)
}

/// One action as a set names it: its kind, its referral, and for a closing what it says.
pub fn line(action: &Action) -> String {
    match action {
        Action::Patch { step: Step::Close(closing), referral, .. } => format!("close {referral} {closing}"),
        other => format!("{} {}", other.kind(), other.referral()),
    }
}

/// The digest of a set of lines, whatever their order.
pub fn digest_lines(lines: &mut [String]) -> String {
    lines.sort();
    let hash = ring::digest::digest(&ring::digest::SHA256, lines.join("\n").as_bytes());
    hash.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
