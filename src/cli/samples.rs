//! `referrald config test`: sample referrals of the configuration, and whether they become the leads they should.
//!
//! No service is asked: the lead table is as the product ships it, a column that is not among those holds what the test
//! expects of it, and every currency a sample names is known.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::{Value, json};

use super::layout::{harmless, styled, wrapped};
use super::words::{self, ALARM, GOOD};
use super::{Failure, exit::Exit, print_json};
use crate::config::{KeyPath, Loaded, Origin, Settings, Sources};
use crate::plan::mapping::Mapping;
use crate::plan::settings::MappingTest;
use crate::plan::settings::toml_value::Document;
use crate::ports::{ColumnKind, ColumnSchema, LeadSchema};

/// Largest sample file, in bytes.
pub const SAMPLE_BYTES_MAX: u64 = 1024 * 1024;

/// What came of one test.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Verdict {
    /// Name of the test.
    name: String,
    /// Everything is as expected.
    is_as_expected: bool,
    /// Why it could not be run, or why no lead could be written.
    trouble: Option<String>,
    /// Columns that are not as expected.
    differences: Vec<Difference>,
}

/// One column that is not as expected.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Difference {
    /// The lead column.
    column: String,
    /// What the test wants; null: no value.
    expected: Value,
    /// What the mapping gives; null: no value.
    found: Value,
    /// The configuration key of the column, where a group fills it.
    key: Option<String>,
    /// Why the mapping leaves the column out, if it does.
    left_out: Option<String>,
}

/// Runs every test of the configuration and prints what came of it; 1 on a difference.
pub(super) fn test(sources: &Sources, is_json: bool, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let loaded =
        Settings::load(sources).map_err(|problems| super::build::StartError::Configuration(problems.to_string()))?;
    let tests = &loaded.settings.mapping.test;
    let verdicts: Vec<Verdict> = tests
        .iter()
        .enumerate()
        .map(|(index, test)| verdict(&loaded.settings, test, folder(&loaded, index).as_deref()))
        .collect();
    if is_json {
        print_json(out, &verdicts)?;
    } else {
        write!(out, "{}", render(&verdicts))?;
    }
    Ok(if verdicts.iter().all(|verdict| verdict.is_as_expected) { Exit::Fine } else { Exit::Failed })
}

/// The folder of the file that a test stands in: paths are relative to it.
fn folder(loaded: &Loaded, index: usize) -> Option<std::path::PathBuf> {
    let key = KeyPath::from("mapping.test").child(index.to_string());
    match loaded.origin(&key) {
        Origin::File { path, .. } => path.parent().map(Path::to_owned),
        Origin::BuiltIn | Origin::Environment { .. } | Origin::Flag { .. } => None,
    }
}

fn verdict(settings: &Settings, test: &MappingTest, folder: Option<&Path>) -> Verdict {
    let (trouble, differences) = match run(settings, test, folder) {
        Ok((trouble, differences)) => (trouble, differences),
        Err(trouble) => (Some(trouble), Vec::new()),
    };
    let is_as_expected = trouble.is_none() && differences.is_empty();
    Verdict { name: test.name.clone(), is_as_expected, trouble, differences }
}

/// What keeps a lead from being written, and the columns that are not as expected. The error: it could not be run.
fn run(
    settings: &Settings,
    test: &MappingTest,
    folder: Option<&Path>,
) -> Result<(Option<String>, Vec<Difference>), String> {
    let document = complete(document(test, folder)?)?;
    let referral = crate::portal::sample(&document)?;
    let schema = schema(settings, test, &document);
    let (mapping, problems) = Mapping::compile(&settings.mapping, &schema, [0; 16]);
    let mut trouble = problems.iter().find(|problem| problem.is_blocking).map(ToString::to_string);
    let derived = mapping.derive(&referral, None, referral.consent_to_contact != Some(false));
    let (mut found, mut left_out, mut keys) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (group, value) in mapping.groups().iter().zip(derived.groups) {
        trouble = trouble.or(value.blocked.map(|reason| format!("no lead can be written: {reason}")));
        for column in &group.columns {
            keys.insert(column.clone(), format!("mapping.groups.{}.columns.{column}", group.name));
        }
        left_out.extend(value.skipped.into_iter().map(|skipped| (skipped.column, skipped.reason.to_string())));
        found.extend(value.draft.into_iter().filter(|(_, value)| !value.is_null()));
    }
    let nothing = test.absent.iter().map(|column| (column, None));
    let wanted = test.expect.iter().map(|(column, value)| (column, Some(value))).chain(nothing);
    let differences = wanted
        .filter(|(column, wanted)| match (wanted, found.get(*column)) {
            (Some(wanted), Some(found)) => !is_same(wanted, found),
            (wanted, found) => wanted.is_some() || found.is_some(),
        })
        .map(|(column, wanted)| Difference {
            column: column.clone(),
            expected: wanted.map(value_of).unwrap_or_default(),
            found: found.get(column).cloned().unwrap_or_default(),
            key: keys.get(column).cloned(),
            left_out: left_out.get(column).cloned(),
        })
        .collect();
    Ok((trouble, differences))
}

/// The sample: what stands in the configuration, or in the file it names.
fn document(test: &MappingTest, folder: Option<&Path>) -> Result<Value, String> {
    let Document::Text(name) = &test.referral else { return Ok(value_of(&test.referral)) };
    let path = folder.unwrap_or(Path::new("")).join(name);
    let cannot = |error: &dyn std::fmt::Display| format!("the sample {} cannot be read: {error}", path.display());
    let length = std::fs::metadata(&path).map_err(|error| cannot(&error))?.len();
    if length > SAMPLE_BYTES_MAX {
        return Err(cannot(&format!("it has more than {SAMPLE_BYTES_MAX} bytes")));
    }
    let text = std::fs::read(&path).map_err(|error| cannot(&error))?;
    // The place, and never what stands there.
    let place = |error: serde_json::Error| format!("no JSON at line {}, column {}", error.line(), error.column());
    serde_json::from_slice(&text).map_err(|error| cannot(&place(error)))
}

/// A sample with what every referral has and no test cares about.
fn complete(document: Value) -> Result<Value, String> {
    let Value::Object(mut document) = document else {
        return Err("the sample is no table: write a referral as Partner Center sends it".to_owned());
    };
    document.entry("id").or_insert(json!("00000000-0000-0000-0000-000000000000"));
    if !document.contains_key("status") {
        document.insert("status".to_owned(), json!("New"));
        document.entry("substatus").or_insert(json!("Pending"));
    }
    Ok(Value::Object(document))
}

/// The lead table as shipped, with what the test takes for granted.
fn schema(settings: &Settings, test: &MappingTest, document: &Value) -> LeadSchema {
    let columns: BTreeSet<String> = settings.columns();
    let mut schema = crate::crm::shipped_schema(&columns);
    for column in &columns {
        let kind = match test.expect.get(column) {
            Some(Document::Flag(_)) => ColumnKind::Boolean,
            Some(Document::Integer(_)) => ColumnKind::Integer,
            Some(Document::Number(_)) => ColumnKind::Number,
            Some(Document::Text(_) | Document::List(_) | Document::Table(_)) | None => ColumnKind::Text,
        };
        let live = ColumnSchema {
            kind,
            length_max: None,
            options: None,
            is_required: false,
            is_creatable: true,
            is_updatable: true,
        };
        schema.columns.entry(column.clone()).or_insert(live);
    }
    currencies(document, &mut schema.currencies);
    schema
}

/// Every word of a sample that may be a currency code counts as an active currency.
fn currencies(value: &Value, known: &mut BTreeMap<String, u32>) {
    match value {
        Value::String(text) => {
            let code = text.trim().to_ascii_uppercase();
            if code.len() == 3 && code.bytes().all(|letter| letter.is_ascii_uppercase()) {
                known.entry(code).or_insert(2);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| currencies(item, known)),
        Value::Object(map) => map.values().for_each(|item| currencies(item, known)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Numbers are compared by what they are worth, everything else by what it says.
fn is_same(wanted: &Document, found: &Value) -> bool {
    let decimal = |text: String| text.parse::<Decimal>().or_else(|_| Decimal::from_scientific(&text)).ok();
    match (wanted, found) {
        (Document::Integer(wanted), Value::Number(found)) => decimal(found.to_string()) == Some(Decimal::from(*wanted)),
        (Document::Number(wanted), Value::Number(found)) => {
            decimal(found.to_string()).is_some_and(|found| Some(found) == decimal(wanted.to_string()))
        }
        (wanted, found) => value_of(wanted) == *found,
    }
}

fn value_of(document: &Document) -> Value {
    match document {
        Document::Flag(flag) => json!(flag),
        Document::Integer(number) => json!(number),
        Document::Number(number) => json!(number),
        Document::Text(text) => json!(text),
        Document::List(items) => items.iter().map(value_of).collect(),
        Document::Table(table) => {
            Value::Object(table.iter().map(|(key, value)| (key.clone(), value_of(value))).collect())
        }
    }
}

fn render(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    if verdicts.is_empty() {
        text.push_str("the configuration has no mapping tests; config/example.toml shows how they are written\n");
        return text;
    }
    for verdict in verdicts {
        let (word, style) = if verdict.is_as_expected { ("as expected", GOOD) } else { ("different", ALARM) };
        let _ = writeln!(text, "{}  {}", styled(&format!("{word:<11}"), style), harmless(&verdict.name));
        if let Some(trouble) = &verdict.trouble {
            wrapped(&mut text, 4, &harmless(trouble));
        }
        for difference in &verdict.differences {
            let key = match &difference.key {
                Some(key) => format!(" ({key})"),
                None => " (no group fills it)".to_owned(),
            };
            wrapped(&mut text, 4, &format!("{}{key}", difference.column));
            wrapped(&mut text, 6, &format!("expected  {}", shown(&difference.expected)));
            wrapped(&mut text, 6, &format!("found     {}", shown(&difference.found)));
            if let Some(reason) = &difference.left_out {
                wrapped(&mut text, 6, &format!("left out: {reason}"));
            }
        }
    }
    let bad = verdicts.iter().filter(|verdict| !verdict.is_as_expected).count() as u64;
    let total = words::count(verdicts.len() as u64, "mapping test");
    let _ = match bad {
        0 => writeln!(text, "{total}, all as expected"),
        _ => writeln!(text, "{total}, {bad} different"),
    };
    text
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        value => harmless(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::test;
    use crate::cli::words::plain;
    use crate::config::Sources;

    fn run(text: &str) -> (u8, String) {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("referrald.toml");
        std::fs::write(&file, text).expect("a file");
        let sample = r#"{"name": "From a file", "customerProfile": {"name": "Contoso"}}"#;
        std::fs::write(directory.path().join("sample.json"), sample).expect("a sample");
        let sources = Sources { file: Some(file), ..Sources::default() };
        let mut out = Vec::new();
        let exit = test(&sources, false, &mut out).expect("it runs");
        (exit.code(), plain(&String::from_utf8(out).expect("text")))
    }

    #[test]
    fn samples_become_the_leads_they_should_or_the_columns_are_named() {
        let (code, out) = run(r#"
[[mapping.test]]
name = "an inline sample"
referral.name = "Data platform"
referral.customerProfile = { name = "Contoso", address = { country = "DE" } }
referral.details = { dealValue = 12500.5, currency = "EUR" }
absent = ["jobtitle"]
[mapping.test.expect]
companyname = "Contoso"
address1_country = "Germany"
estimatedamount = 12500.50
transactioncurrencyid = "EUR"

[[mapping.test]]
name = "a sample from a file"
referral = "sample.json"
expect = { companyname = "Fabrikam", subject = "From a file", new_absent = true }
absent = ["companyname"]
"#);
        assert_eq!(code, 1);
        insta::assert_snapshot!("config_test", out);
    }

    #[test]
    fn a_sample_that_cannot_be_read_is_no_success() {
        for missing in ["\"missing.json\"", "7", "{ id = \"seven\" }"] {
            let (code, out) = run(&format!("[[mapping.test]]\nname = \"x\"\nreferral = {missing}"));
            assert_eq!((code, out.contains("different    x")), (1, true), "{out}");
        }
    }

    #[test]
    fn columns_of_ones_own_are_what_the_test_expects_of_them() {
        let (code, out) = run(r#"
[mapping.groups.mine]
owner = "crm"
[mapping.groups.mine.columns.new_score]
value = 7
[mapping.groups.mine.columns.new_flag]
template = "true"
[[mapping.test]]
name = "own columns"
referral.name = "x"
expect = { new_score = 7, new_flag = true }
"#);
        assert_eq!(code, 0, "{out}");
    }

    #[test]
    fn without_tests_there_is_nothing_to_differ() {
        assert_eq!(run("").0, 0);
    }
}
