//! What a terminal shows: a day at the command line, typed against the simulator, as a snapshot.
//!
//! Ids and instants differ from run to run; they are replaced by others of the same width, so that lines break at the same
//! places. Spans of time that would move a line break are looked at elsewhere, in tests of the screens themselves.

use std::collections::BTreeMap;

use referrald::sim::dynamics::Table;
use referrald::sim::{SimClock, World};
use serde_json::json;
use uuid::Uuid;

use crate::stage::Stage;

/// A session: lines typed, what came back, exit codes.
struct Session {
    stage: Stage,
    text: String,
    known: BTreeMap<String, usize>,
}

impl Session {
    async fn over(stage: Stage) -> Session {
        Session { stage, text: String::new(), known: BTreeMap::new() }
    }

    /// Types a line and notes what comes of it.
    async fn types(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let finished = self.stage.run(&words).await;
        for line in finished.out.lines() {
            assert!(line.chars().count() <= 80, "wider than a screen: {line}");
            assert!(!line.contains('\u{1b}'), "colour in a pipe: {line}");
        }
        let errors: String = finished
            .trouble
            .lines()
            .filter(|line| line.starts_with("error") || line.starts_with("  "))
            .fold(String::new(), |text, line| text + line + "\n");
        let code = if finished.code == 0 { String::new() } else { format!("[{}]\n", finished.code) };
        let shown = format!("$ referrald {line}\n{}{errors}{code}\n", finished.out);
        let shown = self.steady(&shown);
        self.text.push_str(&shown);
    }

    /// Ids by their order of appearance, instants and durations as one and the same.
    fn steady(&mut self, text: &str) -> String {
        let text = text.replace(&self.stage.directory.path().display().to_string(), "/tmp/stage");
        let mut steady = String::new();
        let mut rest = text.as_str();
        while let Some(letter) = rest.chars().next() {
            let id = rest.get(..36).filter(|id| Uuid::try_parse(id).is_ok() && id.as_bytes()[8] == b'-');
            let instant = rest.get(..23).filter(|text| text.ends_with(" UTC") && text.as_bytes()[4] == b'-');
            let (replaced, length) = match (id, instant) {
                (Some(id), _) => {
                    let count = self.known.len() + 1;
                    let number = *self.known.entry(id.to_owned()).or_insert(count);
                    (format!("00000000-0000-0000-0000-{number:012}"), 36)
                }
                (None, Some(_)) => ("2026-11-23 00:00:00 UTC".to_owned(), 23),
                (None, None) => (letter.to_string(), letter.len_utf8()),
            };
            steady.push_str(&replaced);
            rest = &rest[length..];
        }
        let is_duration = |line: &str| line.starts_with("read ") && line.contains(" in ");
        let lines = steady.lines().map(|line| match is_duration(line) {
            true => format!("{} in 1.0 s", line.rsplit_once(" in ").map_or(line, |(before, _)| before)),
            false => line.to_owned(),
        });
        lines.fold(String::new(), |text, line| text + &line + "\n")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_at_the_command_line_reads_like_this() {
    let mut world = World::new(93, SimClock::running(), Default::default());
    let document = |number: usize| json!({"name": format!("Request {number}"), "customerProfile": {"name": format!("Company {number}")}});
    let ids: Vec<Uuid> = (0..2).map(|number| world.add_referral(document(number))).collect();
    let stage = Stage::with(world).await;
    stage.overlay(
        "[[mapping.test]]\nname = \"the company\"\nreferral = { customerProfile = { name = \"Contoso\" } }\n\
         expect = { companyname = \"Contoso\" }\nabsent = [\"jobtitle\"]\n",
    );
    let mut session = Session::over(stage).await;
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
    session.types("plan").await;
    session.types(&format!("release {id}")).await;
    session.types("plan").await;
    session.types("suspend").await;
    session.types("once").await;
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
    insta::assert_snapshot!("day", session.text);
}
