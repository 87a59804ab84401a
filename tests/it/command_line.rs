//! The built program: what a shell sees.

use assert_cmd::Command;

fn referrald() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("referrald"));
    command.env_remove("REFERRALD_CONFIG").env_remove("REFERRALD_LOG");
    command
}

#[test]
fn lines_that_make_no_sense_are_usage_errors() {
    for line in [&[][..], &["fly"], &["hold"], &["hold", "seven"], &["release"], &["retry", "--all", "--cause", "x"]] {
        let output = referrald().args(line).output().expect("it starts");
        assert_eq!(output.status.code(), Some(2), "{line:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{line:?}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for (line, words) in [("--help", "reconcile"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let output = referrald().arg(line).output().expect("it starts");
        assert_eq!(output.status.code(), Some(0), "{line}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(words), "{line}");
    }
}

#[test]
fn a_setting_given_for_one_call_lies_above_file_and_environment() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("referrald.toml");
    std::fs::write(&file, "[brakes]\nclosings_per_hour = 3\n").expect("a file");
    let show = |more: &[&str]| {
        let mut command = referrald();
        command.env("REFERRALD_BRAKES__CLOSINGS_PER_HOUR", "4").args(more);
        let output = command.args(["config", "show", "--json", "--config"]).arg(&file).output().expect("it starts");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")["brakes"]["closings_per_hour"]
            .clone()
    };
    assert_eq!(show(&[]), 4);
    assert_eq!(show(&["--set", "brakes.closings_per_hour=5"]), 5);
    let wrong =
        referrald().args(["--set", "brakes.closing_per_hour=5", "config", "check"]).output().expect("it starts");
    assert_eq!(wrong.status.code(), Some(78));
    let text = String::from_utf8_lossy(&wrong.stdout).into_owned();
    assert!(text.contains("--set brakes.closing_per_hour") && text.contains("closings_per_hour"), "{text}");
    let secret = ["--set", "dataverse.auth.client_secret=not-to-be-printed", "config", "check"];
    let secret = referrald().args(secret).output().expect("it starts");
    assert_eq!(secret.status.code(), Some(78));
    assert!(!format!("{secret:?}").contains("not-to-be-printed"));
}

#[test]
fn the_defaults_are_printed_with_their_comments() {
    let output = referrald().args(["config", "show", "--defaults"]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stdout), include_str!("../../config/default.toml"));
}
