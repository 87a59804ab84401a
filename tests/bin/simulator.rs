//! Both simulated services on loopback, for trying the program by hand and for `tests/package.sh`.
//!
//! `simulator DIRECTORY [REFERRALS] [SEED]` writes `referrald.toml` and the secrets it names into the directory, prints
//! `ready`, and serves until standard input ends. Lines on standard input are what people do, as JSON:
//!
//! ```text
//! {"referral": "ID", "set": {"/customerProfile/name": "Contoso"}}     the customer edits a referral
//! {"lead": "ID", "set": {"statuscode": 2}}                            a seller edits a lead
//! {"count": 3}                                                        further referrals arrive
//! ```
//!
//! Each is answered by a line: `done`, or what went wrong.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

use referrald::sim::dynamics::Table;
use referrald::sim::{SimClock, Simulator, World};
use serde_json::Value;
use uuid::Uuid;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().expect("a directory"));
    let count: usize = arguments.next().map_or(10, |number| number.parse().expect("a number of referrals"));
    let seed: u64 = arguments.next().map_or(1, |number| number.parse().expect("a seed"));
    let mut world = World::new(seed, SimClock::running(), Default::default());
    world.populate(seed, count);
    let simulator = Simulator::start(world, Duration::ZERO).await.unwrap();
    std::fs::create_dir_all(&directory).unwrap();
    simulator.configure(&directory, "").unwrap();
    say("ready");
    tokio::task::spawn_blocking(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let answer = serde_json::from_str(&line).map_err(|error| error.to_string());
            match answer.and_then(|order| simulator.with(|world| carry_out(world, &order))) {
                Ok(()) => say("done"),
                Err(error) => say(&error),
            }
        }
    })
    .await
    .unwrap();
}

fn say(words: &str) {
    println!("{words}");
    std::io::stdout().flush().unwrap();
}

fn carry_out(world: &mut World, order: &Value) -> Result<(), String> {
    let id = |key: &str| order[key].as_str().and_then(|text| Uuid::try_parse(text).ok());
    if let Some(referral) = id("referral") {
        let set = order["set"].as_object().ok_or("`set` is missing")?.clone();
        let is_there = world.edit_referral(referral, |document| {
            for (pointer, value) in &set {
                if let Some(place) = document.pointer_mut(pointer) {
                    *place = value.clone();
                }
            }
        });
        return is_there.then_some(()).ok_or_else(|| "there is no such referral".to_owned());
    }
    if let Some(lead) = id("lead") {
        let edited = world.edit_row(Table::Lead, lead, order["set"].clone());
        return edited.map_err(|answer| format!("{answer:?}"));
    }
    let count = order["count"].as_u64().ok_or("neither `referral`, `lead` nor `count`")?;
    world.populate(count + 1000, usize::try_from(count).unwrap_or(1));
    Ok(())
}
