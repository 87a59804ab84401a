//! The JSON Schema of the configuration file, for editors: made from the settings types, so that it cannot differ.
//!
//! A file is laid over the defaults, so nothing is required in it, and TOML knows no null. Tools for TOML understand
//! draft 7 without references best.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::Settings;

/// The first line of a configuration file: editors with Taplo behind them take the schema from there.
pub const DIRECTIVE: &str = "#:schema file:///usr/share/referrald/referrald.schema.json";

/// The schema of one configuration file.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Settings>().to_value();
    let defaults = serde_json::to_value(Settings::defaults()).expect("settings are plain data");
    mend(&mut schema, Some(&defaults), true);
    schema["title"] = json!("referrald.toml");
    schema
}

/// Fits one schema to files: `defaults` are the values at its place; with `is_overlay` nothing is required.
fn mend(schema: &mut Value, defaults: Option<&Value>, is_overlay: bool) {
    let Some(object) = schema.as_object_mut() else { return };
    without_null(object);
    if is_overlay {
        object.remove("required");
    }
    let is_known = |format: &Value| matches!(format.as_str(), Some("uri" | "uuid"));
    if object.get("format").is_some_and(|format| !is_known(format)) {
        object.remove("format");
    }
    if let Some(Value::String(text)) = object.get_mut("description") {
        *text = plain(text);
    }
    if let Some(default) = defaults.filter(|value| is_plain(value)) {
        object.insert("default".to_owned(), default.clone());
    } else {
        object.remove("default");
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        for (name, property) in properties {
            mend(property, defaults.and_then(|defaults| defaults.get(name)), is_overlay);
        }
    }
    // What people name themselves: groups, columns, tables. Items of lists replace the whole list, so they are complete.
    if let Some(additional) = object.get_mut("additionalProperties") {
        mend(additional, None, is_overlay);
    }
    if let Some(items) = object.get_mut("items") {
        mend(items, None, false);
    }
    for several in ["oneOf", "anyOf", "allOf"] {
        let alternatives = object.get_mut(several).and_then(Value::as_array_mut);
        alternatives.into_iter().flatten().for_each(|one| mend(one, None, false));
    }
}

/// Takes out the alternative that TOML does not have.
fn without_null(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|one| one != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            object.insert("type".to_owned(), one);
        }
    }
    if let Some(Value::Array(words)) = object.get_mut("enum") {
        words.retain(|word| !word.is_null());
    }
    let Some(Value::Array(alternatives)) = object.get_mut("anyOf") else { return };
    alternatives.retain(|one| one["type"] != "null");
    if let [Value::Object(only)] = alternatives.as_slice() {
        let only = only.clone();
        object.remove("anyOf");
        for (key, value) in only {
            object.entry(key).or_insert(value); // The description of the key says more than that of its type.
        }
    }
}

/// A value that fits behind a key on one line.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::Null | Value::Object(_) => false,
        Value::Array(items) => items.iter().all(is_plain),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

/// A doc comment without what is meant for readers of the code: references to sheets, marks around names.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(open) = rest.find(" (") {
        let Some(close) = rest[open..].find(')').map(|close| open + close) else { break };
        let inner = &rest[open + 2..close];
        plain.push_str(&rest[..open]);
        if !(inner.contains('§') || inner.starts_with("spec ")) {
            plain.push_str(&rest[open..=close]);
        }
        rest = &rest[close + 1..];
    }
    plain.push_str(rest);
    plain.replace("[`", "`").replace("`]", "`").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use figment::Figment;
    use figment::providers::{Format, Toml};
    use serde_json::{Value, json};

    use super::{plain, schema};
    use crate::config::DEFAULTS;

    const EXAMPLE: &str = include_str!("../../config/example.toml");

    /// What the schema says about a text.
    fn judge(text: &str) -> Result<(), String> {
        let file: Value = Figment::from(Toml::string(text)).extract().expect("TOML");
        let mut compiler = boon::Compiler::new();
        compiler.add_resource("schema.json", schema()).expect("a schema");
        let mut schemas = boon::Schemas::new();
        let index = compiler.compile("schema.json", &mut schemas).expect("a sound schema");
        schemas.validate(&file, index).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_and_the_example_fit() {
        assert_eq!(judge(DEFAULTS), Ok(()));
        assert_eq!(judge(EXAMPLE), Ok(()));
        assert_eq!(judge("writes = \"both\"\n[mapping.groups.mine.columns.new_a]\nfrom = [\"/name\"]"), Ok(()));
    }

    #[test]
    fn what_the_program_refuses_is_underlined() {
        for wrong in [
            "writes = \"perhaps\"",
            "writse = \"off\"",
            "[brakes]\nclosings_per_huor = 3",
            "[brakes]\nclosings_per_hour = \"three\"",
            "[brakes]\nclosings_per_hour = -1",
            "[status]\nsettle_time = 600",
            "[status]\nsettle_time = \"soon\"",
            "[dataverse.auth]\nclient_secret = \"a\"",
            "[dataverse.auth]\ngrant = \"device\"",
            "[mapping]\nowners = [{ country = \"DE\" }]",
            "[mapping.groups.company]\nowner = \"seller\"",
            "[mapping.groups.company.columns.companyname]\nform = [\"/name\"]",
            "[[mapping.test]]\nname = \"no referral\"",
        ] {
            assert!(judge(wrong).is_err(), "{wrong}");
        }
    }

    /// Every key of a schema, maps that people name themselves left out.
    fn keys(schema: &Value, above: &str, found: &mut BTreeSet<String>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{above}{name}");
            keys(property, &format!("{path}."), found);
            found.insert(path);
        }
    }

    #[test]
    fn every_key_of_the_defaults_is_there_with_words_and_a_default() {
        let schema = schema();
        let mut known = BTreeSet::new();
        keys(&schema, "", &mut known);
        let missing: Vec<String> = crate::config::extract::known_keys()
            .iter()
            .map(ToString::to_string)
            .filter(|key| {
                !["mapping.groups.", "mapping.tables.", "status.labels.", "status.codes."]
                    .iter()
                    .any(|open| key.starts_with(open))
            })
            .filter(|key| !known.contains(key))
            .collect();
        assert_eq!(missing, Vec::<String>::new());
        let brakes = &schema["properties"]["brakes"]["properties"]["closings_per_hour"];
        assert_eq!((&brakes["default"], &brakes["description"]), (&json!(20), &json!("Closings in an hour.")));
        let url = &schema["properties"]["dataverse"]["properties"]["url"];
        assert_eq!((&url["type"], &url["format"]), (&json!("string"), &json!("uri")));
        let grants = &schema["properties"]["dataverse"]["properties"]["auth"]["properties"]["grant"];
        assert_eq!(grants["default"], json!("client_credentials"));
        assert!(grants["oneOf"].as_array().is_some_and(|words| words.iter().any(|word| word["const"] == "password")));
        fn undescribed(schema: &Value, above: &str, found: &mut Vec<String>) {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                if property["description"].as_str().is_none_or(str::is_empty) {
                    found.push(format!("{above}{name}"));
                }
                undescribed(property, &format!("{above}{name}."), found);
            }
        }
        let mut silent = Vec::new();
        undescribed(&schema, "", &mut silent);
        assert_eq!(silent, Vec::<String>::new());
    }

    #[test]
    fn references_for_readers_of_the_code_are_left_out() {
        assert_eq!(plain("How a token is obtained (partner-center §2.3)."), "How a token is obtained.");
        assert_eq!(plain("As [`Foo`] (or not)"), "As `Foo` (or not)");
    }
}
