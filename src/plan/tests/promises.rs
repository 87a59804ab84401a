//! One line of protection each: a test here fails when that line is gone.

use super::support::*;
use crate::model::{LeadState, OpportunityState, ReferralStatus, Timestamp};
use crate::plan::settings::FieldOwner;
use crate::plan::{Action, Next, Outcome, Seen, settle};
use ReferralStatus::{Active, Closed, New, Other};

#[test]
fn p1_every_create_of_a_referral_goes_to_one_and_the_same_lead() {
    let sample = row().referral(New).found(&[]);
    let leads = [sample.clone(), sample.clone().says("new"), sample.at(minutes(99))].map(|sample| {
        let Some(Action::Create { lead, .. }) = sample.plan().action else { panic!("a create") };
        lead
    });
    assert_eq!(leads, [row().policy.computed(id(R)); 3]);
}

#[test]
fn p1_nothing_is_created_before_a_search() {
    let plan = row().referral(New).plan();
    assert!(plan.action.is_none() && plan.needs.adoption);
}

#[test]
fn p1_a_lead_that_speaks_for_another_referral_is_not_linked() {
    let sample = row().referral(New);
    let lead = sample.lead_in(crate::model::LeadStatus { state: LeadState::Open, code: 1 });
    let plan = sample.claimed(lead.id, id(0x1b)).found(&[lead]).plan();
    assert!(plan.action.is_none() && plan.entry.expect("an entry").link.is_none());
}

#[test]
fn p3_our_own_write_coming_back_is_no_change() {
    let written = row_with(FieldOwner::Newest, true).referral(Active).linked(Active).open().says("new").written();
    assert_eq!(written.plan().action, None);
    // The very same with an amount of words the service changes on the way: the base is what it returned.
    let sample = row_with(FieldOwner::Newest, true).referral(Active).linked(Active).open().says("new");
    let plan = sample.plan();
    let action = plan.action.expect("an update");
    let Outcome::LeadWritten(mut lead) = echo(&sample.row, &action) else { panic!("a lead") };
    lead.columns.insert("qualificationcomments".to_owned(), "NEW, said the plug-in".into());
    let mut row = sample.row.clone();
    row.entry = plan.entry;
    let (row, next) = settle(row, &action, &Outcome::LeadWritten(lead), &sample.policy, NOW);
    assert_eq!(next, Next::Plan);
    check(Sample { row, ..sample }, "");
}

#[test]
fn p4_a_side_that_was_not_listed_changes_nothing() {
    let mut sample = row_with(FieldOwner::Newest, true).referral(Active).linked(Active).open();
    sample.row.referral = Seen::Unseen;
    sample.row.lead = Seen::Unseen;
    check(sample.clone(), "");
    assert_eq!(sample.plan().entry, sample.row.entry);
}

#[test]
fn p4_a_referral_that_is_gone_writes_nothing() {
    let mut sample = row().referral(New).linked(New).lead(LeadState::Open, 2).says("new");
    sample.row.referral = Seen::Absent;
    assert!(sample.plan().action.is_none());
}

#[test]
fn p5_a_closed_or_unknown_referral_is_never_written() {
    for status in [Closed, Other] {
        let sample = row_with(FieldOwner::Newest, true).referral(status).linked(Active).shows("new");
        let sample = sample.lead(LeadState::Qualified, 3).opportunities(&[OpportunityState::Won]);
        let sample = sample.referral_is(|it| it.external_reference = None);
        let sample = sample.entry(|entry| entry.external_reference = Default::default());
        assert!(sample.later(minutes(60 * 24 * 4)).plan().action.is_none(), "{status}");
    }
}

#[test]
fn p4_a_lead_that_was_not_weighed_is_read_before_its_referral_is_closed() {
    let settled = row().referral(Active).linked(Active).lead(LeadState::Disqualified, 4).later(minutes(60 * 24 * 4));
    let with = |seen: Seen<crate::model::Lead>, forget: bool| {
        let mut sample = settled.clone();
        sample.row.lead = seen;
        let sample = sample.entry(|entry| {
            let link = entry.link.as_mut().expect("a link");
            link.etag = link.etag.take().filter(|_| !forget);
        });
        sample.plan()
    };
    assert!(with(Seen::Unseen, false).action.is_some(), "what is remembered of the lead counts");
    // The referral was out of sight when the lead had news: its version was forgotten then.
    let plan = with(Seen::Unseen, true);
    assert!(plan.action.is_none() && plan.needs.lead, "{plan:?}");
    assert!(with(settled.row.lead.clone(), true).action.is_some(), "read, it asks for the same");
}

#[test]
fn p5_an_irreversible_step_knows_whether_it_was_decided_on_a_fresh_read() {
    let sample = row().referral(New).linked(New).lead(LeadState::Open, 2);
    for (seconds_ago, expected) in [(None, false), (Some(0), true), (Some(60), true), (Some(61), false)] {
        let mut sample = sample.clone();
        sample.row.referral_read = seconds_ago.map(|ago| Timestamp::from_millis(sample.now.millis() - ago * 1000));
        let Some(Action::Patch { is_fresh, .. }) = sample.plan().action else { panic!("an acceptance") };
        assert_eq!(is_fresh, expected, "{seconds_ago:?}");
    }
}

#[test]
fn p5_an_outcome_that_was_there_before_the_link_is_not_sent() {
    let sample = row().referral(Active).linked(Active).entry(|entry| {
        let link = entry.link.as_mut().expect("a link");
        link.is_ours = false;
        link.status = crate::model::LeadStatus { state: LeadState::Disqualified, code: 4 };
    });
    let sample = sample.lead(LeadState::Disqualified, 4).later(minutes(60 * 24 * 30));
    assert!(sample.plan().action.is_none());
}

#[test]
fn p6_a_sellers_value_without_a_base_is_not_overwritten() {
    let sample = row().referral(Active).linked(Active).open().remembering(Memory::None).says("theirs").shows("ours");
    assert!(sample.plan().action.is_none());
}

#[test]
fn p6_a_sellers_edit_wins_when_the_field_is_the_sellers() {
    let sample = row().referral(Active).linked(Active).open().says("theirs").shows("ours");
    assert!(sample.plan().action.is_none());
}

#[test]
fn p9_no_plan_hold_or_entry_shows_a_value() {
    const SECRET: &str = "Tailspin-4711";
    let policies = [FieldOwner::PartnerCenter, FieldOwner::Crm, FieldOwner::Newest, FieldOwner::Hold];
    for owner in policies {
        for memory in [Memory::None, Memory::Common, Memory::Disputed] {
            let seen = |sample: Sample| sample.referral(Active).linked(Active).open().remembering(memory);
            let sides = [
                seen(row_with(owner, true)).says(SECRET),
                seen(row_with(owner, true)).shows(SECRET),
                seen(row_with(owner, true)).says(SECRET).shows("x"),
                row_with(owner, true).referral(New).found(&[]).says(SECRET),
            ];
            for sample in sides {
                let plan = sample.plan();
                assert!(!print(&plan).contains(SECRET));
                assert!(!format!("{:?}{:?}", plan.entry, plan.holds).contains(SECRET));
            }
        }
    }
}
