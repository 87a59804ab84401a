//! Keys that a running daemon cannot take over from a changed configuration.
//!
//! What the adapters and the ledger were opened with is refused together with the whole change: half of it in force would
//! be a configuration that nobody wrote. What only concerns the process itself waits for the next start.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Settings;

/// Keys, or tables of keys, whose change is refused.
pub const REFUSED: [&str; 8] = [
    "identity",
    "referral_id_column",
    "partner_center",
    "dataverse",
    "http",
    "link.namespace",
    "state.directory",
    "daemon.runtime_directory",
];

/// Keys, or tables of keys, whose change waits for a restart while the rest is taken over.
pub const LATER: [&str; 4] = ["log", "state.cache_bytes", "webhook.listen", "webhook.connections_max"];

/// What of a changed configuration needs a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restart {
    /// Keys because of which nothing of the change can be taken over.
    pub refused: Vec<String>,
    /// Keys that stay as they were while everything else is taken over.
    pub later: Vec<String>,
}

impl Restart {
    /// Compares what the daemon was started with and what is configured now.
    pub fn between(started: &Settings, now: &Settings) -> Restart {
        let mut changed = Vec::new();
        compare("", &tree(started), &tree(now), &mut changed);
        // It is only shown, and it changes whenever a secret is renewed, which needs no restart either.
        changed.retain(|key| !key.ends_with(".client_secret_expires"));
        let within = |key: &String, table: &&str| {
            key.strip_prefix(*table).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let of = |tables: &[&str]| -> Vec<String> {
            changed.iter().filter(|key| tables.iter().any(|table| within(key, table))).cloned().collect()
        };
        let (mut refused, later) = (of(&REFUSED), of(&LATER));
        let columns: Vec<String> = started.columns().symmetric_difference(&now.columns()).cloned().collect();
        if !columns.is_empty() {
            refused.push(format!("mapping.groups (which columns are mapped: {})", columns.join(", ")));
        }
        Restart { refused, later }
    }
}

fn tree(settings: &Settings) -> Value {
    serde_json::to_value(settings).expect("settings are plain data with text keys, `config show` prints them")
}

/// Collects the keys of values that differ; a list is one value.
fn compare(key: &str, before: &Value, now: &Value, changed: &mut Vec<String>) {
    if before == now {
        return;
    }
    let (Value::Object(before), Value::Object(now)) = (before, now) else {
        changed.push(key.to_owned());
        return;
    };
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    for name in names {
        let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
        compare(&key, before.get(name).unwrap_or(&Value::Null), now.get(name).unwrap_or(&Value::Null), changed);
    }
}

#[cfg(test)]
mod tests {
    use super::{LATER, REFUSED, Restart, Settings, compare, tree};

    fn changed(change: impl FnOnce(&mut Settings)) -> Restart {
        let started = Settings::defaults();
        let mut now = started.clone();
        change(&mut now);
        Restart::between(&started, &now)
    }

    #[test]
    fn what_adapters_and_ledger_were_opened_with_is_refused_by_its_key() {
        let refused = changed(|it| {
            it.partner_center.auth.client_id = Some("other".to_owned());
            it.http.attempts_max += 1;
            it.link.namespace = uuid::Uuid::from_u128(1);
            it.state.directory = "/elsewhere".into();
            it.daemon.runtime_directory = Some("/elsewhere".into());
            it.referral_id_column = Some("new_referralid".to_owned());
        });
        let expected = [
            "daemon.runtime_directory",
            "http.attempts_max",
            "link.namespace",
            "partner_center.auth.client_id",
            "referral_id_column",
            "state.directory",
        ];
        assert_eq!(refused, Restart { refused: expected.map(str::to_owned).to_vec(), later: vec![] });
        let columns = changed(|it| it.mapping.groups.get_mut("notes").expect("built in").enabled = true);
        assert_eq!(columns.refused, ["mapping.groups (which columns are mapped: qualificationcomments)"]);
    }

    #[test]
    fn what_concerns_the_process_alone_waits_for_a_restart_and_the_rest_does_not() {
        let later = changed(|it| {
            it.log.level = "debug".to_owned();
            it.state.cache_bytes += 1;
            it.webhook.listen = Some(([127, 0, 0, 1], 8787).into());
            it.webhook.path = "/other".to_owned();
            it.brakes.closings_per_hour += 1;
            it.scope.countries.push("DE".to_owned());
        });
        let expected = ["log.level", "state.cache_bytes", "webhook.listen"];
        assert_eq!(later, Restart { refused: vec![], later: expected.map(str::to_owned).to_vec() });
        assert_eq!(changed(|_| {}), Restart::default());
        let renewed = changed(|it| it.dataverse.auth.client_secret_expires = Some("2028-05-01".to_owned()));
        assert_eq!(renewed, Restart::default(), "a secret is renewed without a restart");
    }

    #[test]
    fn the_tables_name_keys_that_exist() {
        let settings = tree(&Settings::defaults());
        for key in REFUSED.iter().chain(&LATER) {
            let pointer = format!("/{}", key.replace('.', "/"));
            assert!(settings.pointer(&pointer).is_some(), "{key}");
        }
        let mut all = Vec::new();
        compare("", &settings, &serde_json::Value::Null, &mut all);
        assert_eq!(all, [""], "what is no table is one value");
    }

    #[test]
    fn the_manual_lists_every_key_that_needs_a_restart() {
        let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the manual");
        let (_, signals) = manual.split_once("## Signals and logs").expect("a section");
        let (signals, _) = signals.split_once("\n## ").expect("another section");
        for key in REFUSED.iter().chain(&LATER) {
            assert!(signals.contains(&format!("`{key}`")) || signals.contains(&format!("`[{key}]`")), "{key}");
        }
    }
}
