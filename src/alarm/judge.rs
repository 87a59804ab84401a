//! From how things stood and how they stand to messages: one for each change, none for what only goes on.
//!
//! | before | now                         | then                                                  |
//! |--------|-----------------------------|-------------------------------------------------------|
//! |        | found                       | told; a service's own trouble once it has lasted      |
//! | open   | found, as urgent as before  | nothing                                               |
//! | open   | found, more urgent          | told                                                  |
//! | open   | gone                        | nothing yet: it may come back                         |
//! | open   | gone for `clear_after`      | told that it is well again                            |
//!
//! What is open is kept over a restart, so that a restart repeats nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::daemon::findings::{Finding, Severity, Topic, findings};
use crate::daemon::status::Status;
use crate::model::Timestamp;
use crate::telemetry::words::span;

/// How long things must last.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// `observability.lag_max`.
    pub lag_max: Duration,
    /// `alarm.trouble_after`.
    pub trouble_after: Duration,
    /// `alarm.clear_after`.
    pub clear_after: Duration,
}

/// What was told and is not well again, and what is not told yet. No personal data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// What was told, by its topic.
    pub open: BTreeMap<String, Open>,
    /// What is watched before it is told, by its topic: since when.
    pub watched: BTreeMap<String, Timestamp>,
}

/// Something that was told and is not well again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Open {
    /// When it was told first.
    pub since: Timestamp,
    /// It wants a person now; otherwise it can wait.
    pub is_urgent: bool,
    /// As it was told.
    pub what: String,
    /// Since when it is gone.
    pub gone: Option<Timestamp>,
    /// Nobody is told when it is gone: that it is answered is no news.
    pub is_quiet: bool,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What kind of news.
    pub news: News,
    /// The sentence, with what to do.
    pub text: String,
}

/// The kinds of news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It wants a person now.
    Alarm,
    /// It wants a look.
    Care,
    /// It is well again.
    Well,
}

/// Judges one look at the status: what is open afterwards, and what is to be told.
pub fn judge(before: &Memory, status: &Status, patience: Patience) -> (Memory, Vec<Message>) {
    let now = status.now;
    let (mut after, mut messages) = (Memory::default(), Vec::new());
    for finding in findings(status, patience.lag_max) {
        let (topic, is_urgent) = (finding.topic.to_string(), finding.severity == Severity::Alarm);
        if let Some(open) = before.open.get(&topic) {
            if is_urgent && !open.is_urgent {
                messages.push(bad(&finding));
            }
            let what = finding.what.clone();
            after.open.insert(topic, Open { is_urgent, what, gone: None, ..open.clone() });
            continue;
        }
        let seen = before.watched.get(&topic).copied().unwrap_or(now);
        if now.since(seen) < wait(&finding, patience) {
            after.watched.insert(topic, seen);
            continue;
        }
        messages.push(bad(&finding));
        let is_quiet = matches!(finding.topic, Topic::Expiring(_));
        after.open.insert(topic, Open { since: now, is_urgent, what: finding.what, gone: None, is_quiet });
    }
    for (topic, open) in &before.open {
        if after.open.contains_key(topic) {
            continue;
        }
        // While the ledger cannot be read the rest of the status is from before.
        let gone = open.gone.unwrap_or(now);
        if now.since(gone) < patience.clear_after || status.ledger_trouble.is_some() {
            after.open.insert(topic.clone(), Open { gone: Some(gone), ..open.clone() });
        } else if !open.is_quiet {
            let lasted = span(gone.since(open.since).as_secs());
            messages.push(Message { news: News::Well, text: format!("well again after {lasted}: {}", open.what) });
        }
    }
    (after, messages)
}

fn bad(finding: &Finding) -> Message {
    let (news, word) = match finding.severity {
        Severity::Alarm => (News::Alarm, "a person is needed"),
        Severity::Care => (News::Care, "to look at"),
    };
    Message { news, text: format!("{word}: {}. What to do: {}", finding.what, finding.act) }
}

/// How long a finding must last before it is told: services stumble and get up by themselves. One that asked for an hour
/// of silence does not.
fn wait(finding: &Finding, patience: Patience) -> Duration {
    match &finding.topic {
        Topic::Service(_) if finding.severity == Severity::Care => patience.trouble_after,
        Topic::Service(_)
        | Topic::Ledger
        | Topic::SignIn(_)
        | Topic::Brake(_)
        | Topic::Lag
        | Topic::Expiring(_)
        | Topic::Writing
        | Topic::DeadLetters(_)
        | Topic::Budget(_)
        | Topic::Webhook
        | Topic::Registration
        | Topic::Exports => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Memory, Message, Patience, judge};
    use crate::daemon::Status;
    use crate::daemon::status::{BrakeStatus, Deadline, SideStatus, Writing};
    use crate::model::{ReferralId, Side, Timestamp};

    const MINUTE: Duration = Duration::from_secs(60);
    const PATIENCE: Patience = Patience {
        lag_max: Duration::from_secs(900),
        trouble_after: Duration::from_secs(300),
        clear_after: Duration::from_secs(300),
    };

    /// Looks once a minute; gives each message with its minute.
    fn watch(looks: impl IntoIterator<Item = Status>) -> Vec<String> {
        let (mut memory, mut told) = (Memory::default(), Vec::new());
        for (minute, mut status) in looks.into_iter().enumerate() {
            status.now = Timestamp::from_seconds(1_795_000_000 + 60 * minute as i64);
            status.last_success = status.last_success.or(Some(status.now.minus(MINUTE)));
            status.writing = Writing { mode: "both".into(), ..status.writing };
            let messages;
            // As after a restart: what is kept is all that is known.
            let kept: Memory =
                serde_json::from_str(&serde_json::to_string(&memory).expect("plain data")).expect("read");
            (memory, messages) = judge(&kept, &status, PATIENCE);
            told.extend(messages.into_iter().map(|Message { text, .. }| format!("{minute}: {text}")));
        }
        told
    }

    fn well() -> Status {
        Status::default()
    }

    fn dead() -> Status {
        Status { dead_letters: [("Dynamics: update lead 0x1".to_owned(), 2)].into(), ..well() }
    }

    fn down() -> Status {
        let portal =
            SideStatus { trouble: Some("Partner Center: list referrals: unavailable".into()), ..SideStatus::default() };
        Status { sides: [(Side::Portal, portal)].into(), ..well() }
    }

    fn times(status: fn() -> Status, number: usize) -> impl Iterator<Item = Status> {
        (0..number).map(move |_| status())
    }

    #[test]
    fn a_service_that_wants_more_than_an_hour_of_silence_is_an_alarm_at_once() {
        // The window's end stands, so what is left of it falls below the hour while it is watched.
        let until = Timestamp::from_seconds(1_795_000_000 + 62 * 60);
        let looks = (0..70).map(|minute| {
            let is_closed = minute < 62;
            let crm = SideStatus {
                trouble: is_closed.then(|| "Dynamics: asked us to wait".to_owned()),
                closed_until: is_closed.then_some(until),
                ..SideStatus::default()
            };
            Status { sides: [(Side::Crm, crm)].into(), ..well() }
        });
        let told = watch(looks);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("0: a person is needed: Dynamics asked us to send nothing for 1 h"), "{told:?}");
        assert!(told[1].starts_with("67: well again after"), "{told:?}");
    }

    #[test]
    fn what_goes_on_is_told_once_and_its_end_once() {
        let told = watch(times(dead, 10).chain(times(well, 10)));
        assert_eq!(
            told,
            [
                "0: to look at: 2 referrals cannot be written: Dynamics: update lead 0x1. What to do: `referrald retry --cause 'Dynamics: update lead 0x1'`",
                "15: well again after 10 min: 2 referrals cannot be written: Dynamics: update lead 0x1",
            ]
        );
    }

    #[test]
    fn what_comes_and_goes_is_one_alarm() {
        let flapping = (0..40).map(|minute| if minute % 3 == 0 { dead() } else { well() });
        assert_eq!(watch(flapping).len(), 1);
        assert_eq!(
            watch(times(dead, 1).chain(times(well, 20)).chain(times(dead, 1))).len(),
            3,
            "later it is news again"
        );
    }

    #[test]
    fn a_service_that_gets_up_by_itself_is_not_told() {
        assert_eq!(watch(times(down, 5).chain(times(well, 20))), Vec::<String>::new());
        let long = watch(times(down, 60).chain(times(well, 20)));
        assert_eq!(long.len(), 2, "{long:?}");
        assert!(long[0].starts_with("5: to look at: Partner Center: list referrals: unavailable"), "{long:?}");
    }

    #[test]
    fn what_gets_worse_is_told_again_and_what_gets_better_a_little_is_not() {
        let ending = |days| {
            let crm = SideStatus {
                credential: Some("client credentials".into()),
                credential_days_left: Some(days),
                ..SideStatus::default()
            };
            Status { sides: [(Side::Crm, crm)].into(), ..well() }
        };
        let told = watch([20, 14, 13, 5, 3, 2, 1, 0, -1, -2].map(ending));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("ends in 14 days") && told[1].starts_with("4: a person is needed"), "{told:?}");
    }

    #[test]
    fn a_brake_says_what_to_type_and_a_referral_when_it_expires() {
        let brake = BrakeStatus {
            name: "closings".into(),
            reason: "24 closings planned".into(),
            command: "referrald approve 5f1d0a7c".into(),
            ..BrakeStatus::default()
        };
        let at = Timestamp::from_seconds(1_795_000_000 + 7200);
        let mut status = Status { brakes: vec![brake], ..well() };
        status.deals.next = vec![Deadline { referral: ReferralId::new(uuid::Uuid::from_u128(7)), at }];
        let told = watch([status].into_iter().chain(times(well, 10)));
        insta::assert_snapshot!("brake_and_deadline", told.join("\n"));
    }

    #[test]
    fn lag_is_told_when_it_is_too_long_and_not_right_after_a_start() {
        let late = |minutes: i64| {
            let last = Timestamp::from_seconds(1_795_000_000 - 60 * minutes);
            move || Status { last_success: Some(last), ..Status::default() }
        };
        let told = watch((0..30).map(|_| late(0)()));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("16: a person is needed: both sides were last observed 16 min ago"), "{told:?}");
        let started = Timestamp::from_seconds(1_795_000_000);
        let restarted = (0..5).map(|_| {
            let mut status = late(600)();
            status.process.started = started;
            status
        });
        assert_eq!(watch(restarted), Vec::<String>::new(), "it has just been started");
    }

    #[test]
    fn nothing_is_well_again_while_the_ledger_cannot_be_read() {
        let blind = || Status { ledger_trouble: Some("the ledger failed: no space left".into()), ..well() };
        let told = watch(times(dead, 2).chain(times(blind, 20)));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[1].starts_with("2: a person is needed: the ledger failed"), "{told:?}");
    }
}
