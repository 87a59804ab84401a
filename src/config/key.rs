//! The path of one key, and which keys hold secrets.

use std::fmt;

/// The path of a key from the top, for example `dataverse.auth.tenant_id`. List items are numbered from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPath(Vec<String>);

/// Longest part of a key that is printed, in characters; the rest is cut.
const PRINTED_CHARS_MAX: usize = 60;

impl KeyPath {
    /// From its parts.
    pub fn new(parts: Vec<String>) -> Self {
        KeyPath(parts)
    }

    /// Reads a dotted key as TOML writes it. The error says what is wrong, without quoting the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let keys =
            toml_edit::Key::parse(text).map_err(|_| "this is no key: write it like `brakes.closings_per_hour`")?;
        Ok(KeyPath(keys.iter().map(|key| key.get().to_owned()).collect()))
    }

    /// Its parts.
    pub fn parts(&self) -> &[String] {
        &self.0
    }

    /// The last part; empty for the top itself.
    pub fn last(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    /// The path one level up; `None` at the top.
    pub fn parent(&self) -> Option<KeyPath> {
        self.0.split_last().map(|(_, above)| KeyPath(above.to_vec()))
    }

    /// The path one level down.
    #[must_use]
    pub fn child(&self, part: impl Into<String>) -> KeyPath {
        let mut parts = self.0.clone();
        parts.push(part.into());
        KeyPath(parts)
    }

    /// True when `self` is `above` or lies below it.
    pub fn is_within(&self, above: &KeyPath) -> bool {
        self.0.starts_with(&above.0)
    }

    /// True when this key, or a table it lies in, is named like a secret.
    pub fn is_secret(&self) -> bool {
        // Whoever knows the URL of an alarm can post there.
        self.0.iter().any(|part| is_secret_name(part)) || self.0.iter().eq(["alarm", "url"])
    }
}

impl From<&str> for KeyPath {
    /// From a dotted path of plain parts.
    fn from(dotted: &str) -> Self {
        KeyPath(dotted.split('.').map(str::to_owned).collect())
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            let is_bare = !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            let cut: String = part.chars().take(PRINTED_CHARS_MAX).collect();
            let ellipsis = if cut.len() < part.len() { "…" } else { "" };
            match is_bare {
                true => write!(f, "{cut}{ellipsis}")?,
                false => write!(f, "\"{}{ellipsis}\"", cut.escape_debug())?,
            }
        }
        Ok(())
    }
}

/// True for names such as `client_secret`, `password` or `refresh_token`; false for keys that only say where the secret
/// is (`…_file`, `…_credential`, `…_environment`) or how long it lasts (`…_expires`).
pub fn is_secret_name(name: &str) -> bool {
    let name: String = name.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    let names_a_place = ["file", "credential", "environment", "expires"].iter().any(|suffix| name.ends_with(suffix));
    let words = ["secret", "password", "passwd", "passphrase", "token", "privatekey", "apikey", "credential"];
    !names_a_place && words.iter().any(|word| name.contains(word))
}

/// True for text that carries a password inside a URL, as in `http://user:password@proxy`.
pub fn has_url_password(text: &str) -> bool {
    text.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', '?', '#', ' ']).next().unwrap_or(rest);
        authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_name_and_places_are_not() {
        for secret in ["client_secret", "clientSecret", "PASSWORD", "refresh_token", "private_key", "api-key"] {
            assert!(is_secret_name(secret), "{secret}");
        }
        for place in
            ["client_secret_file", "client_secret_credential", "client_secret_expires", "password_file", "tenant_id"]
        {
            assert!(!is_secret_name(place), "{place}");
        }
        assert!(KeyPath::from("secrets.first").is_secret());
    }

    #[test]
    fn a_password_in_a_url_is_seen() {
        assert!(has_url_password("http://user:pass@proxy:3128/"));
        assert!(!has_url_password("http://proxy:3128/a:b@c"));
        assert!(!has_url_password("http://user@proxy"));
        assert!(!has_url_password("plain:text@here"));
    }

    #[test]
    fn keys_print_without_control_characters() {
        let key = KeyPath::new(vec!["a".to_owned(), "b c\u{1b}[31m".to_owned()]);
        assert_eq!(key.to_string(), "a.\"b c\\u{1b}[31m\"");
        assert_eq!(KeyPath::parse("a.\"b c\"").map(|key| key.parts().len()), Ok(2));
        assert!(KeyPath::parse("a..b").is_err());
    }
}
