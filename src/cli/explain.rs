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
use crate::cycle::explain::{CrmSide, PortalSide};
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
