//! Rules, dashboard and README speak of metrics that exist, and every metric is spoken of somewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use referrald::observability::catalogue::{CATALOGUE, Kind};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Names of metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let is_name = |word: &&str| {
        let rest = word.strip_prefix("referrald_").or_else(|| word.strip_prefix("process_"));
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    words.filter(is_name).map(str::to_owned).collect()
}

#[test]
fn what_is_asked_for_exists_and_what_exists_is_spoken_of() {
    let mut spoken: BTreeSet<String> = BTreeSet::new();
    for name in ["config/alerts.yml", "config/grafana.json", "README.md"] {
        let found = named(&std::fs::read_to_string(file(name)).unwrap());
        assert!(!found.is_empty(), "{name} names no metric");
        for word in found {
            let is_known = |metric: &&referrald::observability::catalogue::Metric| match metric.kind {
                Kind::Histogram => {
                    ["", "_bucket", "_sum", "_count"].iter().any(|end| word == format!("{}{end}", metric.name))
                }
                Kind::Counter | Kind::Gauge => word == metric.name,
            };
            let metric = CATALOGUE
                .iter()
                .find(is_known)
                .unwrap_or_else(|| panic!("{name} asks for {word}, which does not exist"));
            spoken.insert(metric.name.to_owned());
        }
    }
    let silent: Vec<&str> = CATALOGUE.iter().map(|metric| metric.name).filter(|name| !spoken.contains(*name)).collect();
    assert!(silent.is_empty(), "no rule, no panel and no line of the README speaks of {silent:?}");
}

#[test]
fn promtool_takes_the_rules() {
    match Command::new("promtool").args(["check", "rules"]).arg(file("config/alerts.yml")).output() {
        Err(_) => eprintln!("no promtool here: the alert rules were not checked by it"),
        Ok(output) => assert!(output.status.success(), "{output:?}"),
    }
}

#[test]
fn the_dashboard_is_json_and_its_panels_do_not_overlap() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(file("config/grafana.json")).unwrap()).unwrap();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(x < 24 && taken.insert((x, y)), "{} overlaps", panel["title"]);
            }
        }
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{}", panel["title"]);
    }
}
