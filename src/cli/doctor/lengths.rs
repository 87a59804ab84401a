//! Whether each mapped text column is long enough for what the mapping may put into it. Pure.
//!
//! How long a customer's name may be is said nowhere. What is known: constants, words of value tables, ids; and for
//! everything that the built-in mapping reads too, the length that the product ships for it.

use crate::config::Settings;
use crate::crm::dataverse::contract::LEAD_COLUMNS;
use crate::plan::settings::toml_value::Scalar;
use crate::plan::settings::{ColumnSettings, MappingSettings};
use crate::ports::{ColumnKind, LeadSchema};

/// Pointers to ids, and how long these are.
const IDS: [&str; 3] = ["/id", "/engagementId", "/externalReferenceId"];
/// Characters of an id.
const ID_LENGTH: u32 = 36;

/// A column that is too short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    /// The configuration key of the column.
    pub key: String,
    /// Both lengths, and what comes of it.
    pub reason: String,
    /// The value is worth nothing when it is cut: a constant, a word, an id.
    pub is_exact: bool,
}

/// How long a value may be.
struct Need {
    units: u32,
    is_exact: bool,
    of: String,
}

/// How many text columns were judged, and those that are too short, by key.
pub fn short(mapping: &MappingSettings, schema: &LeadSchema) -> (usize, Vec<Short>) {
    let built_in = Settings::defaults().mapping;
    let (mut judged, mut found) = (0, Vec::new());
    for (group, settings) in mapping.groups.iter().filter(|(_, group)| group.enabled) {
        for (column, recipe) in settings.columns.iter().filter(|(_, recipe)| recipe.enabled) {
            let live = schema.columns.get(column).filter(|live| live.kind == ColumnKind::Text);
            let Some(takes) = live.and_then(|live| live.length_max) else { continue };
            judged += 1;
            let needs = needs(recipe, column, mapping, &built_in).into_iter().filter(|need| need.units > takes);
            // What is worth nothing when cut is told first.
            let Some(need) = needs.max_by_key(|need| (need.is_exact, need.units)) else { continue };
            let then = match (need.is_exact, mapping.overflow_column.as_str()) {
                (true, _) => "it would be cut".to_owned(),
                (false, "") => "longer texts are cut".to_owned(),
                (false, overflow) => format!("longer texts are cut, and kept whole in {overflow}"),
            };
            found.push(Short {
                key: format!("mapping.groups.{group}.columns.{column}"),
                reason: format!("{column} takes {takes} characters, and {} has {}: {then}", need.of, need.units),
                is_exact: need.is_exact,
            });
        }
    }
    (judged, found)
}

/// Everything known about the length of what a column may get. The first of constant, template and pointers counts, as in
/// the mapping itself.
fn needs(recipe: &ColumnSettings, column: &str, mapping: &MappingSettings, built_in: &MappingSettings) -> Vec<Need> {
    let mut needs = Vec::new();
    let mut constant = |scalar: &Option<Scalar>, of: &str| {
        if let Some(Scalar::Text(text)) = scalar {
            needs.push(Need { units: units(text), is_exact: true, of: of.to_owned() });
        }
    };
    constant(&recipe.value, "its constant value");
    constant(&recipe.default, "its default");
    if recipe.value.is_some() {
        return needs;
    }
    // How long a template becomes, only its data tell.
    let pointers: &[String] =
        if recipe.template.as_ref().is_some_and(|text| !text.is_empty()) { &[] } else { &recipe.from };
    if let Some(table) = &recipe.table {
        let words = mapping.tables.get(table).into_iter().flat_map(|table| table.values());
        let texts = words.filter_map(|word| match word {
            Scalar::Text(text) => Some(units(text)),
            Scalar::Integer(_) => None,
        });
        needs.extend(texts.max().map(|units| Need {
            units,
            is_exact: true,
            of: format!("the longest word of mapping.tables.{table}"),
        }));
        return needs;
    }
    // What is only taken for want of anything better may be cut.
    needs.extend(pointers.iter().filter_map(|pointer| {
        if IDS.contains(&pointer.as_str()) {
            return Some(Need { units: ID_LENGTH, is_exact: true, of: format!("an id ({pointer})") });
        }
        let (shipped, units) = counterpart(pointer, column, built_in)?;
        let of = if shipped == column {
            "the column as shipped".to_owned()
        } else {
            format!("{shipped}, for the same {pointer},")
        };
        Some(Need { units, is_exact: false, of })
    }));
    needs
}

/// The column, as shipped, that the built-in mapping fills from this pointer, and its length; the column itself before any
/// other.
fn counterpart<'a>(pointer: &str, column: &str, built_in: &'a MappingSettings) -> Option<(&'a str, u32)> {
    let columns = built_in.groups.values().flat_map(|group| &group.columns);
    let of_pointer = columns.filter(|(_, recipe)| recipe.from.iter().any(|from| from == pointer));
    let mut shipped: Vec<(&str, u32)> = of_pointer
        .filter_map(|(name, _)| {
            let known = LEAD_COLUMNS.iter().find(|known| known.name == name)?;
            Some((name.as_str(), known.length_max?))
        })
        .collect();
    shipped.sort_by_key(|(name, units)| (*name != column, *units));
    shipped.first().copied()
}

fn units(text: &str) -> u32 {
    u32::try_from(text.encode_utf16().count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::ColumnSchema;

    fn schema(columns: &[(&str, u32)]) -> LeadSchema {
        let text = |length: u32| ColumnSchema {
            kind: ColumnKind::Text,
            length_max: Some(length),
            options: None,
            is_required: false,
            is_creatable: true,
            is_updatable: true,
        };
        LeadSchema {
            columns: columns.iter().map(|(name, length)| ((*name).to_owned(), text(*length))).collect(),
            currencies: Default::default(),
            has_referral_column: false,
            is_key_active: true,
            status_codes: Default::default(),
        }
    }

    fn mapping(more: &str) -> MappingSettings {
        let place = tempfile::tempdir().expect("a directory");
        let file = place.path().join("referrald.toml");
        std::fs::write(&file, more).expect("written");
        let sources = crate::config::Sources { file: Some(file), ..Default::default() };
        Settings::load(&sources).unwrap_or_else(|problems| panic!("{problems}")).settings.mapping
    }

    #[test]
    fn columns_as_shipped_are_long_enough() {
        let shipped: Vec<(&str, u32)> =
            LEAD_COLUMNS.iter().filter_map(|column| Some((column.name, column.length_max?))).collect();
        let (judged, found) = short(&mapping(""), &schema(&shipped));
        assert_eq!(found, vec![]);
        assert!(judged > 10, "{judged}");
    }

    #[test]
    fn each_kind_of_value_is_compared_with_the_column_it_goes_to() {
        let mapping = mapping(
            "[mapping.tables.kinds]\nA = \"short\"\nB = \"quite a long word\"\n\
             [mapping.groups.extra]\nowner = \"crm\"\n[mapping.groups.extra.columns]\n\
             new_id = { from = [\"/id\"] }\nnew_kind = { from = [\"/type\"], table = \"kinds\" }\n\
             new_word = { value = \"partner lead\" }\nnew_customer = { from = [\"/customerProfile/name\"] }\n\
             new_unknown = { from = [\"/details/other\"] }\nnew_text = { template = \"{{ referral.name }} by Microsoft\" }\n",
        );
        let names = ["new_id", "new_kind", "new_word", "new_customer", "new_unknown", "new_text", "companyname"];
        let (judged, found) = short(&mapping, &schema(&names.map(|name| (name, 10))));
        let lines: Vec<String> = found.iter().map(|short| format!("{} ({})", short.reason, short.is_exact)).collect();
        assert_eq!(
            lines,
            [
                "companyname takes 10 characters, and the column as shipped has 100: longer texts are cut, and kept whole \
                 in description (false)",
                "new_customer takes 10 characters, and companyname, for the same /customerProfile/name, has 100: longer \
                 texts are cut, and kept whole in description (false)",
                "new_id takes 10 characters, and an id (/id) has 36: it would be cut (true)",
                "new_kind takes 10 characters, and the longest word of mapping.tables.kinds has 17: it would be cut (true)",
                "new_word takes 10 characters, and its constant value has 12: it would be cut (true)",
            ]
        );
        assert_eq!((judged, found[0].key.as_str()), (7, "mapping.groups.company.columns.companyname"));
        assert_eq!(short(&mapping, &schema(&names.map(|name| (name, 100)))).1, vec![]);
    }
}
