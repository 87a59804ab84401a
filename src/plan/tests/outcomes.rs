//! What a lead's status does to its referral (spec, "Status"), line by line.

use super::support::*;
use crate::model::{Closing, Deal, LeadState, LeadStatus, OpportunityState, ReferralStatus, Substatus};
use crate::plan::settings::FieldOwner;
use crate::plan::status::{self, STATUS_REASON_CHARACTERS_MAX, reason};
use crate::ports::ActionKind;
use LeadState::{Disqualified, Open, Qualified};
use OpportunityState::{Lost, Open as Running, Won};
use ReferralStatus::{Active, Closed, New, Other};

const NONE: &[OpportunityState] = &[];

/// A referral and its lead in these states; what was observed has settled long ago.
fn seen(referral: ReferralStatus, state: LeadState, code: i32, opportunities: &[OpportunityState]) -> Sample {
    let sample = row().referral(referral).linked(referral).lead(state, code);
    if state == Qualified { sample.opportunities(opportunities) } else { sample }
}

fn settled(sample: Sample) -> Sample {
    sample.later(minutes(60 * 24 * 4))
}

fn accept(lead: &str) -> String {
    format!("accept referral R (Active / Accepted): lead L is {lead} (status.codes)")
}

fn on_the_way(lead: &str, closing: &str) -> String {
    format!("accept referral R (Active / Accepted): lead L is {lead}, on the way to {closing} (status.codes)")
}

fn close(lead: &str, closing: &str) -> String {
    close_after(lead, closing, if closing.ends_with("Lost") { "status.settle_time_lost" } else { "status.settle_time" })
}

fn close_after(lead: &str, closing: &str, key: &str) -> String {
    format!("close referral R ({closing}): lead L is {lead} since {NOW} (status.codes, {key})")
}

#[test]
fn the_table_of_states() {
    let qualified = "Qualified (status 3)";
    let working = accept(qualified);
    let mut table = vec![
        ("Open / New", seen(New, Open, 1, NONE), String::new()),
        ("Open / New, Active", seen(Active, Open, 1, NONE), String::new()),
        ("Open / Contacted", seen(New, Open, 2, NONE), accept("Open (status 2)")),
        ("Open / Contacted, Active", seen(Active, Open, 2, NONE), String::new()),
        ("Open / a code nobody knows", seen(New, Open, 100_000, NONE), String::new()),
        ("Qualified, none", seen(New, Qualified, 3, NONE), working.clone()),
        ("Qualified, none, Active", seen(Active, Qualified, 3, NONE), String::new()),
        ("Qualified, open", seen(New, Qualified, 3, &[Running]), working.clone()),
        ("Qualified, open, Active", seen(Active, Qualified, 3, &[Running]), String::new()),
        ("Qualified, one lost, one open", seen(New, Qualified, 3, &[Lost, Running]), working),
        ("Qualified, one lost, one open, Active", seen(Active, Qualified, 3, &[Lost, Running]), String::new()),
        ("Qualified, won", seen(New, Qualified, 3, &[Won]), on_the_way(qualified, "Closed / Won")),
        ("Qualified, won, Active", seen(Active, Qualified, 3, &[Won]), close(qualified, "Closed / Won")),
        ("any won", seen(Active, Qualified, 3, &[Lost, Running, Won]), close(qualified, "Closed / Won")),
        ("Qualified, lost", seen(New, Qualified, 3, &[Lost]), on_the_way(qualified, "Closed / Lost")),
        ("Qualified, all lost, Active", seen(Active, Qualified, 3, &[Lost, Lost]), close(qualified, "Closed / Lost")),
        (
            "Qualified, a code nobody knows",
            seen(Active, Qualified, 100_000, &[Won]),
            close("Qualified (status 100000)", "Closed / Won"),
        ),
    ];
    for code in [4, 5, 6, 7, 100_000] {
        let lead = format!("Disqualified (status {code})");
        table.push(("Disqualified", seen(New, Disqualified, code, NONE), close(&lead, "Closed / Declined")));
        table.push(("Disqualified, Active", seen(Active, Disqualified, code, NONE), close(&lead, "Closed / Lost")));
    }
    for referral in [Closed, Other] {
        for (state, code, deals) in [
            (Open, 1, NONE),
            (Open, 2, NONE),
            (Qualified, 3, NONE),
            (Qualified, 3, &[Won][..]),
            (Disqualified, 4, NONE),
        ] {
            table.push(("closed or unknown", seen(referral, state, code, deals), String::new()));
        }
    }
    let table: Vec<_> = table.into_iter().map(|(line, sample, text)| (line, settled(sample), text)).collect();
    check_all(table.iter().map(|(line, sample, text)| (*line, sample.clone(), text.as_str())).collect());
}

#[test]
fn a_code_means_what_the_configuration_says() {
    let policy = |meaning: &str| policy(FieldOwner::Crm, false, &format!("[status.codes]\n2 = \"{meaning}\""));
    let seen = |meaning: &str| settled(row_of(policy(meaning)).referral(Active).linked(Active).lead(Open, 2));
    check_all(vec![
        ("nothing", seen("nothing"), ""),
        ("accept", seen("accept"), ""),
        ("opportunities", seen("opportunities"), ""),
        ("won", seen("won"), &close("Open (status 2)", "Closed / Won")),
        ("lost", seen("lost"), &close("Open (status 2)", "Closed / Lost")),
    ]);
}

#[test]
fn a_closing_waits_until_its_outcome_has_settled() {
    let not_yet = |closing: &str, wait: i64, key: &str| {
        format!("hold: not settled: it becomes {closing} at {} if that still stands ({key})", minutes(wait))
    };
    let ten_minutes = not_yet("Closed / Won", 10, "status.settle_time");
    let a_day = not_yet("Closed / Lost", 24 * 60, "status.settle_time_lost");
    let declined = not_yet("Closed / Declined", 10, "status.settle_time");
    let three_days = not_yet("Closed / Won", 72 * 60, "status.won_hold");
    let won = || seen(Active, Qualified, 3, &[Won]);
    let lost = || seen(Active, Disqualified, 4, NONE);
    let refused = || seen(New, Disqualified, 4, NONE);
    let registered = || {
        won().referral_is(|referral| {
            referral.kind = crate::model::ReferralType::Shared;
            referral.has_registration = true;
        })
    };
    let shared = || won().referral_is(|referral| referral.kind = crate::model::ReferralType::Shared);
    let sent = close("Qualified (status 3)", "Closed / Won");
    let held = close_after("Qualified (status 3)", "Closed / Won", "status.won_hold");
    check_all(vec![
        ("won", won(), &ten_minutes),
        ("won, just before", won().later(minutes(9)), &ten_minutes),
        ("won, settled", won().later(minutes(10)), &sent),
        ("lost", lost(), &a_day),
        ("lost, an hour", lost().later(minutes(60)), &a_day),
        ("lost, a day", lost().later(minutes(24 * 60)), &close("Disqualified (status 4)", "Closed / Lost")),
        ("declined", refused(), &declined),
        ("declined, settled", refused().later(minutes(10)), &close("Disqualified (status 4)", "Closed / Declined")),
        ("registered co-sell", registered().later(minutes(60)), &three_days),
        ("registered co-sell, three days", registered().later(minutes(72 * 60)), &held),
        ("shared, no registration", shared().later(minutes(10)), &sent),
    ]);
    let at_once = policy(FieldOwner::Crm, false, "[status]\nsettle_time = \"0s\"");
    let at_once = row_of(at_once).referral(Active).linked(Active).lead(Qualified, 3).opportunities(&[Won]);
    check(at_once, &sent);
}

#[test]
fn another_outcome_starts_the_settle_time_again() {
    let won = seen(Active, Qualified, 3, &[Won]).later(minutes(8));
    let reopened = won.opportunities(&[Running]).later(minutes(9));
    check(
        reopened.opportunities(&[Won]),
        &format!(
            "hold: not settled: it becomes Closed / Won at {} if that still stands (status.settle_time)",
            minutes(19)
        ),
    );
    // So does a lost ledger: what is found when linking was there before.
    let lead = row().lead_in(LeadStatus { state: Disqualified, code: 4 });
    check(
        row().referral(Active).found(&[lead]),
        &format!(
            "write back to referral R: externalReferenceId = lead L (link)\nhold: not settled: it becomes Closed / Lost at {} if that still stands (status.settle_time_lost)",
            minutes(24 * 60)
        ),
    );
}

#[test]
fn a_lost_deal_and_a_refused_lead_are_two_outcomes() {
    let not_yet = |closing: &str, until, key: &str| {
        format!("hold: not settled: it becomes {closing} at {} if that still stands ({key})", minutes(until))
    };
    // Nobody saw the lead reopened in between, and it was: a qualified lead cannot be disqualified.
    let lost = |referral| seen(referral, Qualified, 3, &[Lost]).later(minutes(9)).lead(Disqualified, 5);
    check(lost(New), &not_yet("Closed / Declined", 9 + 10, "status.settle_time"));
    check(lost(Active), &not_yet("Closed / Lost", 9 + 24 * 60, "status.settle_time_lost"));
    // Nor has a refused lead another reason before it was open again.
    let refused = seen(New, Disqualified, 4, NONE).later(minutes(9)).lead(Disqualified, 5);
    check(refused, &not_yet("Closed / Declined", 9 + 10, "status.settle_time"));
}

#[test]
fn declined_and_lost_are_one_outcome() {
    let refused = seen(New, Disqualified, 4, NONE).later(minutes(5));
    let accepted_over_there = refused.referral_is(|referral| referral.status = Active).later(minutes(24 * 60));
    check(accepted_over_there, &close("Disqualified (status 4)", "Closed / Lost"));
}

#[test]
fn an_outcome_must_be_news() {
    let older = "hold: outcome older than the link: it would become Closed / Won; `approve` sends it (status)";
    let not_ours = |sample: Sample| sample.entry(|entry| entry.link.as_mut().expect("a link").is_ours = false);
    let before = |deal| {
        let was = LeadStatus { state: Qualified, code: 3 };
        let sample = row().referral(Active).linked_as(Active, was).lead(Qualified, 3);
        not_ours(sample).entry(|entry| entry.link.as_mut().expect("a link").deal = deal)
    };
    let sent = close("Qualified (status 3)", "Closed / Won");
    let approved = |sample: Sample| {
        sample.later(NOW).entry(|entry| entry.outcome.as_mut().expect("an outcome").is_approved = true)
    };
    let foreign = |by| {
        let lead = crate::model::Lead {
            id: lead_id(0x10),
            created_by: Some(by),
            ..row().lead_in(LeadStatus { state: Qualified, code: 3 })
        };
        row().referral(Active).referral_is(|it| it.external_reference = Some(lead_id(0x10).to_string())).found(&[lead])
    };
    let close_other = sent.replace("lead L", "lead #10");
    check_all(vec![
        ("won before the link", settled(before(Deal::Won).opportunities(&[Won])), older),
        ("open before, won now", settled(before(Deal::Open).opportunities(&[Won])), &sent),
        ("no opportunity before, won now", settled(before(Deal::None).opportunities(&[Won])), &sent),
        ("open lead before", settled(not_ours(seen(Active, Qualified, 3, &[Won]))), &sent),
        ("approved", approved(before(Deal::Won).opportunities(&[Won])).at(minutes(10)), &sent),
        ("adopted, made by a seller", settled(foreign(uuid::Uuid::nil()).opportunities(&[Won])), older),
        ("adopted, made by our user", settled(foreign(US).opportunities(&[Won])), &close_other),
    ]);
}

#[test]
fn with_leads_only_nothing_is_written_to_a_referral() {
    let leads_only = |sample: Sample| sample.with(|policy| policy.writes = crate::plan::settings::Writes::LeadsOnly);
    check_all(vec![
        ("acceptance", leads_only(seen(New, Open, 2, NONE)), ""),
        ("closing", leads_only(settled(seen(Active, Qualified, 3, &[Won]))), ""),
        (
            "fields",
            leads_only(row_with(FieldOwner::Newest, true).referral(Active).linked(Active).open().shows("new")),
            "",
        ),
    ]);
}

#[test]
fn a_step_carries_every_pending_change_and_the_lead_id() {
    let pending = |referral, state, code| {
        let sample = row_with(FieldOwner::Newest, true).referral(referral).linked(referral).lead(state, code);
        sample.shows("new").referral_is(|it| it.external_reference = None)
    };
    let parts = "/details/notes (only the lead changed and the path is two-way; mapping.groups.notes); externalReferenceId = lead L (link)";
    check(pending(New, Open, 2), &format!("{}; with {parts}", accept("Open (status 2)")));
    let closing = close("Disqualified (status 4)", "Closed / Lost");
    check(settled(pending(Active, Disqualified, 4)), &format!("{closing}; with {parts}"));
    let plan = settled(pending(Active, Disqualified, 4)).plan();
    let Some(crate::plan::Action::Patch { patch, .. }) = plan.action else { panic!("a patch") };
    let paths: Vec<&str> = patch.operations.iter().map(|operation| operation.path.as_str()).collect();
    assert_eq!(paths, ["/status", "/substatus", "/statusReason", "/externalReferenceId", "/details/notes"]);
}

#[test]
fn after_a_closing_each_later_outcome_is_said_once_and_stays_listed() {
    let said =
        |words: &str| format!("hold: closed already, now the lead says {words}; a closed referral is never written");
    let open = said("Qualified (status 3), an opportunity is open");
    let lost = said("Qualified (status 3), all opportunities are lost");
    let closed = settled(seen(Active, Qualified, 3, &[Won])).written();
    check(closed.clone(), "");
    let bit = crate::plan::Hold::ClosedAlready { now: String::new() }.bit();
    let listed = |sample: &Sample| sample.row.entry.as_ref().expect("an entry").holds & bit != 0;

    let reopened = closed.opportunities(&[Running]);
    check(reopened.clone(), &open);
    let once = reopened.later(minutes(1));
    check(once.clone(), "");
    assert!(listed(&once) && listed(&once.clone().later(minutes(2))));
    let again = once.opportunities(&[Lost]);
    check(again.clone(), &lost);
    let back = again.later(minutes(3)).opportunities(&[Won]);
    check(back.clone(), "");
    let back = back.later(minutes(4));
    assert!(!listed(&back));
    check(back.opportunities(&[Running]), &open);
}

#[test]
fn a_closing_over_there_is_answered_once_on_an_open_lead() {
    let policy = |answer: &str| policy(FieldOwner::Crm, false, &format!("[status]\non_referral_closed = \"{answer}\""));
    let closed = |answer: &str| row_of(policy(answer)).referral(Closed).linked(Active).open();
    let disqualify =
        "update lead L of referral R: the referral was closed (status.on_referral_closed = \"disqualify\")";
    check_all(vec![
        ("note", closed("note"), ""),
        ("nothing", closed("nothing"), ""),
        ("disqualify", closed("disqualify"), disqualify),
        ("disqualify, not written yet", closed("disqualify").later(minutes(1)).later(minutes(2)), disqualify),
        ("disqualify, lead closed", closed("disqualify").lead(Disqualified, 4).later(minutes(1)), ""),
        ("disqualify, closed by us", closed("disqualify").entry(|entry| entry.closed_by_us = Some(Closing::Won)), &{
            "hold: closed already, now the lead says Open (status 1); a closed referral is never written".to_owned()
        }),
    ]);
    let done = closed("disqualify").written();
    check(done.clone(), "");
    // A seller opens it again: that is the seller's business.
    let reopened = done.later(minutes(1)).lead(Open, 1);
    assert!(reopened.plan().action.is_none());
    // A lead that is being closed may refuse its other columns: they go first, and by themselves.
    let says_more = closed("disqualify").says("more");
    let first = says_more.plan().action;
    assert!(first.as_ref().is_some_and(|action| action.kind() == ActionKind::Update), "{first:?}");
    let status = says_more.written().row.lead.present().map(|lead| lead.status.state);
    assert_eq!(status, Some(Disqualified));
    // A lead found for a referral that was closed when first seen was never ours to disqualify.
    let lead = row().lead_in(LeadStatus { state: Open, code: 1 });
    let first = row_of(policy("disqualify")).referral(Closed).found(&[lead]);
    check(first.clone(), "");
    check(first.later(minutes(1)), "");
}

#[test]
fn a_column_that_is_mapped_from_the_status_says_a_closing_over_there_unless_nothing_is_said() {
    for path in ["/status", "/statusReason", "{{ referral.substatus }}"] {
        let mapped = |answer: &str| {
            let company = format!("[mapping.groups.company.columns.companyname]\nfrom = [\"{path}\"]");
            let settings = format!("[status]\non_referral_closed = \"{answer}\"\n{company}");
            row_of(policy(FieldOwner::PartnerCenter, false, &settings)).referral(Closed).linked(Active).open().document(
                |document| {
                    for name in ["status", "substatus", "statusReason"] {
                        document[name] = "Closed".into();
                    }
                },
            )
        };
        let writes = |sample: Sample| sample.plan().action.map(|action| action.kind());
        assert_eq!(writes(mapped("note")), Some(ActionKind::Update), "{path}");
        assert_eq!(writes(mapped("nothing")), None, "{path}");
        let by_us = mapped("nothing").entry(|entry| entry.closed_by_us = Some(Closing::Won));
        assert_eq!(writes(by_us), Some(ActionKind::Update), "{path}: the lead closed it itself");
        // Everything else goes on.
        assert_eq!(writes(mapped("nothing").says("more")), Some(ActionKind::Update), "{path}");
    }
}

#[test]
fn a_reason_is_the_label_cut_and_without_control_characters() {
    let settings = |template: &str| {
        let mut settings = policy(FieldOwner::Crm, false, "").status;
        settings.reason = template.to_owned();
        settings
    };
    let of = |code, template: &str| reason(LeadStatus { state: Disqualified, code }, &settings(template));
    assert_eq!(of(5, "{{ label }}"), "Cannot Contact");
    assert_eq!(of(99, "{{ label }}"), "Disqualified");
    assert_eq!(of(5, "{{ code }}: {{ label }}\u{7} "), "5: Cannot Contact");
    assert_eq!(of(5, "{{ nonsense("), "Cannot Contact");
    let long = of(5, &"가".repeat(STATUS_REASON_CHARACTERS_MAX + 1));
    assert_eq!(long.chars().count(), STATUS_REASON_CHARACTERS_MAX);
}

#[test]
fn no_outcome_becomes_expired() {
    for outcome in [
        status::Outcome::Nothing,
        status::Outcome::Working,
        status::Outcome::Deal(Closing::Won),
        status::Outcome::Deal(Closing::Lost),
        status::Outcome::GivenUp,
    ] {
        for referral in [New, Active, Closed, Other] {
            if let status::Target::Close(closing) | status::Target::AcceptThenClose(closing) =
                status::target(referral, outcome)
            {
                assert_ne!(closing.substatus(), Substatus::Expired);
                assert!(referral.may_become(Closed), "{referral} {outcome:?}");
            }
        }
    }
}
