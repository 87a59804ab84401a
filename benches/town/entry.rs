//! A linked entry of a large ledger.

use referrald::model::{
    Base, ETag, Entry, ExternalReference, GroupMemory, LeadId, LeadState, LeadStatus, Link, ReferralStatus, Standing,
    Substatus, Timestamp,
};

use super::id;

/// When the first of them was created; each later one a second after.
pub const BEGAN: i64 = 1_700_000_000;

/// The version of every referral that is listed.
pub const ETAG: &str = "\"0c00d1f2-0000-0100-0000-673f2d5a0000\"";

/// A linked entry with nine groups that agree, as most are; `round` tells its versions apart.
pub fn entry(number: u64, round: u64) -> Entry {
    let now = Timestamp::from_seconds(BEGAN + number as i64);
    let half = |group: u32, side: u64| {
        (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(group * 7) ^ (side << 40) ^ round
    };
    let groups = (0..9u32).map(|group| GroupMemory {
        group: group * 0x0101_0101,
        mapping: 7,
        base: Base::Common { referral: half(group, 1), lead: half(group, 2) },
        referral_moved: None,
        lead_moved: None,
        released: None,
        flips: None,
    });
    let link = Link {
        lead: LeadId::new(id(number).uuid()),
        etag: Some(ETag(format!("W/\"{}\"", 10_000_000 + number + round))),
        status: LeadStatus { state: LeadState::Open, code: 1 },
        modified: Some(now),
        deal: Default::default(),
        is_ours: true,
        has_changed_state: false,
    };
    Entry {
        standing: Standing::Linked,
        first_seen: now,
        referral_etag: Some(ETag(ETAG.to_owned())),
        referral_status: ReferralStatus::Active,
        referral_substatus: Substatus::Accepted,
        referral_created: Some(now),
        referral_updated: Some(now),
        deadline: None,
        external_reference: ExternalReference::Ours,
        consent: Some(true),
        is_consent_withdrawn: false,
        is_registered_co_sell: false,
        is_frozen: false,
        link: Some(link),
        groups: groups.collect(),
        outcome: None,
        closed_by_us: None,
        reported_after_closing: None,
        trouble: None,
        holds: 0,
        primary_contact: Some(number as u32),
        look_at: None,
    }
}
