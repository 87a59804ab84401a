//! What the application user's security role allows (dataverse §1.3).

use serde_json::json;

use super::super::exchange::Answer;
use super::super::options::CrmOptions;
use super::Table;

/// What an untouched role has.
const ROLE: [&str; 11] = [
    "prvReadLead",
    "prvCreateLead",
    "prvWriteLead",
    "prvAssignLead",
    "prvAppendLead",
    "prvReadOpportunity",
    "prvReadTransactionCurrency",
    "prvAppendToTransactionCurrency",
    "prvReadUser",
    "prvReadTeam",
    "prvReadEntity",
];

/// Refuses what the role lacks.
pub(super) fn check(options: &CrmOptions, table: Table, method: &str) -> Result<(), Answer> {
    let name = match table {
        Table::Lead => "Lead",
        Table::Opportunity => "Opportunity",
        Table::Currency => "TransactionCurrency",
        Table::User => "User",
        Table::Team => "Team",
        _ => return Ok(()),
    };
    // A PATCH may create as well as update; the role decides on the weaker one.
    let verb = if method == "GET" { "Read" } else { "Write" };
    let privilege = format!("prv{verb}{name}");
    match options.privileges_missing.contains(&privilege) {
        true => Err(Answer::crm_error(403, "0x80040220", &format!("Principal user is missing {privilege} privilege"))),
        false => Ok(()),
    }
}

/// The answer of `RetrieveUserPrivileges`.
pub(super) fn told(options: &CrmOptions) -> Result<Answer, Answer> {
    if !options.tells_privileges {
        return Err(Answer::crm_error(404, "0x80060888", "Resource not found for the segment."));
    }
    let held = ROLE.iter().filter(|name| !options.privileges_missing.contains(**name));
    let rows: Vec<_> = held
        .map(|name| {
            json!({"Depth": "Global", "PrivilegeName": name, "BusinessUnitId": "00000000-0000-4000-8000-0000000000b1",
                "PrivilegeId": format!("00000000-0000-4000-a000-{:012x}", crc32fast::hash(name.as_bytes()))})
        })
        .collect();
    Ok(Answer::json(200, json!({ "RolePrivileges": rows })))
}
