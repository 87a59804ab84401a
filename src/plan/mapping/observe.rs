//! The lead's side: what the service returned, in canonical form.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;

use super::canonical::{PRECISION_DEFAULT, canonical, canonical_of, from_decimal};
use super::compile::Recipe;
use super::text::looks_cut;
use super::{Group, GroupValue, Mapping};
use crate::model::{Column, Lead, LeadState, Opportunity, OpportunityState};
use crate::plan::settings::OpportunityField;
use crate::ports::ColumnKind;

/// Observes every group. See [`Mapping::observe`].
pub(super) fn observe(mapping: &Mapping, lead: &Lead, opportunities: Option<&[Opportunity]>) -> Vec<GroupValue> {
    let speaker = match lead.status.state {
        LeadState::Qualified => opportunities.and_then(speaker),
        LeadState::Open | LeadState::Disqualified => None,
    };
    mapping.groups.iter().map(|group| value(mapping, group, lead, speaker)).collect()
}

/// The opportunity that speaks for the deal: the won one, else the newest open one.
fn speaker(opportunities: &[Opportunity]) -> Option<&Opportunity> {
    let newest = |state: OpportunityState| {
        let in_state = opportunities.iter().filter(move |opportunity| opportunity.state == state);
        in_state.max_by_key(|opportunity| (opportunity.created, opportunity.id))
    };
    newest(OpportunityState::Won).or_else(|| newest(OpportunityState::Open))
}

fn value(mapping: &Mapping, group: &Group, lead: &Lead, speaker: Option<&Opportunity>) -> GroupValue {
    let spoken = speaker.and_then(|opportunity| spoken(group, opportunity)).unwrap_or_default();
    let raw = |recipe: &Recipe| spoken.get(&recipe.column).or_else(|| lead.columns.get(&recipe.column));
    let read = |recipe: &Recipe, precision| {
        raw(recipe).and_then(|value| canonical(recipe.kind, value, precision, &mapping.zone).ok().flatten())
    };
    let currency = group.recipes.iter().find(|recipe| recipe.kind == ColumnKind::Currency);
    let code = currency.and_then(|recipe| read(recipe, PRECISION_DEFAULT));
    let precision = code.as_ref().and_then(Value::as_str).and_then(|code| mapping.precision(code));
    let mut columns: BTreeMap<Column, Value> = group
        .recipes
        .iter()
        .filter_map(|recipe| Some((recipe.column.clone(), read(recipe, precision.unwrap_or(PRECISION_DEFAULT))?)))
        .collect();
    if let Some(currency) = currency {
        let mut amounts = group.recipes.iter().filter(|recipe| recipe.kind == ColumnKind::Money).peekable();
        // The CRM fills in a currency by itself: without an amount it says nothing.
        if amounts.peek().is_some() && !amounts.any(|recipe| columns.contains_key(&recipe.column)) {
            columns.remove(&currency.column);
        }
    }
    let is_cut = group.recipes.iter().any(|recipe| {
        let text = columns.get(&recipe.column).and_then(Value::as_str);
        recipe.kind == ColumnKind::Text && text.is_some_and(|text| looks_cut(text, recipe.length_max))
    });
    let fingerprint = mapping.prints.value(&group.name, &columns);
    GroupValue {
        is_empty: columns.is_empty(),
        columns,
        fingerprint,
        draft_fingerprint: fingerprint,
        is_cut,
        ..GroupValue::default()
    }
}

/// The fingerprint of one group of a lead that speaks for itself. See [`Mapping::fingerprint`].
pub(super) fn fingerprint(mapping: &Mapping, group: &Group, lead: &Lead) -> u64 {
    let read = |recipe: &Recipe, precision| {
        let value = Cow::Borrowed(lead.columns.get(&recipe.column)?);
        canonical_of(recipe.kind, value, precision, &mapping.zone).ok().flatten()
    };
    let currency = group.recipes.iter().find(|recipe| recipe.kind == ColumnKind::Currency);
    let code = currency.and_then(|recipe| read(recipe, PRECISION_DEFAULT));
    let precision = code.as_deref().and_then(Value::as_str).and_then(|code| mapping.precision(code));
    let precision = precision.unwrap_or(PRECISION_DEFAULT);
    let mut amounts = group.recipes.iter().filter(|recipe| recipe.kind == ColumnKind::Money).peekable();
    let is_without_amount =
        currency.is_some() && amounts.peek().is_some() && !amounts.any(|recipe| read(recipe, precision).is_some());
    let silent = currency.filter(|_| is_without_amount).map(|recipe| &recipe.column);
    // Recipes are in alphabetical order of their columns, as the columns of a value are.
    let said = group.recipes.iter().filter(|recipe| Some(&recipe.column) != silent);
    let said = said.filter_map(|recipe| Some((recipe.column.as_str(), read(recipe, precision)?)));
    mapping.prints.values(&group.name, said)
}

/// What the opportunity says in place of the lead; `None` when it leaves something open that belongs together.
fn spoken(group: &Group, opportunity: &Opportunity) -> Option<BTreeMap<Column, Value>> {
    let spoken_for = group.recipes.iter().filter_map(|recipe| Some((recipe, recipe.opportunity?)));
    spoken_for
        .map(|(recipe, field)| {
            let value = match field {
                OpportunityField::Value => from_decimal(opportunity.actual_value.or(opportunity.estimated_value)?),
                OpportunityField::Currency => Value::String(opportunity.currency.clone()?),
                OpportunityField::CloseDate => Value::String(opportunity.close_date.clone()?),
            };
            Some((recipe.column.clone(), value))
        })
        .collect()
}
