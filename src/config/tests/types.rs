//! Unknown keys and wrong types, all in one run.

use super::*;

#[test]
fn three_wrong_types_in_three_places_are_reported_in_one_run() {
    let place = sound_with(
        "[brakes]\nclosings_per_hour = \"many\"\n[status]\nsettle_time = 10 # soon\n[scope]\nimport_spam = \"yes\"\n",
    );
    insta::assert_snapshot!(place.drawn(), @r##"
    error: `brakes.closings_per_hour`: expected a whole number, 0 or more, found text
     --> DIR/referrald.toml.d/50-test.toml:2:21
      |
    2 | closings_per_hour = "many"
      |                     ^^^^^^
      = help: write a whole number, 0 or more, as in `closings_per_hour = 20`

    error: `status.settle_time`: expected text in quotes, found a whole number
     --> DIR/referrald.toml.d/50-test.toml:4:15
      |
    4 | settle_time = 10
      |               ^^
      = help: write text in quotes, as in `settle_time = "10m"`

    error: `scope.import_spam`: expected true or false, found text
     --> DIR/referrald.toml.d/50-test.toml:6:15
      |
    6 | import_spam = "yes"
      |               ^^^^^
      = help: write true or false, as in `import_spam = false`

    3 errors, 0 warnings
    "##);
}

#[test]
fn values_of_every_wrong_kind_are_named_without_stopping_at_the_first() {
    let place = sound_with(
        r#"
writes = "bth"
identity = 1
[dataverse]
url = "contoso"
in_flight_max = -1
[link]
namespace = "zzz"
adopt = ["subjekt", "subject", 3]
[retry]
delay = "soon"
[webhook]
listen = "8787"
[mapping]
owners = [{ country = "DE" }, { owner = { user = "nobody" } }]
[mapping.groups.mine]
columns.subject = { from = "/name", min = "low" }
"#,
    );
    insta::assert_snapshot!(place.drawn(), @r##"
    error: `writes`: unknown word
     --> DIR/referrald.toml.d/50-test.toml:2:10
      |
    2 | writes = "bth"
      |          ^^^^^
      = help: did you mean "both"? one of "off", "leads-only", "both"

    error: `identity`: expected text in quotes, found a whole number
     --> DIR/referrald.toml.d/50-test.toml:3:12
      |
    3 | identity = 1
      |            ^
      = help: write text in quotes, as in `identity = "derived"`

    error: `dataverse.url`: this is no absolute URL
     --> DIR/referrald.toml.d/50-test.toml:5:7
      |
    5 | url = "contoso"
      |       ^^^^^^^^^
      = help: write an absolute URL such as "https://contoso.example"

    error: `dataverse.in_flight_max`: out of range
     --> DIR/referrald.toml.d/50-test.toml:6:17
      |
    6 | in_flight_max = -1
      |                 ^^
      = help: write a whole number, 0 or more, as in `in_flight_max = 16`

    error: `link.namespace`: this is no GUID
     --> DIR/referrald.toml.d/50-test.toml:8:13
      |
    8 | namespace = "zzz"
      |             ^^^^^
      = help: write a GUID

    error: `link.adopt.0`: unknown word
     --> DIR/referrald.toml.d/50-test.toml:9:10
      |
    9 | adopt = ["subjekt", "subject", 3]
      |          ^^^^^^^^^
      = help: did you mean "subject"? one of "external_reference", "referral_id_column", "subject"

    error: `link.adopt.2`: expected text in quotes, found a whole number
     --> DIR/referrald.toml.d/50-test.toml:9:32
      |
    9 | adopt = ["subjekt", "subject", 3]
      |                                ^
      = help: write text in quotes

    error: `retry.delay`: expected a duration such as "30s", "15m", "1h 30m" or "2d"
      --> DIR/referrald.toml.d/50-test.toml:11:9
       |
    11 | delay = "soon"
       |         ^^^^^^
       = help: write it as in `delay = "1m"`

    error: `webhook.listen`: this is no address with a port
      --> DIR/referrald.toml.d/50-test.toml:13:10
       |
    13 | listen = "8787"
       |          ^^^^^^
       = help: write address and port such as "127.0.0.1:8787"

    error: `mapping.owners.0.owner`: missing
      --> DIR/referrald.toml.d/50-test.toml:15:11
       |
    15 | owners = [{ country = "DE" }, { owner = { user = "nobody" } }]
       |           ^^^^^^^^^^^^^^^^^^
       = help: write `owner` into `mapping.owners.0`

    error: `mapping.owners.1.owner.user`: this is no GUID
      --> DIR/referrald.toml.d/50-test.toml:15:50
       |
    15 | owners = [{ country = "DE" }, { owner = { user = "nobody" } }]
       |                                                  ^^^^^^^^
       = help: write { user = "ID" } or { team = "ID" }, the ID being a GUID

    error: `mapping.groups.mine.owner`: missing
      --> DIR/referrald.toml.d/50-test.toml:16:17
       |
    16 | [mapping.groups.mine]
       |                 ^^^^
       = help: write `owner` into `mapping.groups.mine`

    error: `mapping.groups.mine.columns.subject.from`: expected a list in square brackets, found
           text
      --> DIR/referrald.toml.d/50-test.toml:17:28
       |
    17 | columns.subject = { from = "/name", min = "low" }
       |                            ^^^^^^^
       = help: write a list in square brackets

    error: `mapping.groups.mine.columns.subject.min`: expected a number, found text
      --> DIR/referrald.toml.d/50-test.toml:17:43
       |
    17 | columns.subject = { from = "/name", min = "low" }
       |                                           ^^^^^
       = help: write a number

    14 errors, 0 warnings
    "##);
}

#[test]
fn a_number_is_no_word() {
    // An index into the words would make `writes = 2` mean "both".
    check("writes = 2", Severity::Error, "writes", "\"off\"");
    check("[log]\nformat = 0", Severity::Error, "log.format", "text");
}

#[test]
fn unknown_keys_come_with_the_nearest_known_one() {
    check("[brakes]\nclosing_per_hour = 3", Severity::Error, "brakes.closing_per_hour", "`brakes.closings_per_hour`");
    check("closings_per_hour = 3", Severity::Error, "closings_per_hour", "`brakes.closings_per_hour`");
    check("[dataverze]\nurl = 'x'", Severity::Error, "dataverze", "`dataverse`");
    check(
        "[mapping.groups.mine]\nowner = 'crm'\nenable = true\ncolumns.new_test = { value = 'x' }",
        Severity::Error,
        "mapping.groups.mine.enable",
        "mine.enabled`",
    );
    check("quite_different = 1", Severity::Error, "quite_different", "known here: writes");
}

#[test]
fn unknown_and_wrong_variables_are_named() {
    let place = sound()
        .variable("REFERRALD_DATAVERSE_URL", "https://contoso.crm.dynamics.com")
        .variable("REFERRALD_BRAKES__CLOSINGS_PER_HOUR", "many")
        .variable("REFERRALD_BRAKES", "off")
        .variable("REFERRALD_", "x");
    let found = place.found();
    let drawn = found.to_string();
    assert_eq!(found.error_count(), 4, "{drawn}");
    assert!(drawn.contains("did you mean `dataverse.url` (REFERRALD_DATAVERSE__URL)?"), "{drawn}");
    assert!(drawn.contains("environment variable REFERRALD_BRAKES__CLOSINGS_PER_HOUR"), "{drawn}");
}

#[test]
fn the_drawing_keeps_to_its_width() {
    let long = format!("[http]\nuser_agent = [\"{}\"]\nproxy = \"{}\"\n", "wide ".repeat(60), "x".repeat(300));
    let place = sound_with(&long);
    let drawn = place.drawn();
    for line in drawn.lines() {
        assert!(line.chars().count() <= Problems::WIDTH, "{line}");
    }
    assert!(drawn.contains("^^^"), "{drawn}");
}

#[test]
fn odd_shapes_are_named_where_they_stand() {
    for (text, key, words) in [
        ("[[dataverse]]\nurl = 'x'", "dataverse", "a table, found a list"),
        ("retry = [\"1m\", \"6h\", 8]", "retry", "a table, found a list"),
        (
            "[mapping.groups.mine]\nowner = \"crm\"\ncolumns.new_test = [[\"/name\"]]",
            "mapping.groups.mine.columns.new_test",
            "a table, found a list",
        ),
        ("writes.off = true", "writes", ""),
        ("[partner_center]\nauth = 5", "partner_center.auth", "a table, found a whole number"),
        ("[mapping]\nowners = \"me\"", "mapping.owners", "a list"),
        ("[mapping.tables]\nsize = { a = 1.5 }", "mapping.tables.size.a", "text or a whole number"),
        ("[status.codes]\n8 = \"losst\"", "status.codes.8", "did you mean \"lost\""),
        ("[mapping.groups.mine]\ncolumns = {}", "mapping.groups.mine.owner", "write `owner` into"),
        ("[mapping]\nfallback_owner = { queue = \"x\" }", "mapping.fallback_owner.queue", "user"),
        ("[mapping]\nfallback_owner = {}", "mapping.fallback_owner", ""),
        (
            "mapping.fallback_owner.team = \"66666666-7777-4888-8999-aaaaaaaaaaaa\"\nmapping.fallback_owner.user = \"66666666-7777-4888-8999-aaaaaaaaaaaa\"",
            "mapping.fallback_owner.user",
            "only one",
        ),
        ("[brakes]\nclosings_per_hour = 1.5", "brakes.closings_per_hour", "a number with a fraction"),
        ("[retry]\nattempts_max = 70000", "retry.attempts_max", "out of range"),
        ("[scope]\ntypes = [[\"Shared\"]]", "scope.types.0", "text in quotes, found a list"),
    ] {
        check(text, Severity::Error, key, words);
    }
    let place = sound().variable(
        "REFERRALD_MAPPING__OWNERS",
        "[{country=\"DE\",owner={team=\"bad\"}},{country=\"Germany\",owner={team=\"66666666-7777-4888-8999-aaaaaaaaaaaa\"}}]",
    );
    check_place(&place, Severity::Error, "mapping.owners.0.owner.team", "GUID");
    let place = sound_with("[brakes]\nclosings_per_hour = \"a\"");
    place.put("referrald.toml.d/60-later.toml", "[brakes]\nclosings_per_hour = \"b\"");
    assert_eq!(place.found().error_count(), 2, "what lies below a wrong value is looked at as well");
}

#[test]
fn nesting_without_end_is_a_problem_and_no_crash() {
    let depth = 5000;
    for text in [
        format!("a = {}", "[".repeat(depth)),
        format!("a = {}{}", "[".repeat(depth), "]".repeat(depth)),
        format!("a = {}", "{a=".repeat(depth)),
        format!("{}a = 1", "a.".repeat(depth)),
        format!("[{}a]", "a.".repeat(depth)),
    ] {
        assert!(sound_with(&text).found().error_count() >= 1);
    }
    let deep = format!("REFERRALD_{}A", "A__".repeat(depth));
    assert_eq!(sound().variable(&deep, "1").variable("REFERRALD_B", &"[".repeat(depth)).found().error_count(), 2);
}

#[test]
fn problems_without_end_are_cut() {
    let text: String = (0..500).map(|index| format!("x{index} = 1\n")).collect();
    let found = sound_with(&text).found();
    assert!(found.is_cut && found.problems.len() == Problems::COUNT_MAX, "{}", found.problems.len());
}
