//! What happened since the start: totals, and the last cycles and writes, bounded.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::status::{
    ACTIONS_MAX, CYCLE_OUTCOMES, CYCLES_MAX, CyclePoint, DURATION_BOUNDS_MS, Durations, Status, Totals,
};
use crate::cycle::{CycleError, Report, Tried};
use crate::model::{Side, Timestamp};

/// Keeps it; memory only, and so much of it at most.
#[derive(Debug, Default)]
pub(super) struct Chronicle {
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    totals: Totals,
    cycles: VecDeque<CyclePoint>,
    actions: VecDeque<Tried>,
}

/// How one cycle ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ended<'a> {
    /// With a report.
    Told(&'a Report),
    /// The ledger failed.
    Failed,
    /// It broke.
    Broken,
}

impl<'a> From<&'a Result<Report, CycleError>> for Ended<'a> {
    fn from(result: &'a Result<Report, CycleError>) -> Self {
        match result {
            Ok(report) => Ended::Told(report),
            Err(_) => Ended::Failed,
        }
    }
}

impl Ended<'_> {
    /// The word it is counted under.
    fn word(self) -> &'static str {
        let [complete, unfinished, side_down, ledger, broken] = CYCLE_OUTCOMES;
        match self {
            Ended::Told(report) if !report.sides.is_empty() => side_down,
            Ended::Told(report) if report.is_complete => complete,
            Ended::Told(_) => unfinished,
            Ended::Failed => ledger,
            Ended::Broken => broken,
        }
    }
}

impl Chronicle {
    /// A cycle began at `started` and ended `now`. `seen` is when both sides had last been observed before it.
    pub(super) fn note(&self, started: Timestamp, now: Timestamp, seen: Option<Timestamp>, ended: Ended<'_>) {
        let mut told = self.lock();
        let duration_ms = millis(now.since(started));
        let mut point = CyclePoint {
            started,
            duration_ms,
            outcome: ended.word().to_owned(),
            lag_seconds: seen.map(|seen| now.since(seen).as_secs()),
            ..CyclePoint::default()
        };
        let totals = &mut told.totals;
        *totals.cycles.entry(point.outcome.clone()).or_default() += 1;
        totals.durations.add(duration_ms);
        if let Ended::Told(report) = ended {
            for (kind, count) in &report.done {
                *totals.done.entry(*kind).or_default() += count;
            }
            for (kind, count) in &report.failed {
                *totals.failed.entry(*kind).or_default() += count;
            }
            *totals.rows.entry(Side::Portal).or_default() += report.referrals_seen;
            *totals.rows.entry(Side::Crm).or_default() += report.leads_seen;
            point.written = report.writes();
            point.failed = report.failures();
            point.requests = report.requests.values().sum();
            for tried in &report.recent {
                told.actions.push_front(tried.clone());
            }
            told.actions.truncate(ACTIONS_MAX);
        }
        if told.cycles.len() >= CYCLES_MAX {
            told.cycles.pop_front();
        }
        told.cycles.push_back(point);
    }

    /// Adds what it knows to a status.
    pub(super) fn tell(&self, status: &mut Status) {
        let told = self.lock();
        status.totals = told.totals.clone();
        status.recent_cycles = told.cycles.iter().cloned().collect();
        status.recent_actions = told.actions.iter().cloned().collect();
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Durations {
    /// Counts one.
    pub fn add(&mut self, millis: u64) {
        let index = DURATION_BOUNDS_MS.iter().position(|bound| millis <= *bound).unwrap_or(DURATION_BOUNDS_MS.len());
        self.counts[index] += 1;
        self.sum_ms = self.sum_ms.saturating_add(millis);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Chronicle, Ended};
    use crate::cycle::Report;
    use crate::daemon::status::{ACTIONS_MAX, CYCLES_MAX, Status};
    use crate::model::{ReferralId, Side, Timestamp};
    use crate::ports::ActionKind;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn what_cycles_did_adds_up_and_what_is_kept_of_each_is_bounded() {
        let chronicle = Chronicle::default();
        let mut report = Report { is_complete: true, referrals_seen: 3, ..Report::default() };
        report.done.insert(ActionKind::Create, 2);
        report.failed.insert(ActionKind::Close, 1);
        report.requests.insert(Side::Crm, 5);
        for number in 0..2 * CYCLES_MAX as i64 {
            report.recent.clear();
            report.note(at(number), ReferralId::new(uuid::Uuid::nil()), ActionKind::Create, "a lead", None);
            chronicle.note(at(number * 60), at(number * 60 + 2), Some(at(number * 60 - 58)), Ended::Told(&report));
        }
        chronicle.note(at(100_000), at(100_001), None, Ended::Failed);
        chronicle.note(at(100_002), at(100_003), None, Ended::Broken);
        let mut status = Status::default();
        chronicle.tell(&mut status);
        assert_eq!(status.totals.done[&ActionKind::Create], 4 * CYCLES_MAX as u64);
        assert_eq!(status.totals.rows[&Side::Portal], 6 * CYCLES_MAX as u64);
        let words: Vec<(&str, u64)> =
            status.totals.cycles.iter().map(|(word, count)| (word.as_str(), *count)).collect();
        assert_eq!(words, [("broken", 1), ("complete", 2 * CYCLES_MAX as u64), ("ledger", 1)]);
        assert_eq!((status.recent_cycles.len(), status.recent_actions.len()), (CYCLES_MAX, ACTIONS_MAX));
        assert_eq!(status.recent_actions[0].at, at(2 * CYCLES_MAX as i64 - 1), "the newest first");
        let point = &status.recent_cycles[0];
        assert_eq!((point.lag_seconds, point.written, point.failed, point.requests), (Some(60), 2, 1, 5));
    }

    #[test]
    fn durations_fall_between_their_bounds() {
        let mut durations = crate::daemon::status::Durations::default();
        for millis in [0, 50, 51, 1_000_000] {
            durations.add(millis);
        }
        assert_eq!((durations.counts[0], durations.counts[1], durations.counts[11]), (2, 1, 1));
        assert_eq!((durations.count(), durations.sum_ms), (4, 1_000_101));
    }
}
