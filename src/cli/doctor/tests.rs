//! Seeded misconfigurations and outages: for each, the right cause and the remedy, and nothing else that fails.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;

use super::facts::*;
use super::judge::diagnose;
use super::report::{Outcome, Report};
use crate::crm::dataverse::setup::privileges::{Depth, Uses, needs};
use crate::crm::dataverse::setup::{FoundColumn, FoundKey, FoundOwner, FoundTracking, Index};
use crate::cycle::ORGANIZATION_BRAKE;
use crate::daemon::status::BrakeStatus;
use crate::http::signin::claims::Claims;
use crate::model::{Fault, Owner, RemoteError, Side, Timestamp};
use crate::portal::partner_center::probe::Glimpse;
use crate::ports::CrmIdentity;

const TENANT: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const PORTAL: &str = "api.partner.microsoft.com";
const CRM: &str = "contoso.crm4.dynamics.com";
const ENTRA: &str = "login.microsoftonline.com";

/// A machine on which everything is as it should be.
fn good() -> Facts {
    let host = |name: &str, key: &str| HostFact {
        name: name.into(),
        key: key.into(),
        proxy: None,
        dns: Some(Ok(vec!["203.0.113.7".parse().expect("an address")])),
        tcp: Some(Ok(Duration::from_millis(12))),
        tls: Some(Ok(true)),
        skew_ms: Some(Some(120)),
        skew_max_ms: 300_000,
    };
    let secret = |key: &str| SecretFact {
        key: key.into(),
        place: "/etc/referrald/secrets/one".into(),
        found: SecretFound::Read { mode: Some(0o600), traps: Vec::new() },
    };
    let sign_in = |host: &str, is_delegated: bool| SignInFact {
        authority: ENTRA.into(),
        host: host.into(),
        audience: format!("https://{host}"),
        tenant: TENANT.into(),
        is_delegated,
        token: Some(Ok(Some(Claims {
            audience: Some(format!("https://{host}/")),
            tenant: Some(TENANT.into()),
            methods: is_delegated.then(|| vec!["pwd".into(), "mfa".into()]),
            ..Claims::default()
        }))),
    };
    let uses = Uses { currency: true, user_owners: false, team_owners: true };
    let held = needs(uses).iter().map(|need| (need.privilege.to_lowercase(), Depth::Organization)).collect();
    Facts {
        places: Default::default(),
        configuration: Configuration { file: "/etc/referrald/referrald.toml".into(), ..Configuration::default() },
        secrets: vec![
            (Side::Portal, secret("partner_center.auth.client_secret_file")),
            (Side::Crm, secret("dataverse.auth.client_secret_file")),
        ],
        state: Some(StateFact::Found {
            path: "/var/lib/referrald".into(),
            mode: 0o40700,
            strangers: Vec::new(),
            is_writable: true,
        }),
        disk_free: Some(9 * 1024 * 1024 * 1024),
        ledger: Some(LedgerFact::Idle { crm: Some(Uuid::from_u128(1)), portal: None, last_success: None }),
        unit: UnitFact::default(),
        hosts: vec![
            host(ENTRA, "partner_center.auth.authority"),
            host(PORTAL, "partner_center.base_url"),
            host(CRM, "dataverse.url"),
        ],
        portal: PortalFact {
            sign_in: sign_in(PORTAL, true),
            glimpse: Some(Ok(Glimpse { sees_referrals: true, ..Glimpse::default() })),
        },
        crm: CrmFact {
            sign_in: sign_in(CRM, false),
            identity: Some(Ok(CrmIdentity {
                organization: Uuid::from_u128(1),
                user: Uuid::from_u128(2),
                parallelism: None,
            })),
            needs: needs(uses),
            held: Some(Ok(Privileges::Told(held))),
            has_owner_rule: true,
            owners: Some(Ok(vec![(Owner::Team(Uuid::from_u128(3)), FoundOwner::Fine)])),
            mapping: Some(Ok(Vec::new())),
            lengths: Some((12, Vec::new())),
            currencies: Some(vec!["EUR".into(), "USD".into()]),
            wants_column: true,
            wants_key: true,
            column: Some((
                "new_referralid".into(),
                Ok(Some(FoundColumn { kind: "String".into(), length_max: Some(100) })),
            )),
            key: Some(Ok(Some(FoundKey { name: "new_referralidkey".into(), index: Index::Active }))),
            wants_tracking: false,
            tracking: None,
        },
        wants_webhook: true,
        webhook: Some(Ok(None)),
    }
}

type Seed = (&'static str, fn(&mut Facts), &'static str, &'static str, &'static str);

fn refused(code: &str, message: &str) -> Trouble {
    Trouble::of(&RemoteError {
        code: Some(code.into()),
        status: Some(400),
        ..RemoteError::new(Side::Portal, "sign in", Fault::NeedsHuman).with_message(message)
    })
}

fn secret(facts: &mut Facts, found: SecretFound) {
    facts.secrets[1].1.found = found;
}

fn trap(facts: &mut Facts, trap: Trap) {
    secret(facts, SecretFound::Read { mode: Some(0o600), traps: vec![trap] });
}

fn entra_says(facts: &mut Facts, code: &str, message: &str) {
    facts.crm.sign_in.token = Some(Err(refused(code, message)));
}

fn claims(facts: &mut Facts, change: fn(&mut Claims)) {
    if let Some(Ok(Some(claims))) = &mut facts.portal.sign_in.token {
        change(claims);
    }
}

fn key(facts: &mut Facts, index: Index) {
    facts.crm.key = Some(Ok(Some(FoundKey { name: "new_referralidkey".into(), index })));
}

fn column(facts: &mut Facts, length_max: Option<u32>) {
    let found = FoundColumn { kind: "String".into(), length_max };
    facts.crm.column = Some(("new_referralid".into(), Ok(Some(found))));
}

fn mapping(facts: &mut Facts, key: &str, reason: &str) {
    facts.crm.mapping = Some(Ok(vec![MappingFact {
        place: "/etc/referrald/referrald.toml:12:1".into(),
        key: key.into(),
        reason: reason.into(),
        is_blocking: false,
        is_built_in: false,
    }]));
}

/// What is wrong; how it shows; the one check that fails; words of what is found; words of what to do.
const SEEDS: [Seed; 52] = [
    (
        "a credential that nobody passes",
        |it| {
            it.secrets[1].1 = SecretFact {
                key: "dataverse.auth.client_secret_credential".into(),
                place: "the systemd credential dataverse-secret".into(),
                found: SecretFound::Unreadable("the unit does not name it".into()),
            }
        },
        "secrets:dynamics",
        "no credential dataverse-secret",
        "systemctl edit",
    ),
    (
        "no configuration",
        |it| it.configuration.nothing_yet = Some(NothingYet::Absent),
        "configuration",
        "there is no /etc/referrald/referrald.toml",
        "sudo referrald init",
    ),
    (
        "an instance without a configuration",
        |it| {
            it.configuration.nothing_yet = Some(NothingYet::Absent);
            it.configuration.file = "/etc/referrald/contoso/referrald.toml".into();
        },
        "configuration",
        "there is no /etc/referrald/contoso",
        "sudo referrald --instance contoso init",
    ),
    (
        "a package that nobody has configured",
        |it| it.configuration.nothing_yet = Some(NothingYet::Untouched),
        "configuration",
        "as it was installed",
        "sudo referrald init",
    ),
    (
        "another partner account",
        |it| {
            it.ledger = Some(LedgerFact::Idle {
                crm: Some(Uuid::from_u128(1)),
                portal: Some("1111".into()),
                last_success: None,
            });
            let seen =
                Glimpse { sees_referrals: true, organizations: ["2222".to_owned()].into(), ..Glimpse::default() };
            it.portal.glimpse = Some(Ok(seen));
        },
        "partner-organization",
        "the newest referrals belong to 2222, the ledger belongs to 1111",
        "approve organization",
    ),
    (
        "a column that is too short for an id",
        |it| {
            let short = super::lengths::Short {
                key: "mapping.groups.extra.columns.new_id".into(),
                reason: "new_id takes 10 characters, and an id (/id) has 36: it would be cut".into(),
                is_exact: true,
            };
            let place = "/etc/referrald/referrald.toml:12:1".into();
            it.crm.lengths = Some((12, vec![LengthFact { place, short }]));
        },
        "lengths",
        "1 of 12 are too short",
        "maker portal",
    ),
    (
        "no name server",
        |it| it.hosts.iter_mut().for_each(|host| host.dns = Some(Err("no answer".into()))),
        "names",
        "none is known",
        "resolv.conf",
    ),
    (
        "a typing error in the configuration",
        |it| it.configuration.errors.push("/etc/referrald/referrald.toml:3:1: `writs`: unknown".into()),
        "configuration",
        "1 error",
        "config check",
    ),
    (
        "the secret's file is missing",
        |it| secret(it, SecretFound::Unreadable("No such file".into())),
        "secrets:dynamics",
        "No such file",
        "put the secret into",
    ),
    (
        "the secret's file is empty",
        |it| trap(it, Trap::Empty),
        "secrets:dynamics",
        "is empty",
        "put the secret into it",
    ),
    (
        "a byte order mark before the secret",
        |it| trap(it, Trap::ByteOrderMark),
        "secrets:dynamics",
        "byte order mark",
        "printf %s",
    ),
    ("the secret in UTF-16", |it| trap(it, Trap::Utf16), "secrets:dynamics", "UTF-16", "printf %s"),
    (
        "two lines in the secret's file",
        |it| trap(it, Trap::LineBreak),
        "secrets:dynamics",
        "more than one line",
        "printf %s",
    ),
    (
        "the secret's id instead of its value",
        |it| trap(it, Trap::LooksLikeId),
        "secrets:dynamics",
        "secret's id",
        "put its Value",
    ),
    (
        "nobody has signed in yet",
        |it| it.secrets[0].1.found = SecretFound::NobodySignedIn,
        "secrets:partner-center",
        "nobody has signed in",
        "referrald login",
    ),
    (
        "a state directory of another user",
        |it| it.state = Some(StateFact::Forbidden("/var/lib/referrald".into())),
        "state",
        "may not be entered",
        "sudo referrald doctor",
    ),
    (
        "files of root in the daemon's state",
        |it| {
            it.state = Some(StateFact::Found {
                path: "/s".into(),
                mode: 0o700,
                strangers: vec!["/s/keep/x".into()],
                is_writable: true,
            })
        },
        "state",
        "belong to another user",
        "chown -R",
    ),
    ("a full disk", |it| it.disk_free = Some(1024), "disk", "0 MiB free", "make room on the disk of"),
    (
        "a daemon that hangs",
        |it| it.ledger = Some(LedgerFact::Held(": process 7".into())),
        "ledger",
        "does not answer",
        "restart a daemon",
    ),
    (
        "a damaged ledger",
        |it| it.ledger = Some(LedgerFact::Broken("the ledger failed: damage".into())),
        "ledger",
        "damage",
        "rebuilds it",
    ),
    (
        "a credential that the unit does not pass",
        |it| {
            it.unit = UnitFact {
                files: vec!["/u".into()],
                missing_credentials: vec!["dataverse-secret".into()],
                ..UnitFact::default()
            }
        },
        "unit",
        "passes no credential dataverse-secret",
        "systemctl edit",
    ),
    (
        "a configuration the unit cannot read",
        |it| {
            it.unit = UnitFact {
                files: vec!["/u".into()],
                read: Some(("/etc/referrald/referrald.toml".into(), false)),
                ..UnitFact::default()
            }
        },
        "unit",
        "cannot be read by the unit",
        "chmod 644",
    ),
    (
        "a name that is not known",
        |it| it.hosts[2].dns = Some(Err("no such name".into())),
        "dns:contoso.crm4.dynamics.com",
        "name is not known",
        "dataverse.url",
    ),
    (
        "a firewall",
        |it| it.hosts[1].tcp = Some(Err("no connection within 10 s".into())),
        "tcp:api.partner.microsoft.com",
        "no connection",
        "open the firewall",
    ),
    (
        "a proxy that opens TLS",
        |it| it.hosts[0].tls = Some(Err("invalid peer certificate: UnknownIssuer".into())),
        "tls:login.microsoftonline.com",
        "UnknownIssuer",
        "http.extra_roots_file",
    ),
    (
        "a clock of last year",
        |it| it.hosts[0].tls = Some(Err("invalid peer certificate: NotValidYet".into())),
        "tls:login.microsoftonline.com",
        "NotValidYet",
        "timedatectl",
    ),
    (
        "a clock ten minutes off",
        |it| it.hosts[1].skew_ms = Some(Some(600_000)),
        "clock:api.partner.microsoft.com",
        "10 min behind",
        "set-ntp",
    ),
    (
        "a wrong client secret",
        |it| entra_says(it, "AADSTS7000215", "the client secret is wrong: put the secret's value, not its id, into /x"),
        "sign-in:dynamics",
        "AADSTS7000215",
        "not its id",
    ),
    (
        "an expired client secret",
        |it| entra_says(it, "AADSTS7000222", "the client secret has expired: make a new one and put it into /x"),
        "sign-in:dynamics",
        "expired",
        "make a new one",
    ),
    (
        "an unknown application",
        |it| entra_says(it, "AADSTS700016", "application a is not known in tenant t: correct dataverse.auth.client_id"),
        "sign-in:dynamics",
        "not known in tenant",
        "client_id",
    ),
    (
        "an unknown tenant",
        |it| entra_says(it, "AADSTS90002", "there is no tenant t: correct dataverse.auth.tenant_id"),
        "sign-in:dynamics",
        "no tenant",
        "tenant_id",
    ),
    (
        "a revoked sign-in",
        |it| {
            it.portal.sign_in.token = Some(Err(refused(
                "AADSTS50173",
                "the sign-in was revoked, for example by a password change: run `referrald login`",
            )))
        },
        "sign-in:partner-center",
        "revoked",
        "referrald login",
    ),
    (
        "Entra ID is down",
        |it| {
            it.portal.sign_in.token =
                Some(Err(Trouble::of(&RemoteError::new(Side::Portal, "sign in", Fault::Unavailable))))
        },
        "sign-in:partner-center",
        "unavailable, for the moment",
        "try again",
    ),
    (
        "a token for another service",
        |it| claims(it, |claims| claims.audience = Some("https://graph.microsoft.com".into())),
        "token:partner-center",
        "graph.microsoft.com",
        "audience",
    ),
    (
        "a token of another tenant",
        |it| claims(it, |claims| claims.tenant = Some("bbbbbbbb-0000-4000-8000-000000000001".into())),
        "token:partner-center",
        "bbbbbbbb",
        "tenant_id",
    ),
    (
        "a sign-in without a second factor",
        |it| claims(it, |claims| claims.methods = Some(vec!["pwd".into()])),
        "token:partner-center",
        "no second factor",
        "register a second factor",
    ),
    (
        "a user without the role",
        |it| {
            it.portal.glimpse = Some(Err(refused(
                "accessDenied",
                "the signed-in user may not list referrals; give it the role Referrals admin in Partner Center",
            )))
        },
        "referrals",
        "may not list",
        "Referrals admin",
    ),
    (
        "visibility lost",
        |it| {
            it.ledger =
                Some(LedgerFact::Daemon(Box::new(crate::daemon::Status { referrals: 40, ..Default::default() })));
            it.portal.glimpse = Some(Ok(Glimpse::default()));
        },
        "referrals",
        "the ledger knows 40",
        "Referrals admin",
    ),
    (
        "no application user in the environment",
        |it| {
            it.crm.identity = Some(Err(refused(
                "0x80072560",
                "the application is no user of this environment: add it in the Power Platform admin center",
            )))
        },
        "user",
        "no user",
        "admin center",
    ),
    (
        "a missing privilege",
        |it| {
            if let Some(Ok(Privileges::Told(held))) = &mut it.crm.held {
                held.remove("prvassignlead");
            }
        },
        "privileges",
        "prvAssignLead",
        "schema role",
    ),
    (
        "reading refused, privileges not told",
        |it| it.crm.held = Some(Ok(Privileges::Tried(vec![("Opportunity".into(), "refused".into())]))),
        "privileges",
        "Opportunity",
        "schema role",
    ),
    (
        "no owner for new leads",
        |it| it.crm.has_owner_rule = false,
        "owner-rule",
        "sellers do not see them",
        "fallback_owner",
    ),
    (
        "an owner who left",
        |it| it.crm.owners = Some(Ok(vec![(Owner::User(Uuid::from_u128(9)), FoundOwner::Disabled)])),
        "owners",
        "is disabled",
        "mapping.owners",
    ),
    (
        "a mapped column that is missing",
        |it| {
            mapping(
                it,
                "mapping.groups.extra.columns.new_region",
                "the organization has no lead column `new_region`; create it",
            )
        },
        "mapping",
        "1 of the mapping",
        "lines of the configuration",
    ),
    ("no currency at all", |it| it.crm.currencies = Some(Vec::new()), "currencies", "no active currency", "add them"),
    (
        "no referral id column",
        |it| it.crm.column = Some(("new_referralid".into(), Ok(None))),
        "column",
        "no column new_referralid",
        "schema install",
    ),
    ("a referral id column that is too short", |it| column(it, Some(20)), "column", "20 characters", "longer"),
    ("no alternate key", |it| it.crm.key = Some(Ok(None)), "key", "no such key", "schema install"),
    (
        "an alternate key whose index failed",
        |it| key(it, Index::Failed),
        "key",
        "could not be built",
        "same referral id",
    ),
    (
        "a copied environment",
        |it| it.ledger = Some(LedgerFact::Idle { crm: Some(Uuid::from_u128(77)), portal: None, last_success: None }),
        "organization",
        "the ledger belongs to",
        "approve organization",
    ),
    (
        "a copied environment, and a daemon whose writing an operator has suspended",
        |it| {
            let brake = BrakeStatus {
                name: ORGANIZATION_BRAKE.to_owned(),
                since: Timestamp::EPOCH,
                reason: "the Dynamics organization is another one".to_owned(),
                held: 0,
                limit: 0,
                digest: String::new(),
                command: "referrald approve organization".to_owned(),
            };
            let status = crate::daemon::Status { referrals: 40, brakes: vec![brake], ..Default::default() };
            it.ledger = Some(LedgerFact::Daemon(Box::new(status)));
        },
        "organization",
        "is another one",
        "approve organization",
    ),
    (
        "another webhook URL registered",
        |it| {
            it.webhook =
                Some(Ok(Some("another URL is registered; `referrald webhook register --take-over` replaces it".into())))
        },
        "webhook",
        "another URL",
        "--take-over",
    ),
];

fn failed(report: &Report) -> Vec<&str> {
    let is_failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_));
    report.checks.iter().filter(|check| is_failed(&check.outcome)).map(|check| check.id.as_str()).collect()
}

fn drawn(report: &Report) -> String {
    let mut out = Vec::new();
    report.print(&mut out).expect("printed");
    let text = crate::cli::words::plain(&String::from_utf8(out).expect("text"));
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    text
}

#[test]
fn a_healthy_machine_reads_like_this() {
    let report = diagnose(&good());
    assert_eq!(failed(&report), Vec::<&str>::new());
    insta::assert_snapshot!(drawn(&report));
}

#[test]
fn each_seeded_trouble_is_named_with_its_remedy_and_nothing_else_fails() {
    let mut table = String::new();
    for (name, seed, id, found, remedy) in SEEDS {
        let mut facts = good();
        seed(&mut facts);
        let report = diagnose(&facts);
        assert_eq!(failed(&report), [id], "{name}: {}", drawn(&report));
        let check = report.checks.iter().find(|check| check.id == id).expect("it failed");
        let Outcome::Failed(finding) = &check.outcome else { panic!("{name}") };
        assert!(finding.found.contains(found), "{name}: {}", finding.found);
        assert!(finding.remedy.contains(remedy), "{name}: {}", finding.remedy);
        assert!(!finding.expected.is_empty(), "{name}");
        drawn(&report);
        let skipped = report.count("skipped");
        table +=
            &format!("{name}\n  {}: {}\n  do: {}\n  {skipped} skipped\n", check.title, finding.found, finding.remedy);
    }
    let names: BTreeSet<&str> = SEEDS.iter().map(|seed| seed.0).collect();
    assert_eq!(names.len(), SEEDS.len());
    println!("{table}");
    insta::assert_snapshot!(table);
}

#[test]
fn a_failed_check_takes_those_above_it_along_and_names_the_cause() {
    let mut facts = good();
    facts.hosts[0].dns = Some(Err("no such name".into()));
    facts.hosts[0].tcp = None;
    facts.hosts[0].tls = None;
    facts.hosts[0].skew_ms = None;
    facts.portal.sign_in.token = None;
    facts.portal.glimpse = None;
    facts.crm = CrmFact {
        sign_in: SignInFact { token: None, ..facts.crm.sign_in },
        has_owner_rule: true,
        ..CrmFact::default()
    };
    insta::assert_snapshot!(drawn(&diagnose(&facts)));
}

#[test]
fn change_tracking_that_is_off_is_worth_a_look_where_it_is_wanted() {
    let report = |is_on| {
        let mut facts = good();
        facts.crm.wants_tracking = true;
        facts.crm.tracking = Some(Ok(FoundTracking { is_on, days: is_on.then_some(7) }));
        drawn(&diagnose(&facts))
    };
    let off = report(false);
    assert!(off.contains("off for the lead table") && off.contains("Track changes"), "{off}");
    let on = report(true);
    assert!(on.contains("on, changes are kept for 7 days") && !on.contains("Track changes"), "{on}");
    assert!(!drawn(&diagnose(&good())).contains("tracking"), "nobody asked");
}

#[test]
fn a_broken_configuration_is_the_first_and_only_failure() {
    let mut facts = good();
    facts.configuration.errors =
        vec!["/etc/referrald/referrald.toml:3:1: writs: this key is not known; did you mean `writes`?".into()];
    let report = diagnose(&facts);
    assert_eq!(failed(&report), ["configuration"]);
    assert_eq!(report.count("good"), 0);
}
