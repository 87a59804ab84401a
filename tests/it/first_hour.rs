//! The first hour: from nothing to the first lead, and the optional column with its key.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use referrald::sim::Service;
use referrald::sim::dynamics::Table;
use referrald::sim::faults::Lasting;
use referrald::sim::options::KeyState;
use referrald::sim::{Options, SimClock, World};
use serde_json::Value;

use crate::stage::{Finished, Stage};

/// Runs `init` for the services of the stage; `secrets` is what a script says on standard input.
async fn init(stage: &Stage, change: &[(&str, &str)], flags: &[&str], secrets: &str) -> Finished {
    let options = stage.simulator.with(|world| world.options.clone());
    let state = stage.path("first/state").display().to_string();
    let team = stage.simulator.with(|world| world.crm.ids(Table::Team)[0]).to_string();
    let mut answers = vec![
        ("--tenant", options.tenant.as_str()),
        ("--client", options.client.0.as_str()),
        ("--url", stage.simulator.crm_url.as_str()),
        ("--authority", stage.simulator.authority_url.as_str()),
        ("--partner-center-url", stage.simulator.portal_url.as_str()),
        ("--owner-team", team.as_str()),
        ("--state", state.as_str()),
    ];
    for (option, answer) in change {
        answers.retain(|(known, _)| known != option);
        answers.push((option, answer));
    }
    let mut arguments = vec!["init", "--non-interactive"];
    arguments.extend(answers.iter().flat_map(|(option, answer)| [*option, *answer]));
    arguments.extend(flags);
    stage.run_with_input("first/referrald.toml", &arguments, secrets).await
}

#[tokio::test(flavor = "multi_thread")]
async fn from_nothing_to_the_first_lead_with_three_commands() {
    let stage = Stage::new(91, 10).await;
    std::fs::create_dir(stage.path("first")).unwrap();
    let secret = stage.simulator.with(|world| world.options.client.1.clone());
    let finished = init(&stage, &[], &[], &format!("{secret}\n")).await;
    assert_eq!(finished.code, 0, "{finished:?}");
    assert!(finished.out.contains("login") && finished.out.contains("doctor"), "{}", finished.out);
    for name in ["partner-center-secret", "dataverse-secret"] {
        let file = stage.path("first/secrets").join(name);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), secret);
    }
    let text = std::fs::read_to_string(stage.path("first/referrald.toml")).unwrap();
    assert!(text.contains("writes = \"off\"") && !text.contains(&secret), "{text}");
    let run = async |arguments: &[&str]| stage.run_with_input("first/referrald.toml", arguments, "").await;
    assert_eq!(run(&["config", "check"]).await.code, 0);

    // Before anybody has signed in, doctor says just that.
    let finished = run(&["doctor", "--json"]).await;
    let report: Value = serde_json::from_str(&finished.out).unwrap();
    assert_eq!((finished.code, &report["failed"]), (1, &Value::from(1)), "{report:#}");
    assert!(finished.out.contains("first/referrald.toml login`"), "{report:#}");

    stage.simulator.with(|world| world.options.device_interval = Duration::from_millis(200));
    let finished = run(&["login", "--device-code"]).await;
    assert_eq!(finished.code, 0, "{finished:?}");
    let finished = run(&["doctor"]).await;
    assert_eq!(finished.code, 0, "{}", finished.out);
    assert_eq!(stage.writes(Service::Crm), vec![]);
    assert_eq!(run(&["plan"]).await.code, 3);
    let finished = stage.run_with_input("first/referrald.toml", &["--set", "writes=both", "once"], "").await;
    assert_eq!(finished.code, 0, "{finished:?}");
    assert!(stage.simulator.with(|world| world.crm.lead_ids().len()) > 3);

    // Nothing is overwritten unasked, and asked it is.
    let finished = init(&stage, &[], &[], &secret).await;
    assert!(finished.code == 1 && finished.trouble.contains("--force"), "{finished:?}");
    assert_eq!(std::fs::read_to_string(stage.path("first/referrald.toml")).unwrap(), text);
    assert_eq!(init(&stage, &[], &["--force"], &secret).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_answers_are_found_while_asking_and_leave_nothing_behind() {
    let stage = Stage::new(92, 3).await;
    std::fs::create_dir(stage.path("first")).unwrap();
    let secret = stage.simulator.with(|world| world.options.client.1.clone());
    let other = "99999999-0000-4000-8000-000000000001";
    for (change, said, words) in [
        (vec![("--tenant", other)], secret.as_str(), "there is no directory"),
        (vec![("--tenant", "common")], &secret, "this is no directory"),
        (vec![("--client", "my app")], &secret, "no application id"),
        (vec![("--dataverse-client", other)], &secret, "AADSTS700016"),
        (vec![], "wrong~secret", "AADSTS7000215"),
        (vec![], other, "the secret's id"),
        (vec![("--url", "http://127.0.0.1:1")], &secret, "does not answer"),
        (vec![("--url", "http://contoso.crm4.dynamics.com")], &secret, "https"),
        (vec![("--owner-team", "sales")], &secret, "no id of a team"),
    ] {
        let finished = init(&stage, &change, &[], said).await;
        assert!(finished.code == 1 && finished.complains(words), "{change:?}: {finished:?}");
        assert!(!finished.trouble.contains("wrong~secret"));
        assert_eq!(std::fs::read_dir(stage.path("first")).unwrap().count(), 0, "{change:?}");
    }
    // What cannot be checked stops nothing.
    stage.simulator.with(|world| world.faults.always("GET", "/openid-configuration", Lasting::Page(403)));
    assert_eq!(init(&stage, &[], &[], &secret).await.code, 0);
    stage.simulator.with(|world| world.faults.calm());
    assert_eq!(init(&stage, &[("--tenant", other)], &["--offline", "--force"], &secret).await.code, 0);
    stage.judge_discretion_but(&["first/secrets/partner-center-secret", "first/secrets/dataverse-secret"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn column_and_key_are_installed_once_and_waited_for() {
    let mut options = Options::default();
    options.crm.referral_column = None;
    options.crm.key = KeyState::Absent;
    options.crm.key_build_time = Duration::from_secs(1);
    let mut world = World::new(93, SimClock::running(), options);
    world.populate(93, 5);
    let stage = Stage::with(world).await;
    let text = std::fs::read_to_string(stage.path("referrald.toml")).unwrap();
    let head = "identity = \"alternate_key\"\nreferral_id_column = \"new_referralid\"\n";
    std::fs::write(stage.path("referrald.toml"), format!("{head}{text}")).unwrap();

    let found = stage.json(&["schema", "check"], 1).await;
    assert_eq!((&found["column"]["exists"], &found["key"]), (&Value::from(false), &Value::Null), "{found:#}");
    // Nobody said yes.
    let finished = stage.run(&["schema", "install"]).await;
    assert!(finished.code == 1 && finished.trouble.contains("--yes"), "{finished:?}");
    assert_eq!(stage.writes(Service::Crm), vec![]);
    let finished = stage.run(&["schema", "install", "--yes"]).await;
    assert_eq!(finished.code, 0, "{finished:?}");
    assert!(finished.out.contains("new_referralidkey: index active"), "{}", finished.out);
    assert_eq!(stage.simulator.with(|world| world.crm.key_state()), KeyState::Active);
    stage.clear_journal();
    let finished = stage.run(&["schema", "install", "--yes"]).await;
    assert!(finished.code == 0 && finished.out.contains("nothing to do"), "{finished:?}");
    assert_eq!(stage.writes(Service::Crm), vec![]);
    stage.json(&["schema", "check"], 0).await;
    stage.json(&["once"], 0).await;
    assert!(stage.simulator.with(|world| world.crm.lead_ids().len()) > 1);

    let role = stage.json(&["schema", "role"], 0).await;
    assert!(role.to_string().contains("prvReadLead"), "{role:#}");
    stage.judge();
}
