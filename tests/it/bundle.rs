//! The support bundle: everything that helps, and nothing about any person.

use std::io::Read;

use referrald::sim::dynamics::Table;
use referrald::sim::{SimClock, World};
use serde_json::{Value, json};

use crate::stage::Stage;

/// A mark that no word of ours contains.
const MARK: &str = "Zq7Personal";

/// Both services, full of marked values, a configuration with marked samples and secrets, and a day of work.
async fn full_stage() -> Stage {
    let mut world = World::new(97, SimClock::running(), Default::default());
    world.populate(97, 20);
    for number in 0..10 {
        world.add_referral(json!({
            "name": format!("{MARK} request {number}"),
            "customerProfile": {
                "name": format!("{MARK} Ltd {number}"),
                "address": {"addressLine1": format!("{MARK} street {number}"), "city": format!("{MARK} city"), "country": "DE"},
                "team": [{"firstName": format!("{MARK} Ana"), "lastName": format!("{MARK} Lima"),
                    "email": format!("ana.{MARK}@contoso.example"), "phoneNumber": format!("+49 {MARK} 555")}],
            },
            "details": {"notes": format!("{MARK} notes {number}")},
        }));
    }
    let stage = Stage::with(world).await;
    stage.overlay(&format!(
        "[partner_center.auth]\nusername = \"{MARK}@contoso.example\"\n[http]\nuser_agent = \"referrald\"\n\
         [[mapping.test]]\nname = \"{MARK} sample\"\nreferral = {{ name = \"{MARK}\", customerProfile = {{ name = \"{MARK} Ltd\" }} }}\n\
         expect = {{ companyname = \"{MARK} Ltd\" }}\n"
    ));
    stage.run(&["once"]).await;
    stage.simulator.with(|world| {
        for id in world.crm.lead_ids() {
            world
                .edit_row(Table::Lead, id, json!({"companyname": format!("{MARK} by a seller"), "statuscode": 2}))
                .unwrap();
        }
    });
    stage.run(&["once"]).await;
    stage
}

/// The files of an archive by name.
fn files_of(archive: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let file = std::fs::File::open(archive).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut files = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        files.push((name, bytes));
    }
    files
}

/// Nothing marked, personal or secret is in any file; gives the names.
fn judge(stage: &Stage, archive: &std::path::Path) -> Vec<String> {
    let files = files_of(archive);
    for (name, bytes) in &files {
        let text = String::from_utf8_lossy(bytes);
        assert!(!text.contains(MARK), "{name} has a marked value: {text}");
        assert_eq!(stage.personal_in(bytes), Vec::<String>::new(), "{name}: {text}");
    }
    files.into_iter().map(|(name, _)| name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_personal_value_and_no_secret_is_in_any_file_of_the_bundle() {
    let stage = full_stage().await;
    // The search finds what is there.
    let lead = stage.simulator.with(|world| world.crm.lead_ids()[0]);
    let company = stage.column(lead, "companyname");
    assert_ne!(stage.personal_in(company.as_str().unwrap().as_bytes()), Vec::<String>::new());

    let alone = stage.path("alone.tar.gz");
    let told = stage.json(&["support-bundle", "--to", alone.to_str().unwrap()], 0).await;
    let names = judge(&stage, &alone);
    for name in [
        "README.txt",
        "config-check.txt",
        "configuration.toml",
        "history.txt",
        "state-check.json",
        "status.json",
        "versions.json",
    ] {
        assert!(names.iter().any(|known| known == name), "{name} is missing: {names:?} {told:#}");
    }
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&alone).unwrap().permissions().mode() & 0o777, 0o600);
    let files = files_of(&alone);
    let text =
        |name: &str| String::from_utf8(files.iter().find(|(known, _)| known == name).unwrap().1.clone()).unwrap();
    assert!(text("history.txt").lines().count() > 20, "{}", text("history.txt"));
    let status: Value = serde_json::from_str(&text("status.json")).unwrap();
    assert_eq!(status["is_running"], json!(false));
    assert!(text("configuration.toml").contains("username = \"***\""));

    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    let beside = stage.path("beside.tar.gz");
    let told = stage.run(&["support-bundle", "--to", beside.to_str().unwrap()]).await;
    assert_eq!(told.code, 0, "{told:#?}");
    assert!(told.out.contains("look through it"), "{}", told.out);
    judge(&stage, &beside);
    assert_eq!(daemon.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_used_is_told_without_its_lines() {
    let stage = Stage::new(98, 1).await;
    stage.overlay(&format!("writes = \"{MARK}\"\n[dataverse.auth]\nclient_secret = \"{MARK}\"\n"));
    let archive = stage.path("broken.tar.gz");
    let told = stage.json(&["support-bundle", "--to", archive.to_str().unwrap()], 0).await;
    assert!(told["missing"].as_array().is_some_and(|missing| missing.len() >= 2), "{told:#}");
    let names = judge(&stage, &archive);
    assert!(!names.iter().any(|name| name == "configuration.toml"), "{names:?}");
}
