//! Failures, pauses, dead letters and brakes.

use proptest::prelude::*;

use super::support::*;
use crate::model::{Closing, ETag, Fault, LeadState, Owner, Patch, ReferralStatus, Side, Standing, Timestamp};
use crate::plan::settings::{BrakeSettings, FieldOwner};
use crate::plan::{Action, Hold, Next, Outcome, Step, backoff, brakes, settle};
use crate::ports::{ActionKind, IntendedAction};
use ReferralStatus::{Active, New};

const UPDATE: &str =
    "update lead L of referral R: qualificationcomments (only the referral changed; mapping.groups.notes)";

const CREATE: &str = "create lead L for referral R with companyname, qualificationcomments, then write its id back";

fn changed() -> Sample {
    row().referral(Active).linked(Active).open().says("new")
}

/// The row after its action failed this way, and how it goes on.
fn after(sample: Sample, fault: Fault, code: Option<&str>, is_unknown: bool) -> (Sample, Next) {
    let plan = sample.plan();
    let action = plan.action.clone().expect("an action");
    let side = if matches!(action, Action::Patch { .. }) { Side::Portal } else { Side::Crm };
    let error = crate::model::RemoteError {
        code: code.map(str::to_owned),
        is_outcome_unknown: is_unknown,
        ..failure(side, fault)
    };
    let mut row = sample.row.clone();
    row.entry = plan.entry;
    let (row, next) = settle(row, &action, &Outcome::Failed(error), &sample.policy, sample.now);
    (Sample { row, ..sample }, next)
}

#[test]
fn every_fault_says_how_the_row_goes_on() {
    let until = minutes(5);
    for (fault, is_unknown, expected) in [
        (Fault::Conflict, false, Next::Read),
        (Fault::Missing, false, Next::Read),
        (Fault::Unavailable, true, Next::Read),
        (Fault::Malformed, true, Next::Read),
        (Fault::Throttled { until }, false, Next::Later),
        (Fault::Unavailable, false, Next::Later),
        (Fault::Unauthorized, false, Next::Later),
        (Fault::NeedsHuman, false, Next::Later),
        (Fault::Refused, false, Next::Failed),
        (Fault::Malformed, false, Next::Failed),
    ] {
        let (sample, next) = after(changed(), fault.clone(), None, is_unknown);
        assert_eq!(next, expected, "{fault}");
        assert_eq!(sample.row.intent.is_some(), is_unknown, "{fault}");
        let entry = sample.row.entry.expect("an entry");
        assert_eq!(entry.trouble.is_some(), expected == Next::Failed, "{fault}");
    }
}

#[test]
fn a_referral_id_that_another_lead_holds_does_not_keep_the_rest_from_the_lead() {
    let changed = changed().with(|policy| policy.referral_column = Some("new_id".into()));
    let with_id = |sample: &Sample| match sample.plan().action {
        Some(Action::Update { draft, .. }) => Some((draft.columns.len(), draft.columns.contains_key("new_id"))),
        _ => None,
    };
    assert_eq!(with_id(&changed), Some((2, true)));
    let (refused, next) = after(changed.clone(), Fault::Conflict, Some("0x80060892"), false);
    assert_eq!((next, with_id(&refused)), (Next::Read, Some((1, false))));
    let (moved_on, next) = after(changed, Fault::Conflict, None, false);
    assert_eq!((next, with_id(&moved_on)), (Next::Read, Some((2, true))));
}

#[test]
fn what_is_refused_is_a_dead_letter_until_something_changes() {
    let (dead, _) = after(changed(), Fault::Refused, Some("0x80044331"), false);
    let letter =
        "hold: dead letter (Dynamics: write 0x80044331); it is tried again when either side changes, or by `retry`";
    check(dead.clone(), letter);
    check(dead.clone().at(minutes(60 * 24 * 30)), letter);
    check(dead.clone().says("newer").referral_is(|it| it.etag = Some(ETag("\"r3\"".into()))), UPDATE);
    check(dead.clone().lead_is(|lead| lead.etag = Some(ETag("W/\"9\"".into()))), UPDATE);
    check(dead.clone().with(|policy| policy.configuration = 2), UPDATE);
    check(dead.entry(|entry| entry.trouble = None), UPDATE);
}

#[test]
fn what_cannot_be_searched_is_a_dead_letter_until_the_referral_or_the_configuration_changes() {
    // Of the row that was put off nothing is remembered but that: the row as it was before is what is left.
    let put_off = |mut sample: Sample| {
        let mut entry = sample.row.entry.take().or_else(|| sample.plan().entry).expect("an entry");
        let error = failure(Side::Crm, Fault::Malformed);
        backoff::unread(&mut entry, &error, sample.now, &sample.row, &sample.policy);
        sample.row.entry = Some(entry);
        sample
    };
    let dead = (0..8).fold(row().referral(New), |sample, _| put_off(sample));
    let letter = "hold: dead letter (Dynamics: write malformed answer); it is tried again when either side changes, or by `retry`";
    check(dead.clone(), letter);
    check(dead.clone().at(minutes(60 * 24 * 30)), letter);
    let updated = |sample: Sample, minute| sample.referral_is(|it| it.updated = Some(minutes(minute)));
    let search = "needs a search";
    check(updated(dead.clone(), 5), search);
    check(dead.clone().with(|policy| policy.configuration = 2), search);
    check(dead.clone().found(&[]), CREATE);
    // One more attempt for each change, and not one for each time it is listed.
    let again = put_off(updated(dead.clone(), 5));
    check(again.clone(), letter);
    check(updated(again, 10), search);
    // A letter of a former version, which noted nothing, is opened once.
    check(dead.entry(|entry| entry.trouble.as_mut().expect("trouble").about = 0), search);
}

#[test]
fn a_dead_letter_is_tried_again_when_its_mapping_changes() {
    let remapped = |dead: Sample| dead.with(|policy| policy.configuration = 2).notes(|memory| memory.mapping ^= 1);
    let (dead, _) = after(changed(), Fault::Refused, Some("0x80044331"), false);
    check(remapped(dead.clone()), UPDATE);
    let no_base = "hold: no common base for notes: both sides have a value; `release --take referral` or `--take lead` decides (mapping.groups.notes)";
    check(remapped(dead).shows("seller's"), no_base);
    // The other way: a seller's edit that the referral did not take.
    let edited = row_with(FieldOwner::Crm, true).referral(Active).linked(Active).open().shows("seller's");
    let (dead, _) = after(edited, Fault::Refused, None, false);
    let back = "write back to referral R: /details/notes (only the lead changed and the path is two-way; mapping.groups.notes)";
    check(remapped(dead.clone()), back);
    check(remapped(dead).says("new"), no_base);
}

#[test]
fn a_failed_attempt_is_repeated_after_a_pause_and_ends_as_a_dead_letter() {
    let (mut sample, _) = after(changed(), Fault::Malformed, None, false);
    for attempt in 2..=8u16 {
        let entry = sample.row.entry.clone().expect("an entry");
        let trouble = entry.trouble.clone().expect("trouble");
        assert_eq!((trouble.attempts, trouble.is_dead_letter), (attempt - 1, false));
        let until = backoff::next_attempt(&trouble, id(R), &sample.policy.retry);
        assert_eq!(entry.look_at, Some(until));
        check(
            sample.clone().at(until.minus(std::time::Duration::from_millis(1))),
            &format!("hold: failed (Dynamics: write malformed answer), tried again at {until} (retry.delay)"),
        );
        check(sample.clone().with(|policy| policy.ignores_delays = true), UPDATE);
        check(sample.clone().at(until), UPDATE);
        sample = after(sample.at(until), Fault::Malformed, None, false).0;
    }
    assert!(sample.row.entry.expect("an entry").trouble.expect("trouble").is_dead_letter);
}

#[test]
fn trouble_on_one_side_does_not_stop_the_other() {
    let both = row_with(FieldOwner::Newest, true).referral(New).linked(New).lead(LeadState::Open, 2);
    let sample = both.document(|document| document["customerProfile"]["name"] = "new".into());
    let (dead, _) = after(sample, Fault::Refused, None, false);
    check(
        dead,
        "accept referral R (Active / Accepted): lead L is Open (status 2) (status.codes)\nhold: dead letter (Dynamics: write refused); it is tried again when either side changes, or by `retry`",
    );
}

#[test]
fn a_refused_owner_is_replaced_by_the_fallback_once() {
    let (seller, team) = (uuid::Uuid::from_u128(1), uuid::Uuid::from_u128(2));
    let owners = format!(
        "[mapping]\nowners = [{{ country = \"US\", owner = {{ user = \"{seller}\" }} }}]\nfallback_owner = {{ team = \"{team}\" }}"
    );
    let sample = row_of(policy(FieldOwner::Crm, false, &owners)).referral(New).found(&[]);
    let owner = |sample: &Sample| match sample.plan().action {
        Some(Action::Create { draft, .. }) => draft.owner,
        _ => panic!("a create"),
    };
    assert_eq!(owner(&sample), Some(Owner::User(seller)));
    for code in ["0x80040217", "0x80040229", "0x8004022b", "0x80040231"] {
        let (next, how) = after(sample.clone(), Fault::Refused, Some(code), false);
        assert_eq!((how, owner(&next)), (Next::Plan, Some(Owner::Team(team))), "{code}");
        let (dead, how) = after(next, Fault::Refused, Some(code), false);
        assert_eq!(how, Next::Failed);
        assert!(dead.row.entry.as_ref().expect("an entry").trouble.as_ref().expect("trouble").is_dead_letter);
    }
    let (_, how) = after(sample, Fault::Refused, Some("0x80044331"), false);
    assert_eq!(how, Next::Failed);
}

#[test]
fn a_lead_that_is_created_without_an_owner_is_held_until_somebody_says_that_it_has_one() {
    let seller = uuid::Uuid::from_u128(1);
    let owners = format!("[mapping]\nowners = [{{ country = \"US\", owner = {{ user = \"{seller}\" }} }}]");
    let sample = row_of(policy(FieldOwner::Crm, false, &owners)).referral(New).found(&[]);
    let is_held = |sample: &Sample| sample.row.entry.as_ref().expect("an entry").holds & Hold::NoOwner.bit() != 0;
    let (next, _) = after(sample, Fault::Refused, Some("0x8004022b"), false);
    let text = print(&next.plan());
    assert!(text.contains("create lead L") && text.contains("hold: its lead is nobody's"), "{text}");
    let linked = next.written();
    assert!(is_held(&linked) && is_held(&linked.later(minutes(5)).says("new").written()));
}

#[test]
fn a_lead_that_cannot_be_complete_is_one_dead_letter() {
    let policy = policy(
        FieldOwner::Crm,
        false,
        "[mapping.groups.notes.columns.qualificationcomments]\nis_required = true\nfrom = [\"/nowhere\"]",
    );
    let sample = row_of(policy).referral(New).found(&[]);
    let text = print(&sample.plan());
    assert!(text.starts_with("hold: dead letter ("), "{text}");
    let once = sample.later(minutes(1));
    assert_eq!(once.plan().entry, once.row.entry, "the same letter, not a newer one");
}

proptest! {
    #[test]
    fn pauses_grow_are_capped_and_come_from_the_row_alone(attempts in 1u16..1000, number: u128) {
        let settings = policy(FieldOwner::Crm, false, "").retry;
        let trouble = |attempts| crate::model::Trouble {
            cause: crate::model::Cause::new(None, "x"), attempts, since: NOW, is_dead_letter: false, about: 0,
        };
        let wait = backoff::next_attempt(&trouble(attempts), id(number), &settings).since(NOW);
        prop_assert!(wait >= settings.delay.get() / 2);
        prop_assert!(wait <= settings.delay_max.get() + settings.delay.get());
        prop_assert_eq!(wait, backoff::next_attempt(&trouble(attempts), id(number), &settings).since(NOW));
    }
}

fn closings(count: u128) -> Vec<Action> {
    (0..count)
        .map(|number| Action::Patch {
            referral: id(number),
            lead: lead_id(number),
            etag: ETag("1".to_owned()),
            patch: Patch::default(),
            step: Step::Close(Closing::Won),
            groups: Vec::new(),
            sets_reference: false,
            is_fresh: false,
            why: String::new(),
        })
        .collect()
}

fn settings() -> BrakeSettings {
    figment::Figment::from(<figment::providers::Toml as figment::providers::Format>::string(include_str!(
        "../../../config/default.toml"
    )))
    .extract_inner("brakes")
    .expect("brakes")
}

#[test]
fn a_brake_holds_all_of_a_kind_when_plan_and_window_exceed_the_limit() {
    let brake = *brakes::brakes(&settings()).iter().find(|brake| brake.kind == ActionKind::Close).expect("a brake");
    assert_eq!(brake.limit, 20);
    let judge = |planned: u128, window: &[Timestamp], limit| {
        let actions = closings(planned);
        let actions: Vec<&Action> = actions.iter().collect();
        let brake = brakes::Brake { limit, ..brake };
        brakes::judge(brake, &actions, window, |_| false, NOW).map(|latch| (latch.count, latch.limit))
    };
    let recent = |count: usize| vec![minutes(-59); count];
    assert_eq!(judge(20, &[], 20), None);
    assert_eq!(judge(21, &[], 20), Some((21, 20)));
    assert_eq!(judge(1, &recent(19), 20), None);
    assert_eq!(judge(1, &recent(20), 20), Some((1, 20)));
    assert_eq!(judge(1, &[minutes(-60); 20], 20), None, "the window is an hour");
    assert_eq!(judge(0, &recent(30), 20), None);
    assert_eq!(judge(1000, &recent(30), 0), None, "0 is off");
}

#[test]
fn an_approval_names_the_exact_set() {
    let brake = brakes::Brake { limit: 1, ..brakes::brakes(&settings())[0] };
    let actions = closings(3);
    let set: Vec<&Action> = actions.iter().collect();
    let reversed: Vec<&Action> = actions.iter().rev().collect();
    let digest = brakes::digest(&set);
    assert_eq!(digest, brakes::digest(&reversed));
    assert_ne!(digest, brakes::digest(&set[..2]));
    assert_eq!(brakes::judge(brake, &reversed, &[], |one| one == digest, NOW), None);
    assert!(brakes::judge(brake, &set[..2], &[], |one| one == digest, NOW).is_some());
}

#[test]
fn vanished_leads_brake_above_both_the_number_and_the_share() {
    let judge = |count: u128, recent, linked| {
        brakes::judge_vanished(&(0..count).map(id).collect(), recent, linked, &settings(), |_| false, NOW).is_some()
    };
    assert!(!judge(5, 0, 5), "not more than five");
    assert!(judge(6, 0, 599));
    assert!(!judge(6, 0, 600), "not more than 1 %");
    assert!(judge(1, 5, 500) && !judge(1, 4, 500), "with those of the last hour");
    assert!(!judge(0, 100, 500), "nothing is held");
    let off = BrakeSettings { leads_vanished: 0, ..settings() };
    assert!(brakes::judge_vanished(&(0..99).map(id).collect(), 0, 99, &off, |_| false, NOW).is_none());
}

#[test]
fn visibility_is_judged_from_a_few_known_referrals_up() {
    let newest: Vec<_> = (0..4).map(id).collect();
    let judge = |known, met: u128, is_empty| {
        brakes::judge_visibility(&newest, known, |one| one == id(met), is_empty, &settings(), |_| false, NOW).is_some()
    };
    assert!(!judge(4, 99, false), "too few to judge");
    assert!(judge(5, 99, false));
    assert!(!judge(5, 3, false));
    assert!(judge(5, 3, true), "an empty list");
    let sweep = |missing, known| brakes::misses_many(missing, known, &settings());
    assert!(!sweep(4, 4));
    assert!(!sweep(33, 100));
    assert!(sweep(34, 100));
}

#[test]
fn a_write_of_ours_whose_answer_was_lost_is_the_base_when_it_shows() {
    let (lost, next) = after(changed(), Fault::Unavailable, None, true);
    assert_eq!(next, Next::Read);
    // It was carried out: the service shows what was sent.
    check(lost.clone().shows("new"), "");
    // It was not: the very same write is planned again.
    check(lost.clone(), UPDATE);
    // A seller wrote meanwhile: both moved.
    check(lost.shows("seller's"), "");
}

#[test]
fn a_write_back_of_ours_whose_answer_was_lost_is_the_base_when_it_shows() {
    let sample = row_with(FieldOwner::Newest, true).referral(Active).linked(Active).open().shows("new");
    let action = sample.plan().action.expect("a write-back");
    let mut lost = sample.says("new");
    lost.row.intent = Some(action.intended());
    check(lost.clone(), "");
    // The seller writes once more, and then something else changes on the referral: only the lead moved.
    let again = lost.shows("newer").referral_is(|it| it.updated = Some(minutes(60)));
    check(
        again,
        "write back to referral R: /details/notes (only the lead changed and the path is two-way; mapping.groups.notes)",
    );
}

#[test]
fn a_write_back_that_arrived_unseen_is_the_base_although_the_seller_has_put_the_value_back() {
    let sent = row_with(FieldOwner::Newest, true).referral(Active).linked(Active).open().shows("new").later(minutes(1));
    // Its answer was lost and the referral could not be read; then the lead shows what it showed at first.
    check(
        sent.says("new").shows("old"),
        "write back to referral R: /details/notes (only the lead changed and the path is two-way; mapping.groups.notes)",
    );
}

#[test]
fn an_intent_of_ours_is_the_base_of_a_lead_found_on_create() {
    let sample = row().referral(New).found(&[]);
    let Some(Action::Create { draft, groups, .. }) = sample.plan().action else { panic!("a create") };
    let lead = crate::model::Lead {
        columns: draft.columns,
        ..sample.lead_in(crate::model::LeadStatus { state: LeadState::Open, code: 1 })
    };
    let halves = groups.iter().map(|write| (write.group, write.referral, write.lead)).collect();
    let mut known = sample.found(std::slice::from_ref(&lead)).says("changed meanwhile").lead_is(|_| ());
    let without = known.clone();
    known.row.intent = Some(IntendedAction { referral: id(R), kind: ActionKind::Create, groups: halves });
    // Without an intent of ours on record nobody knows whose value the lead shows.
    let hold = "hold: no common base for notes: both sides have a value; `release --take referral` or `--take lead` decides (mapping.groups.notes)";
    assert!(print(&without.plan()).contains(hold));
    let same = known.clone().says("old");
    assert!(!print(&same.plan()).contains("hold"), "{}", print(&same.plan()));
    assert_eq!(same.plan().entry.expect("an entry").standing, Standing::Linked);
}
