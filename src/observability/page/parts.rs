//! The parts of the page below the headline: figures, lists and tables. A part without anything to show is not there.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::daemon::findings::{Act, CREDENTIAL_DAYS_ALARM, CREDENTIAL_DAYS_CARE, retry_command};
use crate::daemon::status::{SideStatus, Status, WebhookStatus};
use crate::model::{ReferralId, Side, Timestamp};
use crate::telemetry::commands::worded;
use crate::telemetry::words::{count, instant, number_text, relative, span, span_ms};

/// Lines of one list; the rest is a number.
const LIST_MAX: usize = 12;

/// Where a person sees a referral.
const REFERRALS_URL: &str = "https://partner.microsoft.com/dashboard/v2/referrals/";

/// What to do.
pub(super) fn act(act: &Act) -> Markup {
    match act {
        Act::Command(text) => html! { "Type " code.command { (text) } },
        Act::Words(text) => html! { (prose(text)) "." },
    }
}

/// A sentence as a person reads it: a capital first, and what stands in backticks as code.
pub(super) fn prose(text: &str) -> Markup {
    let text = capital(&worded(text));
    html! {
        @for (index, part) in text.split('`').enumerate() {
            @if index % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// The five figures that tell a day.
pub(super) fn tiles(status: &Status) -> Markup {
    let written: u64 = status.totals.done.values().sum();
    let since = status.now.since(status.process.started).as_secs();
    let known = match status.referrals {
        0 => "none yet".to_owned(),
        known => format!("of {} known", number_text(known)),
    };
    let deals = match (status.deals.expiring, status.deals.expired) {
        (0, 0) => "none about to expire".to_owned(),
        (expiring, 0) => format!("{} about to expire", number_text(expiring)),
        (expiring, expired) => format!("{} about to expire, {} expired", number_text(expiring), number_text(expired)),
    };
    html! {
        section aria-label="Figures" {
            dl.tiles {
                (tile("Lag", &status.lag_seconds().map_or("–".to_owned(), span), "since both sides were observed"))
                (tile("Linked", &number_text(status.linked), &known))
                (tile("Waiting", &number_text(status.backlog), &format!("{} tried again after trouble", number_text(status.retrying))))
                (tile("Written", &number_text(written), &format!("in the {} since the start", span(since))))
                (tile("New deals", &number_text(status.deals.new), &deals))
            }
        }
    }
}

fn tile(name: &str, figure: &str, note: &str) -> Markup {
    html! {
        div { dt { (name) } dd.figure { (figure) } dd.note { (note) } }
    }
}

/// Brakes that hold: since when, how much, and what to type.
pub(super) fn brakes(status: &Status) -> Markup {
    if status.brakes.is_empty() {
        return html! {};
    }
    html! {
        section aria-labelledby="brakes" {
            h2 id="brakes" { "Brakes" }
            p {
                @if status.brakes.iter().any(|brake| brake.held == 0) { "All writing waits for a person; reading goes on." }
                @else { "Writes that wait for a person; all other kinds go on." }
            }
            table {
                caption.unseen { "Brakes that hold, with what each holds back and what to type" }
                thead { tr { th.number scope="col" { "Held back" } th scope="col" { "Brake, why, and what to type" } } }
                tbody {
                    @for brake in &status.brakes {
                        tr {
                            td.number { @if brake.held == 0 { "all writing" } @else { (number_text(brake.held)) } }
                            td {
                                strong { (capital(&brake.name)) }
                                ", latched " (when(brake.since, status.now))
                                @if brake.limit > 0 { ", limit " (number_text(brake.limit)) }
                                br; (prose(brake.why()))
                                @if !brake.command.is_empty() { br; code.command { (brake.command) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The deal clock: referrals about to expire.
pub(super) fn deals(status: &Status) -> Markup {
    let deals = &status.deals;
    if deals.new == 0 {
        return html! {};
    }
    html! {
        section aria-labelledby="deals" {
            h2 id="deals" { "Deal clock" }
            p {
                (count(deals.new, "new referral")) " waiting for an answer"
                @if deals.expired > 0 { ", " (number_text(deals.expired)) " expired unanswered" }
                "."
            }
            @if deals.next.is_empty() {
                p.quiet { "None is about to expire." }
            } @else {
                table {
                    caption.unseen { "Referrals about to expire, the nearest first" }
                    thead { tr { th scope="col" { "Referral" } th scope="col" { "Expires" } } }
                    tbody {
                        @for deadline in &deals.next {
                            tr {
                                th scope="row" { (referral(deadline.referral)) }
                                td { (when(deadline.at, status.now)) }
                            }
                        }
                    }
                }
                @if deals.expiring > deals.next.len() as u64 {
                    p.quiet { "and " (number_text(deals.expiring - deals.next.len() as u64)) " more" }
                }
            }
        }
    }
}

/// Both services, with their sign-in.
pub(super) fn services(status: &Status) -> Markup {
    if status.sides.is_empty() {
        return html! {};
    }
    html! {
        section aria-labelledby="services" {
            h2 id="services" { "Services and sign-in" }
            div.pair {
                @for (side, service) in &status.sides { (self::service(*side, service, status.now)) }
            }
        }
    }
}

fn service(side: Side, service: &SideStatus, now: Timestamp) -> Markup {
    let (word, class) = match (&service.trouble, service.needs_human) {
        (None, _) => ("ok", "badge well"),
        (Some(_), true) => ("needs a person", "badge alarm"),
        (Some(_), false) => ("in trouble", "badge care"),
    };
    let limit = match service.requests_per_day {
        0 => String::new(),
        limit => format!(" of {}", number_text(limit)),
    };
    let throttled = service.traffic.outcomes.get("throttled").copied().unwrap_or(0);
    html! {
        article.card aria-label=(side) {
            h3 { (side) " " span class=(class) { (word) } }
            dl.rows {
                @if let Some(trouble) = &service.trouble { dt { "Trouble" } dd { (prose(trouble)) } }
                @if let Some(until) = service.closed_until { dt { "Closed" } dd { "it asked us to wait; open again " (relative(until, now)) } }
                dt { "Sign-in" }
                dd {
                    (service.credential.as_deref().unwrap_or("unknown"))
                    @if let Some(days) = service.credential_days_left { " " (countdown(days)) }
                    @if let Some(until) = service.credential_until { " " time.quiet datetime=(until) title=(instant(until)) { "until " (day(until)) } }
                }
                dt { "Requests" }
                dd {
                    (number_text(service.requests_today)) (limit) " today"
                    @if throttled > 0 {
                        "; throttled " (count(throttled, "time")) " since the start, "
                        (span(service.traffic.asked_to_wait_ms / 1000)) " of waiting asked for"
                    }
                }
                @if let Some(budget) = &service.budget { dt { "Budget" } dd { (prose(budget)) } }
            }
        }
    }
}

fn countdown(days: i64) -> Markup {
    let class = match days {
        days if days <= CREDENTIAL_DAYS_ALARM => "badge alarm",
        days if days <= CREDENTIAL_DAYS_CARE => "badge care",
        _ => "badge well",
    };
    let text = match days {
        ..0 => "has ended".to_owned(),
        0 => "ends today".to_owned(),
        1 => "1 day left".to_owned(),
        _ => format!("{} days left", number_text(days.unsigned_abs())),
    };
    html! { span class=(class) { (text) } }
}

/// The last writes, with their reasons.
pub(super) fn actions(status: &Status) -> Markup {
    html! {
        section aria-labelledby="actions" {
            h2 id="actions" { "Last writes" }
            @if status.recent_actions.is_empty() {
                p.quiet { "Nothing was written since the start " (relative(status.process.started, status.now)) "." }
            } @else {
                table {
                    caption.unseen { "The last writes with their reasons, the newest first" }
                    thead { tr { th scope="col" { "When" } th scope="col" { "What and why" } } }
                    tbody {
                        @for tried in &status.recent_actions {
                            tr {
                                td.when { (when(tried.at, status.now)) }
                                td {
                                    @if let Some(fault) = &tried.fault { span.badge.care { "failed: " (fault) } " " }
                                    (tried.text)
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Dead letters by cause, each with what to type.
pub(super) fn dead_letters(status: &Status) -> Markup {
    if status.dead_letters.is_empty() {
        return html! {};
    }
    let (shown, rest) = sorted(&status.dead_letters);
    html! {
        section aria-labelledby="dead-letters" {
            h2 id="dead-letters" { "Dead letters" }
            p { "Referrals we stopped trying. They are tried again when they, the mapping or the configuration change, or when you say so." }
            table {
                caption.unseen { "Dead letters by cause, the most frequent first" }
                thead { tr { th.number scope="col" { "Referrals" } th scope="col" { "Cause, and what to type" } } }
                tbody {
                    @for (cause, number) in shown {
                        tr {
                            td.number { (number_text(number)) }
                            td { (cause) br; code.command { (retry_command(cause)) } }
                        }
                    }
                }
            }
            @if rest > 0 { p.quiet { "and " (number_text(rest)) " for other causes" } }
        }
    }
}

/// A list of counts by name.
pub(super) fn counts(id: &str, title: &str, note: &str, column: &str, counts: &BTreeMap<String, u64>) -> Markup {
    if counts.is_empty() {
        return html! {};
    }
    let (shown, rest) = sorted(counts);
    html! {
        section aria-labelledby=(id) {
            h2 id=(id) { (title) }
            p { (note) }
            table {
                caption.unseen { (title) ", the most frequent first" }
                thead { tr { th.number scope="col" { "Referrals" } th scope="col" { (column) } } }
                tbody {
                    @for (name, number) in shown {
                        tr { td.number { (number_text(number)) } td { (name) } }
                    }
                }
            }
            @if rest > 0 { p.quiet { "and " (number_text(rest)) " more" } }
        }
    }
}

/// The most frequent, and how many the others are.
fn sorted(counts: &BTreeMap<String, u64>) -> (Vec<(&str, u64)>, u64) {
    let mut sorted: Vec<(&str, u64)> = counts.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    sorted.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    let rest = sorted.iter().skip(LIST_MAX).map(|(_, count)| count).sum();
    sorted.truncate(LIST_MAX);
    (sorted, rest)
}

/// The webhook.
pub(super) fn webhook(status: &Status) -> Markup {
    let Some(webhook) = &status.webhook else { return html! {} };
    let WebhookStatus { verdicts, rings, last_ring, certificate_until, .. } = webhook;
    html! {
        section aria-labelledby="webhook" {
            h2 id="webhook" { "Webhook" }
            p {
                @match last_ring {
                    Some(at) => { "Last ring " (relative(*at, status.now)) ", " },
                    None => { "No ring yet, " },
                }
                (count(*rings, "ring")) " since the start"
                @if let Some(until) = certificate_until { "; the signing certificate ends " (relative(*until, status.now)) }
                "."
            }
            @if !verdicts.is_empty() {
                table {
                    caption.unseen { "Deliveries by verdict" }
                    thead { tr { th.number scope="col" { "Deliveries" } th scope="col" { "Verdict" } } }
                    tbody {
                        @for (verdict, number) in sorted(verdicts).0 {
                            tr { td.number { (number_text(number)) } td { (verdict) } }
                        }
                    }
                }
            }
        }
    }
}

/// Ledger, process and last cycle.
pub(super) fn facts(status: &Status) -> Markup {
    let bytes =
        |bytes: Option<u64>| bytes.map_or("unknown".to_owned(), |bytes| format!("{} MiB", number_text(bytes >> 20)));
    html! {
        section aria-labelledby="inside" {
            h2 id="inside" { "Inside" }
            dl.rows {
                @if let Some(cycle) = &status.last_cycle {
                    dt { "Last cycle" }
                    dd {
                        (relative(cycle.started, status.now)) ", took " (span_ms(cycle.duration_ms)) "; "
                        @let done: Vec<String> = cycle.done.iter().map(|(kind, number)| format!("{kind} {}", number_text(*number))).collect();
                        @if done.is_empty() { "nothing written" } @else { "written: " (done.join(", ")) }
                        "; " (number_text(cycle.failed)) " failed, " (number_text(cycle.pending)) " pending"
                        @if cycle.settling > 0 { " (" (number_text(cycle.settling)) " settling)" }
                    }
                }
                dt { "Writing" }
                dd { (status.writing.mode) @if status.writing.is_suspended { ", suspended" } }
                dt { "Last sweep" }
                dd { @match status.swept { Some(at) => (relative(at, status.now)), None => "never" } }
                dt { "Ledger" }
                dd {
                    (count(status.referrals, "entry").replace("entrys", "entries")) ", " (bytes(status.ledger.bytes_on_disk)) " on disk; "
                    @match status.exports.newest {
                        Some(at) => { (count(status.exports.count, "export")) " kept, the newest " (relative(at, status.now)) },
                        None => { "no export yet" },
                    }
                }
                dt { "Process" }
                dd {
                    "started " (relative(status.process.started, status.now)) ", " (bytes(status.process.resident_bytes)) " of memory"
                    @if let Some(cpu) = status.process.cpu_ms { ", " (span_ms(cpu)) " of processor time" }
                }
                @if let Some(alarm) = &status.alarm {
                    dt { "Alarms" }
                    dd {
                        (number_text(alarm.open.len() as u64)) " open; "
                        @if alarm.is_sent {
                            (count(alarm.delivered, "message")) " delivered"
                            @if alarm.waiting > 0 { ", " (number_text(alarm.waiting)) " waiting" }
                            @if alarm.lost > 0 { ", " (number_text(alarm.lost)) " lost" }
                            @if let Some(trouble) = &alarm.trouble { "; " (trouble) }
                        } @else {
                            "told in the log alone"
                        }
                    }
                }
            }
        }
    }
}

/// A referral by its id, with a way to it.
fn referral(id: ReferralId) -> Markup {
    html! {
        a.id href={ (REFERRALS_URL) (id) } rel="noreferrer noopener" { (id) }
    }
}

/// An instant as a person would say it, with the exact one at hand.
fn when(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(at) title=(instant(at)) { (relative(at, now)) } }
}

/// `2026-11-18`.
fn day(at: Timestamp) -> String {
    instant(at).chars().take(10).collect()
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
