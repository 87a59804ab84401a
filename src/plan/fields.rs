//! The three-way merge of one mapping group: both sides now, and what they last agreed on (spec 4).
//!
//! | base   | referral | lead  | then                                                            |
//! |--------|----------|-------|-----------------------------------------------------------------|
//! | none   | equal    | equal | that is the base                                                |
//! | none   | value    | empty | write the lead                                                  |
//! | none   | empty    | value | leave it; apart, undisputed                                     |
//! | none   | value    | value | hold: no common base                                            |
//! | common |          |       | nothing                                                         |
//! | common | moved    |       | write the lead                                                  |
//! | common |          | moved | write back if two-way, else it stays                            |
//! | common | moved    | moved | equal: that is the base; else the owner                         |
//! | apart  |          |       | hold if disputed                                                |
//! | apart  | moved or | moved | the owner, as if both had moved                                 |
//! | recalled |        |       | see `recalled`: believed only as far as versions prove it       |
//!
//! A change of mapping records new halves and moves no lead. A backfill writes what then differs where nobody moved.

use std::time::Duration;

use crate::model::{Base, Flips, GroupMemory, Moved, Take, Timestamp};
use crate::plan::action::Rule;
use crate::plan::mapping::GroupValue;
use crate::plan::settings::FieldOwner;

/// Two moves closer than this have no order that a machine should decide.
pub const NEWEST_MARGIN: Duration = Duration::from_secs(5 * 60);

/// Writes of one group to the same two values …
pub const FLIPS_MAX: usize = 3;

/// … within this long: two authors undo each other, and the next write is held.
pub const FLIPS_WINDOW: Duration = Duration::from_secs(3600);

/// One group as one cycle sees it.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// Hash of the mapping in force.
    pub mapping: u32,
    /// Key of the group in the ledger.
    pub group: u32,
    /// Who wins when both moved.
    pub owner: FieldOwner,
    /// The lead's value may go back to the referral.
    pub is_two_way: bool,
    /// The referral's value, if the referral was read.
    pub referral: Option<&'a GroupValue>,
    /// The lead's value, if the lead (and what speaks for it) was read.
    pub lead: Option<&'a GroupValue>,
    /// When the referral last changed, by its service.
    pub referral_changed: Option<Timestamp>,
    /// When the lead (or its opportunity) last changed, by its service.
    pub lead_changed: Option<Timestamp>,
    /// Fingerprints of a write of ours whose outcome was unknown: referral's half, lead's half.
    pub intent: Option<(u64, u64)>,
    /// That write went to the lead.
    pub is_intent_to_lead: bool,
    /// The referral is another version than the one last seen.
    pub is_referral_new: bool,
    /// The lead is another version than the one last seen.
    pub is_lead_new: bool,
    /// An operator asked to rewrite this group after a change of mapping.
    pub is_backfilled: bool,
    /// The referral is proven to be the very version that our memory knows.
    pub is_referral_proven: bool,
    /// The lead is proven to be the very version that our memory knows.
    pub is_lead_proven: bool,
    /// An operator has just lifted the hold of the whole referral: what is seen now is what the operator saw.
    pub is_hold_lifted: bool,
}

/// What the merge of one group decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Nothing to do.
    Rest,
    /// Write the referral's value to the lead.
    WriteLead(Rule),
    /// Write the lead's value back to the referral.
    WriteBack(Rule),
    /// Both have a value and nobody knows which came first.
    NoCommonBase,
    /// Both moved and a person decides.
    BothMoved,
    /// It was written again and again to the same two values: a person decides.
    Flapping,
    /// The referral must be read to decide.
    NeedReferral,
    /// The lead must be read to decide.
    NeedLead,
}

/// Merges one group: the decision, and what to remember of what was seen (a write that is done sets the base later).
pub fn merge(memory: Option<&GroupMemory>, sight: &Sight<'_>, now: Timestamp) -> (Merge, Option<GroupMemory>) {
    let (decision, next) = merge_bases(memory, sight, now);
    let Some(mut next) = next else { return (decision, None) };
    let decision = if sight.is_backfilled { backfill(decision, &next, sight) } else { decision };
    let is_new_base = memory.is_some_and(|memory| memory.base != next.base);
    let resolved = sight.intent.filter(|(_, lead)| is_new_base && halves(next.base).1 == *lead);
    next.flips = match (resolved, memory) {
        // A write of ours whose answer was lost turns out to be done.
        (Some((_, lead)), _) => after_write(memory, lead, sight.is_intent_to_lead, now),
        (None, Some(memory)) => recent(memory.flips.as_ref(), now),
        (None, None) => None,
    };
    let is_agreed = matches!((decision, next.base), (Merge::Rest, Base::Common { .. }))
        && next.referral_moved.is_none()
        && next.lead_moved.is_none();
    let target = match decision {
        Merge::WriteLead(rule) if rule != Rule::Released => sight.referral.map(|value| value.draft_fingerprint),
        Merge::WriteBack(rule) if rule != Rule::Released => sight.lead.map(|value| value.fingerprint),
        _ => None,
    };
    let Some(flips) = &mut next.flips else { return (decision, Some(next)) };
    flips.is_held &= !is_agreed;
    let Some(target) = target else { return (decision, Some(next)) };
    flips.is_held |= flips.at.len() >= FLIPS_MAX && flips.values.contains(&short(target));
    (if flips.is_held { Merge::Flapping } else { decision }, Some(next))
}

/// What is remembered of our writes after one more of them, that made `lead` the lead's half.
pub fn after_write(memory: Option<&GroupMemory>, lead: u64, is_to_lead: bool, now: Timestamp) -> Option<Flips> {
    let memory = memory?; // A new lead: nothing was there that could come back.
    let (_, base) = halves(memory.base);
    let before = if is_to_lead { current(memory.lead_moved, base) } else { base };
    let at = u32::try_from(now.millis() / 1000).unwrap_or(u32::MAX);
    let known =
        recent(memory.flips.as_ref(), now).filter(|flips| !flips.is_held && flips.values.contains(&short(lead)));
    let mut flips = known.unwrap_or(Flips { values: [short(before), short(lead)], at: Vec::new(), is_held: false });
    flips.at.push(at);
    flips.at.drain(..flips.at.len().saturating_sub(FLIPS_MAX));
    Some(flips)
}

/// The writes that still count; a hold stays however old they are.
fn recent(flips: Option<&Flips>, now: Timestamp) -> Option<Flips> {
    let mut flips = flips?.clone();
    if !flips.is_held {
        flips.at.retain(|at| now.since(Timestamp::from_seconds(i64::from(*at))) < FLIPS_WINDOW);
    }
    (!flips.at.is_empty()).then_some(flips)
}

fn short(fingerprint: u64) -> u32 {
    fingerprint as u32
}

/// Rewrites a lead that nobody moved since both sides agreed: the difference is the mapping's.
///
/// What a seller entered since is `lead_moved` or lies apart, and stays.
fn backfill(decision: Merge, next: &GroupMemory, sight: &Sight<'_>) -> Merge {
    let Base::Common { referral, lead } = next.base else { return decision };
    let is_quiet = decision == Merge::Rest && next.referral_moved.is_none() && next.lead_moved.is_none();
    if !is_quiet {
        return decision;
    }
    match (sight.referral, sight.lead) {
        (None, _) => Merge::NeedReferral,
        (_, None) => Merge::NeedLead,
        (Some(value), Some(_)) if value.is_empty || is_equal(sight, referral, lead) => decision,
        (Some(_), Some(_)) => Merge::WriteLead(Rule::Backfill),
    }
}

/// The decision by what both sides last agreed on.
fn merge_bases(memory: Option<&GroupMemory>, sight: &Sight<'_>, now: Timestamp) -> (Merge, Option<GroupMemory>) {
    let written;
    let left_behind = written_by_us(sight).or_else(|| met_meanwhile(memory?, sight));
    let memory = match (left_behind, memory) {
        (Some(base), _) => {
            written = base;
            &written
        }
        (None, Some(memory)) => memory,
        (None, None) => return first_sight(sight),
    };
    if let Base::Recalled { .. } = memory.base {
        return recalled(memory, sight, now);
    }
    if memory.mapping != sight.mapping {
        return mapping_changed(memory, sight, now);
    }
    let (base_referral, base_lead) = halves(memory.base);
    let referral =
        sight.referral.map_or_else(|| current(memory.referral_moved, base_referral), |value| value.fingerprint);
    let lead = sight.lead.map_or_else(|| current(memory.lead_moved, base_lead), |value| value.fingerprint);
    let mut next = GroupMemory {
        referral_moved: moved(memory.referral_moved, base_referral, referral, now),
        lead_moved: moved(memory.lead_moved, base_lead, lead, now),
        ..memory.clone()
    };
    date_moves(&mut next, sight, now);
    let is_agreed = is_ours(sight, referral, lead) || is_equal(sight, referral, lead);
    let has_moved = next.referral_moved.is_some() || next.lead_moved.is_some();
    if is_agreed && (has_moved || matches!(memory.base, Base::Apart { .. })) {
        return (Merge::Rest, Some(common(sight, referral, lead)));
    }
    next.released =
        memory.released.filter(|take| sight.is_hold_lifted || is_as_released(*take, memory, referral, lead));
    if let Some(take) = next.released {
        return released(take, sight, referral, lead, next);
    }
    let is_apart = matches!(memory.base, Base::Apart { .. });
    let decision = match (next.referral_moved, next.lead_moved) {
        (None, None) => match memory.base {
            Base::Common { .. } | Base::Apart { is_disputed: false, .. } => Merge::Rest,
            Base::Apart { is_disputed: true, .. } | Base::Recalled { .. } => Merge::NoCommonBase,
        },
        (Some(_), None) if !is_apart => Merge::WriteLead(Rule::ReferralMoved),
        (None, Some(_)) if !is_apart => match sight.is_two_way {
            true => Merge::WriteBack(Rule::LeadMoved),
            false => Merge::Rest,
        },
        (referral_moved, lead_moved) => by_owner(sight, referral_moved, lead_moved),
    };
    let decision = match decision {
        Merge::WriteLead(_) if sight.referral.is_none() => Merge::NeedReferral,
        Merge::WriteBack(_) if sight.lead.is_none() => Merge::NeedLead,
        other => other,
    };
    (decision, Some(next))
}

/// The side that an operator decided against still says what it said then: what it says since, nobody decided about.
fn is_as_released(take: Take, memory: &GroupMemory, referral: u64, lead: u64) -> bool {
    let (base_referral, base_lead) = halves(memory.base);
    match take {
        Take::Referral => lead == current(memory.lead_moved, base_lead),
        Take::Lead => referral == current(memory.referral_moved, base_referral),
    }
}

/// Decides a group whose base comes from an export or from an old copy of the ledger.
///
/// What was agreed on then may not be what was agreed on last: since then we may have written either side, and a person
/// may have put the old value back. Such a value looks as if it had not moved. So a recalled base counts only where a
/// version proves that the side which would be written was touched by nobody since: its value is then the agreed one,
/// and nobody's entry is lost with it.
///
/// | referral | lead  | proven by                          | then                                        |
/// |----------|-------|------------------------------------|---------------------------------------------|
/// |          |       | both show what was agreed on       | common base, nothing to write               |
/// | moved    |       | the version of the lead            | common base: only the referral moved        |
/// |          | moved | the version of the referral        | common base: only the lead moved            |
/// |          | moved | one-way: nothing is written        | common base: it stays                       |
/// | moved    | moved | nothing: which moved last may be a write of ours | no common base                |
/// | any      |       | no version                         | no common base                              |
///
/// "No common base" is as for a group that was never compared, but for a lead that was emptied meanwhile: that was
/// somebody's wish and is not filled again. Under another mapping the halves say nothing, unless both versions are the
/// same. Both sides are read first, in one and the same pass.
fn recalled(memory: &GroupMemory, sight: &Sight<'_>, now: Timestamp) -> (Merge, Option<GroupMemory>) {
    let Some(referral) = sight.referral else { return (Merge::NeedReferral, Some(memory.clone())) };
    let Some(lead) = sight.lead else { return (Merge::NeedLead, Some(memory.clone())) };
    let (base_referral, base_lead) = halves(memory.base);
    let believed = GroupMemory { base: Base::Common { referral: base_referral, lead: base_lead }, ..memory.clone() };
    if memory.mapping != sight.mapping {
        return match sight.is_referral_proven && sight.is_lead_proven {
            true => mapping_changed(&believed, sight, now),
            false => first_sight(sight),
        };
    }
    let referral_moved = referral.fingerprint != base_referral;
    let lead_moved = lead.fingerprint != base_lead;
    let is_proven = match (referral_moved, lead_moved) {
        (false, false) => true,
        (true, false) => sight.is_lead_proven,
        (false, true) => sight.is_referral_proven || !sight.is_two_way,
        (true, true) => false,
    };
    if is_proven {
        return merge_bases(Some(&believed), sight, now);
    }
    match first_sight(sight) {
        (Merge::WriteLead(_), _) if lead_moved => {
            let base = Base::Apart { referral: referral.fingerprint, lead: lead.fingerprint, is_disputed: true };
            (Merge::NoCommonBase, Some(remember(sight, base)))
        }
        other => other,
    }
}

/// The base that a write of ours left behind: the side it went to still shows what it was about to write, whatever the
/// other one says by now.
fn written_by_us(sight: &Sight<'_>) -> Option<GroupMemory> {
    let (referral, lead) = sight.intent?;
    let is_shown = match sight.is_intent_to_lead {
        true => sight.lead?.fingerprint == lead,
        false => sight.referral?.fingerprint == referral,
    };
    is_shown.then(|| common(sight, referral, lead))
}

/// The memory that a write of ours left behind, if it was carried out; what else was seen is left for another time.
pub fn left_behind(memory: Option<&GroupMemory>, sight: &Sight<'_>, now: Timestamp) -> Option<GroupMemory> {
    let written = written_by_us(sight)?;
    let flips = after_write(memory, halves(written.base).1, sight.is_intent_to_lead, now);
    Some(GroupMemory { flips, ..written })
}

/// The base where the referral shows by now what the lead had when it was last seen, and the lead has gone on since: a
/// write-back of ours arrived, and its answer as well as every look after it was lost.
fn met_meanwhile(memory: &GroupMemory, sight: &Sight<'_>) -> Option<GroupMemory> {
    let Base::Common { referral: before, .. } = memory.base else { return None };
    let (referral, lead, seen) = (sight.referral?.fingerprint, sight.lead?.fingerprint, memory.lead_moved?.to);
    let is_known = memory.mapping == sight.mapping && sight.is_two_way && referral != before && lead != seen;
    (is_known && is_equal(sight, referral, seen)).then(|| common(sight, referral, seen))
}

/// Decides a group that was never compared.
fn first_sight(sight: &Sight<'_>) -> (Merge, Option<GroupMemory>) {
    let Some(referral) = sight.referral else { return (Merge::NeedReferral, None) };
    let Some(lead) = sight.lead else { return (Merge::NeedLead, None) };
    let (referral_half, lead_half) = (referral.fingerprint, lead.fingerprint);
    if is_ours(sight, referral_half, lead_half) || is_equal(sight, referral_half, lead_half) {
        return (Merge::Rest, Some(common(sight, referral_half, lead_half)));
    }
    if lead.is_empty {
        return (Merge::WriteLead(Rule::LeadWasEmpty), None);
    }
    let is_disputed = !referral.is_empty;
    let memory = remember(sight, Base::Apart { referral: referral_half, lead: lead_half, is_disputed });
    (if is_disputed { Merge::NoCommonBase } else { Merge::Rest }, Some(memory))
}

/// Moves first observed in one and the same cycle get the services' own times: later changes of other fields must not
/// turn their order around.
fn date_moves(next: &mut GroupMemory, sight: &Sight<'_>, now: Timestamp) {
    let (Some(referral), Some(lead)) = (&mut next.referral_moved, &mut next.lead_moved) else { return };
    if let (Some(referral_changed), Some(lead_changed)) = (sight.referral_changed, sight.lead_changed)
        && referral.at == now
        && lead.at == now
    {
        (referral.at, lead.at) = (referral_changed, lead_changed);
    }
}

/// Records the halves under a new mapping: a change of mapping moves no lead.
///
/// What moved before or together with it cannot be told from the change itself: it is never taken for agreed. Only what
/// was on its way already (a write that keeps being refused, say) stays so where the other side still shows, read by the
/// new mapping, what both had agreed on.
fn mapping_changed(memory: &GroupMemory, sight: &Sight<'_>, now: Timestamp) -> (Merge, Option<GroupMemory>) {
    let (Some(referral), Some(lead)) = (sight.referral, sight.lead) else {
        // A lead alone changes nothing; a referral that moves asks for its lead, which many rows read at once.
        let decision = if sight.referral.is_some() { Merge::NeedLead } else { Merge::Rest };
        return (decision, Some(memory.clone()));
    };
    let (referral, lead) = (referral.fingerprint, lead.fingerprint);
    if is_equal(sight, referral, lead) {
        return (Merge::Rest, Some(common(sight, referral, lead)));
    }
    if let Base::Common { referral: base_referral, lead: base_lead } = memory.base {
        let is_underway = match (memory.referral_moved, memory.lead_moved) {
            (Some(_), None) => lead == base_lead,
            (None, Some(_)) => sight.is_two_way && referral == base_referral,
            (None, None) | (Some(_), Some(_)) => false,
        };
        if is_underway {
            return merge_bases(Some(&GroupMemory { mapping: sight.mapping, ..memory.clone() }), sight, now);
        }
    }
    let referral_waits = memory.referral_moved.is_some() || sight.is_referral_new;
    let lead_waits = memory.lead_moved.is_some() || sight.is_lead_new;
    let apart = |is_disputed| Base::Apart { referral, lead, is_disputed };
    let base = match memory.base {
        Base::Apart { is_disputed, .. } => apart(is_disputed),
        Base::Recalled { .. } => apart(true),
        Base::Common { .. } if referral_waits || (lead_waits && sight.is_two_way) => apart(true),
        Base::Common { .. } if lead_waits => apart(false),
        Base::Common { .. } => Base::Common { referral, lead },
    };
    let is_disputed = matches!(base, Base::Apart { is_disputed: true, .. });
    (if is_disputed { Merge::NoCommonBase } else { Merge::Rest }, Some(remember(sight, base)))
}

/// Carries out an operator's release.
fn released(
    take: Take,
    sight: &Sight<'_>,
    referral: u64,
    lead: u64,
    next: GroupMemory,
) -> (Merge, Option<GroupMemory>) {
    match take {
        Take::Referral if sight.referral.is_none() => (Merge::NeedReferral, Some(next)),
        Take::Referral => (Merge::WriteLead(Rule::Released), Some(next)),
        Take::Lead if sight.is_two_way && sight.lead.is_none() => (Merge::NeedLead, Some(next)),
        Take::Lead if sight.is_two_way => (Merge::WriteBack(Rule::Released), Some(next)),
        Take::Lead => (Merge::Rest, Some(common(sight, referral, lead))),
    }
}

/// Decides by the owner when both sides moved.
fn by_owner(sight: &Sight<'_>, referral: Option<Moved>, lead: Option<Moved>) -> Merge {
    let back = |owner| match sight.is_two_way {
        true => Merge::WriteBack(Rule::Owner(owner)),
        false => Merge::Rest,
    };
    match sight.owner {
        FieldOwner::PartnerCenter => Merge::WriteLead(Rule::Owner("owner partner_center")),
        FieldOwner::Crm => back("owner crm"),
        FieldOwner::Hold => Merge::BothMoved,
        FieldOwner::Newest => match newest(referral, lead) {
            Newest::Referral => Merge::WriteLead(Rule::Owner("owner newest: the referral changed last")),
            Newest::Lead => back("owner newest: the lead changed last"),
            Newest::TooClose => Merge::BothMoved,
        },
    }
}

enum Newest {
    Referral,
    Lead,
    TooClose,
}

/// Says which side moved last: by our first observations, within one cycle by the services' own times.
fn newest(referral: Option<Moved>, lead: Option<Moved>) -> Newest {
    let (referral_at, lead_at) = match (referral, lead) {
        (Some(_), None) => return Newest::Referral,
        (None, Some(_)) => return Newest::Lead,
        (None, None) => return Newest::TooClose,
        (Some(referral), Some(lead)) => (referral.at, lead.at),
    };
    let apart = referral_at.since(lead_at).max(lead_at.since(referral_at));
    if apart < NEWEST_MARGIN {
        Newest::TooClose
    } else if referral_at > lead_at {
        Newest::Referral
    } else {
        Newest::Lead
    }
}

/// The memory of a group whose halves are the base now.
pub fn agreed(group: u32, mapping: u32, referral: u64, lead: u64) -> GroupMemory {
    GroupMemory {
        group,
        mapping,
        base: Base::Common { referral, lead },
        referral_moved: None,
        lead_moved: None,
        released: None,
        flips: None,
    }
}

fn common(sight: &Sight<'_>, referral: u64, lead: u64) -> GroupMemory {
    agreed(sight.group, sight.mapping, referral, lead)
}

fn remember(sight: &Sight<'_>, base: Base) -> GroupMemory {
    GroupMemory { base, ..agreed(sight.group, sight.mapping, 0, 0) }
}

/// The fingerprints of both sides that a base is made of.
pub(super) fn halves(base: Base) -> (u64, u64) {
    match base {
        Base::Common { referral, lead } | Base::Apart { referral, lead, .. } | Base::Recalled { referral, lead } => {
            (referral, lead)
        }
    }
}

fn current(moved: Option<Moved>, half: u64) -> u64 {
    moved.map_or(half, |moved| moved.to)
}

/// Remembers a move with the instant at which this value was first seen.
fn moved(before: Option<Moved>, half: u64, now_at: u64, now: Timestamp) -> Option<Moved> {
    if now_at == half {
        return None;
    }
    Some(match before {
        Some(before) if before.to == now_at => before,
        Some(_) | None => Moved { to: now_at, at: now },
    })
}

/// Both sides show the value: the lead holds what would be written to it.
fn is_equal(sight: &Sight<'_>, referral: u64, lead: u64) -> bool {
    referral == lead || sight.referral.is_some_and(|value| value.draft_fingerprint == lead)
}

/// The lead still shows what a write of ours, whose answer was lost, was about to write.
fn is_ours(sight: &Sight<'_>, referral: u64, lead: u64) -> bool {
    sight.intent == Some((referral, lead))
}
