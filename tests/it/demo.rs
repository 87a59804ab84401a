//! `demo`: the whole story, told by the built program.

use std::time::Duration;

use assert_cmd::Command;
use serde_json::Value;

/// When a story counts as hanging; two cores may be busy with other work.
const TIME_MAX: Duration = Duration::from_secs(600);

fn demo(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("referrald"));
    command.env_remove("REFERRALD_CONFIG").env_remove("REFERRALD_LOG").timeout(TIME_MAX);
    let output = command.arg("demo").args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Both sides agreed; gives what was found.
fn agreed(seed: &str, referrals: &str) -> Value {
    let (code, out, trouble) = demo(&["--referrals", referrals, "--seed", seed, "--json"]);
    let last = out.lines().last().unwrap_or_default();
    let found: Value =
        serde_json::from_str(last).unwrap_or_else(|error| panic!("seed {seed}: {error}: {out}{trouble}"));
    assert_eq!(code, 0, "seed {seed}: {found:#}\n{trouble}");
    assert_eq!(trouble, "", "seed {seed}");
    assert_eq!(found["agree"], true, "seed {seed}: {found:#}");
    assert_eq!(found["violations"], serde_json::json!([]), "seed {seed}");
    assert_eq!(found["writes_second_pass"], 0, "seed {seed}");
    assert_eq!(found["leads_per_referral_max"], 1, "seed {seed}");
    assert_eq!(found["linked"], found["in_scope"], "seed {seed}");
    found
}

#[test]
fn both_sides_agree_in_the_end_and_the_same_seed_tells_the_same_story() {
    let (one, two) = (agreed("3", "40"), agreed("3", "40"));
    for part in ["referrals", "leads", "linked", "written_back", "holds"] {
        assert_eq!(one[part], two[part], "{part}");
    }
    let sum = |part: &str| one[part].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>();
    assert_eq!(sum("leads"), one["linked"].as_u64().unwrap(), "a lead for each and none besides: {one:#}");
    assert!(sum("referrals") > 40, "more arrive on the way: {one:#}");
    assert!(one["leads"]["Qualified"].as_u64() > Some(0) && one["referrals"]["Closed"].as_u64() > Some(0), "{one:#}");
}

/// The table that ends a story, as words. How often a service is asked depends a little on what comes first, and the
/// figures are left out of that row.
fn table(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut counts_requests = false;
    for line in text.lines().filter(|line| line.starts_with('│')) {
        let (label, value) = line.trim_matches('│').split_once('┆').unwrap_or_default();
        if !label.trim().is_empty() {
            words.push(label.trim().to_owned());
            counts_requests = label.trim() == "Requests";
        }
        let value = value.replace(|letter: char| counts_requests && letter.is_ascii_digit(), "");
        words.extend(value.split_whitespace().map(str::to_owned));
    }
    words
}

#[test]
fn the_readme_shows_how_a_story_ends() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (code, out, trouble) = demo(&["--referrals", "300", "--seed", "7"]);
    assert_eq!((code, trouble.as_str()), (0, ""), "{out}");
    assert!(readme.contains("`referrald demo --referrals 300 --seed 7` ends like this"));
    assert_eq!(table(&readme), table(&out), "{out}");
}

#[test]
fn other_seeds_and_sizes_agree_as_well() {
    for (seed, referrals) in [("11", "40"), ("1", "1"), ("5", "150")] {
        agreed(seed, referrals);
    }
}

#[test]
fn without_a_terminal_the_story_is_plain_text_without_pauses() {
    let (code, out, trouble) = demo(&["--referrals", "12", "--seed", "2"]);
    assert_eq!((code, trouble.as_str()), (0, ""), "{out}");
    for words in [
        "New referrals",
        "answered 429 with Retry-After 1 time.",
        "none while it wanted silence",
        "dropped",
        "wrote nothing",
        "Both sides agree.",
    ] {
        assert!(out.contains(words), "{words:?} is missing in\n{out}");
    }
    assert!(!out.contains('\u{1b}'), "{out}");
}
