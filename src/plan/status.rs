//! What a lead's status means for the referral: the table of spec 5.
//!
//! | lead                                        | referral New                        | referral Active |
//! |---------------------------------------------|-------------------------------------|-----------------|
//! | Open / New                                  | nothing                             | nothing         |
//! | Open / Contacted                            | Active / Accepted                   | nothing         |
//! | Qualified, any opportunity Won              | Active / Accepted, then Closed / Won | Closed / Won   |
//! | Qualified, none Won, any Open or none at all | Active / Accepted                  | nothing         |
//! | Qualified, one or more, all Lost            | Active / Accepted, then Closed / Lost | Closed / Lost |
//! | Disqualified                                | Closed / Declined                   | Closed / Lost   |

use std::time::Duration;

use crate::model::{
    Closing, Deal, LeadState, LeadStatus, Opportunity, OpportunityState, ReferralStatus, Substatus, Timestamp,
};
use crate::plan::settings::{StatusMeaning, StatusSettings};

/// What a lead says about its referral.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet.
    Nothing,
    /// Somebody works on it.
    Working,
    /// A deal that was accepted first and then won or lost.
    Deal(Closing),
    /// Given up: the answer to a New referral is Declined, to an Active one Lost.
    GivenUp,
}

/// The next status step for a referral.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// It is where it should be.
    Nothing,
    /// Accept it.
    Accept,
    /// Close it.
    Close(Closing),
    /// Accept it now; the closing follows when it has settled.
    AcceptThenClose(Closing),
    /// It is closed (or unknown) and the lead says otherwise.
    TooLate,
}

/// Reads a lead's status through the configured meanings; unknown codes count as their state's default.
pub fn outcome(status: LeadStatus, deal: Deal, settings: &StatusSettings) -> Outcome {
    let meaning = settings.codes.get(&status.code.to_string()).copied().unwrap_or(match status.state {
        LeadState::Open => StatusMeaning::Nothing,
        LeadState::Qualified => StatusMeaning::Opportunities,
        LeadState::Disqualified => StatusMeaning::Lost,
    });
    match meaning {
        StatusMeaning::Nothing => Outcome::Nothing,
        StatusMeaning::Accept => Outcome::Working,
        StatusMeaning::Opportunities => match deal {
            Deal::None | Deal::Open => Outcome::Working,
            Deal::Won => Outcome::Deal(Closing::Won),
            Deal::Lost => Outcome::Deal(Closing::Lost),
        },
        StatusMeaning::Won => Outcome::Deal(Closing::Won),
        StatusMeaning::Lost => Outcome::GivenUp,
    }
}

/// Decides the next step of a referral from what its lead says.
pub fn target(referral: ReferralStatus, outcome: Outcome) -> Target {
    match (referral, outcome) {
        (ReferralStatus::New | ReferralStatus::Active, Outcome::Nothing) => Target::Nothing,
        (ReferralStatus::New, Outcome::Working) => Target::Accept,
        (ReferralStatus::Active, Outcome::Working) => Target::Nothing,
        (ReferralStatus::New, Outcome::Deal(closing)) => Target::AcceptThenClose(closing),
        (ReferralStatus::Active, Outcome::Deal(closing)) => Target::Close(closing),
        (ReferralStatus::New, Outcome::GivenUp) => Target::Close(Closing::Declined),
        (ReferralStatus::Active, Outcome::GivenUp) => Target::Close(Closing::Lost),
        (ReferralStatus::Closed | ReferralStatus::Other, _) => Target::TooLate,
    }
}

/// How the outcome agrees with a referral that is closed already.
pub fn fits_closed(substatus: Substatus, outcome: Outcome) -> bool {
    match outcome {
        Outcome::Deal(closing) => substatus == closing.substatus(),
        Outcome::GivenUp => matches!(substatus, Substatus::Lost | Substatus::Declined | Substatus::Expired),
        Outcome::Nothing | Outcome::Working => false,
    }
}

/// What a lead says, as a number: the same as long as it says the same.
pub fn mark(status: LeadStatus, deal: Deal) -> i32 {
    let deal = match deal {
        Deal::None => 0,
        Deal::Open => 1,
        Deal::Won => 2,
        Deal::Lost => 3,
    };
    status.code.wrapping_mul(4).wrapping_add(deal)
}

/// What a lead says, in words.
pub fn words(status: LeadStatus, deal: Deal) -> String {
    let opportunities = match (status.state, deal) {
        (LeadState::Qualified, Deal::Open) => ", an opportunity is open",
        (LeadState::Qualified, Deal::Won) => ", an opportunity is won",
        (LeadState::Qualified, Deal::Lost) => ", all opportunities are lost",
        (LeadState::Open | LeadState::Qualified | LeadState::Disqualified, _) => "",
    };
    format!("{} (status {}){opportunities}", status.state, status.code)
}

/// What the opportunities of one lead add up to: any Won, else any Open, else all Lost.
pub fn deal(opportunities: &[Opportunity]) -> Deal {
    let has = |state| opportunities.iter().any(|opportunity| opportunity.state == state);
    if has(OpportunityState::Won) {
        Deal::Won
    } else if has(OpportunityState::Open) {
        Deal::Open
    } else if has(OpportunityState::Lost) {
        Deal::Lost
    } else {
        Deal::None
    }
}

/// When an outcome first seen at `since` has stood long enough to be sent, and the configuration key that says so.
pub fn settled_at(
    closing: Closing,
    since: Timestamp,
    is_registered_co_sell: bool,
    settings: &StatusSettings,
) -> (Timestamp, &'static str) {
    let (settle, key) = match closing {
        Closing::Won if is_registered_co_sell && settings.won_hold > settings.settle_time => {
            (settings.won_hold, "status.won_hold")
        }
        Closing::Won | Closing::Declined => (settings.settle_time, "status.settle_time"),
        Closing::Lost => (settings.settle_time_lost, "status.settle_time_lost"),
    };
    (since.plus(settle.get()), key)
}

/// Days the service gives for an answer when the referral does not say (partner-center §1.7).
pub const ANSWER_TIME: Duration = Duration::from_secs(14 * 24 * 3600);

/// Longest `statusReason` sent, in characters (partner-center §1.7).
pub const STATUS_REASON_CHARACTERS_MAX: usize = 500;

/// The text of `statusReason`: the configured template over label and code, without control characters, cut.
pub fn reason(status: LeadStatus, settings: &StatusSettings) -> String {
    let label = match settings.labels.get(&status.code.to_string()) {
        Some(label) => label.clone(),
        None => status.state.to_string(),
    };
    let text = minijinja::Environment::new()
        .render_str(&settings.reason, minijinja::context! { label => &label, code => status.code })
        .unwrap_or(label);
    let text: String = text.chars().filter(|letter| !letter.is_control()).take(STATUS_REASON_CHARACTERS_MAX).collect();
    text.trim().to_owned()
}
