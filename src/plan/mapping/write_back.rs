//! The way back: a lead's value becomes operations on the referral.

use jiff::civil::Date;
use serde_json::Value;

use super::canonical::{PRECISION_DEFAULT, canonical};
use super::compile::Recipe;
use super::text::fit;
use super::{Group, GroupValue, Mapping};
use crate::model::{Column, Operation, Referral, Timestamp};
use crate::ports::ColumnKind;

/// Why a lead's value is not written back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unwritable {
    /// The group only goes from the referral to the lead.
    OneWay,
    /// The lead has no value: nothing is erased over there.
    Empty {
        /// The empty column.
        column: Column,
    },
    /// The lead only holds the beginning of the text.
    Cut {
        /// The column that was cut.
        column: Column,
    },
}

impl std::fmt::Display for Unwritable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unwritable::OneWay => f.write_str("the group is not written back"),
            Unwritable::Empty { column } => write!(f, "the lead's {column} is empty"),
            Unwritable::Cut { column } => write!(f, "the lead's {column} was cut to fit"),
        }
    }
}

/// Makes the operations. See [`Mapping::write_back`].
pub(super) fn write_back(
    mapping: &Mapping,
    group: &Group,
    lead_side: &GroupValue,
    referral: Option<&Referral>,
) -> Result<Vec<Operation>, Unwritable> {
    let code = group.recipes.iter().find(|recipe| recipe.kind == ColumnKind::Currency);
    let code = code.and_then(|recipe| lead_side.columns.get(&recipe.column)).and_then(Value::as_str);
    let precision = code.and_then(|code| mapping.precision(code)).unwrap_or(PRECISION_DEFAULT);
    let mut operations = Vec::new();
    let mut is_one_way = true;
    for recipe in &group.recipes {
        let Some((path, pointer)) = &recipe.write_back else {
            continue;
        };
        is_one_way = false;
        let column = &recipe.column;
        let value = lead_side.columns.get(column).ok_or_else(|| Unwritable::Empty { column: column.clone() })?;
        let theirs = referral.and_then(|referral| pointer.walk(&referral.document));
        let theirs = theirs.and_then(|raw| canonical(recipe.kind, raw, precision, &mapping.zone).ok().flatten());
        if theirs.as_ref() == Some(value) {
            continue;
        }
        if recipe.kind == ColumnKind::Text && (lead_side.is_cut || does_not_fit(recipe, theirs.as_ref())) {
            return Err(Unwritable::Cut { column: column.clone() });
        }
        operations.push(Operation { path: path.clone(), value: outward(mapping, recipe, value) });
    }
    if is_one_way { Err(Unwritable::OneWay) } else { Ok(operations) }
}

/// The referral's text is longer than the lead's column: what the lead holds began as a part of it.
fn does_not_fit(recipe: &Recipe, theirs: Option<&Value>) -> bool {
    theirs.and_then(Value::as_str).is_some_and(|text| fit(text, recipe.length_max).1)
}

/// A date goes out as the beginning of that day in the zone; all else as it is.
fn outward(mapping: &Mapping, recipe: &Recipe, value: &Value) -> Value {
    match (recipe.kind, value) {
        (ColumnKind::Date, Value::String(day)) => day
            .parse::<Date>()
            .and_then(|day| day.to_zoned(mapping.zone.clone()))
            .map(|midnight| Value::String(Timestamp::from(midnight.timestamp()).to_string()))
            .unwrap_or_else(|_| value.clone()),
        _ => value.clone(),
    }
}
