//! `doctor` names the right cause and the remedy: misconfigurations and outages of the built program's surroundings.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use referrald::sim::Service;
use referrald::sim::dynamics::Table;
use referrald::sim::entra::SignInTrouble;
use referrald::sim::options::{KeyState, Role};
use referrald::sim::serve::Line;
use referrald::sim::{SimClock, World};
use serde_json::Value;

use crate::stage::Stage;

/// A stage on which doctor finds nothing to complain about.
async fn healthy(seed: u64) -> Stage {
    let mut world = World::new(seed, SimClock::running(), Default::default());
    world.populate(seed, 5);
    let stage = Stage::with(world).await;
    own(&stage);
    stage
}

/// Gives new leads an owner.
fn own(stage: &Stage) {
    let seller = stage.simulator.with(|world| world.crm.sellers()[0]);
    stage.overlay(&format!("[mapping]\nfallback_owner = {{ user = \"{seller}\" }}\n"));
}

async fn examined(stage: &Stage, code: i32) -> Value {
    stage.json(&["doctor"], code).await
}

fn failed(report: &Value) -> Vec<&str> {
    let checks = report["checks"].as_array().unwrap().iter();
    checks.filter(|check| check["state"] == "failed").filter_map(|check| check["id"].as_str()).collect()
}

/// Exactly this check fails, and its remedy has these words.
async fn check(stage: &Stage, what: &str, id: &str, words: &str) {
    let report = examined(stage, 1).await;
    let ids: Vec<String> = failed(&report).into_iter().map(generic).collect();
    assert_eq!(ids, [id], "{what}: {report:#}");
    let check = report["checks"].as_array().unwrap().iter().find(|check| check["state"] == "failed").unwrap();
    let remedy = check["remedy"].as_str().unwrap();
    assert!(remedy.contains(words), "{what}: {check:#}");
    println!("| {what} | {} | {} | {remedy} |", check["title"].as_str().unwrap(), check["found"].as_str().unwrap());
}

/// Ids without the port of this run.
fn generic(id: &str) -> String {
    id.split_once(":127.0.0.1").map_or(id, |(stage, _)| stage).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_installation_is_told_so_and_nothing_is_written() {
    let stage = healthy(81).await;
    let report = examined(&stage, 0).await;
    assert_eq!(failed(&report), Vec::<&str>::new());
    // Nobody has run yet: no ledger is made by looking.
    assert!(!stage.state().join("ledger").exists());
    assert_eq!(stage.writes(Service::Portal), vec![]);
    assert_eq!(stage.writes(Service::Crm), vec![]);
    stage.json(&["once"], 0).await;
    let before = stage.run(&["state", "export"]).await.out;
    let report = examined(&stage, 0).await;
    let words = report.to_string();
    assert!(words.contains("can be read") && words.contains("as in the ledger"), "{report:#}");
    let lines =
        |text: &str| text.lines().filter(|line| line.contains("standing")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&stage.run(&["state", "export"]).await.out), lines(&before));
    // Beside a running daemon, too.
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    let report = examined(&stage, 0).await;
    assert!(report.to_string().contains("held by the running daemon"), "{report:#}");
    let finished = stage.run(&["doctor"]).await;
    assert!(finished.code == 0 && finished.out.lines().all(|line| line.chars().count() <= 80), "{}", finished.out);
    assert_eq!(daemon.stop().await, 0);
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ground_is_judged_first() {
    let stage = healthy(82).await;
    let config = std::fs::read_to_string(stage.path("referrald.toml")).unwrap();
    std::fs::write(stage.path("referrald.toml"), format!("writs = 1\n{config}")).unwrap();
    check(&stage, "a typing error in the configuration", "configuration", "config check").await;
    std::fs::write(stage.path("referrald.toml"), "writes = ").unwrap();
    check(&stage, "a configuration that is no TOML", "configuration", "config check").await;
    std::fs::write(stage.path("referrald.toml"), &config).unwrap();

    let good = std::fs::read(stage.path("secret")).unwrap();
    let shared = |bytes: &[u8]| std::fs::write(stage.path("secret"), bytes).unwrap();
    // Both sides share the file on this stage.
    shared(&[b"\xef\xbb\xbf".as_slice(), &good].concat());
    let report = examined(&stage, 1).await;
    assert_eq!(failed(&report), ["secrets:partner-center", "secrets:dynamics"], "{report:#}");
    assert!(report.to_string().contains("byte order mark"));
    shared(b"11111111-2222-4333-8444-555555555555");
    assert!(examined(&stage, 1).await.to_string().contains("the secret's id, not its value"));
    shared(&good);
    std::fs::set_permissions(stage.path("secret"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let report = examined(&stage, 0).await;
    assert!(report["care"].as_u64() > Some(0) && report.to_string().contains("chmod 600"), "{report:#}");
    std::fs::set_permissions(stage.path("secret"), std::fs::Permissions::from_mode(0o600)).unwrap();

    std::fs::write(stage.path("refresh"), "").unwrap();
    let report = examined(&stage, 1).await;
    assert_eq!(
        failed(&report)[0],
        if failed(&report)[0] == "configuration" { "configuration" } else { "secrets:partner-center" }
    );
    std::fs::remove_file(stage.path("refresh")).unwrap();
    // A rotated token is kept by now; without it nobody has signed in.
    std::fs::remove_dir_all(stage.state()).unwrap();
    check(&stage, "nobody has signed in", "secrets:partner-center", " login`").await;
    stage.judge_discretion();
}

/// Cuts the line of a service or opens it again, and waits until that has come about.
async fn line(stage: &Stage, service: Service, state: Line) {
    let url = match service {
        Service::Crm => &stage.simulator.crm_url,
        Service::Authority => &stage.simulator.authority_url,
        Service::Portal => &stage.simulator.portal_url,
    };
    let address = url.trim_start_matches("http://").to_owned();
    stage.simulator.set_line(service, state);
    let began = Instant::now();
    while tokio::net::TcpStream::connect(&address).await.is_ok() != (state == Line::Open) {
        assert!(began.elapsed() < Duration::from_secs(120), "{address} is not {state:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_and_the_sign_in_are_judged_next() {
    let stage = healthy(83).await;
    line(&stage, Service::Crm, Line::Cut).await;
    check(&stage, "Dynamics cannot be reached", "tcp", "firewall").await;
    line(&stage, Service::Crm, Line::Open).await;
    line(&stage, Service::Authority, Line::Cut).await;
    check(&stage, "Entra ID cannot be reached", "tcp", "firewall").await;
    line(&stage, Service::Authority, Line::Open).await;
    stage.overlay("[dataverse]\nurl = \"https://contoso.crm4.dynamics.invalid\"\n");
    let report = examined(&stage, 1).await;
    assert!(failed(&report).contains(&"dns:contoso.crm4.dynamics.invalid"), "{report:#}");
    own(&stage);

    stage.simulator.with(|world| world.options.date_skew_millis = 600_000);
    let report = examined(&stage, 1).await;
    assert!(failed(&report).iter().all(|id| id.starts_with("clock:")), "{report:#}");
    stage.simulator.with(|world| world.options.date_skew_millis = 0);

    for (trouble, service, id, words) in [
        (SignInTrouble::WrongSecret, Service::Crm, "sign-in:dynamics", "not its id"),
        (SignInTrouble::SecretExpired, Service::Crm, "sign-in:dynamics", "make a new one"),
        (SignInTrouble::ConsentMissing, Service::Portal, "sign-in:partner-center", "grant application"),
        (SignInTrouble::Revoked, Service::Portal, "sign-in:partner-center", " login`"),
        (SignInTrouble::MfaDemanded, Service::Portal, "sign-in:partner-center", " login`"),
        (SignInTrouble::TemporarilyUnavailable, Service::Portal, "sign-in:partner-center", "try again"),
    ] {
        stage.simulator.with(|world| world.entra.troubles.insert(service, trouble));
        check(&stage, &format!("{trouble:?}"), id, words).await;
        stage.simulator.with(|world| world.entra.troubles.clear());
    }
    let client = stage.simulator.with(|world| world.options.client.0.clone());
    stage.simulator.with(|world| world.options.client.0 = "another".to_owned());
    let report = examined(&stage, 1).await;
    assert!(report.to_string().contains("AADSTS700016"), "{report:#}");
    stage.simulator.with(|world| world.options.client.0 = client);
    stage.simulator.with(|world| world.options.token_tenant = Some("bbbbbbbb-0000-4000-8000-000000000001".into()));
    let report = examined(&stage, 1).await;
    assert_eq!(failed(&report), ["token:partner-center", "token:dynamics"], "{report:#}");
    stage.judge_discretion();
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_rights_and_columns_are_judged_last() {
    let stage = healthy(84).await;
    for (role, words) in [(Role::Nobody, " login`"), (Role::Stranger, "Referrals admin")] {
        stage.simulator.with(|world| world.options.portal.role = role);
        match role {
            Role::Nobody => check(&stage, "a user without a role", "referrals", words).await,
            _ => assert!(examined(&stage, 0).await.to_string().contains(words)),
        }
    }
    stage.simulator.with(|world| world.options.portal.role = Role::Admin);

    stage.simulator.with(|world| world.options.crm.user_refusal = Some("0x80072560".into()));
    check(&stage, "no application user", "user", "").await;
    stage.simulator.with(|world| world.options.crm.user_refusal = None);
    for privilege in ["prvAssignLead", "prvAppendToTransactionCurrency"] {
        stage.simulator.with(|world| world.options.crm.privileges_missing = [privilege.to_owned()].into());
        check(&stage, &format!("without {privilege}"), "privileges", "schema role").await;
    }
    stage.simulator.with(|world| {
        world.options.crm.tells_privileges = false;
        world.options.crm.privileges_missing = ["prvReadOpportunity".to_owned()].into();
    });
    check(&stage, "reading refused", "privileges", "schema role").await;
    stage.simulator.with(|world| world.options.crm.privileges_missing.clear());
    assert!(examined(&stage, 0).await.to_string().contains("writing cannot be tried"));

    let seller = stage.simulator.with(|world| world.crm.sellers()[0]);
    stage.simulator.with(|world| world.crm.disable(seller));
    check(&stage, "an owner who left", "owners", "mapping.owners").await;
    stage.overlay("");
    check(&stage, "no owner at all", "owner-rule", "fallback_owner").await;
    let other = stage.simulator.with(|world| world.crm.sellers()[1]);
    let owner = format!("[mapping]\nfallback_owner = {{ user = \"{other}\" }}\n");
    stage.overlay(&format!(
        "{owner}[mapping.groups.extra]\nowner = \"crm\"\n[mapping.groups.extra.columns.new_region]\nfrom = [\"/id\"]\n"
    ));
    let report = examined(&stage, 1).await;
    assert_eq!(failed(&report), ["mapping"], "{report:#}");
    assert!(report.to_string().contains("10.toml:5:"), "the line is named: {report:#}");
    stage.overlay(&owner);
    // Nobody has chosen the built-in columns: a missing one is left out, and worth a look.
    stage.simulator.with(|world| world.crm.remove_column(Table::Lead, "jobtitle"));
    let report = examined(&stage, 0).await;
    assert!(report.to_string().contains("mapping.groups.contact.columns.jobtitle"), "{report:#}");
    stage.judge_discretion();
}

#[tokio::test(flavor = "multi_thread")]
async fn key_column_and_organization_are_judged_where_they_matter() {
    let mut world = World::new(85, SimClock::running(), Default::default());
    world.options.crm.key = KeyState::Failed;
    world.populate(85, 5);
    let mut options = world.options.clone();
    options.crm.key = KeyState::Failed;
    let mut world = World::new(85, SimClock::running(), options);
    world.populate(85, 5);
    let stage = Stage::with(world).await;
    let seller = stage.simulator.with(|world| world.crm.sellers()[0]);
    let owner = format!("[mapping]\nfallback_owner = {{ user = \"{seller}\" }}\n");
    let text = std::fs::read_to_string(stage.path("referrald.toml")).unwrap();
    let configure = |head: &str| std::fs::write(stage.path("referrald.toml"), format!("{head}\n{text}")).unwrap();
    stage.overlay(&owner);
    configure("identity = \"alternate_key\"\nreferral_id_column = \"new_referralid\"");
    check(&stage, "an index that failed", "key", "same referral id").await;
    configure("referral_id_column = \"new_other\"");
    check(&stage, "a column that is missing", "column", "schema install").await;
    configure("");
    stage.json(&["once"], 0).await;
    stage.simulator.with(|world| world.crm.move_to(uuid::Uuid::from_u128(0xbad)));
    check(&stage, "a copied environment", "organization", "approve organization").await;
    stage.judge_discretion();
}
