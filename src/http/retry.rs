//! How long to wait before the next attempt: what the service asks for, else doubling with full jitter.

use std::time::Duration;

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};

use crate::model::Timestamp;

/// The longest part of a `Retry-After` window that is added at random, so that waiters do not come back as one (dataverse §6.1).
const JITTER_SHARE: f64 = 0.1;

/// The pause before attempt number `attempt` + 1 (1 is the first): at random between nothing and `first` doubled
/// `attempt` - 1 times, at most `longest`.
pub fn delay(attempt: u32, first: Duration, longest: Duration) -> Duration {
    let factor = 2u32.saturating_pow(attempt.saturating_sub(1));
    first.saturating_mul(factor).min(longest).mul_f64(rand::random_range(0.0..=1.0))
}

/// A window to wait out, made longer by up to a tenth.
pub fn spread(window: Duration) -> Duration {
    window.saturating_add(window.min(Duration::from_secs(3600)).mul_f64(rand::random_range(0.0..=JITTER_SHARE)))
}

/// How long `Retry-After` asks to wait, rounded up; `None` without a header that can be read.
///
/// A date is measured against the answer's own `Date`, so that a skewed local clock does not shorten the window.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        // Too many digits for a number is still a wish to wait long.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::from(u32::MAX))));
    }
    if let Ok(seconds) = text.parse::<f64>() {
        return (seconds >= 0.0 && seconds.is_finite()).then(|| Duration::from_secs(seconds.ceil() as u64));
    }
    let until = http_date(text)?;
    let from = date(headers).unwrap_or(now);
    Some(until.since(from))
}

/// The answer's `Date` header.
pub fn date(headers: &HeaderMap) -> Option<Timestamp> {
    http_date(headers.get(DATE)?.to_str().ok()?)
}

fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (http::HeaderName::from_static(name), http::HeaderValue::from_str(value).expect("a header value"))
            })
            .collect()
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_date() {
        let now = Timestamp::parse("2026-11-20T10:00:00Z").expect("a time");
        for (pairs, seconds) in [
            (vec![("retry-after", "30")], Some(30)),
            (vec![("retry-after", " 7 ")], Some(7)),
            (vec![("retry-after", "1.2")], Some(2)),
            (vec![("retry-after", "0")], Some(0)),
            (vec![("retry-after", "99999999999999999999999")], Some(u64::from(u32::MAX))),
            (vec![("retry-after", "Fri, 20 Nov 2026 10:01:30 GMT")], Some(90)),
            (vec![("retry-after", "Fri, 20 Nov 2026 09:00:00 GMT")], Some(0)),
            // The local clock is an hour ahead or behind: only the service's own clock counts.
            (
                vec![("retry-after", "Fri, 20 Nov 2026 09:01:00 GMT"), ("date", "Fri, 20 Nov 2026 09:00:00 GMT")],
                Some(60),
            ),
            (vec![("retry-after", "soon")], None),
            (vec![("retry-after", "-5")], None),
            (vec![("retry-after", "")], None),
            (vec![], None),
        ] {
            assert_eq!(retry_after(&headers(&pairs), now), seconds.map(Duration::from_secs), "{pairs:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_are_jittered() {
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(10));
        for (attempt, most) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (40, 10), (u32::MAX, 10)] {
            let seen: Vec<_> = (0..200).map(|_| delay(attempt, first, longest)).collect();
            assert!(seen.iter().all(|pause| *pause <= Duration::from_secs(most)), "attempt {attempt}");
            assert!(seen.iter().any(|pause| *pause > Duration::from_secs(most) / 2), "attempt {attempt}");
        }
    }

    #[test]
    fn a_window_is_only_ever_made_longer() {
        for window in [Duration::ZERO, Duration::from_secs(30), Duration::MAX] {
            assert!((0..100).all(|_| spread(window) >= window));
        }
        assert!((0..100).all(|_| spread(Duration::from_secs(30)) <= Duration::from_secs(33)));
    }
}
