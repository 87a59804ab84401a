//! What wants a look now, by the status alone: the status page, `/readyz` and the alarms say the same words.

use std::time::Duration;

use super::status::{SideStatus, Status};
use crate::model::{ReferralId, Side};
use crate::telemetry::commands::{self, worded};
use crate::telemetry::words::{count, span};

/// A credential that ends within this many days is trouble to come; within the smaller number it wants a person now.
pub const CREDENTIAL_DAYS_CARE: i64 = 14;
/// See [`CREDENTIAL_DAYS_CARE`].
pub const CREDENTIAL_DAYS_ALARM: i64 = 3;
/// A service that asks to be left alone for longer than this wants a person (promise P10).
pub const CLOSED_ALARM: Duration = Duration::from_secs(3600);
/// Causes of dead letters that are told one by one; the rest is told as a number.
pub const CAUSES_MAX: usize = 20;

/// One thing that wants a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about; at most one finding for each.
    pub topic: Topic,
    /// How urgent it is.
    pub severity: Severity,
    /// What is wrong, in a sentence without personal data.
    pub what: String,
    /// What to do: a command to type, or words.
    pub act: Act,
}

/// How urgent a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Look at it when there is time.
    Care,
    /// It wants a person now.
    Alarm,
}

/// What to do about a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Type this.
    Command(String),
    /// Do this.
    Words(String),
}

impl std::fmt::Display for Act {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Act::Command(text) => write!(f, "`{text}`"),
            Act::Words(text) => f.write_str(text),
        }
    }
}

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// The ledger.
    Ledger,
    /// A service that does not work for us.
    Service(Side),
    /// The sign-in to a service: refused, or about to end.
    SignIn(Side),
    /// A brake.
    Brake(String),
    /// Nothing was observed for too long.
    Lag,
    /// A referral that is about to expire unanswered.
    Expiring(ReferralId),
    /// Writing is stopped, by an operator or for a reason.
    Writing,
    /// Dead letters of one cause.
    DeadLetters(String),
    /// A service's requests of the day.
    Budget(Side),
    /// The webhook's listener.
    Webhook,
    /// The webhook's registration.
    Registration,
    /// Exports of the ledger.
    Exports,
}

impl std::fmt::Display for Topic {
    /// A stable name, for what is kept.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Topic::Ledger => f.write_str("ledger"),
            Topic::Service(side) => write!(f, "service {side}"),
            Topic::SignIn(side) => write!(f, "sign-in {side}"),
            Topic::Brake(name) => write!(f, "brake {name}"),
            Topic::Lag => f.write_str("lag"),
            Topic::Expiring(referral) => write!(f, "expiring {referral}"),
            Topic::Writing => f.write_str("writing"),
            Topic::DeadLetters(cause) => write!(f, "dead letters {cause}"),
            Topic::Budget(side) => write!(f, "budget {side}"),
            Topic::Webhook => f.write_str("webhook"),
            Topic::Registration => f.write_str("webhook registration"),
            Topic::Exports => f.write_str("exports"),
        }
    }
}

/// Everything that wants a look, the urgent first. `lag_max` is `observability.lag_max`.
pub fn findings(status: &Status, lag_max: Duration) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(trouble) = &status.ledger_trouble {
        let act = Act::Words("look at disk and log; a damaged ledger is rebuilt by itself".to_owned());
        found.push(finding(Topic::Ledger, Severity::Alarm, trouble.clone(), act));
    }
    for (side, service) in &status.sides {
        found.extend(service_trouble(*side, service, long_wait(status, service)));
        found.extend(credential(*side, service));
        found.extend(service.budget.as_ref().map(|budget| {
            let act = Act::Words("wait, or raise the limit named there".to_owned());
            finding(Topic::Budget(*side), Severity::Care, budget.clone(), act)
        }));
    }
    for brake in &status.brakes {
        let act = match brake.command.is_empty() {
            true => Act::Words("it lets go by itself when what is said there is over".to_owned()),
            false => Act::Command(brake.command.clone()),
        };
        let what = format!("the brake {} holds: {}", brake.name, brake.why());
        found.push(finding(Topic::Brake(brake.name.clone()), Severity::Alarm, what, act));
    }
    found.extend(lag(status, lag_max));
    found.extend(writing(status));
    for deadline in &status.deals.next {
        let left = span(deadline.at.since(status.now).as_secs());
        let what = format!("referral {} expires unanswered in {left}", deadline.referral);
        let act =
            Act::Words("contact the customer and set the lead to Contacted, or answer in Partner Center".to_owned());
        found.push(finding(Topic::Expiring(deadline.referral), Severity::Care, what, act));
    }
    found.extend(dead_letters(status));
    if let Some(webhook) = &status.webhook {
        if let Some(trouble) = &webhook.trouble {
            let act = Act::Words("mend it and restart the daemon; cycles come by the clock meanwhile".to_owned());
            found.push(finding(Topic::Webhook, Severity::Care, format!("the webhook does not listen: {trouble}"), act));
        }
        if let Some(drift) = &webhook.registration {
            let (what, act) = match drift.split_once("; ") {
                Some((what, remedy)) => (what, remedy_act(remedy)),
                None => (drift.as_str(), command("webhook show")),
            };
            let what = format!("the webhook's registration: {what}");
            found.push(finding(Topic::Registration, Severity::Care, what, act));
        }
    }
    if let Some(trouble) = &status.exports.trouble {
        let what = format!("the last export of the ledger failed: {trouble}");
        let act = Act::Words("make room or mend the disk; it is tried again each hour".to_owned());
        found.push(finding(Topic::Exports, Severity::Care, what, act));
    }
    // Stable: what is equally urgent stays in the order above.
    found.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    found
}

fn finding(topic: Topic, severity: Severity, what: String, act: Act) -> Finding {
    Finding { topic, severity, what: worded(&what).into_owned(), act }
}

fn command(words: &str) -> Act {
    Act::Command(commands::command(words))
}

/// `run X` in backticks is one command to type; everything else is words, with their commands in them.
fn remedy_act(remedy: &str) -> Act {
    match remedy.strip_prefix("run `").and_then(|rest| rest.strip_suffix('`')) {
        Some(only) => Act::Command(commands::typed(only)),
        None => Act::Words(worded(remedy).into_owned()),
    }
}

/// How long a service wants to be left alone, when that is so long that a person has to know.
fn long_wait(status: &Status, service: &SideStatus) -> Option<Duration> {
    let wait = service.closed_until?.since(status.now);
    (wait > CLOSED_ALARM).then_some(wait)
}

/// While a service is closed every pass records that as its trouble, so a long wait is told instead of it.
fn service_trouble(side: Side, service: &SideStatus, long_wait: Option<Duration>) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(trouble) = service.trouble.as_ref().filter(|_| service.needs_human) {
        let (what, act) = match trouble.split_once("; run `") {
            Some((what, remedy)) => (what, worded(&format!("run `{remedy}; no restart is needed")).into_owned()),
            None => (trouble.as_str(), "do what it says; no restart is needed".to_owned()),
        };
        found.push(finding(Topic::SignIn(side), Severity::Alarm, what.to_owned(), Act::Words(act)));
    }
    if let Some(wait) = long_wait {
        let what = format!("{side} asked us to send nothing for {}", span(wait.as_secs()));
        let act = "find out who else spends this service's limits, or ask Microsoft; nothing is sent and nothing is \
                   lost until then, and it goes on by itself";
        found.push(finding(Topic::Service(side), Severity::Alarm, what, Act::Words(act.to_owned())));
    } else if let Some(trouble) = service.trouble.as_ref().filter(|_| !service.needs_human) {
        let act = Act::Words("nothing: it is tried again, and nothing is lost".to_owned());
        found.push(finding(Topic::Service(side), Severity::Care, trouble.clone(), act));
    }
    found
}

fn credential(side: Side, service: &SideStatus) -> Option<Finding> {
    let days = service.credential_days_left.filter(|days| *days <= CREDENTIAL_DAYS_CARE)?;
    if service.needs_human && service.trouble.is_some() {
        return None; // Said already, with what to do.
    }
    let severity = if days <= CREDENTIAL_DAYS_ALARM { Severity::Alarm } else { Severity::Care };
    let how = service.credential.as_deref().unwrap_or("credential");
    let what = match days {
        ..0 => format!("the sign-in to {side} has ended ({how})"),
        0 => format!("the sign-in to {side} ends today ({how})"),
        1 => format!("the sign-in to {side} ends in 1 day ({how})"),
        _ => format!("the sign-in to {side} ends in {days} days ({how})"),
    };
    let act = match how.contains("client secret") {
        true => "renew it, and write its new end into client_secret_expires",
        false => "renew the credential that the configuration names",
    };
    let act = Act::Words(act.to_owned());
    Some(finding(Topic::SignIn(side), severity, what, act))
}

/// A daemon that was just started has its time to catch up.
fn lag(status: &Status, lag_max: Duration) -> Option<Finding> {
    let began = status.last_success.map_or(status.process.started, |at| at.max(status.process.started));
    (status.now.since(began) > lag_max).then(|| too_old(status, lag_max)).flatten()
}

/// As [`lag`], a start or not.
fn too_old(status: &Status, lag_max: Duration) -> Option<Finding> {
    if status.writing.mode == "off" {
        return None; // Nothing is accounted for while writing is off.
    }
    let lag = status.now.since(status.last_success.unwrap_or(status.process.started));
    (lag > lag_max).then(|| {
        let what = match status.last_success {
            Some(_) => format!("both sides were last observed {} ago", span(lag.as_secs())),
            None => format!("both sides were not observed yet, {} after the start", span(lag.as_secs())),
        };
        let act = Act::Words("the trouble is told beside this, or else in the log".to_owned());
        finding(Topic::Lag, Severity::Alarm, what, act)
    })
}

fn writing(status: &Status) -> Option<Finding> {
    let writing = &status.writing;
    if writing.is_suspended {
        let what = "writing is suspended by an operator".to_owned();
        return Some(finding(Topic::Writing, Severity::Care, what, command("resume")));
    }
    // A ledger in trouble and a stopping brake are told already.
    let is_told = status.ledger_trouble.is_some()
        || status.brakes.iter().any(|brake| Some(&brake.reason) == writing.stopped.as_ref());
    let why = writing.stopped.as_ref().filter(|_| !is_told && writing.mode != "off")?;
    let act = Act::Words("do what it says; reading goes on".to_owned());
    Some(finding(Topic::Writing, Severity::Care, format!("nothing is written: {why}"), act))
}

fn dead_letters(status: &Status) -> Vec<Finding> {
    let mut sorted: Vec<(&String, &u64)> = status.dead_letters.iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    let about =
        |cause: &str, what: String, act: Act| finding(Topic::DeadLetters(cause.to_owned()), Severity::Care, what, act);
    let one = |(cause, number): &(&String, &u64)| {
        let what = format!("{} cannot be written: {cause}", count(**number, "referral"));
        about(cause, what, Act::Command(retry_command(cause)))
    };
    let mut found: Vec<Finding> = sorted.iter().take(CAUSES_MAX).map(one).collect();
    if sorted.len() > CAUSES_MAX {
        let rest = sorted[CAUSES_MAX..].iter().map(|(_, number)| **number).sum();
        let what = format!("{} cannot be written for other causes", count(rest, "referral"));
        found.push(about("(others)", what, command("status --json")));
    }
    found
}

/// What to type to have the dead letters of a cause tried again, quoted for a shell.
pub fn retry_command(cause: &str) -> String {
    commands::command(&format!("retry --cause '{}'", cause.replace('\'', "'\\''")))
}

/// A sentence about a service, which names the service once.
pub fn about(side: Side, sentence: &str) -> String {
    let name = format!("{side}: ");
    if sentence.starts_with(&name) { sentence.to_owned() } else { name + sentence }
}

/// Why the daemon is not ready to do its work, a sentence each; empty when it is.
pub fn unready(status: &Status, lag_max: Duration) -> Vec<String> {
    let mut why: Vec<String> = status.ledger_trouble.iter().map(|trouble| format!("the ledger: {trouble}")).collect();
    for (side, service) in &status.sides {
        why.extend(service.trouble.iter().map(|trouble| about(*side, trouble)));
    }
    match (&status.last_success, &status.last_cycle) {
        (None, None) => why.push("no cycle has ended yet".to_owned()),
        (None, Some(_)) if status.writing.mode != "off" && why.is_empty() => {
            why.push("both sides were not observed yet".to_owned());
        }
        (None, Some(_)) => {}
        (Some(_), _) => why.extend(too_old(status, lag_max).map(|finding| finding.what)),
    }
    why.iter().map(|sentence| worded(sentence).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Severity, findings, retry_command, unready};
    use crate::daemon::Status;
    use crate::daemon::status::{BrakeStatus, Deadline, LastCycle, SideStatus, Writing};
    use crate::model::{ReferralId, Side, Timestamp};

    const LAG_MAX: Duration = Duration::from_secs(900);

    fn well() -> Status {
        let now = Timestamp::from_seconds(1_795_000_000);
        Status {
            now,
            last_success: Some(now.minus(Duration::from_secs(30))),
            last_cycle: Some(LastCycle::default()),
            writing: Writing { mode: "both".into(), ..Writing::default() },
            sides: [(Side::Portal, SideStatus::default()), (Side::Crm, SideStatus::default())].into(),
            ..Status::default()
        }
    }

    fn told(status: &Status) -> Vec<String> {
        let line = |finding: super::Finding| {
            let sign = if finding.severity == Severity::Alarm { "!" } else { "-" };
            format!("{sign} {} | {} | {}", finding.topic, finding.what, finding.act)
        };
        findings(status, LAG_MAX).into_iter().map(line).collect()
    }

    #[test]
    fn a_day_on_which_all_is_well_has_nothing_to_tell() {
        assert_eq!(told(&well()), Vec::<String>::new());
        assert_eq!(unready(&well(), LAG_MAX), Vec::<String>::new());
    }

    #[test]
    fn trouble_is_told_with_what_to_do_the_urgent_first() {
        let mut status = well();
        let now = status.now;
        status.dead_letters = [("Dynamics: update lead 0x80048d19".to_owned(), 3)].into();
        status.brakes = vec![BrakeStatus {
            name: "closings".into(),
            reason: "24 closings planned".into(),
            command: "referrald approve 5f1d0a7c".into(),
            ..BrakeStatus::default()
        }];
        let portal = SideStatus {
            trouble: Some("AADSTS700082; run `referrald login`".into()),
            needs_human: true,
            credential_days_left: Some(-1),
            ..SideStatus::default()
        };
        let crm = SideStatus { credential_days_left: Some(9), ..SideStatus::default() };
        status.sides = [(Side::Portal, portal), (Side::Crm, crm)].into();
        let referral = ReferralId::new(uuid::Uuid::from_u128(7));
        status.deals.next = vec![Deadline { referral, at: now.plus(Duration::from_secs(93_600)) }];
        status.last_success = Some(now.minus(Duration::from_secs(7200)));
        insta::assert_snapshot!("findings", told(&status).join("\n"));
        insta::assert_snapshot!("unready", unready(&status, LAG_MAX).join("\n"));
    }

    #[test]
    fn a_service_is_named_once() {
        assert_eq!(super::about(Side::Crm, "Dynamics: sign in: refused"), "Dynamics: sign in: refused");
        assert_eq!(super::about(Side::Crm, "does not answer"), "Dynamics: does not answer");
    }

    #[test]
    fn a_service_that_wants_silence_for_more_than_an_hour_is_an_alarm_whatever_the_cycles_say() {
        let closed = |minutes: u64, trouble: &str, needs_human| {
            let mut status = well();
            let crm = SideStatus {
                trouble: Some(trouble.to_owned()),
                needs_human,
                closed_until: Some(status.now.plus(Duration::from_secs(60 * minutes))),
                ..SideStatus::default()
            };
            status.sides.insert(Side::Crm, crm);
            told(&status)
        };
        let long = closed(90, "Dynamics: asked us to wait", false);
        assert_eq!(long.len(), 1, "{long:?}");
        assert!(
            long[0].starts_with("! service Dynamics | Dynamics asked us to send nothing for 1 h 30 min"),
            "{long:?}"
        );
        assert!(!long[0].contains("| nothing:"), "it says what to do: {long:?}");
        let short = closed(60, "Dynamics: asked us to wait", false);
        assert!(short.len() == 1 && short[0].starts_with("- service"), "{short:?}");
        let both = closed(90, "AADSTS700082; run `referrald login`", true);
        assert!(both.len() == 2 && both[0].starts_with("! sign-in") && both[1].starts_with("! service"), "{both:?}");
    }

    #[test]
    fn a_credential_gets_more_urgent() {
        let severity = |days| {
            let crm = SideStatus { credential_days_left: Some(days), ..SideStatus::default() };
            let status = Status { sides: [(Side::Crm, crm)].into(), ..well() };
            findings(&status, LAG_MAX).first().map(|finding| finding.severity)
        };
        assert_eq!([severity(15), severity(14)], [None, Some(Severity::Care)]);
        assert_eq!(
            [severity(4), severity(3), severity(-1)].map(|found| found == Some(Severity::Alarm)),
            [false, true, true]
        );
    }

    #[test]
    fn readiness_says_why_not() {
        let fresh = Status { last_success: None, last_cycle: None, ..well() };
        assert_eq!(unready(&fresh, LAG_MAX), ["no cycle has ended yet"]);
        let looking =
            Status { last_success: None, writing: Writing { mode: "off".into(), ..Writing::default() }, ..well() };
        assert!(unready(&looking, LAG_MAX).is_empty(), "with writing off nothing is accounted for");
        let damaged = Status { ledger_trouble: Some("disk full".into()), ..well() };
        assert_eq!(unready(&damaged, LAG_MAX), ["the ledger: disk full"]);
    }

    #[test]
    fn a_cause_is_quoted_for_the_shell() {
        assert_eq!(retry_command("Dynamics: update lead 0x1"), "referrald retry --cause 'Dynamics: update lead 0x1'");
        assert_eq!(retry_command("column name: can't"), "referrald retry --cause 'column name: can'\\''t'");
    }
}
