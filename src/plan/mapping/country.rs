//! Countries of ISO 3166-1: two letters, three letters, a short English name.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// One line a country: alpha-2, alpha-3, name.
const COUNTRIES: &str = include_str!("countries.txt");

/// One country.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Country {
    /// Two letters.
    pub(super) alpha2: &'static str,
    /// Three letters.
    pub(super) alpha3: &'static str,
    /// Short English name.
    pub(super) name: &'static str,
}

/// All countries in the order of their two letters.
pub(super) fn all() -> impl Iterator<Item = Country> {
    COUNTRIES.lines().filter_map(|line| {
        let (alpha2, rest) = line.split_once(' ')?;
        let (alpha3, name) = rest.split_once(' ')?;
        Some(Country { alpha2, alpha3, name })
    })
}

/// The two letters of a country given by two or three letters in any case; unknown words only get capital letters.
pub(crate) fn alpha2(code: &str) -> String {
    static BY_ALPHA3: LazyLock<BTreeMap<&str, &str>> =
        LazyLock::new(|| all().map(|country| (country.alpha3, country.alpha2)).collect());
    let code = code.trim().to_uppercase();
    BY_ALPHA3.get(code.as_str()).map_or(code, |alpha2| (*alpha2).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_country_in_order() {
        let countries: Vec<_> = all().collect();
        assert_eq!(countries.len(), COUNTRIES.lines().count());
        assert_eq!(countries.len(), 249);
        assert!(countries.windows(2).all(|pair| pair[0].alpha2 < pair[1].alpha2));
        for country in countries {
            assert!(country.alpha2.len() == 2 && country.alpha3.len() == 3 && !country.name.is_empty());
        }
    }

    #[test]
    fn three_letters_become_two() {
        assert_eq!(alpha2("deu"), "DE");
        assert_eq!(alpha2(" kr "), "KR");
        assert_eq!(alpha2("XYZ"), "XYZ");
    }
}
