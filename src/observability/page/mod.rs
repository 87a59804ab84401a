//! The status page: one screen that a person can read on a phone, without JavaScript. Ids and counts, no names, no values.
//!
//! First whether all is well and what to do, then the figures, then the lists. The markup carries the meaning (headings,
//! lists, tables with headers), the colours only repeat it.

mod charts;
mod parts;

use std::time::Duration;

use base64::Engine as _;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::daemon::Status;
use crate::daemon::findings::{Finding, Severity, Topic, findings};
use crate::telemetry::{commands, words};

/// The page's only style; its hash is in the content security policy.
const STYLE: &str = include_str!("style.css");

/// Pauses between two loads that may be asked for, in seconds.
pub const REFRESH_SECONDS: std::ops::RangeInclusive<u32> = 10..=3600;

/// How often the browser shall load the page again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refresh(Option<u32>);

impl Refresh {
    /// From `?refresh=SECONDS`; anything else is never.
    pub fn asked(query: Option<&str>) -> Refresh {
        let pairs = query.unwrap_or_default().split('&');
        let asked = pairs.filter_map(|pair| pair.strip_prefix("refresh=")).find_map(|text| text.parse().ok());
        Refresh(asked.filter(|seconds| REFRESH_SECONDS.contains(seconds)))
    }
}

/// What a browser may do with the page: show it, with this style and our icon. No script, no frame, no form.
pub fn content_security_policy() -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, STYLE.as_bytes());
    let hash = base64::engine::general_purpose::STANDARD.encode(digest);
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    )
}

/// The page. `lag_max` is `observability.lag_max`.
pub fn render(status: &Status, lag_max: Duration, Refresh(refresh): Refresh) -> String {
    let found = findings(status, lag_max);
    let mood = Mood::of(&found);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                @if let Some(seconds) = refresh {
                    meta http-equiv="refresh" content=(seconds);
                }
                title { (mood.title()) " · referrald" }
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                style { (PreEscaped(STYLE)) }
            }
            body {
                header.top {
                    p.brand { "referrald " span.version { (status.version) } }
                    p.asof { "as of " time datetime=(status.now) { (words::instant(status.now)) } }
                }
                main {
                    (headline(status, &found, mood))
                    (parts::tiles(status))
                    (parts::brakes(status))
                    (charts::charts(status))
                    (parts::deals(status))
                    (parts::services(status))
                    (parts::actions(status))
                    (parts::dead_letters(status))
                    (parts::counts("holds", "Left alone", "Differences that wait for somebody or something, by reason.", "Reason", &status.holds))
                    (parts::counts("left-out", "Columns left out", "Columns of the mapping that could not be written.", "Column and reason", &status.left_out))
                    (parts::webhook(status))
                    (parts::facts(status))
                }
                footer {
                    @match refresh {
                        Some(seconds) => p { "Loaded again every " (words::span(seconds.into())) ". " a href="/" { "Stop that" } },
                        None => p { a href="/?refresh=60" { "Load again every minute" } },
                    }
                    p { "Figures for machines: " a href="/metrics" { "/metrics" } ", " a href="/readyz" { "/readyz" } ", " a href="/healthz" { "/healthz" } "." }
                }
            }
        }
    }
    .into_string()
}

/// A dot in the colour of the headline, for the browser's tab.
pub fn icon(status: &Status, lag_max: Duration) -> String {
    let colour = match Mood::of(&findings(status, lag_max)) {
        Mood::Well => "#1a7f37",
        Mood::Care => "#9a6700",
        Mood::Alarm => "#cf222e",
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 16 16\"><circle cx=\"8\" cy=\"8\" r=\"7\" fill=\"{colour}\"/></svg>"
    )
}

/// How the whole of it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Well,
    Care,
    Alarm,
}

impl Mood {
    fn of(found: &[Finding]) -> Mood {
        match found.iter().map(|finding| finding.severity).max() {
            None => Mood::Well,
            Some(Severity::Care) => Mood::Care,
            Some(Severity::Alarm) => Mood::Alarm,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Mood::Well => "All is well",
            Mood::Care => "Running, with something to look at",
            Mood::Alarm => "A person is needed",
        }
    }

    fn class(self) -> &'static str {
        match self {
            Mood::Well => "headline well",
            Mood::Care => "headline care",
            Mood::Alarm => "headline alarm",
        }
    }
}

/// Findings shown one by one; the rest is a number.
const FINDINGS_MAX: usize = 12;

fn headline(status: &Status, found: &[Finding], mood: Mood) -> Markup {
    let items = items(status, found);
    let rest = items.len().saturating_sub(FINDINGS_MAX);
    html! {
        section class=(mood.class()) aria-labelledby="headline" {
            h1 id="headline" { (mood.title()) }
            p.summary { (parts::prose(&summary(status))) }
            @if let Some(opening) = &status.opening {
                p.summary { "Ledger: " (parts::prose(opening)) "." }
            }
            @for sentence in &status.progress {
                p.summary { "Under way: " (sentence) "." }
            }
            @if !items.is_empty() {
                ol.findings aria-label="What to look at, the urgent first" {
                    @for item in items.iter().take(FINDINGS_MAX) {
                        li {
                            p.what {
                                @if item.severity == Severity::Alarm { strong.tag { "Now" } " " }
                                (parts::prose(&item.what))
                            }
                            p.act { (item.act) }
                        }
                    }
                    @if rest > 0 {
                        li { p.what { "And " (words::count(rest as u64, "more thing")) "; " code { (commands::command("status")) } " lists them." } }
                    }
                }
            }
        }
    }
}

/// One line of the headline.
struct Item {
    severity: Severity,
    what: String,
    act: Markup,
}

/// The findings, those that have a list of their own below as one line each.
fn items(status: &Status, found: &[Finding]) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let is_one = |is_of: fn(&Topic) -> bool| found.iter().filter(|finding| is_of(&finding.topic)).count() == 1;
    let (one_deal, one_cause) = (is_one(is_deal), is_one(is_dead_letter));
    let (mut has_deals, mut has_causes) = (false, false);
    for finding in found {
        let item = |what: String, act: Markup| Item { severity: finding.severity, what, act };
        match &finding.topic {
            topic if is_deal(topic) && !one_deal => {
                if !std::mem::replace(&mut has_deals, true) {
                    let number = words::count(status.deals.expiring.max(2), "new referral");
                    items.push(item(
                        format!("{number} are about to expire unanswered; {}", first_words(&finding.what)),
                        html! { a href="#deals" { "The deal clock" } " lists them." },
                    ));
                }
            }
            topic if is_dead_letter(topic) && !one_cause => {
                if !std::mem::replace(&mut has_causes, true) {
                    let number = status.dead_letters.values().sum();
                    let verb = if number == 1 { "is a dead letter" } else { "are dead letters" };
                    items.push(item(
                        format!(
                            "{} {verb}, for {}",
                            words::count(number, "referral"),
                            words::count(status.dead_letters.len() as u64, "cause")
                        ),
                        html! { a href="#dead-letters" { "The list" } " says what to type for each." },
                    ));
                }
            }
            _ => items.push(item(finding.what.clone(), parts::act(&finding.act))),
        }
    }
    items
}

fn is_deal(topic: &Topic) -> bool {
    matches!(topic, Topic::Expiring(_))
}

fn is_dead_letter(topic: &Topic) -> bool {
    matches!(topic, Topic::DeadLetters(_))
}

/// How soon the first of them expires.
fn first_words(what: &str) -> String {
    what.rsplit_once(" in ").map_or_else(|| what.to_owned(), |(_, left)| format!("the first in {left}"))
}

/// One sentence about the day.
fn summary(status: &Status) -> String {
    let seen = match (status.lag_seconds(), status.writing.mode.as_str()) {
        (_, "off") => "Writing is off: this only looks. `referrald plan` shows what it would do".to_owned(),
        (Some(lag), _) => format!("Both sides were observed {} ago", words::span(lag)),
        (None, _) => "Both sides were not observed yet".to_owned(),
    };
    let waiting = match status.backlog {
        0 => "nothing waits".to_owned(),
        backlog => format!("{} for a later cycle", wait(backlog)),
    };
    let running = if status.is_cycle_running { "; a cycle is running now" } else { "" };
    format!("{seen}; {waiting}{running}.")
}

fn wait(number: u64) -> String {
    let verb = if number == 1 { "waits" } else { "wait" };
    format!("{} {verb}", words::count(number, "referral"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Refresh, content_security_policy, icon, render};
    use crate::daemon::Status;
    use crate::model::Timestamp;
    use crate::observability::sample;

    const LAG_MAX: Duration = Duration::from_secs(900);

    /// One element a line, so that a snapshot can be read.
    fn lines(html: &str) -> String {
        let body = html.split_once("</style>").map_or(html, |(_, body)| body);
        body.replace("><", ">\n<")
    }

    #[test]
    fn the_page_of_a_busy_day_looks_like_this() {
        insta::assert_snapshot!("page_busy", lines(&render(&sample::busy(), LAG_MAX, Refresh::default())));
    }

    #[test]
    fn the_page_of_a_quiet_day_looks_like_this() {
        insta::assert_snapshot!(
            "page_quiet",
            lines(&render(&sample::quiet(), LAG_MAX, Refresh::asked(Some("refresh=60"))))
        );
    }

    #[test]
    fn a_page_without_anything_to_show_is_a_page() {
        let status = Status { now: Timestamp::from_seconds(1), ..Status::default() };
        let html = render(&status, LAG_MAX, Refresh::default());
        assert!(html.contains("not observed yet") && html.ends_with("</html>"), "{html}");
    }

    #[test]
    fn nothing_on_the_page_needs_more_than_its_policy_allows() {
        let html = render(&sample::busy(), LAG_MAX, Refresh::default());
        for word in ["<script", " style=", "onclick", "javascript:", "<iframe", "<form", "url(", "@import"] {
            assert!(!html.contains(word), "{word}");
        }
        assert!(content_security_policy().starts_with("default-src 'none'; style-src 'sha256-"));
        assert_eq!(html.matches("<style>").count(), 1);
    }

    #[test]
    fn what_services_say_is_text_and_no_markup() {
        let mut status = sample::busy();
        status.ledger_trouble = Some("<script>alert(1)</script>".to_owned());
        status.dead_letters.insert("\"><img src=x onerror=alert(1)>".to_owned(), 1);
        let html = render(&status, LAG_MAX, Refresh::default());
        assert!(html.contains("&lt;script&gt;") && !html.contains("<script") && !html.contains("<img"), "escaped");
    }

    #[test]
    fn loading_again_is_asked_for_within_bounds() {
        let asked = |query| Refresh::asked(Some(query)).0;
        assert_eq!([asked("refresh=60"), asked("a=b&refresh=10")], [Some(60), Some(10)]);
        assert_eq!([asked("refresh=1"), asked("refresh=0;url=http://x"), asked(""), asked("refresh=4000")], [None; 4]);
    }

    #[test]
    fn the_icon_has_the_colour_of_the_headline() {
        assert!(icon(&sample::busy(), LAG_MAX).contains("#cf222e"));
        assert!(icon(&sample::quiet(), LAG_MAX).contains("#1a7f37"));
    }
}
