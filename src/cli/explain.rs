//! `referrald explain ID`: one referral or lead, live from both sides, and why what is done with it is done.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::build::Purpose;
use super::exit::Exit;
use super::layout::{harmless, styled, table, wrapped};
use super::progress::watched;
use super::words::{self, ALARM, CARE, TITLE, relative};
use super::{Call, Failure, print_json};
use crate::cycle::Explanation;
use crate::cycle::explain::{Counterpart, CrmSide, Engagement, PortalSide};
use crate::daemon::Detail;
use crate::model::{Side, Timestamp};
use crate::plan::{ColumnAccount, GroupAccount};

/// Longest value shown on a screen, in characters; `--json` has it whole.
pub const VALUE_CHARACTERS_MAX: usize = 300;

/// What goes on meanwhile.
const READING: &str = "both services are read";

/// Explains one referral, through the running daemon or on the ledger itself.
pub(super) async fn explain(
    call: &Call<'_>,
    id: uuid::Uuid,
    values: bool,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    // Values are personal data: they go to a person, or where a person said so.
    let detail = if values || std::io::stdout().is_terminal() { Detail::Values } else { Detail::Names };
    let told = match call.daemon().await? {
        Some(daemon) => watched(READING, None, daemon.explain(id, detail)).await?,
        None => {
            let engine = call.build.engine(call.flags, Purpose::Forecast).await?;
            watched(READING, None, engine.explain(id, detail, &CancellationToken::new())).await?
        }
    };
    let origins = call.build.origins(call.flags, &keys(&told));
    if call.is_json {
        let mut value = serde_json::to_value(&told).map_err(std::io::Error::from)?;
        value["origins"] = serde_json::to_value(&origins).map_err(std::io::Error::from)?;
        print_json(out, &value)?;
    } else {
        write!(out, "{}", render(&told, &origins, detail))?;
    }
    let is_known = told.portal.is_some() || told.crm.is_some() || told.referral.is_some();
    Ok(if is_known && told.sides.is_empty() { Exit::Fine } else { Exit::Failed })
}

/// The configuration keys that have a say in it.
fn keys(told: &Explanation) -> Vec<String> {
    let groups = told.groups.iter().map(|group| group.key.clone());
    groups.chain(told.status.as_ref().map(|status| status.key.clone())).collect()
}

fn render(told: &Explanation, origins: &BTreeMap<String, String>, detail: Detail) -> String {
    let mut text = String::new();
    let subject = match told.referral {
        Some(id) => format!("referral {id}"),
        None => format!("id {}", told.asked),
    };
    let _ = writeln!(text, "{}: {}", styled(&subject, TITLE), told.standing);
    if let Some(note) = &told.note {
        wrapped(&mut text, 2, note);
    }
    for (side, trouble) in &told.sides {
        let _ = writeln!(text, "{}", styled(&format!("{side} could not be read"), ALARM));
        wrapped(&mut text, 2, trouble);
    }
    let _ = write!(text, "{}", table(facts(told, origins)));
    next(&mut text, told);
    if !told.groups.is_empty() {
        let _ = writeln!(text, "{}", styled("Fields", TITLE));
        for group in &told.groups {
            self::group(&mut text, group, told.now, origins, detail);
        }
        if detail == Detail::Names {
            wrapped(&mut text, 2, "values are shown on a terminal, or with --values");
        }
    }
    text
}

fn facts(told: &Explanation, origins: &BTreeMap<String, String>) -> Vec<[String; 2]> {
    let mut rows = Vec::new();
    let mut row = |name: &str, words: String| rows.push([name.to_owned(), words]);
    if let Some(PortalSide { seen, status, created, updated }) = &told.portal {
        let mut words = vec![status.clone()];
        words.extend(created.map(|at| format!("created {}", words::instant(at))));
        words.extend(updated.map(|at| format!("changed {}", relative(at, told.now))));
        if seen != "read" {
            words.push(format!("{seen}: this is as last seen"));
        }
        row(&Side::Portal.to_string(), words.join(", "));
    }
    if let Some(words) = told.engagement.as_ref().and_then(engagement) {
        row("Engagement", words);
    }
    if let Some(CrmSide { seen, lead, status, modified, opportunities }) = &told.crm {
        let mut words = vec![format!("lead {lead}"), status.clone()];
        words.extend(modified.map(|at| format!("changed {}", relative(at, told.now))));
        if *opportunities > 0 {
            words.push(words::count(*opportunities, "opportunity").replace("opportunitys", "opportunities"));
        }
        if seen != "read" {
            words.push(format!("{seen}: this is as last seen"));
        }
        row(&Side::Crm.to_string(), words.join(", "));
    }
    if let Some(link) = &told.link {
        row("Link", link.clone());
    }
    if let Some(status) = &told.status {
        let since = status.since.map(|at| format!(", seen first {}", relative(at, told.now))).unwrap_or_default();
        let words = format!("the lead says: {}{since} ({}); step: {}", status.meaning, status.key, status.step);
        row("Status", with_origin(words, &status.key, origins));
    }
    if let Some(deadline) = told.deadline {
        row("Answer due", format!("{} ({})", relative(deadline, told.now), words::instant(deadline)));
    }
    if let Some(last) = &told.last {
        row("Last write", format!("{}, {}, {}", last.kind, last.outcome, relative(last.at, told.now)));
    }
    if let Some(trouble) = &told.trouble {
        let attempts = words::count(u64::from(trouble.attempts), "attempt");
        let words = format!("{}; {attempts}, the last {}", trouble.cause, relative(trouble.since, told.now));
        row(if trouble.is_dead_letter { "Dead letter" } else { "Failed" }, words);
    }
    rows
}

/// What else belongs to the engagement; nothing where the referral is alone in it.
fn engagement(told: &Engagement) -> Option<String> {
    if let Some(trouble) = &told.trouble {
        return Some(format!("what else belongs to {} could not be listed: {trouble}", told.id));
    }
    let mut others: Vec<String> = told
        .others
        .iter()
        .map(|Counterpart { referral, status, is_ours }| {
            let whose = match is_ours {
                Some(true) => ", ours too",
                Some(false) => ", another organization's",
                None => "",
            };
            format!("{referral} ({status}{whose})")
        })
        .collect();
    if told.has_more {
        others.push("more".to_owned());
    }
    (!others.is_empty()).then(|| format!("also has {}", others.join(", ")))
}

/// What happens next, and what that waits for.
fn next(text: &mut String, told: &Explanation) {
    if told.portal.is_none() && told.crm.is_none() {
        return;
    }
    let _ = writeln!(text, "{}", styled("Next", TITLE));
    match (&told.action, &told.unheld_action) {
        (Some(action), _) => wrapped(text, 2, action),
        (None, Some(action)) => wrapped(text, 2, &format!("nothing while it is held; after `release`: {action}")),
        (None, None) => wrapped(text, 2, "nothing is written"),
    }
    if let Some(at) = told.next_look.filter(|_| told.action.is_none()) {
        wrapped(text, 2, &format!("it is looked at again {} ({})", relative(at, told.now), words::instant(at)));
    }
    if !told.waits.is_empty() || !told.holds.is_empty() {
        let _ = writeln!(text, "{}", styled("Waits for", CARE));
        told.waits.iter().chain(told.holds.iter().map(|hold| &hold.text)).for_each(|line| wrapped(text, 2, line));
    }
}

fn group(text: &mut String, group: &GroupAccount, now: Timestamp, origins: &BTreeMap<String, String>, detail: Detail) {
    wrapped(text, 2, &format!("{}: {}", styled(&group.name, TITLE), group.decision));
    let mut words = vec![format!("owner {}", group.owner)];
    words.push(if group.is_two_way { "two-way" } else { "one-way" }.to_owned());
    if group.base != "none" {
        words.push(group.base.clone());
    }
    for (side, at) in &group.moved {
        words.push(format!("{side} moved, seen {}", relative(*at, now)));
    }
    wrapped(text, 4, &with_origin(format!("{} ({})", words.join(", "), group.key), &group.key, origins));
    for column in &group.columns {
        self::column(text, column, detail);
    }
}

fn column(text: &mut String, column: &ColumnAccount, detail: Detail) {
    let ColumnAccount { column: name, comparison, referral, lead, left_out } = column;
    match (detail, comparison.as_str()) {
        (Detail::Values, "same") => wrapped(text, 4, &format!("{name}: {} on both sides", shown(referral.as_ref()))),
        (_, "empty") => {} // Nothing to tell.
        (Detail::Values, "unread") => wrapped(text, 4, &format!("{name}: the referral was not read")),
        (Detail::Values, "not compared") => wrapped(text, 4, &format!("{name}: {}", shown(referral.as_ref()))),
        (Detail::Values, _) => {
            wrapped(text, 4, &format!("{name}: {comparison}"));
            wrapped(text, 6, &format!("referral  {}", shown(referral.as_ref())));
            wrapped(text, 6, &format!("lead      {}", shown(lead.as_ref())));
        }
        (Detail::Names, _) => wrapped(text, 4, &format!("{name}: {comparison}")),
    }
    if let Some(reason) = left_out {
        wrapped(text, 6, &format!("left out: {reason}"));
    }
}

/// A value for a person: on one line, harmless to the terminal, cut when it is long.
fn shown(value: Option<&Value>) -> String {
    let Some(value) = value else { return "empty".to_owned() };
    let whole = harmless(&value.to_string());
    let mut cut: String = whole.chars().take(VALUE_CHARACTERS_MAX).collect();
    if cut.len() < whole.len() {
        cut.push_str("… (cut; --json has it whole)");
    }
    cut
}

fn with_origin(words: String, key: &str, origins: &BTreeMap<String, String>) -> String {
    match origins.get(key) {
        Some(origin) => format!("{words}, {origin}"),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::render;
    use crate::cli::layout::WIDTH;
    use crate::cli::words::plain;
    use crate::cycle::Explanation;
    use crate::cycle::explain::{CrmSide, Held, PortalSide, StatusStep, TroubleNote};
    use crate::daemon::Detail;
    use crate::model::{ReferralId, Side, Timestamp};
    use crate::plan::{ColumnAccount, GroupAccount};
    use crate::ports::{ActionKind, HistoryLine};

    fn column(name: &str, comparison: &str, referral: Option<&str>, lead: Option<&str>) -> ColumnAccount {
        ColumnAccount {
            column: name.to_owned(),
            comparison: comparison.to_owned(),
            referral: referral.map(|text| json!(text)),
            lead: lead.map(|text| json!(text)),
            left_out: None,
        }
    }

    /// A referral about which there is much to tell.
    fn busy() -> Explanation {
        let now = Timestamp::from_seconds(1_795_000_000);
        let ago = |seconds| now.minus(std::time::Duration::from_secs(seconds));
        let id = ReferralId::new(uuid::Uuid::from_u128(7));
        let company = GroupAccount {
            name: "company".to_owned(),
            owner: "crm".to_owned(),
            is_create_only: false,
            is_two_way: false,
            columns: vec![
                column("companyname", "differs", Some("Contoso \u{1b}[2J\u{202e}Ltd"), Some("Contoso Limited")),
                column("websiteurl", "same", Some("https://contoso.example"), Some("https://contoso.example")),
                column("fax", "empty", None, None),
                ColumnAccount {
                    left_out: Some("the organization has no such option".to_owned()),
                    ..column("industrycode", "lead only", None, Some("4"))
                },
            ],
            base: "agreed".to_owned(),
            moved: [(Side::Portal, ago(300)), (Side::Crm, ago(90))].into(),
            decision: "the lead's value stays: both changed, and the owner is the CRM".to_owned(),
            rule: None,
            key: "mapping.groups.company.owner".to_owned(),
        };
        let mut notes = GroupAccount {
            name: "notes".to_owned(),
            columns: Vec::new(),
            moved: Default::default(),
            ..company.clone()
        };
        notes.columns.push(column("description", "differs", Some(&"many words ".repeat(60)), None));
        Explanation {
            now,
            asked: id.to_string(),
            referral: Some(id),
            standing: "linked".to_owned(),
            portal: Some(PortalSide {
                seen: "read".to_owned(),
                status: "New / Pending".to_owned(),
                created: Some(ago(400_000)),
                updated: Some(ago(300)),
            }),
            crm: Some(CrmSide {
                seen: "not read".to_owned(),
                lead: uuid::Uuid::from_u128(8).to_string(),
                status: "Qualified (status 3), an opportunity is won".to_owned(),
                modified: Some(ago(90)),
                opportunities: 2,
            }),
            link: Some(
                "its id is the one computed from the referral's (identity, link.namespace); made by this daemon"
                    .to_owned(),
            ),
            groups: vec![company, notes],
            status: Some(StatusStep {
                meaning: "the deal is Closed / Won".to_owned(),
                key: "status.codes.3".to_owned(),
                step: "accept it, then close it (Closed / Won)".to_owned(),
                since: Some(ago(60)),
            }),
            deadline: Some(now.plus(std::time::Duration::from_secs(90_000))),
            action: None,
            unheld_action: Some("accept referral 7 (Active / Accepted): lead 8 is Qualified (status.codes)".to_owned()),
            holds: vec![Held {
                kind: "by operator".to_owned(),
                text: "held by an operator; `release` lifts it".to_owned(),
            }],
            waits: vec!["Dynamics asked for silence until 2026-11-18T08:15:30Z".to_owned()],
            trouble: Some(TroubleNote {
                cause: "Dynamics: update 0x80040203".to_owned(),
                attempts: 8,
                since: ago(4000),
                is_dead_letter: true,
            }),
            next_look: Some(now.plus(std::time::Duration::from_secs(600))),
            last: Some(HistoryLine {
                referral: id,
                at: ago(5000),
                kind: ActionKind::Update,
                outcome: "done company:referral".to_owned(),
            }),
            sides: [(Side::Crm, "read leads: no answer within 30 s".to_owned())].into(),
            ..Explanation::default()
        }
    }

    #[test]
    fn an_explanation_reads_like_this_and_fits_the_screen() {
        let origins = [
            ("mapping.groups.company.owner".to_owned(), "/etc/referrald/referrald.toml:31:9".to_owned()),
            ("status.codes.3".to_owned(), "built-in default".to_owned()),
        ];
        for (name, detail) in [("explain_values", Detail::Values), ("explain_names", Detail::Names)] {
            let screen = plain(&render(&busy(), &origins.clone().into(), detail));
            for line in screen.lines() {
                assert!(line.chars().count() <= usize::from(WIDTH), "too wide: {line}");
            }
            assert!(!screen.contains(['\u{1b}', '\u{202e}']), "a value commands the terminal");
            insta::assert_snapshot!(name, screen);
        }
    }
}
