//! The mapping: a referral's and a lead's side of every group of fields, in one canonical form.
//!
//! Pure: compiled once from configuration and live schema, it only turns values into values. What does not fit is
//! skipped and named, so that one bad optional column never blocks a lead (spec 4).

pub mod canonical;
mod compile;
mod contact;
mod country;
mod derive;
pub mod expression;
mod fingerprint;
mod observe;
mod owner;
pub mod template;
pub mod text;
mod write_back;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use serde_json::Value;

pub use canonical::Misfit;
pub use compile::{KEY_PREFIX, MappingProblem, WRITE_BACK_PATHS};
pub(crate) use country::alpha2;
pub use write_back::Unwritable;

use crate::model::{Column, Lead, Operation, Opportunity, Owner, Referral};
use crate::plan::settings::{FieldOwner, MappingSettings, WriteWhen};
use crate::ports::LeadSchema;

use compile::Recipe;
use fingerprint::Fingerprints;
use owner::Owners;
use template::Templates;

/// How referrals become leads, and back; compiled once per configuration and live schema.
#[derive(Debug)]
pub struct Mapping {
    groups: Vec<Group>,
    columns: BTreeSet<Column>,
    templates: Templates,
    zone: TimeZone,
    currencies: BTreeMap<String, u32>,
    owners: Owners,
    prints: Fingerprints,
    /// Group and recipe that keep texts whole which had to be cut.
    overflow: Option<(usize, usize)>,
}

/// Columns that only mean something together; merged as one.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name in the configuration.
    pub name: String,
    /// Its key in the ledger: the first 4 bytes of the keyed hash of its name.
    pub key: u32,
    /// Hash of what shapes its value: columns, expressions, tables, zone. The owner does not count.
    pub mapping_hash: u32,
    /// Who wins when both sides moved.
    pub owner: FieldOwner,
    /// When it is written to the lead.
    pub write: WriteWhen,
    /// It holds data about a person and obeys the consent.
    pub is_contact: bool,
    /// Its expressions may speak of people, for example in a composed text.
    pub mentions_contacts: bool,
    /// Its expressions may speak of the referral's status.
    pub mentions_status: bool,
    /// The lead's value can go back to the referral.
    pub is_two_way: bool,
    /// The lead columns that the organization really has.
    pub columns: Vec<Column>,
    /// A required column could not be compiled: no lead can be written.
    blocked: Option<String>,
    recipes: Vec<Recipe>,
}

impl Group {
    /// Once the lead is qualified, an opportunity speaks for some of its columns.
    pub fn is_spoken_for(&self) -> bool {
        self.recipes.iter().any(|recipe| recipe.opportunity.is_some())
    }
}

/// One side's value of one group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupValue {
    /// Canonical values, whole; a column without one is absent.
    pub columns: BTreeMap<Column, Value>,
    /// What would be written to the lead: cut to length, null clears. Columns that must be left alone are absent.
    ///
    /// On the lead's side it is empty. Without consent a contact group's draft holds its required columns only, for a
    /// create; see [`Mapping::derive`].
    pub draft: BTreeMap<Column, Value>,
    /// Keyed fingerprint of `columns`.
    pub fingerprint: u64,
    /// Keyed fingerprint the lead would show after `draft` was written to an empty lead; on the lead's side the same
    /// as `fingerprint`. Equal to the lead's fingerprint: no write is needed.
    pub draft_fingerprint: u64,
    /// No column has a value of its own; constants count, fallbacks do not.
    pub is_empty: bool,
    /// Some text did not fit, or on the lead's side looks as if it had not: never written back.
    pub is_cut: bool,
    /// Columns that were left out although the referral says something.
    pub skipped: Vec<Skipped>,
    /// A required column has no usable value: the referral is a dead letter with this reason.
    pub blocked: Option<String>,
}

/// A column that was left out, and why; no value is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The lead column.
    pub column: Column,
    /// Why.
    pub reason: Misfit,
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "column {} is skipped: {}", self.column, self.reason)
    }
}

/// The referral's side of all groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Derived {
    /// In the order of [`Mapping::groups`].
    pub groups: Vec<GroupValue>,
    /// Keyed mark of the primary contact: give it back next time, so that the same person stays the primary one.
    pub primary_contact: Option<u32>,
}

impl Mapping {
    /// Compiles a mapping. `key` is the ledger's fingerprint key.
    ///
    /// Columns the organization does not have or that cannot be written, constants no option fits, and bad templates
    /// are returned as problems and left out. It never fails: a required column that is left out blocks the leads, with
    /// the reason in [`GroupValue::blocked`].
    pub fn compile(settings: &MappingSettings, schema: &LeadSchema, key: [u8; 16]) -> (Mapping, Vec<MappingProblem>) {
        compile::compile(settings, schema, key)
    }

    /// The groups that are switched on, sorted by name.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The group with this key in the ledger, while it is switched on.
    pub fn group(&self, key: u32) -> Option<&Group> {
        self.groups.iter().find(|group| group.key == key)
    }

    /// Lead columns to read: those of all groups, and the one that marks a withdrawn consent.
    pub fn columns(&self) -> &BTreeSet<Column> {
        &self.columns
    }

    /// The referral's side of every group, in the order of [`Mapping::groups`].
    ///
    /// `sticky` is the mark of the primary contact used last. Without `may_contact` contact groups are empty and nobody
    /// is seen in the rest. Their drafts then only hold fallbacks of required columns, so that a new lead is complete.
    pub fn derive(&self, referral: &Referral, sticky: Option<u32>, may_contact: bool) -> Derived {
        derive::derive(self, referral, sticky, may_contact, |_| true)
    }

    /// As [`Mapping::derive`], for a referral that has its lead: groups that are written on create only are left out.
    ///
    /// Their places hold default values, to be compared with nothing. Saves composing texts nobody asks for.
    pub fn derive_linked(&self, referral: &Referral, sticky: Option<u32>, may_contact: bool) -> Derived {
        derive::derive(self, referral, sticky, may_contact, |group| group.write == WriteWhen::Always)
    }

    /// The lead's side of every group as the service returned it, in the order of [`Mapping::groups`].
    ///
    /// Once the lead is qualified its opportunities speak for the columns that name a part of them: the won one, else
    /// the newest open one. With none, or where it says nothing, the lead speaks.
    pub fn observe(&self, lead: &Lead, opportunities: Option<&[Opportunity]>) -> Vec<GroupValue> {
        observe::observe(self, lead, opportunities)
    }

    /// The fingerprint that [`Mapping::observe`] gives a group of a lead for which no opportunity speaks, without the
    /// values. Most leads say what they said before, and then nobody asks for more.
    pub fn fingerprint(&self, group: &Group, lead: &Lead) -> u64 {
        observe::fingerprint(self, group, lead)
    }

    /// What has to be written to make the lead's side of a group look like the referral's: only columns that differ.
    ///
    /// An amount and its currency go together or not at all.
    pub fn changes(
        &self,
        group: &Group,
        referral_side: &GroupValue,
        lead_side: &GroupValue,
    ) -> BTreeMap<Column, Value> {
        derive::changes(self, group, referral_side, lead_side)
    }

    /// The operations that carry the lead's value of a two-way group to the referral, without those that would change
    /// nothing. `referral` is the referral as last seen.
    ///
    /// # Errors
    ///
    /// [`Unwritable`] when the value is empty, was cut, or the group only goes one way.
    pub fn write_back(
        &self,
        group: &Group,
        lead_side: &GroupValue,
        referral: Option<&Referral>,
    ) -> Result<Vec<Operation>, Unwritable> {
        write_back::write_back(self, group, lead_side, referral)
    }

    /// Who shall own the lead when it is created; `None` when no rule fits and there is no fallback.
    pub fn owner(&self, referral: &Referral) -> Option<Owner> {
        self.owners.of(referral)
    }

    /// Who shall own a lead whose owner was refused.
    pub fn fallback_owner(&self) -> Option<Owner> {
        self.owners.fallback()
    }

    /// The fingerprint of a group without any value.
    pub fn nothing(&self, group: &Group) -> u64 {
        self.prints.value(&group.name, &BTreeMap::new())
    }

    /// Decimal places of a currency; `None` when the organization does not have it.
    fn precision(&self, currency: &str) -> Option<u32> {
        self.currencies.get(currency).copied()
    }
}
