//! The canonical form of a value: what two spellings of the same thing have in common (spec 4).
//!
//! The kind of the lead column decides. Applying it again changes nothing.

use std::borrow::Cow;
use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use rust_decimal::{Decimal, RoundingStrategy};
use serde_json::{Number, Value};

use super::text::{clean, decode_entities};
use crate::model::Timestamp;
use crate::ports::ColumnKind;

/// Decimal places of an amount whose currency is not known.
pub const PRECISION_DEFAULT: u32 = 2;

/// First year that the CRM can hold (dataverse dates are SQL Server's).
pub const YEAR_MIN: i16 = 1753;

/// Last year that means a date; the year after is .NET's way to say "never".
pub const YEAR_MAX: i16 = 9998;

/// Longest number that is read, in characters.
pub const NUMBER_LENGTH_MAX: usize = 64;

/// Why a value does not fit its column. Says nothing about the value itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Misfit {
    /// It is of another type than the column.
    WrongType,
    /// The number is out of range.
    OutOfRange,
    /// The choice has no such option.
    UnknownOption,
    /// The organization has no such currency: the amount goes with it.
    UnknownCurrency,
    /// An amount came without a currency.
    AmountWithoutCurrency,
    /// The template could not be evaluated within its limits.
    TemplateFailed,
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Misfit::WrongType => "the value has another type than the column",
            Misfit::OutOfRange => "the number is out of range",
            Misfit::UnknownOption => "the column has no such option",
            Misfit::UnknownCurrency => "the organization has no such currency",
            Misfit::AmountWithoutCurrency => "the amount has no currency",
            Misfit::TemplateFailed => "the template failed",
        })
    }
}

/// Brings one value into the canonical form of its column. `Ok(None)`: it says nothing.
///
/// | kind     | form                                                            |
/// |----------|-----------------------------------------------------------------|
/// | text     | NFC, trimmed, line feeds, entities decoded once; lists as sets   |
/// | money    | rounded to `precision`, no trailing zeros                        |
/// | date     | `YYYY-MM-DD` in `zone`; years out of range are no value          |
/// | instant  | whole seconds in UTC                                             |
/// | choice   | the option's number                                              |
/// | currency | three capital letters                                            |
pub fn canonical(kind: ColumnKind, value: &Value, precision: u32, zone: &TimeZone) -> Result<Option<Value>, Misfit> {
    if is_empty(value) {
        return Ok(None);
    }
    match kind {
        ColumnKind::Text => text(value),
        ColumnKind::Money => Ok(decimal(value)?.map(|amount| from_decimal(round(amount, precision)))),
        ColumnKind::Number => Ok(decimal(value)?.map(from_decimal)),
        ColumnKind::Integer => integer(value),
        ColumnKind::Choice => integer(value).map_err(|_| Misfit::UnknownOption),
        ColumnKind::Date => date(value, zone),
        ColumnKind::Instant => instant(value),
        ColumnKind::Boolean => boolean(value),
        ColumnKind::Currency => currency(value),
        ColumnKind::Other => Err(Misfit::WrongType),
    }
}

/// As [`canonical`], without a copy of what is in its form already: most text is.
pub fn canonical_of<'a>(
    kind: ColumnKind,
    value: Cow<'a, Value>,
    precision: u32,
    zone: &TimeZone,
) -> Result<Option<Cow<'a, Value>>, Misfit> {
    let is_in_form = match value.as_ref() {
        Value::String(text) => kind == ColumnKind::Text && is_clean(text),
        _ => false,
    };
    match is_in_form {
        true => Ok(Some(value)),
        false => Ok(canonical(kind, &value, precision, zone)?.map(Cow::Owned)),
    }
}

fn is_clean(text: &str) -> bool {
    let is_whole = |clean: Cow<'_, str>| matches!(clean, Cow::Borrowed(same) if same.len() == text.len());
    !text.is_empty() && !text.contains('&') && is_whole(clean(text))
}

/// True for null, blank text and empty containers.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The exact number in a canonical value.
pub fn to_decimal(value: &Value) -> Option<Decimal> {
    match value {
        Value::Number(number) => parse_decimal(number.as_str()),
        _ => None,
    }
}

/// A number as JSON, without trailing zeros and never with an exponent.
pub fn from_decimal(number: Decimal) -> Value {
    let number = if number.is_zero() { Decimal::ZERO } else { number.normalize() };
    if let (0, Ok(whole)) = (number.scale(), i64::try_from(number)) {
        return Value::from(whole);
    }
    number.to_string().parse::<Number>().map(Value::Number).unwrap_or(Value::Null)
}

fn round(amount: Decimal, precision: u32) -> Decimal {
    amount.round_dp_with_strategy(precision, RoundingStrategy::MidpointAwayFromZero)
}

fn parse_decimal(text: &str) -> Option<Decimal> {
    let text = text.trim();
    if text.len() > NUMBER_LENGTH_MAX {
        return None;
    }
    if text.contains(['e', 'E']) { Decimal::from_scientific(text).ok() } else { text.parse().ok() }
}

/// Numbers come as numbers or as text (partner-center §1.8 documents `"10000"`).
fn decimal(value: &Value) -> Result<Option<Decimal>, Misfit> {
    match value {
        Value::Number(number) => parse_decimal(number.as_str()).map(Some).ok_or(Misfit::OutOfRange),
        Value::String(text) => parse_decimal(text).map(Some).ok_or(Misfit::WrongType),
        _ => Err(Misfit::WrongType),
    }
}

fn integer(value: &Value) -> Result<Option<Value>, Misfit> {
    let Some(number) = decimal(value)? else {
        return Ok(None);
    };
    if !number.fract().is_zero() {
        return Err(Misfit::WrongType);
    }
    let whole = i32::try_from(number).map_err(|_| Misfit::OutOfRange)?;
    Ok(Some(Value::from(whole)))
}

fn text(value: &Value) -> Result<Option<Value>, Misfit> {
    let written = match value {
        Value::Array(items) => {
            let mut words = BTreeSet::new();
            for item in items {
                if let Some(word) = word(item)? {
                    words.insert(word);
                }
            }
            words.into_iter().collect::<Vec<_>>().join(", ")
        }
        single => word(single)?.unwrap_or_default(),
    };
    Ok(if written.is_empty() { None } else { Some(Value::String(written)) })
}

/// One scalar as clean text. In lists of codes the code stands in `id` (partner-center §1.6).
fn word(value: &Value) -> Result<Option<String>, Misfit> {
    match value {
        Value::Null => Ok(None),
        Value::String(raw) => {
            let word = match decode_entities(raw) {
                std::borrow::Cow::Borrowed(same) => clean(same).into_owned(),
                std::borrow::Cow::Owned(decoded) => clean(&decoded).into_owned(),
            };
            Ok(if word.is_empty() { None } else { Some(word) })
        }
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::Bool(claim) => Ok(Some(claim.to_string())),
        Value::Object(fields) => match fields.get("id").or_else(|| fields.get("name")) {
            Some(inner @ (Value::String(_) | Value::Number(_))) => word(inner),
            _ => Err(Misfit::WrongType),
        },
        Value::Array(_) => Err(Misfit::WrongType),
    }
}

fn date(value: &Value, zone: &TimeZone) -> Result<Option<Value>, Misfit> {
    let Value::String(text) = value else {
        return Err(Misfit::WrongType);
    };
    let text = text.trim();
    let plain = if text.len() == "YYYY-MM-DD".len() { text.parse::<jiff::civil::Date>().ok() } else { None };
    let day = match plain {
        Some(day) => day,
        None => match Timestamp::parse(text) {
            Some(instant) => instant.to_jiff().to_zoned(zone.clone()).date(),
            None if is_dotnet_end(text) => return Ok(None),
            None => return Err(Misfit::WrongType),
        },
    };
    Ok(is_sane(day.year()).then(|| Value::String(day.to_string())))
}

fn instant(value: &Value) -> Result<Option<Value>, Misfit> {
    let Value::String(text) = value else {
        return Err(Misfit::WrongType);
    };
    let Some(instant) = Timestamp::parse(text) else {
        return if is_dotnet_end(text.trim()) { Ok(None) } else { Err(Misfit::WrongType) };
    };
    let whole = Timestamp::from_seconds(instant.millis().div_euclid(1000));
    let year = whole.to_jiff().to_zoned(TimeZone::UTC).year();
    Ok(is_sane(year).then(|| Value::String(whole.to_string())))
}

fn is_dotnet_end(text: &str) -> bool {
    text.starts_with("0001-01-01") || text.starts_with("9999-12-31")
}

fn is_sane(year: i16) -> bool {
    (YEAR_MIN..=YEAR_MAX).contains(&year)
}

fn boolean(value: &Value) -> Result<Option<Value>, Misfit> {
    match value {
        Value::Bool(_) => Ok(Some(value.clone())),
        Value::String(text) if text.trim().eq_ignore_ascii_case("true") => Ok(Some(Value::Bool(true))),
        Value::String(text) if text.trim().eq_ignore_ascii_case("false") => Ok(Some(Value::Bool(false))),
        _ => Err(Misfit::WrongType),
    }
}

fn currency(value: &Value) -> Result<Option<Value>, Misfit> {
    let Value::String(text) = value else {
        return Err(Misfit::WrongType);
    };
    let code = text.trim().to_ascii_uppercase();
    if code.len() == 3 && code.bytes().all(|letter| letter.is_ascii_uppercase()) {
        Ok(Some(Value::String(code)))
    } else {
        Err(Misfit::UnknownCurrency)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check(kind: ColumnKind, value: Value, expected: Result<Option<Value>, Misfit>) {
        assert_eq!(canonical(kind, &value, 2, &TimeZone::UTC), expected, "{kind:?}");
    }

    fn number(text: &str) -> Value {
        serde_json::from_str(text).expect("a JSON number")
    }

    #[test]
    fn amounts_are_exact_and_have_one_spelling() {
        use ColumnKind::Money;
        for spelling in [number("25000"), number("25000.00"), number("2.5e4"), json!("25000"), json!(" 25000.000 ")] {
            check(Money, spelling, Ok(Some(json!(25000))));
        }
        check(Money, number("0.1"), Ok(Some(number("0.1"))));
        check(Money, number("9007199254740993.01"), Ok(Some(number("9007199254740993.01"))));
        check(Money, number("1.005"), Ok(Some(number("1.01"))));
        check(Money, number("-0.001"), Ok(Some(json!(0))));
        check(Money, json!("10,000"), Err(Misfit::WrongType));
        check(Money, number("1e400"), Err(Misfit::OutOfRange));
        check(Money, number("1e999999999999"), Err(Misfit::OutOfRange));
        check(Money, json!({"value": 1}), Err(Misfit::WrongType));
    }

    #[test]
    fn a_number_is_read_up_to_its_longest_spelling() {
        let zeros = |count: usize| json!(format!("1.{}", "0".repeat(count)));
        check(ColumnKind::Money, zeros(NUMBER_LENGTH_MAX - 2), Ok(Some(json!(1))));
        check(ColumnKind::Money, zeros(NUMBER_LENGTH_MAX - 1), Err(Misfit::WrongType));
    }

    #[test]
    fn an_amount_is_rounded_to_the_precision_of_its_currency() {
        let rounded = |places| canonical(ColumnKind::Money, &number("1234.5678"), places, &TimeZone::UTC);
        assert_eq!(rounded(0), Ok(Some(json!(1235))));
        assert_eq!(rounded(3), Ok(Some(number("1234.568"))));
    }

    #[test]
    fn date_times_are_cut_to_a_date_in_the_zone() {
        let berlin = TimeZone::get("Europe/Berlin").expect("a bundled zone");
        let late = json!("2027-01-31T23:30:00Z");
        assert_eq!(canonical(ColumnKind::Date, &late, 2, &berlin), Ok(Some(json!("2027-02-01"))));
        check(ColumnKind::Date, late, Ok(Some(json!("2027-01-31"))));
        check(ColumnKind::Date, json!("2027-01-31"), Ok(Some(json!("2027-01-31"))));
        check(ColumnKind::Date, json!("2027-01-31T00:00:00.1234567"), Ok(Some(json!("2027-01-31"))));
    }

    #[test]
    fn dates_that_mean_never_are_no_value() {
        for never in ["0001-01-01T00:00:00", "9999-12-31T23:59:59.9999999Z", "9999-12-31", "1752-12-31", "9999-06-01"] {
            check(ColumnKind::Date, json!(never), Ok(None));
        }
        check(ColumnKind::Date, json!("1753-01-01"), Ok(Some(json!("1753-01-01"))));
        check(ColumnKind::Date, json!("soon"), Err(Misfit::WrongType));
        check(ColumnKind::Instant, json!("9999-12-31T23:59:59Z"), Ok(None));
        check(ColumnKind::Instant, json!("2027-01-31T10:00:00.9Z"), Ok(Some(json!("2027-01-31T10:00:00Z"))));
    }

    #[test]
    fn a_list_is_a_sorted_set() {
        check(ColumnKind::Text, json!([{"id": "b"}, "a", {"id": "b"}, null, " "]), Ok(Some(json!("a, b"))));
        check(ColumnKind::Text, json!([]), Ok(None));
        check(ColumnKind::Text, json!({"x": 1}), Err(Misfit::WrongType));
    }

    #[test]
    fn whole_numbers_flags_and_currencies_have_one_form() {
        check(ColumnKind::Integer, json!("50"), Ok(Some(json!(50))));
        check(ColumnKind::Integer, number("50.0"), Ok(Some(json!(50))));
        check(ColumnKind::Integer, number("50.5"), Err(Misfit::WrongType));
        check(ColumnKind::Integer, number("5000000000"), Err(Misfit::OutOfRange));
        check(ColumnKind::Choice, json!("Partner"), Err(Misfit::UnknownOption));
        check(ColumnKind::Boolean, json!("True"), Ok(Some(json!(true))));
        check(ColumnKind::Boolean, json!(1), Err(Misfit::WrongType));
        check(ColumnKind::Currency, json!(" eur"), Ok(Some(json!("EUR"))));
        check(ColumnKind::Currency, json!("Euro"), Err(Misfit::UnknownCurrency));
        check(ColumnKind::Other, json!("x"), Err(Misfit::WrongType));
    }

    fn any_kind() -> impl Strategy<Value = ColumnKind> {
        use ColumnKind::*;
        prop::sample::select(vec![Text, Integer, Money, Number, Date, Instant, Choice, Boolean, Currency, Other])
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_its_own(kind in any_kind(), value in super::super::tests::support::any_json(), places in 0u32..6) {
            let zone = TimeZone::get("America/Sao_Paulo").expect("a bundled zone");
            if let Ok(Some(once)) = canonical(kind, &value, places, &zone) {
                // Entities are decoded once, when a value is read; so text with an ampersand is left out here.
                if !once.as_str().is_some_and(|text| text.contains('&')) {
                    prop_assert_eq!(canonical(kind, &once, places, &zone), Ok(Some(once)));
                }
            }
        }
    }
}
