//! Expressions: where a column's value comes from.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::canonical::{Misfit, is_empty};
use super::contact::Contacts;
use super::country;
use super::template::{Scene, Templates};
use crate::model::Referral;
use crate::plan::settings::toml_value::Scalar;

/// What a pointer into the primary contact begins with.
pub const CONTACT_PREFIX: &str = "@contact";

/// Name of the table that is built in: country codes of two or three letters to English names.
pub const COUNTRY_TABLE: &str = "country";

/// One way to get a value.
#[derive(Clone, Debug)]
pub(super) enum Expression {
    /// A place in the referral or its primary contact, translated by a table where one is named.
    Pointer(Pointer, Option<Arc<Table>>),
    /// The name of a compiled template.
    Template(String),
    /// Always the same.
    Constant(Value),
}

impl Expression {
    /// Finds the value. `Ok(None)`: it gives none.
    pub(super) fn evaluate<'a>(
        &'a self,
        source: &'a Source<'_>,
        templates: &Templates,
    ) -> Result<Option<Cow<'a, Value>>, Misfit> {
        match self {
            Expression::Pointer(pointer, table) => {
                let found = pointer.resolve(source).filter(|value| !is_empty(value));
                Ok(found.map(|value| match table {
                    Some(table) => table.translate(value),
                    None => Cow::Borrowed(value),
                }))
            }
            Expression::Template(name) => {
                let text = templates.render(name, source.scene())?;
                Ok(Some(Cow::Owned(Value::String(text))))
            }
            Expression::Constant(value) => Ok(Some(Cow::Borrowed(value))),
        }
    }
}

/// What expressions look at.
pub(super) struct Source<'a> {
    referral: &'a Referral,
    contacts: Contacts<'a>,
    may_contact: bool,
    /// Made when the first template asks for it.
    scene: std::cell::OnceCell<Scene>,
}

impl<'a> Source<'a> {
    /// A referral with its contacts; without `may_contact` nobody can be seen in it.
    pub(super) fn new(referral: &'a Referral, contacts: Contacts<'a>, may_contact: bool) -> Self {
        Source { referral, contacts, may_contact, scene: std::cell::OnceCell::new() }
    }

    fn scene(&self) -> &Scene {
        self.scene.get_or_init(|| Scene::new(self.referral, &self.contacts, self.may_contact))
    }
}

/// A compiled JSON pointer (RFC 6901).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    starts_at_contact: bool,
    /// It leads to people: closed without the consent to contact.
    is_personal: bool,
    steps: Vec<(String, Option<usize>)>,
}

impl Pointer {
    /// Reads a pointer: `/details/notes` or `@contact/email`. `None` when it is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (starts_at_contact, path) = match text.strip_prefix(CONTACT_PREFIX) {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let steps: Vec<_> = path
            .strip_prefix('/')?
            .split('/')
            .map(|step| step.replace("~1", "/").replace("~0", "~"))
            .map(|step| (step.parse().ok().filter(|at: &usize| at.to_string() == step), step))
            .map(|(at, step)| (step, at))
            .collect();
        let leads_to_people = steps.len() >= 2 && steps[0].0 == "customerProfile" && steps[1].0 == "team";
        Some(Pointer { starts_at_contact, is_personal: starts_at_contact || leads_to_people, steps })
    }

    fn resolve<'a>(&self, source: &Source<'a>) -> Option<&'a Value> {
        if self.is_personal && !source.may_contact {
            return None;
        }
        self.walk(if self.starts_at_contact { source.contacts.primary()? } else { &source.referral.document })
    }

    /// Follows the pointer in a document.
    pub(super) fn walk<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        self.steps.iter().try_fold(document, |value, (name, at)| match value {
            Value::Object(fields) => fields.get(name),
            Value::Array(items) => items.get((*at)?),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        })
    }
}

/// A value table. Words are found without regard to case.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table {
    words: BTreeMap<String, Value>,
}

impl Table {
    /// Prepares a configured table; the country table is filled up with all countries.
    pub(super) fn new(name: &str, configured: Option<&BTreeMap<String, Scalar>>) -> Self {
        let mut words: BTreeMap<String, Value> = configured
            .into_iter()
            .flatten()
            .map(|(word, meaning)| (word.trim().to_lowercase(), scalar(meaning)))
            .collect();
        if name == COUNTRY_TABLE {
            for country in country::all() {
                let (two, three) = (country.alpha2.to_lowercase(), country.alpha3.to_lowercase());
                let own = words.get(&two).or_else(|| words.get(&three)).cloned();
                let meaning = own.unwrap_or_else(|| Value::from(country.name));
                words.insert(two, meaning.clone());
                words.insert(three, meaning);
            }
        }
        Table { words }
    }

    /// What a word means; `None` when the table does not know it.
    pub(super) fn find(&self, word: &str) -> Option<&Value> {
        self.words.get(&word.trim().to_lowercase())
    }

    /// All meanings.
    pub(super) fn meanings(&self) -> impl Iterator<Item = &Value> {
        self.words.values()
    }

    /// Translates a word, or each word of a list. Unknown words survive.
    fn translate<'a>(&'a self, value: &'a Value) -> Cow<'a, Value> {
        match value {
            Value::String(word) => Cow::Borrowed(self.find(word).unwrap_or(value)),
            Value::Number(number) => Cow::Borrowed(self.find(number.as_str()).unwrap_or(value)),
            Value::Array(items) => {
                let translated = items.iter().map(|item| self.translate(item.get("id").unwrap_or(item)).into_owned());
                Cow::Owned(Value::Array(translated.collect()))
            }
            Value::Null | Value::Bool(_) | Value::Object(_) => Cow::Borrowed(value),
        }
    }
}

/// A configured scalar as JSON.
pub(super) fn scalar(scalar: &Scalar) -> Value {
    match scalar {
        Scalar::Integer(number) => Value::from(*number),
        Scalar::Text(text) => Value::from(text.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pointers_follow_names_positions_and_escapes() {
        let document = json!({"a": {"b/c": [1, {"d~e": 2}]}, "0": "zero"});
        let walk = |text: &str| Pointer::parse(text).and_then(|pointer| pointer.walk(&document).cloned());
        assert_eq!(walk("/a/b~1c/1/d~0e"), Some(json!(2)));
        assert_eq!(walk("/0"), Some(json!("zero")));
        assert_eq!(walk("/a/b~1c/01"), None);
        assert_eq!(walk("/a/b~1c/7"), None);
        assert_eq!(walk("/a/b~1c/x/y"), None);
        assert_eq!(Pointer::parse("name"), None);
        assert_eq!(Pointer::parse("@contact"), None);
    }

    #[test]
    fn pointers_to_people_are_known_as_such() {
        let is_personal = |text: &str| Pointer::parse(text).is_some_and(|pointer| pointer.is_personal);
        assert!(is_personal("@contact/email"));
        assert!(is_personal("/customerProfile/team/0/email"));
        assert!(!is_personal("/customerProfile/name"));
        assert!(!is_personal("/team/0/email"));
    }

    #[test]
    fn tables_translate_without_case_and_leave_unknown_words() {
        let configured = BTreeMap::from([("1to9employees".to_owned(), Scalar::Integer(1))]);
        let table = Table::new("employees", Some(&configured));
        assert_eq!(*table.translate(&json!("1To9Employees ")), json!(1));
        assert_eq!(*table.translate(&json!("aDozen")), json!("aDozen"));
        assert_eq!(*table.translate(&json!([{"id": "1to9employees"}, "b"])), json!([1, "b"]));
    }

    #[test]
    fn countries_are_known_by_two_and_three_letters_and_can_be_renamed() {
        let configured = BTreeMap::from([("DE".to_owned(), Scalar::Text("Deutschland".to_owned()))]);
        let table = Table::new(COUNTRY_TABLE, Some(&configured));
        for (code, name) in
            [("DE", "Deutschland"), ("deu", "Deutschland"), ("KOR", "South Korea"), ("us", "United States")]
        {
            assert_eq!(table.find(code), Some(&json!(name)), "{code}");
        }
        assert_eq!(table.find("XX"), None);
    }
}
