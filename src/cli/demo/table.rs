//! The last word of the demonstration: one table of what was found.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use comfy_table::{ContentArrangement, Table, presets};

use super::story::Finding;
use crate::cli::layout::WIDTH;
use crate::cli::words::{ALARM, GOOD, count, number_text};

/// Sentences of one kind shown before the rest is summed up.
const SENTENCES_MAX: usize = 5;

/// The table, and one line that says whether both sides agree.
pub(super) fn render(finding: &Finding) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH)
        .add_rows(rows(finding));
    let mut text = String::new();
    for line in table.lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let (words, style) = match finding.agree {
        true => ("Both sides agree.", GOOD),
        false => ("Both sides do not agree.", ALARM),
    };
    let _ = writeln!(text, "{}{words}{} {:.1} s", style.render(), style.render_reset(), finding.seconds);
    text
}

fn rows(finding: &Finding) -> Vec<[String; 2]> {
    let requests = &finding.requests;
    let total = |counts: &BTreeMap<String, u64>| number_text(counts.values().sum());
    let mut rows = vec![
        ["Referrals".to_owned(), counted(&finding.referrals)],
        ["Leads".to_owned(), counted(&finding.leads)],
        [
            "Linked".to_owned(),
            format!(
                "{} of {} in scope have their lead, {} name it",
                number_text(finding.linked),
                count(finding.in_scope, "referral"),
                number_text(finding.written_back)
            ),
        ],
        ["Leads per referral".to_owned(), format!("{} at most", finding.leads_per_referral_max)],
        [
            "Requests".to_owned(),
            format!(
                "{} to Partner Center, {} to Dynamics, {} for tokens",
                total(&requests.portal),
                total(&requests.crm),
                number_text(requests.tokens)
            ),
        ],
        ["Written by a further pass".to_owned(), number_or_nothing(finding.writes_second_pass)],
        ["Still to write".to_owned(), listed(&finding.planned)],
        ["Held back, by reason".to_owned(), counted(&finding.holds)],
        ["Broken promises".to_owned(), listed(&finding.violations)],
    ];
    if !finding.trouble.is_empty() {
        rows.push(["Trouble".to_owned(), listed(&finding.trouble)]);
    }
    if finding.leads_without_reason > 0 {
        let stray = format!("{} of referrals out of scope", count(finding.leads_without_reason, "lead"));
        rows.push(["Without reason".to_owned(), stray]);
    }
    rows
}

/// `12 New, 7 Active`.
fn counted(counts: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = counts.iter().map(|(name, number)| format!("{} {name}", number_text(*number))).collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

fn listed(sentences: &[String]) -> String {
    if sentences.is_empty() {
        return "nothing".to_owned();
    }
    let mut lines: Vec<String> = sentences.iter().take(SENTENCES_MAX).cloned().collect();
    if sentences.len() > SENTENCES_MAX {
        lines.push(format!("and {} more; `--json` lists all", sentences.len() - SENTENCES_MAX));
    }
    lines.join("\n")
}

fn number_or_nothing(number: u64) -> String {
    if number == 0 { "nothing".to_owned() } else { number_text(number) }
}

#[cfg(test)]
mod tests {
    use super::super::story::{Finding, Requests};
    use super::render;
    use crate::cli::words::plain;

    fn finding() -> Finding {
        Finding {
            referrals: [("Active".to_owned(), 7), ("New".to_owned(), 1200)].into(),
            leads: [("Open".to_owned(), 1190)].into(),
            in_scope: 1190,
            linked: 1190,
            written_back: 1188,
            unnamed: 2,
            leads_per_referral_max: 1,
            leads_without_reason: 0,
            requests: Requests {
                portal: [("patch referral".to_owned(), 1188)].into(),
                crm: [("patch lead".to_owned(), 1190), ("who am i".to_owned(), 2)].into(),
                tokens: 2,
            },
            writes_second_pass: 0,
            planned: Vec::new(),
            holds: [("foreign reference".to_owned(), 2)].into(),
            trouble: Vec::new(),
            violations: Vec::new(),
            agree: true,
            seconds: 1.26,
        }
    }

    #[test]
    fn the_table_says_what_was_found_within_80_columns() {
        let text = plain(&render(&finding()));
        for part in ["7 Active, 1,200 New", "1,190 of 1,190 referrals", "1,192 to Dynamics", "2 foreign reference"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(text.ends_with("Both sides agree. 1.3 s\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn disagreement_is_said_with_its_reasons() {
        let violations = (0..7).map(|number| format!("promise {number} was broken")).collect();
        let text = plain(&render(&Finding { violations, agree: false, writes_second_pass: 3, ..finding() }));
        assert!(text.contains("promise 4") && !text.contains("promise 5") && text.contains("and 2 more"), "{text}");
        assert!(text.contains("do not agree"), "{text}");
    }
}
