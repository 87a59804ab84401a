//! `referrald schema role`: the exact privileges, from the mapping and the options in use. No service is asked.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::json;

use super::super::exit::Exit;
use super::super::layout::paragraph;
use super::super::{Failure, print_json};
use crate::config::Settings;
use crate::crm::dataverse::settings::Identity;
use crate::crm::dataverse::setup::privileges::{Need, Uses, needs};
use crate::model::Owner;

/// What the configuration makes use of.
pub fn uses(settings: &Settings) -> Uses {
    let owners = || settings.mapping.owners.iter().map(|rule| rule.owner).chain(settings.mapping.fallback_owner);
    Uses {
        currency: settings.columns().contains("transactioncurrencyid"),
        user_owners: owners().any(|owner| matches!(owner, Owner::User(_))),
        team_owners: owners().any(|owner| matches!(owner, Owner::Team(_))),
    }
}

/// Prints the privileges.
pub(super) fn role(settings: &Settings, is_json: bool, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let needs = needs(uses(settings));
    if is_json {
        let one = |need: &Need| {
            json!({"privilege": need.privilege, "table": need.table, "access": need.access, "depth": "Organization",
                "reason": need.reason})
        };
        print_json(out, &json!({ "privileges": needs.iter().map(one).collect::<Vec<_>>() }))?;
    } else {
        print(&needs, settings, out)?;
    }
    Ok(Exit::Fine)
}

fn print(needs: &[Need], settings: &Settings, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{:31} {:12} {:10} What for\n", "Privilege", "Table", "Access")?;
    for need in needs {
        let first = format!("{:31} {:12} {:10} ", need.privilege, need.table, need.access);
        paragraph(out, &first, 56, need.reason)?;
    }
    writeln!(out, "\nFor the administrator, in the role editor, each at depth Organization:\n")?;
    let mut tables: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for need in needs {
        tables.entry(need.table).or_default().push(need.access);
    }
    for (table, accesses) in tables {
        writeln!(out, "  {table:12} {}", accesses.join(", "))?;
    }
    writeln!(out)?;
    let mut notes = vec![
        "Begin with a copy of the role Basic User, which brings the reading of metadata. Not System Administrator.",
    ];
    if settings.mapping.owners.is_empty() && settings.mapping.fallback_owner.is_none() {
        notes.push(
            "No rule gives new leads an owner yet (mapping.owners, mapping.fallback_owner); with one, Assign on Lead and \
             Read on User or Team are needed too.",
        );
    } else {
        notes.push("Users and teams that shall own leads need a role of their own that may read leads.");
    }
    if settings.identity == Identity::AlternateKey || settings.referral_id_column.is_some() {
        notes.push("For `referrald schema install`, and for that run only: System Customizer.");
    }
    for note in notes {
        paragraph(out, "", 0, note)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(settings: &Settings) -> String {
        let mut out = Vec::new();
        print(&needs(uses(settings)), settings, &mut out).expect("printed");
        let text = String::from_utf8(out).expect("text");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        text
    }

    #[test]
    fn the_role_follows_from_the_configuration() {
        let mut settings = Settings::defaults();
        settings.mapping.fallback_owner = Some(Owner::Team(uuid::Uuid::from_u128(1)));
        insta::assert_snapshot!(drawn(&settings));
    }

    #[test]
    fn without_owners_and_amounts_less_is_needed() {
        let mut settings = Settings::defaults();
        settings.mapping.groups.get_mut("amount").expect("built in").enabled = false;
        let text = drawn(&settings);
        assert!(!text.contains("prvAssignLead") && !text.contains("prvAppendLead"), "{text}");
        assert!(text.contains("No rule gives new leads an owner"), "{text}");
    }
}
