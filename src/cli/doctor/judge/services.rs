//! Both services: sign-in, token, role, privileges, owners, schema, organization, webhook.

use crate::cli::doctor::facts::{CrmFact, Facts, LedgerFact, LengthFact, PortalFact, Privileges, SignInFact};
use crate::cli::doctor::report::Outcome;
use crate::crm::dataverse::SWITCH_ON;
use crate::crm::dataverse::setup::privileges::Depth;
use crate::crm::dataverse::setup::{FoundOwner, Index, owner_id};
use crate::model::{Owner, Side};

use super::{Desk, troubled, word};

/// Fewest characters of a column that holds a referral id.
pub const REFERRAL_ID_LENGTH: u32 = 36;
/// Application ids by which tokens may name their audience (partner-center §2.1), and the one of Dataverse.
const AUDIENCE_IDS: [(&str, Side); 3] = [
    ("4990cffe-04e8-4e8b-808a-1175604b879f", Side::Portal),
    ("fa3d9a0c-3fb0-42cc-9193-47c7ecd2edbd", Side::Portal),
    ("00000007-0000-0000-c000-000000000000", Side::Crm),
];

/// Judges both services.
pub(super) fn judge(facts: &Facts, desk: &mut Desk) {
    for (side, fact) in [(Side::Portal, &facts.portal.sign_in), (Side::Crm, &facts.crm.sign_in)] {
        let (sign_in_id, secrets) = (format!("sign-in:{}", word(side)), format!("secrets:{}", word(side)));
        let way = format!("tls:{}", fact.authority);
        desk.add(&sign_in_id, format!("Sign-in to {side}"), &["configuration", &way, &secrets], || sign_in(fact));
        desk.add(format!("token:{}", word(side)), format!("Token for {side}"), &["configuration", &sign_in_id], || {
            token(side, fact)
        });
    }
    let way = format!("tls:{}", facts.portal.sign_in.host);
    let needs = ["configuration", &way, "sign-in:partner-center", "token:partner-center"];
    desk.add("referrals", "Referrals are visible", &needs, || referrals(&facts.portal, facts.ledger.as_ref()));
    let way = format!("tls:{}", facts.crm.sign_in.host);
    let needs = ["configuration", &way, "sign-in:dynamics", "token:dynamics"];
    let crm = &facts.crm;
    desk.add("user", "User in Dynamics", &needs, || user(crm));
    desk.add("privileges", "Privileges in Dynamics", &["configuration", "user"], || privileges(crm));
    desk.add("owner-rule", "Owner of new leads", &["configuration"], || Some(owner_rule(crm)));
    desk.add("owners", "Owners in Dynamics", &["configuration", "user"], || owners(crm));
    desk.add("mapping", "Mapping and lead columns", &["configuration", "user"], || mapping(crm));
    desk.add("lengths", "Lengths of text columns", &["configuration", "user"], || lengths(crm));
    desk.add("currencies", "Currencies", &["configuration", "user"], || currencies(crm));
    if crm.wants_column {
        desk.add("column", "Referral id column", &["configuration", "user"], || column(crm));
    }
    if crm.wants_key {
        desk.add("key", "Alternate key", &["configuration", "user", "column"], || key(crm));
    }
    if crm.wants_tracking {
        desk.add("tracking", "Change tracking", &["configuration", "user"], || tracking(crm));
    }
    let needs = ["configuration", "ledger", "user"];
    desk.add("organization", "Same Dynamics organization", &needs, || organization(facts));
    let needs = ["configuration", "ledger", "referrals"];
    desk.add("partner-organization", "Same partner organization", &needs, || partner_organization(facts));
    if !facts.wants_webhook {
        return;
    }
    desk.add("webhook", "Webhook registration", &["configuration", "sign-in:partner-center"], || {
        Some(match facts.webhook.as_ref()? {
            Ok(None) => Outcome::good("as configured"),
            Ok(Some(drift)) => {
                let (what, remedy) = drift.split_once("; ").unwrap_or((drift, "`referrald webhook show`"));
                Outcome::failed(what, "webhook.url and webhook.events as configured", remedy)
            }
            Err(trouble) => troubled(trouble, "an answer of the registration API"),
        })
    });
}

fn sign_in(fact: &SignInFact) -> Option<Outcome> {
    Some(match fact.token.as_ref()? {
        Ok(_) if fact.is_delegated => Outcome::good("by the kept refresh token"),
        Ok(_) => Outcome::good("by the application itself"),
        Err(trouble) => troubled(trouble, &format!("an access token for {}", fact.audience)),
    })
}

fn token(side: Side, fact: &SignInFact) -> Option<Outcome> {
    let claims = fact.token.as_ref()?.as_ref().ok()?;
    let section = match side {
        Side::Portal => "partner_center.auth",
        Side::Crm => "dataverse.auth",
    };
    let Some(claims) = claims else { return Some(Outcome::good("it does not show its claims")) };
    if let Some(audience) = &claims.audience {
        let is_host = audience.trim_end_matches('/').eq_ignore_ascii_case(fact.audience.trim_end_matches('/'));
        let is_id = AUDIENCE_IDS.iter().any(|(id, of)| *of == side && id.eq_ignore_ascii_case(audience));
        if !is_host && !is_id {
            return Some(Outcome::failed(
                format!("it is for {audience}"),
                fact.audience.as_str(),
                format!("correct or remove {section}.audience"),
            ));
        }
    }
    if let Some(tenant) = &claims.tenant {
        let is_guid = uuid::Uuid::try_parse(&fact.tenant).is_ok();
        if is_guid && !tenant.eq_ignore_ascii_case(&fact.tenant) {
            return Some(Outcome::failed(
                format!("it comes from the tenant {tenant}"),
                format!("the tenant {}", fact.tenant),
                format!("correct {section}.tenant_id, then `referrald login` with a member of that tenant"),
            ));
        }
    }
    if side == Side::Portal && !fact.is_delegated {
        return Some(Outcome::failed(
            "it is an application's own token, and the referrals API takes none",
            "the token of a signed-in user",
            format!("set {section}.grant = \"refresh_token\", then `referrald login`"),
        ));
    }
    let methods = claims.methods.as_ref().map(|methods| methods.join(", ")).unwrap_or_default();
    Some(match (side, claims.has_mfa()) {
        (Side::Portal, Some(false)) => Outcome::failed(
            format!("it carries no second factor ({methods}); Partner Center refuses such tokens with 900421"),
            "a sign-in with multi-factor authentication (amr: mfa)",
            "register a second factor for the user, then `referrald login`",
        ),
        (_, Some(true)) => Outcome::good(format!("audience, tenant and second factor fit ({methods})")),
        (_, _) => Outcome::good("audience and tenant fit"),
    })
}

fn referrals(portal: &PortalFact, ledger: Option<&LedgerFact>) -> Option<Outcome> {
    let expected = "at least one referral, seen by a Referrals admin";
    let role = "give the signed-in user the role Referrals admin (Partner Center, Account settings, User management), then \
                `referrald login`";
    let glimpse = match portal.glimpse.as_ref()? {
        Err(trouble) => return Some(troubled(trouble, expected)),
        Ok(glimpse) => glimpse,
    };
    if glimpse.is_mfa_compliant == Some(false) {
        return Some(Outcome::failed(
            "Partner Center says that the sign-in is not MFA compliant",
            "isMfaCompliant: true",
            "register a second factor for the user, then `referrald login`",
        ));
    }
    let known = match ledger {
        Some(LedgerFact::Daemon(status)) => status.referrals,
        _ => 0,
    };
    Some(match (glimpse.sees_referrals, known) {
        (true, _) => Outcome::good("yes; whether all of them, only the role tells: Referrals admin"),
        (false, 0) => Outcome::care("none is visible", expected, format!("if there are some: {role}")),
        (false, known) => Outcome::failed(format!("none is visible, and the ledger knows {known}"), expected, role),
    })
}

fn user(crm: &CrmFact) -> Option<Outcome> {
    Some(match crm.identity.as_ref()? {
        Ok(identity) => Outcome::good(format!("user {}, organization {}", identity.user, identity.organization)),
        Err(trouble) => troubled(trouble, "an enabled application user of the environment (WhoAmI)"),
    })
}

fn privileges(crm: &CrmFact) -> Option<Outcome> {
    let role = "add it to the security role of the application user; `referrald schema role` prints the whole list";
    let held = match crm.held.as_ref()? {
        Err(trouble) => return Some(troubled(trouble, "the privileges of our user")),
        Ok(Privileges::Tried(refused)) if refused.is_empty() => {
            return Some(Outcome::care(
                "the environment does not list them; reading was tried and works, writing cannot be tried without writing",
                "",
                "compare the security role with `referrald schema role`",
            ));
        }
        Ok(Privileges::Tried(refused)) => {
            let tables: Vec<&str> = refused.iter().map(|(table, _)| table.as_str()).collect();
            return Some(
                Outcome::failed(format!("reading is refused: {}", tables.join(", ")), "to be allowed to read", role)
                    .with(refused.iter().map(|(table, refusal)| format!("{table}: {refusal}")).collect()),
            );
        }
        Ok(Privileges::Told(held)) => held,
    };
    let reach = |privilege: &str| held.get(&privilege.to_ascii_lowercase()).copied();
    let missing: Vec<String> = crm
        .needs
        .iter()
        .filter(|need| reach(need.privilege).is_none())
        .map(|need| format!("{} ({} on {}), {}", need.privilege, need.access, need.table, need.reason))
        .collect();
    if !missing.is_empty() {
        let names: Vec<&str> =
            crm.needs.iter().filter(|need| reach(need.privilege).is_none()).map(|need| need.privilege).collect();
        let found = format!("{} missing: {}", names.len(), names.join(", "));
        return Some(Outcome::failed(found, "depth Organization for each", role).with(missing));
    }
    let short: Vec<String> = crm
        .needs
        .iter()
        .filter_map(|need| Some((need, reach(need.privilege)?)))
        .filter(|(_, depth)| *depth < Depth::Organization)
        .map(|(need, depth)| format!("{}: {depth:?}", need.privilege))
        .collect();
    Some(match short.is_empty() {
        true => Outcome::good(format!("{} of {}, at depth Organization", crm.needs.len(), crm.needs.len())),
        false => Outcome::care(
            format!("{} reach less far than the organization: leads of other units are not seen", short.len()),
            "depth Organization, unless units are meant to be apart",
            "widen them in the security role",
        )
        .with(short),
    })
}

fn owner_rule(crm: &CrmFact) -> Outcome {
    match crm.has_owner_rule {
        true => Outcome::good("a rule or a fallback says who gets them"),
        false => Outcome::failed(
            "no rule says who gets new leads: they stay with the application user, and sellers do not see them",
            "mapping.owners or mapping.fallback_owner",
            "set fallback_owner = { team = \"ID\" } under [mapping], with the id of a team in Dynamics",
        ),
    }
}

fn owners(crm: &CrmFact) -> Option<Outcome> {
    let owners = match crm.owners.as_ref()? {
        Err(trouble) => return Some(troubled(trouble, "to find the configured owners")),
        Ok(owners) => owners,
    };
    let bad: Vec<String> = owners
        .iter()
        .filter_map(|(owner, found)| {
            let kind = match owner {
                Owner::User(_) => "user",
                Owner::Team(_) => "team",
            };
            match found {
                FoundOwner::Fine => None,
                FoundOwner::Disabled => Some(format!("{kind} {} is disabled", owner_id(*owner))),
                FoundOwner::Missing => Some(format!("{kind} {} does not exist", owner_id(*owner))),
            }
        })
        .collect();
    Some(match bad.is_empty() {
        true if owners.is_empty() => return None,
        true => Outcome::good(format!("{} found", owners.len())),
        false => Outcome::failed(
            bad.first().cloned().unwrap_or_default(),
            "users and teams that exist and are enabled",
            "correct mapping.owners or mapping.fallback_owner; ids stand in the address of the user's or team's form",
        )
        .with(bad.into_iter().skip(1).collect()),
    })
}

fn mapping(crm: &CrmFact) -> Option<Outcome> {
    let expected = "every mapped column exists and takes its value";
    let problems = match crm.mapping.as_ref()? {
        Err(trouble) => return Some(troubled(trouble, "the columns of the lead table")),
        Ok(problems) => problems,
    };
    let lines = problems.iter().map(|it| format!("{}: {}: {}", it.place, it.key, it.reason)).collect();
    let is_ours = |it: &&crate::cli::doctor::facts::MappingFact| it.is_blocking || !it.is_built_in;
    Some(match (problems.len(), problems.iter().filter(is_ours).count()) {
        (0, _) => Outcome::good("fit each other"),
        (count, 0) => Outcome::care(
            format!("{count} of the built-in columns do not fit and are left out"),
            expected,
            "set enabled = false for them, or create them",
        )
        .with(lines),
        (_, count) => Outcome::failed(
            format!("{count} of the mapping do not fit this organization"),
            expected,
            "correct these lines of the configuration, or the columns in Dynamics",
        )
        .with(lines),
    })
}

fn lengths(crm: &CrmFact) -> Option<Outcome> {
    let (judged, short) = crm.lengths.as_ref()?;
    let line = |it: &LengthFact| format!("{}: {}: {}", it.place, it.short.key, it.short.reason);
    let lines = short.iter().map(line).collect();
    let expected = "room for every value that the mapping may give";
    let remedy = "make the columns longer in the maker portal (Tables, Lead, Columns), or map to others";
    Some(match (short.len(), short.iter().any(|it| it.short.is_exact)) {
        (0, _) => Outcome::good(format!("{judged} columns, each long enough")),
        (count, true) => Outcome::failed(format!("{count} of {judged} are too short"), expected, remedy).with(lines),
        (count, false) => Outcome::care(format!("{count} of {judged} are short"), expected, remedy).with(lines),
    })
}

fn currencies(crm: &CrmFact) -> Option<Outcome> {
    let codes = crm.currencies.as_ref()?;
    Some(match codes.is_empty() {
        true => Outcome::failed(
            "the organization shows no active currency, so no amount is written",
            "the currencies of your referrals, for example USD and EUR",
            "add them (Power Platform admin center, environment, Settings, Currencies), and let the role read Currency",
        ),
        false => Outcome::good(format!("{}; amounts in any other are left out", codes.join(", "))),
    })
}

fn column(crm: &CrmFact) -> Option<Outcome> {
    let (name, found) = crm.column.as_ref()?;
    Some(match found {
        Err(trouble) => troubled(trouble, "a description of the column"),
        Ok(None) => Outcome::failed(
            format!("the lead table has no column {name}"),
            "the column that referral_id_column names",
            "run `referrald schema install`, or remove referral_id_column",
        ),
        Ok(Some(found)) => match found.length_max {
            None => Outcome::failed(
                format!("{name} holds no line of text ({})", found.kind),
                "a text column",
                "name another column in referral_id_column; `referrald schema install` creates it",
            ),
            Some(length) if length < REFERRAL_ID_LENGTH => Outcome::failed(
                format!("{name} takes {length} characters"),
                format!("{REFERRAL_ID_LENGTH} or more, which a referral id has"),
                "make the column longer in the maker portal",
            ),
            Some(length) => Outcome::good(format!("{name}, {length} characters")),
        },
    })
}

fn key(crm: &CrmFact) -> Option<Outcome> {
    let expected = "an alternate key over the referral id column whose index is active; nothing is written before";
    Some(match crm.key.as_ref()? {
        Err(trouble) => troubled(trouble, expected),
        Ok(None) => Outcome::failed("there is no such key", expected, "run `referrald schema install`"),
        Ok(Some(key)) => match &key.index {
            Index::Active => Outcome::good(format!("{}, active", key.name)),
            Index::Pending => Outcome::failed(
                format!("{}: its index is being built", key.name),
                expected,
                "wait some minutes; `referrald schema check` tells how far it is",
            ),
            Index::Failed => Outcome::failed(
                format!("{}: its index could not be built", key.name),
                expected,
                "find the leads with the same referral id and correct them, then `referrald schema install`",
            ),
            Index::Other(word) => Outcome::failed(
                format!("{}: its index is \"{word}\"", key.name),
                expected,
                "look at the key in the maker portal",
            ),
        },
    })
}

fn tracking(crm: &CrmFact) -> Option<Outcome> {
    let expected =
        "a lead table that keeps what changes (dataverse.observe = \"delta\"); until then changed leads are polled";
    Some(match crm.tracking.as_ref()? {
        Err(trouble) => troubled(trouble, expected),
        Ok(found) if found.is_on => Outcome::good(found.to_string()),
        Ok(found) => Outcome::care(found.to_string(), expected, SWITCH_ON),
    })
}

/// What to do when an organization is not the one of the ledger.
const MOVED: &str = "if you moved on purpose: `referrald approve organization`; else correct the URLs and tenants";

/// As the cycle judges it: of the newest referrals none belongs to the organization that the ledger belongs to.
fn partner_organization(facts: &Facts) -> Option<Outcome> {
    let seen = &facts.portal.glimpse.as_ref()?.as_ref().ok()?.organizations;
    let LedgerFact::Idle { portal: Some(known), .. } = facts.ledger.as_ref()? else { return None };
    let first = seen.first()?;
    Some(match seen.iter().any(|id| id.eq_ignore_ascii_case(known)) {
        true => Outcome::good("as in the ledger"),
        false => Outcome::failed(
            format!("the newest referrals belong to {first}, the ledger belongs to {known}"),
            "the partner organization that the ledger belongs to",
            MOVED,
        ),
    })
}

fn organization(facts: &Facts) -> Option<Outcome> {
    let expected = "the organization that the ledger belongs to; a copied environment must not push";
    let remedy = MOVED;
    let identity = facts.crm.identity.as_ref()?.as_ref().ok()?;
    match facts.ledger.as_ref()? {
        LedgerFact::Daemon(status) => {
            Some(match status.brakes.iter().find(|brake| brake.name == crate::cycle::ORGANIZATION_BRAKE) {
                Some(brake) => Outcome::failed(brake.reason.as_str(), expected, remedy),
                None => Outcome::good("watched by the running daemon"),
            })
        }
        LedgerFact::Idle { crm: Some(known), .. } if *known != identity.organization => Some(Outcome::failed(
            format!("Dynamics is organization {}, the ledger belongs to {known}", identity.organization),
            expected,
            remedy,
        )),
        LedgerFact::Idle { crm: Some(_), .. } => Some(Outcome::good("as in the ledger")),
        LedgerFact::Idle { crm: None, .. } | LedgerFact::Absent => {
            Some(Outcome::good("the first cycle stamps it into the ledger"))
        }
        LedgerFact::Foreign | LedgerFact::Held(_) | LedgerFact::Broken(_) | LedgerFact::Forbidden(_) => None,
    }
}
