//! What doctor says: checks in their order, each with found, expected and what to do.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::super::layout::paragraph;
use super::super::words::{ALARM, CARE, GOOD, TITLE};

/// Columns of the word before a check.
const INDENT: usize = 8;

/// Everything doctor has to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The checks, in the order in which they were judged.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// A stable name for scripts, for example `sign-in:dynamics`.
    pub id: String,
    /// A title for people.
    pub title: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// As it should be.
    Good {
        /// What was found.
        found: String,
    },
    /// It works, and is worth a look.
    Care(Finding),
    /// It does not do.
    Failed(Finding),
    /// Not judged, because another check failed.
    Skipped {
        /// The title of the check that failed.
        because: String,
    },
}

/// Something that is not as it should be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finding {
    /// What was found.
    pub found: String,
    /// What was expected.
    pub expected: String,
    /// What to do.
    pub remedy: String,
    /// Further lines, one for each single thing.
    pub details: Vec<String>,
    /// Configuration keys that it speaks of, and where each stands.
    pub places: BTreeMap<String, String>,
}

impl Outcome {
    /// As it should be.
    pub fn good(found: impl Into<String>) -> Self {
        Outcome::Good { found: found.into() }
    }

    /// Not as it should be.
    pub fn failed(found: impl Into<String>, expected: impl Into<String>, remedy: impl Into<String>) -> Self {
        Outcome::Failed(Finding {
            found: found.into(),
            expected: expected.into(),
            remedy: remedy.into(),
            details: Vec::new(),
            places: BTreeMap::new(),
        })
    }

    /// Worth a look.
    pub fn care(found: impl Into<String>, expected: impl Into<String>, remedy: impl Into<String>) -> Self {
        match Outcome::failed(found, expected, remedy) {
            Outcome::Failed(finding) => Outcome::Care(finding),
            other => other,
        }
    }

    /// With single things listed.
    #[must_use]
    pub fn with(mut self, lines: Vec<String>) -> Self {
        if let Outcome::Care(finding) | Outcome::Failed(finding) = &mut self {
            finding.details = lines;
        }
        self
    }

    fn word(&self) -> &'static str {
        match self {
            Outcome::Good { .. } => "good",
            Outcome::Care(_) => "care",
            Outcome::Failed(_) => "failed",
            Outcome::Skipped { .. } => "skipped",
        }
    }
}

impl Finding {
    /// Whether it names this configuration key.
    fn names(&self, key: &str) -> bool {
        let is_part = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-');
        // A key goes on behind a dot, and a sentence does not.
        let goes_on = |rest: &str| {
            let mut letters = rest.chars();
            letters.next().is_some_and(|first| is_part(first) || (first == '.' && letters.next().is_some_and(is_part)))
        };
        [&self.found, &self.expected, &self.remedy].into_iter().any(|text| {
            text.match_indices(key).any(|(at, _)| {
                let begins = !text[..at].ends_with(|last: char| is_part(last) || last == '.');
                begins && !goes_on(&text[at + key.len()..])
            })
        })
    }
}

impl Report {
    /// With the place of each configuration key that a finding names; `places` by key.
    #[must_use]
    pub fn located(mut self, places: &BTreeMap<String, String>) -> Self {
        for check in &mut self.checks {
            if let Outcome::Care(finding) | Outcome::Failed(finding) = &mut check.outcome {
                let named = places.iter().filter(|(key, _)| finding.names(key));
                finding.places = named.map(|(key, place)| (key.clone(), place.clone())).collect();
            }
        }
        self
    }

    /// How many checks came to this.
    pub fn count(&self, word: &str) -> usize {
        self.checks.iter().filter(|check| check.outcome.word() == word).count()
    }

    /// As JSON: `failed`, `care`, `skipped`, `good` are counts; each check has `id`, `title`, `state`, and what belongs to
    /// its state: `found`, `expected`, `remedy`, `details`, `places` (by configuration key), `because`.
    pub fn to_json(&self) -> Value {
        let check = |check: &Check| {
            let mut value = json!({"id": check.id, "title": check.title, "state": check.outcome.word()});
            match &check.outcome {
                Outcome::Good { found } => value["found"] = found.as_str().into(),
                Outcome::Skipped { because } => value["because"] = because.as_str().into(),
                Outcome::Care(finding) | Outcome::Failed(finding) => {
                    value["found"] = finding.found.as_str().into();
                    value["expected"] = finding.expected.as_str().into();
                    value["remedy"] = finding.remedy.as_str().into();
                    value["details"] = finding.details.clone().into();
                    value["places"] = json!(finding.places);
                }
            }
            value
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "failed": self.count("failed"),
            "care": self.count("care"),
            "skipped": self.count("skipped"),
            "good": self.count("good"),
            "checks": self.checks.iter().map(check).collect::<Vec<_>>(),
        })
    }

    /// For people, on 80 columns.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut skipped: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for check in &self.checks {
            let (word, style, text) = match &check.outcome {
                Outcome::Good { found } => ("ok", GOOD, found),
                Outcome::Care(finding) => ("look", CARE, &finding.found),
                Outcome::Failed(finding) => ("FAILED", ALARM, &finding.found),
                Outcome::Skipped { because } => {
                    skipped.entry(because).or_default().push(&check.title);
                    continue;
                }
            };
            let first = format!("{}{word:INDENT$}{}", style.render(), style.render_reset());
            paragraph(out, &first, INDENT, &format!("{}: {text}", check.title))?;
            if let Outcome::Care(finding) | Outcome::Failed(finding) = &check.outcome {
                for detail in &finding.details {
                    paragraph(out, &format!("{:INDENT$}- ", ""), INDENT + 2, detail)?;
                }
                for (name, text) in [("expected", &finding.expected), ("do", &finding.remedy)] {
                    if !text.is_empty() {
                        let name = format!("{:INDENT$}{}{name:10}{}", "", TITLE.render(), TITLE.render_reset());
                        paragraph(out, &name, INDENT + 10, text)?;
                    }
                }
                for (number, (key, place)) in finding.places.iter().enumerate() {
                    let name = if number == 0 { "where" } else { "" };
                    let name = format!("{:INDENT$}{}{name:10}{}", "", TITLE.render(), TITLE.render_reset());
                    paragraph(out, &name, INDENT + 10, &format!("{key}: {place}"))?;
                }
            }
        }
        // One line for all that one cause has taken along: more would be noise.
        for (because, titles) in skipped {
            let text = format!("skipped, because of \"{because}\": {}", titles.join(", "));
            paragraph(out, &format!("{:INDENT$}", "-"), INDENT, &text)?;
        }
        let skipped = match self.count("skipped") {
            0 => String::new(),
            count => format!(", {count} skipped"),
        };
        writeln!(out)?;
        match (self.count("failed"), self.count("care")) {
            (0, 0) => writeln!(out, "Everything is in order."),
            (failed, care) => writeln!(out, "{failed} failed, {care} worth a look{skipped}."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_where_the_keys_stand_that_it_names() {
        let remedy = "correct dataverse.url, then `referrald login`";
        let outcome = Outcome::failed("no way to it", "partner_center.auth.tenant_id.", remedy);
        let check = |outcome| Check { id: "x".into(), title: "X".into(), outcome };
        let place = |key: &str| (key.to_owned(), format!("/etc/{key}:1:1"));
        let keys =
            ["dataverse.url", "dataverse", "url", "partner_center.auth", "partner_center.auth.tenant_id", "login"];
        let report = Report { checks: vec![check(outcome), check(Outcome::good("dataverse.url"))] };
        let located = report.located(&keys.map(place).into());
        let Outcome::Failed(finding) = &located.checks[0].outcome else { panic!("{located:?}") };
        let named: Vec<&str> = finding.places.keys().map(String::as_str).collect();
        assert_eq!(named, ["dataverse.url", "login", "partner_center.auth.tenant_id"]);
        let mut out = Vec::new();
        located.print(&mut out).expect("printed");
        let text = crate::cli::words::plain(&String::from_utf8(out).expect("text"));
        assert!(text.contains("        where     dataverse.url: /etc/dataverse.url:1:1\n"), "{text}");
        assert_eq!(located.to_json()["checks"][0]["places"]["dataverse.url"], "/etc/dataverse.url:1:1");
    }
}
