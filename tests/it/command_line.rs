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
