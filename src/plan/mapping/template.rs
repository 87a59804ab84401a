//! Templates over the referral: minijinja, compiled once, within strict limits.
//!
//! | name               | what it is                                              |
//! |--------------------|---------------------------------------------------------|
//! | `id`               | the referral's id                                       |
//! | `referral`         | the whole referral, as the service sent it              |
//! | `contact`          | the primary contact                                     |
//! | `further_contacts` | the other contacts                                      |
//! | `… | table("t")`   | a word translated by value table `t`                    |
//! | `… | words("t")`   | a list of codes as a sorted set of translated words     |
//!
//! What is missing prints nothing. Entities are decoded once, in the text that comes out. Without the consent to contact there are no
//! contacts in it, by no name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Object, ObjectRepr};
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde_json::Value;

use super::canonical::Misfit;
use super::contact::Contacts;
use super::expression::Table;
use crate::model::{Document, Referral};

/// Instructions one template may take; memory counts too, 64 bytes as one instruction.
pub const TEMPLATE_FUEL: u64 = 100_000;

/// How deep a template may nest.
pub const TEMPLATE_DEPTH_MAX: usize = 50;

/// The compiled templates of a mapping.
#[derive(Debug)]
pub(super) struct Templates {
    environment: Environment<'static>,
}

impl Templates {
    /// No templates yet. `tables` are at hand in all of them.
    pub(super) fn new(tables: &Arc<BTreeMap<String, Arc<Table>>>) -> Self {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_undefined_behavior(UndefinedBehavior::Chainable);
        environment.set_fuel(Some(TEMPLATE_FUEL));
        environment.set_recursion_limit(TEMPLATE_DEPTH_MAX);
        if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
            environment.set_syntax(syntax);
        }
        let at_hand = Arc::clone(tables);
        environment.add_filter("table", move |value: minijinja::Value, table: &str| {
            at_hand.get(table).map_or_else(|| value.clone(), |table| translate(table, &value))
        });
        let at_hand = Arc::clone(tables);
        environment.add_filter("words", move |list: minijinja::Value, table: &str| {
            words(at_hand.get(table).map(Arc::as_ref), &list)
        });
        Templates { environment }
    }

    /// Compiles a template under a name. The error says what is wrong with it.
    pub(super) fn add(&mut self, name: &str, source: &str) -> Result<(), String> {
        self.environment.add_template_owned(name.to_owned(), source.to_owned()).map_err(|error| error.to_string())
    }

    /// How many there are: gives the next one a name of its own.
    pub(super) fn count(&self) -> usize {
        self.environment.templates().count()
    }

    /// Evaluates a template. Nothing of the referral gets into the error.
    pub(super) fn render(&self, name: &str, scene: &Scene) -> Result<String, Misfit> {
        let template = self.environment.get_template(name).map_err(|_| Misfit::TemplateFailed)?;
        template.render(scene.0.clone()).map_err(|_| Misfit::TemplateFailed)
    }
}

fn translate(table: &Table, value: &minijinja::Value) -> minijinja::Value {
    match value.as_str().and_then(|word| table.find(word)) {
        Some(Value::String(meaning)) => minijinja::Value::from(meaning.as_str()),
        Some(Value::Number(number)) => minijinja::Value::from(number.as_str()),
        Some(_) | None => value.clone(),
    }
}

fn words(table: Option<&Table>, list: &minijinja::Value) -> String {
    let mut set = BTreeSet::new();
    for item in list.try_iter().into_iter().flatten() {
        let code = item.get_attr("id").ok().filter(|id| !id.is_undefined()).unwrap_or(item);
        let word = table.map_or_else(|| code.clone(), |table| translate(table, &code));
        if let Some(word) = word.as_str().map(str::trim).filter(|word| !word.is_empty()) {
            set.insert(word.to_owned());
        }
    }
    set.into_iter().collect::<Vec<_>>().join(", ")
}

/// What the templates see of one referral. It shares the document and converts only what is asked for.
pub(super) struct Scene(minijinja::Value);

impl Scene {
    /// Sets the scene.
    pub(super) fn new(referral: &Referral, contacts: &Contacts<'_>, may_contact: bool) -> Self {
        let root =
            |hides_people: bool| Arc::new(Place { document: referral.document.clone(), way: None, hides_people });
        let person = |position: Option<usize>| {
            let people = root(false).at(Step::Name(Arc::from("customerProfile"))).at(Step::Name(Arc::from("team")));
            minijinja::Value::from_dyn_object(position.map_or(people.clone(), |at| people.at(Step::At(at))))
        };
        let (contact, further_contacts) = if may_contact {
            (contacts.primary_position().map(person), contacts.further_positions().into_iter().map(person).collect())
        } else {
            (None, Vec::new())
        };
        Scene(minijinja::Value::from_object(Stage {
            id: minijinja::Value::from(referral.id.to_string()),
            referral: minijinja::Value::from_dyn_object(root(!may_contact)),
            contact: contact.unwrap_or(minijinja::Value::UNDEFINED),
            further_contacts: minijinja::Value::from(further_contacts),
        }))
    }
}

#[derive(Debug)]
struct Stage {
    id: minijinja::Value,
    referral: minijinja::Value,
    contact: minijinja::Value,
    further_contacts: minijinja::Value,
}

impl Object for Stage {
    fn get_value(self: &Arc<Self>, key: &minijinja::Value) -> Option<minijinja::Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<minijinja::Value> {
        match key {
            "id" => Some(self.id.clone()),
            "referral" => Some(self.referral.clone()),
            "contact" => Some(self.contact.clone()),
            "further_contacts" => Some(self.further_contacts.clone()),
            _ => None,
        }
    }
}

/// A container in the document, found again from its root each time: only the text that is asked for is copied.
#[derive(Debug)]
struct Place {
    document: Document,
    way: Option<(Arc<Place>, Step)>,
    hides_people: bool,
}

#[derive(Debug)]
enum Step {
    Name(Arc<str>),
    At(usize),
}

impl Place {
    fn value(&self) -> Option<&Value> {
        match &self.way {
            None => Some(&self.document),
            Some((parent, Step::Name(name))) => parent.value()?.get(name.as_ref()),
            Some((parent, Step::At(at))) => parent.value()?.get(*at),
        }
    }

    fn at(self: &Arc<Self>, step: Step) -> Arc<Place> {
        let way = Some((Arc::clone(self), step));
        Arc::new(Place { document: self.document.clone(), way, hides_people: self.hides_people })
    }

    /// A value in this place as templates see it: scalars are converted, containers stay where they are.
    fn look(self: &Arc<Self>, value: &Value, step: impl FnOnce() -> Step) -> minijinja::Value {
        match value {
            Value::Null => minijinja::Value::UNDEFINED,
            Value::Bool(claim) => minijinja::Value::from(*claim),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => minijinja::Value::from(whole),
                (None, Some(real)) => minijinja::Value::from(real),
                (None, None) => minijinja::Value::from(number.as_str()),
            },
            Value::String(text) => minijinja::Value::from(text.as_str()),
            Value::Array(_) | Value::Object(_) => minijinja::Value::from_dyn_object(self.at(step())),
        }
    }

    fn hides(&self, name: &str) -> bool {
        self.hides_people
            && name == "team"
            && matches!(&self.way, Some((root, Step::Name(own))) if root.way.is_none() && own.as_ref() == "customerProfile")
    }
}

impl Object for Place {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        if self.value().is_some_and(Value::is_array) { ObjectRepr::Seq } else { ObjectRepr::Map }
    }

    fn get_value(self: &Arc<Self>, key: &minijinja::Value) -> Option<minijinja::Value> {
        match key.as_str() {
            Some(name) => self.get_value_by_str(name),
            None => {
                let at = key.as_usize()?;
                Some(self.look(self.value()?.get(at)?, || Step::At(at)))
            }
        }
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<minijinja::Value> {
        let value = self.value()?.get(key)?;
        (!self.hides(key)).then(|| self.look(value, || Step::Name(Arc::from(key))))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.value() {
            Some(Value::Array(items)) => Enumerator::Seq(items.len()),
            Some(Value::Object(fields)) => Enumerator::Values(
                fields
                    .keys()
                    .filter(|name| !self.hides(name))
                    .map(|name| minijinja::Value::from(name.as_str()))
                    .collect(),
            ),
            _ => Enumerator::Empty,
        }
    }
}
