//! The account of a decision: what it looked at and how each group of fields was decided, for a person who asks why.
//!
//! It is told by the planner itself ([`trace_row`]), so that it cannot differ from what a cycle does.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::diff::groups::{may_contact, owner_word};
use crate::model::{Base, Entry, LeadState, Side, Timestamp};
use crate::plan::action::Action;
use crate::plan::diff::{GroupTrace, RowPlan, trace_row};
use crate::plan::fields::Merge;
use crate::plan::mapping::{Group, GroupValue};
use crate::plan::policy::Policy;
use crate::plan::settings::WriteWhen;
use crate::plan::snapshot::Row;

/// A planned row with the reasons.
#[derive(Clone, Debug, PartialEq)]
pub struct RowAccount {
    /// What a cycle does with the row.
    pub plan: RowPlan,
    /// What it would do, were the row not held by an operator: the groups are told from this one.
    pub unheld: RowPlan,
    /// Every group that is switched on.
    pub groups: Vec<GroupAccount>,
}

/// One group of fields: both sides, what was agreed on, what is decided and by which rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupAccount {
    /// Its name in the configuration.
    pub name: String,
    /// Who wins when both sides moved: `partner_center`, `crm`, `newest` or `hold`.
    pub owner: String,
    /// Written on create only.
    pub is_create_only: bool,
    /// The lead's value may go back to the referral.
    pub is_two_way: bool,
    /// Its columns by name.
    pub columns: Vec<ColumnAccount>,
    /// What both sides agreed on before: `agreed`, `never agreed`, `recalled from an export` or `none`.
    pub base: String,
    /// Sides that moved away from it, and when this daemon first saw it.
    pub moved: std::collections::BTreeMap<Side, Timestamp>,
    /// What is decided: a sentence without values.
    pub decision: String,
    /// One word for the rule: `referral`, `lead`, `owner`, `empty`, `released`, `consent`, `backfill`, `new`.
    pub rule: Option<String>,
    /// The configuration key that decides.
    pub key: String,
}

/// One column of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColumnAccount {
    /// The lead column.
    pub column: String,
    /// How both sides compare: `same`, `differs`, `referral only`, `lead only`, `empty`, `unread` (the referral), or
    /// `not compared`, where no lead was read.
    pub comparison: String,
    /// The referral's value in canonical form; only where values were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referral: Option<Value>,
    /// The lead's value in canonical form; only where values were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lead: Option<Value>,
    /// Why it is left out, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
}

/// Accounts for one row. Values are in it only `with_values`.
pub fn account(row: &Row, policy: &Policy, now: Timestamp, with_values: bool) -> RowAccount {
    let (plan, trace) = trace_row(row, policy, now);
    let (unheld, trace) = match policy.decisions.held.contains(&row.id) {
        false => (plan.clone(), trace),
        true => {
            let mut free = policy.clone();
            free.decisions.held.remove(&row.id);
            trace_row(row, &free, now)
        }
    };
    let groups = groups(row, policy, &unheld, &trace, with_values);
    RowAccount { plan, unheld, groups }
}

fn groups(row: &Row, policy: &Policy, plan: &RowPlan, trace: &[GroupTrace], with_values: bool) -> Vec<GroupAccount> {
    let Some(entry) = &plan.entry else { return Vec::new() };
    let mapping = &policy.mapping;
    let may_derive = may_contact(entry) || entry.is_consent_withdrawn;
    let derived =
        row.referral.present().map(|referral| mapping.derive(referral, entry.primary_contact, may_derive).groups);
    let observed = row.lead.present().map(|lead| mapping.observe(lead, row.opportunities.as_deref()));
    let told = |(index, group): (usize, &Group)| {
        let referral = derived.as_ref().map(|groups| &groups[index]);
        let lead = observed.as_ref().map(|groups| &groups[index]);
        let trace = trace.iter().find(|trace| trace.index == index);
        let verdict = verdict(group, entry, plan, trace, referral);
        GroupAccount {
            name: group.name.clone(),
            owner: owner_word(group).to_owned(),
            is_create_only: group.write == WriteWhen::Create,
            is_two_way: group.is_two_way,
            columns: columns(group, referral, lead, with_values),
            base: base(trace).to_owned(),
            moved: [
                (Side::Portal, trace.and_then(|trace| trace.referral_moved)),
                (Side::Crm, trace.and_then(|trace| trace.lead_moved)),
            ]
            .into_iter()
            .filter_map(|(side, at)| Some((side, at?)))
            .collect(),
            decision: verdict.sentence,
            rule: verdict.rule.map(str::to_owned),
            key: format!("mapping.groups.{}{}", group.name, verdict.key),
        }
    };
    mapping.groups().iter().enumerate().map(told).collect()
}

fn base(trace: Option<&GroupTrace>) -> &'static str {
    match trace.and_then(|trace| trace.base) {
        None => "none",
        Some(Base::Common { .. }) => "agreed",
        Some(Base::Apart { .. }) => "never agreed",
        Some(Base::Recalled { .. }) => "recalled from an export",
    }
}

struct Verdict {
    sentence: String,
    rule: Option<&'static str>,
    /// What follows the group in its configuration key.
    key: &'static str,
}

/// Says what becomes of a group.
fn verdict(
    group: &Group,
    entry: &Entry,
    plan: &RowPlan,
    trace: Option<&GroupTrace>,
    referral: Option<&GroupValue>,
) -> Verdict {
    let say = |sentence: &str, rule, key| Verdict { sentence: sentence.to_owned(), rule, key };
    if let Some(reason) = referral.and_then(|value| value.blocked.as_ref()) {
        return Verdict { sentence: format!("no lead can be written: {reason}"), rule: None, key: ".columns" };
    }
    if let Some(Action::Create { groups, .. }) = &plan.action {
        return match groups.iter().find(|write| write.group == group.key) {
            Some(write) => {
                let sentence = format!("written: {}", write.rule);
                Verdict { sentence, rule: Some(write.rule.word()), key: "" }
            }
            None => say("nothing to write: the referral says nothing", None, ""),
        };
    }
    if group.write == WriteWhen::Create {
        return say("left alone: written on create only", None, ".write");
    }
    let Some(trace) = trace else { return say("not compared: no lead speaks for this referral", None, "") };
    if trace.is_silent {
        return match entry.is_frozen {
            true => say("frozen: the referral left a filter (scope.on_leaving_filter)", None, ""),
            false => say("frozen: no consent to contact (mapping.on_consent_withdrawn)", None, ".is_contact"),
        };
    }
    let is_open = entry.link.as_ref().is_none_or(|link| link.status.state == LeadState::Open);
    match trace.decision {
        Merge::WriteLead(rule) if !is_open => {
            let sentence = format!("waits until the lead is reopened: {rule}");
            Verdict { sentence, rule: Some(rule.word()), key: owner_key(rule) }
        }
        Merge::WriteLead(rule) => {
            let sentence = format!("the referral's value goes to the lead: {rule}");
            Verdict { sentence, rule: Some(rule.word()), key: owner_key(rule) }
        }
        Merge::WriteBack(rule) => {
            let sentence = format!("the lead's value goes back to the referral: {rule}");
            Verdict { sentence, rule: Some(rule.word()), key: owner_key(rule) }
        }
        Merge::Rest => match (trace.referral_moved, trace.lead_moved) {
            (None, None) => say("nothing to do", None, ""),
            (None, Some(_)) => say("the lead's value stays: the path is one-way", None, ".write_back"),
            (Some(_), Some(_)) => say("the lead's value stays: both changed, and the owner is the CRM", None, ".owner"),
            (Some(_), None) => say("nothing to do", None, ".owner"),
        },
        Merge::NoCommonBase => say("held: both have a value and nobody knows which came first", None, ""),
        Merge::BothMoved => say("held: both changed, a person decides", None, ".owner"),
        Merge::Flapping => say("held: written again and again to the same two values", None, ""),
        Merge::NeedReferral => say("not decided: the referral was not read", None, ""),
        Merge::NeedLead => say("not decided: the lead was not read", None, ""),
    }
}

fn owner_key(rule: crate::plan::action::Rule) -> &'static str {
    match rule {
        crate::plan::action::Rule::Owner(_) => ".owner",
        _ => "",
    }
}

fn columns(
    group: &Group,
    referral: Option<&GroupValue>,
    lead: Option<&GroupValue>,
    with_values: bool,
) -> Vec<ColumnAccount> {
    let left_out = |column: &str| {
        let skipped = referral?.skipped.iter().find(|skipped| skipped.column == column)?;
        Some(skipped.reason.to_string())
    };
    let names: BTreeSet<&String> = group
        .columns
        .iter()
        .chain(referral.iter().flat_map(|value| value.skipped.iter().map(|skipped| &skipped.column)))
        .collect();
    names
        .into_iter()
        .map(|column| {
            let ours = referral.and_then(|value| value.columns.get(column));
            let theirs = lead.and_then(|value| value.columns.get(column));
            let comparison = match (ours, theirs) {
                _ if referral.is_none() => "unread",
                (Some(_), _) if lead.is_none() => "not compared",
                (Some(ours), Some(theirs)) if ours == theirs => "same",
                (Some(_), Some(_)) => "differs",
                (Some(_), None) => "referral only",
                (None, Some(_)) => "lead only",
                (None, None) => "empty",
            };
            ColumnAccount {
                column: column.clone(),
                comparison: comparison.to_owned(),
                referral: ours.filter(|_| with_values).cloned(),
                lead: theirs.filter(|_| with_values).cloned(),
                left_out: left_out(column),
            }
        })
        .collect()
}
