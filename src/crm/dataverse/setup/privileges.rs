//! What the application user's security role must allow, and what it does allow (dataverse §1.3).

use std::collections::BTreeMap;

use serde_json::Value;
use uuid::Uuid;

use super::Setup;
use crate::crm::dataverse::api;
use crate::crm::dataverse::wire;
use crate::model::RemoteError;

/// How far a privilege reaches; the later the further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Own rows.
    User,
    /// Rows of the business unit.
    BusinessUnit,
    /// Rows of the business unit and those below.
    Deep,
    /// All rows.
    Organization,
}

/// One privilege that is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Its name, for example `prvReadLead`.
    pub privilege: &'static str,
    /// The table as the role editor names it.
    pub table: &'static str,
    /// The column of the role editor.
    pub access: &'static str,
    /// What for.
    pub reason: &'static str,
}

/// What the configuration makes use of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// A mapping column holds the currency.
    pub currency: bool,
    /// New leads are given to users.
    pub user_owners: bool,
    /// New leads are given to teams.
    pub team_owners: bool,
}

/// The privileges that these uses need, all at depth Organization; metadata is read with what *Basic User* brings.
pub fn needs(uses: Uses) -> Vec<Need> {
    let need = |privilege, table, access, reason| Need { privilege, table, access, reason };
    let mut needs = vec![
        need("prvReadLead", "Lead", "Read", "to see what sellers do"),
        need("prvCreateLead", "Lead", "Create", "for new referrals"),
        need("prvWriteLead", "Lead", "Write", "for referrals that change"),
        need("prvReadOpportunity", "Opportunity", "Read", "to learn how deals end"),
        need("prvReadTransactionCurrency", "Currency", "Read", "to know the currencies by their codes"),
    ];
    if uses.currency {
        needs.push(need("prvAppendLead", "Lead", "Append", "to give a lead its currency"));
        needs.push(need("prvAppendToTransactionCurrency", "Currency", "Append to", "to give a lead its currency"));
    }
    if uses.user_owners || uses.team_owners {
        needs.push(need("prvAssignLead", "Lead", "Assign", "to give new leads to their owners"));
    }
    if uses.user_owners {
        needs.push(need("prvReadUser", "User", "Read", "to look owners up"));
    }
    if uses.team_owners {
        needs.push(need("prvReadTeam", "Team", "Read", "to look owners up"));
    }
    needs
}

/// Privileges by name, in lower case, with their reach.
pub type Held = BTreeMap<String, Depth>;

impl Setup {
    /// What a user may do by all its roles, those of its teams included. `None` where the environment does not tell: the
    /// function is documented by Microsoft and is not in the sheet, so its absence is no failure (unverified).
    ///
    /// # Errors
    /// As the client stack, but for refusals.
    pub async fn held(&self, user: Uuid) -> Result<Option<Held>, RemoteError> {
        const OPERATION: &str = "read privileges";
        let resource = format!("systemusers({user})/Microsoft.Dynamics.CRM.RetrieveUserPrivileges");
        let answer = match self.api.object(OPERATION, self.api.root.at(&resource, &[])).await {
            Ok(answer) => answer,
            Err(error) if matches!(error.status, Some(400 | 403 | 404 | 405 | 501)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let rows = answer.get("RolePrivileges").and_then(Value::as_array).cloned().unwrap_or_default();
        let has_names = rows.iter().any(|row| row.get("PrivilegeName").is_some_and(Value::is_string));
        let names = if has_names { BTreeMap::new() } else { self.names(OPERATION).await? };
        let held = read(&rows, &names);
        Ok((!held.is_empty()).then_some(held))
    }

    /// Names of the privileges that may be needed, by id.
    async fn names(&self, operation: &'static str) -> Result<BTreeMap<Uuid, String>, RemoteError> {
        let all = needs(Uses { currency: true, user_owners: true, team_owners: true });
        let filter: Vec<String> = all.iter().map(|need| format!("name eq '{}'", need.privilege)).collect();
        let options = [("$select", "privilegeid,name"), ("$filter", &filter.join(" or "))];
        let rows = self.api.all(operation, self.api.root.at("privileges", &options)).await?;
        let named = |row: &Value| {
            let row = row.as_object()?;
            Some((wire::guid(row, "privilegeid")?, wire::text(row, "name")?.to_owned()))
        };
        Ok(rows.iter().filter_map(named).collect())
    }

    /// Whether a listing of one row of these tables is allowed, where privileges are not told: the refusals by table.
    ///
    /// # Errors
    /// As the client stack, but for refusals.
    pub async fn probe_reads(&self) -> Result<Vec<(&'static str, String)>, RemoteError> {
        const OPERATION: &str = "try to read";
        let mut refused = Vec::new();
        for (set, key, table) in [
            ("leads", "leadid", "Lead"),
            ("opportunities", "opportunityid", "Opportunity"),
            ("transactioncurrencies", "transactioncurrencyid", "Currency"),
        ] {
            let url = self.api.root.at(set, &[("$select", key), ("$top", "1")]);
            match self.api.get(OPERATION, url).await {
                Ok(answer) => {
                    api::object_of(OPERATION, &answer)?;
                }
                Err(error) if matches!(error.status, Some(400 | 403)) => refused.push((table, error.to_string())),
                Err(error) => return Err(error),
            }
        }
        Ok(refused)
    }
}

/// Reads rows of `RolePrivileges`; of several roles the furthest reach counts.
fn read(rows: &[Value], names: &BTreeMap<Uuid, String>) -> Held {
    let mut held = Held::new();
    for row in rows.iter().filter_map(Value::as_object) {
        let id = || names.get(&wire::guid(row, "PrivilegeId")?).map(String::as_str);
        let Some(name) = wire::text(row, "PrivilegeName").or_else(id) else { continue };
        let depth = match row.get("Depth") {
            Some(Value::String(word)) => match word.to_ascii_lowercase().as_str() {
                "basic" => Depth::User,
                "local" => Depth::BusinessUnit,
                "deep" => Depth::Deep,
                "global" => Depth::Organization,
                _ => continue,
            },
            Some(Value::Number(number)) => match number.as_u64() {
                Some(0) => Depth::User,
                Some(1) => Depth::BusinessUnit,
                Some(2) => Depth::Deep,
                Some(3) => Depth::Organization,
                _ => continue,
            },
            _ => continue,
        };
        let reach = held.entry(name.to_ascii_lowercase()).or_insert(depth);
        *reach = depth.max(*reach);
    }
    held
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_furthest_reach_of_several_roles_counts() {
        let id = Uuid::from_u128(7);
        let rows = [
            json!({"PrivilegeName": "prvReadLead", "Depth": "Basic"}),
            json!({"PrivilegeName": "prvReadLead", "Depth": "Global"}),
            json!({"PrivilegeId": id.to_string(), "Depth": 1}),
            json!({"PrivilegeName": "prvOdd", "Depth": "Sideways"}),
            json!(3),
        ];
        let held = read(&rows, &[(id, "prvWriteLead".to_owned())].into());
        assert_eq!(
            held,
            [("prvreadlead".into(), Depth::Organization), ("prvwritelead".into(), Depth::BusinessUnit)].into()
        );
    }

    #[test]
    fn only_what_is_used_is_needed() {
        let names = |uses| needs(uses).into_iter().map(|need| need.privilege).collect::<Vec<_>>();
        assert!(!names(Uses::default()).contains(&"prvAssignLead"));
        let all = names(Uses { currency: true, user_owners: false, team_owners: true });
        assert!(all.contains(&"prvAssignLead") && all.contains(&"prvReadTeam") && !all.contains(&"prvReadUser"));
    }
}
