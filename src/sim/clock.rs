//! The world's own clock: paused for histories, running for the demonstration.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use crate::model::Timestamp;
use crate::ports::Clock;

/// A clock that the world and its clients share. Clones show the same time.
#[derive(Clone, Debug)]
pub struct SimClock {
    /// Milliseconds since the epoch when paused, else the offset to what it goes by.
    millis: Arc<AtomicI64>,
    pace: Pace,
}

/// What a clock goes by.
#[derive(Clone, Copy, Debug)]
enum Pace {
    Paused,
    Wall,
    /// Since this instant.
    Runtime(tokio::time::Instant),
}

impl SimClock {
    /// A clock that stands still until it is advanced; `sleep` advances it.
    pub fn paused(at: Timestamp) -> Self {
        SimClock { millis: Arc::new(AtomicI64::new(at.millis())), pace: Pace::Paused }
    }

    /// A clock that runs with the wall clock; it can still be pushed forward.
    pub fn running() -> Self {
        SimClock { millis: Arc::new(AtomicI64::new(0)), pace: Pace::Wall }
    }

    /// A clock that shows `at` now and goes with tokio's: when that is paused, hours of waiting pass in no time, and tasks
    /// that wait at once wait together. It is made inside the runtime.
    pub fn of_runtime(at: Timestamp) -> Self {
        let pace = Pace::Runtime(tokio::time::Instant::now());
        SimClock { millis: Arc::new(AtomicI64::new(at.millis())), pace }
    }

    /// The current instant.
    pub fn at(&self) -> Timestamp {
        let millis = self.millis.load(Ordering::Relaxed);
        let passed = match self.pace {
            Pace::Paused => 0,
            Pace::Wall => jiff::Timestamp::now().as_millisecond(),
            Pace::Runtime(start) => i64::try_from(start.elapsed().as_millis()).unwrap_or(i64::MAX),
        };
        Timestamp::from_millis(millis.saturating_add(passed))
    }

    /// Moves the clock forward.
    pub fn advance(&self, duration: Duration) {
        self.millis.fetch_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

#[async_trait]
impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.at()
    }

    /// On a paused clock the time passes at once.
    async fn sleep(&self, duration: Duration) {
        match self.pace {
            Pace::Wall | Pace::Runtime(_) => tokio::time::sleep(duration).await,
            Pace::Paused => {
                self.advance(duration);
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Ticks of 100 ns since the epoch: the precision of both services' stamps.
pub(crate) type Ticks = i64;

/// The first tick of an instant.
pub(crate) fn ticks_of(at: Timestamp) -> Ticks {
    at.millis().saturating_mul(10_000)
}

/// Prints ticks as the referrals API does: up to seven digits, trailing zeros dropped.
pub(crate) fn print_ticks(ticks: Ticks) -> String {
    let whole = jiff::Timestamp::from_second(ticks.div_euclid(10_000_000)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let fraction = ticks.rem_euclid(10_000_000);
    let text = whole.strftime("%Y-%m-%dT%H:%M:%S");
    if fraction == 0 {
        return format!("{text}Z");
    }
    let digits = format!("{fraction:07}");
    format!("{text}.{}Z", digits.trim_end_matches('0'))
}

/// Prints an instant in whole seconds, as Dataverse does.
pub(crate) fn print_seconds(at: Timestamp) -> String {
    print_ticks(at.millis().div_euclid(1000).saturating_mul(10_000_000))
}

/// Reads a stamp of either service into ticks; a bare date is its midnight.
pub(crate) fn read_ticks(text: &str) -> Option<Ticks> {
    let instant = match text.parse::<jiff::Timestamp>() {
        Ok(instant) => instant,
        Err(_) => {
            let date = text.parse::<jiff::civil::Date>().ok()?;
            if text.len() != 10 {
                return None;
            }
            date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp()
        }
    };
    i64::try_from(instant.as_nanosecond() / 100).ok()
}

/// Prints an instant for a `Date` header.
pub(crate) fn print_http_date(at: Timestamp) -> String {
    at.to_jiff().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Reads a `Date` header.
pub(crate) fn read_http_date(text: &str) -> Option<Timestamp> {
    let time = jiff::fmt::strtime::parse("%a, %d %b %Y %H:%M:%S GMT", text).ok()?.to_datetime().ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().into())
}

/// Reads `Retry-After`, which is seconds or a date, as the instant when it ends.
pub(crate) fn read_retry_after(text: &str, now: Timestamp) -> Option<Timestamp> {
    match text.parse().map(Duration::from_secs) {
        Ok(wait) => Some(now.plus(wait)),
        Err(_) => read_http_date(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_drop_trailing_zeros_and_read_back() {
        let at = read_ticks("2026-11-19T09:00:00.52004Z").expect("a stamp");
        assert_eq!(print_ticks(at), "2026-11-19T09:00:00.52004Z");
        assert_eq!(print_ticks(read_ticks("2026-11-01T00:00:00Z").expect("a stamp")), "2026-11-01T00:00:00Z");
    }

    #[tokio::test]
    async fn sleeping_on_a_paused_clock_passes_the_time_at_once() {
        let clock = SimClock::paused(Timestamp::from_seconds(10));
        clock.sleep(Duration::from_secs(3600)).await;
        assert_eq!(clock.now(), Timestamp::from_seconds(3610));
    }

    #[tokio::test(start_paused = true)]
    async fn two_who_sleep_on_the_clock_of_the_runtime_sleep_at_the_same_time() {
        let clock = SimClock::of_runtime(Timestamp::from_seconds(10));
        tokio::join!(clock.sleep(Duration::from_secs(60)), clock.sleep(Duration::from_secs(90)));
        assert_eq!(clock.now(), Timestamp::from_seconds(100));
    }
}
