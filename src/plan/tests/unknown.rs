//! Writes whose answer was lost, on rows that are not decided when it is looked for.

use super::support::*;
use crate::model::{Closing, ETag, Entry, Lead, LeadState, LeadStatus, ReferralStatus, Standing, Substatus};
use crate::plan::settings::FieldOwner;
use crate::plan::{Action, Hold, Seen};
use ReferralStatus::{Active, Closed, New};

const HELD: &str = "hold: held by an operator; `release` lifts it";
const MISSING: &str = "hold: the referral cannot be read any more; its lead is left alone";
const UPDATE: &str =
    "update lead L of referral R: qualificationcomments (only the referral changed; mapping.groups.notes)";

/// The action of this row was sent, and its answer was lost.
fn sent(sample: Sample) -> Sample {
    let plan = sample.plan();
    let mut sample = sample;
    sample.row.intent = Some(plan.action.expect("an action").intended());
    sample.row.entry = plan.entry;
    sample
}

fn held(sample: Sample) -> Sample {
    sample.with(|policy| policy.decisions.held.extend([id(R)]))
}

fn missing(mut sample: Sample) -> Sample {
    sample.row.referral = Seen::Absent;
    sample
}

/// What was planned is remembered, and so the record of the write is settled.
fn settled(sample: Sample) -> Sample {
    assert!(!sample.plan().keeps_intent);
    let mut sample = sample.later(minutes(20)).with(|policy| policy.decisions.held.clear());
    sample.row.intent = None;
    sample
}

fn known(sample: &Sample) -> Entry {
    sample.plan().entry.expect("an entry")
}

#[test]
fn a_write_to_a_lead_is_the_base_also_when_its_referral_is_held_or_missing_meanwhile() {
    for (put_aside, hold) in [(held as fn(Sample) -> Sample, HELD), (missing, MISSING)] {
        let row = row_with(FieldOwner::PartnerCenter, false).referral(Active).linked(Active).open();
        let shown = sent(row.says("new")).shows("new");
        let lost = put_aside(shown.clone());
        check(lost.clone(), hold);
        let mut back = settled(lost);
        back.row.referral = shown.row.referral;
        check(back.clone(), "");
        // The seller's edit after it is the seller's, and what the referral says afterwards is news.
        check(back.clone().shows("seller's"), "");
        check(back.says("newer"), UPDATE);
    }
}

#[test]
fn a_write_back_is_the_base_also_when_its_referral_is_held_meanwhile() {
    let row = row_with(FieldOwner::Newest, true).referral(Active).linked(Active).open();
    let lost = held(sent(row.shows("new")).says("new"));
    check(lost.clone(), HELD);
    let back = "write back to referral R: /details/notes (only the lead changed and the path is two-way; mapping.groups.notes)";
    check(settled(lost).shows("newest"), back);
}

/// A closing whose answer was lost.
fn closing() -> Sample {
    let row = row().referral(Active).linked(Active).lead(LeadState::Disqualified, 4);
    sent(row.later(minutes(60 * 24 * 4)))
}

fn closed_as(sample: Sample, substatus: Substatus) -> Sample {
    sample.referral(Closed).referral_is(|it| it.substatus = substatus)
}

#[test]
fn a_closing_is_ours_also_when_its_referral_is_held_meanwhile() {
    assert_eq!(known(&held(closed_as(closing(), Substatus::Lost))).closed_by_us, Some(Closing::Lost));
    assert_eq!(known(&held(closed_as(closing(), Substatus::Won))).closed_by_us, None, "somebody else's");
    assert_eq!(known(&held(closing())).closed_by_us, None, "it was not carried out");
}

#[test]
fn a_write_to_a_referral_that_is_missing_is_on_record_until_it_is_back() {
    let gone = missing(closing());
    check(gone.clone(), MISSING);
    check(held(gone.clone()), &format!("{HELD}\n{MISSING}"));
    assert!(gone.plan().keeps_intent && held(gone.clone()).plan().keeps_intent);
    let back = closed_as(gone.later(minutes(60 * 24 * 5)), Substatus::Lost);
    assert!(!back.plan().keeps_intent);
    assert_eq!(known(&back).closed_by_us, Some(Closing::Lost));
}

#[test]
fn a_lead_that_was_created_is_linked_also_when_its_referral_is_held_meanwhile() {
    let row = row().referral(New).found(&[]);
    let Some(Action::Create { draft, .. }) = row.plan().action else { panic!("a create") };
    let made = Lead { columns: draft.columns, ..row.lead_in(LeadStatus { state: LeadState::Open, code: 1 }) };
    let lost = held(sent(row).found(&[made]));
    check(lost.clone(), HELD);
    assert_eq!(known(&lost).standing, Standing::Linked);
    let told = settled(lost).says("new").lead_is(|_| ());
    assert!(print(&told.plan()).starts_with(UPDATE), "{}", print(&told.plan()));
}

#[test]
fn a_disqualification_is_not_repeated_on_a_lead_that_was_opened_again_before_its_answer_was_known() {
    let settings = "[status]\non_referral_closed = \"disqualify\"";
    let closed = row_of(policy(FieldOwner::Crm, false, settings)).referral(Closed).linked(Active).open();
    let disqualify =
        "update lead L of referral R: the referral was closed (status.on_referral_closed = \"disqualify\")";
    let opened = |sample: Sample| sample.open().lead_is(|lead| lead.etag = Some(ETag("W/\"9\"".into())));
    let lost = sent(closed);
    check(lost.clone(), disqualify); // It was not carried out: the lead is in the same version.
    let said = "hold: closed already, now the lead says Open (status 1); a closed referral is never written";
    let reopened = opened(lost.clone());
    check(reopened.clone(), said);
    let after = settled(reopened);
    check(after.clone(), "");
    let is_listed = |sample: &Sample| known(sample).holds & Hold::ClosedAlready { now: String::new() }.bit() != 0;
    assert!(is_listed(&after) && is_listed(&after.clone().later(minutes(30))));
    // The same where an operator holds the referral when it is looked for.
    for shown in [lost.clone().lead(LeadState::Disqualified, 4), opened(lost)] {
        check(opened(settled(held(shown))), "");
    }
}
