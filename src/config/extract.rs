//! Values into `Settings`, naming every key that is unknown or of the wrong type.
//!
//! serde stops at its first error. So each error is written down, the value taken out of its layer, and the rest tried
//! again with whatever lies below; the types themselves stay the only description of what is allowed.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use figment::error::{Actual, Kind};
use figment::value::{Dict, Value};

use super::key::{KeyPath, is_secret_name};
use super::layer::{Layers, Part};
use super::problem::{Draft, Origin, Problems, Severity};
use super::{Settings, Sources};

/// What came of reading the layers.
pub(super) struct Extracted {
    /// The settings, with the layer below in place of every value that was wrong.
    pub(super) settings: Settings,
    pub(super) drafts: Vec<Draft>,
    /// Keys about which something has been said: rules keep quiet about them.
    pub(super) reported: BTreeSet<KeyPath>,
    pub(super) is_cut: bool,
}

/// Reads the settings and finds all that stands in the way.
pub(super) fn extract(layers: &mut Layers) -> Extracted {
    let mut drafts = Vec::new();
    let mut reported = BTreeSet::new();
    loop {
        let merged = layers.merged();
        let wrong = match odd_value(&merged, defaults(), false) {
            Some(wrong) => wrong,
            None => match layers.figment().extract::<Settings>() {
                Err(error) => Wrong { path: KeyPath::new(error.path), what: error.kind },
                Ok(settings) => match serialized(&settings).and_then(|read| odd_value(&merged, &read, true)) {
                    Some(wrong) => wrong,
                    None => return Extracted { settings, drafts, reported, is_cut: false },
                },
            },
        };
        if drafts.len() >= Problems::COUNT_MAX {
            // Too many to go on one by one: the defaults alone are sound.
            return Extracted { settings: Settings::defaults(), drafts, reported, is_cut: true };
        }
        let (layer, found) = layers.owner(&wrong.path);
        if layers.is_built_in(layer) {
            // Nothing of the operator's is left to take out. A test makes sure that the defaults are sound by themselves.
            drafts.push(describe(layers, layer, &wrong, &mut reported));
            return Extracted { settings: Settings::defaults(), drafts, reported, is_cut: true };
        }
        if matches!(wrong.what, Kind::InvalidType(..)) && layers.guess(layer, &found) {
            continue;
        }
        let key = layers.as_written(layer, &wrong.path);
        // Half a table is left when one of its keys was taken out: that has been said.
        let is_aftermath = match &wrong.what {
            Kind::MissingField(name) => reported.contains(&key.child(name.as_ref())),
            _ => reported.iter().any(|said: &KeyPath| said.is_within(&key) && *said != key),
        };
        if !is_aftermath {
            drafts.push(describe(layers, layer, &wrong, &mut reported));
        }
        reported.insert(key);
        layers.remove(layer, &found);
    }
}

struct Wrong {
    path: KeyPath,
    what: Kind,
}

/// What serde takes and nobody means: a number for a word (its index: `writes = 2` must not mean "both"), and a list for
/// a table (its keys by position), a table for a word. With `is_whole` also
/// what was passed over in silence: the second of two alternatives.
fn odd_value(given: &Dict, expected: &Dict, is_whole: bool) -> Option<Wrong> {
    fn compare(given: &Value, expected: &Value, path: KeyPath, is_whole: bool) -> Option<Wrong> {
        let (found, wanted) = match (given, expected) {
            (Value::Dict(_, given), Value::Dict(_, expected)) => {
                return given.iter().find_map(|(key, value)| match expected.get(key) {
                    Some(expected) => compare(value, expected, path.child(key), is_whole),
                    None if is_whole => {
                        let what = "its neighbour says something else, and only one of them counts".to_owned();
                        Some(Wrong { path: path.child(key), what: Kind::Message(what) })
                    }
                    None => None,
                });
            }
            (Value::Array(_, given), Value::Array(_, expected)) => {
                let mut pairs = given.iter().zip(expected).enumerate();
                return pairs
                    .find_map(|(index, (value, read))| compare(value, read, path.child(index.to_string()), is_whole));
            }
            (Value::Num(_, number), Value::String(..)) => (number.to_actual(), "text"),
            (Value::Dict(..), Value::String(..)) => (Actual::Map, "text"),
            (Value::Array(..), Value::Dict(..)) => (Actual::Seq, "a map"),
            _ => return None,
        };
        Some(Wrong { path, what: Kind::InvalidType(found, wanted.to_owned()) })
    }
    let top = KeyPath::default();
    given.iter().find_map(|(key, value)| compare(value, expected.get(key)?, top.child(key), is_whole))
}

fn serialized(settings: &Settings) -> Option<Dict> {
    match Value::serialize(settings).ok()? {
        Value::Dict(_, dict) => Some(dict),
        _ => None,
    }
}

/// The defaults as values; keys without one are there and empty.
fn defaults() -> &'static Dict {
    static DEFAULTS: OnceLock<Dict> = OnceLock::new();
    DEFAULTS.get_or_init(|| serialized(&Settings::defaults()).expect("settings are a table"))
}

fn describe(layers: &mut Layers, layer: usize, wrong: &Wrong, reported: &mut BTreeSet<KeyPath>) -> Draft {
    let mut part = Part::Value;
    let mut key = layers.as_written(layer, &wrong.path);
    let place = layers.place_in(layer, &layers.owner(&wrong.path).1, part);
    let (message, remedy) = match &wrong.what {
        Kind::UnknownField(name, siblings) => {
            part = Part::Key;
            layers.mask(layer, &wrong.path);
            let nearest = nearest(&wrong.path, siblings);
            if let Some(nearest) = &nearest {
                reported.insert(nearest.clone());
            }
            if is_secret_name(name) {
                ("a secret does not belong into the configuration".to_owned(), secret_remedy(&nearest))
            } else {
                let remedy = match (&nearest, siblings.is_empty()) {
                    (Some(nearest), _) if matches!(place.origin, Origin::Environment { .. }) => {
                        format!("did you mean `{nearest}` ({})?", variable(nearest))
                    }
                    (Some(nearest), _) => format!("did you mean `{nearest}`?"),
                    (None, true) => "remove it".to_owned(),
                    (None, false) => format!("known here: {}", siblings.join(", ")),
                };
                ("unknown key".to_owned(), remedy)
            }
        }
        Kind::MissingField(name) => {
            part = Part::Key;
            let remedy = format!("write `{name}` into `{key}`");
            key = key.child(name.as_ref());
            ("missing".to_owned(), remedy)
        }
        Kind::UnknownVariant(given, words) => {
            let nearest = words
                .iter()
                .map(|word| (strsim::normalized_damerau_levenshtein(given, word), word))
                .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .map(|(_, word)| format!("did you mean \"{word}\"? "))
                .unwrap_or_default();
            let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
            ("unknown word".to_owned(), format!("{nearest}one of {}", quoted.join(", ")))
        }
        Kind::InvalidType(actual, expected) => (
            format!("expected {}, found {}", in_words(expected), kind_of(actual)),
            write_as(&wrong.path, in_words(expected)),
        ),
        Kind::InvalidValue(_, expected) if is_type_name(expected) => {
            ("out of range".to_owned(), write_as(&wrong.path, in_words(expected)))
        }
        Kind::InvalidValue(_, reason) => (format!("the value is not valid: {reason}"), remedy_for(&wrong.path)),
        Kind::Message(text) if text.contains("untagged enum") => {
            ("expected text or a whole number".to_owned(), "write text or a whole number".to_owned())
        }
        // Our own newtypes quote examples only; a URL's reader quotes the URL behind a colon, password and all.
        Kind::Message(text) if !wrong.path.is_secret() => {
            let reason = text.split(": \"").next().unwrap_or_default();
            let reason = match reason {
                _ if reason.starts_with("UUID") => "this is no GUID",
                _ if reason.contains("socket address") => "this is no address with a port",
                _ if reason.contains("URL") => "this is no absolute URL",
                _ => reason,
            };
            (reason.to_owned(), remedy_for(&wrong.path))
        }
        other => (kind_alone(other).to_owned(), remedy_for(&wrong.path)),
    };
    let place = match part {
        Part::Value => place,
        Part::Key => layers.place_in(layer, &layers.owner(&wrong.path).1, part),
    };
    Draft { severity: Severity::Error, key, message, remedy, place }
}

/// The environment variable that sets a key.
fn variable(key: &KeyPath) -> String {
    format!("{}{}", Sources::PREFIX, key.parts().join("__").to_uppercase())
}

fn secret_remedy(nearest: &Option<KeyPath>) -> String {
    let place = match nearest {
        Some(key) => format!(" and name it with `{key}`"),
        None => String::new(),
    };
    format!(
        "take it out, put the secret into a file, a systemd credential or an environment variable of its own{place}"
    )
}

/// What to write instead, with the default as an example.
fn write_as(path: &KeyPath, expected: &str) -> String {
    match super::show::default_of(path).filter(|_| path.last().parse::<usize>().is_err()) {
        Some(value) => format!("write {expected}, as in `{} = {value}`", path.last()),
        None => format!("write {expected}"),
    }
}

/// What to write instead, by the key's name.
fn remedy_for(path: &KeyPath) -> String {
    match path.last() {
        "url" | "base_url" | "webhook_api_url" | "authority" | "proxy" => {
            "write an absolute URL such as \"https://contoso.example\"".to_owned()
        }
        "user" | "team" => "write { user = \"ID\" } or { team = \"ID\" }, the ID being a GUID".to_owned(),
        "listen" => "write address and port such as \"127.0.0.1:8787\"".to_owned(),
        "namespace" => "write a GUID".to_owned(),
        _ => match super::show::default_of(path) {
            Some(value) => format!("write it as in `{} = {value}`", path.last()),
            None => "see the comment on it in config/default.toml".to_owned(),
        },
    }
}

/// A likeness from which on a name is proposed.
const LIKENESS_MIN: f64 = 0.6;

/// The known key that was probably meant: a sibling, the same name elsewhere, or (an environment variable with single
/// underscores) the same path joined otherwise.
fn nearest(path: &KeyPath, siblings: &[&str]) -> Option<KeyPath> {
    let name = path.last().to_lowercase();
    if name.is_empty() {
        return None;
    }
    let above = path.parent().unwrap_or_default();
    // A secret is best answered by the key that names its place.
    if is_secret_name(&name) {
        let place = siblings.iter().find(|sibling| **sibling == format!("{name}_file"));
        if let Some(place) = place {
            return Some(above.child(*place));
        }
    }
    let known = known_keys();
    // One underscore where the environment wants two.
    let joined = path.parts().join("_").to_lowercase();
    if let Some(same) = known.iter().find(|key| key.parts().join("_") == joined && *key != path) {
        return Some(same.clone());
    }
    let best = siblings
        .iter()
        .map(|sibling| (strsim::normalized_damerau_levenshtein(&name, sibling), sibling))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    if let Some((likeness, sibling)) = best
        && likeness >= LIKENESS_MIN
    {
        return Some(above.child(*sibling));
    }
    let mut elsewhere = known.iter().filter(|key| key.last() == name);
    if let (Some(only), None) = (elsewhere.next(), elsewhere.next()) {
        return Some(only.clone());
    }
    known
        .iter()
        .map(|key| (strsim::normalized_damerau_levenshtein(&joined, &key.parts().join("_")), key))
        .filter(|(likeness, _)| *likeness >= 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, key)| key.clone())
}

/// Every fixed key, with or without a default.
pub(super) fn known_keys() -> &'static BTreeSet<KeyPath> {
    static KNOWN: OnceLock<BTreeSet<KeyPath>> = OnceLock::new();
    fn collect(dict: &Dict, above: &KeyPath, known: &mut BTreeSet<KeyPath>) {
        for (key, value) in dict {
            let path = above.child(key);
            if let Value::Dict(_, inner) = value {
                collect(inner, &path, known);
            }
            known.insert(path);
        }
    }
    KNOWN.get_or_init(|| {
        let mut known = BTreeSet::new();
        collect(defaults(), &KeyPath::default(), &mut known);
        known
    })
}

fn is_type_name(expected: &str) -> bool {
    in_words(expected) != expected
}

/// serde's name of a type in words.
fn in_words(expected: &str) -> &str {
    match expected {
        "text" | "a string" | "string" | "a path" | "path string" | "a formatted UUID string" | "socket address" => {
            "text in quotes"
        }
        "a boolean" => "true or false",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "a sequence" => "a list in square brackets",
        "a map" => "a table",
        "string or map" | "enum" => "text in quotes",
        _ if expected.starts_with("struct ") => "a table",
        _ if expected.starts_with("enum ") || expected.starts_with("variant ") => "text in quotes",
        _ if expected.contains("URL") && expected.starts_with('a') => "a URL in quotes",
        _ => expected,
    }
}

/// What was found, never the value itself.
fn kind_of(actual: &Actual) -> &str {
    match actual {
        Actual::Bool(_) => "true or false",
        Actual::Unsigned(_) | Actual::Signed(_) => "a whole number",
        Actual::Float(_) => "a number with a fraction",
        Actual::Char(_) | Actual::Str(_) => "text",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        Actual::Unit | Actual::Option => "nothing",
        Actual::Bytes(_)
        | Actual::NewtypeStruct
        | Actual::Enum
        | Actual::UnitVariant
        | Actual::NewtypeVariant
        | Actual::TupleVariant
        | Actual::StructVariant
        | Actual::Other(_) => "something else",
    }
}

fn kind_alone(kind: &Kind) -> &'static str {
    match kind {
        Kind::InvalidLength(..) => "the list has the wrong length",
        Kind::DuplicateField(_) => "written twice",
        _ => "the value does not fit",
    }
}
