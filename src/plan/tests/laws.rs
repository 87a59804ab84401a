//! Laws over random rows.

use proptest::prelude::*;

use super::support::*;
use crate::model::{Lead, LeadState, LeadStatus, OpportunityState, ReferralStatus};
use crate::plan::mapping::WRITE_BACK_PATHS;
use crate::plan::settings::FieldOwner;
use crate::plan::{Action, account};

const WORDS: [&str; 4] = ["old", "", "one", "two"];

fn owner() -> impl Strategy<Value = FieldOwner> {
    prop::sample::select(vec![FieldOwner::PartnerCenter, FieldOwner::Crm, FieldOwner::Newest, FieldOwner::Hold])
}

fn referral_status() -> impl Strategy<Value = ReferralStatus> {
    use ReferralStatus::{Active, Closed, New, Other};
    prop::sample::select(vec![New, Active, Closed, Other])
}

fn lead_status() -> impl Strategy<Value = LeadStatus> {
    use LeadState::{Disqualified, Open, Qualified};
    prop::sample::select(vec![(Open, 1), (Open, 2), (Qualified, 3), (Disqualified, 4), (Disqualified, 77)])
        .prop_map(|(state, code)| LeadStatus { state, code })
}

prop_compose! {
    /// A row in any state: linked or not, moved on either side, with or without memory.
    fn any_sample()(
        owner in owner(), is_two_way: bool, before in referral_status(), status in referral_status(),
        lead in lead_status(), memory in prop::sample::select(vec![Memory::None, Memory::Common, Memory::Apart, Memory::Disputed]),
        says in prop::sample::select(WORDS.to_vec()), shows in prop::sample::select(WORDS.to_vec()),
        is_linked: bool, is_ours: bool, consent: Option<bool>, settled: bool,
        deals in prop::collection::vec(prop::sample::select(vec![OpportunityState::Open, OpportunityState::Won, OpportunityState::Lost]), 0..3),
    ) -> Sample {
        let sample = row_with(owner, is_two_way).referral(status);
        let sample = if is_linked {
            sample.linked(before).remembering(memory).lead(lead.state, lead.code)
                .entry(|entry| entry.link.as_mut().expect("a link").is_ours = is_ours)
        } else {
            let found = Lead { id: lead_id(0x10), ..sample.lead_in(lead) };
            if is_ours { sample.found(&[]) } else { sample.found(&[found]) }
        };
        let sample = sample.says(says).shows(shows).referral_is(|it| it.consent_to_contact = consent);
        let sample = match sample.row.lead.present() {
            Some(lead) if lead.status.state == LeadState::Qualified => sample.opportunities(&deals),
            Some(_) | None => sample,
        };
        if settled { sample.later(minutes(60 * 24 * 4)) } else { sample }
    }
}

proptest! {
    #[test]
    fn an_account_says_what_the_plan_does_and_gives_no_value_unless_asked(sample in any_sample(), is_held: bool) {
        let sample = match is_held {
            true => sample.with(|policy| policy.decisions.held.extend([id(R)])),
            false => sample,
        };
        let account = account(&sample.row, &sample.policy, sample.now, false);
        prop_assert_eq!(&account.plan, &sample.plan());
        let free = sample.clone().with(|policy| policy.decisions.held.clear());
        prop_assert_eq!(&account.unheld, &free.plan());
        let columns = account.groups.iter().flat_map(|group| &group.columns);
        prop_assert!(columns.into_iter().all(|column| column.referral.is_none() && column.lead.is_none()));
        // A group that is written says so, with the rule of the write.
        if let Some(Action::Update { groups, .. } | Action::Create { groups, .. }) = &account.unheld.action {
            for write in groups {
                let told = account.groups.iter().find(|group| group.name == write.name);
                prop_assert_eq!(told.and_then(|group| group.rule.as_deref()), Some(write.rule.word()));
            }
        }
    }

    #[test]
    fn after_everything_is_written_and_nothing_changes_nothing_is_planned(sample in any_sample(), wait in 0i64..10_000) {
        let at_rest = sample.written();
        prop_assert_eq!(at_rest.plan().action, None);
        let later = at_rest.later(minutes(60 * 24 * 4)).at(minutes(60 * 24 * 4 + wait));
        let rest = later.written();
        prop_assert_eq!(rest.plan().action, None);
        // The second look at an unchanged row changes no memory either.
        let again = rest.clone().later(rest.now);
        prop_assert_eq!(again.plan().entry, again.row.entry.clone());
    }

    #[test]
    fn the_same_input_prints_the_same_plan(sample in any_sample()) {
        prop_assert_eq!(sample.plan(), sample.plan());
        prop_assert_eq!(print(&sample.plan()), print(&sample.clone().plan()));
    }

    #[test]
    fn a_closed_referral_is_never_written(sample in any_sample()) {
        let status = sample.row.referral.present().expect("a referral").status;
        if let Some(Action::Patch { .. }) = sample.plan().action {
            prop_assert!(matches!(status, ReferralStatus::New | ReferralStatus::Active));
        }
    }

    #[test]
    fn a_lead_that_is_not_open_is_never_written(sample in any_sample()) {
        let is_open = sample.row.lead.present().is_none_or(|lead| lead.status.state == LeadState::Open);
        if let Some(Action::Update { draft, .. }) = sample.plan().action {
            prop_assert!(is_open && !draft.is_empty());
        }
    }

    #[test]
    fn only_mapped_columns_and_paths_are_written(sample in any_sample()) {
        let columns = ["companyname", "qualificationcomments"];
        let steps = ["/status", "/substatus", "/statusReason", "/externalReferenceId"];
        match sample.plan().action {
            Some(Action::Create { draft, .. } | Action::Update { draft, .. }) => {
                prop_assert!(draft.columns.keys().all(|name| columns.contains(&name.as_str())));
                prop_assert_eq!(draft.status, None);
            }
            Some(Action::Patch { patch, .. }) => {
                for operation in &patch.operations {
                    let path = operation.path.as_str();
                    prop_assert!(steps.contains(&path) || (WRITE_BACK_PATHS.contains(&path) && path == "/details/notes"));
                }
                prop_assert!(!patch.is_empty());
            }
            None => {}
        }
    }
}
