//! The merge of one group (spec, "Fields"), line by line.

use super::support::*;
use crate::model::{Base, ETag, LeadState, LeadStatus, ReferralStatus, Take};
use crate::plan::Outcome;
use crate::plan::settings::FieldOwner;
use ReferralStatus::{Active, Closed};

fn seen(owner: FieldOwner, is_two_way: bool, memory: Memory) -> Sample {
    row_with(owner, is_two_way).referral(Active).linked(Active).open().remembering(memory)
}

/// What a decision prints.
const REST: &str = "";
const WRITE_LEAD: &str =
    "update lead L of referral R: qualificationcomments (only the referral changed; mapping.groups.notes)";
const WRITE_BACK: &str =
    "write back to referral R: /details/notes (only the lead changed and the path is two-way; mapping.groups.notes)";
const WAS_EMPTY: &str =
    "update lead L of referral R: qualificationcomments (no common base, the lead had no value; mapping.groups.notes)";
const NO_BASE: &str = "hold: no common base for notes: both sides have a value; `release --take referral` or `--take lead` decides (mapping.groups.notes)";

fn both(owner: &str) -> String {
    format!(
        "hold: both sides changed notes; `release --take referral` or `--take lead` decides (mapping.groups.notes.owner = \"{owner}\")"
    )
}

fn lead_by(owner: &str) -> String {
    format!("update lead L of referral R: qualificationcomments (both changed, {owner}; mapping.groups.notes.owner)")
}

fn back_by(owner: &str) -> String {
    format!("write back to referral R: /details/notes (both changed, {owner}; mapping.groups.notes.owner)")
}

#[test]
fn our_own_write_is_no_change_of_the_referral_though_its_answer_was_empty() {
    let planned = seen(FieldOwner::Newest, true, Memory::Common).shows("mine");
    let action = planned.plan().action.expect("a write-back");
    let (mut written, _) = crate::plan::settle(
        crate::plan::Row { entry: planned.plan().entry, ..planned.row.clone() },
        &action,
        &crate::plan::Outcome::ReferralWritten(None),
        &planned.policy,
        NOW,
    );
    // Before anybody reads the referral again, the seller goes on.
    written.referral = planned.row.referral.clone();
    let later = Sample { row: written, now: minutes(30), ..planned }.says("mine").shows("mine again");
    check(later, WRITE_BACK);
}

const OWNERS: [FieldOwner; 4] = [FieldOwner::PartnerCenter, FieldOwner::Crm, FieldOwner::Newest, FieldOwner::Hold];

#[test]
fn with_a_common_base_the_side_that_moved_is_carried_over_whoever_owns_it() {
    for owner in OWNERS {
        for is_two_way in [false, true] {
            let seen = || seen(owner, is_two_way, Memory::Common);
            check_all(vec![
                ("nothing moved", seen(), REST),
                ("the referral moved", seen().says("new"), WRITE_LEAD),
                ("the referral was emptied", seen().says(""), WRITE_LEAD),
                ("the lead moved", seen().shows("new"), if is_two_way { WRITE_BACK } else { REST }),
                ("both moved to the same", seen().says("new").shows("new"), REST),
            ]);
        }
    }
}

#[test]
fn a_recalled_base_is_believed_as_far_as_versions_prove_it() {
    // `says` and `shows` make a new version of their side; `touched` makes one although nothing of the group changed.
    let lead_touched = |sample: Sample| sample.lead_is(|lead| lead.etag = Some(ETag("W/\"9\"".to_owned())));
    let referral_touched =
        |sample: Sample| sample.referral_is(|referral| referral.etag = Some(ETag("\"r9\"".to_owned())));
    for owner in OWNERS {
        for is_two_way in [false, true] {
            let seen = || seen(owner, is_two_way, Memory::Recalled);
            let lead_moved = if is_two_way { WRITE_BACK } else { REST };
            let lead_moved_unproven = if is_two_way { NO_BASE } else { REST };
            check_all(vec![
                ("nothing moved", seen(), REST),
                ("nothing moved, both touched", referral_touched(lead_touched(seen())), REST),
                ("the referral moved", seen().says("new"), WRITE_LEAD),
                ("the referral moved, the lead was touched", lead_touched(seen().says("new")), NO_BASE),
                ("the lead moved", seen().shows("new"), lead_moved),
                (
                    "the lead moved, the referral was touched",
                    referral_touched(seen().shows("new")),
                    lead_moved_unproven,
                ),
                ("both moved", seen().says("theirs").shows("ours"), NO_BASE),
                ("both moved to the same", seen().says("new").shows("new"), REST),
                ("the lead was emptied, the referral moved", seen().says("new").shows(""), NO_BASE),
            ]);
        }
    }
}

#[test]
fn the_version_of_a_qualified_lead_proves_nothing_of_what_its_opportunities_said() {
    let recalled = |state, code| {
        let sample = row_of(policy(FieldOwner::PartnerCenter, true, "keep = [\"amount\"]"));
        let mut sample = sample.referral(Active).linked_as(Active, LeadStatus { state, code }).lead(state, code);
        sample = sample.document(|document| {
            document["details"] = serde_json::json!({"notes": "old", "dealValue": 100, "currency": "USD"})
        });
        let columns = [("estimatedamount", 50.into()), ("transactioncurrencyid", "USD".into())];
        sample = sample.lead_is(|lead| lead.columns.extend(columns.map(|(name, value)| (name.to_owned(), value))));
        let mapping = sample.policy.mapping.clone();
        let index = mapping.groups().iter().position(|group| group.name == "amount").expect("a group");
        let lead = mapping.observe(sample.row.lead.present().expect("a lead"), Some(&[]))[index].fingerprint;
        sample.entry(|entry| {
            let memory = entry.groups.iter_mut().find(|memory| memory.group == mapping.groups()[index].key);
            memory.expect("its memory").base = Base::Recalled { referral: 1, lead };
        })
    };
    let hold = "hold: no common base for amount";
    assert!(!print(&recalled(LeadState::Open, 1).plan()).contains(hold));
    let plan = print(&recalled(LeadState::Qualified, 3).plan());
    assert!(plan.contains(hold), "{plan}");
}

#[test]
fn what_was_recalled_is_a_common_base_or_none_afterwards() {
    let later = |sample: Sample| sample.later(minutes(10));
    let seen = || seen(FieldOwner::PartnerCenter, false, Memory::Recalled);
    check(later(seen()).says("new"), WRITE_LEAD);
    let held = later(seen().says("theirs").shows("ours"));
    check(held.clone(), NO_BASE);
    assert!(!held.row.entry.expect("an entry").has_recalled());
}

#[test]
fn a_recalled_base_waits_until_both_sides_are_read() {
    let mut blind = seen(FieldOwner::Crm, false, Memory::Recalled).says("new");
    blind.row.lead = crate::plan::Seen::Unseen;
    check(blind, "needs the lead");
    let mut deaf = seen(FieldOwner::Crm, true, Memory::Recalled).shows("new");
    deaf.row.referral = crate::plan::Seen::Unseen;
    check(deaf, "needs the referral");
}

#[test]
fn an_export_gives_bases_to_a_lead_that_is_linked_again() {
    let wiped = |sample: Sample| {
        let lead = sample.row.lead.present().expect("a lead").clone();
        let recalled = sample.row.entry.clone().map(|entry| Box::new(entry.recalled(minutes(0))));
        let mut sample = sample.found(&[lead]);
        sample.row.entry = None;
        sample.row.recalled = recalled;
        sample
    };
    let common = |is_two_way| seen(FieldOwner::Newest, is_two_way, Memory::Common);
    check_all(vec![
        ("nothing moved", wiped(common(true)), REST),
        ("the referral moved", wiped(common(true).says("new")), WRITE_LEAD),
        ("the lead moved", wiped(common(false).shows("new")), REST),
        ("the lead moved, two-way", wiped(common(true).shows("new")), WRITE_BACK),
        ("both moved", wiped(common(true).says("theirs").shows("ours")), NO_BASE),
    ]);
    let mut without = wiped(common(true).says("new"));
    without.row.recalled = None;
    check(without, NO_BASE);
    let mut of_another_lead = wiped(common(true).says("new"));
    let other = |entry: &mut Box<crate::model::Entry>| {
        entry.link.as_mut().expect("a link").lead = crate::model::LeadId::new(uuid::Uuid::nil());
    };
    of_another_lead.row.recalled.iter_mut().for_each(other);
    check(of_another_lead, NO_BASE);
}

#[test]
fn a_lead_that_was_emptied_erases_nothing_over_there() {
    check(
        seen(FieldOwner::Newest, true, Memory::Common).shows(""),
        "hold: the lead's notes cannot be written back: the lead's qualificationcomments is empty (mapping.groups.notes.write_back)",
    );
}

#[test]
fn when_both_moved_the_owner_decides() {
    let seen = |owner, is_two_way| seen(owner, is_two_way, Memory::Common).says("theirs").shows("ours");
    let partner_center = lead_by("owner partner_center");
    let crm = back_by("owner crm");
    check_all(vec![
        ("partner_center", seen(FieldOwner::PartnerCenter, false), &partner_center),
        ("partner_center, two-way", seen(FieldOwner::PartnerCenter, true), &partner_center),
        ("crm", seen(FieldOwner::Crm, false), REST),
        ("crm, two-way", seen(FieldOwner::Crm, true), &crm),
        ("hold", seen(FieldOwner::Hold, false), &both("hold")),
        ("hold, two-way", seen(FieldOwner::Hold, true), &both("hold")),
    ]);
}

#[test]
fn the_newest_is_told_by_first_observations_and_within_one_cycle_by_server_times() {
    let seen = |is_two_way| seen(FieldOwner::Newest, is_two_way, Memory::Common).says("theirs").shows("ours");
    let referral = lead_by("owner newest: the referral changed last");
    let lead = back_by("owner newest: the lead changed last");
    let changed = |referral: i64, lead: i64| {
        seen(true)
            .referral_is(|it| it.updated = Some(minutes(referral)))
            .lead_is(|it| it.modified = Some(minutes(lead)))
    };
    let unknown = seen(true).lead_is(|lead| lead.modified = None);
    check_all(vec![
        ("same cycle, lead later", changed(-30, -20), &lead),
        ("same cycle, referral later", changed(-20, -30), &referral),
        ("same cycle, exactly five minutes", changed(-25, -20), &lead),
        ("same cycle, closer than five minutes", changed(-24, -20), &both("newest")),
        ("same cycle, no server time", unknown, &both("newest")),
        ("one way, lead later", seen(false), REST),
    ]);
    // The referral was seen to move first, the lead an hour later, whatever the services' stamps say.
    let first = || row_with(FieldOwner::Newest, true).referral(Active).linked(Active).open().says("theirs");
    let observed = |after| {
        let mut sample = first().later(minutes(after));
        sample = sample.shows("ours").lead_is(|lead| lead.modified = Some(minutes(-90)));
        sample
    };
    check_all(vec![("an hour apart", observed(60), &lead), ("four minutes apart", observed(4), &both("newest"))]);
}

#[test]
fn a_change_of_another_field_does_not_turn_the_order_around() {
    let close = seen(FieldOwner::Newest, true, Memory::Common).says("theirs").shows("ours");
    let close = close.lead_is(|lead| lead.modified = Some(minutes(-29)));
    check(close.clone(), &both("newest"));
    let later = close.later(minutes(120)).lead_is(|lead| lead.modified = Some(minutes(119)));
    check(later, &both("newest"));
}

#[test]
fn without_a_base_only_what_is_empty_is_filled() {
    for owner in OWNERS {
        for is_two_way in [false, true] {
            let seen = || seen(owner, is_two_way, Memory::None);
            check_all(vec![
                ("equal", seen(), REST),
                ("both empty", seen().says("").shows(""), REST),
                ("the lead is empty", seen().shows(""), WAS_EMPTY),
                ("the referral is empty", seen().says("").shows("ours"), REST),
                ("both have a value", seen().says("theirs").shows("ours"), NO_BASE),
            ]);
        }
    }
}

#[test]
fn a_later_move_without_a_common_base_is_decided_by_the_owner_as_if_both_had_moved() {
    for memory in [Memory::Apart, Memory::Disputed] {
        let seen = |owner, is_two_way| seen(owner, is_two_way, memory);
        let rest = if memory == Memory::Disputed { NO_BASE } else { REST };
        // In the tables both halves say `old`: make them differ first, as they do when apart.
        let apart = |owner, is_two_way| seen(owner, is_two_way).shows("ours").later_apart();
        check_all(vec![
            ("nothing moved", apart(FieldOwner::Newest, true), rest),
            (
                "newest, the referral moved",
                apart(FieldOwner::Newest, true).says("theirs"),
                &lead_by("owner newest: the referral changed last"),
            ),
            (
                "newest, the lead moved",
                apart(FieldOwner::Newest, true).shows("again"),
                &back_by("owner newest: the lead changed last"),
            ),
            ("newest, one way", apart(FieldOwner::Newest, false).shows("again"), REST),
            ("crm, the referral moved", apart(FieldOwner::Crm, true).says("theirs"), &back_by("owner crm")),
            ("crm, one way", apart(FieldOwner::Crm, false).says("theirs"), REST),
            (
                "partner_center, the lead moved",
                apart(FieldOwner::PartnerCenter, true).shows("again"),
                &lead_by("owner partner_center"),
            ),
            ("hold", apart(FieldOwner::Hold, true).says("theirs"), &both("hold")),
            ("agreed by themselves", apart(FieldOwner::Newest, true).shows("old"), REST),
        ]);
    }
}

impl Sample {
    /// The halves of `notes` become what both sides show now.
    fn later_apart(self) -> Self {
        let mapping = self.policy.mapping.clone();
        let at = mapping.groups().iter().position(|group| group.name == "notes").expect("notes");
        let lead = mapping.observe(self.row.lead.present().expect("a lead"), None)[at].fingerprint;
        self.notes(|memory| {
            if let crate::model::Base::Apart { lead: half, .. } = &mut memory.base {
                *half = lead;
            }
        })
    }
}

#[test]
fn a_release_decides_once() {
    let held = |is_two_way, take| {
        let held = seen(FieldOwner::Hold, is_two_way, Memory::Common).says("theirs").shows("ours").later(minutes(1));
        held.notes(|memory| memory.released = Some(take))
    };
    let lead = RELEASED_TO_LEAD;
    let back = RELEASED_BACK;
    check_all(vec![
        ("take referral", held(false, Take::Referral), lead),
        ("take referral, two-way", held(true, Take::Referral), lead),
        ("take lead", held(false, Take::Lead), REST),
        ("take lead, two-way", held(true, Take::Lead), back),
    ]);
    for (is_two_way, take) in [(false, Take::Referral), (true, Take::Referral), (false, Take::Lead), (true, Take::Lead)]
    {
        check(held(is_two_way, take).written(), REST);
    }
}

const RELEASED_TO_LEAD: &str =
    "update lead L of referral R: qualificationcomments (released by an operator; mapping.groups.notes)";
const RELEASED_BACK: &str = "write back to referral R: /details/notes (released by an operator; mapping.groups.notes)";

#[test]
fn a_release_that_could_not_be_written_yet_is_no_word_about_what_the_other_side_says_since() {
    let released = |take| {
        let held = seen(FieldOwner::Hold, true, Memory::Common).says("theirs").shows("ours").later(minutes(1));
        held.notes(|memory| memory.released = Some(take)).later(minutes(2))
    };
    let (to_lead, back) = (released(Take::Referral), released(Take::Lead));
    check_all(vec![
        ("take referral", to_lead.clone(), RELEASED_TO_LEAD),
        ("take referral, the lead moves", to_lead.clone().shows("ours, later"), &both("hold")),
        ("take referral, the referral moves", to_lead.clone().says("theirs, later"), RELEASED_TO_LEAD),
        ("take lead", back.clone(), RELEASED_BACK),
        ("take lead, the referral moves", back.clone().says("theirs, later"), &both("hold")),
        ("take lead, the lead moves", back.shows("ours, later"), RELEASED_BACK),
    ]);
    // Held again, it stays so.
    check(to_lead.clone().shows("ours, later").later(minutes(3)), &both("hold"));
    // What changed while the whole referral was held is what the operator saw.
    let lifted = to_lead.entry(|entry| entry.holds = crate::plan::Hold::ByOperator.bit());
    check(lifted.shows("ours, later"), RELEASED_TO_LEAD);
}

#[test]
fn a_kept_edit_stays_the_sellers_through_any_number_of_later_moves_of_the_referral() {
    let kept = seen(FieldOwner::Crm, false, Memory::Common).shows("seller's").later(minutes(10));
    check(kept.clone().says("1"), REST);
    check(kept.says("1").later(minutes(20)).says("2").later(minutes(30)).says("3"), REST);
}

#[test]
fn a_lead_that_is_not_open_is_not_written_until_it_is_reopened() {
    for (state, code, word) in [(LeadState::Qualified, 3, "Qualified"), (LeadState::Disqualified, 4, "Disqualified")] {
        let status = LeadStatus { state, code };
        let closed = row().referral(Closed).linked_as(Closed, status).lead(state, code).says("new").later(minutes(5));
        let hold = format!("hold: lead closed: L is {word}, notes wait until it is reopened");
        check(closed.clone(), &hold);
        check(closed.lead(LeadState::Open, 1), WRITE_LEAD);
    }
}

#[test]
fn a_change_of_mapping_moves_no_lead_and_forgets_no_edit() {
    let other = |sample: Sample| sample.notes(|memory| memory.mapping ^= 1);
    let common = |is_two_way| seen(FieldOwner::Newest, is_two_way, Memory::Common);
    let differs = |is_two_way| {
        // A new expression: the derived value differs from the half, the referral is the same version.
        let sample = common(is_two_way).notes(|memory| {
            if let crate::model::Base::Common { referral, .. } = &mut memory.base {
                *referral ^= 1;
            }
        });
        other(sample)
    };
    check_all(vec![
        ("nothing else", other(common(false)), REST),
        ("another value", differs(false), REST),
        ("the referral changed with it", other(common(false).says("new")), NO_BASE),
        ("the lead changed with it", other(common(false).shows("new")), REST),
        ("the lead changed with it, two-way", other(common(true).shows("new")), NO_BASE),
    ]);
    let kept = seen(FieldOwner::Crm, false, Memory::Common).shows("seller's").later(minutes(10));
    let changed = other(kept).later(minutes(20));
    check(changed.says("new"), REST);
}

#[test]
fn a_backfill_rewrites_what_only_the_mapping_made_different() {
    use crate::plan::Groups;
    // The same version of the referral gives another value under the new mapping.
    let remapped = |sample: Sample| {
        let sample = sample.says("mapped anew");
        let etag = sample.row.referral.present().expect("a referral").etag.clone();
        sample.notes(|memory| memory.mapping ^= 1).entry(|entry| entry.referral_etag = etag)
    };
    let asked = |mut sample: Sample, groups| {
        sample.row.backfill = Some(groups);
        sample
    };
    let common = |is_two_way| remapped(seen(FieldOwner::Crm, is_two_way, Memory::Common));
    let kept = remapped(seen(FieldOwner::Crm, false, Memory::Common).shows("seller's").later(minutes(10)));
    let write =
        "update lead L of referral R: qualificationcomments (backfill after a change of mapping; mapping.groups.notes)";
    let recorded = common(false).later(minutes(5));
    check_all(vec![
        ("not asked", common(false), REST),
        ("asked", asked(common(false), Groups::All), write),
        ("asked, two-way", asked(common(true), Groups::All), write),
        ("asked after the new half was recorded", asked(recorded.clone(), Groups::All), write),
        ("asked for another group", asked(recorded, Groups::One(7)), REST),
        ("a seller's edit", asked(kept, Groups::All), REST),
        ("nothing differs", asked(seen(FieldOwner::Crm, false, Memory::Common), Groups::All), REST),
    ]);
    check(asked(common(false), Groups::All).written(), REST);
    let mut blind = asked(common(false).later(minutes(5)), Groups::All);
    blind.row.lead = crate::plan::Seen::Unseen;
    check(blind, "needs the lead");
}

#[test]
fn after_a_change_of_mapping_later_moves_count_again() {
    let changed = seen(FieldOwner::Crm, false, Memory::Common).notes(|memory| memory.mapping ^= 1).later(minutes(1));
    check(changed.says("new"), WRITE_LEAD);
}

#[test]
fn a_side_that_was_not_read_counts_as_last_seen() {
    let blind = |sample: Sample| {
        let mut sample = sample;
        sample.row.lead = crate::plan::Seen::Unseen;
        sample
    };
    check(blind(seen(FieldOwner::Crm, false, Memory::Common).says("new")), WRITE_LEAD);
    check(blind(seen(FieldOwner::Crm, false, Memory::None)), "needs the lead");
    let mut deaf = seen(FieldOwner::Crm, true, Memory::Common).shows("new");
    deaf.row.referral = crate::plan::Seen::Unseen;
    check(deaf.clone(), WRITE_BACK);
    check(deaf.remembering(Memory::None), "needs the referral");
}

#[test]
fn only_columns_that_differ_are_written_and_named() {
    let policy = policy(FieldOwner::Crm, false, "keep = [\"contact\"]");
    let sample = row_of(policy).referral(Active).linked(Active).open();
    let team = |last: &str| serde_json::json!([{"firstName": "Ada", "lastName": last, "email": "a@b.example"}]);
    let sample = sample
        .document(|document| document["customerProfile"]["team"] = team("One"))
        .lead_is(|lead| {
            lead.columns.insert("firstname".to_owned(), "Ada".into());
            lead.columns.insert("lastname".to_owned(), "One".into());
            lead.columns.insert("emailaddress1".to_owned(), "a@b.example".into());
        })
        .forget("contact")
        .later(minutes(1));
    check(sample.clone(), REST);
    check(
        sample.document(|document| document["customerProfile"]["team"] = team("Two")),
        "update lead L of referral R: lastname (only the referral changed; mapping.groups.contact)",
    );
}

impl Sample {
    fn forget(self, group: &str) -> Self {
        let key = self.policy.mapping.groups().iter().find(|one| one.name == group).expect("a group").key;
        self.entry(|entry| entry.groups.retain(|memory| memory.group != key))
    }
}

#[test]
fn a_closed_referral_holds_what_would_go_back() {
    check(
        row_with(FieldOwner::Newest, true).referral(Closed).linked(Closed).open().shows("new"),
        "hold: the lead's notes cannot be written back: the referral is Closed (mapping.groups.notes.write_back)",
    );
}

/// The lead is flipped back after our write, then the referral is: `minutes` apart, ending before our fourth write.
fn flipped(step: i64, take: Option<Take>) -> Sample {
    let mut sample = seen(FieldOwner::Newest, true, Memory::Common).says("new").written();
    for (at, is_lead) in [(1, true), (2, false), (3, true)] {
        sample = sample.later(minutes(step * at));
        sample = if is_lead { sample.shows("old") } else { sample.says("new") };
        if at < 3 {
            sample = sample.written();
        }
    }
    match take {
        Some(_) => sample.notes(|memory| memory.released = take),
        None => sample,
    }
}

#[test]
fn a_group_written_three_times_within_an_hour_to_the_same_two_values_is_held() {
    let author = uuid::Uuid::from_u128(0x5e);
    let flapping = |who: &str| {
        format!(
            "hold: flapping: notes was written 3 times within an hour to the same two values, undone by {who} in Dynamics or in Partner Center; `release --take referral` or `--take lead` decides, `release` alone goes on (mapping.groups.notes)"
        )
    };
    let by = |id| move |lead: &mut crate::model::Lead| lead.modified_by = Some(id);
    check(flipped(1, None).lead_is(by(author)), &flapping(&format!("user {author}")));
    check(flipped(1, None).lead_is(by(US)), &flapping(&format!("our own user {US}")));
    check(flipped(19, None), &flapping("somebody"));
    check(flipped(20, None), WRITE_BACK);
    check(flipped(1, None).shows("third"), WRITE_BACK);
    let held = flipped(1, None).later(minutes(3));
    check(held.clone().later(minutes(600)), &flapping("somebody"));
    check(held.clone().shows("new"), REST);
    let released = "write back to referral R: /details/notes (released by an operator; mapping.groups.notes)";
    check(flipped(1, Some(Take::Lead)), released);
    let mut blind = held;
    blind.row.lead = crate::plan::Seen::Unseen;
    check(blind, "needs the lead");
}

#[test]
fn a_write_whose_answer_was_lost_counts_too() {
    let lost = |sample: Sample| {
        let plan = sample.plan();
        let action = plan.action.expect("a write");
        let Outcome::LeadWritten(lead) = echo(&sample.row, &action) else { panic!("a write to the lead") };
        let mut sample = sample;
        sample.row.intent = Some(action.intended());
        sample.row.entry = plan.entry;
        sample.row.lead = crate::plan::Seen::Present(lead);
        let mut sample = sample.later(minutes(0));
        sample.row.intent = None;
        sample
    };
    let sample = lost(seen(FieldOwner::Newest, true, Memory::Common).says("new"));
    let sample = sample.shows("old").written().says("new");
    let sample = lost(sample).shows("old");
    assert!(print(&sample.plan()).starts_with("hold: flapping"), "{}", print(&sample.plan()));
}
