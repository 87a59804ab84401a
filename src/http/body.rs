//! The text of a body, as far as it can be read.

use std::borrow::Cow;

/// A body without the byte order mark that some gateways put before it (dataverse §4.3: `$count`).
pub fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// Reads JSON with or without a byte order mark. Foreign bytes and halves of letters cost a letter.
///
/// # Errors
///
/// When it is no JSON of this shape all the same.
pub fn json<T: serde::de::DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    let body = without_mark(body);
    serde_json::from_slice(body).or_else(|_| serde_json::from_str(&with_whole_letters(&String::from_utf8_lossy(body))))
}

/// JSON in which each half of a surrogate pair that stands alone is the replacement character. A text that is cut at a fixed
/// length may end in one; no string can hold it, and one letter is no reason to lose the rest.
pub fn with_whole_letters(json: &str) -> Cow<'_, str> {
    let bytes = json.as_bytes();
    let unit = |at: usize| {
        let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (mut mended, mut kept, mut at) = (String::new(), 0, 0);
    while let Some(next) = bytes.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == b'\\')) {
        at += next;
        at += match unit(at) {
            Some(0xD800..=0xDBFF) if matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) => 12,
            Some(0xD800..=0xDFFF) => {
                mended.push_str(&json[kept..at]);
                mended.push_str("\\ufffd");
                kept = at + 6;
                6
            }
            Some(_) => 6,
            None => 2,
        };
    }
    if kept == 0 {
        return Cow::Borrowed(json);
    }
    mended.push_str(&json[kept..]);
    Cow::Owned(mended)
}
