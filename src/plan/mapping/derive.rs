//! The referral's side: expressions evaluated, brought into form, made to fit.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;

use super::canonical::{Misfit, PRECISION_DEFAULT, canonical, canonical_of, to_decimal};
use super::compile::{Recipe, is_option};
use super::contact::Contacts;
use super::expression::{Expression, Source};
use super::text::{cut, fit, units};
use super::{Derived, Group, GroupValue, Mapping, Skipped};
use crate::model::{Column, Referral};
use crate::ports::ColumnKind;

/// Between two parts of the description.
const PARAGRAPH: &str = "\n\n";

/// Derives every group, or only those `wanted`. See [`Mapping::derive`] and [`Mapping::derive_linked`].
pub(super) fn derive(
    mapping: &Mapping,
    referral: &Referral,
    sticky: Option<u32>,
    may_contact: bool,
    wanted: impl Fn(&Group) -> bool,
) -> Derived {
    let contacts = if may_contact { Contacts::of(referral, sticky, &mapping.prints) } else { Contacts::default() };
    // Without consent the mark is kept: the same person comes back with the consent.
    let primary_contact = if may_contact { contacts.mark(&mapping.prints) } else { sticky };
    let source = Source::new(referral, contacts, may_contact);
    let mut parts: Vec<Option<Part>> = mapping
        .groups
        .iter()
        .map(|group| match group.is_contact && !may_contact {
            _ if !wanted(group) => None,
            true => Some(without_consent(mapping, group, &source)),
            false => Some(part(mapping, group, &source)),
        })
        .collect();
    let kept_whole = keep_whole(mapping, &mut parts);
    let groups = mapping.groups.iter().zip(parts).map(|(group, part)| match part {
        Some(part) => finish(mapping, group, part, kept_whole.as_deref()),
        None => GroupValue::default(),
    });
    let groups = groups.collect();
    Derived { groups, primary_contact }
}

/// Compares the draft with the lead. See [`Mapping::changes`].
pub(super) fn changes(
    mapping: &Mapping,
    group: &Group,
    referral_side: &GroupValue,
    lead_side: &GroupValue,
) -> BTreeMap<Column, Value> {
    let differs = |recipe: &&Recipe| {
        let Some(draft) = referral_side.draft.get(&recipe.column) else {
            return false;
        };
        let expected = as_returned(mapping, recipe, draft);
        expected.as_deref() != lead_side.columns.get(&recipe.column)
    };
    let is_amount = |recipe: &Recipe| matches!(recipe.kind, ColumnKind::Money | ColumnKind::Currency);
    let changed: Vec<&Recipe> = group.recipes.iter().filter(differs).collect();
    let amount_changed = changed.iter().any(|recipe| is_amount(recipe));
    group
        .recipes
        .iter()
        .filter(|recipe| {
            (amount_changed && is_amount(recipe)) || changed.iter().any(|other| other.column == recipe.column)
        })
        .filter_map(|recipe| Some((recipe.column.clone(), referral_side.draft.get(&recipe.column)?.clone())))
        .collect()
}

/// A group's canonical values on the way to a [`GroupValue`].
#[derive(Default)]
struct Part {
    columns: BTreeMap<Column, Value>,
    /// Only for the draft: fallbacks of required columns without consent.
    required: BTreeMap<Column, Value>,
    has_own_value: bool,
    /// No value was found and nothing is wrong: these columns are cleared.
    is_clearing: bool,
    skipped: Vec<Skipped>,
    blocked: Option<String>,
}

fn part(mapping: &Mapping, group: &Group, source: &Source<'_>) -> Part {
    let mut part = Part { is_clearing: true, blocked: group.blocked.clone(), ..Part::default() };
    let currency = group.recipes.iter().find(|recipe| recipe.kind == ColumnKind::Currency);
    let found_currency = currency.map(|recipe| known_currency(mapping, recipe, source));
    let (precision, misfit) = match &found_currency {
        Some(Ok(Some((_, precision)))) => (*precision, None),
        Some(Ok(None)) => (PRECISION_DEFAULT, Some(Misfit::AmountWithoutCurrency)),
        Some(Err(misfit)) => (PRECISION_DEFAULT, Some(*misfit)),
        None => (PRECISION_DEFAULT, None),
    };
    let mut amounts = 0;
    let mut has_money = false;
    for recipe in group.recipes.iter().filter(|recipe| recipe.kind != ColumnKind::Currency) {
        let mut found = value(mapping, recipe, source, precision);
        if recipe.kind == ColumnKind::Money {
            has_money = true;
            if let Ok(Some(_)) = found {
                amounts += 1;
                // Never an amount in a wrong or unknown currency.
                found = misfit.map_or(found, Err);
            }
        }
        part.take(group, recipe, found);
    }
    if let (Some(recipe), Some(found)) = (currency, found_currency) {
        let found = found.map(|found| found.map(|(value, _)| value));
        match misfit {
            // A currency without an amount says nothing.
            _ if has_money && amounts == 0 => {}
            Some(misfit) if has_money => part.take(group, recipe, Err(misfit)),
            Some(_) | None => part.take(group, recipe, found),
        }
    }
    part
}

/// The currency of a group with its decimal places; one that the organization lacks is a misfit.
#[expect(clippy::type_complexity, reason = "a value, whether it is its own, and the places that go with it")]
fn known_currency(
    mapping: &Mapping,
    recipe: &Recipe,
    source: &Source<'_>,
) -> Result<Option<((Value, bool), u32)>, Misfit> {
    let Some((code, is_own)) = value(mapping, recipe, source, PRECISION_DEFAULT)? else {
        return Ok(None);
    };
    let precision = code.as_str().and_then(|code| mapping.precision(code)).ok_or(Misfit::UnknownCurrency)?;
    Ok(Some(((code, is_own), precision)))
}

/// A contact group without the consent to contact: nothing but what a new lead cannot do without.
fn without_consent(mapping: &Mapping, group: &Group, source: &Source<'_>) -> Part {
    let mut part = Part { blocked: group.blocked.clone(), ..Part::default() };
    for recipe in group.recipes.iter().filter(|recipe| recipe.is_required) {
        match first(mapping, recipe, &recipe.fallbacks, source, PRECISION_DEFAULT) {
            Ok(Some(value)) => {
                part.required.insert(recipe.column.clone(), value);
            }
            Ok(None) => part.block(group, recipe, None),
            Err(misfit) => part.block(group, recipe, Some(misfit)),
        }
    }
    part
}

impl Part {
    fn take(&mut self, group: &Group, recipe: &Recipe, found: Result<Option<(Value, bool)>, Misfit>) {
        match found {
            Ok(Some((value, is_own))) => {
                self.has_own_value |= is_own;
                self.columns.insert(recipe.column.clone(), value);
            }
            Ok(None) if recipe.is_required => self.block(group, recipe, None),
            Ok(None) => {}
            Err(reason) => {
                self.skipped.push(Skipped { column: recipe.column.clone(), reason });
                if recipe.is_required {
                    self.block(group, recipe, Some(reason));
                }
            }
        }
    }

    fn block(&mut self, group: &Group, recipe: &Recipe, misfit: Option<Misfit>) {
        let because = misfit.map(|misfit| format!(": {misfit}")).unwrap_or_default();
        let reason = format!("{}: the required column {} has no usable value{because}", group.name, recipe.column);
        self.blocked.get_or_insert(reason);
    }
}

/// The value of one column and whether it is its own (not a fallback).
fn value(
    mapping: &Mapping,
    recipe: &Recipe,
    source: &Source<'_>,
    precision: u32,
) -> Result<Option<(Value, bool)>, Misfit> {
    let own = first(mapping, recipe, &recipe.sources, source, precision);
    if let Ok(Some(value)) = own {
        return Ok(Some((value, true)));
    }
    match first(mapping, recipe, &recipe.fallbacks, source, precision) {
        Ok(Some(value)) => Ok(Some((value, false))),
        Ok(None) => own.map(|_| None),
        Err(misfit) => Err(own.err().unwrap_or(misfit)),
    }
}

/// The first expression that gives a usable value; else the first trouble met on the way.
fn first(
    mapping: &Mapping,
    recipe: &Recipe,
    expressions: &[Expression],
    source: &Source<'_>,
    precision: u32,
) -> Result<Option<Value>, Misfit> {
    let mut trouble = None;
    for expression in expressions {
        let found = expression.evaluate(source, &mapping.templates).and_then(|raw| match raw {
            Some(raw) => Ok(canonical_of(recipe.kind, raw, precision, &mapping.zone)?.map(Cow::into_owned)),
            None => Ok(None),
        });
        match found.and_then(|value| match value {
            Some(value) => within(recipe, value),
            None => Ok(None),
        }) {
            Ok(Some(value)) => return Ok(Some(value)),
            Ok(None) => {}
            Err(misfit) => trouble = trouble.or(Some(misfit)),
        }
    }
    trouble.map_or(Ok(None), Err)
}

/// Below `min`: no value. Above `max`, or no option of the choice: a misfit.
fn within(recipe: &Recipe, value: Value) -> Result<Option<Value>, Misfit> {
    if let (Some(options), Some(code), ColumnKind::Choice) = (&recipe.options, value.as_i64(), recipe.kind) {
        return if is_option(options, code) { Ok(Some(value)) } else { Err(Misfit::UnknownOption) };
    }
    if recipe.min.is_none() && recipe.max.is_none() {
        return Ok(Some(value));
    }
    match to_decimal(&value) {
        Some(number) if recipe.min.is_some_and(|min| number < min) => Ok(None),
        Some(number) if recipe.max.is_some_and(|max| number > max) => Err(Misfit::OutOfRange),
        Some(_) | None => Ok(Some(value)),
    }
}

/// Appends texts that will be cut elsewhere to the column that keeps them whole; returns what was appended.
fn keep_whole(mapping: &Mapping, parts: &mut [Option<Part>]) -> Option<String> {
    let (group_at, recipe_at) = mapping.overflow?;
    let keeper = &mapping.groups.get(group_at)?.recipes.get(recipe_at)?.column;
    if parts.get(group_at)?.as_ref().is_none_or(|part| !part.is_clearing) {
        return None;
    }
    let mut sections = String::new();
    for (group, part) in
        mapping.groups.iter().zip(parts.iter()).filter_map(|(group, part)| Some((group, part.as_ref()?)))
    {
        for recipe in group.recipes.iter().filter(|recipe| recipe.kind == ColumnKind::Text && &recipe.column != keeper)
        {
            let Some(Value::String(text)) =
                part.columns.get(&recipe.column).or_else(|| part.required.get(&recipe.column))
            else {
                continue;
            };
            if fit(text, recipe.length_max).1 {
                if !sections.is_empty() {
                    sections.push_str(PARAGRAPH);
                }
                sections.push_str(&format!("Full {}: {text}", recipe.column));
            }
        }
    }
    if sections.is_empty() {
        return None;
    }
    let columns = &mut parts.get_mut(group_at)?.as_mut()?.columns;
    let whole = match columns.get(keeper) {
        Some(Value::String(text)) => format!("{text}{PARAGRAPH}{sections}"),
        Some(_) | None => sections.clone(),
    };
    columns.insert(keeper.clone(), Value::String(whole));
    Some(sections)
}

fn finish(mapping: &Mapping, group: &Group, part: Part, kept_whole: Option<&str>) -> GroupValue {
    let mut draft = BTreeMap::new();
    let mut is_cut = false;
    for recipe in &group.recipes {
        let column = &recipe.column;
        let written = match part.columns.get(column).or_else(|| part.required.get(column)) {
            Some(Value::String(text)) if recipe.kind == ColumnKind::Text => {
                let (text, was_cut) = match kept_whole.filter(|_| is_overflow(mapping, group, recipe)) {
                    Some(sections) => fit_around(text, sections, recipe.length_max),
                    None => {
                        let (text, was_cut) = fit(text, recipe.length_max);
                        (text.into_owned(), was_cut)
                    }
                };
                is_cut |= was_cut;
                Value::String(text)
            }
            Some(value) => value.clone(),
            None if !part.is_clearing || recipe.skip_if_empty || recipe.is_required => continue,
            None if recipe.kind == ColumnKind::Currency => continue,
            None if part.skipped.iter().any(|skipped| &skipped.column == column) => continue,
            None => Value::Null,
        };
        draft.insert(column.clone(), written);
    }
    // Recipes and drafts are both in alphabetical order of their columns.
    let returned = group.recipes.iter().filter_map(|recipe| {
        let written = draft.get(&recipe.column)?;
        Some((recipe.column.as_str(), as_returned(mapping, recipe, written)?))
    });
    let fingerprint = mapping.prints.value(&group.name, &part.columns);
    // Mostly the whole value is what is written, and texts are long: to compare them is less work than to hash them again.
    let whole = part.columns.iter().map(|(column, value)| (column.as_str(), Cow::Borrowed(value)));
    let draft_fingerprint = match returned.clone().eq(whole) {
        true => fingerprint,
        false => mapping.prints.values(&group.name, returned),
    };
    GroupValue {
        fingerprint,
        draft_fingerprint,
        columns: part.columns,
        draft,
        is_empty: !part.has_own_value,
        is_cut,
        skipped: part.skipped,
        blocked: part.blocked,
    }
}

/// What the service will return for a written value, as the lead's side reads it. Null reads as nothing.
///
/// Drafts are canonical already; only entities that are left in a text are decoded once more.
fn as_returned<'a>(mapping: &Mapping, recipe: &Recipe, written: &'a Value) -> Option<Cow<'a, Value>> {
    match written {
        Value::Null => None,
        Value::String(text) if recipe.kind == ColumnKind::Text && text.contains('&') => {
            canonical(recipe.kind, written, PRECISION_DEFAULT, &mapping.zone).ok().flatten().map(Cow::Owned)
        }
        _ => Some(Cow::Borrowed(written)),
    }
}

fn is_overflow(mapping: &Mapping, group: &Group, recipe: &Recipe) -> bool {
    mapping.overflow.is_some_and(|(group_at, recipe_at)| {
        let keeper = mapping.groups.get(group_at);
        keeper.is_some_and(|keeper| {
            keeper.name == group.name && keeper.recipes.get(recipe_at).is_some_and(|it| it.column == recipe.column)
        })
    })
}

/// Makes a composed text fit by cutting what stands before the sections, as long as the sections fit themselves.
fn fit_around(whole: &str, sections: &str, units_max: Option<usize>) -> (String, bool) {
    let room = units_max.and_then(|max| max.checked_sub(units(sections) + units(PARAGRAPH)));
    let composed = whole.strip_suffix(sections).map(str::trim_end).filter(|composed| !composed.is_empty());
    match (units_max, room, composed) {
        (Some(max), Some(room), Some(composed)) if units(whole) > max && room > 0 => {
            let kept = cut(composed, room).unwrap_or_else(|| composed.to_owned());
            (format!("{kept}{PARAGRAPH}{sections}"), true)
        }
        _ => {
            let (text, was_cut) = fit(whole, units_max);
            (text.into_owned(), was_cut)
        }
    }
}
