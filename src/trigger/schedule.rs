//! Rings by the clock.
//!
//! The scheduler library stores a zone as the offset it had when the job was made, so a job would run an hour off after
//! a change of daylight saving. It is used as a ticker in UTC only; when a schedule is due is decided here, in its zone.

use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::{Cron, JobType};
use tokio_cron_scheduler::{Job, JobScheduler};

use super::settings::{ScheduleSettings, parse_cron};
use crate::model::Timestamp;

impl ScheduleSettings {
    /// Reads both schedules; the error is every problem as a sentence that names its key.
    pub fn parse(&self) -> Result<Schedules, Vec<String>> {
        let mut problems = Vec::new();
        let zone = Tz::from_str(&self.time_zone).unwrap_or_else(|_| {
            problems.push(format!(
                "schedule.time_zone: \"{}\" is no time zone; give an IANA name such as \"Europe/Berlin\"",
                self.time_zone
            ));
            Tz::UTC
        });
        let mut read = |key: &str, text: &str| {
            Schedule::parse(text, zone).map_err(|problem| problems.push(format!("schedule.{key}: {problem}"))).ok()
        };
        match (read("reconcile", &self.reconcile), read("sweep", &self.sweep)) {
            (Some(reconcile), Some(sweep)) if problems.is_empty() => Ok(Schedules { reconcile, sweep }),
            _ => Err(problems),
        }
    }
}

/// Both schedules, read and checked.
#[derive(Clone, Debug)]
pub struct Schedules {
    /// Cycles.
    pub reconcile: Schedule,
    /// Full readings of both sides.
    pub sweep: Schedule,
}

/// One cron schedule in one zone.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
    zone: Tz,
}

impl Schedule {
    /// Reads a schedule; the error says what is wrong with it. Five fields mean second 0.
    pub fn parse(text: &str, zone: Tz) -> Result<Self, String> {
        let cron = parse_cron(text).map_err(|error| format!("\"{text}\" is no schedule: {error}"))?;
        let schedule = Schedule { cron, zone };
        match schedule.next_after(Timestamp::from(jiff::Timestamp::now())) {
            Some(_) => Ok(schedule),
            None => Err(format!("\"{text}\" never comes")),
        }
    }

    /// The first occurrence after `now`; `None` when there is none.
    ///
    /// In the hour that daylight saving repeats, a fixed time comes once and an interval goes on; a fixed time in the
    /// hour that it skips comes right after the gap.
    pub fn next_after(&self, now: Timestamp) -> Option<Timestamp> {
        let now = DateTime::from_timestamp_millis(now.millis())?;
        let next = match self.cron.determine_job_type() {
            JobType::FixedTime => self.next_fixed(now),
            JobType::IntervalWildcard => self.next_of_interval(now),
        }?;
        Some(Timestamp::from_millis(next.timestamp_millis()))
    }

    /// The parser's own search goes by local time, so in the second pass of a repeated hour it answers with the first
    /// pass, which is over: ask again from there.
    fn next_fixed(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut from = now.with_timezone(&self.zone);
        loop {
            from = self.cron.find_next_occurrence(&from, false).ok()?;
            if from > now {
                return Some(from.with_timezone(&Utc));
            }
        }
    }

    /// For the same reason an interval is searched with one offset at a time, from each change of offset to the next.
    fn next_of_interval(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let (mut from, mut is_inclusive) = (now, false);
        loop {
            let offset = self.offset_at(from);
            let next = self.cron.find_next_occurrence(&from.with_timezone(&offset), is_inclusive).ok()?;
            let next = next.with_timezone(&Utc);
            match self.offset_change(from, next) {
                None => return Some(next),
                Some(change) => (from, is_inclusive) = (change, true),
            }
        }
    }

    /// The first second in `(from, to]` whose offset differs from that of `from`, if `to` has another one.
    fn offset_change(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let before = self.offset_at(from);
        if self.offset_at(to) == before {
            return None;
        }
        let hour = TimeDelta::hours(1);
        let mut low = from;
        while low + hour < to && self.offset_at(low + hour) == before {
            low += hour;
        }
        let mut high = (low + hour).min(to);
        while high - low > TimeDelta::seconds(1) {
            let middle = low + TimeDelta::seconds((high - low).num_seconds() / 2);
            if self.offset_at(middle) == before { low = middle } else { high = middle }
        }
        // Offsets change at whole seconds, and `from` may be between two.
        DateTime::from_timestamp(high.timestamp(), 0)
    }

    fn offset_at(&self, at: DateTime<Utc>) -> chrono::FixedOffset {
        self.zone.offset_from_utc_datetime(&at.naive_utc()).fix()
    }

    /// How long nothing rings if one tick is lost: the time until the tick after next.
    pub fn silence_max(&self, now: Timestamp) -> Duration {
        self.next_after(now)
            .and_then(|next| self.next_after(next))
            .map_or(SILENCE_FALLBACK, |after_next| after_next.since(now))
    }
}

/// Used when a schedule has no second occurrence: look once a day all the same.
const SILENCE_FALLBACK: Duration = Duration::from_secs(24 * 3600);
/// The ticker may be this late without being dead.
const SILENCE_SLACK: Duration = Duration::from_secs(5);

/// When a schedule rings next. Pure: time comes in as an argument.
#[derive(Clone, Debug)]
pub struct Alarm {
    schedule: Schedule,
    last: Timestamp,
    next: Option<Timestamp>,
}

impl Alarm {
    /// An alarm that rings at the first occurrence after `now`.
    pub fn new(schedule: Schedule, now: Timestamp) -> Self {
        let next = schedule.next_after(now);
        Alarm { schedule, last: now, next }
    }

    /// Says whether to ring. Ticks that were missed (a suspended machine) count as one; a clock that was set back does
    /// not silence the alarm until the old time comes again.
    pub fn tick(&mut self, now: Timestamp) -> bool {
        let was_set_back = now < self.last;
        self.last = now;
        let is_due = !was_set_back && self.next.is_some_and(|next| next <= now);
        if is_due || was_set_back {
            self.next = self.schedule.next_after(now);
        }
        is_due
    }
}

/// Both alarms, shared between the ticker, the loop and a reload.
#[derive(Clone, Debug)]
pub struct Alarms {
    both: Arc<Mutex<Both>>,
}

#[derive(Debug)]
struct Both {
    reconcile: Alarm,
    sweep: Alarm,
}

/// What is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// A cycle.
    pub reconcile: bool,
    /// A sweep.
    pub sweep: bool,
}

impl Alarms {
    /// Alarms that ring at the first occurrences after `now`.
    pub fn new(schedules: Schedules, now: Timestamp) -> Self {
        Alarms { both: Arc::new(Mutex::new(Both::new(schedules, now))) }
    }

    /// Takes over other schedules.
    pub fn set(&self, schedules: Schedules, now: Timestamp) {
        *self.lock() = Both::new(schedules, now);
    }

    /// Says what is due, each occurrence once.
    pub fn tick(&self, now: Timestamp) -> Due {
        let mut both = self.lock();
        Due { reconcile: both.reconcile.tick(now), sweep: both.sweep.tick(now) }
    }

    /// How long nothing rings if one tick for a cycle is lost.
    pub fn silence_max(&self, now: Timestamp) -> Duration {
        self.lock().reconcile.schedule.silence_max(now) + SILENCE_SLACK
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Both> {
        // No one panics while holding it, and an alarm is whole after each call.
        self.both.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Both {
    fn new(schedules: Schedules, now: Timestamp) -> Self {
        Both { reconcile: Alarm::new(schedules.reconcile, now), sweep: Alarm::new(schedules.sweep, now) }
    }
}

/// A ticker that runs until it is shut down.
pub struct Ticker {
    scheduler: JobScheduler,
}

/// The ticker did not start.
#[derive(Debug, thiserror::Error)]
#[error("the scheduler did not start: {0}")]
pub struct TickerError(#[from] tokio_cron_scheduler::JobSchedulerError);

impl Ticker {
    /// Asks the alarms each second and calls `ring` with what is due. It must only ring: it runs on the ticker's task.
    pub async fn start(alarms: Alarms, ring: impl Fn(Due) + Send + Sync + 'static) -> Result<Self, TickerError> {
        let mut scheduler = JobScheduler::new().await?;
        let tick = Job::new("* * * * * *", move |_, _| {
            let due = alarms.tick(Timestamp::from(jiff::Timestamp::now()));
            if due != Due::default() {
                ring(due);
            }
        })?;
        scheduler.add(tick).await?;
        if let Err(error) = scheduler.start().await {
            // Without this the half-started tasks of the library would live on.
            let _ = scheduler.shutdown().await;
            return Err(error.into());
        }
        Ok(Ticker { scheduler })
    }

    /// Stops ticking.
    pub async fn shutdown(mut self) {
        if let Err(error) = self.scheduler.shutdown().await {
            tracing::debug!(%error, "the scheduler was gone already");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Alarm, Alarms, Due, Schedule, ScheduleSettings, Schedules};
    use crate::config::HumanDuration;
    use crate::model::Timestamp;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).expect("a time in a test")
    }

    fn schedule(text: &str, zone: &str) -> Schedule {
        Schedule::parse(text, zone.parse().expect("a zone in a test")).expect("a schedule in a test")
    }

    fn next(text: &str, zone: &str, now: &str) -> String {
        schedule(text, zone).next_after(at(now)).expect("it comes").to_string()
    }

    #[test]
    fn five_fields_mean_second_zero() {
        assert_eq!(next("*/5 * * * *", "UTC", "2026-11-18T08:01:10Z"), "2026-11-18T08:05:00Z");
        assert_eq!(next("30 */5 * * * *", "UTC", "2026-11-18T08:01:10Z"), "2026-11-18T08:05:30Z");
    }

    #[test]
    fn a_local_time_stays_local_across_daylight_saving() {
        // Berlin: +1 in winter, +2 from 2026-03-29 on.
        assert_eq!(next("0 30 3 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z"), "2026-03-28T02:30:00Z");
        assert_eq!(next("0 30 3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z"), "2026-03-29T01:30:00Z");
    }

    #[test]
    fn a_fixed_time_in_the_skipped_hour_still_comes_that_day() {
        let next = next("0 30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z");
        assert!(next.starts_with("2026-03-29T01:"), "{next}");
    }

    #[test]
    fn a_fixed_time_in_the_repeated_hour_comes_once() {
        let schedule = schedule("0 30 2 * * *", "Europe/Berlin");
        let first = schedule.next_after(at("2026-10-24T12:00:00Z")).expect("it comes");
        let second = schedule.next_after(first).expect("it comes");
        assert!(first.to_string().starts_with("2026-10-25T0"), "{first}");
        assert!(second.to_string().starts_with("2026-10-26T01:30"), "{second}");
    }

    #[test]
    fn every_minute_means_every_minute_also_when_an_hour_is_repeated_or_skipped() {
        for day in ["2026-10-24T23:00:00Z", "2026-03-28T23:00:00Z"] {
            let schedule = schedule("0 * * * * *", "Europe/Berlin");
            let mut now = at(day);
            for _ in 0..300 {
                let next = schedule.next_after(now).expect("it comes");
                assert_eq!(next.since(now).as_secs(), 60, "after {now}");
                now = next;
            }
        }
    }

    #[test]
    fn in_the_second_pass_of_a_repeated_hour_nothing_is_due_that_is_over() {
        // 02:40 for the second time; 02:30 and 02:50 were in the first pass, the fixed time comes tomorrow.
        let now = "2026-10-25T01:40:00Z";
        assert_eq!(next("0 50 2 * * *", "Europe/Berlin", now), "2026-10-26T01:50:00Z");
        assert_eq!(next("0 */30 * * * *", "Europe/Berlin", now), "2026-10-25T02:00:00Z");
        assert_eq!(next("0 */10 2 * * *", "Europe/Berlin", now), "2026-10-25T01:50:00Z");
    }

    #[test]
    fn a_search_that_crosses_a_change_between_two_seconds_lands_on_a_whole_one() {
        let now = Timestamp::from_millis(at("2026-03-29T00:59:30Z").millis() + 250);
        let next = schedule("0 * * * * *", "Europe/Berlin").next_after(now);
        assert_eq!(next, Some(at("2026-03-29T01:00:00Z")));
    }

    #[test]
    fn a_missed_tick_is_not_made_up() {
        let mut alarm = Alarm::new(schedule("0 * * * * *", "UTC"), at("2026-11-18T08:00:30Z"));
        assert!(!alarm.tick(at("2026-11-18T08:00:59Z")));
        assert!(alarm.tick(at("2026-11-18T08:01:00Z")));
        assert!(!alarm.tick(at("2026-11-18T08:01:01Z")));
        assert!(alarm.tick(at("2026-11-18T11:00:05Z")), "three hours of sleep ring once");
        assert!(!alarm.tick(at("2026-11-18T11:00:06Z")));
        assert!(alarm.tick(at("2026-11-18T11:01:00Z")));
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_silence_the_alarm() {
        let mut alarm = Alarm::new(schedule("0 * * * * *", "UTC"), at("2026-11-18T08:00:30Z"));
        assert!(!alarm.tick(at("2026-11-18T06:00:30Z")));
        assert!(alarm.tick(at("2026-11-18T06:01:00Z")));
    }

    #[test]
    fn a_change_of_schedules_counts_from_now() {
        let schedules =
            |reconcile| Schedules { reconcile: schedule(reconcile, "UTC"), sweep: schedule("0 30 3 * * *", "UTC") };
        let alarms = Alarms::new(schedules("0 0 * * * *"), at("2026-11-18T03:29:00Z"));
        assert_eq!(alarms.silence_max(at("2026-11-18T03:29:00Z")).as_secs(), 31 * 60 + 3600 + 5);
        alarms.set(schedules("0 */5 * * * *"), at("2026-11-18T03:29:10Z"));
        assert_eq!(alarms.tick(at("2026-11-18T03:29:59Z")), Due::default());
        assert_eq!(alarms.tick(at("2026-11-18T03:30:00Z")), Due { reconcile: true, sweep: true });
        assert_eq!(alarms.tick(at("2026-11-18T03:35:00Z")), Due { reconcile: true, sweep: false });
    }

    #[test]
    fn every_problem_of_the_settings_is_told_at_once() {
        let settings = ScheduleSettings {
            reconcile: "* * *".into(),
            sweep: "0 0 0 31 2 *".into(),
            time_zone: "Berlin".into(),
            sweep_on_start_after: HumanDuration::default(),
        };
        let problems = settings.parse().expect_err("three problems");
        assert_eq!(problems.len(), 3, "{problems:?}");
        for key in ["schedule.reconcile", "schedule.sweep", "schedule.time_zone"] {
            assert!(problems.iter().any(|problem| problem.starts_with(key)), "{key} in {problems:?}");
        }
        let good = ScheduleSettings { reconcile: "* * * * *".into(), sweep: "@daily".into(), ..settings };
        assert!(ScheduleSettings { time_zone: "Europe/Berlin".into(), ..good }.parse().is_ok());
    }
}
