//! The first questions, as a person at a terminal meets them: `referrald init` asks, looks while asking, says what is wrong
//! with an answer and asks again. And colours: for terminals, and for nobody who does not want them.

use std::os::unix::fs::PermissionsExt;

use referrald::sim::dynamics::Table;
use referrald::sim::{Options, Service, SimClock, World};

use crate::session::Session;
use crate::stage::Stage;
use crate::terminal::{INTERRUPT, Terminal};

const NOBODY: &str = "99999999-0000-4000-8000-000000000001";

/// `init` for the services of the stage, at a terminal.
fn init(stage: &Stage, more: &[&str]) -> Terminal {
    let state = stage.path("first/state").display().to_string();
    let (authority, portal) = (stage.simulator.authority_url.to_string(), stage.simulator.portal_url.to_string());
    let line = ["--config", "first/referrald.toml", "init", "--authority", &authority, "--partner-center-url", &portal];
    Terminal::open(stage, &[&line[..], &["--state", &state], more].concat(), &[])
}

fn session_world(seed: u64) -> World {
    let mut world = World::new(seed, SimClock::running(), Default::default());
    world.populate(seed, 3);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn init_asks_and_says_what_is_wrong_with_an_answer_and_asks_again() {
    let mut session = Session::over(session_world(94)).await;
    let (tenant, client, secret) = session.stage.simulator.with(|world| {
        let (client, secret) = world.options.client.clone();
        (world.options.tenant.clone(), client, secret)
    });
    let team = session.stage.simulator.with(|world| world.crm.ids(Table::Team)[0]).to_string();
    let url = session.stage.simulator.crm_url.to_string();

    let mut terminal = init(&session.stage, &[]);
    // One that makes no sense, one that is nobody's, and the right one.
    terminal.answers("Directory (tenant) ID", "common");
    terminal.reads("this is no directory");
    terminal.answers("Directory (tenant) ID", NOBODY);
    terminal.reads("there is no directory");
    terminal.keeps_nothing();
    terminal.answers("Directory (tenant) ID", &tenant);
    terminal.answers("Application (client) ID", "my app");
    terminal.reads("this is no application id");
    terminal.answers("Application (client) ID", &client);
    terminal.answers("Client secret", NOBODY);
    terminal.reads("this is the secret's id");
    terminal.answers("Client secret", &secret);
    terminal.answers("URL of the environment", "http://127.0.0.1:1");
    terminal.reads("does not answer");
    terminal.keeps_nothing();
    terminal.answers("URL of the environment", &url);
    // What was said above is offered.
    terminal.answers("Directory (tenant) ID (nothing: same)", "");
    terminal.answers("Application (client) ID (nothing: same)", "");
    terminal.answers("the same as above", "wrong~secret");
    terminal.reads("AADSTS7000215");
    terminal.keeps_nothing();
    terminal.answers("Directory (tenant) ID", "");
    terminal.answers("Application (client) ID", "");
    terminal.answers("the same as above", "");
    terminal.reads("Signed in to Dynamics as user");
    terminal.answers("Team for new leads", "sales");
    terminal.reads("this is no id of a team");
    terminal.answers("Team for new leads", &team);
    assert_eq!(terminal.ends(), 0, "{}", terminal.screen());
    for said in [secret.as_str(), "wrong~secret"] {
        assert!(!terminal.raw.contains(said), "a secret was shown:\n{}", terminal.screen());
    }
    session.shows(&terminal.screen());

    let mode = |name: &str| {
        let found = std::fs::metadata(session.stage.path(name)).unwrap();
        format!("{:o}", found.permissions().mode() & 0o777)
    };
    assert_eq!(mode("first/referrald.toml"), "644");
    assert_eq!(mode("first/secrets"), "700");
    for name in ["first/secrets/partner-center-secret", "first/secrets/dataverse-secret"] {
        assert_eq!(mode(name), "600");
        assert_eq!(std::fs::read_to_string(session.stage.path(name)).unwrap(), secret);
    }
    let text = std::fs::read_to_string(session.stage.path("first/referrald.toml")).unwrap();
    assert!(text.contains("writes = \"off\"") && text.contains(&team) && !text.contains(&secret), "{text}");

    // A second one asks nothing and overwrites nothing.
    let mut terminal = init(&session.stage, &[]);
    assert_eq!(terminal.ends(), 1, "{}", terminal.screen());
    assert!(!terminal.raw.contains("Directory"), "{}", terminal.screen());
    session.shows(&terminal.screen());
    assert_eq!(std::fs::read_to_string(session.stage.path("first/referrald.toml")).unwrap(), text);
    session.compare("first_questions");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_breaks_off_the_questions_leaves_nothing_behind() {
    let stage = Stage::with(session_world(95)).await;
    let mut terminal = init(&stage, &["--offline"]);
    terminal.answers("Directory (tenant) ID", NOBODY);
    terminal.reads("Application (client) ID");
    terminal.listens();
    terminal.types(INTERRUPT);
    let code = terminal.ends();
    assert!(code != 0 && !stage.path("first").exists(), "{code}:\n{}", terminal.screen());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_created_in_dynamics_before_a_person_says_yes() {
    let mut options = Options::default();
    options.crm.referral_column = None;
    let stage = Stage::with(World::new(97, SimClock::running(), options)).await;
    let text = std::fs::read_to_string(stage.path("referrald.toml")).unwrap();
    std::fs::write(stage.path("referrald.toml"), format!("referral_id_column = \"new_referralid\"\n{text}")).unwrap();
    for (answer, code) in [("n", 1), ("y", 0)] {
        assert_eq!(stage.writes(Service::Crm), vec![]);
        let mut terminal = Terminal::open(&stage, &["schema", "install"], &[]);
        terminal.reads("Write this?");
        terminal.listens();
        terminal.types(answer);
        assert_eq!(terminal.ends(), code, "{}", terminal.screen());
    }
    assert_ne!(stage.writes(Service::Crm), vec![]);
}

/// A colour or a weight. Other escapes move the cursor, for the line of progress.
fn has_colour(raw: &str) -> bool {
    raw.split("\u{1b}[").skip(1).any(|rest| {
        rest.find(|letter: char| letter.is_ascii_alphabetic()).is_some_and(|at| rest[at..].starts_with('m'))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn colour_is_for_terminals_and_for_nobody_who_does_not_want_it() {
    let stage = Stage::with(session_world(96)).await;
    for line in [&["status"][..], &["doctor"], &["plan"], &["reconcile"]] {
        for (environment, is_coloured) in
            [(None, true), (Some(("NO_COLOR", "1")), false), (Some(("TERM", "dumb")), false)]
        {
            let mut terminal = Terminal::open(&stage, line, environment.as_slice());
            terminal.ends();
            assert_eq!(has_colour(&terminal.raw), is_coloured, "{line:?} {environment:?}: {}", terminal.raw);
            assert!(!terminal.raw.trim().is_empty(), "{line:?}");
        }
        let piped = stage.run_here(line).await;
        assert!(!format!("{}{}", piped.out, piped.trouble).contains('\u{1b}'), "{line:?}: {piped:?}");
    }
}
