//! What the log tells of cycles: one line each on a quiet day, and trouble once when it begins and once when it ends.

use std::collections::BTreeMap;

use crate::cycle::Report;
use crate::telemetry::commands::worded;

/// Remembers which trouble has been told.
#[derive(Debug, Default)]
pub(super) struct Story {
    troubles: BTreeMap<String, (String, bool)>,
}

impl Story {
    /// Tells one cycle.
    pub(super) fn tell(&mut self, report: &Report) {
        for news in self.news(&troubles(report)) {
            match news {
                News::Began { what, sentence, needs_human: true } => tracing::error!(what, "{}", worded(&sentence)),
                News::Began { what, sentence, needs_human: false } => tracing::warn!(what, "{}", worded(&sentence)),
                News::Changed { what, sentence } => tracing::info!(what, "{}", worded(&sentence)),
                News::Ended { what } => tracing::info!(what, "{what}: all right again"),
            }
        }
        tracing::info!(
            duration_ms = report.duration_ms,
            referrals = report.referrals_seen,
            leads = report.leads_seen,
            writes = report.writes(),
            failed = report.failures(),
            pending = report.pending,
            "{}",
            line(report)
        );
    }

    fn news(&mut self, now: &BTreeMap<String, (String, bool)>) -> Vec<News> {
        let mut news = Vec::new();
        for (what, (sentence, needs_human)) in now {
            let (what, sentence) = (what.clone(), sentence.clone());
            match self.troubles.get(&what) {
                Some((before, _)) if *before == sentence => {}
                // Counts and instants in a sentence move from cycle to cycle; that is not a new alarm.
                Some((_, was_human)) if was_human == needs_human => news.push(News::Changed { what, sentence }),
                _ => news.push(News::Began { what, sentence, needs_human: *needs_human }),
            }
        }
        for what in self.troubles.keys().filter(|what| !now.contains_key(*what)) {
            news.push(News::Ended { what: what.clone() });
        }
        self.troubles = now.clone();
        news
    }
}

#[derive(Debug, PartialEq, Eq)]
enum News {
    Began { what: String, sentence: String, needs_human: bool },
    Changed { what: String, sentence: String },
    Ended { what: String },
}

fn troubles(report: &Report) -> BTreeMap<String, (String, bool)> {
    let sides = report.sides.iter().map(|(side, sentence)| (side.to_string(), (sentence.clone(), report.needs_human)));
    let brakes = report.brakes.iter().map(|(name, sentence)| (format!("brake {name}"), (sentence.clone(), true)));
    let writing = report.writes_stopped.iter().map(|why| ("writing".to_owned(), (why.clone(), false)));
    sides.chain(brakes).chain(writing).collect()
}

/// One line about one cycle.
pub(super) fn line(report: &Report) -> String {
    let mut parts = Vec::new();
    for (kind, count) in &report.done {
        parts.push(format!("{count} {kind} done"));
    }
    for (kind, count) in &report.failed {
        parts.push(format!("{count} {kind} failed"));
    }
    if report.pending > 0 {
        parts.push(format!("{} pending", report.pending));
    }
    let holds: u64 = report.holds.values().sum();
    if holds > 0 {
        parts.push(format!("{holds} held"));
    }
    if !report.brakes.is_empty() {
        parts.push(format!("brake: {}", report.brakes.keys().cloned().collect::<Vec<_>>().join(", ")));
    }
    for side in report.sides.keys() {
        parts.push(format!("{side} in trouble"));
    }
    parts.extend(report.progress.iter().cloned());
    if parts.is_empty() {
        parts.push("nothing to do".to_owned());
    }
    format!("cycle of {} ms: {}", report.duration_ms, parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::{News, Story, line, troubles};
    use crate::cycle::Report;
    use crate::model::Side;
    use crate::ports::ActionKind;

    #[test]
    fn a_quiet_cycle_is_one_short_line() {
        assert_eq!(line(&Report { duration_ms: 12, ..Report::default() }), "cycle of 12 ms: nothing to do");
    }

    #[test]
    fn a_busy_cycle_names_what_it_did() {
        let report = Report {
            duration_ms: 900,
            done: [(ActionKind::Create, 3), (ActionKind::WriteBack, 3)].into(),
            failed: [(ActionKind::Update, 1)].into(),
            pending: 2,
            holds: [("lead closed".to_owned(), 4)].into(),
            ..Report::default()
        };
        assert_eq!(
            line(&report),
            "cycle of 900 ms: 3 create done, 3 write-back done, 1 update failed, 2 pending, 4 held"
        );
    }

    #[test]
    fn trouble_is_told_once_when_it_begins_and_once_when_it_ends() {
        let mut story = Story::default();
        let down = Report { sides: [(Side::Crm, "Dynamics does not answer".to_owned())].into(), ..Report::default() };
        let began = vec![News::Began {
            what: "Dynamics".to_owned(),
            sentence: "Dynamics does not answer".to_owned(),
            needs_human: false,
        }];
        assert_eq!(story.news(&troubles(&down)), began);
        assert_eq!(story.news(&troubles(&down)), vec![]);
        let later = Report { sides: [(Side::Crm, "Dynamics still does not answer".to_owned())].into(), ..down };
        let changed =
            News::Changed { what: "Dynamics".to_owned(), sentence: "Dynamics still does not answer".to_owned() };
        assert_eq!(story.news(&troubles(&later)), vec![changed]);
        assert_eq!(story.news(&troubles(&Report::default())), vec![News::Ended { what: "Dynamics".to_owned() }]);
        assert_eq!(story.news(&troubles(&Report::default())), vec![]);
    }
}
