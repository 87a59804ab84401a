//! The effective settings, as TOML or JSON, with secrets hidden and, on request, where each value comes from.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::OnceLock;

use figment::value::{Dict, Num, Value};

use super::key::{KeyPath, has_url_password};
use super::{DEFAULTS, Loaded, Origin, Settings};

/// What stands where a secret would.
pub const HIDDEN: &str = "***";

/// The settings as TOML, in the order of the defaults. `with_origin` adds a comment to each key.
pub fn to_toml(loaded: &Loaded, with_origin: bool) -> String {
    let mut text = String::new();
    let order = order_of_defaults();
    write_table(&mut text, &values(&loaded.settings), &KeyPath::default(), &order, &mut |key| {
        with_origin.then(|| loaded.origin(key).to_string())
    });
    text
}

/// The settings as JSON. `with_origin` gives an object of `settings` and `origins`, the latter by dotted key.
pub fn to_json(loaded: &Loaded, with_origin: bool) -> serde_json::Value {
    let values = Value::from(values(&loaded.settings));
    let settings = json(&values);
    if !with_origin {
        return settings;
    }
    let mut origins = serde_json::Map::new();
    collect_origins(loaded, &values, &KeyPath::default(), &mut origins);
    serde_json::json!({ "settings": settings, "origins": origins })
}

impl Loaded {
    /// Where each key stands that somebody has set, in words: file, line and column, or the variable or flag.
    pub fn places(&self) -> BTreeMap<String, String> {
        let mut places = BTreeMap::new();
        collect_places(self, &Value::from(values(&self.settings)), &KeyPath::default(), &mut places);
        places
    }
}

fn collect_places(loaded: &Loaded, value: &Value, path: &KeyPath, places: &mut BTreeMap<String, String>) {
    match (value, loaded.origin(path)) {
        (Value::Dict(_, dict), _) => {
            dict.iter().for_each(|(key, value)| collect_places(loaded, value, &path.child(key), places));
        }
        (_, Origin::BuiltIn) => {}
        (_, origin) => {
            places.insert(path.to_string(), origin.to_string());
        }
    }
}

fn collect_origins(
    loaded: &Loaded,
    value: &Value,
    path: &KeyPath,
    origins: &mut serde_json::Map<String, serde_json::Value>,
) {
    match value {
        Value::Dict(_, dict) => {
            for (key, value) in dict {
                collect_origins(loaded, value, &path.child(key), origins);
            }
        }
        _ => {
            let origin = serde_json::to_value(loaded.origin(path)).unwrap_or_default();
            origins.insert(path.to_string(), origin);
        }
    }
}

/// The default of one key as TOML, where it is a plain value.
pub(super) fn default_of(path: &KeyPath) -> Option<String> {
    static VALUES: OnceLock<Dict> = OnceLock::new();
    match super::layer::find(VALUES.get_or_init(|| values(&Settings::defaults())), path.parts())? {
        Value::Dict(..) => None,
        value => Some(toml(value).to_string()),
    }
}

/// All values that are set, secrets hidden.
fn values(settings: &Settings) -> Dict {
    let serialized = Value::serialize(settings).expect("settings are plain data");
    match clean(serialized, &KeyPath::default()) {
        Some(Value::Dict(_, dict)) => dict,
        _ => Dict::new(),
    }
}

fn clean(value: Value, path: &KeyPath) -> Option<Value> {
    Some(match value {
        Value::Empty(..) => return None,
        Value::Dict(tag, dict) => Value::Dict(
            tag,
            dict.into_iter()
                .filter_map(|(key, value)| {
                    let path = path.child(&key);
                    Some((key, clean(value, &path)?))
                })
                .collect(),
        ),
        Value::Array(tag, items) => {
            let items = items.into_iter().enumerate();
            Value::Array(tag, items.filter_map(|(index, value)| clean(value, &path.child(index.to_string()))).collect())
        }
        Value::String(tag, ref text) if path.is_secret() || has_url_password(text) => {
            Value::String(tag, HIDDEN.to_owned())
        }
        Value::String(..) | Value::Char(..) | Value::Bool(..) | Value::Num(..) => value,
    })
}

fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::String(_, text) => text.as_str().into(),
        Value::Char(_, letter) => letter.to_string().into(),
        Value::Bool(_, flag) => (*flag).into(),
        Value::Num(_, number) => match (whole(*number), number.to_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(number)) => number.into(),
            (None, None) => serde_json::Value::Null,
        },
        Value::Empty(..) => serde_json::Value::Null,
        Value::Dict(_, dict) => {
            serde_json::Value::Object(dict.iter().map(|(key, value)| (key.clone(), json(value))).collect())
        }
        Value::Array(_, items) => items.iter().map(json).collect(),
    }
}

fn whole(number: Num) -> Option<i64> {
    match number {
        Num::F32(_) | Num::F64(_) => None,
        other => {
            other.to_i128().or_else(|| other.to_u128().and_then(|n| n.try_into().ok())).and_then(|n| n.try_into().ok())
        }
    }
}

fn toml(value: &Value) -> toml_edit::Value {
    match value {
        Value::String(_, text) => text.as_str().into(),
        Value::Char(_, letter) => letter.to_string().into(),
        Value::Bool(_, flag) => (*flag).into(),
        Value::Num(_, number) => match whole(*number) {
            Some(whole) => whole.into(),
            None => number.to_f64().unwrap_or_default().into(),
        },
        Value::Empty(..) => "".into(),
        Value::Dict(_, dict) => {
            let table: toml_edit::InlineTable = dict.iter().map(|(key, value)| (key.as_str(), toml(value))).collect();
            table.into()
        }
        Value::Array(_, items) => items.iter().map(toml).collect::<toml_edit::Array>().into(),
    }
}

type Order = BTreeMap<KeyPath, usize>;

fn write_table(
    text: &mut String,
    dict: &Dict,
    path: &KeyPath,
    order: &Order,
    origin: &mut dyn FnMut(&KeyPath) -> Option<String>,
) {
    let mut keys: Vec<(&String, &Value)> = dict.iter().collect();
    keys.sort_by_key(|(key, _)| order.get(&path.child(*key)).copied().unwrap_or(usize::MAX));
    let (tables, plain): (Vec<_>, Vec<_>) =
        keys.into_iter().partition(|(key, value)| is_table(&path.child(*key), value));
    if !path.parts().is_empty() && (!plain.is_empty() || tables.is_empty()) {
        let _ = writeln!(text, "\n[{}]", dotted(path));
    }
    for (key, value) in plain {
        let path = path.child(key);
        let comment = origin(&path).map(|origin| format!(" # {origin}")).unwrap_or_default();
        let _ = writeln!(text, "{} = {}{comment}", toml_edit::Key::new(key).display_repr(), toml(value));
    }
    for (key, value) in tables {
        if let Value::Dict(_, dict) = value {
            write_table(text, dict, &path.child(key), order, origin);
        }
    }
}

/// Mapping columns and owners read best on one line.
fn is_table(path: &KeyPath, value: &Value) -> bool {
    let parts: Vec<&str> = path.parts().iter().map(String::as_str).collect();
    matches!(value, Value::Dict(..))
        && !matches!(parts.as_slice(), ["mapping", "groups", _, "columns", _] | ["mapping", "fallback_owner"])
}

fn dotted(path: &KeyPath) -> String {
    let parts: Vec<String> =
        path.parts().iter().map(|part| toml_edit::Key::new(part).display_repr().into_owned()).collect();
    parts.join(".")
}

fn order_of_defaults() -> Order {
    fn collect(table: &dyn toml_edit::TableLike, path: &KeyPath, order: &mut Order) {
        for (key, item) in table.iter() {
            let path = path.child(key);
            order.insert(path.clone(), order.len());
            if let Some(table) = item.as_table_like() {
                collect(table, &path, order);
            }
        }
    }
    let mut order = Order::new();
    if let Ok(document) = toml_edit::Document::parse(DEFAULTS) {
        collect(document.as_table(), &KeyPath::default(), &mut order);
    }
    order
}
