//! Asks the organization for its schema, and goes on with the product's own where it does not answer (dataverse §2.1, §3.4).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::api::Api;
use super::metadata::{self, Currencies, Findings, Live};
use super::settings::Identity;
use super::{codes, contract};
use crate::model::{Fault, RemoteError};
use crate::ports::ColumnKind;

const OPERATION: &str = "read schema";

/// What to ask, and of whom.
pub struct Survey<'a> {
    /// The Web API.
    pub api: &'a Api,
    /// What identifies a lead.
    pub identity: Identity,
    /// The configured referral id column.
    pub referral_column: Option<&'a str>,
    /// Columns of the mapping.
    pub mapped: &'a BTreeSet<String>,
}

impl Survey<'_> {
    /// Reads everything once.
    pub async fn run(&self) -> Result<Live, RemoteError> {
        let (attributes, strings, memos, status, currencies, is_key_active) = tokio::try_join!(
            self.listing(
                "EntityDefinitions(LogicalName='lead')/Attributes",
                "LogicalName,AttributeType,RequiredLevel,IsValidForCreate,IsValidForUpdate",
            ),
            self.listing(
                "EntityDefinitions(LogicalName='lead')/Attributes/Microsoft.Dynamics.CRM.StringAttributeMetadata",
                "LogicalName,MaxLength,RequiredLevel,IsValidForCreate,IsValidForUpdate",
            ),
            self.listing(
                "EntityDefinitions(LogicalName='lead')/Attributes/Microsoft.Dynamics.CRM.MemoAttributeMetadata",
                "LogicalName,MaxLength",
            ),
            self.choice(contract::STATUS, "StatusAttributeMetadata", "OptionSet($select=Options)"),
            self.currencies(),
            self.is_key_active(),
        )?;
        let mut columns = metadata::columns(attributes.as_deref(), strings.as_deref(), memos.as_deref());
        self.tell_dates(&mut columns).await?;
        let has_referral_column = match self.referral_column {
            Some(name) => columns.contains_key(name) || self.has_column(name).await?,
            None => false,
        };
        let options = self.options(&columns).await?;
        let findings = Findings {
            columns,
            status_codes: status.as_ref().and_then(metadata::status_codes),
            options,
            currencies,
            has_referral_column,
            is_key_active,
        };
        Ok(Live::new(findings, self.mapped, self.referral_column))
    }

    /// Says what the environment does not have, unless it did not have it `before` either.
    pub fn tell_absent(&self, live: &Live, before: Option<&Live>) {
        let is_news = |name: &str| before.is_none_or(|before| before.schema.columns.contains_key(name));
        for name in self.mapped.iter().map(String::as_str).chain(self.referral_column) {
            if live.schema.columns.contains_key(name) || !is_news(name) {
                continue;
            }
            match Some(name) == self.referral_column {
                true => tracing::warn!(
                    column = name,
                    "the referral id column does not exist in this environment: it is not used"
                ),
                false => tracing::warn!(
                    column = name,
                    "a mapped lead column does not exist in this environment: it is left out"
                ),
            }
        }
    }

    /// Whether the alternate key may be used; true where none is needed.
    pub async fn is_key_active(&self) -> Result<bool, RemoteError> {
        let (Identity::AlternateKey, Some(column)) = (self.identity, self.referral_column) else {
            return Ok(self.identity == Identity::Derived);
        };
        let keys = self
            .listing(
                "EntityDefinitions(LogicalName='lead')/Keys",
                "SchemaName,LogicalName,KeyAttributes,EntityKeyIndexStatus",
            )
            .await?;
        Ok(keys.is_some_and(|keys| metadata::is_key_active(&keys, column)))
    }

    async fn listing(&self, resource: &str, select: &str) -> Result<Option<Vec<Value>>, RemoteError> {
        let url = self.api.root.at(resource, &[("$select", select)]);
        optional(resource, self.api.metadata(OPERATION, url).await)
    }

    async fn currencies(&self) -> Result<Currencies, RemoteError> {
        let select = "transactioncurrencyid,isocurrencycode,currencyprecision,exchangerate";
        let url = self.api.root.at(contract::CURRENCIES, &[("$select", select), ("$filter", "statecode eq 0")]);
        let rows = optional(contract::CURRENCIES, self.api.all(OPERATION, url).await)?;
        Ok(Currencies::read(&rows.unwrap_or_default()))
    }

    async fn choice(&self, column: &str, kind: &str, expand: &str) -> Result<Option<Value>, RemoteError> {
        let resource = format!(
            "EntityDefinitions(LogicalName='lead')/Attributes(LogicalName='{column}')/Microsoft.Dynamics.CRM.{kind}"
        );
        let url = self.api.root.at(&resource, &[("$select", "LogicalName"), ("$expand", expand)]);
        optional(&resource, self.api.object(OPERATION, url).await)
    }

    /// Options of the choices that a mapping may set.
    async fn options(
        &self,
        columns: &BTreeMap<String, crate::ports::ColumnSchema>,
    ) -> Result<BTreeMap<String, Vec<i32>>, RemoteError> {
        let source = contract::LEAD_SOURCE.to_owned();
        let names: BTreeSet<&String> = self.mapped.iter().chain([&source]).collect();
        let mut options = BTreeMap::new();
        for name in names {
            let is_choice = columns.get(name).is_some_and(|column| column.kind == ColumnKind::Choice);
            if !is_choice || name == contract::STATE || name == contract::STATUS {
                continue;
            }
            let expand = "OptionSet($select=Options),GlobalOptionSet($select=Options)";
            let answer = self.choice(name, "PicklistAttributeMetadata", expand).await?;
            if let Some(numbers) = answer.as_ref().and_then(metadata::options) {
                options.insert(name.clone(), numbers);
            }
        }
        Ok(options)
    }

    /// Tells dates from instants among mapped columns that the product does not ship.
    async fn tell_dates(&self, columns: &mut BTreeMap<String, crate::ports::ColumnSchema>) -> Result<(), RemoteError> {
        let is_open = |name: &&String| {
            columns.get(*name).is_some_and(|column| column.kind == ColumnKind::Instant)
                && contract::lead_column(name).is_none()
        };
        if !self.mapped.iter().any(|name| is_open(&name)) {
            return Ok(());
        }
        let resource =
            "EntityDefinitions(LogicalName='lead')/Attributes/Microsoft.Dynamics.CRM.DateTimeAttributeMetadata";
        let rows = self.listing(resource, "LogicalName,DateTimeBehavior").await?;
        for name in metadata::date_only(&rows.unwrap_or_default()) {
            if let Some(column) = columns.get_mut(&name) {
                column.kind = ColumnKind::Date;
            }
        }
        Ok(())
    }

    async fn has_column(&self, name: &str) -> Result<bool, RemoteError> {
        let resource = format!("EntityDefinitions(LogicalName='lead')/Attributes(LogicalName='{name}')");
        let url = self.api.root.at(&resource, &[("$select", "LogicalName,MetadataId")]);
        match self.api.object(OPERATION, url).await {
            Ok(_) => Ok(true),
            // A gateway's 404 is no word about the column.
            Err(error) if error.fault != Fault::Unavailable && is_unsupported(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Passes over an answer that the organization does not have (400, 404, 501): the product's own values are used.
fn optional<T>(resource: &str, answer: Result<T, RemoteError>) -> Result<Option<T>, RemoteError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if is_unsupported(&error) => {
            tracing::warn!(resource, %error, "the environment does not tell its schema: going on with defaults");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn is_unsupported(error: &RemoteError) -> bool {
    let is_status = matches!(error.status, Some(400 | 404 | 501));
    is_status
        && match error.fault {
            Fault::Missing | Fault::Refused | Fault::Unavailable => true,
            Fault::Unauthorized => {
                error.code.as_deref().and_then(codes::find_text).is_some_and(|known| known.is_schema_stale)
            }
            Fault::Throttled { .. } | Fault::Conflict | Fault::NeedsHuman | Fault::Malformed => false,
        }
}
