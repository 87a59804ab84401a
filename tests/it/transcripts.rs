//! What a terminal shows: days at the command line, typed against the simulator, as snapshots. Every command of the program
//! is among them, as a listing, as JSON, and with its commonest error; what is missing fails a test by its name.
//!
//! All of it takes some twenty seconds.

use std::collections::BTreeSet;

use clap::CommandFactory;
use referrald::cli::arguments::Arguments;
use referrald::sim::dynamics::Table;
use referrald::sim::options::{CrmOptions, KeyState, PlugIn};
use referrald::sim::webhooks::{CERTIFICATE_PATH, ROOT_PEM};
use referrald::sim::{Options, SimClock, World};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::session::Session;

/// A world with plain referrals, by company.
fn world(seed: u64, options: Options, companies: &[&str]) -> (World, Vec<Uuid>) {
    let mut world = World::new(seed, SimClock::running(), options);
    // One second after the other, so that the order in which they are planned is always the same.
    let created = |number: usize| jiff::Timestamp::now() - jiff::SignedDuration::from_secs(60 - number as i64);
    let named = |(number, company)| {
        json!({"name": format!("Request {number}"), "customerProfile": {"name": company},
            "createdDateTime": created(number).to_string()})
    };
    let documents: Vec<Value> = companies.iter().enumerate().map(named).collect();
    let ids = documents.into_iter().map(|document| world.add_referral(document)).collect();
    (world, ids)
}

/// What the simulator's application is asked for with a `[mapping]` that gives new leads an owner.
fn owned(session: &Session, more: &str) {
    let seller = session.stage.simulator.with(|world| world.crm.sellers()[0]);
    let own = format!("[mapping]\nfallback_owner = {{ user = \"{seller}\" }}\n");
    session.stage.overlay(&format!("{own}{more}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_at_the_command_line_reads_like_this() {
    let (world, ids) = world(93, Options::default(), &["Company 0", "Company 1"]);
    let mut session = Session::over(world).await;
    session.stage.overlay(
        "[[mapping.test]]\nname = \"the company\"\nreferral = { customerProfile = { name = \"Contoso\" } }\n\
         expect = { companyname = \"Contoso\" }\nabsent = [\"jobtitle\"]\n",
    );
    let id = ids[0];
    session.types("config test").await;
    session.types("plan").await;
    session.types("once").await;
    session.types("plan").await;
    session.types(&format!("history {id}")).await;
    session.types("state check").await;
    session.types("reconcile").await;
    session.types(&format!("hold {id}")).await;
    let lead = session.stage.lead_of(id).unwrap();
    session.stage.simulator.with(|world| {
        world.edit_referral(id, |it| it["customerProfile"]["name"] = "Moved".into());
        world.edit_row(Table::Lead, lead, json!({"companyname": "By a seller", "statuscode": 2})).unwrap();
    });
    session.meanwhile("the customer and a seller edit the held pair");
    session.types("plan").await;
    session.types(&format!("explain {id}")).await;
    session.types(&format!("release {id}")).await;
    session.types("plan --values").await;
    session.types("suspend").await;
    session.types("once").await;
    session.types("status").await;
    session.types("resume").await;
    session.types("once").await;
    session.types("retry --all").await;
    session.types("approve 0123456789ab").await;
    session.types("backfill --group company").await;
    session.types("backfill --stop").await;
    session.types(&format!("forget {id}")).await;
    session.types(&format!("explain {id}")).await;
    session.types("explain 00000000-0000-0000-0000-0000000000aa").await;
    session.types("history 00000000-0000-0000-0000-0000000000aa").await;
    session.types("release --all --group nobody").await;
    session.types("hold seven").await;
    session.compare("day");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_hour_reads_like_this() {
    let mut options = Options::default();
    options.crm.referral_column = None;
    options.crm.key = KeyState::Absent;
    options.crm.key_build_time = std::time::Duration::from_millis(100);
    options.device_interval = std::time::Duration::from_millis(100);
    let (world, _) = world(94, options, &["Company 0", "Company 1"]);
    let mut session = Session::over(world).await;
    let whole = std::fs::read_to_string(session.stage.path("referrald.toml")).unwrap();
    let configure = |session: &Session, text: &str| std::fs::write(session.stage.path("referrald.toml"), text).unwrap();

    session.types_and_reads("man", 12).await;
    session.types("man --to pages").await;
    session.types("man --to referrald.toml").await;
    session.types_and_reads("completions bash", 6).await;
    session.types("completions cobol").await;
    session.types("demo --referrals 0").await;
    session.meanwhile("nothing is configured yet");
    std::fs::remove_file(session.stage.path("referrald.toml")).unwrap();
    session.types("doctor").await;
    session.types("plan").await;
    session.types("init").await;
    let answers = session.stage.simulator.with(|world| {
        let options = &world.options;
        format!("--tenant {} --client {}", options.tenant, options.client.0)
    });
    let urls = format!("--url {}", session.stage.simulator.crm_url);
    session.types(&format!("init --non-interactive --offline {answers} {urls} --state state")).await;
    session.types(&format!("init --non-interactive --offline --json --force {answers} {urls} --state state")).await;
    session.types("config check").await;
    session.types("init --non-interactive").await;

    session.meanwhile("the configuration is mended by hand, with a mistake");
    configure(&session, &whole.replace("[status]", "[statsu]"));
    session.types("config check").await;
    session.types("--json config check").await;
    for command in ["run", "once", "plan", "status", "doctor", "suspend", "resume", "state check", "webhook show"] {
        session.types(command).await;
    }
    session.types_and_reads("config show", 1).await;
    configure(&session, &whole);
    session.types_and_reads("config show --origin", 8).await;
    session.types_and_reads("config show --json", 8).await;
    session.types_and_reads("config schema", 8).await;
    session.types("config schema yaml").await;
    session.types("--json config test").await;
    session.stage.overlay(
        "[[mapping.test]]\nname = \"the company\"\nreferral = { customerProfile = { name = \"Contoso\" } }\n\
         expect = { companyname = \"Fabrikam\" }\n",
    );
    session.types("config test").await;
    session.types("config test --json").await;
    owned(&session, "");

    session.meanwhile("somebody signs in");
    session.types("login --device-code").await;
    session.types("login --side dataverse").await;
    session.types("login --device-code --port 1").await;
    session.types("doctor").await;

    session.meanwhile("with a column of its own, and a key over it");
    configure(&session, &format!("identity = \"alternate_key\"\nreferral_id_column = \"new_referralid\"\n{whole}"));
    session.types("doctor").await;
    session.types("doctor --json").await;
    session.types("schema check").await;
    session.types("schema check --json").await;
    session.types("schema install").await;
    session.types("schema install --yes").await;
    session.types("schema install --yes --json").await;
    session.types("schema check").await;
    session.types("schema check --json").await;
    session.types("schema role").await;
    session.types("schema role --json").await;
    session.types("schema role --yes").await;
    session.compare("first_hour");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_day_reads_like_this() {
    let crm = CrmOptions {
        plug_ins: vec![PlugIn::Refuses { column: "companyname".to_owned(), word: "Poison".to_owned() }],
        ..CrmOptions::default()
    };
    let companies = ["Sound 0", "Sound 1", "Sound 2", "Sound 3", "Poison"];
    let (world, ids) = world(95, Options { crm, ..Options::default() }, &companies);
    let mut session = Session::over(world).await;
    let brakes = "[brakes]\nclosings_per_hour = 1\n";
    owned(&session, brakes);
    session.types("once").await;
    session.stage.simulator.with(|world| {
        for id in &ids[..2] {
            let lead = Uuid::new_v5(&referrald::sim::Checker::default().namespace, id.to_string().as_bytes());
            world.edit_row(Table::Lead, lead, json!({"statecode": 2, "statuscode": 5})).unwrap();
        }
    });
    session.meanwhile("sellers disqualify two leads");
    session.types("plan").await;
    session.types("plan --json").await;
    session.types("once --json").await;
    session.types("status").await;
    session.types("status --json").await;
    session.types("doctor").await;
    let status = session.answers["status --json"].clone();
    let approve = status["brakes"][0]["command"].as_str().unwrap().trim_start_matches("referrald ").to_owned();
    let digest = approve.trim_start_matches("approve ").to_owned();
    session.types(&approve).await;
    session.types(&format!("approve {digest} --json")).await;
    session.types("once").await;
    session.types("retry --cause nothing").await;
    session.types(&format!("retry {}", ids[4])).await;
    session.types("retry --all --json").await;
    session.types(&format!("history {} --json", ids[0])).await;
    session.types("history").await;
    let held = ids[2];
    session.types(&format!("hold {held} --json")).await;
    session.types(&format!("release {held} --json")).await;
    session.types("hold 00000000-0000-0000-0000-0000000000aa").await;
    session.types("suspend --json").await;
    session.types("resume --json").await;
    session.types("backfill --json").await;
    session.types("backfill --stop --group company").await;
    session.types(&format!("explain {held} --json")).await;
    session.types("explain seven").await;
    session.types(&format!("forget {held} --json")).await;
    session.types("forget").await;
    session.types("state check --json").await;
    session.types_and_reads("state export", 0).await;
    session.types("state export ledger.jsonl").await;
    session.types("state export nowhere/ledger.jsonl").await;
    session.types("state export ledger.jsonl --json").await;
    session.types("state rebuild").await;
    session.types("state rebuild --json").await;
    session.types("state import ledger.jsonl").await;
    session.types("state import ledger.jsonl --json").await;
    session.types("state import referrald.toml").await;
    session.types("support-bundle --to bundle.tar.gz").await;
    session.types("support-bundle --to bundle.tar.gz --json").await;
    session.types("support-bundle --to nowhere/bundle.tar.gz").await;
    session.compare("bad_day");
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_running_daemon_it_reads_like_this() {
    let (world, ids) = world(96, Options::default(), &["Company 0", "Company 1"]);
    let mut session = Session::over(world).await;
    std::fs::write(session.stage.path("roots.pem"), ROOT_PEM).unwrap();
    let portal = session.stage.simulator.portal_url.clone();
    let webhook = |more: &str| {
        format!(
            "[partner_center]\nwebhook_api_url = \"{portal}\"\n\
             [schedule]\nreconcile = \"0 0 0 1 1 *\"\nsweep = \"0 0 0 1 1 *\"\n\
             [webhook]\nlisten = \"127.0.0.1:0\"\ncertificate_sources = [\"{portal}/cert/\"]\n\
             trust_anchors_file = \"roots.pem\"\ndebounce = \"100ms\"\n{more}"
        )
    };
    // The daemon stands elsewhere.
    let roots = session.stage.path("roots.pem").display().to_string();
    owned(&session, &webhook("").replace("roots.pem", &roots));
    let text = std::fs::read_to_string(session.stage.path("referrald.toml")).unwrap();
    let home = format!("{}/", session.stage.directory.path().display());
    let whole = ["secret\"", "refresh\"", "state\""]
        .iter()
        .fold(text.clone(), |text, name| text.replace(&format!("\"{name}"), &format!("\"{home}{name}")));
    std::fs::write(session.stage.path("referrald.toml"), whole).unwrap();
    let daemon = session.stage.daemon().await;
    std::fs::write(session.stage.path("referrald.toml"), &text).unwrap();
    owned(&session, &webhook(""));
    daemon.first_cycle().await;
    let status = daemon.cycle().await;
    let address = status.webhook.unwrap().addresses[0].clone();

    session.types("status").await;
    session.types("plan").await;
    session.types(&format!("explain {}", ids[0])).await;
    session.types("reconcile").await;
    session.types("reconcile --json").await;
    session.types("reconcile now").await;
    session.types("suspend").await;
    session.types("resume").await;
    session.types("state check").await;
    session.types("once").await;
    session.types("run").await;
    session.types("state rebuild").await;

    session.types("webhook show").await;
    session.types("webhook register").await;
    owned(&session, &webhook(&format!("url = \"http://{address}/partner-center\"\n")));
    session.types("webhook test").await;
    session.types("webhook unregister --json").await;
    session.types("webhook show --json").await;
    session.types("webhook register").await;
    session.types("webhook register --json").await;
    session.types("webhook show").await;
    session.types("webhook show --json").await;
    session.types("webhook test").await;
    session.types("webhook test --json").await;
    session.types("webhook events").await;
    session.types("webhook events --json").await;
    session.types("webhook events all").await;
    session.types("webhook unregister").await;
    session.types("webhook register --json").await;
    session.types("webhook unregister --json").await;
    let body = br#"{"EventName":"referral-updated"}"#;
    let headers = session.stage.simulator.with(|world| world.webhooks.headers(&portal, body, true));
    let text: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    assert!(text.contains(CERTIFICATE_PATH), "{text}");
    std::fs::write(session.stage.path("headers"), text).unwrap();
    std::fs::write(session.stage.path("body"), body).unwrap();
    session.types("webhook verify --headers headers --body body").await;
    session.types("webhook verify --headers headers --body body --json").await;
    std::fs::write(session.stage.path("body"), b"{}").unwrap();
    session.types("webhook verify --headers headers --body body").await;
    session.stage.simulator.with(|world| {
        let registration = world.webhooks.registration.as_mut().unwrap();
        registration.url = "https://another.example/hook".to_owned();
    });
    session.meanwhile("another product registers its own address");
    session.types("webhook show").await;
    session.types("webhook register").await;
    session.types("webhook unregister").await;
    session.compare("daemon");
    assert_eq!(daemon.stop().await, 0);
}

/// Commands without a fine end in the transcripts, without JSON, or without an error, and why.
const NO_LISTING: [(&str, &str); 2] =
    [("run", "it does not end; the log of a day is looked at elsewhere"), ("demo", "a test of its own plays it")];
const NO_JSON: [(&str, &str); 7] = [
    ("run", "it prints nothing"),
    ("demo", "a test of its own reads it"),
    ("man", "a page is for people"),
    ("completions", "they are for a shell"),
    ("config schema", "it is JSON anyway"),
    ("state export", "without a file it prints lines"),
    ("login", "a line at a time while somebody signs in; a test of its own reads them"),
];
const NO_ERROR: [(&str, &str); 0] = [];

/// Every command that can be typed, as the command line defines it.
fn commands() -> BTreeSet<String> {
    fn leaves(command: &clap::Command, path: &str, found: &mut BTreeSet<String>) {
        let inner: Vec<&clap::Command> = command.get_subcommands().filter(|inner| inner.get_name() != "help").collect();
        if inner.is_empty() {
            found.insert(path.to_owned());
        }
        for command in inner {
            leaves(command, format!("{path} {}", command.get_name()).trim(), found);
        }
    }
    let mut found = BTreeSet::new();
    leaves(&Arguments::command(), "", &mut found);
    found
}

/// The transcripts on record.
const TRANSCRIPTS: [&str; 4] = ["day", "first_hour", "bad_day", "daemon"];

fn transcript(name: &str) -> String {
    let file = format!("{}/tests/it/snapshots/it__session__{name}.snap", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The command that a line begins with.
fn command_of(words: &[&str]) -> Option<String> {
    let commands = commands();
    let fits = commands.into_iter().filter(|command| words.starts_with(&command.split(' ').collect::<Vec<_>>()));
    fits.max_by_key(String::len)
}

#[test]
fn no_command_is_without_a_transcript() {
    let commands = commands();
    let (mut fine, mut json, mut wrong) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for name in TRANSCRIPTS {
        for part in transcript(name).split("\n$ referrald ").skip(1) {
            let line = part.lines().next().unwrap_or_default();
            let words: Vec<&str> = line.split(' ').filter(|word| *word != "--json").collect();
            let Some(command) = command_of(&words) else { panic!("what is this? {line}") };
            let part = part.split("\n\n# ").next().unwrap_or_default();
            let code = part.trim_end().lines().next_back().filter(|last| last.starts_with('[') && last.ends_with(']'));
            match (code, line.contains("--json")) {
                (None | Some("[3]" | "[4]"), false) => fine.insert(command.clone()),
                (_, true) => json.insert(command.clone()),
                (Some(_), false) => wrong.insert(command.clone()),
            };
        }
    }
    let missing = |has: &BTreeSet<String>, exempt: &[(&str, &str)]| {
        let is_exempt = |command: &&String| exempt.iter().any(|(name, _)| name == command);
        commands.iter().filter(|command| !has.contains(*command) && !is_exempt(command)).cloned().collect::<Vec<_>>()
    };
    assert_eq!(missing(&fine, &NO_LISTING), Vec::<String>::new(), "without a transcript of a good end");
    assert_eq!(missing(&json, &NO_JSON), Vec::<String>::new(), "without a transcript of its JSON");
    assert_eq!(missing(&wrong, &NO_ERROR), Vec::<String>::new(), "without a transcript of an error");
}

/// The rows of the README's table of JSON: commands, and the keys it names for them.
fn documented() -> Vec<(Vec<String>, BTreeSet<String>)> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let table = readme.split_once("| command | JSON |").expect("the table").1;
    let rows = table.lines().skip(2).take_while(|line| line.starts_with("| "));
    let words = |cell: &str| -> Vec<String> {
        // In backticks, names alone: `a`, `{b, c: [{d}]}`.
        let quoted = cell.split('`').skip(1).step_by(2);
        let names =
            quoted.flat_map(|part| part.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_')));
        names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').splitn(2, " | ").collect();
        let commands = cells[0].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (commands, words(cells[1]).into_iter().collect())
    })
    .collect()
}

/// Every key in a document, at any depth.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            found.insert(key.clone());
            keys(value, found);
        }),
        Value::Array(list) => list.iter().for_each(|value| keys(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What the README says of JSON is what commands print: every key it names is there, and nothing stands at the top that it
/// does not name. What was printed is in the transcripts.
#[test]
fn the_readme_describes_the_json_that_is_printed() {
    let mut printed: std::collections::BTreeMap<String, Vec<Value>> = Default::default();
    for name in TRANSCRIPTS {
        for part in transcript(name).split("\n$ referrald ").skip(1) {
            let (line, rest) = part.split_once('\n').unwrap();
            let document = serde_json::Deserializer::from_str(rest).into_iter::<Value>().next();
            if let (true, Some(Ok(value))) = (line.contains("--json"), document) {
                let words: Vec<&str> = line.split(' ').filter(|word| *word != "--json").collect();
                if let Some(command) = command_of(&words) {
                    printed.entry(command).or_default().push(value);
                }
            }
        }
    }
    let documented = documented();
    assert!(documented.len() > 10, "{documented:?}");
    // As long as the configuration.
    let free = ["config show", "config schema"];
    let mut odd = Vec::new();
    for (commands, named) in &documented {
        for command in commands {
            let Some(values) = printed.get(command) else {
                if free.contains(&command.as_str()) {
                    continue;
                }
                odd.push(format!("{command}: no transcript of its JSON"));
                continue;
            };
            let mut found = BTreeSet::new();
            values.iter().for_each(|value| keys(value, &mut found));
            odd.extend(named.difference(&found).map(|key| format!("{command}: {key} is named and not printed")));
            let top = values.iter().flat_map(|value| match value {
                Value::Array(list) => list.clone(),
                value => vec![value.clone()],
            });
            let top: BTreeSet<String> = top
                .filter_map(|value| Some(value.as_object()?.keys().cloned().collect::<Vec<_>>()))
                .flatten()
                .collect();
            // The README says that a status has more.
            if command != "status" {
                odd.extend(top.difference(named).map(|key| format!("{command}: {key} is printed and not named")));
            }
        }
    }
    let is_documented = |command: &&String| documented.iter().any(|(commands, _)| commands.contains(*command));
    odd.extend(
        printed
            .keys()
            .filter(|it| !is_documented(it) && !free.contains(&it.as_str()))
            .map(|it| format!("{it}: not in the table")),
    );
    assert_eq!(odd, Vec::<String>::new());
}
