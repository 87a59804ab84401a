//! Which referral and which lead belong together (spec, "Identity").

use super::support::*;
use crate::model::{ETag, Entry, ExternalReference, Lead, LeadId, LeadState, LeadStatus, ReferralStatus, Standing};
use crate::plan::Seen;
use crate::plan::settings::{FieldOwner, OnLeadDeleted};
use ReferralStatus::{Active, Closed, New};

const OPEN: LeadStatus = LeadStatus { state: LeadState::Open, code: 1 };
const CREATE: &str = "create lead L for referral R with companyname, qualificationcomments, then write its id back";
const GONE: &str = "hold: lead L was deleted and stays deleted (link.on_lead_deleted = \"leave\")";

fn other(number: u128) -> Lead {
    Lead { id: lead_id(number), ..row().lead_in(OPEN) }
}

#[test]
fn a_referral_without_a_lead_is_searched_then_created() {
    check_all(vec![
        ("nothing known", row(), "needs the referral"),
        ("seen", row().referral(New), "needs a search"),
        ("nothing found", row().referral(New).found(&[]), CREATE),
        ("active", row().referral(Active).found(&[]), CREATE),
        ("closed when first seen", row().referral(Closed).found(&[]), ""),
    ]);
    assert_eq!(standing(row().referral(Closed).found(&[])), Standing::ClosedUnlinked);
}

fn standing(sample: Sample) -> Standing {
    sample.plan().entry.expect("an entry").standing
}

#[test]
fn closed_referrals_get_a_lead_only_when_asked_for() {
    let closed = |import: &str, substatus| {
        let policy = policy(FieldOwner::Crm, false, &format!("[scope]\nimport_closed = \"{import}\""));
        row_of(policy).referral(Closed).referral_is(|it| it.substatus = substatus).found(&[])
    };
    use crate::model::Substatus::{Lost, Won};
    check_all(vec![
        ("none", closed("none", Won), ""),
        ("won: won", closed("won", Won), CREATE),
        ("won: lost", closed("won", Lost), ""),
        ("all", closed("all", Lost), CREATE),
    ]);
}

#[test]
fn an_existing_lead_is_adopted_and_its_id_written_once() {
    let found = |lead: Lead| row().referral(Active).found(&[lead]);
    let sets = |lead: &str| format!("write back to referral R: externalReferenceId = lead {lead} (link)");
    let named = |lead: LeadId| {
        found(Lead { id: lead, ..other(0x10) }).referral_is(|it| it.external_reference = Some(lead.to_string()))
    };
    check_all(vec![
        ("by subject, reference empty", found(other(0x10)), &sets("#10")),
        ("the computed one", found(other(0x10).computed()), &sets("L")),
        ("named already", named(lead_id(0x10)), ""),
        ("closed", row().referral(Closed).found(&[other(0x10)]), ""),
    ]);
    check(found(other(0x10)).written(), "");
}

impl Lead {
    fn computed(self) -> Lead {
        Lead { id: row().policy.computed(id(R)), ..self }
    }
}

#[test]
fn an_external_reference_is_written_unless_it_is_ours_or_somebody_elses_key() {
    let holds = |text: Option<&str>| {
        let text = text.map(str::to_owned);
        row().referral(Active).linked(Active).open().referral_is(|it| it.external_reference = text)
    };
    let ours = row().policy.computed(id(R)).to_string();
    let sets = "write back to referral R: externalReferenceId = lead L (link)";
    let foreign =
        "hold: externalReferenceId holds somebody else's key and is left alone (link.overwrite_foreign_reference)";
    let fresh = |sample: Sample| sample.entry(|entry| entry.external_reference = ExternalReference::Empty);
    check_all(vec![
        ("empty", holds(None), sets),
        ("ours", holds(Some(&ours)), ""),
        ("ours in capitals and braces", holds(Some(&format!("{{{}}}", ours.to_uppercase()))), ""),
        ("another GUID", fresh(holds(Some(&lead_id(0x10).to_string()))), sets),
        ("foreign", holds(Some("SAP-4711")), foreign),
        ("foreign, overwritten", holds(Some("SAP-4711")).with(|it| it.link.overwrite_foreign_reference = true), sets),
        ("the id written before a merge", holds(Some(&lead_id(0x10).to_string())), ""),
    ]);
}

#[test]
fn two_candidates_are_a_hold() {
    let two = row().referral(New).found(&[other(0x10), other(0x11)]);
    check(two.clone(), "hold: leads #10 and #11 all claim it; keep one of them (link.adopt)");
    assert_eq!(standing(two), Standing::Pending);
}

#[test]
fn a_lead_that_speaks_for_another_referral_is_left_to_it() {
    let taken = row().referral(New).found(&[other(0x10)]).claimed(lead_id(0x10), id(0x1b));
    check(taken.clone(), "hold: lead already linked to referral #1b: #10; `release` tries again");
    let later = taken.later(minutes(1));
    assert_eq!(standing(later.clone()), Standing::LeadTaken);
    // Nothing crosses until a release: not even when the referral changes and its claim is gone.
    let freed = later.found(&[]).says("new");
    check(freed.clone(), "hold: lead already linked to another referral; `release` tries again");
    check(freed.entry(|entry| entry.standing = Standing::Pending), CREATE);
}

#[test]
fn a_lead_that_another_referral_has_is_not_created_after_its_deletion() {
    let place = row().policy.computed(id(R));
    let taken = "hold: lead already linked to referral #1b: L; `release` tries again";
    // The other referral got it by a merge; then it was deleted, and only this referral's search knows.
    let first = row().referral(New).found(&[]).claimed(place, id(0x1b));
    check(first.clone(), taken);
    assert_eq!(standing(first), Standing::LeadTaken);
    let mut again =
        row().referral(Active).linked(Active).with(|policy| policy.link.on_lead_deleted = OnLeadDeleted::Recreate);
    again.row.lead = Seen::Absent;
    check(again.claimed(place, id(0x1b)).found(&[]), taken);
}

#[test]
fn a_deleted_lead_stays_deleted_or_is_created_again() {
    let gone = |answer| {
        let mut sample = row().referral(Active).linked(Active).with(|policy| policy.link.on_lead_deleted = answer);
        sample.row.lead = Seen::Absent;
        sample
    };
    check(gone(OnLeadDeleted::Leave), GONE);
    assert_eq!(standing(gone(OnLeadDeleted::Leave)), Standing::LeadGone);
    assert_eq!(gone(OnLeadDeleted::Leave).plan().vanished, Some(row().policy.computed(id(R))));
    check(gone(OnLeadDeleted::Recreate), "needs a search");
    check(gone(OnLeadDeleted::Recreate).found(&[]), CREATE);
    // Somebody made another lead for it.
    check(gone(OnLeadDeleted::Recreate).found(&[other(0x10)]), "");
    // The referral goes on: still left alone; the operator changes the rule: created after a search.
    let left = gone(OnLeadDeleted::Leave).later(minutes(1));
    let mut left = left.says("new");
    check(left.clone(), GONE);
    left.row.lead = Seen::Unseen;
    check(left.clone(), &format!("{GONE}\nneeds the lead"));
    let mut changed = left.with(|policy| policy.link.on_lead_deleted = OnLeadDeleted::Recreate);
    // It may be back by now, so it is read before anything else.
    check(changed.clone(), "needs the lead");
    changed.row.lead = Seen::Absent;
    check(changed.clone(), "needs a search");
    check(changed.found(&[]), CREATE);
}

#[test]
fn a_lead_that_is_back_is_linked_again() {
    let mut gone = row().referral(Active).linked(Active);
    gone.row.lead = Seen::Absent;
    let back = gone.later(minutes(1)).open();
    check(back.clone(), "");
    assert_eq!(standing(back), Standing::Linked);
}

#[test]
fn a_lead_that_is_back_is_weighed_with_its_referral_also_when_its_version_was_forgotten() {
    let mut gone = row().referral(Active).linked(Active);
    gone.row.lead = Seen::Absent;
    let forgotten = |entry: &mut Entry| entry.link.iter_mut().for_each(|link| link.etag = None);
    let mut back = gone.later(minutes(1)).entry(forgotten).open();
    back.row.referral = Seen::Unseen;
    check(back, "needs the referral");
}

#[test]
fn a_gone_lead_is_read_again_when_its_row_is_due_or_its_referral_is_listed() {
    let mut gone = row().referral(Active).linked(Active);
    gone.row.lead = Seen::Absent;
    let mut gone = gone.later(minutes(1));
    gone.row.lead = Seen::Unseen;
    check(gone.clone(), &format!("{GONE}\nneeds the lead"));
    gone.row.referral = Seen::Unseen;
    check(gone.clone(), GONE);
    // It was seen to be back, but its referral could not be read then: the row was left for later.
    let due = gone.entry(|entry| entry.look_at = Some(minutes(1)));
    check(due.clone(), &format!("{GONE}\nneeds the lead"));
    check(due.open(), "needs the referral");
}

#[test]
fn a_reference_to_a_lead_that_is_gone_means_was_linked() {
    let computed = row().policy.computed(id(R));
    let named = |lead: LeadId| {
        let mut sample =
            row().referral(Active).referral_is(|it| it.external_reference = Some(lead.to_string())).found(&[]);
        sample.row.adoption.as_mut().expect("a search").is_reference_gone = true;
        sample
    };
    let by_key = |sample: Sample| sample.with(|policy| policy.is_derived = false);
    let left = "hold: lead #10 was deleted and stays deleted (link.on_lead_deleted = \"leave\")";
    check_all(vec![
        ("the computed id", named(computed), GONE),
        ("another GUID", named(lead_id(0x10)), CREATE),
        ("another GUID, found by key", by_key(named(lead_id(0x10))), left),
        ("recreate", named(computed).with(|policy| policy.link.on_lead_deleted = OnLeadDeleted::Recreate), CREATE),
    ]);
    // Nothing is linked, so only a search can find it again when it is restored.
    let mut later = named(computed).later(minutes(1));
    later.row.adoption = None;
    check(later.clone(), &format!("{GONE}\nneeds a search"));
    check(later.clone().found(&[]), GONE);
    check(later.found(&[row().lead_in(OPEN)]), "");
}

#[test]
fn a_lead_on_the_way_to_the_master_speaks_for_nobody() {
    let mut halfway = row().referral(Active).linked(Active).open();
    let on_the_way = Lead { is_merged: true, master: Some(lead_id(0x11)), ..other(0x10) };
    halfway.row.lead = Seen::from(on_the_way);
    check(halfway.clone(), "needs the lead");
    let link = halfway.plan().entry.and_then(|entry| entry.link).expect("a link");
    assert_eq!(link.lead, row().policy.computed(id(R)));
}

#[test]
fn a_merged_lead_is_followed_with_no_base_and_its_outcome_is_no_news() {
    let master = |sample: Sample| sample.lead_is(|lead| lead.id = lead_id(0x10));
    let merged = || master(row().referral(Active).linked(Active).open());
    check(merged(), "");
    let differs = merged().shows("the master's");
    check(
        differs,
        "hold: no common base for notes: both sides have a value; `release --take referral` or `--take lead` decides (mapping.groups.notes)",
    );
    let won = master(row().referral(Active).linked(Active).lead(LeadState::Qualified, 3))
        .opportunities(&[crate::model::OpportunityState::Won]);
    check(won, "hold: outcome older than the link: it would become Closed / Won; `approve` sends it (status)");
    let taken = merged().claimed(lead_id(0x10), id(0x1b));
    check(taken, "hold: lead already linked to referral #1b: #10; `release` tries again");
}

#[test]
fn a_referral_that_cannot_be_read_is_left_alone_and_looked_at_when_it_is_back() {
    let mut missing = row_with(FieldOwner::Newest, true).referral(Active).linked(Active).open().shows("new");
    missing.row.referral = Seen::Absent;
    check(missing.clone(), "hold: the referral cannot be read any more; its lead is left alone");
    assert_eq!(missing.plan().entry.expect("an entry").referral_etag, None);
    let back = missing.later(minutes(1)).referral(Active);
    let back = back.referral_is(|it| it.external_reference = Some(row().policy.computed(id(R)).to_string()));
    check(
        back,
        "write back to referral R: /details/notes (only the lead changed and the path is two-way; mapping.groups.notes)",
    );
}

#[test]
fn the_referral_id_column_is_filled_on_open_leads_only() {
    let with = |state, code| {
        row().referral(Active).linked(Active).lead(state, code).with(|it| it.referral_column = Some("new_id".into()))
    };
    let fills = "update lead L of referral R: the referral id (referral_id_column)";
    check_all(vec![
        ("open", with(LeadState::Open, 1), fills),
        ("filled", with(LeadState::Open, 1).lead_is(|lead| lead.referral = Some(id(R))), ""),
        ("qualified", with(LeadState::Qualified, 3), ""),
        (
            "a person's text",
            with(LeadState::Open, 1).lead_is(|lead| lead.has_foreign_referral = true),
            "hold: the column of lead L holds a text that is no referral id, and is left alone; emptied, it is filled \
             (referral_id_column)",
        ),
    ]);
}

#[test]
fn an_update_without_a_version_reads_first() {
    let blind = row().referral(Active).linked(Active).says("new");
    let blind = blind.entry(|entry| entry.link.as_mut().expect("a link").etag = None);
    check(blind, "needs the lead");
    let stale = row().referral(Active).linked(Active).open().referral_is(|it| it.etag = None).says("new");
    let Some(crate::plan::Action::Update { etag, .. }) = stale.plan().action else { panic!("an update") };
    assert_eq!(etag, ETag("W/\"1\"".to_owned()));
}
