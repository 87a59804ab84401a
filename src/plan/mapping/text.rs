//! Text as both services can hold it: cleaned, measured in UTF-16 units, cut where a person would cut.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use unicode_segmentation::UnicodeSegmentation;

/// Stands for the part of a text that did not fit.
pub const ELLIPSIS: char = '…';

/// Brings text into its canonical form: NFC, trimmed, line feeds only, no control characters but line feed and tab.
///
/// Applying it again changes nothing.
pub fn clean(text: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~' | b'\n' | b'\t');
    if text.bytes().all(is_plain) {
        return Cow::Borrowed(text.trim_ascii());
    }
    if !text.chars().any(|letter| letter.is_control() && !matches!(letter, '\n' | '\t')) {
        let trimmed = text.trim();
        if is_nfc_quick(trimmed.chars()) == IsNormalized::Yes {
            return Cow::Borrowed(trimmed);
        }
    }
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    // Control characters go before composing: dropping one can bring a letter and its accent together.
    let composed: String =
        lines.chars().filter(|&letter| matches!(letter, '\n' | '\t') || !letter.is_control()).nfc().collect();
    Cow::Owned(composed.trim().to_owned())
}

/// Decodes the five XML entities, once: `&amp;lt;` becomes `&lt;` (partner-center §4 row 15).
pub fn decode_entities(text: &str) -> Cow<'_, str> {
    const ENTITIES: [(&str, char); 5] =
        [("&amp;", '&'), ("&lt;", '<'), ("&gt;", '>'), ("&quot;", '"'), ("&apos;", '\'')];
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        decoded.push_str(&rest[..at]);
        rest = &rest[at..];
        match ENTITIES.iter().find(|(entity, _)| rest.starts_with(entity)) {
            Some((entity, letter)) => {
                decoded.push(*letter);
                rest = &rest[entity.len()..];
            }
            None => {
                decoded.push('&');
                rest = &rest[1..];
            }
        }
    }
    decoded.push_str(rest);
    Cow::Owned(decoded)
}

/// The length of a text as the CRM counts it: UTF-16 code units (dataverse §2.1).
pub fn units(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().map(char::len_utf16).sum() }
}

/// Cuts a text to at most `units_max` units: whole graphemes and an ellipsis. `None` when it fits as it is.
pub fn cut(text: &str, units_max: usize) -> Option<String> {
    if text.len() <= units_max || units(text) <= units_max {
        return None;
    }
    let Some(room) = units_max.checked_sub(ELLIPSIS.len_utf16()) else {
        return Some(String::new());
    };
    let mut used = 0;
    let mut end = 0;
    for grapheme in text.graphemes(true) {
        used += units(grapheme);
        if used > room {
            break;
        }
        end += grapheme.len();
    }
    let mut kept = text[..end].trim_end().to_owned();
    kept.push(ELLIPSIS);
    Some(kept)
}

/// Makes a text fit: a number of a phone first loses its spaces, everything else is cut. True when something was lost.
pub fn fit(text: &str, units_max: Option<usize>) -> (Cow<'_, str>, bool) {
    let Some(units_max) = units_max else {
        return (Cow::Borrowed(text), false);
    };
    if text.len() > units_max && is_phone_number(text) {
        let dense: String = text.chars().filter(|letter| !letter.is_whitespace()).collect();
        if units(&dense) <= units_max {
            return (Cow::Owned(dense), false);
        }
    }
    match cut(text, units_max) {
        Some(kept) => (Cow::Owned(kept), true),
        None => (Cow::Borrowed(text), false),
    }
}

/// True when a lead's text looks like one that was cut to fit into `units_max` units.
pub fn looks_cut(text: &str, units_max: Option<usize>) -> bool {
    text.ends_with(ELLIPSIS) && units_max.is_some_and(|units_max| units(text) * 2 > units_max)
}

fn is_phone_number(text: &str) -> bool {
    text.chars().any(|letter| letter.is_ascii_digit())
        && text.chars().all(|letter| letter.is_ascii_digit() || letter.is_whitespace() || "+-()./x".contains(letter))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_composed_trimmed_and_freed_of_control_characters() {
        assert_eq!(clean("  a\r\nb\rc\u{0}\u{7}\td \u{85}"), "a\nb\nc\td");
        assert_eq!(clean("e\u{301}"), "é");
        assert_eq!(clean("e\u{1}\u{301}"), "é");
        assert_eq!(clean("한국"), "한국");
    }

    #[test]
    fn entities_are_decoded_once() {
        assert_eq!(decode_entities("Tailspin Oil &amp; Gas"), "Tailspin Oil & Gas");
        assert_eq!(decode_entities("&amp;lt; &lt;&gt;&quot;&apos; & &nbsp; &"), "&lt; <>\"' & &nbsp; &");
    }

    #[test]
    fn korean_is_cut_between_syllables_also_when_spelled_in_parts() {
        assert_eq!(cut("가나다라마", 5), None);
        assert_eq!(cut("가나다라마", 4).as_deref(), Some("가나다…"));
        let spelled = "\u{1100}\u{1161}\u{11a8}\u{1102}\u{1161}";
        assert_eq!(cut(spelled, 4).as_deref(), Some("\u{1100}\u{1161}\u{11a8}…"));
        assert_eq!(cut(spelled, 3).as_deref(), Some("…"));
    }

    #[test]
    fn an_emoji_family_stays_together_or_goes() {
        let family = "👨‍👩‍👧‍👦";
        assert_eq!(units(family), 11);
        let text = format!("a{family}b");
        assert_eq!(cut(&text, 13), None);
        assert_eq!(cut(&text, 12).as_deref(), Some("a…"));
        assert_eq!(cut(&format!("{text}cd"), 14).as_deref(), Some(format!("{text}…").as_str()));
        assert_eq!(cut("😀😀😀", 5).as_deref(), Some("😀😀…"));
        assert_eq!(cut("😀😀😀", 4).as_deref(), Some("😀…"));
    }

    #[test]
    fn the_smallest_limits_hold() {
        assert_eq!(cut("ab", 1).as_deref(), Some("…"));
        assert_eq!(cut("ab", 0).as_deref(), Some(""));
        assert_eq!(cut("", 0), None);
    }

    #[test]
    fn a_phone_number_loses_its_spaces_before_its_digits() {
        assert_eq!(fit("+49 (0) 89 1234 56789 0", Some(20)), (Cow::from("+49(0)891234567890"), false));
        assert_eq!(fit("+49 89 12 34 56", Some(20)), (Cow::from("+49 89 12 34 56"), false));
        assert_eq!(fit("twelve 12 letters", Some(10)), (Cow::from("twelve 12…"), true));
    }

    proptest! {
        #[test]
        fn cleaning_twice_is_cleaning_once(text in any::<String>()) {
            let once = clean(&text).into_owned();
            prop_assert_eq!(clean(&once), once.as_str());
        }

        #[test]
        fn cleaning_mixed_controls_and_accents_twice_is_cleaning_once(text in "[ae\\r\\n\\t \u{1}\u{301}\u{323}\u{1100}\u{1161}\u{2000}\u{fb01}&;]{0,12}") {
            let once = clean(&text).into_owned();
            prop_assert_eq!(clean(&once), once.as_str());
        }

        #[test]
        fn a_cut_text_fits_and_stays_clean(text in any::<String>(), units_max in 0usize..40) {
            let text = clean(&text).into_owned();
            let (kept, is_cut) = fit(&text, Some(units_max));
            prop_assert!(units(&kept) <= units_max);
            prop_assert_eq!(clean(&kept), kept.as_ref());
            if !is_cut && units(&text) <= units_max {
                prop_assert_eq!(kept.as_ref(), text.as_str());
            }
        }
    }
}
