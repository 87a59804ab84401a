//! Which referrals get a lead (spec, "Scope").

use super::support::*;
use crate::model::{Lead, Qualification, Referral, ReferralStatus, Standing};
use crate::plan::settings::FieldOwner;

const CREATE: &str = "create lead L for referral R with companyname, qualificationcomments, then write its id back";

const FROZEN: &str = "hold: frozen by a filter: the referral is out of scope now, so its fields stand still in both directions while its status goes on (scope.on_leaving_filter = \"freeze\")";

fn of(overrides: &str, edit: impl FnOnce(&mut Referral)) -> Sample {
    row_of(policy(FieldOwner::Crm, false, overrides)).referral(ReferralStatus::New).referral_is(edit).found(&[])
}

#[test]
fn what_is_not_ours_to_sell_gets_no_lead_unless_asked_for() {
    let spam = |it: &mut Referral| it.is_spam = true;
    let outgoing = |it: &mut Referral| it.is_outgoing = true;
    let own = |it: &mut Referral| it.invited_by = Some("US".to_owned());
    let counterpart = |it: &mut Referral| {
        it.engagement = Some("E".to_owned());
        it.organization = Some("them".to_owned());
    };
    check_all(vec![
        ("in scope", of("", |_| ()), CREATE),
        ("spam", of("", spam), "out of scope: spam (scope.import_spam)"),
        ("spam, imported", of("[scope]\nimport_spam = true", spam), CREATE),
        ("outgoing", of("", outgoing), "out of scope: outgoing (scope.import_outgoing)"),
        ("outgoing, imported", of("[scope]\nimport_outgoing = true", outgoing), CREATE),
        ("own", of("", own), "out of scope: invited by our own organization (scope.import_own_invitations)"),
        ("own, imported", of("[scope]\nimport_own_invitations = true", own), CREATE),
        ("by Microsoft", of("", |it| it.invited_by = Some("msft".to_owned())), CREATE),
        (
            "a counterpart's copy",
            of("", counterpart),
            "out of scope: the copy of another organization in the same engagement",
        ),
        ("our copy", of("", |it| it.engagement = Some("E".to_owned())), CREATE),
        ("our organization is not known yet", of("", counterpart).with(|it| it.organization = None), CREATE),
    ]);
}

#[test]
fn filters_decide_about_linking() {
    let line = |key: &str, value: &str| of(&format!("[scope]\n{key} = {value}"), |_| ());
    check_all(vec![
        ("type", line("types", "[\"shared\"]"), "out of scope: filtered out (scope.types)"),
        ("type fits", line("types", "[\"independent\"]"), CREATE),
        (
            "qualification",
            line("qualifications", "[\"SalesQualified\"]"),
            "out of scope: filtered out (scope.qualifications)",
        ),
        ("qualification fits", line("qualifications", "[\"direct\"]"), CREATE),
        ("country", line("countries", "[\"DE\"]"), "out of scope: filtered out (scope.countries)"),
        ("country fits", line("countries", "[\"us\", \"de\"]"), CREATE),
        (
            "country by three letters",
            line("countries", "[\"DE\"]").document(|it| it["customerProfile"]["address"]["country"] = " deu ".into()),
            CREATE,
        ),
        ("created", line("created_after", "\"2100-01-01\""), "out of scope: filtered out (scope.created_after)"),
        ("created later", line("created_after", "\"2001-01-01\""), CREATE),
    ]);
}

#[test]
fn a_referral_that_comes_into_scope_is_looked_at_again() {
    let spam = of("", |it| it.is_spam = true).later(minutes(1));
    assert_eq!(spam.row.entry.as_ref().expect("an entry").standing, Standing::OutOfScope);
    check(spam.referral_is(|it| it.is_spam = false), CREATE);
}

#[test]
fn leaving_a_filter_keeps_or_freezes_fields_but_never_the_status() {
    let left = |answer: &str, code| {
        let settings = format!("[scope]\ncountries = [\"DE\"]\non_leaving_filter = \"{answer}\"");
        let policy = policy(FieldOwner::Crm, false, &settings);
        row_of(policy)
            .referral(ReferralStatus::New)
            .linked(ReferralStatus::New)
            .lead(crate::model::LeadState::Open, code)
            .says("new")
    };
    let update = "update lead L of referral R: qualificationcomments (only the referral changed; mapping.groups.notes)";
    let accept = "accept referral R (Active / Accepted): lead L is Open (status 2) (status.codes)";
    check_all(vec![
        ("keep", left("keep", 1), update),
        ("freeze", left("freeze", 1), FROZEN),
        ("freeze, status goes on", left("freeze", 2), &format!("{accept}\n{FROZEN}")),
    ]);
    // It is said as long as it lasts, also when only the lead was read.
    let mut lead_alone = left("freeze", 1).later(minutes(1));
    lead_alone.row.referral = crate::plan::Seen::Unseen;
    check(lead_alone, FROZEN);
    // Back in scope: what moved meanwhile is applied.
    let back = left("freeze", 1).later(minutes(1)).with(|policy| policy.scope.countries.clear());
    check(back, update);
}

#[test]
fn a_new_referral_has_a_deadline_and_comes_first_when_it_nears() {
    let deadline = |expires| {
        let sample = of("", |it| it.expires = expires);
        sample.plan().entry.expect("an entry").deadline
    };
    assert_eq!(deadline(Some(minutes(5))), Some(minutes(5)));
    assert_eq!(deadline(None), Some(minutes(-60 + 14 * 24 * 60)));
    let urgency = |edit: fn(&mut Referral)| of("", edit).plan().urgency;
    let expiring = urgency(|it| it.expires = Some(minutes(60)));
    let new = urgency(|_| ());
    let valuable = urgency(|it| {
        it.status = ReferralStatus::Active;
        it.qualification = Qualification::SalesQualified;
    });
    let rest = urgency(|it| it.status = ReferralStatus::Active);
    assert!(expiring < new && new < valuable && valuable < rest);
}

#[test]
fn a_closed_referral_of_an_existing_lead_is_linked_and_never_written() {
    let lead = Lead {
        id: lead_id(0x10),
        ..row().lead_in(crate::model::LeadStatus { state: crate::model::LeadState::Open, code: 2 })
    };
    let sample = row().referral(ReferralStatus::Closed).found(&[lead]);
    check(sample.clone(), "");
    assert_eq!(sample.plan().entry.expect("an entry").standing, Standing::Linked);
}
