//! `referrald status`: one screen, 80 columns.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;

use super::build::Purpose;
use super::exit::Exit;
use super::layout::{WIDTH, block, styled, table};
use super::words::{self, ALARM, CARE, GOOD, TITLE, count, number_text, relative, span};
use super::{Call, Failure, print_json};
use crate::daemon::Status;
use crate::daemon::findings::{CLOSED_ALARM, retry_command};
use crate::daemon::status::{BrakeStatus, ExportsStatus, LastCycle, SideStatus, WebhookStatus};
use crate::model::{Side, Timestamp};
use crate::telemetry::commands::{self, worded};

/// Lines of one list before the rest is summed up: the screen is one screen.
pub const LIST_LINES_MAX: usize = 8;
/// A credential that ends within this many days is shown as trouble to come.
pub const CREDENTIAL_DAYS_WARN: i64 = 14;

/// Shows how things stand, from the running daemon or from the ledger itself.
pub(super) async fn status(call: &Call<'_>, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let (status, is_running) = match call.daemon().await? {
        Some(daemon) => (daemon.status().await?, true),
        None => {
            let engine = call.build.engine(call.flags, Purpose::Look).await?;
            (engine.status().await?, false)
        }
    };
    if call.is_json {
        let mut value = serde_json::to_value(&status).map_err(std::io::Error::from)?;
        value["is_running"] = is_running.into();
        value["lag_seconds"] = status.lag_seconds().into();
        print_json(out, &value)?;
    } else {
        write!(out, "{}", render(&status, is_running))?;
    }
    Ok(Exit::Fine)
}

/// The screen.
pub fn render(status: &Status, is_running: bool) -> String {
    let mut text = String::new();
    let (word, style) = if is_running { ("running", GOOD) } else { ("not running", ALARM) };
    let _ = writeln!(
        text,
        "{} {}: {}  {}",
        styled("referrald", TITLE),
        status.version,
        styled(word, style),
        words::instant(status.now)
    );
    if let Some(trouble) = &status.ledger_trouble {
        block(&mut text, "Ledger", ALARM, trouble);
    }
    if let Some(opening) = &status.opening {
        block(&mut text, "Ledger", CARE, opening);
    }
    brakes(&mut text, &status.brakes, status.now);
    let _ = write!(text, "{}", table(facts(status)));
    for (side, service) in &status.sides {
        self::service(&mut text, *side, service, status.now);
    }
    list(&mut text, "Held", "; `referrald plan` names each", &status.holds);
    list(&mut text, "Columns left out", "", &status.left_out);
    list(&mut text, "Dead letters", "; `referrald plan` names each", &status.dead_letters);
    if let Some(cause) = status.dead_letters.iter().max_by_key(|(_, count)| **count).map(|(cause, _)| cause) {
        // Never wrapped: it is there to be copied.
        let command = Some(retry_command(cause)).filter(|command| command.chars().count() + 3 <= usize::from(WIDTH));
        let command = command.unwrap_or_else(|| commands::command("retry --all"));
        let _ = writeln!(text, "   {}", styled(&command, TITLE));
    }
    text
}

fn facts(status: &Status) -> Vec<[String; 2]> {
    let now = status.now;
    let mut rows = vec![
        ["Last cycle".to_owned(), last_cycle(status)],
        ["Lag".to_owned(), status.lag_seconds().map_or("both sides were never observed yet".to_owned(), span)],
        ["Writing".to_owned(), writing(status)],
        ["Known".to_owned(), format!("{}, {} linked", count(status.referrals, "referral"), number_text(status.linked))],
        [
            "Backlog".to_owned(),
            format!(
                "{} waiting, {} tried again after trouble",
                number_text(status.backlog),
                number_text(status.retrying)
            ),
        ],
        ["New deals".to_owned(), deals(status)],
        ["Last sweep".to_owned(), status.swept.map_or("never".to_owned(), |at| relative(at, now))],
    ];
    rows.extend(exports(status).map(|text| ["Exports".to_owned(), text]));
    if status.forgotten > 0 {
        rows.push(["Forgotten".to_owned(), format!("{}, not imported again", count(status.forgotten, "referral"))]);
    }
    if let Some(webhook) = &status.webhook {
        rows.push(["Webhook".to_owned(), self::webhook(webhook, now)]);
    }
    rows.extend(status.progress.iter().map(|sentence| ["Under way".to_owned(), sentence.clone()]));
    rows
}

fn exports(status: &Status) -> Option<String> {
    let ExportsStatus { count, newest, trouble } = &status.exports;
    let kept =
        newest.map(|newest| format!("{} kept, the newest {}", number_text(*count), relative(newest, status.now)));
    match (kept, trouble) {
        (None, None) => None,
        (Some(kept), None) => Some(kept),
        (kept, Some(trouble)) => {
            Some(format!("{}; the last one failed: {trouble}", kept.unwrap_or("none kept".to_owned())))
        }
    }
}

fn webhook(webhook: &WebhookStatus, now: Timestamp) -> String {
    let mut text = match webhook.last_ring {
        _ if webhook.trouble.is_some() => "not listening".to_owned(),
        None => "no ring yet".to_owned(),
        Some(at) => format!("last ring {}", relative(at, now)),
    };
    let verified = webhook.verdicts.get("verified").copied().unwrap_or(0);
    let refused: u64 = webhook.verdicts.values().sum::<u64>() - verified;
    let _ = write!(text, "; {} verified, {} refused", number_text(verified), number_text(refused));
    let most = webhook.verdicts.iter().filter(|(code, _)| *code != "verified").max_by_key(|(_, count)| **count);
    if let Some((code, _)) = most {
        let _ = write!(text, " (mostly {code})");
    }
    for (title, trouble) in [("", &webhook.trouble), ("registration: ", &webhook.registration)] {
        if let Some(trouble) = trouble {
            let _ = write!(text, "; {title}{trouble}");
        }
    }
    text
}

fn last_cycle(status: &Status) -> String {
    let running = if status.is_cycle_running { "; one is running now" } else { "" };
    let Some(LastCycle { started, duration_ms, done, failed, pending, settling }) = &status.last_cycle else {
        return format!("none yet{running}");
    };
    let done: Vec<String> = done.iter().map(|(kind, number)| format!("{kind} {}", number_text(*number))).collect();
    let done = if done.is_empty() { "nothing written".to_owned() } else { format!("written: {}", done.join(", ")) };
    let settling = if *settling > 0 { format!(" ({settling} settling)") } else { String::new() };
    format!(
        "{}, took {}; {done}; {failed} failed, {pending} pending{settling}{running}",
        relative(*started, status.now),
        words::span_ms(*duration_ms)
    )
}

fn writing(status: &Status) -> String {
    let writing = &status.writing;
    let suspended = if writing.is_suspended { "; suspended, `referrald resume` goes on" } else { "" };
    let stopped = writing.stopped.as_ref().map(|why| format!("; stopped: {why}")).unwrap_or_default();
    format!("{}{suspended}{stopped}", writing.mode)
}

fn deals(status: &Status) -> String {
    let deals = &status.deals;
    let mut text = format!("{} waiting for an answer", number_text(deals.new));
    if deals.expiring > 0 {
        let _ = write!(text, ", {} about to expire unanswered", number_text(deals.expiring));
    }
    if deals.expired > 0 {
        let _ = write!(text, ", {} expired", number_text(deals.expired));
    }
    if let Some(deadline) = deals.next_deadline {
        let _ = write!(text, "; next deadline {}", relative(deadline, status.now));
        if let Some(referral) = deals.next_referral {
            let _ = write!(text, ", {referral}");
        }
    }
    text
}

fn brakes(text: &mut String, brakes: &[BrakeStatus], now: Timestamp) {
    for BrakeStatus { name, since, reason, command, .. } in brakes {
        let sentence = format!("{reason} (since {})", relative(*since, now));
        block(text, &format!("Brake: {name}"), ALARM, &sentence);
        // Never wrapped: it is there to be copied.
        if !command.is_empty() {
            let _ = writeln!(text, "   {}", styled(&commands::typed(command), TITLE));
        }
    }
}

fn service(text: &mut String, side: Side, service: &SideStatus, now: Timestamp) {
    let wait = service.closed_until.map(|until| until.since(now)).filter(|wait| !wait.is_zero());
    let word = match (&service.trouble, service.needs_human) {
        (_, false) if wait.is_some_and(|wait| wait > CLOSED_ALARM) => styled("closed for more than an hour", ALARM),
        (None, _) => styled("ok", GOOD),
        (Some(_), true) => styled("needs a person", ALARM),
        (Some(_), false) => styled("in trouble", CARE),
    };
    let _ = writeln!(text, "{}: {word}", styled(&side.to_string(), TITLE));
    let mut rows = Vec::new();
    if let Some(trouble) = &service.trouble {
        rows.push(["Trouble".to_owned(), trouble.clone()]);
    }
    if let Some(until) = service.closed_until.filter(|until| *until > now) {
        rows.push(["Closed".to_owned(), format!("it asked us to wait; open again {}", relative(until, now))]);
    }
    let limit = match service.requests_per_day {
        0 => String::new(),
        limit => format!(" of {}", number_text(limit)),
    };
    rows.push(["Requests".to_owned(), format!("{}{limit} today", number_text(service.requests_today))]);
    if let Some(budget) = &service.budget {
        rows.push(["Budget".to_owned(), budget.clone()]);
    }
    if let Some(credential) = &service.credential {
        let days = match service.credential_days_left {
            None => String::new(),
            Some(days) if days < 0 => "; EXPIRED".to_owned(),
            Some(days) if days <= CREDENTIAL_DAYS_WARN => format!("; only {days} days left, renew it"),
            Some(days) => format!("; {days} days left"),
        };
        rows.push(["Sign-in".to_owned(), format!("{credential}{days}")]);
    }
    let _ = write!(text, "{}", table(rows));
}

/// Counts by name, the most frequent first; `note` stands behind the title.
fn list(text: &mut String, title: &str, note: &str, counts: &BTreeMap<String, u64>) {
    if counts.is_empty() {
        return;
    }
    let total: u64 = counts.values().sum();
    let mut sorted: Vec<(&String, &u64)> = counts.iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    let mut rows: Vec<[String; 2]> =
        sorted.iter().take(LIST_LINES_MAX).map(|(name, number)| [number_text(**number), (*name).clone()]).collect();
    if sorted.len() > LIST_LINES_MAX {
        let rest: u64 = sorted[LIST_LINES_MAX..].iter().map(|(_, number)| **number).sum();
        let kinds = sorted.len() - LIST_LINES_MAX;
        rows.push([number_text(rest), format!("of {kinds} more kinds; `--json` lists all")]);
    }
    let _ = writeln!(text, "{} ({}){}", styled(title, TITLE), number_text(total), worded(note));
    let _ = write!(text, "{}", table(rows));
}

#[cfg(test)]
mod tests {
    use super::{WIDTH, render};
    use crate::cli::words::plain;
    use crate::daemon::Status;
    use crate::daemon::status::{BrakeStatus, DealClock, LastCycle, SideStatus, WebhookStatus, Writing};
    use crate::model::{ReferralId, Side, Timestamp};
    use crate::ports::ActionKind;

    fn busy() -> Status {
        let now = Timestamp::parse("2026-11-18T08:15:30Z").expect("a time in a test");
        let ago = |seconds| now.minus(std::time::Duration::from_secs(seconds));
        let ahead = |seconds| now.plus(std::time::Duration::from_secs(seconds));
        Status {
            version: "0.1.0".into(),
            now,
            last_cycle: Some(LastCycle {
                started: ago(42),
                duration_ms: 1830,
                done: [(ActionKind::Create, 12), (ActionKind::WriteBack, 12), (ActionKind::Close, 1)].into(),
                failed: 1,
                pending: 9,
                settling: 4,
            }),
            is_cycle_running: true,
            last_success: Some(ago(102)),
            writing: Writing { mode: "both".into(), is_suspended: true, stopped: None },
            referrals: 12_034,
            linked: 11_800,
            backlog: 9,
            holds: (1..=10).map(|n| (format!("reason {n}"), n)).collect(),
            left_out: [("column industrycode: the column has no such option".into(), 7)].into(),
            dead_letters: [("Dynamics: refused, code 0x80048d19, column telephone1, which is a long cause in all".into(), 3)]
                .into(),
            retrying: 2,
            brakes: vec![BrakeStatus {
                name: "closings".into(),
                since: ago(300),
                reason: "24 closings are planned and 3 were sent within the hour, which exceeds closings_per_hour = 20"
                    .into(),
                held: 24,
                limit: 20,
                digest: "5f1d0a7c".into(),
                command: "referrald approve 5f1d0a7c".into(),
            }],
            sides: [
                (
                    Side::Portal,
                    SideStatus {
                        trouble: Some("the sign-in has expired (AADSTS700082); run `referrald login`".into()),
                        needs_human: true,
                        requests_today: 1204,
                        credential: Some("refresh token".into()),
                        credential_days_left: Some(-1),
                        ..SideStatus::default()
                    },
                ),
                (
                    Side::Crm,
                    SideStatus {
                        requests_today: 5321,
                        requests_per_day: 100_000,
                        closed_until: Some(ahead(90)),
                        credential: Some("client credentials: the client secret ends first".into()),
                        credential_days_left: Some(12),
                        ..SideStatus::default()
                    },
                ),
            ]
            .into(),
            progress: vec!["sweep: page 12, 2,400 referrals read".into()],
            swept: Some(ago(17_000)),
            deals: DealClock {
                new: 14,
                expiring: 2,
                expired: 1,
                next_deadline: Some(ahead(93_600)),
                next_referral: Some(ReferralId::new(uuid::Uuid::from_u128(7))),
                next: Vec::new(),
            },
            exports: crate::daemon::status::ExportsStatus { count: 7, newest: Some(ago(17_000)), trouble: None },
            forgotten: 2,
            webhook: Some(WebhookStatus {
                addresses: vec!["127.0.0.1:8787".into()],
                registration: Some("nothing is registered; run `referrald webhook register`".into()),
                verdicts: [("verified".into(), 41), ("signature-wrong".into(), 7), ("not-found".into(), 2)].into(),
                rings: 12,
                last_ring: Some(ago(75)),
                last_verified: Some(ago(76)),
                certificate_until: Some(ahead(7_000_000)),
                ..WebhookStatus::default()
            }),
            opening: Some(
                "the ledger could not be read and was moved to /var/lib/referrald/ledger.damaged-2026-11-18; a sweep rebuilds it"
                    .into(),
            ),
            ledger_trouble: None,
            ..Status::default()
        }
    }

    #[test]
    fn a_bad_day_fits_on_one_screen() {
        let screen = plain(&render(&busy(), true));
        for line in screen.lines() {
            assert!(line.chars().count() <= usize::from(WIDTH), "too wide: {line}");
        }
        assert!(screen.lines().count() <= 49, "too long");
        insta::assert_snapshot!("status_bad_day", screen);
    }

    #[test]
    fn a_service_that_wants_more_than_an_hour_of_silence_stands_out() {
        let mut status = busy();
        let until = status.now.plus(std::time::Duration::from_secs(5400));
        status.sides.get_mut(&Side::Crm).expect("it is there").closed_until = Some(until);
        let screen = plain(&render(&status, true));
        assert!(screen.contains("Dynamics: closed for more than an hour"), "{screen}");
    }

    #[test]
    fn a_first_start_has_little_to_tell() {
        insta::assert_snapshot!("status_first_start", plain(&render(&Status::default(), false)));
    }

    #[test]
    fn the_json_shape_is_what_the_documentation_says() {
        let json = serde_json::to_string_pretty(&busy()).expect("plain data");
        insta::assert_snapshot!("status_json", json);
    }
}
