//! From settings and the live schema to recipes; what does not fit is named and left out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::tz::TimeZone;
use rust_decimal::Decimal;
use serde_json::Value;

use super::canonical::canonical;
use super::expression::{COUNTRY_TABLE, Expression, Pointer, Table, scalar};
use super::fingerprint::{Fingerprints, SettingsHash};
use super::owner::Owners;
use super::template::Templates;
use super::{Group, Mapping};
use crate::model::Column;
use crate::plan::settings::{ColumnSettings, GroupSettings, MappingSettings, OpportunityField, WriteWhen};
use crate::ports::{ColumnKind, ColumnSchema, LeadSchema};

/// Referral paths that a mapping may write back: those of the service's list (partner-center §1.8) that are plain
/// fields. Status, lead id, teams and consent have rules of their own and are never a mapping's business.
pub const WRITE_BACK_PATHS: [&str; 7] = [
    "/campaignId",
    "/details/closingDateTime",
    "/details/currency",
    "/details/dealValue",
    "/details/notes",
    "/referralProgram",
    "/salesStage",
];

/// Something in the mapping that does not fit the organization, or does not make sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingProblem {
    /// The configuration key, for example `mapping.groups.contact.columns.jobtitle`.
    pub key: String,
    /// What is wrong and what to do about it.
    pub reason: String,
    /// Every lead becomes a dead letter until it is mended. Otherwise the column is left out, and leads go on.
    pub is_blocking: bool,
}

/// How the key of every problem begins.
pub const KEY_PREFIX: &str = "mapping.";

impl std::fmt::Display for MappingProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.reason)
    }
}

/// How one column gets its value.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub(super) column: Column,
    pub(super) kind: ColumnKind,
    pub(super) length_max: Option<usize>,
    pub(super) options: Option<BTreeSet<i32>>,
    pub(super) sources: Vec<Expression>,
    pub(super) fallbacks: Vec<Expression>,
    pub(super) skip_if_empty: bool,
    pub(super) min: Option<Decimal>,
    pub(super) max: Option<Decimal>,
    pub(super) is_required: bool,
    pub(super) write_back: Option<(String, Pointer)>,
    pub(super) opportunity: Option<OpportunityField>,
}

/// Compiles the whole mapping. See [`Mapping::compile`].
pub(super) fn compile(
    settings: &MappingSettings,
    schema: &LeadSchema,
    key: [u8; 16],
) -> (Mapping, Vec<MappingProblem>) {
    let mut problems = Problems(Vec::new());
    let zone = TimeZone::get(&settings.closing_date_zone).unwrap_or_else(|_| {
        problems.add("mapping.closing_date_zone", "there is no such time zone; UTC is used", false);
        TimeZone::UTC
    });
    let prints = Fingerprints::new(&key);
    let mut tables: BTreeMap<String, Arc<Table>> =
        settings.tables.iter().map(|(name, words)| (name.clone(), Arc::new(Table::new(name, Some(words))))).collect();
    tables.entry(COUNTRY_TABLE.to_owned()).or_insert_with(|| Arc::new(Table::new(COUNTRY_TABLE, None)));
    let tables = Arc::new(tables);
    let mut workshop = Workshop {
        settings,
        schema,
        zone: &zone,
        templates: Templates::new(&tables),
        tables,
        problems: &mut problems,
        taken: BTreeMap::new(),
    };
    let mut groups = Vec::new();
    for (name, group) in settings.groups.iter().filter(|(_, group)| group.enabled) {
        groups.push(workshop.group(name, group, &prints));
    }
    let templates = workshop.templates;
    let mapped: BTreeSet<&str> =
        groups.iter().flat_map(|group: &Group| &group.recipes).map(|recipe| recipe.column.as_str()).collect();
    for (column, _) in
        schema.columns.iter().filter(|(column, live)| live.is_required && !mapped.contains(column.as_str()))
    {
        let reason = format!("the organization requires the lead column `{column}`, which no group fills; map it");
        problems.add("mapping.groups", &reason, false);
    }
    let mut keys = BTreeSet::new();
    for group in groups.iter_mut().filter(|group| !keys.insert(group.key)) {
        problems.add(&group_key(&group.name), "its key in the ledger is another group's too; rename it", true);
        group.blocked.get_or_insert(format!("{}: its key in the ledger is another group's too", group.name));
    }
    let mut columns: BTreeSet<Column> = groups.iter().flat_map(|group| group.columns.iter().cloned()).collect();
    if let Some(mark) = &settings.consent_mark_column {
        match schema.columns.get(mark) {
            Some(live) if live.kind == ColumnKind::Boolean && live.is_updatable => {
                columns.insert(mark.clone());
            }
            Some(_) => problems.add("mapping.consent_mark_column", "the column cannot be set to true", false),
            None => problems.add("mapping.consent_mark_column", "the organization has no such lead column", false),
        }
    }
    let overflow = groups.iter().enumerate().find_map(|(at, group)| {
        let is_it = |recipe: &Recipe| recipe.column == settings.overflow_column && recipe.kind == ColumnKind::Text;
        group.recipes.iter().position(is_it).map(|recipe| (at, recipe))
    });
    let owners = Owners::new(&settings.owners, settings.fallback_owner);
    let currencies = schema.currencies.clone();
    (Mapping { groups, columns, templates, zone, currencies, owners, prints, overflow }, problems.0)
}

struct Problems(Vec<MappingProblem>);

impl Problems {
    fn add(&mut self, key: &str, reason: &str, is_blocking: bool) {
        self.0.push(MappingProblem { key: key.to_owned(), reason: reason.to_owned(), is_blocking });
    }
}

/// What is at hand while groups are compiled.
struct Workshop<'a> {
    settings: &'a MappingSettings,
    schema: &'a LeadSchema,
    zone: &'a TimeZone,
    templates: Templates,
    tables: Arc<BTreeMap<String, Arc<Table>>>,
    problems: &'a mut Problems,
    /// Which group writes a column: no column has two.
    taken: BTreeMap<Column, String>,
}

impl Workshop<'_> {
    fn group(&mut self, name: &str, group: &GroupSettings, prints: &Fingerprints) -> Group {
        let mut recipes = Vec::new();
        let mut blocked = None;
        for (column, settings) in group.columns.iter().filter(|(_, column)| column.enabled) {
            match self.recipe(name, group, column, settings) {
                Ok(recipe) => recipes.push(recipe),
                Err(reason) => {
                    self.problems.add(&format!("{}.columns.{column}", group_key(name)), &reason, settings.is_required);
                    if settings.is_required && blocked.is_none() {
                        blocked = Some(format!("{name}: the required column {column} cannot be written"));
                    }
                }
            }
        }
        self.check_names(name, group, &recipes);
        self.leave_out_amounts(name, group, &mut recipes, &mut blocked);
        self.check_amounts(name, &mut recipes);
        Group {
            name: name.to_owned(),
            key: prints.group(name),
            mapping_hash: self.hash(group, &recipes),
            owner: group.owner,
            write: group.write,
            is_contact: group.is_contact,
            mentions_contacts: mentions(group, &CONTACT_WORDS),
            mentions_status: mentions(group, &STATUS_WORDS),
            is_two_way: recipes.iter().any(|recipe| recipe.write_back.is_some()),
            columns: recipes.iter().map(|recipe| recipe.column.clone()).collect(),
            blocked,
            recipes,
        }
    }

    fn recipe(
        &mut self,
        name: &str,
        group: &GroupSettings,
        column: &str,
        settings: &ColumnSettings,
    ) -> Result<Recipe, String> {
        let live = self.schema.columns.get(column).ok_or_else(|| {
            format!("the organization has no lead column `{column}`; create it, or set enabled = false")
        })?;
        check_writable(column, live, group.write)?;
        if let Some(other) = self.taken.get(column) {
            return Err(format!("the group `{other}` writes this column already; switch one of the two off"));
        }
        let options = live.options.as_ref().map(|options| options.iter().copied().collect::<BTreeSet<_>>());
        let table = match settings.table.as_deref() {
            Some(table) => Some(self.tables.get(table).cloned().ok_or_else(|| format!("there is no table `{table}`"))?),
            None => None,
        };
        let place = format!("{}.columns.{column}", group_key(name));
        let mut expressions = Vec::new();
        if let Some(constant) = &settings.value {
            expressions.push(self.constant(scalar(constant), live, options.as_ref())?);
        } else if let Some(template) = settings.template.as_deref().filter(|template| !template.trim().is_empty()) {
            expressions.push(self.template(&place, template)?);
        } else {
            for text in &settings.from {
                expressions.push(self.expression(&place, text, table.as_ref())?);
            }
        }
        let mut fallbacks = Vec::new();
        for text in &settings.fallback {
            fallbacks.push(self.expression(&place, text, table.as_ref())?);
        }
        if let Some(constant) = &settings.default {
            fallbacks.push(self.constant(scalar(constant), live, options.as_ref())?);
        }
        if expressions.is_empty() && fallbacks.is_empty() {
            return Err("it has no source; give it `from`, `template` or `value`".to_owned());
        }
        if let (Some(table), Some(options), ColumnKind::Choice) = (&table, &options, live.kind) {
            let is_unknown = |meaning: &&Value| !meaning.as_i64().is_some_and(|code| is_option(options, code));
            if let Some(meaning) = table.meanings().find(is_unknown) {
                let reason =
                    format!("its table leads to {meaning}, which is no option of the column; such values are skipped");
                self.problems.add(&format!("{}.columns.{column}", group_key(name)), &reason, false);
            }
        }
        let write_back = self.write_back(name, group, column);
        self.taken.insert(column.to_owned(), name.to_owned());
        Ok(Recipe {
            column: column.to_owned(),
            kind: live.kind,
            length_max: live.length_max.map(|units| usize::try_from(units).unwrap_or(usize::MAX)),
            options,
            sources: expressions,
            fallbacks,
            skip_if_empty: settings.skip_if_empty,
            min: limit(settings.min, "min")?,
            max: limit(settings.max, "max")?,
            is_required: settings.is_required || live.is_required,
            write_back,
            opportunity: group.opportunity.get(column).copied(),
        })
    }

    fn expression(&mut self, place: &str, text: &str, table: Option<&Arc<Table>>) -> Result<Expression, String> {
        if text.contains("{{") || text.contains("{%") {
            return self.template(place, text);
        }
        match Pointer::parse(text) {
            Some(pointer) => Ok(Expression::Pointer(pointer, table.cloned())),
            None => Err(format!(
                "`{text}` is neither a pointer (\"/details/notes\", \"@contact/email\") nor a template (\"{{{{ … }}}}\")"
            )),
        }
    }

    fn template(&mut self, place: &str, source: &str) -> Result<Expression, String> {
        let name = format!("{place}#{}", self.templates.count());
        self.templates.add(&name, source).map_err(|error| format!("the template cannot be used: {error}"))?;
        Ok(Expression::Template(name))
    }

    fn constant(
        &self,
        value: Value,
        live: &ColumnSchema,
        options: Option<&BTreeSet<i32>>,
    ) -> Result<Expression, String> {
        let fits = match canonical(live.kind, &value, 0, self.zone) {
            Ok(Some(canonical)) if live.kind == ColumnKind::Choice => {
                canonical.as_i64().is_some_and(|code| options.is_none_or(|options| is_option(options, code)))
            }
            Ok(_) => true,
            Err(_) => false,
        };
        if fits { Ok(Expression::Constant(value)) } else { Err(format!("{value} is no value this column can take")) }
    }

    fn write_back(&mut self, name: &str, group: &GroupSettings, column: &str) -> Option<(String, Pointer)> {
        let path = group.write_back.get(column)?;
        if !WRITE_BACK_PATHS.contains(&path.as_str()) {
            let reason = format!("`{path}` cannot be written back; possible are {}", WRITE_BACK_PATHS.join(", "));
            self.problems.add(&format!("{}.write_back.{column}", group_key(name)), &reason, false);
            return None;
        }
        Pointer::parse(path).map(|pointer| (path.clone(), pointer))
    }

    fn check_names(&mut self, name: &str, group: &GroupSettings, recipes: &[Recipe]) {
        let known = |column: &String| recipes.iter().any(|recipe| &recipe.column == column);
        let tables = [
            ("write_back", group.write_back.keys().collect::<Vec<_>>()),
            ("opportunity", group.opportunity.keys().collect()),
        ];
        for (table, columns) in tables {
            for column in columns.into_iter().filter(|column| !known(column) && !group.columns.contains_key(*column)) {
                let reason = format!("the group has no column `{column}`");
                self.problems.add(&format!("{}.{table}.{column}", group_key(name)), &reason, false);
            }
        }
    }

    /// An amount is never sent without its currency: the service would take it in one of its own (dataverse §2.2).
    fn leave_out_amounts(
        &mut self,
        name: &str,
        group: &GroupSettings,
        recipes: &mut Vec<Recipe>,
        blocked: &mut Option<String>,
    ) {
        if recipes.iter().any(|recipe| recipe.kind == ColumnKind::Currency) {
            return;
        }
        for recipe in recipes.extract_if(.., |recipe| recipe.kind == ColumnKind::Money) {
            let column = &recipe.column;
            let is_required = group.columns.get(column).is_some_and(|settings| settings.is_required);
            let reason =
                "an amount is only written together with its currency; put it into the group of transactioncurrencyid";
            self.problems.add(&format!("{}.columns.{column}", group_key(name)), reason, is_required);
            if is_required && blocked.is_none() {
                *blocked = Some(format!("{name}: the required column {column} cannot be written"));
            }
        }
    }

    /// An amount without its currency means nothing: it is not written back alone.
    fn check_amounts(&mut self, name: &str, recipes: &mut [Recipe]) {
        let has_currency =
            recipes.iter().any(|recipe| recipe.kind == ColumnKind::Currency && recipe.write_back.is_some());
        for recipe in recipes.iter_mut().filter(|recipe| recipe.kind == ColumnKind::Money && !has_currency) {
            if recipe.write_back.take().is_some() {
                let reason = "an amount is only written back together with its currency; add the currency column";
                self.problems.add(&format!("{}.write_back.{}", group_key(name), recipe.column), reason, false);
            }
        }
    }

    /// Hashes everything that shapes the group's value; the owner and the way back do not.
    ///
    /// Only what is set goes in, so that a new key with a neutral default changes no hash.
    fn hash(&self, group: &GroupSettings, recipes: &[Recipe]) -> u32 {
        let mut hash = SettingsHash::new();
        for recipe in recipes {
            let Some(settings) = group.columns.get(&recipe.column) else {
                continue;
            };
            hash.add("column", &recipe.column);
            hash.add("kind", &format!("{:?}", recipe.kind));
            let named = [("from", &settings.from), ("fallback", &settings.fallback)];
            for (name, expression) in named.iter().flat_map(|(name, list)| list.iter().map(move |one| (name, one))) {
                hash.add(name, expression);
            }
            if let Some(template) = &settings.template {
                hash.add("template", template);
            }
            let expressions = settings.from.iter().chain(&settings.fallback).chain(&settings.template);
            for (name, constant) in [("value", &settings.value), ("default", &settings.default)] {
                if let Some(constant) = constant {
                    hash.add(name, &scalar(constant).to_string());
                }
            }
            for (name, number) in [("min", settings.min), ("max", settings.max)] {
                if let Some(number) = number {
                    hash.add(name, &number.to_string());
                }
            }
            if settings.skip_if_empty {
                hash.add("skip_if_empty", "");
            }
            let names_it = |table: &str| {
                settings.table.as_deref() == Some(table)
                    || expressions
                        .clone()
                        .any(|text| text.contains(&format!("\"{table}\"")) || text.contains(&format!("'{table}'")))
            };
            for (table, words) in self.settings.tables.iter().filter(|(table, _)| names_it(table)) {
                hash.add("table", table);
                for (word, meaning) in words {
                    hash.add(word, &scalar(meaning).to_string());
                }
            }
            if matches!(recipe.kind, ColumnKind::Date) {
                hash.add("zone", &self.settings.closing_date_zone);
            }
        }
        if group.is_contact {
            hash.add("is_contact", "");
        }
        hash.finish()
    }
}

fn check_writable(column: &str, live: &ColumnSchema, write: WriteWhen) -> Result<(), String> {
    if live.kind == ColumnKind::Other {
        return Err(format!("a mapping cannot write columns of the type of `{column}`"));
    }
    match write {
        _ if !live.is_creatable => Err(format!("the lead column `{column}` cannot be written")),
        WriteWhen::Always if !live.is_updatable => {
            Err(format!("the lead column `{column}` can only be set on create; use write = \"create\""))
        }
        WriteWhen::Always | WriteWhen::Create => Ok(()),
    }
}

/// Whether any expression of a group names one of these. In doubt it does: such a group is only silent a little too often.
fn mentions(group: &GroupSettings, words: &[&str]) -> bool {
    let names_it = |text: &String| words.iter().any(|word| text.contains(word));
    let columns = group.columns.values().filter(|column| column.enabled);
    columns.flat_map(|column| column.from.iter().chain(&column.fallback).chain(&column.template)).any(names_it)
}

/// What an expression says that speaks of the status: `/status`, `/substatus`, `/statusReason`, `referral.status` …
const STATUS_WORDS: [&str; 6] =
    ["/status", "/substatus", "referral.status", "referral.substatus", "\"status", "'status"];

/// What an expression says that speaks of people: `contact`, `further_contacts`, `@contact/…`, `…/customerProfile/team`.
const CONTACT_WORDS: [&str; 2] = ["contact", "team"];

pub(super) fn is_option(options: &BTreeSet<i32>, code: i64) -> bool {
    i32::try_from(code).is_ok_and(|code| options.contains(&code))
}

fn limit(number: Option<f64>, name: &str) -> Result<Option<Decimal>, String> {
    number
        .map(|number| Decimal::try_from(number).map_err(|_| format!("{name} is no number that can be compared with")))
        .transpose()
}

fn group_key(name: &str) -> String {
    format!("mapping.groups.{name}")
}
