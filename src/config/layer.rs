//! The layers of the configuration, and where each of their values stands.
//!
//! figment merges them; line and column come from the parsed documents, because figment knows files and never lines.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use figment::value::{Dict, Value};
use figment::{Figment, Metadata, Profile, Provider};
use toml_edit::Item;

use super::document::{self, Broken, Document};
use super::key::KeyPath;
use super::problem::{Origin, Snippet};

/// All layers, the lowest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Layers(Vec<Layer>);

/// One layer: a file, the environment, or the flags.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    content: Content,
    dict: Dict,
    /// List items that were taken out, by list: what figment numbers 0 may be the file's 1.
    holes: BTreeMap<KeyPath, BTreeSet<usize>>,
}

#[derive(Clone, Debug)]
enum Content {
    BuiltIn,
    File(Document),
    Given(Vec<Given>),
}

/// One value from the environment or a flag: text, whose type nobody wrote down.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) path: KeyPath,
    pub(super) text: String,
    pub(super) origin: Origin,
    /// Text is tried first; when the key wants something else, the text is read as a TOML value.
    is_guessed: bool,
}

/// A place inside a layer.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) layer: usize,
    /// Bytes of the document, where there is one.
    pub(super) range: Option<Range<usize>>,
    pub(super) origin: Origin,
    /// A line that was drawn already, of a file that is no layer.
    pub(super) snippet: Option<Snippet>,
}

/// What about a key is of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Key,
    Value,
}

impl Layers {
    pub(super) fn push(&mut self, layer: Layer) {
        self.0.push(layer);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Layer> {
        self.0.iter()
    }

    pub(super) fn figment(&self) -> Figment {
        self.0.iter().fold(Figment::new(), |figment, layer| figment.merge(layer))
    }

    /// The merged values.
    pub(super) fn merged(&self) -> Dict {
        self.figment().data().ok().and_then(|mut data| data.remove(&Profile::Default)).unwrap_or_default()
    }

    pub(super) fn document(&self, layer: usize) -> Option<&Document> {
        match &self.0.get(layer)?.content {
            Content::File(document) => Some(document),
            Content::BuiltIn | Content::Given(_) => None,
        }
    }

    /// The highest layer that has this key, or the nearest table above it.
    pub(super) fn owner(&self, path: &KeyPath) -> (usize, KeyPath) {
        let mut path = path.clone();
        loop {
            if let Some(index) =
                (0..self.0.len()).rev().find(|index| find(&self.0[*index].dict, path.parts()).is_some())
            {
                return (index, path);
            }
            match path.parent() {
                Some(above) => path = above,
                None => return (0, KeyPath::default()),
            }
        }
    }

    pub(super) fn is_built_in(&self, layer: usize) -> bool {
        self.0.get(layer).is_none_or(|layer| matches!(layer.content, Content::BuiltIn))
    }

    /// The path as its layer counts list items.
    pub(super) fn as_written(&self, layer: usize, path: &KeyPath) -> KeyPath {
        self.0.get(layer).map_or_else(|| path.clone(), |layer| layer.in_document(path))
    }

    /// Where a key stands: in the highest layer that has it.
    pub(super) fn place(&self, path: &KeyPath, part: Part) -> Place {
        let (layer, path) = self.owner(path);
        self.place_in(layer, &path, part)
    }

    /// Where a key stands in one layer.
    pub(super) fn place_in(&self, layer: usize, path: &KeyPath, part: Part) -> Place {
        let fallback = Place { layer, range: None, origin: Origin::BuiltIn, snippet: None };
        let Some(found) = self.0.get(layer) else { return fallback };
        match &found.content {
            Content::BuiltIn => fallback,
            Content::Given(all) => {
                let given = all
                    .iter()
                    .find(|given| path.is_within(&given.path))
                    .or_else(|| all.iter().find(|given| given.path.is_within(path)));
                match given {
                    Some(given) => Place { layer, range: None, origin: given.origin.clone(), snippet: None },
                    None => fallback,
                }
            }
            Content::File(document) => {
                let range = document.range(&found.in_document(path), part);
                let origin = document.origin(&range);
                Place { layer, range: Some(range), origin, snippet: None }
            }
        }
    }

    /// Takes a value out of a layer, so that what lies below shows. The top itself takes everything.
    pub(super) fn remove(&mut self, layer: usize, path: &KeyPath) {
        let Some(layer) = self.0.get_mut(layer) else { return };
        if let Content::Given(all) = &mut layer.content {
            // A value below a given one came out of its text: the whole text goes.
            let count = all.len();
            all.retain(|given| !path.is_within(&given.path));
            if all.len() == count {
                all.retain(|given| !given.path.is_within(path));
            }
            layer.dict = nest(all);
            return;
        }
        let Some((last, above)) = path.parts().split_last() else {
            layer.dict.clear();
            return;
        };
        let original = layer.in_document(path);
        match find_mut(&mut layer.dict, above) {
            Some(Inner::Dict(dict)) => {
                dict.remove(last);
            }
            Some(Inner::Array(array)) => {
                if let (Ok(index), Ok(hole)) = (last.parse::<usize>(), original.last().parse::<usize>()) {
                    if index < array.len() {
                        array.remove(index);
                    }
                    layer.holes.entry(original.parent().unwrap_or_default()).or_default().insert(hole);
                }
            }
            None => {}
        }
    }

    /// Reads a given text as a TOML value instead. False when that was tried, or gives nothing new.
    pub(super) fn guess(&mut self, layer: usize, path: &KeyPath) -> bool {
        let Some(layer) = self.0.get_mut(layer) else { return false };
        let Content::Given(all) = &mut layer.content else { return false };
        let Some(given) = all.iter_mut().find(|given| path.is_within(&given.path)) else { return false };
        if given.is_guessed || matches!(guessed(&given.text), None | Some(Value::String(..))) {
            return false;
        }
        given.is_guessed = true;
        layer.dict = nest(all);
        true
    }

    /// Never shows the value of this key, nor what lies below it.
    pub(super) fn mask(&mut self, layer: usize, path: &KeyPath) {
        let Some(layer) = self.0.get_mut(layer) else { return };
        let original = layer.in_document(path);
        if let Content::File(document) = &mut layer.content {
            document.mask(&original);
        }
    }

    /// Some tables mean something only as a whole: a `template` in the file must not meet the built-in `from` of the same
    /// column, nor a user the team of a file below. Single keys from the environment and flags are merged.
    pub(super) fn replace_whole_tables(&mut self) {
        for upper in (1..self.0.len()).rev() {
            if matches!(self.0[upper].content, Content::Given(_)) {
                continue;
            }
            let whole = whole_tables(&self.0[upper].dict);
            for lower in 0..upper {
                for path in &whole {
                    self.remove(lower, path);
                }
            }
        }
    }
}

/// The tables of a layer that replace what lies below: mapping columns, the write-backs of a group, the fallback owner.
fn whole_tables(dict: &Dict) -> Vec<KeyPath> {
    let mapping = KeyPath::from("mapping");
    let Some(Value::Dict(_, dict)) = dict.get("mapping") else { return Vec::new() };
    let mut whole = Vec::new();
    if dict.contains_key("fallback_owner") {
        whole.push(mapping.child("fallback_owner"));
    }
    let Some(Value::Dict(_, groups)) = dict.get("groups") else { return whole };
    for (name, group) in groups {
        let path = mapping.child("groups").child(name);
        let Value::Dict(_, group) = group else { continue };
        if group.contains_key("write_back") {
            whole.push(path.child("write_back"));
        }
        if let Some(Value::Dict(_, columns)) = group.get("columns") {
            whole.extend(columns.keys().map(|column| path.child("columns").child(column)));
        }
    }
    whole
}

impl Layer {
    /// The compiled-in defaults. They are ours: a defect in them is a defect of the program.
    pub(super) fn built_in() -> Self {
        static BUILT_IN: OnceLock<Layer> = OnceLock::new();
        let read = || {
            let layer = Layer::file(Path::new("default.toml"), super::DEFAULTS.to_owned()).ok();
            let layer = layer.expect("config/default.toml is valid TOML, a test reads it");
            Layer { content: Content::BuiltIn, ..layer }
        };
        BUILT_IN.get_or_init(read).clone()
    }

    /// A file, if it is TOML.
    pub(super) fn file(path: &Path, text: String) -> Result<Self, Box<Broken>> {
        let (document, dict) = Document::parse(path, text)?;
        Ok(Layer { content: Content::File(document), dict, holes: BTreeMap::new() })
    }

    /// Values from the environment or from flags; the later one wins.
    pub(super) fn given(all: Vec<Given>) -> Self {
        let dict = nest(&all);
        Layer { content: Content::Given(all), dict, holes: BTreeMap::new() }
    }

    /// The text values of all keys with this suffix in their names.
    pub(super) fn texts_ending_in(&self, suffix: &str) -> Vec<String> {
        fn collect(dict: &Dict, suffix: &str, found: &mut Vec<String>) {
            for (key, value) in dict {
                match value {
                    Value::Dict(_, inner) => collect(inner, suffix, found),
                    Value::String(_, text) if key.ends_with(suffix) => found.push(text.clone()),
                    _ => {}
                }
            }
        }
        let mut found = Vec::new();
        collect(&self.dict, suffix, &mut found);
        found
    }

    /// The path as the file counts list items.
    fn in_document(&self, path: &KeyPath) -> KeyPath {
        let mut original = KeyPath::default();
        for part in path.parts() {
            let shifted = self.holes.get(&original).and_then(|holes| {
                let wanted: usize = part.parse().ok()?;
                (0..).filter(|index| !holes.contains(index)).nth(wanted)
            });
            original = original.child(shifted.map_or_else(|| part.clone(), |index| index.to_string()));
        }
        original
    }
}

impl Provider for &Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named("referrald")
    }

    fn data(&self) -> Result<figment::value::Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

impl Given {
    pub(super) fn new(path: KeyPath, text: String, origin: Origin) -> Self {
        Given { path, text, origin, is_guessed: false }
    }

    fn value(&self) -> Value {
        let guess = guessed(&self.text);
        match (self.is_guessed, guess) {
            (true, Some(value)) => value,
            // "\"123\"" is how one insists on text.
            (_, Some(Value::String(tag, text))) => Value::String(tag, text),
            _ => Value::from(self.text.clone()),
        }
    }
}

/// The text as a TOML value, if it is one.
fn guessed(text: &str) -> Option<Value> {
    let value: toml_edit::Value = text.trim().parse().ok()?;
    document::value_of(&Item::Value(value))
}

/// Given values as nested tables. A value at a place where another wants a table wins: it is the one to complain about.
fn nest(all: &[Given]) -> Dict {
    fn insert(dict: &mut Dict, parts: &[String], value: Value) {
        match parts {
            [] => {}
            [last] => {
                dict.insert(last.clone(), value);
            }
            [first, rest @ ..] => {
                if let Value::Dict(_, inner) = dict.entry(first.clone()).or_insert_with(|| Value::from(Dict::new())) {
                    insert(inner, rest, value);
                }
            }
        }
    }
    let mut top = Dict::new();
    for given in all {
        insert(&mut top, given.path.parts(), given.value());
    }
    top
}

enum Inner<'a> {
    Dict(&'a mut Dict),
    Array(&'a mut Vec<Value>),
}

/// A value by its path.
pub(super) fn find<'a>(dict: &'a Dict, parts: &[String]) -> Option<&'a Value> {
    let (first, rest) = parts.split_first()?;
    let mut value = dict.get(first)?;
    for part in rest {
        value = match value {
            Value::Dict(_, dict) => dict.get(part)?,
            Value::Array(_, array) => array.get(part.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(value)
}

fn find_mut<'a>(dict: &'a mut Dict, parts: &[String]) -> Option<Inner<'a>> {
    let mut inner = Inner::Dict(dict);
    for part in parts {
        let value = match inner {
            Inner::Dict(dict) => dict.get_mut(part)?,
            Inner::Array(array) => array.get_mut(part.parse::<usize>().ok()?)?,
        };
        inner = match value {
            Value::Dict(_, dict) => Inner::Dict(dict),
            Value::Array(_, array) => Inner::Array(array),
            _ => return None,
        };
    }
    Some(inner)
}
