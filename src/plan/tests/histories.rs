//! Dangerous histories, at the level of plans: nothing is written twice, nothing is overwritten, nothing is closed by mistake.

use super::support::*;
use crate::model::{Lead, LeadState, LeadStatus, OpportunityState, ReferralStatus, Standing};
use crate::plan::settings::FieldOwner;
use ReferralStatus::{Active, Closed, New};

const OPEN: LeadStatus = LeadStatus { state: LeadState::Open, code: 1 };
const OLDER: &str = "hold: outcome older than the link: it would become Closed / Won; `approve` sends it (status)";

/// The same row after the ledger is lost: what a search finds is all there is.
fn wiped(sample: Sample) -> Sample {
    let lead = sample.row.lead.present().cloned();
    let mut sample = sample.found(&lead.into_iter().collect::<Vec<_>>());
    sample.row.entry = None;
    sample.row.intent = None;
    sample
}

#[test]
fn the_seller_deletes_the_lead_and_the_ledger_is_wiped() {
    let written = row().referral(New).found(&[]).written();
    let mut gone = written;
    gone.row.lead = crate::plan::Seen::Absent;
    gone.row.entry = None;
    let mut gone = gone.found(&[]);
    gone.row.adoption.as_mut().expect("a search").is_reference_gone = true;
    check(gone, "hold: lead L was deleted and stays deleted (link.on_lead_deleted = \"leave\")");
}

#[test]
fn two_referrals_claim_one_lead() {
    let lead = Lead { id: lead_id(0x10), ..row().lead_in(OPEN) };
    let second = row().referral(Active).found(&[lead]).claimed(lead_id(0x10), id(0x1b)).shows("seller's");
    let plan = second.plan();
    assert!(plan.action.is_none());
    assert_eq!(
        plan.entry.as_ref().map(|entry| (entry.standing, entry.link.is_none())),
        Some((Standing::LeadTaken, true))
    );
    assert!(second.later(minutes(60)).says("new").plan().action.is_none());
}

#[test]
fn both_sides_are_edited_and_the_ledger_is_wiped() {
    let edited = row_with(FieldOwner::Newest, true).referral(Active).linked(Active).open().says("theirs").shows("ours");
    let rebuilt = wiped(edited).written();
    check(
        rebuilt,
        "hold: no common base for notes: both sides have a value; `release --take referral` or `--take lead` decides (mapping.groups.notes)",
    );
}

#[test]
fn an_amount_rounded_by_the_service_is_not_sent_back() {
    let policy = policy(FieldOwner::Newest, true, "keep = [\"amount\"]");
    let priced = row_of(policy).referral(Active).found(&[]).document(|document| {
        document["details"]["dealValue"] = serde_json::json!(1000.126);
        document["details"]["currency"] = "USD".into();
    });
    let linked = priced.written().lead_is(|lead| {
        lead.columns.insert("estimatedamount".to_owned(), serde_json::json!(1000.13));
    });
    check(linked.clone(), "");
    check(wiped(linked), "");
}

#[test]
fn an_opportunity_is_won_and_then_reopened() {
    let won =
        row().referral(Active).linked(Active).lead(LeadState::Qualified, 3).opportunities(&[OpportunityState::Won]);
    // Reopened before it settled: nothing is sent, and the clock begins again.
    let reopened = won.clone().later(minutes(9)).opportunities(&[OpportunityState::Open]);
    check(reopened.clone(), "");
    let again = reopened.later(minutes(20)).opportunities(&[OpportunityState::Won]);
    assert!(again.plan().action.is_none());
    // Reopened after the closing was sent: said, never written.
    let closed = won.later(minutes(10)).written().opportunities(&[OpportunityState::Open]);
    check(
        closed,
        "hold: closed already, now the lead says Qualified (status 3), an opportunity is open; a closed referral is never written",
    );
}

#[test]
fn an_adopted_lead_was_won_long_ago() {
    let lead = Lead { id: lead_id(0x10), ..row().lead_in(LeadStatus { state: LeadState::Qualified, code: 3 }) };
    for status in [New, Active] {
        let found = row().referral(status).referral_is(|it| it.external_reference = Some(lead_id(0x10).to_string()));
        let found = found.found(std::slice::from_ref(&lead)).opportunities(&[OpportunityState::Won]);
        check(found.clone(), OLDER);
        check(found.later(minutes(60 * 24 * 30)).written(), OLDER);
    }
}

#[test]
fn a_consent_is_withdrawn() {
    let contact = |answer: &str| {
        let settings = format!("keep = [\"contact\"]\n[mapping]\non_consent_withdrawn = \"{answer}\"");
        let sample = row_of(policy(FieldOwner::Crm, false, &settings)).referral(Active);
        let sample = sample.referral_is(|it| it.consent_to_contact = Some(true)).found(&[]);
        let team = serde_json::json!([{"firstName": "Ada", "lastName": "One", "email": "a@b.example"}]);
        sample.document(|document| document["customerProfile"]["team"] = team).written()
    };
    let withdrawn = |answer: &str| {
        let other = serde_json::json!([{"firstName": "Bob", "lastName": "Two", "email": "b@b.example"}]);
        contact(answer)
            .document(|document| document["customerProfile"]["team"] = other)
            .referral_is(|it| it.consent_to_contact = Some(false))
    };
    let hold = "hold: consent withdrawn: contact are frozen (mapping.on_consent_withdrawn)";
    check(withdrawn("hold"), hold);
    let clear = "update lead L of referral R: emailaddress1, firstname, lastname (the customer withdrew the consent to be contacted; mapping.groups.contact); the customer withdrew the consent (mapping.on_consent_withdrawn = \"clear\")";
    check(withdrawn("clear"), &format!("{clear}\n{hold}"));
    // Once: what a seller enters afterwards is the seller's.
    let cleared = withdrawn("clear").written();
    check(cleared.clone(), hold);
    check(cleared.lead_is(|lead| drop(lead.columns.insert("lastname".to_owned(), "typed".into()))), hold);
    // Given again: contacts flow again.
    let again = withdrawn("hold").later(minutes(1)).referral_is(|it| it.consent_to_contact = Some(true));
    assert!(again.plan().action.is_some());
}

#[test]
fn a_composed_text_that_names_people_freezes_with_the_consent_or_goes_on_without_them() {
    let template =
        "template = \"{{ referral.customerProfile.name }}{% if contact %} ({{ contact.email }}){% endif %}\"";
    let composed = |answer: &str| {
        let settings = format!(
            "[mapping]\non_consent_withdrawn = \"{answer}\"\n[mapping.groups.company.columns.companyname]\nfrom = []\n{template}"
        );
        let sample = row_of(policy(FieldOwner::Crm, false, &settings)).referral(Active);
        let team = serde_json::json!([{"firstName": "Ada", "lastName": "One", "email": "a@b.example"}]);
        let sample = sample.referral_is(|it| it.consent_to_contact = Some(true)).found(&[]);
        sample.document(|document| document["customerProfile"]["team"] = team).written()
    };
    let withdrawn = |answer: &str| {
        composed(answer)
            .document(|document| {
                document["customerProfile"]["name"] = "new".into();
                document["customerProfile"]["team"] = serde_json::json!([]);
            })
            .referral_is(|it| it.consent_to_contact = Some(false))
    };
    let name = |sample: &Sample| sample.row.lead.present().and_then(|lead| lead.columns.get("companyname").cloned());
    assert_eq!(name(&composed("hold")), Some("old (a@b.example)".into()));
    check(withdrawn("hold"), "hold: consent withdrawn: company are frozen (mapping.on_consent_withdrawn)");
    // Given again: what moved meanwhile is written now.
    let again = withdrawn("hold").later(minutes(1)).referral_is(|it| it.consent_to_contact = Some(true)).written();
    assert_eq!(name(&again), Some("new".into()));
    let cleared = withdrawn("clear").written();
    assert_eq!(name(&cleared), Some("new".into()));
    check(cleared, "");
}

#[test]
fn without_consent_at_first_sight_no_contact_is_written() {
    let sample = row_of(policy(FieldOwner::Crm, false, "keep = [\"contact\"]")).referral(New).found(&[]);
    let team = serde_json::json!([{"firstName": "Ada", "lastName": "One", "email": "a@b.example"}]);
    let sample = sample
        .document(|document| document["customerProfile"]["team"] = team)
        .referral_is(|it| it.consent_to_contact = Some(false));
    let Some(crate::plan::Action::Create { draft, .. }) = sample.plan().action else { panic!("a create") };
    assert_eq!(draft.columns.get("lastname"), Some(&"old".into()), "the company's name: a lead needs one");
    assert!(!draft.columns.contains_key("firstname") && !draft.columns.contains_key("emailaddress1"));
    check(sample.written().later(minutes(1)), "");
}

#[test]
fn a_referral_is_closed_when_first_seen() {
    let closed = row().referral(Closed).found(&[]);
    check(closed.clone(), "");
    check(closed.later(minutes(1)).says("new"), "");
}
