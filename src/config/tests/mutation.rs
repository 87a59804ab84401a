//! Random damage: no panic, and every problem has a place.

use super::*;

/// Mutates a sound file at random: whatever comes of it, nothing panics, every problem has a place and a remedy, and
/// no secret is printed.
#[test]
fn no_mutation_of_a_sound_file_panics() {
    use rand::{RngExt, SeedableRng};
    let seed: u64 = std::env::var("CONFIG_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_122);
    println!("seed {seed}");
    let place = sound();
    let base = format!(
        "{}[dataverse.auth.extra]\nclient_secret = \"hunter2\"\n{}",
        place.text(),
        DEFAULTS
            .lines()
            .filter(|line| !line.starts_with('#'))
            .skip(3)
            .collect::<Vec<_>>()
            .join("\n")
            .replace("[partner_center.auth]", "[a]")
            .replace("[dataverse]", "[b]")
            .replace("[dataverse.auth]", "[c]")
            .replace("[mapping]", "[d]"),
    );
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let (mut broken, mut wrong) = (0, 0);
    for round in 0..3000 {
        let mut text = base.clone();
        for _ in 0..random.random_range(1..=3) {
            text = mutate(text, &mut random);
        }
        place.put("referrald.toml", &text);
        let found = place.found();
        let shown = format!("{found}{}", found.to_json());
        assert!(!shown.contains("hunter2"), "round {round} of seed {seed}\n{shown}");
        broken += usize::from(shown.contains("valid TOML"));
        wrong += usize::from(!shown.contains("valid TOML"));
        for problem in &found.problems {
            assert!(!problem.remedy.is_empty() && !problem.message.is_empty(), "round {round} of seed {seed}");
            if let Origin::File { line, column, .. } = &problem.origin {
                let there = text.lines().nth(line - 1);
                assert!(
                    *column >= 1 && (there.is_some() || *line <= text.lines().count() + 1),
                    "round {round} of seed {seed}"
                );
            }
            let needs_line = problem.severity == Severity::Error;
            let has_place = matches!(&problem.origin, Origin::File { .. });
            assert!(!needs_line || has_place, "round {round} of seed {seed}: {problem}");
        }
    }
    assert!(broken > 100 && wrong > 100, "both kinds are met: {broken} {wrong}");
}

fn mutate(text: String, random: &mut rand_chacha::ChaCha8Rng) -> String {
    use rand::RngExt;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let at = random.random_range(0..lines.len());
    match random.random_range(0..7) {
        0 => {
            let mut bytes = text.into_bytes();
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        1 => {
            lines.remove(at);
        }
        2 => {
            let other = random.random_range(0..lines.len());
            lines.swap(at, other);
        }
        3 => {
            if let Some((key, _)) = lines[at].clone().split_once('=') {
                let values =
                    ["5", "true", "\"text\"", "[]", "{}", "-1.5", "1979-05-27", "[[1], {a=2}]", "{a.b={c=3}}", "\"\""];
                lines[at] = format!("{key}= {}", values[random.random_range(0..values.len())]);
            }
        }
        4 => {
            let letters: Vec<char> = lines[at].chars().collect();
            if !letters.is_empty() {
                let gone = random.random_range(0..letters.len());
                lines[at] = letters.iter().enumerate().filter(|(index, _)| *index != gone).map(|(_, c)| c).collect();
            }
        }
        5 => lines[at].insert(0, ['x', '.', '[', '"', 'é', '\u{1b}', '_'][random.random_range(0..7)]),
        _ => {
            let cut = random.random_range(0..=text.len());
            let cut = (0..=cut).rev().find(|cut| text.is_char_boundary(*cut)).unwrap_or(0);
            return text[..cut].to_owned();
        }
    }
    lines.join("\n")
}
