//! Durations as people write them: `"15m"`, `"1h 30m"`, `"2d"`, `"PT5M"`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration read from the configuration. Days count 24 hours, weeks seven days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(Duration);

impl HumanDuration {
    /// From whole seconds.
    pub const fn from_seconds(seconds: u64) -> Self {
        HumanDuration(Duration::from_secs(seconds))
    }

    /// From whole milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        HumanDuration(Duration::from_millis(millis))
    }

    /// As the standard type.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Reads a duration; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = "expected a duration such as \"30s\", \"15m\", \"1h 30m\" or \"2d\"";
        let mut hours: u64 = 0;
        let mut rest = String::new();
        for word in text.split_whitespace() {
            let unit = word.trim_start_matches(|letter: char| letter.is_ascii_digit());
            let number = &word[..word.len() - unit.len()];
            let factor = match unit {
                "d" | "day" | "days" => 24,
                "w" | "week" | "weeks" => 24 * 7,
                _ => {
                    rest.push_str(word);
                    rest.push(' ');
                    continue;
                }
            };
            let count: u64 = number.parse().map_err(|_| expected.to_owned())?;
            hours =
                count.checked_mul(factor).and_then(|more| hours.checked_add(more)).ok_or("the duration is too long")?;
        }
        let mut total = Duration::from_secs(hours.checked_mul(3600).ok_or("the duration is too long")?);
        if !rest.trim().is_empty() {
            let span: jiff::SignedDuration = rest.trim().parse().map_err(|_| expected.to_owned())?;
            let part = Duration::try_from(span).map_err(|_| "a duration cannot be negative".to_owned())?;
            total = total.checked_add(part).ok_or("the duration is too long")?;
        } else if text.trim().is_empty() {
            return Err(expected.to_owned());
        }
        Ok(HumanDuration(total))
    }
}

impl schemars::JsonSchema for HumanDuration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        // Loose on purpose: what is a duration is decided by `parse`.
        schemars::json_schema!({ "type": "string", "pattern": "^\\s*[0-9Pp][0-9A-Za-zµ .,:]*$" })
    }
}

impl std::fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.0.as_secs();
        match self.0.subsec_nanos() {
            0 => {}
            nanos if nanos % 1_000_000 == 0 => return write!(f, "{}ms", self.0.as_millis()),
            _ => return write!(f, "{}ns", self.0.as_nanos()),
        }
        match seconds {
            0 => f.write_str("0s"),
            _ if seconds.is_multiple_of(86_400) => write!(f, "{}d", seconds / 86_400),
            _ if seconds.is_multiple_of(3600) => write!(f, "{}h", seconds / 3600),
            _ if seconds.is_multiple_of(60) => write!(f, "{}m", seconds / 60),
            _ => write!(f, "{seconds}s"),
        }
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        HumanDuration::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::HumanDuration;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("0s", 0),
            ("30s", 30),
            ("15m", 900),
            ("1h 30m", 5400),
            ("2d", 172_800),
            ("1w", 604_800),
            ("1d 6h", 108_000),
            ("PT5M", 300),
            ("72h", 259_200),
        ] {
            assert_eq!(HumanDuration::parse(text), Ok(HumanDuration::from_seconds(seconds)), "{text}");
        }
    }

    #[test]
    fn a_printed_duration_reads_back_the_same() {
        for (text, printed) in [
            ("500ms", "500ms"),
            ("1s 500ms", "1500ms"),
            ("1d 1ms", "86400001ms"),
            ("1500us", "1500000ns"),
            ("90s", "90s"),
            ("60m", "1h"),
            ("2w", "14d"),
        ] {
            let duration = HumanDuration::parse(text).expect("it is a duration");
            assert_eq!(duration.to_string(), printed);
            assert_eq!(HumanDuration::parse(printed), Ok(duration), "{printed}");
        }
        assert_eq!(HumanDuration::parse("500ms"), Ok(HumanDuration::from_millis(500)));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "soon", "5", "-5m", "99999999999999999999d", "d", "18446744073709551615w"] {
            assert!(HumanDuration::parse(text).is_err(), "{text}");
        }
    }
}
