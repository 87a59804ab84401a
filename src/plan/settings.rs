//! Settings of the decision core: mapping, status, scope, brakes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::HumanDuration;
use crate::model::Owner;

/// How far writing goes (`writes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Writes {
    /// Nothing is written; the plan is shown.
    Off,
    /// Leads are written, referrals are not.
    LeadsOnly,
    /// Both directions.
    Both,
}

/// `[link]`: which referral and which lead belong together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkSettings {
    /// Namespace of computed lead ids; never change it on a living system.
    pub namespace: uuid::Uuid,
    /// How an existing lead is found, in this order.
    pub adopt: Vec<Adopt>,
    /// What happens when a lead was deleted.
    pub on_lead_deleted: OnLeadDeleted,
    /// Write our lead id over a value in `externalReferenceId` that is neither empty, nor a GUID, nor ours.
    pub overwrite_foreign_reference: bool,
}

/// A way to find an existing lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Adopt {
    /// `externalReferenceId` names it.
    ExternalReference,
    /// The referral id column holds the referral id.
    ReferralIdColumn,
    /// The subject is the referral id.
    Subject,
}

/// What happens when a lead was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnLeadDeleted {
    /// It stays deleted; a hold names it.
    Leave,
    /// It is created again.
    Recreate,
}

/// `[scope]`: which referrals get a lead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScopeSettings {
    /// Import referrals the service calls spam.
    pub import_spam: bool,
    /// Import referrals we sent.
    pub import_outgoing: bool,
    /// Import referrals our own organization invited.
    pub import_own_invitations: bool,
    /// Closed referrals that get a lead when first seen.
    pub import_closed: ImportClosed,
    /// Only these types; empty: all.
    pub types: Vec<String>,
    /// Only these qualifications; empty: all.
    pub qualifications: Vec<String>,
    /// Only customers in these countries (ISO 3166 alpha-2); empty: all.
    pub countries: Vec<String>,
    /// Only referrals created at or after this instant.
    pub created_after: Option<String>,
    /// What happens to a linked referral that leaves a filter.
    pub on_leaving_filter: OnLeavingFilter,
}

/// Closed referrals that get a lead when first seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImportClosed {
    /// None.
    None,
    /// Those that were won.
    Won,
    /// All.
    All,
}

/// What happens to a linked referral that leaves a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnLeavingFilter {
    /// Nothing changes.
    Keep,
    /// Fields stop in both directions.
    Freeze,
}

/// `[mapping]`: how a referral becomes a lead, and back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MappingSettings {
    /// Zone in which an instant is cut to a closing date.
    pub closing_date_zone: String,
    /// What happens when the customer withdraws the consent to be contacted.
    pub on_consent_withdrawn: OnConsentWithdrawn,
    /// Boolean column set by `on_consent_withdrawn = "mark"`.
    #[serde(default)]
    pub consent_mark_column: Option<String>,
    /// The groups by name.
    pub groups: BTreeMap<String, GroupSettings>,
    /// Value tables by name: text to text (or number).
    #[serde(default)]
    pub tables: BTreeMap<String, BTreeMap<String, toml_value::Scalar>>,
    /// Owner assignment on create; the first rule that fits decides.
    #[serde(default)]
    pub owners: Vec<OwnerRule>,
    /// Owner of leads that no rule fits, or whose owner the service refuses.
    #[serde(default)]
    pub fallback_owner: Option<Owner>,
    /// Tests of the mapping: sample referrals and the leads they should become (`referrald config test`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<MappingTest>,
    /// Column that keeps texts whole which had to be cut elsewhere; empty: they are not kept.
    #[serde(default = "description")]
    pub overflow_column: String,
}

fn description() -> String {
    "description".to_owned()
}

/// Scalars in value tables.
pub mod toml_value {
    use serde::{Deserialize, Serialize};

    /// Text or a whole number.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
    #[serde(untagged)]
    pub enum Scalar {
        /// A whole number, for example an option.
        Integer(i64),
        /// Text.
        Text(String),
    }

    /// Any value, as in a JSON document.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    pub enum Document {
        /// True or false.
        Flag(bool),
        /// A whole number.
        Integer(i64),
        /// A number with a fraction.
        Number(f64),
        /// Text.
        Text(String),
        /// A list.
        List(Vec<Document>),
        /// A table.
        Table(std::collections::BTreeMap<String, Document>),
    }

    impl schemars::JsonSchema for Document {
        fn schema_name() -> std::borrow::Cow<'static, str> {
            "Document".into()
        }

        fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
            schemars::json_schema!(true) // It nests: what it may be is said by the service.
        }
    }
}

/// `[[mapping.test]]`: a sample referral and what its lead should say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MappingTest {
    /// What it shows.
    pub name: String,
    /// The referral as Partner Center sends it: a table, or the path of a JSON file, relative to the file that names it.
    /// Its id, status and substatus may be left out.
    pub referral: toml_value::Document,
    /// Lead column to the value it should get.
    #[serde(default)]
    pub expect: BTreeMap<String, toml_value::Document>,
    /// Lead columns that should get no value.
    #[serde(default)]
    pub absent: Vec<String>,
}

/// What happens when the consent to be contacted is withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnConsentWithdrawn {
    /// Contact columns are frozen; a hold says so.
    Hold,
    /// As hold, and a column is set.
    Mark,
    /// Contact columns are cleared once.
    Clear,
}

/// `[mapping.groups.NAME]`: columns that only mean something together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupSettings {
    /// Off switches a built-in group off.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Who wins when both sides moved.
    pub owner: FieldOwner,
    /// When the group is written to the lead.
    #[serde(default)]
    pub write: WriteWhen,
    /// It holds data about a person and obeys the consent.
    #[serde(default)]
    pub is_contact: bool,
    /// Lead column to expression.
    pub columns: BTreeMap<String, ColumnSettings>,
    /// Lead column to the referral path that is written back; empty: one way.
    #[serde(default)]
    pub write_back: BTreeMap<String, String>,
    /// Lead column to the part of the opportunity that speaks instead of it once the lead is qualified.
    #[serde(default)]
    pub opportunity: BTreeMap<String, OpportunityField>,
}

/// What an opportunity can say in place of a lead column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OpportunityField {
    /// Actual value, else estimated value.
    Value,
    /// Currency as ISO 4217 code.
    Currency,
    /// Closing date: actual when closed, else estimated.
    CloseDate,
}

fn yes() -> bool {
    true
}

/// When a group is written to the lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WriteWhen {
    /// On create and whenever the referral moves.
    #[default]
    Always,
    /// On create only.
    Create,
}

/// Who wins when both sides moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FieldOwner {
    /// The referral.
    PartnerCenter,
    /// The lead.
    Crm,
    /// Whoever moved last.
    Newest,
    /// Nobody: a person decides.
    Hold,
}

/// One lead column: where its value comes from.
///
/// Of `value`, `template` and `from` the first that is set counts, so that each can replace a built-in `from`. An
/// expression is a JSON pointer into the referral (`/details/notes`), a pointer into its primary contact
/// (`@contact/email`), or a template (it has braces).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColumnSettings {
    /// Expressions; the first that gives a value counts.
    #[serde(default)]
    pub from: Vec<String>,
    /// A template over the referral instead; see the documentation of templates. Empty: none.
    #[serde(default)]
    pub template: Option<String>,
    /// A constant instead.
    #[serde(default)]
    pub value: Option<toml_value::Scalar>,
    /// Expressions tried when there is no value. A group that has nothing but these counts as empty.
    #[serde(default)]
    pub fallback: Vec<String>,
    /// Name of a value table that translates what a pointer found; words it does not know stay as they are.
    #[serde(default)]
    pub table: Option<String>,
    /// What to write when neither `from` nor `fallback` gives a value.
    #[serde(default)]
    pub default: Option<toml_value::Scalar>,
    /// Without a value leave the column alone instead of clearing it.
    #[serde(default)]
    pub skip_if_empty: bool,
    /// Numbers below this count as no value.
    #[serde(default)]
    pub min: Option<f64>,
    /// Numbers above this are refused: the column is skipped.
    #[serde(default)]
    pub max: Option<f64>,
    /// Without this column the lead is useless: a value that does not fit makes a dead letter, not a skipped column.
    #[serde(default)]
    pub is_required: bool,
    /// Off leaves a built-in column out.
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// One rule of owner assignment. All given conditions must fit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnerRule {
    /// Customer's country (ISO 3166 alpha-2).
    #[serde(default)]
    pub country: Option<String>,
    /// Referral type.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// A requested product.
    #[serde(default)]
    pub product: Option<String>,
    /// Who gets it.
    pub owner: Owner,
}

/// `[status]`: what a lead's status means for the referral, and back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatusSettings {
    /// How long an outcome must stand before it is sent.
    pub settle_time: HumanDuration,
    /// The same for Lost.
    pub settle_time_lost: HumanDuration,
    /// How long Won on a shared referral with a registration waits.
    pub won_hold: HumanDuration,
    /// Template of `statusReason`; `label` and `code` are at hand.
    pub reason: String,
    /// Labels by status code, for `statusReason`.
    pub labels: BTreeMap<String, String>,
    /// Meaning by status code; codes that are not here count as their state's default.
    pub codes: BTreeMap<String, StatusMeaning>,
    /// What happens to the lead when the referral is closed over there.
    pub on_referral_closed: OnReferralClosed,
    /// Status code written by `on_referral_closed = "disqualify"`.
    pub disqualify_code: i32,
    /// How long before its deadline a New referral counts as about to expire.
    pub deadline_warning: HumanDuration,
}

/// What a status code of a lead means for the referral.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StatusMeaning {
    /// Nothing to say.
    Nothing,
    /// Somebody works on it: Active / Accepted.
    Accept,
    /// The opportunities decide: Accept, Won or Lost.
    Opportunities,
    /// Closed / Won.
    Won,
    /// Closed / Lost, from New Closed / Declined.
    Lost,
}

/// What happens to the lead when the referral is closed over there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnReferralClosed {
    /// Mapped status columns of an open lead; on a closed lead only recorded and shown.
    Note,
    /// The open lead is disqualified.
    Disqualify,
    /// Nothing.
    Nothing,
}

/// `[brakes]`: 0 switches one off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BrakeSettings {
    /// Closings in an hour.
    pub closings_per_hour: u64,
    /// Acceptances in an hour.
    pub acceptances_per_hour: u64,
    /// Leads created in a cycle.
    pub creates_per_cycle: u64,
    /// Leads updated in a cycle.
    pub updates_per_cycle: u64,
    /// Leads disqualified in a cycle.
    pub disqualifications_per_cycle: u64,
    /// Leads that a backfill rewrites before it waits for a look.
    pub backfill_sample: u64,
    /// Leads that vanished within an hour: more than this many and more than `leads_vanished_percent`.
    pub leads_vanished: u64,
    /// Percent of the linked leads.
    pub leads_vanished_percent: u64,
    /// Known referrals from which on the visibility brake judges.
    pub visibility_min: u64,
    /// Newest known referrals of which an incremental scan must meet one.
    pub visibility_newest: u64,
    /// Percent of known referrals missing from a finished sweep that closes it.
    pub visibility_missing_percent: u64,
}

/// `[retry]`: patience across cycles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetrySettings {
    /// First pause of a referral that failed for its own reason; doubles with full jitter.
    pub delay: HumanDuration,
    /// Longest pause.
    pub delay_max: HumanDuration,
    /// Attempts before it becomes a dead letter.
    pub attempts_max: u16,
}
