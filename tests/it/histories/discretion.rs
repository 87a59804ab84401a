//! P9: nothing that a person is known by leaves the two services: not in the log, not in the ledger, not in reports.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

use referrald::ports::StateStore;
use referrald::sim::World;
use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;

/// Shorter words come up by chance.
const LENGTH_MIN: usize = 6;

/// Everything the program said to its log.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    pub fn subscriber(&self) -> impl tracing::Subscriber + use<> {
        let level = tracing::Level::DEBUG;
        tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(self.clone()).finish()
    }
}

impl io::Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Heard {
    type Writer = Heard;

    fn make_writer(&'a self) -> Heard {
        self.clone()
    }
}

/// Every personal word that was found where it must not be; the words themselves are not told.
pub fn told(world: &World, store: &dyn StateStore, heard: &Heard, log: &[String]) -> Vec<String> {
    let words = personal(world);
    let entries = store.scan(None, usize::MAX).unwrap();
    let history: Vec<_> = entries.iter().map(|(id, _)| store.history(*id).unwrap()).collect();
    let (memo, intents, decisions) = (store.memo().unwrap(), store.intents().unwrap(), store.decisions().unwrap());
    let places = [
        ("the ledger", format!("{entries:?} {history:?} {memo:?} {intents:?} {decisions:?}")),
        ("the log", String::from_utf8_lossy(&heard.0.lock().unwrap()).into_owned()),
        ("the reports", log.join("\n")),
    ];
    let mut found = Vec::new();
    for (place, text) in places {
        let count = words.iter().filter(|word| text.contains(word.as_str())).count();
        if count > 0 {
            found.push(format!("P9: {place} has {count} personal words"));
        }
    }
    found
}

/// Names, addresses, numbers and notes of the customers.
fn personal(world: &World) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for (_, document) in world.portal.all() {
        let profile = &document["customerProfile"];
        let mut add = |value: &Value| {
            words.extend(value.as_str().filter(|text| text.len() >= LENGTH_MIN).map(str::to_owned));
        };
        add(&profile["name"]);
        add(&profile["address"]["addressLine1"]);
        add(&document["details"]["notes"]);
        for person in profile["team"].as_array().into_iter().flatten() {
            ["firstName", "lastName", "email", "phoneNumber"].iter().for_each(|name| add(&person[*name]));
        }
    }
    words
}
