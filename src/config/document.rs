//! One parsed file: its values, where each of them stands, and which are never shown.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Value};
use toml_edit::{Array, Item, TableLike};

use super::key::{KeyPath, has_url_password};
use super::layer::Part;
use super::problem::Origin;

/// A parsed file: its text, and where each key and value stands.
#[derive(Clone, Debug)]
pub(super) struct Document {
    pub(super) path: PathBuf,
    pub(super) text: String,
    spans: BTreeMap<KeyPath, Span>,
    /// Bytes that are never shown.
    pub(super) masks: Vec<Range<usize>>,
}

/// A file that is no TOML, where, and the parser's words, which may name a key.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    pub(super) document: Document,
    pub(super) range: Range<usize>,
    pub(super) reason: String,
}

#[derive(Clone, Debug)]
struct Span {
    key: Range<usize>,
    value: Range<usize>,
}

impl Document {
    /// Reads a file: its places, and its values for figment.
    pub(super) fn parse(path: &Path, text: String) -> Result<(Self, Dict), Box<Broken>> {
        let mut document = Document { path: path.to_owned(), text, spans: BTreeMap::new(), masks: Vec::new() };
        match toml_edit::Document::parse(document.text.clone()) {
            Ok(parsed) => {
                let dict = document.table(parsed.as_table(), &KeyPath::default());
                Ok((document, dict))
            }
            Err(error) => {
                let end = document.text.len();
                let range = error.span().unwrap_or(end..end);
                Err(Box::new(Broken { document, range, reason: error.message().to_owned() }))
            }
        }
    }

    /// Never shows the value of this key, nor what lies below it.
    pub(super) fn mask(&mut self, path: &KeyPath) {
        let below = self.spans.iter().filter(|(key, _)| key.is_within(path));
        self.masks.extend(below.map(|(_, span)| span.value.clone()));
    }

    pub(super) fn origin(&self, range: &Range<usize>) -> Origin {
        let (line, column) = self.line_and_column(range.start);
        Origin::File { path: self.path.clone(), line, column }
    }

    /// Both counted from 1, the column in characters.
    pub(super) fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// Where a key stands, or the nearest table above it.
    pub(super) fn range(&self, path: &KeyPath, part: Part) -> Range<usize> {
        let mut path = path.clone();
        loop {
            if let Some(span) = self.spans.get(&path) {
                return match part {
                    Part::Key => span.key.clone(),
                    Part::Value => span.value.clone(),
                };
            }
            match path.parent() {
                Some(above) => path = above,
                None => return 0..0,
            }
        }
    }

    fn table(&mut self, table: &dyn TableLike, path: &KeyPath) -> Dict {
        let mut dict = Dict::new();
        for (name, item) in table.iter() {
            let path = path.child(name);
            let key = table.key(name).and_then(toml_edit::Key::span);
            let value = match item {
                // A table's own span is its header, or everything between its braces: the key says it better.
                Item::Table(_) | Item::ArrayOfTables(_) | Item::None => None,
                Item::Value(value) => value.span(),
            };
            let key = key.or_else(|| item.span()).unwrap_or(0..0);
            let value = value.unwrap_or_else(|| key.clone());
            let is_masked = path.is_secret() || item.as_str().is_some_and(|text| looks_secret(name, text));
            if is_masked {
                self.masks.push(value.clone());
            }
            self.spans.insert(path.clone(), Span { key, value });
            if let Some(value) = self.item(item, &path) {
                dict.insert(name.to_owned(), value);
            }
        }
        dict
    }

    fn item(&mut self, item: &Item, path: &KeyPath) -> Option<Value> {
        Some(match item {
            Item::None => return None,
            Item::Table(table) => Value::from(self.table(table, path)),
            Item::ArrayOfTables(tables) => {
                let mut items = Vec::new();
                for (index, table) in tables.iter().enumerate() {
                    let path = path.child(index.to_string());
                    if let Some(span) = table.span() {
                        self.spans.insert(path.clone(), Span { key: span.clone(), value: span });
                    }
                    items.push(Value::from(self.table(table, &path)));
                }
                Value::from(items)
            }
            Item::Value(toml_edit::Value::String(text)) => Value::from(text.value().clone()),
            Item::Value(toml_edit::Value::Integer(number)) => Value::from(*number.value()),
            Item::Value(toml_edit::Value::Float(number)) => Value::from(*number.value()),
            Item::Value(toml_edit::Value::Boolean(flag)) => Value::from(*flag.value()),
            Item::Value(toml_edit::Value::Datetime(instant)) => Value::from(instant.value().to_string()),
            Item::Value(toml_edit::Value::Array(array)) => Value::from(self.array(array, path)),
            Item::Value(toml_edit::Value::InlineTable(table)) => Value::from(self.table(table, path)),
        })
    }

    fn array(&mut self, array: &Array, path: &KeyPath) -> Vec<Value> {
        let mut items = Vec::new();
        for (index, value) in array.iter().enumerate() {
            let path = path.child(index.to_string());
            if let Some(span) = value.span() {
                if value.as_str().is_some_and(has_url_password) {
                    self.masks.push(span.clone());
                }
                self.spans.insert(path.clone(), Span { key: span.clone(), value: span });
            }
            items.extend(self.item(&Item::Value(value.clone()), &path));
        }
        items
    }
}

/// A TOML value for figment.
pub(super) fn value_of(item: &Item) -> Option<Value> {
    let mut nowhere = Document { path: PathBuf::new(), text: String::new(), spans: BTreeMap::new(), masks: Vec::new() };
    nowhere.item(item, &KeyPath::default())
}

/// Text that is not shown although its key is in order: a person's address, a password in a URL, or the secret itself where the name of
/// its file belongs.
fn looks_secret(name: &str, text: &str) -> bool {
    let names_a_secret_file = name.strip_suffix("_file").is_some_and(super::key::is_secret_name);
    name == "username" || has_url_password(text) || (names_a_secret_file && !text.contains('/'))
}
