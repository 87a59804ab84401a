//! How numbers, spans and instants are said to people, in commands, on the status page and in messages.

use crate::model::Timestamp;

/// `1 lead`, `1,200 leads`.
pub fn count(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", number_text(number), if number == 1 { "" } else { "s" })
}

/// `1,234,567`.
pub fn number_text(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `850 ms`, `1.8 s`, then as [`span`].
pub fn span_ms(millis: u64) -> String {
    match millis {
        0..1000 => format!("{millis} ms"),
        1000..60_000 => format!("{}.{} s", millis / 1000, millis % 1000 / 100),
        _ => span(millis / 1000),
    }
}

/// The two greatest units: `42 s`, `5 min 3 s`, `3 h 20 min`, `12 d 4 h`.
pub fn span(seconds: u64) -> String {
    let two = |great: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{great} {unit}"),
        _ => format!("{great} {unit} {small} {small_unit}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// `2026-11-18 08:15:30 UTC`.
pub fn instant(at: Timestamp) -> String {
    at.to_jiff().strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// `5 min 3 s ago`, `in 2 d`, `now`.
pub fn relative(at: Timestamp, now: Timestamp) -> String {
    match (now.since(at).as_secs(), at.since(now).as_secs()) {
        (0, 0) => "now".to_owned(),
        (0, ahead) => format!("in {}", span(ahead)),
        (ago, _) => format!("{} ago", span(ago)),
    }
}

#[cfg(test)]
mod tests {
    use super::{count, relative, span, span_ms};
    use crate::model::Timestamp;

    #[test]
    fn numbers_and_spans_are_said_like_this() {
        assert_eq!(count(1, "lead"), "1 lead");
        assert_eq!(count(1_234_567, "lead"), "1,234,567 leads");
        assert_eq!([span_ms(12), span_ms(1830), span_ms(61_000)], ["12 ms", "1.8 s", "1 min 1 s"]);
        assert_eq!([span(59), span(3600), span(12_060), span(1_051_200)], ["59 s", "1 h", "3 h 21 min", "12 d 4 h"]);
        let at = Timestamp::from_seconds;
        assert_eq!(
            [relative(at(10), at(15)), relative(at(15), at(10)), relative(at(5), at(5))],
            ["5 s ago", "in 5 s", "now"]
        );
    }
}
