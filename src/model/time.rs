//! Instants as both services write them, read leniently.

use serde::{Deserialize, Serialize};

/// An instant in UTC. Milliseconds since 1970-01-01T00:00:00Z; 8 bytes in the ledger at most.
///
/// Milliseconds suffice: Dataverse keeps whole seconds and a referral's version is its eTag, never its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The beginning of the Unix epoch.
    pub const EPOCH: Timestamp = Timestamp(0);

    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Timestamp(millis)
    }

    /// From whole seconds since the epoch.
    pub const fn from_seconds(seconds: i64) -> Self {
        Timestamp(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// This instant moved forward by `duration`, saturating.
    pub fn plus(self, duration: std::time::Duration) -> Self {
        Timestamp(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This instant moved back by `duration`, saturating.
    pub fn minus(self, duration: std::time::Duration) -> Self {
        Timestamp(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this instant is; zero when it is not later.
    pub fn since(self, earlier: Timestamp) -> std::time::Duration {
        std::time::Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Reads RFC 3339 with any number of fractional digits, a zone-less stamp as UTC, and a plain date as its midnight.
    ///
    /// The .NET minimum and maximum (`0001-01-01…`, `9999-12-31…`) mean "none" and give `None`, as does anything that
    /// is no date (partner-center §4 rows 43, 44).
    pub fn parse(text: &str) -> Option<Timestamp> {
        let text = text.trim();
        if text.starts_with("0001-01-01") || text.starts_with("9999-12-31") {
            return None;
        }
        if let Ok(instant) = text.parse::<jiff::Timestamp>() {
            return Some(Timestamp(instant.as_millisecond()));
        }
        let utc = jiff::tz::TimeZone::UTC;
        if let Ok(date_time) = text.parse::<jiff::civil::DateTime>() {
            return Some(Timestamp(date_time.to_zoned(utc).ok()?.timestamp().as_millisecond()));
        }
        let date = text.parse::<jiff::civil::Date>().ok()?;
        Some(Timestamp(date.to_zoned(utc).ok()?.timestamp().as_millisecond()))
    }

    /// The same instant as a `jiff` timestamp; saturates at the ends of its range.
    pub fn to_jiff(self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(if self.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        })
    }
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(instant: jiff::Timestamp) -> Self {
        Timestamp(instant.as_millisecond())
    }
}

/// Prints RFC 3339 in UTC, as both services accept it.
impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.to_jiff())
    }
}

#[cfg(test)]
mod tests {
    use super::Timestamp;

    #[test]
    fn stamps_with_seven_digits_without_zone_and_bare_dates_are_read() {
        let expected = Timestamp::parse("2026-11-18T08:15:30.123Z");
        assert!(expected.is_some());
        assert_eq!(Timestamp::parse("2026-11-18T08:15:30.1234567Z"), expected);
        assert_eq!(Timestamp::parse("2026-11-18T08:15:30.1234567+00:00"), expected);
        assert_eq!(Timestamp::parse("2026-11-18T08:15:30.1234567"), expected);
        assert_eq!(Timestamp::parse("2026-11-18"), Timestamp::parse("2026-11-18T00:00:00Z"));
    }

    #[test]
    fn the_ends_of_the_dotnet_calendar_and_nonsense_mean_none() {
        for text in ["9999-12-31T23:59:59.9999999Z", "0001-01-01T00:00:00", "soon", "", "2026-13-40"] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }
}
