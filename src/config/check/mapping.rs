//! Rules about the mapping: tables, columns, paths, templates, owners.

use std::collections::BTreeMap;

use super::super::key::KeyPath;
use super::{Rules, template_error};
use crate::crm::dataverse::contract;
use crate::plan::mapping::WRITE_BACK_PATHS;
use crate::plan::mapping::expression::{CONTACT_PREFIX, COUNTRY_TABLE};
use crate::plan::settings::{ColumnSettings, GroupSettings, OnConsentWithdrawn};
use crate::ports::ColumnKind;

/// Referral paths that the daemon writes by its own rules.
const OWN_PATHS: [&str; 4] = ["/status", "/substatus", "/statusReason", "/externalReferenceId"];

/// Lead columns that the daemon or the service writes.
const OWN_COLUMNS: [&str; 7] = ["leadid", "statecode", "statuscode", "ownerid", "createdon", "modifiedon", "masterid"];

/// True for a logical name as Dataverse has them.
pub(super) fn is_column_name(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

impl Rules<'_> {
    pub(super) fn mapping(&mut self) {
        let mapping = &self.settings.mapping;
        self.owners();
        if mapping.on_consent_withdrawn == OnConsentWithdrawn::Mark && mapping.consent_mark_column.is_none() {
            self.error(
                "mapping.on_consent_withdrawn",
                "\"mark\" needs a column to set",
                "set mapping.consent_mark_column to a boolean column",
            );
        }
        if mapping.consent_mark_column.as_deref().is_some_and(|column| !is_column_name(column)) {
            self.error("mapping.consent_mark_column", "this is no logical column name", COLUMN_REMEDY);
        }
        let mut writers: BTreeMap<&str, &str> = BTreeMap::new();
        let mut paths: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, group) in &mapping.groups {
            let key = KeyPath::from("mapping.groups").child(name);
            if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') || name.is_empty() {
                self.error(key.clone(), "this is no name for a group", "use letters, digits, `-` and `_` only");
            }
            if !group.enabled {
                continue;
            }
            if group.columns.is_empty() {
                self.error(key.clone(), "the group has no columns", "add one, or set enabled = false");
            }
            for (column, expression) in &group.columns {
                let key = key.child("columns").child(column);
                self.column_name(key.clone(), column);
                if let Some(other) = writers.insert(column, name) {
                    let rest = ["columns", column.as_str()];
                    self.taken_twice(
                        name,
                        other,
                        rest,
                        "the same column",
                        "; enabled = false switches a built-in group off",
                    );
                }
                self.expression(&key, expression);
            }
            self.amounts(&key, group);
            self.write_back(&key, name, group, &mut paths);
        }
    }

    /// An amount is only written together with its currency (dataverse §2.2).
    fn amounts(&mut self, key: &KeyPath, group: &GroupSettings) {
        let is_on = |column: &str| group.columns.get(column).is_some_and(|settings| settings.enabled);
        if is_on(contract::CURRENCY) {
            return;
        }
        let is_amount = |column: &str| contract::lead_column(column).is_some_and(|it| it.kind == ColumnKind::Money);
        for column in group.columns.keys().filter(|column| is_on(column) && is_amount(column)) {
            self.warning(
                key.child("columns").child(column),
                "an amount without its currency is left out",
                format!("put it into the group of {}", contract::CURRENCY),
            );
        }
    }

    fn column_name(&mut self, key: KeyPath, column: &str) {
        let is_referral_id = self.settings.referral_id_column.as_deref() == Some(column);
        if !is_column_name(column) {
            self.error(key, "this is no logical column name", COLUMN_REMEDY);
        } else if OWN_COLUMNS.contains(&column) || is_referral_id {
            self.error(key, "this column is not for a mapping: the daemon or the service writes it", "remove it");
        }
    }

    fn expression(&mut self, key: &KeyPath, column: &ColumnSettings) {
        let count = usize::from(!column.from.is_empty())
            + usize::from(column.template.is_some())
            + usize::from(column.value.is_some());
        if count != 1 {
            let what = if count == 0 { "nothing says where the value comes from" } else { "more than one source" };
            self.error(key.clone(), what, "write one of `from`, `template` and `value`");
        }
        for (name, texts) in [("from", &column.from), ("fallback", &column.fallback)] {
            for (index, text) in texts.iter().enumerate() {
                self.source(key.child(name).child(index.to_string()), text);
            }
        }
        if let Some(template) = &column.template {
            self.template(key.child("template"), template);
        }
        if let Some(table) = &column.table
            && table != COUNTRY_TABLE
            && !self.settings.mapping.tables.contains_key(table)
        {
            let known: Vec<&str> = self.settings.mapping.tables.keys().map(String::as_str).collect();
            let remedy = match known.is_empty() {
                true => "add it as [mapping.tables.NAME]".to_owned(),
                false => format!("add it as [mapping.tables.NAME], or use one of {}", known.join(", ")),
            };
            self.error(key.child("table"), "there is no such value table", remedy);
        }
        if column.min.is_some_and(|min| !min.is_finite()) {
            self.error(key.child("min"), "this is no number to compare with", "write an ordinary number");
        }
    }

    /// A pointer into the referral or its primary contact, or a template.
    fn source(&mut self, key: KeyPath, text: &str) {
        if text.contains("{{") || text.contains("{%") {
            self.template(key, text);
        } else if !is_pointer(text.strip_prefix(CONTACT_PREFIX).unwrap_or(text)) {
            let remedy = "write it as in \"/customerProfile/name\", \"@contact/email\" or \"Referral {{ id[:8] }}\"";
            self.error(key, "this is no JSON pointer", remedy);
        }
    }

    fn template(&mut self, key: KeyPath, template: &str) {
        if let Err(error) = minijinja::Environment::new().template_from_str(template) {
            let what = format!("the template does not parse: {}", template_error(&error));
            self.error(key, what, "see the documentation of templates");
        }
    }

    fn write_back<'s>(
        &mut self,
        key: &KeyPath,
        name: &'s str,
        group: &'s GroupSettings,
        paths: &mut BTreeMap<&'s str, &'s str>,
    ) {
        for (column, path) in &group.write_back {
            let key = key.child("write_back").child(column);
            if !group.columns.contains_key(column) {
                self.error(key.clone(), "the group has no such column", "write back columns of the same group only");
            }
            if OWN_PATHS.contains(&path.as_str()) {
                self.error(key.clone(), "the daemon writes this path by its own rules", "remove it; see [status]");
            } else if !WRITE_BACK_PATHS.contains(&path.as_str()) {
                self.error(
                    key.clone(),
                    "the service does not take this path",
                    format!("write one of {}", WRITE_BACK_PATHS.join(", ")),
                );
            }
            if let Some(other) = paths.insert(path, name) {
                self.taken_twice(name, other, ["write_back", column.as_str()], "the same referral path", "");
            }
        }
    }

    /// Two groups want one thing: blames the one that the operator wrote.
    fn taken_twice(&mut self, name: &str, other: &str, rest: [&str; 2], what: &str, more: &str) {
        let key = |group: &str| KeyPath::from("mapping.groups").child(group).child(rest[0]).child(rest[1]);
        let is_built_in = self.layers.is_built_in(self.layers.owner(&key(name)).0);
        let (blamed, other) = if is_built_in { (other, name) } else { (name, other) };
        self.error(
            key(blamed),
            format!("the groups `{blamed}` and `{other}` write {what}"),
            format!("keep one of them{more}"),
        );
    }

    fn owners(&mut self) {
        let mapping = &self.settings.mapping;
        if mapping.owners.is_empty() && mapping.fallback_owner.is_none() {
            self.warning(
                "mapping.owners",
                "leads without an owner are invisible to sellers",
                "set mapping.fallback_owner to { team = \"ID\" } or { user = \"ID\" }",
            );
        }
        let fits_all =
            mapping.owners.iter().any(|rule| rule.country.is_none() && rule.kind.is_none() && rule.product.is_none());
        if !mapping.owners.is_empty() && mapping.fallback_owner.is_none() {
            let message = match fits_all {
                true => "a lead whose owner Dynamics refuses (disabled, without a role) is invisible to sellers",
                false => "a lead that fits no rule, or whose owner Dynamics refuses, is invisible to sellers",
            };
            self.warning(
                "mapping.owners",
                message,
                "set mapping.fallback_owner to { team = \"ID\" } or { user = \"ID\" }",
            );
        }
        for (index, rule) in mapping.owners.iter().enumerate() {
            let key = KeyPath::from("mapping.owners").child(index.to_string());
            if let Some(country) = &rule.country {
                self.country(key.child("country"), country);
            }
            let is_open = rule.country.is_none() && rule.kind.is_none() && rule.product.is_none();
            if is_open && index + 1 < mapping.owners.len() {
                self.warning(
                    key,
                    "this rule fits every referral, so the rules behind it never do",
                    "put it last, or make it mapping.fallback_owner",
                );
            }
        }
    }
}

const COLUMN_REMEDY: &str = "write it in lower case, as in \"companyname\" or \"new_industry\"";

/// RFC 6901, not empty.
fn is_pointer(text: &str) -> bool {
    let escapes = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    text.starts_with('/') && text.len() > 1 && escapes
}
