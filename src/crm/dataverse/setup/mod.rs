//! Set-up: what is looked at before the first lead, and the optional column with its key (dataverse §3.4, §3.5).
//!
//! Nothing here belongs to a cycle. Writes to the schema happen in one command only, one after the other.

pub mod install;
pub mod privileges;

use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use super::api::Api;
use super::query::Root;
use super::settings::DataverseSettings;
use super::wire;
use super::{codes, contract};
use crate::http::Exchange;
use crate::model::{Fault, Owner, RemoteError};

/// The environment, as somebody who sets it up sees it.
pub struct Setup {
    api: Api,
}

/// The referral id column as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundColumn {
    /// The service's word for its type, for example `String`.
    pub kind: String,
    /// Longest text in UTF-16 code units; `None` for a column that holds no line of text.
    pub length_max: Option<u32>,
}

/// An alternate key of exactly one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundKey {
    /// Its logical name.
    pub name: String,
    /// How far its index is.
    pub index: Index,
}

/// Change tracking of the lead table as it is (dataverse §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundTracking {
    /// The table keeps what changes.
    pub is_on: bool,
    /// For so many days (`organization.expirechangetrackingindays`), when the service told.
    pub days: Option<u64>,
}

impl std::fmt::Display for FoundTracking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.is_on, self.days) {
            (false, _) => f.write_str("off for the lead table"),
            (true, None) => f.write_str("on"),
            (true, Some(days)) => write!(f, "on, changes are kept for {days} days"),
        }
    }
}

/// How far the index of a key is (dataverse §3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Index {
    /// It is being built.
    Pending,
    /// It works.
    Active,
    /// It could not be built.
    Failed,
    /// A word that is not known.
    Other(String),
}

/// A user or team that shall own leads, as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundOwner {
    /// There, and enabled.
    Fine,
    /// A user who is disabled.
    Disabled,
    /// Nobody.
    Missing,
}

impl Setup {
    /// Over a client stack for the environment. Nothing is sent yet. The error is a sentence for people.
    pub fn open(settings: &DataverseSettings, exchange: Arc<dyn Exchange>) -> Result<Setup, String> {
        let url =
            settings.url.as_ref().ok_or("dataverse.url is missing, for example https://contoso.crm4.dynamics.com")?;
        Ok(Setup { api: Api { root: Root::open(url)?, exchange, page_size: settings.page_size, is_strong: true } })
    }

    /// The column of this name on the lead table; `None` when there is none.
    ///
    /// # Errors
    /// As the client stack.
    pub async fn column(&self, name: &str) -> Result<Option<FoundColumn>, RemoteError> {
        const OPERATION: &str = "look for the referral id column";
        let place = format!("EntityDefinitions(LogicalName='lead')/Attributes(LogicalName='{name}')");
        let url = self.api.root.at(&place, &[("$select", "LogicalName,AttributeType,MetadataId")]);
        let found = match self.api.object(OPERATION, url).await {
            Ok(found) => found,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let kind = found.get("AttributeType").and_then(Value::as_str).unwrap_or("unknown").to_owned();
        let url = self.api.root.at(
            &format!("{place}/Microsoft.Dynamics.CRM.StringAttributeMetadata"),
            &[("$select", "LogicalName,MaxLength")],
        );
        let length_max = match self.api.object(OPERATION, url).await {
            Ok(found) => found.get("MaxLength").and_then(Value::as_u64).and_then(|max| u32::try_from(max).ok()),
            Err(error) if is_absent(&error) => None,
            Err(error) => return Err(error),
        };
        Ok(Some(FoundColumn { kind, length_max }))
    }

    /// The key over exactly this column, whatever its name; `None` when there is none.
    ///
    /// # Errors
    /// As the client stack.
    pub async fn key(&self, column: &str) -> Result<Option<FoundKey>, RemoteError> {
        const OPERATION: &str = "look for the alternate key";
        let select = "SchemaName,LogicalName,KeyAttributes,EntityKeyIndexStatus";
        let url = self.api.root.at("EntityDefinitions(LogicalName='lead')/Keys", &[("$select", select)]);
        let keys = self.api.metadata(OPERATION, url).await?;
        Ok(keys.iter().find_map(|key| read_key(key, column)))
    }

    /// Whether the lead table keeps what changes, and for how long.
    ///
    /// # Errors
    /// As the client stack; that the number of days is not told is none.
    pub async fn tracking(&self) -> Result<FoundTracking, RemoteError> {
        const OPERATION: &str = "look for change tracking";
        let select = [("$select", "LogicalName,ChangeTrackingEnabled")];
        let table =
            self.api.object(OPERATION, self.api.root.at("EntityDefinitions(LogicalName='lead')", &select)).await?;
        let is_on = table.get("ChangeTrackingEnabled").and_then(Value::as_bool).unwrap_or(false);
        let select = [("$select", "expirechangetrackingindays")];
        let organizations = self.api.all(OPERATION, self.api.root.at("organizations", &select)).await;
        let days = organizations.ok().and_then(|rows| rows.first()?.get("expirechangetrackingindays")?.as_u64());
        Ok(FoundTracking { is_on, days })
    }

    /// Looks a future owner up.
    ///
    /// # Errors
    /// As the client stack; a refusal to show users or teams included.
    pub async fn owner(&self, owner: Owner) -> Result<FoundOwner, RemoteError> {
        const OPERATION: &str = "look for an owner";
        let (place, select, core) = match owner {
            Owner::User(id) => (format!("{}({id})", contract::USERS), "systemuserid,isdisabled", "systemuserid"),
            Owner::Team(id) => (format!("{}({id})", contract::TEAMS), "teamid", "teamid"),
        };
        let ask = |select| self.api.object(OPERATION, self.api.root.at(&place, &[("$select", select)]));
        let found = match ask(select).await {
            // Not every environment has the column (dataverse §8 row 17): then nothing is known but that the user exists.
            Err(error) if select != core && is_bad_url(&error) => ask(core).await,
            found => found,
        };
        match found {
            Ok(row) if row.get("isdisabled").and_then(Value::as_bool) == Some(true) => Ok(FoundOwner::Disabled),
            Ok(_) => Ok(FoundOwner::Fine),
            Err(error) if error.status == Some(404) => Ok(FoundOwner::Missing),
            Err(error) => Err(error),
        }
    }

    /// The organization's base language, in which labels are written.
    async fn language(&self) -> Result<u64, RemoteError> {
        const OPERATION: &str = "read the base language";
        let rows = self.api.all(OPERATION, self.api.root.at("organizations", &[("$select", "languagecode")])).await?;
        let code = rows.first().and_then(|row| row.get("languagecode")).and_then(Value::as_u64);
        Ok(code.unwrap_or(ENGLISH))
    }
}

/// Language code of labels where the organization does not say.
const ENGLISH: u64 = 1033;

/// The URL names a column that the environment does not have (dataverse §7).
fn is_bad_url(error: &RemoteError) -> bool {
    error.status == Some(400) && error.code.as_deref().and_then(codes::parse) == Some(codes::BAD_URL)
}

fn is_absent(error: &RemoteError) -> bool {
    error.status == Some(404) && error.fault != Fault::Unavailable
}

fn read_key(key: &Value, column: &str) -> Option<FoundKey> {
    let row = key.as_object()?;
    let columns = row.get("KeyAttributes").and_then(Value::as_array)?;
    if columns.len() != 1 || columns[0].as_str() != Some(column) {
        return None;
    }
    let name = wire::text(row, "LogicalName").or_else(|| wire::text(row, "SchemaName"))?.to_owned();
    let index = match wire::text(row, "EntityKeyIndexStatus").unwrap_or_default() {
        "Active" => Index::Active,
        "Pending" | "InProgress" => Index::Pending,
        "Failed" => Index::Failed,
        other => Index::Other(other.chars().filter(char::is_ascii_alphanumeric).take(40).collect()),
    };
    Some(FoundKey { name, index })
}

/// The id behind an owner.
pub fn owner_id(owner: Owner) -> Uuid {
    match owner {
        Owner::User(id) | Owner::Team(id) => id,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_key_of_exactly_our_column_is_ours() {
        let key = |columns: Value, index: &str| json!({"LogicalName": "k", "KeyAttributes": columns, "EntityKeyIndexStatus": index});
        let found = |key: &Value| read_key(key, "new_referralid").map(|found| found.index);
        assert_eq!(found(&key(json!(["new_referralid"]), "Active")), Some(Index::Active));
        assert_eq!(found(&key(json!(["new_referralid"]), "InProgress")), Some(Index::Pending));
        assert_eq!(found(&key(json!(["new_referralid"]), "Strange word")), Some(Index::Other("Strangeword".into())));
        assert_eq!(found(&key(json!(["new_referralid", "subject"]), "Active")), None);
        assert_eq!(found(&json!(1)), None);
    }
}
